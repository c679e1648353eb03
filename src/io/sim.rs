//! A network in memory, in virtual time: the backend of the simulation tests.
//!
//! A minute of lossy, jittery, congested network passes in milliseconds, and the same seed repeats it
//! exactly: nothing happens but by [`SimNet::advance`], arrivals are ordered by (time, order of sending), and
//! the seeded generator is the only randomness. Shards attach by [`SimIo`], clients by [`SimSocket`].
//!
//! The model of a link is the usual one: a rate with a bounded queue, then a delay. Jitter stretches gaps
//! but keeps order, as queues do; reordering is a setting of its own, so that a test can have either.
//!
//! Relies on the caller for the time; deliberately absent are MTU, ICMP and address translation (a client
//! that moves opens another [`SimSocket`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::batch::{Batch, SEGMENTS_MAX};
use super::{Datagram, Io, IoCounters, Path};
use crate::time::Time;

/// Datagrams lent per [`SimIo::recv`], like a batch of the kernel's: so that simulations meet its edges too.
const RECEIVE_BATCH: usize = 32;

/// One direction of a link. The default is perfect: at once, everything, in order.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Link {
    pub delay: Duration,
    /// Added to `delay`, uniformly from zero to this. A datagram never overtakes its predecessor by it.
    pub jitter: Duration,
    /// 0.0 to 1.0, as all probabilities here, for each datagram by itself.
    pub loss: f64,
    /// Of a second copy arriving right behind the first.
    pub duplicate: f64,
    /// Of being held back for `reorder_by`, while the following ones pass.
    pub reorder: f64,
    pub reorder_by: Duration,
    pub rate: Option<Rate>,
}

/// A bottleneck: what exceeds the queue is lost at its tail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Bits of UDP payload per second; above 0.
    pub bitrate_bps: u64,
    pub queue_bytes: u64,
}

/// What happened to datagrams from one address to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    pub sent: u64,
    /// Arrived, copies included.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because the queue of the rate limit was full.
    pub overflowed: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Arrived where nobody is bound (any more).
    pub unrouted: u64,
}

/// The network; clones are handles to the same one.
#[derive(Clone)]
pub struct SimNet(Arc<Mutex<Net>>);

struct Net {
    now: Time,
    random: StdRng,
    default_link: Link,
    links: HashMap<Hop, Link>,
    states: HashMap<Hop, LinkState>,
    /// By moment of arrival, then by order of sending.
    in_flight: BTreeMap<(Time, u64), Parcel>,
    sequence: u64,
    inboxes: HashMap<SocketAddr, VecDeque<Parcel>>,
}

/// From where to where.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Hop {
    from: SocketAddr,
    to: SocketAddr,
}

