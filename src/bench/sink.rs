//! Counts SRTP before it costs anything: an XDP program on the generator's interface drops and counts the RTP
//! that arrives for chosen listeners, so that ten thousand of them can be measured by a generator that has one
//! core.
//!
//! A listener is an address: the last 16 bits are its number, the bits before are those of a network that all
//! listeners share (an IPv4 /16, an IPv6 /112). One that is sunk loses only its SRTP (RFC 7983: first byte
//! 128..=191; RFC 5761: second byte not 192..=223). STUN, DTLS and RTCP pass, so it connects, stays connected and
//! hears reports. One that is not sunk loses nothing: it is the sample that looks at every packet.
//!
//! Each listener has a counter per CPU. Its loss is what was sent to it less what was counted; order and
//! duplicates only the sample can see.
//!
//! Understands Ethernet, IPv4 without options, IPv6 without extension headers; anything else passes. Relies on a
//! link: when the [`Sink`] is dropped, or its process dies, the interface is as it was.

use std::fmt;
use std::io;
use std::net::IpAddr;

use crate::io::xdp::assembler::{
    Assembler, Helper, Instruction, Jump, Label, R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Register, Size,
    XDP_DATA, XDP_DATA_END, XDP_DROP, XDP_PASS,
};
use crate::io::xdp::bpf::{Link, LoadError, Map, MapKind, Program, XdpMode};

/// One entry for every number that a listener can have.
const LISTENERS: u32 = 1 << 16;

/// Sunk listeners of one interface, for as long as this lives.
#[derive(Debug)]
pub struct Sink {
    _link: Link,
    sunk: Map,
    counters: Map,
    mode: XdpMode,
}

/// No sink; the text says why and what to do.
#[derive(Debug)]
pub enum SinkError {
    /// bpf(2) refused a map.
    Map(io::Error),
    /// The verifier refused the program.
    Load(LoadError),
    /// The interface takes no program.
    Attach { interface: u32, source: io::Error },
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => {
                write!(f, "cannot make BPF maps: {error}; it takes root, or CAP_BPF and CAP_NET_ADMIN")
            }
            Self::Load(error) => write!(f, "cannot load the counting program: {error}"),
            Self::Attach { interface, source } => write!(
                f,
                "cannot attach the counting program to interface {interface}: {source}; another program may be \
                 there (`ip link`)"
            ),
        }
    }
}

impl std::error::Error for SinkError {}

impl Sink {
    /// Sinks the SRTP that arrives at the interface with this index, of the caller's network namespace, for these
    /// listeners of the network that has `network`, by number. In the driver if it can, else in the stack.
    ///
    /// # Errors
    /// Without the rights for bpf(2), or if the interface has an XDP program already.
    pub fn attach(
        interface: u32,
        network: IpAddr,
        sunk: impl IntoIterator<Item = u16>,
    ) -> Result<Self, SinkError> {
        let numbers = sunk;
        let sunk = Map::create(MapKind::Array, 4, 1, LISTENERS).map_err(SinkError::Map)?;
        let counters = Map::create(MapKind::PerCpuArray, 4, 8, LISTENERS).map_err(SinkError::Map)?;
        let program = Program::load_xdp(c"fanline_sink", &counting_program(network, &sunk, &counters))
            .map_err(SinkError::Load)?;
        let native = Link::attach_xdp(&program, interface, XdpMode::Driver);
        let (link, mode) = match native {
            Ok(link) => (link, XdpMode::Driver),
            Err(_) => {
                let generic = Link::attach_xdp(&program, interface, XdpMode::Generic);
                (generic.map_err(|source| SinkError::Attach { interface, source })?, XdpMode::Generic)
            }
        };
        let sink = Self { _link: link, sunk, counters, mode };
        for number in numbers {
            sink.sink(number).map_err(SinkError::Map)?;
        }
        Ok(sink)
    }

    /// Whether the program runs in the driver, before the kernel makes an skb.
    pub fn is_native(&self) -> bool {
        self.mode == XdpMode::Driver
    }

    /// From here on SRTP to this listener is counted and dropped.
    ///
    /// # Errors
    /// None that the kernel documents for a number.
    pub fn sink(&self, number: u16) -> io::Result<()> {
        self.sunk.set(&u32::from(number).to_ne_bytes(), &[1])
    }

    /// From here on SRTP to this listener passes uncounted.
    ///
    /// # Errors
    /// As [`sink`](Self::sink).
    pub fn pass(&self, number: u16) -> io::Result<()> {
        self.sunk.set(&u32::from(number).to_ne_bytes(), &[0])
    }

    /// SRTP packets to this listener that were sunk so far. One system call.
    ///
    /// # Errors
    /// As [`sink`](Self::sink).
    pub fn packets(&self, number: u16) -> io::Result<u64> {
        self.counters.sum(u32::from(number))
    }
}

