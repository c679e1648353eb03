//! The promise that the packet path allocates nothing, held by a counting allocator.
//!
//! Two real shards serve a hundred subscribers of one publisher, driven by hand on the test's own thread. In
//! a steady state, with losses, retransmissions, reports and feedback, a turn may allocate for the events
//! that it tells control, one snapshot a second, and for nothing else. A sample of subscribers decrypts
//! what it gets, so that an idle shard cannot pass.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure, in its helpers too")]
#![expect(unsafe_code, reason = "an allocator is an unsafe trait; this one counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use dependency::Scalability;
use fanline::drop_reason::DropReason;
use fanline::id::ShardId;
use fanline::io::udp::{UdpIo, UdpOptions};
use fanline::io::uring::UringIo;
use fanline::io::xdp::{self, Rung, XdpIo, XdpOptions};
use fanline::io::{Bell, Io};
use fanline::rtp::demux::is_rtcp;
use fanline::rtp::header::Header;
use fanline::rtp::rtcp::{self, ReportBlock, Writer};
use fanline::rtp::srtp::RtpReplay;
use fanline::shard::command::Event;
use fanline::stats::ShardSnapshot;
use fanline::time::Time;
use netns::{Cable, FAR_V4, NEAR, NEAR_V4};
use support::{
    AUDIO, LAYERS, Media, MemoryIo, Peer, Rig, START, Stream, VIDEO, Wire, first_sequence, leg_ssrcs,
    media_ssrc, payload_bytes,
};

#[path = "support/dependency.rs"]
mod dependency;
#[path = "support/netns.rs"]
mod netns;
mod support;

