//! A session on its shard: the cold side, looked at per datagram or per report, never per forwarded packet.
//!
//! What a fan-out needs of a subscriber, its path and its key, lives apart in [`Outlet`]s.

use crate::drop_reason::DropReason;
use crate::forward::keyframe::KeyframeRequests;
use crate::forward::leg::Leg;
use crate::forward::pace::{Backlog, Pacing};
use crate::forward::receive::{AnswerTime, StreamReceiver};
use crate::forward::speech::{Loudness, Speech};
use crate::forward::transport_cc::ArrivalRecorder;
use crate::id::{LegId, MediaKind, Mid, Rid, SessionSlot, TrackKey};
use crate::io::Path;
use crate::rtp::extension::{AudioLevel, Extension, ExtensionMap};
use crate::rtp::header::Header;
use crate::rtp::srtp::{Opener, RtpReplay, Sealer};
use crate::shard::bandwidth::Bandwidth;
use crate::shard::command::{EncodingConfig, LegConfig, PublicationConfig, ReceiveCodec};
use crate::shard::egress::{PacedQueues, Waiting};
use crate::stats::BandwidthHistogram;
use crate::time::Time;

/// SSRCs one session may use at a time: three encodings with RTX for each of ten m-lines is 60.
const STREAMS_MAX: usize = 128;

/// Where a session's datagrams go and what they are sealed with: the hot side.
#[derive(Default)]
pub struct Outlet {
    pub path: Option<Path>,
    pub sealer: Option<Sealer>,
    /// What is known of the path to it, of a session that is sent video.
    pub bandwidth: Option<Box<Bandwidth>>,
}

impl Outlet {
    /// Both, once ICE and DTLS are done.
    pub fn ready(&mut self) -> Result<(Path, &mut Sealer), DropReason> {
        match (self.path, &mut self.sealer) {
            (Some(path), Some(sealer)) => Ok((path, sealer)),
            _ => Err(DropReason::SubscriberNotReady),
        }
    }

    /// All that sending needs, once ICE and DTLS are done.
    pub fn destination(&mut self, now: Time) -> Result<Destination<'_>, DropReason> {
        match (self.path, &mut self.sealer) {
            (Some(path), Some(sealer)) => {
                Ok(Destination { path, sealer, bandwidth: self.bandwidth.as_deref_mut(), now })
            }
            _ => Err(DropReason::SubscriberNotReady),
        }
    }
}

/// Where packets for one session go in this turn.
pub struct Destination<'a> {
    pub path: Path,
    pub sealer: &'a mut Sealer,
    pub bandwidth: Option<&'a mut Bandwidth>,
    now: Time,
}

impl Destination<'_> {
    /// Brings what the pacer allows up to now. Returns how far the subscriber is behind.
    pub fn fill(&mut self, pacing: Pacing) -> Backlog {
        let Some(bandwidth) = self.bandwidth.as_mut() else { return Backlog::NONE };
        let bps = bandwidth.paced_bps();
        bandwidth.pacer.fill(pacing, bps, self.now);
        bandwidth.pacer.backlog()
    }

    /// Whether so many bytes of the past may wait behind what waits already.
    pub fn may_catch_up(&mut self, bytes: usize, pacing: Pacing) -> bool {
        self.fill(pacing);
        self.bandwidth.as_ref().is_some_and(|bandwidth| bandwidth.pacer.may_catch_up(bytes))
    }

    /// Whether a fresh packet of video may leave at once.
    pub fn may_send_video(&self) -> bool {
        self.bandwidth
            .as_ref()
            .is_none_or(|bandwidth| bandwidth.queue.is_none() && bandwidth.pacer.may_send())
    }

    /// Whether a packet that waits may leave.
    pub fn may_release(&self) -> bool {
        self.bandwidth.as_ref().is_none_or(|bandwidth| bandwidth.pacer.may_send())
    }

    /// Takes what leaves off what the pacer allows.
    pub fn spend(&mut self, bytes: usize) {
        if let Some(bandwidth) = &mut self.bandwidth {
            bandwidth.pacer.spend(bytes);
        }
    }

    /// Has a packet wait. Returns whether it does: it cannot if there is no room.
    pub fn delay(&mut self, session: SessionSlot, packet: Waiting, paced: &mut PacedQueues) -> bool {
        let Some(bandwidth) = &mut self.bandwidth else { return false };
        let Some(queue) = paced.push(session, bandwidth.queue, packet, self.now) else { return false };
        bandwidth.queue = Some(queue);
        bandwidth.pacer.delay(packet.len.into());
        true
    }

    /// Whether packets wait.
    pub fn has_queue(&self) -> bool {
        self.bandwidth.as_ref().is_some_and(|bandwidth| bandwidth.queue.is_some())
    }

    /// Notes bytes that wait no more.
    pub fn note_released(&mut self, bytes: usize) {
        if let Some(bandwidth) = &mut self.bandwidth {
            bandwidth.pacer.release(bytes);
        }
    }

    /// Nothing waits any more.
    pub fn forget_queue(&mut self) {
        if let Some(bandwidth) = &mut self.bandwidth {
            bandwidth.forget_queue();
        }
    }

    /// Notes a packet whose arrival its receiver will report. Returns the transport-wide sequence number for it.
    pub fn count_sent(&mut self, bytes: usize) -> Option<u16> {
        Some(self.bandwidth.as_mut()?.count_sent(bytes, self.now))
    }

    /// Notes a packet whose arrival nobody will report.
    pub fn count_sent_beside(&mut self, bytes: usize) {
        if let Some(bandwidth) = &mut self.bandwidth {
            bandwidth.count_sent_beside(bytes, self.now);
        }
    }
}

