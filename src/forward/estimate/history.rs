//! What has been sent and not yet forgotten, by transport-wide sequence number.
//!
//! Feedback names packets by 16 bits only; when they were sent, how large they were and for which probe is
//! looked up here. Each packet is told once as received, and before that at most once as lost, however often
//! feedback repeats itself.

use crate::rtp::rtcp::TransportFeedback;
use crate::time::Time;

/// How many of the latest packets are remembered: 0.8 s at 25 Mb/s of 1,200 B packets, twice what is in flight
/// over a round trip of 300 ms with feedback every 100 ms. 12 B each: 24 KB per subscriber of video.
pub const WINDOW: u64 = 2_048;

/// 250 µs, the resolution of the feedback.
const TICK_US: i64 = 250;

/// Ticks in one unit of the feedback's reference time, 64 ms.
const TICKS_PER_REFERENCE: i64 = 256;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InFlight,
    Lost,
    Received,
}

/// A packet that left. The moment is kept modulo 2^32 µs, 71 minutes, which is longer than the window lasts.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at_us: u32,
    bytes: u16,
    /// Bytes of packets without a number that left since the one before.
    beside: u16,
    cluster: u8,
    fate: Fate,
}

/// What feedback says of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub sent: Time,
    pub bytes: u16,
    /// Bytes of packets that carry no number, as audio's, and left between the one before and this one: they take
    /// their part of the path, and are taken to have fared as this one did.
    pub beside: u16,
    /// The probe cluster that the packet was part of; 0 for none.
    pub cluster: u8,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// When it arrived, by the receiver's clock, in microseconds from an arbitrary zero.
    Received {
        arrived_us: i64,
        was_told_lost: bool,
    },
    Lost,
    /// The feedback about it was itself lost.
    Untold,
}

/// The packets of one transport.
pub struct SendHistory {
    /// By extended sequence modulo the window.
    packets: Box<[Sent]>,
    /// The extended sequence of the next packet; it starts a cycle up, so that none is below zero.
    next: u64,
    /// Bytes without a number since the last packet with one.
    beside: u32,
    /// One more than the highest extended sequence that feedback has told of.
    told: Option<u64>,
    /// The number of the last feedback.
    count: Option<u8>,
    /// The reference time of the newest feedback, unwrapped, in units of 64 ms.
    reference: Option<i64>,
}

impl Default for SendHistory {
    fn default() -> Self {
        Self::new()
    }
}

impl SendHistory {
    pub fn new() -> Self {
        let forgotten = Sent { at_us: 0, bytes: 0, beside: 0, cluster: 0, fate: Fate::Received };
        let packets = vec![forgotten; WINDOW as usize].into();
        Self { packets, next: 1 << 16, beside: 0, told: None, count: None, reference: None }
    }

    /// Notes a packet that carries no number: nobody will tell of it.
    pub fn push_beside(&mut self, bytes: usize) {
        self.beside = self.beside.saturating_add(bytes as u32);
    }

    /// Notes a packet. Returns the sequence number that it must carry.
    pub fn push(&mut self, bytes: usize, cluster: u8, now: Time) -> u16 {
        let sequence = self.next;
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        let beside = u16::try_from(std::mem::take(&mut self.beside)).unwrap_or(u16::MAX);
        *self.slot(sequence) = Sent { at_us: now.0 as u32, bytes, beside, cluster, fate: Fate::InFlight };
        self.next += 1;
        sequence as u16
    }

    /// Calls `each` for every packet of which the feedback has something new to say, in sequence.
    pub fn apply(&mut self, feedback: &TransportFeedback<'_>, now: Time, mut each: impl FnMut(Report)) {
        let reference = i64::from(feedback.reference_time);
        let shift = (self.unwrap_reference(feedback.reference_time) - reference) * TICKS_PER_REFERENCE;
        let count = feedback.feedback_count;
        let is_next = self.count.replace(count).is_some_and(|last| count == last.wrapping_add(1));
        self.report_skipped(feedback.base_sequence, is_next, now, &mut each);
        for (sequence, ticks) in feedback.statuses() {
            let arrived_us = ticks.map(|ticks| (ticks + shift) * TICK_US);
            let Some(sequence) = self.extend(sequence) else { continue };
            self.told = self.told.max(Some(sequence + 1));
            if let Some(outcome) = self.settle(sequence, arrived_us) {
                each(self.report(sequence, outcome, now));
            }
        }
    }

