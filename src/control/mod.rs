//! The control plane: one thread that serves the API's verbs, owns every session's state machine, and runs
//! ICE, DTLS and SCTP for all of them.
//!
//! Everything here is single-threaded: state sits behind one `RefCell` that is never borrowed across an
//! await. A verb is an async function that may wait for a shard's acknowledgement, for a publisher's first
//! packet or for a transport to connect, while others go on.
//!
//! Reading order: `request` is the door, `verbs` what is done for each, `session` and `tracks` what is
//! known, `shards` the way to the data plane, `transport` and `keys` what hides str0m.

pub mod datachannels;
pub(crate) mod keys;
mod media;
pub mod request;
mod session;
pub mod shards;
mod tracks;
pub mod transport;
mod verbs;
mod wake;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::control::datachannels::{Act, ChannelEvent, DataChannels};
use crate::control::request::{Census, Request};
use crate::control::session::{LegState, Remotes, Session, place_of};
use crate::control::shards::{Placement, ShardLink, Shards};
use crate::control::tracks::Tracks;
use crate::control::transport::{Identity, Outcome, Sent};
use crate::id::{LegId, SessionId, ShardId};
use crate::io::Path;
use crate::io::bell::Bell;
use crate::shard::command::{Command, Event};
use crate::shard::punt;
use crate::stats::Snapshots;
use crate::table;
use crate::time::Clock;

/// How often sessions are looked over for what has expired.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Transports have nothing to do most of the time and still want to be called every few seconds, each at a moment of its
/// own. What is at least this far away is put off to the next common moment, of which there are ten a second, so that the
/// timers of a thousand sessions wake the thread together.
const COARSE_FROM: Duration = Duration::from_secs(1);
const COARSE_GRID: Duration = Duration::from_millis(100);

/// Datagrams and events of one shard that are handled before other work gets a turn.
const NEWS_PER_PUMP_MAX: usize = 256;

/// What control is told at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses that clients are told to send to, the preferred first.
    pub advertise: Vec<IpAddr>,
    pub never_connected_timeout: Duration,
    pub connectivity_timeout: Duration,
    /// How long a verb waits for its session's transport.
    pub connect_wait: Duration,
    /// How long a pull waits for its track's first packet.
    pub pull_wait: Duration,
    /// How long an offer of ours may stay unanswered.
    pub offer_timeout: Duration,
    /// How long a data channel that waits for its subscriber's first message may wait.
    pub ack_timeout: Duration,
    /// How shards are chosen for new sessions.
    pub placement: Placement,
    pub sessions_max: usize,
    pub tracks_max: u32,
}

pub struct Control {
    settings: Settings,
    identity: Identity,
    snapshots: Arc<Snapshots>,
    state: RefCell<State>,
}

/// Everything that changes.
struct State {
    rng: StdRng,
    shards: Shards,
    sessions: HashMap<SessionId, Session>,
    remotes: Remotes,
    tracks: Tracks,
    channels: DataChannels,
    /// What transports have reported of data channels and nobody has looked at.
    channel_news: VecDeque<(SessionId, ChannelEvent)>,
    table: table::Writer,
    next_leg: u32,
    /// Where the grid of coarse deadlines begins.
    started: Instant,
    /// When each transport wants to be called. Entries that its session has moved on from are stale.
    deadlines: BinaryHeap<Reverse<(Instant, SessionId)>>,
    /// Sessions whose end has begun.
    ended: Vec<(SessionId, &'static str)>,
    transport_media_dropped: u64,
}

impl Control {
    pub fn new(
        settings: Settings,
        identity: Identity,
        links: Vec<ShardLink>,
        table: table::Writer,
        snapshots: Arc<Snapshots>,
        rng: StdRng,
    ) -> Rc<Self> {
        let state = State {
            rng,
            shards: Shards::new(links, settings.placement),
            sessions: HashMap::new(),
            remotes: Remotes::new(),
            tracks: Tracks::default(),
            channels: DataChannels::new(settings.ack_timeout),
            channel_news: VecDeque::new(),
            table,
            next_leg: 0,
            started: Clock::runtime_instant(),
            deadlines: BinaryHeap::new(),
            ended: Vec::new(),
            transport_media_dropped: 0,
        };
        Rc::new(Self { settings, identity, snapshots, state: RefCell::new(state) })
    }

    /// Serves until `stop` resolves or every sender of requests is gone, then stops the shards. Must run
    /// inside a `LocalSet`.
    pub async fn run(
        self: Rc<Self>,
        mut requests: mpsc::Receiver<Request>,
        bell: Bell,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let bell = wake::watch(bell)?;
        let mut stop = std::pin::pin!(stop);
        let mut sweep_at = Clock::runtime_instant();
        loop {
            let more = self.pump();
            if Clock::runtime_instant() >= sweep_at {
                self.sweep();
                sweep_at = Clock::runtime_instant() + SWEEP_INTERVAL;
            }
            self.bury();
            if more {
                tokio::task::yield_now().await;
            }
            bell.get_ref().arm();
            let has_news = self.state.borrow().shards.has_news();
            let next = self.next_deadline().min(sweep_at);
            tokio::select! {
                biased;
                () = &mut stop => break,
                request = requests.recv() => match request {
                    Some(request) => drop(tokio::task::spawn_local(self.clone().serve(request))),
                    None => break,
                },
                () = std::future::ready(()), if has_news => {}
                readable = bell.readable() => readable?.clear_ready(),
                () = sleep_until(next.into()) => {}
            }
            bell.get_ref().disarm();
        }
        self.stop_shards();
        Ok(())
    }

