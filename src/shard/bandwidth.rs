//! What a shard keeps of the path to one subscriber of video, beside its session: the estimate of its
//! bandwidth, and how much of it retransmissions may take.
//!
//! Sessions with audio alone have none: they report nothing, and what they get is small.

use crate::forward::allocate::Patience;
use crate::forward::estimate::{START_BPS, SendSideEstimator};
use crate::forward::pace::Pacer;
use crate::shard::egress::QueueId;
use crate::time::Time;

/// Retransmissions may take this part of what is sent: a path that loses more is not helped by sending more.
const RETRANSMITTED_PERCENT: i64 = 35;
/// What may be saved up: the losses of one burst of a 5 Mb/s stream over a tenth of a second.
const RETRANSMITTED_BYTES_MAX: i64 = 64 * 1_024;

/// What a video of unknown rate may need: enough for 720p. Probing for it goes on until the estimate is there.
pub const WANTED_PER_VIDEO_BPS: u64 = 2_500_000;

/// Between two allocations: a few of the receiver's reports.
const ALLOCATION_INTERVAL_MS: u64 = 200;
/// A subscriber is sent everything for so long after its first report, before its bandwidth is believed to be short:
/// the first probes are answered by then.
const FIRST_ALLOCATION_MS: u64 = 1_000;

pub struct Bandwidth {
    pub estimator: SendSideEstimator,
    /// The receiver reports, or will: without that the estimate means nothing.
    is_reported: bool,
    /// Bytes that may be sent again; below zero after one packet too many.
    retransmittable: i64,
    /// It is in the shard's list of those that probe.
    pub is_listed: bool,
    /// When it is shared out among the session's videos next, and whether they may then be given more.
    allocation_due: Option<Time>,
    pub patience: Patience,
    /// What the session's videos may need.
    assumed_bps: u64,
    /// It has been shared out: until then it is a guess.
    is_settled: bool,
    pub pacer: Pacer,
    /// What waits for the pacer, if anything does.
    pub queue: Option<QueueId>,
}

impl Bandwidth {
    pub fn new() -> Self {
        Self {
            estimator: SendSideEstimator::new(START_BPS),
            is_reported: false,
            retransmittable: RETRANSMITTED_BYTES_MAX,
            is_listed: false,
            allocation_due: None,
            patience: Patience::default(),
            assumed_bps: WANTED_PER_VIDEO_BPS,
            is_settled: false,
            pacer: Pacer::default(),
            queue: None,
        }
    }

    /// Notes how many videos the session is sent.
    pub fn fit(&mut self, videos: u64) {
        self.assumed_bps = videos * WANTED_PER_VIDEO_BPS;
        self.estimator.set_wanted_bps(self.assumed_bps);
    }

    /// The receiver has agreed to report when packets arrive.
    pub fn expect_reports(&mut self) {
        self.is_reported = true;
        self.estimator.expect_feedback();
    }

    /// What the path carries, in bits per second, of everything sent to the session. `None` for a receiver that
    /// reports nothing to estimate it by.
    pub fn available_bps(&self) -> Option<u64> {
        self.is_reported.then(|| self.estimator.available_bps())
    }

    /// What is to be shared out among the session's videos now, if it is time for that. Counts as done.
    pub fn due_for_allocation(&mut self, now: Time) -> Option<u64> {
        let available_bps = self.available_bps()?;
        let due = *self.allocation_due.get_or_insert(now.plus_ms(FIRST_ALLOCATION_MS));
        if due > now {
            return None;
        }
        self.allocation_due = Some(now.plus_ms(ALLOCATION_INTERVAL_MS));
        self.is_settled = true;
        Some(available_bps)
    }

    /// What video is paced by, in bits per second: the estimate, and while that is a guess what the videos may need.
    pub fn paced_bps(&self) -> Option<u64> {
        let least_bps = if self.is_settled { 0 } else { self.assumed_bps };
        self.available_bps().map(|bps| bps.max(least_bps))
    }

    /// Nothing waits any more.
    pub fn forget_queue(&mut self) {
        self.queue = None;
        self.pacer.forget();
    }

    /// The receiver's own estimate.
    pub fn on_remb(&mut self, bps: u64) {
        self.is_reported = true;
        self.estimator.on_remb(bps);
    }

    /// Notes a packet that leaves. Returns its transport-wide sequence number.
    pub fn count_sent(&mut self, bytes: usize, now: Time) -> u16 {
        let more = self.retransmittable + bytes as i64 * RETRANSMITTED_PERCENT / 100;
        self.retransmittable = more.min(RETRANSMITTED_BYTES_MAX);
        self.estimator.on_sent(bytes, now)
    }

    /// Notes a packet that leaves without a transport-wide sequence number, as audio does.
    pub fn count_sent_beside(&mut self, bytes: usize, now: Time) {
        self.estimator.on_sent_beside(bytes, now);
    }

    /// Whether there is something left of the budget for retransmissions.
    pub fn may_retransmit(&self) -> bool {
        self.retransmittable > 0
    }

    /// Takes a packet that has been sent, and counted as such, off the budget for retransmissions.
    pub fn count_retransmitted(&mut self, bytes: usize) {
        self.retransmittable -= bytes as i64 * (100 + RETRANSMITTED_PERCENT) / 100;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_an_estimate_is_settled_the_pace_is_that_of_all_videos() {
        let mut bandwidth = Bandwidth::new();
        bandwidth.fit(10);
        assert_eq!(bandwidth.paced_bps(), None, "nobody reports");
        bandwidth.expect_reports();
        assert_eq!(bandwidth.paced_bps(), Some(10 * WANTED_PER_VIDEO_BPS));
        assert_eq!(bandwidth.due_for_allocation(Time(0)), None);
        assert!(bandwidth.due_for_allocation(Time(1_000_000)).is_some());
        assert_eq!(bandwidth.paced_bps(), bandwidth.available_bps());
    }

    #[test]
    fn retransmissions_take_a_part_of_what_is_sent_and_what_was_saved_up() {
        let mut bandwidth = Bandwidth::new();
        let (mut sent, mut again) = (0, 0);
        for _ in 0..1_000 {
            bandwidth.count_sent(1_000, Time(0));
            sent += 1_000;
            while bandwidth.may_retransmit() {
                bandwidth.count_sent(1_000, Time(0));
                bandwidth.count_retransmitted(1_000);
                again += 1_000;
            }
        }
        let allowed = RETRANSMITTED_BYTES_MAX + sent * RETRANSMITTED_PERCENT / 100;
        assert!((allowed - 1_000..=allowed + 1_000).contains(&again), "{again} of {sent}");
    }
}
