//! Counts SRTP before it costs anything: an XDP program on the generator's interface drops and counts the RTP
//! that arrives for chosen UDP ports, so that ten thousand listeners can be measured by a generator that has one
//! core.
//!
//! A port that is sunk loses only its SRTP (RFC 7983: first byte 128..=191; RFC 5761: second byte not
//! 192..=223). STUN, DTLS and RTCP pass, so its client connects, stays connected and hears reports. A port that
//! is not sunk loses nothing: its client is the sample that looks at every packet.
//!
//! Each port has a counter per CPU. A listener's loss is what was sent to it less what was counted; order and
//! duplicates only the sample can see.
//!
//! Understands Ethernet, IPv4 without options, IPv6 without extension headers; anything else passes. Relies on a
//! link: when the [`Sink`] is dropped, or its process dies, the interface is as it was.

use std::fmt;
use std::io;

use crate::io::xdp::assembler::{
    Assembler, Helper, Instruction, Jump, Label, R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Size, XDP_DATA,
    XDP_DATA_END, XDP_DROP, XDP_PASS,
};
use crate::io::xdp::bpf::{Link, LoadError, Map, MapKind, Program, XdpMode};

/// One entry for every number that a port can have.
const PORTS: u32 = 1 << 16;

/// Sunk ports of one interface, for as long as this lives.
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
    /// Sinks the SRTP that arrives at the interface with this index, of the caller's network namespace, for
    /// `ports`. In the driver if it can, else in the stack.
    ///
    /// # Errors
    /// Without the rights for bpf(2), or if the interface has an XDP program already.
    pub fn attach(interface: u32, ports: impl IntoIterator<Item = u16>) -> Result<Self, SinkError> {
        let sunk = Map::create(MapKind::Array, 4, 1, PORTS).map_err(SinkError::Map)?;
        let counters = Map::create(MapKind::PerCpuArray, 4, 8, PORTS).map_err(SinkError::Map)?;
        let program = Program::load_xdp(c"fanline_sink", &counting_program(&sunk, &counters))
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
        for port in ports {
            sink.sink(port).map_err(SinkError::Map)?;
        }
        Ok(sink)
    }

    /// Whether the program runs in the driver, before the kernel makes an skb.
    pub fn is_native(&self) -> bool {
        self.mode == XdpMode::Driver
    }

    /// From here on SRTP to `port` is counted and dropped.
    ///
    /// # Errors
    /// None that the kernel documents for a port.
    pub fn sink(&self, port: u16) -> io::Result<()> {
        self.sunk.set(&u32::from(port).to_ne_bytes(), &[1])
    }

    /// From here on SRTP to `port` passes uncounted.
    ///
    /// # Errors
    /// As [`sink`](Self::sink).
    pub fn pass(&self, port: u16) -> io::Result<()> {
        self.sunk.set(&u32::from(port).to_ne_bytes(), &[0])
    }

    /// SRTP packets to `port` that were sunk so far. One system call.
    ///
    /// # Errors
    /// As [`sink`](Self::sink).
    pub fn packets(&self, port: u16) -> io::Result<u64> {
        self.counters.sum(u32::from(port))
    }
}

/// Lengths and places in a frame, in bytes.
const ETHERNET: i16 = 14;
const ETHER_TYPE: i16 = 12;
const IPV4: i16 = 20;
const IPV4_FRAGMENT: i16 = 6;
const IPV4_PROTOCOL: i16 = 9;
const IPV6: i16 = 40;
const IPV6_NEXT_HEADER: i16 = 6;
const UDP: i16 = 8;
const UDP_DESTINATION: i16 = 2;

const IPPROTO_UDP: i32 = 17;

/// `number` as a load from a frame gives it: in network order.
fn be16(number: u16) -> i32 {
    i32::from(number.to_be())
}

/// Registers: `R6` the start of the frame, `R7` its end, `R8` the UDP header.
fn counting_program(sunk: &Map, counters: &Map) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let pass = code.label();
    let udp = code.label();
    code.load(Size::Word, R6, R1, XDP_DATA);
    code.load(Size::Word, R7, R1, XDP_DATA_END);
    find_udp(&mut code, udp, pass);
    code.place(udp);
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
fn need(code: &mut Assembler, start: crate::io::xdp::assembler::Register, length: i16, pass: Label) {
    code.copy(R3, start);
    code.add_immediate(R3, i32::from(length));
    code.jump_if(Jump::Greater, R3, R7, pass);
}

