//! What a forwarded packet costs over an Ethernet device, by backend: whole turns of a shard on one end of a cable
//! between two namespaces, from the publisher's datagram to the last subscriber's.
//!
//! The far end counts and drops what arrives before it costs anything (`bench::sink`), so that the sender is what
//! is measured: its user space, its kernel, and the driver, all on one core. `floor` is `sendmsg` to the same
//! addresses, in a loop. Only root can lay the cable; without it there is nothing to measure. Compare within one
//! run only: scenes are measured one after the other, each with all backends.

#[path = "../tests/support/netns.rs"]
mod netns;
#[path = "../tests/support/mod.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fanline::bench::kernel::interface_index;
use fanline::bench::sink::Sink;
use fanline::id::ShardId;
use fanline::io::udp::{UdpIo, UdpOptions};
use fanline::io::xdp::{self, Rung, XdpIo, XdpOptions};
use fanline::io::{Bell, Io, Path};
use fanline::shard::command::Command;
use fanline::time::Time;
use netns::{Cable, FAR, FAR_V4, NEAR, NEAR_V4, run};
use support::{AUDIO, Media, Peer, Rig, START, Stream, VIDEO};

/// What is forwarded: its name, the media, how many hear it, packets per frame.
const SCENES: [(&str, Media, u32, u64); 3] =
    [("audio_1x1000", AUDIO, 1_000, 1), ("audio_1x10000", AUDIO, 10_000, 1), ("video_1x200", VIDEO, 200, 9)];

/// Where listeners are: behind the far host, and 65,536 of them at most.
const LISTENERS: [u8; 4] = [10, 78, 0, 0];
const LISTENERS_MAX: u32 = 16_384;
const PORT: u16 = 9_000;

/// One shard on the near end, and its publisher on the far one.
struct Hall<I: Io> {
    rig: Rig<I>,
    shard: SocketAddr,
    publisher: Peer,
    stream: Stream,
    socket: UdpSocket,
    packets: u64,
    now: Time,
}

impl<I: Io> Hall<I> {
    fn new(
        io: I,
        bell: Bell,
        port: u16,
        cable: &Cable,
        media: Media,
        subscribers: u32,
        packets: u64,
    ) -> Self {
        let near: IpAddr = NEAR_V4.parse().expect("an address");
        let socket = cable.far.within(|| UdpSocket::bind((FAR_V4, 0))).expect("a port is left");
        let mut rig = Rig::new(vec![(io, bell)]);
        let publisher = rig.join(ShardId(0), socket.local_addr().expect("it is bound"));
        rig.publish(&publisher, &media);
        for n in 0..subscribers {
            let address = listener(n);
            let peer = rig.join(ShardId(0), address);
            let path = Path { remote: address, local: Some(near) };
            rig.tell(ShardId(0), Command::AddPath { slot: peer.slot, path, nominated: true });
            rig.subscribe(&peer, &media, n);
            rig.settle(START);
        }
        let (shard, stream) = (SocketAddr::new(near, port), Stream::new(media));
        let mut hall = Self { rig, shard, publisher, stream, socket, packets, now: START };
        // The ways become known, and the caches warm.
        for _ in 0..50 {
            hall.forward();
        }
        hall
    }

    /// How long it takes to forward a frame.
    fn forward(&mut self) -> Duration {
        self.stream.next_frame();
        for at in 0..self.packets {
            let packet = self.stream.packet(&self.publisher.sealer, at + 1 == self.packets);
            self.socket.send_to(packet, self.shard).expect("the cable takes it");
        }
        self.now = self.now.plus_ms(20);
        let (shard, now) = (&mut self.rig.shards[0], self.now);
        let took = timed(|| while shard.turn(now) {});
        self.rig.control.links[0].events.try_iter().for_each(drop);
        took
    }
}

fn listener(n: u32) -> SocketAddr {
    let network = u32::from_be_bytes(LISTENERS);
    SocketAddr::new(Ipv4Addr::from(network + n).into(), PORT)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn timed(work: impl FnOnce()) -> Duration {
    let start = std::time::Instant::now();
    work();
    start.elapsed()
}

fn socket(options: UdpOptions) -> (UdpIo, Bell, u16) {
    let bell = Bell::new().expect("a descriptor is left");
    let address = "[::]:0".parse().expect("an address");
    let io = UdpIo::bind(address, bell.clone(), options).expect("a port is left");
    let port = io.local_addr().port();
    (io, bell, port)
}

/// `None`, said once, where this rung cannot be had.
fn past_the_stack(best: Rung) -> Option<(XdpIo, Bell, u16)> {
    let (io, bell, port) = socket(UdpOptions::default());
    let options = XdpOptions { interface: Some(NEAR.to_owned()), best, ..XdpOptions::default() };
    match xdp::open(vec![(io, bell)], &options) {
        Ok(mut ios) => ios.pop().map(|(io, bell)| (io, bell, port)),
        Err(refused) => {
            eprintln!("skipped: {best}: {}", refused.reason);
            None
        }
    }
}

fn veth(c: &mut Criterion) {
    let Some(cable) = Cable::plug(1) else { return };
    run(&format!("ip route add 10.78.0.0/16 via {FAR_V4}")).expect("the far host is a neighbour");
    let _sink = cable.far.within(|| {
        let interface = interface_index(FAR).expect("the cable is laid");
        let network = IpAddr::from(LISTENERS);
        Sink::attach(interface, network, (0..LISTENERS_MAX).map(|n| n as u16)).expect("the far end can drop")
    });
    let mut group = c.benchmark_group("veth");
    group.sampling_mode(SamplingMode::Flat).sample_size(20).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(300));
    let sender = UdpSocket::bind((NEAR_V4, 0)).expect("a port is left");
    for (name, media, subscribers, packets) in SCENES {
        group.throughput(Throughput::Elements(u64::from(subscribers) * packets));
        group.bench_function(BenchmarkId::new("floor", name), |b| {
            // As long as a sealed packet.
            let bytes = vec![0x80; media.packet_bytes + 16];
            let all = || {
                for n in (0..packets).flat_map(|_| 0..subscribers) {
                    sender.send_to(&bytes, listener(n)).expect("the cable takes it");
                }
            };
            b.iter_custom(|turns| (0..turns).map(|_| timed(all)).sum());
        });
        let (io, bell, port) = socket(UdpOptions::default());
        let mut hall = Hall::new(io, bell, port, &cable, media, subscribers, packets);
        group.bench_function(BenchmarkId::new("udp", name), |b| {
            b.iter_custom(|turns| (0..turns).map(|_| hall.forward()).sum());
        });
        drop(hall);
        for (rung, backend) in [(Rung::Copy, "xdp"), (Rung::Packet, "xdp_by_packet_socket")] {
            let Some((io, bell, port)) = past_the_stack(rung) else { continue };
            let mut hall = Hall::new(io, bell, port, &cable, media, subscribers, packets);
            group.bench_function(BenchmarkId::new(backend, name), |b| {
                b.iter_custom(|turns| (0..turns).map(|_| hall.forward()).sum());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, veth);
criterion_main!(benches);
