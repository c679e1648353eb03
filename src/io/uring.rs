//! The io_uring backend: the same kernel socket as [`udp`](super::udp), reached through a ring.
//!
//! Receiving is one standing request (multishot `recvmsg`) that fills buffers we provide, so datagrams arrive
//! without a system call each. Sending is one request per run (GSO, as in `udp`), all of a flush submitted by
//! one system call. The kernel's cost per datagram stays what it is: this backend is for hosts on which it
//! was measured to be better, not because it must be.
//!
//! Relies on Linux 6.0 (multishot `recvmsg`, synchronous cancel) and on `quinn-udp` for the socket options.
//!
//! Who may touch which memory when:
//!
//! - A receive buffer is the kernel's until its completion is seen, ours until it is given back, which
//!   [`Io::recv`] does after the call that it was lent to.
//! - Transmit memory is the kernel's only within [`Io::flush`], which returns when every request is complete.
//!   That is no wait: with `MSG_DONTWAIT` a send is done or refused before `io_uring_enter` returns
//!   (`io_sendmsg`, `io_uring/net.c`), so a second batch in flight would double the memory and gain nothing.
//! - Before any of it is freed, every request is cancelled and its last completion seen. Closing the ring
//!   alone is not enough: the kernel then cancels in the background (`io_ring_exit_work`). If cancelling
//!   fails, the memory is leaked.
//!
//! Requests belong to the thread that submits them, so nothing is requested before the first call of
//! [`Io::recv`] or [`Io::wait`]: a shard may be built on one thread and run on another.
//!
//! If GSO turns out not to work, the runs behind the first that failed have left already when it is sent
//! again one by one: in that one flush, order per path may be lost.
//!
//! Deliberately absent: zero-copy sends (slower at our sizes), a kernel thread that polls (it wants a core of
//! its own), `IORING_SETUP_DEFER_TASKRUN` (it would tie the ring to the thread that made it).
#![allow(unsafe_code, reason = "the kernel reads and writes memory of ours by address")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::io::{self, Error, ErrorKind};
use std::mem::{self, ManuallyDrop};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use quinn_udp::UdpSocketState;
use socket2::SockAddr;
use tracing::debug;

use super::batch::{BATCH_RUNS, Batch, Run, SEGMENTS_MAX};
use super::outcome::Outcomes;
use super::socket::{BindError, UdpEndpoint};
use super::udp::{Message, UdpOptions};
use super::{Bell, Datagram, Io, IoCounters, Path};

/// Room for every run of a batch, so that a flush is one submission.
const SUBMISSIONS: u32 = BATCH_RUNS as u32;

/// Every request in flight and every receive buffer may have a completion waiting. With room for all of them
/// the queue cannot overflow, and an overflow would end the standing receive.
const COMPLETIONS: u32 = 2 * SUBMISSIONS;

/// What [`Wire::reap`] finds in a completion; the number of a send is its index in the batch.
const RECEIVE: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

/// The longest sleep. Nobody sleeps that long, and a return is always legal; it keeps a timeout that means
/// "forever" within the kernel's signed type.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// The [`Io`] of one shard on one UDP port, through io_uring.
pub struct UringIo {
    wire: Wire,
    batch: Batch,
    /// What became of each run of the batch: bytes sent, or an error number below zero.
    results: Box<[i32]>,
    outcomes: Outcomes,
    counters: IoCounters,
}

/// Why a [`UringIo`] could not be made.
#[derive(Debug)]
pub enum UringError {
    Bind(BindError),
    /// The kernel has no io_uring, too old a one, or does not let this process use it.
    Ring(Error),
}

impl fmt::Display for UringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(f),
            Self::Ring(error) => write!(f, "cannot use io_uring: {error}; {}", Self::RING_REMEDY),
        }
    }
}

impl UringError {
    /// What to do about [`UringError::Ring`].
    pub const RING_REMEDY: &str = "it takes Linux 6.0 or later, kernel.io_uring_disabled=0 and a container \
                                   that permits it; use --io udp";
}

impl std::error::Error for UringError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(error) => Some(error),
            Self::Ring(error) => Some(error),
        }
    }
}

