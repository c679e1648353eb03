//! Datagrams in and out: one contract, several backends.
//!
//! A shard moves packets through five verbs. They are these five because with them a packet is sealed
//! straight into the memory it leaves from, whatever lies below:
//!
//! - [`Io::recv`] lends what has arrived, without blocking. Receive offload (GRO) is undone here.
//! - [`Io::reserve`] lends transmit memory. Dropping the loan rolls it back.
//! - [`Io::commit`] makes the reserved bytes a datagram. Consecutive datagrams of one size to one path
//!   become one kernel send (GSO), which is where most of the cost per packet goes.
//! - [`Io::flush`] sends. Called once per turn.
//! - [`Io::wait`] sleeps until there is something to do.
//!
//! Backends are interchangeable files: [`udp`] (kernel sockets, portable), [`uring`] (kernel sockets through
//! io_uring), [`xdp`] (past the kernel's IP stack) and [`sim`] (in memory, virtual time). The shard is generic over
//! them: no trait object per packet. One suite, `tests/io`, runs over all of them.
//!
//! Degradation is state, not an error: without GSO or GRO, IPv6 or large socket buffers a backend goes on
//! with less, counts it, and says so once in the log. A datagram that cannot be sent is counted in
//! [`SendFailures`] and forgotten, because UDP promises nothing and the next packet is more useful.
//!
//! Deliberately absent: RTP (bytes are bytes here), clocks, and errors of single packets.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub mod batch;
pub mod bell;
mod outcome;
pub mod sim;
mod socket;
pub mod udp;
pub mod uring;
pub mod xdp;

pub use bell::Bell;
pub use socket::BindError;

/// The largest UDP payload that IPv4 can carry: 65,535 less 20 bytes of IP and 8 of UDP header. It bounds
/// one datagram and one GSO send alike (`udp_sendmsg`, `net/ipv4/udp.c`).
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// The 5-tuple in use, seen from us: where the peer is and which of our addresses it reached, so that
/// replies leave from there. Addresses are canonical: never IPv4 mapped into IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    pub remote: SocketAddr,
    /// `None` lets the routing table choose the source.
    pub local: Option<IpAddr>,
}

impl Path {
    /// The path of a datagram from `remote` to our address `local`, as any socket may have told it.
    pub fn canonical(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        let remote = match remote.ip().to_canonical() {
            // Keeps the scope of a link-local IPv6 address.
            IpAddr::V6(_) => remote,
            v4 => SocketAddr::new(v4, remote.port()),
        };
        Self { remote, local: local.map(|ip| ip.to_canonical()) }
    }
}

/// A received datagram, lent for the duration of one call.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub path: Path,
    /// Can be empty: UDP allows it.
    pub bytes: &'a [u8],
}

