//! The portable backend: a kernel UDP socket through `quinn-udp`.
//!
//! `quinn-udp` gives one `recvmmsg` with GRO per batch, one `sendmsg` with GSO per run, and the address a
//! datagram reached. It loses nothing to `sendmmsg`, because the kernel's cost is per datagram and not
//! per system call: only runs (see `batch.rs`) make it cheaper.
//!
//! What needs no control message, one datagram from the address that the routing table chooses, goes by `sendto`: there
//! is no message header for the kernel to copy and no list of control messages for it to walk.
//!
//! It also forbids fragmentation (`IP_PMTUDISC_PROBE`): a datagram above the interface MTU is refused and
//! counted, one above the path MTU is lost.
//!
//! Deliberately absent: retries. What the socket has no room for is dropped and counted: late media is worth
//! less than the next packet, and everything else that passes here repeats itself.

use std::array;
use std::io::{Error, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{SendFlags, sendto};
use tracing::debug;

use super::batch::{Batch, SEGMENTS_MAX};
use super::outcome::Outcomes;
use super::socket::{BindError, UdpEndpoint};
use super::{Bell, Datagram, Io, IoCounters, Path};

/// How a [`UdpIo`] is set up; the default suits production.
#[derive(Debug, Clone, Copy)]
pub struct UdpOptions {
    /// Datagrams per send to one destination, 1..=64; 1 switches GSO off.
    pub gso_segments_max: usize,
    /// `SO_RCVBUF`. Default 4 MiB: the kernel grants twice that and charges about 2.3 KB for a 1,200-byte
    /// packet, so some 3,600 packets, or 36 ms at 100,000 packets/s, survive while a turn is busy.
    pub receive_buffer_bytes: usize,
    /// `SO_SNDBUF`. Default 4 MiB, by the same sum: what one flush may queue ahead of the NIC.
    pub send_buffer_bytes: usize,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { gso_segments_max: SEGMENTS_MAX, receive_buffer_bytes: 4 << 20, send_buffer_bytes: 4 << 20 }
    }
}

/// The [`Io`] of one shard on one UDP port.
#[derive(Debug)]
pub struct UdpIo {
    wire: Wire,
    bell: Bell,
    receive: ReceiveMemory,
    batch: Batch,
    counters: IoCounters,
    outcomes: Outcomes,
}

/// The socket and what `quinn-udp` knows about it.
#[derive(Debug)]
struct Wire {
    endpoint: UdpEndpoint,
    state: UdpSocketState,
}

impl UdpIo {
    /// Opens `addr`; `[::]` takes IPv4 as well as IPv6. `bell` ends [`Io::wait`].
    pub fn bind(addr: SocketAddr, bell: Bell, options: UdpOptions) -> Result<Self, BindError> {
        let endpoint = UdpEndpoint::bind(addr)?;
        endpoint.set_buffers(options.receive_buffer_bytes, options.send_buffer_bytes);
        let state =
            UdpSocketState::new(endpoint.socket().into()).map_err(|source| BindError { addr, source })?;
        let segments_max = options.gso_segments_max.min(state.max_gso_segments());
        Ok(Self {
            wire: Wire { endpoint, state },
            bell,
            receive: ReceiveMemory::new(),
            batch: Batch::new(segments_max),
            counters: IoCounters::default(),
            outcomes: Outcomes::default(),
        })
    }

    /// The bound address; unspecified if it was asked for, with the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.wire.endpoint.local_addr()
    }
}

impl AsFd for UdpIo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.endpoint.as_fd()
    }
}

impl Io for UdpIo {
    fn recv<F: FnMut(Datagram<'_>)>(&mut self, mut each: F) -> usize {
        let before = self.counters.received_datagrams;
        match self.receive.fill_from(&self.wire) {
            Ok(messages) => {
                self.counters.receive_calls += 1;
                self.receive
                    .messages(messages)
                    .for_each(|message| message.lend(&mut self.counters, &mut each));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                self.counters.receive_failures += 1;
                if self.counters.receive_failures.is_power_of_two() {
                    debug!(%error, times = self.counters.receive_failures, "receiving failed");
                }
            }
        }
        (self.counters.received_datagrams - before) as usize
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

    fn lightest(&self, path: Path) -> Path {
        self.wire.endpoint.lightest(path)
    }

    fn flush(&mut self) {
        let Self { wire, batch, outcomes, counters, .. } = self;
        for run in batch.runs() {
            let outcome = wire.send(&run.path, run.bytes, run.segment_size);
            outcomes.settle(counters, &run, outcome, || {
                run.datagrams().map(|datagram| wire.send(&run.path, datagram, datagram.len()))
            });
        }
        batch.clear();
        if outcomes.gso_is_broken {
            batch.set_segments_max(1);
        }
    }

    fn wait(&mut self, timeout: Duration) {
        // A timeout too long for the kernel's type is forever.
        let timeout = Timespec::try_from(timeout).ok();
        let mut fds =
            [PollFd::new(&self.wire.endpoint, PollFlags::IN), PollFd::new(&self.bell, PollFlags::IN)];
        // Fails only by a signal (then it is an early return, which the contract allows) or for lack of memory.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }
}

impl Wire {
    fn send(&self, path: &Path, bytes: &[u8], segment_size: usize) -> Result<(), Error> {
        let destination = self.endpoint.in_our_family(path.remote);
        if path.local.is_none() && segment_size >= bytes.len() {
            let sent = retry_on_intr(|| sendto(&self.endpoint, bytes, SendFlags::empty(), &destination));
            return sent.map(drop).map_err(Error::from);
        }
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: bytes,
            segment_size: Some(segment_size),
            src_ip: path.local,
        };
        self.state.try_send(self.endpoint.socket().into(), &transmit)
    }
}

/// Buffers for one `recvmmsg`. 32 of them are 2.1 MB of address space; pages that no packet reaches stay
/// unallocated.
#[derive(Debug)]
struct ReceiveMemory {
    bytes: Box<[u8]>,
    metas: [RecvMeta; BATCH_SIZE],
}

/// The largest GRO run is one maximal IP packet, 65,535 bytes; a smaller buffer would cut it silently.
const RECEIVE_BUFFER_BYTES: usize = 65_536;

/// From buffer to buffer: 20 cache lines more than a power of two, or the first lines of all 32 buffers, the
/// only ones that short packets use, would compete for the same few cache sets.
const RECEIVE_STRIDE_BYTES: usize = RECEIVE_BUFFER_BYTES + 20 * 64;

/// What one buffer holds: a datagram, or a GRO run of equal ones (the last may be shorter).
pub(super) struct Message<'a> {
    pub(super) path: Path,
    pub(super) stride: usize,
    pub(super) bytes: &'a [u8],
}

