//! What one subscriber gets in one turn: collected and numbered first, then put in order, then sent; of video as much
//! as its pacer allows, and the rest waits.

use crate::drop_reason::{DropCounts, DropReason};
use crate::forward::coalesce::{Coalescer, Coalescing, Item, Placed};
use crate::forward::leg::Numbered;
use crate::forward::pace::Backlog;
use crate::id::SessionSlot;
use crate::io::Io;
use crate::shard::egress::lane::Lanes;
use crate::shard::egress::outgoing::Outgoing;
use crate::shard::egress::pacing::{PacedQueues, Waiting};
use crate::shard::session::Destination;
use crate::shard::track::Tracks;

/// A packet for one subscriber, by places in [`Lanes`].
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    pub lane: usize,
    pub packet: usize,
    pub header: usize,
    /// Bytes of header and payload.
    pub len: usize,
    pub ssrc: u32,
    pub numbered: Numbered,
    /// Where in the header the frame number is, if it is another than the publisher's.
    pub frame_number_at: Option<usize>,
}

/// The packets for one subscriber. Kept between subscribers for its memory.
pub struct Plan {
    packets: Vec<Planned>,
    items: Vec<Item>,
    strand: u32,
    session: SessionSlot,
    /// How far the subscriber is behind.
    pub backlog: Backlog,
    coalescer: Coalescer,
    how: Coalescing,
    /// What was not planned, and why.
    pub drops: DropCounts,
}

impl Plan {
    pub fn new(how: Coalescing) -> Self {
        Self {
            packets: Vec::new(),
            items: Vec::new(),
            strand: 0,
            session: SessionSlot(0),
            backlog: Backlog::NONE,
            coalescer: Coalescer::default(),
            how,
            drops: DropCounts::default(),
        }
    }

    /// Begins with what a subscriber gets that is behind by `backlog`.
    pub fn begin(&mut self, session: SessionSlot, backlog: Backlog) {
        self.packets.clear();
        self.items.clear();
        self.strand = 0;
        (self.session, self.backlog) = (session, backlog);
    }

    /// The packets that follow keep their order among themselves.
    pub fn begin_strand(&mut self) {
        self.strand = self.items.last().map_or(0, |last| last.strand + 1);
    }

    pub fn push(&mut self, packet: Planned) {
        self.items.push(Item { strand: self.strand, len: packet.len as u32 });
        self.packets.push(packet);
    }

    /// Sends everything that need not wait. Returns how many packets left.
    pub fn send(
        &mut self,
        to: &mut Destination<'_>,
        lanes: &Lanes,
        tracks: &Tracks,
        paced: &mut PacedQueues,
        io: &mut impl Io,
    ) -> usize {
        let single = [Placed { at: 0, padding: 0 }];
        let order = match self.packets.len() {
            0 => return 0,
            1 => &single,
            _ => self.coalescer.arrange(&self.items, self.how),
        };
        let mut sent = 0;
        for placed in order {
            let Some(planned) = self.packets.get(placed.at) else { continue };
            let is_paced = to.bandwidth.is_some() && lanes.is_video(planned.lane);
            if is_paced
                && !to.may_send_video()
                && let Some(waiting) = planned.waiting(placed.padding, lanes)
            {
                if to.delay(self.session, waiting, paced) {
                    continue;
                }
                if to.has_queue() {
                    // It would overtake those that wait.
                    self.drops.count(DropReason::PacedTooLate);
                    continue;
                }
            }
            match planned.send(placed.padding, to, lanes, tracks, io) {
                Ok(len) => {
                    sent += 1;
                    if is_paced {
                        to.spend(len);
                    }
                }
                Err(reason) => self.drops.count(reason),
            }
        }
        sent
    }
}

impl Planned {
    /// The packet as it waits for its pacer.
    fn waiting(&self, padding: u8, lanes: &Lanes) -> Option<Waiting> {
        let fresh = lanes.packet(self.packet)?;
        Some(Waiting {
            track: lanes.all.get(self.lane)?.track,
            encoding: fresh.encoding,
            index: fresh.packet.index,
            ssrc: self.ssrc,
            numbered: self.numbered,
            padding,
            len: self.len as u16,
        })
    }

    fn send(
        &self,
        padding: u8,
        to: &mut Destination<'_>,
        lanes: &Lanes,
        tracks: &Tracks,
        io: &mut impl Io,
    ) -> Result<usize, DropReason> {
        let lane = lanes.all.get(self.lane).ok_or(DropReason::TrackGone)?;
        let header = lanes.header(self.header).ok_or(DropReason::CodecNotNegotiated)?;
        let fresh = lanes.packet(self.packet).ok_or(DropReason::TrackGone)?;
        let track = tracks.get(lane.track).ok_or(DropReason::TrackGone)?;
        let encoding = track.encodings.get(usize::from(fresh.encoding)).ok_or(DropReason::TrackGone)?;
        let Numbered { index, timestamp, is_empty, counters } = self.numbered;
        let payload = if is_empty { &[] } else { encoding.ring.bytes(fresh.payload.clone()) };
        let out = Outgoing {
            header,
            payload: [&[], payload],
            padding,
            ssrc: self.ssrc,
            index,
            timestamp,
            picture: fresh.glance.picture,
            counters,
            frame_number_at: self.frame_number_at,
        };
        out.send(to, io)
    }
}
