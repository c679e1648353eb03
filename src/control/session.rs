//! One API session: its transport, its descriptions, what it publishes and what it pulls.
//!
//! A session is made without a client, negotiated by one, connected by ICE and DTLS, and ends 30 s after
//! it should have been connected or was last seen. Verbs that change it wait for their turn, one by one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngCore;
use tokio::sync::{Mutex, Notify};

use crate::control::request::{AppId, ErrorCode, RequestError, Simulcast};
use crate::control::transport::{self, Credentials, Ice, Peer, Transport};
use crate::id::{LegId, Mid, SessionId, SessionSlot, ShardId, TrackKey};
use crate::io::Path;
use crate::sdp::{
    self, DtlsRole, HashAlgorithm, Intent, LineKind, LineState, LocalTransport, Negotiation, Remote,
    RemoteLine,
};

/// Which session an address belongs to, per shard: ICE has verified it, or it is where we check.
pub type Remotes = HashMap<(ShardId, SocketAddr), SessionId>;

/// Verified paths that control remembers having told the shard of.
const PATHS_MAX: usize = 16;

pub struct Session {
    pub id: SessionId,
    pub app: AppId,
    pub shard: ShardId,
    pub slot: SessionSlot,
    pub transport: Transport,
    pub credentials: Credentials,
    pub negotiation: Negotiation,
    pub connected: bool,
    /// When its transport's live entry among the deadlines is due.
    pub deadline: Option<Instant>,
    pub made: Instant,
    /// When it was made, or its transport renewed: what a client that never comes is measured from.
    pub began: Instant,
    /// The last connectivity check that was verified.
    pub last_check: Option<Instant>,
    pub offered_at: Option<Instant>,
    /// The offer that is out asks for data channels; they begin with one of ours.
    pub offers_server_events: bool,
    /// The BUNDLE tag of the last exchange.
    bundle_tag: Option<Mid>,
    /// Verbs that change the session hold this, so that one offer/answer runs at a time.
    pub turn: Arc<Mutex<()>>,
    /// Told when the session connects or ends.
    pub changed: Rc<Notify>,
    pub published: Vec<Published>,
    /// Tracks that the client will publish by its answer to our offer.
    pub offered: Vec<(Mid, String)>,
    pub pulled: Vec<Pulled>,
    /// Candidates of the peer's that we check.
    candidates: Vec<SocketAddr>,
    /// Verified paths, and which one the peer nominated.
    paths: Vec<Path>,
    nominated: Option<Path>,
}

/// A track that the client publishes, or did: a closed one stays listed as inactive.
#[derive(Debug, Clone)]
pub struct Published {
    pub mid: Mid,
    pub name: String,
    /// `None` once closed.
    pub track: Option<TrackKey>,
}

/// A track that the client pulls, or did.
#[derive(Debug, Clone)]
pub struct Pulled {
    pub mid: Mid,
    pub track: TrackKey,
    pub session: SessionId,
    pub name: String,
    /// Which of its encodings are wanted.
    pub simulcast: Simulcast,
    pub leg: LegState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegState {
    /// In an offer of ours that waits for its answer.
    Offered,
    Flowing(LegId),
    Closed,
}

impl Session {
    pub fn new(
        id: SessionId,
        app: AppId,
        place: (ShardId, SessionSlot),
        transport: Transport,
        credentials: Credentials,
        negotiation: Negotiation,
        now: Instant,
    ) -> Self {
        Self {
            id,
            app,
            shard: place.0,
            slot: place.1,
            transport,
            credentials,
            negotiation,
            connected: false,
            deadline: None,
            made: now,
            began: now,
            last_check: None,
            offered_at: None,
            offers_server_events: false,
            bundle_tag: None,
            turn: Arc::default(),
            changed: Rc::default(),
            published: Vec::new(),
            offered: Vec::new(),
            pulled: Vec::new(),
            candidates: Vec::new(),
            paths: Vec::new(),
            nominated: None,
        }
    }

