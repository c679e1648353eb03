//! One room, measured: speakers and listeners join, and what is sent is compared with what arrives.
//!
//! Read [`run`] first. A [`Room`] is open from then until it is dropped; [`Room::join`] brings listeners in,
//! [`Room::measure`] counts for a while, with a storm of joins meanwhile if asked for. This thread speaks HTTP and
//! keeps the books; the media is on the threads of `super::worker`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use rand::Rng;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use super::BenchError;
use super::cpu::{self, CpuReading};
use super::description::{self, Local, Offered};
use super::host::HostFacts;
use super::http::{Backend, Pull};
use super::listener::Listener;
use super::media::Departures;
use super::report::{JoinReport, MemoryReport, PhaseReport, Progress, Readings, Report};
use super::settings::Common;
use super::speaker::{Line, Shape, Source};
use super::stretch::Stretch;
use super::tally::{Tally, Window, histogram};
use super::target::Target;
use super::transport::Remote;
use super::worker::{self, Join, News, Order, Role, Worker};
use crate::control::transport::{Credentials, Identity};
use crate::time::{Clock, Time};

/// The settings of `fanline bench room`.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    pub common: Common,

    /// Clients that listen
    #[arg(long, value_name = "N", default_value = "100", help_heading = "Listeners")]
    pub listeners: usize,

    /// Listeners that join in a storm, while it is measured a second time; they do not count themselves
    #[arg(long, value_name = "N", default_value = "0", help_heading = "Listeners")]
    pub storm_joins: usize,

    /// How many of them join per second
    #[arg(long, value_name = "N", default_value = "300", help_heading = "Listeners")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub storm_joins_per_second: u32,

    /// Seconds from the last join to the measurement
    #[arg(long, value_name = "SECONDS", default_value = "2", help_heading = "Measurement")]
    pub warm_up_seconds: u64,

    /// Seconds that are measured
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = "Measurement")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
}

/// # Errors
/// The room could not be opened, or a report could not be written.
pub fn run(settings: Settings) -> Result<(), BenchError> {
    let report = block_on(measure(&settings))?;
    report.print();
    report.write(settings.common.json.as_deref(), settings.common.html.as_deref())
}

/// Runs a measurement on this thread.
pub(super) fn block_on(
    measurement: impl Future<Output = Result<Report, BenchError>>,
) -> Result<Report, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| BenchError(format!("no runtime: {error}")))?;
    runtime.block_on(measurement)
}

async fn measure(settings: &Settings) -> Result<Report, BenchError> {
    let host = HostFacts::read();
    let mut room = Room::open(&settings.common).await?;
    let joins = room.join(settings.listeners, settings.common.joins_per_second).await?;
    let memory = room.memory();
    room.idle(Duration::from_secs(settings.warm_up_seconds)).await;
    let mut phases = vec![room.measure("steady", settings.seconds, None).await?];
    if settings.storm_joins > 0 {
        let storm = Joins::new(settings.storm_joins, settings.storm_joins_per_second, false);
        phases.push(room.measure("storm", settings.seconds, Some(storm)).await?);
    }
    Ok(Report::new(&settings.common, joins, memory, phases, host))
}

/// A room with its speakers.
pub struct Room {
    settings: Common,
    clock: Clock,
    target: Target,
    link: Stretch,
    /// Clients whose packets the sink takes.
    sunk: BTreeSet<usize>,
    identity: Arc<Identity>,
    tracks: Arc<[Departures]>,
    /// What listeners pull.
    pulls: Arc<[Pull]>,
    workers: Vec<Worker>,
    generator_cores: Vec<usize>,
    news: UnboundedReceiver<News>,
    /// HTTP parts of joins that are under way.
    entering: JoinSet<(usize, bool, Result<Entered, BenchError>)>,
    clients: usize,
    /// When the joins under way began.
    began: HashMap<usize, Time>,
    connect_us: Histogram<u64>,
    heard_us: Histogram<u64>,
    failures: Vec<String>,
    /// Listeners that count and have heard all tracks.
    pub listeners: usize,
    resident_before: Option<u64>,
    tallies: Vec<Tally>,
    progress: Progress,
}

/// Joins to be made.
#[derive(Debug, Clone, Copy)]
pub struct Joins {
    left: usize,
    interval: Duration,
    is_measured: bool,
}