pub struct Session {
    pub rtcp_ssrc: u32,
    pub cname: String,
    pub opener: Option<Opener>,
    /// Addresses that ICE verified, for the shard's map to forget with the session.
    pub remotes: Vec<std::net::SocketAddr>,
    pub publications: Vec<Publication>,
    /// The header extension ids of the session, over all its publications.
    pub extensions: ExtensionMap,
    streams: Vec<Stream>,
    pub legs: Vec<LegRef>,
    /// Legs that ended and may be resumed, one per m-line: an SSRC must not send an index twice.
    resting: Vec<(Mid, Leg)>,
    /// Arrival times for transport-wide feedback, if any publication negotiated it.
    pub arrivals: Option<ArrivalRecorder>,
    pub feedback_due: Time,
    pub report_due: Time,
    /// When the session's timer fires next; an earlier entry in the heap is stale.
    pub timer: Time,
    /// Round trip to the peer in microseconds, from its reports; 0 until known.
    pub rtt_us: u64,
    /// How long the peer takes to send a packet again.
    pub answer_time: AnswerTime,
}

/// A subscription as its session knows it.
#[derive(Debug, Clone)]
pub struct LegRef {
    pub track: TrackKey,
    pub id: LegId,
    pub ssrc: u32,
    /// Middle 32 bits of the NTP time in the last sender report, and when it left: for the round trip.
    pub last_report: Option<(u32, Time)>,
    pub kind: MediaKind,
    /// Its m-line.
    pub mid: Mid,
    /// Whether another leg may go on from it there.
    is_resumable: bool,
    retransmitted: Vec<(u16, Time)>,
}

/// Retransmissions a leg remembers, so that one NACK repeated is answered once per round trip.
const RETRANSMITTED_MAX: usize = 64;

impl LegRef {
    pub fn new(config: &LegConfig, kind: MediaKind) -> Self {
        Self {
            track: config.track,
            id: config.id,
            ssrc: config.ssrc,
            last_report: None,
            kind,
            mid: config.mid,
            is_resumable: config.is_resumable,
            retransmitted: Vec::new(),
        }
    }

    /// Whether to answer a NACK for `sequence`: not if that was done less than a round trip ago.
    pub fn may_retransmit(&mut self, sequence: u16, now: Time, rtt_us: u64) -> bool {
        const RTT_ASSUMED_US: u64 = 30_000;
        let pause = if rtt_us == 0 { RTT_ASSUMED_US } else { rtt_us };
        if let Some(known) = self.retransmitted.iter_mut().find(|(seq, _)| *seq == sequence) {
            let due = now.since(known.1) >= pause;
            if due {
                known.1 = now;
            }
            return due;
        }
        if self.retransmitted.len() == RETRANSMITTED_MAX {
            self.retransmitted.remove(0);
        } else if self.retransmitted.capacity() == 0 {
            self.retransmitted.reserve_exact(RETRANSMITTED_MAX);
        }
        self.retransmitted.push((sequence, now));
        true
    }
}

/// An m-line that receives: one track, one or several encodings.
pub struct Publication {
    pub config: PublicationConfig,
    pub encodings: Vec<Encoding>,
    pub last_packet: Time,
    pub activity: Activity,
    pub speech: Speech,
    /// What control has been told of its speech.
    loudness_told: Loudness,
}

/// What control has been told of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Nothing: no packet has come.
    Waiting,
    Active,
    Silent,
}

