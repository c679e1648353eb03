//! Ethernet, IP and UDP around a payload: what the kernel's stack would do for a socket, done once per route and
//! patched per datagram.
//!
//! A [`Header`] is made when a route becomes known and holds all that does not depend on the datagram, the
//! sum of its pseudo header included; sealing a datagram into a frame then writes 42 or 62 bytes and adds up
//! the payload. Checksums are the Internet checksum (RFC 1071). That of UDP is mandatory over IPv6 (RFC 8200
//! §8.1) and sent over IPv4 too.
//!
//! Received frames come from our own redirect program, which has checked their shape; [`parse`] checks it again,
//! because what is behind a bound is not ours to read. Checksums of received datagrams are not
//! verified: whatever a peer sends us is authenticated (SRTP, DTLS, STUN's integrity), and a virtual device
//! hands over sums that its peer left for a NIC to finish.
//!
//! Pure: bytes in, bytes out. Deliberately absent: VLAN tags, IP options, extension headers and fragments; the
//! kernel keeps all of these.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::io::Path;

/// A MAC address.
pub type Mac = [u8; 6];

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;

/// The longest header, that of IPv6.
pub const HEADER_BYTES_MAX: usize = ETHERNET_BYTES + IPV6_BYTES + UDP_BYTES;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
pub const PROTOCOL_UDP: u8 = 17;

/// What every host sends by default (`ip(7)`, `net.ipv6.conf.default.hop_limit`).
const HOP_LIMIT: u8 = 64;

/// "Do not fragment": we never do, as the sockets of the other backends (RFC 791 §3.1).
const DONT_FRAGMENT: u8 = 0x40;

/// Where a datagram goes next, and under which names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    pub from: Mac,
    pub to: Mac,
    pub source: IpAddr,
    pub remote: IpAddr,
}

/// The headers of all datagrams from one of our addresses to one remote address.
#[derive(Debug, Clone)]
pub struct Header {
    /// Ports, lengths and sums are zero.
    bytes: [u8; HEADER_BYTES_MAX],
    len: usize,
    /// Not folded: the IPv4 header without its length.
    ip_sum: u32,
    /// Not folded: addresses and protocol.
    pseudo_sum: u32,
}

impl Header {
    /// `None` if source and remote are of different families: no datagram can go there.
    pub fn new(hop: &Hop) -> Option<Self> {
        let mut bytes = [0; HEADER_BYTES_MAX];
        let (ethernet, ip) = bytes.split_at_mut(ETHERNET_BYTES);
        let (to, rest) = ethernet.split_at_mut(6);
        let (from, ethertype) = rest.split_at_mut(6);
        to.copy_from_slice(&hop.to);
        from.copy_from_slice(&hop.from);
        let (ip_bytes, ip_sum) = match (hop.source, hop.remote) {
            (IpAddr::V4(source), IpAddr::V4(remote)) => {
                ethertype.copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
                let header = ipv4(source, remote);
                ip[..IPV4_BYTES].copy_from_slice(&header);
                (IPV4_BYTES, sum(&header))
            }
            (IpAddr::V6(source), IpAddr::V6(remote)) => {
                ethertype.copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
                ip[..IPV6_BYTES].copy_from_slice(&ipv6(source, remote));
                (IPV6_BYTES, 0)
            }
            _ => return None,
        };
        let pseudo_sum = address_sum(hop.source) + address_sum(hop.remote) + u32::from(PROTOCOL_UDP);
        Some(Self { bytes, len: ETHERNET_BYTES + ip_bytes + UDP_BYTES, ip_sum, pseudo_sum })
    }

    /// Bytes before the payload.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the MTU that are not payload.
    pub fn packet_overhead(&self) -> usize {
        self.len - ETHERNET_BYTES
    }

    /// Completes a frame: its first [`Self::len`] bytes are written, the rest is the payload.
    ///
    /// # Panics
    /// If the frame is shorter than its header.
    #[inline]
    pub fn write(&self, frame: &mut [u8], ports: (u16, u16)) {
        let (header, payload) = frame.split_at_mut(self.len);
        header.copy_from_slice(&self.bytes[..self.len]);
        let udp_len = (UDP_BYTES + payload.len()) as u16;
        let (ip, udp) = header[ETHERNET_BYTES..].split_at_mut(self.len - ETHERNET_BYTES - UDP_BYTES);
        if ip.len() == IPV4_BYTES {
            let total = udp_len + IPV4_BYTES as u16;
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            ip[10..12].copy_from_slice(&(!fold(self.ip_sum + u32::from(total))).to_be_bytes());
        } else {
            ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
        }
        let (source, remote) = ports;
        let head = self.pseudo_sum + 2 * u32::from(udp_len) + u32::from(source) + u32::from(remote);
        // A sum of 0 would mean "none" (RFC 768); its other representation is as right.
        let checksum = match !fold(head + sum(payload)) {
            0 => u16::MAX,
            checksum => checksum,
        };
        let fields = [source, remote, udp_len, checksum];
        udp.chunks_exact_mut(2).zip(fields).for_each(|(to, field)| to.copy_from_slice(&field.to_be_bytes()));
    }
}