fn find_udp(code: &mut Assembler, udp: Label, pass: Label) {
    let ipv6 = code.label();
    need(code, R6, ETHERNET + IPV4, pass);
    code.load(Size::Half, R2, R6, ETHER_TYPE);
    code.jump_if_immediate(Jump::Equal, R2, be16(0x86dd), ipv6);
    code.jump_if_immediate(Jump::NotEqual, R2, be16(0x0800), pass);
    // Version 4, five words: no options.
    code.load(Size::Byte, R2, R6, ETHERNET);
    code.jump_if_immediate(Jump::NotEqual, R2, 0x45, pass);
    // More fragments, or not the first.
    code.load(Size::Half, R2, R6, ETHERNET + IPV4_FRAGMENT);
    code.jump_if_immediate(Jump::AnyBit, R2, be16(0x3fff), pass);
    code.load(Size::Byte, R2, R6, ETHERNET + IPV4_PROTOCOL);
    code.jump_if_immediate(Jump::NotEqual, R2, IPPROTO_UDP, pass);
    code.copy(R8, R6);
    code.add_immediate(R8, i32::from(ETHERNET + IPV4));
    code.jump(udp);

    code.place(ipv6);
    need(code, R6, ETHERNET + IPV6, pass);
    code.load(Size::Byte, R2, R6, ETHERNET + IPV6_NEXT_HEADER);
    code.jump_if_immediate(Jump::NotEqual, R2, IPPROTO_UDP, pass);
    code.copy(R8, R6);
    code.add_immediate(R8, i32::from(ETHERNET + IPV6));
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

/// Passes what is for a port that is not sunk, else adds one to the port's counter of this CPU.
fn count(code: &mut Assembler, sunk: &Map, counters: &Map, pass: Label) {
    // The key: the port in this host's order, in a word on the stack.
    code.load(Size::Byte, R2, R8, UDP_DESTINATION);
    code.load(Size::Byte, R4, R8, UDP_DESTINATION + 1);
    code.store_immediate(Size::Word, R10, -4, 0);
    let (high, low) = if cfg!(target_endian = "little") { (-3, -4) } else { (-2, -1) };
    code.store(Size::Byte, R10, high, R2);
    code.store(Size::Byte, R10, low, R4);
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

    const SUNK: u16 = 5_000;
    const SAMPLED: u16 = 5_001;

    /// First bytes of what a client receives, and whether a sunk port still hears it.
    const KINDS: [(&str, [u8; 2], bool); 6] = [
        ("a STUN response", [0x01, 0x01], true),
        ("a DTLS record", [22, 254], true),
        ("an RTCP sender report", [0x80, 200], true),
        ("RTCP at the end of its range", [0x81, 223], true),
        ("RTP, payload type 96", [0x80, 96], false),
        ("RTP with marker, payload type 96", [0x90, 224], false),
    ];

    fn exchange(pair: &Pair) {
        let receiver = |port| {
            let socket = pair.far.run(|| UdpSocket::bind((pair.far_ip, port))).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        };
        let (sunk, sampled) = (receiver(SUNK), receiver(SAMPLED));
        let sender = pair.near.run(|| UdpSocket::bind((pair.near_ip, 0))).unwrap();
        let sink = pair.far.run(|| Sink::attach(pair.far_index, [SUNK])).unwrap();
        for (_, start, _) in KINDS {
            for port in [SUNK, SAMPLED] {
                let datagram = [&start[..], &[7; 60]].concat();
                sender.send_to(&datagram, (pair.far_ip, port)).unwrap();
            }
        }
        let mut buffer = [0; 100];
        for (kind, start, passes) in KINDS {
            assert_eq!(sampled.recv(&mut buffer).unwrap(), 62, "{kind} to a port that is not sunk");
            assert_eq!(buffer[..2], start);
            if passes {
                assert_eq!(sunk.recv(&mut buffer).unwrap(), 62, "{kind} to a sunk port");
                assert_eq!(buffer[..2], start);
            }
        }
        assert_eq!(sink.packets(SUNK).unwrap(), 2, "the two that are RTP");
        assert_eq!(sink.packets(SAMPLED).unwrap(), 0);

        sink.pass(SUNK).unwrap();
        sender.send_to(&[0x80, 96, 1, 2], (pair.far_ip, SUNK)).unwrap();
        assert_eq!(sunk.recv(&mut buffer).unwrap(), 4, "a port that is no longer sunk");
        assert_eq!(sink.packets(SUNK).unwrap(), 2);
    }

    #[test]
    fn a_sunk_port_loses_and_counts_its_srtp_and_nothing_else() {
        match Pair::new() {
            Ok(pair) => exchange(&pair),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        match Namespace::new() {
            Ok(namespace) => {
                let error = namespace.run(|| Sink::attach(4_711, [])).unwrap_err().to_string();
                assert!(error.contains("4711"), "{error}");
            }
            Err(error) => eprintln!("skipped: {error}"),
        }
    }
}
