//! The memory of one session, and the verbs that change it.
//!
//! Every verb works on a copy and keeps it only if it succeeds, so that an error leaves the session as it
//! was. M-lines are never removed: a stopped one keeps its place with port 0 until another takes it over.
//! The one exception is an offer the client never saw: its lines go if the client's own offer lacks them.

use super::codec::{Codec, CodecKey};
use super::error::{Place, SdpError};
use super::line::{Line, LineState, Sending, SessionNumbers};
use super::{
    DtlsRole, Intent, Kind, LINES_MAX, LineKind, LocalTransport, NewLine, Remote, RemoteLine, Send, Setup,
    write,
};
use crate::id::{MediaKind, Mid};
use crate::rtp::extension::ExtensionMap;

/// Offer/answer state of one session.
#[derive(Debug, Clone)]
pub struct Negotiation {
    pub(super) origin: u64,
    pub(super) version: u64,
    pub(super) transport: LocalTransport,
    pub(super) lines: Vec<Line>,
    numbers: SessionNumbers,
    pending: Option<Pending>,
    role: Option<DtlsRole>,
    /// The mid that heads the BUNDLE group since the last exchange.
    tag: Option<Mid>,
    /// The smallest number not yet given to a line of ours.
    next_mid: u32,
}

/// Closed m-lines before the BUNDLE tag that are worth a new transport to be used again: 32 of them are
/// 8 KB of every description.
const CLOSED_BEFORE_TAG_MAX: usize = 32;

/// Our offer that waits for its answer.
#[derive(Debug, Clone)]
struct Pending {
    /// Indexes of lines it rejects.
    rejected: Vec<usize>,
    /// The first of its BUNDLE group.
    tag: Option<Mid>,
}

impl Negotiation {
    /// `origin` is the session id of the `o=` line: any number, unique among sessions and below 2^63.
    pub fn new(origin: u64, transport: LocalTransport) -> Self {
        Self {
            origin,
            version: 0,
            transport,
            lines: Vec::new(),
            numbers: SessionNumbers::default(),
            pending: None,
            role: None,
            tag: None,
            next_mid: 0,
        }
    }

    /// Other credentials or addresses from the next description on.
    pub fn set_transport(&mut self, transport: LocalTransport) {
        self.transport = transport;
    }

    /// Applies a client's offer and writes the answer. `intents` name what control wants of lines by mid.
    /// A line not named goes on as it was, as far as the client still sends or receives there; a new one is
    /// answered `inactive`, data channels always as offered.
    ///
    /// # Errors
    /// [`SdpError::OfferPending`] while an offer of ours is out; otherwise what the offer or a wish lacks.
    pub fn answer(&mut self, offer: &Remote, intents: &[(Mid, Intent)]) -> Result<String, SdpError> {
        if self.pending.is_some() {
            return Err(SdpError::OfferPending);
        }
        let mut next = self.clone();
        next.take_offer(offer, intents)?;
        let answer = write::answer(&mut next, offer);
        *self = next;
        Ok(answer)
    }

    /// [`offer_lines`](Self::offer_lines) of tracks to send.
    pub fn offer(&mut self, sends: Vec<Send>, data_channels: bool) -> Result<(String, Vec<Mid>), SdpError> {
        self.offer_lines(sends.into_iter().map(NewLine::Send).collect(), data_channels)
    }

