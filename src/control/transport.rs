//! ICE, DTLS and SCTP of one session: the only file, with `keys`, that names str0m.
//!
//! The `Rtc` inside is told its credentials and fingerprints directly and never any media, so it emits STUN
//! and DTLS and nothing else. Should it ever emit SRTP or SRTCP, that would put a second sender under the
//! shard's keys: it is dropped and reported as a bug.
//!
//! str0m pairs addresses; we keep the real ones. It is shown one local candidate per address family,
//! whatever the address a datagram reached, and what it answers leaves from where the peer's datagram came
//! in. A host with many addresses, or behind a 1:1 NAT, needs no more than that.
//!
//! Clients check connectivity and we answer: ICE-lite. Only towards another server, which is lite itself, are
//! we the full agent that checks and nominates.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use str0m::change::SdpOffer;
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::config::{DtlsCert, Fingerprint};
use str0m::ice::{StunMessage, TransId};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc, RtcConfig};

use crate::control::datachannels::{
    ChannelEvent, Delivery, Message, Persistence, SERVER_EVENTS, SESSION_BUFFER_BYTES_MAX,
};
use crate::control::keys::{self, KeySlot};
use crate::io::Path;
use crate::rtp::demux::{DatagramKind, classify};
use crate::rtp::srtp::{Opener, Sealer};

/// The process's certificate and its fingerprint as SDP writes it.
pub struct Identity {
    certificate: DtlsCert,
    pub fingerprint: String,
}

/// ICE credentials of one side (RFC 8839 §5.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub ufrag: String,
    pub password: String,
}

/// What we are in ICE (RFC 8445 §2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ice {
    /// The peer checks, we answer.
    Lite,
    /// We check, too, and nominate if we control.
    Full,
}

/// The peer, as its session description tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub credentials: Credentials,
    /// SHA-256 of its certificate.
    pub fingerprint: Vec<u8>,
    /// Whether we begin the DTLS handshake.
    pub we_are_client: bool,
    /// Whether we nominate; of no effect where we are lite. Fixed with the first description.
    pub we_control: bool,
    /// Where to check, as in SDP after `a=`; of no effect where we are lite.
    pub candidates: Vec<String>,
}

/// What a datagram or a timeout led to.
#[derive(Default)]
pub struct Outcome {
    /// A connectivity check over this path was verified; the flag tells whether whoever controls nominates it.
    pub verified: Option<(Path, bool)>,
    pub keys: Option<Box<(Sealer, Opener)>>,
    pub connected: bool,
    /// The peer said goodbye, or the handshake failed for good.
    pub closed: bool,
    /// The transport tried to send SRTP or SRTCP by itself.
    pub media_sent: u64,
    pub channels: Vec<ChannelEvent>,
}

/// What became of a message for a data channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Queued,
    /// The peer reads too slowly.
    Full,
    /// The channel is not open, or the peer takes no message of that size.
    Refused,
}

/// What str0m's STUN and DTLS code would answer, with the local address it leaves from.
pub trait Send {
    fn send(&mut self, path: &Path, datagram: &[u8]);
}

impl<F: FnMut(&Path, &[u8])> Send for F {
    fn send(&mut self, path: &Path, datagram: &[u8]) {
        self(path, datagram);
    }
}

pub struct Transport {
    rtc: Rtc,
    keys: KeySlot,
    ice: Ice,
    local: Credentials,
    certificate: DtlsCert,
    local_v4: SocketAddr,
    local_v6: SocketAddr,
    /// Our own address towards each remote that ICE verified.
    paths: Vec<Path>,
    /// The one that the peer nominated last. str0m stays with its first choice; DTLS follows this.
    nominated: Option<Path>,
    /// Connectivity checks that wait for their answer: one that comes before the peer's credentials is
    /// answered when they come.
    checks: Vec<Check>,
    /// Checks of ours that wait for the peer's answer.
    asked: VecDeque<Check>,
    /// Transaction ids of the last checks, and where each came from.
    seen: VecDeque<(TransId, SocketAddr)>,
    peer: Option<Peer>,
    /// The largest message the peer takes, in bytes, once SCTP has started.
    sctp: Option<u32>,
    /// Data channels by SCTP stream: ours, and those the peer opened in-band.
    channels: BTreeMap<u16, Channel>,
    /// Streams of ours that wait for SCTP to come up.
    opening: Vec<u16>,
    /// The in-band channel that tells the peer it has data channels.
    server_events: Option<ChannelId>,
    channel_events: Vec<ChannelEvent>,
    is_connected: bool,
    /// The peer is about to begin a new DTLS association under the same ICE credentials.
    expects_renewal: bool,
    /// The last check that nominated a path, to be shown to the next association.
    nomination: Option<(Path, Vec<u8>)>,
    next_timeout: Instant,
}

