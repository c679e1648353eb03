//! Which frames of a scalable encoding a subscriber gets, and under which numbers.
//!
//! Bandwidth says which operating point a subscriber should be at; frames say where it may get there: downwards
//! nearly everywhere, upwards only where the layers above begin anew. Until then it stays where it is. All that is
//! decided here comes from the dependency descriptor or, without one, from the first bytes of VP8 and VP9
//! payloads; what is left out closes up, so that to the receiver nothing is missing.
//!
//! A subscriber that gets everything has no [`LayerFilter`]: nothing here costs it anything.

use crate::forward::gaps::GapMap;
use crate::rtp::codec::{vp8, vp9};
use crate::rtp::dependency::{Frame, References};
use crate::rtp::layer::{Layer, Points};

/// What a packet says about layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layering {
    pub layer: Layer,
    /// The first packet of its frame, which is of one spatial layer of a picture.
    pub begins: bool,
    /// The last one.
    pub ends: bool,
    /// The operating points that the frame is needed for.
    pub needed_by: Points,
    pub entry: Entry,
}

/// Who may go to another operating point with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Nobody upwards.
    None,
    /// Who is at `from` or above, up to `to`.
    Upwards { from: Layer, to: Layer },
    /// Everybody, to any point.
    Key,
    /// To one of these points, by a dependency descriptor: who was sent what the frame refers to.
    Described { number: u16, points: Points, references: References },
}

impl Layering {
    pub fn of_descriptor(frame: &Frame) -> Self {
        let entry =
            Entry::Described { number: frame.number, points: frame.switches, references: frame.references };
        let Frame { layer, begins, ends, needed_by, .. } = *frame;
        Self { layer, begins, ends, needed_by, entry }
    }

    /// `None` if the encoder tells no layers.
    ///
    /// A frame that syncs is predicted from layer 0 alone. Still a receiver can take the next ones of its layer
    /// only if it has the layer below too, so layers are climbed one by one.
    pub fn of_vp8(descriptor: &vp8::Descriptor, starts_key_frame: bool) -> Option<Self> {
        let temporal = descriptor.temporal?;
        let layer = Layer::new(0, temporal.id);
        let entry = match temporal.syncs {
            _ if starts_key_frame => Entry::Key,
            true => Entry::Upwards { from: Layer::new(0, temporal.id.saturating_sub(1)), to: layer },
            false => Entry::None,
        };
        let needed_by = Points::from(layer);
        Some(Self { layer, begins: descriptor.starts_frame, ends: false, needed_by, entry })
    }

    pub fn of_vp9(descriptor: &vp9::Descriptor) -> Self {
        let vp9::Descriptor { layer, begins, ends, is_predicted, allows_switch_up } = *descriptor;
        let entry = match layer.spatial.checked_sub(1) {
            _ if descriptor.starts_key_frame() => Entry::Key,
            // A new spatial layer on top, predicted from the one below of the same picture.
            Some(below) if begins && !is_predicted => {
                Entry::Upwards { from: Layer::new(below, 0), to: Layer::new(layer.spatial, 0) }
            }
            _ if allows_switch_up => {
                Entry::Upwards { from: Layer::new(0, layer.temporal), to: Layer::new(0, Layer::TEMPORAL_MAX) }
            }
            _ => Entry::None,
        };
        Self { layer, begins, ends, needed_by: Points::from(layer), entry }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It goes out as the packet of this index.
    Whole {
        index: u64,
        ends_picture: bool,
    },
    /// Its layer is not wanted, but its index has been left free: it goes out without its payload.
    Empty {
        index: u64,
    },
    LeftOut,
}

/// Frame numbers that are told apart: half a second of three spatial layers at 60 frames.
const FRAMES: u32 = References::NEAR;

/// Pictures that may pass before a change of spatial layer is helped by a key frame.
const PICTURES_WAITED: u8 = 2;

/// The packets that are remembered for NACKs: as many as a video's track ring has slots.
const PACKET_WORDS: usize = 32;

/// And the pictures, of which late packets may come: eight seconds at 30 frames.
const PICTURE_WORDS: usize = 4;

/// One subscriber's way through the layers of the encoding that it gets.
#[derive(Debug, Clone)]
pub struct LayerFilter {
    /// Where it should be, at most.
    target: Layer,
    /// Where it is.
    current: Layer,
    sent: SentFrames,
    packets: GapMap<PACKET_WORDS>,
    pictures: PictureGaps,
    /// Pictures that have begun since the spatial layer should have changed.
    waited: u8,
}

impl LayerFilter {
    /// For a subscriber that was sent everything before the packet `index`, and so is at `current`.
    pub fn new(current: Layer, index: u64) -> Self {
        Self {
            target: current,
            current,
            sent: SentFrames::all(),
            packets: GapMap::new(index),
            pictures: PictureGaps::default(),
            waited: 0,
        }
    }