    /// Whether a description has been exchanged, so that a transport is up or coming.
    pub fn is_negotiated(&self) -> bool {
        self.transport.peer().is_some()
    }

    /// Whether both sides have agreed on a section for data channels.
    pub fn has_data_channels(&self) -> bool {
        let is_section =
            |line: &sdp::Line| line.kind == LineKind::Application && line.state == LineState::Live;
        self.transport.has_sctp() && self.negotiation.lines().iter().any(is_section)
    }

    /// Whether the client has stopped every m-line: it has thrown its transport away with them, and what it
    /// negotiates next needs another one.
    pub fn has_lost_its_transport(&self) -> bool {
        let lines = self.negotiation.lines();
        self.is_negotiated() && !lines.is_empty() && lines.iter().all(|l| l.state == LineState::Closed)
    }

    /// Why it is over, if it is.
    pub fn expiry(
        &self,
        now: Instant,
        never_connected: Duration,
        connectivity: Duration,
    ) -> Option<&'static str> {
        match self.last_check {
            Some(last) if self.connected => (now >= last + connectivity).then_some("connectivity lost"),
            _ => (now >= self.began + never_connected).then_some("never connected"),
        }
    }

    pub fn published_as(&self, name: &str) -> Option<&Published> {
        self.published.iter().find(|published| published.name == name && published.track.is_some())
    }

    pub fn published_on(&self, mid: Mid) -> Option<&Published> {
        self.published.iter().find(|published| published.mid == mid && published.track.is_some())
    }

    pub fn pulled_on(&self, mid: Mid) -> Option<&Pulled> {
        self.pulled.iter().find(|pulled| pulled.mid == mid && pulled.leg != LegState::Closed)
    }

    /// Notes a verified path. Returns whether the shard must be told, and which path gives way to it.
    pub fn verify(&mut self, path: Path, nominates: bool, now: Instant) -> (bool, Option<Path>) {
        self.last_check = Some(now);
        let moved = nominates && self.nominated != Some(path);
        if moved {
            self.nominated = Some(path);
        }
        if self.paths.contains(&path) {
            return (moved, None);
        }
        let oldest = (self.paths.len() == PATHS_MAX).then(|| self.paths.remove(0));
        self.paths.push(path);
        (true, oldest)
    }

    /// The m-line that a request means: by its mid, or by `#` and the name of the track on it.
    pub fn mid_meant(&self, text: &str) -> Option<Mid> {
        let Some(name) = text.strip_prefix('#') else { return text.parse().ok() };
        let is_pulled = |pulled: &&Pulled| pulled.name == name && pulled.leg != LegState::Closed;
        let published = self.published_as(name).map(|published| published.mid);
        published.or_else(|| self.pulled.iter().find(is_pulled).map(|pulled| pulled.mid))
    }

    /// Like [`mid_meant`](Self::mid_meant), if there is an m-line of that mid.
    pub fn line_meant(&self, text: &str) -> Option<Mid> {
        self.mid_meant(text).filter(|mid| self.negotiation.line(*mid).is_some())
    }

    /// Takes the addresses of the session off the books.
    pub fn forget_remotes(&self, remotes: &mut Remotes) {
        let verified = self.paths.iter().map(|path| path.remote);
        for remote in verified.chain(self.candidates.iter().copied()) {
            if remotes.get(&(self.shard, remote)) == Some(&self.id) {
                remotes.remove(&(self.shard, remote));
            }
        }
    }

    /// An offer of ours goes out.
    pub fn note_offer(&mut self, now: Instant) {
        self.follow_bundle_tag();
        self.offered_at = Some(now);
    }

    /// Our offer is not answered.
    pub fn abandon_offer(&mut self) {
        self.offered_at = None;
        self.offers_server_events = false;
        self.negotiation.abandon_offer();
        self.offered.clear();
        self.pulled.retain(|pulled| pulled.leg != LegState::Offered);
    }

