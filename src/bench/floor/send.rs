//! Ways to send one packet to each of N destinations, from one socket or one ring.
//!
//! The bare `sendmsg` comes three times, because the server's socket is not the cheapest there is: it takes both
//! address families, and it names the source address of each datagram so that hosts with several addresses
//! answer from the right one. The last of the three is what the `udp` backend stands on.
//!
//! Backends of the server are measured by the same five verbs that a shard uses, with packets that are copied
//! and not sealed.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use io_uring::IoUring;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Group;
use super::meter::{Key, Row};
use super::stage::Stage;
use crate::bench::kernel::{self, Ancillary, Outbox};
use crate::io::udp::{UdpIo, UdpOptions};
use crate::io::uring::UringIo;
use crate::io::xdp::{self, Rung, XdpIo, XdpOptions};
use crate::io::{Bell, Io, Path};

/// As the server's: larger than what a turn can queue.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// Datagrams of one system call where it takes several.
const BATCH: usize = 64;

/// Segments of one GSO send.
const SEGMENTS: [usize; 4] = [2, 4, 8, 16];

/// The longest UDP payload that GSO may be given, in segments and bytes together.
const GSO_BYTES_MAX: usize = crate::io::DATAGRAM_BYTES_MAX;

/// More sockets than this say nothing more.
const CONNECTED_MAX: usize = 1_000;

/// What a row sends, and how it looks in the table.
struct Case<'a> {
    stage: &'a Stage,
    destinations: Vec<SocketAddr>,
    bytes: usize,
}

impl Case<'_> {
    fn key(&self, path: &'static str, segments: usize) -> Key {
        let (stage, destinations) = (self.stage.name(), self.destinations.len());
        Key { group: Group::Send, stage, path, segments, destinations, bytes: self.bytes }
    }

    fn paths(&self) -> Vec<Path> {
        let local = Some(self.stage.near_ip.into());
        self.destinations.iter().map(|to| Path { remote: *to, local }).collect()
    }

    /// Looks like SRTP, so that a sink takes it for that.
    fn payload(&self, segments: usize) -> Vec<u8> {
        let mut packet = vec![0x5a; self.bytes];
        packet.iter_mut().zip([0x80, 111]).for_each(|(to, from)| *to = from);
        packet.repeat(segments)
    }

    fn outbox(&self, dual_stack: bool, segments: usize, ancillary: Ancillary) -> Outbox {
        let names = self.destinations.iter().map(|to| kernel::name_of(*to, dual_stack)).collect();
        Outbox::to_each(names, self.payload(segments), ancillary)
    }
}

/// All ways that can be had; the others are named in `left_out`. The calling thread is in the stage's namespace.
pub fn rows(
    stage: &Stage,
    past_the_stack: Option<&PastTheStack>,
    destinations: u16,
    bytes: usize,
    left_out: &mut Vec<String>,
) -> Vec<Row> {
    let case = Case { stage, destinations: stage.destinations(destinations), bytes };
    let mut rows = Vec::new();
    let mut add = |name: &str, made: io::Result<Row>| match made {
        Ok(row) => rows.push(row),
        Err(error) => left_out.push(format!("{} on {}: {error}", name, stage.name())),
    };
    add("sendmsg", sendmsg(&case, "sendmsg", false, Ancillary::default()));
    add("sendmsg, both families", sendmsg(&case, "sendmsg, both families", true, Ancillary::default()));
    let named = Ancillary { source: Some(stage.near_ip), ..Ancillary::default() };
    let path = "sendmsg, both families, source named";
    add(path, sendmsg(&case, path, true, named));
    add("sendmmsg", sendmmsg(&case));
    for segments in SEGMENTS {
        if segments * bytes <= GSO_BYTES_MAX {
            add("sendmsg with GSO", gso(&case, segments));
        }
    }
    add("io_uring", uring(&case));
    if case.destinations.len() <= CONNECTED_MAX {
        add("connected sockets", connected(&case));
    }
    if stage.has_link() {
        add("AF_PACKET", packet(&case));
    }
    add("backend udp", udp_backend(&case));
    add("backend uring", uring_backend(&case));
    if let Some(io) = past_the_stack {
        add("backend xdp", io.row(&case));
    }
    rows
}

