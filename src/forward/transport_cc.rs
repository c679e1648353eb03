//! What the publisher's bandwidth estimator needs to hear: when each of its packets arrived.
//!
//! One recorder per transport, because the transport-wide sequence runs over all streams of a publisher
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01 §2). Without this feedback a browser never raises
//! its upper simulcast layers. Deliberately absent: when to send (the shard's timer) and the wire form
//! (`rtp::rtcp`).

use crate::rtp::rtcp::Writer;
use crate::time::Time;

/// How many of the latest sequence numbers are remembered: half a second at 50 Mbit/s of 1,500 B packets,
/// far more than one feedback interval of 50-100 ms. 8 B each: 16 KB per publisher.
const WINDOW: u64 = 2048;

/// 250 µs, the resolution of the feedback.
const TICK_US: u64 = 250;

/// Arrival times by transport-wide sequence number, and how far they have been told.
pub struct ArrivalRecorder {
    /// By extended sequence modulo the window; [`Time::NEVER`] is "has not arrived".
    arrivals: Box<[Time]>,
    /// The first extended sequence that the next feedback covers.
    next: u64,
    /// One more than the highest extended sequence seen; 0 before the first packet.
    end: u64,
    feedback_count: u8,
}

impl Default for ArrivalRecorder {
    fn default() -> Self {
        Self::new()
    }
}

impl ArrivalRecorder {
    pub fn new() -> Self {
        Self { arrivals: vec![Time::NEVER; WINDOW as usize].into(), next: 0, end: 0, feedback_count: 0 }
    }

    /// Notes that the packet with this transport-wide sequence number arrived.
    ///
    /// A late packet that was told as lost is told again, as received, with all after it. Of duplicates the
    /// first counts; a packet older than the window is forgotten.
    pub fn record(&mut self, sequence: u16, now: Time) {
        let extended = self.extend(sequence);
        if extended >= self.end {
            self.advance_to(extended);
        } else if self.end - extended > WINDOW || self.arrival(extended).is_some() {
            return;
        }
        *self.slot(extended) = now;
        self.next = self.next.min(extended);
    }

    /// Writes one feedback packet about what arrived since the last one. False if there is nothing to tell or
    /// the writer has no room. True says that there may be more: call again, with the same
    /// writer or another.
    pub fn feedback(&mut self, writer: &mut Writer<'_>, sender_ssrc: u32, media_ssrc: u32) -> bool {
        let arrivals = (self.next..self.end)
            .map(|extended| self.arrival(extended).map(|arrived| (arrived.0 / TICK_US) as i64));
        let base = self.next as u16;
        let told = writer.transport_feedback(sender_ssrc, media_ssrc, self.feedback_count, base, arrivals);
        if told == 0 {
            return false;
        }
        self.next += told as u64;
        self.feedback_count = self.feedback_count.wrapping_add(1);
        true
    }

    /// The extended sequence nearest to the highest so far. The first one starts a cycle up, so that
    /// a packet from before it has a number too.
    fn extend(&self, sequence: u16) -> u64 {
        match self.end.checked_sub(1) {
            None => (1 << 16) + u64::from(sequence),
            Some(highest) => {
                highest.saturating_add_signed(sequence.wrapping_sub(highest as u16) as i16 as i64)
            }
        }
    }

    /// Makes `extended` the highest sequence; those passed over have not arrived.
    fn advance_to(&mut self, extended: u64) {
        let first = if self.end == 0 { extended } else { self.end };
        let skipped = extended - first;
        if skipped >= WINDOW {
            self.arrivals.fill(Time::NEVER);
        } else {
            (first..extended).for_each(|passed| *self.slot(passed) = Time::NEVER);
        }
        if self.end == 0 {
            self.next = extended;
        }
        self.end = extended + 1;
        self.next = self.next.max(self.end.saturating_sub(WINDOW));
    }

    fn slot(&mut self, extended: u64) -> &mut Time {
        &mut self.arrivals[(extended % WINDOW) as usize]
    }

