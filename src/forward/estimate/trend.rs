//! Whether the queue before the bottleneck grows: the trendline of the delay, against a threshold that adapts.
//!
//! draft-ietf-rmcat-gcc-02 §5.4-5.5 with a line fitted to the smoothed delay in place of the Kalman filter, as
//! libwebrtc does. The threshold adapts (§5.4) because a fixed one starves beside loss-based flows, which
//! fill the queue by themselves.

use super::groups::Delta;

/// Groups that the line is fitted to.
const WINDOW: usize = 20;
/// Weight of the past in the smoothed delay.
const SMOOTHING: f64 = 0.9;
/// What turns a slope, times the number of deltas, into milliseconds comparable with the threshold.
const GAIN: f64 = 4.0;
const DELTAS_MAX: u32 = 60;

/// The adaptive threshold in milliseconds, and how fast it follows from below and above, per millisecond (§5.4).
const THRESHOLD_START_MS: f64 = 12.5;
const THRESHOLD_MIN_MS: f64 = 6.0;
const THRESHOLD_MAX_MS: f64 = 600.0;
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;
/// A spike further above the threshold than this does not move it.
const ADAPT_OFFSET_MAX_MS: f64 = 15.0;
const ADAPT_STEP_MAX_MS: f64 = 100.0;

/// How long the trend must be above the threshold to be overuse (§5.5: overuse_time_th).
const OVERUSE_MS: f64 = 10.0;

/// What the path says (§5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Usage {
    /// The queue drains: let it.
    Under,
    #[default]
    Normal,
    /// The queue grows.
    Over,
}

#[derive(Default)]
pub struct DelayTrend {
    /// (arrival, smoothed delay) in milliseconds, a ring of the latest `WINDOW`.
    points: [(f64, f64); WINDOW],
    count: u32,
    first_us: Option<i64>,
    accumulated_ms: f64,
    smoothed_ms: f64,
    least: Least,
    detector: Detector,
}

/// The least smoothed delay of the present stretch of time and of the one before: the path with an empty queue. It
/// forgets, because clocks drift and paths become longer.
#[derive(Default)]
struct Least {
    since_ms: f64,
    ms: f64,
    before_ms: f64,
}

impl Least {
    const STRETCH_MS: f64 = 15_000.0;

    fn add(&mut self, ms: f64, at_ms: f64) {
        if at_ms - self.since_ms > Self::STRETCH_MS {
            *self = Self { since_ms: at_ms, ms, before_ms: self.ms };
        }
        self.ms = self.ms.min(ms);
    }

    fn ms(&self) -> f64 {
        self.ms.min(self.before_ms)
    }
}

impl DelayTrend {
    /// Takes in what one group fared. Returns the state after it.
    pub fn add(&mut self, delta: &Delta) -> Usage {
        let first_us = *self.first_us.get_or_insert(delta.at_us);
        self.accumulated_ms += (delta.arrived_us - delta.sent_us) as f64 / 1_000.0;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.accumulated_ms;
        let at_ms = (delta.at_us - first_us) as f64 / 1_000.0;
        self.least.add(self.smoothed_ms, at_ms);
        self.points[self.count as usize % WINDOW] = (at_ms, self.smoothed_ms);
        self.count = self.count.wrapping_add(1).max(1);
        if (self.count as usize) < WINDOW {
            return Usage::Normal;
        }
        let Some(slope) = slope(&self.points) else { return self.detector.usage };
        let trend_ms = f64::from(self.count.min(DELTAS_MAX)) * slope * GAIN;
        self.detector.update(trend_ms, delta.sent_us as f64 / 1_000.0, at_ms)
    }

    pub fn usage(&self) -> Usage {
        self.detector.usage
    }

    /// How long packets wait before the bottleneck, in milliseconds, as far as the last half minute has seen shorter
    /// ways: a queue that stays full has no trend.
    pub fn queued_ms(&self) -> f64 {
        self.smoothed_ms - self.least.ms()
    }
}