/// Lengths and places in a frame, in bytes.
const ETHERNET: i16 = 14;
const ETHER_TYPE: i16 = 12;
const IPV4: i16 = 20;
const IPV4_FRAGMENT: i16 = 6;
const IPV4_PROTOCOL: i16 = 9;
const IPV4_DESTINATION: i16 = 16;
const IPV6: i16 = 40;
const IPV6_NEXT_HEADER: i16 = 6;
const IPV6_DESTINATION: i16 = 24;
const UDP: i16 = 8;

const IPPROTO_UDP: i32 = 17;

/// `number` as a load from a frame gives it: in network order.
fn be16(number: u16) -> i32 {
    i32::from(number.to_be())
}

/// Registers: `R6` the start of the frame, `R7` its end, `R8` the UDP header.
fn counting_program(network: IpAddr, sunk: &Map, counters: &Map) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let pass = code.label();
    code.load(Size::Word, R6, R1, XDP_DATA);
    code.load(Size::Word, R7, R1, XDP_DATA_END);
    match network {
        IpAddr::V4(network) => ipv4_udp(&mut code, network.octets(), pass),
        IpAddr::V6(network) => ipv6_udp(&mut code, network.octets(), pass),
    }
    only_srtp(&mut code, pass);
    count(&mut code, sunk, counters, pass);
    code.set(R0, XDP_DROP);
    code.exit();
    code.place(pass);
    code.set(R0, XDP_PASS);
    code.exit();
    code.finish()
}

/// Jumps to `pass` unless `length` bytes from `start` on are in the frame. Uses `R3`.
fn need(code: &mut Assembler, start: Register, length: i16, pass: Label) {
    code.copy(R3, start);
    code.add_immediate(R3, i32::from(length));
    code.jump_if(Jump::Greater, R3, R7, pass);
}

/// Passes what is not UDP over IPv4 to the network.
fn ipv4_udp(code: &mut Assembler, network: [u8; 4], pass: Label) {
    need(code, R6, ETHERNET + IPV4, pass);
    code.load(Size::Half, R2, R6, ETHER_TYPE);
    code.jump_if_immediate(Jump::NotEqual, R2, be16(0x0800), pass);
    // Version 4, five words: no options.
    code.load(Size::Byte, R2, R6, ETHERNET);
    code.jump_if_immediate(Jump::NotEqual, R2, 0x45, pass);
    // More fragments, or not the first.
    code.load(Size::Half, R2, R6, ETHERNET + IPV4_FRAGMENT);
    code.jump_if_immediate(Jump::AnyBit, R2, be16(0x3fff), pass);
    code.load(Size::Byte, R2, R6, ETHERNET + IPV4_PROTOCOL);
    code.jump_if_immediate(Jump::NotEqual, R2, IPPROTO_UDP, pass);
    to_network(code, ETHERNET + IPV4_DESTINATION, &network, pass);
    code.copy(R8, R6);
    code.add_immediate(R8, i32::from(ETHERNET + IPV4));
}

/// Passes what is not UDP over IPv6 to the network.
fn ipv6_udp(code: &mut Assembler, network: [u8; 16], pass: Label) {
    need(code, R6, ETHERNET + IPV6, pass);
    code.load(Size::Half, R2, R6, ETHER_TYPE);
    code.jump_if_immediate(Jump::NotEqual, R2, be16(0x86dd), pass);
    code.load(Size::Byte, R2, R6, ETHERNET + IPV6_NEXT_HEADER);
    code.jump_if_immediate(Jump::NotEqual, R2, IPPROTO_UDP, pass);
    to_network(code, ETHERNET + IPV6_DESTINATION, &network, pass);
    code.copy(R8, R6);
    code.add_immediate(R8, i32::from(ETHERNET + IPV6));
}

/// Passes other destinations, and writes the key to the stack: the last 16 bits of the destination, in this
/// host's order, as a word.
fn to_network(code: &mut Assembler, at: i16, network: &[u8], pass: Label) {
    let halves = network.chunks_exact(2).map(|half| u16::from_be_bytes([half[0], half[1]]));
    let number_at = at + network.len() as i16 - 2;
    for (half_at, half) in (at..number_at).step_by(2).zip(halves) {
        code.load(Size::Half, R2, R6, half_at);
        code.jump_if_immediate(Jump::NotEqual, R2, be16(half), pass);
    }
    code.load(Size::Byte, R2, R6, number_at);
    code.load(Size::Byte, R4, R6, number_at + 1);
    code.store_immediate(Size::Word, R10, -4, 0);
    let (high, low) = if cfg!(target_endian = "little") { (-3, -4) } else { (-2, -1) };
    code.store(Size::Byte, R10, high, R2);
    code.store(Size::Byte, R10, low, R4);
}

/// RTP has version 2 in its first byte, and an RTCP type never in its second (RFC 7983 §7, RFC 5761 §4).
fn only_srtp(code: &mut Assembler, pass: Label) {
    let srtp = code.label();
    need(code, R8, UDP + 2, pass);
    code.load(Size::Byte, R2, R8, UDP);
    code.jump_if_immediate(Jump::Less, R2, 128, pass);
    code.jump_if_immediate(Jump::Greater, R2, 191, pass);
    code.load(Size::Byte, R2, R8, UDP + 1);
    code.jump_if_immediate(Jump::Less, R2, 192, srtp);
    code.jump_if_immediate(Jump::Less, R2, 224, pass);
    code.place(srtp);
}

