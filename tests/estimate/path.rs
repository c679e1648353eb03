//! A simulated path with a sender at one end and a receiver at the other, and what the sender believes of it.
//!
//! Both estimators under comparison run over the same [`SimNet`] link, fed by the same source: video of thirty
//! frames a second that follows the estimate at once, up to what is wanted. A flow of TCP's kind can share the queue.

use std::net::SocketAddr;
use std::time::Duration;

use fanline::io::sim::{Link, Rate, SimNet, SimSocket};
use fanline::time::Time;

use crate::reno::Reno;

pub const START: Time = Time(1_800_000_000_000_000);

/// How far time goes in one step: arrivals are noted this exactly.
const STEP_US: u64 = 500;

/// The first byte of what belongs to the flow beside; no RTP, RTCP, STUN or DTLS begins with it.
pub const CROSS_TRAFFIC: u8 = 0xff;

/// One sending and one receiving end.
pub trait Flow {
    /// Where its datagrams go to and come from, for the ends to name.
    fn sender(&mut self, now: Time, received: &mut dyn Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>>;
    fn receiver(&mut self, now: Time, received: &mut dyn Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>>;
    fn estimate_bps(&self) -> f64;
    fn source(&mut self) -> &mut Source;
}

/// The conditions of a run.
#[derive(Clone, Copy)]
pub struct Conditions {
    pub seed: u64,
    pub rtt_ms: u64,
    pub loss: f64,
    pub jitter_ms: u64,
    /// The queue before the bottleneck, in milliseconds of its rate.
    pub queue_ms: u64,
    pub seconds: u64,
    /// The capacity in bits per second at a moment given in seconds.
    pub capacity: fn(f64) -> f64,
    pub cross_traffic: bool,
    pub source: Encoder,
}

/// What the encoder makes of an estimate, in bits per second: never less and never more than this.
#[derive(Clone, Copy)]
pub struct Encoder {
    pub least_bps: f64,
    pub most_bps: f64,
}

impl Encoder {
    pub const OBEDIENT: Self = Self { least_bps: 0.0, most_bps: f64::MAX };
}

impl Conditions {
    pub fn constant(capacity: fn(f64) -> f64) -> Self {
        Self {
            seed: 1,
            rtt_ms: 50,
            loss: 0.0,
            jitter_ms: 0,
            queue_ms: 300,
            seconds: 20,
            capacity,
            cross_traffic: false,
            source: Encoder::OBEDIENT,
        }
    }
}

/// What happened, each tenth of a second.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at_s: f64,
    pub capacity_bps: f64,
    pub estimate_bps: f64,
    pub delivered_bps: f64,
    pub cross_bps: f64,
    /// How long a datagram sent now would wait before the bottleneck.
    pub queued_ms: f64,
}

pub struct Trace(pub Vec<Sample>);

impl Trace {
    fn between(&self, from_s: f64, to_s: f64) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| (from_s..to_s).contains(&sample.at_s))
    }

    /// The mean over a stretch of time.
    pub fn mean(&self, from_s: f64, to_s: f64, of: impl Fn(&Sample) -> f64) -> f64 {
        let (sum, count) = self
            .between(from_s, to_s)
            .fold((0.0, 0.0), |(sum, count), sample| (sum + of(sample), count + 1.0));
        sum / f64::max(count, 1.0)
    }

    /// The mean of the estimate as a part of the capacity, what lies above it not counted as more.
    pub fn used(&self, from_s: f64, to_s: f64) -> f64 {
        self.mean(from_s, to_s, |s| (s.estimate_bps / s.capacity_bps).min(1.0))
    }

    /// When `is_so` of a sample for the first time at or after `from_s`.
    pub fn first(&self, from_s: f64, is_so: impl Fn(&Sample) -> bool) -> Option<f64> {
        self.between(from_s, f64::MAX).find(|sample| is_so(sample)).map(|sample| sample.at_s)
    }
}

