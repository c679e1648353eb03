//! A track on one shard: its rings, who gets it, and the header shapes they get it in.
//!
//! Legs are dense and lie in the order of their sessions, so that a fan-out walks memory in order and walks
//! several tracks side by side, subscriber by subscriber (`egress/fan_out.rs`). What many legs share, the shape of
//! the RTP header (payload types, extension ids, mid), is kept once and referred to by number.

use std::ops::RangeInclusive;

use crate::forward::allocate::{Demand, Quality};
use crate::forward::glance::EncodingLayers;
use crate::forward::leg::Leg;
use crate::forward::receive::SenderClock;
use crate::forward::rewrite::Shape;
use crate::forward::select::{Flowing, Selection};
use crate::forward::track_ring::TrackRing;
use crate::id::{LegId, SessionSlot, TrackKey};
use crate::rtp::layer::Layer;
use crate::shard::command::{LegConfig, TrackConfig};
use crate::time::Time;

/// Packets that one encoding can bring in one turn before the turn ends early; a turn reads at most a few
/// hundred datagrams, so this only bounds the memory.
pub const FRESH_MAX: usize = 1_024;

/// One simulcast encoding, or the only one.
pub struct EncodingRing {
    pub ring: TrackRing,
    /// Indices that came in this turn and have not been forwarded yet.
    pub fresh: Vec<u64>,
    /// The publisher's clocks at its last sender report, in the ring's timestamps.
    pub clock: Option<SenderClock>,
    /// When legs that wait for a key frame of it may ask again.
    pub ask_due: Time,
    /// Where its latest key frame begins.
    key_frame: Option<u64>,
    pub layers: EncodingLayers,
}

impl EncodingRing {
    /// Notes a packet that begins a key frame or a part of one: of H.264 the parameters say so, and each slice.
    pub fn note_key_frame(&mut self, index: u64) {
        let timestamp = |index| Some(self.ring.get(index)?.0.timestamp);
        self.key_frame = match self.key_frame {
            Some(known) if timestamp(known) == timestamp(index) => Some(known.min(index)),
            known => known.max(Some(index)),
        };
    }

    /// The packets from the latest key frame on and how many bytes they have, if all of them are here.
    pub fn since_key_frame(&self) -> Option<(RangeInclusive<u64>, usize)> {
        let (first, last) = (self.key_frame?, self.ring.highest()?);
        let len = |index| Some(usize::from(self.ring.get(index)?.0.len));
        let bytes = (first..=last).map(len).sum::<Option<usize>>()?;
        Some((first..=last, bytes))
    }
}

/// A track that this shard publishes, subscribes to, or both.
pub struct Track {
    pub config: TrackConfig,
    pub encodings: Vec<EncodingRing>,
    /// Ascending by session, then by id.
    pub legs: Vec<Leg>,
    pub shapes: Vec<Shape>,
    /// The session that publishes it, if that is on this shard.
    pub publisher: Option<SessionSlot>,
    /// Whether the track is in the shard's list of tracks with fresh packets.
    pub dirty: bool,
    /// The encodings of a simulcast that its legs were last steered by.
    flowing: Flowing,
}

impl Track {
    pub fn new(config: TrackConfig) -> Self {
        let encoding = |_| EncodingRing {
            ring: TrackRing::new(config.kind),
            fresh: Vec::with_capacity(FRESH_MAX),
            clock: None,
            ask_due: Time(0),
            key_frame: None,
            layers: EncodingLayers::default(),
        };
        let encodings = (0..config.encodings).map(encoding).collect();
        Self {
            config,
            encodings,
            legs: Vec::new(),
            shapes: Vec::new(),
            publisher: None,
            dirty: false,
            flowing: Flowing::default(),
        }
    }

    /// Adds a subscriber. Of a simulcast it gets nothing before the first key frame; a plain track's packets
    /// are forwarded from the next one on, as not every decoder needs a key frame to begin.
    pub fn add_leg(&mut self, session: SessionSlot, config: &LegConfig, now: Time) {
        let ssrcs = (config.ssrc, config.rtx_ssrc);
        let mut leg = Leg::new(session, config.id, ssrcs, config.first_sequence, config.first_rtx_sequence);
        leg.selection = config.selection;
        if self.is_simulcast() {
            leg.pause();
        }
        self.take_in(leg, config, now);
    }