/// A data channel as str0m knows it.
struct Channel {
    id: ChannelId,
    /// `None` if the peer opened it.
    config: Option<ChannelConfig>,
    /// To be closed as soon as it can be: str0m closes no channel that is not open.
    is_closing: bool,
}

/// A connectivity check, the peer's or ours. An answer of ours with its transaction id proves that the peer's
/// was verified.
#[derive(Clone, Copy)]
struct Check {
    transaction: TransId,
    path: Path,
    nominates: bool,
}

/// Remote addresses one session may be verified from; the oldest gives way.
const PATHS_MAX: usize = 16;

/// Checks whose origin is remembered: at one every 2.5 s, those of the last minutes.
const SEEN_MAX: usize = 64;

/// Checks that may wait for an answer at a time; the oldest gives way. Clients repeat theirs.
const CHECKS_MAX: usize = 16;

/// Likewise of ours: some for each candidate that a description may have.
const ASKED_MAX: usize = 256;

impl Identity {
    /// `None` if the crypto library cannot make a certificate.
    pub fn generate() -> Option<Self> {
        let certificate = keys::certificate()?;
        let provider = keys::crypto_provider();
        let digest = provider.sha256_provider.sha256(&certificate.certificate);
        let hex: Vec<_> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        Some(Self { certificate, fingerprint: format!("sha-256 {}", hex.join(":")) })
    }

    /// For the load generator's clients, which handshake without a [`Transport`].
    pub(crate) fn certificate(&self) -> &DtlsCert {
        &self.certificate
    }
}

impl Transport {
    /// A transport that waits for the peer. `port` is the UDP port of the session's shard.
    pub fn new(identity: &Identity, ice: Ice, local: &Credentials, port: u16, now: Instant) -> Self {
        let keys = KeySlot::default();
        let local_v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let local_v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
        let certificate = identity.certificate.clone();
        Self {
            rtc: build(&certificate, ice, local, [local_v4, local_v6], &keys, now),
            keys,
            ice,
            local: local.clone(),
            certificate,
            local_v4,
            local_v6,
            paths: Vec::new(),
            nominated: None,
            checks: Vec::new(),
            asked: VecDeque::new(),
            seen: VecDeque::new(),
            peer: None,
            sctp: None,
            channels: BTreeMap::new(),
            opening: Vec::new(),
            server_events: None,
            channel_events: Vec::new(),
            is_connected: false,
            expects_renewal: false,
            nomination: None,
            next_timeout: now,
        }
    }

    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    pub fn ice(&self) -> Ice {
        self.ice
    }

    /// Tells the transport whom to expect. The first call starts DTLS; later ones only renew credentials.
    ///
    /// # Errors
    /// What DTLS says if it cannot start, for the log.
    pub fn set_peer(&mut self, peer: Peer) -> Result<(), String> {
        let starting = self.peer.is_none();
        introduce(&mut self.rtc, &peer, starting)?;
        self.peer = Some(peer);
        Ok(())
    }

    /// The description has moved to another BUNDLE tag. Browsers then leave their transport and begin
    /// another with the same credentials; other stacks go on with the one they have.
    pub fn expect_renewal(&mut self) {
        self.expects_renewal = self.is_connected;
    }

    /// Starts over with the same credentials and the path that was nominated last.
    fn renew(&mut self, now: Instant) {
        self.expects_renewal = false;
        self.is_connected = false;
        let locals = [self.local_v4, self.local_v6];
        self.rtc = build(&self.certificate, self.ice, &self.local, locals, &self.keys, now);
        if let Some(peer) = &self.peer
            && let Err(problem) = introduce(&mut self.rtc, peer, true)
        {
            tracing::warn!(problem, "DTLS could not start again");
        }
        self.restart_sctp();
        if let Some((path, check)) = self.nomination.take() {
            // The check was answered when it came; the answer it gets here is not sent again.
            self.feed(&path, &check, now);
            self.drain(Some(path), &mut |_: &Path, _: &[u8]| {});
        }
    }