impl UringIo {
    /// Opens `addr`; `[::]` takes IPv4 as well as IPv6. `bell` ends [`Io::wait`].
    pub fn bind(addr: SocketAddr, bell: Bell, options: UdpOptions) -> Result<Self, UringError> {
        let ring = open_ring().map_err(UringError::Ring)?;
        let endpoint = UdpEndpoint::bind(addr).map_err(UringError::Bind)?;
        endpoint.set_buffers(options.receive_buffer_bytes, options.send_buffer_bytes);
        let bind_error = |source| UringError::Bind(BindError { addr, source });
        let state = UdpSocketState::new(endpoint.socket().into()).map_err(bind_error)?;
        // On a non-blocking file a request that finds nothing fails instead of waiting (`io_uring.c`,
        // `REQ_F_NOWAIT`). Sends say `MSG_DONTWAIT` themselves.
        endpoint.socket().set_nonblocking(false).map_err(bind_error)?;
        let segments_max = options.gso_segments_max.min(state.max_gso_segments());
        Ok(Self {
            wire: Wire::new(ring, endpoint, bell).map_err(UringError::Ring)?,
            batch: Batch::new(segments_max),
            results: vec![0; BATCH_RUNS].into_boxed_slice(),
            outcomes: Outcomes::default(),
            counters: IoCounters::default(),
        })
    }

    /// The bound address; unspecified if it was asked for, with the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.wire.endpoint.local_addr()
    }
}

/// A ring of a kernel that can do what this file needs.
fn open_ring() -> io::Result<IoUring> {
    let ring = IoUring::builder()
        .setup_cqsize(COMPLETIONS)
        .setup_submit_all()
        // Completions wait for our next system call instead of interrupting us; a flag says that some do.
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(SUBMISSIONS)?;
    // Came with 6.0, as multishot `recvmsg` did. There is nothing to cancel yet.
    match ring.submitter().register_sync_cancel(None, CancelBuilder::any()) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(ring),
    }
}

