//! Packets of video that wait until their subscriber's pacer lets them go (`forward/pace.rs`).
//!
//! They are numbered when their turn comes in the track, so that a subscriber's stream is the same whether it
//! waits or not, and are kept as a few words each; their bytes stay in the track ring, where all subscribers'
//! are. One slab holds those of the whole shard, chained by subscriber. Audio and retransmissions never come here.

use crate::drop_reason::DropReason;
use crate::forward::leg::Numbered;
use crate::forward::pace::{INTERVAL_US, Pacing};
use crate::id::{SessionSlot, TrackKey};
use crate::io::Io;
use crate::rtp::codec::vp8;
use crate::shard::Core;
use crate::shard::egress::outgoing::{Outgoing, payload_of};
use crate::shard::session::{Destination, Sessions};
use crate::shard::track::Tracks;
use crate::time::Time;

/// A packet that has its numbers and not left yet.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    pub track: TrackKey,
    pub encoding: u8,
    /// In the ring of its encoding.
    pub index: u64,
    pub ssrc: u32,
    pub numbered: Numbered,
    pub padding: u8,
    /// Bytes of header and payload.
    pub len: u16,
}

/// Names a subscriber's queue in the slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueId(u32);

struct Queue {
    session: SessionSlot,
    first: u32,
    last: u32,
}

struct Entry {
    waiting: Waiting,
    next: u32,
}

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// All that waits on a shard.
pub struct PacedQueues {
    pub pacing: Pacing,
    entries: Vec<Entry>,
    free_entry: u32,
    used_entries: usize,
    queues: Vec<Queue>,
    free_queues: Vec<QueueId>,
    active: Vec<QueueId>,
    /// Where in `active` the next to be looked at is.
    cursor: usize,
    due: Time,
}

/// Packets that may wait on a shard, 88 bytes each, touched as used: a key frame of 60 packets for a thousand
/// subscribers. What comes beyond leaves at once, if nothing of its subscriber waits.
const ENTRIES_MAX: usize = 65_536;
/// Packets that leave in one turn, or little more: some milliseconds of sealing and sending, after which audio that
/// came meanwhile has its turn.
const PACKETS_PER_TURN: usize = 2_048;
/// Subscribers that wait at a time before the lists have to grow.
const QUEUES: usize = 1_024;

impl PacedQueues {
    pub fn new(pacing: Pacing) -> Self {
        Self {
            pacing,
            entries: Vec::with_capacity(ENTRIES_MAX),
            free_entry: NONE,
            used_entries: 0,
            queues: Vec::with_capacity(QUEUES),
            free_queues: Vec::with_capacity(QUEUES),
            active: Vec::with_capacity(QUEUES),
            cursor: 0,
            due: Time::NEVER,
        }
    }

    /// When packets that wait are looked at next, [`Time::NEVER`] if none do.
    pub fn next_due(&self) -> Time {
        self.due
    }

    /// Whether so many packets more may wait.
    pub fn has_room(&self, packets: usize) -> bool {
        self.used_entries + packets <= ENTRIES_MAX
    }

    /// Has a packet wait behind those of its subscriber, whose queue is `queue` if it has one. Returns the
    /// queue, or `None` if there is no room.
    pub fn push(
        &mut self,
        session: SessionSlot,
        queue: Option<QueueId>,
        waiting: Waiting,
        now: Time,
    ) -> Option<QueueId> {
        let entry = self.new_entry(waiting)?;
        let id = queue.unwrap_or_else(|| self.new_queue(session, now));
        let queue = self.queues.get_mut(id.0 as usize)?;
        let before = std::mem::replace(&mut queue.last, entry);
        if before == NONE {
            queue.first = entry;
        } else if let Some(before) = self.entries.get_mut(before as usize) {
            before.next = entry;
        }
        Some(id)
    }

    fn new_entry(&mut self, waiting: Waiting) -> Option<u32> {
        let entry = Entry { waiting, next: NONE };
        let at = self.free_entry;
        if let Some(free) = self.entries.get_mut(at as usize) {
            self.free_entry = free.next;
            *free = entry;
            self.used_entries += 1;
            return Some(at);
        }
        if self.entries.len() == ENTRIES_MAX {
            return None;
        }
        self.entries.push(entry);
        self.used_entries += 1;
        Some(self.entries.len() as u32 - 1)
    }

