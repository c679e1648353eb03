//! AV1 over RTP, as far as the start of a coded video sequence shows in the aggregation header.
//!
//! <https://aomediacodec.github.io/av1-rtp-spec/#44-av1-aggregation-header>
#![deny(clippy::indexing_slicing)]

/// N is set on the first packet of a coded video sequence and on no other; Z would make it a continuation.
pub(super) fn starts_key_frame(payload: &[u8]) -> bool {
    const CONTINUES: u8 = 0x80;
    const NEW_SEQUENCE: u8 = 0x08;
    payload.first().is_some_and(|header| header & (CONTINUES | NEW_SEQUENCE) == NEW_SEQUENCE)
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
    }
}
