//! What the receiver of one SSRC keeps: reception statistics for reports, and the packets it misses.
//!
//! Statistics are those of RFC 3550 A.1, A.3 and A.8; requests for missing packets are NACKs (RFC 4585
//! §6.2.1) answered by RTX (RFC 4588). Relies on SRTP: indices are extended, authenticated and never
//! replayed, so the probation and restart heuristics of A.1 are absent. A sender's jump is a loss.
//! How long an answer takes is measured by the answers themselves ([`AnswerTime`]).
//! Deliberately absent too: a jitter buffer. A forwarder passes on what comes, as it comes.

use crate::rtp::rtcp::ReportBlock;
use crate::time::{Time, ntp_mid32};

/// How far behind the newest packet a missing one is still asked for: one second of video at 10 Mbit/s.
/// It bounds the storage: 1,000 entries of 40 B, 40 KB per stream, reserved at the start. A larger jump is
/// an outage, after which only a key frame helps.
pub const MISSING_WINDOW: u64 = 1_000;

/// How long a missing packet may be merely reordered before it is asked for…
const REORDER_DELAY_MS: u64 = 10;
/// …unless this many newer ones came since: as many as TCP takes for a loss (RFC 5681 §3.2).
const REORDER_PACKETS: u32 = 3;
/// The least time between two requests for one packet, however short the round trip: the answer also
/// waits for the sender's pacer.
const REPEAT_MIN_US: u64 = 20_000;
/// Requests for one packet before we give it up.
const TRIES_MAX: u8 = 10;
/// A packet missing for this long is of no use to a viewer, whose jitter buffer holds less…
const GIVE_UP_AFTER_US: u64 = 1_000_000;
/// …but on a path so long that this allows one request only, it may take this many answers' time: the wait
/// for a key frame would be no shorter.
const GIVE_UP_AFTER_ANSWERS: u64 = 2;

/// The last sender report and when it came: the sender's wall clock against its RTP clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderClock {
    /// NTP timestamp of the report.
    pub ntp: u64,
    /// The RTP timestamp of the same moment.
    pub rtp: u32,
    pub arrived: Time,
}

/// The receiver of one SSRC.
pub struct StreamReceiver {
    reception: Reception,
    missing: MissingPackets,
    sender_clock: Option<SenderClock>,
}

impl StreamReceiver {
    /// `clock_rate` is that of the RTP timestamps, in Hz.
    pub fn new(clock_rate: u32) -> Self {
        Self { reception: Reception::new(clock_rate), missing: MissingPackets::new(), sender_clock: None }
    }

    /// A packet of the stream itself, authenticated and not a replay. `index` is its extended sequence
    /// number (ROC << 16 | sequence), `payload_len` its payload without padding.
    pub fn on_packet(&mut self, index: u64, timestamp: u32, payload_len: usize, now: Time) {
        self.missing.on_packet(self.reception.highest(), index, now);
        self.reception.on_packet(index, timestamp, payload_len, now);
    }

    /// A packet that came by RTX. It is not missing any more; statistics are about the stream itself
    /// (RFC 4588 §8.3). Returns how long the answer took, if there was a question.
    pub fn on_recovered(&mut self, index: u64, now: Time) -> Option<Answer> {
        let missing = self.missing.remove(index).filter(|missing| missing.tries > 0)?;
        let last_us = now.since(missing.asked);
        let first_us = if missing.tries == 1 { last_us } else { now.since(missing.since) };
        Some(Answer { first_us, last_us })
    }

    /// Appends the sequence numbers to ask for now, ascending modulo 2^16 and at most
    /// [`MISSING_WINDOW`] of them, and gives up those asked for too often, and those whose answer would come
    /// too late. `answer_us` is how long to wait for an answer before the request is repeated.
    pub fn nacks(&mut self, now: Time, answer_us: u64, out: &mut Vec<u16>) {
        self.missing.nacks(now, answer_us, out);
    }

    /// When [`nacks`](Self::nacks) has something to do next; in the past for at once.
    pub fn next_nack_due(&self) -> Option<Time> {
        self.missing.next_due()
    }

    /// How many packets were given up since this was last asked. If any, video needs a key frame.
    pub fn take_gave_up(&mut self) -> u64 {
        std::mem::take(&mut self.missing.gave_up)
    }

    pub fn on_sender_report(&mut self, ntp: u64, rtp: u32, now: Time) {
        self.sender_clock = Some(SenderClock { ntp, rtp, arrived: now });
    }

