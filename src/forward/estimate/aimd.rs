//! What rate follows from the state of the queue: multiplicative far from the path's capacity, additive near it,
//! and back to below what arrives when the queue grows.
//!
//! draft-ietf-rmcat-gcc-02 §5.5-5.6. The capacity is learnt where it shows: from what arrived each time the queue
//! began to grow.

use super::MIN_BPS;
use super::probe::ProbeResult;
use super::trend::Usage;
use crate::time::Time;

/// What is left of the arriving rate after overuse (§5.5: beta, there 0.85). Growth is noticed while the queue holds
/// some tens of milliseconds, which a tenth of the rate drains as fast as it came.
const DECREASE: f64 = 0.9;
/// Growth per second while the capacity is unknown (§5.5: eta).
const INCREASE_PER_S: f64 = 1.08;
/// Near the capacity it grows by a packet of this many bits per response time…
const PACKET_BITS: f64 = 1_200.0 * 8.0;
/// …but never faster than it does far from there.
const ADDITIVE_MAX: f64 = INCREASE_PER_S - 1.0;
/// What detection takes beyond a round trip.
const DETECTION_US: u64 = 100_000;
/// The estimate does not grow further ahead of what arrives than this: nobody has seen it carried.
const AHEAD_MAX: f64 = 1.5;
const AHEAD_BPS: f64 = 10_000.0;
/// Overuse so soon after a probe may come of the sudden change itself, and what arrives does not show the new rate
/// yet: the first time, this part of the probe's result is still believed…
const PROBED_US: u64 = 2_000_000;
const PROBED_TRUST: f64 = 0.85;
/// …and the second time it has misled: a burst got through where a stream does not. What was carried before it is
/// still believed, but for this part.
const MISLED_TRUST: f64 = 0.95;
/// The part of what arrives that is believed to be carried without more ado.
const PROVEN: f64 = DECREASE;
/// Between two decreases the first one must have had time to show.
const DECREASE_PAUSE_US: (u64, u64) = (10_000, 200_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Hold,
    Increase,
}

/// The delay-based estimate, in bits per second.
pub struct RateControl {
    bps: f64,
    state: State,
    capacity: Capacity,
    increased: Option<Time>,
    decreased: Time,
    raised: Option<Raised>,
    /// What the path delivered of the last probe that saturated it.
    shown: Option<(Time, f64)>,
}

/// A probe has raised the estimate.
#[derive(Clone, Copy, Debug)]
struct Raised {
    at: Time,
    before_bps: f64,
    /// Overuse has followed once.
    is_doubted: bool,
}

/// What the estimate is updated by.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    pub usage: Usage,
    /// What arrives, in bits per second, made up for what the path loses at any rate.
    pub throughput_bps: Option<f64>,
    /// The same over the last moment alone.
    pub last_bps: Option<f64>,
    /// Whether we send less than we may: then nothing shows that more would be carried.
    pub app_limited: bool,
    pub rtt_us: u64,
}

impl RateControl {
    pub fn new(start_bps: f64) -> Self {
        Self {
            bps: start_bps,
            state: State::Increase,
            capacity: Capacity::default(),
            increased: None,
            decreased: Time(0),
            raised: None,
            shown: None,
        }
    }

    pub fn bps(&self) -> f64 {
        self.bps
    }

    /// When it was last decreased.
    pub fn decreased(&self) -> Time {
        self.decreased
    }

    /// A probe has shown that the path carries more, or, if we send less than we may, how much less.
    pub fn probed(&mut self, result: &ProbeResult, seen: &Observation, now: Time) {
        let bps = result.bps;
        if bps > self.bps {
            let before_bps = self.raised(now).map_or(self.bps, |raised| raised.before_bps);
            self.raised = Some(Raised { at: now, before_bps, is_doubted: false });
            self.bps = bps;
            self.capacity.contradict(bps);
        } else if result.is_saturated && seen.app_limited {
            self.bps = self.bps.min(bps.max(seen.throughput_bps.unwrap_or(0.0)));
        }
    }

