//! One m-line over its life, and what both sides agree on for it.
//!
//! A line knows what control *wants* of it (receive, send a source) and what is *agreed*: a client that
//! pauses (`inactive`) and resumes finds its track again, a closed one needs control's word first.

use super::codec::{Codec, CodecKey, Feedback, Numbers, all, common, dynamic_payload_types, extension_ids};
use super::error::{Place, SdpError};
use super::{Direction, ENCODINGS_MAX, Intent, LineKind, Msid, NewLine, RemoteExtension, RemoteLine, Send};
use crate::id::{MediaKind, Mid, Rid};
use crate::rtp::extension::{Extension, ExtensionMap};

/// An m-line of the session.
#[derive(Debug, Clone)]
pub struct Line {
    pub mid: Mid,
    pub kind: LineKind,
    pub state: LineState,
    /// What the client sends us here, if it may and we want it.
    pub receive: Option<Receive>,
    /// What we send here, if the client receives it.
    pub send: Option<Sending>,
    pub(super) wants_receive: bool,
    pub(super) source: Option<Send>,
    pub(super) section: Section,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineState {
    /// In an offer of ours that waits for its answer.
    Offered,
    /// Agreed, if only on `inactive`.
    Live,
    /// Ended by us, alive for the client until our next offer rejects it.
    Closing,
    /// In an offer of ours that got no answer: the client may or may not have it.
    Abandoned,
    /// Port 0 on both sides; the place may be used again under a new mid.
    Closed,
}

/// A track the client publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receive {
    /// Under the client's numbers, in its order.
    pub codecs: Vec<Codec>,
    /// One, or several of a simulcast; a single one without a rid if the client announced nothing.
    pub encodings: Vec<Encoding>,
    pub extensions: ExtensionMap,
    pub transport_cc: bool,
    pub cname: Option<String>,
    pub msid: Option<Msid>,
}

/// One stream of a published track. What has neither rid nor SSRC is found by its mid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    pub rid: Option<Rid>,
    pub ssrc: Option<u32>,
    pub rtx_ssrc: Option<u32>,
}

/// A track the client is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    /// In the publisher's order. A codec the publisher uses and this list lacks cannot be sent here.
    pub codecs: Vec<SendCodec>,
    pub ssrc: u32,
    /// `None` if the client took no RTX.
    pub rtx_ssrc: Option<u32>,
    /// What to write into packets of this line, under this session's ids.
    pub extensions: ExtensionMap,
    pub nack: bool,
    pub pli: bool,
}

/// How a codec's numbers translate from the publisher's session to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendCodec {
    pub publisher_pt: u8,
    pub publisher_rtx: Option<u8>,
    pub pt: u8,
    pub rtx_pt: Option<u8>,
    pub clock_rate: u32,
}

/// What our side of the m-section says besides transport and direction.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) media: String,
    pub(super) protocol: String,
    /// Written only where no codecs are: data channels, rejected lines.
    pub(super) formats: String,
    pub(super) codecs: Vec<Codec>,
    pub(super) extensions: Vec<RemoteExtension>,
    /// The encodings we receive.
    pub(super) rids: Vec<Rid>,
}

/// The meanings of numbers over all m-lines of a session, or of one description.
#[derive(Debug, Clone, Default)]
pub(super) struct SessionNumbers {
    pub(super) payload_types: Numbers<CodecKey>,
    pub(super) extensions: Numbers<Extension>,
}

impl Line {
    /// A line of the client's, not yet agreed on.
    pub(super) fn of_remote(remote: &RemoteLine) -> Self {
        let mut section = Section::new(&remote.media, &remote.protocol);
        // Enough for a rejection, which need not repeat the list (RFC 3264 §6).
        section.codecs.extend(remote.codecs.first().cloned());
        section.formats = remote.formats.split_ascii_whitespace().next().unwrap_or("0").to_owned();
        Self::new(remote.mid, remote.kind, LineState::Live, section)
    }

    pub(super) fn data_channels(mid: Mid) -> Self {
        let mut section = Section::new("application", "UDP/DTLS/SCTP");
        section.formats = "webrtc-datachannel".to_owned();
        Self::new(mid, LineKind::Application, LineState::Offered, section)
    }

