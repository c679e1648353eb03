//! The program in the interface's receive path: datagrams for our ports go to our AF_XDP sockets, all else to
//! the kernel.
//!
//! Ours is a whole UDP datagram without IP options, extension headers or fragments, to an address of this host
//! and a port of a shard, both of which it finds in a map that is kept up to date from here. ARP, neighbour
//! discovery, ICMP, every other protocol and port, and datagrams in whatever shape we do not read are the kernel's,
//! as are datagrams on a queue without a socket: those reach the UDP socket of the shard.
//!
//! Firewall rules of the host do not see what is redirected: it never reaches the stack.

use std::io::{self, Error};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{Timespec, poll};

use super::assembler::{
    Assembler, Helper, Instruction, Jump, Label, R0, R1, R2, R3, R4, R6, R10, Register, Size, XDP_DATA,
    XDP_DATA_END, XDP_PASS, XDP_QUEUE,
};
use super::bpf::{Link, LoadError, Map, MapKind, Program, XdpMode};
use super::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_UDP};

/// Addresses of this host times ports of shards. A host with more keeps the rest on its sockets.
const DESTINATIONS_MAX: u32 = 16_384;

/// More queues than any NIC has shards for.
const QUEUES_MAX: u32 = 1_024;

/// Together half a second.
const TAKEN_TRIES: usize = 50;
const TAKEN_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Key of the map of destinations: an IPv6 address, or IPv4 mapped into one, then a port; all as on the wire,
/// padded to a word.
const KEY_BYTES: usize = 20;

/// The attached program. Dropping it detaches.
#[derive(Debug)]
pub struct Redirect {
    /// First, so that it is detached before its maps go.
    _link: Link,
    sockets: Map,
    destinations: Map,
    mode: XdpMode,
}

/// Why packets cannot be redirected.
#[derive(Debug)]
pub enum RedirectError {
    Map(Error),
    Load(LoadError),
    Attach(Error),
}

impl std::fmt::Display for RedirectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Map(error) => write!(f, "no BPF map: {error}"),
            Self::Load(error) => write!(f, "the kernel does not take the redirect program: {error}"),
            Self::Attach(error) if is_taken(error) => {
                write!(f, "another XDP program is attached to the interface (`ip link` shows it)")
            }
            Self::Attach(error) => write!(f, "the redirect program cannot be attached: {error}"),
        }
    }
}

impl std::error::Error for RedirectError {}

impl Redirect {
    /// Attaches to `interface` by the first of `modes` that it knows, with nothing to redirect yet. Packets longer
    /// than `packet_bytes_max` will be left to the kernel.
    pub fn attach(interface: u32, modes: &[XdpMode], packet_bytes_max: usize) -> Result<Self, RedirectError> {
        let map =
            |kind, key, value, entries| Map::create(kind, key, value, entries).map_err(RedirectError::Map);
        let sockets = map(MapKind::Sockets, 4, 4, QUEUES_MAX)?;
        let destinations = map(MapKind::Hash, KEY_BYTES, 1, DESTINATIONS_MAX)?;
        let code = assemble(&sockets, &destinations, packet_bytes_max);
        let program = Program::load_xdp(c"fanline", &code).map_err(RedirectError::Load)?;
        let mut refusal = Error::from_raw_os_error(libc::EOPNOTSUPP);
        for &mode in modes {
            match attach_in_time(&program, interface, mode) {
                Ok(link) => return Ok(Self { _link: link, sockets, destinations, mode }),
                // Below another program in the driver, one in the stack would see nothing.
                Err(error) if is_taken(&error) => return Err(RedirectError::Attach(error)),
                Err(error) => refusal = error,
            }
        }
        Err(RedirectError::Attach(refusal))
    }

    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// What arrives on `queue` for us goes to `socket`, which is bound to that queue.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.sockets.set(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }

    /// Datagrams to this address and port are ours.
    pub fn add_destination(&self, ip: IpAddr, port: u16) -> io::Result<()> {
        self.destinations.set(&key(ip, port), &[1])
    }

    pub fn remove_destination(&self, ip: IpAddr, port: u16) -> io::Result<()> {
        self.destinations.remove(&key(ip, port))
    }
}

/// Attaches, as soon as the program of a process that has just ended is gone: its last descriptor may still be on
/// its way out.
fn attach_in_time(program: &Program, interface: u32, mode: XdpMode) -> io::Result<Link> {
    for _ in 1..TAKEN_TRIES {
        match Link::attach_xdp(program, interface, mode) {
            Err(error) if is_taken(&error) => drop(poll(&mut [], Some(&TAKEN_PAUSE))),
            done => return done,
        }
    }
    Link::attach_xdp(program, interface, mode)
}

