//! The RTP header (RFC 3550 §5.1) and its extension elements (RFC 8285), as a view over a packet.
//!
//! Relies on SRTP leaving the whole header, CSRCs and extension block included, in clear: [`Header::parse`]
//! works on the packet as it came from the wire. The padding is inside the encryption, so only
//! [`Header::payload_len`] asks for the decrypted packet. Deliberately absent: the CSRC list, which no
//! forwarder needs, and writing, which is `template`.
#![deny(clippy::indexing_slicing)]

use crate::drop_reason::DropReason;
use std::ops::Range;

/// Length of the fixed part of an RTP header, in bytes.
pub const FIXED_LEN: usize = 12;

/// The profile value that announces one-byte extension elements (RFC 8285 §4.2).
pub(super) const ONE_BYTE_PROFILE: u16 = 0xbede;
/// The profile value that announces two-byte elements; its low four bits are "appbits" (RFC 8285 §4.3).
pub(super) const TWO_BYTE_PROFILE: u16 = 0x1000;

/// What an RTP packet says about itself before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    /// Bytes before the payload: fixed part, CSRCs and extension block.
    pub len: usize,
    /// Where the first extension element starts; `len` if there is none.
    extension_start: usize,
    form: ElementForm,
    padding: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ElementForm {
    /// No extension block, or one whose profile is not of RFC 8285: nothing to iterate.
    None,
    OneByte,
    TwoByte,
}

impl ElementForm {
    fn of_profile(profile: u16) -> Self {
        match profile {
            ONE_BYTE_PROFILE => Self::OneByte,
            _ if profile & 0xfff0 == TWO_BYTE_PROFILE => Self::TwoByte,
            _ => Self::None,
        }
    }
}

impl Header {
    /// Reads the header of an RTP or SRTP packet.
    ///
    /// `MalformedRtp` if the version is not 2 or the packet ends before its header does.
    pub fn parse(packet: &[u8]) -> Result<Self, DropReason> {
        Self::parse_fixed(packet).ok_or(DropReason::MalformedRtp)
    }

    fn parse_fixed(packet: &[u8]) -> Option<Self> {
        let &[flags, marker_and_type, s0, s1, t0, t1, t2, t3, r0, r1, r2, r3] =
            packet.first_chunk::<FIXED_LEN>()?;
        if flags >> 6 != 2 {
            return None;
        }
        let fixed_and_csrcs = FIXED_LEN + 4 * usize::from(flags & 0x0f);
        let (extension_start, len, form) = if flags & 0x10 != 0 {
            let &[p0, p1, l0, l1] = packet.get(fixed_and_csrcs..)?.first_chunk::<4>()?;
            let start = fixed_and_csrcs + 4;
            let words = usize::from(u16::from_be_bytes([l0, l1]));
            (start, start + 4 * words, ElementForm::of_profile(u16::from_be_bytes([p0, p1])))
        } else {
            (fixed_and_csrcs, fixed_and_csrcs, ElementForm::None)
        };
        (len <= packet.len()).then_some(Self {
            marker: marker_and_type & 0x80 != 0,
            payload_type: marker_and_type & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([r0, r1, r2, r3]),
            len,
            extension_start,
            form,
            padding: flags & 0x20 != 0,
        })
    }

    /// The extension elements of `packet`, the one this header was parsed from, as `(id, value)`.
    ///
    /// A block that breaks off in the middle of an element yields the elements before it.
    pub fn extensions<'a>(&self, packet: &'a [u8]) -> Extensions<'a> {
        Extensions {
            header: packet.get(..self.len).unwrap_or(&[]),
            at: self.extension_start,
            form: self.form,
        }
    }

    /// Bytes of payload in `packet`, decrypted and without its authentication tag, less the RTP padding.
    ///
    /// `MalformedRtp` if the padding count is 0 or reaches into the header (RFC 3550 §5.1).
    pub fn payload_len(&self, packet: &[u8]) -> Result<usize, DropReason> {
        let payload_and_padding = packet.get(self.len..).ok_or(DropReason::MalformedRtp)?;
        if !self.padding {
            return Ok(payload_and_padding.len());
        }
        match payload_and_padding.last() {
            Some(&count) if count != 0 => {
                payload_and_padding.len().checked_sub(usize::from(count)).ok_or(DropReason::MalformedRtp)
            }
            _ => Err(DropReason::MalformedRtp),
        }
    }
}

/// Iterates the extension elements of one packet as `(id, value)`.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    header: &'a [u8],
    at: usize,
    form: ElementForm,
}