/// Passes what is for a listener that is not sunk, else adds one to the listener's counter of this CPU.
fn count(code: &mut Assembler, sunk: &Map, counters: &Map, pass: Label) {
    for map in [sunk, counters] {
        code.load_map(R1, map);
        code.copy(R2, R10);
        code.add_immediate(R2, -4);
        code.call(Helper::MapLookup);
        code.jump_if_immediate(Jump::Equal, R0, 0, pass);
        if std::ptr::eq(map, sunk) {
            code.load(Size::Byte, R9, R0, 0);
            code.jump_if_immediate(Jump::Equal, R9, 0, pass);
        }
    }
    // No other program runs on this CPU meanwhile, so that no atomic addition is needed.
    code.load(Size::Double, R1, R0, 0);
    code.add_immediate(R1, 1);
    code.store(Size::Double, R0, 0, R1);
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::bench::netns::{Namespace, Pair};

    const SUNK: u16 = 0x0102;
    const SAMPLED: u16 = 0x0201;
    const PORT: u16 = 5_000;

    /// First bytes of what a client receives, and whether a sunk listener still hears it.
    const KINDS: [(&str, [u8; 2], bool); 6] = [
        ("a STUN response", [0x01, 0x01], true),
        ("a DTLS record", [22, 254], true),
        ("an RTCP sender report", [0x80, 200], true),
        ("RTCP at the end of its range", [0x81, 223], true),
        ("RTP, payload type 96", [0x80, 96], false),
        ("RTP with marker, payload type 96", [0x90, 224], false),
    ];

    fn exchange(pair: &Pair) {
        let receiver = |number| {
            let socket = pair.far.run(|| UdpSocket::bind((pair.listener(number), PORT))).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        };
        let (sunk, sampled) = (receiver(SUNK), receiver(SAMPLED));
        let sender = pair.near.run(|| UdpSocket::bind((pair.near_ip, 0))).unwrap();
        let sink = pair.far.run(|| Sink::attach(pair.far_index, pair.network, [SUNK])).unwrap();
        for (_, start, _) in KINDS {
            for number in [SUNK, SAMPLED] {
                let datagram = [&start[..], &[7; 60]].concat();
                sender.send_to(&datagram, (pair.listener(number), PORT)).unwrap();
            }
        }
        let mut buffer = [0; 100];
        for (kind, start, passes) in KINDS {
            assert_eq!(sampled.recv(&mut buffer).unwrap(), 62, "{kind} to a listener that is not sunk");
            assert_eq!(buffer[..2], start);
            if passes {
                assert_eq!(sunk.recv(&mut buffer).unwrap(), 62, "{kind} to a sunk listener");
                assert_eq!(buffer[..2], start);
            }
        }
        assert_eq!(sink.packets(SUNK).unwrap(), 2, "the two that are RTP");
        assert_eq!(sink.packets(SAMPLED).unwrap(), 0);

        sink.pass(SUNK).unwrap();
        sender.send_to(&[0x80, 96, 1, 2], (pair.listener(SUNK), PORT)).unwrap();
        assert_eq!(sunk.recv(&mut buffer).unwrap(), 4, "a listener that is no longer sunk");
        assert_eq!(sink.packets(SUNK).unwrap(), 2);
    }

    #[test]
    fn a_sunk_listener_loses_and_counts_its_srtp_and_nothing_else() {
        match Pair::new() {
            Ok(pair) => exchange(&pair),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }

    #[test]
    fn listeners_with_ipv6_addresses_are_counted_too() {
        let pair = match Pair::new() {
            Ok(pair) => pair,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let far = "fd00:c612::2".parse().unwrap();
        pair.far.ip("address add fd00:c612::2/64 dev far nodad").unwrap();
        pair.near.ip("address add fd00:c612::1/64 dev near nodad").unwrap();
        let sink = pair.far.run(|| Sink::attach(pair.far_index, far, [2])).unwrap();
        let sender = pair.near.run(|| UdpSocket::bind("[::]:0")).unwrap();
        sender.send_to(&[0x80, 96, 1, 2], (far, PORT)).unwrap();
        // The first packet waits for its neighbour.
        let arrived = (0..500).any(|_| {
            let _ = rustix::event::poll(
                &mut [],
                Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 }),
            );
            sink.packets(2).unwrap() == 1
        });
        assert!(arrived);
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        match Namespace::new() {
            Ok(namespace) => {
                let error = namespace
                    .run(|| Sink::attach(4_711, IpAddr::from([198, 19, 0, 0]), []))
                    .unwrap_err()
                    .to_string();
                assert!(error.contains("4711"), "{error}");
            }
            Err(error) => eprintln!("skipped: {error}"),
        }
    }
}
