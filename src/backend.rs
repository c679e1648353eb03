//! Opens the network of every shard: the setting, what `auto` makes of it, and how far one must step down.
//!
//! Relies on `io` for the backends. What is chosen and why is logged once, here. A setting that this host cannot
//! satisfy is an error only if nothing else would serve what was asked: `xdp` goes on with sockets, a port in use does
//! not.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tracing::{info, warn};

use crate::config::{Backend, Config};
use crate::id::ShardId;
use crate::io::udp::{UdpIo, UdpOptions};
use crate::io::uring::{UringError, UringIo};
use crate::io::xdp::{self, Rung, XdpIo, XdpOptions};
use crate::io::{Bell, BindError, Io, Path};
use crate::server::{ServerError, StartError};
use crate::time::Clock;

/// The backend of one shard, until it is on its thread: from there on its type is known.
pub enum ShardIo {
    Udp(Box<UdpIo>),
    Uring(Box<UringIo>),
    Xdp(Box<XdpIo>),
}

impl ShardIo {
    pub fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Udp(io) => io.local_addr(),
            Self::Uring(io) => io.local_addr(),
            Self::Xdp(io) => io.local_addr(),
        }
    }
}

/// One backend per shard, with the bell that wakes its thread.
///
/// # Errors
/// A port that cannot be had, an interface that is not there, io_uring where it was asked for by name and the
/// kernel refuses it; no descriptors left.
pub fn open(config: &Config) -> Result<Vec<(ShardIo, Bell)>, ServerError> {
    match config.io {
        Backend::Udp => open_udp(config),
        Backend::Uring => open_uring(config),
        Backend::Xdp => open_xdp(config, Rung::Packet),
        Backend::Auto => open_auto(config),
    }
}

fn open_udp(config: &Config) -> Result<Vec<(ShardIo, Bell)>, ServerError> {
    Ok(udp_sockets(config)?.into_iter().map(of_udp).collect())
}

fn of_udp((io, bell): (UdpIo, Bell)) -> (ShardIo, Bell) {
    (ShardIo::Udp(Box::new(io)), bell)
}

fn udp_sockets(config: &Config) -> Result<Vec<(UdpIo, Bell)>, ServerError> {
    let bind = |shard| {
        let bell = Bell::new()?;
        let io = UdpIo::bind(address(config, shard), bell.clone(), udp_options(config));
        Ok((io.map_err(|error| port_error(&error)).map_err(ServerError::Start)?, bell))
    };
    (0..config.shard_cores.len()).map(bind).collect()
}

fn open_uring(config: &Config) -> Result<Vec<(ShardIo, Bell)>, ServerError> {
    let bind = |shard| {
        let bell = Bell::new()?;
        let io = UringIo::bind(address(config, shard), bell.clone(), udp_options(config));
        Ok((ShardIo::Uring(Box::new(io.map_err(uring_error).map_err(ServerError::Start)?)), bell))
    };
    (0..config.shard_cores.len()).map(bind).collect()
}

/// Past the stack, if the first shard gets `worst` or better; else by the same sockets through the stack.
fn open_xdp(config: &Config, worst: Rung) -> Result<Vec<(ShardIo, Bell)>, ServerError> {
    let by_name = config.io == Backend::Xdp;
    let options = XdpOptions {
        interface: config.interface.clone(),
        advertise: config.advertise.clone(),
        ..XdpOptions::default()
    };
    let refused = match xdp::open(udp_sockets(config)?, &options) {
        Ok(ios) if ios.first().is_some_and(|(io, _)| io.rung() <= worst) => {
            return Ok(ios.into_iter().map(|(io, bell)| (ShardIo::Xdp(Box::new(io)), bell)).collect());
        }
        Ok(ios) => xdp::Refused::of(ios),
        Err(refused) => refused,
    };
    if let Some(name) = config.interface.as_ref().filter(|_| refused.blames_interface) {
        let remedy = "name an Ethernet interface of this host (`ip link`)";
        let (flag, value, problem) = ("--interface", name.clone(), refused.reason);
        return Err(ServerError::Start(StartError { flag, value, problem, remedy }));
    }
    if by_name {
        warn!("--io xdp: going on with UDP sockets: {}", refused.reason);
    } else {
        info!("--io auto: not xdp: {}", refused.reason);
    }
    Ok(refused.sockets.into_iter().map(of_udp).collect())
}

