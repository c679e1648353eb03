//! `fanline bench floor`: what this host can do at best, so that a server's figures have something to stand beside.
//!
//! Nothing of the server is measured but its sealing, its ring and its backends; the rest is bare system calls.
//! A server's cost per forwarded packet, divided by the cost of one bare `sendmsg` from the same run, says how
//! much of the host a forwarder leaves unused; the quotient carries over to other hosts, nanoseconds do not.
//!
//! How it measures: every way of sending is a [`Row`], prepared beforehand, that runs again and again for a slot
//! of time. All rows take turns, round after round, so that a neighbour's load or a change of clock speed meets
//! all of them; the median over the rounds is reported, with the least and the most. CPU is that of the thread,
//! user and system, with the softirq work that the kernel does on its back, and that of `ksoftirqd` on its core.
//!
//! [`stage`] says where the packets go, [`send`], [`receive`], [`seal`] and [`hand_off`] what is done, [`report`]
//! what is shown. Everything happens in namespaces of its own where there are rights for that.

pub mod hand_off;
pub mod meter;
pub mod receive;
pub mod report;
pub mod seal;
pub mod send;
pub mod stage;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{BenchError, kernel};
use meter::{Meter, Row};
use report::Report;
use stage::Stage;

/// The settings of `fanline bench floor`.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// How long to measure, in seconds; more make the medians steadier
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,

    /// Rounds in which all rows take turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,

    /// What to measure
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum,
          default_values_t = [Group::Send, Group::Receive, Group::Seal, Group::HandOff])]
    only: Vec<Group>,

    /// Destinations that a turn sends to
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1_000, 10_000],
          value_parser = clap::value_parser!(u16).range(1..=30_000))]
    destinations: Vec<u16>,

    /// UDP payloads, in bytes
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [120, 1_200],
          value_parser = clap::value_parser!(u16).range(16..=1_400))]
    bytes: Vec<u16>,

    /// Send to addresses from this one on, a /16 behind --sink, instead of over a veth pair and loopback of our own
    #[arg(long, value_name = "IP", requires = "sink", value_parser = network)]
    target: Option<Ipv4Addr>,

    /// Where what is sent to --target is counted and dropped: an interface in a named network namespace of this host
    #[arg(long, value_name = "NAMESPACE/INTERFACE", requires = "target", value_parser = sink_place)]
    sink: Option<(String, String)>,

    /// The core that measures; the one behind it is the partner of a hand-off [default: the first allowed]
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,

    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// From memory to the network
    Send,
    /// From a socket to memory
    Receive,
    /// SRTP, per profile
    Seal,
    /// From one core to another
    HandOff,
}

/// The last two bytes number the destinations.
fn network(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text.parse().map_err(|_| "give an IPv4 address".to_owned())?;
    if address.to_bits() & 0xffff == 0 {
        Ok(address)
    } else {
        Err("give the first of a /16, like 198.19.0.0".into())
    }
}

fn sink_place(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, interface)) if !namespace.is_empty() && !interface.is_empty() => {
            Ok((namespace.into(), interface.into()))
        }
        _ => Err("give a namespace and an interface of it, like generator/veth1".into()),
    }
}

/// Measures and prints.
///
/// # Errors
/// The core may not be used, or a target was given and cannot be reached. What else cannot be had is left out of
/// the table, with the reason.
pub fn run(settings: Settings) -> Result<(), BenchError> {
    let cores = allowed_cores();
    let core = settings.core.or_else(|| cores.first().copied());
    let core = core.filter(|core| cores.contains(core)).ok_or_else(|| {
        BenchError(format!("--core: not a core that this process may use; choose from {cores:?}"))
    })?;
    let partner =
        cores.iter().copied().cycle().skip_while(|other| *other != core).nth(1).filter(|it| *it != core);
    let json = settings.json.clone();
    // A thread of its own: it is pinned, and moves into network namespaces.
    let measuring = thread::Builder::new()
        .name("floor".into())
        .spawn(move || measure(&settings, core, partner))
        .map_err(|error| BenchError(format!("cannot start a thread: {error}")))?;
    let report = measuring.join().map_err(|_| BenchError("the measuring thread has panicked".into()))??;
    let printed = io::stdout().lock().write_all(report.table().as_bytes());
    printed.map_err(|error| BenchError(format!("cannot print: {error}")))?;
    match json {
        Some(path) => fs::write(&path, report.json())
            .map_err(|error| BenchError(format!("cannot write {}: {error}", path.display()))),
        None => Ok(()),
    }
}