    /// Stages `wanted`, and a section for data channels if there is none, on free or new m-lines and writes an
    /// offer. Returns the mids of `wanted` in their order. Lines closed before are rejected by this offer.
    ///
    /// # Errors
    /// [`SdpError::OfferPending`], [`SdpError::TooManyLines`], [`SdpError::NoPayloadTypeLeft`].
    pub fn offer_lines(
        &mut self,
        wanted: Vec<NewLine>,
        data_channels: bool,
    ) -> Result<(String, Vec<Mid>), SdpError> {
        if self.pending.is_some() {
            return Err(SdpError::OfferPending);
        }
        let mut next = self.clone();
        let mut mids = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let mid = next.next_mid();
            let line = Line::of_ours(mid, wanted, &mut next.numbers)?;
            next.place(line)?;
            mids.push(mid);
        }
        if data_channels && !next.has_data_channels() {
            let mid = next.next_mid();
            next.place(Line::data_channels(mid))?;
        }
        let rejected = next.lines_to_reject();
        let offer = write::offer(&mut next, &rejected);
        let mut live =
            next.lines.iter().enumerate().filter(|(at, line)| is_open(line) && !rejected.contains(at));
        let tag = live.next().map(|(_, line)| line.mid);
        next.pending = Some(Pending { rejected, tag });
        *self = next;
        Ok((offer, mids))
    }

    pub fn has_pending_offer(&self) -> bool {
        self.pending.is_some()
    }

    /// Applies the client's answer to our offer. A line it rejected is closed; one whose direction or codecs
    /// leave nothing to send has no [`Line::send`].
    ///
    /// # Errors
    /// [`SdpError::NoOfferPending`], or what is wrong with the answer; the offer then goes on waiting.
    pub fn apply_answer(&mut self, answer: &Remote) -> Result<(), SdpError> {
        let Some(pending) = &self.pending else { return Err(SdpError::NoOfferPending) };
        let mut next = self.clone();
        next.take_answer(answer, &pending.rejected)?;
        next.pending = None;
        *self = next;
        Ok(())
    }

    /// Gives up waiting for an answer. The staged lines are rejected by our next offer.
    pub fn abandon_offer(&mut self) {
        if self.pending.take().is_none() {
            return;
        }
        for line in self.lines.iter_mut().filter(|line| line.state == LineState::Offered) {
            line.end();
            line.state = LineState::Abandoned;
        }
    }

    /// Ends the media of a line without an exchange. The client learns of it by the next description.
    pub fn close(&mut self, mid: Mid) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.mid == mid && is_open(line)) {
            line.end();
        }
    }

    /// Puts another source of the same kind in the place of the one that a line sends, under the numbers that
    /// were agreed on for it. `codecs` are the new publisher's. `None`, and nothing changes, if the line sends
    /// nothing or can carry none of them.
    pub fn redirect(&mut self, mid: Mid, kind: MediaKind, codecs: &[Codec]) -> Option<Sending> {
        let line = self.lines.iter_mut().find(|line| line.mid == mid && is_open(line))?;
        line.redirect(kind, codecs)
    }

    /// The line of this mid, an open one before a closed one.
    pub fn line(&self, mid: Mid) -> Option<&Line> {
        let named = || self.lines.iter().filter(|line| line.mid == mid);
        named().find(|line| is_open(line)).or_else(|| named().next())
    }

    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// What we are in DTLS; `None` before the first exchange is complete.
    pub fn dtls_role(&self) -> Option<DtlsRole> {
        self.role
    }

    /// The ids under which the client may send extensions, over all its m-lines: what to read a packet with
    /// whose m-line is not known yet.
    pub fn extensions(&self) -> ExtensionMap {
        let mut all = ExtensionMap::default();
        let received = self.lines.iter().filter_map(|line| line.receive.as_ref());
        for (extension, id) in received.flat_map(|receive| receive.extensions.iter()) {
            all.set(extension, id);
        }
        all
    }

    fn take_offer(&mut self, offer: &Remote, intents: &[(Mid, Intent)]) -> Result<(), SdpError> {
        expect_kind(offer, Kind::Offer)?;
        self.settle_role_by_offer(offer)?;
        let nowhere = |(mid, intent): &&(Mid, Intent)| {
            *intent != Intent::Close && offer.line(*mid).is_none_or(|line| line.rejected)
        };
        if let Some((mid, _)) = intents.iter().find(nowhere) {
            return Err(SdpError::NoSuchMid(*mid));
        }
        self.drop_unseen_lines(offer.lines().len())?;
        let mut numbers = SessionNumbers::default();
        let mut has_data_channels = false;
        for (index, remote) in offer.lines().iter().enumerate() {
            let at = Place { index, mid: remote.mid };
            let second_transport = remote.kind == LineKind::Application && has_data_channels;
            let line = self.line_for(at, remote)?;
            if remote.rejected || second_transport {
                line.reject();
                continue;
            }
            has_data_channels |= remote.kind == LineKind::Application;
            offered_line(line, at, remote, intents, &mut numbers)?;
        }
        self.adopt(numbers, offer);
        self.follow_tag(offer);
        Ok(())
    }

    /// Lines the client's offer lacks must be ones it never saw.
    fn drop_unseen_lines(&mut self, offered: usize) -> Result<(), SdpError> {
        let unseen = |line: &Line| line.state == LineState::Abandoned;
        if !self.lines.iter().skip(offered).all(unseen) {
            return Err(SdpError::LineCount { expected: self.lines.len(), found: offered });
        }
        self.lines.truncate(offered);
        Ok(())
    }

    /// Our line at the place of a line of the client's offer: the same one, or a new one if ours is over.
    fn line_for(&mut self, at: Place, remote: &RemoteLine) -> Result<&mut Line, SdpError> {
        let known = self.lines.len();
        if at.index >= known {
            self.lines.push(Line::of_remote(remote));
        }
        let line = self.lines.get_mut(at.index).expect("offered lines are visited in order");
        let same = line.mid == remote.mid || !remote.mid_is_explicit;
        match line.state {
            LineState::Closed => *line = Line::of_remote(remote),
            LineState::Abandoned if same => line.state = LineState::Closing,
            LineState::Abandoned => *line = Line::of_remote(remote),
            _ if !same => return Err(SdpError::MidChanged { at, expected: line.mid }),
            _ if line.kind != remote.kind => return Err(SdpError::KindChanged(at)),
            _ => {}
        }
        Ok(line)
    }

    fn take_answer(&mut self, answer: &Remote, rejected: &[usize]) -> Result<(), SdpError> {
        expect_kind(answer, Kind::Answer)?;
        self.settle_role_by_answer(answer)?;
        if answer.lines().len() != self.lines.len() {
            return Err(SdpError::LineCount { expected: self.lines.len(), found: answer.lines().len() });
        }
        let mut numbers = SessionNumbers::default();
        for (index, (line, remote)) in self.lines.iter_mut().zip(answer.lines()).enumerate() {
            if rejected.contains(&index) || remote.rejected || line.state == LineState::Closed {
                line.reject();
                continue;
            }
            answered_line(line, Place { index, mid: remote.mid }, remote, &mut numbers)?;
        }
        self.adopt(numbers, answer);
        self.follow_tag(answer);
        Ok(())
    }

    /// The offerer proposes, the first exchange settles, later ones must not disagree (RFC 8842 §5.5).
    fn settle_role_by_offer(&mut self, offer: &Remote) -> Result<(), SdpError> {
        let Some(setup) = offer.setup() else { return Ok(()) };
        match (self.role, setup) {
            (None, Setup::ActPass | Setup::Active) => self.role = Some(DtlsRole::Passive),
            (None, Setup::Passive) => self.role = Some(DtlsRole::Active),
            (Some(DtlsRole::Active), Setup::Active) | (Some(DtlsRole::Passive), Setup::Passive) => {
                return Err(SdpError::RoleConflict);
            }
            (Some(_), _) => {}
        }
        Ok(())
    }

    /// An established role is not questioned: some stacks write their default into every later answer.
    fn settle_role_by_answer(&mut self, answer: &Remote) -> Result<(), SdpError> {
        let role = match answer.setup() {
            Some(Setup::Active) => DtlsRole::Passive,
            Some(Setup::Passive) => DtlsRole::Active,
            Some(Setup::ActPass) if self.role.is_none() => {
                return Err(SdpError::BadSetup("actpass".to_owned()));
            }
            Some(Setup::ActPass) | None => return Ok(()),
        };
        self.role.get_or_insert(role);
        Ok(())
    }

    /// Remembers the numbers of a description, also of formats we left out: they are taken for the client.
    fn adopt(&mut self, mut numbers: SessionNumbers, remote: &Remote) {
        for line in remote.lines().iter().filter(|line| !line.rejected) {
            for codec in &line.codecs {
                numbers.payload_types.claim(codec.pt, codec.key());
                if let Some(rtx) = codec.rtx_pt {
                    numbers.payload_types.claim(rtx, CodecKey::rtx(codec.pt));
                }
            }
            for extension in &line.extensions {
                numbers.extensions.claim(extension.id, extension.extension);
            }
        }
        self.numbers.payload_types.adopt(numbers.payload_types);
        self.numbers.extensions.adopt(numbers.extensions);
    }

    fn next_mid(&mut self) -> Mid {
        loop {
            let mid = self.next_mid.to_string().parse().expect("a number of 32 bits has at most 10 digits");
            self.next_mid = self.next_mid.wrapping_add(1);
            if !self.lines.iter().any(|line| line.mid == mid) {
                return mid;
            }
        }
    }

    /// Puts a new line where a closed one was, of the same kind if possible, else at the end. Places before
    /// the BUNDLE tag stay free until there are many: a line there becomes the tag, and a browser gives up
    /// its transport for another.
    fn place(&mut self, line: Line) -> Result<(), SdpError> {
        let tag = self.agreed_tag();
        let behind = self.lines.iter().position(|old| Some(old.mid) == tag && is_agreed(old)).unwrap_or(0);
        let before = self.lines.iter().take(behind).filter(|old| old.state == LineState::Closed).count();
        let first = if before < CLOSED_BEFORE_TAG_MAX { behind } else { 0 };
        let closed = |kind: Option<LineKind>| {
            let fits =
                |old: &Line| old.state == LineState::Closed && kind.is_none_or(|kind| kind == old.kind);
            Some(first + self.lines.iter().skip(first).position(fits)?)
        };
        let free = closed(Some(line.kind)).or_else(|| closed(None));
        if let Some(old) = free.and_then(|index| self.lines.get_mut(index)) {
            *old = line;
            return Ok(());
        }
        if self.lines.len() >= LINES_MAX {
            return Err(SdpError::TooManyLines(self.lines.len() + 1));
        }
        self.lines.push(line);
        Ok(())
    }

    fn has_data_channels(&self) -> bool {
        self.lines.iter().any(|line| line.kind == LineKind::Application && is_open(line))
    }

    /// The mid that heads the BUNDLE group, by our offer if one is out. Browsers tie the transport to that
    /// line, and begin another, ICE and DTLS anew, when it changes. It changes when a client stops the line
    /// or puts one before it; our offers keep it as long as they can.
    pub fn bundle_tag(&self) -> Option<Mid> {
        match &self.pending {
            Some(pending) => pending.tag,
            None => self.agreed_tag(),
        }
    }

    fn agreed_tag(&self) -> Option<Mid> {
        self.tag.filter(|tag| self.lines.iter().any(|line| line.mid == *tag && is_agreed(line)))
    }

    /// Follows the peer's BUNDLE group: its first mid that is agreed.
    fn follow_tag(&mut self, remote: &Remote) {
        let order = remote.bundle.iter().flatten().copied();
        let mut order = order.chain(self.lines.iter().map(|line| line.mid));
        self.tag = order.find(|mid| self.lines.iter().any(|line| line.mid == *mid && is_agreed(line)));
    }

    /// What our next offer gives port 0: all that is over, but never the line that carries the transport.
    fn lines_to_reject(&self) -> Vec<usize> {
        let tag = self.agreed_tag();
        let keeper = self.lines.iter().position(|line| is_open(line) && Some(line.mid) == tag);
        let over = |line: &Line| matches!(line.state, LineState::Closing | LineState::Abandoned);
        let indexes =
            self.lines.iter().enumerate().filter(|(index, line)| over(line) && Some(*index) != keeper);
        indexes.map(|(index, _)| index).collect()
    }
}

