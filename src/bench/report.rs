//! What a measurement found, as figures: for people as a table, for programs as JSON.
//!
//! `docs/bench.md` defines each figure. A figure that could not be had is absent, never zero.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::BenchError;
use super::capacity::CapacityReport;
use super::cpu::{CpuReading, CpuUse};
use super::host::HostFacts;
use super::settings::Common;
use super::tally::Tally;
use crate::time::Time;

/// A whole measurement.
#[derive(Debug, Serialize)]
pub struct Report {
    pub host: HostFacts,
    pub program: Program,
    /// With which it can be repeated.
    pub command: Vec<String>,
    pub speakers: u16,
    pub tracks: usize,
    pub joins: JoinReport,
    pub memory: Option<MemoryReport>,
    pub phases: Vec<PhaseReport>,
    /// Of a search for the largest room.
    pub capacity: Option<CapacityReport>,
    /// Delays of each phase against the first: the price of a storm.
    pub p99_against_first: Vec<f64>,
    /// Why these figures may not be the server's. Empty if nothing speaks against them.
    pub doubts: Vec<String>,
}

/// What was measured with, and as far as it is a server of this program's, what was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Program {
    pub version: &'static str,
    /// Of the working tree, if this runs in one.
    pub git_commit: Option<String>,
    /// `debug` or `release`, by what the compiler was told.
    pub build: &'static str,
}

impl Program {
    pub fn this() -> Self {
        let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
        let commit = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
        let commit = commit.map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        Self { version: env!("CARGO_PKG_VERSION"), git_commit: commit, build }
    }
}

/// Percentiles in µs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// How clients came in.
#[derive(Debug, Clone, Serialize)]
pub struct JoinReport {
    pub wanted: usize,
    pub joined: u64,
    pub failed: usize,
    /// Of each kind of failure one.
    pub failures: Vec<String>,
    pub seconds: f64,
    /// From the first request to the SRTP keys.
    pub connect_us: Percentiles,
    /// From the first request to a packet of each track.
    pub heard_us: Percentiles,
}

/// Resident memory of the server, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MemoryReport {
    pub before_bytes: u64,
    pub after_bytes: u64,
    pub per_listener_bytes: Option<u64>,
}

/// One stretch of time that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseReport {
    pub name: String,
    pub seconds: f64,
    pub listeners: usize,
    pub sent: u64,
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    /// Lost of expected, 0..=1.
    pub loss: f64,
    pub listeners_with_loss: usize,
    /// Of the listener that lost most, 0..=1.
    pub worst_loss: f64,
    pub duplicates: u64,
    pub reordered: u64,
    /// By speakers, on request.
    pub retransmitted: u64,
    pub corrupt: u64,
    pub decrypted: u64,
    pub delay_us: Percentiles,
    pub spread_us: Percentiles,
    /// Into the server and out of it.
    pub packets_in_per_second: f64,
    pub packets_out_per_second: f64,
    pub goodput_bps: f64,
    pub cpu: Option<CpuReport>,
    pub server: Option<ServerReport>,
    pub generator: GeneratorReport,
    pub joins: Option<JoinReport>,
    /// The delays of `delay_us` from which a plot is drawn: quantile and µs.
    pub delay_curve: Vec<(f64, u64)>,
}

/// CPU time of the server, per forwarded packet in nanoseconds.
#[derive(Debug, Clone, Serialize)]
pub struct CpuReport {
    pub user_ns: f64,
    pub system_ns: f64,
    pub softirq_ns: f64,
    pub total_ns: f64,
    /// Of the total: threads that are not shards.
    pub control_ns: f64,
    /// How much of the time the server's cores were busy with anything, 0..=1.
    pub cores_busy: f64,
    /// What one core would forward at this cost, were it all busy.
    pub packets_per_core_second: f64,
    pub raw: CpuUse,
}

/// What a server that tells its numbers as Fanline does has counted.
#[derive(Debug, Clone, Serialize)]
pub struct ServerReport {
    pub datagrams_sent: f64,
    pub sends: f64,
    pub segments_per_send: f64,
    pub drops: f64,
}

