//! The fresh packets of one track, made ready: all that its legs share is worked out here, once.

use std::ops::Range;

use crate::drop_reason::{DropCounts, DropReason};
use crate::forward::glance::Glance;
use crate::forward::leg::{Leg, NotNumbered, Numbered};
use crate::forward::pace::Backlog;
use crate::forward::rewrite::Shape;
use crate::forward::select::timestamp_shift;
use crate::forward::track_ring::Packet;
use crate::id::{MediaKind, TrackKey};
use crate::rtp::codec::VideoCodec;
use crate::rtp::layer::Points;
use crate::rtp::template::HeaderTemplate;
use crate::shard::command::TrackConfig;
use crate::shard::egress::outgoing::{descriptor_of, payload_of};
use crate::shard::egress::plan::{Plan, Planned};
use crate::shard::track::{EncodingRing, Track};

/// A track with fresh packets, and how far the walk along its legs has come.
pub struct Lane {
    pub track: TrackKey,
    pub is_video: bool,
    /// Where in the track's legs the next one is.
    pub next: usize,
    /// The encodings, as bits, that connected legs wait for although packets of them came.
    pub awaited: u32,
    batches: Range<usize>,
}

/// The fresh packets of one encoding.
struct Batch {
    encoding: u8,
    packets: Range<usize>,
    /// Where the headers of shape 0 begin; those of the next shape follow.
    headers: usize,
    /// The operating points that the encoding has frames for.
    offered: Points,
}

/// A fresh packet.
pub struct Fresh {
    pub packet: Packet,
    pub encoding: u8,
    /// Where in its ring the payload is.
    pub payload: Range<usize>,
    pub glance: Glance,
}

impl Fresh {
    /// Looks at a packet of a ring, whose number in its track is `number`; `None` if it is gone.
    pub fn look(encoding: &mut EncodingRing, number: u8, index: u64, track: &TrackConfig) -> Option<Self> {
        let EncodingRing { ring, layers, .. } = encoding;
        let (packet, range) = ring.locate(index)?;
        let stored = ring.bytes(range.clone());
        let payload = payload_of(&packet, stored);
        let codec = track.codec(packet.payload_type);
        let glance = layers.look(codec, descriptor_of(track, stored), payload);
        let payload = range.end - payload.len()..range.end;
        Some(Self { packet, encoding: number, payload, glance })
    }
}

/// Whether a packet of a ring is known to begin a key frame, or a part of one.
pub fn begins_key_frame(encoding: &EncodingRing, index: u64, track: &TrackConfig) -> bool {
    let Some((packet, stored)) = encoding.ring.get(index) else { return false };
    let codec = track.codec(packet.payload_type);
    let descriptor = descriptor_of(track, stored);
    is_known_beginning(&encoding.layers.look_again(codec, descriptor, payload_of(&packet, stored)), codec)
}

/// Without a descriptor and for a codec that is not known, every packet may be a beginning, and none is known to be.
fn is_known_beginning(glance: &Glance, codec: Option<VideoCodec>) -> bool {
    glance.is_beginning && (glance.layering.is_some() || codec.is_some())
}

/// The lanes of a turn and what belongs to them, kept between turns for their memory.
#[derive(Default)]
pub struct Lanes {
    pub all: Vec<Lane>,
    batches: Vec<Batch>,
    packets: Vec<Fresh>,
    /// `None` where the shape does not take the codec.
    headers: Vec<Option<HeaderTemplate>>,
}

impl Lanes {
    /// Takes over the fresh packets of a track.
    pub fn add(&mut self, track: &mut Track) {
        track.dirty = false;
        let Track { config, encodings, shapes, .. } = track;
        let first = self.batches.len();
        for (number, encoding) in (0..).zip(encodings) {
            if !encoding.fresh.is_empty() {
                self.add_batch(number, encoding, shapes, config);
                encoding.fresh.clear();
            }
        }
        let batches = first..self.batches.len();
        let is_video = config.kind == MediaKind::Video;
        self.all.push(Lane { track: config.key, is_video, next: 0, awaited: 0, batches });
    }

