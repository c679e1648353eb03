//! The client's end of a session's transport: connectivity checks and DTLS, until the SRTP keys are there; then
//! consent checks alone (RFC 7675).
//!
//! Lighter than an ICE agent, so that ten thousand fit on a core: the server is ICE-lite with an address that it
//! tells, so the client's whole part is to check that one path and nominate it (RFC 8445 §8.1.1). After the
//! handshake the DTLS state is let go: the last flight is the server's, nothing can be asked again.
//!
//! Relies on [`keys`] for DTLS with one configuration per process. Absent: ICE restarts, data channels, renewed
//! DTLS associations; a load generator's client joins once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use str0m::config::DtlsVersion;
use str0m::crypto::dtls::{DtlsInstance, DtlsOutput};
use str0m::ice::{StunMessage, TransId};

use crate::control::keys::{self, KeySlot};
use crate::control::transport::{Credentials, Identity};
use crate::rtp::demux::{DatagramKind, classify};
use crate::rtp::srtp::{Opener, Sealer};

/// The server, as its session description tells.
#[derive(Debug, Clone)]
pub struct Remote {
    pub address: SocketAddr,
    pub credentials: Credentials,
    /// SHA-256 of its certificate.
    pub fingerprint: Vec<u8>,
}

/// What a datagram or a timeout led to.
#[derive(Default)]
pub struct Outcome {
    pub keys: Option<(Sealer, Opener)>,
    /// The transport cannot come up, or is gone.
    pub failed: Option<String>,
}

pub struct Transport {
    remote: Remote,
    /// `remote:local` ufrags, as checks name them (RFC 8445 §7.2.2).
    username: String,
    stage: Stage,
    next_check: Instant,
    last_answer: Instant,
}

enum Stage {
    /// No check has been answered.
    Checking,
    Handshaking(Box<Handshake>),
    Connected,
}

struct Handshake {
    dtls: Box<dyn DtlsInstance>,
    keys: KeySlot,
    next_timeout: Instant,
    is_authentic: bool,
}

/// Between checks of a path that has not answered: RFC 8445 §14.3 wants 500 ms at least between repetitions.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// RFC 7675 §5.1: on average 5 s between consent checks.
const CONSENT_INTERVAL: Duration = Duration::from_secs(5);

/// RFC 7675 §5.1: consent that is this old has expired. Also how long a connection may take to come up.
const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The priority of a host candidate of the first component (RFC 8445 §5.1.2.1).
const PRIORITY: u32 = (126 << 24) | (65_535 << 8) | 255;

/// A check with its attributes is about 150 bytes.
const CHECK_BYTES_MAX: usize = 512;

/// A DTLS record as `dimpl` cuts them fits an MTU.
const RECORD_BYTES_MAX: usize = 2_048;

impl Transport {
    pub fn new(remote: Remote, local: &Credentials, now: Instant) -> Self {
        let username = format!("{}:{}", remote.credentials.ufrag, local.ufrag);
        Self { remote, username, stage: Stage::Checking, next_check: now, last_answer: now }
    }