impl Io for UringIo {
    fn recv<F: FnMut(Datagram<'_>)>(&mut self, mut each: F) -> usize {
        let before = self.counters.received_datagrams;
        self.wire.fetch();
        if self.wire.receive.lend(&mut self.counters, &mut each) {
            self.counters.receive_calls += 1;
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
        let Self { wire, batch, results, outcomes, counters } = self;
        wire.send(batch.runs(), results);
        for (run, &result) in batch.runs().zip(results.iter()) {
            outcomes.settle(counters, &run, outcome_of(result), || wire.send_one_by_one(&run));
        }
        batch.clear();
        if outcomes.gso_is_broken {
            batch.set_segments_max(1);
        }
    }

    fn wait(&mut self, timeout: Duration) {
        self.wire.wait(timeout.min(WAIT_MAX));
    }

    fn counters(&self) -> IoCounters {
        IoCounters { receive_failures: self.wire.receive.failures, ..self.counters }
    }
}

/// A completion reports an error as its number below zero.
fn outcome_of(result: i32) -> Result<(), Error> {
    if result < 0 { Err(Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// The ring, the socket, and all memory that the kernel may know by address.
struct Wire {
    ring: IoUring,
    endpoint: UdpEndpoint,
    /// Freed by `drop` only if the kernel has let go of it.
    receive: ManuallyDrop<Receive>,
    sends: Box<[SendSlot]>,
    bell: Bell,
    /// Whether a request watches the bell's eventfd.
    watches_bell: bool,
}

// SAFETY: the pointers within lead to memory that the Wire itself owns and that does not move with it, or are
// written anew before each use. The ring's descriptor may be used from any thread.
unsafe impl Send for Wire {}

impl Wire {
    fn new(ring: IoUring, endpoint: UdpEndpoint, bell: Bell) -> io::Result<Self> {
        let receive = Receive::new();
        // SAFETY: the entries are page-aligned, as many as told, and live until `drop` unregisters them.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                receive.buffers.memory.as_ptr() as u64,
                BUFFERS,
                BUFFER_GROUP,
                0,
            )?;
        }
        let sends = (0..BATCH_RUNS).map(|_| SendSlot::new()).collect();
        Ok(Self { ring, endpoint, receive: ManuallyDrop::new(receive), sends, bell, watches_bell: false })
    }

    /// Queues a request; it starts with the next submission.
    ///
    /// # Safety
    /// Whatever `request` points to stays valid, and is not written, until its last completion is reaped.
    unsafe fn push(&mut self, request: &squeue::Entry) {
        // SAFETY: as promised by the caller.
        while unsafe { self.ring.submission().push(request) }.is_err() {
            self.submit_and_wait(0);
        }
    }

    /// Starts what is queued and returns when `want` completions are there.
    fn submit_and_wait(&self, want: usize) {
        if let Err(error) = self.ring.submit_and_wait(want) {
            // Interrupted, or short of memory: the caller comes back for what it lacks. Any other error
            // means that the ring itself is unusable, and memory may be the kernel's for ever.
            let transient = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
            assert!(transient, "the kernel refuses a ring that it has made: {error}");
        }
    }

    /// Takes all completions. Those of sends are noted in `results` by number; returns how many they were.
    fn reap(&mut self, results: &mut [i32]) -> usize {
        let mut sends = 0;
        for completion in self.ring.completion() {
            match completion.user_data() {
                RECEIVE => self.receive.note(&completion),
                BELL => self.watches_bell = false,
                number => {
                    sends += 1;
                    if let Some(result) = results.get_mut(number as usize) {
                        *result = completion.result();
                    }
                }
            }
        }
        sends
    }

    /// Queues the standing receive if there is none.
    fn request_receive(&mut self) {
        if self.receive.requested {
            return;
        }
        let socket = Fd(self.endpoint.socket().as_raw_fd());
        let request = opcode::RecvMsgMulti::new(socket, &raw const *self.receive.template, BUFFER_GROUP);
        // SAFETY: `template` and the buffers live, unmoved, until `drop` has seen the last completion; the
        // template is never written.
        unsafe { self.push(&request.build().user_data(RECEIVE)) };
        self.receive.requested = true;
    }

    /// Makes `receive` hold what has arrived. A system call only if the kernel says that there is something
    /// to fetch, or the standing receive has ended.
    fn fetch(&mut self) {
        self.reap(&mut []);
        if !self.receive.arrived.is_empty() {
            return;
        }
        let standing = self.receive.requested;
        self.request_receive();
        if !standing || self.ring.submission().taskrun() {
            // Work that is pending runs whenever we leave the kernel.
            self.submit_and_wait(0);
            self.reap(&mut []);
        }
    }

    fn wait(&mut self, timeout: Duration) {
        self.reap(&mut []);
        if !self.receive.arrived.is_empty() {
            return;
        }
        self.request_receive();
        if !self.watches_bell {
            let request = opcode::PollAdd::new(Fd(self.bell.as_raw_fd()), libc::POLLIN as u32);
            // SAFETY: it points to nothing; the eventfd is kept open by `bell` and by the request itself.
            unsafe { self.push(&request.build().user_data(BELL)) };
            self.watches_bell = true;
        }
        let timeout = Timespec::from(timeout);
        // Fails by the timeout, or by a signal, which is an early return that the contract allows.
        let _ = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
        self.reap(&mut []);
    }

    /// Sends `runs` in one submission and notes in `results` what became of each. Returns when the kernel
    /// has done with their memory.
    fn send<'a>(&mut self, runs: impl Iterator<Item = Run<'a>>, results: &mut [i32]) {
        let socket = Fd(self.endpoint.socket().as_raw_fd());
        let mut pending = 0;
        for (number, run) in runs.enumerate().take(self.sends.len()) {
            let message = self.sends[number].address(&run, self.endpoint.in_our_family(run.path.remote));
            let request = opcode::SendMsg::new(socket, message).flags(libc::MSG_DONTWAIT as u32);
            // SAFETY: the slot and the bytes of the run, which `runs` borrows, are untouched until the loop
            // below has seen the completion.
            unsafe { self.push(&request.build().user_data(number as u64)) };
            pending += 1;
        }
        while pending > 0 {
            self.submit_and_wait(1);
            pending -= self.reap(results);
        }
    }

    /// Sends the datagrams of a run without GSO and says what became of each.
    fn send_one_by_one(&mut self, run: &Run<'_>) -> impl Iterator<Item = Result<(), Error>> + use<> {
        let mut results = [0; SEGMENTS_MAX];
        let runs = run.datagrams().map(|bytes| Run { path: run.path, segment_size: bytes.len(), bytes });
        self.send(runs, &mut results);
        results.into_iter().map(outcome_of)
    }

    /// Ends all requests; whether the kernel has let go of all memory.
    fn let_go(&mut self) -> bool {
        let patience = Timespec::new().sec(1);
        let cancelled = self.ring.submitter().register_sync_cancel(Some(patience), CancelBuilder::any());
        if cancelled.is_err_and(|error| error.kind() != ErrorKind::NotFound) {
            return false;
        }
        // Cancelled is not completed: the last completion may come from work that is still to run.
        let pause = Timespec::new().nsec(10_000_000);
        for _ in 0..100 {
            self.reap(&mut []);
            if !self.receive.requested && !self.watches_bell {
                return self.ring.submitter().unregister_buf_ring(BUFFER_GROUP).is_ok();
            }
            let _ = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&pause));
        }
        false
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.let_go() {
            // SAFETY: dropped here only, and no request is left that could use it.
            unsafe { ManuallyDrop::drop(&mut self.receive) };
        } else {
            debug!("the kernel did not let go of the receive buffers; they are leaked");
        }
    }
}