    /// A probe has filled the queue, and what arrived of it is what the path carries: a decrease for that queue need
    /// not go far below, however little was sent beside the probe.
    pub fn saturated(&mut self, bps: f64, now: Time) {
        self.shown = Some((now, bps));
    }

    /// What a decrease now need not go below, if a probe explains the queue. It explains one only.
    fn explained(&mut self, now: Time) -> Option<f64> {
        let (at, bps) = self.shown.take()?;
        (now.since(at) < PROBED_US).then_some(bps)
    }

    /// What a probe did a short time ago.
    fn raised(&self, now: Time) -> Option<Raised> {
        self.raised.filter(|raised| now.since(raised.at) < PROBED_US)
    }

    /// The path is taken to carry this and no more, but never less than [`MIN_BPS`], from which there is a way back.
    pub fn lower_to(&mut self, bps: f64) {
        self.bps = self.bps.min(bps.max(MIN_BPS as f64));
    }

    /// Nothing is heard from the receiver: whatever the reason, less is safer.
    pub fn back_off(&mut self, factor: f64, now: Time) {
        self.lower_to(self.bps * factor);
        self.decreased = now;
    }

    /// Returns whether it has turned out that a probe misled.
    pub fn update(&mut self, seen: &Observation, now: Time) -> bool {
        let mut was_misled = false;
        match seen.usage {
            Usage::Over => {
                was_misled = self.decrease(seen, now);
                self.state = State::Hold;
            }
            Usage::Under => self.state = State::Hold,
            Usage::Normal if self.state == State::Hold => {
                self.state = State::Increase;
                self.increased = Some(now);
            }
            Usage::Normal => self.increase(seen, now),
        }
        was_misled
    }

    fn increase(&mut self, seen: &Observation, now: Time) {
        let elapsed_s = now.since(self.increased.unwrap_or(now)).min(1_000_000) as f64 / 1e6;
        self.increased = Some(now);
        if let Some(throughput) = seen.throughput_bps {
            self.capacity.contradict(throughput);
        }
        // What is sent regardless of the estimate and arrives, with no queue growing, is carried.
        self.bps = self.bps.max(seen.throughput_bps.unwrap_or(0.0) * PROVEN);
        if seen.app_limited {
            return;
        }
        let grown = if self.capacity.is_known() {
            let response_s = (seen.rtt_us + DETECTION_US) as f64 / 1e6;
            self.bps + (PACKET_BITS / response_s).min(self.bps * ADDITIVE_MAX) * elapsed_s
        } else {
            self.bps * INCREASE_PER_S.powf(elapsed_s)
        };
        let ahead_max = seen.throughput_bps.map_or(f64::MAX, |bps| bps * AHEAD_MAX + AHEAD_BPS);
        self.bps = grown.min(ahead_max.max(self.bps));
    }

    fn decrease(&mut self, seen: &Observation, now: Time) -> bool {
        let (shortest_us, longest_us) = DECREASE_PAUSE_US;
        let pause_us = seen.rtt_us.clamp(shortest_us, longest_us);
        let far_above =
            self.raised(now).is_none() && seen.throughput_bps.is_some_and(|bps| bps < self.bps / 2.0);
        if now.since(self.decreased) < pause_us && !far_above {
            return false;
        }
        let Some(mut throughput) = seen.throughput_bps else {
            self.back_off(0.5, now);
            return false;
        };
        if seen.app_limited {
            // What arrived on the average was less than the path carries.
            throughput = throughput.max(seen.last_bps.unwrap_or(0.0));
        }
        self.decreased = now;
        let raised = self.raised(now);
        if let Some(raised) = raised.filter(|raised| !raised.is_doubted) {
            self.raised = Some(Raised { is_doubted: true, ..raised });
            self.bps = (self.bps * PROBED_TRUST).max(raised.before_bps * MISLED_TRUST).min(self.bps);
            return false;
        }
        let by_capacity = self.capacity.bps().filter(|_| throughput * DECREASE > self.bps);
        let target = (DECREASE * by_capacity.unwrap_or(throughput)).max(self.explained(now).unwrap_or(0.0));
        self.raised = None;
        let floor = raised.map_or(0.0, |raised| raised.before_bps * MISLED_TRUST);
        self.lower_to(target.max(floor));
        self.capacity.observe(throughput);
        floor >= target
    }
}