    /// Takes the client's offer, or nothing of it, and returns our answer.
    pub fn answer(
        &mut self,
        offer: &Remote,
        intents: &[(Mid, Intent)],
        remotes: &mut Remotes,
    ) -> Result<String, RequestError> {
        let identity = self.identity(offer, remotes)?;
        let sdp = self.negotiation.answer(offer, intents)?;
        self.meet(identity, offer, remotes)?;
        Ok(sdp)
    }

    /// Takes the client's answer to our offer, or nothing of it.
    pub fn apply_answer(&mut self, answer: &Remote, remotes: &mut Remotes) -> Result<(), RequestError> {
        let identity = self.identity(answer, remotes)?;
        self.negotiation.apply_answer(answer)?;
        self.meet(identity, answer, remotes)
    }

    /// Whom the description is from. `None` if it stops every m-line: then it tells nothing of a transport.
    fn identity(&self, remote: &Remote, remotes: &Remotes) -> Result<Option<PeerIdentity>, RequestError> {
        let unusable = |problem: &str| RequestError::new(ErrorCode::InvalidSessionDescription, problem);
        let Some((ufrag, password)) = remote.ice() else {
            return if self.is_negotiated() {
                Ok(None)
            } else {
                Err(unusable("the description has no live m-line"))
            };
        };
        let fingerprint =
            remote.fingerprints().iter().find(|f| f.algorithm == HashAlgorithm::Sha256).ok_or_else(|| {
                unusable(
                    "the description has no sha-256 fingerprint: add one, every DTLS library can make it",
                )
            })?;
        let credentials = Credentials { ufrag: ufrag.to_owned(), password: password.to_owned() };
        let candidates = match self.transport.ice() {
            Ice::Lite => Vec::new(),
            Ice::Full => self.candidates_of(remote, remotes)?,
        };
        Ok(Some(PeerIdentity { credentials, fingerprint: fingerprint.bytes.clone(), candidates }))
    }

    /// Where we shall check. Two sessions of one UDP port cannot check the same address: neither side could
    /// tell their media apart.
    fn candidates_of(&self, remote: &Remote, remotes: &Remotes) -> Result<Vec<String>, RequestError> {
        let unusable =
            |problem: String| Err(RequestError::new(ErrorCode::InvalidSessionDescription, problem));
        let all = remote.candidates().iter();
        let reachable = all.filter_map(|text| Some((transport::candidate_address(text)?, text)));
        let reachable: Vec<_> = reachable.collect();
        if reachable.is_empty() && remote.is_ice_lite() {
            return unusable(
                "the description is of an ICE-lite peer, which waits for checks, and has no UDP candidate to \
                 check; post it with its candidates"
                    .to_owned(),
            );
        }
        let is_free = |(address, _): &&(SocketAddr, &String)| {
            remotes.get(&(self.shard, *address)).is_none_or(|session| *session == self.id)
        };
        let free: Vec<_> = reachable.iter().filter(is_free).map(|(_, text)| (*text).clone()).collect();
        match reachable.first().filter(|_| free.is_empty()) {
            Some((address, _)) => unusable(format!(
                "another session of the same UDP port is connected to {address}; make a new session, which \
                 may come to another port, or end the other one"
            )),
            None => Ok(free),
        }
    }

