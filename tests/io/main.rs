//! One suite over every backend of `fanline::io`: what a shard relies on holds whatever lies below.
//!
//! A backend joins by a [`Network`] and one line at the end. Kernel sockets are tried on loopback with
//! `std` sockets as peers, `xdp` over a cable between two network namespaces (`veth.rs`); absence is proved by a
//! marker sent afterwards, not by waiting.

#![expect(clippy::unwrap_used, reason = "the helpers of a test are test code too")]

use std::collections::HashMap;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use fanline::io::sim::{SimIo, SimNet, SimSocket};
use fanline::io::udp::{UdpIo, UdpOptions};
use fanline::io::uring::UringIo;
use fanline::io::xdp::Rung;
use fanline::io::{Bell, DATAGRAM_BYTES_MAX, Io, Path};
use fanline::time::{Clock, Time};

#[path = "../support/netns.rs"]
mod netns;
mod veth;
mod xdp;

/// Somewhere an [`Io`] and its peers can meet.
trait Network {
    type Io: Io;
    type Peer: Peer;

    /// The backend under test on `ip` and the address to reach it (the given one, with its port).
    fn io(&mut self, ip: &str) -> (Self::Io, SocketAddr);
    fn peer(&mut self, ip: &str) -> Self::Peer;
    /// Makes what was sent arrive, where time does not pass by itself.
    fn settle(&mut self);
    /// What this network calls the address that a story calls `ip`.
    fn called(&self, ip: &str) -> IpAddr {
        ip.parse().unwrap()
    }
}

trait Peer {
    fn addr(&self) -> SocketAddr;
    fn tell(&self, to: SocketAddr, bytes: &[u8]);
    /// The next datagram and who sent it; `None` when it is clear that none will come.
    fn hear(&self) -> Option<(SocketAddr, Vec<u8>)>;
}

/// A backend on a kernel socket.
trait OnKernel: Io + Sized {
    /// Bound to any port of `ip`; the address with its port.
    fn open(ip: IpAddr, bell: Bell, options: UdpOptions) -> (Self, SocketAddr);
}

impl OnKernel for UdpIo {
    fn open(ip: IpAddr, bell: Bell, options: UdpOptions) -> (Self, SocketAddr) {
        let io = Self::bind((ip, 0).into(), bell, options).unwrap();
        let addr = SocketAddr::new(ip, io.local_addr().port());
        (io, addr)
    }
}

impl OnKernel for UringIo {
    fn open(ip: IpAddr, bell: Bell, options: UdpOptions) -> (Self, SocketAddr) {
        let io = Self::bind((ip, 0).into(), bell, options).unwrap();
        let addr = SocketAddr::new(ip, io.local_addr().port());
        (io, addr)
    }
}

/// Kernel sockets on loopback.
struct Loopback<I> {
    options: UdpOptions,
    backend: PhantomData<I>,
}

impl<I> Loopback<I> {
    fn new(gso_segments_max: usize) -> Self {
        let options = UdpOptions { gso_segments_max, ..Default::default() };
        Self { options, backend: PhantomData }
    }
}

impl<I: OnKernel> Network for Loopback<I> {
    type Io = I;
    type Peer = UdpSocket;

    fn io(&mut self, ip: &str) -> (I, SocketAddr) {
        I::open(ip.parse().unwrap(), Bell::new().unwrap(), self.options)
    }

    fn peer(&mut self, ip: &str) -> UdpSocket {
        kernel_peer(ip)
    }

    fn settle(&mut self) {}
}

