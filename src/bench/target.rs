//! The server that is measured: one that runs already, or one of this program's own, started for the purpose on
//! cores of its own and ended with the measurement.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{CpuSet, sched_setaffinity};

use super::BenchError;
use super::cpu::{self, CpuReading};
use super::http::Backend;
use super::netns::Pair;
use super::settings::Common;

pub struct Target {
    pub backend: Backend,
    /// Its process, if it is on this host and known.
    pub pid: Option<u32>,
    pub cores: Vec<usize>,
    /// Ours to end.
    _child: Option<OwnServer>,
}

/// Killed when dropped.
struct OwnServer(Child);

/// The app that a server of our own is started with. It listens where nobody else comes.
const APP_ID: &str = "bench";
const APP_SECRET: &str = "only-for-this-measurement";

impl Target {
    /// Starts a server if none is named; in the near end of `link` if there is one.
    pub fn find(settings: &Common, cores: Vec<usize>, link: Option<&Pair>) -> Result<Self, BenchError> {
        let Common { api, app_id, app_secret, server_pid, .. } = settings;
        if let (Some(api), Some(id), Some(secret)) = (api, app_id, app_secret) {
            let backend = Backend::new(api, id, secret)?;
            return Ok(Self { backend, pid: *server_pid, cores, _child: None });
        }
        let (server, api) = OwnServer::start(settings, &cores, link)?;
        let backend = Backend::new(&api, APP_ID, APP_SECRET)?;
        Ok(Self { backend, pid: Some(server.0.id()), cores, _child: Some(server) })
    }

    pub fn cpu(&self) -> Option<CpuReading> {
        self.pid.map(|pid| CpuReading::take(pid, &self.cores))
    }

    pub fn resident_bytes(&self) -> Option<u64> {
        self.pid.and_then(cpu::resident_bytes)
    }
}

impl OwnServer {
    /// Starts it and returns the address of its API.
    fn start(settings: &Common, cores: &[usize], link: Option<&Pair>) -> Result<(Self, String), BenchError> {
        let failed = |problem: String| BenchError(format!("the server could not be started: {problem}"));
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(program);
        command
            .args(flags(settings, cores, link))
            .env("FANLINE_APP", format!("{APP_ID}:{APP_SECRET}"))
            .env("FANLINE_MAX_REQUESTS_PER_SECOND", "1000000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = match link {
            Some(pair) => pair.near.run(|| spawn_on(cores, command)),
            None => spawn_on(cores, command),
        };
        let mut child = child.map_err(|error| failed(error.to_string()))?;
        let stdout = child.stdout.take().expect("it is piped");
        let server = Self(child);
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let api = lines.filter_map(|line| Some(line.trim().strip_prefix("API")?.trim().to_owned())).next();
        match api {
            Some(api) => Ok((server, api)),
            None => Err(failed("it ended before it was ready; its own words are above".into())),
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Our own choices, where the flags of the user make none.
fn flags(settings: &Common, cores: &[usize], link: Option<&Pair>) -> Vec<String> {
    let http = link.map_or("127.0.0.1:0".to_owned(), |pair| format!("{}:0", pair.near_ip));
    let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
    let cores = cores.join(",");
    let ours = [
        ("--http", http.as_str()),
        ("--udp-port", "0"),
        ("--log", "warn"),
        ("--cores", &cores),
        ("--max-sessions", "1000000"),
    ];
    let given = |name: &str| {
        settings.server_flags.iter().any(|flag| flag == name || flag.starts_with(&format!("{name}=")))
    };
    let ours = ours.into_iter().filter(|(name, _)| !given(name)).flat_map(|(name, value)| [name, value]);
    let ours = ours.map(str::to_owned);
    ["serve".to_owned()].into_iter().chain(ours).chain(settings.server_flags.iter().cloned()).collect()
}

/// Starts a process whose threads may run on these cores only: a child has the affinity of the thread that
/// starts it.
fn spawn_on(cores: &[usize], mut command: Command) -> std::io::Result<Child> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    let starter = thread::Builder::new().name("starter".into()).spawn(move || {
        sched_setaffinity(None, &set)?;
        command.spawn()
    })?;
    starter.join().map_err(|_| std::io::Error::other("the starting thread has panicked"))?
}
