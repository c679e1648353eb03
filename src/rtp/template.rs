//! An RTP header built once and sent many times.
//!
//! A track's packet goes to every subscriber of one shape (payload type, extension ids) with the same
//! header but for sequence, timestamp, SSRC and a few element values. So the header is laid out once per
//! shape, copied per subscriber, and [`patch`]ed there. Deliberately absent: CSRCs (we never mix) and any
//! knowledge of what an element means.
#![deny(clippy::indexing_slicing)]

use super::header::{FIXED_LEN, Header, ONE_BYTE_PROFILE, TWO_BYTE_PROFILE};

/// The most bytes a header may take: the fixed part, every extension we forward at its usual size
/// (about 60 bytes) and a dependency descriptor with its template structure (up to about 150 bytes).
/// A multiple of 4, so that the padding of the block always fits.
pub const HEADER_LEN_MAX: usize = 256;

const BLOCK_HEADER_LEN: usize = 4;
const ELEMENTS_START: usize = FIXED_LEN + BLOCK_HEADER_LEN;

/// A complete RTP header whose sequence, timestamp and SSRC are still zero.
#[derive(Clone, Debug)]
pub struct HeaderTemplate {
    bytes: [u8; HEADER_LEN_MAX],
    len: usize,
    one_byte_form: bool,
    remembered: Option<usize>,
}

impl HeaderTemplate {
    pub fn new(marker: bool, payload_type: u8) -> Self {
        let mut bytes = [0; HEADER_LEN_MAX];
        if let Some(start) = bytes.first_chunk_mut() {
            *start = [0x80, u8::from(marker) << 7 | payload_type & 0x7f];
        }
        Self { bytes, len: ELEMENTS_START, one_byte_form: true, remembered: None }
    }

    /// Adds an extension element. False, and nothing is added, if it does not fit any more or no form can
    /// carry it (id 0, more than 255 bytes). To be called before [`finish`](Self::finish).
    ///
    /// An id above 14 or a value of other than 1..=16 bytes puts the whole block in two-byte form, which
    /// only a receiver that accepted `extmap-allow-mixed` may be sent beside one-byte blocks (RFC 8285 §6).
    pub fn push(&mut self, id: u8, value: &[u8]) -> bool {
        let Ok(value_len) = u8::try_from(value.len()) else { return false };
        let end = self.len + 2 + value.len();
        let Some([to_id, to_len, to_value @ ..]) = self.bytes.get_mut(self.len..end) else { return false };
        if id == 0 {
            return false;
        }
        // All elements wait here in two-byte form; `finish` knows whether the shorter one will do.
        (*to_id, *to_len) = (id, value_len);
        to_value.copy_from_slice(value);
        self.one_byte_form &= id <= 14 && (1..=16).contains(&value_len);
        self.len = end;
        true
    }

    /// Closes the header: chooses the form of the elements and pads the block to 32 bits.
    pub fn finish(&mut self) {
        if self.len == ELEMENTS_START {
            self.len = FIXED_LEN;
            return;
        }
        if self.one_byte_form {
            self.shorten_elements();
        }
        let padded = self.len.next_multiple_of(4);
        if let Some(padding) = self.bytes.get_mut(self.len..padded) {
            padding.fill(0);
        }
        self.len = padded;
        let profile = if self.one_byte_form { ONE_BYTE_PROFILE } else { TWO_BYTE_PROFILE };
        let words = ((padded - ELEMENTS_START) / 4) as u16;
        let [flags, _, _, _, _, _, _, _, _, _, _, _, p0, p1, l0, l1, ..] = &mut self.bytes;
        *flags |= 0x10;
        [*p0, *p1] = profile.to_be_bytes();
        [*l0, *l1] = words.to_be_bytes();
    }

    /// Rewrites the elements from two-byte to one-byte form in place; each moves towards the front.
    fn shorten_elements(&mut self) {
        let (mut from, mut to) = (ELEMENTS_START, ELEMENTS_START);
        while let Some(&[id, value_len]) = self.bytes.get(from..self.len).and_then(<[u8]>::first_chunk::<2>) {
            let value_end = from + 2 + usize::from(value_len);
            self.bytes.copy_within(from + 2..value_end, to + 1);
            if let Some(first) = self.bytes.get_mut(to) {
                *first = id << 4 | (value_len - 1);
            }
            to += 1 + usize::from(value_len);
            from = value_end;
        }
        self.len = to;
    }

    /// The whole header. To be called after [`finish`](Self::finish).
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Remembers where the value of element `id` is, which each packet that leaves has for itself. To be called after
    /// [`finish`](Self::finish).
    pub fn remember(&mut self, id: u8) {
        self.remembered = self.offset_of(id);
    }

    /// Where the remembered value starts, if there is one.
    pub fn remembered(&self) -> Option<usize> {
        self.remembered
    }

    /// Where in the header the value of element `id` starts.
    pub fn offset_of(&self, id: u8) -> Option<usize> {
        let mut elements = Header::parse(self.as_bytes()).ok()?.extensions(self.as_bytes());
        std::iter::from_fn(|| elements.next_range())
            .find(|&(known, _)| known == id)
            .map(|(_, range)| range.start)
    }
}

/// Sets the marker bit.
pub fn mark(header: &mut [u8]) {
    if let Some(marker_and_type) = header.get_mut(1) {
        *marker_and_type |= 0x80;
    }
}

/// Puts a value of two bytes at a place in an element.
pub fn put_u16(header: &mut [u8], at: usize, value: u16) {
    if let Some(place) = header.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_be_bytes();
    }
}