/// One encoding as received.
pub struct Encoding {
    pub rid: Option<Rid>,
    /// The SSRC in use, once bound.
    pub ssrc: Option<u32>,
    pub receiver: StreamReceiver,
    pub keyframes: KeyframeRequests,
    pub continuity: Continuity,
    /// The track's timestamp at the last packet, and when that was.
    last: (u32, Time),
    /// Hz.
    clock_rate: u32,
    /// The keys have changed: the next packet's index starts anew, and continues the track's.
    rekeyed: bool,
    pub nack: bool,
    pub pli: bool,
}

impl Encoding {
    fn new(config: &EncodingConfig, codecs: &[ReceiveCodec]) -> Self {
        let clock_rate = codecs.first().map_or(90_000, |codec| codec.clock_rate);
        Self {
            rid: config.rid,
            ssrc: None,
            receiver: StreamReceiver::new(clock_rate),
            keyframes: KeyframeRequests::default(),
            continuity: Continuity::default(),
            last: (0, Time(0)),
            clock_rate,
            rekeyed: false,
            nack: codecs.iter().any(|codec| codec.nack),
            pli: codecs.iter().any(|codec| codec.pli),
        }
    }

    /// Notes a packet of the media stream; `highest` is the track's highest index so far.
    pub fn on_packet(
        &mut self,
        header: &Header,
        index: u64,
        payload_len: usize,
        highest: Option<u64>,
        now: Time,
    ) {
        if self.ssrc != Some(header.ssrc) {
            if self.ssrc.is_some() {
                self.continue_with(header, index, highest, now);
            }
            self.ssrc = Some(header.ssrc);
        } else if self.rekeyed {
            self.continue_index(index, highest);
        }
        self.rekeyed = false;
        self.receiver.on_packet(index, header.timestamp, payload_len, now);
        self.last = (header.timestamp.wrapping_add(self.continuity.timestamp_base), now);
    }

    /// A new SSRC takes over: its first packet follows the track's last, as far apart as they arrived.
    fn continue_with(&mut self, header: &Header, index: u64, highest: Option<u64>, now: Time) {
        let elapsed = now.since(self.last.1) * u64::from(self.clock_rate) / 1_000_000;
        let timestamp = self.last.0.wrapping_add(elapsed as u32);
        self.continuity.timestamp_base = timestamp.wrapping_sub(header.timestamp);
        self.continue_index(index, highest);
    }

    /// The packet `index` of the stream is the one after the track's `highest`.
    fn continue_index(&mut self, index: u64, highest: Option<u64>) {
        let next = highest.map_or(0, |highest| highest + 1);
        self.continuity.index_base = next.wrapping_sub(index);
        self.receiver = StreamReceiver::new(self.clock_rate);
    }

    /// When a NACK or a key frame request of this encoding is due.
    pub fn due(&self) -> Time {
        let nack = self.receiver.next_nack_due().filter(|_| self.nack).unwrap_or(Time::NEVER);
        nack.min(self.keyframes.next_due().unwrap_or(Time::NEVER))
    }
}

/// Keeps a track's indices and timestamps continuous when its publisher changes the SSRC: what to add to
/// the stream's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Continuity {
    pub index_base: u64,
    pub timestamp_base: u32,
}

/// An incoming SSRC and what it stands for.
pub struct Stream {
    pub ssrc: u32,
    pub route: Route,
    pub replay: RtpReplay,
}

/// What an SSRC carries: which publication, which encoding, media or its retransmissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub publication: usize,
    pub encoding: usize,
    pub rtx: bool,
}

impl Publication {
    pub fn new(config: PublicationConfig, now: Time) -> Self {
        let encodings = config.encodings.iter().map(|e| Encoding::new(e, &config.codecs)).collect();
        Self {
            config,
            encodings,
            last_packet: now,
            activity: Activity::Waiting,
            speech: Speech::default(),
            loudness_told: Loudness::SILENCE,
        }
    }

    /// How loud it is, if control has been told otherwise. Counts as told.
    pub fn take_loudness(&mut self) -> Option<Loudness> {
        let loudness = self.speech.loudness();
        (std::mem::replace(&mut self.loudness_told, loudness) != loudness).then_some(loudness)
    }

    /// The codec of a payload type, media or RTX.
    pub fn codec(&self, payload_type: u8) -> Option<&ReceiveCodec> {
        let is = |codec: &&ReceiveCodec| {
            codec.payload_type == payload_type || codec.rtx_payload_type == Some(payload_type)
        };
        self.config.codecs.iter().find(is)
    }
}

