//! When packets of video leave for one subscriber: a token bucket, filled faster than its path carries.
//!
//! A picture is several packets and a key frame dozens, which come at once. Sent at once to a path of a megabit a
//! second they fill its queue, delay the audio behind them, and are lost where the queue is short. So up to a burst
//! leaves at once, that segmented sends stay whole, and the rest at a multiple of the estimate, as libwebrtc's
//! pacer has it. What waits too long is not worth sending: a subscriber so far behind gets nothing new until
//! it has caught up and a key frame comes.
//!
//! Relies on the caller for the estimate and for keeping what waits. Retransmissions take credit and never wait
//! for it, audio neither.

use crate::time::Time;

/// How video is paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// Speed of sending in percent of the estimate; 0: nothing waits.
    pub percent: u32,
    /// What may leave at once, in bytes.
    pub burst_bytes: u32,
}

/// Between two looks at what waits. At 10 Mb/s and half as much again that is a burst of 9 kB.
pub const INTERVAL_US: u64 = 5_000;

/// What one subscriber may be sent at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pacer {
    /// Bytes; below zero after a packet too many, and after retransmissions.
    credit: i64,
    filled: Time,
    /// Bytes per second at the last filling; 0: without limit.
    bytes_per_s: u64,
    waiting_bytes: u64,
}

impl Pacer {
    /// Brings the credit up to `now`. `bps` is what the path carries, `None` if that is not known and nothing is
    /// paced.
    pub fn fill(&mut self, pacing: Pacing, bps: Option<u64>, now: Time) {
        self.bytes_per_s = bps.unwrap_or(0) * u64::from(pacing.percent) / 800;
        let earned = |us: u64| (self.bytes_per_s as u128 * u128::from(us) / 1_000_000) as i64;
        let most = earned(INTERVAL_US).max(i64::from(pacing.burst_bytes));
        let since_us = now.since(self.filled).min(FILLED_US_MAX);
        let least = -earned(DEBT_US_MAX).max(DEBT_BYTES);
        self.credit = self.credit.max(least).saturating_add(earned(since_us)).min(most);
        self.filled = now;
    }

    /// Whether another packet may leave.
    pub fn may_send(&self) -> bool {
        self.credit > 0 || self.bytes_per_s == 0
    }

    /// Notes bytes that leave, whether they had to wait or not.
    pub fn spend(&mut self, bytes: usize) {
        if self.bytes_per_s > 0 {
            self.credit -= bytes as i64;
        }
    }

    /// Notes bytes that wait from now on.
    pub fn delay(&mut self, bytes: usize) {
        self.waiting_bytes += bytes as u64;
    }

    /// Notes bytes that wait no more.
    pub fn release(&mut self, bytes: usize) {
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes as u64);
    }

    /// Nothing waits any more.
    pub fn forget(&mut self) {
        self.waiting_bytes = 0;
    }

    /// Whether so many bytes more may wait that have been missed: only where there is a pace, and not so many that
    /// what comes fresh meanwhile makes the subscriber fall behind.
    pub fn may_catch_up(&self, bytes: usize) -> bool {
        let with = Self { waiting_bytes: self.waiting_bytes + bytes as u64, ..*self }.backlog();
        self.bytes_per_s > 0 && with.us <= LONGEST_US / 2 && with.bytes <= LONGEST_BYTES / 2
    }

    pub fn backlog(&self) -> Backlog {
        let us = (self.waiting_bytes * 1_000_000).checked_div(self.bytes_per_s).unwrap_or(0);
        Backlog { us, bytes: self.waiting_bytes }
    }
}

/// What was sent in excess, retransmissions above all, holds fresh packets up for no longer: they fall behind by what
/// waits, which tells nothing of this.
const DEBT_US_MAX: u64 = 250_000;
/// On the slowest of paths a packet.
const DEBT_BYTES: i64 = 1_500;
/// After a longer pause there is a burst's credit at any rate.
const FILLED_US_MAX: u64 = 10_000_000;

/// How long it takes until what waits has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    us: u64,
    bytes: u64,
}

/// Who is further behind is sent nothing new: pictures that late are of no use in a conversation…
const LONGEST_US: u64 = 1_000_000;
/// …and their packets must still be in the track ring, of which this is half.
const LONGEST_BYTES: u64 = 512 * 1_024;
/// Who was that far behind goes on when it has nearly caught up.
const SHORT_US: u64 = 100_000;

impl Backlog {
    pub const NONE: Self = Self { us: 0, bytes: 0 };

    /// Nothing may be added to it but the rest of a picture.
    pub fn is_too_long(self) -> bool {
        self.us > LONGEST_US || self.bytes > LONGEST_BYTES
    }

