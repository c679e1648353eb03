//! The listeners of a room whose packets a [`Sink`] counts, so that the generator has no work with them.
//!
//! A listener joins as all do, hears every track, and is sunk from then on; the sample is not. In a room with one
//! track, sequence numbers say how many packets there were, so that the loss of the sunk listeners is exact, too.
//! With several, a count alone cannot tell a lost packet from one that comes a moment later: then loss is that
//! of the sample, and the sunk listeners' packets count only for the cost of a packet.

use std::io;

use serde::Serialize;

use super::settings::Common;
use super::sink::{Seen, Sink};
use super::{BenchError, kernel};
use crate::io::xdp::bpf::XdpMode;

/// Those of one room.
pub struct Sunk {
    sink: Sink,
    /// Of the listeners that are measured.
    measured: Vec<u16>,
    /// Of those that joined in a storm.
    others: Vec<u16>,
}

/// What the sunk listeners of one phase got.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SunkReport {
    pub listeners: usize,
    pub packets: u64,
    /// By sequence numbers; nothing if there are several tracks.
    pub expected: Option<u64>,
    pub lost: Option<u64>,
    /// How many of them missed a packet.
    pub listeners_with_loss: usize,
    /// Of the listener that lost most, 0..=1.
    pub worst_loss: f64,
}

impl Sunk {
    /// Nobody yet, at the interface that the settings name; `None` if they name none.
    ///
    /// # Errors
    /// The interface is not there or takes no program, or several threads share the addresses.
    pub fn attach(settings: &Common, threads: usize) -> Result<Option<Self>, BenchError> {
        let Some(name) = &settings.sink else { return Ok(None) };
        if threads > 1 {
            let problem =
                "--sink tells clients apart by address, which threads share; give --generator-cores one core";
            return Err(BenchError(problem.into()));
        }
        let index = kernel::interface_index(name).ok_or_else(|| {
            BenchError(format!(
                "--sink {name}: there is no such interface here; `ip link` shows which there are"
            ))
        })?;
        let sink = Sink::attach(index, XdpMode::Driver, settings.client_net.address(0), []);
        let sink = sink.map_err(|error| BenchError(format!("--sink {name}: {error}")))?;
        Ok(Some(Self { sink, measured: Vec::new(), others: Vec::new() }))
    }

    /// From here on this client, which has heard all tracks, is counted by the sink alone.
    ///
    /// # Errors
    /// None that the kernel documents.
    pub fn add(&mut self, number: u16, is_measured: bool) -> io::Result<()> {
        if is_measured { &mut self.measured } else { &mut self.others }.push(number);
        self.sink.sink(number)
    }

    /// How many of the measured listeners are sunk.
    pub fn measured(&self) -> usize {
        self.measured.len()
    }

    /// Of the measured ones, in the order in which they were added.
    pub fn seen(&self) -> Vec<Seen> {
        // A map lookup by a valid index cannot fail.
        self.measured.iter().map(|number| self.sink.seen(*number).unwrap_or_default()).collect()
    }

    /// Packets of all of them so far.
    pub fn packets(&self) -> u64 {
        let all = self.measured.iter().chain(&self.others);
        all.map(|number| self.sink.seen(*number).unwrap_or_default().packets).sum()
    }
}

impl SunkReport {
    /// What came between two readings, of so many tracks.
    pub fn between(before: &[Seen], after: &[Seen], tracks: usize) -> Self {
        let mut report = Self {
            listeners: before.len(),
            packets: 0,
            expected: (tracks == 1).then_some(0),
            lost: (tracks == 1).then_some(0),
            listeners_with_loss: 0,
            worst_loss: 0.0,
        };
        for (before, after) in before.iter().zip(after) {
            let packets = after.packets.saturating_sub(before.packets);
            report.packets += packets;
            if let (Some(expected), Some(lost)) = (&mut report.expected, &mut report.lost) {
                let wanted = u64::from(after.sequence.wrapping_sub(before.sequence));
                let missing = wanted.saturating_sub(packets);
                *expected += wanted;
                *lost += missing;
                report.listeners_with_loss += usize::from(missing > 0);
                report.worst_loss = report.worst_loss.max(missing as f64 / wanted.max(1) as f64);
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(packets: u64, sequence: u16) -> Seen {
        Seen { packets, sequence }
    }

    #[test]
    fn what_the_numbers_promise_and_the_count_lacks_is_lost() {
        let before = [seen(10, 65_530), seen(10, 100)];
        let after = [seen(20, 4), seen(17, 110)];
        let report = SunkReport::between(&before, &after, 1);
        assert_eq!((report.packets, report.expected, report.lost), (17, Some(20), Some(3)));
        assert_eq!((report.listeners_with_loss, report.worst_loss), (1, 0.3));
    }

    #[test]
    fn of_several_tracks_only_packets_are_known() {
        let report = SunkReport::between(&[seen(0, 5)], &[seen(30, 15)], 3);
        assert_eq!((report.packets, report.expected, report.lost), (30, None, None));
    }
}
