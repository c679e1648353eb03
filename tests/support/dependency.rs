//! An encoder's side of the dependency descriptor (AV1 RTP specification, Appendix A), for tests: the modes LxTy
//! and LxTy_KEY as libwebrtc's encoders count and relate their frames.
#![allow(dead_code, reason = "each program that includes this file uses a part of it")]

/// One frame of a picture.
#[derive(Debug, Clone)]
pub struct Sent {
    /// As it stands in the frame's first and only packet.
    pub descriptor: Vec<u8>,
    /// Spatial and temporal.
    pub layer: (u8, u8),
    pub number: u16,
    /// As differences of frame numbers.
    pub references: Vec<u16>,
    /// Operating points, by their highest layers.
    pub needed_by: Vec<(u8, u8)>,
}

/// A scalable encoder that encodes nothing.
#[derive(Debug, Clone)]
pub struct Scalability {
    spatial: u8,
    temporal: u8,
    /// Spatial layers are predicted from lower ones in key frames only.
    key_only: bool,
    first_id: u8,
    next_number: u16,
    /// Pictures since the key frame.
    picture: u32,
    /// The newest frame of each layer that later ones may refer to.
    last: Vec<Vec<Option<u16>>>,
}

impl Scalability {
    pub fn new(spatial: u8, temporal: u8, key_only: bool, first_id: u8, first_number: u16) -> Self {
        let last = vec![vec![None; temporal.into()]; spatial.into()];
        Self { spatial, temporal, key_only, first_id, next_number: first_number, picture: 0, last }
    }

    /// The frames of the next picture, the lowest spatial layer first.
    pub fn picture(&mut self, is_key: bool) -> Vec<Sent> {
        if is_key {
            self.picture = 0;
            self.last.iter_mut().flatten().for_each(|last| *last = None);
        }
        let t = temporal_id(self.picture, self.temporal);
        self.picture += 1;
        (0..self.spatial).map(|s| self.frame(s, t, is_key)).collect()
    }

    fn frame(&mut self, s: u8, t: u8, is_key: bool) -> Sent {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let mut references = Vec::new();
        // The newest frame of this spatial layer that is not of a higher temporal one.
        let before = self.last[usize::from(s)][..=usize::from(t)].iter().flatten();
        references.extend(before.map(|&last| number.wrapping_sub(last)).min());
        if s > 0 && (is_key || !self.key_only) {
            references.push(1);
        }
        // Frames of the highest temporal layer are referred to by none.
        if self.temporal == 1 || t + 1 < self.temporal {
            self.last[usize::from(s)][usize::from(t)] = Some(number);
        }
        let points = self.points();
        let needed_by = points.into_iter().filter(|point| self.indication((s, t), *point, is_key) != 0);
        let needed_by = needed_by.collect();
        let descriptor = self.descriptor((s, t), number, &references, is_key);
        Sent { descriptor, layer: (s, t), number, references, needed_by }
    }

    fn points(&self) -> Vec<(u8, u8)> {
        (0..self.spatial).flat_map(|s| (0..self.temporal).map(move |t| (s, t))).collect()
    }

    /// 0 not present, 1 discardable, 2 switch, 3 required.
    fn indication(&self, (s, t): (u8, u8), (point_s, point_t): (u8, u8), is_key: bool) -> u32 {
        let below = s < point_s;
        match () {
            _ if s > point_s || t > point_t || (below && self.key_only && !is_key) => 0,
            _ if below && !is_key => 3,
            _ if !below && t > 0 && t == point_t => 1,
            _ => 2,
        }
    }

    /// Templates: for each layer one, and before those of temporal layer 0 one for key frames.
    fn templates(&self) -> Vec<((u8, u8), bool)> {
        let of = |(s, t)| if t == 0 { vec![((s, t), true), ((s, t), false)] } else { vec![((s, t), false)] };
        self.points().into_iter().flat_map(of).collect()
    }

    fn descriptor(&self, layer: (u8, u8), number: u16, references: &[u16], is_key: bool) -> Vec<u8> {
        let templates = self.templates();
        let template = templates.iter().position(|known| *known == (layer, is_key)).unwrap();
        let mut bits = Bits::default();
        bits.put(2, 3);
        bits.put(6, (u32::from(self.first_id) + template as u32) % 64);
        bits.put(16, number.into());
        let brings_structure = is_key && layer.0 == 0;
        // Structure, active targets, custom indications, references, chains.
        bits.put(5, u32::from(brings_structure) << 4 | 1 << 1);
        if brings_structure {
            self.structure(&templates, &mut bits);
        }
        for &difference in references {
            bits.put(2, 3);
            bits.put(12, u32::from(difference) - 1);
        }
        bits.put(2, 0);
        bits.bytes
    }

    fn structure(&self, templates: &[((u8, u8), bool)], bits: &mut Bits) {
        bits.put(6, self.first_id.into());
        bits.put(5, self.points().len() as u32 - 1);
        for pair in templates.windows(2) {
            let (before, after) = (pair[0].0, pair[1].0);
            bits.put(
                2,
                if after == before {
                    0
                } else if after.0 == before.0 {
                    1
                } else {
                    2
                },
            );
        }
        bits.put(2, 3);
        for &(layer, is_key) in templates {
            for point in self.points() {
                bits.put(2, self.indication(layer, point, is_key));
            }
        }
        // No references in any template, no chains, no resolutions.
        for _ in templates {
            bits.put(1, 0);
        }
        let targets = self.points().len() as u32;
        bits.put((targets + 1).ilog2(), 0);
        bits.put(1, 0);
    }
}

/// 0; 0 1; 0 2 1 2.
fn temporal_id(picture: u32, layers: u8) -> u8 {
    match (layers, picture % 4) {
        (1, _) | (_, 0) | (2, 2) => 0,
        (3, 1 | 3) => 2,
        _ => 1,
    }
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    fn put(&mut self, count: u32, value: u32) {
        for bit in (0..count).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= (value >> bit & 1) as u8 * (0x80 >> (self.used % 8));
            self.used += 1;
        }
    }
}