    fn new_queue(&mut self, session: SessionSlot, now: Time) -> QueueId {
        let queue = Queue { session, first: NONE, last: NONE };
        let id = self.free_queues.pop().unwrap_or(QueueId(self.queues.len() as u32));
        match self.queues.get_mut(id.0 as usize) {
            Some(free) => *free = queue,
            None => self.queues.push(queue),
        }
        self.active.push(id);
        self.due = self.due.min(now.plus_us(INTERVAL_US));
        id
    }

    fn session(&self, id: QueueId) -> Option<SessionSlot> {
        Some(self.queues.get(id.0 as usize)?.session)
    }

    /// The packet that leaves next.
    fn pop(&mut self, id: QueueId) -> Option<Waiting> {
        let queue = self.queues.get_mut(id.0 as usize)?;
        let entry = self.entries.get_mut(queue.first as usize)?;
        let freed = std::mem::replace(&mut queue.first, entry.next);
        if queue.first == NONE {
            queue.last = NONE;
        }
        entry.next = std::mem::replace(&mut self.free_entry, freed);
        self.used_entries -= 1;
        Some(entry.waiting)
    }

    /// The SRTP index of the first packet of this SSRC that waits.
    pub fn first_waiting(&self, id: QueueId, ssrc: u32) -> Option<u64> {
        let mut at = self.queues.get(id.0 as usize)?.first;
        while let Some(entry) = self.entries.get(at as usize) {
            if entry.waiting.ssrc == ssrc {
                return Some(entry.waiting.numbered.index);
            }
            at = entry.next;
        }
        None
    }

    fn is_empty(&self, id: QueueId) -> bool {
        self.queues.get(id.0 as usize).is_none_or(|queue| queue.first == NONE)
    }

    /// The queue to look at next, until all have been looked at.
    fn next_queue(&mut self) -> Option<QueueId> {
        let id = *self.active.get(self.cursor)?;
        self.cursor += 1;
        Some(id)
    }

    /// All queues have been looked at.
    fn end_round(&mut self, now: Time) {
        self.retire();
        self.cursor = 0;
        self.due = if self.active.is_empty() { Time::NEVER } else { now.plus_us(INTERVAL_US) };
    }

    /// Takes queues that have run empty off the list; nobody refers to them any more.
    fn retire(&mut self) {
        let mut at = 0;
        while let Some(&id) = self.active.get(at) {
            if self.is_empty(id) {
                self.active.swap_remove(at);
                self.free_queues.push(id);
            } else {
                at += 1;
            }
        }
    }
}

impl Core {
    /// Sends what has waited long enough.
    pub(in crate::shard) fn pace(&mut self, io: &mut impl Io, now: Time) -> usize {
        if self.paced.due > now {
            return 0;
        }
        let mut sent = 0;
        while sent < PACKETS_PER_TURN {
            let Some(id) = self.paced.next_queue() else {
                self.paced.end_round(now);
                return sent;
            };
            sent += self.release(id, io, now);
        }
        self.paced.due = now;
        sent
    }

    /// Sends of one queue as long as more may leave. All of it is given up if its subscriber is gone or has new keys.
    fn release(&mut self, id: QueueId, io: &mut impl Io, now: Time) -> usize {
        let Self { paced, sessions, tracks, counters, .. } = self;
        let Some(slot) = paced.session(id) else { return 0 };
        let Some(mut to) = owner(sessions, slot, id, now) else {
            let given_up = std::iter::from_fn(|| paced.pop(id)).count();
            counters.drops.count_many(DropReason::SubscriberNotReady, given_up as u64);
            return 0;
        };
        to.fill(paced.pacing);
        let mut sent = 0;
        while to.may_release() {
            let Some(waiting) = paced.pop(id) else { break };
            to.note_released(waiting.len.into());
            match waiting.send(slot, &mut to, tracks, io) {
                Ok(len) => {
                    to.spend(len);
                    sent += 1;
                }
                Err(reason) => counters.drops.count(reason),
            }
        }
        if paced.is_empty(id) {
            to.forget_queue();
        }
        counters.rtp_packets_sent += sent as u64;
        counters.paced_packets_sent += sent as u64;
        sent
    }
}

/// Where the packets of a queue go, if it is still the one of its session.
fn owner(sessions: &mut Sessions, slot: SessionSlot, id: QueueId, now: Time) -> Option<Destination<'_>> {
    let outlet = sessions.outlet_mut(slot)?;
    outlet.bandwidth.as_ref().filter(|bandwidth| bandwidth.queue == Some(id))?;
    outlet.destination(now).ok()
}

