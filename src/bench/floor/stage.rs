//! Where the packets of the sending rows go: across a veth pair to a program that drops them as they arrive, or
//! over loopback to sockets that are full.
//!
//! Veth is the nearest to a network card that every host has: behind its driver a packet leaves the host's own
//! stack. What the far end does is part of the figure wherever the kernel does it on the sender's core, which for
//! veth it does unless threaded NAPI or RPS moves it (tuning/README.md). Loopback shows what a receiving stack
//! adds on top.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use socket2::SockRef;

use crate::bench::netns::{Namespace, Pair};
use crate::bench::sink::Sink;
use crate::bench::{BenchError, kernel};

/// The port of all destinations at the far end of a link: they differ in their addresses.
const PORT: u16 = 20_000;

/// Where destinations on loopback have their addresses.
const LOOPBACK_NETWORK: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);

/// A crowd to whom is sent, and what makes it vanish there.
pub struct Stage {
    name: &'static str,
    detail: String,
    pub near_ip: Ipv4Addr,
    /// The first destination; the others count on from here.
    network: Ipv4Addr,
    port: u16,
    /// Where the sender is, unless it stays where it was called.
    near: Option<Namespace>,
    _far: Option<Namespace>,
    sink: Option<Sink>,
    _receiver: Option<UdpSocket>,
}

/// What a report says about a stage.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Description {
    pub name: &'static str,
    pub detail: String,
}

impl Stage {
    /// A veth pair between two new namespaces; XDP drops at its far end.
    ///
    /// # Errors
    /// Without root, `ip`, veth, or XDP.
    pub fn veth() -> Result<Self, BenchError> {
        let left_out = |error: &dyn std::fmt::Display| BenchError(format!("veth: {error}"));
        let pair = Pair::new().map_err(|error| left_out(&error))?;
        let sink = pair.far.run(|| Sink::attach(pair.far_index, pair.network, 0..=u16::MAX));
        let sink = sink.map_err(|error| left_out(&error))?;
        let (IpAddr::V4(near_ip), IpAddr::V4(network)) = (pair.near_ip, pair.network) else {
            return Err(left_out(&"our own pair speaks IPv4"));
        };
        Ok(Self {
            name: "veth",
            detail: "veth pair between two namespaces, XDP drops on the far end, all on the sender's core"
                .into(),
            near_ip,
            network,
            port: PORT,
            near: Some(pair.near),
            _far: Some(pair.far),
            sink: Some(sink),
            _receiver: None,
        })
    }

    /// A network on a link of the caller's namespace, whose far end is `interface` in `namespace`.
    ///
    /// # Errors
    /// The namespace, its interface or a route to the network is not there, or the interface has a program already.
    pub fn target(network: Ipv4Addr, namespace: &str, interface: &str) -> Result<Self, BenchError> {
        let far = Namespace::named(namespace)?;
        let index = far.run(|| kernel::interface_index(interface)).ok_or_else(|| {
            BenchError(format!(
                "no interface `{interface}` in `{namespace}`; `ip -n {namespace} link` shows them"
            ))
        })?;
        let sink = far.run(|| Sink::attach(index, network.into(), 0..=u16::MAX));
        let sink = sink.map_err(|error| BenchError(error.to_string()))?;
        let near_ip = route_to(network).map_err(|error| {
            BenchError(format!("no way to {network}: {error}; `ip route get {network}` shows it"))
        })?;
        let how = if sink.is_native() { "XDP drops in its driver" } else { "XDP drops in its stack" };
        let detail = format!("{near_ip} to {network}/16 on {interface} in namespace {namespace}, {how}");
        let (_far, sink) = (Some(far), Some(sink));
        Ok(Self {
            name: "link",
            detail,
            near_ip,
            network,
            port: PORT,
            near: None,
            _far,
            sink,
            _receiver: None,
        })
    }

    /// A socket on loopback that nobody reads: it fills up, and then the kernel drops at its door. In a namespace of
    /// its own if there are rights for one.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn loopback() -> Result<Self, BenchError> {
        let (near, place) = match Namespace::new() {
            Ok(own) => (Some(own), "of a namespace of its own"),
            Err(_) => (None, "of this host"),
        };
        let opened = match &near {
            Some(own) => own.run(full_receiver),
            None => full_receiver(),
        };
        let (receiver, port) = opened.map_err(|error| BenchError(format!("loopback: {error}")))?;
        Ok(Self {
            name: "loopback",
            detail: format!("loopback {place}, to a socket that is full"),
            near_ip: Ipv4Addr::LOCALHOST,
            network: LOOPBACK_NETWORK,
            port,
            near,
            _far: None,
            sink: None,
            _receiver: Some(receiver),
        })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn describe(&self) -> Description {
        Description { name: self.name, detail: self.detail.clone() }
    }

    /// Moves the calling thread to the sender's end.
    ///
    /// # Errors
    /// None for a namespace that we made.
    pub fn enter(&self) -> io::Result<()> {
        self.near.as_ref().map_or(Ok(()), Namespace::enter)
    }

    /// Whether frames can be sent on a link, below the IP stack.
    pub fn has_link(&self) -> bool {
        self.name != "loopback"
    }

    /// Packets that have arrived at the first destinations, where a sink counts them.
    ///
    /// # Errors
    /// None that the kernel documents.
    pub fn arrived(&self, destinations: u16) -> io::Result<Option<u64>> {
        let Some(sink) = &self.sink else { return Ok(None) };
        (0..destinations).map(|number| sink.packets(number)).sum::<io::Result<u64>>().map(Some)
    }

    pub fn destinations(&self, count: u16) -> Vec<SocketAddr> {
        let address = |number| Ipv4Addr::from_bits(self.network.to_bits() | u32::from(number));
        (0..count).map(|number| (address(number), self.port).into()).collect()
    }
}

/// Our address towards `network`, and a first datagram there, so that the neighbour table knows the way.
fn route_to(network: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((network, PORT))?;
    socket.send(&[0x80; 16])?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(io::Error::other("an IPv4 socket has no IPv6 address")),
    }
}

fn full_receiver() -> io::Result<(UdpSocket, u16)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // The kernel raises it to its least (`SOCK_MIN_RCVBUF`), a few packets.
    SockRef::from(&socket).set_recv_buffer_size(1)?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}
