//! VP9's payload descriptor (RFC 9628 §4.2): the start of key frames, and the layer that a packet is of.
//!
//! Only its first bytes are read: predictions of flexible mode and the scalability structure tell a forwarder
//! nothing that the flags before them do not.
#![deny(clippy::indexing_slicing)]

use crate::rtp::layer::Layer;

/// The fields of one descriptor that matter to a forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// (0, 0) if the encoder tells no layers.
    pub layer: Layer,
    /// B: the first packet of a frame, that is of one spatial layer of a picture.
    pub begins: bool,
    /// E: the last one.
    pub ends: bool,
    /// P: predicted from earlier pictures.
    pub is_predicted: bool,
    /// U: later pictures of higher temporal layers are predicted from none before this one.
    pub allows_switch_up: bool,
}

impl Descriptor {
    /// `None` if the payload ends inside what is read of its descriptor.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        const PICTURE_ID: u8 = 0x80;
        const PREDICTED: u8 = 0x40;
        const LAYERS: u8 = 0x20;
        const BEGINS: u8 = 0x08;
        const ENDS: u8 = 0x04;
        let (&flags, mut rest) = payload.split_first()?;
        if flags & PICTURE_ID != 0 {
            let long = rest.first()? & 0x80 != 0;
            rest = rest.get(1 + usize::from(long)..)?;
        }
        // T (3 bits), U, S (3 bits), D.
        let layers = if flags & LAYERS != 0 { *rest.first()? } else { 0 };
        Some(Self {
            layer: Layer::new(layers >> 1 & 7, layers >> 5),
            begins: flags & BEGINS != 0,
            ends: flags & ENDS != 0,
            is_predicted: flags & PREDICTED != 0,
            allows_switch_up: layers & 0x10 != 0,
        })
    }

    /// The beginning of a picture that is predicted from no other, at its lowest spatial layer.
    pub fn starts_key_frame(&self) -> bool {
        self.begins && !self.is_predicted && self.layer.spatial == 0
    }
}

pub(super) fn starts_key_frame(payload: &[u8]) -> bool {
    Descriptor::parse(payload).is_some_and(|descriptor| descriptor.starts_key_frame())
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

    #[test]
    fn layers_are_read_behind_either_picture_id() {
        let expected = Descriptor {
            layer: Layer { spatial: 1, temporal: 2 },
            begins: false,
            ends: true,
            is_predicted: true,
            allows_switch_up: true,
        };
        assert_eq!(Descriptor::parse(&[0xe4, 0x92, 0x34, 0x53]), Some(expected));
        assert_eq!(Descriptor::parse(&[0xe4, 0x12, 0x53]), Some(expected));
        let plain = Descriptor::parse(&[0x0c]).unwrap();
        assert_eq!((plain.layer, plain.begins, plain.ends), (Layer::default(), true, true));
    }
}
