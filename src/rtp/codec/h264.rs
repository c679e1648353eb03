//! H.264 over RTP (RFC 6184), as far as the start of an IDR picture shows in its NAL unit types.
#![deny(clippy::indexing_slicing)]

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// An IDR slice or the parameters that precede it: alone, aggregated, or the first fragment.
pub(super) fn starts_key_frame(payload: &[u8]) -> bool {
    let Some((&first, rest)) = payload.split_first() else { return false };
    match unit_type(first) {
        STAP_A => aggregates_key_frame(rest),
        FU_A => rest.first().is_some_and(|header| header & 0x80 != 0 && unit_type(*header) == IDR),
        other => is_key(other),
    }
}

fn aggregates_key_frame(mut units: &[u8]) -> bool {
    while let Some((size, rest)) = units.split_first_chunk::<2>() {
        if rest.first().is_some_and(|first| is_key(unit_type(*first))) {
            return true;
        }
        units = rest.get(usize::from(u16::from_be_bytes(*size))..).unwrap_or(&[]);
    }
    false
}

fn unit_type(header: u8) -> u8 {
    header & 0x1f
}

fn is_key(unit_type: u8) -> bool {
    matches!(unit_type, IDR | SPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frame_starts_with_an_idr_slice_or_its_parameters() {
        assert!(starts_key_frame(&[0x65, 0]), "IDR");
        assert!(starts_key_frame(&[0x67, 0]), "SPS");
        assert!(!starts_key_frame(&[0x41, 0]), "non-IDR slice");
        assert!(starts_key_frame(&[0x7c, 0x85]), "first fragment of an IDR slice");
        assert!(!starts_key_frame(&[0x7c, 0x05]), "a later fragment");
        assert!(!starts_key_frame(&[0x7c, 0x81]), "first fragment of another slice");
    }

    #[test]
    fn aggregate_is_searched_unit_by_unit() {
        assert!(starts_key_frame(&[0x78, 0, 2, 0x09, 0xf0, 0, 1, 0x67]), "access unit delimiter, SPS");
        assert!(!starts_key_frame(&[0x78, 0, 2, 0x41, 0x67, 0, 1, 0x41]));
        assert!(!starts_key_frame(&[0x78, 0xff, 0xff, 0x41]), "a size beyond the end");
    }
}