fn kernel_peer(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

impl Peer for UdpSocket {
    fn addr(&self) -> SocketAddr {
        self.local_addr().unwrap()
    }

    fn tell(&self, to: SocketAddr, bytes: &[u8]) {
        assert_eq!(self.send_to(bytes, to).unwrap(), bytes.len());
    }

    fn hear(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut buffer = vec![0; 65_536];
        let (len, from) = self.recv_from(&mut buffer).ok()?;
        buffer.truncate(len);
        Some((from, buffer))
    }
}

/// The simulated network, 10 ms from end to end.
struct Simulated {
    net: SimNet,
    now: Time,
    ports: u16,
}

impl Default for Simulated {
    fn default() -> Self {
        let now = Time(1_800_000_000_000_000);
        let net = SimNet::new(1, now);
        net.set_default_link(fanline::io::sim::Link {
            delay: Duration::from_millis(10),
            ..Default::default()
        });
        Self { net, now, ports: 10_000 }
    }
}

impl Simulated {
    fn addr(&mut self, ip: &str) -> SocketAddr {
        self.ports += 1;
        SocketAddr::new(ip.parse().unwrap(), self.ports)
    }
}

impl Network for Simulated {
    type Io = SimIo;
    type Peer = SimSocket;

    fn io(&mut self, ip: &str) -> (SimIo, SocketAddr) {
        let addr = self.addr(ip);
        (self.net.io(addr), addr)
    }

    fn peer(&mut self, ip: &str) -> SimSocket {
        let addr = self.addr(ip);
        self.net.socket(addr)
    }

    fn settle(&mut self) {
        self.now = self.now.plus_ms(10);
        self.net.advance(self.now);
    }
}

impl Peer for SimSocket {
    fn addr(&self) -> SocketAddr {
        self.local_addr()
    }

    fn tell(&self, to: SocketAddr, bytes: &[u8]) {
        self.send(to, bytes);
    }

    fn hear(&self) -> Option<(SocketAddr, Vec<u8>)> {
        self.recv().map(|(from, _, bytes)| (from, bytes))
    }
}

// Verbs that the stories share.

fn to(remote: SocketAddr) -> Path {
    Path { remote, local: None }
}

/// A datagram whose bytes tell its number, so that a swapped or torn one shows.
fn numbered(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (n * 31 + at) as u8).collect()
}

fn commit(io: &mut impl Io, path: &Path, bytes: &[u8]) {
    io.reserve(path, bytes.len()).expect("a datagram of this size can be sent").copy_from_slice(bytes);
    io.commit(bytes.len());
}

/// Receives until `count` datagrams are there, for at most a few seconds.
fn collect<N: Network>(network: &mut N, io: &mut N::Io, count: usize) -> Vec<(Path, Vec<u8>)> {
    let mut got = Vec::new();
    for _ in 0..100 {
        network.settle();
        let lent = io.recv(|datagram| got.push((datagram.path, datagram.bytes.to_vec())));
        if got.len() >= count {
            break;
        }
        if lent == 0 {
            io.wait(Duration::from_millis(50));
        }
    }
    got
}

fn payloads(got: Vec<(Path, Vec<u8>)>) -> Vec<Vec<u8>> {
    got.into_iter().map(|(_, bytes)| bytes).collect()
}

/// Sends datagrams of these sizes to one peer in one flush and expects them whole and in order.
fn burst_arrives<N: Network>(mut network: N, sizes: &[usize]) {
    let (mut io, _) = network.io("127.0.0.1");
    let peer = network.peer("127.0.0.1");
    let datagrams: Vec<_> = sizes.iter().enumerate().map(|(n, &len)| numbered(n, len)).collect();
    datagrams.iter().for_each(|bytes| commit(&mut io, &to(peer.addr()), bytes));
    io.flush();
    network.settle();
    for expected in &datagrams {
        assert_eq!(peer.hear().expect("a datagram").1, *expected);
    }
    let counters = io.counters();
    assert_eq!(counters.sent_datagrams, sizes.len() as u64);
    assert_eq!(counters.sent_bytes, sizes.iter().sum::<usize>() as u64);
    assert_eq!(counters.send_failures, Default::default());
}

fn has_uring() -> bool {
    match UringIo::bind(([127, 0, 0, 1], 0).into(), Bell::new().unwrap(), UdpOptions::default()) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: {error}");
            false
        }
    }
}

fn has_ipv6() -> bool {
    let has = UdpSocket::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("skipped: this host has no IPv6");
    }
    has
}

// The stories.

fn datagrams_arrive_whole_and_in_order<N: Network>(mut network: N) {
    let (mut io, addr) = network.io("127.0.0.1");
    let peer = network.peer("127.0.0.1");
    let sent: Vec<_> = (0..100).map(|n| numbered(n, 1 + n * 12)).collect();
    sent.iter().for_each(|bytes| peer.tell(addr, bytes));
    let got = collect(&mut network, &mut io, sent.len());
    assert!(got.iter().all(|(path, _)| path.remote == peer.addr()));
    assert_eq!(payloads(got), sent);
    let counters = io.counters();
    assert_eq!(counters.received_datagrams, 100);
    assert_eq!(counters.received_bytes, sent.iter().map(Vec::len).sum::<usize>() as u64);
    assert!(counters.receive_calls >= 1);
}