/// Names our buffers among those of the ring; there are no others.
const BUFFER_GROUP: u16 = 0;

/// Receive buffers, a power of two. 64 bound the work of one [`Io::recv`]; what more arrives stays in the
/// socket's buffer, and the standing receive is requested anew. 4.3 MB of address space.
const BUFFERS: u16 = 64;

/// Room for a sender's address: `sockaddr_in6` has 28 bytes.
const NAME_BYTES: usize = 32;

/// Room for control messages. With a header of 16 bytes each and rounded up to 8: the reached address 40, run
/// length 24, TOS 24, and a time stamp 32 (`quinn-udp` asks for it) are 120.
const CONTROL_BYTES: usize = 192;

/// `struct io_uring_recvmsg_out`.
const PREFIX_BYTES: usize = 16;

/// The largest GRO run is one maximal IP packet, 65,535 bytes; a smaller buffer would cut it silently.
const BUFFER_BYTES: usize = PREFIX_BYTES + NAME_BYTES + CONTROL_BYTES + 65_536;

/// From buffer to buffer: an odd number of cache lines, so that the first lines of all buffers, the only
/// ones that short packets use, spread over all cache sets.
const BUFFER_STRIDE_BYTES: usize = 65_536 + 21 * 64;

const _: () = assert!(BUFFER_BYTES <= BUFFER_STRIDE_BYTES);

/// The largest page size of Linux: the kernel wants the ring of buffers to begin a page.
const PAGE_BYTES_MAX: usize = 65_536;

/// The standing receive: what it is told, where it puts datagrams, what has arrived.
struct Receive {
    /// Tells the kernel how much room the address and the control messages get. Boxed: its address is known.
    template: Box<libc::msghdr>,
    buffers: Buffers,
    arrived: Vec<Arrived>,
    requested: bool,
    failures: u64,
}

/// A filled buffer that is ours until it is given back.
struct Arrived {
    buffer: u16,
    len: usize,
}

impl Receive {
    fn new() -> Self {
        let mut template = Box::new(empty_message());
        template.msg_namelen = NAME_BYTES as _;
        template.msg_controllen = CONTROL_BYTES as _;
        let arrived = Vec::with_capacity(usize::from(BUFFERS));
        Self { template, buffers: Buffers::new(), arrived, requested: false, failures: 0 }
    }

    /// Takes a completion of the standing receive.
    fn note(&mut self, completion: &cqueue::Entry) {
        let (result, flags) = (completion.result(), completion.flags());
        self.requested = cqueue::more(flags);
        match (outcome_of(result), cqueue::buffer_select(flags)) {
            (Ok(()), Some(buffer)) => self.arrived.push(Arrived { buffer, len: result as usize }),
            (Ok(()), None) => {}
            (Err(error), buffer) => {
                if let Some(buffer) = buffer {
                    self.buffers.give_back(buffer);
                    self.buffers.publish();
                }
                self.note_end(&error);
            }
        }
    }

    /// Out of buffers and cancelled (with the thread that had requested it) are ends, not failures.
    fn note_end(&mut self, error: &Error) {
        if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ECANCELED | libc::EAGAIN)) {
            return;
        }
        self.failures += 1;
        if self.failures.is_power_of_two() {
            debug!(%error, times = self.failures, "receiving failed");
        }
    }

    /// Lends what has arrived and gives the buffers back; whether there was anything.
    fn lend(&mut self, counters: &mut IoCounters, each: &mut impl FnMut(Datagram<'_>)) -> bool {
        let any = !self.arrived.is_empty();
        for Arrived { buffer, len } in self.arrived.drain(..) {
            match message(self.buffers.filled(buffer, len), &self.template) {
                Some(message) => message.lend(counters, each),
                None => self.failures += 1,
            }
            self.buffers.give_back(buffer);
        }
        if any {
            self.buffers.publish();
        }
        any
    }
}

