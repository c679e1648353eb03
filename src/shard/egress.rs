//! From the rings towards subscribers: fresh packets, retransmissions, replies of control.
//!
//! Legs outside, packets inside: all that a turn has for one subscriber is sealed back to back, so that a
//! video frame's burst leaves as one GSO send. A packet goes from its ring straight into the backend's
//! transmit memory and is sealed there.

use crate::drop_reason::{DropCounts, DropReason};
use crate::forward::keyframe;
use crate::forward::leg::Leg;
use crate::forward::rewrite::Shape;
use crate::forward::select::timestamp_shift;
use crate::forward::track_ring::{Packet, TrackRing};
use crate::id::TrackKey;
use crate::io::{Io, Path};
use crate::rtp::codec::{VideoCodec, vp8};
use crate::rtp::srtp::Sealer;
use crate::rtp::template::{self, HeaderTemplate};
use crate::shard::command::TrackConfig;
use crate::shard::session::{Outlet, Sessions};
use crate::shard::track::{EncodingRing, Track};
use crate::shard::{Core, Retransmit, punt};
use crate::time::Time;

impl Core {
    /// Sends what control answered to STUN and DTLS.
    pub(super) fn send_replies(&mut self, io: &mut impl Io) -> usize {
        let mut sent = 0;
        while let Some(record) = self.control.replies.next() {
            let Some((path, bytes)) = punt::read(record) else { continue };
            match io.reserve(&path, bytes.len()) {
                Some(room) => {
                    room.copy_from_slice(bytes);
                    io.commit(bytes.len());
                    sent += 1;
                }
                None => self.counters.drops.count(DropReason::SendBufferFull),
            }
        }
        self.control.replies.release();
        sent
    }

    /// Sends every fresh packet to every leg of its track.
    pub(super) fn forward(&mut self, io: &mut impl Io, now: Time) -> usize {
        let mut sent = 0;
        while let Some(key) = self.dirty.pop() {
            let Some(track) = self.tracks.get_mut(key) else { continue };
            track.dirty = false;
            track.steer(now);
            sent +=
                forward_track(track, &mut self.sessions, &mut self.templates, io, &mut self.counters.drops);
            self.note_awaited(key, now);
        }
        self.ask_for_key_frames();
        self.counters.rtp_packets_sent += sent as u64;
        sent
    }

    /// Notes the encodings that legs of the track wait for a key frame of, once per interval.
    fn note_awaited(&mut self, key: TrackKey, now: Time) {
        let Some(track) = self.tracks.get_mut(key).filter(|track| track.awaited != 0) else { return };
        for (number, encoding) in (0..).zip(&mut track.encodings) {
            if track.awaited & 1 << number != 0 && encoding.ask_due <= now {
                encoding.ask_due = now.plus_ms(keyframe::INTERVAL_MS);
                self.asks.push((key, number as u8));
            }
        }
    }

    fn ask_for_key_frames(&mut self) {
        while let Some((track, encoding)) = self.asks.pop() {
            self.request_key_frame(track, encoding);
        }
    }

    /// Answers the NACKs of this turn from the rings.
    pub(super) fn retransmit(&mut self, io: &mut impl Io) -> usize {
        let mut wanted = std::mem::take(&mut self.retransmits);
        let count = wanted.len();
        for wanted in wanted.drain(..) {
            match self.retransmit_one(&wanted, io) {
                Ok(()) => self.counters.retransmissions_sent += 1,
                Err(reason) => self.drop(reason),
            }
        }
        self.retransmits = wanted;
        count
    }