/// Writes the three fields that differ per subscriber into a copy of a template.
pub fn patch(header: &mut [u8], sequence: u16, timestamp: u32, ssrc: u32) {
    debug_assert!(header.len() >= FIXED_LEN, "a template is a whole header");
    let [s0, s1] = sequence.to_be_bytes();
    let [t0, t1, t2, t3] = timestamp.to_be_bytes();
    let [r0, r1, r2, r3] = ssrc.to_be_bytes();
    if let Some(fields) = header.get_mut(2..).and_then(<[u8]>::first_chunk_mut::<10>) {
        *fields = [s0, s1, t0, t1, t2, t3, r0, r1, r2, r3];
    }
}

/// Sets the P bit of a header and writes `padding` bytes, 1..=255, to the front of `to`: zeros, and the count as
/// the last (RFC 3550 §5.1). `to` has room for them.
pub fn pad(header: &mut [u8], to: &mut [u8], padding: u8) {
    debug_assert!(padding > 0, "no padding is no padding bit");
    let (Some(flags), Some(to)) = (header.first_mut(), to.get_mut(..usize::from(padding))) else { return };
    to.fill(0);
    if let Some(count) = to.last_mut() {
        *flags |= 0x20;
        *count = padding;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finished(elements: &[(u8, &[u8])]) -> HeaderTemplate {
        let mut template = HeaderTemplate::new(true, 111);
        for (id, value) in elements {
            assert!(template.push(*id, value));
        }
        template.finish();
        template
    }

    #[test]
    fn header_without_elements_has_no_extension_block() {
        assert_eq!(finished(&[]).as_bytes(), [0x80, 0x80 | 111, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn small_elements_take_the_one_byte_form() {
        let template = finished(&[(1, &[0xa0]), (14, &[7; 16])]);
        let bytes = template.as_bytes();
        assert_eq!(bytes[12..18], [0xbe, 0xde, 0, 5, 0x10, 0xa0]);
        assert_eq!(bytes[18], 0xef);
        assert_eq!(bytes.len(), 36);
        assert_eq!(template.offset_of(14), Some(19));
        assert_eq!(template.offset_of(2), None);
    }

    #[test]
    fn one_large_id_or_value_puts_all_elements_in_two_byte_form() {
        for last in [(15, &[9][..]), (2, &[9; 17]), (2, &[])] {
            let template = finished(&[(1, &[0xa0]), last]);
            assert_eq!(template.as_bytes()[12..14], [0x10, 0x00], "{last:?}");
            assert_eq!(template.offset_of(1), Some(18));
        }
    }

    #[test]
    fn element_that_does_not_fit_is_skipped_and_a_later_small_one_is_not() {
        let mut template = HeaderTemplate::new(false, 96);
        assert!(template.push(1, &[1; 200]));
        assert!(!template.push(2, &[2; 100]));
        assert!(!template.push(0, &[2]));
        assert!(template.push(3, &[3; 36]), "exactly full");
        assert!(!template.push(4, &[]));
        template.finish();
        assert_eq!(template.as_bytes().len(), HEADER_LEN_MAX);
        assert_eq!((template.offset_of(2), template.offset_of(3)), (None, Some(220)));
    }

    #[test]
    fn patch_writes_sequence_timestamp_and_ssrc_only() {
        let template = finished(&[(3, &[0; 2])]);
        let mut bytes = template.as_bytes().to_vec();
        patch(&mut bytes, 0xfffe, 0x0102_0304, 0xdead_beef);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.sequence, header.timestamp, header.ssrc), (0xfffe, 0x0102_0304, 0xdead_beef));
        assert_eq!((header.marker, header.payload_type, header.len), (true, 111, 20));
        assert_eq!(bytes[12..], template.as_bytes()[12..]);
    }

    #[test]
    fn value_put_at_the_remembered_place_changes_nothing_else() {
        let mut template = finished(&[(3, &[7]), (5, &[0; 2])]);
        assert_eq!(template.remembered(), None);
        template.remember(5);
        let mut bytes = template.as_bytes().to_vec();
        put_u16(&mut bytes, template.remembered().unwrap(), 0xabcd);
        let header = Header::parse(&bytes).unwrap();
        let elements: Vec<_> = header.extensions(&bytes).collect();
        assert_eq!(elements, [(3, &[7][..]), (5, &[0xab, 0xcd])]);
    }

    #[test]
    fn padding_is_what_a_parser_takes_off_again() {
        let mut packet = finished(&[(3, &[0; 2])]).as_bytes().to_vec();
        let header_len = packet.len();
        packet.extend([7; 30 + 20]);
        let (head, rest) = packet.split_at_mut(header_len);
        pad(head, &mut rest[30..], 20);
        let header = Header::parse(&packet).unwrap();
        assert_eq!(header.payload_len(&packet), Ok(30));
        assert_eq!(packet[header_len..][..30], [7; 30]);
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_parsed_again(
            elements in prop::collection::vec((1u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            small_only: bool,
        ) {
            let mut template = HeaderTemplate::new(false, 96);
            let mut pushed = vec![];
            for (id, mut value) in elements {
                let id = if small_only { id % 14 + 1 } else { id };
                value.truncate(if small_only { 16 } else { 40 });
                if template.push(id, &value) {
                    pushed.push((id, value));
                }
            }
            template.finish();
            let bytes = template.as_bytes();
            let header = Header::parse(bytes).unwrap();
            prop_assert_eq!(header.len, bytes.len());
            let parsed: Vec<_> = header.extensions(bytes).map(|(id, value)| (id, value.to_vec())).collect();
            prop_assert_eq!(&parsed, &pushed);
            if let Some((id, value)) = pushed.first() {
                let at = template.offset_of(*id).unwrap();
                prop_assert_eq!(&bytes[at..at + value.len()], &value[..]);
            }
        }
    }
}
