//! What a forwarded packet costs with the kernel below it: whole turns of a shard over real sockets on loopback,
//! from the publisher's datagram to the last subscriber's, by backend and by what is forwarded.
//!
//! Nobody reads what is sent: subscribers are addresses of 127.0.0.0/8 behind one socket whose buffer is full, so
//! sending and the kernel's way to that socket are all there is, on one core. `floor` is the least that a datagram
//! costs here: `sendmsg` from one socket to the same addresses, in a loop. Compare within one run only.
//!
//! `hold` is three speakers out of phase: what a packet costs without a hold and with holds of 5, 10 and 20 ms.
//! Time is told to the shard, not waited for.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fanline::forward::coalesce::Coalescing;
use fanline::id::ShardId;
use fanline::io::udp::{UdpIo, UdpOptions};
use fanline::io::uring::UringIo;
use fanline::io::{Bell, Io, Path};
use fanline::shard::ShardSettings;
use fanline::shard::command::Command;
use fanline::time::Time;
use support::{AUDIO, Media, Peer, Rig, START, Stream, VIDEO};

/// What is forwarded: its name, the media, how many publish it, how many hear all of them, packets per frame, and
/// by how many bytes their lengths differ.
const SCENES: [Scene; 6] = [
    Scene { name: "audio_1x1000", media: AUDIO, publishers: 1, subscribers: 1_000, packets: 1, spread: 0 },
    Scene { name: "audio_1x5000", media: AUDIO, publishers: 1, subscribers: 5_000, packets: 1, spread: 0 },
    Scene { name: "audio_3x1000", media: AUDIO, publishers: 3, subscribers: 1_000, packets: 1, spread: 0 },
    Scene { name: "audio_10x150", media: AUDIO, publishers: 10, subscribers: 150, packets: 1, spread: 0 },
    Scene {
        name: "audio_10x150_vbr",
        media: AUDIO,
        publishers: 10,
        subscribers: 150,
        packets: 1,
        spread: 40,
    },
    Scene { name: "video_1x200", media: VIDEO, publishers: 1, subscribers: 200, packets: 9, spread: 0 },
];

#[derive(Clone, Copy)]
struct Scene {
    name: &'static str,
    media: Media,
    publishers: u32,
    subscribers: u32,
    packets: u64,
    spread: usize,
}

impl Scene {
    fn datagrams(&self) -> u64 {
        u64::from(self.publishers) * u64::from(self.subscribers) * self.packets
    }
}

/// One shard on a real socket.
struct Hall<I: Io> {
    rig: Rig<I>,
    shard: SocketAddr,
    publishers: Vec<(Peer, Stream, UdpSocket)>,
    scene: Scene,
    now: Time,
    _sink: UdpSocket,
}

impl<I: Io> Hall<I> {
    /// `io` is bound to every address of the host, at `port`.
    fn new(io: I, bell: Bell, port: u16, scene: Scene, settings: ShardSettings) -> Self {
        let sink = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port is left");
        let sink_port = sink.local_addr().expect("it is bound").port();
        let mut rig = Rig::with(vec![(io, bell)], settings);
        let publishers = (0..scene.publishers).map(|track| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is left");
            let address = socket.local_addr().expect("it is bound");
            let peer = rig.join(ShardId(0), address);
            rig.publish_track(&peer, &scene.media, track);
            (peer, Stream::new(scene.media), socket)
        });
        let publishers: Vec<_> = publishers.collect();
        for n in 0..scene.subscribers {
            let address = listener(n, sink_port);
            let peer = rig.join(ShardId(0), address);
            let path = Path { remote: address, local: Some(Ipv4Addr::LOCALHOST.into()) };
            rig.tell(ShardId(0), Command::AddPath { slot: peer.slot, path, nominated: true });
            (0..scene.publishers).for_each(|track| rig.subscribe_to_track(&peer, &scene.media, track, n));
            rig.settle(START);
        }
        let shard = (Ipv4Addr::LOCALHOST, port).into();
        Self { rig, shard, publishers, scene, now: START, _sink: sink }
    }

    fn frame(&mut self, publisher: usize) {
        let (peer, stream, socket) = &mut self.publishers[publisher];
        stream.next_frame();
        stream.vary(self.scene.spread, publisher as u64);
        for at in 0..self.scene.packets {
            let packet = stream.packet(&peer.sealer, at + 1 == self.scene.packets);
            socket.send_to(packet, self.shard).expect("loopback takes it");
        }
    }

    /// How long it takes to forward a frame of every publisher, all in one turn.
    fn forward(&mut self) -> Duration {
        (0..self.publishers.len()).for_each(|publisher| self.frame(publisher));
        self.pass(1)
    }

    /// How long it takes to forward 20 ms of speech, the speakers evenly out of phase.
    fn forward_out_of_phase(&mut self) -> Duration {
        let apart = 20_000 / self.publishers.len() as u64;
        let publishers = 0..self.publishers.len();
        let one = |publisher| {
            self.frame(publisher);
            self.pass(0) + self.pass(apart)
        };
        publishers.map(one).sum()
    }

    /// Lets `us` microseconds go by, and the shard do what is due then.
    fn pass(&mut self, us: u64) -> Duration {
        self.now = self.now.plus_us(us);
        let (shard, now) = (&mut self.rig.shards[0], self.now);
        let took = timed(|| while shard.turn(now) {});
        self.rig.control.links[0].events.try_iter().for_each(drop);
        took
    }
}