    /// Takes what shards have said and what transports are due. Returns whether there is more.
    fn pump(self: &Rc<Self>) -> bool {
        let now = Clock::runtime_instant();
        let mut state = self.state.borrow_mut();
        let shards: Vec<_> = state.shards.ids().collect();
        for shard in shards {
            self.take_datagrams(&mut state, shard, now);
            self.take_events(&mut state, shard);
        }
        state.run_deadlines(now);
        state.run_channels(now);
        state.shards.publish_replies();
        state.shards.has_news()
    }

    fn take_datagrams(&self, state: &mut State, shard: ShardId, now: Instant) {
        for _ in 0..NEWS_PER_PUMP_MAX {
            let State { shards, sessions, remotes, .. } = &mut *state;
            let link = shards.link(shard);
            let Some(record) = link.punts.next() else { break };
            let Some((path, datagram)) = punt::read(record) else { continue };
            let named = transport::named_ufrag(datagram);
            let id = match &named {
                Some(ufrag) => place_of(ufrag).and_then(|(_, slot)| link.seating.session_at(slot)),
                None => remotes.get(&(shard, path.remote)).copied(),
            };
            let Some(session) = id.and_then(|id| sessions.get_mut(&id)) else { continue };
            if named.is_some_and(|ufrag| ufrag != session.credentials.ufrag) {
                continue;
            }
            let mut send = |path: &Path, bytes: &[u8]| shards::reply(&mut link.replies, path, bytes);
            let outcome = session.transport.handle_datagram(&path, datagram, now, &mut send);
            let id = session.id;
            state.apply(id, outcome, now);
        }
        state.shards.link(shard).punts.release();
    }

