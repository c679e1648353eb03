//! Records between a shard and control: datagrams that are not SRTP, and what str0m answers them.
//!
//! Both directions carry the same thing, a path and the datagram's bytes, through a byte ring.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::io::Path;

/// 16 bytes of remote address, 2 of port, 16 of local address, 1 telling whether there is a local one.
pub const PATH_BYTES: usize = 35;

/// Writes `path` to the front of a record; the rest is the datagram's.
pub fn write_path(record: &mut [u8; PATH_BYTES], path: &Path) {
    let (remote, rest) = record.split_at_mut(16);
    let (port, rest) = rest.split_at_mut(2);
    let (local, known) = rest.split_at_mut(16);
    remote.copy_from_slice(&octets(path.remote.ip()));
    port.copy_from_slice(&path.remote.port().to_be_bytes());
    local.copy_from_slice(&octets(path.local.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))));
    known.fill(u8::from(path.local.is_some()));
}

/// Splits a record into its path and its datagram; `None` if it is too short to be one.
pub fn read(record: &[u8]) -> Option<(Path, &[u8])> {
    let (head, datagram) = record.split_first_chunk::<PATH_BYTES>()?;
    let (remote, rest) = head.split_first_chunk::<16>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (local, known) = rest.split_first_chunk::<16>()?;
    let path = Path {
        remote: SocketAddr::new(address(remote), u16::from_be_bytes(*port)),
        local: (known.first() == Some(&1)).then(|| address(local)),
    };
    Some((path, datagram))
}

/// IPv4 travels as its IPv4-mapped form (RFC 4291 §2.5.5.2).
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn address(octets: &[u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(*octets);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), |v4: Ipv4Addr| IpAddr::V4(v4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_both_families_round_trip() {
        for (remote, local) in [
            ("192.0.2.1:5000", Some("198.51.100.7")),
            ("[2001:db8::1]:65535", Some("2001:db8::2")),
            ("127.0.0.1:1", None),
        ] {
            let path = Path { remote: remote.parse().unwrap(), local: local.map(|ip| ip.parse().unwrap()) };
            let mut record = [0; PATH_BYTES + 3];
            write_path(record.first_chunk_mut().unwrap(), &path);
            record[PATH_BYTES..].copy_from_slice(b"abc");
            assert_eq!(read(&record), Some((path, &b"abc"[..])));
        }
        assert_eq!(read(&[0; PATH_BYTES - 1]), None);
    }
}