/// What a filled buffer says; `None` if it is not what the kernel promises.
fn message<'a>(buffer: &'a [u8], template: &libc::msghdr) -> Option<Message<'a>> {
    let parsed = RecvMsgOut::parse(buffer, template).ok()?;
    let remote = socket_address(parsed.name_data())?;
    let notes = Notes::read(parsed.control_data());
    let bytes = buffer.get(PREFIX_BYTES + NAME_BYTES + CONTROL_BYTES..)?;
    let bytes = bytes.get(..parsed.incoming_payload_len() as usize)?;
    Some(Message { path: Path::canonical(remote, notes.reached), stride: notes.stride, bytes })
}

/// Reads `sockaddr_in` or `sockaddr_in6`.
fn socket_address(name: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = name.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => Some((Ipv4Addr::from(*rest.first_chunk::<4>()?), port).into()),
        libc::AF_INET6 => {
            let (flow, rest) = rest.split_first_chunk()?;
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            let (flow, scope) = (u32::from_be_bytes(*flow), u32::from_ne_bytes(*rest.first_chunk()?));
            Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope).into())
        }
        _ => None,
    }
}

/// What the control messages of a datagram say.
#[derive(Debug, Default, PartialEq)]
struct Notes {
    reached: Option<IpAddr>,
    /// The length of each datagram of a GRO run; 0 if it is none.
    stride: usize,
}

/// `struct cmsghdr` of the kernel: a `size_t` length that includes the header, level, type.
const CONTROL_HEADER_BYTES: usize = size_of::<usize>() + 8;

impl Notes {
    fn read(mut control: &[u8]) -> Self {
        let mut notes = Self::default();
        while let Some((level, kind, data, rest)) = next_control(control) {
            notes.note(level, kind, data);
            control = rest;
        }
        notes
    }

    fn note(&mut self, level: i32, kind: i32, data: &[u8]) {
        match (level, kind) {
            // `in_pktinfo`: interface, the address to answer from, the address in the header.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let ip = data.get(8..).and_then(|data| data.first_chunk::<4>());
                self.reached = ip.map(|ip| Ipv4Addr::from(*ip).into());
            }
            // `in6_pktinfo`: address, interface.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                self.reached = data.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip).into());
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let stride = data.first_chunk().map_or(0, |stride| i32::from_ne_bytes(*stride));
                self.stride = usize::try_from(stride).unwrap_or(0);
            }
            _ => {}
        }
    }
}

/// Level, type and data of the first control message, and what follows it.
fn next_control(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let (len, rest) = control.split_first_chunk()?;
    let (level, rest) = rest.split_first_chunk()?;
    let kind = rest.first_chunk()?;
    let len = usize::from_ne_bytes(*len);
    let data = control.get(CONTROL_HEADER_BYTES..len)?;
    let rest = control.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or(&[]);
    Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data, rest))
}

/// The receive buffers, behind the ring of those that the kernel may fill next.
struct Buffers {
    /// [`BUFFERS`] entries of the ring, then the buffers. The kernel knows it by address: never a reference
    /// to more of it than is ours at the time.
    memory: NonNull<u8>,
    /// Buffers given since the beginning, wrapping.
    given: u16,
}

impl Buffers {
    const RING_BYTES: usize = BUFFERS as usize * size_of::<BufRingEntry>();

    fn layout() -> Layout {
        let bytes = Self::RING_BYTES + usize::from(BUFFERS) * BUFFER_STRIDE_BYTES;
        Layout::from_size_align(bytes, PAGE_BYTES_MAX).expect("a few megabytes, aligned to a power of two")
    }

