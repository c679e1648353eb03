//! The backend that goes past the kernel's IP stack: AF_XDP where the interface has it, a packet socket for
//! sending where it has not.
//!
//! A datagram costs the stack 1.9 µs and AF_XDP a third of that, even when the kernel still copies, because what
//! costs is the stack and not the copy (`tuning/README.md`). The price is that we write our own headers:
//!
//! - `program` redirects what is for our ports into our memory; everything else stays the kernel's.
//! - `queue` is one AF_XDP socket: rings, frames, the hand-over. `packet` is what stands in for it.
//! - `frame` writes and reads Ethernet, IP and UDP. `route` remembers the headers by address, `resolver` gets them
//!   from the kernel's tables by `netlink`.
//! - `exchange` hands over what came in on the queue of another shard.
//!
//! The UDP sockets stay. They reserve the ports, receive what comes another way (loopback, another interface, a
//! queue that is nobody's), and send where no frames go (loopback, another interface, the neighbour not yet known,
//! longer than the MTU). Thus every datagram that the `udp` backend would serve is served here too.
//!
//! Steps down, each said once with its reason: zero-copy, copying, a packet socket for sending beside UDP
//! sockets for receiving, and [`Refused`] with the sockets unharmed, for the caller to go on with.
//!
//! Deliberately absent: GSO, which is a thing of the stack (each datagram is a descriptor), VLAN tags,
//! tunnels, and several interfaces; all these take the sockets. What goes past the stack goes past its firewall.

pub mod assembler;
pub mod bpf;
mod exchange;
mod frame;
mod memory;
mod netlink;
mod packet;
mod program;
mod queue;
mod resolver;
mod ring;
mod route;
mod setup;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::exchange::Exchange;
use self::memory::Frame;
use self::packet::PacketSocket;
use self::program::Redirect;
use self::queue::Queue;
use self::route::{RouteId, Routes};
use super::udp::UdpIo;
use super::{Bell, Datagram, Io, IoCounters, Path};

pub use self::setup::{Refused, Rung, XdpOptions, open};

/// While frames keep coming, the socket is looked at once in so many receives: that is a system call, and
/// most hosts have nothing there.
const SOCKET_EVERY: u32 = 8;

/// The longest payload that a frame of 4 KiB can hold.
const PAYLOAD_BYTES_MAX: usize = 4_096;

/// The [`Io`] of one shard: its queue, or its packet socket, and its UDP socket.
pub struct XdpIo {
    wire: Wire,
    sockets: UdpIo,
    bell: Bell,
    routes: Routes,
    exchange: Exchange,
    reserved: Reserved,
    /// Where a datagram is written for which there is no frame.
    scratch: Box<[u8; PAYLOAD_BYTES_MAX]>,
    /// Of frames; those of the socket are its own.
    counters: IoCounters,
    receives: u32,
    port: u16,
    rung: Rung,
    /// Detaches the program when the last shard is dropped.
    _redirect: Option<Arc<Redirect>>,
}

/// The way out, and with a queue also in, past the stack.
enum Wire {
    Queue(Box<Queue>),
    Packet(Box<PacketSocket>),
}

/// Where the last reservation lies.
enum Reserved {
    Nowhere,
    Socket,
    Frame {
        route: RouteId,
        /// The remote one.
        port: u16,
        frame: Frame,
        len: usize,
    },
    /// Written for nothing: the device takes no more.
    Scratch,
}

impl XdpIo {
    /// How far down this shard had to step.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// The bound address of the UDP socket; frames use its port.
    pub fn local_addr(&self) -> std::net::SocketAddr {
        self.sockets.local_addr()
    }

    /// Whether a datagram on this path would leave past the stack now. If that is not known, it will be soon.
    pub fn goes_by_frames(&mut self, path: &Path) -> bool {
        self.routes.learn();
        self.routes.find(path, 1).is_some()
    }

    /// What has gone past the stack, out of [`Io::counters`].
    pub fn past_the_stack(&self) -> IoCounters {
        self.counters
    }

    /// Datagrams for other shards that found no room on the way.
    pub fn lost(&self) -> u64 {
        self.exchange.lost()
    }

    /// Takes back a frame that was reserved and not committed.
    fn drop_reservation(&mut self) {
        if let Reserved::Frame { frame, .. } = std::mem::replace(&mut self.reserved, Reserved::Nowhere) {
            self.wire.give_back(frame);
        }
    }

    fn receive_frames(&mut self, each: &mut impl FnMut(Datagram<'_>)) -> usize {
        let Self { wire, exchange, counters, .. } = self;
        let mut lend = |arrival: frame::Arrival<'_>| {
            counters.received_datagrams += 1;
            counters.received_bytes += arrival.payload.len() as u64;
            each(Datagram { path: arrival.path, bytes: arrival.payload });
        };
        let mut lent = 0;
        if let Wire::Queue(queue) = wire {
            queue.begin();
            queue.receive(|frame| lent += exchange.sort(frame, &mut lend));
            exchange.publish();
        }
        lent += exchange.receive(&mut lend);
        counters.receive_calls += u64::from(lent > 0);
        lent
    }
}

