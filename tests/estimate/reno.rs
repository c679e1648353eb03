//! A flow that fills queues until they overflow: TCP with NewReno's congestion avoidance (RFC 5681, RFC 6582), as much
//! of it as its neighbours notice.

use std::collections::BTreeMap;

use fanline::time::Time;

use crate::path::CROSS_TRAFFIC;

const SEGMENT_BYTES: usize = 1_200;
const DUPLICATES: u64 = 3;
const TIMEOUT_US: u64 = 1_000_000;

pub struct Reno {
    window: f64,
    threshold: f64,
    next: u64,
    flying: BTreeMap<u64, Time>,
    /// Losses of what was sent before this are one event.
    recovery_until: u64,
}

impl Default for Reno {
    fn default() -> Self {
        Self { window: 10.0, threshold: f64::MAX, next: 0, flying: BTreeMap::new(), recovery_until: 0 }
    }
}

impl Reno {
    /// The receiver's answers, one for each segment.
    pub fn acknowledge(segments: &[Vec<u8>]) -> Vec<Vec<u8>> {
        segments.iter().map(|segment| segment[..9].to_vec()).collect()
    }

    /// Takes acknowledgements and sends what the window allows.
    pub fn step(&mut self, now: Time, acks: &[Vec<u8>]) -> Vec<Vec<u8>> {
        for ack in acks {
            let number = u64::from_be_bytes(ack[1..9].try_into().expect("as it was sent"));
            self.acknowledged(number);
        }
        if self.flying.first_key_value().is_some_and(|(_, sent)| now.since(*sent) > TIMEOUT_US) {
            self.flying.clear();
            self.threshold = (self.window / 2.0).max(2.0);
            self.window = 1.0;
            self.recovery_until = self.next;
        }
        let mut out = Vec::new();
        while (self.flying.len() as f64) < self.window.floor() {
            let mut segment = vec![CROSS_TRAFFIC; SEGMENT_BYTES];
            segment[1..9].copy_from_slice(&self.next.to_be_bytes());
            self.flying.insert(self.next, now);
            self.next += 1;
            out.push(segment);
        }
        out
    }

    fn acknowledged(&mut self, number: u64) {
        if self.flying.remove(&number).is_none() {
            return;
        }
        self.window += if self.window < self.threshold { 1.0 } else { 1.0 / self.window };
        while let Some((&oldest, _)) = self.flying.first_key_value()
            && oldest + DUPLICATES <= number
        {
            self.flying.pop_first();
            if oldest >= self.recovery_until {
                self.recovery_until = self.next;
                self.threshold = (self.window / 2.0).max(2.0);
                self.window = self.threshold;
            }
        }
    }
}
