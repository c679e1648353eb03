//! What a forwarded packet costs in user space: from the ring of its track into sealed transmit memory, per
//! leg, with everything that happens once per packet spread over the legs. The network below only counts,
//! so that the rest of a packet's cost, which is the kernel's or the driver's, is not in these figures.
//!
//! `fanout` is media alone: one Opus packet, or a video frame of ten full packets, per turn. `reports` is
//! what each leg's RTCP adds: a sender report, a receiver report and a name, sealed.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fanline::id::ShardId;
use fanline::io::Bell;
use fanline::rtp::rtcp::Writer;
use fanline::time::Time;
use support::{AUDIO, Media, MemoryIo, Peer, Rig, START, Stream, VIDEO, Wire, media_ssrc};

const LEGS: [u32; 4] = [1, 100, 1_000, 10_000];

/// Packets of a video frame at 30 frames and 3 Mb/s a second.
const VIDEO_BURST: u64 = 10;

/// One shard, one publisher, many subscribers.
struct Hall {
    rig: Rig<MemoryIo>,
    wire: Wire,
    publisher: Peer,
    stream: Stream,
    now: Time,
}

impl Hall {
    fn new(media: Media, legs: u32) -> Self {
        let (io, wire) = MemoryIo::counting();
        let bell = Bell::new().expect("a descriptor is left");
        let mut rig = Rig::new(vec![(io, bell)]);
        let publisher = rig.join(ShardId(0), address(0));
        rig.publish(&publisher, &media);
        for n in 0..legs {
            let peer = rig.join(ShardId(0), address(1 + n));
            rig.subscribe(&peer, &media, n);
            rig.settle(START);
        }
        let mut hall = Self { rig, wire, publisher, stream: Stream::new(media), now: START };
        hall.sender_report();
        hall.rig.settle(START);
        hall
    }

    /// The publisher tells its clocks, without which nobody gets a sender report.
    fn sender_report(&mut self) {
        let mut buffer = [0; 128];
        let mut writer = Writer::new(&mut buffer);
        writer.sender_report(media_ssrc(), self.now.ntp(), 0, 0, 0, &[]);
        let len = writer.len();
        let len = self.publisher.sealer.protect_rtcp(&mut buffer, len).expect("an index is left");
        self.wire.send(self.publisher.address, &buffer[..len]);
    }

    /// How long the turn takes that forwards a frame of `packets` packets.
    fn forward(&mut self, packets: u64) -> Duration {
        self.stream.next_frame();
        for at in 0..packets {
            let packet = self.stream.packet(&self.publisher.sealer, at + 1 == packets);
            self.wire.send(self.publisher.address, packet);
        }
        // So little that no timer fires.
        self.now = self.now.plus_us(1);
        self.turn()
    }

    /// How long the turn takes that sends every session's reports.
    fn report(&mut self) -> Duration {
        self.now = self.now.plus_ms(1_000);
        self.turn()
    }

    fn turn(&mut self) -> Duration {
        let (shard, now) = (&mut self.rig.shards[0], self.now);
        let took = timed(|| shard.turn(now));
        self.rig.control.links[0].events.try_iter().for_each(drop);
        took
    }
}

fn address(n: u32) -> SocketAddr {
    let [_, high, middle, low] = n.to_be_bytes();
    SocketAddr::from(([10, high, middle, low], 4_000))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn timed(work: impl FnOnce() -> bool) -> Duration {
    let start = std::time::Instant::now();
    assert!(work(), "the shard had something to do");
    start.elapsed()
}

fn fanout(c: &mut Criterion) {
    let mut group = c.benchmark_group("fanout");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    for (name, media, packets) in [("audio_120B", AUDIO, 1), ("video_1200B", VIDEO, VIDEO_BURST)] {
        for legs in LEGS {
            let mut hall = Hall::new(media, legs);
            hall.forward(packets);
            group.throughput(Throughput::Elements(packets * u64::from(legs)));
            group.bench_function(BenchmarkId::new(name, legs), |b| {
                b.iter_custom(|turns| (0..turns).map(|_| hall.forward(packets)).sum());
            });
        }
    }
    group.finish();
}

fn reports(c: &mut Criterion) {
    let mut group = c.benchmark_group("reports");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    for legs in LEGS {
        let mut hall = Hall::new(VIDEO, legs);
        hall.forward(1);
        group.throughput(Throughput::Elements(legs.into()));
        group.bench_function(BenchmarkId::from_parameter(legs), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| hall.report()).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, fanout, reports);
criterion_main!(benches);
