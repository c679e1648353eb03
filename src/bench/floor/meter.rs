//! What a way of doing something costs per packet: a [`Row`] takes turns with others and keeps a [`Sample`] of each.
//!
//! CPU time is the thread's, plus that of `ksoftirqd` on its core: when softirq work piles up, the kernel moves
//! it there, and it is no less a cost of the sender for that.

use std::io;
use std::time::Duration;

use super::Group;
use crate::bench::cpu::Ksoftirqd;
use crate::bench::kernel;

/// What identifies a row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Key {
    pub group: Group,
    /// Where packets go: the name of a stage, or nothing.
    pub stage: &'static str,
    /// How it is done.
    pub path: &'static str,
    /// Packets of one send, receive or batch.
    pub segments: usize,
    /// Destinations, keys, or 1.
    pub destinations: usize,
    /// UDP payload of one packet; 0 where it does not matter.
    pub bytes: usize,
}

/// One turn of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// CPU of the measured thread per packet, or per item.
    pub cpu_ns: Option<f64>,
    /// Time from begin to end per packet, where it means something.
    pub wall_ns: Option<f64>,
    pub packets: u64,
}

/// Does something for about this long and says what it cost.
pub type Turn = Box<dyn FnMut(&Meter, Duration) -> io::Result<Sample>>;

pub struct Row {
    pub key: Key,
    turn: Turn,
    pub samples: Vec<Sample>,
    /// Why it has no more samples.
    pub failed: Option<io::Error>,
}

impl Row {
    pub fn new(key: Key, turn: Turn) -> Self {
        Self { key, turn, samples: Vec::new(), failed: None }
    }

    /// A row whose work is a pass that can be repeated; it returns how many packets it handled.
    pub fn repeating(key: Key, mut pass: impl FnMut() -> io::Result<u64> + 'static) -> Self {
        Self::new(key, Box::new(move |meter, slot| meter.repeat(slot, &mut pass)))
    }

    /// Measures once, unless it has failed before.
    pub fn take_turn(&mut self, meter: &Meter, slot: Duration) {
        if self.failed.is_some() {
            return;
        }
        match (self.turn)(meter, slot) {
            Ok(sample) => self.samples.push(sample),
            Err(error) => self.failed = Some(error),
        }
    }
}

/// Reads what was used on one core.
pub struct Meter {
    ksoftirqd: Ksoftirqd,
}

impl Meter {
    pub fn of_core(core: usize) -> Self {
        Self { ksoftirqd: Ksoftirqd::of_core(core) }
    }

    /// Nanoseconds used by this thread and by `ksoftirqd` of its core.
    pub fn cpu_ns(&self) -> u64 {
        kernel::thread_cpu_ns() + self.ksoftirqd.run_ns()
    }

    /// Repeats `pass` until `slot` is over. The first pass is not counted: it warms caches and tables.
    pub fn repeat(&self, slot: Duration, pass: &mut impl FnMut() -> io::Result<u64>) -> io::Result<Sample> {
        pass()?;
        let mut packets = 0;
        let (cpu, wall) = (self.cpu_ns(), kernel::wall_ns());
        let end = wall + slot.as_nanos() as u64;
        while kernel::wall_ns() < end || packets == 0 {
            let handled = pass()?;
            if handled == 0 {
                return Err(io::Error::other("nothing went through"));
            }
            packets += handled;
        }
        let (cpu, wall) = (self.cpu_ns() - cpu, kernel::wall_ns() - wall);
        let per_packet = |ns: u64| Some(ns as f64 / packets as f64);
        Ok(Sample { cpu_ns: per_packet(cpu), wall_ns: per_packet(wall), packets })
    }
}

/// Median, least and most of a row's samples.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let median = *values.get(values.len() / 2)?;
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_costs_what_its_thread_used_and_not_the_time_it_waited() {
        let meter = Meter::of_core(usize::MAX);
        let (never, wait) = std::sync::mpsc::channel::<()>();
        let mut pass = || {
            let _ = wait.recv_timeout(Duration::from_millis(2));
            Ok(1)
        };
        let sample = meter.repeat(Duration::from_millis(20), &mut pass).unwrap();
        drop(never);
        assert!(sample.wall_ns.unwrap() >= 2e6, "{sample:?}");
        assert!(sample.cpu_ns.unwrap() < sample.wall_ns.unwrap() / 2.0, "{sample:?}");
    }

    #[test]
    fn a_row_through_which_nothing_goes_fails_and_stays_failed() {
        let key = Key { group: Group::Send, stage: "", path: "", segments: 1, destinations: 1, bytes: 1 };
        let mut row = Row::repeating(key, || Ok(0));
        let meter = Meter::of_core(usize::MAX);
        row.take_turn(&meter, Duration::ZERO);
        row.take_turn(&meter, Duration::ZERO);
        assert!(row.samples.is_empty() && row.failed.is_some());
    }

    #[test]
    fn the_median_is_not_moved_by_one_bad_round() {
        let spread = Spread::of([3.0, 1_000.0, 1.0, 2.0, 4.0].into_iter()).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 1.0, 1_000.0));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