struct Parcel {
    hop: Hop,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct LinkState {
    counters: LinkCounters,
    /// When the rate limiter has put its last byte on the wire, in nanoseconds of [`Time`]: at 1 Gbit/s a
    /// microsecond is a whole audio packet.
    busy_until_ns: u64,
    last_arrival: Time,
}

impl SimNet {
    /// An empty network of perfect links whose clock shows `now`.
    pub fn new(seed: u64, now: Time) -> Self {
        Self(Arc::new(Mutex::new(Net {
            now,
            random: StdRng::seed_from_u64(seed),
            default_link: Link::default(),
            links: HashMap::new(),
            states: HashMap::new(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            inboxes: HashMap::new(),
        })))
    }

    /// For every direction without a setting of its own, from the next datagram on.
    pub fn set_default_link(&self, link: Link) {
        self.net().default_link = link;
    }

    /// For datagrams sent by `from` to `to`, from the next one on.
    pub fn set_link(&self, from: SocketAddr, to: SocketAddr, link: Link) {
        self.net().links.insert(Hop { from, to }, link);
    }

    /// Attaches a shard. An unspecified address takes what reaches its port on any address of either family.
    ///
    /// Panics if `addr` is taken, as [`SimNet::socket`] does: the test has a mistake.
    pub fn io(&self, addr: SocketAddr) -> SimIo {
        SimIo {
            endpoint: self.attach(addr),
            batch: Batch::new(SEGMENTS_MAX),
            received: Vec::with_capacity(RECEIVE_BATCH),
            counters: IoCounters::default(),
        }
    }

    /// Attaches a client.
    pub fn socket(&self, addr: SocketAddr) -> SimSocket {
        SimSocket(self.attach(addr))
    }

    /// Lets time pass until `now`, delivering on the way; earlier than the clock shows is no time at all.
    pub fn advance(&self, now: Time) {
        self.net().advance(now);
    }

    /// When the next datagram arrives, if one is in flight.
    pub fn next_event(&self) -> Option<Time> {
        self.net().in_flight.first_key_value().map(|(&(arrival, _), _)| arrival)
    }

    pub fn link_counters(&self, from: SocketAddr, to: SocketAddr) -> LinkCounters {
        self.net().states.get(&Hop { from, to }).map(|state| state.counters).unwrap_or_default()
    }

    /// How long a datagram sent now would wait for the bottleneck.
    pub fn queue_delay(&self, from: SocketAddr, to: SocketAddr) -> Duration {
        let net = self.net();
        let busy_until_ns = net.states.get(&Hop { from, to }).map_or(0, |state| state.busy_until_ns);
        Duration::from_nanos(busy_until_ns.saturating_sub(net.now.0.saturating_mul(1_000)))
    }

    fn attach(&self, addr: SocketAddr) -> Endpoint {
        let taken = self.net().inboxes.insert(addr, VecDeque::new()).is_some();
        assert!(!taken, "{addr} is bound twice");
        Endpoint { net: self.clone(), addr }
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        self.0.lock().expect("no user of the network panicked")
    }
}

impl Net {
    fn send(&mut self, hop: Hop, bytes: &[u8]) {
        let link = self.links.get(&hop).copied().unwrap_or(self.default_link);
        let state = self.states.entry(hop).or_default();
        state.counters.sent += 1;
        let Some(departure) = state.enqueue(link.rate, bytes.len() as u64, self.now) else {
            state.counters.overflowed += 1;
            return;
        };
        if happens(&mut self.random, link.loss) {
            state.counters.lost += 1;
            return;
        }
        let arrival = state.arrival(&link, departure, &mut self.random);
        let copies = 1 + u64::from(happens(&mut self.random, link.duplicate));
        state.counters.duplicated += copies - 1;
        for _ in 0..copies {
            self.sequence += 1;
            self.in_flight.insert((arrival, self.sequence), Parcel { hop, bytes: bytes.to_vec() });
        }
    }

    fn advance(&mut self, now: Time) {
        while let Some(next) = self.in_flight.first_entry().filter(|next| next.key().0 <= now) {
            let parcel = next.remove();
            self.deliver(parcel);
        }
        self.now = self.now.max(now);
    }

    fn deliver(&mut self, parcel: Parcel) {
        let hop = parcel.hop;
        let inbox = match self.inbox_for(hop.to) {
            Some(addr) => self.inboxes.get_mut(&addr),
            None => None,
        };
        let delivered = inbox.map(|inbox| inbox.push_back(parcel)).is_some();
        let counters = &mut self.states.entry(hop).or_default().counters;
        match delivered {
            true => counters.delivered += 1,
            false => counters.unrouted += 1,
        }
    }

    /// The most specific binding that takes datagrams to `to`.
    fn inbox_for(&self, to: SocketAddr) -> Option<SocketAddr> {
        let any_v4 = (Ipv4Addr::UNSPECIFIED, to.port()).into();
        let any_v6 = (Ipv6Addr::UNSPECIFIED, to.port()).into();
        [to, any_v4, any_v6].into_iter().find(|addr| self.inboxes.contains_key(addr))
    }
}

impl LinkState {
    /// When the last bit of `bytes` leaves the queue, or `None` if it does not fit in.
    fn enqueue(&mut self, rate: Option<Rate>, bytes: u64, now: Time) -> Option<Time> {
        let Some(rate) = rate else { return Some(now) };
        let now_ns = now.0.saturating_mul(1_000);
        let backlog_ns = self.busy_until_ns.saturating_sub(now_ns);
        let backlog_bytes = u128::from(backlog_ns) * u128::from(rate.bitrate_bps) / 8_000_000_000;
        if backlog_bytes + u128::from(bytes) > u128::from(rate.queue_bytes) {
            return None;
        }
        self.busy_until_ns = self.busy_until_ns.max(now_ns) + bytes * 8_000_000_000 / rate.bitrate_bps.max(1);
        Some(Time(self.busy_until_ns.div_ceil(1_000)))
    }

