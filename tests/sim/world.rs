//! Server, network and clients on one thread, moved on a millisecond at a time.
//!
//! A step lets datagrams arrive, lets every client act, then turns shards and polls control until all of
//! them are idle. Control runs on a paused tokio runtime and is polled from here alone: a test can stop
//! polling it and see what the data plane does without.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use fanline::control::request::{
    AppId, Census, CloseTrackObject, CloseTracksRequest, ControlHandle, Location, NewSession,
    RenegotiateRequest, RequestError, SdpType, SessionDescription, SessionState, Simulcast, TrackObject,
    TrackResult, TracksRequest, TracksResponse, UpdateTracksRequest,
};
use fanline::control::shards::Placement;
use fanline::control::transport::Identity;
use fanline::control::{Control, Settings};
use fanline::drop_reason::DropReason;
use fanline::id::{SessionId, ShardId};
use fanline::io::Bell;
use fanline::io::sim::{Link, SimIo, SimNet};
use fanline::shard::{Shard, ShardSettings};
use fanline::stats::{ShardSnapshot, Snapshots};
use fanline::time::{Clock, Time};
use fanline::wiring::wire;
use rand::SeedableRng;
use rand::rngs::StdRng;
use str0m::change::SdpPendingOffer;
use str0m::media::Mid;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::client::Client;
use crate::media::{Shape, Sink};

/// How far time goes in one step.
const STEP: Duration = Duration::from_millis(1);

/// Rounds of shards and control within a step, so that a loop between them is a failure and not a hang.
const ROUNDS_MAX: usize = 1_000;

const SERVER: [u8; 4] = [10, 0, 0, 1];
const FIRST_PORT: u16 = 40_000;

/// Names a client of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Who(pub usize);

pub struct World {
    seed: u64,
    runtime: Runtime,
    control: LocalSet,
    /// While set, control is not polled.
    pub control_stalled: bool,
    pub handle: ControlHandle,
    pub net: SimNet,
    pub clock: Clock,
    pub now: Time,
    began: Time,
    shards: Vec<Shard<SimIo>>,
    snapshots: Arc<Snapshots>,
    pub clients: Vec<Client>,
    clients_made: u16,
}

/// Runs a claim for each seed.
pub fn for_each_seed(seeds: &[u64], claim: impl Fn(u64)) {
    match std::env::var("FANLINE_SIM_SEED") {
        Ok(seed) => claim(seed.parse().expect("FANLINE_SIM_SEED is a number")),
        Err(_) => seeds.iter().for_each(|&seed| claim(seed)),
    }
}

impl World {
    /// A server of `shards` shards, and a network of 5 ms one way that loses nothing.
    pub fn new(seed: u64, shards: u16) -> Self {
        Self::with(seed, shards, ShardSettings::default())
    }