/// How the generator itself fared.
#[derive(Debug, Clone, Serialize)]
pub struct GeneratorReport {
    /// Of each thread, 0..=1.
    pub threads_busy: Vec<f64>,
    /// Of its cores together, whoever used them, 0..=1.
    pub cores_busy: f64,
    /// Datagrams that the kernel dropped at its sockets.
    pub receive_drops: u64,
    /// Of the smallest of its sockets' receive buffers.
    pub receive_buffer_bytes: Option<usize>,
    pub send_failures: u64,
    /// How late packets left, after they were due.
    pub lateness_us: Percentiles,
}

/// What is read at both ends of a phase.
pub struct Readings {
    pub at: Time,
    pub server: Option<CpuReading>,
    pub metrics: Option<String>,
    pub packets: u64,
    pub packets_sent: u64,
    pub send_failures: u64,
    pub generator_drops: u64,
    pub receive_buffer_bytes: Option<usize>,
    pub generator_ns: Vec<u64>,
    pub generator_cores: CpuReading,
}

/// A thread that is busier than this may have been what held packets up.
const BUSY_MAX: f64 = 0.9;

/// Speakers later than this at their 99th percentile are no steady source.
const LATENESS_US_MAX: u64 = 5_000;

impl Percentiles {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

impl JoinReport {
    pub fn new(
        wanted: usize,
        took: Duration,
        connect: &Histogram<u64>,
        heard: &Histogram<u64>,
        mut failures: Vec<String>,
    ) -> Self {
        const SHOWN_MAX: usize = 5;
        let failed = failures.len();
        failures.sort();
        failures.dedup();
        failures.truncate(SHOWN_MAX);
        Self {
            wanted,
            joined: heard.len(),
            failed,
            failures,
            seconds: took.as_secs_f64(),
            connect_us: Percentiles::of(connect),
            heard_us: Percentiles::of(heard),
        }
    }

    /// These joins and later ones; percentiles are those of the later.
    pub fn and_then(self, later: &Self) -> Self {
        Self {
            wanted: self.wanted + later.wanted,
            joined: self.joined + later.joined,
            failed: self.failed + later.failed,
            failures: self.failures.into_iter().chain(later.failures.clone()).collect(),
            seconds: self.seconds + later.seconds,
            ..*later
        }
    }
}

impl MemoryReport {
    pub fn new(before_bytes: u64, after_bytes: u64, listeners: usize) -> Self {
        let per_listener_bytes = after_bytes.saturating_sub(before_bytes).checked_div(listeners as u64);
        Self { before_bytes, after_bytes, per_listener_bytes }
    }
}

impl PhaseReport {
    pub fn new(
        name: &str,
        listeners: usize,
        tally: &Tally,
        before: &Readings,
        after: &Readings,
        joins: Option<JoinReport>,
    ) -> Self {
        let window = tally.window;
        let seconds = (window.until - window.from).as_secs_f64();
        let sent: u64 = tally.sent.iter().sum();
        let expected = sent * listeners as u64;
        // Of those that a sink took away, the bytes are those of the others.
        let received: u64 = tally.per_listener.values().sum();
        let bytes = tally.received_bytes as f64 * received as f64 / tally.received.max(1) as f64;
        let lost = expected.saturating_sub(received);
        let lost_by = |received: &u64| sent.saturating_sub(*received);
        let worst = tally.per_listener.values().map(lost_by).max().unwrap_or_default();
        let delay_curve = curve(&tally.delay_us);
        Self {
            name: name.to_owned(),
            seconds,
            listeners,
            sent,
            expected,
            received,
            lost,
            loss: ratio(lost, expected),
            listeners_with_loss: tally.per_listener.values().filter(|received| lost_by(received) > 0).count(),
            worst_loss: ratio(worst, sent),
            duplicates: tally.duplicates,
            reordered: tally.reordered,
            retransmitted: tally.retransmitted,
            corrupt: tally.corrupt,
            decrypted: tally.decrypted,
            delay_us: Percentiles::of(&tally.delay_us),
            spread_us: Percentiles::of(&tally.spread_us()),
            packets_in_per_second: sent as f64 / seconds,
            packets_out_per_second: received as f64 / seconds,
            goodput_bps: bytes * 8.0 / seconds,
            cpu: CpuReport::new(before, after),
            server: ServerReport::new(before, after),
            generator: GeneratorReport::new(tally, before, after),
            joins,
            delay_curve,
        }
    }

