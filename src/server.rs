//! Puts the planes together and runs them until the process is told to stop.
//!
//! Relies on a checked [`Config`]. Does not exit, print or install anything global: `main` does, so that a
//! test can run a server beside itself. The calling thread becomes the control thread, HTTP included; each
//! shard gets a thread of its own, pinned to its core.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::api::{self, ApiState, Apps, Limits};
use crate::backend::{self, ShardIo};
use crate::config::{App, Config, ConfigError};
use crate::control::request::ControlHandle;
use crate::control::transport::Identity;
use crate::control::{self, Control};
use crate::demo::{self, DemoApp};
use crate::forward::coalesce::Coalescing;
use crate::forward::pace::Pacing;
use crate::id::ShardId;
use crate::io::{Bell, Io};
use crate::shard::{Shard, ShardSettings};
use crate::stats::Snapshots;
use crate::time::Clock;
use crate::wiring::{ShardEnds, wire};

/// Tracks that may exist at a time: eight bytes of table each.
const TRACKS_MAX: u32 = 65_536;

/// Verbs that wait for control. It takes them as fast as they come; more than this is a stuck control.
const REQUESTS_MAX: usize = 1_024;

/// How long a request body may take to arrive.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The packets that a burst towards a subscriber is counted in: as large as browsers make them.
const SEGMENT_BYTES: u32 = 1_250;

/// The server accepts requests.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// Where the API listens: the configured address, with the port the system chose if that was 0.
    pub http: SocketAddr,
}

/// Why the server did not start, or stopped by itself.
#[derive(Debug)]
pub enum ServerError {
    /// A setting that this host cannot satisfy: the operator can change it.
    Start(StartError),
    /// A failure after the start, with no setting to blame.
    Failed(io::Error),
}

/// One line: the setting, its value, what is wrong, what to do.
#[derive(Debug)]
pub struct StartError {
    pub flag: &'static str,
    pub value: String,
    pub problem: String,
    pub remedy: &'static str,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}; {}", self.flag, self.value, self.problem, self.remedy)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => error.fmt(f),
            Self::Failed(error) => write!(f, "the server stopped: {error}"),
        }
    }
}

impl std::error::Error for ServerError {}

impl From<io::Error> for ServerError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs the server; calls `on_ready` once it accepts requests. Returns after SIGTERM or SIGINT, when the
/// requests under way have been answered and the shards have stopped. On SIGHUP it takes the apps that
/// `load_apps` gives, if they are in order.
pub fn run(
    config: Config,
    load_apps: impl Fn() -> Result<Vec<App>, ConfigError> + 'static,
    on_ready: impl FnOnce(Ready),
) -> Result<(), ServerError> {
    let clock = Clock::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(bind_http(config.http)).map_err(ServerError::Start)?;
    let sockets = backend::open(&config)?;
    let bells: Vec<_> = sockets.iter().map(|(io, bell)| (bell.clone(), io.local_addr().port())).collect();
    let (ends, control) = wire(&bells, TRACKS_MAX)?;
    let snapshots = Arc::new(Snapshots::new(ends.len() as u16));
    let identity =
        Identity::generate().ok_or_else(|| io::Error::other("no DTLS certificate could be made"))?;
    let settings = control_settings(&config);
    let rng = StdRng::from_os_rng();
    let control_bell = control.bell;
    let control = Control::new(settings, identity, control.links, control.table, snapshots.clone(), rng);
    let shards = start_shards(&config, clock, sockets, ends)?;
    let served = LocalSet::new().block_on(&runtime, async {
        let stop = StopSignal::new()?;
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let (stopping, stopping_seen) = watch::channel(false);
        let (apps, apps_seen) = watch::channel(digests(&config.apps));
        tokio::task::spawn_local(follow_reloads(signal(SignalKind::hangup())?, apps, load_apps));
        let router = router(
            &config,
            ControlHandle::new(requests).cut_short_by(stopping_seen.clone()),
            apps_seen,
            snapshots,
            stopping_seen,
        );
        let (http_done, stop_control) = oneshot::channel::<()>();
        let control = control.run(inbox, control_bell, async { drop(stop_control.await) });
        let control = tokio::task::spawn_local(control);
        on_ready(Ready { http: listener.local_addr()? });
        let shutdown = async move {
            stop.received().await;
            stopping.send_replace(true);
        };
        let served = api::serve(listener, router, shutdown).await;
        drop(http_done);
        control.await.map_err(io::Error::other)??;
        served
    });
    for shard in shards {
        shard.join().map_err(|_| io::Error::other("a shard has panicked"))?;
    }
    served?;
    tracing::info!("stopped");
    Ok(())
}

