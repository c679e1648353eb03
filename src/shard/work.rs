//! What other threads want of a shard, and what it tells them: commands, records, events, bells.

use crate::drop_reason::DropReason;
use crate::forward::track_ring::Packet;
use crate::id::{LegId, MediaKind, SessionSlot, TrackKey};
use crate::io::{Io, IoCounters, Path};
use crate::rtp::extension::Extension;
use crate::rtp::srtp::{Opener, Sealer};
use crate::shard::bandwidth::Bandwidth;
use crate::shard::command::{Command, Event, Inspection, LegConfig, PublicationConfig};
use crate::shard::neighbour::{Body, Record};
use crate::shard::reports::REPORT_INTERVAL_MS;
use crate::shard::session::{LegRef, Session};
use crate::shard::track::Track;
use crate::shard::{ControlLink, Core};
use crate::time::Time;

/// Commands that one turn carries out: a join storm must not delay media.
const COMMANDS_PER_TURN_MAX: usize = 64;

/// Addresses that one session may send from; the oldest gives way. Control keeps as many.
const REMOTES_MAX: usize = 16;

const SNAPSHOT_INTERVAL_MS: u64 = 1_000;

impl Core {
    /// Carries out what control has sent.
    pub(super) fn take_commands(&mut self, io: &impl Io, now: Time) -> usize {
        let mut count = 0;
        while count < COMMANDS_PER_TURN_MAX {
            let Ok(command) = self.control.commands.try_recv() else { break };
            self.command(command, io, now);
            count += 1;
        }
        count
    }

    fn command(&mut self, command: Command, io: &impl Io, now: Time) {
        let done = match command {
            Command::AddSession { slot, rtcp_ssrc, cname } => {
                self.sessions.insert(slot, Session::new(rtcp_ssrc, cname));
                None
            }
            Command::AddPath { slot, path, nominated } => {
                self.add_path(slot, path, nominated.then(|| io.lightest(path)));
                None
            }
            Command::SetKeys { slot, contexts } => {
                self.set_keys(slot, *contexts, now);
                None
            }
            Command::Publish { slot, publication, ack } => {
                self.publish(slot, *publication, now);
                Some(ack)
            }
            Command::Unpublish { slot, track, ack } => {
                if let Some(session) = self.sessions.get_mut(slot) {
                    session.unpublish(track);
                }
                Some(ack)
            }
            Command::AddTrack { track } => {
                if self.tracks.get(track.key).is_none() {
                    self.tracks.insert(Track::new(*track));
                }
                None
            }
            Command::RemoveTrack { track, ack } => {
                self.remove_track(track);
                Some(ack)
            }
            Command::Subscribe { slot, leg, ack } => {
                self.subscribe(slot, &leg, now);
                Some(ack)
            }
            Command::Select { slot, leg, track, selection, ack } => {
                if let Some(track) = self.tracks.get_mut(track) {
                    track.select(slot, leg, selection, now);
                }
                Some(ack)
            }
            Command::Redirect { slot, from, leg, ack } => {
                self.redirect(slot, from, &leg, now);
                Some(ack)
            }
            Command::Unsubscribe { slot, leg, track, ack } => {
                self.unsubscribe(slot, leg, track);
                Some(ack)
            }
            Command::Inspect { slot, reply, ack } => {
                // Who asked may have gone away.
                self.inspect(slot).map(|inspection| reply.try_send(inspection));
                Some(ack)
            }
            Command::RemoveSession { slot, ack } => {
                self.remove_session(slot);
                Some(ack)
            }
            Command::Stop => {
                self.stopping = true;
                None
            }
        };
        if let Some(ack) = done {
            self.tell(Event::Done(ack));
        }
    }

    fn inspect(&mut self, slot: SessionSlot) -> Option<Inspection> {
        let (_, outlet) = self.sessions.both_mut(slot)?;
        let bandwidth = outlet.bandwidth.as_ref();
        Some(Inspection { available_bps: bandwidth.and_then(|bandwidth| bandwidth.available_bps()) })
    }

    /// `nominated` is the path as it is sent on, if it is to be.
    fn add_path(&mut self, slot: SessionSlot, path: Path, nominated: Option<Path>) {
        let Some((session, outlet)) = self.sessions.both_mut(slot) else { return };
        if nominated.is_some() {
            outlet.path = nominated;
        }
        if !session.remotes.contains(&path.remote) {
            if session.remotes.len() == REMOTES_MAX {
                self.by_remote.remove(&session.remotes.remove(0));
            }
            session.remotes.push(path.remote);
        }
        self.by_remote.insert(path.remote, slot);
    }