    fn retransmit_one(&mut self, wanted: &Retransmit, io: &mut impl Io) -> Result<(), DropReason> {
        let track = self.tracks.get_mut(wanted.track).ok_or(DropReason::TrackGone)?;
        let at = track.place(wanted.leg).ok_or(DropReason::TrackGone)?;
        let leg = track.legs.get_mut(at).ok_or(DropReason::TrackGone)?;
        let rtx_ssrc = leg.rtx_ssrc.ok_or(DropReason::NackWithoutRtx)?;
        let index = leg.track_index(wanted.sequence).ok_or(DropReason::NackTooLate)?;
        let encoding = track.encodings.get(usize::from(leg.encoding())).ok_or(DropReason::TrackGone)?;
        let (packet, stored) = encoding.ring.get(index).ok_or(DropReason::NackTooLate)?;
        let shape = track.shapes.get(usize::from(leg.shape)).ok_or(DropReason::TrackGone)?;
        let header = shape.rtx_header(&packet, stored, &track.config.extensions);
        let header = header.ok_or(DropReason::NackWithoutRtx)?;
        let payload = payload_of(&packet, stored);
        let outlet = self.sessions.outlet_mut(wanted.session).ok_or(DropReason::SubscriberNotReady)?;
        let (path, sealer) = outlet.ready()?;
        let timestamp = packet.timestamp.wrapping_add(leg.timestamp_offset());
        let picture = Glance::of(&track.config, &packet, payload).picture;
        let out = Outgoing { ssrc: rtx_ssrc, index: leg.next_rtx(), timestamp };
        let original = wanted.sequence.to_be_bytes();
        send(&out, header.as_bytes(), [&original, payload], (leg, picture), &path, sealer, io)
    }
}

/// What is worked out once for the packets of one encoding's turn, kept between turns for its memory.
#[derive(Default)]
pub(super) struct Templates {
    /// By shape, then by packet; `None` where the shape does not take the codec.
    headers: Vec<Option<HeaderTemplate>>,
    /// By packet.
    glances: Vec<Glance>,
}

/// What a packet's payload tells a forwarder.
struct Glance {
    /// A decoder can begin here.
    is_beginning: bool,
    picture: Option<vp8::Descriptor>,
}

impl Glance {
    /// Of audio, and of video that we cannot read, every packet is a beginning.
    fn of(track: &TrackConfig, packet: &Packet, payload: &[u8]) -> Self {
        let codec = track.codecs.iter().find(|(number, _)| *number == packet.payload_type);
        let Some(&(_, codec)) = codec else { return Self { is_beginning: true, picture: None } };
        let picture = if codec == VideoCodec::Vp8 { vp8::Descriptor::parse(payload) } else { None };
        Self { is_beginning: codec.starts_key_frame(payload), picture }
    }
}

/// One track's fresh packets to all its legs. Returns how many packets left.
fn forward_track(
    track: &mut Track,
    sessions: &mut Sessions,
    templates: &mut Templates,
    io: &mut impl Io,
    drops: &mut DropCounts,
) -> usize {
    let mut sent = 0;
    track.awaited = 0;
    let Track { config, encodings, legs, shapes, awaited, .. } = track;
    for number in 0..config.encodings {
        let Some(batch) = Batch::new(number, encodings, shapes, config, templates) else { continue };
        for leg in legs.iter_mut().filter(|leg| leg.heeds(number)) {
            let Some(outlet) = sessions.outlet_mut(leg.session) else { continue };
            sent += batch.send_to(leg, outlet, io, drops);
            // Who is not connected could not use a key frame.
            if leg.awaited() == Some(number) && outlet.ready().is_ok() {
                *awaited |= 1 << number;
            }
        }
    }
    encodings.iter_mut().for_each(|encoding| encoding.fresh.clear());
    sent
}

/// The fresh packets of one encoding, with a header built for each shape.
struct Batch<'a> {
    number: u8,
    ring: &'a TrackRing,
    fresh: &'a [u64],
    /// All of the track: a leg that comes from another needs the clocks of both.
    encodings: &'a [EncodingRing],
    shapes: &'a [Shape],
    templates: &'a Templates,
}

impl<'a> Batch<'a> {
    /// `None` if there are no fresh packets.
    fn new(
        number: u8,
        encodings: &'a [EncodingRing],
        shapes: &'a [Shape],
        track: &TrackConfig,
        templates: &'a mut Templates,
    ) -> Option<Self> {
        let EncodingRing { ring, fresh, .. } = encodings.get(usize::from(number))?;
        if fresh.is_empty() {
            return None;
        }
        templates.headers.clear();
        for shape in shapes {
            templates.headers.extend(fresh.iter().map(|&index| {
                let (packet, stored) = ring.get(index).filter(|_| shape.legs > 0)?;
                shape.header(&packet, stored, &track.extensions)
            }));
        }
        templates.glances.clear();
        templates.glances.extend(fresh.iter().map(|&index| match ring.get(index) {
            Some((packet, stored)) => Glance::of(track, &packet, payload_of(&packet, stored)),
            None => Glance { is_beginning: false, picture: None },
        }));
        Some(Self { number, ring, fresh, encodings, shapes, templates })
    }

