//! How a subscriber's bandwidth is shared among the videos that it watches.
//!
//! Each video comes in several qualities: encodings of a simulcast, operating points of an encoding. All start at
//! their lowest, which is sent whatever the estimate says, and the one that has least is raised first, until
//! nothing more fits: so nobody's picture starves beside another's. What is there already may stay up to the whole
//! estimate; what would be new has to fit with room to spare, and not soon after a fall. Pure, and a fixed point
//! of itself: the same bandwidth and the same rates change nothing.
//!
//! Audio is not shared out: it is small, and its rate is taken off the estimate before all else.

use crate::rtp::layer::Layer;
use crate::time::Time;

/// What a rise must fit into, of the estimate: estimates and encoders both swing by some percent.
const RISE_PERCENT: u64 = 87;

/// How long after a fall nothing rises: a queue that has just filled must drain first.
const WAIT_MS_MIN: u64 = 2_000;

/// How long at most: what has failed again and again is still tried twice a minute.
const WAIT_MS_MAX: u64 = 30_000;

/// A rise that is taken back within this was a mistake, and the next one waits twice as long.
const MISTAKE_MS: u64 = 5_000;

/// Three encodings with four temporal layers each, and some to spare.
pub const QUALITIES_MAX: usize = 16;

/// One way to send a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quality {
    pub encoding: u8,
    /// The operating point within the encoding.
    pub point: Layer,
    pub bitrate_bps: u64,
}

/// A video and the ways to send it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demand {
    qualities: [Quality; QUALITIES_MAX],
    len: usize,
    /// Where it is.
    current: Option<usize>,
    chosen: usize,
    is_settled: bool,
}

impl Demand {
    /// Adds a way to send it, to be called from the best to the least. One that costs as much as a better one is
    /// of no use and left out, and so is what exceeds [`QUALITIES_MAX`].
    pub fn offer(&mut self, quality: Quality, is_current: bool) {
        let costs_less = self.qualities().last().is_none_or(|last| quality.bitrate_bps < last.bitrate_bps);
        if costs_less && let Some(place) = self.qualities.get_mut(self.len) {
            *place = quality;
            self.len += 1;
        }
        if is_current {
            self.current = self.len.checked_sub(1);
        }
    }

    /// The best first.
    pub fn qualities(&self) -> &[Quality] {
        self.qualities.get(..self.len).unwrap_or(&[])
    }

    /// What it was given; `None` if it offers nothing.
    pub fn chosen(&self) -> Option<Quality> {
        self.qualities().get(self.chosen).copied()
    }

    pub fn best(&self) -> Option<Quality> {
        self.qualities().first().copied()
    }

    fn bitrate_bps(&self) -> u64 {
        self.chosen().map_or(0, |quality| quality.bitrate_bps)
    }

    /// The next better quality, and whether it is one that it has already.
    fn next(&self) -> Option<(Quality, bool)> {
        let next = self.chosen.checked_sub(1)?;
        let is_kept = self.current.is_some_and(|current| next >= current);
        Some((*self.qualities().get(next)?, is_kept))
    }
}

/// What may be spent on video, in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// On what is sent already.
    keep_bps: u64,
    /// On what would be better than that.
    rise_bps: u64,
}

impl Budget {
    /// Of an estimate, less what goes to audio.
    pub fn new(estimate_bps: u64, audio_bps: u64, may_rise: bool) -> Self {
        let keep_bps = estimate_bps.saturating_sub(audio_bps);
        Self { keep_bps, rise_bps: if may_rise { keep_bps * RISE_PERCENT / 100 } else { 0 } }
    }
}