    /// The same with settings for its shards.
    pub fn with(seed: u64, shards: u16, shard_settings: ShardSettings) -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let clock = runtime.block_on(async { Clock::of_runtime() });
        let now = runtime.block_on(async { clock.at(Clock::runtime_instant()) });
        let net = SimNet::new(seed, now);
        net.set_default_link(Link { delay: Duration::from_millis(5), ..Link::default() });
        let bells: Vec<_> = (0..shards).map(|n| (Bell::new().unwrap(), FIRST_PORT + n)).collect();
        let (ends, control_ends) = wire(&bells, 1_024).unwrap();
        let shards = ends.into_iter().zip(0..).map(|(ends, n)| {
            let io = net.io((SERVER, FIRST_PORT + n).into());
            Shard::new(ShardId(n), io, shard_settings, ends.table, ends.neighbours, ends.control)
        });
        let shards: Vec<_> = shards.collect();
        let snapshots = Arc::new(Snapshots::new(shards.len() as u16));
        let (requests, inbox) = mpsc::channel(1_024);
        let control = LocalSet::new();
        let rng = StdRng::seed_from_u64(seed);
        let identity = Identity::generate().unwrap();
        let server = Control::new(
            settings(),
            identity,
            control_ends.links,
            control_ends.table,
            snapshots.clone(),
            rng,
        );
        let run = server.run(inbox, control_ends.bell, std::future::pending());
        control.spawn_local(async { run.await.unwrap() });
        Self {
            seed,
            runtime,
            control,
            control_stalled: false,
            handle: ControlHandle::new(requests),
            net,
            clock,
            now,
            began: now,
            shards,
            snapshots,
            clients: Vec::new(),
            clients_made: 0,
        }
    }

    /// A millisecond of everything.
    pub fn step(&mut self) {
        self.runtime.block_on(tokio::time::advance(STEP));
        self.now = self.now + STEP;
        self.net.advance(self.now);
        for client in &mut self.clients {
            client.step(self.now);
        }
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "shards and control never come to rest");
            self.net.advance(self.now);
            let worked =
                self.shards.iter_mut().filter_map(|shard| shard.turn(self.now).then_some(())).count();
            self.poll_control();
            if worked == 0 {
                break;
            }
        }
    }

    /// Lets the runtime look at its bell and its timers, then lets control's tasks run.
    fn poll_control(&mut self) {
        let Self { control, runtime, .. } = self;
        let stalled = self.control_stalled;
        runtime.block_on(async {
            tokio::task::yield_now().await;
            if !stalled {
                poll_fn(|context| {
                    let _ = Pin::new(&mut *control).poll(context);
                    Poll::Ready(())
                })
                .await;
            }
        });
    }

    pub fn run_ms(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.step());
    }

    /// Steps until `done`, which must come within `ms`.
    #[track_caller]
    pub fn until(&mut self, ms: u64, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..ms {
            if done(self) {
                return;
            }
            self.step();
        }
        assert!(done(self), "{what}: not within {ms} ms");
    }

    /// Steps until a verb is answered.
    pub fn drive<T>(&mut self, verb: impl Future<Output = T>) -> T {
        let mut verb = std::pin::pin!(verb);
        for _ in 0..60_000 {
            let poll = poll_fn(|context| Poll::Ready(verb.as_mut().poll(context)));
            if let Poll::Ready(answer) = self.runtime.block_on(poll) {
                return answer;
            }
            self.step();
        }
        panic!("a verb was not answered within a minute");
    }

    pub fn client(&mut self, who: Who) -> &mut Client {
        &mut self.clients[who.0]
    }

    pub fn sink(&self, who: Who, mid: Mid) -> &Sink {
        self.clients[who.0].sink(mid)
    }

    /// A new session and a client for it.
    pub fn join(&mut self) -> Who {
        self.join_as(false)
    }

    /// A client that keeps all RTCP it sees.
    pub fn join_observing(&mut self) -> Who {
        self.join_as(true)
    }

    fn join_as(&mut self, observes: bool) -> Who {
        let handle = self.handle.clone();
        let session = self.drive(handle.new_session(app(), NewSession::default())).unwrap().session_id;
        self.clients_made += 1;
        let [high, low] = self.clients_made.to_be_bytes();
        let socket = self.net.socket(([10, 1, high, low], 5_000).into());
        self.clients.push(Client::new(session, socket, self.clock, self.now, observes));
        Who(self.clients.len() - 1)
    }

    /// Publishes tracks and waits until the client is connected and talking. Returns their mids.
    pub fn publish(&mut self, who: Who, tracks: &[(&str, Shape)]) -> Vec<Mid> {
        let mids = self.offer_tracks(who, tracks);
        self.until(5_000, "the publisher connects", |world| world.client(who).connected);
        self.until(1_000, "the publisher talks", |world| {
            world.client(who).sources.iter().all(|source| source.said > 0)
        });
        mids
    }

    /// Publishes tracks; the client talks as soon as it is connected. Returns their mids.
    pub fn offer_tracks(&mut self, who: Who, tracks: &[(&str, Shape)]) -> Vec<Mid> {
        let shapes: Vec<_> = tracks.iter().map(|(_, shape)| *shape).collect();
        let (mids, offer, pending) = self.client(who).offer(&shapes);
        let objects = tracks.iter().zip(&mids).map(|((name, _), mid)| local_track(*mid, name));
        let client = self.push(who, objects.collect(), offer, pending);
        for ((name, shape), mid) in tracks.iter().zip(&mids) {
            client.start(name, *mid, *shape);
        }
        mids
    }

    /// Pushes tracks by an offer of the client, whose answer it takes.
    fn push(
        &mut self,
        who: Who,
        tracks: Vec<TrackObject>,
        offer: String,
        pending: SdpPendingOffer,
    ) -> &mut Client {
        let description = SessionDescription { kind: SdpType::Offer, sdp: offer };
        let body = TracksRequest { session_description: Some(description), tracks, auto_discover: false };
        let response = self.tracks(who, body).unwrap();
        assert_sound(&response.tracks);
        let answer = response.session_description.expect("a push is answered").sdp;
        let client = self.client(who);
        client.accept_answer(pending, &answer);
        client
    }

    /// Publishes one video track in these encodings, and waits until all are talking. Each has a source with
    /// the name of its rid.
    pub fn publish_simulcast(&mut self, who: Who, name: &str, encodings: &[(&str, Shape)]) {
        let rids: Vec<_> = encodings.iter().map(|(rid, _)| *rid).collect();
        let (mid, offer, pending) = self.client(who).offer_simulcast(&rids);
        let client = self.push(who, vec![local_track(mid, name)], offer, pending);
        for (rid, shape) in encodings {
            client.start_encoding(rid, mid, *shape);
        }
        self.until(5_000, "the publisher talks in all encodings", |world| {
            world.client(who).sources.iter().all(|source| source.said > 0)
        });
    }

    /// Publishes a track on an m-line that can carry another back, and waits until the client is connected.
    pub fn publish_bidirectional(&mut self, who: Who, name: &str, shape: Shape) -> Mid {
        let (mid, offer, pending) = self.client(who).offer_bidirectional(shape.kind);
        let track = TrackObject { bidirectional_media_stream: Some(true), ..local_track(mid, name) };
        let client = self.push(who, vec![track], offer, pending);
        client.start(name, mid, shape);
        self.until(5_000, "the publisher connects", |world| world.client(who).connected);
        mid
    }

    /// Pulls a track onto the m-line of `who` that carries the track `onto`; nothing is negotiated.
    pub fn pull_onto(&mut self, who: Who, onto: &str, (publisher, name): (Who, &str)) {
        let track = TrackObject { mid: Some(format!("#{onto}")), ..self.remote_track(publisher, name) };
        let response = self.tracks(who, TracksRequest { tracks: vec![track], ..TracksRequest::default() });
        let response = response.unwrap();
        assert_sound(&response.tracks);
        assert_eq!(response.session_description, None);
    }

    /// `tracks/update` of what `who` pulls on `mid`, or of the track by its name.
    pub fn update(
        &mut self,
        who: Who,
        mid: Option<Mid>,
        (publisher, name): (Who, &str),
        simulcast: Option<Simulcast>,
    ) -> TrackResult {
        let mid = mid.map(|mid| mid.to_string());
        let track = TrackObject { mid, simulcast, ..self.remote_track(publisher, name) };
        let (handle, session) = (self.handle.clone(), self.session(who));
        let body = UpdateTracksRequest { tracks: vec![track] };
        let response = self.drive(handle.update_tracks(app(), session, body)).unwrap();
        response.tracks.into_iter().next().expect("an item is answered by one")
    }

    /// Pulls tracks of others and waits until the client is connected. Returns the mids they come in on.
    pub fn pull(&mut self, who: Who, tracks: &[(Who, &str)]) -> Vec<Mid> {
        let response = self.ask_to_pull(who, tracks).unwrap();
        assert_sound(&response.tracks);
        let offer = response.session_description.expect("a pull without an offer gets one").sdp;
        let answer = self.client(who).answer(&offer);
        self.renegotiate(who, answer).unwrap();
        self.until(5_000, "the subscriber connects", |world| world.client(who).connected);
        response.tracks.iter().map(|track| Mid::from(track.mid.as_deref().unwrap())).collect()
    }

    /// The verb alone.
    pub fn ask_to_pull(&mut self, who: Who, tracks: &[(Who, &str)]) -> Result<TracksResponse, RequestError> {
        let objects = tracks.iter().map(|(publisher, name)| self.remote_track(*publisher, name));
        let body = TracksRequest { tracks: objects.collect(), ..TracksRequest::default() };
        self.tracks(who, body)
    }

    /// The track `name` of `publisher`, to be pulled.
    fn remote_track(&self, publisher: Who, name: &str) -> TrackObject {
        TrackObject {
            location: Location::Remote,
            mid: None,
            track_name: Some(name.to_owned()),
            session_id: Some(self.clients[publisher.0].session.clone()),
            kind: None,
            bidirectional_media_stream: None,
            simulcast: None,
        }
    }

    fn tracks(&mut self, who: Who, body: TracksRequest) -> Result<TracksResponse, RequestError> {
        let (handle, session) = (self.handle.clone(), self.session(who));
        self.drive(handle.new_tracks(app(), session, body))
    }

    pub fn renegotiate(&mut self, who: Who, answer: String) -> Result<(), RequestError> {
        let (handle, session) = (self.handle.clone(), self.session(who));
        let session_description = SessionDescription { kind: SdpType::Answer, sdp: answer };
        let body = RenegotiateRequest { session_description };
        self.drive(handle.renegotiate(app(), session, body)).map(drop)
    }

    /// Closes m-lines without an exchange of descriptions.
    pub fn close(&mut self, who: Who, mids: &[Mid]) -> TracksResponse {
        let (handle, session) = (self.handle.clone(), self.session(who));
        let tracks = mids.iter().map(|mid| CloseTrackObject { mid: mid.to_string() }).collect();
        let body = CloseTracksRequest { tracks, session_description: None, force: true };
        self.drive(handle.close_tracks(app(), session, body)).unwrap()
    }

    /// Stops all m-lines of a client by an offer of its own and closes what was on them. The answer is not
    /// applied: it describes no transport, which str0m insists on, and the peer is done for anyway.
    pub fn stop_all(&mut self, who: Who, mids: &[Mid]) {
        let offer = self.client(who).stop(mids);
        let (handle, session) = (self.handle.clone(), self.session(who));
        let tracks = mids.iter().map(|mid| CloseTrackObject { mid: mid.to_string() }).collect();
        let description = SessionDescription { kind: SdpType::Offer, sdp: offer };
        let body = CloseTracksRequest { tracks, session_description: Some(description), force: false };
        let response = self.drive(handle.close_tracks(app(), session, body)).unwrap();
        assert_sound(&response.tracks);
        assert_eq!(response.session_description.expect("an offer is answered").kind, SdpType::Answer);
    }

    /// From here on the client's NAT shows it under another address.
    pub fn rebind(&mut self, who: Who) {
        let mut address = self.client(who).socket.local_addr();
        address.set_port(address.port() + 1_000);
        self.client(who).socket = self.net.socket(address);
    }

    /// What `GET /sessions/…` says; an error when the session is over.
    pub fn state(&mut self, who: Who) -> Result<SessionState, RequestError> {
        let (handle, session) = (self.handle.clone(), self.session(who));
        self.drive(handle.get_session(app(), session))
    }

    pub fn session(&self, who: Who) -> SessionId {
        self.clients[who.0].session.parse().unwrap()
    }

    pub fn census(&mut self) -> Census {
        let handle = self.handle.clone();
        self.drive(async move { handle.census().await }).expect("control runs")
    }

    /// Snapshots that are younger than this call.
    pub fn snapshots(&mut self) -> Vec<ShardSnapshot> {
        self.run_ms(1_002);
        self.snapshots.all()
    }

    /// Of all shards together.
    pub fn drops(&mut self, reason: DropReason) -> u64 {
        self.snapshots().iter().map(|shard| shard.drops.get(reason)).sum()
    }

    /// The shard that the client's datagrams go to.
    pub fn shard_of(&self, who: Who) -> usize {
        let server = self.clients[who.0].server.expect("the client has sent something");
        usize::from(server.port() - FIRST_PORT)
    }

    /// Sets what happens to datagrams of the client on their way to the server.
    pub fn set_uplink(&self, who: Who, link: Link) {
        let (client, server) = self.ends(who);
        self.net.set_link(client, server, link);
    }

    /// Sets what happens to datagrams of the server on their way to the client.
    pub fn set_downlink(&self, who: Who, link: Link) {
        let (client, server) = self.ends(who);
        self.net.set_link(server, client, link);
    }

    pub fn ends(&self, who: Who) -> (SocketAddr, SocketAddr) {
        let client = &self.clients[who.0];
        (client.socket.local_addr(), client.server.expect("the client has sent something"))
    }

    /// Virtual milliseconds since the beginning.
    pub fn elapsed_ms(&self) -> u64 {
        self.now.since(self.began) / 1_000
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FANLINE_SIM_SEED={} failed at {} ms of virtual time", self.seed, self.elapsed_ms());
        }
    }
}

fn settings() -> Settings {
    Settings {
        placement: Placement::LeastSessions,
        advertise: vec![SERVER.into()],
        never_connected_timeout: Duration::from_secs(30),
        connectivity_timeout: Duration::from_secs(30),
        connect_wait: Duration::from_secs(5),
        pull_wait: Duration::from_secs(5),
        offer_timeout: Duration::from_secs(10),
        ack_timeout: Duration::from_secs(30),
        sessions_max: 10_000,
        tracks_max: 1_024,
    }
}

pub fn app() -> AppId {
    AppId("simulation".to_owned())
}

/// A track of the client's own, to be pushed.
fn local_track(mid: Mid, name: &str) -> TrackObject {
    TrackObject {
        location: Location::Local,
        mid: Some(mid.to_string()),
        track_name: Some(name.to_owned()),
        session_id: None,
        kind: None,
        bidirectional_media_stream: None,
        simulcast: None,
    }
}

fn assert_sound(tracks: &[TrackResult]) {
    for track in tracks {
        assert_eq!(track.error, None, "{:?}", track.track_name);
    }
}
