//! From the rings towards subscribers: fresh packets, retransmissions, replies of control.
//!
//! Legs outside, packets inside: all that a turn has for one subscriber is sealed back to back, so that a
//! video frame's burst leaves as one GSO send. A packet goes from its ring straight into the backend's
//! transmit memory and is sealed there.

use crate::drop_reason::{DropCounts, DropReason};
use crate::forward::leg::Leg;
use crate::forward::rewrite::Shape;
use crate::forward::track_ring::{Packet, TrackRing};
use crate::io::{Io, Path};
use crate::rtp::extension::ExtensionMap;
use crate::rtp::srtp::Sealer;
use crate::rtp::template::{self, HeaderTemplate};
use crate::shard::session::{Outlet, Sessions};
use crate::shard::track::Track;
use crate::shard::{Core, Retransmit, punt};

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
    pub(super) fn forward(&mut self, io: &mut impl Io) -> usize {
        let mut sent = 0;
        while let Some(key) = self.dirty.pop() {
            let Some(track) = self.tracks.get_mut(key) else { continue };
            track.dirty = false;
            sent +=
                forward_track(track, &mut self.sessions, &mut self.templates, io, &mut self.counters.drops);
        }
        self.counters.rtp_packets_sent += sent as u64;
        sent
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
        let encoding = track.encodings.get(usize::from(leg.encoding)).ok_or(DropReason::TrackGone)?;
        let (packet, stored) = encoding.ring.get(index).ok_or(DropReason::NackTooLate)?;
        let shape = track.shapes.get(usize::from(leg.shape)).ok_or(DropReason::TrackGone)?;
        let header = shape.rtx_header(&packet, stored, &track.config.extensions);
        let header = header.ok_or(DropReason::NackWithoutRtx)?;
        let payload = stored.get(usize::from(packet.header_len)..).unwrap_or(&[]);
        let outlet = self.sessions.outlet_mut(wanted.session).ok_or(DropReason::SubscriberNotReady)?;
        let (path, sealer) = outlet.ready()?;
        let out = Outgoing { ssrc: rtx_ssrc, index: leg.next_rtx(), timestamp: packet.timestamp };
        let original = wanted.sequence.to_be_bytes();
        send(&out, header.as_bytes(), [&original, payload], &path, sealer, io)
    }
}

/// Header templates of the packets and shapes of one track's turn, kept between turns for their memory.
pub(super) type Templates = Vec<Option<HeaderTemplate>>;

/// One track's fresh packets to all its legs. Returns how many packets left.
fn forward_track(
    track: &mut Track,
    sessions: &mut Sessions,
    templates: &mut Templates,
    io: &mut impl Io,
    drops: &mut DropCounts,
) -> usize {
    let mut sent = 0;
    let Track { config, encodings, legs, shapes, .. } = track;
    for (number, encoding) in encodings.iter_mut().enumerate() {
        if encoding.fresh.is_empty() {
            continue;
        }
        let batch = Batch::new(&encoding.ring, &encoding.fresh, shapes, &config.extensions, templates);
        for leg in legs.iter_mut().filter(|leg| usize::from(leg.encoding) == number) {
            let Some(outlet) = sessions.outlet_mut(leg.session) else { continue };
            sent += batch.send_to(leg, outlet, io, drops);
        }
        encoding.fresh.clear();
    }
    sent
}

/// The fresh packets of one encoding, with a header built for each shape.
struct Batch<'a> {
    ring: &'a TrackRing,
    fresh: &'a [u64],
    /// By shape, then by packet; `None` where the shape does not take the codec.
    templates: &'a [Option<HeaderTemplate>],
}

impl<'a> Batch<'a> {
    fn new(
        ring: &'a TrackRing,
        fresh: &'a [u64],
        shapes: &[Shape],
        publisher: &ExtensionMap,
        templates: &'a mut Templates,
    ) -> Self {
        templates.clear();
        for shape in shapes {
            templates.extend(fresh.iter().map(|&index| {
                let (packet, stored) = ring.get(index).filter(|_| shape.legs > 0)?;
                shape.header(&packet, stored, publisher)
            }));
        }
        Self { ring, fresh, templates }
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
        let templates = self.templates.get(first..first + self.fresh.len()).unwrap_or(&[]);
        let mut sent = 0;
        for (&index, template) in self.fresh.iter().zip(templates) {
            let Some((packet, stored)) = self.ring.get(index) else { continue };
            match forward_one(leg, &packet, stored, template.as_ref(), &path, sealer, io) {
                Ok(()) => sent += 1,
                Err(reason) => drops.count(reason),
            }
        }
        sent
    }
}

fn forward_one(
    leg: &mut Leg,
    packet: &Packet,
    stored: &[u8],
    template: Option<&HeaderTemplate>,
    path: &Path,
    sealer: &Sealer,
    io: &mut impl Io,
) -> Result<(), DropReason> {
    let header = template.ok_or(DropReason::CodecNotNegotiated)?;
    let index = leg.outgoing(packet.index).ok_or(DropReason::BeforeJoin)?;
    let payload = stored.get(usize::from(packet.header_len)..).unwrap_or(&[]);
    let out = Outgoing { ssrc: leg.ssrc, index, timestamp: packet.timestamp };
    send(&out, header.as_bytes(), [&[], payload], path, sealer, io)?;
    leg.count_sent(payload.len());
    Ok(())
}

/// What of a header is a subscriber's own.
struct Outgoing {
    ssrc: u32,
    /// Extended sequence number: rollover counter and sequence.
    index: u64,
    timestamp: u32,
}

/// Writes a packet into transmit memory, seals it there, lets it go. `payload` comes in two parts because a
/// retransmission's begins with the original sequence number.
fn send(
    out: &Outgoing,
    header: &[u8],
    payload: [&[u8]; 2],
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
    sealer.protect_rtp(room, header.len(), out.index);
    io.commit(len);
    Ok(())
}
