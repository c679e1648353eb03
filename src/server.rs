//! Puts the planes together and runs them until the process is told to stop.
//!
//! Relies on a checked [`Config`]. Does not exit, print or install anything global: `main` does, so that a
//! test can run a server beside itself. What is here is the HTTP listener alone; it knows no path yet.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;

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

/// Runs the server on this thread; calls `on_ready` once it accepts requests. Returns after SIGTERM or
/// SIGINT, when the requests under way have been answered.
pub fn run(config: Config, on_ready: impl FnOnce(Ready)) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = StopSignal::new()?;
        let listener = bind_http(config.http).await.map_err(ServerError::Start)?;
        on_ready(Ready { http: listener.local_addr()? });
        axum::serve(listener, Router::new()).with_graceful_shutdown(stop.received()).await?;
        tracing::info!("stopped");
        Ok(())
    })
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