/// RFC 791 §3.1, all of it but length and checksum. Identification stays 0, as it may with "do not fragment"
/// (RFC 6864 §4.1).
fn ipv4(source: Ipv4Addr, remote: Ipv4Addr) -> [u8; IPV4_BYTES] {
    let mut header = [0; IPV4_BYTES];
    header[0] = 0x45;
    header[6] = DONT_FRAGMENT;
    header[8] = HOP_LIMIT;
    header[9] = PROTOCOL_UDP;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&remote.octets());
    header
}

/// RFC 8200 §3, all of it but the length.
fn ipv6(source: Ipv6Addr, remote: Ipv6Addr) -> [u8; IPV6_BYTES] {
    let mut header = [0; IPV6_BYTES];
    header[0] = 0x60;
    header[6] = PROTOCOL_UDP;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&remote.octets());
    header
}

fn address_sum(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    }
}

/// The sum of the 16-bit words of `bytes` in network order, folded to 17 bits. Eight bytes at a time, in the
/// host's order: the sum of swapped words is the swapped sum (RFC 1071 §2).
fn sum(bytes: &[u8]) -> u32 {
    let mut chunks = bytes.chunks_exact(16);
    let (mut even, mut odd) = (0_u64, 0_u64);
    for chunk in &mut chunks {
        let word = |at: usize| {
            u64::from(u32::from_le_bytes([chunk[at], chunk[at + 1], chunk[at + 2], chunk[at + 3]]))
        };
        even += word(0) + word(4);
        odd += word(8) + word(12);
    }
    let mut total = even + odd;
    for pair in chunks.remainder().chunks(2) {
        let second = pair.get(1).copied().unwrap_or(0);
        total += u64::from(u16::from_le_bytes([pair[0], second]));
    }
    while total > u64::from(u16::MAX) {
        total = (total & 0xffff) + (total >> 16);
    }
    u32::from((total as u16).swap_bytes())
}

fn fold(mut sum: u32) -> u16 {
    while sum > u32::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A received frame, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival<'a> {
    pub path: Path,
    /// Our port that it was sent to.
    pub port: u16,
    pub payload: &'a [u8],
}

/// Takes a frame with a whole UDP datagram apart; `None` if it is anything else. `interface` becomes the scope
/// of a link-local sender.
pub fn parse(frame: &[u8], interface: u32) -> Option<Arrival<'_>> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_BYTES>()?;
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ETHERTYPE_IPV4 => {
            let (ip, udp) = packet.split_first_chunk::<IPV4_BYTES>()?;
            let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
            if ip[0] != 0x45 || fragment || ip[9] != PROTOCOL_UDP {
                return None;
            }
            let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
            let (ports, payload) = datagram(udp)?;
            let remote = SocketAddr::new(address(12).into(), ports.0);
            Some(Arrival { path: Path { remote, local: Some(address(16).into()) }, port: ports.1, payload })
        }
        ETHERTYPE_IPV6 => {
            let (ip, udp) = packet.split_first_chunk::<IPV6_BYTES>()?;
            if ip[0] >> 4 != 6 || ip[6] != PROTOCOL_UDP {
                return None;
            }
            let source = Ipv6Addr::from(*ip[8..].first_chunk::<16>()?);
            let local = Ipv6Addr::from(*ip[24..].first_chunk::<16>()?);
            let (ports, payload) = datagram(udp)?;
            let scope = if source.is_unicast_link_local() { interface } else { 0 };
            let remote = SocketAddrV6::new(source, ports.0, 0, scope).into();
            Some(Arrival { path: Path { remote, local: Some(local.into()) }, port: ports.1, payload })
        }
        _ => None,
    }
}

