//! H.265 over RTP (RFC 7798), as far as the start of an intra random access point shows in its NAL unit types.
#![deny(clippy::indexing_slicing)]

/// BLA, IDR and CRA pictures, and what is reserved for such (ITU-T H.265, table 7-1).
const IRAP: std::ops::RangeInclusive<u8> = 16..=23;
/// Parameter sets of video, sequence and picture.
const PARAMETERS: std::ops::RangeInclusive<u8> = 32..=34;
const AGGREGATION: u8 = 48;
const FRAGMENTATION: u8 = 49;

/// A slice of such a picture or the parameters that precede it: alone, aggregated, or the first fragment.
/// DONL fields are not expected: no browser negotiates `sprop-max-don-diff`.
pub(super) fn starts_key_frame(payload: &[u8]) -> bool {
    let Some((header, rest)) = payload.split_first_chunk::<2>() else { return false };
    match unit_type(header) {
        AGGREGATION => aggregates_key_frame(rest),
        // S and the six bits of the type (§4.4.3).
        FRAGMENTATION => rest.first().is_some_and(|&header| header & 0x80 != 0 && is_key(header & 0x3f)),
        other => is_key(other),
    }
}

fn aggregates_key_frame(mut units: &[u8]) -> bool {
    while let Some((size, rest)) = units.split_first_chunk::<2>() {
        if rest.first_chunk().is_some_and(|header| is_key(unit_type(header))) {
            return true;
        }
        units = rest.get(usize::from(u16::from_be_bytes(*size))..).unwrap_or(&[]);
    }
    false
}

/// F, six bits of type, layer id and temporal id (§1.1.4).
fn unit_type(&[first, _]: &[u8; 2]) -> u8 {
    first >> 1 & 0x3f
}

fn is_key(unit_type: u8) -> bool {
    IRAP.contains(&unit_type) || PARAMETERS.contains(&unit_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn header(unit_type: u8) -> [u8; 2] {
        [unit_type << 1, 1]
    }

    fn starts(unit_type: u8, rest: &[u8]) -> bool {
        starts_key_frame(&[&header(unit_type)[..], rest].concat())
    }

    #[test]
    fn key_frame_starts_with_a_random_access_picture_or_its_parameters() {
        assert!(starts(19, &[0]), "IDR_W_RADL");
        assert!(starts(21, &[0]), "CRA_NUT");
        assert!(starts(32, &[0]), "VPS");
        assert!(!starts(1, &[0]), "TRAIL_R");
        assert!(!starts(39, &[0]), "SEI alone");
        assert!(starts(FRAGMENTATION, &[0x80 | 19]), "first fragment of an IDR slice");
        assert!(!starts(FRAGMENTATION, &[0x40 | 19]), "its last fragment");
        assert!(!starts(FRAGMENTATION, &[0x80 | 1]), "first fragment of another slice");
        assert!(!starts_key_frame(&[19 << 1]), "half a header");
    }

    #[test]
    fn aggregate_is_searched_unit_by_unit() {
        let [delimiter, parameters] = [header(35), header(33)];
        let units = |last: [u8; 2]| [&[0, 3][..], &delimiter, &[0x50], &[0, 2], &last].concat();
        assert!(starts(AGGREGATION, &units(parameters)));
        assert!(!starts(AGGREGATION, &units(delimiter)));
        assert!(!starts(AGGREGATION, &[0xff, 0xff, 2]), "a size beyond the end");
    }
}
