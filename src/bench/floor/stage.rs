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

/// The first port of the destinations at the far end of a link.
const FIRST_PORT: u16 = 20_000;

/// One row to whom is sent, and what makes it vanish there.
pub struct Stage {
    name: &'static str,
    detail: String,
    pub near_ip: Ipv4Addr,
    far_ip: Ipv4Addr,
    ports: Vec<u16>,
    /// Where the sender is, unless it stays where it was called.
    near: Option<Namespace>,
    _far: Option<Namespace>,
    sink: Option<Sink>,
    _receivers: Vec<UdpSocket>,
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
        let ports: Vec<u16> = (FIRST_PORT..=FIRST_PORT + 30_000).collect();
        let sink = pair.far.run(|| Sink::attach(pair.far_index, ports.iter().copied()));
        let sink = sink.map_err(|error| left_out(&error))?;
        let (IpAddr::V4(near_ip), IpAddr::V4(far_ip)) = (pair.near_ip, pair.far_ip) else {
            return Err(left_out(&"our own pair speaks IPv4"));
        };
        Ok(Self {
            name: "veth",
            detail: "veth pair between two namespaces, XDP drops on the far end, all on the sender's core"
                .into(),
            near_ip,
            far_ip,
            ports,
            near: Some(pair.near),
            _far: Some(pair.far),
            sink: Some(sink),
            _receivers: Vec::new(),
        })
    }

    /// A target on a link of the caller's namespace, whose far end is `interface` in `namespace`.
    ///
    /// # Errors
    /// The namespace, its interface or a route to the target is not there, or the interface has a program already.
    pub fn target(far_ip: Ipv4Addr, namespace: &str, interface: &str) -> Result<Self, BenchError> {
        let far = Namespace::named(namespace)?;
        let index = far.run(|| kernel::interface_index(interface)).ok_or_else(|| {
            BenchError(format!(
                "no interface `{interface}` in `{namespace}`; `ip -n {namespace} link` shows them"
            ))
        })?;
        let ports: Vec<u16> = (FIRST_PORT..=FIRST_PORT + 30_000).collect();
        let sink = far.run(|| Sink::attach(index, ports.iter().copied()));
        let sink = sink.map_err(|error| BenchError(error.to_string()))?;
        let near_ip = route_to(far_ip).map_err(|error| BenchError(format!("no way to {far_ip}: {error}")))?;
        let how = if sink.is_native() { "XDP drops in its driver" } else { "XDP drops in its stack" };
        let detail = format!("{near_ip} to {far_ip} on {interface} in namespace {namespace}, {how}");
        let (_far, sink) = (Some(far), Some(sink));
        Ok(Self {
            name: "link",
            detail,
            near_ip,
            far_ip,
            ports,
            near: None,
            _far,
            sink,
            _receivers: Vec::new(),
        })
    }

    /// Sockets on loopback that nobody reads: they fill up, and then the kernel drops at their door. In a namespace
    /// of its own if there are rights for one.
    ///
    /// # Errors
    /// There are not enough file descriptors for one socket per destination.
    pub fn loopback(destinations: u16) -> Result<Self, BenchError> {
        let (near, place) = match Namespace::new() {
            Ok(own) => (Some(own), "of a namespace of its own"),
            Err(_) => (None, "of this host"),
        };
        let opened = match &near {
            Some(own) => own.run(|| full_receivers(destinations)),
            None => full_receivers(destinations),
        };
        let receivers = opened.map_err(|error| {
            BenchError(format!("loopback: cannot open {destinations} sockets: {error}; raise `ulimit -n`"))
        })?;
        let ports = receivers.iter().filter_map(|socket| Some(socket.local_addr().ok()?.port())).collect();
        Ok(Self {
            name: "loopback",
            detail: format!("loopback {place}, to sockets that are full"),
            near_ip: Ipv4Addr::LOCALHOST,
            far_ip: Ipv4Addr::LOCALHOST,
            ports,
            near,
            _far: None,
            sink: None,
            _receivers: receivers,
        })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn describe(&self) -> Description {
        Description { name: self.name, detail: self.detail.clone() }
    }

    /// Moves the calling thread to the sender's end.
    pub fn enter(&self) -> io::Result<()> {
        self.near.as_ref().map_or(Ok(()), Namespace::enter)
    }

    /// Whether frames can be sent on a link, below the IP stack.
    pub fn has_link(&self) -> bool {
        self.name != "loopback"
    }

    pub fn far_ip(&self) -> Ipv4Addr {
        self.far_ip
    }

    /// Packets that have arrived, where a sink counts them.
    pub fn arrived(&self, destinations: usize) -> io::Result<Option<u64>> {
        let Some(sink) = &self.sink else { return Ok(None) };
        self.ports
            .iter()
            .take(destinations)
            .map(|port| sink.packets(*port))
            .sum::<io::Result<u64>>()
            .map(Some)
    }

    /// The first `count` destinations; fewer if there are not as many.
    pub fn destinations(&self, count: usize) -> Vec<SocketAddr> {
        self.ports.iter().take(count).map(|port| (self.far_ip, *port).into()).collect()
    }
}

/// Our address towards `far_ip`, and a first datagram there, so that the neighbour table knows it.
fn route_to(far_ip: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((far_ip, FIRST_PORT))?;
    socket.send(&[0x80; 16])?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(io::Error::other("an IPv4 socket has no IPv6 address")),
    }
}

fn full_receivers(count: u16) -> io::Result<Vec<UdpSocket>> {
    (0..count)
        .map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            // The kernel raises it to its least (`SOCK_MIN_RCVBUF`), a few packets.
            SockRef::from(&socket).set_recv_buffer_size(1)?;
            Ok(socket)
        })
        .collect()
}