fn an_equal_burst_arrives_as_it_was_committed<N: Network>(network: N) {
    burst_arrives(network, &[1_200; 10]);
}

fn a_burst_longer_than_a_run_arrives_as_it_was_committed<N: Network>(network: N) {
    burst_arrives(network, &[120; 150]);
}

fn a_shorter_last_datagram_keeps_its_length<N: Network>(network: N) {
    burst_arrives(network, &[1_200, 1_200, 1_200, 17]);
}

fn mixed_sizes_keep_their_order<N: Network>(network: N) {
    burst_arrives(network, &[40, 1_200, 1_200, 300, 300, 301, 1, 1, 1_200, 2]);
}

fn datagrams_up_to_the_ethernet_mtu_are_sent<N: Network>(network: N) {
    burst_arrives(network, &[1_472, 1_472, 1_472, 1_471, 1_472]);
}

fn more_than_a_batch_is_flushed_on_the_way<N: Network>(mut network: N) {
    let (mut io, _) = network.io("127.0.0.1");
    let peers: Vec<_> = (0..8).map(|_| network.peer("127.0.0.1")).collect();
    // 200 x 1,000 bytes exceed one batch, but not the default socket buffers of eight readers.
    for n in 0..200 {
        commit(&mut io, &to(peers[n % 8].addr()), &numbered(n, 1_000));
    }
    assert!(io.counters().sent_datagrams > 0, "a full batch leaves by itself");
    io.flush();
    network.settle();
    for n in 0..200 {
        assert_eq!(peers[n % 8].hear().expect("a datagram").1, numbered(n, 1_000));
    }
}

fn two_hundred_destinations_in_one_flush_get_their_own<N: Network>(mut network: N) {
    let (mut io, _) = network.io("127.0.0.1");
    let peers: Vec<_> = (0..200).map(|_| network.peer("127.0.0.1")).collect();
    for round in 0..2 {
        for (n, peer) in peers.iter().enumerate() {
            commit(&mut io, &to(peer.addr()), &numbered(n + round, 120));
        }
    }
    io.flush();
    network.settle();
    for (n, peer) in peers.iter().enumerate() {
        assert_eq!(peer.hear().expect("the first").1, numbered(n, 120));
        assert_eq!(peer.hear().expect("the second").1, numbered(n + 1, 120));
    }
}

fn what_is_not_committed_is_not_sent<N: Network>(mut network: N) {
    let (mut io, _) = network.io("127.0.0.1");
    let peer = network.peer("127.0.0.1");
    io.reserve(&to(peer.addr()), 100).unwrap().fill(1);
    io.flush();
    io.reserve(&to(peer.addr()), 100).unwrap().fill(2);
    io.reserve(&to(peer.addr()), 100).unwrap().fill(3);
    io.commit(0);
    let memory = io.reserve(&to(peer.addr()), 100).unwrap();
    assert_eq!(memory.len(), 100);
    memory.fill(4);
    io.commit(60);
    io.flush();
    network.settle();
    assert_eq!(peer.hear().expect("the marker").1, [4; 60]);
    assert_eq!(io.counters().sent_datagrams, 1);
}

fn what_is_not_flushed_is_not_sent_twice<N: Network>(mut network: N) {
    let (mut io, _) = network.io("127.0.0.1");
    let peer = network.peer("127.0.0.1");
    commit(&mut io, &to(peer.addr()), b"once");
    io.flush();
    io.flush();
    commit(&mut io, &to(peer.addr()), b"marker");
    io.flush();
    network.settle();
    assert_eq!(peer.hear().unwrap().1, b"once");
    assert_eq!(peer.hear().unwrap().1, b"marker");
}

fn a_datagram_that_no_udp_header_can_describe_is_refused<N: Network>(mut network: N) {
    let (mut io, addr) = network.io("127.0.0.1");
    assert!(io.reserve(&to(addr), DATAGRAM_BYTES_MAX + 1).is_none());
    assert!(io.reserve(&to(addr), DATAGRAM_BYTES_MAX).is_some());
}