fn socket(dual_stack: bool) -> io::Result<Socket> {
    let domain = if dual_stack { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if dual_stack {
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    } else {
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    }
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    Ok(socket)
}

fn sendmsg(case: &Case<'_>, path: &'static str, dual_stack: bool, ancillary: Ancillary) -> io::Result<Row> {
    let (socket, outbox) = (socket(dual_stack)?, case.outbox(dual_stack, 1, ancillary));
    Ok(Row::repeating(case.key(path, 1), move || outbox.sendmsg_each(socket.as_fd())))
}

fn sendmmsg(case: &Case<'_>) -> io::Result<Row> {
    let (socket, mut outbox) = (socket(false)?, case.outbox(false, 1, Ancillary::default()));
    Ok(Row::repeating(case.key("sendmmsg, 64 a call", 1), move || {
        outbox.sendmmsg_each(socket.as_fd(), BATCH)
    }))
}

fn gso(case: &Case<'_>, segments: usize) -> io::Result<Row> {
    let ancillary = Ancillary { segment_bytes: Some(case.bytes as u16), ..Ancillary::default() };
    let (socket, outbox) = (socket(false)?, case.outbox(false, segments, ancillary));
    let pass = move || Ok(outbox.sendmsg_each(socket.as_fd())? * segments as u64);
    Ok(Row::repeating(case.key("sendmsg with GSO", segments), pass))
}

fn uring(case: &Case<'_>) -> io::Result<Row> {
    let (socket, outbox) = (socket(false)?, case.outbox(false, 1, Ancillary::default()));
    let mut ring =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(BATCH as u32).map_err(
            |error| io::Error::new(error.kind(), format!("{error}; kernel.io_uring_disabled, a container?")),
        )?;
    let pass = move || outbox.uring_each(&mut ring, socket.as_fd(), BATCH);
    Ok(Row::repeating(case.key("io_uring SENDMSG, 64 a call", 1), pass))
}

/// One socket per destination saves the kernel the route and the destination's name.
fn connected(case: &Case<'_>) -> io::Result<Row> {
    let sockets: Vec<UdpSocket> = case
        .destinations
        .iter()
        .map(|to| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to)?;
            Ok(socket)
        })
        .collect::<io::Result<_>>()?;
    let outbox = Outbox::of_frames(vec![case.payload(1)]);
    let pass = move || {
        let mut sent = 0;
        for socket in &sockets {
            // A receiver that went away is told to the sender by ICMP; the packet has left for all that.
            sent += u64::from(outbox.sendmsg_one(socket.as_fd(), 0).unwrap_or(true));
        }
        Ok(sent)
    };
    Ok(Row::repeating(case.key("sendmsg, one connected socket each", 1), pass))
}

/// Whole frames past the IP stack; what it saves is what the stack costs.
fn packet(case: &Case<'_>) -> io::Result<Row> {
    let (mac, interface) = kernel::only_neighbour()
        .ok_or_else(|| io::Error::other("not one neighbour alone is known, to be the next hop"))?;
    let socket = kernel::packet_socket(interface)?;
    SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER_BYTES)?;
    let payload = case.payload(1);
    let frames =
        case.destinations.iter().filter_map(|to| frame(mac, case.stage.near_ip, *to, &payload)).collect();
    let mut outbox = Outbox::of_frames(frames);
    Ok(Row::repeating(case.key("AF_PACKET, 64 a call", 1), move || {
        outbox.sendmmsg_each(socket.as_fd(), BATCH)
    }))
}