    fn add_batch(&mut self, number: u8, encoding: &mut EncodingRing, shapes: &[Shape], track: &TrackConfig) {
        let first = self.packets.len();
        for at in 0..encoding.fresh.len() {
            let Some(&index) = encoding.fresh.get(at) else { break };
            let Some(fresh) = Fresh::look(encoding, number, index, track) else { continue };
            let Fresh { packet, glance, .. } = &fresh;
            encoding.layers.count(glance, packet.len.into(), packet.arrived);
            if is_known_beginning(glance, track.codec(packet.payload_type)) {
                encoding.note_key_frame(index);
            }
            self.packets.push(fresh);
        }
        let offered = encoding.layers.offered();
        let packets = first..self.packets.len();
        let headers = self.headers.len();
        for shape in shapes {
            let fresh = self.packets.get(packets.clone()).unwrap_or(&[]);
            self.headers.extend(fresh.iter().map(|fresh| {
                let (packet, stored) = encoding.ring.get(fresh.packet.index).filter(|_| shape.legs > 0)?;
                shape.header(&packet, stored, &track.extensions)
            }));
        }
        self.batches.push(Batch { encoding: number, packets, headers, offered });
    }

    pub fn clear(&mut self) {
        self.all.clear();
        self.batches.clear();
        self.packets.clear();
        self.headers.clear();
    }

    pub fn packet(&self, at: usize) -> Option<&Fresh> {
        self.packets.get(at)
    }

    pub fn is_video(&self, lane: usize) -> bool {
        self.all.get(lane).is_some_and(|lane| lane.is_video)
    }

    pub fn header(&self, at: usize) -> Option<&HeaderTemplate> {
        self.headers.get(at)?.as_ref()
    }

    fn batches(&self, lane: &Lane) -> &[Batch] {
        self.batches.get(lane.batches.clone()).unwrap_or(&[])
    }

    /// Adds to the plan what a leg of lane `at` gets, and numbers it. Returns the encodings, as bits, that
    /// it waits for although packets of them came.
    pub fn plan(&self, at: usize, leg: &mut Leg, track: &TrackView<'_>, plan: &mut Plan) -> u32 {
        let Some(lane) = self.all.get(at) else { return 0 };
        let mut awaited = 0;
        let backlog = if lane.is_video { plan.backlog } else { Backlog::NONE };
        plan.begin_strand();
        for batch in self.batches(lane) {
            if leg.heeds(batch.encoding) {
                self.plan_batch(at, batch, (leg, backlog), track, plan);
            }
            let waits = leg.awaited() == Some(batch.encoding)
                || leg.receives(batch.encoding) && leg.needs_key_frame();
            let newest = batch.packets.clone().last().filter(|_| waits).and_then(|at| self.packet(at));
            if newest.is_some_and(|newest| leg.may_begin(backlog, newest.packet.arrived)) {
                awaited |= 1 << batch.encoding;
            }
        }
        awaited
    }

    fn plan_batch(
        &self,
        lane: usize,
        batch: &Batch,
        (leg, backlog): (&mut Leg, Backlog),
        track: &TrackView<'_>,
        plan: &mut Plan,
    ) {
        let first = batch.headers + usize::from(leg.shape) * batch.packets.len();
        let headers = first..first + batch.packets.len();
        for (packet, header) in batch.packets.clone().zip(headers) {
            match self.number((packet, header), (leg, backlog), batch.offered, track) {
                Ok(numbered) => plan.push(Planned { lane, ..numbered }),
                Err(reason) => plan.drops.count(reason),
            }
        }
    }

    fn number(
        &self,
        (at, header): (usize, usize),
        (leg, backlog): (&mut Leg, Backlog),
        offered: Points,
        track: &TrackView<'_>,
    ) -> Result<Planned, DropReason> {
        let template = self.header(header).ok_or(DropReason::CodecNotNegotiated)?;
        let fresh = self.packet(at).ok_or(DropReason::TrackGone)?;
        let numbered = track.number(leg, fresh, offered, backlog)?;
        let payload_len = if numbered.is_empty { 0 } else { fresh.payload.len() };
        let shape =
            track.shapes.get(usize::from(leg.shape)).filter(|_| numbered.counters.frame_number.is_some());
        Ok(Planned {
            lane: 0,
            packet: at,
            header,
            len: template.as_bytes().len() + payload_len,
            ssrc: leg.ssrc,
            numbered,
            frame_number_at: shape.and_then(|shape| shape.frame_number_at(template)),
        })
    }

