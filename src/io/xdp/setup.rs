//! Opens the backend for all shards at once, and steps down where it must.
//!
//! The order of what is tried, and what each step needs: see [`Rung`]. Reasons are said here, once, since only here
//! is it known what was tried before.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use tracing::{info, warn};

use super::bpf::XdpMode;
use super::exchange;
use super::memory::Memory;
use super::netlink::{Interface, Questions};
use super::packet::PacketSocket;
use super::program::Redirect;
use super::queue::{Passage, Queue};
use super::resolver::{self, Destinations};
use super::route::Routes;
use super::{PAYLOAD_BYTES_MAX, Reserved, Wire, XdpIo};
use crate::io::udp::UdpIo;
use crate::io::{Bell, IoCounters};

/// How a shard reaches the wire, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// AF_XDP, the NIC working in our memory: a driver that supports it.
    ZeroCopy,
    /// AF_XDP, redirected in the driver, copied by the kernel: a driver that knows XDP.
    Copy,
    /// AF_XDP, redirected in the stack, copied by the kernel: any Ethernet device.
    GenericCopy,
    /// Frames out through a packet socket, datagrams in through the UDP socket: `CAP_NET_RAW` alone.
    Packet,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "AF_XDP, zero-copy",
            Self::Copy => "AF_XDP, copying",
            Self::GenericCopy => "AF_XDP, copying, redirected in the stack",
            Self::Packet => "a packet socket for sending, the UDP socket for receiving",
        })
    }
}

/// How the backend is set up.
#[derive(Debug, Clone)]
pub struct XdpOptions {
    /// The interface; by default that of the first advertised address that is this host's, or of the default
    /// route.
    pub interface: Option<String>,
    /// Addresses that clients are told.
    pub advertise: Vec<IpAddr>,
    /// The best rung to try.
    pub best: Rung,
}

impl Default for XdpOptions {
    fn default() -> Self {
        Self { interface: None, advertise: Vec::new(), best: Rung::ZeroCopy }
    }
}

/// Frames cannot be had at all. The sockets are as they were.
pub struct Refused {
    pub sockets: Vec<(UdpIo, Bell)>,
    pub reason: String,
    /// Whether the reason is the interface that was asked for.
    pub blames_interface: bool,
}

