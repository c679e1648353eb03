//! The layers of a scalable encoding, and which of them a picture can be decoded at.
//!
//! Codecs count spatial and temporal layers alike: a frame of layer (s, t) is needed by whoever decodes at s or
//! above and at t or above, unless its encoder says otherwise. What somebody decodes is an *operating point*,
//! which is named by the highest layer in it.

/// A spatial and a temporal layer id; spatial layers weigh more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Layer {
    /// 0 to [`SPATIAL_MAX`](Self::SPATIAL_MAX).
    pub spatial: u8,
    /// 0 to [`TEMPORAL_MAX`](Self::TEMPORAL_MAX).
    pub temporal: u8,
}

impl Layer {
    /// No encoder of a browser makes more than three spatial layers; the dependency descriptor names four.
    pub const SPATIAL_MAX: u8 = 3;
    /// Three bits everywhere but in VP8, which has two.
    pub const TEMPORAL_MAX: u8 = 7;
    pub const MAX: Self = Self { spatial: Self::SPATIAL_MAX, temporal: Self::TEMPORAL_MAX };

    /// Larger ids count as the largest.
    pub fn new(spatial: u8, temporal: u8) -> Self {
        Self { spatial: spatial.min(Self::SPATIAL_MAX), temporal: temporal.min(Self::TEMPORAL_MAX) }
    }

    /// Neither layer is above that of `other`.
    pub fn is_within(self, other: Self) -> bool {
        self.spatial <= other.spatial && self.temporal <= other.temporal
    }

    pub fn min_of_each(self, other: Self) -> Self {
        Self { spatial: self.spatial.min(other.spatial), temporal: self.temporal.min(other.temporal) }
    }

    pub fn max_of_each(self, other: Self) -> Self {
        Self { spatial: self.spatial.max(other.spatial), temporal: self.temporal.max(other.temporal) }
    }

    /// Its place among all layers, below 32.
    pub fn number(self) -> u8 {
        self.spatial * (Self::TEMPORAL_MAX + 1) + self.temporal
    }

    pub fn of_number(number: u8) -> Self {
        Self { spatial: number / (Self::TEMPORAL_MAX + 1), temporal: number % (Self::TEMPORAL_MAX + 1) }
    }

    fn bit(self) -> u32 {
        1 << self.number()
    }
}

/// A set of operating points, each by its highest layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Points(u32);

impl Points {
    pub const NONE: Self = Self(0);

    /// Every point that has `layer` in it.
    pub fn from(layer: Layer) -> Self {
        // Of each spatial layer from this one on, the temporal ones from this one on.
        let row = u32::from(u8::MAX << layer.temporal);
        let rows = (layer.spatial..=Layer::SPATIAL_MAX).map(|spatial| row << (8 * u32::from(spatial)));
        Self(rows.fold(0, |set, row| set | row))
    }

    pub fn with(self, point: Layer) -> Self {
        Self(self.0 | point.bit())
    }

    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub fn contains(self, point: Layer) -> bool {
        self.0 & point.bit() != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest first.
    pub fn iter(self) -> impl Iterator<Item = Layer> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (bit < u32::BITS).then(|| Layer::of_number(bit as u8))
        })
    }

    /// The highest first.
    pub fn iter_down(self) -> impl Iterator<Item = Layer> {
        let mut left = self;
        std::iter::from_fn(move || {
            let highest = left.highest()?;
            left.0 &= !highest.bit();
            Some(highest)
        })
    }

    /// The points at which pictures come at their full rate, one for each spatial layer; and, if `thinned`, those of
    /// the lowest spatial layer at which fewer come. Who has to do with less is better served by smaller pictures,
    /// as long as there are such, than by fewer.
    pub fn worthwhile(self, thinned: bool) -> Self {
        let Some(lowest) = self.iter().next() else { return Self::NONE };
        let is_full = |point: Layer| {
            let same = self.iter().filter(|other| other.spatial == point.spatial);
            same.last() == Some(point)
        };
        self.iter().filter(|&point| is_full(point) || thinned && point.spatial == lowest.spatial).collect()
    }

    pub fn highest(self) -> Option<Layer> {
        self.0.checked_ilog2().map(|bit| Layer::of_number(bit as u8))
    }

    /// The best point within `bound`, or else the lowest there is: something is always better than nothing.
    pub fn best_within(self, bound: Layer) -> Option<Layer> {
        let within = self.iter().filter(|point| point.is_within(bound)).last();
        within.or_else(|| self.iter().next())
    }
}

impl FromIterator<Layer> for Points {
    fn from_iter<I: IntoIterator<Item = Layer>>(points: I) -> Self {
        points.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer(spatial: u8, temporal: u8) -> Layer {
        Layer::new(spatial, temporal)
    }

    #[test]
    fn pictures_become_smaller_before_they_become_fewer() {
        let points: Points = (0..3).flat_map(|s| (0..3).map(move |t| layer(s, t))).collect();
        let of = |points: Points| points.iter_down().map(|it| (it.spatial, it.temporal)).collect::<Vec<_>>();
        assert_eq!(of(points.worthwhile(false)), [(2, 2), (1, 2), (0, 2)]);
        assert_eq!(of(points.worthwhile(true)), [(2, 2), (1, 2), (0, 2), (0, 1), (0, 0)]);
        let uneven: Points = [layer(0, 1), layer(1, 0), layer(1, 1)].into_iter().collect();
        assert_eq!(of(uneven.worthwhile(true)), [(1, 1), (0, 1)]);
        assert_eq!(Points::NONE.worthwhile(true), Points::NONE);
    }

    #[test]
    fn best_point_is_the_highest_spatial_layer_that_fits_and_then_the_highest_temporal_one() {
        let offered: Points = (0..3).flat_map(|s| (0..3).map(move |t| layer(s, t))).collect();
        assert_eq!(offered.best_within(Layer::MAX), Some(layer(2, 2)));
        assert_eq!(offered.best_within(layer(1, 7)), Some(layer(1, 2)));
        assert_eq!(offered.best_within(layer(3, 0)), Some(layer(2, 0)));
        let only_high: Points = [layer(2, 0), layer(2, 1)].into_iter().collect();
        assert_eq!(only_high.best_within(layer(0, 0)), Some(layer(2, 0)), "the lowest, as nothing fits");
        assert_eq!(Points::NONE.best_within(Layer::MAX), None);
    }

    proptest! {
        #[test]
        fn a_layer_is_in_every_point_that_is_not_below_it(s in 0u8..4, t in 0u8..8, ps in 0u8..4, pt in 0u8..8) {
            let (frame, point) = (layer(s, t), layer(ps, pt));
            prop_assert_eq!(Points::from(frame).contains(point), frame.is_within(point));
        }

        #[test]
        fn points_come_out_as_they_went_in(ids in prop::collection::btree_set((0u8..4, 0u8..8), 0..12)) {
            let points: Points = ids.iter().map(|&(s, t)| layer(s, t)).collect();
            let out: Vec<_> = points.iter().map(|point| (point.spatial, point.temporal)).collect();
            let highest = points.highest().map(|point| (point.spatial, point.temporal));
            prop_assert_eq!(highest, ids.iter().last().copied());
            prop_assert!(points.iter_down().map(|point| (point.spatial, point.temporal)).eq(out.iter().rev().copied()));
            prop_assert_eq!(out, ids.into_iter().collect::<Vec<_>>());
        }
    }
}