impl ReceiveMemory {
    fn new() -> Self {
        let bytes = vec![0; BATCH_SIZE * RECEIVE_STRIDE_BYTES].into_boxed_slice();
        Self { bytes, metas: [RecvMeta::default(); BATCH_SIZE] }
    }

    /// One `recvmmsg`; returns how many buffers it filled, at least one.
    fn fill_from(&mut self, wire: &Wire) -> Result<usize, Error> {
        let mut buffers = self.bytes.chunks_exact_mut(RECEIVE_STRIDE_BYTES);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] = array::from_fn(|_| {
            let buffer = buffers.next().expect("the memory is BATCH_SIZE strides long");
            IoSliceMut::new(&mut buffer[..RECEIVE_BUFFER_BYTES])
        });
        wire.state.recv(wire.endpoint.socket().into(), &mut buffers, &mut self.metas)
    }

    fn messages(&self, count: usize) -> impl Iterator<Item = Message<'_>> {
        let buffers = self.bytes.chunks_exact(RECEIVE_STRIDE_BYTES);
        self.metas.iter().zip(buffers).take(count).map(|(meta, buffer)| Message {
            path: Path::canonical(meta.addr, meta.dst_ip),
            stride: meta.stride,
            bytes: buffer.get(..meta.len).unwrap_or(&[]),
        })
    }
}

impl Message<'_> {
    pub(super) fn lend(self, counters: &mut IoCounters, each: &mut impl FnMut(Datagram<'_>)) {
        let Self { path, stride, bytes } = self;
        counters.received_bytes += bytes.len() as u64;
        if stride >= bytes.len() || stride == 0 {
            counters.received_datagrams += 1;
            return each(Datagram { path, bytes });
        }
        for bytes in bytes.chunks(stride) {
            counters.received_datagrams += 1;
            counters.gro_segments += 1;
            each(Datagram { path, bytes });
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use socket2::Socket;

    use super::*;

    /// Makes the kernel refuse every GSO send with `EINVAL`, as a device that cannot segment does: it takes
    /// checksums, and these are switched off (`udp_send_skb`).
    #[expect(unsafe_code, reason = "neither socket2 nor rustix can set SO_NO_CHECK")]
    pub(in crate::io) fn break_gso(socket: &Socket) {
        let on: libc::c_int = 1;
        let fd = socket.as_raw_fd();
        // SAFETY: `on` outlives the call, and its address and size describe the one c_int that is read.
        let done = unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_NO_CHECK,
                (&raw const on).cast(),
                size_of_val(&on) as _,
            )
        };
        assert_eq!(done, 0);
    }

    pub(in crate::io) fn commit_three(io: &mut impl Io, remote: SocketAddr) {
        for n in 1..=3 {
            io.reserve(&Path { remote, local: None }, 100).unwrap().fill(n);
            io.commit(100);
        }
        io.flush();
    }

    #[test]
    fn where_gso_does_not_work_everything_still_leaves_once_and_in_order() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let remote = peer.local_addr().unwrap();
        let bell = Bell::new().unwrap();
        let mut io = UdpIo::bind(([127, 0, 0, 1], 0).into(), bell, UdpOptions::default()).unwrap();
        break_gso(io.wire.endpoint.socket());
        commit_three(&mut io, remote);
        commit_three(&mut io, remote);
        for n in [1, 2, 3, 1, 2, 3] {
            let mut buffer = [0; 200];
            assert_eq!(peer.recv(&mut buffer).unwrap(), 100);
            assert_eq!(buffer[..100], [n; 100]);
        }
        let counters = io.counters();
        assert_eq!((counters.sent_datagrams, counters.send_calls, counters.gso_segments), (6, 6, 0));
        assert_eq!(counters.send_failures.refused(), 0);
    }
}