thread_local! {
    /// Allocations of this thread: other tests, on threads of their own, do not count.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // Fails while the thread ends, when nobody counts any more. The cell needs no destructor and no lazy
    // start, so that looking at it allocates nothing.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every method hands its arguments to `System` unchanged and returns what that returns.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`; `block` came from `System` by one of these methods.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// An event to control costs its box, and every few dozen a block of the channel.
const ALLOCATIONS_PER_EVENT_MAX: u64 = 2;

const SUBSCRIBERS: u32 = 100;

/// Of the subscribers, every so-manieth decrypts what it gets: on both shards, since these alternate.
const SAMPLE_EVERY: u32 = 7;

/// The network between the shards and the peers.
trait Network {
    fn send(&mut self, from: &Peer, number: usize, bytes: &[u8]);
    /// Takes everything that has arrived, with the peer's number.
    fn take(&mut self, peers: &[Peer], each: impl FnMut(usize, &[u8]));
}

struct Memory(Vec<Wire>);

/// Peers by port.
const PORT_BASE: u16 = 10_000;

impl Network for Memory {
    fn send(&mut self, from: &Peer, _number: usize, bytes: &[u8]) {
        self.0[from.shard.index()].send(from.address, bytes);
    }

    fn take(&mut self, _peers: &[Peer], mut each: impl FnMut(usize, &[u8])) {
        for wire in &mut self.0 {
            while let Some(record) = wire.tap.next() {
                let (path, bytes) = fanline::shard::punt::read(record).unwrap();
                each(usize::from(path.remote.port() - PORT_BASE), bytes);
            }
            wire.tap.release();
        }
    }
}

/// Sockets of the peers, and where the shards listen.
struct Loopback {
    sockets: Vec<UdpSocket>,
    shards: Vec<SocketAddr>,
}

impl Network for Loopback {
    fn send(&mut self, from: &Peer, number: usize, bytes: &[u8]) {
        self.sockets[number].send_to(bytes, self.shards[from.shard.index()]).unwrap();
    }

    fn take(&mut self, _peers: &[Peer], mut each: impl FnMut(usize, &[u8])) {
        let mut buffer = [0; 2_048];
        for (number, socket) in self.sockets.iter().enumerate() {
            while let Ok(len) = socket.recv(&mut buffer) {
                each(number, &buffer[..len]);
            }
        }
    }
}

/// What has arrived at the peers, by kind.
#[derive(Debug, Default, Clone, Copy)]
struct Heard {
    media: u64,
    /// Of these, after the turn in which their frame came in.
    media_later: u64,
    retransmissions: u64,
    /// Of these, decrypted and found right.
    media_opened: u64,
    retransmissions_opened: u64,
    sender_reports: u64,
    receiver_reports: u64,
    nacks: u64,
    plis: u64,
    transport_feedback: u64,
}

/// One publisher and its subscribers. Peer 0 is the publisher.
struct Call<I: Io, N: Network> {
    rig: Rig<I>,
    network: N,
    media: Media,
    peers: Vec<Peer>,
    /// Windows of the sampled subscribers, media and retransmissions.
    replays: Vec<(RtpReplay, RtpReplay)>,
    stream: Stream,
    now: Time,
    heard: Heard,
    /// Sequence numbers that the shard misses.
    missed: Vec<u16>,
    /// From here on a turn that allocates fails.
    is_steady: bool,
    /// Whose turn it is to report.
    reporter: u32,
    is_key_frame_due: bool,
    /// The latest of each shard.
    snapshots: [Option<Box<ShardSnapshot>>; 2],
}

impl<I: Io, N: Network> Call<I, N> {
    fn new(media: Media, backends: Vec<(I, Bell)>, network: N, addresses: &[SocketAddr]) -> Self {
        let mut rig = Rig::new(backends);
        let shard_of = |number: usize| ShardId((number % 2) as u16);
        let join = |(number, &address): (usize, &SocketAddr)| rig.join(shard_of(number), address);
        let peers: Vec<_> = addresses.iter().enumerate().map(join).collect();
        rig.publish(&peers[0], &media);
        rig.settle(START);
        for (n, peer) in (0..).zip(&peers[1..]) {
            rig.subscribe(peer, &media, n);
        }
        rig.settle(START);
        let replays = vec![<(RtpReplay, RtpReplay)>::default(); peers.len()];
        let (stream, missed) = (Stream::new(media), Vec::with_capacity(64));
        let (heard, now) = (Heard::default(), START);
        let (is_steady, reporter, is_key_frame_due) = (false, 0, false);
        Self {
            rig,
            network,
            media,
            peers,
            replays,
            stream,
            now,
            heard,
            missed,
            is_steady,
            reporter,
            is_key_frame_due,
            snapshots: [None, None],
        }
    }

    /// A frame's burst of packets and 20 ms in which what follows from it happens. `loses` one on the way,
    /// which the publisher repeats with the next frame if it has been asked to.
    fn frame(&mut self, packets: u64, loses: bool) {
        self.stream.next_frame();
        for sequence in self.missed.drain(..) {
            let packet = self.stream.retransmission(&self.peers[0].sealer, sequence);
            self.network.send(&self.peers[0], 0, packet);
        }
        for at in 0..packets {
            if loses && at == 1 {
                self.stream.lose();
                continue;
            }
            let packet = self.stream.packet(&self.peers[0].sealer, at + 1 == packets);
            self.network.send(&self.peers[0], 0, packet);
        }
        self.pass();
    }

    /// A picture of several spatial layers, a packet each, and 20 ms; a key frame if one has been asked for.
    fn layered_picture(&mut self, encoder: &mut Scalability) {
        self.stream.next_frame();
        let is_key = self.stream.next == 0 || std::mem::take(&mut self.is_key_frame_due);
        let frames = encoder.picture(is_key);
        for (at, frame) in (1..).zip(&frames) {
            self.stream.describe(&frame.descriptor);
            let packet = self.stream.packet(&self.peers[0].sealer, at == frames.len());
            self.network.send(&self.peers[0], 0, packet);
        }
        let plis = self.heard.plis;
        self.pass();
        self.is_key_frame_due = self.heard.plis > plis;
    }

    /// 20 ms.
    fn pass(&mut self) {
        let begun = self.now;
        for later_us in [0, 1_100, 12_000] {
            self.now = begun.plus_us(later_us);
            let before = self.heard.media;
            self.turn();
            self.heard.media_later += if later_us > 0 { self.heard.media - before } else { 0 };
        }
        self.now = begun.plus_ms(20);
    }

    /// Every shard turns until none has anything to do; then the peers take what has come.
    fn turn(&mut self) {
        for _ in 0..8 {
            let mut busy = false;
            for at in 0..self.rig.shards.len() {
                let (shard, now) = (&mut self.rig.shards[at], self.now);
                let allocations = allocations_of(|| busy |= shard.turn(now));
                let mut events = 0;
                for event in self.rig.control.links[at].events.try_iter() {
                    events += 1;
                    if let Event::Snapshot(snapshot) = event {
                        self.snapshots[at] = Some(snapshot);
                    }
                }
                assert!(
                    !self.is_steady || allocations <= events * ALLOCATIONS_PER_EVENT_MAX,
                    "shard {at} allocated {allocations} times in a turn that told control {events} events",
                );
            }
            self.listen();
            if !busy {
                return;
            }
        }
    }

    fn listen(&mut self) {
        let Self { network, peers, replays, heard, missed, media, .. } = self;
        let mut arrived = Vec::new();
        network.take(peers, |number, bytes| arrived.push((number, bytes.to_vec())));
        for (number, bytes) in arrived {
            if is_rtcp(&bytes) {
                heard.rtcp(&mut peers[number], &bytes, missed);
            } else {
                heard.rtp(&peers[number], number, &bytes, &mut replays[number], media);
            }
        }
    }

    /// The next subscriber in turn reports what it received, and where the media has retransmissions asks
    /// again for a packet of five packets ago and for a key frame.
    fn report(&mut self) {
        let n = self.reporter;
        self.reporter = (n + 1) % SUBSCRIBERS;
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer);
        let (ssrc, _) = leg_ssrcs(n);
        let newest = first_sequence(n).wrapping_add(self.stream.next as u16).wrapping_sub(1);
        writer.receiver_report(77, &[report_block(ssrc, newest)]);
        if self.media.rtx.is_some() {
            writer.nack(77, ssrc, &[newest.wrapping_sub(9)]);
            writer.pli(77, ssrc);
        }
        let len = writer.len();
        self.send_rtcp(1 + n as usize, &mut buffer, len);
    }

    /// Every subscriber says how much its path carries.
    fn estimate(&mut self, bitrate_bps: u64) {
        for n in 0..SUBSCRIBERS {
            let mut buffer = [0; 256];
            let mut writer = Writer::new(&mut buffer);
            writer.receiver_report(77, &[]);
            writer.remb(77, bitrate_bps, &[leg_ssrcs(n).0]);
            let len = writer.len();
            self.send_rtcp(1 + n as usize, &mut buffer, len);
        }
    }

    /// The publisher tells its clocks.
    fn sender_report(&mut self) {
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer);
        writer.sender_report(media_ssrc(), self.now.ntp(), 0, 0, 0, &[]);
        let len = writer.len();
        self.send_rtcp(0, &mut buffer, len);
    }

    fn send_rtcp(&mut self, number: usize, buffer: &mut [u8], len: usize) {
        let peer = &mut self.peers[number];
        let len = peer.sealer.protect_rtcp(buffer, len).unwrap();
        self.network.send(&self.peers[number], number, &buffer[..len]);
    }

    /// Audio: a packet every 20 ms, a subscriber's report with each.
    fn run_audio(&mut self, packets: u64) {
        for frame in 0..packets {
            if frame % 250 == 0 {
                self.sender_report();
            }
            self.report();
            self.frame(1, false);
        }
    }

    /// Video: bursts of ten, one in ten with a loss; a subscriber's report, NACK and PLI with each.
    fn run_video(&mut self, packets: u64) {
        for frame in 0..packets / VIDEO_BURST {
            if frame % 50 == 0 {
                self.sender_report();
            }
            self.frame(VIDEO_BURST, frame % 10 == 1);
            self.report();
        }
        self.turn();
    }

    /// What the shards have counted until their latest snapshots.
    fn counted(&self, count: impl Fn(&ShardSnapshot) -> u64) -> u64 {
        self.snapshots.iter().flatten().map(|snapshot| count(snapshot)).sum()
    }

    /// From here on a turn must not allocate, and what arrives counts.
    fn begin_steady_state(&mut self) {
        (self.is_steady, self.heard) = (true, Heard::default());
    }
}

