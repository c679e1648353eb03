//! The addresses that clients have: one each, by its number in a prefix that is local to the host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A prefix, like 127.64.0.0/10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    first: IpAddr,
    len: u8,
}

impl Prefix {
    /// `first` is the first address of a prefix of this length.
    pub fn new(first: IpAddr, len: u8) -> Self {
        Self { first, len }
    }

    pub fn first(self) -> IpAddr {
        self.first
    }

    pub fn len(self) -> u8 {
        self.len
    }

    pub fn is_ipv6(self) -> bool {
        self.first.is_ipv6()
    }

    pub fn is_loopback(self) -> bool {
        self.first.is_loopback()
    }

    /// How many clients it has addresses for.
    pub fn capacity(self) -> usize {
        let bits = if self.is_ipv6() { 128 } else { 32 } - u32::from(self.len);
        1_usize.checked_shl(bits).unwrap_or(usize::MAX)
    }

    /// The address of client `number`, which is below the capacity.
    pub fn address(self, number: usize) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() | number as u32).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | number as u128).into(),
        }
    }

    /// The client with this address, if it is of the prefix.
    pub fn number(self, address: IpAddr) -> Option<usize> {
        let number = match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                usize::try_from(address.to_bits() ^ first.to_bits()).ok()
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                usize::try_from(address.to_bits() ^ first.to_bits()).ok()
            }
            _ => None,
        };
        number.filter(|number| *number < self.capacity())
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a prefix; write one like 127.64.0.0/10 or 2001:db8::/64".to_owned();
        let (first, len) = text.split_once('/').ok_or_else(wrong)?;
        let first: IpAddr = first.parse().map_err(|_| wrong())?;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let len: u8 = len.parse().ok().filter(|len| *len <= bits).ok_or_else(wrong)?;
        let is_first = match first {
            IpAddr::V4(ip) => ip.to_bits().trailing_zeros() + u32::from(len) >= 32,
            IpAddr::V6(ip) => ip.to_bits().trailing_zeros() + u32::from(len) >= 128,
        };
        if !is_first {
            return Err(format!("{first} has bits beyond /{len}; write the prefix's first address"));
        }
        Ok(Self { first, len })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_one_address_and_an_address_one_client() {
        for prefix in ["127.64.0.0/10", "2001:db8::/64"] {
            let prefix: Prefix = prefix.parse().unwrap();
            for number in [0, 1, 255, 256, 70_000] {
                assert_eq!(prefix.number(prefix.address(number)), Some(number));
            }
        }
        let prefix: Prefix = "10.0.0.0/30".parse().unwrap();
        assert_eq!(prefix.capacity(), 4);
        assert_eq!(prefix.number("10.0.0.4".parse().unwrap()), None);
        assert_eq!(prefix.number("::1".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_prefix_is_refused_with_the_form_to_write() {
        for wrong in ["127.0.0.1", "127.0.0.1/8", "10.0.0.0/33", "x/8", ""] {
            assert!(wrong.parse::<Prefix>().unwrap_err().contains("write"), "{wrong}");
        }
    }
}
