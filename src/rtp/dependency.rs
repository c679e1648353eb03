//! The dependency descriptor, an RTP header extension: which frame a packet is of, who needs that frame, and
//! which frames it builds on.
//!
//! It stands in clear where payloads are encrypted end to end, and means the same for every codec. Source:
//! AV1 RTP specification, Appendix A,
//! <https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension>.
//!
//! Most packets only name a template and a frame number; what the templates are came with the last key frame,
//! so a [`Structure`] is kept per encoding. Decode targets are told as [`Points`], by their highest layer.
//! Deliberately absent: chains, because who knows which frames it has sent sees from the frame differences
//! alone what can be decoded, and the resolutions to render at.
#![deny(clippy::indexing_slicing)]

use super::layer::{Layer, Points};

/// Template ids have six bits.
const TEMPLATES_MAX: usize = 64;
/// Their count has five, less one.
const TARGETS_MAX: usize = 32;

/// What a packet says about its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Counts the frames of all layers in the order in which they were encoded, modulo 2^16.
    pub number: u16,
    /// The first packet of its frame.
    pub begins: bool,
    /// The last one.
    pub ends: bool,
    pub layer: Layer,
    /// The operating points that need the frame.
    pub needed_by: Points,
    /// Those of which all later frames can be decoded by whoever can decode this one.
    pub switches: Points,
    pub references: References,
    /// A structure came with it: so begins a coded video sequence.
    pub brings_structure: bool,
}

/// Where in a descriptor the two bytes of the frame number begin.
pub const NUMBER_AT: usize = 1;

/// The frames that a frame is predicted from, as differences of frame numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct References {
    /// Bit n is the frame n + 1 before.
    near: u128,
    /// There is one further back.
    far: bool,
}

impl References {
    pub const NEAR: u32 = u128::BITS;

    /// To the one frame that is `difference` before.
    pub fn to(difference: u32) -> Self {
        let mut references = Self::default();
        references.add(difference);
        references
    }

    pub fn is_empty(&self) -> bool {
        self.near == 0 && !self.far
    }

    /// Bit n is the frame n + 1 before; `None` if there is one further back than that can tell.
    pub fn near(&self) -> Option<u128> {
        (!self.far).then_some(self.near)
    }

    fn add(&mut self, difference: u32) {
        match difference.checked_sub(1).and_then(|bit| 1_u128.checked_shl(bit)) {
            Some(bit) => self.near |= bit,
            None => self.far = true,
        }
    }
}

/// How a frame relates to decode targets: two bits for each, of which only "not present" and "switch" matter here.
type Indications = u64;

const NOT_PRESENT: u64 = 0;
const SWITCH: u64 = 2;

/// What frames that name a template have in common.
#[derive(Debug, Clone, Copy, Default)]
struct Template {
    layer: Layer,
    needed_by: Points,
    switches: Points,
    /// Bit n is the frame n + 1 before: a template reaches no further back than 16.
    references: u16,
}

/// The templates and decode targets of a coded video sequence; empty before the first.
#[derive(Debug, Clone)]
pub struct Structure {
    /// The id of the first template.
    first_id: u8,
    templates: [Template; TEMPLATES_MAX],
    template_count: usize,
    /// The highest layer of each decode target.
    targets: [Layer; TARGETS_MAX],
    target_count: usize,
    /// The decode targets whose frames are being produced, as bits.
    active: u32,
}

impl Default for Structure {
    fn default() -> Self {
        Self {
            first_id: 0,
            templates: [Template::default(); TEMPLATES_MAX],
            template_count: 0,
            targets: [Layer::default(); TARGETS_MAX],
            target_count: 0,
            active: 0,
        }
    }
}

impl Structure {
    /// Reads the descriptor of one packet, and takes over the structure that may come with it.
    ///
    /// `None`, and nothing is taken over, if the descriptor breaks off or names a template that is not known:
    /// its sequence's first packet is missing.
    pub fn read(&mut self, descriptor: &[u8]) -> Option<Frame> {
        let (frame, brought, active) = self.parse_frame(descriptor)?;
        if let Some(brought) = brought {
            *self = brought;
        }
        self.active = active;
        Some(frame)
    }

