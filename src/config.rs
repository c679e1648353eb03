//! Every setting of the server, once: the documentation of a field is its help text, its attribute
//! holds the name, the default and the check. Flags, environment, file and `--help` all come from it.
//!
//! Relies on `source` to lay flags over environment over file over default, and on `value` to parse.
//! Absent on purpose: the real environment and the real host. Both are arguments of [`Config::load`],
//! so a test can be any machine.

mod source;
mod value;

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::bench::Benchmark;
use crate::control::request::AppId;

pub use source::{ConfigError, Origin};
use source::{Layered, Origins};
pub use value::{App, Backend, CoreRange, Demo, LogFormat, Placement, Secret};
use value::{boolean, ip_addr, log_filter, socket_addr, timeout, unicast_addr, wait, within, zero_or_within};

/// Fanline: a selective forwarding unit with the sessions/tracks API, on a thread-per-core UDP data plane.
#[derive(Parser)]
#[command(name = "fanline", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the server.
    #[command(after_help = SOURCES_HELP)]
    Serve(Box<Config>),
    /// Measure a server, or this host.
    #[command(subcommand)]
    Bench(Benchmark),
}

const SOURCES_HELP: &str = "\
Each flag is also an environment variable and a key of the file: --udp-port is FANLINE_UDP_PORT and udp_port.
A flag wins over the environment, the environment over the file, the file over the default. A flag that may
be repeated takes a comma-separated list in the environment and an array in the file. An empty variable counts
as unset.";

/// The settings of `fanline serve`, checked one by one and against each other.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Address and TCP port of the HTTP API; port 0 takes any free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080", value_parser = socket_addr)]
    pub http: SocketAddr,

    /// UDP port of shard 0; shard n uses this plus n. 0 takes any free port for each
    #[arg(long, value_name = "FIRST", default_value = "40000", value_parser = within::<u16>(0..=65_535))]
    pub udp_port: u16,

    /// Address the UDP ports are bound to; `::` receives IPv6 and IPv4, or IPv4 alone where there is no IPv6
    #[arg(long, value_name = "IP", default_value = "::", value_parser = ip_addr)]
    pub udp_bind: IpAddr,

    /// Address that clients are told to send media to; may be repeated [default: each address of the host
    /// that --udp-bind covers, loopback last]
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = unicast_addr)]
    pub advertise: Vec<IpAddr>,

    /// Shards of the data plane, each a thread pinned to a core of its own [default: one per core in --cores]
    #[arg(long, value_name = "N", value_parser = within::<u16>(1..=1_024))]
    shards: Option<u16>,

    /// Cores for the shards, like 0,2-3 [default: all that the process may use]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cores: Vec<CoreRange>,

    /// The core of each shard, in the order of shards. Never empty.
    #[arg(skip)]
    pub shard_cores: Vec<usize>,

    /// Application allowed to use the API: its id and its bearer token; may be repeated. Other users of the
    /// host can read a command line: prefer the file, as `[[apps]]` with id and secret; SIGHUP reads it again
    /// [default: a random development app, printed at start]
    #[arg(long = "app", alias = "apps", id = "app", value_name = "ID:SECRET", value_delimiter = ',')]
    pub apps: Vec<App>,

    /// Whether the one app was made at start-up for a first try.
    #[arg(skip)]
    development: bool,

    /// How log lines on standard error look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged: a level, or directives like info,fanline::control=debug
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log: String,

    /// How long a session may exist without ever connecting
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    pub never_connected_timeout: Duration,

    /// How long a connected session may be silent (no verified ICE check) before it ends
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    pub connectivity_timeout: Duration,

    /// How long a published track may carry no packet before it ends
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    pub media_timeout: Duration,

    /// How long a request waits for the session's transport to connect
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = wait)]
    pub connect_wait: Duration,

    /// How long a pull waits for its publisher's first packet
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = wait)]
    pub pull_wait: Duration,

    /// How long an offer of the server may stay unanswered before it is rolled back
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = timeout)]
    pub offer_timeout: Duration,

    /// How long a data channel subscription with waitForAck may wait for its first message before it ends
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    pub ack_timeout: Duration,

    /// Largest request body accepted, in bytes
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = within::<usize>(1_024..=67_108_864))]
    pub max_body_bytes: usize,

    /// Most tracks in one request
    #[arg(long, value_name = "N", default_value = "64", value_parser = within::<usize>(1..=10_000))]
    pub max_tracks_per_request: usize,

    /// Most requests per second for one session; more are answered 429
    #[arg(long, value_name = "N", default_value = "50", value_parser = within::<u32>(1..=1_000_000))]
    pub max_requests_per_second: u32,

    /// Most sessions at a time; the transport of one takes about 40 KB, so 50,000 take 2 GB
    #[arg(long, value_name = "N", default_value = "50000", value_parser = within::<usize>(1..=10_000_000))]
    pub max_sessions: usize,

    /// Serve the demo page at /demo; auto: only when a development app was made
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Demo::Auto)]
    demo: Demo,

    /// How packets reach the network; udp: system calls, on any Linux; uring: io_uring, from Linux 6.0 on; xdp:
    /// past the kernel's IP stack and firewall, needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF, steps down where it
    /// must; auto: xdp if the driver takes part, else the faster of the others. The log says what it came to
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = Backend::Udp)]
    pub io: Backend,

    /// Interface that packets take past the stack, with xdp [default: that of an advertised address, else of
    /// the default route]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,

    /// How long packets of audio may wait for others of audio, in microseconds, so that several speakers' packets to
    /// one listener leave in one send; video never waits
    #[arg(long, value_name = "US", default_value = "0", value_parser = within::<u32>(0..=100_000))]
    pub audio_hold_us: u32,

    /// How long an idle shard looks for work before it sleeps, in microseconds, as long as most of its latest waits
    /// ended within that; 0 always sleeps
    #[arg(long, value_name = "US", default_value = "50", value_parser = within::<u32>(0..=10_000_000))]
    pub spin_us: u32,

    /// How a shard is chosen for a new session; least-legs: where the fewest subscriptions are
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Placement::LeastLegs)]
    pub placement: Placement,

    /// Most packets to one subscriber in one segmented send: the length of a burst towards its access link
    #[arg(long, value_name = "N", default_value = "10", value_parser = within::<u8>(1..=64))]
    pub gso_segments: u8,

    /// RTP padding that a packet may get so that it fits a segmented send with others, in percent of its size;
    /// 0: none
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = within::<u8>(0..=50))]
    pub padding_percent: u8,

    /// How fast video leaves for one subscriber, in percent of its estimated bandwidth; what is more than one segmented
    /// send waits. At least 100, as video gets up to all of the estimate; 0: nothing waits
    #[arg(long, value_name = "PERCENT", default_value = "150", value_parser = zero_or_within::<u16>(100..=1_000))]
    pub pacing_percent: u16,

    /// How old the latest key frame may be for a new subscriber of video to begin with it and what followed, in
    /// milliseconds; 0: it always waits for the next one
    #[arg(long, value_name = "MILLISECONDS", default_value = "1000", value_parser = within::<u16>(0..=5_000))]
    pub catch_up_ms: u16,

    /// Send each datagram by itself, without generic segmentation offload (to rule a driver out)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, default_value = "false", value_parser = boolean)]
    pub no_gso: bool,
}