    /// Everything for one subscriber, back to back.
    fn send_to(&self, leg: &mut Leg, outlet: &mut Outlet, io: &mut impl Io, drops: &mut DropCounts) -> usize {
        let (path, sealer) = match outlet.ready() {
            Ok(ready) => ready,
            Err(reason) => {
                drops.count_many(reason, self.fresh.len() as u64);
                return 0;
            }
        };
        let first = usize::from(leg.shape) * self.fresh.len();
        let headers = self.templates.headers.get(first..first + self.fresh.len()).unwrap_or(&[]);
        let mut sent = 0;
        for ((&index, header), glance) in self.fresh.iter().zip(headers).zip(&self.templates.glances) {
            let Some((packet, stored)) = self.ring.get(index) else { continue };
            match self.forward_one(leg, (&packet, stored), (header.as_ref(), glance), &path, sealer, io) {
                Ok(()) => sent += 1,
                Err(reason) => drops.count(reason),
            }
        }
        sent
    }

    fn forward_one(
        &self,
        leg: &mut Leg,
        (packet, stored): (&Packet, &[u8]),
        (header, glance): (Option<&HeaderTemplate>, &Glance),
        path: &Path,
        sealer: &Sealer,
        io: &mut impl Io,
    ) -> Result<(), DropReason> {
        let header = header.ok_or(DropReason::CodecNotNegotiated)?;
        if leg.awaited() == Some(self.number) && glance.is_beginning {
            self.let_in(leg, packet, glance);
        }
        if !leg.receives(self.number) {
            return Err(DropReason::BeforeJoin);
        }
        let index = leg.outgoing(packet.index).ok_or(DropReason::BeforeJoin)?;
        if let Some(picture) = &glance.picture {
            leg.pictures.note(picture);
        }
        let out = Outgoing { ssrc: leg.ssrc, index, timestamp: leg.timestamp(packet) };
        let payload = payload_of(packet, stored);
        send(&out, header.as_bytes(), [&[], payload], (leg, glance.picture), path, sealer, io)?;
        leg.count_sent(payload.len());
        Ok(())
    }

    /// The leg goes over to this encoding with this packet.
    fn let_in(&self, leg: &mut Leg, packet: &Packet, glance: &Glance) {
        let clock_rate = self.shapes.get(usize::from(leg.shape)).map_or(90_000, Shape::clock_rate);
        let clock = |number: u8| self.encodings.get(usize::from(number))?.clock;
        let clocks = leg.previous().and_then(clock).zip(clock(self.number));
        let shift = clocks.map(|(from, to)| timestamp_shift(&from, &to, clock_rate));
        leg.enter(self.number, packet, glance.picture.as_ref(), shift, clock_rate);
    }
}

fn payload_of<'a>(packet: &Packet, stored: &'a [u8]) -> &'a [u8] {
    stored.get(usize::from(packet.header_len)..).unwrap_or(&[])
}

/// What of a header is a subscriber's own.
struct Outgoing {
    ssrc: u32,
    /// Extended sequence number: rollover counter and sequence.
    index: u64,
    timestamp: u32,
}

/// Writes a packet into transmit memory, seals it there, lets it go. `payload` comes in two parts because a
/// retransmission's begins with the original sequence number; the second holds the picture's counters.
fn send(
    out: &Outgoing,
    header: &[u8],
    payload: [&[u8]; 2],
    (leg, picture): (&Leg, Option<vp8::Descriptor>),
    path: &Path,
    sealer: &Sealer,
    io: &mut impl Io,
) -> Result<(), DropReason> {
    let [first, second] = payload;
    let len = header.len() + first.len() + second.len() + sealer.rtp_overhead();
    let room = io.reserve(path, len).ok_or(DropReason::SendBufferFull)?;
    let (head, rest) = room.split_at_mut(header.len());
    head.copy_from_slice(header);
    template::patch(head, out.index as u16, out.timestamp, out.ssrc);
    let (one, rest) = rest.split_at_mut(first.len());
    one.copy_from_slice(first);
    let (two, _tag) = rest.split_at_mut(second.len());
    two.copy_from_slice(second);
    if let Some(picture) = picture {
        leg.pictures.rewrite(&picture, two);
    }
    sealer.protect_rtp(room, header.len(), out.index);
    io.commit(len);
    Ok(())
}
