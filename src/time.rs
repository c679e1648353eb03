//! The only file that reads a clock. Everything else takes `now` as an argument, which is what lets
//! a simulation run a minute of media in a second and repeat it exactly.
//!
//! [`Time`] counts microseconds since the Unix epoch but is advanced by the monotonic clock: it never
//! steps, so intervals can be trusted, and a sender report's NTP time is plain arithmetic on it.

use std::ops::{Add, Sub};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    pub const NEVER: Time = Time(u64::MAX);

    /// Microseconds from `earlier` to here; 0 if `earlier` is later.
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn plus_us(self, us: u64) -> Time {
        Time(self.0.saturating_add(us))
    }

    pub fn plus_ms(self, ms: u64) -> Time {
        self.plus_us(ms * 1_000)
    }

    /// This moment as a 64-bit NTP timestamp: seconds since 1900 in 32.32 fixed point (RFC 5905 §6).
    pub fn ntp(self) -> u64 {
        const UNIX_EPOCH_IN_NTP_S: u64 = 2_208_988_800;
        let seconds = self.0 / 1_000_000 + UNIX_EPOCH_IN_NTP_S;
        let fraction = ((self.0 % 1_000_000) << 32) / 1_000_000;
        (seconds << 32) | fraction
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, by: Duration) -> Time {
        self.plus_us(by.as_micros() as u64)
    }
}

impl Sub<Time> for Time {
    type Output = Duration;

    fn sub(self, earlier: Time) -> Duration {
        Duration::from_micros(self.since(earlier))
    }
}

/// The middle 32 bits of an NTP timestamp, as reports carry it (RFC 3550 §4).
pub fn ntp_mid32(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

/// Ties the monotonic clock to the wall clock once, at start-up. Copies agree with each other.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_unix_us: u64,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clocks")]
    pub fn start() -> Self {
        Self::anchored(Instant::now(), SystemTime::now())
    }

    /// A clock for the runtime of the control thread, whose time a simulation can pause and advance.
    pub fn of_runtime() -> Self {
        Self::anchored(Self::runtime_instant(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
    }

    fn anchored(start: Instant, wall: SystemTime) -> Self {
        let since_epoch = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start, start_unix_us: since_epoch.as_micros() as u64 }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clocks")]
    pub fn now(&self) -> Time {
        self.at(Instant::now())
    }

    /// The current instant by the tokio runtime's clock: the same as the system's unless paused.
    pub fn runtime_instant() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// The wall clock, as time since the Unix epoch: what the kernel stamps datagrams with.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clocks")]
    pub fn wall() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    pub fn at(&self, instant: Instant) -> Time {
        Time(self.start_unix_us + instant.saturating_duration_since(self.start).as_micros() as u64)
    }

    pub fn instant(&self, time: Time) -> Instant {
        self.start + Duration::from_micros(time.0.saturating_sub(self.start_unix_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ntp_of_the_unix_epoch_and_of_half_a_second_later() {
        assert_eq!(Time(0).ntp(), 2_208_988_800 << 32);
        assert_eq!(Time(500_000).ntp() & 0xffff_ffff, 1 << 31);
        assert_eq!(ntp_mid32(0x0123_4567_89ab_cdef), 0x4567_89ab);
    }

    #[test]
    fn instants_and_times_convert_back_and_forth() {
        let clock = Clock::start();
        let t = clock.now().plus_ms(1_500);
        assert_eq!(clock.at(clock.instant(t)), t);
    }
}