impl Joins {
    pub fn new(count: usize, per_second: u32, is_measured: bool) -> Self {
        Self { left: count, interval: Duration::from_secs(1) / per_second, is_measured }
    }

    const NONE: Joins = Joins { left: 0, interval: Duration::from_secs(1), is_measured: false };
}

/// A session that the server has described.
struct Entered {
    client: usize,
    remote: Remote,
    credentials: Credentials,
}

/// When [`Room::drive`] is done.
#[derive(Clone, Copy)]
enum Until {
    /// All joins have succeeded or failed; nothing happens for so long at most.
    Joined,
    Time(Time),
    /// Every thread has given its tally.
    Collected,
}

/// Nothing has happened for as long as the slowest step may take.
const PATIENCE: Duration = Duration::from_secs(35);

/// From the order to count to the first packet that counts.
const LEAD: Duration = Duration::from_millis(300);

/// From the last packet that counts to the end of counting: a packet later than this is lost.
const DRAIN: Duration = Duration::from_millis(1_000);

/// With a sink, whose counts are read while nothing is under way: after this much silence, before and after.
const LEAD_WITH_SILENCE: Duration = Duration::from_millis(900);
const DRAIN_OF_SINK: Duration = Duration::from_millis(600);

/// Reading ten thousand counts takes some 20 ms.
const AHEAD_US: u64 = 100_000;

/// Joins whose HTTP requests are under way at a time; a browser's backend has as many connections or more.
const IN_FLIGHT_MAX: usize = 256;

impl Room {
    /// Starts the server, if it is ours to start, and the speakers.
    pub async fn open(settings: &Common) -> Result<Self, BenchError> {
        settings.check()?;
        let (server_cores, generator_cores) = settings.cores()?;
        let mut settings = settings.clone();
        let link = Stretch::make(&mut settings)?;
        let target = Target::find(&settings, server_cores, link.pair.as_ref())?;
        // Threads and sockets that are made from here on are at the clients' end.
        link.enter()?;
        if let Some(&core) = generator_cores.last() {
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
        }
        let identity =
            Identity::generate().ok_or_else(|| BenchError("no DTLS certificate could be made".into()))?;
        let identity = Arc::new(identity);
        let tracks = usize::from(settings.speakers) * settings.shapes().len();
        let tracks: Arc<[Departures]> = (0..tracks).map(|_| Departures::new()).collect();
        let clock = Clock::start();
        let (telling, news) = unbounded_channel();
        let mut workers = Vec::new();
        for (number, &core) in generator_cores.iter().enumerate() {
            let common = worker::Common {
                clock,
                identity: identity.clone(),
                tracks: tracks.clone(),
                prefix: settings.client_net,
                news: telling.clone(),
            };
            let started = Worker::start(number, core, common);
            workers.push(started.map_err(|error| BenchError(format!("no generator thread: {error}")))?);
        }
        let mut room = Self {
            settings,
            clock,
            target,
            link,
            sunk: BTreeSet::new(),
            identity,
            tracks,
            pulls: Arc::new([]),
            workers,
            generator_cores,
            news,
            entering: JoinSet::new(),
            clients: 0,
            began: HashMap::new(),
            connect_us: histogram(),
            heard_us: histogram(),
            failures: Vec::new(),
            listeners: 0,
            resident_before: None,
            tallies: Vec::new(),
            progress: Progress::new(),
        };
        room.bring_speakers().await?;
        room.resident_before = room.target.resident_bytes();
        Ok(room)
    }

