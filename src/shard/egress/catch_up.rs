//! How a new subscriber of video begins: with the latest key frame, if the track ring has that and all that followed.
//!
//! It then needs no key frame of the publisher, whose answer takes a round trip and an encoder's time, and would cost
//! all subscribers bandwidth. What it gets of the past is numbered as if it had been there, and leaves by its
//! pacer's queue, faster than real time, before what comes fresh. Where nothing is paced the past would be one burst of
//! all its pictures, so there a key frame is asked for; so it is where a session pulls more at once than its pacer
//! sends soon.

use crate::drop_reason::{DropCounts, DropReason};
use crate::forward::pace::Backlog;
use crate::id::{LegId, MediaKind, SessionSlot, TrackKey};
use crate::shard::Core;
use crate::shard::egress::lane::{Fresh, TrackView, begins_key_frame};
use crate::shard::egress::pacing::{PacedQueues, Waiting};
use crate::shard::session::Destination;
use crate::shard::track::Track;
use crate::time::Time;

impl Core {
    /// Has a leg begin with the past, or else asks for a key frame for it.
    pub(in crate::shard) fn begin(&mut self, track: TrackKey, slot: SessionSlot, leg: LegId, now: Time) {
        if self.catch_up(track, slot, leg, now).is_none() {
            self.request_key_frame_for(track, slot, leg);
        }
    }

    /// `None` if there is no past to begin with, or the leg has begun already.
    fn catch_up(&mut self, track: TrackKey, slot: SessionSlot, leg: LegId, now: Time) -> Option<()> {
        let Self { tracks, sessions, paced, counters, settings, .. } = self;
        let track = tracks.get_mut(track).filter(|track| track.config.kind == MediaKind::Video)?;
        let leg = track.leg_at(slot, leg)?;
        let encoding = track.legs.get(leg).filter(|leg| leg.is_beginning())?.heading();
        let ring = track.encodings.get(usize::from(encoding))?;
        let (past, bytes) = ring.since_key_frame()?;
        let age = now - ring.ring.get(*past.start())?.0.arrived;
        let is_recent = !settings.catch_up.is_zero() && age <= settings.catch_up;
        if !is_recent || !begins_key_frame(ring, *past.start(), &track.config) {
            return None;
        }
        let mut to = sessions.outlet_mut(slot)?.destination(now).ok()?;
        let packets = (past.end() - past.start()) as usize + 1;
        if !to.may_catch_up(bytes, paced.pacing) || !paced.has_room(packets) {
            return None;
        }
        for index in past {
            send_past(track, leg, (encoding, index), &mut to, paced, &mut counters.drops);
        }
        counters.catch_ups += 1;
        Some(())
    }
}

/// Numbers a packet of the ring for the leg at the place `leg`, and puts it into the subscriber's queue.
fn send_past(
    track: &mut Track,
    leg: usize,
    (encoding, index): (u8, u64),
    to: &mut Destination<'_>,
    paced: &mut PacedQueues,
    drops: &mut DropCounts,
) {
    let Track { config, encodings, shapes, legs, .. } = track;
    let Some(ring) = encodings.get_mut(usize::from(encoding)) else { return };
    let Some(fresh) = Fresh::look(ring, encoding, index, config) else { return };
    let offered = ring.layers.offered();
    let Some(leg) = legs.get_mut(leg) else { return };
    let view = TrackView { encodings, shapes };
    let waiting = view.number(leg, &fresh, offered, Backlog::NONE).map(|numbered| Waiting {
        track: config.key,
        encoding,
        index,
        ssrc: leg.ssrc,
        numbered,
        padding: 0,
        len: if numbered.is_empty { fresh.packet.header_len } else { fresh.packet.len },
    });
    match waiting {
        Ok(waiting) if to.delay(leg.session, waiting, paced) => {}
        Ok(_) => drops.count(DropReason::PacedTooLate),
        Err(reason) => drops.count(reason),
    }
}
