//! What a forwarded packet costs in user space: from the ring of its track into sealed transmit memory, per
//! leg, with everything that happens once per packet spread over the legs. The network below only counts,
//! so that the rest of a packet's cost, which is the kernel's or the driver's, is not in these figures.
//!
//! `fanout` is media alone: one Opus packet, or a video frame of ten full packets, per turn. `speakers` is several
//! publishers whom everybody hears: their packets in one turn, or each in a turn of its own. `reports` is what each
//! leg's RTCP adds: a sender report, a receiver report and a name, sealed. `churn` is the subscriber of the lowest slot that leaves
//! a track and comes back: the worst place in the order of its legs.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fanline::id::{LegId, ShardId};
use fanline::io::Bell;
use fanline::rtp::rtcp::Writer;
use fanline::shard::command::Command;
use fanline::time::Time;
use support::{AUDIO, Media, MemoryIo, Peer, Rig, START, Stream, VIDEO, Wire, media_ssrc, track_key};

const LEGS: [u32; 4] = [1, 100, 1_000, 10_000];

/// Packets of a video frame at 30 frames and 3 Mb/s a second.
const VIDEO_BURST: u64 = 10;

/// Speakers whom everybody hears, and who hears them.
const ROOMS: [(u32, u32); 3] = [(3, 1_000), (10, 150), (10, 1_000)];

/// One shard, some publishers, many subscribers of all of them.
struct Hall {
    rig: Rig<MemoryIo>,
    wire: Wire,
    publishers: Vec<(Peer, Stream)>,
    first_subscriber: Option<Peer>,
    now: Time,
}

impl Hall {
    fn new(media: Media, publishers: u32, subscribers: u32) -> Self {
        let (io, wire) = MemoryIo::counting();
        let bell = Bell::new().expect("a descriptor is left");
        let mut rig = Rig::new(vec![(io, bell)]);
        let publishers = (0..publishers).map(|track| {
            let peer = rig.join(ShardId(0), address(track));
            rig.publish_track(&peer, &media, track);
            (peer, Stream::new(media))
        });
        let publishers: Vec<_> = publishers.collect();
        let tracks = publishers.len() as u32;
        let mut first_subscriber = None;
        for n in 0..subscribers {
            let peer = rig.join(ShardId(0), address(tracks + n));
            (0..tracks).for_each(|track| rig.subscribe_to_track(&peer, &media, track, n));
            rig.settle(START);
            first_subscriber.get_or_insert(peer);
        }
        let mut hall = Self { rig, wire, publishers, first_subscriber, now: START };
        hall.sender_reports();
        hall.rig.settle(START);
        hall
    }

    /// The publishers tell their clocks, without which nobody gets a sender report.
    fn sender_reports(&mut self) {
        for (peer, _) in &mut self.publishers {
            let mut buffer = [0; 128];
            let mut writer = Writer::new(&mut buffer);
            writer.sender_report(media_ssrc(), self.now.ntp(), 0, 0, 0, &[]);
            let len = writer.len();
            let len = peer.sealer.protect_rtcp(&mut buffer, len).expect("an index is left");
            self.wire.send(peer.address, &buffer[..len]);
        }
    }

    /// Lets a publisher send a frame of `packets` packets.
    fn frame(&mut self, publisher: usize, packets: u64) {
        let (peer, stream) = &mut self.publishers[publisher];
        stream.next_frame();
        for at in 0..packets {
            self.wire.send(peer.address, stream.packet(&peer.sealer, at + 1 == packets));
        }
    }

    /// How long the turn takes that forwards a frame of `packets` packets of every publisher.
    fn forward(&mut self, packets: u64) -> Duration {
        (0..self.publishers.len()).for_each(|publisher| self.frame(publisher, packets));
        self.step()
    }

    /// How long the turns take that forward a packet of every publisher, one publisher in each.
    fn forward_apart(&mut self) -> Duration {
        let publishers = 0..self.publishers.len();
        let one = |publisher| {
            self.frame(publisher, 1);
            self.step()
        };
        publishers.map(one).sum()
    }

    fn step(&mut self) -> Duration {
        // So little that no timer fires.
        self.now = self.now.plus_us(1);
        self.turn()
    }

    /// How long the turns take that send every session's reports, and the one that finds nothing more to do.
    fn report(&mut self) -> Duration {
        // They fall due at moments that are 20 ms apart.
        self.now = self.now.plus_ms(1_020);
        let (shard, now) = (&mut self.rig.shards[0], self.now);
        let took =
            timed(|| std::iter::repeat_with(|| shard.turn(now)).take_while(|worked| *worked).count() > 0);
        self.rig.control.links[0].events.try_iter().for_each(drop);
        took
    }

    /// How long the turn takes in which the first subscriber leaves the first track and comes back.
    fn churn(&mut self, media: &Media) -> Duration {
        let peer = self.first_subscriber.as_ref().expect("somebody subscribes");
        let leave = Command::Unsubscribe { slot: peer.slot, leg: LegId(0), track: track_key(0), ack: 0 };
        self.rig.tell(ShardId(0), leave);
        self.rig.subscribe_to_track(peer, media, 0, 0);
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
            let mut hall = Hall::new(media, 1, legs);
            hall.forward(packets);
            group.throughput(Throughput::Elements(packets * u64::from(legs)));
            group.bench_function(BenchmarkId::new(name, legs), |b| {
                b.iter_custom(|turns| (0..turns).map(|_| hall.forward(packets)).sum());
            });
        }
    }
    group.finish();
}

fn speakers(c: &mut Criterion) {
    let mut group = c.benchmark_group("speakers");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    for (speakers, listeners) in ROOMS {
        let mut hall = Hall::new(AUDIO, speakers, listeners);
        hall.forward(1);
        group.throughput(Throughput::Elements(u64::from(speakers) * u64::from(listeners)));
        let room = format!("{speakers}x{listeners}");
        group.bench_function(BenchmarkId::new("together", &room), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| hall.forward(1)).sum());
        });
        group.bench_function(BenchmarkId::new("apart", &room), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| hall.forward_apart()).sum());
        });
    }
    group.finish();
}

fn reports(c: &mut Criterion) {
    let mut group = c.benchmark_group("reports");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    for legs in LEGS {
        let mut hall = Hall::new(VIDEO, 1, legs);
        hall.forward(1);
        group.throughput(Throughput::Elements(legs.into()));
        group.bench_function(BenchmarkId::from_parameter(legs), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| hall.report()).sum());
        });
    }
    group.finish();
}

fn churn(c: &mut Criterion) {
    let mut group = c.benchmark_group("churn");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    for legs in LEGS {
        let mut hall = Hall::new(AUDIO, 1, legs);
        hall.forward(1);
        group.bench_function(BenchmarkId::from_parameter(legs), |b| {
            b.iter_custom(|times| (0..times).map(|_| hall.churn(&AUDIO)).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, fanout, speakers, reports, churn);
criterion_main!(benches);