    /// Adds a subscriber that was one of another track, and goes on as if that were this one.
    pub fn adopt_leg(&mut self, mut leg: Leg, config: &LegConfig, now: Time) {
        leg.id = config.id;
        leg.move_to_another_track(config.selection);
        self.take_in(leg, config, now);
    }

    fn take_in(&mut self, mut leg: Leg, config: &LegConfig, now: Time) {
        leg.shape = self.shape(Shape::new(config.codecs.clone(), config.extensions, Some(config.mid)));
        if self.is_simulcast() {
            leg.steer(self.flowing_at(now));
        }
        // Slots are given out densely, so whoever joins usually comes last and nothing has to move.
        let (Ok(at) | Err(at)) = self.search(leg.session, leg.id);
        self.legs.insert(at, leg);
    }

    pub fn remove_leg(&mut self, session: SessionSlot, id: LegId) -> Option<Leg> {
        let at = self.search(session, id).ok()?;
        let leg = self.legs.remove(at);
        self.release_shape(leg.shape);
        Some(leg)
    }

    /// Gives a subscriber of a simulcast another selection.
    pub fn select(&mut self, session: SessionSlot, id: LegId, selection: Selection, now: Time) {
        if !self.is_simulcast() {
            return;
        }
        let flowing = self.flowing_at(now);
        if let Some(leg) = self.leg_mut(session, id) {
            leg.select(selection);
            leg.steer(flowing);
        }
    }

    /// Steers all subscribers if other encodings flow than before.
    pub fn steer(&mut self, now: Time) {
        if !self.is_simulcast() {
            return;
        }
        let flowing = self.flowing_at(now);
        if flowing != self.flowing {
            self.flowing = flowing;
            self.legs.iter_mut().for_each(|leg| leg.steer(flowing));
        }
    }

    /// The ways to send a subscriber the track, as far as it wants to be sent others than the best.
    pub fn demand(&mut self, session: SessionSlot, id: LegId, now: Time) -> Demand {
        let mut demand = Demand::default();
        let flowing = self.flowing_at(now);
        let Ok(at) = self.search(session, id) else { return demand };
        let Self { legs, encodings, .. } = self;
        let Some(leg) = legs.get(at) else { return demand };
        let wished = leg.selection.wish.choose(flowing).unwrap_or(leg.encoding());
        let heading = leg.awaited().unwrap_or(leg.encoding());
        let is_offered =
            |number: u8| number == wished || leg.selection.steps_down && flowing.contains(number);
        let least = (wished..encodings.len() as u8).rev().find(|number| is_offered(*number));
        for (number, encoding) in
            (0..).zip(encodings.iter_mut()).filter(|(n, _)| *n >= wished && is_offered(*n))
        {
            let offered = encoding.layers.offered();
            let current = offered.best_within(leg.point()).filter(|_| number == heading);
            let rates = encoding.layers.rates(now);
            if offered.is_empty() {
                let quality = Quality { encoding: number, point: Layer::MAX, bitrate_bps: rates.total_bps() };
                demand.offer(quality, number == heading);
            }
            for point in offered.worthwhile(Some(number) == least).iter_down() {
                let quality = Quality { encoding: number, point, bitrate_bps: rates.point_bps(point) };
                demand.offer(quality, current == Some(point));
            }
        }
        demand
    }

    /// Has a subscriber sent the track in this quality at best.
    pub fn afford(&mut self, session: SessionSlot, id: LegId, quality: Quality, now: Time) {
        let flowing = self.flowing_at(now);
        let Ok(at) = self.search(session, id) else { return };
        let Self { legs, encodings, .. } = self;
        let Some(leg) = legs.get_mut(at) else { return };
        let Some(EncodingRing { layers, .. }) = encodings.get(usize::from(leg.encoding())) else { return };
        let is_everything = layers.is_everything(quality.point);
        leg.afford((quality.encoding, quality.point), layers.offered(), is_everything);
        if encodings.len() > 1 {
            leg.steer(flowing);
        }
    }