fn report_block(ssrc: u32, newest: u16) -> ReportBlock {
    ReportBlock {
        ssrc,
        fraction_lost: 0,
        cumulative_lost: 0,
        highest_sequence: newest.into(),
        jitter: 0,
        last_sr: 0,
        delay_since_last_sr: 0,
    }
}

impl Heard {
    fn rtp(
        &mut self,
        peer: &Peer,
        number: usize,
        bytes: &[u8],
        replays: &mut (RtpReplay, RtpReplay),
        media: &Media,
    ) {
        let header = Header::parse(bytes).unwrap();
        let is_rtx = header.payload_type != media.payload_types.1;
        *(if is_rtx { &mut self.retransmissions } else { &mut self.media }) += 1;
        let n = number as u32 - 1;
        if !n.is_multiple_of(SAMPLE_EVERY) {
            return;
        }
        let (ssrc, rtx_ssrc) = leg_ssrcs(n);
        assert_eq!(header.ssrc, if is_rtx { rtx_ssrc } else { ssrc });
        let replay = if is_rtx { &mut replays.1 } else { &mut replays.0 };
        let index = replay.estimate(header.sequence);
        replay.check(index).expect("no packet comes twice");
        let mut plain = [0; 2_048];
        let len = peer.opener.unprotect_rtp(bytes, header.len, index, &mut plain).unwrap();
        replay.accept(index);
        let payload = &plain[header.len..len];
        if is_rtx {
            let (original, payload) = payload.split_first_chunk::<2>().unwrap();
            assert_payload(payload, replays.0.estimate(u16::from_be_bytes(*original)), n, media);
            self.retransmissions_opened += 1;
        } else {
            assert_payload(payload, index, n, media);
            self.media_opened += 1;
        }
    }