    pub fn sender_clock(&self) -> Option<SenderClock> {
        self.sender_clock
    }

    /// The report on this stream since the previous one; `None` if nothing came since (RFC 3550 §6.4).
    pub fn report_block(&mut self, ssrc: u32, now: Time) -> Option<ReportBlock> {
        let clock = self.sender_clock;
        let delay_us = clock.map_or(0, |clock| now.since(clock.arrived));
        let block = self.reception.report_block(ssrc)?;
        Some(ReportBlock {
            last_sr: clock.map_or(0, |clock| ntp_mid32(clock.ntp)),
            delay_since_last_sr: u32::try_from(delay_us.saturating_mul(65_536) / 1_000_000)
                .unwrap_or(u32::MAX),
            ..block
        })
    }

    /// Packets received, without those that came by RTX.
    pub fn packets(&self) -> u64 {
        self.reception.packets
    }

    /// Payload bytes received, without those that came by RTX.
    pub fn octets(&self) -> u64 {
        self.reception.octets
    }

    pub fn last_packet(&self) -> Option<Time> {
        self.reception.range.map(|range| range.last_arrival)
    }
}

/// How long ago a packet that has come was asked for, in microseconds: the first time and the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub first_us: u64,
    pub last_us: u64,
}

/// How long a peer takes to answer a request for a packet: round trip, pacer and all.
///
/// Smoothed as TCP does for its retransmission timer (RFC 6298 §2), which asks the same question. An answer to a
/// repeated request may be to either and is not counted (Karn's rule, §3), unless it is too quick for the last
/// one: else who asks too early would never learn it.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnswerTime {
    /// Mean and mean deviation in microseconds.
    measured: Option<(u64, u64)>,
}

/// The time for an answer until one is measured: a round trip across an ocean.
const ANSWER_ASSUMED_US: u64 = 100_000;

impl AnswerTime {
    /// Takes in how long an answer took.
    pub fn note(&mut self, answer: Answer) {
        let Answer { first_us, last_us } = answer;
        let is_to_the_first = |mean| first_us == last_us || last_us < mean / 2;
        if self.measured.is_some_and(|(mean, _)| !is_to_the_first(mean)) {
            return;
        }
        let us = first_us;
        self.measured = Some(match self.measured {
            None => (us, us / 2),
            Some((mean, deviation)) => ((mean * 7 + us) / 8, (deviation * 3 + mean.abs_diff(us)) / 4),
        });
    }

    /// After which time without an answer to ask again, in microseconds. `rtt_us` is the round trip as reports tell
    /// it, 0 if they do not.
    pub fn patience_us(&self, rtt_us: u64) -> u64 {
        match self.measured {
            Some((mean, deviation)) => mean + (4 * deviation).min(mean),
            None if rtt_us > 0 => rtt_us + rtt_us / 4,
            None => ANSWER_ASSUMED_US,
        }
    }
}

/// Reception statistics (RFC 3550 A.3 and A.8).
struct Reception {
    clock_rate: u32,
    packets: u64,
    octets: u64,
    /// `None` before the first packet.
    range: Option<Range>,
    /// In timestamp units, times 16 to keep the fraction (A.8).
    jitter_x16: u64,
    expected_at_report: u64,
    packets_at_report: u64,
}

#[derive(Clone, Copy)]
struct Range {
    lowest: u64,
    highest: u64,
    first_arrival: Time,
    last_arrival: Time,
    /// Arrival less timestamp of the last packet, in timestamp units modulo 2^32.
    transit: u32,
}

impl Reception {
    fn new(clock_rate: u32) -> Self {
        Self {
            clock_rate,
            packets: 0,
            octets: 0,
            range: None,
            jitter_x16: 0,
            expected_at_report: 0,
            packets_at_report: 0,
        }
    }

    fn highest(&self) -> Option<u64> {
        self.range.map(|range| range.highest)
    }

    fn on_packet(&mut self, index: u64, timestamp: u32, payload_len: usize, now: Time) {
        self.packets += 1;
        self.octets += payload_len as u64;
        let first_arrival = self.range.map_or(now, |range| range.first_arrival);
        let arrival = now.since(first_arrival) * u64::from(self.clock_rate) / 1_000_000;
        let transit = (arrival as u32).wrapping_sub(timestamp);
        if let Some(before) = self.range {
            let difference = u64::from((transit.wrapping_sub(before.transit) as i32).unsigned_abs());
            // Not below 0: what is taken off is a sixteenth of it, rounded.
            self.jitter_x16 = self.jitter_x16 + difference - ((self.jitter_x16 + 8) >> 4);
        }
        let (lowest, highest) =
            self.range.map_or((index, index), |range| (range.lowest.min(index), range.highest.max(index)));
        self.range = Some(Range { lowest, highest, first_arrival, last_arrival: now, transit });
    }