    /// Bits per second of its first encoding.
    pub fn bitrate_bps(&mut self, now: Time) -> u64 {
        self.encodings.first_mut().map_or(0, |encoding| encoding.layers.rates(now).total_bps())
    }

    fn is_simulcast(&self) -> bool {
        self.encodings.len() > 1
    }

    fn flowing_at(&self, now: Time) -> Flowing {
        let newest = |e: &EncodingRing| Some(e.ring.get(e.ring.highest()?)?.0.arrived);
        Flowing::at(now, self.encodings.iter().map(newest))
    }

    /// Notes a packet for this turn's egress. Returns whether the track has just become dirty.
    pub fn mark_fresh(&mut self, encoding: u8, index: u64) -> bool {
        let Some(encoding) = self.encodings.get_mut(usize::from(encoding)) else { return false };
        if self.legs.is_empty() || encoding.fresh.len() == FRESH_MAX {
            return false;
        }
        encoding.fresh.push(index);
        !std::mem::replace(&mut self.dirty, true)
    }

    /// Where in `legs` this one is, or would be.
    fn search(&self, session: SessionSlot, id: LegId) -> Result<usize, usize> {
        self.legs.binary_search_by_key(&(session, id), |leg| (leg.session, leg.id))
    }

    pub fn leg(&self, session: SessionSlot, id: LegId) -> Option<&Leg> {
        self.legs.get(self.leg_at(session, id)?)
    }

    /// Where in `legs` it is.
    pub fn leg_at(&self, session: SessionSlot, id: LegId) -> Option<usize> {
        self.search(session, id).ok()
    }

    /// The header shape of the session's leg with this SSRC.
    pub fn shape_of(&self, session: SessionSlot, ssrc: u32) -> Option<&Shape> {
        let first = self.legs.partition_point(|leg| leg.session < session);
        let mut legs = self.legs.get(first..)?.iter().take_while(|leg| leg.session == session);
        self.shapes.get(usize::from(legs.find(|leg| leg.ssrc == ssrc)?.shape))
    }

    pub fn leg_mut(&mut self, session: SessionSlot, id: LegId) -> Option<&mut Leg> {
        let at = self.search(session, id).ok()?;
        self.legs.get_mut(at)
    }

    /// The receiver knows the SSRC, so its packets need no MID any more (RFC 8843 §15).
    pub fn stop_sending_mid(&mut self, session: SessionSlot, id: LegId) {
        let Some(before) = self.leg(session, id).map(|leg| leg.shape) else { return };
        let Some(shape) = self.shapes.get(usize::from(before)) else { return };
        if shape.mid().is_none() {
            return;
        }
        let without = self.shape(shape.without_mid());
        if let Some(leg) = self.leg_mut(session, id) {
            leg.shape = without;
        }
        self.release_shape(before);
    }

    /// The number of this shape, shared by the legs that have the same.
    fn shape(&mut self, wanted: Shape) -> u16 {
        if let Some(at) = self.shapes.iter().position(|shape| shape.is_like(&wanted)) {
            if let Some(shape) = self.shapes.get_mut(at) {
                shape.legs += 1;
            }
            return at as u16;
        }
        let free = self.shapes.iter().position(|shape| shape.legs == 0);
        let at = free.unwrap_or(self.shapes.len());
        match self.shapes.get_mut(at) {
            Some(slot) => *slot = wanted,
            None => self.shapes.push(wanted),
        }
        at as u16
    }

    fn release_shape(&mut self, at: u16) {
        if let Some(shape) = self.shapes.get_mut(usize::from(at)) {
            shape.legs -= 1;
        }
    }
}

/// The tracks of a shard, by the table's index.
#[derive(Default)]
pub struct Tracks(Vec<Option<Track>>);

