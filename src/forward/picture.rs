//! Keeps what counts pictures and frames continuous for one subscriber over switches of encoding: the picture
//! counters in VP8 payloads, the frame numbers of dependency descriptors.
//!
//! Every encoder counts from a number of its own; to a viewer, a jump of the picture id or of TL0PICIDX is a
//! loss that it waits for (RFC 7741 §4.2), and frames whose numbers go back are old ones. All are moved by an
//! offset that a switch sets.

use crate::rtp::codec::vp8::{Descriptor, PictureId};

/// The counters of a VP8 packet as they leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureCounters {
    id: u16,
    tl0: u8,
}

impl PictureCounters {
    /// Writes them over those of the payload that `descriptor` was read from.
    pub fn write(&self, descriptor: &Descriptor, payload: &mut [u8]) {
        if let Some(id) = descriptor.picture_id {
            id.write(payload, self.id);
        }
        if let Some(tl0) = descriptor.tl0_picture_index {
            tl0.write(payload, self.tl0);
        }
    }
}

/// What to add to a leg's counters, and how far they have come.
#[derive(Debug, Clone, Copy, Default)]
pub struct PictureNumbering {
    id_offset: u16,
    last_id: u16,
    tl0_offset: u8,
    last_tl0: u8,
    /// Whether a packet with a picture id has left, and one with TL0PICIDX.
    has_begun: (bool, bool),
}

impl PictureNumbering {
    /// The picture of this packet is the one after the last that left.
    pub fn continue_at(&mut self, first: &Descriptor) {
        if let Some(id) = first.picture_id.filter(|_| self.has_begun.0) {
            self.id_offset = self.last_id.wrapping_add(1).wrapping_sub(id.value);
        }
        if let Some(tl0) = first.tl0_picture_index.filter(|_| self.has_begun.1) {
            self.tl0_offset = self.last_tl0.wrapping_add(1).wrapping_sub(tl0.value);
        }
    }

    /// Notes a packet that leaves.
    pub fn note(&mut self, packet: &Descriptor) -> PictureCounters {
        let out = self.counters(packet);
        if let Some(id) = packet.picture_id {
            let is_newer = out.id.wrapping_sub(self.last_id) & mask(id.bits) <= mask(id.bits) / 2;
            if is_newer || !self.has_begun.0 {
                (self.last_id, self.has_begun.0) = (out.id, true);
            }
        }
        if packet.tl0_picture_index.is_some() {
            let is_newer = out.tl0.wrapping_sub(self.last_tl0) <= u8::MAX / 2;
            if is_newer || !self.has_begun.1 {
                (self.last_tl0, self.has_begun.1) = (out.tl0, true);
            }
        }
        out
    }

    /// The counters under which a packet leaves, or has left.
    pub fn counters(&self, packet: &Descriptor) -> PictureCounters {
        PictureCounters {
            id: packet.picture_id.map_or(0, |id| self.id(&id)),
            tl0: packet.tl0_picture_index.map_or(0, |tl0| tl0.value.wrapping_add(self.tl0_offset)),
        }
    }

    fn id(&self, id: &PictureId) -> u16 {
        id.value.wrapping_add(self.id_offset) & mask(id.bits)
    }
}

fn mask(bits: u32) -> u16 {
    (1 << bits) - 1
}

/// What to add to the frame numbers of dependency descriptors. Gaps are left as they are: frames refer to each
/// other by differences.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameNumbering {
    offset: u16,
    last: Option<u16>,
}

impl FrameNumbering {
    /// How far ahead a number may be and still count as later: the encodings of one browser share a count.
    const AHEAD_MAX: u16 = 1 << 13;

    /// This frame comes after all that left. Its number is moved only if it is not a later one already.
    pub fn continue_at(&mut self, number: u16) {
        let Some(last) = self.last else { return };
        let ahead = number.wrapping_add(self.offset).wrapping_sub(last);
        if !(1..=Self::AHEAD_MAX).contains(&ahead) {
            self.offset = last.wrapping_add(1).wrapping_sub(number);
        }
    }

    /// Notes a frame that leaves. Returns its number, if that is another than the publisher's.
    pub fn note(&mut self, number: u16) -> Option<u16> {
        let out = number.wrapping_add(self.offset);
        if self.last.is_none_or(|last| out.wrapping_sub(last) < 1 << 15) {
            self.last = Some(out);
        }
        self.moved(number)
    }

    /// The number under which a frame leaves, or has left, if that is another than the publisher's.
    pub fn moved(&self, number: u16) -> Option<u16> {
        (self.offset != 0).then(|| number.wrapping_add(self.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A descriptor with a picture id of 15 bits and TL0PICIDX.
    fn payload(picture: u16, tl0: u8) -> Vec<u8> {
        let [high, low] = picture.to_be_bytes();
        vec![0x90, 0xc0, high | 0x80, low, tl0, 0]
    }

    fn send(numbering: &mut PictureNumbering, mut payload: Vec<u8>) -> (u16, u8) {
        let descriptor = Descriptor::parse(&payload).unwrap();
        numbering.note(&descriptor).write(&descriptor, &mut payload);
        let out = Descriptor::parse(&payload).unwrap();
        (out.picture_id.unwrap().value, out.tl0_picture_index.unwrap().value)
    }

    #[test]
    fn counters_pass_unchanged_until_a_switch_and_go_on_by_one_after_it() {
        let mut numbering = PictureNumbering::default();
        assert_eq!(send(&mut numbering, payload(0x7ffe, 254)), (0x7ffe, 254));
        assert_eq!(send(&mut numbering, payload(0x7fff, 255)), (0x7fff, 255));
        assert_eq!(send(&mut numbering, payload(0x7ffd, 253)), (0x7ffd, 253), "a late packet");
        let other = payload(500, 7);
        numbering.continue_at(&Descriptor::parse(&other).unwrap());
        assert_eq!(send(&mut numbering, other), (0, 0));
        assert_eq!(send(&mut numbering, payload(501, 7)), (1, 0));
        let back = payload(9_000, 30);
        numbering.continue_at(&Descriptor::parse(&back).unwrap());
        assert_eq!(send(&mut numbering, back), (2, 1));
    }

    #[test]
    fn short_picture_ids_count_modulo_128() {
        let mut numbering = PictureNumbering::default();
        let short = |id: u8| vec![0x90, 0x80, id, 0];
        let id = |numbering: &mut PictureNumbering, mut payload: Vec<u8>| {
            let descriptor = Descriptor::parse(&payload).unwrap();
            numbering.note(&descriptor).write(&descriptor, &mut payload);
            payload[2]
        };
        assert_eq!(id(&mut numbering, short(127)), 127);
        numbering.continue_at(&Descriptor::parse(&short(50)).unwrap());
        assert_eq!(id(&mut numbering, short(50)), 0);
        assert_eq!(id(&mut numbering, short(51)), 1);
    }

    #[test]
    fn frame_numbers_are_moved_where_they_would_go_back_and_left_where_they_go_on() {
        let mut numbering = FrameNumbering::default();
        assert_eq!(numbering.note(65_534), None);
        numbering.continue_at(3);
        assert_eq!(numbering.note(3), None, "another encoding of the same browser");
        numbering.continue_at(50_000);
        assert_eq!(numbering.note(50_000), Some(4));
        assert_eq!(numbering.note(50_002), Some(6));
        assert_eq!(numbering.note(50_001), Some(5), "a late frame");
        numbering.continue_at(7);
        assert_eq!(numbering.note(7), None, "the number after the last is its own");
    }
}
