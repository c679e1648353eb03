//! VP8's payload descriptor (RFC 7741 §4.2): the start of key frames, temporal layers, and the two counters
//! that a viewer expects to be continuous: the picture id and TL0PICIDX.
#![deny(clippy::indexing_slicing)]

/// The fields of one descriptor that matter to a forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes before the VP8 payload.
    pub len: usize,
    pub picture_id: Option<PictureId>,
    pub tl0_picture_index: Option<Tl0PictureIndex>,
    pub temporal: Option<TemporalLayer>,
    /// S is set and PID is 0: the packet opens its frame.
    pub starts_frame: bool,
}

/// TID and Y.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemporalLayer {
    /// 0 to 3.
    pub id: u8,
    /// The frame is predicted from temporal layer 0 alone.
    pub syncs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureId {
    /// Where in the payload its first byte is.
    pub at: usize,
    /// 7 or 15.
    pub bits: u32,
    pub value: u16,
}

/// A running index of temporal base layer frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tl0PictureIndex {
    /// Where in the payload it is.
    pub at: usize,
    pub value: u8,
}

impl Descriptor {
    /// `None` if the payload ends inside its descriptor.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut at = 0;
        let mut next = || {
            let byte = payload.get(at).copied();
            at += 1;
            byte.map(|byte| (at - 1, byte))
        };
        let (_, first) = next()?;
        let flags = if first & 0x80 != 0 { next()?.1 } else { 0 };
        let mut picture_id = None;
        if flags & 0x80 != 0 {
            let (at, high) = next()?;
            picture_id = Some(if high & 0x80 == 0 {
                PictureId { at, bits: 7, value: high.into() }
            } else {
                let (_, low) = next()?;
                PictureId { at, bits: 15, value: u16::from_be_bytes([high & 0x7f, low]) }
            });
        }
        let mut tl0_picture_index = None;
        if flags & 0x40 != 0 {
            let (at, value) = next()?;
            tl0_picture_index = Some(Tl0PictureIndex { at, value });
        }
        let mut temporal = None;
        if flags & 0x30 != 0 {
            let (_, byte) = next()?;
            let layer = TemporalLayer { id: byte >> 6, syncs: byte & 0x20 != 0 };
            temporal = (flags & 0x20 != 0).then_some(layer);
        }
        let starts_frame = first & 0x17 == 0x10;
        Some(Self { len: at, picture_id, tl0_picture_index, temporal, starts_frame })
    }
}

impl PictureId {
    /// Puts another value, modulo its size, in the place of this one.
    pub fn write(&self, payload: &mut [u8], value: u16) {
        let [high, low] = value.to_be_bytes();
        match (self.bits, payload.get_mut(self.at..)) {
            (7, Some([to, ..])) => *to = low & 0x7f,
            (_, Some([to_high, to_low, ..])) => [*to_high, *to_low] = [high | 0x80, low],
            _ => {}
        }
    }
}

impl Tl0PictureIndex {
    pub fn write(&self, payload: &mut [u8], value: u8) {
        if let Some(to) = payload.get_mut(self.at) {
            *to = value;
        }
    }
}

/// The lowest bit of the frame tag is clear in key frames (RFC 6386 §9.1).
pub(super) fn starts_key_frame(payload: &[u8]) -> bool {
    let Some(descriptor) = Descriptor::parse(payload).filter(|descriptor| descriptor.starts_frame) else {
        return false;
    };
    payload.get(descriptor.len).is_some_and(|tag| tag & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As Chromium sends it: X, then I L T K, a long picture id, TL0PICIDX, TID and KEYIDX.
    const FULL: [u8; 7] = [0x90, 0xf0, 0x92, 0x34, 0x56, 0x07, 0x10];

    #[test]
    fn every_field_is_found_where_it_stands() {
        let descriptor = Descriptor::parse(&FULL).unwrap();
        assert_eq!(descriptor.picture_id, Some(PictureId { at: 2, bits: 15, value: 0x1234 }));
        assert_eq!(descriptor.tl0_picture_index, Some(Tl0PictureIndex { at: 4, value: 0x56 }));
        assert_eq!(descriptor.len, 6);
        assert_eq!(descriptor.temporal, Some(TemporalLayer { id: 0, syncs: false }));
        let short = Descriptor::parse(&[0x80, 0x80, 0x7f, 0]).unwrap();
        assert_eq!(short.picture_id, Some(PictureId { at: 2, bits: 7, value: 0x7f }));
        assert_eq!((short.tl0_picture_index, short.starts_frame, short.len), (None, false, 3));
        assert_eq!(Descriptor::parse(&[0x90, 0xf0, 0x92]), None, "cut off");
        let layered = Descriptor::parse(&[0x90, 0x20, 0xa0]).unwrap();
        assert_eq!(layered.temporal, Some(TemporalLayer { id: 2, syncs: true }));
        let keyed = Descriptor::parse(&[0x90, 0x10, 0xff]).unwrap();
        assert_eq!((keyed.temporal, keyed.len), (None, 3), "KEYIDX without TID");
    }

    #[test]
    fn key_frame_starts_with_the_first_packet_of_its_first_partition() {
        assert!(starts_key_frame(&FULL));
        assert!(starts_key_frame(&[0x10, 0x00]));
        assert!(!starts_key_frame(&[0x10, 0x01]), "a delta frame");
        assert!(!starts_key_frame(&[0x00, 0x00]), "the middle of a frame");
        assert!(!starts_key_frame(&[0x11, 0x00]), "the second partition");
        assert!(!starts_key_frame(&[0x10]), "a descriptor alone");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            mut payload in prop::collection::vec(any::<u8>(), 0..12),
            picture: u16,
            index: u8,
        ) {
            let Some(before) = Descriptor::parse(&payload) else { return Ok(()) };
            if let Some(id) = before.picture_id {
                id.write(&mut payload, picture);
            }
            if let Some(tl0) = before.tl0_picture_index {
                tl0.write(&mut payload, index);
            }
            let after = Descriptor::parse(&payload).expect("the shape stays");
            let id = before.picture_id.map(|id| PictureId { value: picture & ((1 << id.bits) - 1), ..id });
            prop_assert_eq!(after.picture_id, id);
            let tl0 = before.tl0_picture_index.map(|tl0| Tl0PictureIndex { value: index, ..tl0 });
            prop_assert_eq!(after.tl0_picture_index, tl0);
            prop_assert_eq!((after.len, after.starts_frame), (before.len, before.starts_frame));
        }
    }
}
