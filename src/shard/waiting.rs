//! Whether an idle shard stays awake for what comes next, or sleeps.
//!
//! Waking a sleeping thread costs the one who wakes it several microseconds and the packet tens of them, so a shard
//! that has just worked looks again first, for as long as `--spin-us` says. That pays only where work comes that soon.
//! A room of one speaker has a packet every 20 ms, and between them a thousand reports and checks that are far apart:
//! staying awake after each of those costs much and gains nothing. So the shard remembers how its latest waits
//! ended, whether it slept or not, and stays awake only while most were short.

use crate::time::Time;

/// What is known of the latest waits.
pub struct Waiting {
    spin_us: u64,
    /// Since when there has been no work.
    began: Option<Time>,
    /// The wait goes by asleep from its beginning.
    slept: bool,
    /// The latest waits, the newest in bit 0: 1 if work came within the spin.
    short: u32,
}

/// Of 32 waits, how many have to be short. Half: then staying awake finds work at least as often as not.
const SHORT_MIN: u32 = 16;

/// By how much longer a wait seems that was slept through: waking takes about so long.
const WAKE_US: u64 = 25;

impl Waiting {
    /// `spin_us` is how long to stay awake at most, in microseconds.
    pub fn new(spin_us: u64) -> Self {
        Self { spin_us, began: None, slept: false, short: 0 }
    }

    /// A turn that began at `now` found work.
    pub fn worked(&mut self, now: Time) {
        if let Some(began) = self.began.take() {
            let wake_us = if std::mem::take(&mut self.slept) { WAKE_US } else { 0 };
            let is_short = self.spin_us > 0 && now.since(began) <= self.spin_us + wake_us;
            self.short = self.short << 1 | u32::from(is_short);
        }
    }

    /// A turn ended at `now` that found nothing. Returns whether it is time to sleep.
    pub fn found_nothing(&mut self, now: Time) -> bool {
        let began = *self.began.get_or_insert(now);
        self.slept |= self.short.count_ones() < SHORT_MIN;
        self.slept || now.since(began) > self.spin_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work every `gap_us`; returns how long the shard was awake without work before the last of `waits` waits.
    fn awake_us(waiting: &mut Waiting, gap_us: u64, waits: u64) -> u64 {
        let mut awake = 0;
        for wait in 0..waits {
            let began = Time(wait * 1_000_000);
            let slept_after = (0..gap_us).find(|&us| waiting.found_nothing(began.plus_us(us)));
            let wake_us = if slept_after.is_some() { WAKE_US } else { 0 };
            awake = slept_after.unwrap_or(gap_us);
            waiting.worked(began.plus_us(gap_us + wake_us));
        }
        awake
    }

    #[test]
    fn stays_awake_while_work_comes_soon_and_not_for_what_is_far_away() {
        let mut waiting = Waiting::new(50);
        assert_eq!(awake_us(&mut waiting, 20_000, 5), 0, "a packet every 20 ms is not waited for awake");
        assert_eq!(
            awake_us(&mut waiting, 30, 40),
            30,
            "nor is it slept between packets that are 30 us apart"
        );
        assert_eq!(awake_us(&mut waiting, 20_000, 1), 51, "one long wait is an exception");
        assert_eq!(awake_us(&mut waiting, 20_000, 32), 0, "many are not");
    }

    #[test]
    fn a_wait_is_as_short_asleep_as_awake() {
        assert_eq!(awake_us(&mut Waiting::new(50), 45, 40), 45);
        assert_eq!(awake_us(&mut Waiting::new(50), 55, 40), 0);
    }

    #[test]
    fn a_spin_of_nothing_is_sleep_at_once() {
        let mut waiting = Waiting::new(0);
        assert_eq!(awake_us(&mut waiting, 10, 100), 0);
    }

    #[test]
    fn turns_that_follow_each_other_with_work_are_no_waits() {
        let mut waiting = Waiting::new(50);
        (0..100).for_each(|at| waiting.worked(Time(at)));
        assert!(waiting.found_nothing(Time(100)));
    }
}