impl Io for XdpIo {
    fn recv<F: FnMut(Datagram<'_>)>(&mut self, mut each: F) -> usize {
        self.routes.learn();
        let lent = self.receive_frames(&mut each);
        self.receives = self.receives.wrapping_add(1);
        match lent == 0 || self.receives.is_multiple_of(SOCKET_EVERY) {
            true => lent + self.sockets.recv(each),
            false => lent,
        }
    }

    fn reserve(&mut self, path: &Path, len: usize) -> Option<&mut [u8]> {
        self.drop_reservation();
        let route = self.routes.find(path, len).filter(|_| len <= self.wire.payload_bytes_max());
        let Some(route) = route else {
            self.reserved = Reserved::Socket;
            return self.sockets.reserve(path, len);
        };
        let Some(frame) = self.wire.frame() else {
            self.reserved = Reserved::Scratch;
            return self.scratch.get_mut(..len);
        };
        self.reserved = Reserved::Frame { route, port: path.remote.port(), frame, len };
        match &self.reserved {
            Reserved::Frame { frame, .. } => Some(self.wire.payload(frame, len)),
            _ => None,
        }
    }

    fn commit(&mut self, len: usize) {
        match std::mem::replace(&mut self.reserved, Reserved::Nowhere) {
            Reserved::Socket => self.sockets.commit(len),
            Reserved::Scratch => self.counters.send_failures.buffer_full += u64::from(len > 0),
            Reserved::Frame { frame, .. } if len == 0 => self.wire.give_back(frame),
            Reserved::Frame { route, port, frame, len: reserved } => {
                debug_assert!(len <= reserved, "committed more than was reserved");
                let len = len.min(reserved);
                let Some(known) = self.routes.get(route) else { return self.wire.give_back(frame) };
                let ports = (self.port, port);
                self.wire.send(frame, len, &known.header, ports);
                self.counters.sent_datagrams += 1;
                self.counters.sent_bytes += len as u64;
            }
            Reserved::Nowhere => debug_assert!(len == 0, "a commit belongs to a reservation"),
        }
    }

    fn flush(&mut self) {
        self.drop_reservation();
        self.wire.flush();
        self.sockets.flush();
    }

    fn wait(&mut self, timeout: Duration) {
        // The bell is armed: what another shard hands over from here on ends the wait.
        if !self.exchange.is_empty() {
            return;
        }
        let timeout = Timespec::try_from(timeout).ok();
        let socket = PollFd::from_borrowed_fd(self.sockets.as_fd(), PollFlags::IN);
        let bell = PollFd::new(&self.bell, PollFlags::IN);
        // Fails only by a signal (then it is an early return, which the contract allows) or for lack of memory.
        let _ = match &self.wire {
            Wire::Queue(queue) => {
                poll(&mut [PollFd::new(&**queue, PollFlags::IN), socket, bell], timeout.as_ref())
            }
            Wire::Packet(_) => poll(&mut [socket, bell], timeout.as_ref()),
        };
    }

    fn counters(&self) -> IoCounters {
        let mut counters = self.counters.plus(&self.sockets.counters());
        counters.send_calls += self.wire.send_calls();
        if let Wire::Packet(packet) = &self.wire {
            let failures = packet.failures();
            counters.send_failures = counters.send_failures.plus(&failures);
            counters.sent_datagrams -= failures.buffer_full + failures.refused();
        }
        counters
    }
}

impl Wire {
    fn payload_bytes_max(&mut self) -> usize {
        self.memory().payload_bytes_max()
    }

    fn memory(&mut self) -> &mut memory::Memory {
        match self {
            Self::Queue(queue) => queue.memory(),
            Self::Packet(packet) => packet.memory(),
        }
    }

    fn frame(&mut self) -> Option<Frame> {
        match self {
            Self::Queue(queue) => queue.frame(),
            Self::Packet(packet) => packet.frame(),
        }
    }

    fn give_back(&mut self, frame: Frame) {
        match self {
            Self::Queue(queue) => queue.give_back(frame),
            Self::Packet(packet) => packet.give_back(frame),
        }
    }

    fn payload(&mut self, frame: &Frame, len: usize) -> &mut [u8] {
        self.memory().payload(frame, len)
    }

    /// Puts the headers before the payload and queues the frame.
    fn send(&mut self, frame: Frame, len: usize, header: &frame::Header, ports: (u16, u16)) {
        let (address, packet) = self.memory().packet(&frame, header.len(), len);
        header.write(packet, ports);
        let packet_bytes = packet.len();
        match self {
            Self::Queue(queue) => queue.send(frame, address, packet_bytes),
            Self::Packet(packet) => packet.send(frame, address, packet_bytes),
        }
    }

    fn flush(&mut self) {
        match self {
            Self::Queue(queue) => queue.flush(),
            Self::Packet(packet) => packet.flush(),
        }
    }

    fn send_calls(&self) -> u64 {
        match self {
            Self::Queue(queue) => queue.send_calls(),
            Self::Packet(packet) => packet.send_calls(),
        }
    }
}
