//! Questions to the kernel's routing tables, and news from them (rtnetlink(7)).
//!
//! A thin layer over `netlink-packet-route`, which knows the messages: one socket that asks and waits for the
//! answer, one that hears of changes. Messages that the library cannot read are skipped, as kernels add to them.

use std::io::{self, Error, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::frame::Mac;

/// A link, as far as frames through it are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
    pub mtu: usize,
}

/// What the kernel does with packets to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub interface: u32,
    /// Whose link layer address the frame gets: a gateway, or the destination.
    pub via: IpAddr,
    /// The address it leaves from, if the kernel says so.
    pub source: Option<IpAddr>,
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    pub ip: IpAddr,
    pub interface: u32,
    /// `None` unless frames may be sent to it.
    pub mac: Option<Mac>,
    /// The kernel does not know whether it is still there, and nobody asks.
    pub is_stale: bool,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Neighbour(Neighbour),
    Link(Interface),
    Addresses,
    Routes,
}

/// Multicast groups (`enum rtnetlink_groups`): links, neighbours, addresses, routes and rules of both families.
const GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];

/// The socket that asks.
#[derive(Debug)]
pub struct Questions {
    socket: Socket,
    sequence: u32,
}

impl Questions {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// `ENODEV`; `Unsupported` if it carries no Ethernet.
    pub fn interface(&mut self, name: &str) -> io::Result<Interface> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.link(message)
    }

    /// As [`Self::interface`], by index.
    pub fn interface_at(&mut self, index: u32) -> io::Result<Interface> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.link(message)
    }

    fn link(&mut self, message: LinkMessage) -> io::Result<Interface> {
        let mut found = None;
        self.ask(RouteNetlinkMessage::GetLink(message), 0, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some(interface_of(&link));
            }
        })?;
        found
            .ok_or_else(|| Error::from_raw_os_error(libc::ENODEV))?
            .ok_or_else(|| Error::from(ErrorKind::Unsupported))
    }

    /// The route to `remote` of packets from `local`; `None` if none leaves this host. `scope` is the interface of
    /// a link-local destination, else 0.
    pub fn route(&mut self, remote: IpAddr, scope: u32, local: Option<IpAddr>) -> Option<Route> {
        let mut message = RouteMessage::default();
        let (family, bits) = family_of(remote);
        message.header.address_family = family;
        message.header.destination_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(remote.into()));
        if let Some(local) = local {
            message.header.source_prefix_length = bits;
            message.attributes.push(RouteAttribute::Source(local.into()));
        }
        if scope != 0 {
            message.attributes.push(RouteAttribute::Oif(scope));
        }
        let mut route = None;
        let asked = self.ask(RouteNetlinkMessage::GetRoute(message), 0, |answer| {
            if let RouteNetlinkMessage::NewRoute(found) = answer {
                route = route_of(&found, remote);
            }
        });
        asked.ok().and(route)
    }

    /// Lends every entry of the neighbour table.
    pub fn neighbours(&mut self, mut each: impl FnMut(Neighbour)) -> io::Result<()> {
        let dump = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.ask(dump, NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewNeighbour(entry) = answer {
                neighbour_of(&entry, true).into_iter().for_each(&mut each);
            }
        })
    }

    /// Tells the kernel that the neighbour is in use: it resolves what it does not know and checks what is stale.
    pub fn use_neighbour(&mut self, interface: u32, ip: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(ip).0;
        message.header.ifindex = interface;
        message.header.flags = NeighbourFlags::Use;
        message.header.kind = RouteType::Unspec;
        message.attributes.push(NeighbourAttribute::Destination(ip.into()));
        self.ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_ACK, |_| ())
    }

    /// Sends a request and lends what it is answered.
    fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let expects_one = flags == 0;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in messages(&bytes) {
                let Some(message) = message else {
                    // Unreadable, but the only one that comes.
                    if expects_one {
                        return Err(Error::from(ErrorKind::InvalidData));
                    }
                    continue;
                };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(answer) => {
                        each(answer);
                        if expects_one {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The socket that hears of changes.
#[derive(Debug)]
pub struct Changes {
    socket: Socket,
}

impl Changes {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        // As in the kernel's own tools; what still overflows is told as an error.
        let _ = socket.set_rx_buf_sz(1 << 20);
        GROUPS.iter().try_for_each(|group| socket.add_membership(*group))?;
        Ok(Self { socket })
    }

    /// Lends the news so far. `false` if some were lost.
    pub fn drain(&self, mut each: impl FnMut(News)) -> bool {
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) => {
                    messages(&bytes).filter_map(|message| news_of(message?)).for_each(&mut each)
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The messages of one datagram; `None` in place of what cannot be read.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Option<NetlinkMessage<RouteNetlinkMessage>>> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let message = bytes.get(..len).filter(|message| message.len() >= 16)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(NetlinkMessage::deserialize(message).ok())
    })
}

fn news_of(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<News> {
    use RouteNetlinkMessage as Message;
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    match message {
        Message::NewNeighbour(entry) => neighbour_of(&entry, true).map(News::Neighbour),
        Message::DelNeighbour(entry) => neighbour_of(&entry, false).map(News::Neighbour),
        Message::NewLink(link) => interface_of(&link).map(News::Link),
        Message::DelLink(_) | Message::NewRoute(_) | Message::DelRoute(_) => Some(News::Routes),
        Message::NewRule(_) | Message::DelRule(_) => Some(News::Routes),
        Message::NewAddress(_) | Message::DelAddress(_) => Some(News::Addresses),
        _ => None,
    }
}

/// `None` if it carries no Ethernet.
fn interface_of(link: &LinkMessage) -> Option<Interface> {
    let (mut name, mut mac, mut mtu) = (None, None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes as usize),
            _ => {}
        }
    }
    let is_ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    is_ethernet.then_some(Interface { index: link.header.index, name: name?, mac: mac?, mtu: mtu? })
}

/// `None` if the packet stays here, is refused, or leaves in a way that takes more than a header.
fn route_of(route: &RouteMessage, remote: IpAddr) -> Option<Route> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut interface, mut via, mut source) = (None, remote, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(gateway) => via = address_of(gateway)?,
            RouteAttribute::Via(gateway) => via = via_of(gateway)?,
            RouteAttribute::PrefSource(address) => source = address_of(address),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => return None,
            _ => {}
        }
    }
    Some(Route { interface: interface?, via, source })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// A gateway of the other family (RFC 5549).
fn via_of(via: &netlink_packet_route::route::RouteVia) -> Option<IpAddr> {
    use netlink_packet_route::route::RouteVia;
    match via {
        RouteVia::Inet(ip) => Some((*ip).into()),
        RouteVia::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn neighbour_of(entry: &NeighbourMessage, exists: bool) -> Option<Neighbour> {
    let (mut ip, mut mac) = (None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    use NeighbourState as State;
    let is_valid = exists
        && matches!(
            entry.header.state,
            State::Reachable | State::Stale | State::Delay | State::Probe | State::Permanent | State::Noarp
        );
    Some(Neighbour {
        ip: ip?,
        interface: entry.header.ifindex,
        mac: mac.filter(|_| is_valid),
        is_stale: entry.header.state == State::Stale,
    })
}

fn family_of(ip: IpAddr) -> (AddressFamily, u8) {
    match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    }
}