impl Session {
    pub fn new(rtcp_ssrc: u32, cname: String) -> Self {
        Self {
            rtcp_ssrc,
            cname,
            opener: None,
            remotes: Vec::new(),
            publications: Vec::new(),
            extensions: ExtensionMap::default(),
            streams: Vec::new(),
            legs: Vec::new(),
            resting: Vec::new(),
            arrivals: None,
            feedback_due: Time::NEVER,
            report_due: Time::NEVER,
            timer: Time::NEVER,
            rtt_us: 0,
            answer_time: AnswerTime::default(),
        }
    }

    /// Adds a publication; SSRCs that its offer named are bound at once.
    pub fn publish(&mut self, config: PublicationConfig, now: Time) {
        if config.transport_cc && self.arrivals.is_none() {
            self.arrivals = Some(ArrivalRecorder::new());
        }
        for (extension, id) in config.extensions.iter() {
            self.extensions.set(extension, id);
        }
        let publication = self.publications.len();
        let named = config.encodings.clone();
        self.publications.push(Publication::new(config, now));
        for (encoding, names) in named.iter().enumerate() {
            for (ssrc, rtx) in [(names.ssrc, false), (names.rtx_ssrc, true)] {
                if let Some(ssrc) = ssrc {
                    self.bind(Stream {
                        ssrc,
                        route: Route { publication, encoding, rtx },
                        replay: RtpReplay::new(),
                    });
                }
            }
        }
    }

    /// New keys: rollover counters of both directions begin at 0 again (RFC 3711 §3.3.1).
    pub fn rekey(&mut self) {
        for stream in &mut self.streams {
            stream.replay = RtpReplay::new();
        }
        for encoding in self.publications.iter_mut().flat_map(|p| &mut p.encodings) {
            encoding.rekeyed = encoding.ssrc.is_some();
        }
        self.resting.iter_mut().for_each(|(_, leg)| leg.rekey());
    }

    /// Takes a leg off that its track has let go of.
    pub fn end_leg(&mut self, leg: Leg) {
        let Some(at) = self.legs.iter().position(|known| known.id == leg.id) else { return };
        let ended = self.legs.remove(at);
        if ended.is_resumable {
            self.resting.retain(|(on, _)| *on != ended.mid);
            self.resting.push((ended.mid, leg));
        }
    }

    /// The leg that ended under this SSRC, to go on from.
    pub fn resume_leg(&mut self, ssrc: u32) -> Option<Leg> {
        let at = self.resting.iter().position(|(_, leg)| leg.ssrc == ssrc)?;
        Some(self.resting.remove(at).1)
    }

    /// A key frame begins: whoever waits for one has it, and it need not be asked for again.
    pub fn key_frame_came(&mut self, route: Route) {
        let publication = self.publications.get_mut(route.publication);
        if let Some(encoding) = publication.and_then(|p| p.encodings.get_mut(route.encoding)) {
            encoding.keyframes.on_keyframe();
        }
    }

    /// Removes a publication and forgets its SSRCs.
    pub fn unpublish(&mut self, track: TrackKey) {
        let Some(at) = self.publications.iter().position(|p| p.config.track == track) else { return };
        self.publications.remove(at);
        self.streams.retain(|stream| stream.route.publication != at);
        for stream in &mut self.streams {
            if stream.route.publication > at {
                stream.route.publication -= 1;
            }
        }
    }