/// What a shard needs from the network.
pub trait Io {
    /// Receives what is there without blocking and lends each datagram to `each`, in order of arrival per
    /// sender. Returns how many. The work per call is bounded; 0 means that nothing was there.
    fn recv<F: FnMut(Datagram<'_>)>(&mut self, each: F) -> usize;

    /// Lends exactly `len` bytes of transmit memory for a datagram to `path`, flushing first if there is no
    /// room. What it contains is unspecified. Reserving again without a commit re-uses the memory: not
    /// committed is not sent. `None` if `len` exceeds what the backend can ever send.
    fn reserve(&mut self, path: &Path, len: usize) -> Option<&mut [u8]>;

    /// The first `len` bytes of the last reservation leave at the next flush at the latest. Order per path
    /// is kept. A `len` of 0 gives the reservation back: GSO cannot express an empty segment, and no
    /// protocol we speak has use for one.
    fn commit(&mut self, len: usize);

    /// The same path in the form that costs least to send on, for paths that are used often. Asks the kernel where
    /// that is needed to know, so not for every packet.
    fn lightest(&self, path: Path) -> Path {
        path
    }

    /// Sends everything committed. What cannot be sent is counted and dropped.
    fn flush(&mut self);

    /// Blocks until a datagram may be readable, the bell of the backend rings, or `timeout` passes. May
    /// return early. The caller arms the bell and looks at its queues once more before: see [`Bell`].
    fn wait(&mut self, timeout: Duration);

    /// Totals since the backend was created.
    fn counters(&self) -> IoCounters;
}

/// What a backend has done. Plain totals, owned by the thread that owns the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoCounters {
    pub received_datagrams: u64,
    pub received_bytes: u64,
    /// Kernel calls, or looks at a ring, that returned at least one datagram.
    pub receive_calls: u64,
    /// Received datagrams that the kernel handed over as part of a GRO run.
    pub gro_segments: u64,
    /// Kernel calls to receive that failed for another reason than that nothing was there, and datagrams that found no
    /// room on the way to the shard of their port (`xdp`).
    pub receive_failures: u64,
    pub sent_datagrams: u64,
    pub sent_bytes: u64,
    /// Kernel calls, or requests through a ring, that sent at least one datagram. `sent_datagrams / send_calls` is what GSO gains.
    pub send_calls: u64,
    /// Sent datagrams that left as part of a GSO run of two or more.
    pub gso_segments: u64,
    pub send_failures: SendFailures,
}

impl IoCounters {
    /// Both together.
    fn plus(&self, other: &Self) -> Self {
        Self {
            received_datagrams: self.received_datagrams + other.received_datagrams,
            received_bytes: self.received_bytes + other.received_bytes,
            receive_calls: self.receive_calls + other.receive_calls,
            gro_segments: self.gro_segments + other.gro_segments,
            receive_failures: self.receive_failures + other.receive_failures,
            sent_datagrams: self.sent_datagrams + other.sent_datagrams,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            send_calls: self.send_calls + other.send_calls,
            gso_segments: self.gso_segments + other.gso_segments,
            send_failures: self.send_failures.plus(&other.send_failures),
        }
    }

    /// `datagrams` of together `bytes` bytes left in one kernel call.
    fn count_sent(&mut self, datagrams: u64, bytes: usize) {
        self.send_calls += 1;
        self.sent_datagrams += datagrams;
        self.sent_bytes += bytes as u64;
        if datagrams > 1 {
            self.gso_segments += datagrams;
        }
    }
}

/// Datagrams that did not leave, by cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendFailures {
    /// No room in the socket or NIC queue (`DropReason::SendBufferFull`).
    pub buffer_full: u64,
    /// No route, or the interface is down.
    pub unreachable: u64,
    /// A firewall rule or the kernel's policy forbids it.
    pub not_permitted: u64,
    /// Larger than the MTU of the interface; we never fragment.
    pub too_large: u64,
    pub other: u64,
}

impl SendFailures {
    fn plus(&self, other: &Self) -> Self {
        Self {
            buffer_full: self.buffer_full + other.buffer_full,
            unreachable: self.unreachable + other.unreachable,
            not_permitted: self.not_permitted + other.not_permitted,
            too_large: self.too_large + other.too_large,
            other: self.other + other.other,
        }
    }

    fn count(&mut self, error: &Error, datagrams: u64) {
        let counter = match error.kind() {
            ErrorKind::WouldBlock => &mut self.buffer_full,
            ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::ConnectionRefused => &mut self.unreachable,
            ErrorKind::PermissionDenied => &mut self.not_permitted,
            _ => match error.raw_os_error() {
                Some(libc::ENOBUFS) => &mut self.buffer_full,
                Some(libc::EMSGSIZE) => &mut self.too_large,
                _ => &mut self.other,
            },
        };
        *counter += datagrams;
    }

    /// Datagrams that the kernel refused whatever the load (`DropReason::SendFailed`).
    pub fn refused(&self) -> u64 {
        self.unreachable + self.not_permitted + self.too_large + self.other
    }
}
