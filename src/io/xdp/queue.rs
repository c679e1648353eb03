//! One AF_XDP socket on one queue of an interface: frames in from it, frames out through it.
//!
//! A shard gets a queue of its own, so nothing here is shared between threads. Zero-copy or copy is the
//! driver's choice: with the first the NIC works in our memory, with the second the kernel copies once, and
//! both save everything above the driver. Sends are handed over every [`BATCH`] frames: what
//! the kernel then copies is still in the cache, and the frames come back while the turn goes on.
//!
//! Who owns a frame: [`Frame`]s in `free` and in the hand of the caller are ours; one that went into the fill or
//! transmit ring is the kernel's until it comes back by the receive or completion ring.
#![allow(unsafe_code, reason = "socket options and calls that no crate of ours wraps")]

use std::io::{self, Error, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::debug;

use super::memory::{Frame, Memory};
use super::ring::{Consumer, Kind, Producer};

/// Frames per hand-over to the kernel, and per look at the receive ring.
pub const BATCH: usize = 64;

/// Frames to receive into: 2,048 packets, or 20 ms at 100,000 packets/s, survive while a turn is busy.
const RECEIVE_FRAMES: u32 = 2_048;

/// Frames to send from: what a slow device may have in flight.
const TRANSMIT_FRAMES: u32 = 4_096;

/// The kernel charges a frame in flight to the socket, small ones as about 1 KB (`sock_alloc_send_skb`).
const SEND_BUFFER_BYTES: libc::c_int = 16 << 20;

/// `XDP_MAX_TX_SKB_BUDGET` of `include/uapi/linux/if_xdp.h`, from Linux 6.18 on.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Frames that one call may send in copy mode; 32 where the kernel cannot be told.
const SEND_BUDGET: libc::c_int = 256;

/// How long a turn waits for a device that takes no more before it drops.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// A bind right after another process has let go of the queue: the kernel frees it in the background.
const BUSY_TRIES: usize = 100;
const BUSY_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// How frames pass between our memory and the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    ZeroCopy,
    Copy,
}

/// A bound AF_XDP socket with its memory.
#[derive(Debug)]
pub struct Queue {
    // Fields are dropped in order: the rings are unmapped before the socket closes, and it before its memory.
    receive: Consumer<libc::xdp_desc>,
    transmit: Producer<libc::xdp_desc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    socket: OwnedFd,
    memory: Memory,
    free: Vec<Frame>,
    passage: Passage,
    /// Frames written to the transmit ring since the last hand-over.
    unsent: usize,
    /// Hand-overs with something in them.
    send_calls: u64,
    /// Whether the device took nothing even after a wait, in this turn.
    is_stuck: bool,
    failures: u64,
}