    /// Lets the speakers publish. They speak as soon as they are connected.
    async fn bring_speakers(&mut self) -> Result<(), BenchError> {
        let shapes = self.settings.shapes();
        let mut pulls = Vec::new();
        for speaker in 0..self.settings.speakers {
            let (offered, sources) = self.tracks_of(speaker, &shapes);
            let credentials = credentials();
            let local = Local { credentials: &credentials, fingerprint: &self.identity.fingerprint };
            let offer = description::offer(&local, &offered);
            let names: Vec<_> =
                shapes.iter().map(|shape| format!("{speaker}-{}", shape.kind.name())).collect();
            let backend = &self.target.backend;
            let session = backend.new_session().await?;
            let answer = backend.publish(&session, &offer, &names).await?;
            let remote = description::remote(&answer, |ip| self.settings.reaches(ip))?;
            let client = self.next_client();
            self.give_to_worker(Entered { client, remote, credentials }, Role::Speaker(sources))?;
            pulls.extend(names.into_iter().zip(&offered).map(|(name, offered)| {
                let rid = (!offered.encodings.is_empty()).then(|| self.settings.rid.clone());
                Pull { session: session.clone(), name, rid }
            }));
        }
        let speakers = self.clients;
        self.drive(Joins::NONE, Until::Joined).await;
        if self.connect_us.len() < speakers as u64 {
            let problem = self.failures.first().map_or("it was silent", String::as_str);
            return Err(BenchError(format!("a speaker could not connect to the server: {problem}")));
        }
        (self.connect_us, self.heard_us) = (histogram(), histogram());
        self.pulls = pulls.into();
        Ok(())
    }

    /// What a speaker offers, and what it sends: a source for each track, or for each encoding of it.
    fn tracks_of(&self, speaker: u16, shapes: &[Shape]) -> (Vec<Offered>, Vec<Source>) {
        let (mut offered, mut sources) = (Vec::new(), Vec::new());
        for (at, shape) in shapes.iter().enumerate() {
            let track = (usize::from(speaker) * shapes.len() + at) as u16;
            let phase_us = self.settings.phase_us(speaker, shape);
            let encodings = self.settings.encodings(shape);
            let line =
                || Line { mid: b'0' + at as u8, ssrc: rand::rng().random(), rtx_ssrc: rand::rng().random() };
            let source = |track, shape, line| Source::new(track, self.tracks.clone(), shape, line, phase_us);
            let first_line = line();
            if encodings.is_empty() {
                sources.push(source(Some(track), *shape, first_line));
            }
            sources.extend(encodings.iter().map(|encoding| {
                let heard = (encoding.rid == self.settings.rid).then_some(track);
                source(heard, Shape { encoding: Some(*encoding), ..*shape }, line())
            }));
            offered.push(Offered { kind: shape.kind, line: first_line, encodings });
        }
        (offered, sources)
    }

    /// Brings listeners in, who count from the next measurement on.
    pub async fn join(&mut self, count: usize, per_second: u32) -> Result<JoinReport, BenchError> {
        if self.clients + count + 1 >= self.settings.client_net.capacity() {
            let net = self.settings.client_net;
            return Err(BenchError(format!("--client-net {net}: too few addresses for {count} listeners")));
        }
        let from = self.clock.now();
        self.drive(Joins::new(count, per_second, true), Until::Joined).await;
        Ok(self.join_report(count, self.clock.now() - from))
    }

    /// What has become of the joins since the last report.
    fn join_report(&mut self, wanted: usize, took: Duration) -> JoinReport {
        let connect = std::mem::replace(&mut self.connect_us, histogram());
        let heard = std::mem::replace(&mut self.heard_us, histogram());
        JoinReport::new(wanted, took, &connect, &heard, std::mem::take(&mut self.failures))
    }

    pub fn memory(&self) -> Option<MemoryReport> {
        let (before, after) = (self.resident_before?, self.target.resident_bytes()?);
        Some(MemoryReport::new(before, after, self.listeners))
    }

    pub async fn idle(&mut self, time: Duration) {
        self.drive(Joins::NONE, Until::Time(self.clock.now() + time)).await;
    }

