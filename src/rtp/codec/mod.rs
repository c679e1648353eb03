//! What a forwarder must know of a video payload: where a decoder can begin, and which of its fields count
//! from packet to packet.
//!
//! Pure, and only the first bytes of a payload are read. Deliberately absent are bit streams below the
//! payload descriptors, and codecs without an entry here: of those every packet counts as a beginning, and
//! the viewer's decoder asks for a key frame by itself.
#![deny(clippy::indexing_slicing)]

mod av1;
mod h264;
mod h265;
pub mod vp8;
pub mod vp9;

/// A codec whose payload we can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoCodec {
    Vp8,
    Vp9,
    H264,
    H265,
    Av1,
}

impl VideoCodec {
    /// By the encoding name of `a=rtpmap`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        let known = [
            ("VP8", Self::Vp8),
            ("VP9", Self::Vp9),
            ("H264", Self::H264),
            ("H265", Self::H265),
            ("AV1", Self::Av1),
        ];
        known.into_iter().find(|(text, _)| text.eq_ignore_ascii_case(name)).map(|(_, codec)| codec)
    }

    /// Whether a decoder that knows nothing yet can begin with this packet.
    pub fn starts_key_frame(self, payload: &[u8]) -> bool {
        match self {
            Self::Vp8 => vp8::starts_key_frame(payload),
            Self::Vp9 => vp9::starts_key_frame(payload),
            Self::H264 => h264::starts_key_frame(payload),
            Self::H265 => h265::starts_key_frame(payload),
            Self::Av1 => av1::starts_key_frame(payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_those_of_sdp_in_any_case() {
        assert_eq!(VideoCodec::from_name("vp8"), Some(VideoCodec::Vp8));
        assert_eq!(VideoCodec::from_name("H264"), Some(VideoCodec::H264));
        assert_eq!(VideoCodec::from_name("opus"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            use VideoCodec::{Av1, H264, H265, Vp8, Vp9};
            for codec in [Vp8, Vp9, H264, H265, Av1] {
                codec.starts_key_frame(&payload);
            }
        }
    }
}