    /// Media can flow: what was subscribed to before begins with a key frame.
    fn set_keys(&mut self, slot: SessionSlot, contexts: (Sealer, Opener), now: Time) {
        let Some((session, outlet)) = self.sessions.both_mut(slot) else { return };
        let (sealer, opener) = contexts;
        outlet.sealer = Some(sealer);
        session.opener = Some(opener);
        session.rekey();
        if let Some(bandwidth) = &mut outlet.bandwidth {
            bandwidth.forget_queue();
        }
        let legs: Vec<_> = session.legs.iter().map(|leg| (leg.track, leg.id)).collect();
        for (track, id) in legs {
            if let Some(leg) = self.tracks.get_mut(track).and_then(|track| track.leg_mut(slot, id)) {
                leg.rekey();
            }
            self.begin(track, slot, id, now);
        }
    }

    fn publish(&mut self, slot: SessionSlot, publication: PublicationConfig, now: Time) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if let Some(track) = self.tracks.get_mut(publication.track) {
            track.publisher = Some(slot);
        }
        session.publish(publication, now);
        session.report_due = session.report_due.min(now.plus_ms(REPORT_INTERVAL_MS));
        let due = session.report_due;
        self.timers.hasten(slot, &mut session.timer, due);
    }

    fn subscribe(&mut self, slot: SessionSlot, config: &LegConfig, now: Time) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(track) = self.tracks.get_mut(config.track) else { return };
        session.legs.push(LegRef::new(config, track.config.kind));
        match session.resume_leg(config.ssrc) {
            Some(leg) => track.adopt_leg(leg, config, now),
            None => track.add_leg(slot, config, now),
        }
        session.report_due = now;
        self.timers.hasten(slot, &mut session.timer, now);
        let is_connected = session.opener.is_some();
        self.fit_bandwidth(slot);
        if config.extensions.id(Extension::TransportCc).is_some()
            && let Some(bandwidth) = self.sessions.bandwidth_mut(slot)
        {
            bandwidth.expect_reports();
        }
        if is_connected {
            self.begin(config.track, slot, config.id, now);
        }
    }

    fn unsubscribe(&mut self, slot: SessionSlot, leg: LegId, track: TrackKey) {
        let leg = self.tracks.get_mut(track).and_then(|track| track.remove_leg(slot, leg));
        if let (Some(leg), Some(session)) = (leg, self.sessions.get_mut(slot)) {
            session.end_leg(leg);
        }
        self.fit_bandwidth(slot);
    }

    /// Who is sent video has its bandwidth estimated, and nobody else.
    fn fit_bandwidth(&mut self, slot: SessionSlot) {
        let Some((session, outlet)) = self.sessions.both_mut(slot) else { return };
        let videos = session.legs.iter().filter(|leg| leg.kind == MediaKind::Video).count() as u64;
        if videos == 0 {
            outlet.bandwidth = None;
            return;
        }
        let bandwidth = outlet.bandwidth.get_or_insert_with(|| Box::new(Bandwidth::new()));
        bandwidth.fit(videos);
    }

    /// Moves a leg to another track, unless either is gone.
    fn redirect(&mut self, slot: SessionSlot, from: TrackKey, config: &LegConfig, now: Time) {
        if self.tracks.get(config.track).is_none() {
            return;
        }
        let Some(leg) = self.tracks.get_mut(from).and_then(|track| track.remove_leg(slot, config.id)) else {
            return;
        };
        if let Some(track) = self.tracks.get_mut(config.track) {
            track.adopt_leg(leg, config, now);
        }
        let session = self.sessions.get_mut(slot);
        if let Some(known) = session.and_then(|s| s.legs.iter_mut().find(|known| known.id == config.id)) {
            known.track = config.track;
        }
        self.begin(config.track, slot, config.id, now);
    }

    /// Forgets a track, its rings and its legs.
    fn remove_track(&mut self, key: TrackKey) {
        let Some(track) = self.tracks.remove(key) else { return };
        for leg in track.legs {
            if let Some(session) = self.sessions.get_mut(leg.session) {
                let subscriber = leg.session;
                session.end_leg(leg);
                self.fit_bandwidth(subscriber);
            }
        }
    }

    fn remove_session(&mut self, slot: SessionSlot) {
        let Some(session) = self.sessions.remove(slot) else { return };
        for remote in &session.remotes {
            if self.by_remote.get(remote) == Some(&slot) {
                self.by_remote.remove(remote);
            }
        }
        for leg in &session.legs {
            if let Some(track) = self.tracks.get_mut(leg.track) {
                track.remove_leg(slot, leg.id);
            }
        }
    }

    /// Takes packets, clocks and requests of other shards.
    pub(super) fn take_records(&mut self) -> usize {
        let mut count = 0;
        for at in 0..self.neighbours.len() {
            let Some(mut neighbour) = self.neighbours.get_mut(at).and_then(Option::take) else { continue };
            while let Some(record) = neighbour.from.next() {
                count += 1;
                if let Some(record) = Record::read(record) {
                    self.record(&record);
                }
            }
            neighbour.from.release();
            if let Some(place) = self.neighbours.get_mut(at) {
                *place = Some(neighbour);
            }
        }
        count
    }

    fn record(&mut self, record: &Record<'_>) {
        match record.body {
            Body::Media(packet, bytes) => {
                if let Err(reason) = self.media_record(record.track, record.encoding, packet, bytes) {
                    self.drop(reason);
                }
            }
            Body::SenderClock(clock) => self.set_clock(record.track, record.encoding, clock),
            Body::KeyFrameRequest => self.key_frame_wanted(record.track, record.encoding),
        }
    }

    /// A packet from the publisher's shard enters our own ring.
    fn media_record(
        &mut self,
        key: TrackKey,
        encoding: u8,
        packet: Packet,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let track = self.tracks.get_mut(key).ok_or(DropReason::TrackGone)?;
        let ring = track.encodings.get_mut(usize::from(encoding)).ok_or(DropReason::TrackGone)?;
        ring.ring.insert(packet, &[bytes]).map_err(|_| DropReason::TooOld)?;
        if track.mark_fresh(encoding, packet.index) {
            self.dirty.push(key, track.config.kind);
        }
        Ok(())
    }

    /// Sends an event to control at the end of the turn.
    pub(super) fn tell(&mut self, event: Event) {
        if self.control.events.send(event).is_ok() {
            self.control_due = true;
        }
    }

    /// Once a second: what this shard has counted, by value.
    pub(super) fn snapshot(&mut self, io: IoCounters, now: Time) {
        if now < self.snapshot_due {
            return;
        }
        self.snapshot_due = now.plus_ms(SNAPSHOT_INTERVAL_MS);
        self.counters.sessions = self.sessions.iter().count() as u64;
        self.counters.publications = self.sessions.iter().map(|s| s.publications.len() as u64).sum();
        self.counters.legs = self.tracks.legs() as u64;
        self.counters.available_bps = self.sessions.available_bps();
        self.counters.datagrams_received = io.received_datagrams;
        self.counters.bytes_received = io.received_bytes;
        self.counters.datagrams_sent = io.sent_datagrams;
        self.counters.bytes_sent = io.sent_bytes;
        self.counters.sends = io.send_calls;
        self.tell(Event::Snapshot(Box::new(self.counters)));
        self.tell_loudness(now);
    }

    /// Which tracks have become louder or quieter since control was last told.
    fn tell_loudness(&mut self, now: Time) {
        let ControlLink { events, .. } = &self.control;
        let publications = self.sessions.iter_mut().flat_map(|session| &mut session.publications);
        for publication in publications.filter(|p| p.config.kind == MediaKind::Audio) {
            publication.speech.pass(now);
            if let Some(loudness) = publication.take_loudness() {
                // The snapshot before has had control's bell rung.
                let _ = events.send(Event::Loudness(publication.config.track, loudness));
            }
        }
    }

    /// Makes what this turn wrote visible to others and wakes those that sleep: once per turn and thread.
    pub(super) fn ring_bells(&mut self) {
        for neighbour in self.neighbours.iter_mut().flatten() {
            if neighbour.to.publish() {
                neighbour.bell.ring();
            }
        }
        if self.control.punt.publish() || std::mem::take(&mut self.control_due) {
            self.control.bell.ring();
        }
    }
}