    fn arrival(&mut self, link: &Link, departure: Time, random: &mut StdRng) -> Time {
        let jitter_us = link.jitter.as_micros() as u64;
        let jitter_us = if jitter_us == 0 { 0 } else { random.random_range(0..=jitter_us) };
        let arrival = (departure + link.delay).plus_us(jitter_us).max(self.last_arrival);
        if happens(random, link.reorder) {
            self.counters.reordered += 1;
            return arrival + link.reorder_by;
        }
        self.last_arrival = arrival;
        arrival
    }
}

/// Draws only where there is something to decide, so that a perfect link does not shift the dice of others.
fn happens(random: &mut StdRng, probability: f64) -> bool {
    probability > 0.0 && random.random_bool(probability.min(1.0))
}

/// A place in the network, given up when dropped.
struct Endpoint {
    net: SimNet,
    addr: SocketAddr,
}

impl Endpoint {
    fn send(&self, path: &Path, bytes: &[u8]) {
        let ip = match path.local {
            Some(ip) if self.addr.ip().is_unspecified() => ip,
            None if self.addr.ip().is_unspecified() => loopback_like(path.remote),
            _ => self.addr.ip(),
        };
        let from = SocketAddr::new(ip, self.addr.port());
        self.net.net().send(Hop { from, to: path.remote }, bytes);
    }