/// The mean of what arrived at the onset of congestion and how much that varies.
#[derive(Clone, Copy, Debug, Default)]
struct Capacity {
    kbps: Option<f64>,
    /// Variance over mean, in kb/s.
    deviation: f64,
}

impl Capacity {
    const WEIGHT: f64 = 0.05;
    const DEVIATION: (f64, f64) = (0.4, 2.5);

    fn is_known(&self) -> bool {
        self.kbps.is_some()
    }

    fn bps(&self) -> Option<f64> {
        self.kbps.map(|kbps| kbps * 1_000.0)
    }

    fn observe(&mut self, bps: f64) {
        self.contradict(bps);
        let sample = bps / 1_000.0;
        if self.kbps.is_some_and(|kbps| sample < kbps - self.margin()) {
            self.kbps = None;
        }
        let before = self.kbps.unwrap_or(sample);
        let kbps = before + Self::WEIGHT * (sample - before);
        let error = (kbps - sample) * (kbps - sample) / kbps.max(1.0);
        let deviation = self.deviation + Self::WEIGHT * (error - self.deviation);
        self.deviation = deviation.clamp(Self::DEVIATION.0, Self::DEVIATION.1);
        self.kbps = Some(kbps);
    }

    /// More than it allows has arrived: the path is another, or freer, than it was.
    fn contradict(&mut self, bps: f64) {
        if self.kbps.is_some_and(|kbps| bps / 1_000.0 > kbps + self.margin()) {
            self.kbps = None;
        }
    }

    fn margin(&self) -> f64 {
        3.0 * (self.deviation * self.kbps.unwrap_or(0.0)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(usage: Usage, throughput_bps: f64) -> Observation {
        Observation {
            usage,
            throughput_bps: Some(throughput_bps),
            last_bps: None,
            app_limited: false,
            rtt_us: 50_000,
        }
    }

    #[test]
    fn growth_is_eight_percent_a_second_and_additive_near_the_capacity() {
        let mut rate = RateControl::new(1e6);
        for i in 0..=100 {
            rate.update(&seen(Usage::Normal, 1e6), Time(1_000_000 + i * 10_000));
        }
        assert!((1.07e6..1.09e6).contains(&rate.bps()), "{}", rate.bps());
        rate.update(&seen(Usage::Over, 1e6), Time(2_100_000));
        assert!((0.89e6..0.91e6).contains(&rate.bps()), "{}", rate.bps());
        for i in 0..=101 {
            rate.update(&seen(Usage::Normal, 0.95e6), Time(2_200_000 + i * 10_000));
        }
        let grown = rate.bps() - 0.9e6;
        assert!((60_000.0..68_000.0).contains(&grown), "a packet per 150 ms: {grown}");
    }

    #[test]
    fn who_sends_less_than_it_may_learns_nothing_and_nobody_runs_far_ahead() {
        let mut rate = RateControl::new(1e6);
        let limited = Observation { app_limited: true, ..seen(Usage::Normal, 0.2e6) };
        for i in 0..100 {
            rate.update(&limited, Time(i * 10_000));
        }
        assert_eq!(rate.bps(), 1e6);
        for i in 0..1_000 {
            rate.update(&seen(Usage::Normal, 0.7e6), Time(2_000_000 + i * 10_000));
        }
        assert!(rate.bps() <= 0.7e6 * 1.5 + 10_000.0, "{}", rate.bps());
    }
}
