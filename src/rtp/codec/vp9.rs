//! VP9's payload descriptor (RFC 9628 §4.2), as far as the start of key frames shows in it.
#![deny(clippy::indexing_slicing)]

/// The beginning (B) of a picture that is predicted from no other (not P), at its lowest spatial layer.
pub(super) fn starts_key_frame(payload: &[u8]) -> bool {
    const PICTURE_ID: u8 = 0x80;
    const PREDICTED: u8 = 0x40;
    const LAYERS: u8 = 0x20;
    const BEGINS: u8 = 0x08;
    let Some((&flags, mut rest)) = payload.split_first() else { return false };
    if flags & (PREDICTED | BEGINS) != BEGINS {
        return false;
    }
    if flags & PICTURE_ID != 0 {
        let long = rest.first().is_some_and(|first| first & 0x80 != 0);
        rest = rest.get(1 + usize::from(long)..).unwrap_or(&[]);
    }
    if flags & LAYERS == 0 {
        return true;
    }
    // T (3 bits), U, S (3 bits), D.
    rest.first().is_some_and(|layer| layer & 0x0e == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frame_starts_with_an_unpredicted_picture_at_its_lowest_layer() {
        assert!(starts_key_frame(&[0x08, 0]), "no picture id, no layers");
        assert!(starts_key_frame(&[0xa8, 0x92, 0x34, 0x00]), "long picture id, layer 0");
        assert!(starts_key_frame(&[0xa8, 0x12, 0x00]), "short picture id, layer 0");
        assert!(!starts_key_frame(&[0xa8, 0x12, 0x02]), "spatial layer 1");
        assert!(!starts_key_frame(&[0x48, 0]), "predicted");
        assert!(!starts_key_frame(&[0x00, 0]), "not the beginning");
        assert!(!starts_key_frame(&[0xa8, 0x92]), "cut off");
    }
}