    /// A line of ours in an offer, under numbers of this session.
    pub(super) fn of_ours(mid: Mid, wanted: NewLine, numbers: &mut SessionNumbers) -> Result<Self, SdpError> {
        let (kind, source, receives) = match wanted {
            NewLine::Send(source) => (source.kind, Some(source), false),
            NewLine::Receive(kind) => (kind, None, true),
            NewLine::SendReceive(source) => (source.kind, Some(source), true),
        };
        let mut section = Section::new(kind.as_str(), "UDP/TLS/RTP/SAVPF");
        match &source {
            Some(source) if !receives => {
                section.codecs = offered_codecs(source, &mut numbers.payload_types);
                section.extensions = offered_extensions(source, &mut numbers.extensions);
            }
            _ => {
                section.codecs = wanted_codecs(kind, &mut numbers.payload_types);
                section.extensions = wanted_extensions(kind, source.as_ref(), &mut numbers.extensions);
            }
        }
        if section.codecs.is_empty() {
            return Err(SdpError::NoPayloadTypeLeft);
        }
        let mut line = Self::new(mid, LineKind::Media(kind), LineState::Offered, section);
        line.source = source;
        line.wants_receive = receives;
        Ok(line)
    }

    fn new(mid: Mid, kind: LineKind, state: LineState, section: Section) -> Self {
        Self { mid, kind, state, receive: None, send: None, wants_receive: false, source: None, section }
    }

    /// Takes control's wish for this line, as far as the peer's direction allows it.
    pub(super) fn wish(&mut self, intent: &Intent, remote: &RemoteLine, at: Place) -> Result<(), SdpError> {
        let source = match intent {
            Intent::Close => {
                self.end();
                return Ok(());
            }
            Intent::Receive => None,
            Intent::Send(source) | Intent::SendReceive(source) => Some(source),
        };
        let receives = !matches!(intent, Intent::Send(_));
        if source.is_some_and(|source| LineKind::Media(source.kind) != self.kind) {
            return Err(SdpError::KindMismatch(at));
        }
        if receives && !remote.direction.sends() {
            return Err(SdpError::Direction { at, peer_must_send: true });
        }
        if source.is_some() && !remote.direction.receives() {
            return Err(SdpError::Direction { at, peer_must_send: false });
        }
        self.wants_receive |= receives;
        if source.is_some() {
            self.source = source.cloned();
        }
        self.state = LineState::Live;
        Ok(())
    }

    /// Ends both directions. A line the client made to publish stays, so that it may publish here again; one
    /// that was there for our track is rejected by our next offer.
    pub(super) fn end(&mut self) {
        if !self.wants_receive && self.source.is_some() && self.state == LineState::Live {
            self.state = LineState::Closing;
        }
        self.forget_media();
    }

    /// Port 0 on both sides.
    pub(super) fn reject(&mut self) {
        self.state = LineState::Closed;
        self.forget_media();
        self.section.codecs.truncate(1);
        self.section.extensions = Vec::new();
    }

    fn forget_media(&mut self) {
        self.wants_receive = false;
        self.source = None;
        self.receive = None;
        self.send = None;
        self.section.rids = Vec::new();
    }

    /// Whether the offer holds anything we can answer with more than port 0.
    pub(super) fn is_acceptable(remote: &RemoteLine) -> bool {
        match remote.kind {
            LineKind::Media(kind) => remote.codecs.iter().any(|codec| codec.is_supported(kind)),
            LineKind::Application => true,
            LineKind::Other => false,
        }
    }

