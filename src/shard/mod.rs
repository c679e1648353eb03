//! The data plane: one pinned thread, its sessions, its socket, its memory.
//!
//! A shard handles SRTP and SRTCP and nothing else. It runs to completion: a turn takes what has arrived,
//! from the network, from control and from other shards, and sends what follows from it. Per packet there
//! is no allocation, no lock, no clock, no log line. [`Shard::turn`] is the whole of it on one screen;
//! `ingress` and `egress` are its two directions.
//!
//! It relies on control for everything that is not media: which sessions exist, where ICE found them, which
//! keys DTLS gave, who subscribes to what. Datagrams of those protocols are punted there unread.

mod allocation;
mod bandwidth;
pub mod command;
mod egress;
mod ingress;
mod neighbour;
pub mod punt;
mod reports;
mod session;
mod timer;
mod track;
mod waiting;
mod work;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::drop_reason::DropReason;
use crate::forward::allocate::Demand;
use crate::forward::coalesce::Coalescing;
use crate::forward::pace::Pacing;
use crate::id::{LegId, Mid, SessionSlot, ShardId, TrackKey};
use crate::io::Io;
use crate::io::bell::Bell;
use crate::ring;
use crate::shard::command::{Command, Event};
use crate::shard::egress::{DirtyTracks, Egress, PacedQueues, Probers};
use crate::shard::session::Sessions;
use crate::shard::timer::Timers;
use crate::shard::track::Tracks;
use crate::shard::waiting::Waiting;
use crate::stats::ShardSnapshot;
use crate::table;
use crate::time::{Clock, Time};

/// Retransmissions that one turn answers; what is asked beyond it is asked again by the receiver.
const RETRANSMITS_PER_TURN_MAX: usize = 4_096;

/// The longest sleep: bounds how late a quiescent point or a snapshot can be.
const SLEEP_MAX_US: u64 = 100_000;

/// The ends of the rings between this shard and another.
pub struct Neighbour {
    pub to: ring::Producer,
    pub from: ring::Consumer,
    pub bell: Bell,
}

/// The ends of everything between this shard and control.
pub struct ControlLink {
    pub commands: Receiver<Command>,
    pub events: Sender<Event>,
    /// Datagrams that are not SRTP, to control.
    pub punt: ring::Producer,
    /// What control wants sent.
    pub replies: ring::Consumer,
    pub bell: Bell,
}

/// What of a shard is set.
#[derive(Debug, Clone, Copy)]
pub struct ShardSettings {
    /// A track without packets for this long is silent.
    pub media_timeout: Duration,
    /// How long audio may wait for other audio to leave with.
    pub audio_hold: Duration,
    /// How long an idle shard stays awake before it sleeps, where work is likely to come that soon.
    pub spin: Duration,
    /// How packets to one subscriber are made to fit one send.
    pub coalescing: Coalescing,
    /// How video to one subscriber is spread over time.
    pub pacing: Pacing,
    /// A new subscriber of video begins with the latest key frame and what followed if that is no older; 0: never.
    pub catch_up: Duration,
}

impl Default for ShardSettings {
    fn default() -> Self {
        Self {
            media_timeout: Duration::from_secs(30),
            audio_hold: Duration::ZERO,
            spin: Duration::from_micros(50),
            coalescing: Coalescing { segments_max: 10, padding_percent: 10 },
            pacing: Pacing { percent: 150, burst_bytes: 12_500 },
            catch_up: Duration::from_secs(1),
        }
    }
}

/// One shard over one I/O backend.
pub struct Shard<I: Io> {
    io: I,
    core: Core,
}

/// Everything of a shard but its I/O.
struct Core {
    id: ShardId,
    settings: ShardSettings,
    sessions: Sessions,
    by_remote: HashMap<SocketAddr, SessionSlot>,
    tracks: Tracks,
    /// Tracks with packets to forward.
    dirty: DirtyTracks,
    retransmits: Vec<Retransmit>,
    probers: Probers,
    paced: PacedQueues,
    /// Scratch memory that keeps its capacity between turns.
    egress: Egress,
    nacks: Vec<u16>,
    demands: Vec<Demand>,
    /// Encodings of one track that legs wait for a key frame of.
    asks: Vec<u8>,
    table: table::Reader,
    /// By shard; `None` at our own place.
    neighbours: Vec<Option<Neighbour>>,
    control: ControlLink,
    /// Whether control has something new to look at since its bell was last rung.
    control_due: bool,
    timers: Timers,
    counters: ShardSnapshot,
    snapshot_due: Time,
    scratch: Box<[u8; SCRATCH_BYTES]>,
    stopping: bool,
}