fn an_empty_datagram_is_received_as_such<N: Network>(mut network: N) {
    let (mut io, addr) = network.io("127.0.0.1");
    let peer = network.peer("127.0.0.1");
    peer.tell(addr, b"");
    peer.tell(addr, b"x");
    let got = collect(&mut network, &mut io, 2);
    assert_eq!(payloads(got), [&b""[..], b"x"]);
}

/// A peer asks at `reached`, an address of a server bound to `bound`, and is answered from there.
fn answered_from_where_it_asked<N: Network>(network: &mut N, bound: &str, reached: &str, peer_ip: &str) {
    let (mut io, addr) = network.io(bound);
    let peer = network.peer(peer_ip);
    let reached = SocketAddr::new(network.called(reached), addr.port());
    peer.tell(reached, b"ask");
    let got = collect(network, &mut io, 1);
    assert_eq!(got, [(Path { remote: peer.addr(), local: Some(reached.ip()) }, b"ask".to_vec())]);
    let path = got[0].0;
    (0..3).for_each(|n| commit(&mut io, &path, &numbered(n, 50)));
    io.flush();
    network.settle();
    (0..3).for_each(|n| assert_eq!(peer.hear(), Some((reached, numbered(n, 50)))));
}

fn a_reply_leaves_from_the_address_that_was_reached<N: Network>(mut network: N) {
    answered_from_where_it_asked(&mut network, "127.0.0.1", "127.0.0.1", "127.0.0.1");
    for reached in ["127.0.0.1", "127.0.0.2"] {
        answered_from_where_it_asked(&mut network, "0.0.0.0", reached, "127.0.0.1");
    }
}

fn a_server_on_every_address_speaks_both_families<N: Network>(mut network: N) {
    if !has_ipv6() {
        return;
    }
    answered_from_where_it_asked(&mut network, "::", "127.0.0.2", "127.0.0.1");
    answered_from_where_it_asked(&mut network, "::", "::1", "::1");
    answered_from_where_it_asked(&mut network, "::1", "::1", "::1");
}

fn a_run_is_received_as_the_datagrams_it_was_made_of<N: Network>(mut network: N) {
    let (mut sender, _) = network.io("127.0.0.1");
    let (mut receiver, addr) = network.io("127.0.0.1");
    let sizes = [700, 700, 700, 700, 700, 9, 700, 700];
    let sent: Vec<_> = sizes.iter().enumerate().map(|(n, &len)| numbered(n, len)).collect();
    sent.iter().for_each(|bytes| commit(&mut sender, &to(addr), bytes));
    sender.flush();
    let got = collect(&mut network, &mut receiver, sent.len());
    assert_eq!(payloads(got), sent);
}

fn two_senders_are_told_apart_and_each_kept_in_order<N: Network>(mut network: N) {
    let (mut io, addr) = network.io("127.0.0.1");
    let peers = [network.peer("127.0.0.1"), network.peer("127.0.0.1")];
    for n in 0..40 {
        peers.iter().for_each(|peer| peer.tell(addr, &numbered(n, 100)));
    }
    let mut by_sender: HashMap<SocketAddr, Vec<Vec<u8>>> = HashMap::new();
    for (path, bytes) in collect(&mut network, &mut io, 80) {
        by_sender.entry(path.remote).or_default().push(bytes);
    }
    let expected: Vec<_> = (0..40).map(|n| numbered(n, 100)).collect();
    peers.iter().for_each(|peer| assert_eq!(by_sender[&peer.addr()], expected));
}

fn a_peer_that_is_gone_does_not_disturb_the_others<N: Network>(mut network: N) {
    let (mut io, addr) = network.io("127.0.0.1");
    let gone = network.peer("127.0.0.1").addr();
    let alive = network.peer("127.0.0.1");
    for n in 0..50 {
        commit(&mut io, &to(gone), &numbered(n, 100));
        commit(&mut io, &to(alive.addr()), &numbered(n, 100));
        io.flush();
        alive.tell(addr, &numbered(n, 10));
        let got = collect(&mut network, &mut io, 1);
        assert_eq!(payloads(got), [numbered(n, 10)]);
        assert_eq!(alive.hear().expect("not lost by the other's ICMP error").1, numbered(n, 100));
    }
    assert_eq!(io.counters().receive_failures, 0);
    assert_eq!(io.counters().send_failures, Default::default());
}