/// Chooses a quality for each demand.
pub fn allocate(budget: Budget, demands: &mut [Demand]) {
    for demand in demands.iter_mut() {
        demand.chosen = demand.len.saturating_sub(1);
        demand.is_settled = false;
    }
    let mut spent_bps: u64 = demands.iter().map(Demand::bitrate_bps).sum();
    let poorest = |demands: &mut [Demand]| {
        let open = demands.iter().enumerate().filter(|(_, demand)| !demand.is_settled);
        open.min_by_key(|(_, demand)| demand.bitrate_bps()).map(|(at, _)| at)
    };
    while let Some(demand) = poorest(demands).and_then(|at| demands.get_mut(at)) {
        let Some((better, is_kept)) = demand.next() else {
            demand.is_settled = true;
            continue;
        };
        let would_spend_bps = spent_bps - demand.bitrate_bps() + better.bitrate_bps;
        if would_spend_bps <= if is_kept { budget.keep_bps } else { budget.rise_bps } {
            demand.chosen -= 1;
            spent_bps = would_spend_bps;
        } else {
            demand.is_settled = true;
        }
    }
}

/// When a subscriber may be given more: later, the more often that went wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    risen_at: Option<Time>,
    no_rise_before: Option<Time>,
    wait_ms: u64,
}

impl Patience {
    pub fn may_rise(&self, now: Time) -> bool {
        self.no_rise_before.is_none_or(|due| now >= due)
    }

