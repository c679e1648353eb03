//! How often one session may be asked: a token bucket per session, in bounded memory.
//!
//! The limit protects control from one client in a loop; it is no accounting. Requests that create
//! sessions are not limited, and requests that fail authentication never get here.

use std::collections::HashMap;
use std::time::Instant;

use crate::control::request::AppId;
use crate::id::SessionId;

/// Buckets kept at most (a few MB). More sessions than this within one second go unlimited: they cost
/// control less than forgetting the busy ones would.
const BUCKETS_MAX: usize = 32_768;

/// Buckets below which sweeping is not worth it.
const SWEEP_MIN: usize = 1_024;

/// Keyed by app too: a session id is known to all who subscribe, and they must not exhaust its owner's.
type Key = (AppId, SessionId);

/// Token buckets that hold one second's worth of requests.
#[derive(Debug)]
pub(super) struct RateLimiter {
    per_second: f64,
    buckets: HashMap<Key, Bucket>,
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl RateLimiter {
    pub(super) fn new(requests_per_second: u32) -> Self {
        Self { per_second: f64::from(requests_per_second), buckets: HashMap::new(), sweep_at: SWEEP_MIN }
    }

    /// Whether this session may make a request at `now`; if so, the request is counted.
    pub(super) fn admit(&mut self, app: &AppId, session: SessionId, now: Instant) -> bool {
        let per_second = self.per_second;
        let full = Bucket { tokens: per_second, filled: now };
        self.make_room(now);
        let key = (app.clone(), session);
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(&key) {
            return true;
        }
        self.buckets.entry(key).or_insert(full).take(per_second, now)
    }

    /// A bucket that is full again says the same as none. Sweeping at doubled size is O(1) per request.
    fn make_room(&mut self, now: Instant) {
        if self.buckets.len() < self.sweep_at {
            return;
        }
        let per_second = self.per_second;
        self.buckets.retain(|_, bucket| bucket.tokens_at(per_second, now) < per_second);
        self.sweep_at = (2 * self.buckets.len()).max(SWEEP_MIN);
    }
}

impl Bucket {
    fn tokens_at(&self, per_second: f64, now: Instant) -> f64 {
        let refill = now.saturating_duration_since(self.filled).as_secs_f64() * per_second;
        (self.tokens + refill).min(per_second)
    }

    fn take(&mut self, per_second: f64, now: Instant) -> bool {
        *self = Self { tokens: self.tokens_at(per_second, now), filled: now };
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time::Clock;

    fn app() -> AppId {
        AppId("a".into())
    }

    #[test]
    fn a_burst_of_one_second_passes_and_the_next_waits_for_its_token() {
        let mut limiter = RateLimiter::new(50);
        let (session, start) = (SessionId([1; 16]), Clock::runtime_instant());
        let admitted = (0..80).filter(|_| limiter.admit(&app(), session, start)).count();
        assert_eq!(admitted, 50);
        let later = start + Duration::from_millis(21);
        assert!(limiter.admit(&app(), session, later));
        assert!(!limiter.admit(&app(), session, later));
        assert!(limiter.admit(&app(), SessionId([2; 16]), start), "another session has its own bucket");
        assert!(limiter.admit(&AppId("b".into()), session, start), "another app cannot exhaust ours");
    }

    #[test]
    fn idle_buckets_are_forgotten_and_busy_ones_are_not() {
        let mut limiter = RateLimiter::new(2);
        let start = Clock::runtime_instant();
        let session = |n: u32| SessionId(u128::from(n).to_be_bytes());
        let later = start + Duration::from_secs(2);
        for n in 0..SWEEP_MIN as u32 - 1 {
            assert!(limiter.admit(&app(), session(n), start));
        }
        assert!(limiter.admit(&app(), session(90_000), later));
        assert!(limiter.admit(&app(), session(90_000), later));
        assert!(!limiter.admit(&app(), session(90_000), later), "the sweep keeps who has spent tokens");
        assert_eq!(limiter.buckets.len(), 1);
    }

    #[test]
    fn memory_stays_bounded_when_everybody_is_busy() {
        let mut limiter = RateLimiter::new(1);
        let start = Clock::runtime_instant();
        for n in 0..BUCKETS_MAX as u128 + 100 {
            assert!(limiter.admit(&app(), SessionId(n.to_be_bytes()), start));
        }
        assert_eq!(limiter.buckets.len(), BUCKETS_MAX);
        assert!(!limiter.admit(&app(), SessionId(0u128.to_be_bytes()), start));
    }
}