    /// All but the two fields about the sender's report.
    fn report_block(&mut self, ssrc: u32) -> Option<ReportBlock> {
        let range = self.range.filter(|_| self.packets > self.packets_at_report)?;
        let expected = range.highest - range.lowest + 1;
        let expected_since = expected - self.expected_at_report;
        let lost_since = expected_since.saturating_sub(self.packets - self.packets_at_report);
        (self.expected_at_report, self.packets_at_report) = (expected, self.packets);

        let fraction_lost = (lost_since << 8).checked_div(expected_since).unwrap_or(0).min(255) as u8;
        let lost = expected as i64 - self.packets as i64;
        Some(ReportBlock {
            ssrc,
            fraction_lost,
            cumulative_lost: lost.clamp(-0x80_0000, 0x7f_ffff) as i32,
            highest_sequence: range.highest as u32,
            jitter: (self.jitter_x16 >> 4) as u32,
            last_sr: 0,
            delay_since_last_sr: 0,
        })
    }
}

/// The packets we miss, ascending, none further back than [`MISSING_WINDOW`].
struct MissingPackets {
    packets: Vec<Missing>,
    /// How often a packet was newer than all before it; wraps.
    advances: u32,
    gave_up: u64,
}

#[derive(Clone, Copy)]
struct Missing {
    index: u64,
    since: Time,
    /// The time of the last request.
    asked: Time,
    /// The time of the next request, or of giving up.
    due: Time,
    /// The count of advances when this one was passed over.
    passed_at: u32,
    tries: u8,
}

impl MissingPackets {
    fn new() -> Self {
        Self { packets: Vec::with_capacity(MISSING_WINDOW as usize), advances: 0, gave_up: 0 }
    }

    fn on_packet(&mut self, highest: Option<u64>, index: u64, now: Time) {
        match highest {
            None => {}
            Some(highest) if index > highest => self.advance(highest, index, now),
            Some(_) => drop(self.remove(index)),
        }
    }

    fn advance(&mut self, highest: u64, index: u64, now: Time) {
        self.advances = self.advances.wrapping_add(1);
        let skipped = index - highest - 1;
        if skipped > MISSING_WINDOW {
            self.gave_up += skipped + self.packets.len() as u64;
            self.packets.clear();
            return;
        }
        let oldest = index.saturating_sub(MISSING_WINDOW);
        let outdated = self.packets.partition_point(|missing| missing.index < oldest);
        self.packets.drain(..outdated);
        self.gave_up += outdated as u64;

        let due = now.plus_ms(REORDER_DELAY_MS);
        let passed_at = self.advances;
        let new = highest + 1..index;
        let missing = |index| Missing { index, since: now, asked: now, due, passed_at, tries: 0 };
        self.packets.extend(new.map(missing));
    }

    fn remove(&mut self, index: u64) -> Option<Missing> {
        let at = self.packets.binary_search_by_key(&index, |missing| missing.index).ok()?;
        Some(self.packets.remove(at))
    }

    fn nacks(&mut self, now: Time, answer_us: u64, out: &mut Vec<u16>) {
        let advances = self.advances;
        let before = self.packets.len();
        let answer_us = answer_us.max(REPEAT_MIN_US);
        self.packets.retain_mut(|missing| {
            if missing.due(advances) > now {
                return true;
            }
            if missing.is_hopeless(now, answer_us) {
                return false;
            }
            missing.tries += 1;
            missing.asked = now;
            missing.due = now.plus_us(answer_us);
            out.push(missing.index as u16);
            true
        });
        self.gave_up += (before - self.packets.len()) as u64;
    }

    fn next_due(&self) -> Option<Time> {
        self.packets.iter().map(|missing| missing.due(self.advances)).min()
    }
}

impl Missing {
    fn due(&self, advances: u32) -> Time {
        // The packet that passed this one over is the first newer one, and counted in `passed_at`.
        let newer = advances.wrapping_sub(self.passed_at) + 1;
        if self.tries == 0 && newer >= REORDER_PACKETS { self.since } else { self.due }
    }

