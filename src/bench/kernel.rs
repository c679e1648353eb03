//! The system calls of the measurements, bare: what they cost is the question, so no library may stand between.
//! All the `unsafe` of `bench` is here.
//!
//! [`Outbox`] holds everything that a send needs, laid out once: names, control messages, buffers and the
//! headers that point to them. A pass over it is system calls and nothing else.
#![allow(unsafe_code, reason = "these calls take addresses of memory of ours")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Error};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use socket2::SockAddr;

/// Nanoseconds since an arbitrary moment; never steps.
pub fn wall_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of CPU, user and system, that the calling thread has used. Softirq work that it does on its way
/// out of a system call counts as its own, unless the kernel is built with `IRQ_TIME_ACCOUNTING`.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, which outlives the call.
    let done = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(done, 0, "both clocks exist since Linux 2.6");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Moves the calling thread into a network namespace of its own.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: takes no address.
    result(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

pub fn enter_network(namespace: &File) -> io::Result<()> {
    // SAFETY: takes no address; the descriptor is open.
    result(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// The index of an interface of the calling thread's network namespace.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Raises the limit of open files to what the process may raise it to, and returns it.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads and writes one rlimit, which outlives the calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return 0;
        }
        let before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 { limit.rlim_cur } else { before }
    }
}

fn result(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Sets an integer option of a socket.
pub fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let (address, len) = ((&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the address and the length describe one c_int, which outlives the call and is only read.
    result(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, address, len) })
}

/// What goes along with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ancillary {
    /// The source address, by `IP_PKTINFO`.
    pub source: Option<Ipv4Addr>,
    /// Cut into datagrams of this many bytes, by `UDP_SEGMENT`.
    pub segment_bytes: Option<u16>,
}

/// Room for both control messages, aligned as `cmsghdr` wants it.
type Control = [u64; 8];

/// One message per destination, ready to be sent again and again.
pub struct Outbox {
    headers: Box<[libc::mmsghdr]>,
    _buffers: Box<[libc::iovec]>,
    _names: Box<[SockAddr]>,
    _controls: Box<[Control]>,
    _payloads: Vec<Box<[u8]>>,
}

// SAFETY: the pointers in `headers` and `_buffers` lead to heap memory that the outbox itself owns, which moves
// with it and which nobody writes after `new`.
unsafe impl Send for Outbox {}

impl Outbox {
    /// `payload` to each of the names, from one buffer.
    pub fn to_each(names: Vec<SockAddr>, payload: Vec<u8>, ancillary: Ancillary) -> Self {
        let count = names.len();
        Self::new(names, vec![payload], count, ancillary)
    }

    /// A frame of its own for each destination; the socket knows where they go.
    pub fn of_frames(frames: Vec<Vec<u8>>) -> Self {
        let count = frames.len();
        Self::new(Vec::new(), frames, count, Ancillary::default())
    }

    fn new(names: Vec<SockAddr>, payloads: Vec<Vec<u8>>, count: usize, ancillary: Ancillary) -> Self {
        let payloads: Vec<Box<[u8]>> = payloads.into_iter().map(Vec::into_boxed_slice).collect();
        let names = names.into_boxed_slice();
        let buffers: Box<[libc::iovec]> = payloads
            .iter()
            .map(|payload| libc::iovec {
                iov_base: payload.as_ptr().cast_mut().cast(),
                iov_len: payload.len(),
            })
            .collect();
        let mut controls = vec![[0; 8]; usize::from(ancillary != Ancillary::default())].into_boxed_slice();
        let control_bytes = controls.first_mut().map_or(0, |control| write_control(control, ancillary));
        let headers = (0..count)
            .map(|at| {
                // SAFETY: a message header of zeros is a valid one: null addresses with zero lengths.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                let header = &mut message.msg_hdr;
                if let Some(name) = names.get(at) {
                    header.msg_name = name.as_ptr().cast_mut().cast();
                    header.msg_namelen = name.len();
                }
                let buffer = buffers.get(at).unwrap_or_else(|| buffers.first().expect("a payload"));
                header.msg_iov = ptr::from_ref(buffer).cast_mut();
                header.msg_iovlen = 1;
                if control_bytes > 0 {
                    header.msg_control = controls.as_ptr().cast_mut().cast();
                    header.msg_controllen = control_bytes as _;
                }
                message
            })
            .collect();
        Self { headers, _buffers: buffers, _names: names, _controls: controls, _payloads: payloads }
    }

