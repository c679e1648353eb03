//! The walk along the legs of all tracks at once, subscriber by subscriber.
//!
//! Each track keeps its legs in the order of their sessions, so a merge of the tracks' legs meets every
//! subscriber once, with all of its legs that get something in this turn. No subscriber is looked up for it, and
//! the legs of a track are touched in the order in which they lie.

use crate::drop_reason::DropCounts;
use crate::forward::coalesce::Coalescing;
use crate::id::{SessionSlot, TrackKey};
use crate::io::Io;
use crate::shard::egress::lane::{Lanes, TrackView};
use crate::shard::egress::pacing::PacedQueues;
use crate::shard::egress::plan::Plan;
use crate::shard::session::Sessions;
use crate::shard::track::{Track, Tracks};
use crate::time::Time;

/// Memory of the fan-out, kept between turns.
pub struct Egress {
    lanes: Lanes,
    /// By lane, the slot of the session that its next leg belongs to.
    heads: Vec<u32>,
    plan: Plan,
}

/// Of a lane that has no leg left; no session has this slot.
const END: u32 = u32::MAX;

impl Egress {
    pub fn new(how: Coalescing) -> Self {
        Self { lanes: Lanes::default(), heads: Vec::new(), plan: Plan::new(how) }
    }

    /// Takes over the fresh packets of a track.
    pub fn add(&mut self, track: &mut Track) {
        self.heads.push(track.legs.first().map_or(END, |leg| leg.session.0));
        self.lanes.add(track);
    }

    /// Takes the last track away again, with the encodings, as bits, that its connected legs wait for.
    pub fn remove(&mut self) -> Option<(TrackKey, u32)> {
        let lane = self.lanes.all.pop();
        if lane.is_none() {
            self.lanes.clear();
            self.heads.clear();
        }
        lane.map(|lane| (lane.track, lane.awaited))
    }

    /// Sends what has been added to whoever gets it. Returns how many packets left.
    pub fn fan_out(
        &mut self,
        tracks: &mut Tracks,
        sessions: &mut Sessions,
        paced: &mut PacedQueues,
        io: &mut impl Io,
        drops: &mut DropCounts,
        now: Time,
    ) -> usize {
        let mut sent = 0;
        while let Some(session) = self.next_session() {
            match sessions.outlet_mut(session).map(|outlet| outlet.destination(now)) {
                Some(Ok(mut to)) => {
                    self.plan.begin(session, to.fill(paced.pacing));
                    self.plan(session, tracks);
                    sent += self.plan.send(&mut to, &self.lanes, tracks, paced, io);
                }
                _ => self.pass_over(session, tracks),
            }
        }
        drops.add(&std::mem::take(&mut self.plan.drops));
        sent
    }

    fn next_session(&self) -> Option<SessionSlot> {
        let least = self.heads.iter().copied().min().unwrap_or(END);
        (least != END).then_some(SessionSlot(least))
    }

    /// Plans what the session gets of all lanes, and moves them on.
    fn plan(&mut self, session: SessionSlot, tracks: &mut Tracks) {
        for at in 0..self.heads.len() {
            if self.heads.get(at) != Some(&session.0) {
                continue;
            }
            let Some(lane) = self.lanes.all.get(at) else { continue };
            let (mut next, mut awaited, mut head) = (lane.next, 0, END);
            if let Some(Track { legs, encodings, shapes, .. }) = tracks.get_mut(lane.track) {
                let view = TrackView { encodings, shapes };
                while let Some(leg) = legs.get_mut(next) {
                    if leg.session != session {
                        head = leg.session.0;
                        break;
                    }
                    awaited |= self.lanes.plan(at, leg, &view, &mut self.plan);
                    next += 1;
                }
            }
            self.move_on(at, next, awaited, head);
        }
    }

    /// Moves the lanes on past a session that is not connected, and counts what it would have got.
    fn pass_over(&mut self, session: SessionSlot, tracks: &Tracks) {
        for at in 0..self.heads.len() {
            if self.heads.get(at) != Some(&session.0) {
                continue;
            }
            let Some(lane) = self.lanes.all.get(at) else { continue };
            let legs = tracks.get(lane.track).map_or(&[][..], |track| &track.legs);
            let mut next = lane.next;
            while let Some(leg) = legs.get(next).filter(|leg| leg.session == session) {
                self.lanes.count_undeliverable(lane, leg, &mut self.plan.drops);
                next += 1;
            }
            let head = legs.get(next).map_or(END, |leg| leg.session.0);
            self.move_on(at, next, 0, head);
        }
    }

    fn move_on(&mut self, at: usize, next: usize, awaited: u32, head: u32) {
        if let Some(lane) = self.lanes.all.get_mut(at) {
            lane.next = next;
            lane.awaited |= awaited;
        }
        if let Some(known) = self.heads.get_mut(at) {
            *known = head;
        }
    }
}
