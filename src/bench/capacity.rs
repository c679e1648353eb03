//! The largest room that a server serves: listeners are added in steps until packets are lost or late.
//!
//! One room for the whole search: it grows, and each step is measured as `bench room` measures. A step that fails
//! is measured once more before it ends the search, since on a shared machine anything can fail once.

use clap::Args;
use serde::Serialize;
use std::time::Duration;

use super::BenchError;
use super::host::HostFacts;
use super::report::{JoinReport, PhaseReport, Report};
use super::room::{self, Room};
use super::settings::Common;

/// The settings of `fanline bench capacity`.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    pub common: Common,

    /// Listeners of the first step
    #[arg(long, value_name = "N", default_value = "500", help_heading = "Search")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub first: u32,

    /// Listeners that each further step adds; the result is good to as many
    #[arg(long, value_name = "N", default_value = "500", help_heading = "Search")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub step: u32,

    /// Listeners at which the search ends in any case
    #[arg(long, value_name = "N", default_value = "20000", help_heading = "Search")]
    pub listeners_max: usize,

    /// Most packets lost, in percent of those expected
    #[arg(long, value_name = "PERCENT", default_value = "0.01", help_heading = "Search")]
    pub loss_max: f64,

    /// Longest 99th percentile of the delay, in µs
    #[arg(long, value_name = "US", default_value = "10000", help_heading = "Search")]
    pub p99_us_max: u64,

    /// Seconds that each step is measured, after one second in which it settles
    #[arg(long, value_name = "SECONDS", default_value = "5", help_heading = "Search")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
}

/// What the search found.
#[derive(Debug, Clone, Serialize)]
pub struct CapacityReport {
    /// Of the largest step that passed; 0 if none did.
    pub listeners: usize,
    pub listeners_per_core: f64,
    pub server_cores: usize,
    pub loss_max: f64,
    pub p99_us_max: u64,
    /// Why it is not more.
    pub limit: String,
}

/// From the last join of a step to its measurement.
const SETTLING: Duration = Duration::from_secs(1);

/// # Errors
/// The room could not be opened, or a report could not be written.
pub fn run(settings: Settings) -> Result<(), BenchError> {
    let report = room::block_on(search(&settings))?;
    report.print();
    report.write(settings.common.json.as_deref(), settings.common.html.as_deref())
}

async fn search(settings: &Settings) -> Result<Report, BenchError> {
    let host = HostFacts::read();
    let mut room = Room::open(&settings.common).await?;
    let mut phases: Vec<PhaseReport> = Vec::new();
    let (mut joins, mut memory): (Option<JoinReport>, _) = (None, None);
    let mut largest = 0;
    let limit = loop {
        let wanted = settings.first as usize + phases.len() * settings.step as usize;
        if wanted > settings.listeners_max {
            break format!("the search ended at --listeners-max {}", settings.listeners_max);
        }
        let joined = room.join(wanted - room.listeners, settings.common.joins_per_second).await?;
        let failed = joined.failed;
        joins = Some(joins.map_or(joined.clone(), |before| before.and_then(&joined)));
        if failed > 0 {
            break format!("{failed} listeners could not join when there were {}", room.listeners);
        }
        memory = room.memory();
        let (phase, problem) = measure(&mut room, settings, wanted).await?;
        phases.push(phase);
        match problem {
            None => largest = wanted,
            Some(problem) => break problem,
        }
    };
    let cores = room.server_cores();
    let capacity = CapacityReport {
        listeners: largest,
        listeners_per_core: largest as f64 / cores.max(1) as f64,
        server_cores: cores,
        loss_max: settings.loss_max / 100.0,
        p99_us_max: settings.p99_us_max,
        limit,
    };
    let joins = joins.ok_or_else(|| BenchError("--first is above --listeners-max".into()))?;
    Ok(Report::new(&settings.common, joins, memory, phases, host).with_capacity(capacity))
}

/// Measures a step, twice if it fails. Returns what speaks against it.
async fn measure(
    room: &mut Room,
    settings: &Settings,
    listeners: usize,
) -> Result<(PhaseReport, Option<String>), BenchError> {
    room.idle(SETTLING).await;
    let name = listeners.to_string();
    let phase = room.measure(&name, settings.seconds, None).await?;
    if problem(&phase, settings).is_none() {
        return Ok((phase, None));
    }
    let again = room.measure(&name, settings.seconds, None).await?;
    let problem = problem(&again, settings);
    Ok((again, problem))
}

fn problem(phase: &PhaseReport, settings: &Settings) -> Option<String> {
    let percent = phase.loss * 100.0;
    let p99 = phase.delay_us.p99;
    let problem = if percent >= settings.loss_max {
        format!("{} listeners lose {percent:.4} % of their packets", phase.listeners)
    } else if p99 > settings.p99_us_max {
        format!("at {} listeners 1 % of the packets take {p99} µs or more", phase.listeners)
    } else {
        return None;
    };
    match phase.doubts().is_empty() {
        true => Some(problem),
        false => Some(format!("{problem}, and it may be the generator's doing (see the doubts)")),
    }
}