/// Another program is attached.
fn is_taken(error: &Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn key(ip: IpAddr, port: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let (address, rest) = key.split_at_mut(16);
    address.copy_from_slice(&match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    });
    rest[..2].copy_from_slice(&port.to_be_bytes());
    key
}

/// Registers of the program, beside those of calls.
const CONTEXT: Register = R6;
const PACKET: Register = R2;
const END: Register = R3;

/// Where the key lies on the stack: aligned to 8.
const KEY: i16 = -(KEY_BYTES.next_multiple_of(8) as i16);

fn assemble(sockets: &Map, destinations: &Map, packet_bytes_max: usize) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let (pass, v6, look_up) = (code.label(), code.label(), code.label());
    code.copy(CONTEXT, R1);
    code.load(Size::Word, PACKET, R1, XDP_DATA);
    code.load(Size::Word, END, R1, XDP_DATA_END);
    code.copy(R4, PACKET);
    code.add_immediate(R4, packet_bytes_max as i32);
    code.jump_if(Jump::Less, R4, END, pass);
    need(&mut code, 42, pass);
    code.load(Size::Half, R4, PACKET, 12);
    code.jump_if_immediate(Jump::Equal, R4, on_wire(ETHERTYPE_IPV6), v6);
    code.jump_if_immediate(Jump::NotEqual, R4, on_wire(ETHERTYPE_IPV4), pass);
    // IPv4: 20 bytes of header, neither a first nor a later fragment.
    code.load(Size::Byte, R4, PACKET, 14);
    code.jump_if_immediate(Jump::NotEqual, R4, 0x45, pass);
    code.load(Size::Half, R4, PACKET, 20);
    code.jump_if_immediate(Jump::AnyBit, R4, on_wire(0x3fff), pass);
    code.load(Size::Byte, R4, PACKET, 23);
    code.jump_if_immediate(Jump::NotEqual, R4, PROTOCOL_UDP.into(), pass);
    code.store_immediate(Size::Double, R10, KEY, 0);
    code.store_immediate(Size::Word, R10, KEY + 8, i32::from_ne_bytes([0, 0, 0xff, 0xff]));
    code.load(Size::Word, R4, PACKET, 30);
    code.store(Size::Word, R10, KEY + 12, R4);
    code.load(Size::Half, R4, PACKET, 36);
    code.jump(look_up);
    code.place(v6);
    need(&mut code, 62, pass);
    code.load(Size::Byte, R4, PACKET, 20);
    code.jump_if_immediate(Jump::NotEqual, R4, PROTOCOL_UDP.into(), pass);
    for word in 0..4 {
        code.load(Size::Word, R4, PACKET, 38 + 4 * word);
        code.store(Size::Word, R10, KEY + 4 * word, R4);
    }
    code.load(Size::Half, R4, PACKET, 56);
    code.place(look_up);
    // The port, with the padding: a half-word of zeroes behind it, whatever the host's order of bytes.
    code.store_immediate(Size::Word, R10, KEY + 16, 0);
    code.store(Size::Half, R10, KEY + 16, R4);
    code.load_map(R1, destinations);
    code.copy(R2, R10);
    code.add_immediate(R2, KEY.into());
    code.call(Helper::MapLookup);
    code.jump_if_immediate(Jump::Equal, R0, 0, pass);
    code.load_map(R1, sockets);
    code.load(Size::Word, R2, CONTEXT, XDP_QUEUE);
    code.set(R3, XDP_PASS);
    code.call(Helper::RedirectMap);
    code.exit();
    code.place(pass);
    code.set(R0, XDP_PASS);
    code.exit();
    code.finish()
}

/// Goes to `otherwise` unless the packet has `len` bytes; the verifier wants to see it.
fn need(code: &mut Assembler, len: i32, otherwise: Label) {
    code.copy(R4, PACKET);
    code.add_immediate(R4, len);
    code.jump_if(Jump::Greater, R4, END, otherwise);
}

/// What a half-word in network order reads as.
fn on_wire(value: u16) -> i32 {
    u16::from_ne_bytes(value.to_be_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::super::bpf::tests::has_bpf;
    use super::*;

    #[test]
    fn the_verifier_takes_the_program_for_any_length_of_packets() {
        if !has_bpf() {
            return;
        }
        let sockets = Map::create(MapKind::Sockets, 4, 4, 1).unwrap();
        let destinations = Map::create(MapKind::Hash, KEY_BYTES, 1, 1).unwrap();
        for packet_bytes_max in [1_792, 3_840] {
            let code = assemble(&sockets, &destinations, packet_bytes_max);
            Program::load_xdp(c"fanline", &code).unwrap();
        }
    }
}