    /// Reads a descriptor again, of a packet that is sent once more, and takes nothing over.
    pub fn peek(&self, descriptor: &[u8]) -> Option<Frame> {
        self.parse_frame(descriptor).map(|(frame, ..)| frame)
    }

    /// The frame, the structure that came with it, and the active decode targets from then on.
    fn parse_frame(&self, descriptor: &[u8]) -> Option<(Frame, Option<Self>, u32)> {
        let (&[flags, high, low], rest) = descriptor.split_first_chunk()?;
        let mut bits = Bits::new(rest);
        let extended = if rest.is_empty() { Extended::default() } else { Extended::read(&mut bits)? };
        let brought = if extended.brings_structure { Some(Self::parse(&mut bits)?) } else { None };
        let brings_structure = brought.is_some();
        let known = brought.as_ref().unwrap_or(self);
        let active = match extended.names_active {
            true => bits.take(known.target_count as u32)?,
            false => known.active,
        };
        let mut template = *known.template(flags & 0x3f)?;
        if extended.custom_indications {
            known.indicate(&mut template, read_indications(&mut bits, known.target_count)?);
        }
        let references = match extended.custom_references {
            true => read_references(&mut bits)?,
            false => References { near: template.references.into(), far: false },
        };
        let frame = Frame {
            number: u16::from_be_bytes([high, low]),
            begins: flags & 0x80 != 0,
            ends: flags & 0x40 != 0,
            layer: template.layer,
            needed_by: template.needed_by,
            switches: template.switches,
            references,
            brings_structure,
        };
        Some((frame, brought, active))
    }

    /// The operating points whose frames are being produced.
    pub fn active(&self) -> Points {
        self.points(|target| self.active & 1 << target != 0)
    }

    /// Whether every frame is needed at this point, so that it is reached by sending all there is.
    pub fn is_everything(&self, point: Layer) -> bool {
        self.known_templates().iter().all(|template| template.needed_by.contains(point))
    }

    fn template(&self, id: u8) -> Option<&Template> {
        self.known_templates().get(usize::from((id + 64 - self.first_id) % 64))
    }

    fn known_templates(&self) -> &[Template] {
        self.templates.get(..self.template_count).unwrap_or(&[])
    }

    fn points(&self, is_in: impl Fn(usize) -> bool) -> Points {
        let targets = self.targets.iter().take(self.target_count).enumerate();
        targets.filter(|(target, _)| is_in(*target)).map(|(_, point)| *point).collect()
    }

    fn indicate(&self, template: &mut Template, indications: Indications) {
        template.needed_by = self.points(|target| indication(indications, target) != NOT_PRESENT);
        template.switches = self.points(|target| indication(indications, target) == SWITCH);
    }

    fn parse(bits: &mut Bits<'_>) -> Option<Self> {
        let mut structure = Self { first_id: bits.take(6)? as u8, ..Self::default() };
        structure.target_count = bits.take(5)? as usize + 1;
        structure.active = u32::MAX >> (TARGETS_MAX - structure.target_count);
        structure.read_layers(bits)?;
        let mut indications = [0; TEMPLATES_MAX];
        let indications = indications.get_mut(..structure.template_count)?;
        for indications in indications.iter_mut() {
            *indications = read_indications(bits, structure.target_count)?;
        }
        structure.name_targets(indications);
        for at in 0..structure.template_count {
            let mut template = *structure.templates.get(at)?;
            structure.indicate(&mut template, *indications.get(at)?);
            while bits.flag()? {
                template.references |= 1 << bits.take(4)?;
            }
            *structure.templates.get_mut(at)? = template;
        }
        structure.skip_chains(bits)?;
        if bits.flag()? {
            let spatial = structure.known_templates().last()?.layer.spatial;
            bits.skip(32 * (u32::from(spatial) + 1))?;
        }
        Some(structure)
    }