    /// Settles the line on what the peer just described and control wants. `numbers` are those of this
    /// description so far.
    pub(super) fn agree(
        &mut self,
        remote: &RemoteLine,
        at: Place,
        numbers: &mut SessionNumbers,
    ) -> Result<(), SdpError> {
        let LineKind::Media(kind) = self.kind else { return Ok(()) };
        let mut codecs = usable_codecs(remote, kind, at, &mut numbers.payload_types)?;
        let receives = self.wants_receive && remote.direction.sends();
        let source = self.source.as_ref().filter(|_| remote.direction.receives());
        let sent = source.map(|source| send_codecs(source, &codecs)).filter(|codecs| !codecs.is_empty());
        let source = source.filter(|_| sent.is_some());
        if let (Some(sent), false) = (&sent, receives) {
            codecs.retain(|codec| sent.iter().any(|sent| sent.pt == codec.pt));
        }
        if let Some(source) = source.filter(|_| !receives) {
            fit_to_sender(&mut codecs, source);
        }
        let extensions = agreed_extensions(remote, receives, source, &mut numbers.extensions);
        let send = sent.zip(source).map(|(sent, source)| sending(source, sent, &codecs, &extensions));
        self.receive = receives.then(|| receive(remote, &codecs, &extensions));
        self.send = send;
        self.section.rids = if self.wants_receive { remote.rids.clone() } else { Vec::new() };
        self.section.codecs = codecs;
        self.section.extensions = extensions;
        Ok(())
    }

    /// Sends another source under the numbers that are agreed on, if they have room for its codecs.
    pub(super) fn redirect(&mut self, kind: MediaKind, codecs: &[Codec]) -> Option<Sending> {
        let source = self.source.clone().filter(|source| source.kind == kind)?;
        let source = Send { codecs: codecs.to_vec(), ..source };
        let sent = send_codecs(&source, &self.section.codecs);
        let send = self.send.as_mut().filter(|_| !sent.is_empty())?;
        send.codecs = sent;
        self.source = Some(source);
        self.send.clone()
    }

    /// Whether the client both publishes here and is sent a track, one after another.
    pub fn is_bidirectional(&self) -> bool {
        self.wants_receive && self.source.is_some()
    }

    /// What our description of the line says: in an answer what is agreed, in an offer what is wanted.
    pub(super) fn agreed_direction(&self) -> Direction {
        Direction::of(self.send.is_some(), self.receive.is_some())
    }

    pub(super) fn wanted_direction(&self) -> Direction {
        Direction::of(self.source.is_some(), self.wants_receive)
    }
}

impl Section {
    fn new(media: &str, protocol: &str) -> Self {
        Self {
            media: media.to_owned(),
            protocol: protocol.to_owned(),
            formats: "0".to_owned(),
            codecs: Vec::new(),
            extensions: Vec::new(),
            rids: Vec::new(),
        }
    }
}

/// Codecs of a line that only sends: no RTX without a stream for it, no transport-cc unless asked for.
fn fit_to_sender(codecs: &mut [Codec], source: &Send) {
    for codec in codecs {
        codec.rtx_pt = codec.rtx_pt.filter(|_| repairs(source));
        codec.feedback.retain(|feedback| source.transport_cc || *feedback != Feedback::TransportCc);
    }
}

fn repairs(source: &Send) -> bool {
    source.kind == MediaKind::Video && source.rtx_ssrc.is_some()
}

fn send_codecs(source: &Send, offered: &[Codec]) -> Vec<SendCodec> {
    let published = if source.is_undecided() { offered } else { &source.codecs };
    let pair = |(published_at, offered_at): (usize, usize)| {
        let (published, offered) = (published.get(published_at)?, offered.get(offered_at)?);
        Some(SendCodec {
            publisher_pt: published.pt,
            publisher_rtx: published.rtx_pt,
            pt: offered.pt,
            rtx_pt: offered.rtx_pt.filter(|_| repairs(source)),
            clock_rate: offered.clock_rate,
        })
    };
    common(published, offered).into_iter().filter_map(pair).collect()
}

/// The codecs we may accept. A number that means another codec on an earlier m-line cannot be used here: in
/// one transport a payload type means one thing.
fn usable_codecs(
    remote: &RemoteLine,
    kind: MediaKind,
    at: Place,
    numbers: &mut Numbers<CodecKey>,
) -> Result<Vec<Codec>, SdpError> {
    let mut usable = Vec::new();
    let mut conflict = None;
    for codec in remote.codecs.iter().filter(|codec| codec.is_supported(kind)) {
        if !numbers.claim(codec.pt, codec.key()) {
            conflict.get_or_insert(codec);
            continue;
        }
        let rtx_pt = codec.rtx_pt.filter(|rtx| numbers.claim(*rtx, CodecKey::rtx(codec.pt)));
        usable.push(Codec { rtx_pt, ..codec.clone() });
    }
    match conflict.filter(|_| usable.is_empty()) {
        Some(codec) => {
            Err(SdpError::PayloadTypeConflict { at, payload_type: codec.pt, codec: codec.rtpmap() })
        }
        None => Ok(usable),
    }
}

