//! The rate at which packets arrive at the receiver: what the path demonstrably carries.
//!
//! A Bayesian mean over short windows, as libwebrtc's acknowledged bitrate estimator: a window that differs from
//! the estimate is taken as noise first, and the more so the higher it is above it.

/// Length of the first window and of all others, in microseconds.
const FIRST_WINDOW_US: i64 = 500_000;
const WINDOW_US: i64 = 150_000;

/// What is this much older than the window is of a clock that was set back, and begins another.
const CLOCK_JUMP_US: i64 = 1_000_000;

/// How far a window's rate counts as noise, relative to its difference from the estimate.
const UNCERTAINTY: f64 = 10.0;
/// Two windows in a row that differ by more than this are no noise: the path, or the sender, has changed.
const JUMP: f64 = 1.5;

/// How little is known at first, as a variance in (kb/s)².
const VARIANCE_START: f64 = 50.0;
/// How much less is known while the rate is expected to change.
const VARIANCE_CHANGING: f64 = 200.0;
/// How much the true rate drifts per window, as a variance in (kb/s)².
const DRIFT: f64 = 5.0;

/// All rates in bits per second.
#[derive(Default)]
pub struct Throughput {
    window_start_us: Option<i64>,
    window_bytes: u64,
    estimate: Option<Estimate>,
    /// The last window's rate, if it was that far from the estimate.
    jumped_kbps: Option<f64>,
    last_kbps: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    kbps: f64,
    variance: f64,
}

impl Throughput {
    /// Packets of so many bytes arrived at a time that is not known, but before the next one that is.
    pub fn add_untimed(&mut self, bytes: f64) {
        self.window_bytes += bytes as u64;
    }

    /// A packet of `bytes` arrived, by the receiver's clock.
    pub fn add(&mut self, bytes: u32, arrived_us: i64) {
        let start_us = *self.window_start_us.get_or_insert(arrived_us);
        let window_us = if self.estimate.is_some() { WINDOW_US } else { FIRST_WINDOW_US };
        let elapsed_us = arrived_us - start_us;
        if elapsed_us < -CLOCK_JUMP_US {
            self.window_start_us = Some(arrived_us);
            self.window_bytes = 0;
        } else if elapsed_us >= window_us {
            // A window in which little came and which then ended late is as long as it was.
            self.sample(self.window_bytes as f64 * 8_000.0 / elapsed_us as f64);
            self.window_start_us = Some(arrived_us);
            self.window_bytes = 0;
        }
        self.window_bytes += u64::from(bytes);
    }

    /// A probe has succeeded: what is sent, and so what arrives, will change.
    pub fn expect_change(&mut self) {
        if let Some(known) = &mut self.estimate {
            known.variance += VARIANCE_CHANGING;
        }
    }

    pub fn bps(&self) -> Option<f64> {
        self.estimate.map(|estimate| estimate.kbps * 1_000.0)
    }

    /// The last window's alone: while the queue grows nothing arrives faster than the path carries, and a sender that
    /// has just begun to send more is not yet in the mean.
    pub fn last_bps(&self) -> Option<f64> {
        self.last_kbps.map(|kbps| kbps * 1_000.0)
    }

    fn sample(&mut self, kbps: f64) {
        self.last_kbps = Some(kbps);
        let differs = |a: f64, b: f64| a > JUMP * b || b > JUMP * a;
        let jump = self.estimate.filter(|known| differs(known.kbps, kbps)).map(|_| kbps);
        let before = std::mem::replace(&mut self.jumped_kbps, jump);
        let has_moved = jump.is_some() && before.is_some_and(|before| !differs(before, kbps));
        let Some(known) = self.estimate.as_mut().filter(|_| !has_moved) else {
            self.estimate = Some(Estimate { kbps, variance: VARIANCE_START });
            return;
        };
        let noise = UNCERTAINTY * (known.kbps - kbps).abs() / known.kbps.max(1.0);
        let (sample_variance, variance) = (noise * noise, known.variance + DRIFT);
        known.kbps = (sample_variance * known.kbps + variance * kbps) / (sample_variance + variance);
        known.variance = sample_variance * variance / (sample_variance + variance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_found_and_a_drop_followed_within_half_a_second() {
        let mut throughput = Throughput::default();
        for packet in 0..200 {
            throughput.add(1_250, packet * 10_000);
        }
        let bps = throughput.bps().unwrap();
        assert!((950_000.0..1_050_000.0).contains(&bps), "{bps}");
        for packet in 0..13 {
            throughput.add(1_250, 2_000_000 + packet * 40_000);
        }
        let bps = throughput.bps().unwrap();
        assert!((200_000.0..300_000.0).contains(&bps), "{bps}");
    }

    #[test]
    fn a_clock_set_back_does_not_stop_it() {
        let mut throughput = Throughput::default();
        for packet in 0..200 {
            throughput.add(1_250, packet * 10_000);
        }
        for packet in 0..200 {
            throughput.add(1_250, packet * 5_000 - 3_600_000_000);
        }
        let bps = throughput.bps().unwrap();
        assert!((1_800_000.0..2_100_000.0).contains(&bps), "{bps}");
    }
}