/// What the command line asked for.
#[derive(Debug)]
pub enum Loaded {
    Serve(Box<Config>),
    Bench(Benchmark),
    /// Help or version: a text for standard output, and nothing else to do.
    Text(String),
}

/// What the settings are checked against: the machine, or what a test says it is.
#[derive(Debug, Clone)]
pub struct Host {
    /// The cores this process may run on, ascending.
    pub cores: Vec<usize>,
    /// The addresses of its interfaces, in their order.
    pub addresses: Vec<IpAddr>,
}

impl Host {
    /// The machine this runs on. Fails if the kernel does not list its interfaces or cores.
    pub fn this() -> io::Result<Self> {
        let cores = core_affinity::get_core_ids()
            .filter(|cores| !cores.is_empty())
            .ok_or_else(|| io::Error::other("the kernel does not tell which cores may be used"))?;
        let addresses = if_addrs::get_if_addrs()?.iter().map(|interface| interface.ip()).collect();
        Ok(Self { cores: cores.into_iter().map(|core| core.id).collect(), addresses })
    }
}

impl Config {
    /// Reads the command line (`args` begins with the program's name), `env`, and the file that one of
    /// them names. The first setting that is unknown, illegible or impossible is the error.
    pub fn load(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        host: &Host,
    ) -> Result<Loaded, ConfigError> {
        match source::parse::<CommandLine>(args, env)? {
            Layered::Text(text) => Ok(Loaded::Text(text)),
            Layered::Parsed(CommandLine { verb: Verb::Serve(mut config) }, origins) => {
                config.resolve(&origins, host)?;
                Ok(Loaded::Serve(config))
            }
            Layered::Parsed(CommandLine { verb: Verb::Bench(benchmark) }, _) => Ok(Loaded::Bench(benchmark)),
        }
    }