impl Tracks {
    pub fn insert(&mut self, track: Track) {
        let at = track.config.key.index as usize;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        if let Some(slot) = self.0.get_mut(at) {
            *slot = Some(track);
        }
    }

    pub fn remove(&mut self, key: TrackKey) -> Option<Track> {
        self.get(key)?;
        self.0.get_mut(key.index as usize)?.take()
    }

    /// The track of exactly this generation.
    pub fn get(&self, key: TrackKey) -> Option<&Track> {
        self.0.get(key.index as usize)?.as_ref().filter(|track| track.config.key == key)
    }

    pub fn get_mut(&mut self, key: TrackKey) -> Option<&mut Track> {
        self.0.get_mut(key.index as usize)?.as_mut().filter(|track| track.config.key == key)
    }

    pub fn legs(&self) -> usize {
        self.0.iter().flatten().map(|track| track.legs.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::track_ring::Packet;
    use crate::id::{MediaKind, Mid, ShardId};
    use crate::rtp::extension::ExtensionMap;

    fn track() -> Track {
        Track::new(TrackConfig {
            key: TrackKey { index: 0, generation: 0 },
            kind: MediaKind::Audio,
            publisher: ShardId(0),
            encodings: 1,
            codecs: Vec::new(),
            extensions: ExtensionMap::default(),
        })
    }

    fn leg(id: u32) -> LegConfig {
        LegConfig {
            id: LegId(id),
            track: TrackKey { index: 0, generation: 0 },
            ssrc: id,
            rtx_ssrc: None,
            first_sequence: 0,
            first_rtx_sequence: 0,
            mid: Mid::from_bytes(b"0").unwrap(),
            codecs: Vec::new(),
            extensions: ExtensionMap::default(),
            selection: Selection::default(),
            is_resumable: false,
        }
    }

    #[test]
    fn a_key_frame_begins_with_its_parameters_and_not_with_a_slice() {
        let config = TrackConfig { kind: MediaKind::Video, ..track().config };
        let mut track = Track::new(config);
        let encoding = &mut track.encodings[0];
        let mut store = |index: u64, timestamp: u32, begins: bool| {
            let packet = Packet {
                index,
                timestamp,
                payload_type: 96,
                marker: false,
                header_len: 12,
                len: 100,
                arrived: Time(index),
            };
            encoding.ring.insert(packet, &[&[0; 100]]).unwrap();
            if begins {
                encoding.note_key_frame(index);
            }
            encoding.since_key_frame()
        };
        assert_eq!(store(9, 3_000, false), None);
        assert_eq!(store(11, 6_000, true), Some((11..=11, 100)), "a slice that overtook the parameters");
        assert_eq!(store(10, 6_000, true), Some((10..=11, 200)));
        assert_eq!(store(12, 6_000, true), Some((10..=12, 300)), "the next slice");
        assert_eq!(store(13, 9_000, false), Some((10..=13, 400)));
        assert_eq!(store(8, 0, true), Some((10..=13, 400)), "an older key frame, late");
        assert_eq!(store(14, 12_000, true), Some((14..=14, 100)));
    }

    #[test]
    fn legs_lie_in_the_order_of_sessions_whoever_comes_and_goes() {
        let mut track = track();
        for (session, id) in [(7, 0), (2, 1), (9, 2), (2, 3), (0, 4), (7, 5)] {
            track.add_leg(SessionSlot(session), &leg(id), Time(0));
        }
        for (session, id) in [(9, 2), (2, 1), (2, 1), (2, 0)] {
            track.remove_leg(SessionSlot(session), LegId(id));
        }
        let order: Vec<_> = track.legs.iter().map(|leg| (leg.session.0, leg.ssrc)).collect();
        assert_eq!(order, [(0, 4), (2, 3), (7, 0), (7, 5)]);
        assert_eq!(track.leg(SessionSlot(7), LegId(5)).map(|leg| leg.ssrc), Some(5));
        assert!(track.leg(SessionSlot(2), LegId(5)).is_none());
        assert_eq!(track.shapes[0].legs, 4, "legs of one shape share it");
    }
}