    /// Takes up to `count` arrived datagrams.
    fn take(&self, count: usize, into: &mut Vec<Parcel>) {
        if let Some(inbox) = self.net.net().inboxes.get_mut(&self.addr) {
            into.extend(inbox.drain(..count.min(inbox.len())));
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // A test that failed while it held the network should show its own message, not this one's.
        if let Ok(mut net) = self.net.0.lock() {
            net.inboxes.remove(&self.addr);
        }
    }
}

/// The source that a host would choose for want of a better one.
fn loopback_like(remote: SocketAddr) -> IpAddr {
    match remote {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// The [`Io`] of a shard in a [`SimNet`].
pub struct SimIo {
    endpoint: Endpoint,
    batch: Batch,
    received: Vec<Parcel>,
    counters: IoCounters,
}

impl Io for SimIo {
    fn recv<F: FnMut(Datagram<'_>)>(&mut self, mut each: F) -> usize {
        self.endpoint.take(RECEIVE_BATCH, &mut self.received);
        let count = self.received.len();
        self.counters.receive_calls += u64::from(count > 0);
        for Parcel { hop, bytes } in self.received.drain(..) {
            self.counters.received_datagrams += 1;
            self.counters.received_bytes += bytes.len() as u64;
            each(Datagram { path: Path { remote: hop.from, local: Some(hop.to.ip()) }, bytes: &bytes });
        }
        count
    }

    fn reserve(&mut self, path: &Path, len: usize) -> Option<&mut [u8]> {
        if !self.batch.has_room(len) {
            self.flush();
        }
        self.batch.reserve(path, len)
    }

    fn commit(&mut self, len: usize) {
        self.batch.commit(len);
    }

    fn flush(&mut self) {
        for run in self.batch.runs() {
            run.datagrams().for_each(|datagram| self.endpoint.send(&run.path, datagram));
            self.counters.count_sent(run.segments() as u64, run.bytes.len());
        }
        self.batch.clear();
    }

    /// Returns at once: time passes only by [`SimNet::advance`], and a shard is stepped by the test.
    fn wait(&mut self, _timeout: Duration) {}

    fn counters(&self) -> IoCounters {
        self.counters
    }
}

/// A client's socket in a [`SimNet`].
pub struct SimSocket(Endpoint);

impl SimSocket {
    pub fn local_addr(&self) -> SocketAddr {
        self.0.addr
    }

    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.0.send(&Path { remote: to, local: None }, bytes);
    }

    /// The next arrived datagram as (from, to, bytes).
    pub fn recv(&self) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut net = self.0.net.net();
        let Parcel { hop, bytes } = net.inboxes.get_mut(&self.0.addr)?.pop_front()?;
        Some((hop.from, hop.to, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time(1_800_000_000_000_000);

    fn addr(host: u8) -> SocketAddr {
        ([10, 0, 0, host], 4_000).into()
    }

    /// Two sockets and the first bytes of what the second received when all is said.
    fn pair(seed: u64, link: Link) -> (SimNet, SimSocket, SimSocket) {
        let net = SimNet::new(seed, START);
        net.set_default_link(link);
        (net.clone(), net.socket(addr(1)), net.socket(addr(2)))
    }

    fn received(socket: &SimSocket) -> Vec<u8> {
        std::iter::from_fn(|| socket.recv()).map(|(_, _, bytes)| bytes[0]).collect()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_datagram_arrives_at_its_moment_and_not_before() {
        let (net, a, b) = pair(1, Link { delay: ms(20), ..Link::default() });
        a.send(addr(2), b"x");
        assert_eq!(net.next_event(), Some(START.plus_ms(20)));
        net.advance(START + Duration::from_micros(19_999));
        assert_eq!(b.recv(), None);
        net.advance(START.plus_ms(20));
        assert_eq!(b.recv(), Some((addr(1), addr(2), b"x".to_vec())));
        assert_eq!(net.next_event(), None);
    }

    #[test]
    fn jitter_alone_keeps_order() {
        let (net, a, b) = pair(2, Link { delay: ms(20), jitter: ms(30), ..Link::default() });
        for n in 0..100 {
            a.send(addr(2), &[n]);
            net.advance(START.plus_ms(u64::from(n)));
        }
        net.advance(START.plus_ms(1_000));
        assert_eq!(received(&b), (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn a_reordered_datagram_arrives_late_while_others_pass() {
        let (net, a, b) = pair(3, Link { reorder: 0.2, reorder_by: ms(5), ..Link::default() });
        for n in 0..100 {
            net.advance(START.plus_ms(u64::from(n)));
            a.send(addr(2), &[n]);
        }
        net.advance(START.plus_ms(1_000));
        let got = received(&b);
        assert_eq!(got.len(), 100);
        assert!(!got.is_sorted());
        assert!(net.link_counters(addr(1), addr(2)).reordered > 5);
    }

    #[test]
    fn the_same_seed_repeats_and_another_does_not() {
        let run = |seed| {
            let (net, a, b) =
                pair(seed, Link { loss: 0.3, duplicate: 0.1, jitter: ms(9), ..Link::default() });
            (0..200).for_each(|n| a.send(addr(2), &[n]));
            net.advance(START.plus_ms(1_000));
            received(&b)
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn losses_and_copies_add_up() {
        let (net, a, b) = pair(4, Link { loss: 0.25, duplicate: 0.25, ..Link::default() });
        (0..1_000).for_each(|_| a.send(addr(2), b"x"));
        net.advance(START);
        let counters = net.link_counters(addr(1), addr(2));
        assert_eq!(counters.sent, 1_000);
        assert_eq!(counters.delivered, 1_000 - counters.lost + counters.duplicated);
        assert_eq!(counters.delivered, received(&b).len() as u64);
        assert!((150..350).contains(&counters.lost), "{counters:?}");
        assert!((100..300).contains(&counters.duplicated), "{counters:?}");
    }

    #[test]
    fn a_rate_limit_spaces_datagrams_and_its_full_queue_drops_the_tail() {
        let rate = Rate { bitrate_bps: 8_000_000, queue_bytes: 5_000 };
        let (net, a, b) = pair(5, Link { rate: Some(rate), ..Link::default() });
        (0..8).for_each(|n| a.send(addr(2), &[n; 1_000]));
        for n in 1..=5 {
            assert_eq!(net.next_event(), Some(START.plus_ms(n)), "1,000 bytes at 8 Mbit/s take 1 ms");
            net.advance(START.plus_ms(n));
        }
        assert_eq!(received(&b), [0, 1, 2, 3, 4]);
        assert_eq!(net.link_counters(addr(1), addr(2)).overflowed, 3);
    }

    #[test]
    fn one_direction_can_be_bad_while_the_other_is_not() {
        let (net, a, b) = pair(6, Link::default());
        net.set_link(addr(1), addr(2), Link { loss: 1.0, ..Link::default() });
        a.send(addr(2), b"x");
        b.send(addr(1), b"y");
        net.advance(START);
        assert_eq!((received(&a), received(&b)), (vec![b'y'], vec![]));
        assert_eq!(net.link_counters(addr(1), addr(2)).lost, 1);
    }

    #[test]
    fn what_reaches_nobody_is_counted_and_a_dropped_socket_is_nobody() {
        let (net, a, b) = pair(7, Link::default());
        a.send(addr(9), b"x");
        a.send(addr(2), b"x");
        drop(b);
        net.advance(START);
        assert_eq!(net.link_counters(addr(1), addr(9)).unrouted, 1);
        assert_eq!(net.link_counters(addr(1), addr(2)).unrouted, 1);
        net.socket(addr(2));
    }
}