    /// Aims at the best point within `target`.
    pub fn aim(&mut self, target: Layer) {
        self.target = target;
        self.waited = 0;
    }

    pub fn current(&self) -> Layer {
        self.current
    }

    /// Whether a packet is the last that goes out of its picture.
    pub fn ends_picture(&self, layering: &Layering) -> bool {
        layering.ends && layering.layer.spatial == self.current.spatial
    }

    /// Only a key frame leads to where it should be.
    pub fn needs_key_frame(&self) -> bool {
        self.waited >= PICTURES_WAITED
    }

    /// Begins anew with the packet `index`, which begins a key frame of another encoding.
    pub fn restart(&mut self, index: u64) {
        self.sent = SentFrames::none();
        self.packets = GapMap::new(index);
        self.pictures = PictureGaps::default();
        self.waited = 0;
    }

    /// Decides about the packet `index` of an encoding that has frames for the points `offered`.
    pub fn pass(&mut self, index: u64, layering: Option<&Layering>, offered: Points) -> Passage {
        if let Some(layering) = layering.filter(|layering| layering.begins) {
            self.steer(layering, offered);
        }
        let is_wanted = layering.is_none_or(|layering| layering.needed_by.contains(self.current));
        if let Some(Entry::Described { number, .. }) = layering.map(|layering| layering.entry) {
            self.sent.note(number, is_wanted);
        }
        if !is_wanted {
            return match self.packets.leave_out(index) {
                Some(index) => Passage::Empty { index },
                None => Passage::LeftOut,
            };
        }
        let ends_picture = layering.is_some_and(|layering| self.ends_picture(layering));
        self.packets.keep(index).map_or(Passage::LeftOut, |index| Passage::Whole { index, ends_picture })
    }

    /// The picture id of a packet that goes out, or `None` for one that does not, closed up likewise.
    pub fn picture(&mut self, id: &vp8::PictureId, passes: bool) -> Option<u16> {
        self.pictures.pass(id, passes)
    }

    /// The picture id under which a packet went out.
    pub fn picture_sent(&self, id: &vp8::PictureId) -> Option<u16> {
        self.pictures.sent(id)
    }

    /// The packet that went out as `index`.
    pub fn original(&self, index: u64) -> Option<u64> {
        self.packets.original(index)
    }

    /// Where the packet `index` went.
    pub fn place(&self, index: u64) -> Option<u64> {
        self.packets.place(index)
    }