    /// Packets between those that the last feedback and this one tell of. Some receivers begin with the first packet
    /// that has arrived: if no feedback is missing, those before it are lost. Else the one that is knew of them.
    fn report_skipped(&mut self, base: u16, is_next: bool, now: Time, each: &mut impl FnMut(Report)) {
        let (Some(told), Some(base)) = (self.told, self.extend(base)) else { return };
        for sequence in told.max(self.next.saturating_sub(WINDOW))..base {
            let outcome = if is_next { self.settle(sequence, None) } else { Some(Outcome::Untold) };
            if let Some(outcome) = outcome {
                each(self.report(sequence, outcome, now));
            }
        }
    }

    fn report(&mut self, sequence: u64, outcome: Outcome, now: Time) -> Report {
        let packet = *self.slot(sequence);
        let ago_us = (now.0 as u32).wrapping_sub(packet.at_us);
        let sent = Time(now.0.saturating_sub(u64::from(ago_us)));
        Report { sent, bytes: packet.bytes, beside: packet.beside, cluster: packet.cluster, outcome }
    }

    /// The sequence number of a packet that is remembered.
    fn extend(&self, sequence: u16) -> Option<u64> {
        let behind = u64::from((self.next as u16).wrapping_sub(sequence));
        (1..=WINDOW).contains(&behind).then(|| self.next - behind)
    }

    fn settle(&mut self, sequence: u64, arrived_us: Option<i64>) -> Option<Outcome> {
        let packet = self.slot(sequence);
        let outcome = match (packet.fate, arrived_us) {
            (Fate::InFlight, None) => Outcome::Lost,
            (Fate::InFlight, Some(arrived_us)) => Outcome::Received { arrived_us, was_told_lost: false },
            (Fate::Lost, Some(arrived_us)) => Outcome::Received { arrived_us, was_told_lost: true },
            _ => return None,
        };
        packet.fate = if outcome == Outcome::Lost { Fate::Lost } else { Fate::Received };
        Some(outcome)
    }

    /// The 24-bit reference time nearest to the newest so far.
    fn unwrap_reference(&mut self, told: i32) -> i64 {
        let unwrapped = match self.reference {
            None => i64::from(told),
            Some(newest) => {
                // The shifts extend the sign of a 24-bit difference.
                let ahead = (told.wrapping_sub(newest as i32) << 8) >> 8;
                newest + i64::from(ahead)
            }
        };
        self.reference = Some(self.reference.map_or(unwrapped, |newest| newest.max(unwrapped)));
        unwrapped
    }