    fn arrival(&self, extended: u64) -> Option<Time> {
        let arrived = self.arrivals[(extended % WINDOW) as usize];
        (arrived != Time::NEVER).then_some(arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::rtcp::{Packet, TransportFeedback, packets};
    use proptest::prelude::*;

    const START: Time = Time(1_800_000_000_000_000);

    type Told = Vec<(u16, Option<i64>)>;

    /// What one feedback packet says, with arrivals in ticks from `START`, modulo the 24-bit reference time.
    fn told_in(recorder: &mut ArrivalRecorder, room: usize) -> Option<(u8, Told)> {
        let mut buffer = vec![0; room];
        let mut writer = Writer::new(&mut buffer);
        if !recorder.feedback(&mut writer, 1, 2) {
            return None;
        }
        let compound = writer.finish();
        let Some(Ok(Packet::TransportFeedback { sender: 1, media: 2, body })) = packets(compound).next()
        else {
            panic!("{compound:?}")
        };
        let feedback = TransportFeedback::parse(body).unwrap();
        let start = (START.0 / TICK_US) as u32;
        let from_start = |ticks: i64| i64::from((ticks as u32).wrapping_sub(start) as i32);
        let told = feedback.statuses().map(|(sequence, ticks)| (sequence, ticks.map(from_start))).collect();
        Some((feedback.feedback_count, told))
    }

    fn told(recorder: &mut ArrivalRecorder) -> Told {
        told_in(recorder, 1_200).map_or(vec![], |(_, told)| told)
    }

    #[test]
    fn feedback_tells_arrivals_and_losses_since_the_last_one() {
        let mut recorder = ArrivalRecorder::new();
        assert_eq!(told(&mut recorder), []);
        recorder.record(65_534, START);
        recorder.record(65_535, START.plus_ms(1));
        recorder.record(1, START.plus_ms(10));
        assert_eq!(told(&mut recorder), [(65_534, Some(0)), (65_535, Some(4)), (0, None), (1, Some(40))]);
        assert_eq!(told(&mut recorder), [], "all is told");
        recorder.record(2, START.plus_ms(11));
        assert_eq!(told(&mut recorder), [(2, Some(44))]);
    }

    #[test]
    fn late_packet_told_as_lost_is_told_again_as_received() {
        let mut recorder = ArrivalRecorder::new();
        recorder.record(10, START);
        recorder.record(12, START.plus_ms(2));
        assert_eq!(told(&mut recorder), [(10, Some(0)), (11, None), (12, Some(8))]);
        recorder.record(11, START.plus_ms(3));
        recorder.record(11, START.plus_ms(9));
        assert_eq!(told(&mut recorder), [(11, Some(12)), (12, Some(8))], "the delta back is negative");
    }

    #[test]
    fn packet_from_before_the_first_one_is_told() {
        let mut recorder = ArrivalRecorder::new();
        recorder.record(0, START);
        recorder.record(65_535, START.plus_ms(1));
        assert_eq!(told(&mut recorder), [(65_535, Some(4)), (0, Some(0))]);
    }

    #[test]
    fn pause_longer_than_a_delta_can_tell_splits_the_feedback() {
        let mut recorder = ArrivalRecorder::new();
        recorder.record(1, START);
        recorder.record(2, START.plus_ms(60_000));
        assert_eq!(told_in(&mut recorder, 1_200), Some((0, vec![(1, Some(0))])));
        assert_eq!(told_in(&mut recorder, 1_200), Some((1, vec![(2, Some(240_000))])));
    }

    #[test]
    fn jump_beyond_the_window_forgets_what_was_before_it() {
        let mut recorder = ArrivalRecorder::new();
        recorder.record(1, START);
        recorder.record(10_001, START.plus_ms(1));
        let statuses = told(&mut recorder);
        assert_eq!(statuses.len() as u64, WINDOW);
        assert_eq!(statuses.last(), Some(&(10_001, Some(4))));
        assert_eq!(statuses.iter().filter(|(_, arrival)| arrival.is_some()).count(), 1);
        recorder.record(2, START.plus_ms(2));
        assert_eq!(told(&mut recorder), [], "older than the window");
    }

    proptest! {
        #[test]
        fn every_arrival_is_told_and_within_250_us(
            first: u16,
            gaps in prop::collection::vec((1u16..6, 0u64..20_000), 1..300),
            swaps in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            feedback_every in 1usize..100,
            room in 40usize..1_200,
        ) {
            let mut sequence = first;
            let mut sequences: Vec<_> = gaps.iter().map(|&(gap, _)| {
                sequence = sequence.wrapping_add(gap);
                sequence
            }).collect();
            for swap in swaps {
                let at = swap.index(sequences.len());
                let other = (at + 5).min(sequences.len() - 1);
                sequences.swap(at, other);
            }

            let mut recorder = ArrivalRecorder::new();
            let mut now = START;
            let mut arrived = std::collections::BTreeMap::new();
            let mut told = std::collections::BTreeMap::new();
            for (i, (&sequence, &(_, gap_us))) in sequences.iter().zip(&gaps).enumerate() {
                now = now.plus_us(gap_us);
                recorder.record(sequence, now);
                arrived.insert(sequence, now);
                if i % feedback_every == 0 || i + 1 == sequences.len() {
                    while let Some((_, statuses)) = told_in(&mut recorder, room) {
                        told.extend(statuses);
                    }
                }
            }
            for (sequence, arrived) in arrived {
                let ticks = told[&sequence].expect("an arrival is not told as lost in the end");
                let error_us = arrived.since(START) as i64 - ticks * TICK_US as i64;
                prop_assert!((0..TICK_US as i64).contains(&error_us), "{} {}", sequence, error_us);
            }
        }
    }
}
