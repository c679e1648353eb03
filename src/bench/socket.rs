//! A generator thread's UDP port, which all its clients share.
//!
//! Clients are told apart by their own address, not by sockets: bound to the wildcard, one socket sends from and
//! receives for every address of a prefix that is local to the host. So ten thousand clients cost one descriptor,
//! and one `recvmmsg` brings datagrams of many. Loopback has such a prefix, 127.0.0.0/8; elsewhere
//! `ip route add local PREFIX dev lo` makes one.
//!
//! Arrival is the kernel's time stamp (`SO_TIMESTAMPNS`, which `quinn-udp` sets): how soon this thread gets to
//! run is no part of what is measured.

use std::array;
use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::io::Bell;

/// A datagram as it came in.
pub struct Arrival<'a> {
    /// The client that it is for.
    pub local: IpAddr,
    /// When the kernel took it, as time since the Unix epoch by the wall clock.
    pub wall: Option<Duration>,
    pub bytes: &'a [u8],
}

/// The sending half and the descriptor.
pub struct Wire {
    socket: Socket,
    state: UdpSocketState,
    port: u16,
    send_failures: Cell<u64>,
}

/// What one `recvmmsg` fills.
pub struct Memory {
    bytes: Box<[u8]>,
    metas: [RecvMeta; BATCH_SIZE],
}

/// The largest GRO run; see `io/udp.rs`, as for the stride.
const BUFFER_BYTES: usize = 65_536;
const STRIDE_BYTES: usize = BUFFER_BYTES + 20 * 64;

/// Asked for; `net.core.rmem_max` decides. At some 800 B per short datagram, 64 MiB are 80,000 of them.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

impl Wire {
    /// A port of the system's choice on every address of the family.
    pub fn bind(is_ipv6: bool) -> io::Result<Self> {
        let any: IpAddr = if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = Socket::new(Domain::for_address((any, 0).into()), Type::DGRAM, Some(Protocol::UDP))?;
        // The kernel cuts to its limit without an error; drops are counted and reported.
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.bind(&SocketAddr::new(any, 0).into())?;
        let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, port, send_failures: Cell::new(0) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `SO_RCVBUF` as granted, in bytes.
    pub fn receive_buffer_bytes(&self) -> usize {
        // The kernel reports twice what it granted (socket(7)).
        self.socket.recv_buffer_size().map_or(0, |doubled| doubled / 2)
    }

    /// Datagrams that the kernel did not take.
    pub fn send_failures(&self) -> u64 {
        self.send_failures.get()
    }

    pub fn send(&self, from: IpAddr, to: SocketAddr, bytes: &[u8]) {
        let transmit =
            Transmit { destination: to, ecn: None, contents: bytes, segment_size: None, src_ip: Some(from) };
        if self.state.try_send((&self.socket).into(), &transmit).is_err() {
            self.send_failures.set(self.send_failures.get() + 1);
        }
    }

    /// Sleeps until there is a datagram, the bell rings, or `timeout` passes.
    pub fn wait(&self, bell: &Bell, timeout: Duration) {
        let timeout = Timespec::try_from(timeout).ok();
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
        // Fails only by a signal, and then it is an early return.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

impl Memory {
    pub fn new() -> Self {
        let bytes = vec![0; BATCH_SIZE * STRIDE_BYTES].into_boxed_slice();
        Self { bytes, metas: [RecvMeta::default(); BATCH_SIZE] }
    }

    /// Receives what is there, at most one batch. Returns how many datagrams.
    pub fn receive(&mut self, wire: &Wire, mut each: impl FnMut(Arrival<'_>)) -> usize {
        let mut chunks = self.bytes.chunks_exact_mut(STRIDE_BYTES);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] = array::from_fn(|_| {
            let chunk = chunks.next().expect("the memory is BATCH_SIZE strides long");
            IoSliceMut::new(&mut chunk[..BUFFER_BYTES])
        });
        let Ok(messages) = wire.state.recv((&wire.socket).into(), &mut buffers, &mut self.metas) else {
            return 0;
        };
        let mut datagrams = 0;
        for (meta, buffer) in self.metas.iter().zip(self.bytes.chunks_exact(STRIDE_BYTES)).take(messages) {
            let Some(local) = meta.dst_ip.map(|ip| ip.to_canonical()) else { continue };
            for bytes in buffer[..meta.len].chunks(meta.stride.max(1)) {
                datagrams += 1;
                each(Arrival { local, wall: meta.timestamp, bytes });
            }
        }
        datagrams
    }
}