fn expect_kind(remote: &Remote, expected: Kind) -> Result<(), SdpError> {
    if remote.kind == expected { Ok(()) } else { Err(SdpError::WrongKind { expected }) }
}

fn is_agreed(line: &Line) -> bool {
    matches!(line.state, LineState::Live | LineState::Closing)
}

fn is_open(line: &Line) -> bool {
    line.state != LineState::Closed
}

/// One line of the client's offer that it did not reject.
fn offered_line(
    line: &mut Line,
    at: Place,
    remote: &RemoteLine,
    intents: &[(Mid, Intent)],
    numbers: &mut SessionNumbers,
) -> Result<(), SdpError> {
    let wishes = || intents.iter().filter(|(mid, _)| *mid == remote.mid).map(|(_, intent)| intent);
    if !Line::is_acceptable(remote) {
        line.reject();
        return if wishes().any(|wish| *wish != Intent::Close) {
            Err(SdpError::NoCommonCodec(at))
        } else {
            Ok(())
        };
    }
    let mut must_send = false;
    for wish in wishes() {
        line.wish(wish, remote, at)?;
        must_send |= matches!(wish, Intent::Send(_) | Intent::SendReceive(_));
    }
    line.agree(remote, at, numbers)?;
    if must_send && line.send.is_none() { Err(SdpError::NoCommonCodec(at)) } else { Ok(()) }
}

/// One line of the client's answer that neither side rejected.
fn answered_line(
    line: &mut Line,
    at: Place,
    remote: &RemoteLine,
    numbers: &mut SessionNumbers,
) -> Result<(), SdpError> {
    if remote.mid_is_explicit && remote.mid != line.mid {
        return Err(SdpError::MidChanged { at, expected: line.mid });
    }
    if remote.kind != line.kind {
        return Err(SdpError::KindChanged(at));
    }
    line.agree(remote, at, numbers)?;
    if line.state == LineState::Offered {
        let wanted = line.kind == LineKind::Application || line.source.is_some() || line.wants_receive;
        line.state = if wanted { LineState::Live } else { LineState::Closing };
    }
    Ok(())
}