    /// Who has fallen behind has caught up.
    pub fn is_short(self) -> bool {
        self.us < SHORT_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Time = Time(1_800_000_000_000_000);
    const PACING: Pacing = Pacing { percent: 150, burst_bytes: 12_000 };
    const MEGABIT: Option<u64> = Some(1_000_000);

    /// Sends packets of 1,200 bytes as soon as they may leave. Returns when each did, in µs.
    fn sent_at_us(pacer: &mut Pacer, bps: Option<u64>, from_us: u64, packets: usize) -> Vec<u64> {
        let mut sent = Vec::new();
        for us in (from_us..).step_by(INTERVAL_US as usize) {
            pacer.fill(PACING, bps, START.plus_us(us));
            while pacer.may_send() {
                pacer.spend(1_200);
                sent.push(us);
                if sent.len() == packets {
                    return sent;
                }
            }
        }
        unreachable!("credit is earned for ever")
    }

    #[test]
    fn a_burst_leaves_at_once_and_the_rest_of_a_key_frame_at_the_pace() {
        let sent = sent_at_us(&mut Pacer::default(), MEGABIT, 0, 60);
        assert_eq!(sent.iter().filter(|us| **us == 0).count(), 10);
        // 50 packets at 1.5 Mb/s.
        let last = sent[59];
        assert!((310_000..=325_000).contains(&last), "{last}");
        assert!(sent.windows(10).skip(10).all(|run| run[9] > run[0]), "no second burst");
    }

    #[test]
    fn pictures_that_fit_a_burst_never_wait() {
        let mut pacer = Pacer::default();
        for picture in 0..100 {
            let due = picture * 33_333;
            assert_eq!(sent_at_us(&mut pacer, MEGABIT, due, 3), [due; 3], "860 kb/s");
        }
    }

    #[test]
    fn retransmissions_make_the_rest_wait_longer() {
        let mut pacer = Pacer::default();
        pacer.fill(PACING, MEGABIT, START);
        pacer.spend(12_000 + 18_750);
        let sent = sent_at_us(&mut pacer, MEGABIT, 0, 1);
        assert!((100_000..=105_000).contains(&sent[0]), "18,750 bytes at 1.5 Mb/s: {sent:?}");
    }

    #[test]
    fn however_much_is_sent_again_the_rest_waits_a_quarter_of_a_second() {
        let mut pacer = Pacer::default();
        pacer.fill(PACING, MEGABIT, START);
        pacer.spend(1_000_000);
        let sent = sent_at_us(&mut pacer, MEGABIT, 0, 1);
        assert!((250_000..=255_000).contains(&sent[0]), "{sent:?}");
    }

    #[test]
    fn nothing_is_paced_where_the_path_is_unknown_or_pacing_is_off() {
        let mut pacer = Pacer::default();
        assert_eq!(sent_at_us(&mut pacer, None, 0, 1_000).last(), Some(&0));
        pacer.fill(Pacing { percent: 0, ..PACING }, MEGABIT, START);
        assert!((0..1_000).all(|_| {
            pacer.spend(1_200);
            pacer.may_send()
        }));
        assert_eq!(pacer.backlog(), Backlog::NONE);
    }

    #[test]
    fn backlog_is_told_in_the_time_that_it_takes() {
        let mut pacer = Pacer::default();
        pacer.fill(PACING, MEGABIT, START);
        pacer.delay(15_000);
        assert_eq!(pacer.backlog().us, 80_000);
        assert!(pacer.backlog().is_short());
        pacer.delay(180_000);
        assert!(pacer.backlog().is_too_long());
        pacer.release(100_000);
        assert!(!pacer.backlog().is_too_long() && !pacer.backlog().is_short());
        pacer.fill(PACING, Some(100_000_000), START);
        pacer.delay(600_000);
        assert!(pacer.backlog().is_short() && pacer.backlog().is_too_long(), "a ring holds no more");
    }

    #[test]
    fn the_past_of_all_videos_together_is_half_of_what_may_wait() {
        let mut pacer = Pacer::default();
        pacer.fill(PACING, None, START);
        assert!(!pacer.may_catch_up(1_200), "all of it would leave at once");
        pacer.fill(PACING, MEGABIT, START);
        assert!(pacer.may_catch_up(93_000) && !pacer.may_catch_up(94_000), "half a second at 1.5 Mb/s");
        pacer.delay(60_000);
        assert!(pacer.may_catch_up(33_000) && !pacer.may_catch_up(34_000));
        pacer.fill(PACING, Some(100_000_000), START);
        assert!(!pacer.may_catch_up(256 * 1_024), "a quarter of a ring");
    }

    proptest! {
        #[test]
        fn never_faster_than_a_burst_and_the_pace(
            bps in 50_000_u64..20_000_000,
            gaps_us in prop::collection::vec(0_u64..50_000, 1..200),
            len in 100_usize..1_400,
        ) {
            let mut pacer = Pacer::default();
            let (mut now, mut sent) = (START, 0_u64);
            pacer.fill(PACING, Some(bps), now);
            for gap in gaps_us {
                now = now.plus_us(gap);
                pacer.fill(PACING, Some(bps), now);
                while pacer.may_send() {
                    pacer.spend(len);
                    sent += len as u64;
                }
                let pace = bps * 150 / 800;
                let burst = 12_000.max(pace * INTERVAL_US / 1_000_000);
                let allowed = burst + len as u64 + pace * now.since(START) / 1_000_000;
                prop_assert!(sent <= allowed + 1, "{sent} of {allowed}");
            }
        }
    }
}