/// The address of a listener: one of loopback's, all of which the sink receives.
fn listener(n: u32, port: u16) -> SocketAddr {
    let [_, high, middle, low] = (n + 2).to_be_bytes();
    SocketAddr::from(([127, 1 + high, middle, low], port))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn timed(work: impl FnOnce()) -> Duration {
    let start = std::time::Instant::now();
    work();
    start.elapsed()
}

fn udp(options: UdpOptions, scene: Scene, settings: ShardSettings) -> Hall<UdpIo> {
    let bell = Bell::new().expect("a descriptor is left");
    let io =
        UdpIo::bind("[::]:0".parse().expect("an address"), bell.clone(), options).expect("a port is left");
    let port = io.local_addr().port();
    Hall::new(io, bell, port, scene, settings)
}

fn uring(options: UdpOptions, scene: Scene, settings: ShardSettings) -> Option<Hall<UringIo>> {
    let bell = Bell::new().expect("a descriptor is left");
    let io = UringIo::bind("[::]:0".parse().expect("an address"), bell.clone(), options).ok()?;
    let port = io.local_addr().port();
    Some(Hall::new(io, bell, port, scene, settings))
}

/// How long `sendmsg` takes for a sealed audio packet to each of `subscribers` addresses.
struct Floor {
    socket: UdpSocket,
    sink: UdpSocket,
    packet: [u8; 136],
}

impl Floor {
    fn new() -> Self {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port is left");
        Self { socket: bind(), sink: bind(), packet: [0x5a; 136] }
    }

    fn send(&self, subscribers: u32) -> Duration {
        let port = self.sink.local_addr().expect("it is bound").port();
        timed(|| {
            for n in 0..subscribers {
                self.socket.send_to(&self.packet, listener(n, port)).expect("loopback takes it");
            }
        })
    }
}

fn backends(c: &mut Criterion) {
    let mut group = c.benchmark_group("backends");
    group.sampling_mode(SamplingMode::Flat).sample_size(15).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    let floor = Floor::new();
    for subscribers in [1_000, 5_000] {
        group.throughput(Throughput::Elements(subscribers.into()));
        group.bench_function(BenchmarkId::new("floor", subscribers), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| floor.send(subscribers)).sum());
        });
    }
    let (gso, no_gso) = (UdpOptions::default(), UdpOptions { gso_segments_max: 1, ..UdpOptions::default() });
    for scene in SCENES {
        let settings = ShardSettings::default();
        group.throughput(Throughput::Elements(scene.datagrams()));
        let mut hall = udp(gso, scene, settings);
        group.bench_function(BenchmarkId::new("udp", scene.name), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| hall.forward()).sum());
        });
        let mut hall = udp(no_gso, scene, settings);
        group.bench_function(BenchmarkId::new("udp_without_gso", scene.name), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| hall.forward()).sum());
        });
        let Some(mut hall) = uring(gso, scene, settings) else { continue };
        group.bench_function(BenchmarkId::new("uring", scene.name), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| hall.forward()).sum());
        });
    }
    group.finish();
}

fn hold(c: &mut Criterion) {
    let mut group = c.benchmark_group("hold");
    group.sampling_mode(SamplingMode::Flat).sample_size(15).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    for (kind, spread) in [("equal", 0), ("vbr", 40)] {
        let scene = Scene {
            name: "audio_3x1000",
            media: AUDIO,
            publishers: 3,
            subscribers: 1_000,
            packets: 1,
            spread,
        };
        group.throughput(Throughput::Elements(scene.datagrams()));
        for (ms, padding_percent) in [(0, 0), (5, 0), (10, 0), (20, 0), (20, 10), (20, 30)] {
            let settings = ShardSettings {
                audio_hold: Duration::from_millis(ms),
                coalescing: Coalescing { padding_percent, ..ShardSettings::default().coalescing },
                ..ShardSettings::default()
            };
            let mut hall = udp(UdpOptions::default(), scene, settings);
            let name = format!("{kind}_padding_{padding_percent}_percent");
            group.bench_function(BenchmarkId::new(name, format!("{ms}_ms")), |b| {
                b.iter_custom(|turns| (0..turns).map(|_| hall.forward_out_of_phase()).sum());
            });
        }
    }
    group.finish();
}

/// How long a run of segments may be: one frame of 30 packets, cut at 1 to 64.
fn segments(c: &mut Criterion) {
    let mut group = c.benchmark_group("segments");
    group.sampling_mode(SamplingMode::Flat).sample_size(15).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    let scene =
        Scene { name: "video_1x100", media: VIDEO, publishers: 1, subscribers: 100, packets: 30, spread: 0 };
    group.throughput(Throughput::Elements(scene.datagrams()));
    for segments_max in [1, 2, 4, 8, 10, 16, 32, 64] {
        let settings = ShardSettings {
            coalescing: Coalescing { segments_max, padding_percent: 0 },
            ..ShardSettings::default()
        };
        let options = UdpOptions { gso_segments_max: segments_max, ..UdpOptions::default() };
        let mut hall = udp(options, scene, settings);
        group.bench_function(BenchmarkId::from_parameter(segments_max), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| hall.forward()).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, backends, hold, segments);
criterion_main!(benches);