    pub fn remote_address(&self) -> SocketAddr {
        self.remote.address
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn next_timeout(&self) -> Instant {
        match &self.stage {
            Stage::Handshaking(handshake) => handshake.next_timeout.min(self.next_check),
            Stage::Checking | Stage::Connected => self.next_check,
        }
    }

    pub fn handle_timeout(&mut self, now: Instant, send: &mut impl FnMut(&[u8])) -> Outcome {
        if now.saturating_duration_since(self.last_answer) > CONSENT_TIMEOUT {
            return Outcome::failed("no connectivity check was answered for 30 s");
        }
        if now >= self.next_check {
            self.check(send);
            let is_up = matches!(self.stage, Stage::Connected);
            self.next_check = now + if is_up { CONSENT_INTERVAL } else { CHECK_INTERVAL };
        }
        match &mut self.stage {
            Stage::Handshaking(handshake) if now >= handshake.next_timeout => {
                if let Err(error) = handshake.dtls.handle_timeout(now) {
                    return Outcome::failed(&format!("DTLS: {error}"));
                }
                self.advance(send)
            }
            _ => Outcome::default(),
        }
    }

    /// Takes a datagram that is not SRTP.
    pub fn handle_datagram(
        &mut self,
        identity: &Identity,
        datagram: &[u8],
        now: Instant,
        send: &mut impl FnMut(&[u8]),
    ) -> Outcome {
        match (datagram.first().map(|first| classify(*first)), &mut self.stage) {
            (Some(DatagramKind::Stun), _) => self.answered(identity, datagram, now, send),
            (Some(DatagramKind::Dtls), Stage::Handshaking(handshake)) => {
                match handshake.dtls.handle_packet(datagram) {
                    Ok(()) => self.advance(send),
                    Err(error) => Outcome::failed(&format!("DTLS: {error}")),
                }
            }
            (Some(DatagramKind::Dtls), Stage::Connected) if is_alert(datagram) => {
                Outcome::failed("the server said goodbye")
            }
            _ => Outcome::default(),
        }
    }

    fn check(&self, send: &mut impl FnMut(&[u8])) {
        let (controlling, nominates) = (true, true);
        let request =
            StunMessage::binding_request(&self.username, TransId::new(), controlling, 1, PRIORITY, nominates);
        let mut bytes = [0; CHECK_BYTES_MAX];
        let password = self.remote.credentials.password.as_bytes();
        if let Ok(len) = request.to_bytes(Some(password), &mut bytes, hmac_sha1) {
            send(&bytes[..len]);
        }
    }

    fn answered(
        &mut self,
        identity: &Identity,
        datagram: &[u8],
        now: Instant,
        send: &mut impl FnMut(&[u8]),
    ) -> Outcome {
        let Ok(message) = StunMessage::parse(datagram) else { return Outcome::default() };
        let password = self.remote.credentials.password.as_bytes();
        if !message.is_successful_binding_response() || !message.verify(password, hmac_sha1) {
            return Outcome::default();
        }
        self.last_answer = now;
        if !matches!(self.stage, Stage::Checking) {
            return Outcome::default();
        }
        match Handshake::begin(identity, now) {
            Ok(handshake) => {
                self.stage = Stage::Handshaking(Box::new(handshake));
                self.advance(send)
            }
            Err(problem) => Outcome::failed(&problem),
        }
    }

    /// Sends what DTLS wants sent, and ends the handshake if it is done.
    fn advance(&mut self, send: &mut impl FnMut(&[u8])) -> Outcome {
        let Stage::Handshaking(handshake) = &mut self.stage else { return Outcome::default() };
        if let Err(problem) = handshake.drain(&self.remote.fingerprint, send) {
            return Outcome::failed(&problem);
        }
        let keys = handshake.keys.take();
        if keys.is_some() {
            if !handshake.is_authentic {
                return Outcome::failed("the server's certificate is not the one of its description");
            }
            self.stage = Stage::Connected;
        }
        Outcome { keys, failed: None }
    }
}

impl Handshake {
    /// As the client: servers offer `actpass` and answer `passive`.
    fn begin(identity: &Identity, now: Instant) -> Result<Self, String> {
        let keys = KeySlot::default();
        keys.claim_next();
        let provider = keys::crypto_provider().dtls_provider;
        let dtls = provider.new_dtls(identity.certificate(), now, DtlsVersion::Dtls12, None);
        let mut dtls = dtls.map_err(|error| format!("DTLS: {error}"))?;
        dtls.set_active(true);
        dtls.handle_timeout(now).map_err(|error| format!("DTLS: {error}"))?;
        Ok(Self { dtls, keys, next_timeout: now, is_authentic: false })
    }

    fn drain(&mut self, fingerprint: &[u8], send: &mut impl FnMut(&[u8])) -> Result<(), String> {
        let mut record = [0; RECORD_BYTES_MAX];
        loop {
            match self.dtls.poll_output(&mut record) {
                DtlsOutput::Packet(packet) => send(packet),
                DtlsOutput::PeerCert(certificate) => {
                    let digest = keys::crypto_provider().sha256_provider.sha256(certificate);
                    self.is_authentic = digest[..] == *fingerprint;
                }
                DtlsOutput::Timeout(at) => {
                    self.next_timeout = at;
                    return Ok(());
                }
                DtlsOutput::BufferTooSmall { needed } => {
                    return Err(format!("DTLS wants to send a record of {needed} bytes"));
                }
                DtlsOutput::CloseNotify => return Err("the server said goodbye".into()),
                _ => {}
            }
        }
    }
}

impl Outcome {
    fn failed(problem: &str) -> Self {
        Self { keys: None, failed: Some(problem.to_owned()) }
    }
}

fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    keys::crypto_provider().sha1_hmac_provider.sha1_hmac(key, parts)
}

/// Content type 21 (RFC 5246 §6.2.1). Encrypted or not, after the handshake it can only mean the end.
fn is_alert(record: &[u8]) -> bool {
    record.first() == Some(&21)
}
