//! One stream of key frame requests to a publisher, out of those of all its subscribers.
//!
//! A key frame costs several times a delta frame, and thousands of viewers may miss the same packet. So
//! requests are coalesced per encoding. Deliberately absent: who asked, and by which message; any key
//! frame serves all.

use crate::time::Time;

/// The least time between two requests to one encoder: longer than a round trip and an encoder's answer
/// usually take, so that the first request is not repeated while its key frame is on the way.
pub const INTERVAL_MS: u64 = 500;

/// The requests for key frames of one encoding.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyframeRequests {
    wanted: bool,
    last_sent: Option<Time>,
}

impl KeyframeRequests {
    /// Someone needs a key frame.
    pub fn request(&mut self) {
        self.wanted = true;
    }

    /// A key frame came, and answers everyone who asked before it.
    pub fn on_keyframe(&mut self) {
        self.wanted = false;
    }

    /// Whether to send a request upstream now. True counts as sent.
    pub fn due(&mut self, now: Time) -> bool {
        let due = self.next_due().is_some_and(|due| due <= now);
        if due {
            *self = Self { wanted: false, last_sent: Some(now) };
        }
        due
    }

    /// When [`due`](Self::due) will be true; `None` while no one waits, and in the past for at once.
    pub fn next_due(&self) -> Option<Time> {
        let earliest = self.last_sent.map_or(Time(0), |sent| sent.plus_ms(INTERVAL_MS));
        self.wanted.then_some(earliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at_ms(ms: u64) -> Time {
        Time(0).plus_ms(1_000 + ms)
    }

    #[test]
    fn first_request_goes_out_at_once_and_only_once() {
        let mut requests = KeyframeRequests::default();
        assert!(!requests.due(at_ms(0)), "no one asked");
        for _ in 0..10_000 {
            requests.request();
        }
        assert!(requests.due(at_ms(0)));
        assert!(!requests.due(at_ms(0)));
        assert_eq!(requests.next_due(), None);
    }

    #[test]
    fn request_inside_the_interval_waits_for_its_end() {
        let mut requests = KeyframeRequests::default();
        requests.request();
        assert!(requests.due(at_ms(0)));
        requests.request();
        assert!(!requests.due(at_ms(499)));
        assert_eq!(requests.next_due(), Some(at_ms(500)));
        assert!(requests.due(at_ms(500)));
        assert!(!requests.due(at_ms(2_000)), "answered by one request");
    }

    #[test]
    fn key_frame_answers_those_who_wait() {
        let mut requests = KeyframeRequests::default();
        requests.request();
        assert!(requests.due(at_ms(0)));
        requests.request();
        requests.on_keyframe();
        assert!(!requests.due(at_ms(500)));
    }

    #[test]
    fn request_after_a_key_frame_still_keeps_the_interval() {
        let mut requests = KeyframeRequests::default();
        requests.request();
        assert!(requests.due(at_ms(0)));
        requests.on_keyframe();
        requests.request();
        assert!(!requests.due(at_ms(200)));
        assert!(requests.due(at_ms(500)));
    }

    proptest! {
        #[test]
        fn requests_are_never_closer_than_the_interval_and_none_is_forgotten(
            steps in prop::collection::vec((1u64..400, 0u8..4), 1..200),
        ) {
            let mut requests = KeyframeRequests::default();
            let (mut now, mut sent, mut waiting) = (0, vec![], false);
            for (gap, event) in steps {
                now += gap;
                match event {
                    0 | 1 => (requests.request(), waiting = true).0,
                    2 => (requests.on_keyframe(), waiting = false).0,
                    _ => {}
                }
                if requests.due(at_ms(now)) {
                    prop_assert!(waiting);
                    waiting = false;
                    sent.push(now);
                }
            }
            prop_assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= INTERVAL_MS));
            prop_assert_eq!(requests.due(at_ms(now + INTERVAL_MS)), waiting);
        }
    }
}
