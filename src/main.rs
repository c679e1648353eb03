//! The program: reads the settings, starts logging, greets, runs the server or a benchmark. The only file of the
//! server that prints, exits, or touches what a process has one of: its allocator, its log, its environment.
//!
//! Exit codes: 0 after a signal, 1 if the server failed while running, 2 if a setting must change first.

use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use rand::TryRngCore;
use rand::rngs::OsRng;
use tracing_subscriber::EnvFilter;

use fanline::bench::{self, Benchmark};
use fanline::config::{App, Config, Host, Loaded, LogFormat};
use fanline::server::{self, Ready, ServerError};

/// mimalloc keeps a heap per thread and frees into it without a lock: shards, and the control thread
/// during a storm of joins, never wait for each other's allocations. The packet path allocates nothing,
/// so this is about joins and memory, not about packets per second.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXIT_FAILED: u8 = 1;
const EXIT_SETTING: u8 = 2;

fn main() -> ExitCode {
    let host = match Host::this() {
        Ok(host) => host,
        Err(error) => return fail(EXIT_FAILED, &format!("cannot look at this host: {error}")),
    };
    match Config::load(std::env::args_os(), std::env::vars_os(), &host) {
        Ok(Loaded::Serve(config)) => serve(*config, host),
        Ok(Loaded::Bench(benchmark)) => measure(benchmark),
        Ok(Loaded::Text(text)) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => fail(EXIT_SETTING, &error.to_string()),
    }
}

fn serve(mut config: Config, host: Host) -> ExitCode {
    start_logging(&config);
    if config.apps.is_empty() {
        match development_app() {
            Ok(app) => config.use_development_app(app),
            Err(error) => return fail(EXIT_FAILED, &format!("no randomness for a development app: {error}")),
        }
    }
    let greeting = Greeting::of(&config);
    let apps = move || Config::load_apps(std::env::args_os(), std::env::vars_os(), &host);
    match server::run(config, apps, |ready| print(&greeting.text(ready))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ ServerError::Start(_)) => fail(EXIT_SETTING, &error.to_string()),
        Err(error @ ServerError::Failed(_)) => fail(EXIT_FAILED, &error.to_string()),
    }
}

fn measure(benchmark: Benchmark) -> ExitCode {
    match bench::run(benchmark) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILED, &error.to_string()),
    }
}

/// Log lines go to standard error: standard output belongs to the greeting, which scripts read.
fn start_logging(config: &Config) {
    let filter = EnvFilter::new(&config.log);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

/// A new id and secret for each start: nothing to forget in production.
fn development_app() -> Result<App, rand::rand_core::OsError> {
    let (mut id, mut secret) = ([0; 16], [0; 32]);
    OsRng.try_fill_bytes(&mut id)?;
    OsRng.try_fill_bytes(&mut secret)?;
    Ok(App::development(id, secret))
}

/// What the person who started the server wants to know next. Shows a secret only if it was made for this
/// start, since nobody else has shown it to them.
struct Greeting {
    development_app: Option<App>,
    demo: bool,
}

impl Greeting {
    fn of(config: &Config) -> Self {
        Self { development_app: config.development_app().cloned(), demo: config.serves_demo() }
    }

    fn text(&self, ready: Ready) -> String {
        let origin = format!("http://{}", reachable(ready.http));
        let (id, secret) = match &self.development_app {
            Some(app) => (app.id.0.as_str(), app.secret.reveal()),
            None => ("APP_ID", "APP_SECRET"),
        };
        let mut text = format!("Fanline {} is ready.\n\n", env!("CARGO_PKG_VERSION"));
        text += &format!("  API     {origin}/v1\n");
        if self.development_app.is_some() {
            text += &format!("  App     {id}\n  Secret  {secret}\n");
            text += "          made for this start only; set --app ID:SECRET to keep one\n";
        }
        if self.demo {
            text += &format!("  Demo    {origin}/demo\n");
        }
        text += &format!("\n  Try     curl -X POST -H 'Authorization: Bearer {secret}' \\\n");
        text += &format!("            {origin}/v1/apps/{id}/sessions/new\n");
        text
    }
}

/// Where a client on this host reaches a listener: its address, or loopback for a wildcard.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        bound => bound,
    }
}

/// A reader that went away is no reason to stop a server.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn fail(code: u8, problem: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "fanline: {problem}");
    ExitCode::from(code)
}
