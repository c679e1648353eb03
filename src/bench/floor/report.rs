//! The table, for people and as JSON: a line per row with the medians over the rounds.
//!
//! Both name the host, and what could not be had with the reason: a table without them cannot be compared.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::Group;
use super::meter::{Key, Row, Spread};
use super::stage::Description;
use crate::bench::host::HostFacts;

/// The row that others are set in relation to: the server's socket, one packet a call.
pub const FLOOR_PATH: &str = "sendmsg, both families, source named";

#[derive(Debug, Serialize)]
pub struct Report {
    benchmark: &'static str,
    version: &'static str,
    /// Not optimised: figures of such a build compare with nothing.
    debug_build: bool,
    host: HostFacts,
    rounds: u32,
    slot_ms: f64,
    stages: Vec<Description>,
    rows: Vec<Line>,
    left_out: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    cpu_ns_per_packet: Option<Spread>,
    wall_ns_per_packet: Option<Spread>,
    packets: u64,
}

impl Report {
    pub fn new(
        rounds: u32,
        slot: Duration,
        stages: Vec<Description>,
        rows: Vec<Row>,
        mut left_out: Vec<String>,
    ) -> Self {
        let mut lines = Vec::new();
        for row in rows {
            if let Some(error) = &row.failed {
                left_out.push(format!("{} {}: {error}", row.key.path, row.key.stage));
            } else {
                lines.push(Line::of(row));
            }
        }
        Self {
            benchmark: "floor",
            version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
            host: HostFacts::read(),
            rounds,
            slot_ms: slot.as_secs_f64() * 1e3,
            stages,
            rows: lines,
            left_out,
        }
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings become JSON") + "\n"
    }

    pub fn table(&self) -> String {
        let mut text =
            format!("What this host can do at best, Fanline {}\n\n{}", self.version, self.host.text());
        let slot = self.slot_ms;
        text += &format!(
            "Medians of {} rounds of {slot:.0} ms each; ± is from the least to the most.\n",
            self.rounds
        );
        if self.debug_build {
            text += "This is a debug build: build with --release before you compare anything.\n";
        }
        for stage in &self.stages {
            text += &format!("{}: {}\n", stage.name, stage.detail);
        }
        for (group, title) in [
            (Group::Send, "Send, CPU ns per packet"),
            (Group::Receive, "Receive, CPU ns per packet"),
            (Group::Seal, "Seal SRTP, CPU ns per packet"),
            (Group::HandOff, "Hand over to another core, ns per item"),
        ] {
            let lines: Vec<_> = self.rows.iter().filter(|line| line.key.group == group).collect();
            if !lines.is_empty() {
                text += &format!("\n{title}\n{}", self.lines(&lines));
            }
        }
        if !self.left_out.is_empty() {
            text += "\nLeft out\n";
            self.left_out.iter().for_each(|reason| text += &format!("  {reason}\n"));
        }
        text
    }

    fn lines(&self, lines: &[&Line]) -> String {
        let mut text = format!(
            "  {:<64} {:>3} {:>6} {:>6} {:>9} {:>15} {:>9} {:>9}\n",
            "", "k", "to", "bytes", "CPU ns", "±", "wall ns", "x sendmsg"
        );
        for line in lines {
            let key = &line.key;
            let path =
                if key.stage.is_empty() { key.path.into() } else { format!("{}: {}", key.stage, key.path) };
            let (cpu, spread) = match line.cpu_ns_per_packet {
                Some(it) => (format!("{:.0}", it.median), format!("{:.0}..{:.0}", it.min, it.max)),
                None => ("-".into(), "-".into()),
            };
            let wall = line.wall_ns_per_packet.map_or("-".into(), |it| format!("{:.0}", it.median));
            let ratio = self.times_sendmsg(line).map_or(String::new(), |it| format!("{it:.2}"));
            let (k, to, bytes) = (key.segments, key.destinations, key.bytes);
            writeln!(
                text,
                "  {path:<64} {k:>3} {to:>6} {bytes:>6} {cpu:>9} {spread:>15} {wall:>9} {ratio:>9}"
            )
            .expect("a String takes any text");
        }
        text
    }

    /// The cost of a line that sends, over that of the bare `sendmsg` in the same place.
    fn times_sendmsg(&self, line: &Line) -> Option<f64> {
        let key = &line.key;
        let floor = self.rows.iter().find(|other| {
            other.key == Key { path: FLOOR_PATH, segments: 1, ..key.clone() } && key.group == Group::Send
        })?;
        Some(line.cpu_ns_per_packet?.median / floor.cpu_ns_per_packet?.median)
    }
}

impl Line {
    fn of(row: Row) -> Self {
        Self {
            cpu_ns_per_packet: Spread::of(row.samples.iter().filter_map(|sample| sample.cpu_ns)),
            wall_ns_per_packet: Spread::of(row.samples.iter().filter_map(|sample| sample.wall_ns)),
            packets: row.samples.iter().map(|sample| sample.packets).sum(),
            key: row.key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::floor::meter::Sample;

    fn row(path: &'static str, cpu_ns: f64) -> Row {
        let key = Key { group: Group::Send, stage: "veth", path, segments: 1, destinations: 10, bytes: 120 };
        let mut row = Row::repeating(key, || Ok(1));
        row.samples.push(Sample { cpu_ns: Some(cpu_ns), wall_ns: None, packets: 7 });
        row
    }

    #[test]
    fn a_row_is_set_in_relation_to_the_bare_send_of_its_place() {
        let rows = vec![row(FLOOR_PATH, 2_000.0), row("AF_PACKET", 500.0)];
        let report = Report::new(1, Duration::from_millis(1), Vec::new(), rows, Vec::new());
        let table = report.table();
        let line = table.lines().find(|line| line.contains("AF_PACKET")).unwrap();
        assert!(line.trim_end().ends_with("0.25"), "{line}");
    }

    #[test]
    fn a_row_that_failed_is_named_with_its_reason_and_has_no_figure() {
        let mut broken = row("broken", 1.0);
        broken.failed = Some(std::io::Error::other("no such road"));
        let report = Report::new(1, Duration::from_millis(1), Vec::new(), vec![broken], Vec::new());
        assert!(report.rows.is_empty());
        assert!(report.table().contains("no such road"));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["left_out"][0], "broken veth: no such road");
    }
}