macro_rules! suite {
    ($($backend:ident: $network:expr;)+) => {
        $(mod $backend {
            suite! { @cases $network;
                datagrams_arrive_whole_and_in_order
                an_equal_burst_arrives_as_it_was_committed
                a_burst_longer_than_a_run_arrives_as_it_was_committed
                a_shorter_last_datagram_keeps_its_length
                mixed_sizes_keep_their_order
                datagrams_up_to_the_ethernet_mtu_are_sent
                more_than_a_batch_is_flushed_on_the_way
                two_hundred_destinations_in_one_flush_get_their_own
                what_is_not_committed_is_not_sent
                what_is_not_flushed_is_not_sent_twice
                a_datagram_that_no_udp_header_can_describe_is_refused
                an_empty_datagram_is_received_as_such
                a_reply_leaves_from_the_address_that_was_reached
                a_server_on_every_address_speaks_both_families
                a_run_is_received_as_the_datagrams_it_was_made_of
                two_senders_are_told_apart_and_each_kept_in_order
                a_peer_that_is_gone_does_not_disturb_the_others
            }
        })+
    };
    (@cases $network:expr; $($case:ident)+) => {
        $(#[test] fn $case() {
            if let Some(network) = $network {
                super::$case(network);
            }
        })+
    };
}

suite! {
    sim: Some(super::Simulated::default());
    udp: Some(super::Loopback::<super::UdpIo>::new(64));
    udp_without_gso: Some(super::Loopback::<super::UdpIo>::new(1));
    uring: super::has_uring().then(|| super::Loopback::<super::UringIo>::new(64));
    uring_without_gso: super::has_uring().then(|| super::Loopback::<super::UringIo>::new(1));
    xdp_in_the_driver: super::veth::Veth::plug(super::Rung::Copy);
    xdp_in_the_stack: super::veth::Veth::plug(super::Rung::GenericCopy);
    xdp_by_packet_socket: super::veth::Veth::plug(super::Rung::Packet);
}

// What only kernel sockets can show: sleep, offload, refusals.

fn bind<I: OnKernel>(bell: &Bell) -> (I, SocketAddr) {
    I::open([127, 0, 0, 1].into(), bell.clone(), UdpOptions::default())
}

/// Long enough that a test which only ended by it would be seen to hang.
const TOO_LONG: Duration = Duration::from_secs(30);

fn wait_ends_by_a_datagram_and_at_once_if_it_is_there_already<I: OnKernel>() {
    let (mut io, addr) = bind::<I>(&Bell::new().unwrap());
    let peer = kernel_peer("127.0.0.1");
    let clock = Clock::start();
    let start = clock.now();
    thread::scope(|scope| {
        scope.spawn(|| peer.tell(addr, b"x"));
        io.wait(TOO_LONG);
    });
    io.wait(TOO_LONG);
    assert!(clock.now() - start < TOO_LONG);
    assert_eq!(io.recv(|datagram| assert_eq!(datagram.bytes, b"x")), 1);
    assert_eq!(io.recv(|_| ()), 0);
}

fn wait_ends_by_the_bell_of_an_armed_sleeper<I: OnKernel>() {
    let bell = Bell::new().unwrap();
    let (mut io, _) = bind::<I>(&bell);
    let clock = Clock::start();
    let start = clock.now();
    bell.arm();
    thread::scope(|scope| {
        scope.spawn(|| bell.ring());
        io.wait(TOO_LONG);
    });
    bell.disarm();
    assert!(clock.now() - start < TOO_LONG);
}

fn wait_ends_by_its_timeout_which_may_be_below_a_millisecond<I: OnKernel>() {
    let (mut io, _) = bind::<I>(&Bell::new().unwrap());
    let clock = Clock::start();
    let start = clock.now();
    io.wait(Duration::from_micros(300));
    io.wait(Duration::ZERO);
    assert!((Duration::from_micros(300)..TOO_LONG).contains(&(clock.now() - start)));
}