    pub fn len(&self) -> usize {
        self.headers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// One `sendmsg` for each; how many the kernel took.
    pub fn sendmsg_each(&self, socket: BorrowedFd<'_>) -> io::Result<u64> {
        let mut sent = 0;
        for message in &self.headers {
            // SAFETY: the header points to memory of `self`, see `new`, which the kernel only reads.
            let done =
                unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message.msg_hdr, libc::MSG_DONTWAIT) };
            sent += u64::from(taken(done)?);
        }
        Ok(sent)
    }

    /// One `sendmsg` for the message at `at`; whether the kernel took it.
    pub fn sendmsg_one(&self, socket: BorrowedFd<'_>, at: usize) -> io::Result<bool> {
        let Some(message) = self.headers.get(at) else { return Ok(false) };
        // SAFETY: as in `sendmsg_each`.
        taken(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message.msg_hdr, libc::MSG_DONTWAIT) })
    }

    /// `sendmmsg`, this many messages a call.
    pub fn sendmmsg_each(&mut self, socket: BorrowedFd<'_>, batch: usize) -> io::Result<u64> {
        let mut sent = 0;
        for messages in self.headers.chunks_mut(batch) {
            let (first, count) = (messages.as_mut_ptr(), messages.len() as libc::c_uint);
            // SAFETY: as in `sendmsg_each`; the kernel writes the lengths beside the headers, which are ours.
            let done = unsafe { libc::sendmmsg(socket.as_raw_fd(), first, count, libc::MSG_DONTWAIT) };
            if taken(done as isize)? {
                sent += done as u64;
            }
        }
        Ok(sent)
    }

    /// `SENDMSG` requests through a ring, submitted and completed this many at a time.
    pub fn uring_each(&self, ring: &mut IoUring, socket: BorrowedFd<'_>, batch: usize) -> io::Result<u64> {
        let mut sent = 0;
        for messages in self.headers.chunks(batch) {
            for message in messages {
                let request: squeue::Entry =
                    opcode::SendMsg::new(Fd(socket.as_raw_fd()), &raw const message.msg_hdr)
                        .flags(libc::MSG_DONTWAIT as u32)
                        .build();
                // SAFETY: what the request points to is memory of `self`, and each request is complete before
                // this function returns.
                unsafe { ring.submission().push(&request) }.map_err(Error::other)?;
            }
            ring.submit_and_wait(messages.len())?;
            let done = ring.completion().filter(|completion| completion.result() >= 0).count();
            sent += done as u64;
        }
        Ok(sent)
    }
}

/// Whether a send went; full buffers are a fact to count, anything else is an error.
fn taken(returned: isize) -> io::Result<bool> {
    if returned >= 0 {
        return Ok(true);
    }
    let error = Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => Ok(false),
        _ => Err(error),
    }
}