impl Refused {
    /// Gives up backends that are not wanted for their rung.
    pub fn of(ios: Vec<(XdpIo, Bell)>) -> Self {
        let rung = ios.first().map_or(Rung::Packet, |(io, _)| io.rung());
        let reason = format!("the best that can be had is {rung}");
        let sockets = ios.into_iter().map(|(io, bell)| (io.sockets, bell)).collect();
        Self { sockets, reason, blames_interface: false }
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// Makes a backend of each shard's socket, given with the bell that ends its waits. Shard n gets queue n of the
/// interface, if there is one and it can be had.
pub fn open(sockets: Vec<(UdpIo, Bell)>, options: &XdpOptions) -> Result<Vec<(XdpIo, Bell)>, Refused> {
    let interface = match choose(options) {
        Ok(interface) => interface,
        Err(reason) => {
            return Err(Refused { sockets, reason, blames_interface: options.interface.is_some() });
        }
    };
    match prepare(&sockets, interface, options.best) {
        Ok(prepared) => Ok(prepared.furnish(sockets)),
        Err(reason) => Err(Refused { sockets, reason, blames_interface: false }),
    }
}

/// Everything that can fail, done before a socket is touched.
struct Prepared {
    interface: Interface,
    wires: Vec<(Wire, Rung)>,
    routes: Vec<Routes>,
    redirect: Option<Arc<Redirect>>,
}

fn prepare(sockets: &[(UdpIo, Bell)], interface: Interface, best: Rung) -> Result<Prepared, String> {
    let redirect = attach(&interface, best);
    let mut wires = Vec::new();
    let mut said_packet = redirect.is_none();
    for number in 0..sockets.len() {
        let wire = match redirect.as_ref() {
            Some(redirect) => queue(&interface, number as u32, redirect, best),
            None => Err(None),
        };
        let wire = wire.or_else(|reason| {
            if let Some(reason) = reason.filter(|_| !std::mem::replace(&mut said_packet, true)) {
                warn!(
                    "--io xdp: shard {number} sends through a packet socket on {}: {reason}",
                    interface.name
                );
            }
            let packet = PacketSocket::open(interface.index, interface.mtu);
            packet.map(|packet| (Wire::Packet(Box::new(packet)), Rung::Packet))
        });
        wires.push(wire.map_err(|error| format!("no packet socket on {}: {error}", interface.name))?);
    }
    // Without a queue nothing is redirected, and the program would be a cost without a use.
    let has_queue = wires.iter().any(|(wire, _)| matches!(wire, Wire::Queue(_)));
    let redirect = redirect.filter(|_| has_queue).map(Arc::new);
    let links = {
        let redirect = redirect.as_ref().map_or_else(Weak::new, Arc::downgrade);
        resolver::start(interface.clone(), sockets.len(), redirect, destinations(sockets))
    };
    let links = links.map_err(|error| format!("the routing tables cannot be followed: {error}"))?;
    let routes = links.into_iter().map(Routes::new).collect();
    Ok(Prepared { interface, wires, routes, redirect })
}

impl Prepared {
    fn furnish(self, sockets: Vec<(UdpIo, Bell)>) -> Vec<(XdpIo, Bell)> {
        let Self { interface, wires, routes, redirect } = self;
        let ports: Vec<_> = sockets.iter().map(|(io, bell)| (io.local_addr().port(), bell.clone())).collect();
        let exchanges = exchange::join(&ports, interface.index);
        let parts = sockets.into_iter().zip(wires).zip(routes).zip(exchanges).enumerate();
        let ios = parts.map(|(shard, ((((sockets, bell), (wire, rung)), routes), exchange))| {
            info!(shard, interface = interface.name, "packets go by {rung}");
            let io = XdpIo {
                wire,
                port: sockets.local_addr().port(),
                sockets,
                bell: bell.clone(),
                routes,
                exchange,
                reserved: Reserved::Nowhere,
                scratch: Box::new([0; PAYLOAD_BYTES_MAX]),
                counters: IoCounters::default(),
                receives: 0,
                rung,
                _redirect: redirect.clone(),
            };
            (io, bell)
        });
        ios.collect()
    }
}

/// The interface that was named, or the one that clients most likely reach.
fn choose(options: &XdpOptions) -> Result<Interface, String> {
    let mut questions = Questions::open().map_err(|error| format!("no netlink socket: {error}"))?;
    if let Some(name) = &options.interface {
        return questions.interface(name).map_err(|error| about(name, &error));
    }
    let ours = if_addrs::get_if_addrs().unwrap_or_default();
    let advertised = |ip: &IpAddr| ours.iter().find(|one| one.ip() == *ip && !one.is_loopback());
    if let Some(interface) = options.advertise.iter().find_map(advertised) {
        return questions.interface(&interface.name).map_err(|error| about(&interface.name, &error));
    }
    // Addresses for documentation (RFC 5737, RFC 3849): only a default route leads there.
    let outside: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    let route = outside.iter().find_map(|ip| questions.route(*ip, 0, None));
    let route = route.ok_or("there is no default route; name the interface with --interface")?;
    questions.interface_at(route.interface).map_err(|error| about("of the default route", &error))
}

fn about(name: &str, error: &Error) -> String {
    match error.kind() {
        ErrorKind::Unsupported => format!("interface {name} carries no Ethernet"),
        _ if error.raw_os_error() == Some(libc::ENODEV) => {
            format!("there is no interface {name} (`ip link` shows which there are)")
        }
        _ => format!("interface {name}: {error}"),
    }
}

/// The redirect program; says why there is none.
fn attach(interface: &Interface, best: Rung) -> Option<Redirect> {
    if best == Rung::Packet {
        return None;
    }
    let packet_bytes_max = Memory::received_bytes_max_at(interface.mtu);
    let modes: &[XdpMode] = match best {
        Rung::GenericCopy => &[XdpMode::Generic],
        _ => &[XdpMode::Driver, XdpMode::Generic],
    };
    match Redirect::attach(interface.index, modes, packet_bytes_max) {
        Ok(redirect) => Some(redirect),
        Err(error) => {
            warn!("--io xdp: no AF_XDP on {}, going on with a packet socket: {error}", interface.name);
            None
        }
    }
}

/// Queue `number` for the shard of that number; the reason if it cannot be had.
fn queue(
    interface: &Interface,
    number: u32,
    redirect: &Redirect,
    best: Rung,
) -> Result<(Wire, Rung), Option<String>> {
    let open = |passage| Queue::open(interface.index, number, interface.mtu, passage);
    let in_driver = redirect.mode() == XdpMode::Driver;
    let zero_copy = match best == Rung::ZeroCopy && in_driver {
        true => open(Passage::ZeroCopy),
        false => Err(Error::from(ErrorKind::Unsupported)),
    };
    let opened = zero_copy.or_else(|error| {
        if number == 0 && best == Rung::ZeroCopy {
            info!("--io xdp: the kernel copies, because {} has no zero-copy: {error}", interface.name);
        }
        open(Passage::Copy)
    });
    let queue = opened.map_err(|error| Some(refusal(number, &error)))?;
    let given = redirect.set_socket(number, std::os::fd::AsFd::as_fd(&queue));
    given.map_err(|error| Some(format!("queue {number}: {error}")))?;
    let rung = match (queue.passage(), in_driver) {
        (Passage::ZeroCopy, _) => Rung::ZeroCopy,
        (Passage::Copy, true) => Rung::Copy,
        (Passage::Copy, false) => Rung::GenericCopy,
    };
    Ok((Wire::Queue(Box::new(queue)), rung))
}

fn refusal(number: u32, error: &Error) -> String {
    match error.raw_os_error() {
        Some(libc::EINVAL) => format!("there is no queue {number} (`ethtool -l` shows how many there are)"),
        Some(libc::EBUSY) => format!("queue {number} is in use by another program"),
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            format!("queue {number}: {error}; raise the memory that may be locked (`ulimit -l`)")
        }
        _ => format!("queue {number}: {error}"),
    }
}

/// What the UDP sockets are bound to.
fn destinations(sockets: &[(UdpIo, Bell)]) -> Destinations {
    let bound: Vec<SocketAddr> = sockets.iter().map(|(io, _)| io.local_addr()).collect();
    let ip = bound.first().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), SocketAddr::ip);
    Destinations {
        bound: Some(ip).filter(|ip| !ip.is_unspecified()),
        has_ipv6: ip.is_ipv6(),
        ports: bound.iter().map(SocketAddr::port).collect(),
    }
}