    pub fn stream_mut(&mut self, ssrc: u32) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.ssrc == ssrc)
    }

    /// Makes `stream` the one of its route: an encoding has one SSRC for media and one for RTX at a time.
    pub fn bind(&mut self, stream: Stream) {
        self.streams.retain(|known| known.route != stream.route && known.ssrc != stream.ssrc);
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
        }
    }

    /// The media stream that a retransmission on `rtx` repairs.
    pub fn repaired_by(&mut self, rtx: Route) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.route == Route { rtx: false, ..rtx })
    }

    /// Where packets of a new SSRC belong, by MID and RID (RFC 8843 §9.2, RFC 8852), or by a payload type
    /// that only one publication has.
    pub fn route(&self, header: &Header, packet: &[u8]) -> Result<Route, DropReason> {
        let (mut mid, mut rid, mut repaired) = (None, None, None);
        for (id, value) in header.extensions(packet) {
            match self.extensions.extension(id) {
                Some(Extension::Mid) => mid = Some(value),
                Some(Extension::Rid) => rid = Some(value),
                Some(Extension::RepairedRid) => repaired = Some(value),
                _ => {}
            }
        }
        let publication = match mid {
            Some(mid) => self.publications.iter().position(|p| p.config.mid.as_bytes() == mid),
            None => self.only_publication_of(header.payload_type),
        };
        let publication = publication.ok_or(DropReason::UnknownStream)?;
        let known = self.publications.get(publication).ok_or(DropReason::UnknownStream)?;
        let codec = known.codec(header.payload_type).ok_or(DropReason::UnknownPayloadType)?;
        let encoding = match repaired.or(rid) {
            Some(rid) => known.encodings.iter().position(|e| e.rid.is_some_and(|r| r.as_bytes() == rid)),
            None if known.encodings.len() == 1 => Some(0),
            None => None,
        };
        let encoding = encoding.ok_or(DropReason::UnknownStream)?;
        Ok(Route { publication, encoding, rtx: codec.payload_type != header.payload_type })
    }

    /// The transport-wide sequence number of a packet, if feedback was negotiated.
    pub fn transport_sequence(&self, header: &Header, packet: &[u8]) -> Option<u16> {
        self.arrivals.as_ref()?;
        let wanted = self.extensions.id(Extension::TransportCc)?;
        let (_, value) = header.extensions(packet).find(|(id, _)| *id == wanted)?;
        Some(u16::from_be_bytes(*value.first_chunk()?))
    }

    /// The audio level of a packet, if the session negotiated such and it carries one.
    pub fn audio_level(&self, header: &Header, packet: &[u8]) -> Option<AudioLevel> {
        let wanted = self.extensions.id(Extension::AudioLevel)?;
        let (_, value) = header.extensions(packet).find(|(id, _)| *id == wanted)?;
        AudioLevel::parse(value)
    }

    fn only_publication_of(&self, payload_type: u8) -> Option<usize> {
        let mut having =
            self.publications.iter().enumerate().filter(|(_, p)| p.codec(payload_type).is_some());
        let (at, _) = having.next()?;
        having.next().is_none().then_some(at)
    }

    /// The encoding whose media has this SSRC.
    pub fn encoding_by_ssrc(&mut self, ssrc: u32) -> Option<(&PublicationConfig, u8, &mut Encoding)> {
        self.publications.iter_mut().find_map(|publication| {
            let at = publication.encodings.iter().position(|e| e.ssrc == Some(ssrc))?;
            Some((&publication.config, at as u8, publication.encodings.get_mut(at)?))
        })
    }

    pub fn leg_by_ssrc(&mut self, ssrc: u32) -> Option<&mut LegRef> {
        self.legs.iter_mut().find(|leg| leg.ssrc == ssrc)
    }

    pub fn has_video(&self) -> bool {
        self.publications.iter().any(|p| p.config.kind == MediaKind::Video)
            || self.legs.iter().any(|leg| leg.kind == MediaKind::Video)
    }
}

/// The sessions of a shard by slot.
#[derive(Default)]
pub struct Sessions {
    cold: Vec<Option<Session>>,
    pub outlets: Vec<Outlet>,
}

impl Sessions {
    pub fn insert(&mut self, slot: SessionSlot, session: Session) {
        if slot.index() >= self.cold.len() {
            self.cold.resize_with(slot.index() + 1, || None);
            self.outlets.resize_with(slot.index() + 1, Outlet::default);
        }
        if let Some(place) = self.cold.get_mut(slot.index()) {
            *place = Some(session);
        }
    }

    pub fn remove(&mut self, slot: SessionSlot) -> Option<Session> {
        if let Some(outlet) = self.outlets.get_mut(slot.index()) {
            *outlet = Outlet::default();
        }
        self.cold.get_mut(slot.index())?.take()
    }

    pub fn get_mut(&mut self, slot: SessionSlot) -> Option<&mut Session> {
        self.cold.get_mut(slot.index())?.as_mut()
    }

    pub fn outlet_mut(&mut self, slot: SessionSlot) -> Option<&mut Outlet> {
        self.outlets.get_mut(slot.index())
    }

    pub fn bandwidth_mut(&mut self, slot: SessionSlot) -> Option<&mut Bandwidth> {
        self.outlets.get_mut(slot.index())?.bandwidth.as_deref_mut()
    }

    /// How much bandwidth those have that are sent video.
    pub fn available_bps(&self) -> BandwidthHistogram {
        let mut histogram = BandwidthHistogram::default();
        let bandwidths = self.outlets.iter().filter_map(|outlet| outlet.bandwidth.as_ref());
        bandwidths.filter_map(|bandwidth| bandwidth.available_bps()).for_each(|bps| histogram.observe(bps));
        histogram
    }

    /// Both sides of one session.
    pub fn both_mut(&mut self, slot: SessionSlot) -> Option<(&mut Session, &mut Outlet)> {
        Some((self.cold.get_mut(slot.index())?.as_mut()?, self.outlets.get_mut(slot.index())?))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.cold.iter().flatten()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.cold.iter_mut().flatten()
    }
}
