//! Keeps the picture counters of VP8 continuous for one subscriber over switches of encoding.
//!
//! Every encoder counts its pictures from a number of its own; to a viewer, a jump of the picture id or of
//! TL0PICIDX is a loss that it waits for (RFC 7741 §4.2). Both are moved by an offset that a switch sets.

use crate::rtp::codec::vp8::{Descriptor, PictureId};

/// What to add to a leg's counters, and how far they have come.
#[derive(Debug, Clone, Copy, Default)]
pub struct PictureNumbering {
    id_offset: u16,
    tl0_offset: u8,
    last_id: Option<u16>,
    last_tl0: Option<u8>,
}

impl PictureNumbering {
    /// The picture of this packet is the one after the last that left.
    pub fn continue_at(&mut self, first: &Descriptor) {
        if let (Some(id), Some(last)) = (first.picture_id, self.last_id) {
            self.id_offset = last.wrapping_add(1).wrapping_sub(id.value);
        }
        if let (Some(tl0), Some(last)) = (first.tl0_picture_index, self.last_tl0) {
            self.tl0_offset = last.wrapping_add(1).wrapping_sub(tl0.value);
        }
    }

    /// Notes a packet that leaves.
    pub fn note(&mut self, packet: &Descriptor) {
        if let Some(id) = packet.picture_id {
            let out = self.id(&id);
            let is_newer = |last: u16| out.wrapping_sub(last) & mask(id.bits) <= mask(id.bits) / 2;
            if self.last_id.is_none_or(is_newer) {
                self.last_id = Some(out);
            }
        }
        if let Some(tl0) = packet.tl0_picture_index {
            let out = tl0.value.wrapping_add(self.tl0_offset);
            if self.last_tl0.is_none_or(|last| out.wrapping_sub(last) <= u8::MAX / 2) {
                self.last_tl0 = Some(out);
            }
        }
    }

    /// Writes the leg's counters over those of the payload that `descriptor` was read from.
    pub fn rewrite(&self, descriptor: &Descriptor, payload: &mut [u8]) {
        if let Some(id) = descriptor.picture_id.filter(|_| self.id_offset != 0) {
            id.write(payload, self.id(&id));
        }
        if let Some(tl0) = descriptor.tl0_picture_index.filter(|_| self.tl0_offset != 0) {
            tl0.write(payload, tl0.value.wrapping_add(self.tl0_offset));
        }
    }

    fn id(&self, id: &PictureId) -> u16 {
        id.value.wrapping_add(self.id_offset) & mask(id.bits)
    }
}

fn mask(bits: u32) -> u16 {
    (1 << bits) - 1
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
        numbering.note(&descriptor);
        numbering.rewrite(&descriptor, &mut payload);
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
            numbering.note(&descriptor);
            numbering.rewrite(&descriptor, &mut payload);
            payload[2]
        };
        assert_eq!(id(&mut numbering, short(127)), 127);
        numbering.continue_at(&Descriptor::parse(&short(50)).unwrap());
        assert_eq!(id(&mut numbering, short(50)), 0);
        assert_eq!(id(&mut numbering, short(51)), 1);
    }
}