    fn take_events(self: &Rc<Self>, state: &mut State, shard: ShardId) {
        for _ in 0..NEWS_PER_PUMP_MAX {
            let Ok(event) = state.shards.link(shard).events.try_recv() else { break };
            match event {
                Event::Done(ack) => state.shards.done(ack),
                Event::TrackActive(track) => state.tracks.set_active(track, true),
                Event::TrackSilent(track) => {
                    tracing::debug!(?track, "no packets; closing the track");
                    tokio::task::spawn_local(self.clone().close_track(track));
                }
                Event::Loudness(track, loudness) => state.tracks.set_loudness(track, loudness),
                Event::Snapshot(snapshot) => self.snapshots.store(*snapshot),
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let far = Clock::runtime_instant() + SWEEP_INTERVAL;
        self.state.borrow().deadlines.peek().map_or(far, |Reverse((at, _))| *at)
    }

    /// Ends what has expired and rolls back offers that nobody answers.
    fn sweep(&self) {
        let now = Clock::runtime_instant();
        let settings = &self.settings;
        let mut state = self.state.borrow_mut();
        state.channels.expire(now);
        state.run_channels(now);
        let State { sessions, ended, .. } = &mut *state;
        for session in sessions.values_mut() {
            let expiry = session.expiry(now, settings.never_connected_timeout, settings.connectivity_timeout);
            if let Some(why) = expiry {
                ended.push((session.id, why));
            }
            if session.offered_at.is_some_and(|at| now >= at + settings.offer_timeout) {
                session.abandon_offer();
            }
        }
    }

    /// Begins the end of sessions that are over.
    fn bury(self: &Rc<Self>) {
        let ended = std::mem::take(&mut self.state.borrow_mut().ended);
        for (id, why) in ended {
            tokio::task::spawn_local(self.clone().end_session(id, why));
        }
    }

    fn stop_shards(&self) {
        let mut state = self.state.borrow_mut();
        for shard in state.shards.ids() {
            state.shards.tell(shard, Command::Stop);
        }
    }

    fn census(&self) -> Census {
        let state = self.state.borrow();
        let flowing = |session: &Session| {
            session.pulled.iter().filter(|pulled| matches!(pulled.leg, LegState::Flowing(_))).count() as u64
        };
        Census {
            sessions: state.sessions.len() as u64,
            sessions_connected: state.sessions.values().filter(|s| s.connected).count() as u64,
            tracks: state.tracks.len() as u64,
            subscriptions: state.sessions.values().map(flowing).sum(),
            transport_media_dropped: state.transport_media_dropped,
            data_channels: state.channels.live_count() as u64,
        }
    }
}

impl State {
    /// Calls the transports that are due.
    fn run_deadlines(&mut self, now: Instant) {
        while let Some(&Reverse((at, id))) = self.deadlines.peek() {
            if at > now {
                break;
            }
            self.deadlines.pop();
            let Self { shards, sessions, .. } = self;
            let Some(session) = sessions.get_mut(&id) else { continue };
            if session.deadline != Some(at) {
                continue;
            }
            session.deadline = None;
            let link = shards.link(session.shard);
            let mut send = |path: &Path, bytes: &[u8]| shards::reply(&mut link.replies, path, bytes);
            let outcome = session.transport.handle_timeout(now, &mut send);
            self.apply(id, outcome, now);
        }
    }

    /// Lets a transport speak after it was told something new.
    fn poke(&mut self, id: SessionId, now: Instant) {
        let Self { shards, sessions, .. } = self;
        let Some(session) = sessions.get_mut(&id) else { return };
        let link = shards.link(session.shard);
        let mut send = |path: &Path, bytes: &[u8]| shards::reply(&mut link.replies, path, bytes);
        let outcome = session.transport.handle_timeout(now, &mut send);
        self.apply(id, outcome, now);
        self.shards.publish_replies();
    }

    /// Passes on what has been said on data channels, and lets each transport that was told something speak
    /// once for all of it.
    fn run_channels(&mut self, now: Instant) {
        loop {
            while let Some((id, event)) = self.channel_news.pop_front() {
                if self.sessions.contains_key(&id) {
                    self.channels.take(id, event);
                }
            }
            let mut told = BTreeSet::new();
            while let Some(act) = self.channels.next_act() {
                told.insert(act.end().session);
                self.perform(act);
            }
            if told.is_empty() {
                break;
            }
            told.into_iter().for_each(|id| self.poke(id, now));
        }
    }

    fn perform(&mut self, act: Act) {
        let end = act.end();
        let Some(session) = self.sessions.get_mut(&end.session) else { return };
        match act {
            Act::Open { label, delivery, .. } => session.transport.open_channel(end.stream, label, delivery),
            Act::Close { .. } => session.transport.close_channel(end.stream),
            Act::Send { message, buffer_bytes_max, .. } => {
                if session.transport.send(end.stream, &message, buffer_bytes_max) == Sent::Full {
                    self.channels.overflowed(end);
                }
            }
        }
    }

    /// Carries out what a transport has come to.
    fn apply(&mut self, id: SessionId, outcome: Outcome, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let (shard, slot) = (session.shard, session.slot);
        if let Some((path, nominated)) = outcome.verified {
            let (is_news, oldest) = session.verify(path, nominated, now);
            if let Some(oldest) = oldest {
                self.remotes.remove(&(shard, oldest.remote));
            }
            if is_news {
                tracing::debug!(session = %id, remote = %path.remote, nominated, "verified a path");
                self.remotes.insert((shard, path.remote), id);
                self.shards.tell(shard, Command::AddPath { slot, path, nominated });
            }
        }
        if let Some(contexts) = outcome.keys {
            self.shards.tell(shard, Command::SetKeys { slot, contexts });
        }
        if outcome.connected {
            session.connected = true;
            session.changed.notify_waiters();
            tracing::debug!(session = %id, "connected");
        }
        self.channel_news.extend(outcome.channels.into_iter().map(|event| (id, event)));
        if outcome.media_sent > 0 {
            self.transport_media_dropped += outcome.media_sent;
            tracing::error!(session = %id, "the transport sent SRTP or SRTCP by itself; dropped");
        }
        if outcome.closed {
            session.connected = false;
            // A client that stops all its m-lines closes the transport with them and may come back with another.
            if !session.has_lost_its_transport() {
                self.ended.push((id, "closed by the peer"));
            }
        }
        let due = coarse(session.transport.next_timeout(), now, self.started);
        if !outcome.closed && session.deadline.is_none_or(|known| due < known) {
            session.deadline = Some(due);
            self.deadlines.push(Reverse((due, id)));
        }
    }

    fn next_leg(&mut self) -> LegId {
        let leg = LegId(self.next_leg);
        self.next_leg = self.next_leg.wrapping_add(1);
        leg
    }
}

/// When to call a transport that wants to be called at `due`: see [`COARSE_FROM`].
fn coarse(due: Instant, now: Instant, started: Instant) -> Instant {
    if due.saturating_duration_since(now) < COARSE_FROM {
        return due;
    }
    let grid_us = COARSE_GRID.as_micros() as u64;
    let due_us = due.saturating_duration_since(started).as_micros() as u64;
    started + Duration::from_micros(due_us.next_multiple_of(grid_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_deadlines_meet_on_a_grid_and_near_ones_are_kept() {
        let started = Clock::runtime_instant();
        let at = |ms| started + Duration::from_millis(ms);
        let now = at(5_003);
        assert_eq!(coarse(at(5_050), now, started), at(5_050));
        assert_eq!(coarse(at(6_002), now, started), at(6_002));
        assert_eq!(coarse(at(6_003), now, started), at(6_100));
        assert_eq!(coarse(at(8_011), now, started), at(8_100));
        assert_eq!(coarse(at(8_100), now, started), at(8_100));
    }
}
