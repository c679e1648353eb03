//! Control's ends of everything between it and the shards, and which session sits where.

use std::collections::HashMap;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use crate::id::{SessionId, SessionSlot, ShardId};
use crate::io::Path;
use crate::io::bell::Bell;
use crate::ring;
use crate::shard::command::{Ack, Command, Event};
use crate::shard::punt;

/// One shard, seen from control.
pub struct ShardLink {
    pub commands: Sender<Command>,
    pub events: Receiver<Event>,
    pub punts: ring::Consumer,
    pub replies: ring::Producer,
    pub bell: Bell,
    /// The UDP port of its socket.
    pub port: u16,
    pub seating: Seating,
}

impl ShardLink {
    pub fn new(
        commands: Sender<Command>,
        events: Receiver<Event>,
        punts: ring::Consumer,
        replies: ring::Producer,
        bell: Bell,
        port: u16,
    ) -> Self {
        Self { commands, events, punts, replies, bell, port, seating: Seating::default() }
    }
}

/// Which session has which slot of a shard.
#[derive(Default)]
pub struct Seating {
    slots: Vec<Option<SessionId>>,
    free: Vec<SessionSlot>,
}

impl Seating {
    pub fn session_at(&self, slot: SessionSlot) -> Option<SessionId> {
        *self.slots.get(slot.index())?
    }

    /// A place for `session`. Slots are given out densely, so that a shard's arrays stay short.
    fn seat(&mut self, session: SessionId) -> SessionSlot {
        let slot = self.free.pop().unwrap_or(SessionSlot(self.slots.len() as u32));
        if slot.index() == self.slots.len() {
            self.slots.push(None);
        }
        if let Some(place) = self.slots.get_mut(slot.index()) {
            *place = Some(session);
        }
        slot
    }

    fn vacate(&mut self, slot: SessionSlot) {
        if let Some(place) = self.slots.get_mut(slot.index()) {
            *place = None;
        }
        self.free.push(slot);
    }

    fn seated(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// How a shard is chosen for a new session, which stays there for its life. A track's subscribers may be on any
/// shard, so this is also what spreads the work of a large audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Placement {
    /// The fewest subscriptions, which are what costs; a session counts as one more, since its own come later.
    #[default]
    LeastLegs,
    /// The fewest sessions.
    LeastSessions,
    /// One after the other.
    RoundRobin,
}

/// All shards, and the answers that are awaited from them.
pub struct Shards {
    links: Vec<ShardLink>,
    placement: Placement,
    /// Sessions placed so far.
    placed: usize,
    awaited: HashMap<Ack, oneshot::Sender<()>>,
    next_ack: Ack,
}

impl Shards {
    pub fn new(links: Vec<ShardLink>, placement: Placement) -> Self {
        Self { links, placement, placed: 0, awaited: HashMap::new(), next_ack: 0 }
    }

    pub fn ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.links.len()).map(|at| ShardId(at as u16))
    }

    pub fn link(&mut self, shard: ShardId) -> &mut ShardLink {
        self.links.get_mut(shard.index()).expect("shard ids are made by Shards::ids and never outlive it")
    }

    /// Chooses a shard for a new session and gives it a slot there. `legs` tells the subscriptions of a shard.
    pub fn place(&mut self, session: SessionId, legs: impl Fn(ShardId) -> usize) -> (ShardId, SessionSlot) {
        let (placement, shards, placed) = (self.placement, self.links.len(), self.placed);
        let load = |(shard, link): &(ShardId, &ShardLink)| match placement {
            Placement::LeastLegs => link.seating.seated() + legs(*shard),
            Placement::LeastSessions => link.seating.seated(),
            Placement::RoundRobin => (shard.index() + shards - placed % shards) % shards,
        };
        let least = (0..).map(ShardId).zip(&self.links).min_by_key(load);
        let shard = least.map_or(ShardId(0), |(shard, _)| shard);
        self.placed = placed.wrapping_add(1);
        (shard, self.link(shard).seating.seat(session))
    }

    /// The shard has let go of the slot.
    pub fn vacate(&mut self, shard: ShardId, slot: SessionSlot) {
        self.link(shard).seating.vacate(slot);
    }

    /// Sends a command that nobody waits for.
    pub fn tell(&mut self, shard: ShardId, command: Command) {
        let link = self.link(shard);
        if link.commands.send(command).is_ok() {
            link.bell.ring();
        }
    }

    /// Sends a command; the answer comes when the data plane has it, or never if the shard has stopped.
    pub fn ask(&mut self, shard: ShardId, command: impl FnOnce(Ack) -> Command) -> oneshot::Receiver<()> {
        let (done, answer) = oneshot::channel();
        let ack = self.next_ack;
        self.next_ack += 1;
        self.awaited.insert(ack, done);
        self.tell(shard, command(ack));
        answer
    }

    pub fn done(&mut self, ack: Ack) {
        if let Some(done) = self.awaited.remove(&ack) {
            // Whoever asked may have gone away; the command is in effect all the same.
            let _ = done.send(());
        }
    }

    /// Makes replies visible; wakes each shard at most once.
    pub fn publish_replies(&mut self) {
        for link in &mut self.links {
            if link.replies.publish() {
                link.bell.ring();
            }
        }
    }

    /// Whether any shard has said something that has not been looked at.
    pub fn has_news(&self) -> bool {
        self.links.iter().any(|link| !link.punts.is_empty() || !link.events.is_empty())
    }
}

/// Hands a datagram to the shard to send. A full ring loses it: STUN and DTLS repeat themselves.
pub fn reply(replies: &mut ring::Producer, path: &Path, datagram: &[u8]) {
    let Some(record) = replies.reserve(punt::PATH_BYTES + datagram.len()) else { return };
    let Some((head, body)) = record.split_first_chunk_mut() else { return };
    punt::write_path(head, path);
    body.copy_from_slice(datagram);
    replies.commit();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::wire;

    /// The shards that `count` sessions are placed on, when `legs` tells the subscriptions of each shard.
    fn placed(placement: Placement, count: u8, legs: [usize; 3]) -> Vec<u16> {
        let bells: Vec<_> = (0..3).map(|_| (Bell::new().unwrap(), 0)).collect();
        let (_shards, control) = wire(&bells, 1).unwrap();
        let mut shards = Shards::new(control.links, placement);
        let mut place = |n| shards.place(SessionId([n; 16]), |shard| legs[shard.index()]).0.0;
        (0..count).map(&mut place).collect()
    }

    #[test]
    fn sessions_go_where_least_is_to_do_by_the_chosen_measure() {
        assert_eq!(placed(Placement::LeastLegs, 6, [0, 2, 9]), [0, 0, 0, 1, 0, 1]);
        assert_eq!(placed(Placement::LeastSessions, 4, [0, 2, 9]), [0, 1, 2, 0]);
        assert_eq!(placed(Placement::RoundRobin, 5, [0, 2, 9]), [0, 1, 2, 0, 1]);
    }
}