impl Waiting {
    fn send(
        &self,
        session: SessionSlot,
        to: &mut Destination<'_>,
        tracks: &Tracks,
        io: &mut impl Io,
    ) -> Result<usize, DropReason> {
        let track = tracks.get(self.track).ok_or(DropReason::TrackGone)?;
        let shape = track.shape_of(session, self.ssrc).ok_or(DropReason::TrackGone)?;
        let encoding = track.encodings.get(usize::from(self.encoding)).ok_or(DropReason::TrackGone)?;
        let (packet, stored) = encoding.ring.get(self.index).ok_or(DropReason::PacedTooLate)?;
        let header = shape.header(&packet, stored, &track.config.extensions);
        let header = header.ok_or(DropReason::CodecNotNegotiated)?;
        let Numbered { index, timestamp, is_empty, counters } = self.numbered;
        let payload = if is_empty { &[] } else { payload_of(&packet, stored) };
        let out = Outgoing {
            header: &header,
            payload: [&[], payload],
            padding: self.padding,
            ssrc: self.ssrc,
            index,
            timestamp,
            picture: counters.picture.and_then(|_| vp8::Descriptor::parse(payload)),
            counters,
            frame_number_at: counters.frame_number.and_then(|_| shape.frame_number_at(&header)),
        };
        out.send(to, io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::leg::Counters;

    const PACING: Pacing = Pacing { percent: 150, burst_bytes: 12_000 };

    fn packet(index: u64) -> Waiting {
        let numbered = Numbered { index, timestamp: 0, is_empty: false, counters: Counters::default() };
        let track = TrackKey { index: 0, generation: 0 };
        Waiting { track, encoding: 0, index, ssrc: 1, numbered, padding: 0, len: 1_200 }
    }

    fn drain(paced: &mut PacedQueues, id: QueueId) -> Vec<u64> {
        std::iter::from_fn(|| paced.pop(id)).map(|waiting| waiting.index).collect()
    }

    #[test]
    fn each_subscriber_has_its_own_order() {
        let mut paced = PacedQueues::new(PACING);
        let mut queues = [None, None];
        for index in 0..10 {
            let which = index as usize % 2;
            queues[which] =
                paced.push(SessionSlot(which as u32), queues[which], packet(index), Time(index * 1_000));
        }
        let [even, odd] = queues.map(Option::unwrap);
        assert_eq!(paced.next_due(), Time(INTERVAL_US), "after the first of them");
        assert_eq!(
            (drain(&mut paced, odd), drain(&mut paced, even)),
            (vec![1, 3, 5, 7, 9], vec![0, 2, 4, 6, 8])
        );
    }

    #[test]
    fn a_round_goes_on_where_a_turn_left_it_and_takes_in_who_comes_meanwhile() {
        let mut paced = PacedQueues::new(PACING);
        let begin =
            |paced: &mut PacedQueues, slot| paced.push(SessionSlot(slot), None, packet(0), Time(0)).unwrap();
        let [first, second] = [0, 1].map(|slot| begin(&mut paced, slot));
        assert_eq!(paced.next_queue(), Some(first));
        drain(&mut paced, first);
        let third = begin(&mut paced, 2);
        assert_eq!([(); 3].map(|()| paced.next_queue()), [Some(second), Some(third), None]);
        paced.end_round(Time(7));
        assert_eq!(paced.next_due(), Time(7 + INTERVAL_US));
        assert_eq!([(); 3].map(|()| paced.next_queue()), [Some(third), Some(second), None]);
    }

    #[test]
    fn memory_is_used_again_and_is_bounded() {
        assert!(size_of::<Entry>() <= 88, "{} bytes", size_of::<Entry>());
        let mut paced = PacedQueues::new(PACING);
        for _ in 0..3 {
            let mut queue = None;
            for index in 0..ENTRIES_MAX as u64 {
                queue = paced.push(SessionSlot(7), queue, packet(index), Time(0));
            }
            assert!(!paced.has_room(1));
            assert_eq!(paced.push(SessionSlot(7), queue, packet(0), Time(0)), None, "full");
            assert_eq!(drain(&mut paced, queue.unwrap()).len(), ENTRIES_MAX);
            assert!(paced.has_room(ENTRIES_MAX) && !paced.has_room(ENTRIES_MAX + 1));
            paced.end_round(Time(0));
        }
        assert_eq!(paced.next_due(), Time::NEVER);
        assert_eq!((paced.queues.len(), paced.entries.len()), (1, ENTRIES_MAX));
    }
}
