//! ICE-lite, DTLS and SCTP of one session: the only file, with `keys`, that names str0m.
//!
//! The `Rtc` inside is told its credentials and fingerprints directly and never any media, so it emits STUN
//! and DTLS and nothing else. Should it ever emit SRTP or SRTCP, that would put a second sender under the
//! shard's keys: it is dropped and reported as a bug.
//!
//! str0m pairs addresses; we keep the real ones. It is shown one local candidate per address family,
//! whatever the address a datagram reached, and what it answers leaves from where the peer's datagram came
//! in. A host with many addresses, or behind a 1:1 NAT, needs no more than that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use str0m::config::{DtlsCert, Fingerprint};
use str0m::ice::{StunMessage, TransId};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc, RtcConfig};

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

/// The peer, as its session description tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub credentials: Credentials,
    /// SHA-256 of its certificate.
    pub fingerprint: Vec<u8>,
    /// Whether we begin the DTLS handshake.
    pub we_are_client: bool,
}

/// What a datagram or a timeout led to.
#[derive(Default)]
pub struct Outcome {
    /// A connectivity check from this path was verified; the flag tells whether the peer nominates it.
    pub verified: Option<(Path, bool)>,
    pub keys: Option<Box<(Sealer, Opener)>>,
    pub connected: bool,
    /// The peer said goodbye, or the handshake failed for good.
    pub closed: bool,
    /// The transport tried to send SRTP or SRTCP by itself.
    pub media_sent: u64,
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
    local_v4: SocketAddr,
    local_v6: SocketAddr,
    /// Our own address towards each remote that ICE verified.
    paths: Vec<Path>,
    /// Connectivity checks that wait for their answer: one that comes before the peer's credentials is
    /// answered when they come.
    checks: Vec<Check>,
    peer: Option<Peer>,
    sctp_started: bool,
    next_timeout: Instant,
}

/// A connectivity check as it came. An answer with its transaction id proves that it was verified.
#[derive(Clone, Copy)]
struct Check {
    transaction: TransId,
    path: Path,
    nominates: bool,
}

/// Remote addresses one session may be verified from; the oldest gives way.
const PATHS_MAX: usize = 16;

/// Checks that may wait for an answer at a time; the oldest gives way. Clients repeat theirs.
const CHECKS_MAX: usize = 16;

impl Identity {
    /// `None` if the crypto library cannot make a certificate.
    pub fn generate() -> Option<Self> {
        let certificate = keys::certificate()?;
        let provider = keys::crypto_provider();
        let digest = provider.sha256_provider.sha256(&certificate.certificate);
        let hex: Vec<_> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        Some(Self { certificate, fingerprint: format!("sha-256 {}", hex.join(":")) })
    }
}

impl Transport {
    /// A transport that waits for the peer's checks. `port` is the UDP port of the session's shard.
    pub fn new(identity: &Identity, local: &Credentials, port: u16, now: Instant) -> Self {
        let keys = KeySlot::default();
        keys.claim_next();
        let creds = IceCreds { ufrag: local.ufrag.clone(), pass: local.password.clone() };
        let mut rtc = RtcConfig::new()
            .set_crypto_provider(keys::crypto_provider())
            .set_dtls_cert(identity.certificate.clone())
            .set_local_ice_credentials(creds)
            .set_ice_lite(true)
            .clear_codecs()
            .build(now);
        let local_v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let local_v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
        for address in [local_v4, local_v6] {
            let candidate =
                Candidate::host(address, Protocol::Udp).expect("a loopback address is a candidate");
            rtc.add_local_candidate(candidate);
        }
        Self {
            rtc,
            keys,
            local_v4,
            local_v6,
            paths: Vec::new(),
            checks: Vec::new(),
            peer: None,
            sctp_started: false,
            next_timeout: now,
        }
    }

    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Tells the transport whom to expect. The first call starts DTLS; later ones only renew credentials.
    ///
    /// # Errors
    /// What DTLS says if it cannot start, for the log.
    pub fn set_peer(&mut self, peer: Peer) -> Result<(), String> {
        let starting = self.peer.is_none();
        let mut api = self.rtc.direct_api();
        api.set_remote_ice_credentials(IceCreds {
            ufrag: peer.credentials.ufrag.clone(),
            pass: peer.credentials.password.clone(),
        });
        if starting {
            let fingerprint = Fingerprint { hash_func: "sha-256".into(), bytes: peer.fingerprint.clone() };
            api.set_remote_fingerprint(fingerprint);
            api.start_dtls(peer.we_are_client).map_err(|error| error.to_string())?;
        }
        self.peer = Some(peer);
        Ok(())
    }

    /// Starts SCTP over DTLS, once; the peer opens the association.
    pub fn start_sctp(&mut self) {
        if !std::mem::replace(&mut self.sctp_started, true) {
            self.rtc.direct_api().start_sctp(false);
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
        let local = if path.remote.is_ipv4() { self.local_v4 } else { self.local_v6 };
        let Ok(receive) = Receive::new(Protocol::Udp, path.remote, local, datagram) else {
            return Outcome::default();
        };
        if let Some(message) = StunMessage::parse(datagram).ok().filter(StunMessage::is_binding_request) {
            if self.checks.len() == CHECKS_MAX {
                self.checks.remove(0);
            }
            let (transaction, nominates) = (message.trans_id(), message.use_candidate());
            self.checks.push(Check { transaction, path: *path, nominates });
        }
        // What cannot be taken is the sender's fault, and anybody can send it: it must not end the session.
        if let Err(error) = self.rtc.handle_input(Input::Receive(now, receive)) {
            tracing::debug!(%error, "a datagram was refused");
        }
        self.drain(Some(*path), send)
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
                Ok(Output::Event(Event::Connected)) => outcome.connected = true,
                Ok(Output::Event(_)) => {}
                Err(error) => {
                    tracing::debug!(%error, "transport failed");
                    outcome.closed = true;
                    break;
                }
            }
        }
        outcome.keys = self.keys.take().map(Box::new);
        outcome.closed |= !self.rtc.is_alive();
        outcome
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
        let check = self.answered_check(datagram);
        if let Some(Check { path, nominates, .. }) = check {
            self.remember(path);
            outcome.verified = Some((path, nominates));
        }
        let path = check.map(|check| check.path).or(from).filter(|path| path.remote == to);
        let path = path.or_else(|| self.path_to(to)).unwrap_or(Path { remote: to, local: None });
        send.send(&path, datagram);
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

/// The ufrag of ours that a connectivity check names, if the datagram is one.
pub fn named_ufrag(datagram: &[u8]) -> Option<String> {
    let message = StunMessage::parse(datagram).ok()?;
    let (ours, _) = message.split_username().filter(|_| message.is_binding_request())?;
    Some(ours.to_owned())
}