    /// Goes with the frame that begins here to where it should be, or nearer to it, if the frame allows it.
    fn steer(&mut self, layering: &Layering, offered: Points) {
        let Some(goal) = offered.best_within(self.target) else { return };
        if goal == self.current {
            self.waited = 0;
            return;
        }
        let is_picture = layering.layer.spatial == 0;
        match layering.entry {
            Entry::Key => self.current = goal,
            Entry::Described { number, points, references } => {
                // Within a picture a spatial layer cannot follow one that went out as the last.
                let is_open = goal.spatial <= self.current.spatial || is_picture || references.is_empty();
                if is_open && points.contains(goal) && self.sent.cover(number, &references) {
                    self.current = goal;
                }
            }
            Entry::Upwards { .. } | Entry::None if is_picture && !self.current.is_within(goal) => {
                self.current = self.current.min_of_each(goal);
            }
            Entry::Upwards { from, to } if from.is_within(self.current) => {
                self.current = self.current.max_of_each(to.min_of_each(goal));
            }
            Entry::Upwards { .. } | Entry::None => {}
        }
        let is_reached = self.current.spatial == goal.spatial;
        self.waited = if is_reached { 0 } else { self.waited.saturating_add(is_picture.into()) };
    }
}

/// The frames of the last numbers that went out.
#[derive(Debug, Clone, Copy)]
struct SentFrames {
    newest: Option<u16>,
    /// Bit n is the frame n before the newest.
    sent: u128,
}

impl SentFrames {
    /// Whatever came before, it went out.
    fn all() -> Self {
        Self { newest: None, sent: u128::MAX }
    }

    fn none() -> Self {
        Self { newest: None, sent: 0 }
    }

    /// Notes whether the frame `number` goes out.
    fn note(&mut self, number: u16, goes_out: bool) {
        let ahead = self.newest.map_or(1, |newest| i32::from(number.wrapping_sub(newest) as i16));
        let behind = if ahead > 0 { 0 } else { ahead.unsigned_abs() };
        if ahead > 0 {
            self.sent = self.sent.checked_shl(ahead as u32).unwrap_or(0);
            self.newest = Some(number);
        }
        self.sent |= u128::from(goes_out).checked_shl(behind).unwrap_or(0);
    }

    /// Whether all that the frame `number`, which is not older than the newest, refers to went out.
    fn cover(&self, number: u16, references: &References) -> bool {
        let Some(near) = references.near() else { return false };
        // Bit n of `sent` is the frame `ahead + n` before this one, and that of `near` the frame n + 1 before it.
        let ahead = self.newest.map_or(1, |newest| i32::from(number.wrapping_sub(newest) as i16));
        let Ok(ahead) = u32::try_from(ahead) else { return false };
        if ahead == 0 {
            return near & !(self.sent >> 1) == 0;
        }
        if ahead > FRAMES {
            return near == 0;
        }
        let is_between = near & ((1_u128 << (ahead - 1)) - 1) != 0;
        !is_between && (near >> (ahead - 1)) & !self.sent == 0
    }
}

/// VP8's picture ids without those of pictures left out.
#[derive(Debug, Clone, Default)]
struct PictureGaps {
    /// The newest id, extended, and what became of those before it.
    known: Option<(u64, GapMap<PICTURE_WORDS>)>,
}

impl PictureGaps {
    fn pass(&mut self, id: &vp8::PictureId, passes: bool) -> Option<u16> {
        // So far from the beginning that nothing precedes it.
        let first = (1 << 32) + u64::from(id.value);
        let (newest, gaps) = self.known.get_or_insert_with(|| (first, GapMap::new(first)));
        let number = extend(*newest, id);
        *newest = number.max(*newest);
        if passes {
            return gaps.keep(number).map(|place| place as u16);
        }
        gaps.leave_out(number);
        None
    }