/// Videos that one session watches before the scratch list for them has to grow.
const DEMANDS_CAPACITY: usize = 64;

/// Scratch for one datagram in plaintext.
const SCRATCH_BYTES: usize = 2_048;

/// A packet that a subscriber asked for again.
struct Retransmit {
    session: SessionSlot,
    track: TrackKey,
    leg: LegId,
    mid: Mid,
    sequence: u16,
}

impl<I: Io> Shard<I> {
    pub fn new(
        id: ShardId,
        io: I,
        settings: ShardSettings,
        table: table::Reader,
        neighbours: Vec<Option<Neighbour>>,
        control: ControlLink,
    ) -> Self {
        let core = Core {
            id,
            settings,
            sessions: Sessions::default(),
            by_remote: HashMap::new(),
            tracks: Tracks::default(),
            dirty: DirtyTracks::new(settings.audio_hold.as_micros() as u64),
            retransmits: Vec::with_capacity(RETRANSMITS_PER_TURN_MAX),
            probers: Probers::new(),
            paced: PacedQueues::new(settings.pacing),
            egress: Egress::new(settings.coalescing),
            nacks: Vec::with_capacity(1_024),
            demands: Vec::with_capacity(DEMANDS_CAPACITY),
            asks: Vec::with_capacity(64),
            table,
            neighbours,
            control,
            control_due: false,
            timers: Timers::new(),
            counters: ShardSnapshot::new(id),
            snapshot_due: Time(0),
            scratch: Box::new([0; SCRATCH_BYTES]),
            stopping: false,
        };
        Self { io, core }
    }

    /// Runs on this thread until control says stop.
    pub fn run(&mut self, clock: Clock, bell: &Bell) {
        let mut waiting = Waiting::new(self.core.settings.spin.as_micros() as u64);
        while !self.core.stopping {
            let now = clock.now();
            let worked = self.turn(now);
            let after = clock.now();
            self.core.counters.turns += 1;
            if worked {
                waiting.worked(now);
                self.core.counters.turn_us.observe(after.since(now));
                self.core.counters.busy_us += after.since(now);
            } else if waiting.found_nothing(after) {
                self.sleep(after, bell);
            }
        }
    }

    /// Takes what has arrived, sends what follows. Returns whether there was anything.
    pub fn turn(&mut self, now: Time) -> bool {
        let Self { io, core } = self;
        core.table.quiescent();
        let mut work = core.take_commands(io, now);
        work += core.take_records();
        work += io.recv(|datagram| core.datagram(&datagram, now));
        work += core.send_replies(io);
        work += core.run_timers(io, now);
        work += core.forward(io, now);
        work += core.retransmit(io, now);
        work += core.pace(io, now);
        work += core.probe(io, now);
        io.flush();
        core.snapshot(io.counters(), now);
        core.ring_bells();
        work > 0
    }

    /// Blocks until a datagram, a bell or a timer.
    fn sleep(&mut self, now: Time, bell: &Bell) {
        let Self { io, core } = self;
        bell.arm();
        if !core.has_work() {
            let sleep_us = core.next_due().since(now).min(SLEEP_MAX_US);
            core.table.offline(|| io.wait(Duration::from_micros(sleep_us)));
        }
        bell.disarm();
    }
}

impl Core {
    /// When something is to be done by itself.
    fn next_due(&self) -> Time {
        let timers = self.timers.next_due().unwrap_or(Time::NEVER);
        timers.min(self.dirty.next_due()).min(self.paced.next_due()).min(self.probers.next_due())
    }

    fn has_work(&self) -> bool {
        !self.control.commands.is_empty()
            || !self.control.replies.is_empty()
            || self.neighbours.iter().flatten().any(|n| !n.from.is_empty())
    }

    /// Counts a drop.
    fn drop(&mut self, reason: DropReason) {
        self.counters.drops.count(reason);
    }
}