/// Ethernet, IPv4 and UDP around `payload`. Without a UDP checksum, which IPv4 allows (RFC 768).
fn frame(to_mac: [u8; 6], from: Ipv4Addr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    const SOURCE_PORT: u16 = 40_000;
    let SocketAddr::V4(to) = to else { return None };
    let udp_len = u16::try_from(8 + payload.len()).ok()?;
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip.get_mut(2..4)?.copy_from_slice(&(20 + udp_len).to_be_bytes());
    ip.get_mut(12..16)?.copy_from_slice(&from.octets());
    ip.get_mut(16..20)?.copy_from_slice(&to.ip().octets());
    let checksum = internet_checksum(&ip);
    ip.get_mut(10..12)?.copy_from_slice(&checksum.to_be_bytes());
    let source_mac = [0x02, 0, 0xc6, 0x12, 0, 0x01];
    let ports = [SOURCE_PORT.to_be_bytes(), to.port().to_be_bytes()].concat();
    let udp_rest = [udp_len.to_be_bytes(), [0, 0]].concat();
    Some([&to_mac[..], &source_mac, &[0x08, 0x00], &ip, &ports, &udp_rest, payload].concat())
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| {
        u32::from(word.first().copied().unwrap_or(0)) << 8 | u32::from(word.get(1).copied().unwrap_or(0))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn udp_backend(case: &Case<'_>) -> io::Result<Row> {
    let io = UdpIo::bind((Ipv6Addr::UNSPECIFIED, 0).into(), Bell::new()?, UdpOptions::default());
    Ok(backend(case, "backend udp", io.map_err(io::Error::other)?))
}

fn uring_backend(case: &Case<'_>) -> io::Result<Row> {
    let io = UringIo::bind((Ipv6Addr::UNSPECIFIED, 0).into(), Bell::new()?, UdpOptions::default());
    Ok(backend(case, "backend uring", io.map_err(io::Error::other)?))
}

/// A turn of a shard without its SRTP: a copy into transmit memory per destination, and one flush.
fn backend<I: Io + 'static>(case: &Case<'_>, path: &'static str, mut io: I) -> Row {
    let (paths, payload) = (case.paths(), case.payload(1));
    Row::repeating(case.key(path, 1), move || Ok(turn(&mut io, &paths, &payload)))
}

fn turn(io: &mut impl Io, paths: &[Path], payload: &[u8]) -> u64 {
    let before = io.counters().sent_datagrams;
    for path in paths {
        if let Some(memory) = io.reserve(path, payload.len()) {
            memory.copy_from_slice(payload);
            io.commit(payload.len());
        }
    }
    io.flush();
    io.counters().sent_datagrams - before
}

/// The `xdp` backend on the link of a stage: one for all rows, since an interface takes one XDP program.
pub struct PastTheStack {
    io: Rc<RefCell<XdpIo>>,
    path: &'static str,
}

/// How long the kernel's tables may take to answer for all destinations.
const ROUTES_NS_MAX: u64 = 3_000_000_000;

impl PastTheStack {
    /// On the interface that has the stage's near address. The calling thread is in the stage's namespace.
    ///
    /// # Errors
    /// The kernel gives neither AF_XDP nor a packet socket, with its reason.
    pub fn open(stage: &Stage) -> io::Result<Self> {
        let bell = Bell::new()?;
        let sockets = UdpIo::bind((Ipv6Addr::UNSPECIFIED, 0).into(), bell.clone(), UdpOptions::default());
        let sockets = sockets.map_err(io::Error::other)?;
        let options = XdpOptions { advertise: vec![stage.near_ip.into()], ..XdpOptions::default() };
        let opened = xdp::open(vec![(sockets, bell)], &options);
        let opened = opened.map_err(|refused| io::Error::other(refused.reason))?;
        let (io, _) =
            opened.into_iter().next().ok_or_else(|| io::Error::other("one socket makes one backend"))?;
        let path = match io.rung() {
            Rung::ZeroCopy => "backend xdp: AF_XDP, zero-copy",
            Rung::Copy => "backend xdp: AF_XDP, copying",
            Rung::GenericCopy => "backend xdp: AF_XDP, copying, in the stack",
            Rung::Packet => "backend xdp: AF_PACKET",
        };
        Ok(Self { io: Rc::new(RefCell::new(io)), path })
    }

    fn row(&self, case: &Case<'_>) -> io::Result<Row> {
        let (paths, payload) = (case.paths(), case.payload(1));
        let end = kernel::wall_ns() + ROUTES_NS_MAX;
        while !paths.iter().all(|path| self.io.borrow_mut().goes_by_frames(path)) {
            if kernel::wall_ns() > end {
                return Err(io::Error::other("the kernel's tables did not answer for every destination"));
            }
            self.io.borrow_mut().wait(Duration::from_millis(1));
        }
        let io = self.io.clone();
        let pass = move || Ok(turn(&mut *io.borrow_mut(), &paths, &payload));
        Ok(Row::repeating(case.key(self.path, 1), pass))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071 §3.
    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        assert_eq!(internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn every_way_of_sending_over_veth_arrives_at_the_sink() {
        let stage = match Stage::veth() {
            Ok(stage) => stage,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                stage.enter().unwrap();
                let mut left_out = Vec::new();
                let past_the_stack = PastTheStack::open(&stage).unwrap();
                let rows = rows(&stage, Some(&past_the_stack), 8, 120, &mut left_out);
                assert!(left_out.iter().all(|text| text.contains("uring")), "{left_out:?}");
                let meter = super::super::meter::Meter::of_core(usize::MAX);
                let mut expected = 0;
                for mut row in rows {
                    let before = stage.arrived(8).unwrap().unwrap();
                    row.take_turn(&meter, std::time::Duration::ZERO);
                    assert!(row.failed.is_none(), "{}: {:?}", row.key.path, row.failed);
                    // The pass that warms, and the one that counts.
                    expected = 2 * 8 * row.key.segments as u64;
                    assert_eq!(stage.arrived(8).unwrap().unwrap() - before, expected, "{}", row.key.path);
                }
                assert!(expected > 0, "there are rows");
            });
            sender.join().unwrap();
        });
    }
}
