//! What estimating a subscriber's bandwidth costs: per packet of video that is sent, and per feedback that comes back
//! for some of them, in a steady state at 3 Mb/s with feedback every 50 ms, as browsers send it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use fanline::forward::estimate::{START_BPS, SendSideEstimator};
use fanline::forward::transport_cc::ArrivalRecorder;
use fanline::rtp::rtcp::{Packet, TransportFeedback, Writer, packets};
use fanline::time::Time;

const PACKET_BYTES: usize = 1_200;
const PACKET_US: u64 = 3_200;
const FEEDBACK_PACKETS: u64 = 16;
const DELAY_US: u64 = 20_000;

/// A sender and its receiver, on a path that takes a while and carries all.
struct Path {
    estimator: SendSideEstimator,
    recorder: ArrivalRecorder,
    now: Time,
}

impl Path {
    fn new() -> Self {
        let mut estimator = SendSideEstimator::new(START_BPS);
        estimator.expect_feedback();
        let mut path = Self { estimator, recorder: ArrivalRecorder::new(), now: Time(1_800_000_000_000_000) };
        (0..100).for_each(|_| {
            path.round();
        });
        path
    }

    /// Sends what one feedback covers and takes it in. Returns the time spent on either.
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
    fn round(&mut self) -> (Duration, Duration) {
        let mut sequences = [0; FEEDBACK_PACKETS as usize];
        let began = Instant::now();
        for (n, sequence) in (0..).zip(&mut sequences) {
            *sequence = self.estimator.on_sent(PACKET_BYTES, self.now.plus_us(n * PACKET_US));
        }
        let sending = began.elapsed();
        for (n, sequence) in (0..).zip(sequences) {
            self.recorder.record(sequence, self.now.plus_us(n * PACKET_US + DELAY_US));
        }
        self.now = self.now.plus_us(FEEDBACK_PACKETS * PACKET_US);
        let mut buffer = [0; 1_200];
        let mut writer = Writer::new(&mut buffer);
        while self.recorder.feedback(&mut writer, 1, 2) {}
        let compound = writer.finish();
        let began = Instant::now();
        for packet in packets(compound) {
            if let Ok(Packet::TransportFeedback { body, .. }) = packet {
                let feedback = TransportFeedback::parse(body).expect("as it was written");
                self.estimator.on_feedback(&feedback, self.now.plus_us(2 * DELAY_US));
            }
        }
        black_box(self.estimator.available_bps());
        (sending, began.elapsed())
    }
}

fn estimate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("estimate");
    group.bench_function("packet sent", |bencher| {
        let mut path = Path::new();
        bencher.iter_custom(|packets| {
            let rounds = packets.div_ceil(FEEDBACK_PACKETS);
            let spent: Duration = (0..rounds).map(|_| path.round().0).sum();
            spent.mul_f64(packets as f64 / (rounds * FEEDBACK_PACKETS) as f64)
        });
    });
    group.bench_function("feedback of 16 packets", |bencher| {
        let mut path = Path::new();
        bencher.iter_custom(|feedback| (0..feedback).map(|_| path.round().1).sum());
    });
    group.finish();
}

criterion_group!(benches, estimate);
criterion_main!(benches);