    /// Counts what a leg of `lane` would have got.
    pub fn count_undeliverable(&self, lane: &Lane, leg: &Leg, drops: &mut DropCounts) {
        let heeded = self.batches(lane).iter().filter(|batch| leg.heeds(batch.encoding));
        let packets: usize = heeded.map(|batch| batch.packets.len()).sum();
        drops.count_many(DropReason::SubscriberNotReady, packets as u64);
    }
}

/// What numbering a packet needs to know of its track.
pub struct TrackView<'a> {
    /// All of the track: a leg that comes from another needs the clocks of both.
    pub encodings: &'a [EncodingRing],
    pub shapes: &'a [Shape],
}

impl TrackView<'_> {
    /// Numbers a packet for a leg, for whom there is `backlog` to be sent before it; the packet's encoding has frames
    /// for the points `offered`.
    pub fn number(
        &self,
        leg: &mut Leg,
        fresh: &Fresh,
        offered: Points,
        backlog: Backlog,
    ) -> Result<Numbered, DropReason> {
        if backlog.is_too_long() && leg.receives(fresh.encoding) && leg.is_next_picture(&fresh.packet) {
            leg.fall_behind(fresh.packet.arrived);
        }
        if leg.awaited() == Some(fresh.encoding)
            && fresh.glance.is_beginning
            && leg.may_begin(backlog, fresh.packet.arrived)
        {
            self.let_in(leg, fresh);
        }
        if !leg.receives(fresh.encoding) {
            let reason = if leg.is_behind() { DropReason::SubscriberBehind } else { DropReason::BeforeJoin };
            return Err(reason);
        }
        let numbered = leg.number(&fresh.packet, &fresh.glance, offered).map_err(|why| match why {
            NotNumbered::TooEarly => DropReason::BeforeJoin,
            NotNumbered::LeftOut => DropReason::LayerLeftOut,
        })?;
        leg.count_sent(if numbered.is_empty { 0 } else { fresh.payload.len() });
        Ok(numbered)
    }

    /// The leg goes over to the encoding of this packet, with this packet.
    fn let_in(&self, leg: &mut Leg, fresh: &Fresh) {
        let clock_rate = self.shapes.get(usize::from(leg.shape)).map_or(90_000, Shape::clock_rate);
        let clock = |number: u8| self.encodings.get(usize::from(number))?.clock;
        let clocks = leg.previous().and_then(clock).zip(clock(fresh.encoding));
        let shift = clocks.map(|(from, to)| timestamp_shift(&from, &to, clock_rate));
        leg.enter(fresh.encoding, &fresh.packet, &fresh.glance, shift, clock_rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardId;
    use crate::rtp::codec::VideoCodec;
    use crate::rtp::dependency::written::Scalability;
    use crate::rtp::extension::{Extension, ExtensionMap};
    use crate::time::Time;

    #[test]
    fn where_there_is_a_descriptor_encrypted_payloads_begin_no_key_frame() {
        let key = TrackKey { index: 0, generation: 0 };
        let mut extensions = ExtensionMap::default();
        extensions.set(Extension::DependencyDescriptor, 5);
        let mut track = Track::new(TrackConfig {
            key,
            kind: MediaKind::Video,
            publisher: ShardId(0),
            encodings: 1,
            codecs: vec![(96, VideoCodec::Vp8)],
            extensions,
        });
        let mut encoder = Scalability::new(1, 2, false, 0, 7);
        // To whoever reads the payload each would begin a key frame.
        let payload = [0x10, 0x00];
        let described = [encoder.picture(true), encoder.picture(false)].concat();
        let mut begins = Vec::new();
        for (index, sent) in (0..).zip(&described) {
            let mut extension = vec![5, sent.descriptor.len() as u8];
            extension.extend(&sent.descriptor);
            extension.resize(extension.len().next_multiple_of(4), 0);
            let mut header = vec![0x90, 96, 0, index as u8, 0, 0, 0, 0, 0, 0, 0, 1, 0x10, 0x00, 0];
            header.push((extension.len() / 4) as u8);
            header.extend(extension);
            let packet = Packet {
                index,
                timestamp: 0,
                payload_type: 96,
                marker: false,
                header_len: header.len() as u16,
                len: (header.len() + payload.len()) as u16,
                arrived: Time(0),
            };
            let Track { config, encodings, .. } = &mut track;
            encodings[0].ring.insert(packet, &[&header, &payload]).unwrap();
            begins.push(begins_key_frame(&encodings[0], index, config));
        }
        assert_eq!(begins, [true, false]);
    }
}