/// Past the stack if the driver takes part; else the better of the two socket backends, by a trial.
fn open_auto(config: &Config) -> Result<Vec<(ShardIo, Bell)>, ServerError> {
    let opened = open_xdp(config, Rung::Copy)?;
    if opened.iter().any(|(io, _)| matches!(io, ShardIo::Xdp(_))) {
        info!(
            "--io auto: xdp, since the driver hands packets past the stack, which costs several times more"
        );
        return Ok(opened);
    }
    let trial = match Trial::run() {
        Ok(trial) => trial,
        Err(reason) => {
            info!("--io auto: udp, since {reason}");
            return Ok(opened);
        }
    };
    let Trial { udp_ns, uring_ns } = trial;
    if uring_ns * 100 >= udp_ns * URING_PERCENT_MAX {
        info!("--io auto: udp, since a trial send took it {udp_ns} ns and uring {uring_ns} ns");
        return Ok(opened);
    }
    info!("--io auto: uring, since a trial send took it {uring_ns} ns and udp {udp_ns} ns");
    // Their ports are needed.
    drop(opened);
    open_uring(config)
}

/// `uring` must be better by more than a trial can err; if in doubt, the portable one.
const URING_PERCENT_MAX: u64 = 93;

/// What a send costs by either socket backend, to many destinations on loopback, as the fan-out of audio is.
struct Trial {
    udp_ns: u64,
    uring_ns: u64,
}

/// Trials of each backend, by turns; the best one counts, since whatever disturbs makes it slower.
const TRIAL_ROUNDS: usize = 5;

/// A trial takes some 5 ms.
const TRIAL_DATAGRAMS: usize = 2_048;
const TRIAL_DESTINATIONS: usize = 64;
const TRIAL_BYTES: usize = 120;

impl Trial {
    fn run() -> Result<Self, String> {
        let anywhere = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let say = |what: &str, error: String| format!("{what} cannot be tried here: {error}");
        let bell = Bell::new().map_err(|error| say("uring", error.to_string()))?;
        let options = UdpOptions { gso_segments_max: 1, ..UdpOptions::default() };
        let mut uring = UringIo::bind(anywhere, bell.clone(), options)
            .map_err(|error| say("uring", error.to_string()))?;
        let mut udp = UdpIo::bind(anywhere, bell, options).map_err(|error| say("udp", error.to_string()))?;
        let sinks: Result<Vec<_>, _> =
            (0..TRIAL_DESTINATIONS).map(|_| std::net::UdpSocket::bind(anywhere)).collect();
        let sinks = sinks.map_err(|error| say("sending", error.to_string()))?;
        let remotes: Vec<_> = sinks.iter().filter_map(|sink| sink.local_addr().ok()).collect();
        let (clock, mut best) = (Clock::start(), (Duration::MAX, Duration::MAX));
        for _ in 0..TRIAL_ROUNDS {
            best.0 = best.0.min(send_round(&mut udp, &remotes, &clock));
            best.1 = best.1.min(send_round(&mut uring, &remotes, &clock));
        }
        let each_ns = |time: Duration| time.as_nanos() as u64 / TRIAL_DATAGRAMS as u64;
        Ok(Self { udp_ns: each_ns(best.0), uring_ns: each_ns(best.1) })
    }
}

fn send_round(io: &mut impl Io, remotes: &[SocketAddr], clock: &Clock) -> Duration {
    let start = clock.now();
    for remote in remotes.iter().cycle().take(TRIAL_DATAGRAMS) {
        if io.reserve(&Path { remote: *remote, local: None }, TRIAL_BYTES).is_some() {
            io.commit(TRIAL_BYTES);
        }
    }
    io.flush();
    clock.now() - start
}

fn address(config: &Config, shard: usize) -> SocketAddr {
    SocketAddr::new(config.udp_bind, config.udp_port_of(ShardId(shard as u16)))
}

fn udp_options(config: &Config) -> UdpOptions {
    UdpOptions { gso_segments_max: config.segments_max(), ..UdpOptions::default() }
}

fn port_error(BindError { addr, source }: &BindError) -> StartError {
    let remedy = "choose free ports of an address of this host with --udp-port and --udp-bind";
    let (value, problem) = (addr.port().to_string(), source.to_string());
    StartError { flag: "--udp-port", value, problem, remedy }
}

fn uring_error(error: UringError) -> StartError {
    match error {
        UringError::Bind(error) => port_error(&error),
        UringError::Ring(error) => {
            let (value, problem) = ("uring".to_owned(), error.to_string());
            StartError { flag: "--io", value, problem, remedy: UringError::RING_REMEDY }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_ends_with_a_figure_for_both() {
        match Trial::run() {
            Ok(Trial { udp_ns, uring_ns }) => assert!(udp_ns > 0 && uring_ns > 0),
            Err(reason) => eprintln!("skipped: {reason}"),
        }
    }
}