/// The slope of the least squares line; `None` if all points are at one moment.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (covariance, variance) = points.iter().fold((0.0, 0.0), |(covariance, variance), p| {
        let dx = p.0 - mean_x;
        (covariance + dx * (p.1 - mean_y), variance + dx * dx)
    });
    (variance > 0.0).then(|| covariance / variance)
}

struct Detector {
    usage: Usage,
    threshold_ms: f64,
    adapted_at_ms: Option<f64>,
    trend_before_ms: f64,
    over_ms: f64,
    over_count: u32,
}

impl Default for Detector {
    fn default() -> Self {
        Self {
            usage: Usage::Normal,
            threshold_ms: THRESHOLD_START_MS,
            adapted_at_ms: None,
            trend_before_ms: 0.0,
            over_ms: 0.0,
            over_count: 0,
        }
    }
}

impl Detector {
    fn update(&mut self, trend_ms: f64, sent_ms: f64, at_ms: f64) -> Usage {
        if trend_ms > self.threshold_ms {
            // The first time above may have begun anywhere since the group before.
            self.over_ms += if self.over_count == 0 { sent_ms / 2.0 } else { sent_ms };
            self.over_count += 1;
            if self.over_ms > OVERUSE_MS && self.over_count > 1 && trend_ms >= self.trend_before_ms {
                self.over_ms = 0.0;
                self.over_count = 0;
                self.usage = Usage::Over;
            }
        } else {
            self.over_ms = 0.0;
            self.over_count = 0;
            self.usage = if trend_ms < -self.threshold_ms { Usage::Under } else { Usage::Normal };
        }
        self.trend_before_ms = trend_ms;
        self.adapt(trend_ms.abs(), at_ms);
        self.usage
    }

    fn adapt(&mut self, trend_ms: f64, at_ms: f64) {
        let elapsed_ms = at_ms - self.adapted_at_ms.unwrap_or(at_ms);
        self.adapted_at_ms = Some(at_ms);
        if trend_ms > self.threshold_ms + ADAPT_OFFSET_MAX_MS {
            return;
        }
        let rate = if trend_ms < self.threshold_ms { THRESHOLD_DOWN } else { THRESHOLD_UP };
        let step = rate * (trend_ms - self.threshold_ms) * elapsed_ms.clamp(0.0, ADAPT_STEP_MAX_MS);
        self.threshold_ms = (self.threshold_ms + step).clamp(THRESHOLD_MIN_MS, THRESHOLD_MAX_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups every 20 ms, each `growth_us(n)` later than sent compared with the one before.
    fn usages(count: i64, growth_us: impl Fn(i64) -> i64) -> Vec<Usage> {
        let mut trend = DelayTrend::default();
        let mut at_us = 0;
        let add = |n| {
            let arrived_us = 20_000 + growth_us(n);
            at_us += arrived_us;
            trend.add(&Delta { sent_us: 20_000, arrived_us, at_us })
        };
        (0..count).map(add).collect()
    }

    #[test]
    fn a_steady_path_is_normal_and_so_is_one_that_jitters() {
        assert!(usages(500, |_| 0).iter().all(|usage| *usage == Usage::Normal));
        let noise = |n: i64| ((n * 7_919) % 13 - 6) * 500;
        assert!(usages(500, |n| noise(n) - noise(n - 1)).iter().all(|usage| *usage == Usage::Normal));
    }

    #[test]
    fn a_queue_that_grows_is_overuse_and_one_that_drains_is_underuse() {
        let usages = usages(100, |n| match n {
            0..30 => 0,
            30..60 => 2_000,
            _ => -2_000,
        });
        assert!(usages[..30].iter().all(|usage| *usage == Usage::Normal));
        let found = usages.iter().position(|usage| *usage == Usage::Over).unwrap();
        assert!((31..48).contains(&found), "after {} groups", found - 30);
        assert_eq!(*usages.last().unwrap(), Usage::Under);
    }
}