/// Writes the control messages and returns their length.
fn write_control(control: &mut Control, ancillary: Ancillary) -> usize {
    let mut at = 0;
    if let Some(source) = ancillary.source {
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        at += write_message(control, at, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
    }
    if let Some(bytes) = ancillary.segment_bytes {
        at += write_message(control, at, libc::SOL_UDP, libc::UDP_SEGMENT, bytes);
    }
    at
}

/// Writes one control message at byte `at` and returns the space it takes.
fn write_message<T>(
    control: &mut Control,
    at: usize,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) -> usize {
    // SAFETY: these two only compute.
    let (len, space) =
        unsafe { (libc::CMSG_LEN(size_of::<T>() as u32), libc::CMSG_SPACE(size_of::<T>() as u32)) };
    assert!(at + space as usize <= size_of::<Control>(), "there is room for both messages");
    // SAFETY: by the line above the message lies within `control`; `at` is a sum of spaces, and so aligned as a
    // `cmsghdr` must be. The value is written unaligned.
    unsafe {
        let header = control.as_mut_ptr().cast::<u8>().add(at).cast::<libc::cmsghdr>();
        (*header).cmsg_len = len as _;
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
    }
    space as usize
}

/// A raw packet socket that sends whole frames by the interface and receives nothing.
pub fn packet_socket(interface: u32) -> io::Result<socket2::Socket> {
    let domain = socket2::Domain::from(libc::AF_PACKET);
    let socket = socket2::Socket::new(domain, socket2::Type::RAW, None)?;
    // SAFETY: a link-layer address of zeros is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = interface as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address and its length describe one sockaddr_ll, which outlives the call and is only read.
    result(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
    Ok(socket)
}

/// Buffers for `recvmmsg`, with their headers.
pub struct Inbox {
    headers: Box<[libc::mmsghdr]>,
    _buffers: Box<[libc::iovec]>,
    _controls: Box<[Control]>,
    _memory: Box<[u8]>,
}

// SAFETY: as for `Outbox`; the kernel writes to this memory only during a call.
unsafe impl Send for Inbox {}

impl Inbox {
    /// `count` buffers of `bytes` each; with room for control messages if `with_control`.
    pub fn new(count: usize, bytes: usize, with_control: bool) -> Self {
        let mut memory = vec![0; count * bytes].into_boxed_slice();
        let mut buffers: Box<[libc::iovec]> = memory
            .chunks_exact_mut(bytes)
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: bytes })
            .collect();
        let mut controls: Box<[Control]> = vec![[0; 8]; count].into_boxed_slice();
        let headers = buffers
            .iter_mut()
            .zip(&mut controls)
            .map(|(buffer, control)| {
                // SAFETY: a message header of zeros is a valid one.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = buffer;
                message.msg_hdr.msg_iovlen = 1;
                if with_control {
                    message.msg_hdr.msg_control = control.as_mut_ptr().cast();
                }
                message
            })
            .collect();
        Self { headers, _buffers: buffers, _controls: controls, _memory: memory }
    }

    /// One `recvmmsg`; the bytes that it received, 0 if nothing was there.
    pub fn recvmmsg(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for message in self.headers.iter_mut().filter(|message| !message.msg_hdr.msg_control.is_null()) {
            message.msg_hdr.msg_controllen = size_of::<Control>() as _;
        }
        let (first, count) = (self.headers.as_mut_ptr(), self.headers.len() as libc::c_uint);
        // SAFETY: the headers point to memory of `self` with the lengths it has.
        let done =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), first, count, libc::MSG_DONTWAIT, ptr::null_mut()) };
        if !taken(done as isize)? {
            return Ok(0);
        }
        Ok(self.headers.iter().take(done as usize).map(|message| message.msg_len as usize).sum())
    }
}

/// The hardware address of the one neighbour that the calling thread's network namespace knows, and the interface
/// it is on: the next hop to everywhere. `None` if there are others, or nothing was sent yet.
pub fn only_neighbour() -> Option<([u8; 6], u32)> {
    let table = std::fs::read_to_string("/proc/thread-self/net/arp").ok()?;
    let mut lines = table.lines().skip(1);
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let mut columns = line.split_whitespace().skip(3);
    let address = columns.next()?;
    let interface = interface_index(columns.nth(1)?)?;
    let mut bytes = [0; 6];
    for (byte, digits) in bytes.iter_mut().zip(address.split(':')) {
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some((bytes, interface))
}

/// `address` as a socket of this family takes it: an IPv6 socket reaches IPv4 by mapped addresses.
pub fn name_of(address: SocketAddr, dual_stack: bool) -> SockAddr {
    match address.ip() {
        IpAddr::V4(ip) if dual_stack => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()).into(),
        _ => address.into(),
    }
}