/// Our side of the extensions, in the offer's order and under its ids. One whose id or URI another m-line
/// uses otherwise is left out: the receiver of a packet may not know its m-line yet.
fn agreed_extensions(
    remote: &RemoteLine,
    receives: bool,
    source: Option<&Send>,
    numbers: &mut Numbers<Extension>,
) -> Vec<RemoteExtension> {
    let idle = !receives && source.is_none();
    let ours = |offered: &RemoteExtension| {
        let extension = offered.extension;
        if matches!(extension, Extension::TransmissionOffset | Extension::VideoLayersAllocation) {
            return None;
        }
        let direction = Direction::of(
            offered.direction.receives() && (idle || source.is_some_and(|source| source.carries(extension))),
            offered.direction.sends() && (idle || receives),
        );
        let free = numbers.of(&extension).is_none_or(|id| id == offered.id);
        let agreed = direction != Direction::Inactive && free && numbers.claim(offered.id, extension);
        agreed.then_some(RemoteExtension { id: offered.id, extension, direction })
    };
    remote.extensions.iter().filter_map(ours).collect()
}

fn extension_map(extensions: &[RemoteExtension], used: impl Fn(Direction) -> bool) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    for extension in extensions.iter().filter(|extension| used(extension.direction)) {
        map.set(extension.extension, extension.id);
    }
    map
}

fn receive(remote: &RemoteLine, codecs: &[Codec], extensions: &[RemoteExtension]) -> Receive {
    let extensions = extension_map(extensions, Direction::receives);
    let reported = codecs.iter().any(|codec| codec.feedback.contains(&Feedback::TransportCc));
    Receive {
        codecs: codecs.to_vec(),
        encodings: encodings(remote),
        extensions,
        transport_cc: reported && extensions.id(Extension::TransportCc).is_some(),
        cname: remote.cname.clone(),
        msid: remote.msid.clone(),
    }
}

/// The streams to expect. Firefox announces SSRCs beside rids, in the same order; Chromium rids alone.
fn encodings(remote: &RemoteLine) -> Vec<Encoding> {
    let stream = |index: usize, rid| {
        let known = remote.ssrcs.get(index);
        Encoding {
            rid,
            ssrc: known.map(|known| known.ssrc),
            rtx_ssrc: known.and_then(|known| known.rtx_ssrc),
        }
    };
    if remote.rids.is_empty() {
        return (0..remote.ssrcs.len().clamp(1, ENCODINGS_MAX)).map(|index| stream(index, None)).collect();
    }
    let announced = remote.ssrcs.len() == remote.rids.len();
    let index = |index: usize| if announced { index } else { usize::MAX };
    remote.rids.iter().enumerate().map(|(at, rid)| stream(index(at), Some(*rid))).collect()
}

fn sending(source: &Send, sent: Vec<SendCodec>, codecs: &[Codec], extensions: &[RemoteExtension]) -> Sending {
    let has = |feedback| codecs.iter().any(|codec| codec.feedback.contains(&feedback));
    let repaired = sent.iter().any(|codec| codec.rtx_pt.is_some());
    Sending {
        codecs: sent,
        ssrc: source.ssrc,
        rtx_ssrc: source.rtx_ssrc.filter(|_| repaired),
        extensions: extension_map(extensions, Direction::sends),
        nack: has(Feedback::Nack),
        pli: has(Feedback::NackPli),
    }
}