    /// Starts the transport towards the peer, or renews its credentials.
    fn meet(
        &mut self,
        identity: Option<PeerIdentity>,
        remote: &Remote,
        remotes: &mut Remotes,
    ) -> Result<(), RequestError> {
        let Some(PeerIdentity { credentials, fingerprint, candidates }) = identity else {
            self.bundle_tag = None;
            return Ok(());
        };
        for address in candidates.iter().filter_map(|text| transport::candidate_address(text)) {
            remotes.insert((self.shard, address), self.id);
            if !self.candidates.contains(&address) {
                self.candidates.push(address);
            }
        }
        let we_are_client = self.negotiation.dtls_role() == Some(DtlsRole::Active);
        let peer =
            Peer { credentials, fingerprint, we_are_client, we_control: self.controls(remote), candidates };
        if self.transport.peer() != Some(&peer) {
            self.transport.set_peer(peer).map_err(|problem| {
                let text = format!("DTLS could not start: {problem}");
                RequestError::new(ErrorCode::InternalError, text)
            })?;
        }
        let channels = |line: &&RemoteLine| line.kind == LineKind::Application && !line.rejected;
        if let Some(line) = remote.lines().iter().find(channels) {
            self.transport.start_sctp(message_bytes_max(line.max_message_size));
        }
        self.follow_bundle_tag();
        Ok(())
    }

    /// Who makes the first offer controls, unless one side is lite: then the other does (RFC 8445 §6.1.1).
    fn controls(&self, remote: &Remote) -> bool {
        let by_role = || remote.is_ice_lite() || remote.is_answer();
        self.transport.ice() == Ice::Full
            && self.transport.peer().map_or_else(by_role, |peer| peer.we_control)
    }

    /// Notes which m-line carries the transport since the last description, ours or the client's.
    pub fn follow_bundle_tag(&mut self) {
        let tag = self.negotiation.bundle_tag();
        if self.bundle_tag.is_some() && tag != self.bundle_tag {
            self.transport.expect_renewal();
        }
        self.bundle_tag = tag;
    }
}

/// The largest data channel message that a client takes, from what its description says (RFC 8841 §6).
fn message_bytes_max(told: Option<u64>) -> u32 {
    match told {
        None => 65_536,
        Some(0) => sdp::MESSAGE_SIZE_MAX,
        Some(bytes) => u32::try_from(bytes).unwrap_or(u32::MAX).min(sdp::MESSAGE_SIZE_MAX),
    }
}

/// A peer before its DTLS role is settled.
struct PeerIdentity {
    credentials: Credentials,
    /// SHA-256 of its certificate.
    fingerprint: Vec<u8>,
    candidates: Vec<String>,
}

/// ICE credentials whose ufrag tells the session's place, so that its first check finds it without a search.
pub fn credentials(place: (ShardId, SessionSlot), rng: &mut impl RngCore) -> Credentials {
    let mut password = [0; 16];
    rng.fill_bytes(&mut password);
    let (ShardId(shard), SessionSlot(slot)) = place;
    Credentials {
        ufrag: format!("{shard:04x}{slot:08x}{:08x}", rng.next_u32()),
        password: password.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// The place that a ufrag of ours tells.
pub fn place_of(ufrag: &str) -> Option<(ShardId, SessionSlot)> {
    let shard = u16::from_str_radix(ufrag.get(..4)?, 16).ok()?;
    let slot = u32::from_str_radix(ufrag.get(4..12)?, 16).ok()?;
    Some((ShardId(shard), SessionSlot(slot)))
}

/// Our side of the transport as descriptions tell it.
pub fn local_transport(
    credentials: &Credentials,
    fingerprint: &str,
    addresses: &[std::net::IpAddr],
    port: u16,
    ice: Ice,
) -> LocalTransport {
    LocalTransport {
        ufrag: credentials.ufrag.clone(),
        pwd: credentials.password.clone(),
        fingerprint: fingerprint.to_owned(),
        candidates: addresses.iter().map(|&ip| (ip, port).into()).collect(),
        ice_lite: ice == Ice::Lite,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_ufrag_tells_the_place_it_was_made_for() {
        let place = (ShardId(3), SessionSlot(70_000));
        let made = credentials(place, &mut rand::rngs::StdRng::seed_from_u64(1));
        assert_eq!(place_of(&made.ufrag), Some(place));
        assert_eq!(made.password.len(), 32);
        for foreign in ["", "abcd", "zzzz00000000", "ééééééé"] {
            assert_eq!(place_of(foreign), None, "{foreign:?}");
        }
    }
}