    fn sent(&self, id: &vp8::PictureId) -> Option<u16> {
        let (newest, gaps) = self.known.as_ref()?;
        gaps.place(extend(*newest, id)).map(|place| place as u16)
    }
}

/// The number nearest to `newest` that ends in the bits of `id`.
fn extend(newest: u64, id: &vp8::PictureId) -> u64 {
    let cycle = 1_u64 << id.bits;
    let ahead = u64::from(id.value).wrapping_sub(newest) & (cycle - 1);
    if ahead < cycle / 2 { newest + ahead } else { newest + ahead - cycle }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::dependency::Structure;
    use crate::rtp::dependency::written::{Scalability, Sent};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn layer(spatial: u8, temporal: u8) -> Layer {
        Layer::new(spatial, temporal)
    }

    /// An encoder of one packet per frame, and what one subscriber gets of it.
    struct Story {
        encoder: Scalability,
        structure: Structure,
        filter: LayerFilter,
        index: u64,
        sent: HashSet<u16>,
        places: Vec<u64>,
    }

    impl Story {
        /// After a key frame and `pictures` more, of which everything was sent.
        fn begin(encoder: Scalability, pictures: u32) -> Self {
            let mut story = Self {
                encoder,
                structure: Structure::default(),
                filter: LayerFilter::new(Layer::MAX, 1_000),
                index: 1_000,
                sent: HashSet::new(),
                places: Vec::new(),
            };
            for picture in 0..=pictures {
                for frame in story.encoder.picture(picture == 0) {
                    story.structure.read(&frame.descriptor).unwrap();
                    story.sent.insert(frame.number);
                }
            }
            let highest = story.structure.active().highest().unwrap();
            story.filter = LayerFilter::new(highest, story.index);
            story
        }

        /// The layers of the next picture that were sent; each of its frames can be decoded.
        fn picture(&mut self, is_key: bool) -> Vec<(u8, u8)> {
            let mut sent = Vec::new();
            for frame in self.encoder.picture(is_key) {
                if self.frame(&frame) {
                    sent.push(frame.layer);
                }
            }
            sent
        }

        fn frame(&mut self, frame: &Sent) -> bool {
            let layering = Layering::of_descriptor(&self.structure.read(&frame.descriptor).unwrap());
            self.index += 1;
            match self.filter.pass(self.index - 1, Some(&layering), self.structure.active()) {
                Passage::Whole { index, ends_picture } => {
                    self.places.push(index);
                    let is_top = frame.layer.0 == self.filter.current().spatial;
                    assert_eq!(ends_picture, is_top, "{frame:?}");
                    for difference in &frame.references {
                        let reference = frame.number.wrapping_sub(*difference);
                        assert!(self.sent.contains(&reference), "{frame:?} cannot be decoded");
                    }
                    self.sent.insert(frame.number);
                    true
                }
                Passage::LeftOut => false,
                Passage::Empty { .. } => panic!("nothing was lost"),
            }
        }

        fn assert_no_gaps(&self) {
            let expected = (0..self.places.len() as u64).map(|n| 1_000 + n);
            assert!(self.places.iter().copied().eq(expected), "{:?}", self.places);
        }
    }

    #[test]
    fn temporal_layers_go_and_come_back_without_a_key_frame() {
        let mut story = Story::begin(Scalability::new(1, 3, false, 0, 0xfff0), 7);
        story.filter.aim(layer(0, 1));
        let layers: Vec<_> = (0..8).flat_map(|_| story.picture(false)).map(|(_, t)| t).collect();
        assert_eq!(layers, [0, 1, 0, 1]);
        story.filter.aim(layer(0, 0));
        assert_eq!((0..4).map(|_| story.picture(false).len()).sum::<usize>(), 1);
        story.filter.aim(Layer::MAX);
        let layers: Vec<_> = (0..4).flat_map(|_| story.picture(false)).map(|(_, t)| t).collect();
        assert_eq!(layers, [0, 2, 1, 2]);
        assert!(!story.filter.needs_key_frame());
        story.assert_no_gaps();
    }

    #[test]
    fn spatial_layers_go_at_once_and_come_back_with_a_key_frame() {
        let mut story = Story::begin(Scalability::new(3, 1, false, 9, 0), 3);
        story.filter.aim(layer(1, 7));
        assert_eq!(story.picture(false), [(0, 0), (1, 0)]);
        story.filter.aim(layer(0, 0));
        assert_eq!(story.picture(false), [(0, 0)]);
        story.filter.aim(layer(1, 0));
        assert_eq!(story.picture(true), [(0, 0), (1, 0)]);
        story.filter.aim(Layer::MAX);
        for _ in 0..3 {
            assert_eq!(story.picture(false), [(0, 0), (1, 0)]);
        }
        assert!(story.filter.needs_key_frame());
        assert_eq!(story.picture(true), [(0, 0), (1, 0), (2, 0)]);
        assert!(!story.filter.needs_key_frame());
        story.assert_no_gaps();
    }

    #[test]
    fn layers_predicted_in_key_frames_alone_are_left_and_entered_there() {
        let mut story = Story::begin(Scalability::new(3, 3, true, 60, 5), 3);
        assert_eq!(story.picture(false), [(2, 0)], "lower ones are not needed");
        story.filter.aim(layer(1, 7));
        for _ in 0..4 {
            let layers = story.picture(false);
            assert!(layers.iter().all(|(s, _)| *s == 2), "{layers:?}");
        }
        assert!(story.filter.needs_key_frame());
        assert_eq!(story.picture(true), [(0, 0), (1, 0)]);
        assert_eq!(story.picture(false), [(1, 2)]);
        story.assert_no_gaps();
    }

    #[test]
    fn spatial_layer_that_the_encoder_stops_is_left_and_the_one_below_ends_pictures() {
        let mut story = Story::begin(Scalability::new(2, 1, false, 0, 0), 0);
        let lower: Points = std::iter::once(layer(0, 0)).collect();
        let frame = story.encoder.picture(false).remove(0);
        let layering = Layering::of_descriptor(&story.structure.read(&frame.descriptor).unwrap());
        let passage = story.filter.pass(1_000, Some(&layering), lower);
        assert_eq!(passage, Passage::Whole { index: 1_000, ends_picture: true });
    }

    #[test]
    fn packet_that_was_missing_and_is_not_wanted_fills_its_place_with_nothing() {
        let mut filter = LayerFilter::new(layer(0, 2), 10);
        filter.aim(layer(0, 0));
        let of = |temporal| vp8_layering(temporal, false, true);
        let offered = Points::from(layer(0, 0));
        assert_eq!(filter.pass(10, Some(&of(0)), offered), Passage::Whole { index: 10, ends_picture: false });
        assert_eq!(filter.pass(12, Some(&of(2)), offered), Passage::LeftOut);
        assert_eq!(filter.pass(13, Some(&of(0)), offered), Passage::Whole { index: 12, ends_picture: false });
        assert_eq!(filter.pass(11, Some(&of(2)), offered), Passage::Empty { index: 11 });
        assert_eq!((filter.original(12), filter.place(12)), (Some(13), None));
    }

    fn vp8_layering(temporal: u8, syncs: bool, begins: bool) -> Layering {
        let descriptor = vp8::Descriptor {
            len: 4,
            picture_id: None,
            tl0_picture_index: None,
            temporal: Some(vp8::TemporalLayer { id: temporal, syncs }),
            starts_frame: begins,
        };
        Layering::of_vp8(&descriptor, false).unwrap()
    }

    #[test]
    fn temporal_layers_of_vp8_are_climbed_one_by_one_where_they_sync() {
        let offered: Points = (0..3).map(|t| layer(0, t)).collect();
        let mut filter = LayerFilter::new(layer(0, 2), 1);
        let mut index = 0;
        let mut passes = |filter: &mut LayerFilter, temporal, syncs| {
            index += 1;
            let layering = vp8_layering(temporal, syncs, true);
            matches!(filter.pass(index, Some(&layering), offered), Passage::Whole { .. })
        };
        filter.aim(layer(0, 0));
        let down = [(0, false), (2, false), (1, false)].map(|(t, syncs)| passes(&mut filter, t, syncs));
        assert_eq!(down, [true, false, false]);
        filter.aim(Layer::MAX);
        // Two of the highest layer: the first syncs too early, as the layer between is not there yet.
        let up = [(0, false), (2, true), (1, false), (1, true), (2, false), (2, true), (2, false)];
        let passed = up.map(|(t, syncs)| passes(&mut filter, t, syncs));
        assert_eq!(passed, [true, false, false, true, false, true, true]);
    }

    fn vp9(layer: Layer, is_predicted: bool, allows_switch_up: bool) -> Layering {
        let (begins, ends) = (true, true);
        Layering::of_vp9(&vp9::Descriptor { layer, begins, ends, is_predicted, allows_switch_up })
    }

    #[test]
    fn layers_of_vp9_are_left_with_a_picture_and_entered_where_its_flags_allow() {
        let offered: Points = (0..2).flat_map(|s| (0..2).map(move |t| layer(s, t))).collect();
        let mut filter = LayerFilter::new(layer(1, 1), 1);
        let mut index = 0;
        let mut pass = |filter: &mut LayerFilter, layering: Layering| {
            index += 1;
            filter.pass(index, Some(&layering), offered)
        };
        let is_sent = |passage| matches!(passage, Passage::Whole { .. });
        filter.aim(layer(0, 0));
        let rest_of_picture = pass(&mut filter, vp9(layer(1, 0), true, false));
        assert!(is_sent(rest_of_picture), "its picture has begun with it");
        assert_eq!(
            pass(&mut filter, vp9(layer(0, 0), true, false)),
            Passage::Whole { index: 2, ends_picture: true }
        );
        assert_eq!(pass(&mut filter, vp9(layer(1, 0), true, false)), Passage::LeftOut);
        filter.aim(layer(0, 1));
        assert_eq!(pass(&mut filter, vp9(layer(0, 1), true, false)), Passage::LeftOut, "not yet");
        assert!(is_sent(pass(&mut filter, vp9(layer(0, 0), true, true))));
        assert!(is_sent(pass(&mut filter, vp9(layer(0, 1), true, false))), "after a switching up point");
        filter.aim(Layer::MAX);
        assert!(is_sent(pass(&mut filter, vp9(layer(0, 0), true, true))));
        assert_eq!(pass(&mut filter, vp9(layer(1, 0), true, true)), Passage::LeftOut);
        assert!(is_sent(pass(&mut filter, vp9(layer(1, 0), false, true))), "it begins anew on the one below");
    }

    #[test]
    fn picture_ids_close_up_over_pictures_left_out() {
        let mut filter = LayerFilter::new(layer(0, 1), 1);
        let id = |value| vp8::PictureId { at: 2, bits: 15, value };
        assert_eq!(filter.picture(&id(0x7ffe), true), Some(0x7ffe));
        // Two packets of one picture.
        assert_eq!([0x7fff, 0x7fff].map(|value| filter.picture(&id(value), false)), [None, None]);
        assert_eq!(filter.picture(&id(0), true).map(|value| value & 0x7fff), Some(0x7fff));
        assert_eq!(filter.picture(&id(0x7ffe), true), Some(0x7ffe), "a late packet");
        assert_eq!(filter.picture_sent(&id(0)).map(|value| value & 0x7fff), Some(0x7fff));
    }

    proptest! {
        #[test]
        fn whatever_is_aimed_at_all_that_is_sent_can_be_decoded(
            (spatial, temporal) in (1u8..=3, 1u8..=3),
            key_only: bool,
            start: u16,
            steps in prop::collection::vec((0u8..3, 0u8..3, 1usize..12), 1..20),
        ) {
            let mut story = Story::begin(Scalability::new(spatial, temporal, key_only, 3, start), 4);
            for (s, t, pictures) in steps {
                let goal = layer(s.min(spatial - 1), t.min(temporal - 1));
                story.filter.aim(goal);
                for _ in 0..pictures {
                    let is_key = story.filter.needs_key_frame();
                    story.picture(is_key);
                }
                if pictures > 6 {
                    prop_assert_eq!(story.filter.current(), goal, "reached in seven pictures");
                }
            }
            story.assert_no_gaps();
        }

        /// Against a set of all that was noted, as far back as is remembered.
        #[test]
        fn frames_sent_are_known_again(numbers in prop::collection::vec(0u16..100, 1..60), number in 100u16..110, reference in 1u16..110) {
            let mut sent = SentFrames::none();
            numbers.iter().for_each(|number| sent.note(*number, true));
            let references = References::to(reference.into());
            let is_sent = number.checked_sub(reference).is_some_and(|wanted| numbers.contains(&wanted));
            let newest = *numbers.iter().max().unwrap();
            if number - newest < 128 {
                prop_assert_eq!(sent.cover(number, &references), is_sent);
            }
        }
    }
}
