//! The load generator: real clients on a server, and what they and the host saw, as figures that anyone can
//! repeat (`fanline bench …`).
//!
//! Each benchmark is a file: [`room`] measures one room, [`capacity`] looks for the largest, [`floor`] tells
//! what the host could do at best. Their settings are flags alone, apart from the server's
//! [`crate::config::Config`]: a measurement is repeated from its command line, so neither an environment nor a
//! file may change it unseen.
//!
//! A conductor: it owns threads, sockets and a server of its own, and prints. Relies on the parts of the server
//! that work from either end of a connection (`rtp`, `io`, `control::transport`); nothing relies on it.

mod addresses;
pub mod capacity;
mod cpu;
mod description;
pub mod floor;
mod history;
pub mod host;
mod html;
mod http;
pub mod kernel;
mod listener;
mod media;
pub mod netns;
mod report;
pub mod room;
mod settings;
pub mod sink;
mod socket;
mod speaker;
mod stretch;
mod tally;
mod target;
mod transport;
mod worker;

use std::fmt;

use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Benchmark {
    /// Join speakers and listeners to a room and measure loss, delay, CPU and memory
    Room(Box<room::Settings>),
    /// Look for the largest room that is served without loss and without delay
    Capacity(Box<capacity::Settings>),
    /// Measure what this host can send and receive at best
    Floor(Box<floor::Settings>),
}

/// Why there is no result: one line with the remedy, if there is one.
#[derive(Debug)]
pub struct BenchError(pub String);

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BenchError {}

/// Runs one benchmark to its end and prints its report.
///
/// # Errors
/// It could not be set up, or what it found is not fit to be reported.
pub fn run(benchmark: Benchmark) -> Result<(), BenchError> {
    match benchmark {
        Benchmark::Room(settings) => room::run(*settings),
        Benchmark::Capacity(settings) => capacity::run(*settings),
        Benchmark::Floor(settings) => floor::run(*settings),
    }
}
