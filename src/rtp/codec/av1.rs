//! AV1 over RTP, as far as the start of a coded video sequence shows in the aggregation header and in the first
//! OBU.
//!
//! <https://aomediacodec.github.io/av1-rtp-spec/#44-av1-aggregation-header>
#![deny(clippy::indexing_slicing)]

/// N is set on the first packet of a coded video sequence and on no other; Z would make it a continuation. For
/// senders that leave N out, the sequence header itself counts, where it comes first.
pub(super) fn starts_key_frame(payload: &[u8]) -> bool {
    const CONTINUES: u8 = 0x80;
    const NEW_SEQUENCE: u8 = 0x08;
    let Some((&header, units)) = payload.split_first() else { return false };
    header & CONTINUES == 0
        && (header & NEW_SEQUENCE != 0 || first_unit_type(header, units) == Some(SEQUENCE_HEADER))
}

/// OBU_SEQUENCE_HEADER (AV1 bitstream specification §6.2.2).
const SEQUENCE_HEADER: u8 = 1;

/// The type of the first OBU, past its size, which is left out of the last of W units.
fn first_unit_type(header: u8, mut units: &[u8]) -> Option<u8> {
    if header >> 4 & 3 != 1 {
        // LEB128: the top bit says that another byte follows.
        let size_len = 1 + units.iter().take_while(|byte| *byte & 0x80 != 0).count();
        units = units.get(size_len..)?;
    }
    Some(units.first()? >> 3 & 0xf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frame_starts_with_a_new_coded_video_sequence() {
        assert!(starts_key_frame(&[0x18]));
        assert!(!starts_key_frame(&[0x10]));
        assert!(!starts_key_frame(&[0x98]), "a continuation cannot be new");
        assert!(!starts_key_frame(&[]));
        assert!(starts_key_frame(&[0x10, 0x08, 0]), "one unit, a sequence header");
        assert!(starts_key_frame(&[0x20, 0x81, 0x00, 0x0a, 0]), "the first of two, behind its size");
        assert!(!starts_key_frame(&[0x90, 0x08, 0]), "the rest of a unit");
        assert!(!starts_key_frame(&[0x10, 0x30]), "a frame");
    }
}