    fn read_layers(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        const SAME: u32 = 0;
        const NEXT_TEMPORAL: u32 = 1;
        const NEXT_SPATIAL: u32 = 2;
        let mut layer = Layer::default();
        loop {
            self.templates.get_mut(self.template_count)?.layer = layer;
            self.template_count += 1;
            match bits.take(2)? {
                SAME => {}
                NEXT_TEMPORAL if layer.temporal < Layer::TEMPORAL_MAX => layer.temporal += 1,
                NEXT_SPATIAL if layer.spatial < Layer::SPATIAL_MAX => {
                    layer = Layer::new(layer.spatial + 1, 0);
                }
                NEXT_TEMPORAL | NEXT_SPATIAL => return None,
                _ => return Some(()),
            }
        }
    }

    fn skip_chains(&self, bits: &mut Bits<'_>) -> Option<()> {
        let chains = bits.below(self.target_count as u32 + 1)?;
        if chains == 0 {
            return Some(());
        }
        for _ in 0..self.target_count {
            bits.below(chains)?;
        }
        bits.skip(4 * self.template_count as u32 * chains)
    }

    /// A decode target is of the highest layers that frames needed by it are of.
    fn name_targets(&mut self, indications: &[Indications]) {
        let frames = || self.templates.iter().zip(indications);
        for (number, target) in self.targets.iter_mut().enumerate().take(self.target_count) {
            let needed = frames().filter(|(_, all)| indication(**all, number) != NOT_PRESENT);
            *target = needed.map(|(frame, _)| frame.layer).fold(Layer::default(), Layer::max_of_each);
        }
    }
}

fn indication(indications: Indications, target: usize) -> u64 {
    indications >> (2 * target) & 3
}

fn read_indications(bits: &mut Bits<'_>, targets: usize) -> Option<Indications> {
    (0..targets).try_fold(0, |all, target| Some(all | u64::from(bits.take(2)?) << (2 * target)))
}

fn read_references(bits: &mut Bits<'_>) -> Option<References> {
    let mut references = References::default();
    loop {
        let size = bits.take(2)?;
        if size == 0 {
            return Some(references);
        }
        references.add(bits.take(4 * size)? + 1);
    }
}

/// What of the optional part is there. Custom chains, which come last, are not read.
#[derive(Default)]
struct Extended {
    brings_structure: bool,
    names_active: bool,
    custom_indications: bool,
    custom_references: bool,
}

impl Extended {
    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        let extended = Self {
            brings_structure: bits.flag()?,
            names_active: bits.flag()?,
            custom_indications: bits.flag()?,
            custom_references: bits.flag()?,
        };
        bits.skip(1)?;
        Some(extended)
    }
}

/// Reads bits from the most significant one on.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit != 0)
    }

    /// At most 32 bits.
    fn take(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value, _| Some(value << 1 | u32::from(self.flag()?)))
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        self.at += count as usize;
        (self.at <= 8 * self.bytes.len()).then_some(())
    }

    /// A number below `bound`, which is not 0, in as few bits as that takes: ns(n) of AV1, §4.10.7.
    fn below(&mut self, bound: u32) -> Option<u32> {
        let width = bound.ilog2() + 1;
        let short = (1 << width) - bound;
        let value = self.take(width - 1)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1) - short + self.take(1)?)
    }
}

#[cfg(test)]
#[path = "../../tests/support/dependency.rs"]
pub mod written;

#[cfg(test)]
mod tests {
    use super::written::{Scalability, Sent};
    use super::*;
    use proptest::prelude::*;