    /// What speaks against taking this phase for the server's doing.
    pub fn doubts(&self) -> Vec<String> {
        let GeneratorReport { threads_busy, receive_drops, send_failures, lateness_us, .. } = &self.generator;
        let mut doubts = Vec::new();
        let name = &self.name;
        if *receive_drops > 0 {
            doubts.push(format!(
                "{name}: the generator's sockets dropped {receive_drops} datagrams, which count as lost; give it \
                 more cores (--generator-cores) or raise net.core.rmem_max"
            ));
        }
        if let Some(busy) = threads_busy.iter().copied().find(|busy| *busy > BUSY_MAX) {
            doubts.push(format!(
                "{name}: a generator thread was busy {:.0} % of the time; give it more cores (--generator-cores)",
                busy * 100.0
            ));
        }
        if *send_failures > 0 {
            doubts.push(format!("{name}: {send_failures} datagrams of the generator could not be sent"));
        }
        if lateness_us.p99 > LATENESS_US_MAX {
            doubts.push(format!(
                "{name}: 1 % of packets were sent {} µs or more after they were due; something else uses the \
                 generator's cores",
                lateness_us.p99
            ));
        }
        doubts
    }
}

impl CpuReport {
    fn new(before: &Readings, after: &Readings) -> Option<Self> {
        let wall = after.at - before.at;
        let raw = after.server.as_ref()?.since(before.server.as_ref()?, wall);
        let packets = after.packets - before.packets;
        let per_packet = |ns: u64| ns as f64 / packets.max(1) as f64;
        let wall_ns = wall.as_nanos() as f64;
        let total_ns = per_packet(raw.total_ns);
        Some(Self {
            user_ns: per_packet(raw.user_ns),
            system_ns: per_packet(raw.system_ns),
            softirq_ns: per_packet(raw.softirq_ns),
            total_ns,
            control_ns: per_packet(raw.control_ns),
            cores_busy: raw.cores_busy_ns as f64 / (wall_ns * after.server.as_ref()?.cores().max(1) as f64),
            packets_per_core_second: if total_ns > 0.0 { 1e9 / total_ns } else { 0.0 },
            raw,
        })
    }
}

impl ServerReport {
    fn new(before: &Readings, after: &Readings) -> Option<Self> {
        let (before, after) = (before.metrics.as_ref()?, after.metrics.as_ref()?);
        let grown = |name| Some(metric(after, name)? - metric(before, name)?);
        let datagrams_sent = grown("fanline_datagrams_sent_total")?;
        let sends = grown("fanline_sends_total")?;
        let segments_per_send = datagrams_sent / sends.max(1.0);
        Some(Self { datagrams_sent, sends, segments_per_send, drops: grown("fanline_drops_total")? })
    }
}

impl GeneratorReport {
    fn new(tally: &Tally, before: &Readings, after: &Readings) -> Self {
        let wall = after.at - before.at;
        let wall_ns = wall.as_nanos() as f64;
        let threads = after.generator_ns.iter().zip(&before.generator_ns);
        let cores = after.generator_cores.since(&before.generator_cores, wall);
        Self {
            threads_busy: threads.map(|(after, before)| (after - before) as f64 / wall_ns).collect(),
            cores_busy: cores.cores_busy_ns as f64 / (wall_ns * after.generator_cores.cores().max(1) as f64),
            receive_buffer_bytes: after.receive_buffer_bytes,
            receive_drops: after.generator_drops - before.generator_drops,
            send_failures: after.send_failures - before.send_failures,
            lateness_us: Percentiles::of(&tally.lateness_us),
        }
    }
}

impl Report {
    pub fn new(
        settings: &Common,
        joins: JoinReport,
        memory: Option<MemoryReport>,
        phases: Vec<PhaseReport>,
        host: HostFacts,
    ) -> Self {
        let first = phases.first().map_or(0, |phase| phase.delay_us.p99);
        let mut doubts: Vec<_> = phases.iter().flat_map(PhaseReport::doubts).collect();
        let program = Program::this();
        if program.build == "debug" {
            doubts.push("this is a debug build: its figures are not to be compared with anything".into());
        }
        Self {
            host,
            program,
            command: std::env::args().collect(),
            speakers: settings.speakers,
            tracks: usize::from(settings.speakers) * settings.shapes().len(),
            joins,
            memory,
            p99_against_first: phases.iter().map(|phase| ratio(phase.delay_us.p99, first)).collect(),
            phases,
            capacity: None,
            doubts,
        }
    }