fn allowed_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

fn measure(settings: &Settings, core: usize, partner: Option<usize>) -> Result<Report, BenchError> {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return Err(BenchError(format!("cannot pin to core {core}")));
    }
    kernel::raise_open_files();
    let meter = Meter::of_core(core);
    let mut left_out = Vec::new();
    let stages = stages(settings, &mut left_out)?;
    let mut rows = rows(settings, &stages, partner, &mut left_out);
    let slot = Duration::from_secs(settings.seconds.into()) / settings.rounds / rows.len().max(1) as u32;
    let mut progress = Progress::new(settings.rounds);
    for round in 0..settings.rounds {
        progress.show(round, rows.len());
        for row in &mut rows {
            row.take_turn(&meter, slot);
        }
    }
    progress.end();
    Ok(Report::new(settings.rounds, slot, stages.iter().map(Stage::describe).collect(), rows, left_out))
}

/// Where to send to. A target that was asked for is an error if it cannot be had; what is only our default is
/// left out.
fn stages(settings: &Settings, left_out: &mut Vec<String>) -> Result<Vec<Stage>, BenchError> {
    if !settings.only.contains(&Group::Send) {
        return Ok(Vec::new());
    }
    if let (Some(target), Some((namespace, interface))) = (settings.target, &settings.sink) {
        return Ok(vec![Stage::target(target, namespace, interface)?]);
    }
    let mut stages = Vec::new();
    for made in [Stage::veth(), Stage::loopback()] {
        match made {
            Ok(stage) => stages.push(stage),
            Err(error) => left_out.push(error.to_string()),
        }
    }
    Ok(stages)
}

fn rows(
    settings: &Settings,
    stages: &[Stage],
    partner: Option<usize>,
    left_out: &mut Vec<String>,
) -> Vec<Row> {
    let wanted = |group| settings.only.contains(&group);
    let mut rows = Vec::new();
    for stage in stages {
        if let Err(error) = stage.enter() {
            left_out.push(format!("{}: cannot enter its namespace: {error}", stage.name()));
            continue;
        }
        let past_the_stack = if stage.has_link() { Some(send::PastTheStack::open(stage)) } else { None };
        let past_the_stack = match past_the_stack {
            Some(Err(error)) => {
                left_out.push(format!("backend xdp on {}: {error}", stage.name()));
                None
            }
            opened => opened.and_then(Result::ok),
        };
        for &destinations in &settings.destinations {
            for &bytes in &settings.bytes {
                rows.extend(send::rows(stage, past_the_stack.as_ref(), destinations, bytes.into(), left_out));
            }
        }
    }
    for &bytes in &settings.bytes {
        if wanted(Group::Receive) {
            rows.extend(receive::rows(bytes.into(), partner, left_out));
        }
        if wanted(Group::Seal) {
            rows.extend(seal::rows(bytes.into()));
        }
    }
    if wanted(Group::HandOff) {
        match partner {
            Some(partner) => rows.extend(hand_off::rows(partner, left_out)),
            None => left_out.push("hand-off: this process may use one core alone".into()),
        }
    }
    rows
}

/// Tells a person at a terminal how far it is.
struct Progress {
    rounds: u32,
    shown: bool,
}

impl Progress {
    fn new(rounds: u32) -> Self {
        Self { rounds, shown: io::stderr().is_terminal() }
    }

    fn show(&mut self, round: u32, rows: usize) {
        if self.shown {
            eprint!("\rround {} of {}, {rows} rows ", round + 1, self.rounds);
        }
    }

    fn end(&mut self) {
        if self.shown {
            eprintln!();
        }
    }
}