    /// Asked for too often, or so long ago that another answer would come too late.
    fn is_hopeless(&self, now: Time, answer_us: u64) -> bool {
        let latest_us = GIVE_UP_AFTER_US.max(GIVE_UP_AFTER_ANSWERS * answer_us + REORDER_DELAY_MS * 1_000);
        self.tries >= TRIES_MAX || self.tries > 0 && now.since(self.since) + answer_us > latest_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const START: Time = Time(1_800_000_000_000_000);
    const RTT_US: u64 = 50_000;

    fn at_ms(ms: u64) -> Time {
        START.plus_ms(ms)
    }

    /// A 90 kHz stream whose packet n arrives n ms after the start, without jitter, but for `lost`.
    fn stream(indices: impl Iterator<Item = u64>, lost: &[u64]) -> StreamReceiver {
        let mut receiver = StreamReceiver::new(90_000);
        for index in indices.filter(|index| !lost.contains(index)) {
            receiver.on_packet(index, index as u32 * 90, 100, at_ms(index));
        }
        receiver
    }

    fn nacks(receiver: &mut StreamReceiver, now: Time) -> Vec<u16> {
        let mut out = vec![];
        receiver.nacks(now, RTT_US, &mut out);
        out
    }

    #[test]
    fn missing_packet_is_asked_for_after_the_reorder_delay() {
        let mut receiver = stream(0..6, &[4]);
        assert_eq!(receiver.next_nack_due(), Some(at_ms(15)));
        assert!(nacks(&mut receiver, at_ms(14)).is_empty());
        assert_eq!(nacks(&mut receiver, at_ms(15)), [4]);
    }

    #[test]
    fn missing_packet_is_asked_for_at_once_when_three_newer_ones_came() {
        let mut receiver = stream(0..7, &[4]);
        assert!(nacks(&mut receiver, at_ms(6)).is_empty(), "two newer ones");
        receiver.on_packet(7, 7 * 90, 100, at_ms(7));
        assert!(receiver.next_nack_due().is_some_and(|due| due <= at_ms(7)));
        assert_eq!(nacks(&mut receiver, at_ms(7)), [4]);
    }

    #[test]
    fn reordered_packet_is_not_asked_for() {
        let mut receiver = stream(0..6, &[4]);
        receiver.on_packet(4, 4 * 90, 100, at_ms(6));
        assert_eq!(receiver.next_nack_due(), None);
        assert!(nacks(&mut receiver, at_ms(100)).is_empty());
    }

    #[test]
    fn request_is_repeated_every_round_trip_until_the_retransmission_comes() {
        let mut receiver = stream(65_530..65_540, &[65_536]);
        let lost_at = 65_537;
        assert_eq!(nacks(&mut receiver, at_ms(lost_at + 10)), [0]);
        assert!(nacks(&mut receiver, at_ms(lost_at + 59)).is_empty());
        assert_eq!(nacks(&mut receiver, at_ms(lost_at + 60)), [0]);
        assert_eq!(receiver.on_recovered(65_536, at_ms(lost_at + 90)), answer(90, 30));
        assert_eq!(receiver.next_nack_due(), None);
        assert!(nacks(&mut receiver, at_ms(lost_at + 500)).is_empty());
        assert_eq!(receiver.take_gave_up(), 0);
    }

    #[test]
    fn packet_is_given_up_after_ten_requests() {
        let mut receiver = stream(0..6, &[4]);
        let mut asked = 0;
        for ms in 15..1_000 {
            let mut out = vec![];
            receiver.nacks(at_ms(ms), 0, &mut out);
            asked += out.len();
        }
        assert_eq!(asked, 10);
        assert_eq!((receiver.take_gave_up(), receiver.take_gave_up()), (1, 0));
        assert_eq!(receiver.next_nack_due(), None);
    }

    /// When the packet that was lost at 5 ms is asked for, in ms since then, and when it is given up.
    fn asked_at_ms(answer_us: u64) -> (Vec<u64>, u64) {
        let mut receiver = stream(0..6, &[4]);
        let mut asked = Vec::new();
        for ms in 5..10_000 {
            let mut out = vec![];
            receiver.nacks(at_ms(ms), answer_us, &mut out);
            asked.extend(out.iter().map(|_| ms - 5));
            if receiver.take_gave_up() > 0 {
                return (asked, ms - 5);
            }
        }
        panic!("never given up; asked at {asked:?}");
    }

    #[test]
    fn packet_is_given_up_when_another_answer_would_come_later_than_a_second() {
        assert_eq!(asked_at_ms(300_000), (vec![10, 310, 610], 910));
    }

    #[test]
    fn packet_on_a_long_path_is_asked_for_twice() {
        assert_eq!(asked_at_ms(800_000), (vec![10, 810], 1_610));
    }

    #[test]
    fn answer_to_the_only_request_tells_how_long_answers_take() {
        let mut receiver = stream(0..6, &[4]);
        assert_eq!(nacks(&mut receiver, at_ms(15)), [4]);
        assert_eq!(receiver.on_recovered(4, at_ms(50)), answer(35, 35));
        assert_eq!(receiver.on_recovered(4, at_ms(51)), None, "once");
    }

    fn answer(first_ms: u64, last_ms: u64) -> Option<Answer> {
        Some(Answer { first_us: first_ms * 1_000, last_us: last_ms * 1_000 })
    }

    #[test]
    fn patience_follows_the_answers_and_until_there_are_some_the_round_trip() {
        let mut answers = AnswerTime::default();
        let note = |answers: &mut AnswerTime, times: u32, first_ms, last_ms| {
            (0..times).for_each(|_| answers.note(answer(first_ms, last_ms).unwrap()));
        };
        assert_eq!((answers.patience_us(0), answers.patience_us(40_000)), (100_000, 50_000));
        note(&mut answers, 1, 200, 200);
        assert_eq!(answers.patience_us(40_000), 400_000, "it may have been a quick one");
        note(&mut answers, 50, 200, 200);
        assert!((200_000..205_000).contains(&answers.patience_us(40_000)));
        note(&mut answers, 50, 450, 210);
        assert!(
            (200_000..205_000).contains(&answers.patience_us(0)),
            "to the first or to the second request"
        );
        note(&mut answers, 50, 300, 50);
        assert!((300_000..310_000).contains(&answers.patience_us(0)), "too quick for the second");
        for _ in 0..25 {
            note(&mut answers, 1, 20, 20);
            note(&mut answers, 1, 30, 30);
        }
        let patience = answers.patience_us(0);
        assert!((30_000..60_000).contains(&patience), "no answer should be waited for in vain: {patience}");
    }

    #[test]
    fn outage_asks_for_no_packet_and_gives_all_up() {
        let mut receiver = stream(0..10, &[5]);
        receiver.on_packet(5_009, 0, 100, at_ms(5_009));
        assert!(nacks(&mut receiver, at_ms(6_000)).is_empty());
        assert_eq!(receiver.take_gave_up(), 5_000, "packet 5 and 10..5_009");
    }

    #[test]
    fn packet_that_leaves_the_window_is_given_up_and_storage_does_not_grow() {
        let mut receiver = StreamReceiver::new(90_000);
        let storage = receiver.missing.packets.capacity();
        for index in (0..10_000).step_by(100) {
            receiver.on_packet(index, 0, 100, START);
        }
        assert_eq!(receiver.missing.packets.capacity(), storage);
        assert_eq!(receiver.missing.packets.len(), 990);
        assert_eq!(receiver.take_gave_up(), 99 * 99 - 990);
    }

    #[test]
    fn report_tells_loss_since_the_last_one_and_in_all() {
        let mut receiver = stream(0..100, &[10, 20, 30, 40]);
        let block = receiver.report_block(7, at_ms(100)).unwrap();
        assert_eq!((block.ssrc, block.fraction_lost, block.cumulative_lost), (7, (4 * 256 / 100) as u8, 4));
        assert_eq!((block.highest_sequence, block.jitter), (99, 0));
        assert_eq!((block.last_sr, block.delay_since_last_sr), (0, 0));
        assert_eq!(receiver.report_block(7, at_ms(200)), None, "nothing came since");

        // Two late ones and one new one: more received than expected is no loss, and no negative one.
        for index in [10, 20, 100] {
            receiver.on_packet(index, index as u32 * 90, 100, at_ms(300));
        }
        let block = receiver.report_block(7, at_ms(300)).unwrap();
        assert_eq!((block.fraction_lost, block.cumulative_lost), (0, 2));
        assert_eq!((receiver.packets(), receiver.octets()), (99, 9_900));
        assert_eq!(receiver.last_packet(), Some(at_ms(300)));
    }

    #[test]
    fn retransmissions_do_not_hide_loss_from_the_report() {
        let mut receiver = stream(0..4, &[2]);
        receiver.on_recovered(2, at_ms(4));
        assert_eq!(receiver.report_block(7, at_ms(5)).unwrap().cumulative_lost, 1);
    }

    #[test]
    fn packet_from_before_the_first_one_widens_the_range() {
        let mut receiver = StreamReceiver::new(48_000);
        receiver.on_packet(65_537, 0, 1, START);
        receiver.on_packet(65_535, 0, 1, START);
        let block = receiver.report_block(7, START).unwrap();
        assert_eq!((block.cumulative_lost, block.fraction_lost), (1, 85));
        assert_eq!(block.highest_sequence, 65_537);
    }

    #[test]
    fn report_lets_the_sender_measure_its_round_trip() {
        let mut receiver = stream(0..10, &[]);
        receiver.on_sender_report(0x0123_4567_89ab_cdef, 900, at_ms(10));
        let block = receiver.report_block(7, at_ms(260)).unwrap();
        assert_eq!((block.last_sr, block.delay_since_last_sr), (0x4567_89ab, 65_536 / 4));
        let clock = SenderClock { ntp: 0x0123_4567_89ab_cdef, rtp: 900, arrived: at_ms(10) };
        assert_eq!(receiver.sender_clock(), Some(clock));
    }

    #[test]
    fn jitter_converges_on_the_mean_deviation() {
        let mut receiver = StreamReceiver::new(48_000);
        for index in 0..1_000 {
            // Every other packet is 5 ms late: each transit differs from the last by 240 units.
            let late_ms = index % 2 * 5;
            receiver.on_packet(index, index as u32 * 960, 100, at_ms(index * 20 + late_ms));
        }
        let jitter = receiver.report_block(7, at_ms(20_000)).unwrap().jitter;
        assert!((239..=240).contains(&jitter), "{jitter}");
    }

    proptest! {
        #[test]
        fn every_missing_packet_is_asked_for_and_none_that_came(
            first in 0u64..1 << 20,
            fates in prop::collection::vec(0u8..10, 2..400),
        ) {
            // 0: lost; 1: overtaken by 5 others; else in order.
            let mut arrivals: Vec<_> = (first..).zip(&fates).filter(|(_, fate)| **fate != 0)
                .map(|(index, fate)| (index + if *fate == 1 { 5 } else { 0 }, index)).collect();
            arrivals.sort();
            let mut receiver = StreamReceiver::new(90_000);
            let mut came = BTreeSet::new();
            let mut asked = BTreeSet::new();
            let mut now = START;
            for &(_, index) in &arrivals {
                now = now.plus_ms(3);
                receiver.on_packet(index, 0, 100, now);
                came.insert(index as u16);
                let nacks = nacks(&mut receiver, now);
                prop_assert!(nacks.iter().all(|sequence| !came.contains(sequence)));
                asked.extend(nacks);
            }
            asked.extend(nacks(&mut receiver, now.plus_ms(15)));
            let Some((lowest, highest)) = arrivals.first().and_then(|&(_, first_come)| {
                Some((first_come, arrivals.iter().map(|&(_, index)| index).max()?))
            }) else { return Ok(()) };
            for index in lowest..highest {
                prop_assert!(came.contains(&(index as u16)) || asked.contains(&(index as u16)), "{}", index);
            }
        }

        #[test]
        fn reports_add_up_to_what_was_lost(
            first in 0u64..1 << 20, came in prop::collection::vec(any::<bool>(), 1..600), every in 1usize..50,
        ) {
            let mut receiver = StreamReceiver::new(90_000);
            let (mut expected_since, mut received_since) = (0u64, 0u64);
            let mut lost_in_all = 0;
            // The range starts with the first packet, so that one is never lost.
            for (i, came) in std::iter::once(true).chain(came).enumerate() {
                let index = first + i as u64;
                expected_since += 1;
                if !came {
                    continue;
                }
                receiver.on_packet(index, 0, 100, START);
                received_since += 1;
                if i % every == 0 {
                    let block = receiver.report_block(1, START).unwrap();
                    lost_in_all += expected_since - received_since;
                    let fraction = (expected_since - received_since) * 256 / expected_since;
                    prop_assert_eq!(u64::from(block.fraction_lost), fraction);
                    prop_assert_eq!(block.cumulative_lost as u64, lost_in_all);
                    prop_assert_eq!(block.highest_sequence as u64, index);
                    (expected_since, received_since) = (0, 0);
                }
            }
        }
    }
}