impl Queue {
    /// Binds queue `number` of `interface`.
    ///
    /// # Errors
    /// `EINVAL` if there is no such queue, `EOPNOTSUPP` if the driver does not know this passage, `EBUSY` if
    /// another socket has the queue, `EPERM` without `CAP_NET_RAW`, `ENOBUFS` if the process may not lock that
    /// much memory.
    pub fn open(interface: u32, number: u32, mtu: usize, passage: Passage) -> io::Result<Self> {
        for _ in 1..BUSY_TRIES {
            match Self::open_once(interface, number, mtu, passage) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    let _ = poll(&mut [], Some(&BUSY_PAUSE));
                }
                done => return done,
            }
        }
        Self::open_once(interface, number, mtu, passage)
    }

    fn open_once(interface: u32, number: u32, mtu: usize, passage: Passage) -> io::Result<Self> {
        // SAFETY: a call without addresses; the descriptor is new and nobody else's.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let memory = Memory::new((RECEIVE_FRAMES + TRANSMIT_FRAMES) as usize, mtu)?;
        register(&socket, &memory)?;
        let fd = socket.as_fd();
        let offsets = ring_offsets(fd)?;
        let mut queue = Self {
            receive: Consumer::map(fd, Kind::Receive, &offsets.rx, RECEIVE_FRAMES)?,
            transmit: Producer::map(fd, Kind::Transmit, &offsets.tx, TRANSMIT_FRAMES)?,
            fill: Producer::map(fd, Kind::Fill, &offsets.fr, RECEIVE_FRAMES)?,
            completion: Consumer::map(fd, Kind::Completion, &offsets.cr, TRANSMIT_FRAMES)?,
            free: memory.frames(RECEIVE_FRAMES as usize),
            socket,
            memory,
            passage,
            unsent: 0,
            send_calls: 0,
            is_stuck: false,
            failures: 0,
        };
        for number in 0..RECEIVE_FRAMES {
            queue.give(queue.memory.frame_at(u64::from(number) * queue.memory.frame_bytes() as u64));
        }
        queue.fill.publish();
        bind(&queue.socket, interface, number, passage)?;
        // More in flight than the default of 200 KB; less is slower, not wrong.
        let _ = set(&queue.socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER_BYTES);
        let _ = set(&queue.socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &SEND_BUDGET);
        Ok(queue)
    }

    pub fn passage(&self) -> Passage {
        self.passage
    }

    pub fn send_calls(&self) -> u64 {
        self.send_calls
    }

    pub fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Lends the frames that have arrived, a batch at most; returns how many.
    pub fn receive(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < BATCH
            && let Some(descriptor) = self.receive.next()
        {
            count += 1;
            let frame = self.memory.frame_at(descriptor.addr);
            each(self.memory.received(&frame, descriptor.addr, descriptor.len as usize));
            self.give(frame);
        }
        if count > 0 {
            self.receive.release();
            self.fill.publish();
            if self.fill.needs_wakeup() {
                self.call_receive();
            }
        }
        count
    }

    fn give(&mut self, frame: Frame) {
        let full = self.fill.push(self.memory.give(frame)).is_err();
        debug_assert!(!full, "it has room for all frames to receive into");
    }

    /// A frame to send from; `None` if the device has them all and takes no more.
    #[inline]
    pub fn frame(&mut self) -> Option<Frame> {
        self.free.pop().or_else(|| self.wait_for_frame())
    }

    #[cold]
    fn wait_for_frame(&mut self) -> Option<Frame> {
        self.flush();
        if self.free.is_empty() && !self.is_stuck {
            let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
            let _ = poll(&mut fds, Some(&PATIENCE));
            self.flush();
            self.is_stuck = self.free.is_empty();
        }
        self.free.pop()
    }

    pub fn give_back(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    /// Queues a packet of `len` bytes at `address`, which lies in `frame`.
    #[inline]
    pub fn send(&mut self, frame: Frame, address: u64, len: usize) {
        let descriptor = libc::xdp_desc { addr: address, len: len as u32, options: 0 };
        match self.transmit.push(descriptor) {
            Ok(()) => self.unsent += 1,
            // Cannot be, as the ring has room for every frame there is.
            Err(_) => self.free.push(frame),
        }
        if self.unsent >= BATCH {
            self.flush();
        }
    }

    /// Hands what is queued to the kernel and takes back what it has sent.
    pub fn flush(&mut self) {
        if self.unsent > 0 {
            self.unsent = 0;
            self.send_calls += 1;
            self.transmit.publish();
            if self.transmit.needs_wakeup() {
                self.kick();
            }
        }
        while let Some(address) = self.completion.next() {
            self.free.push(self.memory.frame_at(address));
        }
        self.completion.release();
    }

    /// Begins a turn: a device that was stuck is asked again.
    pub fn begin(&mut self) {
        self.is_stuck = false;
    }

    /// In copy mode the call sends, a part of what is there each time; otherwise it wakes the driver.
    fn kick(&mut self) {
        let mut before = self.transmit.pending();
        loop {
            let outcome = self.call_send();
            let pending = self.transmit.pending();
            match outcome {
                // No memory for more now, or a full device: what stays in the ring leaves with the next call.
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    self.failures += 1;
                    if self.failures.is_power_of_two() {
                        debug!(%error, times = self.failures, "the AF_XDP socket does not send");
                    }
                    return;
                }
                Ok(()) if self.passage == Passage::ZeroCopy => return,
                Ok(()) => {}
            }
            if pending == 0 || pending == before {
                return;
            }
            before = pending;
        }
    }

    fn call_send(&self) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        // SAFETY: no address is passed.
        let sent = unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if sent < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Tells a driver that waits for frames that there are some.
    fn call_receive(&self) {
        let fd = self.socket.as_raw_fd();
        let (nowhere, nobody) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: no address is passed.
        unsafe { libc::recvfrom(fd, nowhere, 0, libc::MSG_DONTWAIT, nobody, std::ptr::null_mut()) };
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_transient(error: &Error) -> bool {
    error.kind() == ErrorKind::Interrupted
        || matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM))
}

/// Tells the socket its memory and the sizes of its rings.
fn register(socket: &OwnedFd, memory: &Memory) -> io::Result<()> {
    let umem = libc::xdp_umem_reg {
        addr: memory.start().as_ptr() as u64,
        len: memory.len() as u64,
        chunk_size: memory.frame_bytes() as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)?;
    set(socket, libc::SOL_XDP, libc::XDP_UMEM_FILL_RING, &RECEIVE_FRAMES)?;
    set(socket, libc::SOL_XDP, libc::XDP_UMEM_COMPLETION_RING, &TRANSMIT_FRAMES)?;
    set(socket, libc::SOL_XDP, libc::XDP_RX_RING, &RECEIVE_FRAMES)?;
    set(socket, libc::SOL_XDP, libc::XDP_TX_RING, &TRANSMIT_FRAMES)
}

fn ring_offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    let none = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = libc::xdp_mmap_offsets { rx: none, tx: none, fr: none, cr: none };
    let mut len = size_of_val(&offsets) as libc::socklen_t;
    let (fd, to) = (socket.as_raw_fd(), (&raw mut offsets).cast());
    // SAFETY: the kernel writes at most `len` bytes of the offsets.
    let done = unsafe { libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, to, &raw mut len) };
    match done {
        0 if len as usize == size_of_val(&offsets) => Ok(offsets),
        0 => Err(Error::from(ErrorKind::Unsupported)),
        _ => Err(Error::last_os_error()),
    }
}

fn bind(socket: &OwnedFd, interface: u32, number: u32, passage: Passage) -> io::Result<()> {
    let passage = match passage {
        Passage::ZeroCopy => libc::XDP_ZEROCOPY,
        Passage::Copy => libc::XDP_COPY,
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: passage | libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: interface,
        sxdp_queue_id: number,
        sxdp_shared_umem_fd: 0,
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: address and length describe the address.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Sets a socket option whose value is plain data.
pub fn set<T: Copy>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let (fd, len) = (socket.as_fd().as_raw_fd(), size_of::<T>() as libc::socklen_t);
    // SAFETY: address and length describe the value, which is only read.
    match unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), len) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