    /// Notes what an allocation changed.
    pub fn note(&mut self, demands: &[Demand], now: Time) {
        let moves = |is: fn(&usize, &usize) -> bool| {
            demands.iter().any(|demand| demand.current.is_some_and(|current| is(&demand.chosen, &current)))
        };
        if moves(usize::gt) {
            // A further fall without a rise before it says nothing new about how long to wait.
            let wait_ms = match self.risen_at.take() {
                Some(at) if now.since(at) < MISTAKE_MS * 1_000 => 2 * self.wait_ms,
                Some(_) => 0,
                None => self.wait_ms,
            };
            self.wait_ms = wait_ms.clamp(WAIT_MS_MIN, WAIT_MS_MAX);
            self.no_rise_before = Some(now.plus_ms(self.wait_ms));
        } else if moves(usize::lt) {
            self.risen_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Qualities by their bitrates in kb/s, the best first.
    fn demand(kbps: &[u64], current: Option<usize>) -> Demand {
        let mut demand = Demand::default();
        for (at, kbps) in kbps.iter().enumerate() {
            let quality = Quality { encoding: at as u8, point: Layer::MAX, bitrate_bps: kbps * 1_000 };
            demand.offer(quality, current == Some(at));
        }
        demand
    }

    fn chosen(demands: &[Demand]) -> Vec<u8> {
        demands.iter().map(|demand| demand.chosen().unwrap().encoding).collect()
    }

    fn allocated(kbps: u64, demands: &mut [Demand]) -> Vec<u8> {
        allocate(Budget::new(kbps * 1_000, 0, true), demands);
        chosen(demands)
    }

    const CAMERA: [u64; 3] = [1_500, 500, 150];

    #[test]
    fn best_that_fits_is_chosen_and_the_lowest_where_nothing_does() {
        let alone = |kbps| allocated(kbps, &mut [demand(&CAMERA, None)]);
        assert_eq!([2_000, 1_000, 500, 100].map(alone), [[0], [1], [2], [2]]);
    }

    #[test]
    fn audio_is_served_first() {
        let mut demands = [demand(&CAMERA, Some(1))];
        allocate(Budget::new(520_000, 40_000, true), &mut demands);
        assert_eq!(chosen(&demands), [2]);
    }

    #[test]
    fn who_has_least_is_raised_first() {
        let camera = demand(&CAMERA, None);
        let screen = demand(&[2_500, 300], None);
        assert_eq!(allocated(1_300, &mut [camera, screen, camera]), [1, 1, 2]);
        assert_eq!(allocated(3_000, &mut [camera, screen, camera]), [0, 1, 1]);
    }

    #[test]
    fn what_is_there_may_use_the_whole_estimate_and_what_is_new_may_not() {
        assert_eq!(allocated(1_550, &mut [demand(&CAMERA, Some(0))]), [0]);
        assert_eq!(allocated(1_550, &mut [demand(&CAMERA, Some(1))]), [1]);
        assert_eq!(allocated(1_800, &mut [demand(&CAMERA, Some(1))]), [0]);
    }

    #[test]
    fn quality_that_costs_no_less_than_a_better_one_is_of_no_use() {
        let mut demand = demand(&[500, 500, 100], Some(1));
        assert_eq!(demand.qualities().len(), 2);
        assert_eq!(demand.current, Some(0), "it counts as the better one");
        allocate(Budget::new(500_000, 0, false), std::slice::from_mut(&mut demand));
        assert_eq!(demand.chosen().unwrap().encoding, 0);
    }

    #[test]
    fn rise_that_was_taken_back_makes_the_next_one_wait_longer() {
        let (mut patience, mut now, mut current) = (Patience::default(), Time(0), 1);
        let mut waits_ms = Vec::new();
        for _ in 0..8 {
            let before = now;
            while !patience.may_rise(now) {
                now = now.plus_ms(100);
            }
            waits_ms.push(now.since(before) / 1_000);
            // The estimate rises in vain.
            for kbps in [2_000, 1_000] {
                now = now.plus_ms(500);
                let mut demands = [demand(&CAMERA, Some(current))];
                allocate(Budget::new(kbps * 1_000, 0, patience.may_rise(now)), &mut demands);
                patience.note(&demands, now);
                current = chosen(&demands)[0].into();
            }
        }
        assert_eq!(waits_ms, [0, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    }

    fn demands() -> impl Strategy<Value = Vec<Vec<u64>>> {
        let qualities = prop::collection::btree_set(10u64..5_000, 1..6);
        let best_first = qualities.prop_map(|set| set.into_iter().rev().collect::<Vec<_>>());
        prop::collection::vec(best_first, 1..6)
    }

    fn with(videos: &[Vec<u64>], current: &[Option<usize>]) -> Vec<Demand> {
        videos.iter().zip(current).map(|(kbps, current)| demand(kbps, *current)).collect()
    }

    fn indices(demands: &[Demand]) -> Vec<Option<usize>> {
        demands.iter().map(|demand| Some(demand.chosen)).collect()
    }

    proptest! {
        #[test]
        fn no_more_is_spent_than_there_is_unless_all_are_at_their_lowest(
            videos in demands(), kbps in 0u64..20_000, may_rise: bool, current in 0usize..6,
        ) {
            let current: Vec<_> = videos.iter().map(|video| Some(current.min(video.len() - 1))).collect();
            let mut demands = with(&videos, &current);
            allocate(Budget::new(kbps * 1_000, 0, may_rise), &mut demands);
            let spent_bps: u64 = demands.iter().map(Demand::bitrate_bps).sum();
            let at_lowest = demands.iter().all(|demand| demand.chosen == demand.len - 1);
            prop_assert!(spent_bps <= kbps * 1_000 || at_lowest);
            let rose = demands.iter().any(|demand| demand.current.is_some_and(|current| demand.chosen < current));
            prop_assert!(may_rise || !rose);
        }

        #[test]
        fn same_bandwidth_changes_nothing(videos in demands(), kbps in 0u64..20_000, start in 0usize..6) {
            let start: Vec<_> = videos.iter().map(|video| Some(start.min(video.len() - 1))).collect();
            let mut first = with(&videos, &start);
            allocate(Budget::new(kbps * 1_000, 0, true), &mut first);
            let mut second = with(&videos, &indices(&first));
            allocate(Budget::new(kbps * 1_000, 0, true), &mut second);
            prop_assert_eq!(indices(&first), indices(&second));
        }

        /// Whatever an estimate does, a change is followed by rest: with the estimate as it then is, nothing moves again
        /// once all has risen that may.
        #[test]
        fn several_videos_settle_wherever_the_estimate_stops(
            videos in demands(),
            estimates in prop::collection::vec(50u64..15_000, 1..20),
        ) {
            let mut current = vec![None; videos.len()];
            let mut patience = Patience::default();
            let mut now = Time(0);
            for kbps in &estimates {
                now = now.plus_ms(200);
                let mut demands = with(&videos, &current);
                allocate(Budget::new(kbps * 1_000, 0, patience.may_rise(now)), &mut demands);
                patience.note(&demands, now);
                current = indices(&demands);
            }
            let kbps = estimates.last().copied().unwrap_or(0);
            let mut moves = 0;
            for _ in 0..300 {
                now = now.plus_ms(200);
                let mut demands = with(&videos, &current);
                allocate(Budget::new(kbps * 1_000, 0, patience.may_rise(now)), &mut demands);
                patience.note(&demands, now);
                moves += usize::from(indices(&demands) != current);
                current = indices(&demands);
            }
            prop_assert!(moves <= 1, "{moves} changes at one and the same estimate");
        }

        /// Several videos in a swinging estimate seldom rise after they have fallen: each mistake doubles the wait before
        /// the next, and what is none has lasted. On the way up, rises may follow one another.
        #[test]
        fn several_videos_do_not_oscillate_while_the_estimate_swings(
            videos in demands(),
            kbps in 100u64..8_000,
            swings in prop::collection::vec(-250i64..=250, 300),
        ) {
            let (mut current, mut patience) = (vec![None; videos.len()], Patience::default());
            let (mut turns, mut has_fallen) = (0, false);
            for (tick, swing) in (0..).zip(swings) {
                let now = Time(0).plus_ms(200 * tick);
                let bps = (kbps as i64 * (1_000 + swing)) as u64;
                let mut demands = with(&videos, &current);
                allocate(Budget::new(bps, 0, patience.may_rise(now)), &mut demands);
                patience.note(&demands, now);
                let moves = |is: fn(&usize, &usize) -> bool| {
                    demands.iter().any(|demand| demand.current.is_some_and(|now| is(&demand.chosen, &now)))
                };
                if moves(usize::gt) {
                    has_fallen = true;
                } else if moves(usize::lt) {
                    turns += usize::from(std::mem::take(&mut has_fallen));
                }
                current = indices(&demands);
            }
            // At worst one that is taken back at once, and 4 s later one that lasts for 5 s, and again 2 s after that.
            prop_assert!(turns <= 11, "{turns} rises after a fall in a minute");
        }

        /// Sound is not asked: what it takes is gone before any video sees the estimate.
        #[test]
        fn videos_never_take_what_sound_needs(
            videos in demands(), kbps in 0u64..20_000, audio_kbps in 0u64..500, may_rise: bool,
        ) {
            let mut demands = with(&videos, &vec![None; videos.len()]);
            allocate(Budget::new(kbps * 1_000, audio_kbps * 1_000, may_rise), &mut demands);
            let spent_bps: u64 = demands.iter().map(Demand::bitrate_bps).sum();
            let at_lowest = demands.iter().all(|demand| demand.chosen == demand.len - 1);
            prop_assert!(spent_bps + audio_kbps * 1_000 <= kbps * 1_000 || at_lowest);
        }

        /// One video alone: with several, one's fall is another's chance.
        #[test]
        fn what_has_risen_does_not_fall_while_the_estimate_swings_a_little(
            video in demands().prop_map(|mut videos| videos.remove(0)),
            kbps in 100u64..8_000,
            swings in prop::collection::vec(-60i64..=60, 10..40),
        ) {
            let mut current = None;
            for swing in swings {
                let bps = (kbps as i64 * (1_000 + swing)) as u64;
                let mut demands = [demand(&video, current)];
                allocate(Budget::new(bps, 0, true), &mut demands);
                prop_assert!(current.is_none_or(|current| demands[0].chosen <= current));
                current = Some(demands[0].chosen);
            }
        }
    }
}
