//! Hands datagrams that came in on one shard's queue to the shard whose port they were sent to.
//!
//! A NIC spreads datagrams over its queues by a hash that knows nothing of our ports, unless it is told
//! (`tuning/`). What comes in wrong is copied once, as a whole frame, into a ring to the right shard, which is
//! woken once per batch. A single-queue device serves several shards by nothing but this.

use super::frame::{self, Arrival};
use crate::io::Bell;
use crate::ring::{Consumer, Producer, ring};

/// Between two shards, per direction: 5 ms of 300 Mb/s. Touched only as far as it is used.
const RING_BYTES: usize = 256 * 1024;

/// One shard's ends.
pub struct Exchange {
    port: u16,
    /// To every other shard.
    to: Vec<Outlet>,
    /// From every other shard.
    from: Vec<Consumer>,
    interface: u32,
    /// Datagrams that found a ring full, or no shard.
    lost: u64,
}

struct Outlet {
    port: u16,
    ring: Producer,
    bell: Bell,
}

/// Joins shards, each given by its port and bell, to each other.
pub fn join(shards: &[(u16, Bell)], interface: u32) -> Vec<Exchange> {
    let new = |(port, _): &(u16, Bell)| Exchange {
        port: *port,
        to: Vec::new(),
        from: Vec::new(),
        interface,
        lost: 0,
    };
    let mut exchanges: Vec<_> = shards.iter().map(new).collect();
    for sender in 0..shards.len() {
        for (receiver, (port, bell)) in shards.iter().enumerate().filter(|(at, _)| *at != sender) {
            let (to, from) = ring(RING_BYTES);
            exchanges[sender].to.push(Outlet { port: *port, ring: to, bell: bell.clone() });
            exchanges[receiver].from.push(from);
        }
    }
    exchanges
}

impl Exchange {
    /// Lends the datagram in `frame` if it is for this shard, hands it on if it is for another. Returns how
    /// many were lent.
    pub fn sort(&mut self, frame: &[u8], each: &mut impl FnMut(Arrival<'_>)) -> usize {
        let Some(arrival) = frame::parse(frame, self.interface) else { return 0 };
        if arrival.port == self.port {
            each(arrival);
            return 1;
        }
        let outlet = self.to.iter_mut().find(|outlet| outlet.port == arrival.port);
        if let Some(outlet) = outlet
            && let Some(memory) = outlet.ring.reserve(frame.len())
        {
            memory.copy_from_slice(frame);
            outlet.ring.commit();
        } else {
            self.lost += 1;
        }
        0
    }

    /// Shows the others what was handed to them.
    pub fn publish(&mut self) {
        for outlet in &mut self.to {
            if outlet.ring.publish() {
                outlet.bell.ring();
            }
        }
    }

    /// Lends what the others have handed on; returns how many.
    pub fn receive(&mut self, each: &mut impl FnMut(Arrival<'_>)) -> usize {
        let mut lent = 0;
        for ring in &mut self.from {
            while let Some(frame) = ring.next() {
                if let Some(arrival) = frame::parse(frame, self.interface) {
                    lent += 1;
                    each(arrival);
                }
            }
            ring.release();
        }
        lent
    }

    /// Whether [`Self::receive`] would find nothing.
    pub fn is_empty(&self) -> bool {
        self.from.iter().all(Consumer::is_empty)
    }

    /// Datagrams that could not be handed on.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