fn start_shards(
    config: &Config,
    clock: Clock,
    sockets: Vec<(ShardIo, Bell)>,
    ends: Vec<ShardEnds>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let settings = shard_settings(config);
    let cores = config.shard_cores.iter().copied();
    let mut threads = Vec::new();
    for (at, (((io, bell), ends), core)) in sockets.into_iter().zip(ends).zip(cores).enumerate() {
        let seat = Seat { id: ShardId(at as u16), core, clock, bell };
        threads.push(match io {
            ShardIo::Udp(io) => start_shard(seat, *io, settings, ends)?,
            ShardIo::Uring(io) => start_shard(seat, *io, settings, ends)?,
            ShardIo::Xdp(io) => start_shard(seat, *io, settings, ends)?,
        });
    }
    Ok(threads)
}

/// Where a shard runs.
struct Seat {
    id: ShardId,
    core: usize,
    clock: Clock,
    bell: Bell,
}

fn start_shard<I: Io + Send + 'static>(
    seat: Seat,
    io: I,
    settings: ShardSettings,
    ends: ShardEnds,
) -> io::Result<JoinHandle<()>> {
    let Seat { id, core, clock, bell } = seat;
    let mut shard = Shard::new(id, io, settings, ends.table, ends.neighbours, ends.control);
    thread::Builder::new().name(format!("shard-{}", id.0)).spawn(move || {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
            tracing::warn!(shard = id.0, core, "could not pin the shard; its latency will vary");
        }
        shard.run(clock, &bell);
    })
}

fn shard_settings(config: &Config) -> ShardSettings {
    ShardSettings {
        media_timeout: config.media_timeout,
        audio_hold: Duration::from_micros(config.audio_hold_us.into()),
        spin: Duration::from_micros(config.spin_us.into()),
        coalescing: Coalescing {
            segments_max: config.segments_max(),
            padding_percent: config.padding_percent,
        },
        catch_up: Duration::from_millis(config.catch_up_ms.into()),
        pacing: Pacing {
            percent: config.pacing_percent.into(),
            burst_bytes: u32::from(config.gso_segments) * SEGMENT_BYTES,
        },
    }
}

fn control_settings(config: &Config) -> control::Settings {
    control::Settings {
        advertise: config.advertise.clone(),
        never_connected_timeout: config.never_connected_timeout,
        connectivity_timeout: config.connectivity_timeout,
        placement: config.placement,
        connect_wait: config.connect_wait,
        pull_wait: config.pull_wait,
        offer_timeout: config.offer_timeout,
        ack_timeout: config.ack_timeout,
        sessions_max: config.max_sessions,
        tracks_max: TRACKS_MAX,
    }
}

fn router(
    config: &Config,
    control: ControlHandle,
    apps: watch::Receiver<Arc<Apps>>,
    snapshots: Arc<Snapshots>,
    stopping: watch::Receiver<bool>,
) -> Router {
    let limits = Limits {
        body_bytes_max: config.max_body_bytes,
        body_read_timeout: BODY_READ_TIMEOUT,
        request_tracks_max: config.max_tracks_per_request,
        session_requests_per_second: config.max_requests_per_second,
    };
    let router = api::router(ApiState::new(control, apps, snapshots, stopping, limits));
    match config.apps.first().filter(|_| config.serves_demo()) {
        Some(app) => router.merge(demo::router(DemoApp {
            app_id: app.id.0.clone(),
            secret: app.secret.reveal().to_owned(),
            base_path: format!("/v1/apps/{}", app.id.0),
        })),
        None => router,
    }
}

fn digests(apps: &[App]) -> Arc<Apps> {
    let pairs = apps.iter().map(|app| (app.id.0.clone(), app.secret.reveal().to_owned()));
    Arc::new(pairs.collect())
}

/// Replaces the apps at each SIGHUP. Who may ask changes; sessions live on, those of an app that is gone
/// until their peers leave.
async fn follow_reloads(
    mut hangup: Signal,
    apps: watch::Sender<Arc<Apps>>,
    load: impl Fn() -> Result<Vec<App>, ConfigError>,
) {
    while hangup.recv().await.is_some() {
        match load() {
            Ok(loaded) if loaded.is_empty() => {
                tracing::error!("no app is configured any more; the apps stay as they were");
            }
            Ok(loaded) => {
                let ids: Vec<_> = loaded.iter().map(|app| app.id.0.as_str()).collect();
                tracing::info!(apps = ids.join(","), "apps reloaded");
                apps.send_replace(digests(&loaded));
            }
            Err(error) => tracing::error!("{error}; the apps stay as they were"),
        }
    }
}

async fn bind_http(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "stop the process that listens there, or choose another port",
            io::ErrorKind::AddrNotAvailable => "choose an address of this host, or 0.0.0.0 for all",
            io::ErrorKind::PermissionDenied => "choose a port above 1023, or grant CAP_NET_BIND_SERVICE",
            _ => "choose another address or port",
        };
        StartError { flag: "--http", value: address.to_string(), problem: error.to_string(), remedy }
    })
}

/// The two signals that mean stop. Installed before the start is announced, so that a supervisor that
/// stops the server at once still gets a clean end.
struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_remedy() {
        let taken = bind_http("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind_http(address).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("--http {address}: Address already in use")), "{error}");
        assert!(error.ends_with("or choose another port"), "{error}");
    }
}
