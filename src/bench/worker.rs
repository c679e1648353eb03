//! A generator thread: one port, and all that its clients send and receive.
//!
//! Pinned, with one loop: orders, timers, one batch of datagrams, and sleep if there were none. It never waits for
//! HTTP, which another thread speaks; a client comes to it when the server's description is known.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::mpsc::UnboundedSender;

use super::addresses::Prefix;
use super::listener::{Heard, Listener};
use super::media::Departures;
use super::socket::{Arrival, Memory, Wire};
use super::speaker::{self, Source};
use super::tally::{Tally, Window};
use super::transport::{Outcome, Remote, Transport};
use crate::control::transport::{Credentials, Identity};
use crate::io::Bell;
use crate::rtp::demux::{DatagramKind, classify, is_rtcp};
use crate::rtp::srtp::{Opener, Sealer};
use crate::time::{Clock, Time};

/// What a thread is told.
pub enum Order {
    Join(Box<Join>),
    /// Counts anew, for packets sent in the window, which has not begun.
    Measure(Window),
    /// Answered by [`News::Tally`].
    Collect,
    Stop,
}

/// A client whose session the server has.
pub struct Join {
    pub client: usize,
    /// Its address, by number in the prefix.
    pub address: usize,
    pub remote: Remote,
    pub credentials: Credentials,
    pub role: Role,
}

pub enum Role {
    Speaker(Vec<Source>),
    Listener(Listener),
}

/// What a thread tells.
pub enum News {
    Connected {
        client: usize,
        at: Time,
    },
    /// A listener has heard all tracks.
    Heard {
        client: usize,
        at: Time,
        is_measured: bool,
    },
    Failed {
        client: usize,
        problem: String,
    },
    Tally(Box<Tally>),
}

/// What the others see of a thread while it runs. It alone writes.
#[derive(Default)]
pub struct Gauges {
    /// SRTP packets received, of all listeners, measured or not.
    pub packets: AtomicU64,
    /// SRTP packets sent.
    pub packets_sent: AtomicU64,
    pub send_failures: AtomicU64,
}

/// A running thread.
pub struct Worker {
    orders: Sender<Order>,
    bell: Bell,
    pub gauges: Arc<Gauges>,
    /// Its UDP port, under which the kernel counts drops.
    pub port: u16,
    pub receive_buffer_bytes: usize,
    /// For /proc.
    pub thread_name: String,
    thread: Option<JoinHandle<()>>,
}

/// What all threads have in common.
#[derive(Clone)]
pub struct Common {
    pub clock: Clock,
    pub identity: Arc<Identity>,
    pub tracks: Arc<[Departures]>,
    pub prefix: Prefix,
    pub news: UnboundedSender<News>,
}