    fn slot(&mut self, sequence: u64) -> &mut Sent {
        &mut self.packets[(sequence % WINDOW) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::transport_cc::ArrivalRecorder;
    use crate::rtp::rtcp::{Packet, Writer, packets};

    const START: Time = Time(1_800_000_000_000_000);

    fn apply(history: &mut SendHistory, recorder: &mut ArrivalRecorder, now: Time) -> Vec<Report> {
        let mut buffer = [0; 1_200];
        let mut reports = Vec::new();
        let mut writer = Writer::new(&mut buffer);
        while recorder.feedback(&mut writer, 1, 2) {}
        for packet in packets(writer.finish()) {
            let Ok(Packet::TransportFeedback { body, .. }) = packet else { panic!("{packet:?}") };
            let feedback = TransportFeedback::parse(body).unwrap();
            history.apply(&feedback, now, |report| reports.push(report));
        }
        reports
    }

    #[test]
    fn feedback_is_told_with_what_was_sent_and_only_once() {
        let (mut history, mut recorder) = (SendHistory::new(), ArrivalRecorder::new());
        let sequences: Vec<_> = (0..3).map(|i| history.push(1_000 + i, 7, START.plus_ms(i as u64))).collect();
        assert_eq!(sequences, [0, 1, 2]);
        recorder.record(0, START.plus_ms(50));
        recorder.record(2, START.plus_ms(53));
        let now = START.plus_ms(100);
        let reports = apply(&mut history, &mut recorder, now);
        assert_eq!(reports.len(), 3);
        assert_eq!((reports[0].sent, reports[0].bytes, reports[0].cluster), (START, 1_000, 7));
        assert_eq!(reports[1].outcome, Outcome::Lost);
        let arrived = |report: &Report| match report.outcome {
            Outcome::Received { arrived_us, was_told_lost } => (arrived_us, was_told_lost),
            _ => panic!("{report:?}"),
        };
        assert_eq!(arrived(&reports[2]).0 - arrived(&reports[0]).0, 3_000);

        recorder.record(1, START.plus_ms(104));
        let reports = apply(&mut history, &mut recorder, now);
        assert_eq!(reports.len(), 1, "the others have been told: {reports:?}");
        assert_eq!(reports[0].bytes, 1_001);
        assert!(arrived(&reports[0]).1);
    }

    #[test]
    fn packets_of_a_lost_feedback_are_reported_as_untold() {
        let (mut history, mut recorder) = (SendHistory::new(), ArrivalRecorder::new());
        for _ in 0..9 {
            history.push(1_000, 0, START);
        }
        for (sequence, is_heard) in [(0, true), (1, false), (2, false), (3, true)] {
            recorder.record(sequence, START);
            if !is_heard {
                let mut lost = [0; 100];
                recorder.feedback(&mut Writer::new(&mut lost), 1, 2);
                continue;
            }
            let outcomes: Vec<_> =
                apply(&mut history, &mut recorder, START).iter().map(|r| r.outcome).collect();
            assert_eq!(outcomes.len(), if sequence == 0 { 1 } else { 3 });
            let untold = outcomes.iter().filter(|outcome| **outcome == Outcome::Untold).count();
            assert_eq!(untold, if sequence == 0 { 0 } else { 2 });
        }
    }

    #[test]
    fn packets_that_no_feedback_tells_of_though_none_is_missing_are_lost() {
        let (mut history, mut recorder) = (SendHistory::new(), ArrivalRecorder::new());
        for _ in 0..4 {
            history.push(1_000, 0, START);
        }
        recorder.record(0, START);
        assert_eq!(apply(&mut history, &mut recorder, START).len(), 1);
        // A receiver that begins its second feedback with the fourth packet.
        let mut other = ArrivalRecorder::new();
        other.record(1, START);
        other.feedback(&mut Writer::new(&mut [0; 100]), 1, 2);
        let mut other_after = other;
        other_after.record(3, START);
        let told = apply(&mut history, &mut other_after, START);
        let outcomes: Vec<_> = told.iter().map(|report| report.outcome).collect();
        assert!(matches!(outcomes[..], [Outcome::Lost, Outcome::Lost, Outcome::Received { .. }]), "{told:?}");
    }

    #[test]
    fn what_was_never_sent_or_is_forgotten_says_nothing() {
        let (mut history, mut recorder) = (SendHistory::new(), ArrivalRecorder::new());
        recorder.record(9, START);
        assert_eq!(apply(&mut history, &mut recorder, START), []);
        for _ in 0..WINDOW + 10 {
            history.push(100, 0, START);
        }
        let mut recorder = ArrivalRecorder::new();
        recorder.record(9, START);
        recorder.record(10, START);
        assert_eq!(apply(&mut history, &mut recorder, START.plus_ms(1)).len(), 1);
    }

    #[test]
    fn times_go_on_when_the_reference_clock_wraps() {
        let (mut history, mut recorder) = (SendHistory::new(), ArrivalRecorder::new());
        let wrap = Time((((START.0 / 64_000) >> 24) + 1) * (64_000 << 24));
        let mut arrivals = Vec::new();
        for arrived in [Time(wrap.0 - 70_000), Time(wrap.0 + 70_000)] {
            let sequence = history.push(100, 0, arrived);
            recorder.record(sequence, arrived);
            let reports = apply(&mut history, &mut recorder, arrived.plus_ms(10));
            let Outcome::Received { arrived_us, .. } = reports[0].outcome else { panic!("{reports:?}") };
            arrivals.push(arrived_us);
        }
        assert_eq!(arrivals[1] - arrivals[0], 140_000);
    }
}