    fn feed(&mut self, path: &Path, datagram: &[u8], now: Instant) {
        let local = if path.remote.is_ipv4() { self.local_v4 } else { self.local_v6 };
        let Ok(receive) = Receive::new(Protocol::Udp, path.remote, local, datagram) else { return };
        // What cannot be taken is the sender's fault, and anybody can send it: it must not end the session.
        if let Err(error) = self.rtc.handle_input(Input::Receive(now, receive)) {
            tracing::debug!(%error, "a datagram was refused");
        }
    }

    /// Starts SCTP over DTLS towards the peer that was set, once. The DTLS client opens the association.
    /// `message_bytes_max` is the largest message the peer takes.
    pub fn start_sctp(&mut self, message_bytes_max: u32) {
        let Some(peer) = self.peer.as_ref().filter(|_| self.sctp.is_none()) else { return };
        self.sctp = Some(message_bytes_max);
        begin_sctp(&mut self.rtc, peer, message_bytes_max);
    }

    pub fn has_sctp(&self) -> bool {
        self.sctp.is_some()
    }

    /// Gives a new association the channels of the one before. Those of the peer are its own to open again.
    fn restart_sctp(&mut self) {
        let (Some(peer), Some(message_bytes_max)) = (&self.peer, self.sctp) else { return };
        begin_sctp(&mut self.rtc, peer, message_bytes_max);
        if self.server_events.take().is_some() {
            self.open_server_events();
        }
        self.opening.clear();
        for (stream, channel) in std::mem::take(&mut self.channels) {
            match channel.config.filter(|_| !channel.is_closing) {
                Some(config) => self.create(stream, config),
                None => self.channel_events.push(ChannelEvent::Closed(stream)),
            }
        }
    }

    /// Opens a channel in-band, as the sign for a client that made no offer of its own.
    pub fn open_server_events(&mut self) {
        if self.sctp.is_some() && self.server_events.is_none() {
            let config = ChannelConfig { label: SERVER_EVENTS.to_owned(), ..ChannelConfig::default() };
            self.server_events = Some(self.rtc.direct_api().create_data_channel(config));
        }
    }

    /// Opens our end of a channel that the peer opens on the same stream, without a handshake (RFC 8831 §6.5).
    pub fn open_channel(&mut self, stream: u16, label: String, delivery: Delivery) {
        let reliability = match delivery.persistence {
            Persistence::Reliable => Reliability::Reliable,
            Persistence::RetransmitsMax(retransmits) => Reliability::MaxRetransmits { retransmits },
            Persistence::LifetimeMsMax(lifetime) => Reliability::MaxPacketLifetime { lifetime },
        };
        let negotiated = Some(stream);
        let protocol = String::new();
        let ordered = delivery.ordered;
        // str0m takes a second channel on a stream for a bug.
        if !self.channels.contains_key(&stream) {
            self.create(stream, ChannelConfig { label, ordered, reliability, negotiated, protocol });
        }
    }

    fn create(&mut self, stream: u16, config: ChannelConfig) {
        let id = self.rtc.direct_api().create_data_channel(config.clone());
        self.channels.insert(stream, Channel { id, config: Some(config), is_closing: false });
        self.opening.push(stream);
    }

    /// [`ChannelEvent::Closed`] tells when the stream is free again.
    pub fn close_channel(&mut self, stream: u16) {
        let Some(channel) = self.channels.get_mut(&stream) else { return };
        channel.is_closing = true;
        if !self.opening.contains(&stream) {
            let id = channel.id;
            self.rtc.direct_api().close_data_channel(id);
        }
    }