/// Runs a flow over a path.
pub fn run(flow: &mut impl Flow, conditions: &Conditions) -> Trace {
    let net = SimNet::new(conditions.seed, START);
    let (near, far) = (address(1), address(2));
    let (sender, receiver) = (net.socket(near), net.socket(far));
    let delay = Duration::from_micros(conditions.rtt_ms * 500);
    net.set_link(far, near, Link { delay, loss: conditions.loss, ..Link::default() });
    flow.source().encoder = conditions.source;
    let mut reno = conditions.cross_traffic.then(Reno::default);
    let (mut trace, mut delivered, mut crossed) = (Vec::new(), 0usize, 0usize);
    for step in 0..conditions.seconds * 1_000_000 / STEP_US {
        let at_us = step * STEP_US;
        let now = START.plus_us(at_us);
        let at_s = at_us as f64 / 1e6;
        let bitrate_bps = (conditions.capacity)(at_s) as u64;
        if at_us.is_multiple_of(10_000) {
            let queue_bytes = (bitrate_bps * conditions.queue_ms / 8_000).max(6_000);
            let jitter = Duration::from_millis(conditions.jitter_ms);
            let rate = Some(Rate { bitrate_bps, queue_bytes });
            net.set_link(near, far, Link { delay, jitter, loss: conditions.loss, rate, ..Link::default() });
        }
        net.advance(now);
        let arrived = drain(&receiver);
        delivered += arrived.iter().filter(|bytes| !is_cross(bytes)).map(Vec::len).sum::<usize>();
        crossed += arrived.iter().filter(|bytes| is_cross(bytes)).map(Vec::len).sum::<usize>();
        let (cross, media): (Vec<_>, Vec<_>) = arrived.into_iter().partition(|bytes| is_cross(bytes));
        let replies = flow.receiver(now, &mut media.into_iter());
        replies.iter().chain(&Reno::acknowledge(&cross)).for_each(|bytes| receiver.send(near, bytes));
        let (acks, feedback): (Vec<_>, Vec<_>) =
            drain(&sender).into_iter().partition(|bytes| is_cross(bytes));
        flow.sender(now, &mut feedback.into_iter()).iter().for_each(|bytes| sender.send(far, bytes));
        if let Some(reno) = &mut reno {
            reno.step(now, &acks).iter().for_each(|bytes| sender.send(far, bytes));
        }
        if at_us.is_multiple_of(100_000) {
            trace.push(Sample {
                at_s,
                capacity_bps: bitrate_bps as f64,
                estimate_bps: flow.estimate_bps(),
                delivered_bps: std::mem::take(&mut delivered) as f64 * 80.0,
                cross_bps: std::mem::take(&mut crossed) as f64 * 80.0,
                queued_ms: net.queue_delay(near, far).as_secs_f64() * 1e3,
            });
        }
    }
    Trace(trace)
}

pub fn address(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 5_000).into()
}

fn is_cross(bytes: &[u8]) -> bool {
    bytes.first() == Some(&CROSS_TRAFFIC)
}

fn drain(socket: &SimSocket) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| socket.recv()).map(|(_, _, bytes)| bytes).collect()
}

/// Video whose encoder follows the estimate: how many bytes the frame has that is due, if one is.
pub struct Source {
    frames: u64,
    pub encoder: Encoder,
    /// What is told to the estimator as wanted.
    pub wanted_bps: f64,
}

impl Source {
    const FRAMES_PER_S: u64 = 30;
    /// What remains for headers and tags when payload is made for the estimate.
    const PAYLOAD_PART: f64 = 0.95;

    pub fn new(wanted_bps: f64) -> Self {
        Self { frames: 0, encoder: Encoder::OBEDIENT, wanted_bps }
    }

    /// The payload sizes of the frame's packets and its number.
    pub fn frame(&mut self, estimate_bps: f64, now: Time) -> Option<(u64, Vec<usize>)> {
        let due = START.plus_us(self.frames * 1_000_000 / Self::FRAMES_PER_S);
        if now < due {
            return None;
        }
        self.frames += 1;
        let rate = estimate_bps.clamp(self.encoder.least_bps, self.encoder.most_bps.min(self.wanted_bps));
        let bits = rate * Self::PAYLOAD_PART / Self::FRAMES_PER_S as f64;
        let bytes = (bits / 8.0) as usize;
        let packets = bytes.div_ceil(1_150).max(1);
        Some((self.frames, vec![(bytes / packets).max(20); packets]))
    }
}