/// The source's codecs under this session's numbers, with the feedback and RTX we give them.
fn offered_codecs(source: &Send, numbers: &mut Numbers<CodecKey>) -> Vec<Codec> {
    let supported = || source.codecs.iter().filter(|codec| codec.is_supported(source.kind));
    let mut codecs: Vec<Codec> = Vec::new();
    for published in supported() {
        if published.is_red() && !red_keeps_its_blocks(published, &source.codecs, numbers) {
            continue;
        }
        let Some(pt) = numbers.assign(published.key(), Some(published.pt), dynamic_payload_types()) else {
            continue;
        };
        let mut codec = Codec { pt, rtx_pt: None, feedback: feedback(source), ..published.clone() };
        if repairs(source) {
            codec.rtx_pt = numbers.assign(CodecKey::rtx(pt), published.rtx_pt, dynamic_payload_types());
        }
        // Two formats of a publisher that differ in level alone are one here.
        if !codecs.iter().any(|known| known.pt == codec.pt) {
            codecs.push(codec);
        }
    }
    codecs
}

/// All codecs of a kind under this session's numbers, with the feedback that a publisher shall heed.
fn wanted_codecs(kind: MediaKind, numbers: &mut Numbers<CodecKey>) -> Vec<Codec> {
    let numbered = |known: Codec| {
        let pt = numbers.assign(known.key(), Some(known.pt), dynamic_payload_types())?;
        let rtx = |rtx| numbers.assign(CodecKey::rtx(pt), Some(rtx), dynamic_payload_types());
        let feedback = match kind {
            MediaKind::Audio => vec![Feedback::TransportCc],
            MediaKind::Video => Feedback::ALL.to_vec(),
        };
        Some(Codec { pt, rtx_pt: known.rtx_pt.and_then(rtx), feedback, ..known })
    };
    all(kind).into_iter().filter_map(numbered).collect()
}

/// What a publisher may send us, and with a `source` we the client.
fn wanted_extensions(
    kind: MediaKind,
    source: Option<&Send>,
    numbers: &mut Numbers<Extension>,
) -> Vec<RemoteExtension> {
    let wanted = |&extension: &Extension| {
        let id = numbers.assign(extension, None, extension_ids())?;
        let sends = source.is_some_and(|source| source.carries(extension));
        Some(RemoteExtension { id, extension, direction: Direction::of(sends, true) })
    };
    let wanted_of: &[Extension] = match kind {
        MediaKind::Audio => &WANTED_OF_AUDIO,
        MediaKind::Video => &WANTED_OF_VIDEO,
    };
    wanted_of.iter().filter_map(wanted).collect()
}

const WANTED_OF_AUDIO: [Extension; 3] = [Extension::Mid, Extension::TransportCc, Extension::AudioLevel];

const WANTED_OF_VIDEO: [Extension; 5] = [
    Extension::Mid,
    Extension::TransportCc,
    Extension::VideoOrientation,
    Extension::PlayoutDelay,
    Extension::DependencyDescriptor,
];

/// See [`common`]: RED may pass if what it encapsulates keeps its numbers.
fn red_keeps_its_blocks(red: &Codec, published: &[Codec], numbers: &mut Numbers<CodecKey>) -> bool {
    red.red_blocks().all(|block| {
        let codec = published.iter().find(|codec| codec.pt == block);
        codec.is_some_and(|codec| {
            numbers.assign(codec.key(), Some(block), dynamic_payload_types()) == Some(block)
        })
    })
}

fn feedback(source: &Send) -> Vec<Feedback> {
    let wanted = |feedback: &Feedback| match feedback {
        Feedback::TransportCc => source.transport_cc,
        Feedback::CcmFir | Feedback::Nack | Feedback::NackPli => source.kind == MediaKind::Video,
    };
    Feedback::ALL.into_iter().filter(wanted).collect()
}

fn offered_extensions(source: &Send, numbers: &mut Numbers<Extension>) -> Vec<RemoteExtension> {
    let carried = Extension::ALL.iter().filter(|extension| source.carries(**extension));
    let with_id = |&extension: &Extension| {
        let id = numbers.assign(extension, source.extensions.id(extension), extension_ids())?;
        Some(RemoteExtension { id, extension, direction: Direction::SendOnly })
    };
    carried.filter_map(with_id).collect()
}