    fn rtcp(&mut self, peer: &mut Peer, bytes: &[u8], missed: &mut Vec<u16>) {
        let mut plain = [0; 2_048];
        let len = peer.opener.unprotect_rtcp(bytes, &mut plain).unwrap();
        for packet in rtcp::packets(&plain[..len]) {
            match packet.unwrap() {
                rtcp::Packet::SenderReport { .. } => self.sender_reports += 1,
                rtcp::Packet::ReceiverReport { .. } => self.receiver_reports += 1,
                rtcp::Packet::PictureLossIndication { .. } => self.plis += 1,
                rtcp::Packet::TransportFeedback { .. } => self.transport_feedback += 1,
                rtcp::Packet::Nack { sequences, .. } => {
                    self.nacks += 1;
                    missed.extend(sequences);
                }
                _ => {}
            }
        }
    }
}

/// The payload is that of the publisher's packet which leg `n` calls `index`; with layers left out, of any packet.
fn assert_payload(payload: &[u8], index: u64, n: u32, media: &Media) {
    if media.has_layers {
        // Without what may be padding.
        let mut pairs = payload[..1_000].windows(2);
        assert!(pairs.all(|pair| pair[1] == pair[0].wrapping_add(1)), "{payload:?} to {n}");
        return;
    }
    let number = index - u64::from(first_sequence(n));
    assert!(payload.len() + 64 > media.packet_bytes, "{} bytes are not all", payload.len());
    assert!(payload.iter().copied().eq(payload_bytes(number).take(payload.len())), "packet {number} to {n}");
}

const VIDEO_BURST: u64 = 10;

fn in_memory(media: Media) -> Call<MemoryIo, Memory> {
    let (ios, wires): (Vec<_>, Vec<_>) = [MemoryIo::heard(), MemoryIo::heard()].into_iter().unzip();
    let backends = ios.into_iter().map(|io| (io, Bell::new().unwrap())).collect();
    let address = |n: u16| SocketAddr::from(([10, 0, 0, 1], PORT_BASE + n));
    let addresses: Vec<_> = (0..=SUBSCRIBERS as u16).map(address).collect();
    Call::new(media, backends, Memory(wires), &addresses)
}

fn over_udp(media: Media) -> Call<UdpIo, Loopback> {
    let backend = || {
        let bell = Bell::new().unwrap();
        let io = UdpIo::bind(LOOPBACK, bell.clone(), UdpOptions::default()).unwrap();
        let addr = io.local_addr();
        (io, bell, addr)
    };
    over_loopback(media, [backend(), backend()])
}