    /// Counts for so many seconds.
    pub async fn measure(
        &mut self,
        name: &str,
        seconds: u64,
        storm: Option<Joins>,
    ) -> Result<PhaseReport, BenchError> {
        let lead = if self.link.sink.is_some() { LEAD_WITH_SILENCE } else { LEAD };
        let from = self.clock.now() + lead;
        let silence_us = self.link.sink.as_ref().map_or(0, |_| LEAD_WITH_SILENCE.as_micros() as u64);
        let window = Window { from, until: from + Duration::from_secs(seconds), silence_us };
        self.workers.iter().for_each(|worker| worker.tell(Order::Measure(window)));
        self.progress.phase(name);
        let listeners = self.listeners;
        self.drive(Joins::NONE, Until::Time(Time(window.from.0 - AHEAD_US))).await;
        let sunk_before = self.sunk_packets()?;
        self.drive(Joins::NONE, Until::Time(window.from)).await;
        let mut before = self.read().await;
        self.drive(storm.unwrap_or(Joins::NONE), Until::Time(window.until)).await;
        let mut after = self.read().await;
        let joins = storm.map(|storm| self.join_report(storm.left, Duration::from_secs(seconds)));
        self.drive(Joins::NONE, Until::Time(window.until + DRAIN_OF_SINK)).await;
        let sunk_after = self.sunk_packets()?;
        self.drive(Joins::NONE, Until::Time(window.until + DRAIN)).await;
        self.workers.iter().for_each(|worker| worker.tell(Order::Collect));
        self.drive(Joins::NONE, Until::Collected).await;
        let mut tallies = std::mem::take(&mut self.tallies).into_iter();
        let mut tally = tallies.next().ok_or_else(|| BenchError("a generator thread has stopped".into()))?;
        tallies.for_each(|other| tally.add(other));
        for (client, packets) in &sunk_before {
            let taken = sunk_after.get(client).map_or(0, |after| after - packets);
            *tally.per_listener.entry(*client).or_default() += taken;
            before.packets += packets;
            after.packets += packets + taken;
        }
        Ok(PhaseReport::new(name, listeners, &tally, &before, &after, joins))
    }

    /// What the sink has counted so far, by client.
    fn sunk_packets(&self) -> Result<BTreeMap<usize, u64>, BenchError> {
        let Some(sink) = &self.link.sink else { return Ok(BTreeMap::new()) };
        let packets = |client: &usize| Ok((*client, sink.packets(address_of(*client) as u16)?));
        let counted: Result<_, std::io::Error> = self.sunk.iter().map(packets).collect();
        counted.map_err(|error| BenchError(format!("the sink's counts cannot be read: {error}")))
    }

    pub fn server_cores(&self) -> usize {
        self.target.cores.len()
    }

    /// What the host and the server tell about themselves at this moment.
    async fn read(&mut self) -> Readings {
        let ports: Vec<_> = self.workers.iter().map(|worker| worker.port).collect();
        let sum = |gauge: fn(&worker::Gauges) -> u64| self.workers.iter().map(|w| gauge(&w.gauges)).sum();
        Readings {
            at: self.clock.now(),
            server: self.target.cpu(),
            metrics: self.target.backend.metrics().await,
            packets: sum(|gauges| gauges.packets.load(Ordering::Relaxed)),
            packets_sent: sum(|gauges| gauges.packets_sent.load(Ordering::Relaxed)),
            send_failures: sum(|gauges| gauges.send_failures.load(Ordering::Relaxed)),
            generator_drops: cpu::udp_drops(&ports),
            receive_buffer_bytes: self.workers.iter().map(|worker| worker.receive_buffer_bytes).min(),
            generator_ns: self.workers.iter().map(|w| cpu::own_thread_ns(&w.thread_name)).collect(),
            generator_cores: CpuReading::take(std::process::id(), &self.generator_cores),
        }
    }