    fn layer(spatial: u8, temporal: u8) -> Layer {
        Layer::new(spatial, temporal)
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digits).collect()
    }

    /// Of Chromium's AV1 encoder in mode L3T3: a key frame's first packet, as recorded by several projects.
    const L3T3_KEY_FRAME: &str = "c1017280081485214eafffaaaa863cf0430c10c302afc0aaa0063c00430010c002a000a8000600\
        0040001d954926e082b04a0941b820ac1282503157f974000ca864330e222222eca8655304224230eca877530077004200ef00\
        8601df010d";

    #[test]
    fn recorded_structure_is_understood() {
        let mut structure = Structure::default();
        let frame = structure.read(&bytes(L3T3_KEY_FRAME)).unwrap();
        assert_eq!((frame.number, frame.layer, frame.brings_structure), (0x172, layer(0, 0), true));
        assert!(frame.begins && frame.ends && frame.references.is_empty());
        let all: Points = (0..3).flat_map(|s| (0..3).map(move |t| layer(s, t))).collect();
        assert_eq!((structure.active(), frame.switches, frame.needed_by), (all, all, all));
        assert!(structure.is_everything(layer(2, 2)) && !structure.is_everything(layer(2, 1)));
        // The second and third spatial layer of the same picture, in an encoder that has stopped the third.
        let two: Points = (0..2).flat_map(|s| (0..3).map(move |t| layer(s, t))).collect();
        let frame = structure.read(&bytes("86017340fc")).unwrap();
        assert_eq!((frame.number, frame.layer, frame.begins, frame.ends), (0x173, layer(1, 0), true, false));
        assert_eq!(frame.references.near(), Some(0b1));
        assert_eq!(structure.active(), two);
        assert_eq!(structure.read(&bytes("c3017540fc")).unwrap().layer, layer(0, 2));
        let short = structure.read(&bytes("8b0174")).unwrap();
        assert_eq!((short.layer, short.needed_by.contains(layer(1, 2))), (layer(2, 0), false));
        assert_eq!(structure.active(), two, "until it is said otherwise");
    }

    #[test]
    fn packet_of_a_sequence_whose_beginning_is_missing_says_nothing() {
        assert_eq!(Structure::default().read(&bytes("860173")), None);
        let mut structure = Structure::default();
        structure.read(&bytes(L3T3_KEY_FRAME)).unwrap();
        assert_eq!(structure.read(&[0x3f, 0, 1]), None, "template 63");
    }

    #[test]
    fn custom_fields_stand_in_for_those_of_the_template() {
        let mut structure = Structure::default();
        structure.read(&bytes(L3T3_KEY_FRAME)).unwrap();
        // Flags 00110, then indications of nine targets: switch, eight times not present; references 1, 17 and 300.
        let mut bits = String::from("00110") + "10" + &"00".repeat(8);
        bits += &format!("01{:04b}10{:08b}11{:012b}00", 0, 16, 299);
        while !bits.len().is_multiple_of(8) {
            bits.push('0');
        }
        let custom = (0..bits.len()).step_by(8).map(|at| u8::from_str_radix(&bits[at..at + 8], 2).unwrap());
        let descriptor: Vec<u8> = [0x86, 1, 0x80].into_iter().chain(custom).collect();
        let frame = structure.read(&descriptor).unwrap();
        assert_eq!(frame.switches, Points::NONE.with(layer(0, 0)));
        assert_eq!(frame.references, References { near: 1 << 16 | 1, far: true });
        assert_eq!(frame.references.near(), None);
    }

    proptest! {
        #[test]
        fn what_an_encoder_writes_is_read(spatial in 1u8..=3, temporal in 1u8..=3, key: bool, start: u16, first_id in 0u8..64) {
            let mut encoder = Scalability::new(spatial, temporal, key, first_id, start);
            let mut structure = Structure::default();
            for picture in 0..12 {
                for Sent { descriptor, layer: (s, t), number, references, needed_by } in encoder.picture(picture == 0) {
                    let frame = structure.read(&descriptor).unwrap();
                    prop_assert_eq!((frame.layer, frame.number), (layer(s, t), number));
                    let expected = references.iter().fold(0, |set, difference| set | 1_u128 << (difference - 1));
                    prop_assert_eq!(frame.references.near(), Some(expected));
                    let expected: Points = needed_by.iter().map(|&(s, t)| layer(s, t)).collect();
                    prop_assert_eq!(frame.needed_by, expected);
                }
            }
        }

        #[test]
        fn arbitrary_descriptors_never_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..4)) {
            let mut structure = Structure::default();
            for packet in packets {
                let known = structure.active();
                if structure.read(&packet).is_none() {
                    prop_assert_eq!(structure.active(), known);
                }
            }
        }

        #[test]
        fn broken_structures_never_panic(at in 0usize..93, byte: u8, len in 0usize..=93) {
            let mut broken = bytes(L3T3_KEY_FRAME);
            broken[at] = byte;
            broken.truncate(len);
            Structure::default().read(&broken);
        }
    }
}