fn an_equal_burst_is_one_send_with_gso_and_many_without<I: OnKernel>() {
    let peer = kernel_peer("127.0.0.1");
    let calls = |gso_segments_max| {
        let (mut io, _) = Loopback::<I>::new(gso_segments_max).io("127.0.0.1");
        (0..10).for_each(|n| commit(&mut io, &to(peer.addr()), &numbered(n, 1_000)));
        io.flush();
        (io.counters().send_calls, io.counters().gso_segments)
    };
    assert_eq!(calls(1), (10, 0));
    assert_eq!(calls(64), (1, 10));
    assert_eq!(calls(4), (3, 10));
}

fn a_run_that_the_kernel_hands_over_whole_is_split_by_its_stride<I: OnKernel>() {
    let (mut sender, _) = bind::<I>(&Bell::new().unwrap());
    let (mut receiver, addr) = bind::<I>(&Bell::new().unwrap());
    for n in 0..20 {
        commit(&mut sender, &to(addr), &numbered(n, if n == 19 { 11 } else { 1_200 }));
    }
    sender.flush();
    let got = payloads(collect(&mut Loopback::<I>::new(64), &mut receiver, 20));
    assert_eq!(got.len(), 20);
    assert!(got.iter().enumerate().all(|(n, bytes)| *bytes == numbered(n, if n == 19 { 11 } else { 1_200 })));
    assert_eq!(receiver.counters().gro_segments, 20);
}

fn a_destination_that_the_kernel_refuses_is_counted_and_harms_no_other<I: OnKernel>() {
    let (mut io, _) = bind::<I>(&Bell::new().unwrap());
    let peer = kernel_peer("127.0.0.1");
    // Broadcasting takes SO_BROADCAST: EACCES.
    let broadcast = to(([255, 255, 255, 255], 9).into());
    commit(&mut io, &broadcast, b"no");
    commit(&mut io, &to(peer.addr()), b"yes");
    io.flush();
    assert_eq!(peer.hear().expect("the good one").1, b"yes");
    let failures = io.counters().send_failures;
    assert_eq!((failures.not_permitted, failures.refused()), (1, 1));
}

fn a_bad_path_is_counted_and_does_not_cost_the_others_their_gso<I: OnKernel>() {
    let (mut io, _) = bind::<I>(&Bell::new().unwrap());
    let peer = kernel_peer("127.0.0.1");
    // EINVAL, the same error as from a device that cannot segment.
    let port_0 = to(([127, 0, 0, 1], 0).into());
    let not_our_address = Path { local: Some([192, 0, 2, 77].into()), ..to(peer.addr()) };
    for bad in [port_0, not_our_address] {
        (0..4).for_each(|n| commit(&mut io, &bad, &numbered(n, 100)));
    }
    io.flush();
    assert_eq!(io.counters().send_failures.refused(), 8);
    (0..4).for_each(|n| commit(&mut io, &to(peer.addr()), &numbered(n, 100)));
    io.flush();
    assert_eq!(io.counters().gso_segments, 4);
    (0..4).for_each(|n| assert_eq!(peer.hear().expect("a datagram").1, numbered(n, 100)));
}

macro_rules! kernel_suite {
    ($($backend:ident: $io:ty, if $available:expr;)+) => {
        $(mod $backend {
            kernel_suite! { @cases $io, $available;
                wait_ends_by_a_datagram_and_at_once_if_it_is_there_already
                wait_ends_by_the_bell_of_an_armed_sleeper
                wait_ends_by_its_timeout_which_may_be_below_a_millisecond
                an_equal_burst_is_one_send_with_gso_and_many_without
                a_run_that_the_kernel_hands_over_whole_is_split_by_its_stride
                a_destination_that_the_kernel_refuses_is_counted_and_harms_no_other
                a_bad_path_is_counted_and_does_not_cost_the_others_their_gso
            }
        })+
    };
    (@cases $io:ty, $available:expr; $($case:ident)+) => {
        $(#[test] fn $case() {
            if $available {
                super::$case::<$io>();
            }
        })+
    };
}

kernel_suite! {
    udp_on_kernel: super::UdpIo, if true;
    uring_on_kernel: super::UringIo, if super::has_uring();
}