    /// Queues a message, unless that makes more than `buffer_bytes_max` wait. An empty buffer takes any.
    /// An empty message is lost: RFC 8831 §6.6 has it sent as one byte, for which str0m makes no packet.
    pub fn send(&mut self, stream: u16, message: &Message, buffer_bytes_max: usize) -> Sent {
        let Some(channel) = self.channels.get(&stream).filter(|channel| !channel.is_closing) else {
            return Sent::Refused;
        };
        let Some(mut channel) = self.rtc.channel(channel.id) else { return Sent::Refused };
        let waiting = channel.buffered_amount();
        if waiting > 0 && waiting + message.bytes.len() > buffer_bytes_max {
            return Sent::Full;
        }
        match channel.write(message.is_binary, &message.bytes) {
            Ok(true) => Sent::Queued,
            Ok(false) => Sent::Full,
            Err(error) => {
                tracing::debug!(%error, stream, bytes = message.bytes.len(), "a message was not sent");
                Sent::Refused
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn next_timeout(&self) -> Instant {
        self.next_timeout
    }

    pub fn handle_timeout(&mut self, now: Instant, send: &mut impl Send) -> Outcome {
        if let Err(error) = self.rtc.handle_input(Input::Timeout(now)) {
            tracing::debug!(%error, "the transport's timer failed");
        }
        self.drain(None, send)
    }

    /// Feeds a punted datagram.
    pub fn handle_datagram(
        &mut self,
        path: &Path,
        datagram: &[u8],
        now: Instant,
        send: &mut impl Send,
    ) -> Outcome {
        let mut verified = None;
        if let Some(message) = StunMessage::parse(datagram).ok().filter(StunMessage::is_binding_request) {
            if self.is_replayed(message.trans_id(), path) {
                return Outcome::default();
            }
            if self.checks.len() == CHECKS_MAX {
                self.checks.remove(0);
            }
            let (transaction, nominates) = (message.trans_id(), message.use_candidate());
            self.checks.push(Check { transaction, path: *path, nominates });
            if nominates {
                self.nomination = Some((*path, datagram.to_vec()));
            }
        } else if let Some(nominates) = self.confirmed(path, datagram) {
            self.remember(*path);
            if nominates {
                self.nominated = Some(*path);
            }
            verified = Some((*path, nominates));
        } else if self.expects_renewal && self.paths.contains(path) && begins_association(datagram) {
            self.renew(now);
        }
        self.feed(path, datagram, now);
        let mut outcome = self.drain(Some(*path), send);
        if outcome.closed && self.expects_renewal {
            self.renew(now);
            outcome = Outcome { closed: false, ..outcome };
        }
        outcome.verified = outcome.verified.or(verified);
        outcome
    }

    /// Whether a datagram is the peer's answer to a check of ours, from where that went; and if so, whether we
    /// nominated the path by it.
    fn confirmed(&mut self, path: &Path, datagram: &[u8]) -> Option<bool> {
        let message =
            StunMessage::parse(datagram).ok().filter(StunMessage::is_successful_binding_response)?;
        let is_answered =
            |asked: &Check| asked.transaction == message.trans_id() && asked.path.remote == path.remote;
        let at = self.asked.iter().position(is_answered)?;
        let hmac = keys::crypto_provider().sha1_hmac_provider;
        let password = self.peer.as_ref()?.credentials.password.as_bytes();
        if !message.verify(password, |key, parts| hmac.sha1_hmac(key, parts)) {
            return None;
        }
        Some(self.asked.remove(at)?.nominates)
    }

    /// Notes a check of ours that is about to leave.
    fn note_asked(&mut self, to: SocketAddr, datagram: &[u8]) {
        let Some(message) = StunMessage::parse(datagram).ok().filter(StunMessage::is_binding_request) else {
            return;
        };
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        let path = Path { remote: to, local: None };
        let (transaction, nominates) = (message.trans_id(), message.use_candidate());
        self.asked.push_back(Check { transaction, path, nominates });
    }

    /// Sends what str0m wants sent and gathers what has happened. `from` is the path of the datagram that
    /// was fed: what goes back to its sender leaves from where it came in.
    fn drain(&mut self, from: Option<Path>, send: &mut impl Send) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.next_timeout = at;
                    break;
                }
                Ok(Output::Transmit(transmit)) => {
                    self.transmit(transmit.destination, &transmit.contents, from, &mut outcome, send);
                }
                Ok(Output::Event(Event::Connected)) => {
                    self.is_connected = true;
                    outcome.connected = true;
                }
                Ok(Output::Event(event)) => self.note_channel(event),
                Err(error) => {
                    tracing::debug!(%error, "transport failed");
                    outcome.closed = true;
                    break;
                }
            }
        }
        self.note_opened();
        outcome.channels = std::mem::take(&mut self.channel_events);
        outcome.keys = self.keys.take().map(Box::new);
        outcome.closed |= !self.rtc.is_alive();
        outcome
    }

    fn note_channel(&mut self, event: Event) {
        match event {
            Event::ChannelData(data) => {
                if let Some(stream) = self.rtc.direct_api().sctp_stream_id_by_channel_id(data.id) {
                    let message = Message { is_binary: data.binary, bytes: data.data };
                    self.channel_events.push(ChannelEvent::Received(stream, message));
                }
            }
            Event::ChannelOpen(id, _) if self.server_events != Some(id) => {
                let stream = self.rtc.direct_api().sctp_stream_id_by_channel_id(id);
                if let Some(stream) = stream.filter(|stream| !self.channels.contains_key(stream)) {
                    self.channels.insert(stream, Channel { id, config: None, is_closing: false });
                    self.channel_events.push(ChannelEvent::Opened(stream));
                }
            }
            Event::ChannelClose(id) => {
                let stream = self.channels.iter().find(|(_, channel)| channel.id == id).map(|(s, _)| *s);
                if let Some(stream) = stream {
                    self.channels.remove(&stream);
                    self.opening.retain(|opening| *opening != stream);
                    self.channel_events.push(ChannelEvent::Closed(stream));
                }
            }
            _ => {}
        }
    }

    /// Looks which channels have opened: of one on which the peer spoke first, str0m reports nothing.
    fn note_opened(&mut self) {
        let Self { rtc, channels, opening, channel_events, .. } = self;
        opening.retain(|stream| {
            let Some(channel) = channels.get(stream) else { return false };
            if rtc.channel(channel.id).is_none() {
                return true;
            }
            if channel.is_closing {
                rtc.direct_api().close_data_channel(channel.id);
            } else {
                channel_events.push(ChannelEvent::Opened(*stream));
            }
            false
        });
    }

    fn transmit(
        &mut self,
        to: SocketAddr,
        datagram: &[u8],
        from: Option<Path>,
        outcome: &mut Outcome,
        send: &mut impl Send,
    ) {
        let kind = datagram.first().map_or(DatagramKind::Other, |&first| classify(first));
        if kind == DatagramKind::SrtpOrSrtcp {
            outcome.media_sent += 1;
            return;
        }
        if self.ice == Ice::Full {
            self.note_asked(to, datagram);
        }
        let check = self.answered_check(datagram);
        if let Some(Check { path, nominates, .. }) = check {
            self.remember(path);
            if nominates {
                self.nominated = Some(path);
            }
            outcome.verified = Some((path, nominates));
        }
        let path = match kind {
            DatagramKind::Dtls => from.filter(|path| self.paths.contains(path)).or(self.nominated),
            _ => check.map(|check| check.path).or(from).filter(|path| path.remote == to),
        };
        let path = path.or_else(|| self.path_to(to)).unwrap_or(Path { remote: to, local: None });
        send.send(&path, datagram);
    }

    /// Whether a check with this transaction id has been answered elsewhere. Without this, a check that was
    /// overheard and sent again from another address would take the session's media there: its message
    /// integrity holds, since the address is no part of it.
    fn is_replayed(&mut self, transaction: TransId, path: &Path) -> bool {
        if let Some((_, remote)) = self.seen.iter().find(|(known, _)| *known == transaction) {
            return *remote != path.remote;
        }
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((transaction, path.remote));
        false
    }

    /// The check that `datagram`, about to leave, is the answer to.
    fn answered_check(&mut self, datagram: &[u8]) -> Option<Check> {
        let message = StunMessage::parse(datagram).ok()?;
        let answers = message.is_successful_binding_response();
        let at = self.checks.iter().position(|check| answers && check.transaction == message.trans_id())?;
        Some(self.checks.remove(at))
    }

    fn path_to(&self, remote: SocketAddr) -> Option<Path> {
        self.paths.iter().find(|path| path.remote == remote).copied()
    }

    fn remember(&mut self, path: Path) {
        self.paths.retain(|known| known.remote != path.remote);
        if self.paths.len() == PATHS_MAX {
            self.paths.remove(0);
        }
        self.paths.push(path);
    }
}

