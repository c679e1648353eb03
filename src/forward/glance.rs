//! What a packet tells a forwarder without being decoded, and what is known of the encoding that it is of.
//!
//! Once per packet and shard; what follows from it is decided per subscriber. Where a packet has a dependency
//! descriptor its payload is not asked, which may be encrypted end to end: only VP8's picture counters are read
//! from it, for receivers that know no descriptors.

use crate::forward::layers::{Entry, Layering};
use crate::forward::rates::LayerRates;
use crate::rtp::codec::{VideoCodec, vp8, vp9};
use crate::rtp::dependency::{Frame, Structure};
use crate::rtp::layer::{Layer, Points};
use crate::time::Time;

/// What one packet tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// A decoder can begin here. Of audio, and of video that tells nothing, it can everywhere.
    pub is_beginning: bool,
    pub picture: Option<vp8::Descriptor>,
    /// `None` if nothing is told of layers.
    pub layering: Option<Layering>,
}

impl Glance {
    /// The number of its frame, if it has a dependency descriptor.
    pub fn frame_number(&self) -> Option<u16> {
        match self.layering?.entry {
            Entry::Described { number, .. } => Some(number),
            _ => None,
        }
    }
}

/// The layers of one encoding, as far as its packets have told.
#[derive(Default)]
pub struct EncodingLayers {
    structure: Structure,
    rates: LayerRates,
}

impl EncodingLayers {
    /// Looks at a new packet: its payload and its dependency descriptor, if it has one.
    pub fn look(&mut self, codec: Option<VideoCodec>, descriptor: Option<&[u8]>, payload: &[u8]) -> Glance {
        let frame = descriptor.map(|descriptor| self.structure.read(descriptor));
        glance(codec, frame, payload)
    }

    /// Looks at a packet that was looked at before.
    pub fn look_again(&self, codec: Option<VideoCodec>, descriptor: Option<&[u8]>, payload: &[u8]) -> Glance {
        let frame = descriptor.map(|descriptor| self.structure.peek(descriptor));
        glance(codec, frame, payload)
    }

    /// Counts a packet of `len` bytes.
    pub fn count(&mut self, glance: &Glance, len: usize, now: Time) {
        self.rates.note(glance.layering.as_ref(), len, now);
    }

    /// The operating points that there are frames for; none if the encoding tells no layers.
    pub fn offered(&self) -> Points {
        let described = self.structure.active();
        if described.is_empty() { self.rates.points() } else { described }
    }

    /// Whether `point` is reached by sending all there is.
    pub fn is_everything(&self, point: Layer) -> bool {
        let highest = self.offered().highest();
        if self.structure.active().is_empty() {
            return highest.is_none_or(|highest| highest.is_within(point));
        }
        highest.is_some_and(|highest| highest.is_within(point) && self.structure.is_everything(highest))
    }

    /// What has been measured until `now`.
    pub fn rates(&mut self, now: Time) -> &LayerRates {
        self.rates.roll(now);
        &self.rates
    }
}

/// `frame` is what was read of a descriptor, if there was one.
fn glance(codec: Option<VideoCodec>, frame: Option<Option<Frame>>, payload: &[u8]) -> Glance {
    let starts_key_frame = || codec.is_none_or(|codec| codec.starts_key_frame(payload));
    let picture =
        codec.filter(|codec| *codec == VideoCodec::Vp8).and_then(|_| vp8::Descriptor::parse(payload));
    match frame {
        Some(frame) => Glance {
            is_beginning: frame.is_some_and(|frame| frame.begins && frame.brings_structure),
            picture,
            layering: frame.as_ref().map(Layering::of_descriptor),
        },
        None => {
            let is_beginning = starts_key_frame();
            let layering = match codec {
                Some(VideoCodec::Vp8) => picture.and_then(|picture| Layering::of_vp8(&picture, is_beginning)),
                Some(VideoCodec::Vp9) => vp9::Descriptor::parse(payload).as_ref().map(Layering::of_vp9),
                _ => None,
            };
            Glance { is_beginning, picture, layering }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::dependency::written::Scalability;

    #[test]
    fn payload_is_not_asked_where_a_descriptor_tells() {
        let mut layers = EncodingLayers::default();
        let mut encoder = Scalability::new(1, 2, false, 0, 7);
        // To whoever reads the payload each would begin a key frame.
        let payload = [0x10, 0x00];
        let descriptors = [encoder.picture(true), encoder.picture(false)].concat();
        let glances: Vec<_> = descriptors
            .iter()
            .map(|sent| layers.look(Some(VideoCodec::Vp8), Some(&sent.descriptor), &payload))
            .collect();
        assert_eq!(glances.iter().map(|glance| glance.is_beginning).collect::<Vec<_>>(), [true, false]);
        assert_eq!(glances[1].frame_number(), Some(8));
        let unreadable = layers.look(Some(VideoCodec::Vp8), Some(&[0x3f, 0, 0]), &payload);
        assert_eq!((unreadable.is_beginning, unreadable.layering), (false, None));
    }

    #[test]
    fn looking_again_takes_no_structure_over() {
        let mut layers = EncodingLayers::default();
        let (mut old, mut new) = (Scalability::new(1, 3, false, 0, 7), Scalability::new(1, 2, false, 30, 90));
        let before = old.picture(true).remove(0);
        layers.look(None, Some(&before.descriptor), &[]);
        layers.look(None, Some(&new.picture(true)[0].descriptor), &[]);
        let offered = layers.offered();
        assert!(layers.look_again(None, Some(&before.descriptor), &[]).is_beginning);
        assert_eq!(layers.offered(), offered);
    }

    #[test]
    fn audio_begins_everywhere_and_has_no_layers() {
        let mut layers = EncodingLayers::default();
        let glance = layers.look(None, None, &[1, 2, 3]);
        assert_eq!((glance.is_beginning, glance.layering), (true, None));
        layers.count(&glance, 100, Time(0));
        assert!(layers.offered().is_empty() && layers.is_everything(Layer::default()));
    }
}