    /// Makes joins and listens to the threads until it is done.
    async fn drive(&mut self, mut joins: Joins, until: Until) {
        let mut ticks = tokio::time::interval(joins.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut shown = tokio::time::interval(Duration::from_secs(1));
        let mut quiet_since = self.clock.now();
        loop {
            let now = self.clock.now();
            let pause = match until {
                Until::Joined if joins.left == 0 && self.entering.is_empty() && self.began.is_empty() => {
                    return;
                }
                Until::Collected if self.tallies.len() == self.workers.len() => return,
                Until::Time(at) if at <= now => return,
                Until::Time(at) => at - now,
                _ if now - quiet_since > PATIENCE => {
                    self.give_up();
                    return;
                }
                _ => Duration::from_secs(1),
            };
            let may_begin = joins.left > 0 && self.entering.len() < IN_FLIGHT_MAX;
            tokio::select! {
                Some(news) = self.news.recv() => {
                    quiet_since = now;
                    self.hear(news);
                }
                Some(Ok((client, is_measured, entered))) = self.entering.join_next() => {
                    quiet_since = now;
                    self.entered(client, is_measured, entered);
                }
                _ = ticks.tick(), if may_begin => {
                    joins.left -= 1;
                    let client = self.next_client();
                    let entering = self.enter(client, joins.is_measured);
                    self.entering.spawn(entering);
                }
                _ = shown.tick() => self.show(now),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn next_client(&mut self) -> usize {
        let client = self.clients;
        self.clients += 1;
        self.began.insert(client, self.clock.now());
        client
    }

    /// The HTTP part of a listener's join.
    fn enter(
        &self,
        client: usize,
        is_measured: bool,
    ) -> impl Future<Output = (usize, bool, Result<Entered, BenchError>)> + use<> {
        let (backend, pulls) = (self.target.backend.clone(), self.pulls.clone());
        let (identity, settings) = (self.identity.clone(), self.settings.clone());
        async move {
            let entered = enter(client, &backend, &pulls, &identity, &settings).await;
            (client, is_measured, entered)
        }
    }

    fn entered(&mut self, client: usize, is_measured: bool, entered: Result<Entered, BenchError>) {
        let is_sampled = client.is_multiple_of(self.settings.sample as usize);
        let now = self.clock.now();
        let given = entered.and_then(|entered| {
            let ssrc = rand::rng().random();
            let listener = Listener::new(self.tracks.clone(), ssrc, is_sampled, is_measured, now);
            self.give_to_worker(entered, Role::Listener(listener))
        });
        if let Err(error) = given {
            self.hear(News::Failed { client, problem: error.to_string() });
        }
    }

    /// Clients go to the threads in turn.
    fn give_to_worker(&self, entered: Entered, role: Role) -> Result<(), BenchError> {
        let Entered { client, remote, credentials } = entered;
        let worker = self.workers.get(client % self.workers.len());
        let worker = worker.ok_or_else(|| BenchError("the generator has no core".into()))?;
        let address = address_of(client);
        worker.tell(Order::Join(Box::new(Join { client, address, remote, credentials, role })));
        Ok(())
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Connected { client, at } => {
                if let Some(began) = self.began.get(&client) {
                    self.connect_us.saturating_record(at.since(*began));
                }
                if client < usize::from(self.settings.speakers) {
                    self.began.remove(&client);
                }
            }
            News::Heard { client, at, is_measured } => {
                if let Some(began) = self.began.remove(&client) {
                    self.heard_us.saturating_record(at.since(began));
                    self.listeners += usize::from(is_measured);
                    // A storm's listeners are there for their joins; their packets need no counting.
                    let is_sampled = client.is_multiple_of(self.settings.sample as usize);
                    if let Some(sink) = self.link.sink.as_ref().filter(|_| !is_sampled) {
                        let sunk = sink.sink(address_of(client) as u16).is_ok();
                        self.sunk.extend(Some(client).filter(|_| sunk && is_measured));
                    }
                }
            }
            News::Failed { client, problem } => {
                self.began.remove(&client);
                self.failures.push(problem);
            }
            News::Tally(tally) => self.tallies.push(*tally),
        }
    }

    /// Calls the joins under way failed.
    fn give_up(&mut self) {
        let late =
            self.began.drain().map(|(client, _)| format!("client {client} heard nothing of all tracks"));
        self.failures.extend(late);
    }

    fn show(&mut self, now: Time) {
        let packets = self.workers.iter().map(|worker| worker.gauges.packets.load(Ordering::Relaxed)).sum();
        self.progress.show(now, self.listeners, self.began.len(), packets, self.failures.len());
    }
}

async fn enter(
    client: usize,
    backend: &Backend,
    pulls: &[Pull],
    identity: &Identity,
    settings: &Common,
) -> Result<Entered, BenchError> {
    let session = backend.new_session().await?;
    let offer = backend.pull(&session, pulls).await?;
    let remote = description::remote(&offer, |ip| settings.reaches(ip))?;
    let credentials = credentials();
    let local = Local { credentials: &credentials, fingerprint: &identity.fingerprint };
    backend.answer(&session, &description::answer(&local, &offer)?).await?;
    Ok(Entered { client, remote, credentials })
}

/// The number of a client's address: the first of a prefix names the network.
fn address_of(client: usize) -> usize {
    client + 1
}

/// RFC 8839 §5.4: at least 24 and 128 bits of randomness.
fn credentials() -> Credentials {
    let mut rng = rand::rng();
    let (ufrag, password): (u32, u128) = (rng.random(), rng.random());
    Credentials { ufrag: format!("{ufrag:08x}"), password: format!("{password:032x}") }
}
