//! The memory between threads, made once at start: rings, channels, bells and the table that join shards
//! to each other and to control. A server and a simulation wire their planes alike.

use std::io;

use crossbeam_channel::{bounded, unbounded};

use crate::control::shards::ShardLink;
use crate::io::Bell;
use crate::ring::{Consumer, Producer, ring};
use crate::shard::{ControlLink, Neighbour};
use crate::table::{self, Reader, Writer};

/// Between two shards, per direction: a burst of 200 full video packets, or 5 ms of 300 Mb/s. The memory
/// is touched only as far as it is used.
const SHARD_RING_BYTES: usize = 256 * 1024;

/// From a shard to control: 500 DTLS handshakes' first flights of 1.5 KB. A flood beyond it is dropped.
const PUNT_RING_BYTES: usize = 1024 * 1024;

/// From control to a shard: as many answers.
const REPLY_RING_BYTES: usize = 1024 * 1024;

/// Commands on the way to one shard. Control waits for the acknowledgement of most, so more than a few per
/// session in the middle of a join would be a bug; the bound turns that into back-pressure.
const COMMANDS_MAX: usize = 65_536;

/// Everything of one shard but its socket.
pub struct ShardEnds {
    pub neighbours: Vec<Option<Neighbour>>,
    pub control: ControlLink,
    pub table: Reader,
    pub bell: Bell,
}

/// Control's side.
pub struct ControlEnds {
    pub links: Vec<ShardLink>,
    pub table: Writer,
    pub bell: Bell,
}

/// Joins control and one shard for each bell and UDP port.
///
/// # Errors
/// The kernel has no descriptor left for control's bell.
pub fn wire(sockets: &[(Bell, u16)], tracks_max: u32) -> io::Result<(Vec<ShardEnds>, ControlEnds)> {
    let control_bell = Bell::new()?;
    let (writer, readers) = table::table(tracks_max as usize, sockets.len());
    let mut links = Vec::with_capacity(sockets.len());
    let mut shards = Vec::with_capacity(sockets.len());
    let bells: Vec<_> = sockets.iter().map(|(bell, _)| bell.clone()).collect();
    for (((bell, port), table), neighbours) in sockets.iter().zip(readers).zip(neighbours(&bells)) {
        let (link, control) = control_link(*port, bell, &control_bell);
        links.push(link);
        shards.push(ShardEnds { neighbours, control, table, bell: bell.clone() });
    }
    Ok((shards, ControlEnds { links, table: writer, bell: control_bell }))
}

/// For each shard its ends of the rings to and from every other, by the other's number.
fn neighbours(bells: &[Bell]) -> Vec<Vec<Option<Neighbour>>> {
    let count = bells.len();
    let mut to: Vec<Vec<Option<Producer>>> = Vec::new();
    let mut from: Vec<Vec<Option<Consumer>>> = (0..count).map(|_| Vec::new()).collect();
    for sender in 0..count {
        let mut producers = Vec::with_capacity(count);
        for (receiver, consumers) in from.iter_mut().enumerate() {
            let (producer, consumer) = match sender == receiver {
                true => (None, None),
                false => {
                    let (producer, consumer) = ring(SHARD_RING_BYTES);
                    (Some(producer), Some(consumer))
                }
            };
            producers.push(producer);
            consumers.push(consumer);
        }
        to.push(producers);
    }
    let join = |(producers, consumers): (Vec<Option<Producer>>, Vec<Option<Consumer>>)| {
        let ends = producers.into_iter().zip(consumers).zip(bells);
        ends.map(|((to, from), bell)| Some(Neighbour { to: to?, from: from?, bell: bell.clone() })).collect()
    };
    to.into_iter().zip(from).map(join).collect()
}

fn control_link(port: u16, bell: &Bell, control_bell: &Bell) -> (ShardLink, ControlLink) {
    let (commands, commands_end) = bounded(COMMANDS_MAX);
    // Unbounded: a shard must never wait for control, and says little beside its punts: one event a second
    // and one per command.
    let (events, events_end) = unbounded();
    let (punt, punts) = ring(PUNT_RING_BYTES);
    let (replies, replies_end) = ring(REPLY_RING_BYTES);
    let control = ControlLink {
        commands: commands_end,
        events,
        punt,
        replies: replies_end,
        bell: control_bell.clone(),
    };
    (ShardLink::new(commands, events_end, punts, replies, bell.clone(), port), control)
}