/// `None`, said once, where the host does not permit io_uring.
fn over_uring(media: Media) -> Option<Call<UringIo, Loopback>> {
    let backend = || {
        let bell = Bell::new().unwrap();
        let bound = UringIo::bind(LOOPBACK, bell.clone(), UdpOptions::default());
        let io = bound.inspect_err(|error| eprintln!("skipped: {error}")).ok()?;
        let addr = io.local_addr();
        Some((io, bell, addr))
    };
    Some(over_loopback(media, [backend()?, backend()?]))
}

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Over a cable between two namespaces; `None`, said once, where it cannot be laid. The device has one queue, so that
/// what is for the second shard is handed to it by the first.
fn over_xdp(media: Media) -> Option<Call<XdpIo, Loopback>> {
    let cable = Cable::plug(1)?;
    let near = SocketAddr::new(NEAR_V4.parse().unwrap(), 0);
    let bind = |_| {
        let bell = Bell::new().unwrap();
        (UdpIo::bind(near, bell.clone(), UdpOptions::default()).unwrap(), bell)
    };
    let options = XdpOptions { interface: Some(NEAR.to_owned()), ..XdpOptions::default() };
    let bound = xdp::open((0..2).map(bind).collect(), &options).unwrap();
    if bound[0].0.rung() == Rung::Packet {
        eprintln!("skipped: this kernel gives no AF_XDP");
        return None;
    }
    let addressed = bound.into_iter().map(|(io, bell)| {
        let addr = io.local_addr();
        (io, bell, addr)
    });
    let bound = <[_; 2]>::try_from(addressed.collect::<Vec<_>>()).ok()?;
    let sockets = cable.far.within(|| peer_sockets(FAR_V4.parse().unwrap()));
    Some(over_sockets(media, bound, sockets))
}

fn over_loopback<I: Io>(media: Media, bound: [(I, Bell, SocketAddr); 2]) -> Call<I, Loopback> {
    over_sockets(media, bound, peer_sockets(LOOPBACK.ip()))
}

