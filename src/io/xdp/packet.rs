//! Sends whole frames through a packet socket (packet(7)): the way past the IP stack where there is no AF_XDP,
//! or no queue left for a shard.
//!
//! Nearly as cheap as AF_XDP in copy mode, on any Ethernet device. It only sends: what arrives comes by the
//! UDP socket. The kernel has copied a frame when the call returns, so a batch re-uses the same few frames.
#![allow(unsafe_code, reason = "sendmmsg reads memory of ours by address")]

use std::io::{self, Error, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::memory::{Frame, Memory};
use super::queue::{BATCH, set};
use crate::io::SendFailures;

const SEND_BUFFER_BYTES: libc::c_int = 16 << 20;

/// `PACKET_QDISC_BYPASS` of `include/uapi/linux/if_packet.h`: no queue before the device's own.
const PACKET_QDISC_BYPASS: libc::c_int = 20;

/// A packet socket that sends on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    memory: Memory,
    free: Vec<Frame>,
    queued: Vec<Frame>,
    /// As `queued`: where each packet is, and the message that names it.
    places: Box<[libc::iovec; BATCH]>,
    messages: Box<[libc::mmsghdr; BATCH]>,
    failures: SendFailures,
    send_calls: u64,
}

// SAFETY: the pointers lead into boxes and memory that move with it, and are written anew before each call.
unsafe impl Send for PacketSocket {}

impl PacketSocket {
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`; `ENODEV` if there is no such interface.
    pub fn open(interface: u32, mtu: usize) -> io::Result<Self> {
        // SAFETY: a call without addresses; the descriptor is new and nobody else's. Protocol 0 receives nothing.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: all zeroes is a valid address of this type.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as _;
        address.sll_ifindex = interface as _;
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: address and length describe the address.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
            return Err(Error::last_os_error());
        }
        set(&socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1_i32)?;
        let _ = set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER_BYTES);
        let memory = Memory::new(2 * BATCH, mtu)?;
        let free = memory.frames(0);
        let nowhere = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all zeroes is a valid, empty message.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Ok(Self {
            socket,
            memory,
            free,
            queued: Vec::with_capacity(BATCH),
            places: Box::new([nowhere; BATCH]),
            messages: Box::new([message; BATCH]),
            failures: SendFailures::default(),
            send_calls: 0,
        })
    }

    pub fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    pub fn send_calls(&self) -> u64 {
        self.send_calls
    }

    /// Frames that the device did not take, by cause.
    pub fn failures(&self) -> SendFailures {
        self.failures
    }

    pub fn frame(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    pub fn give_back(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    /// Queues a packet of `len` bytes at `address`, which lies in `frame`.
    #[inline]
    pub fn send(&mut self, frame: Frame, address: u64, len: usize) {
        let place = &mut self.places[self.queued.len()];
        // SAFETY: the address is of our memory.
        place.iov_base = unsafe { self.memory.start().add(address as usize) }.as_ptr().cast();
        place.iov_len = len;
        self.queued.push(frame);
        if self.queued.len() == BATCH {
            self.flush();
        }
    }

    /// Sends what is queued. What the device has no room for is counted and dropped.
    pub fn flush(&mut self) {
        let mut sent = 0;
        for (message, place) in self.messages.iter_mut().zip(self.places.iter_mut()).take(self.queued.len()) {
            message.msg_hdr.msg_iov = place;
            message.msg_hdr.msg_iovlen = 1;
        }
        while sent < self.queued.len() {
            match self.call_send(sent) {
                Ok(count) => {
                    self.send_calls += 1;
                    sent += count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failures.count(&error, 1);
                    sent += 1;
                }
            }
        }
        self.free.append(&mut self.queued);
    }

    fn call_send(&mut self, from: usize) -> io::Result<usize> {
        let rest = &mut self.messages[from..self.queued.len()];
        let (fd, len) = (self.socket.as_raw_fd(), rest.len() as libc::c_uint);
        // SAFETY: each message names one place, and each place a frame that is ours until the call returns.
        let sent = unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), len, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(Error::last_os_error()) } else { Ok(sent.max(1) as usize) }
    }
}