/// Source and destination port, and the payload as long as the header says: a short frame is padded.
fn datagram(udp: &[u8]) -> Option<((u16, u16), &[u8])> {
    let (header, payload) = udp.split_first_chunk::<UDP_BYTES>()?;
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let len = usize::from(field(4)).checked_sub(UDP_BYTES)?;
    Some(((field(0), field(2)), payload.get(..len)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOP: Hop = Hop {
        from: [2, 0, 0, 0, 0, 1],
        to: [2, 0, 0, 0, 0, 2],
        source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        remote: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    };

    fn v6_hop() -> Hop {
        let ip = |text: &str| text.parse().unwrap();
        Hop { source: ip("2001:db8::1"), remote: ip("2001:db8:ffff::2"), ..HOP }
    }

    fn frame(hop: &Hop, payload: &[u8], ports: (u16, u16)) -> Vec<u8> {
        let header = Header::new(hop).unwrap();
        let mut frame = vec![0xee; header.len()];
        frame.extend(payload);
        header.write(&mut frame, ports);
        frame
    }

    /// RFC 1071 §4.1, word by word.
    fn reference_sum(bytes: &[u8]) -> u16 {
        let words =
            bytes.chunks(2).map(|pair| u32::from_be_bytes([0, 0, pair[0], *pair.get(1).unwrap_or(&0)]));
        fold(words.fold(0, |sum, word| u32::from(fold(sum + word))))
    }

    fn pseudo_header(hop: &Hop, len: usize) -> Vec<u8> {
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let rest = [0, 0, (len >> 8) as u8, len as u8, 0, 0, 0, PROTOCOL_UDP];
        [octets(hop.source), octets(hop.remote), rest.to_vec()].concat()
    }

    /// 10.0.0.1:40000 to 10.0.0.2:5000, "hello"; the sums were worked out by another program.
    #[test]
    fn an_ipv4_frame_is_what_the_standards_say_byte_for_byte() {
        let expected = [
            &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..],
            &[0x45, 0, 0, 0x21, 0, 0, 0x40, 0, 0x40, 17, 0x26, 0xca, 10, 0, 0, 1, 10, 0, 0, 2],
            &[0x9c, 0x40, 0x13, 0x88, 0, 13, 0xf8, 0x36],
            b"hello",
        ]
        .concat();
        assert_eq!(frame(&HOP, b"hello", (40_000, 5_000)), expected);
    }

    #[test]
    fn a_sum_of_zero_is_sent_as_its_other_representation() {
        let empty = frame(&HOP, &[0, 0], (1, 2));
        let sum = u16::from_be_bytes([empty[40], empty[41]]);
        let zeroed = frame(&HOP, &sum.to_be_bytes(), (1, 2));
        assert_eq!(zeroed[40..42], [0xff, 0xff]);
    }

    #[test]
    fn families_do_not_mix() {
        assert!(Header::new(&Hop { remote: v6_hop().remote, ..HOP }).is_none());
    }

    #[test]
    fn what_is_no_whole_datagram_is_left() {
        let good = frame(&HOP, b"payload", (1, 2));
        let with = |at: usize, byte: u8| {
            let mut frame = good.clone();
            frame[at] = byte;
            frame
        };
        let bad = [
            ("a VLAN tag", with(12, 0x81)),
            ("IP options", with(14, 0x46)),
            ("a first fragment", with(20, 0x20)),
            ("a later fragment", with(21, 1)),
            ("TCP", with(23, 6)),
            ("a UDP length beyond the frame", with(39, 16)),
            ("a UDP length below its header", with(39, 7)),
            ("half a header", good[..40].to_vec()),
        ];
        for (what, frame) in bad {
            assert_eq!(parse(&frame, 1), None, "{what}");
        }
        let mut padded = good.clone();
        padded.extend([0; 18]);
        assert_eq!(parse(&padded, 1).unwrap().payload, b"payload");
    }

    #[test]
    fn a_link_local_sender_is_named_with_the_interface_it_is_on() {
        let hop = Hop { source: "fe80::1".parse().unwrap(), ..v6_hop() };
        let frame = frame(&hop, b"x", (1, 2));
        assert_eq!(parse(&frame, 7).unwrap().path.remote, "[fe80::1%7]:1".parse().unwrap());
    }

    proptest! {
        #[test]
        fn what_is_written_adds_up_and_parses_to_what_it_was(
            payload in prop::collection::vec(any::<u8>(), 0..1_500), v6: bool, source: u16, remote: u16,
        ) {
            let hop = if v6 { v6_hop() } else { HOP };
            let frame = frame(&hop, &payload, (source, remote));
            let arrival = parse(&frame, 1).unwrap();
            let path = Path { remote: (hop.source, source).into(), local: Some(hop.remote) };
            prop_assert_eq!(arrival, Arrival { path, port: remote, payload: &payload });
            let udp = &frame[frame.len() - payload.len() - UDP_BYTES..];
            let whole = [pseudo_header(&hop, udp.len()), udp.to_vec()].concat();
            prop_assert_eq!(reference_sum(&whole), 0xffff);
            if !v6 {
                prop_assert_eq!(reference_sum(&frame[14..34]), 0xffff);
            }
        }

        #[test]
        fn no_frame_is_too_strange_to_parse(frame in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&frame, 1);
        }
    }
}
