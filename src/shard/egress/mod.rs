//! From the rings towards subscribers: fresh packets, retransmissions, replies of control.
//!
//! Per subscriber, not per packet: all that a turn has for one subscriber, of all the tracks that it gets, is
//! sealed back to back, so that a frame's burst and several speakers' packets leave as one GSO send. The way
//! there: [`lane`] works out once what the legs of a track share; [`fan_out`] walks the legs of all tracks side
//! by side, subscriber by subscriber; [`plan`] collects, orders and sends what one of them gets. A packet goes
//! from its ring straight into the backend's transmit memory and is sealed there ([`outgoing`]).
//!
//! What a subscriber gets exists as a [`plan::Plan`] before anything of it is sealed. Video that its path cannot take
//! at once goes from there to [`pacing`], and leaves in the turns that follow.

mod catch_up;
mod dirty;
mod fan_out;
mod lane;
mod outgoing;
mod pacing;
mod plan;
mod probe;

pub(super) use dirty::DirtyTracks;
pub(super) use fan_out::Egress;
pub(super) use lane::begins_key_frame;
pub(super) use pacing::{PacedQueues, QueueId, Waiting};
pub(super) use probe::Probers;

use crate::drop_reason::DropReason;
use crate::forward::keyframe;
use crate::id::TrackKey;
use crate::io::Io;
use crate::shard::egress::outgoing::{Outgoing, descriptor_of, payload_of};
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

    /// Sends every fresh packet that is due to every leg of its track.
    pub(super) fn forward(&mut self, io: &mut impl Io, now: Time) -> usize {
        let due = self.dirty.take_due(now);
        if due.is_empty() {
            return 0;
        }
        for key in due.drain(..) {
            if let Some(track) = self.tracks.get_mut(key) {
                track.steer(now);
                self.egress.add(track);
            }
        }
        let sent = {
            let Self { egress, tracks, sessions, paced, counters, .. } = self;
            egress.fan_out(tracks, sessions, paced, io, &mut counters.drops, now)
        };
        while let Some((track, awaited)) = self.egress.remove() {
            self.note_awaited(track, awaited, now);
        }
        self.counters.rtp_packets_sent += sent as u64;
        sent
    }

    /// Asks for a key frame of each encoding, as bits, that legs of the track wait for: once per interval.
    fn note_awaited(&mut self, key: TrackKey, awaited: u32, now: Time) {
        let Some(track) = self.tracks.get_mut(key).filter(|_| awaited != 0) else { return };
        for (number, encoding) in (0..).zip(&mut track.encodings) {
            if awaited & 1 << number != 0 && encoding.ask_due <= now {
                encoding.ask_due = now.plus_ms(keyframe::INTERVAL_MS);
                self.asks.push(number as u8);
            }
        }
        while let Some(encoding) = self.asks.pop() {
            self.request_key_frame(key, encoding);
        }
    }

    /// Answers the NACKs of this turn from the rings.
    pub(super) fn retransmit(&mut self, io: &mut impl Io, now: Time) -> usize {
        let mut wanted = std::mem::take(&mut self.retransmits);
        let count = wanted.len();
        for wanted in wanted.drain(..) {
            match self.retransmit_within_budget(&wanted, io, now) {
                Ok(()) => self.counters.retransmissions_sent += 1,
                Err(reason) => self.drop(reason),
            }
        }
        self.retransmits = wanted;
        count
    }

    fn retransmit_within_budget(
        &mut self,
        wanted: &Retransmit,
        io: &mut impl Io,
        now: Time,
    ) -> Result<(), DropReason> {
        if self.sessions.bandwidth_mut(wanted.session).is_some_and(|bandwidth| !bandwidth.may_retransmit()) {
            return Err(DropReason::RetransmissionBudget);
        }
        let bytes = self.retransmit_one(wanted, io, now)?;
        if let Some(bandwidth) = self.sessions.bandwidth_mut(wanted.session) {
            bandwidth.count_retransmitted(bytes);
            bandwidth.pacer.spend(bytes);
        }
        Ok(())
    }

    /// Sends a packet again under the SSRC for retransmissions. Returns its length.
    pub(super) fn retransmit_one(
        &mut self,
        wanted: &Retransmit,
        io: &mut impl Io,
        now: Time,
    ) -> Result<usize, DropReason> {
        let track = self.tracks.get_mut(wanted.track).ok_or(DropReason::TrackGone)?;
        let leg = track.leg_mut(wanted.session, wanted.leg).ok_or(DropReason::TrackGone)?;
        let ssrc = leg.rtx_ssrc.ok_or(DropReason::NackWithoutRtx)?;
        let track_index = leg.track_index(wanted.sequence).ok_or(DropReason::NackTooLate)?;
        let index = leg.next_rtx();
        let leg = track.leg(wanted.session, wanted.leg).ok_or(DropReason::TrackGone)?;
        let (number, shape) = (usize::from(leg.encoding()), usize::from(leg.shape));
        let encoding = track.encodings.get(number).ok_or(DropReason::TrackGone)?;
        let (packet, stored) = encoding.ring.get(track_index).ok_or(DropReason::NackTooLate)?;
        let shape = track.shapes.get(shape).ok_or(DropReason::TrackGone)?;
        let header = shape.rtx_header(&packet, stored, &track.config.extensions, wanted.mid);
        let header = header.ok_or(DropReason::NackWithoutRtx)?;
        let payload = payload_of(&packet, stored);
        let codec = track.config.codec(packet.payload_type);
        let glance = encoding.layers.look_again(codec, descriptor_of(&track.config, stored), payload);
        let outlet = self.sessions.outlet_mut(wanted.session).ok_or(DropReason::SubscriberNotReady)?;
        let mut to = outlet.destination(now)?;
        let original = wanted.sequence.to_be_bytes();
        let out = Outgoing {
            header: &header,
            payload: [&original, payload],
            padding: 0,
            ssrc,
            index,
            timestamp: packet.timestamp.wrapping_add(leg.timestamp_offset()),
            picture: glance.picture,
            counters: leg.counters(&glance),
            frame_number_at: shape.frame_number_at(&header),
        };
        out.send(&mut to, io)
    }
}