    fn new() -> Self {
        let layout = Self::layout();
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout));
        let mut buffers = Self { memory, given: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.give_back(buffer));
        buffers.publish();
        buffers
    }

    fn start_of(&self, buffer: u16) -> NonNull<u8> {
        assert!(buffer < BUFFERS, "the kernel fills only buffers that it was given");
        // SAFETY: within the allocation, as `layout` sums it up.
        unsafe { self.memory.add(Self::RING_BYTES + usize::from(buffer) * BUFFER_STRIDE_BYTES) }
    }

    /// The first `len` bytes of a buffer that a completion has made ours.
    fn filled(&self, buffer: u16, len: usize) -> &[u8] {
        // SAFETY: within the allocation, and the kernel does not write it before `give_back`, which takes
        // `&mut self` and so ends this borrow.
        unsafe { slice::from_raw_parts(self.start_of(buffer).as_ptr(), len.min(BUFFER_BYTES)) }
    }

    /// Puts a buffer that is ours behind the others; the kernel sees it after [`Self::publish`].
    fn give_back(&mut self, buffer: u16) {
        let address = self.start_of(buffer).as_ptr() as u64;
        let place = usize::from(self.given % BUFFERS);
        // SAFETY: aligned and within the ring; the kernel does not read an entry before it is published, and
        // as there are as many entries as buffers, this one is not in use.
        let entry = unsafe { &mut *self.memory.as_ptr().cast::<BufRingEntry>().add(place) };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.given = self.given.wrapping_add(1);
    }

    /// Lets the kernel have what was given back.
    fn publish(&mut self) {
        // SAFETY: the memory begins with the first entry of the ring, which holds the tail; it is aligned,
        // lives as long as `self`, and the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.memory.as_ptr().cast()).cast_mut()) };
        // Pairs with the kernel's acquire: it sees the entries if it sees the tail.
        tail.store(self.given, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and `Wire` lets this run only when the kernel has let go.
        unsafe { dealloc(self.memory.as_ptr(), Self::layout()) };
    }
}

/// What one send request points to.
struct SendSlot {
    message: libc::msghdr,
    remote: SockAddr,
    bytes: libc::iovec,
    control: Control,
}

/// A message header that says nothing.
fn empty_message() -> libc::msghdr {
    // SAFETY: null pointers, zero lengths and padding: all zero is a value of it.
    unsafe { mem::zeroed() }
}

impl SendSlot {
    fn new() -> Self {
        Self {
            message: empty_message(),
            remote: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into(),
            bytes: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            control: Control { bytes: [0; 64], len: 0 },
        }
    }

    /// Makes the slot say: `run`, to `remote`. It must not move, nor the run's bytes, while the result is used.
    fn address(&mut self, run: &Run<'_>, remote: SocketAddr) -> *const libc::msghdr {
        self.remote = remote.into();
        self.bytes = libc::iovec { iov_base: run.bytes.as_ptr().cast_mut().cast(), iov_len: run.bytes.len() };
        self.control.write(run);
        self.message.msg_name = self.remote.as_ptr().cast_mut().cast();
        self.message.msg_namelen = self.remote.len();
        self.message.msg_iov = &raw mut self.bytes;
        self.message.msg_iovlen = 1;
        self.message.msg_control = self.control.bytes.as_mut_ptr().cast();
        self.message.msg_controllen = self.control.len as _;
        &raw const self.message
    }
}

/// Control messages of a send: the source address (40 bytes at most) and the segment size (24).
#[repr(C, align(8))]
struct Control {
    bytes: [u8; 64],
    len: usize,
}

