//! Our estimator with the least around it that a sender and a receiver need: a pacer, and feedback as our own
//! receiving side writes it.

use std::collections::VecDeque;

use fanline::forward::estimate::{PACING, START_BPS, SendSideEstimator};
use fanline::forward::transport_cc::ArrivalRecorder;
use fanline::rtp::rtcp::{Packet, TransportFeedback, Writer, packets};
use fanline::time::Time;

use crate::path::{Flow, Source};

/// RTP header with extensions, and the SRTP tag.
const OVERHEAD: usize = 12 + 12 + 16;
const PADDING_BYTES: usize = 1_000;
const FEEDBACK_US: u64 = 50_000;

pub struct Ours {
    pub estimator: SendSideEstimator,
    source: Source,
    queue: VecDeque<usize>,
    budget: f64,
    last: Option<Time>,
    recorder: ArrivalRecorder,
    feedback_due: Option<Time>,
}

impl Ours {
    pub fn new(wanted_bps: f64) -> Self {
        let mut estimator = SendSideEstimator::new(START_BPS);
        estimator.set_wanted_bps(wanted_bps as u64);
        estimator.expect_feedback();
        Self {
            estimator,
            source: Source::new(wanted_bps),
            queue: VecDeque::new(),
            budget: 0.0,
            last: None,
            recorder: ArrivalRecorder::new(),
            feedback_due: None,
        }
    }

    fn packet(&mut self, len: usize, now: Time) -> Vec<u8> {
        let sequence = self.estimator.on_sent(len, now);
        let mut packet = vec![0x80; len];
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet
    }
}

impl Flow for Ours {
    fn sender(&mut self, now: Time, received: &mut dyn Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        for compound in received {
            for packet in packets(&compound) {
                if let Ok(Packet::TransportFeedback { body, .. }) = packet {
                    self.estimator.on_feedback(&TransportFeedback::parse(body).unwrap(), now);
                }
            }
        }
        self.estimator.poll(now);
        let estimate_bps = self.estimate_bps();
        if let Some((_, sizes)) = self.source.frame(estimate_bps, now) {
            self.queue.extend(sizes.iter().map(|size| size + OVERHEAD));
        }
        let elapsed_us = now.since(self.last.replace(now).unwrap_or(now));
        // Who does not obey is not held back either, but sends more than it is allowed.
        let rate = PACING * estimate_bps.max(self.source.encoder.least_bps) / 8e6;
        self.budget = (self.budget + rate * elapsed_us as f64).min((rate * 5_000.0).max(1_200.0));
        let mut out = Vec::new();
        while self.budget > 0.0
            && let Some(len) = self.queue.pop_front()
        {
            self.budget -= len as f64;
            out.push(self.packet(len, now));
        }
        while self.estimator.probe_owed(now) > 0 {
            out.push(self.packet(PADDING_BYTES, now));
        }
        out
    }

    fn receiver(&mut self, now: Time, received: &mut dyn Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        for packet in received {
            self.recorder.record(u16::from_be_bytes([packet[2], packet[3]]), now);
            self.feedback_due.get_or_insert(now.plus_us(FEEDBACK_US));
        }
        let mut out = Vec::new();
        if self.feedback_due.is_some_and(|due| due <= now) {
            self.feedback_due = None;
            let mut buffer = [0; 1_200];
            let mut writer = Writer::new(&mut buffer);
            while self.recorder.feedback(&mut writer, 1, 2) {}
            out.push(writer.finish().to_vec());
        }
        out
    }

    fn estimate_bps(&self) -> f64 {
        self.estimator.available_bps() as f64
    }

    fn source(&mut self) -> &mut Source {
        &mut self.source
    }
}
