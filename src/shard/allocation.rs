//! Which quality of each video a session is sent: its bandwidth, shared out a few times a second.
//!
//! What is decided is [`allocate`]'s; here it is asked with what the session's tracks offer, and what it says is
//! told to the legs, which go there as soon as their decoder can follow.

use crate::forward::allocate::{Budget, Demand, allocate};
use crate::id::{MediaKind, SessionSlot};
use crate::shard::Core;
use crate::shard::bandwidth::WANTED_PER_VIDEO_BPS;
use crate::shard::session::LegRef;
use crate::time::Time;

/// What is probed for, of what the best qualities take: a rise needs room to spare.
const WANTED_PERCENT: u64 = 125;

impl Core {
    /// Shares out the bandwidth of a session, if that is due.
    pub(super) fn allocate(&mut self, slot: SessionSlot, now: Time) {
        let Some((session, outlet)) = self.sessions.both_mut(slot) else { return };
        let Some(bandwidth) = outlet.bandwidth.as_deref_mut() else { return };
        let Some(available_bps) = bandwidth.due_for_allocation(now) else { return };
        self.demands.clear();
        let mut audio_bps = 0;
        for leg in &session.legs {
            let Some(track) = self.tracks.get_mut(leg.track) else { continue };
            match leg.kind {
                MediaKind::Audio => audio_bps += track.bitrate_bps(now),
                MediaKind::Video => self.demands.push(track.demand(slot, leg.id, now)),
            }
        }
        let budget = Budget::new(available_bps, audio_bps, bandwidth.patience.may_rise(now));
        allocate(budget, &mut self.demands);
        bandwidth.patience.note(&self.demands, now);
        let best_bps: u64 = self.demands.iter().filter_map(Demand::best).map(|best| best.bitrate_bps).sum();
        let assumed_bps = self.demands.len() as u64 * WANTED_PER_VIDEO_BPS;
        let wanted_bps = (audio_bps + best_bps) * WANTED_PERCENT / 100;
        bandwidth.estimator.set_wanted_bps(wanted_bps.max(assumed_bps));
        let is_video = |leg: &&LegRef| leg.kind == MediaKind::Video;
        let mut demands = self.demands.iter();
        for leg in session.legs.iter().filter(is_video) {
            let Some(track) = self.tracks.get_mut(leg.track) else { continue };
            if let Some(quality) = demands.next().and_then(Demand::chosen) {
                track.afford(slot, leg.id, quality, now);
            }
        }
    }
}