impl Control {
    fn write(&mut self, run: &Run<'_>) {
        self.len = 0;
        match run.path.local {
            // `in_pktinfo`: interface 0 for any, the source, and a field that sends ignore.
            Some(IpAddr::V4(ip)) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            // `in6_pktinfo`: the source, interface 0 for any.
            Some(IpAddr::V6(ip)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if run.segments() > 1 {
            let segment_size = run.segment_size as u16;
            self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_size.to_ne_bytes());
        }
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let len = CONTROL_HEADER_BYTES + data.len();
        let place = self.bytes.get_mut(self.len..self.len + len).expect("room for both messages");
        let (header, place) = place.split_at_mut(CONTROL_HEADER_BYTES);
        let (header_len, header) = header.split_at_mut(size_of::<usize>());
        header_len.copy_from_slice(&len.to_ne_bytes());
        header[..4].copy_from_slice(&level.to_ne_bytes());
        header[4..].copy_from_slice(&kind.to_ne_bytes());
        place.copy_from_slice(data);
        self.len += len.next_multiple_of(size_of::<usize>());
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread;

    use proptest::prelude::*;

    use super::super::udp::tests::{break_gso, commit_three};
    use super::*;

    /// `None`, said once, where the host does not permit io_uring.
    fn open() -> Option<UringIo> {
        let bound = UringIo::bind(([127, 0, 0, 1], 0).into(), Bell::new().unwrap(), UdpOptions::default());
        bound.inspect_err(|error| eprintln!("skipped: {error}")).ok()
    }

    fn peer() -> UdpSocket {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        peer
    }

    /// How many datagrams arrive until `count` are there, or for a second.
    fn receive(io: &mut UringIo, count: usize) -> usize {
        let mut got = 0;
        for _ in 0..100 {
            got += io.recv(|_| ());
            if got >= count {
                break;
            }
            io.wait(Duration::from_millis(10));
        }
        got
    }

    #[test]
    fn where_gso_does_not_work_everything_still_leaves_once_and_in_order() {
        let Some(mut io) = open() else { return };
        let peer = peer();
        break_gso(io.wire.endpoint.socket());
        commit_three(&mut io, peer.local_addr().unwrap());
        commit_three(&mut io, peer.local_addr().unwrap());
        for n in [1, 2, 3, 1, 2, 3] {
            let mut buffer = [0; 200];
            assert_eq!(peer.recv(&mut buffer).unwrap(), 100);
            assert_eq!(buffer[..100], [n; 100]);
        }
        let counters = io.counters();
        assert_eq!((counters.sent_datagrams, counters.send_calls, counters.gso_segments), (6, 6, 0));
        assert_eq!(counters.send_failures.refused(), 0);
    }

    #[test]
    fn more_datagrams_than_buffers_arrive_over_several_turns() {
        let Some(mut io) = open() else { return };
        let (peer, count) = (peer(), 3 * usize::from(BUFFERS));
        io.recv(|_| ());
        for round in 0..3 {
            (0..count).for_each(|_| assert_eq!(peer.send_to(&[7; 20], io.local_addr()).unwrap(), 20));
            assert_eq!(receive(&mut io, count), count, "round {round}");
        }
        assert_eq!(io.counters().receive_failures, 0);
    }

    #[test]
    fn a_backend_outlives_the_thread_that_received_with_it() {
        let Some(mut io) = open() else { return };
        let (peer, addr) = (peer(), io.local_addr());
        for _ in 0..3 {
            peer.send_to(b"x", addr).unwrap();
            io = thread::spawn(move || {
                assert_eq!(receive(&mut io, 1), 1);
                io
            })
            .join()
            .unwrap();
        }
        peer.send_to(b"x", addr).unwrap();
        assert_eq!(receive(&mut io, 1), 1);
        assert_eq!(io.counters().receive_failures, 0);
        assert!(io.wire.let_go());
    }

    #[test]
    fn the_kernel_lets_go_of_all_memory_also_when_datagrams_wait() {
        let Some(mut io) = open() else { return };
        let peer = peer();
        assert_eq!(io.recv(|_| ()), 0);
        io.wait(Duration::ZERO);
        assert!(io.wire.receive.requested && io.wire.watches_bell);
        (0..200).for_each(|_| assert_eq!(peer.send_to(&[7; 20], io.local_addr()).unwrap(), 20));
        assert!(io.wire.let_go());
    }

    #[test]
    fn a_refused_ring_is_explained_with_the_remedy() {
        let error = UringError::Ring(Error::from_raw_os_error(libc::ENOSYS)).to_string();
        assert!(error.contains("io_uring") && error.contains("--io udp"), "{error}");
    }

    #[test]
    fn the_longest_control_message_is_read_back_as_written() {
        let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into();
        let path = Path { remote: ([192, 0, 2, 1], 9).into(), local: Some(ip) };
        let mut control = Control { bytes: [0; 64], len: 0 };
        control.write(&Run { path, segment_size: 100, bytes: &[0; 300] });
        assert_eq!(control.len, 64);
        assert_eq!(Notes::read(&control.bytes), Notes { reached: Some(ip), stride: 0 });
    }

    proptest! {
        #[test]
        fn nothing_that_stands_in_a_buffer_makes_its_parsers_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            control_len in 0..=64_usize,
        ) {
            let _ = socket_address(&bytes);
            let _ = Notes::read(&bytes);
            let mut control = bytes;
            control.splice(..control.len().min(8), control_len.to_ne_bytes());
            let _ = Notes::read(&control);
        }
    }
}