    pub fn with_capacity(self, capacity: CapacityReport) -> Self {
        Self { capacity: Some(capacity), p99_against_first: Vec::new(), ..self }
    }

    /// Shows it on standard output.
    pub fn print(&self) {
        let mut out = io::stdout().lock();
        // A reader that went away is no reason to fail.
        let _ = out.write_all(self.text().as_bytes());
    }

    /// # Errors
    /// A file could not be written.
    pub fn write(&self, json: Option<&Path>, html: Option<&Path>) -> Result<(), BenchError> {
        let write = |path: &Path, text: String| {
            fs::write(path, text).map_err(|error| BenchError(format!("{}: {error}", path.display())))
        };
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(self).expect("a report is plain data");
            write(path, text + "\n")?;
        }
        if let Some(path) = html {
            write(path, super::html::page(self))?;
        }
        Ok(())
    }

    /// What was measured, where and by what.
    pub fn head(&self) -> String {
        let Program { version, git_commit, build } = &self.program;
        let commit = git_commit.as_deref().map(|commit| format!(" ({commit})")).unwrap_or_default();
        let (speakers, tracks, host) = (self.speakers, self.tracks, self.host.text());
        format!("{host}fanline {version}{commit}, {build} build; {speakers} speakers, {tracks} tracks\n")
    }

    fn text(&self) -> String {
        let joins = &self.joins;
        let mut text = format!("\n{}\n", self.head());
        text += &join_lines("joined", joins);
        if let Some(memory) = &self.memory {
            let per_listener = memory.per_listener_bytes.unwrap_or_default() as f64 / 1_024.0;
            text += &line("server memory", &format!("{per_listener:.1} KiB per listener"));
        }
        for (at, phase) in self.phases.iter().enumerate() {
            text += &phase_lines(phase);
            if let Some(against) = self.p99_against_first.get(at).filter(|_| at > 0) {
                text += &line("p99 against the first phase", &format!("× {against:.2}"));
            }
        }
        if let Some(capacity) = &self.capacity {
            let CapacityReport { listeners, listeners_per_core, server_cores, limit, .. } = capacity;
            text += &format!(
                "\n{listeners} listeners on {server_cores} cores, {listeners_per_core:.0} per core\n"
            );
            text += &line("why not more", limit);
        }
        self.doubts.iter().for_each(|doubt| text += &format!("\nDOUBT  {doubt}"));
        text + "\n"
    }
}

fn line(name: &str, value: &str) -> String {
    format!("  {name:<28} {value}\n")
}

fn join_lines(name: &str, joins: &JoinReport) -> String {
    let JoinReport { wanted, joined, failed, failures, seconds, connect_us, heard_us } = joins;
    let failed = if *failed > 0 { format!(", {failed} failed") } else { String::new() };
    let mut text = line(name, &format!("{joined} of {wanted} in {seconds:.1} s{failed}"));
    text += &line("  until connected, ms", &in_ms(connect_us));
    text += &line("  until all tracks heard, ms", &in_ms(heard_us));
    failures.iter().for_each(|failure| text += &line("  failure", failure));
    text
}

fn in_ms(Percentiles { p50, p90, p99, max, .. }: &Percentiles) -> String {
    let ms = |us: &u64| *us as f64 / 1_000.0;
    format!("p50 {:.1}  p90 {:.1}  p99 {:.1}  max {:.1}", ms(p50), ms(p90), ms(p99), ms(max))
}

fn in_us(Percentiles { p50, p90, p99, p999, max }: &Percentiles) -> String {
    format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max}")
}