fn peer_sockets(ip: IpAddr) -> Vec<UdpSocket> {
    let socket = |_| {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    (0..=SUBSCRIBERS).map(socket).collect()
}

fn over_sockets<I: Io>(
    media: Media,
    bound: [(I, Bell, SocketAddr); 2],
    sockets: Vec<UdpSocket>,
) -> Call<I, Loopback> {
    let shards = bound.iter().map(|(_, _, addr)| *addr).collect();
    let backends = bound.into_iter().map(|(io, bell, _)| (io, bell)).collect();
    let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    Call::new(media, backends, Loopback { sockets, shards }, &addresses)
}

/// How many subscribers decrypt what they get.
fn sampled() -> u64 {
    u64::from(SUBSCRIBERS.div_ceil(SAMPLE_EVERY))
}

fn audio_reaches_everyone_without_allocating<I: Io, N: Network>(mut call: Call<I, N>, packets: u64) {
    call.run_audio(600);
    call.begin_steady_state();
    call.run_audio(packets);
    let heard = call.heard;
    assert_eq!(heard.media, packets * u64::from(SUBSCRIBERS), "{heard:?}");
    assert_eq!(heard.media_opened, packets * sampled(), "{heard:?}");
    assert!(heard.sender_reports > 0 && heard.receiver_reports > 0, "{heard:?}");
}

fn video_reaches_everyone_without_allocating<I: Io, N: Network>(mut call: Call<I, N>, packets: u64) {
    call.run_video(1_600);
    call.begin_steady_state();
    call.run_video(packets);
    let (heard, bursts) = (call.heard, packets / VIDEO_BURST);
    assert_eq!(heard.media, packets * u64::from(SUBSCRIBERS), "{heard:?}");
    assert_eq!(heard.media_opened, packets * sampled(), "{heard:?}");
    assert_eq!(heard.retransmissions, bursts, "one NACK with each burst: {heard:?}");
    assert!(heard.retransmissions_opened > 0, "{heard:?}");
    assert!(heard.nacks >= bursts / 10 && heard.plis > 0, "{heard:?}");
    assert!(heard.transport_feedback > bursts / 4, "every 50 ms: {heard:?}");
    assert!(heard.sender_reports > 0 && heard.receiver_reports > 0, "{heard:?}");
}

#[test]
fn audio_to_a_hundred_subscribers_allocates_nothing() {
    audio_reaches_everyone_without_allocating(in_memory(AUDIO), 10_000);
}

#[test]
fn video_with_losses_and_feedback_allocates_nothing() {
    video_reaches_everyone_without_allocating(in_memory(VIDEO), 10_000);
}

#[test]
fn video_that_waits_for_its_pacer_allocates_nothing() {
    let mut call = in_memory(VIDEO);
    // Of twenty packets that arrive at once ten are a burst, and the rest leave before the next twenty come.
    call.estimate(4_000_000);
    let run = |call: &mut Call<_, _>, frames: u64| {
        for _ in 0..frames {
            call.frame(2 * VIDEO_BURST, false);
            call.frame(0, false);
        }
    };
    run(&mut call, 50);
    call.begin_steady_state();
    run(&mut call, 500);
    let heard = call.heard;
    let all = 500 * 2 * VIDEO_BURST * u64::from(SUBSCRIBERS);
    assert!(heard.media_later > all / 3, "{heard:?}");
    assert_eq!((heard.media, heard.retransmissions), (all, 0), "{heard:?}");
}

#[test]
fn layers_left_out_and_probes_allocate_nothing() {
    let mut call = in_memory(LAYERS);
    let mut encoder = Scalability::new(3, 3, false, 7, 100);
    // All layers are 1.4 Mb/s. Bandwidth falls and rises, so that subscribers leave layers, ask for key frames, come back.
    let mut run = |call: &mut Call<_, _>, seconds: u64| {
        for second in 0..seconds {
            call.estimate([3_000_000, 900_000, 400_000, 900_000][(second / 4 % 4) as usize]);
            (0..50).for_each(|_| call.layered_picture(&mut encoder));
        }
    };
    run(&mut call, 17);
    let left_out = |call: &Call<_, _>| call.counted(|shard| shard.drops.get(DropReason::LayerLeftOut));
    let (left_out_before, probes_before) = (left_out(&call), call.counted(|shard| shard.probe_packets_sent));
    call.begin_steady_state();
    run(&mut call, 17);
    let (heard, all) = (call.heard, 17 * 50 * 3 * u64::from(SUBSCRIBERS));
    let left_out = left_out(&call) - left_out_before;
    let probes = call.counted(|shard| shard.probe_packets_sent) - probes_before;
    println!("{left_out} of {all} packets left out, {probes} of probes, {heard:?}");
    assert!(left_out > all / 10 && heard.media > all / 10, "{left_out} left out of {all}: {heard:?}");
    assert!(probes > 10 * u64::from(SUBSCRIBERS) && heard.nacks == 0, "{probes}: {heard:?}");
    assert!(heard.media_opened > 0 && heard.retransmissions_opened > 0 && heard.plis > 0, "{heard:?}");
}

#[test]
fn audio_over_kernel_sockets_allocates_nothing() {
    audio_reaches_everyone_without_allocating(over_udp(AUDIO), 1_000);
}

#[test]
fn video_over_kernel_sockets_allocates_nothing() {
    video_reaches_everyone_without_allocating(over_udp(VIDEO), 1_000);
}

#[test]
fn audio_through_io_uring_allocates_nothing() {
    if let Some(call) = over_uring(AUDIO) {
        audio_reaches_everyone_without_allocating(call, 1_000);
    }
}

#[test]
fn video_through_io_uring_allocates_nothing() {
    if let Some(call) = over_uring(VIDEO) {
        video_reaches_everyone_without_allocating(call, 1_000);
    }
}

#[test]
fn audio_past_the_stack_allocates_nothing() {
    if let Some(call) = over_xdp(AUDIO) {
        audio_reaches_everyone_without_allocating(call, 1_000);
    }
}

#[test]
fn video_past_the_stack_allocates_nothing() {
    if let Some(call) = over_xdp(VIDEO) {
        video_reaches_everyone_without_allocating(call, 1_000);
    }
}

#[test]
fn the_allocator_counts_this_thread_alone() {
    assert_eq!(allocations_of(|| drop(Box::new([0_u8; 100]))), 1);
    assert_eq!(allocations_of(|| {}), 0);
    let in_another = std::thread::spawn(|| allocations_of(|| drop(vec![0_u8; 100]))).join().unwrap();
    assert_eq!(in_another, 1);
}