fn build(
    certificate: &DtlsCert,
    ice: Ice,
    local: &Credentials,
    addresses: [SocketAddr; 2],
    keys: &KeySlot,
    now: Instant,
) -> Rtc {
    keys.claim_next();
    let creds = IceCreds { ufrag: local.ufrag.clone(), pass: local.password.clone() };
    let mut rtc = RtcConfig::new()
        .set_crypto_provider(keys::crypto_provider())
        .set_dtls_cert(certificate.clone())
        .set_local_ice_credentials(creds)
        .set_ice_lite(ice == Ice::Lite)
        .clear_codecs()
        .set_sctp_max_buffered_amount(SESSION_BUFFER_BYTES_MAX)
        .build(now);
    for address in addresses {
        let candidate = Candidate::host(address, Protocol::Udp).expect("a loopback address is a candidate");
        rtc.add_local_candidate(candidate);
    }
    rtc
}

/// Tells `rtc` whom to expect; `starting` DTLS, too, if it has not been.
fn introduce(rtc: &mut Rtc, peer: &Peer, starting: bool) -> Result<(), String> {
    let mut api = rtc.direct_api();
    api.set_remote_ice_credentials(IceCreds {
        ufrag: peer.credentials.ufrag.clone(),
        pass: peer.credentials.password.clone(),
    });
    if starting {
        api.set_ice_controlling(peer.we_control);
        api.set_remote_fingerprint(Fingerprint {
            hash_func: "sha-256".into(),
            bytes: peer.fingerprint.clone(),
        });
        api.start_dtls(peer.we_are_client).map_err(|error| error.to_string())?;
    }
    let candidates = peer.candidates.iter().filter_map(|text| candidate(text));
    candidates.for_each(|candidate| rtc.add_remote_candidate(candidate));
    Ok(())
}