impl Worker {
    /// Starts a thread on a core.
    pub fn start(number: usize, core: usize, common: Common) -> io::Result<Self> {
        let wire = Wire::bind(common.prefix.is_ipv6())?;
        let (port, receive_buffer_bytes) = (wire.port(), wire.receive_buffer_bytes());
        let (orders, inbox) = unbounded();
        let bell = Bell::new()?;
        let gauges = Arc::new(Gauges::default());
        let tally = Tally::new(Window::NEVER, common.tracks.len());
        let desk = Desk {
            common,
            wire,
            inbox,
            bell: bell.clone(),
            gauges: gauges.clone(),
            clients: Vec::new(),
            timers: BinaryHeap::new(),
            tally,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
        };
        let thread_name = format!("bench-{number}");
        let thread = thread::Builder::new().name(thread_name.clone()).spawn(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
            desk.run();
        })?;
        Ok(Self { orders, bell, gauges, port, receive_buffer_bytes, thread_name, thread: Some(thread) })
    }

    pub fn tell(&self, order: Order) {
        // Fails if the thread has panicked, which shows at the end.
        let _ = self.orders.send(order);
        self.bell.ring();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tell(Order::Stop);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The longest datagram that anybody sends us, decrypted.
const SCRATCH_BYTES: usize = 65_536;

/// A thread wakes at least this often.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// All that the thread owns but its receive memory.
struct Desk {
    common: Common,
    wire: Wire,
    inbox: Receiver<Order>,
    bell: Bell,
    gauges: Arc<Gauges>,
    /// By number of its address.
    clients: Vec<Option<Client>>,
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    tally: Tally,
    scratch: Box<[u8]>,
}

struct Client {
    id: usize,
    address: IpAddr,
    transport: Transport,
    keys: Option<(Sealer, Opener)>,
    role: Role,
    /// The entry of `timers` that counts; others are of the past.
    timer: Time,
    is_gone: bool,
}

impl Desk {
    fn run(mut self) {
        let mut memory = Memory::new();
        loop {
            while let Ok(order) = self.inbox.try_recv() {
                if matches!(order, Order::Stop) {
                    return;
                }
                self.obey(order);
            }
            self.run_timers();
            if self.receive(&mut memory) == 0 {
                self.sleep();
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Join(join) => self.join(*join),
            Order::Measure(window) => {
                self.tally = Tally::new(window, self.common.tracks.len());
                for client in self.clients.iter_mut().flatten() {
                    if let Role::Listener(listener) = &mut client.role {
                        listener.received = 0;
                    }
                }
            }
            Order::Collect => {
                let mut tally = self.tally.clone();
                tally.per_listener = self.clients.iter().flatten().filter_map(Client::measured).collect();
                self.say(News::Tally(Box::new(tally)));
            }
            Order::Stop => {}
        }
    }

    fn join(&mut self, Join { client, address, remote, credentials, role }: Join) {
        let now = self.common.clock.now();
        let transport = Transport::new(remote, &credentials, self.common.clock.instant(now));
        if address >= self.clients.len() {
            self.clients.resize_with(address + 1, || None);
        }
        self.clients[address] = Some(Client {
            id: client,
            address: self.common.prefix.address(address),
            transport,
            keys: None,
            role,
            timer: now,
            is_gone: false,
        });
        self.timers.push(Reverse((now, address)));
    }

    fn run_timers(&mut self) {
        // Read once: what falls due meanwhile waits for a batch of datagrams.
        let now = self.common.clock.now();
        while let Some(&Reverse((at, number))) = self.timers.peek().filter(|Reverse((at, _))| *at <= now) {
            self.timers.pop();
            if self.clients[number].as_ref().is_some_and(|client| client.timer == at) {
                self.run_timer(number, now);
            }
        }
    }

    fn run_timer(&mut self, number: usize, now: Time) {
        let Self { common, wire, clients, tally, gauges, .. } = self;
        let Some(client) = &mut clients[number] else { return };
        let (from, to) = (client.address, client.transport.remote_address());
        let mut send = |bytes: &[u8]| wire.send(from, to, bytes);
        if let Some((sealer, _)) = &mut client.keys {
            match &mut client.role {
                Role::Listener(listener) => listener.report(now, sealer, &mut send),
                Role::Speaker(sources) => {
                    let mut media = |bytes: &[u8]| {
                        wire.send(from, to, bytes);
                        gauges.packets_sent.fetch_add(1, Ordering::Relaxed);
                    };
                    for source in sources {
                        if source.due <= now {
                            source.speak(common.clock, sealer, tally, &mut media);
                        }
                        source.report(now, sealer, &mut send);
                    }
                }
            }
        }
        let instant = common.clock.instant(now);
        let outcome = if client.transport.next_timeout() <= instant {
            client.transport.handle_timeout(instant, &mut send)
        } else {
            Outcome::default()
        };
        self.conclude(number, outcome, now);
    }

    /// One batch of datagrams.
    fn receive(&mut self, memory: &mut Memory) -> usize {
        let prefix = self.common.prefix;
        let wire_clock = self.common.clock;
        let mut clocks = None;
        let mut outcomes = Vec::new();
        let Self { common, wire, clients, tally, scratch, gauges, .. } = self;
        let mut packets = 0;
        let datagrams = memory.receive(wire, |arrival| {
            let (now, wall) = *clocks.get_or_insert_with(|| (wire_clock.now(), Clock::wall()));
            let Some(number) = prefix.number(arrival.local) else { return };
            let Some(client) = clients.get_mut(number).and_then(Option::as_mut) else { return };
            let is_media =
                arrival.bytes.first().map(|first| classify(*first)) == Some(DatagramKind::SrtpOrSrtcp);
            if is_media {
                let waited = arrival.wall.map_or(Duration::ZERO, |at| wall.saturating_sub(at));
                let at = Time(now.0 - (waited.as_micros() as u64).min(now.0));
                packets += u64::from(!is_rtcp(arrival.bytes));
                let (from, to) = (client.address, client.transport.remote_address());
                let mut send = |bytes: &[u8]| {
                    wire.send(from, to, bytes);
                    gauges.packets_sent.fetch_add(1, Ordering::Relaxed);
                };
                if client.media(&arrival, at, scratch, tally, &mut send) == Heard::All {
                    let is_measured = client.measured().is_some();
                    let _ = common.news.send(News::Heard { client: client.id, at, is_measured });
                }
                return;
            }
            let (from, to) = (client.address, client.transport.remote_address());
            let mut send = |bytes: &[u8]| wire.send(from, to, bytes);
            let instant = common.clock.instant(now);
            let outcome =
                client.transport.handle_datagram(&common.identity, arrival.bytes, instant, &mut send);
            outcomes.push((number, outcome));
        });
        gauges.packets.fetch_add(packets, Ordering::Relaxed);
        gauges.send_failures.store(wire.send_failures(), Ordering::Relaxed);
        if !outcomes.is_empty() {
            let now = self.common.clock.now();
            outcomes.into_iter().for_each(|(number, outcome)| self.conclude(number, outcome, now));
        }
        datagrams
    }

    /// Takes what the transport of a client came to, and sets the client's timer.
    fn conclude(&mut self, number: usize, outcome: Outcome, now: Time) {
        let Self { common, clients, timers, .. } = self;
        let Some(client) = &mut clients[number] else { return };
        if let Some(keys) = outcome.keys {
            client.keys = Some(keys);
            let _ = common.news.send(News::Connected { client: client.id, at: now });
            if let Role::Speaker(sources) = &mut client.role {
                sources.iter_mut().for_each(|source| source.begin(now));
            }
        }
        if let Some(problem) = outcome.failed.filter(|_| !client.is_gone) {
            client.is_gone = true;
            let _ = common.news.send(News::Failed { client: client.id, problem });
        }
        if client.is_gone {
            client.timer = Time::NEVER;
            return;
        }
        let at = client.next_timer(common.clock).max(now.plus_us(1));
        if at != client.timer {
            client.timer = at;
            timers.push(Reverse((at, number)));
        }
    }

    fn sleep(&mut self) {
        let now = self.common.clock.now();
        let next = self.timers.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
        self.bell.arm();
        if self.inbox.is_empty() && next > now {
            self.wire.wait(&self.bell, (next - now).min(SLEEP_MAX));
        }
        self.bell.disarm();
    }

    fn say(&self, news: News) {
        // Nobody listens any more when the measurement has been given up.
        let _ = self.common.news.send(news);
    }
}

impl Client {
    /// `send` is for the packets that it leads to.
    fn media(
        &mut self,
        arrival: &Arrival<'_>,
        at: Time,
        scratch: &mut [u8],
        tally: &mut Tally,
        send: &mut impl FnMut(&[u8]),
    ) -> Heard {
        let Some((sealer, opener)) = &mut self.keys else { return Heard::Nothing };
        if !is_rtcp(arrival.bytes) {
            return match &mut self.role {
                Role::Listener(listener) => listener.packet(arrival.bytes, at, opener, scratch, tally),
                Role::Speaker(_) => Heard::Nothing,
            };
        }
        let Ok(len) = opener.unprotect_rtcp(arrival.bytes, scratch) else { return Heard::Nothing };
        let compound = &scratch[..len];
        match &mut self.role {
            Role::Listener(listener) => listener.rtcp(compound, at),
            Role::Speaker(sources) => speaker::obey(sources, compound, at, sealer, tally, send),
        }
        Heard::Nothing
    }

    fn next_timer(&self, clock: Clock) -> Time {
        let transport = clock.at(self.transport.next_timeout());
        match &self.role {
            _ if self.keys.is_none() => transport,
            Role::Listener(listener) => transport.min(listener.next_report()),
            Role::Speaker(sources) => {
                sources.iter().map(|source| source.due.min(source.next_report())).fold(transport, Time::min)
            }
        }
    }

    /// What a measured listener has received, with its number; `None` for others.
    fn measured(&self) -> Option<(usize, u64)> {
        match &self.role {
            Role::Listener(listener) if listener.is_measured => Some((self.id, listener.received)),
            _ => None,
        }
    }
}
