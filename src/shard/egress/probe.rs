//! Probing towards subscribers: what a cluster lacks of its rate is filled up with retransmissions of packets that
//! the subscriber has just been sent (RFC 4588). A receiver drops what it has and reports its arrival all the same.
//! What waits for the pacer is not repeated: a receiver that gets a later packet first may take it for the beginning.

use crate::id::{MediaKind, SessionSlot};
use crate::io::Io;
use crate::shard::{Core, Retransmit};
use crate::time::Time;

/// Between two looks at the clusters that are being sent: 10 Mb/s is a packet a millisecond.
const INTERVAL_US: u64 = 1_000;

/// A cluster is sent in turns; this bounds what one of them adds, at any rate.
const PACKETS_PER_TURN_MAX: usize = 16;

/// How far back of the newest packet padding is taken from: within a burst each packet is repeated once.
const REPEATED_MAX: u16 = 32;

/// The sessions that probe.
pub struct Probers {
    sessions: Vec<SessionSlot>,
    due: Time,
}

/// Subscribers that probe at a time before the list has to grow.
const CAPACITY: usize = 256;

impl Probers {
    pub fn new() -> Self {
        Self { sessions: Vec::with_capacity(CAPACITY), due: Time::NEVER }
    }

    /// When the next packets of clusters are due.
    pub fn next_due(&self) -> Time {
        self.due
    }
}

impl Core {
    /// Lists the session if its estimator has begun a probe.
    pub(in crate::shard) fn note_probe(&mut self, slot: SessionSlot, now: Time) {
        let Some(bandwidth) = self.sessions.bandwidth_mut(slot) else { return };
        if bandwidth.estimator.is_probing() && !std::mem::replace(&mut bandwidth.is_listed, true) {
            self.probers.sessions.push(slot);
            self.probers.due = self.probers.due.min(now);
        }
    }

    /// Sends what running clusters lack.
    pub(in crate::shard) fn probe(&mut self, io: &mut impl Io, now: Time) -> usize {
        if self.probers.due > now {
            return 0;
        }
        let (mut sent, mut at) = (0, 0);
        while let Some(&slot) = self.probers.sessions.get(at) {
            sent += self.probe_one(slot, io, now);
            if self.is_probing(slot, now) {
                at += 1;
            } else {
                self.probers.sessions.swap_remove(at);
            }
        }
        let is_over = self.probers.sessions.is_empty();
        self.probers.due = if is_over { Time::NEVER } else { now.plus_us(INTERVAL_US) };
        self.counters.probe_packets_sent += sent as u64;
        sent
    }

    fn probe_one(&mut self, slot: SessionSlot, io: &mut impl Io, now: Time) -> usize {
        let queue = self.sessions.bandwidth_mut(slot).and_then(|bandwidth| bandwidth.queue);
        let Some(session) = self.sessions.get_mut(slot) else { return 0 };
        let video = session.legs.iter().filter(|leg| leg.kind == MediaKind::Video);
        let mut leg = video.filter_map(|leg| {
            let waiting = queue.and_then(|queue| self.paced.first_waiting(queue, leg.ssrc));
            let newest = match waiting {
                Some(index) => (index as u16).wrapping_sub(1),
                None => self.tracks.get(leg.track)?.leg(slot, leg.id)?.newest_sequence()?,
            };
            Some((leg.track, leg.id, leg.mid, newest))
        });
        let Some((track, leg, mid, newest)) = leg.next_back() else { return 0 };
        let mut sent = 0;
        for behind in 0..REPEATED_MAX {
            if sent == PACKETS_PER_TURN_MAX || self.probe_owed(slot, now) == 0 {
                break;
            }
            let sequence = newest.wrapping_sub(behind);
            let packet = Retransmit { session: slot, track, leg, mid, sequence };
            sent += usize::from(self.retransmit_one(&packet, io, now).is_ok());
        }
        sent
    }

    fn probe_owed(&mut self, slot: SessionSlot, now: Time) -> usize {
        self.sessions.bandwidth_mut(slot).map_or(0, |bandwidth| bandwidth.estimator.probe_owed(now))
    }

    /// Whether the session goes on probing; if not, it is not listed any more.
    fn is_probing(&mut self, slot: SessionSlot, now: Time) -> bool {
        let Some(bandwidth) = self.sessions.bandwidth_mut(slot) else { return false };
        bandwidth.estimator.poll(now);
        bandwidth.is_listed = bandwidth.estimator.is_probing();
        bandwidth.is_listed
    }
}