fn phase_lines(phase: &PhaseReport) -> String {
    let mut text = format!("\n{}, {:.0} s, {} listeners\n", phase.name, phase.seconds, phase.listeners);
    let PhaseReport { packets_in_per_second: packets_in, packets_out_per_second: packets_out, .. } = phase;
    let megabits = phase.goodput_bps / 1e6;
    text += &line("packets/s in, out", &format!("{packets_in:.0}, {packets_out:.0} ({megabits:.1} Mb/s)"));
    let PhaseReport { lost, expected, loss, listeners_with_loss, worst_loss, .. } = phase;
    let percent = loss * 100.0;
    let worst = worst_loss * 100.0;
    text += &line(
        "lost",
        &format!(
            "{lost} of {expected} ({percent:.4} %); {listeners_with_loss} listeners, worst {worst:.2} %"
        ),
    );
    let PhaseReport { duplicates, reordered, corrupt, decrypted, .. } = phase;
    text += &line("duplicates, reordered", &format!("{duplicates}, {reordered}"));
    if phase.retransmitted > 0 {
        text += &line("retransmitted by speakers", &phase.retransmitted.to_string());
    }
    text += &line("corrupt", &format!("{corrupt} of {decrypted} decrypted"));
    text += &line("delay, µs", &in_us(&phase.delay_us));
    text += &line("first to last listener, µs", &in_us(&phase.spread_us));
    if let Some(CpuReport { user_ns, system_ns, softirq_ns, total_ns, .. }) = &phase.cpu {
        let parts = format!("user {user_ns:.0} + system {system_ns:.0} + softirq {softirq_ns:.0}");
        text += &line("server CPU per packet, ns", &format!("{total_ns:.0} = {parts}"));
    }
    if let Some(CpuReport { control_ns, cores_busy, packets_per_core_second, .. }) = &phase.cpu {
        text += &line("  of it not shards", &format!("{control_ns:.0}"));
        text += &line("packets/s per core", &format!("{packets_per_core_second:.0}"));
        text += &line("server cores busy", &format!("{:.0} %", cores_busy * 100.0));
    }
    if let Some(ServerReport { segments_per_send, drops, .. }) = &phase.server {
        text += &line("segments per send, drops", &format!("{segments_per_send:.2}, {drops:.0}"));
    }
    let busy: Vec<_> =
        phase.generator.threads_busy.iter().map(|busy| format!("{:.0} %", busy * 100.0)).collect();
    text += &line("generator threads busy", &busy.join(", "));
    text += &line("generator late, µs", &in_us(&phase.generator.lateness_us));
    if let Some(joins) = &phase.joins {
        text += &join_lines("joined meanwhile", joins);
    }
    text
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The sum over all labels of a metric of an OpenMetrics page.
fn metric(page: &str, name: &str) -> Option<f64> {
    let values = page.lines().filter_map(|line| {
        let (series, value) = line.split_once(' ')?;
        (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// Quantiles towards 1, each step half as far from it as the one before.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    const STEPS_PER_HALF: u32 = 4;
    let points = histogram.iter_quantiles(STEPS_PER_HALF);
    points.map(|point| (point.quantile_iterated_to(), point.value_iterated_to())).collect()
}

/// Between two lines of progress.
const INTERVAL: Duration = Duration::from_millis(950);

/// Lines on standard error that tell how far it is.
pub struct Progress {
    last: Option<(Time, u64)>,
    phase: String,
}

impl Progress {
    pub fn new() -> Self {
        Self { last: None, phase: "joining".into() }
    }

    pub fn phase(&mut self, name: &str) {
        self.phase = name.to_owned();
    }

    /// `packets` is how many listeners have received so far.
    pub fn show(&mut self, now: Time, listeners: usize, joining: usize, packets: u64, failed: usize) {
        let (then, before) = self.last.unwrap_or((now, packets));
        if self.last.is_some() && now - then < INTERVAL {
            return;
        }
        self.last = Some((now, packets));
        let rate = (packets - before) as f64 / (now - then).as_secs_f64().max(0.001);
        let phase = &self.phase;
        let text = format!(
            "{phase}: {listeners} listeners, {joining} joining, {failed} failed, {rate:.0} packets/s"
        );
        let mut out = io::stderr().lock();
        // On a terminal one line that changes; in a log a line a second.
        let _ = match out.is_terminal() {
            true => write!(out, "\r\x1b[K{text}"),
            false => writeln!(out, "{text}"),
        };
        let _ = out.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut out = io::stderr().lock();
        if out.is_terminal() {
            let _ = writeln!(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_over_its_labels() {
        let page = "# HELP x\nx_total{shard=\"0\"} 3\nx_total{shard=\"1\"} 4.5\nx_total_more 9\n";
        assert_eq!(metric(page, "x_total"), Some(7.5));
        assert_eq!(metric(page, "y_total"), None);
    }

    #[test]
    fn memory_per_listener_is_absent_without_listeners() {
        assert_eq!(MemoryReport::new(100, 300, 0).per_listener_bytes, None);
        assert_eq!(MemoryReport::new(100, 300, 4).per_listener_bytes, Some(50));
    }
}
