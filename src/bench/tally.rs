//! What one generator thread counts while a measurement runs, and how those of all threads become one.
//!
//! A packet belongs to the measurement in which it was *sent*: so what was sent and what should have come are the
//! same packets, to the last one, however long they take.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::time::Time;

/// From when on packets count, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: Time,
    pub until: Time,
    /// No packet is sent for so long, in µs, before and after: where packets are counted by others, who cannot
    /// tell when they were sent.
    pub silence_us: u64,
}

impl Window {
    /// Nothing is sent in it.
    pub const NEVER: Window = Window { from: Time::NEVER, until: Time::NEVER, silence_us: 0 };

    /// Whether speakers keep silent at this moment.
    pub fn is_silent(&self, at: Time) -> bool {
        let before = self.from.0.saturating_sub(self.silence_us) <= at.0 && at < self.from;
        before || self.until <= at && at < self.until.plus_us(self.silence_us)
    }

    pub fn has(&self, sent: Time) -> bool {
        self.from <= sent && sent < self.until
    }
}

/// Plain sums, owned by one thread at a time.
#[derive(Debug, Clone)]
pub struct Tally {
    pub window: Window,
    /// Packets sent, by track.
    pub sent: Vec<u64>,
    /// How long after it was due a packet left, in µs: the generator's own lateness.
    pub lateness_us: Histogram<u64>,
    /// Packets of the window that measured listeners got, each once.
    pub received: u64,
    pub received_bytes: u64,
    pub duplicates: u64,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// From the stamp in the speaker's packet to the arrival of the listener's, in µs.
    pub delay_us: Histogram<u64>,
    /// Packets that speakers sent again when they were asked.
    pub retransmitted: u64,
    /// Packets that did not decrypt, or were not what their number said.
    pub corrupt: u64,
    /// Packets that were decrypted and compared.
    pub decrypted: u64,
    /// First and last arrival of each packet, by track and number.
    pub arrivals: Vec<Vec<Spread>>,
    /// Packets that each measured listener got, by client.
    pub per_listener: BTreeMap<usize, u64>,
}

/// The delays of one packet over its listeners, in µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    pub first: u32,
    pub last: u32,
}

impl Spread {
    const NONE: Spread = Spread { first: u32::MAX, last: 0 };

    fn widen(&mut self, other: Spread) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// Three digits; up to a minute. Longer delays count as a minute.
const DELAY_US_MAX: u64 = 60_000_000;
const DIGITS: u8 = 3;

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, DELAY_US_MAX, DIGITS).expect("the bounds are in order")
}

impl Tally {
    pub fn new(window: Window, tracks: usize) -> Self {
        Self {
            window,
            sent: vec![0; tracks],
            lateness_us: histogram(),
            received: 0,
            received_bytes: 0,
            duplicates: 0,
            reordered: 0,
            delay_us: histogram(),
            retransmitted: 0,
            corrupt: 0,
            decrypted: 0,
            arrivals: vec![Vec::new(); tracks],
            per_listener: BTreeMap::new(),
        }
    }

    pub fn sent(&mut self, track: usize, at: Time, lateness_us: u64) {
        if self.window.has(at) {
            self.sent[track] += 1;
            self.lateness_us.saturating_record(lateness_us);
        }
    }

    /// A measured listener got packet `number` of a track, the first time.
    pub fn received(&mut self, track: usize, number: u64, delay_us: u64, bytes: usize) {
        self.received += 1;
        self.received_bytes += bytes as u64;
        self.delay_us.saturating_record(delay_us);
        let arrivals = &mut self.arrivals[track];
        let at = number as usize;
        if at >= arrivals.len() {
            arrivals.resize(at + 1, Spread::NONE);
        }
        let delay = u32::try_from(delay_us).unwrap_or(u32::MAX);
        arrivals[at].widen(Spread { first: delay, last: delay });
    }

    /// Adds what another thread counted in the same window.
    pub fn add(&mut self, other: Self) {
        self.sent.iter_mut().zip(other.sent).for_each(|(ours, theirs)| *ours += theirs);
        let compatible = "all histograms have the same bounds";
        self.lateness_us.add(other.lateness_us).expect(compatible);
        self.delay_us.add(other.delay_us).expect(compatible);
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.retransmitted += other.retransmitted;
        self.corrupt += other.corrupt;
        self.decrypted += other.decrypted;
        self.per_listener.extend(other.per_listener);
        for (ours, theirs) in self.arrivals.iter_mut().zip(other.arrivals) {
            ours.resize(ours.len().max(theirs.len()), Spread::NONE);
            ours.iter_mut().zip(theirs).for_each(|(ours, theirs)| ours.widen(theirs));
        }
    }

    /// From the first listener's arrival of a packet to the last one's, over all packets, in µs.
    pub fn spread_us(&self) -> Histogram<u64> {
        let mut spread = histogram();
        let arrived = self.arrivals.iter().flatten().filter(|packet| packet.first <= packet.last);
        arrived.for_each(|packet| spread.saturating_record(u64::from(packet.last - packet.first)));
        spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        Tally::new(Window { from: Time(100), until: Time(200), silence_us: 30 }, 2)
    }

    #[test]
    fn a_packet_counts_in_the_window_in_which_it_was_sent() {
        let mut tally = tally();
        for at in [99, 100, 199, 200] {
            tally.sent(1, Time(at), 3);
        }
        assert_eq!((tally.sent, tally.lateness_us.len()), (vec![0, 2], 2));
    }

    #[test]
    fn speakers_keep_silent_around_a_window_and_speak_in_it() {
        let window = tally().window;
        let silent: Vec<_> = (60..240).filter(|at| window.is_silent(Time(*at))).collect();
        assert_eq!(silent, (70..100).chain(200..230).collect::<Vec<_>>());
        assert!(!Window::NEVER.is_silent(Time(5)));
    }

    #[test]
    fn the_spread_of_a_packet_is_over_the_listeners_of_all_threads() {
        let (mut one, mut other) = (tally(), tally());
        one.received(0, 5, 300, 100);
        one.received(0, 5, 200, 100);
        other.received(0, 5, 950, 100);
        other.received(0, 7, 100, 100);
        one.add(other);
        let spread = one.spread_us();
        assert_eq!((spread.len(), spread.max(), spread.min()), (2, 750, 0));
        assert_eq!((one.received, one.received_bytes, one.delay_us.max()), (4, 400, 950));
    }
}
