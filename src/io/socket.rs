//! Opens the UDP socket that every backend on kernel sockets uses, and speaks its address family.
//!
//! An unspecified address means everything the host has: one IPv6 socket that takes IPv4 too, or a plain
//! IPv4 socket on a host without IPv6. Addresses above this file are canonical; [`UdpEndpoint`] maps them
//! into the family of its socket on the way down.
//!
//! Deliberately absent: `SO_REUSEPORT`. A shard has its own port, so a port in use is a mistake to report.
//! Absent too is `IP_RECVERR`: with it, an ICMP error caused by one peer would make the next send to any other
//! peer fail (`sock_error` in `sock_alloc_send_pskb`). Without it an unconnected socket never hears of ICMP;
//! that a peer is gone is noticed by ICE consent.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Once;

use super::Path;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

/// A bound, still blocking UDP socket.
#[derive(Debug)]
pub(super) struct UdpEndpoint {
    socket: Socket,
    local: SocketAddr,
}

/// A UDP port could not be opened. Its text names the address and the remedy.
#[derive(Debug)]
pub struct BindError {
    pub addr: SocketAddr,
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, source } = self;
        write!(f, "cannot open UDP {addr}: ")?;
        match source.kind() {
            ErrorKind::AddrInUse => {
                write!(f, "the port is in use; stop its owner (`ss -ulpn`) or choose another with --udp-port")
            }
            ErrorKind::AddrNotAvailable => {
                write!(f, "this host has no such address; `ip address` shows which it has")
            }
            ErrorKind::PermissionDenied => {
                write!(f, "not permitted; choose a port from 1024 up with --udp-port")
            }
            _ => write!(f, "{source}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl UdpEndpoint {
    /// Binds `addr`. `[::]` takes both families, or IPv4 alone on a host without IPv6; any other address
    /// its own family.
    pub(super) fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let opened = Self::open(addr).or_else(|error| {
            let stand_in = addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && lacks_ipv6(&error);
            if stand_in { Self::open((Ipv4Addr::UNSPECIFIED, addr.port()).into()) } else { Err(error) }
        });
        opened.map_err(|source| BindError { addr, source })
    }

    fn open(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        socket.bind(&addr.into())?;
        let local = socket.local_addr()?.as_socket().unwrap_or(addr);
        Ok(Self { socket, local })
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// `addr` as this socket's family writes it: an IPv6 socket reaches IPv4 by mapped addresses.
    pub(super) fn in_our_family(&self, addr: SocketAddr) -> SocketAddr {
        match addr.ip() {
            IpAddr::V4(ip) if self.local.is_ipv6() => (ip.to_ipv6_mapped(), addr.port()).into(),
            _ => addr,
        }
    }

    /// Asks for socket buffers of these sizes and says, once per process, if the kernel gave less.
    pub(super) fn set_buffers(&self, receive_bytes: usize, send_bytes: usize) {
        // The kernel cuts to its limit without an error, and reports twice what it granted (socket(7)).
        let granted =
            |set: io::Result<()>, get: io::Result<usize>| set.and(get).map_or(0, |doubled| doubled / 2);
        let receive =
            granted(self.socket.set_recv_buffer_size(receive_bytes), self.socket.recv_buffer_size());
        let send = granted(self.socket.set_send_buffer_size(send_bytes), self.socket.send_buffer_size());
        if receive < receive_bytes || send < send_bytes {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                warn!(
                    "socket buffers are smaller than wanted: receive {receive} of {receive_bytes}, send {send} \
                     of {send_bytes} bytes; bursts may be lost. Raise net.core.rmem_max and net.core.wmem_max"
                );
            });
        }
    }
}

impl UdpEndpoint {
    /// The path without its local address if packets leave from there anyway: naming the source in each send costs
    /// the kernel a look at its addresses, about 200 ns of 2,800.
    pub(super) fn lightest(&self, path: Path) -> Path {
        let is_usual = match path.local {
            Some(local) if self.local.ip().is_unspecified() => source_towards(path.remote) == Some(local),
            Some(local) => self.local.ip().to_canonical() == local,
            None => true,
        };
        if is_usual { Path { local: None, ..path } } else { path }
    }
}

/// The address from which the routing table sends to `remote`.
fn source_towards(remote: SocketAddr) -> Option<IpAddr> {
    let probe = Socket::new(Domain::for_address(remote), Type::DGRAM, Some(Protocol::UDP)).ok()?;
    // Connecting a UDP socket looks the route up and sends nothing.
    probe.connect(&remote.into()).ok()?;
    Some(probe.local_addr().ok()?.as_socket()?.ip())
}

impl AsFd for UdpEndpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether opening `[::]` failed because IPv6 is compiled out, blocked or disabled on this host.
fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_together_with_the_flag_that_changes_it() {
        let first = UdpEndpoint::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let error = UdpEndpoint::bind(first.local_addr()).unwrap_err().to_string();
        assert!(error.contains(&first.local_addr().to_string()), "{error}");
        assert!(error.contains("--udp-port"), "{error}");
    }

    #[test]
    fn source_is_named_only_where_the_routing_table_would_choose_another() {
        let any = UdpEndpoint::bind(([0, 0, 0, 0], 0).into()).unwrap();
        let path = |local: [u8; 4]| Path { remote: ([127, 0, 0, 5], 9).into(), local: Some(local.into()) };
        assert_eq!(any.lightest(path([127, 0, 0, 1])).local, None);
        assert_eq!(any.lightest(path([127, 0, 0, 2])), path([127, 0, 0, 2]));
        let one = UdpEndpoint::bind(([127, 0, 0, 2], 0).into()).unwrap();
        assert_eq!(one.lightest(path([127, 0, 0, 2])).local, None, "it is bound there");
    }

    #[test]
    fn an_address_of_another_host_is_refused_with_a_remedy() {
        let error = UdpEndpoint::bind(([203, 0, 113, 7], 0).into()).unwrap_err().to_string();
        assert!(error.contains("203.0.113.7") && error.contains("ip address"), "{error}");
    }

    #[test]
    fn any_address_means_both_families() {
        let any = UdpEndpoint::bind(([0, 0, 0, 0], 0).into()).unwrap();
        assert!(any.local_addr().ip().is_unspecified());
        let v4 = SocketAddr::from(([192, 0, 2, 1], 9));
        match any.local_addr() {
            SocketAddr::V6(_) => assert_eq!(any.in_our_family(v4), "[::ffff:192.0.2.1]:9".parse().unwrap()),
            SocketAddr::V4(_) => assert_eq!(any.in_our_family(v4), v4),
        }
    }
}