    /// The apps that a start would take now, from the same sources as [`Config::load`]. All settings must be
    /// fit for a start, so that a reload never accepts what the next one would refuse.
    pub fn load_apps(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        host: &Host,
    ) -> Result<Vec<App>, ConfigError> {
        match Self::load(args, env, host)? {
            Loaded::Serve(config) => Ok(config.apps),
            Loaded::Bench(_) | Loaded::Text(_) => Ok(Vec::new()),
        }
    }

    /// Takes `app`, made at random, as the only one; for when none is configured.
    pub fn use_development_app(&mut self, app: App) {
        self.apps = vec![app];
        self.development = true;
    }

    /// The app made at random, if that is the one in use.
    pub fn development_app(&self) -> Option<&App> {
        self.apps.first().filter(|_| self.development)
    }

    /// Whether `/demo` is served.
    pub fn serves_demo(&self) -> bool {
        match self.demo {
            Demo::Auto => self.development,
            Demo::On => true,
            Demo::Off => false,
        }
    }

    /// The most datagrams that one send may carry.
    pub fn segments_max(&self) -> usize {
        if self.no_gso { 1 } else { self.gso_segments.into() }
    }

    /// The UDP port that `shard` binds; 0 for any.
    pub fn udp_port_of(&self, shard: crate::id::ShardId) -> u16 {
        if self.udp_port == 0 { 0 } else { self.udp_port.saturating_add(shard.0) }
    }

    /// Fills in what depends on the host, and checks settings against each other.
    fn resolve(&mut self, origins: &Origins, host: &Host) -> Result<(), ConfigError> {
        self.shard_cores = self.choose_cores(host).map_err(|(id, problem)| origins.error(id, problem))?;
        self.check_udp_ports().map_err(|problem| origins.error("udp_port", problem))?;
        self.choose_addresses(host).map_err(|problem| origins.error("advertise", problem))?;
        match self.repeated_app() {
            Some(AppId(id)) => {
                Err(origins.error("app", format!("`{id}` is listed twice; keep one secret for it")))
            }
            None => Ok(()),
        }
    }

    /// The core of each shard, or the setting to blame and why.
    fn choose_cores(&self, host: &Host) -> Result<Vec<usize>, (&'static str, String)> {
        let mut cores: Vec<usize> = Vec::new();
        for core in self.cores.iter().flat_map(|range| range.0.clone()) {
            if !host.cores.contains(&core) {
                return Err((
                    "cores",
                    format!("core {core} is not there; choose from {}", list(&host.cores)),
                ));
            }
            if !cores.contains(&core) {
                cores.push(core);
            }
        }
        if cores.is_empty() {
            cores.clone_from(&host.cores);
        }
        let shards = self.shards.map_or(cores.len(), usize::from);
        if shards > cores.len() {
            let have = list(&cores);
            return Err((
                "shards",
                format!("each shard needs a core of its own and there are only {have}; lower it"),
            ));
        }
        cores.truncate(shards);
        Ok(cores)
    }

    fn check_udp_ports(&self) -> Result<(), String> {
        let shards = self.shard_cores.len();
        let highest = 65_536 - shards;
        if usize::from(self.udp_port) > highest {
            return Err(format!("{shards} shards need as many ports from it on; use {highest} or less"));
        }
        Ok(())
    }

    fn choose_addresses(&mut self, host: &Host) -> Result<(), String> {
        let bind = self.udp_bind;
        if let Some(unreachable) = self.advertise.iter().find(|ip| !receives(bind, **ip)) {
            return Err(format!(
                "nothing sent to {unreachable} reaches --udp-bind {bind}; bind :: for both families"
            ));
        }
        if self.advertise.is_empty() {
            self.advertise = if bind.is_unspecified() { reachable_addresses(bind, host) } else { vec![bind] };
        }
        Ok(())
    }

    fn repeated_app(&self) -> Option<&AppId> {
        let ids = || self.apps.iter().map(|app| &app.id);
        ids().enumerate().find(|(n, id)| ids().take(*n).any(|earlier| earlier == *id)).map(|(_, id)| id)
    }
}

/// Whether a socket bound to `bind` can receive what is sent to an address of `ip`'s family. The address
/// itself may differ: a NAT in front translates it.
fn receives(bind: IpAddr, ip: IpAddr) -> bool {
    bind.is_ipv4() == ip.is_ipv4() || bind == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Every address of the host that a client could use; loopback last, since browsers try in this order
/// and only a client on the same host can use it. A link-local IPv6 address means nothing without its
/// interface, which a candidate cannot carry.
fn reachable_addresses(bind: IpAddr, host: &Host) -> Vec<IpAddr> {
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let outside = host.addresses.iter().copied().filter(|ip| !ip.is_loopback() && !link_local(ip));
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in outside.chain([loopback]).filter(|ip| receives(bind, *ip)) {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    addresses
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