impl Extensions<'_> {
    /// The next element's id and where in the packet its value is.
    pub(super) fn next_range(&mut self) -> Option<(u8, Range<usize>)> {
        while self.header.get(self.at) == Some(&0) {
            self.at += 1;
        }
        let first = *self.header.get(self.at)?;
        let (id, start, len) = match self.form {
            ElementForm::None => return None,
            ElementForm::OneByte => (first >> 4, self.at + 1, usize::from(first & 0x0f) + 1),
            ElementForm::TwoByte => (first, self.at + 2, usize::from(*self.header.get(self.at + 1)?)),
        };
        // Of the one-byte form, 15 ends the block, and a padding id with a length is no padding
        // (RFC 8285 §4.2).
        if self.form == ElementForm::OneByte && matches!(id, 0 | 15) {
            self.at = self.header.len();
            return None;
        }
        self.at = start + len;
        (self.at <= self.header.len()).then_some((id, start..start + len))
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (id, range) = self.next_range()?;
        Some((id, self.header.get(range)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(flags: u8, after_fixed: &[u8]) -> Vec<u8> {
        let mut packet = vec![flags, 0xe0, 0x12, 0x34, 0, 0, 0, 5, 0xde, 0xad, 0xbe, 0xef];
        packet.extend_from_slice(after_fixed);
        packet
    }

    fn elements(packet: &[u8]) -> Vec<(u8, Vec<u8>)> {
        Header::parse(packet).unwrap().extensions(packet).map(|(id, value)| (id, value.to_vec())).collect()
    }

    #[test]
    fn fixed_fields_are_read_and_csrcs_belong_to_the_header() {
        let packet = packet(0x82, &[1, 1, 1, 1, 2, 2, 2, 2, 0xaa]);
        let header = Header::parse(&packet).unwrap();
        assert_eq!((header.marker, header.payload_type, header.sequence), (true, 96, 0x1234));
        assert_eq!((header.timestamp, header.ssrc, header.len), (5, 0xdead_beef, 20));
        assert_eq!(header.payload_len(&packet), Ok(1));
        assert_eq!(header.extensions(&packet).next(), None);
    }

    #[test]
    fn one_byte_elements_are_read_over_padding() {
        // The example of RFC 8285 §4.2: 1 byte, 2 bytes, padding, 4 bytes.
        let block = [0xbe, 0xde, 0, 3, 0x10, 0xa0, 0x21, 0xb0, 0xb1, 0, 0, 0x33, 0xc0, 0xc1, 0xc2, 0xc3];
        let packet = packet(0x90, &block);
        assert_eq!(Header::parse(&packet).unwrap().len, 28);
        assert_eq!(
            elements(&packet),
            [(1, vec![0xa0]), (2, vec![0xb0, 0xb1]), (3, vec![0xc0, 0xc1, 0xc2, 0xc3])]
        );
    }

    #[test]
    fn two_byte_elements_may_be_empty_and_have_high_ids() {
        // The example of RFC 8285 §4.3: an empty element, one byte, padding, four bytes.
        let block = [0x10, 0x05, 0, 3, 1, 0, 2, 1, 0xb0, 0, 200, 4, 1, 2, 3, 4];
        assert_eq!(elements(&packet(0x90, &block)), [(1, vec![]), (2, vec![0xb0]), (200, vec![1, 2, 3, 4])]);
    }

    #[test]
    fn id_15_ends_a_one_byte_block() {
        let block = [0xbe, 0xde, 0, 1, 0x10, 7, 0xf0, 0x20];
        assert_eq!(elements(&packet(0x90, &block)), [(1, vec![7])]);
    }

    #[test]
    fn truncated_element_ends_the_block_and_not_the_packet() {
        let block = [0xbe, 0xde, 0, 1, 0x10, 7, 0x25, 1];
        assert_eq!(elements(&packet(0x90, &block)), [(1, vec![7])]);
    }

    #[test]
    fn foreign_profile_has_no_elements_but_a_length() {
        let block = [0xab, 0xcd, 0, 1, 0x10, 7, 0x20, 1, 0xff];
        let packet = packet(0x90, &block);
        assert_eq!(elements(&packet), []);
        assert_eq!(Header::parse(&packet).unwrap().payload_len(&packet), Ok(1));
    }

    #[test]
    fn padding_is_taken_off_and_must_fit() {
        let with_padding = |payload: &[u8]| {
            let packet = packet(0xa0, payload);
            Header::parse(&packet).unwrap().payload_len(&packet)
        };
        assert_eq!(with_padding(&[1, 2, 0, 0, 3]), Ok(2));
        assert_eq!(with_padding(&[0, 0, 3]), Ok(0), "a probe is padding only");
        for bad in [&[][..], &[1, 0], &[1, 3]] {
            assert_eq!(with_padding(bad), Err(DropReason::MalformedRtp), "{bad:?}");
        }
    }

    #[test]
    fn short_packet_and_other_versions_are_malformed() {
        let short_block = packet(0x90, &[0xbe, 0xde, 0, 1, 0]);
        let short_csrcs = packet(0x81, &[]);
        let version_1 = packet(0x40, &[]);
        for bad in [&[][..], &short_block, &short_csrcs, &version_1, &packet(0x80, &[])[..11]] {
            assert_eq!(Header::parse(bad), Err(DropReason::MalformedRtp), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), first in 0x80u8..0xc0) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert!(header.extensions(&bytes).count() <= bytes.len());
                let payload = header.payload_len(&bytes).unwrap_or(0);
                prop_assert!(header.len + payload <= bytes.len());
            }
        }
    }
}