/// A candidate that we can check: over UDP, at an address. Browsers may give a name for theirs.
fn candidate(text: &str) -> Option<Candidate> {
    Candidate::from_sdp_string(text).ok().filter(|candidate| candidate.proto() == Protocol::Udp)
}

/// Where a candidate of a description is, if we can check it.
pub fn candidate_address(text: &str) -> Option<SocketAddr> {
    candidate(text).map(|candidate| candidate.addr())
}

/// Starts SCTP. `start_sctp` of str0m knows no limit of the peer's and keeps to 64 KiB. A description would
/// tell it, so it is shown one of the peer as it is already known, with nothing but data channels.
fn begin_sctp(rtc: &mut Rtc, peer: &Peer, message_bytes_max: u32) {
    let Peer { credentials: Credentials { ufrag, password }, fingerprint, we_are_client, .. } = peer;
    let fingerprint: Vec<_> = fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
    let setup = if *we_are_client { "passive" } else { "active" };
    let sdp = [
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n".to_owned(),
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n".to_owned(),
        format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\n"),
        format!("a=fingerprint:sha-256 {}\r\na=setup:{setup}\r\n", fingerprint.join(":")),
        format!("a=mid:0\r\na=sctp-port:5000\r\na=max-message-size:{message_bytes_max}\r\n"),
    ];
    let offer = SdpOffer::from_sdp_string(&sdp.concat()).map_err(|error| error.to_string());
    let shown = offer.and_then(|offer| rtc.sdp_api().accept_offer(offer).map_err(|error| error.to_string()));
    if let Err(problem) = shown {
        tracing::warn!(problem, "messages to a peer are limited to 64 KiB");
        rtc.direct_api().start_sctp(*we_are_client);
    }
    // Whoever takes an offer is controlled, str0m thinks.
    rtc.direct_api().set_ice_controlling(peer.we_control);
}

/// Whether a datagram is a ClientHello in the clear (RFC 6347 §4.3.1: type 22, epoch 0; §4.3.2: message 1).
fn begins_association(datagram: &[u8]) -> bool {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    let byte = |at: usize| datagram.get(at).copied();
    byte(0) == Some(HANDSHAKE) && byte(3) == Some(0) && byte(4) == Some(0) && byte(13) == Some(CLIENT_HELLO)
}

/// The ufrag of ours that a connectivity check names, if the datagram is one.
pub fn named_ufrag(datagram: &[u8]) -> Option<String> {
    let message = StunMessage::parse(datagram).ok()?;
    let (ours, _) = message.split_username().filter(|_| message.is_binding_request())?;
    Some(ours.to_owned())
}
