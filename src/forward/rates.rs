//! What each operating point of an encoding costs, measured as packets come in.
//!
//! Every shard with subscribers of a track sees all of its packets, so each measures for itself, once per packet.
//! A rate follows its encoder within a second or so; a layer without packets ceases to be offered.

use crate::forward::layers::{Entry, Layering};
use crate::rtp::layer::{Layer, Points};
use crate::time::Time;

/// How often bytes become a rate.
const INTERVAL_MS: u64 = 500;

/// The tag of SRTP. Rates are of datagrams' payloads, as bandwidth estimates are.
const OVERHEAD_BYTES: u32 = 16;

/// Less than this is not being sent.
const SILENT_BPS: u32 = 500;

const POINTS: usize = u32::BITS as usize;

/// The rates of one encoding.
#[derive(Debug, Clone, Default)]
pub struct LayerRates {
    /// Bytes since `since`: of frames needed at each point, by dependency descriptors.
    needed_bytes: [u32; POINTS],
    /// And of frames of each layer, where nobody says who needs them.
    layer_bytes: [u32; POINTS],
    total_bytes: u32,
    since: Option<Time>,
    /// Bits per second at each point.
    rates_bps: [u32; POINTS],
    total_bps: u32,
}

impl LayerRates {
    /// Notes a packet of `len` bytes; `layering` is `None` if it tells no layers.
    pub fn note(&mut self, layering: Option<&Layering>, len: usize, now: Time) {
        self.roll(now);
        let bytes = len as u32 + OVERHEAD_BYTES;
        self.total_bytes += bytes;
        let Some(layering) = layering else { return };
        if let Entry::Described { .. } = layering.entry {
            for point in layering.needed_by.iter() {
                add(&mut self.needed_bytes, point, bytes);
            }
        } else {
            add(&mut self.layer_bytes, layering.layer, bytes);
        }
    }

    /// Turns the bytes of intervals that have passed into rates.
    pub fn roll(&mut self, now: Time) {
        let since = *self.since.get_or_insert(now);
        let elapsed_us = now.since(since);
        if elapsed_us < INTERVAL_MS * 1_000 {
            return;
        }
        self.since = Some(now);
        let bps = |bytes: u32| (u64::from(bytes) * 8_000_000 / elapsed_us) as u32;
        self.total_bps = smooth(self.total_bps, bps(std::mem::take(&mut self.total_bytes)));
        let (needed, layers) = (self.needed_bytes, self.layer_bytes);
        (self.needed_bytes, self.layer_bytes) = ([0; POINTS], [0; POINTS]);
        let tells_layers = layers.iter().any(|bytes| *bytes > 0);
        for (at, rate) in self.rates_bps.iter_mut().enumerate() {
            let point = Layer::of_number(at as u8);
            let mut bytes = needed.get(at).copied().unwrap_or(0);
            if tells_layers && layers.get(at).is_some_and(|own| *own > 0) {
                let within =
                    (0..).zip(&layers).filter(|(layer, _)| Layer::of_number(*layer).is_within(point));
                bytes += within.map(|(_, bytes)| bytes).sum::<u32>();
            }
            *rate = smooth(*rate, bps(bytes));
        }
    }

    /// Bits per second of all layers together.
    pub fn total_bps(&self) -> u64 {
        self.total_bps.into()
    }

    /// Bits per second of what is needed at `point`.
    pub fn point_bps(&self, point: Layer) -> u64 {
        self.rates_bps.get(usize::from(point.number())).copied().unwrap_or(0).into()
    }

    /// The points that frames came for.
    pub fn points(&self) -> Points {
        let flows = |(number, bps): (u8, &u32)| (*bps >= SILENT_BPS).then(|| Layer::of_number(number));
        (0..).zip(&self.rates_bps).filter_map(flows).collect()
    }
}

fn add(all: &mut [u32; POINTS], layer: Layer, bytes: u32) {
    if let Some(sum) = all.get_mut(usize::from(layer.number())) {
        *sum += bytes;
    }
}

/// The first rate counts as it is; later ones move it halfway.
fn smooth(before: u32, measured: u32) -> u32 {
    if before == 0 { measured } else { before / 2 + measured / 2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::codec::vp9;
    use crate::rtp::dependency::Structure;
    use crate::rtp::dependency::written::Scalability;

    const FRAME_BYTES: usize = 984;
    /// Of a frame with its overhead, thirty times a second.
    const FRAME_BPS: u64 = 1_000 * 8 * 30;

    fn is_near(measured: u64, expected: u64) -> bool {
        measured.abs_diff(expected) * 20 <= expected
    }

    #[test]
    fn each_point_costs_what_is_needed_there() {
        let mut encoder = Scalability::new(2, 2, true, 0, 0);
        let (mut structure, mut rates) = (Structure::default(), LayerRates::default());
        for picture in 0..90 {
            let now = Time(0).plus_us(picture * 33_333);
            for sent in encoder.picture(picture == 0) {
                let layering = Layering::of_descriptor(&structure.read(&sent.descriptor).unwrap());
                rates.note(Some(&layering), FRAME_BYTES, now);
            }
        }
        assert!(is_near(rates.total_bps(), 2 * FRAME_BPS), "{}", rates.total_bps());
        for (point, expected) in [((0, 0), FRAME_BPS / 2), ((0, 1), FRAME_BPS), ((1, 1), FRAME_BPS)] {
            let measured = rates.point_bps(Layer::new(point.0, point.1));
            assert!(is_near(measured, expected), "{point:?}: {measured}");
        }
        assert_eq!(rates.points(), structure.active());
    }

    #[test]
    fn without_a_descriptor_a_point_costs_all_layers_up_to_it_and_is_gone_with_the_last() {
        let mut rates = LayerRates::default();
        let layering = |spatial| {
            Layering::of_vp9(&vp9::Descriptor {
                layer: Layer::new(spatial, 0),
                begins: true,
                ends: true,
                is_predicted: true,
                allows_switch_up: false,
            })
        };
        for picture in 0..400 {
            let now = Time(0).plus_us(picture * 33_333);
            rates.note(Some(&layering(0)), FRAME_BYTES, now);
            if picture < 60 {
                rates.note(Some(&layering(1)), FRAME_BYTES, now);
            }
            if picture == 59 {
                assert!(is_near(rates.point_bps(Layer::new(1, 0)), 2 * FRAME_BPS));
            }
        }
        assert!(is_near(rates.point_bps(Layer::default()), FRAME_BPS));
        assert_eq!(rates.points(), Points::NONE.with(Layer::default()));
    }
}
