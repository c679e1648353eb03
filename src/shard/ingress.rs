//! From the network towards the rings: what one datagram becomes.
//!
//! STUN and DTLS go to control unread. SRTP is decrypted from receive memory into the ring of its track
//! (RTX unwrapped on the way), noted for reports and feedback, marked fresh for this turn's egress, and
//! copied once to every other shard that has subscribers. SRTCP is opened and acted upon.
//!
//! A new SSRC is bound to its m-line only after its first packet has authenticated.

use crate::drop_reason::{DropCounts, DropReason};
use crate::forward::estimate::SendSideEstimator;
use crate::forward::receive::SenderClock;
use crate::forward::track_ring::{NotStored, PACKET_BYTES_MAX, Packet};
use crate::id::{LegId, MediaKind, SessionSlot, TrackKey};
use crate::io::{Datagram, Path};
use crate::rtp::demux::{DatagramKind, classify, is_rtcp};
use crate::rtp::extension::AudioLevel;
use crate::rtp::header::Header;
use crate::rtp::rtcp::{self, ReportBlock, TransportFeedback};
use crate::rtp::srtp::RtpReplay;
use crate::shard::command::Event;
use crate::shard::egress::begins_key_frame;
use crate::shard::neighbour::{Body, Record};
use crate::shard::session::{Activity, Continuity, Route, Session, Stream};
use crate::shard::timer::Timers;
use crate::shard::{Core, Neighbour, RETRANSMITS_PER_TURN_MAX, Retransmit, SCRATCH_BYTES, punt};
use crate::table;
use crate::time::Time;

/// How long arrivals are collected before transport-wide feedback leaves: 20 a second.
const FEEDBACK_INTERVAL_MS: u64 = 50;

/// How far apart the first reports to a large audience leave: 10,000 of them take 200 ms, and media goes on
/// between them.
const REPORT_SPACING_US: u64 = 20;

impl Core {
    /// Everything that comes off the socket enters here.
    pub(super) fn datagram(&mut self, datagram: &Datagram<'_>, now: Time) {
        let kind = datagram.bytes.first().map_or(DatagramKind::Other, |&first| classify(first));
        let done = match kind {
            DatagramKind::Stun | DatagramKind::Dtls => self.punt(&datagram.path, datagram.bytes),
            DatagramKind::SrtpOrSrtcp => self.srtp_or_srtcp(datagram, now),
            DatagramKind::Other => Err(DropReason::NotOurs),
        };
        if let Err(reason) = done {
            self.drop(reason);
        }
    }

    fn punt(&mut self, path: &Path, bytes: &[u8]) -> Result<(), DropReason> {
        let room = self.control.punt.reserve(punt::PATH_BYTES + bytes.len());
        let (head, body) =
            room.and_then(|record| record.split_first_chunk_mut()).ok_or(DropReason::PuntRingFull)?;
        punt::write_path(head, path);
        body.copy_from_slice(bytes);
        self.control.punt.commit();
        self.counters.punted += 1;
        Ok(())
    }

    fn srtp_or_srtcp(&mut self, datagram: &Datagram<'_>, now: Time) -> Result<(), DropReason> {
        let slot = *self.by_remote.get(&datagram.path.remote).ok_or(DropReason::UnknownSource)?;
        if is_rtcp(datagram.bytes) {
            self.srtcp(slot, datagram.bytes, now)
        } else {
            self.srtp(slot, datagram.bytes, now)
        }
    }

    fn srtp(&mut self, slot: SessionSlot, bytes: &[u8], now: Time) -> Result<(), DropReason> {
        let header = Header::parse(bytes)?;
        if bytes.len() > PACKET_BYTES_MAX {
            return Err(DropReason::TooLarge);
        }
        let session = self.sessions.get_mut(slot).ok_or(DropReason::UnknownSource)?;
        let (route, index, is_new) = match session.stream_mut(header.ssrc) {
            Some(stream) => {
                let index = stream.replay.estimate(header.sequence);
                stream.replay.check(index)?;
                (stream.route, index, false)
            }
            None => (session.route(&header, bytes)?, RtpReplay::new().estimate(header.sequence), true),
        };
        let transport_sequence = session.transport_sequence(&header, bytes);
        let audio_level = session.audio_level(&header, bytes);
        let arrival = Arrival { slot, header, route, index, is_new, transport_sequence, audio_level, now };
        if route.rtx { self.retransmission(&arrival, bytes) } else { self.media(&arrival, bytes) }
    }

    /// A media packet: decrypted into the ring of its track.
    fn media(&mut self, arrival: &Arrival, bytes: &[u8]) -> Result<(), DropReason> {
        let session = self.sessions.get_mut(arrival.slot).ok_or(DropReason::UnknownSource)?;
        let opener = session.opener.as_ref().ok_or(DropReason::NoKeys)?;
        let track = session.publications.get(arrival.route.publication).map(|p| p.config.track);
        let track = track.ok_or(DropReason::UnknownStream)?;
        let encoding = self.tracks.get_mut(track).and_then(|t| t.encodings.get_mut(arrival.route.encoding));
        let encoding = encoding.ok_or(DropReason::TrackGone)?;
        let room = encoding.ring.reserve();
        let len = opener.unprotect_rtp(bytes, arrival.header.len, arrival.index, room)?;
        self.counters.rtp_packets_received += 1;
        let plain = room.get(..len).ok_or(DropReason::MalformedRtp)?;
        let payload_len = arrival.header.payload_len(plain)?;
        let highest = encoding.ring.highest();
        let continuity = arrival.authenticated(session, payload_len, highest, &mut self.timers);
        let packet = arrival.packet(continuity, arrival.header.payload_type, payload_len);
        match encoding.ring.commit(packet) {
            Ok(()) => self.stored(track, arrival, packet.index),
            Err(NotStored::Present) => Err(DropReason::TooOld),
            Err(NotStored::TooLarge) => Err(DropReason::TooLarge),
        }
    }

    /// A retransmission (RFC 4588): the original is rebuilt and takes its place in the ring.
    fn retransmission(&mut self, arrival: &Arrival, bytes: &[u8]) -> Result<(), DropReason> {
        let session = self.sessions.get_mut(arrival.slot).ok_or(DropReason::UnknownSource)?;
        let opener = session.opener.as_ref().ok_or(DropReason::NoKeys)?;
        let header = &arrival.header;
        let len = opener.unprotect_rtp(bytes, header.len, arrival.index, &mut self.scratch[..])?;
        self.counters.rtp_packets_received += 1;
        let plain = self.scratch.get(..len).ok_or(DropReason::MalformedRtp)?;
        let payload_len = header.payload_len(plain)?;
        arrival.authenticated(session, payload_len, None, &mut self.timers);
        let (head, payload) = plain.split_at_checked(header.len).ok_or(DropReason::MalformedRtp)?;
        let payload = payload.get(..payload_len).ok_or(DropReason::MalformedRtp)?;
        if payload.is_empty() {
            // Padding that probes for bandwidth: noted for feedback, and nothing to repair.
            return Ok(());
        }
        let (original, payload) =
            payload.split_first_chunk::<2>().ok_or(DropReason::UselessRetransmission)?;
        let repaired = session.repaired_by(arrival.route).ok_or(DropReason::UselessRetransmission)?;
        let index = repaired.replay.estimate(u16::from_be_bytes(*original));
        repaired.replay.check(index).map_err(|_| DropReason::UselessRetransmission)?;
        repaired.replay.accept(index);
        let publication =
            session.publications.get_mut(arrival.route.publication).ok_or(DropReason::UnknownStream)?;
        let payload_type =
            publication.codec(header.payload_type).ok_or(DropReason::UnknownPayloadType)?.payload_type;
        let track = publication.config.track;
        let encoding =
            publication.encodings.get_mut(arrival.route.encoding).ok_or(DropReason::UnknownStream)?;
        if let Some(answer) = encoding.receiver.on_recovered(index, arrival.now) {
            session.answer_time.note(answer);
        }
        let original = Arrival { index, ..*arrival };
        let packet = original.packet(encoding.continuity, payload_type, payload.len());
        let ring = self.tracks.get_mut(track).and_then(|t| t.encodings.get_mut(arrival.route.encoding));
        let ring = &mut ring.ok_or(DropReason::TrackGone)?.ring;
        ring.insert(packet, &[head, payload]).map_err(|_| DropReason::UselessRetransmission)?;
        self.stored(track, arrival, packet.index)
    }

    /// A packet is in its ring: forward it in this turn, here and on other shards.
    fn stored(&mut self, key: TrackKey, arrival: &Arrival, index: u64) -> Result<(), DropReason> {
        self.note_activity(arrival, key);
        let track = self.tracks.get_mut(key).ok_or(DropReason::TrackGone)?;
        let encoding = arrival.route.encoding as u8;
        if track.mark_fresh(encoding, index) {
            self.dirty.push(key, track.config.kind);
        }
        let ring = track.encodings.get_mut(arrival.route.encoding).ok_or(DropReason::TrackGone)?;
        if begins_key_frame(ring, index, &track.config) {
            ring.note_key_frame(index);
            if let Some(session) = self.sessions.get_mut(arrival.slot) {
                session.key_frame_came(arrival.route);
            }
        }
        let (packet, bytes) = ring.ring.get(index).ok_or(DropReason::TrackGone)?;
        let record = Record { track: key, encoding, body: Body::Media(packet, bytes) };
        tell_subscribers(&record, &self.table, &mut self.neighbours, &mut self.counters.drops);
        Ok(())
    }

    /// Tells control of a track's first packet, of the first after a silence, and of who begins or ends to speak.
    fn note_activity(&mut self, arrival: &Arrival, track: TrackKey) {
        let Some(session) = self.sessions.get_mut(arrival.slot) else { return };
        let Some(publication) = session.publications.iter_mut().find(|p| p.config.track == track) else {
            return;
        };
        publication.last_packet = arrival.now;
        let was_active = std::mem::replace(&mut publication.activity, Activity::Active) == Activity::Active;
        let level = arrival.audio_level.filter(|_| publication.config.kind == MediaKind::Audio);
        let turns = level.is_some_and(|level| publication.speech.note(level, arrival.now));
        let loudness = if turns { publication.take_loudness() } else { None };
        if !was_active {
            self.tell(Event::TrackActive(track));
        }
        if let Some(loudness) = loudness {
            self.tell(Event::Loudness(track, loudness));
        }
    }

    fn srtcp(&mut self, slot: SessionSlot, bytes: &[u8], now: Time) -> Result<(), DropReason> {
        let session = self.sessions.get_mut(slot).ok_or(DropReason::UnknownSource)?;
        let opener = session.opener.as_mut().ok_or(DropReason::NoKeys)?;
        let mut scratch = [0; SCRATCH_BYTES];
        let len = opener.unprotect_rtcp(bytes, &mut scratch)?;
        self.counters.rtcp_received += 1;
        for packet in rtcp::packets(scratch.get(..len).unwrap_or(&[])) {
            self.rtcp(slot, &packet?, now);
        }
        Ok(())
    }

    fn rtcp(&mut self, slot: SessionSlot, packet: &rtcp::Packet<'_>, now: Time) {
        match packet {
            rtcp::Packet::SenderReport { ssrc, ntp, rtp, reports, .. } => {
                self.sender_report(slot, *ssrc, *ntp, *rtp, now);
                reports.clone().for_each(|block| self.report_block(slot, &block, now));
            }
            rtcp::Packet::ReceiverReport { reports, .. } => {
                reports.clone().for_each(|block| self.report_block(slot, &block, now));
            }
            rtcp::Packet::Nack { media, sequences, .. } => {
                sequences.clone().for_each(|sequence| self.nack(slot, *media, sequence, now));
            }
            rtcp::Packet::TransportFeedback { body, .. } => self.transport_feedback(slot, body, now),
            rtcp::Packet::Remb { bitrate_bps, .. } => {
                if let Some(bandwidth) = self.sessions.bandwidth_mut(slot) {
                    bandwidth.on_remb(*bitrate_bps);
                }
                self.allocate(slot, now);
            }
            rtcp::Packet::PictureLossIndication { media, .. } => self.picture_loss(slot, *media),
            rtcp::Packet::FullIntraRequest { entries, .. } => {
                entries.clone().for_each(|(media, _)| self.picture_loss(slot, media));
            }
            _ => {}
        }
    }

    /// What a subscriber says of when our packets arrived.
    fn transport_feedback(&mut self, slot: SessionSlot, body: &[u8], now: Time) {
        let Some(bandwidth) = self.sessions.bandwidth_mut(slot) else { return };
        match TransportFeedback::parse(body) {
            Ok(feedback) if SendSideEstimator::may_take(&feedback) => {
                bandwidth.estimator.on_feedback(&feedback, now);
            }
            Ok(_) => return self.drop(DropReason::MalformedRtcp),
            Err(reason) => return self.drop(reason),
        }
        self.note_probe(slot, now);
        self.allocate(slot, now);
    }

    /// The publisher's clocks: kept for its own reports, passed to wherever its subscribers are.
    fn sender_report(&mut self, slot: SessionSlot, ssrc: u32, ntp: u64, rtp: u32, now: Time) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some((config, number, encoding)) = session.encoding_by_ssrc(ssrc) else { return };
        encoding.receiver.on_sender_report(ntp, rtp, now);
        let rtp = rtp.wrapping_add(encoding.continuity.timestamp_base);
        let (track, clock) = (config.track, SenderClock { ntp, rtp, arrived: now });
        let record = Record { track, encoding: number, body: Body::SenderClock(clock) };
        tell_subscribers(&record, &self.table, &mut self.neighbours, &mut self.counters.drops);
        self.set_clock(track, number, clock);
    }

    /// Takes over the clocks of a track's publisher; the first ones hasten the subscribers' first reports.
    pub(super) fn set_clock(&mut self, key: TrackKey, encoding: u8, clock: SenderClock) {
        let Some(track) = self.tracks.get_mut(key) else { return };
        let Some(ring) = track.encodings.get_mut(usize::from(encoding)) else { return };
        let first = ring.clock.replace(clock).is_none();
        if !first {
            return;
        }
        for (nth, leg) in (0..).zip(&track.legs) {
            if let Some(session) = self.sessions.get_mut(leg.session) {
                session.report_due = session.report_due.min(clock.arrived.plus_us(nth * REPORT_SPACING_US));
                self.timers.hasten(leg.session, &mut session.timer, session.report_due);
            }
        }
    }

    /// A subscriber's view of one of its legs.
    fn report_block(&mut self, slot: SessionSlot, block: &ReportBlock, now: Time) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(leg) = session.leg_by_ssrc(block.ssrc) else { return };
        let (track, id) = (leg.track, leg.id);
        if let Some((report, sent)) = leg.last_report
            && report == block.last_sr
        {
            let held_us = (u64::from(block.delay_since_last_sr) * 1_000_000) >> 16;
            session.rtt_us = now.since(sent).saturating_sub(held_us).max(1);
        }
        if let Some(track) = self.tracks.get_mut(track) {
            track.stop_sending_mid(slot, id);
        }
    }

    fn nack(&mut self, slot: SessionSlot, media: u32, sequence: u16, now: Time) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        self.counters.nacks_received += 1;
        let rtt_us = session.rtt_us;
        let Some(leg) = session.leg_by_ssrc(media) else { return };
        if !leg.may_retransmit(sequence, now, rtt_us) {
            self.drop(DropReason::NackRepeated);
        } else if self.retransmits.len() < RETRANSMITS_PER_TURN_MAX {
            let (track, leg, mid) = (leg.track, leg.id, leg.mid);
            self.retransmits.push(Retransmit { session: slot, track, leg, mid, sequence });
        }
    }

    fn picture_loss(&mut self, slot: SessionSlot, media: u32) {
        self.counters.plis_received += 1;
        let leg = self.sessions.get_mut(slot).and_then(|s| s.leg_by_ssrc(media));
        let Some((track, id)) = leg.map(|leg| (leg.track, leg.id)) else { return };
        self.request_key_frame_for(track, slot, id);
    }

    /// Asks the publisher for a key frame of what this leg receives, or waits for. Not for one that has fallen behind:
    /// it could not be sent one yet, and when it can be, the fan-out asks.
    pub(super) fn request_key_frame_for(&mut self, track: TrackKey, session: SessionSlot, leg: LegId) {
        let leg = self.tracks.get(track).and_then(|t| t.leg(session, leg)).filter(|leg| !leg.is_behind());
        let encoding = leg.map(|leg| leg.awaited().unwrap_or(leg.encoding()));
        if let Some(encoding) = encoding {
            self.request_key_frame(track, encoding);
        }
    }

    /// Towards the publisher, wherever it is; requests are coalesced there.
    pub(super) fn request_key_frame(&mut self, key: TrackKey, encoding: u8) {
        let Some(track) = self.tracks.get(key) else { return };
        if track.config.kind != MediaKind::Video {
            return;
        }
        let publisher = track.config.publisher;
        if publisher == self.id {
            self.key_frame_wanted(key, encoding);
        } else if let Some(Some(neighbour)) = self.neighbours.get_mut(publisher.index()) {
            let record = Record { track: key, encoding, body: Body::KeyFrameRequest };
            tell(&record, neighbour, &mut self.counters.drops);
        }
    }

    /// Notes the request at the publication; its session's timer sends it.
    pub(super) fn key_frame_wanted(&mut self, key: TrackKey, encoding: u8) {
        let Some(slot) = self.tracks.get(key).and_then(|track| track.publisher) else { return };
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let publication = session.publications.iter_mut().find(|p| p.config.track == key);
        let Some(encoding) = publication.and_then(|p| p.encodings.get_mut(usize::from(encoding))) else {
            return;
        };
        encoding.keyframes.request();
        if let Some(due) = encoding.keyframes.next_due() {
            self.timers.hasten(slot, &mut session.timer, due);
        }
    }
}

/// To every other shard with subscribers of the record's track: one table load, one copy per shard.
fn tell_subscribers(
    record: &Record<'_>,
    table: &table::Reader,
    neighbours: &mut [Option<Neighbour>],
    drops: &mut DropCounts,
) {
    let Some(entry) = table.get(record.track.index).filter(|entry| entry.key == record.track) else { return };
    for shard in entry.subscribers.iter() {
        if let Some(Some(neighbour)) = neighbours.get_mut(shard.index()) {
            tell(record, neighbour, drops);
        }
    }
}

fn tell(record: &Record<'_>, neighbour: &mut Neighbour, drops: &mut DropCounts) {
    match neighbour.to.reserve(record.len()) {
        Some(room) => {
            record.write(room);
            neighbour.to.commit();
        }
        None => drops.count(DropReason::ShardRingFull),
    }
}

/// An RTP packet on its way through authentication, and where it belongs.
#[derive(Clone, Copy)]
struct Arrival {
    slot: SessionSlot,
    header: Header,
    route: Route,
    /// SRTP index of its stream.
    index: u64,
    /// Whether its SSRC is not bound yet.
    is_new: bool,
    /// Its transport-wide sequence number, where that is wanted.
    transport_sequence: Option<u16>,
    /// How loud it says it is.
    audio_level: Option<AudioLevel>,
    now: Time,
}

impl Arrival {
    /// The tag matched: bind a new SSRC, close the replay window behind the packet, note its arrival for
    /// reports, feedback and NACK. Returns how the stream continues its track.
    fn authenticated(
        &self,
        session: &mut Session,
        payload_len: usize,
        highest: Option<u64>,
        timers: &mut Timers,
    ) -> Continuity {
        if self.is_new {
            session.bind(Stream { ssrc: self.header.ssrc, route: self.route, replay: RtpReplay::new() });
        }
        if let Some(stream) = session.stream_mut(self.header.ssrc) {
            stream.replay.accept(self.index);
        }
        let mut due = self.note_for_feedback(session);
        let mut continuity = Continuity::default();
        if !self.route.rtx
            && let Some(publication) = session.publications.get_mut(self.route.publication)
            && let Some(encoding) = publication.encodings.get_mut(self.route.encoding)
        {
            encoding.on_packet(&self.header, self.index, payload_len, highest, self.now);
            due = due.min(encoding.due());
            continuity = encoding.continuity;
        }
        timers.hasten(self.slot, &mut session.timer, due);
        continuity
    }

    /// When transport-wide feedback is due, this packet included.
    fn note_for_feedback(&self, session: &mut Session) -> Time {
        let (Some(arrivals), Some(sequence)) = (&mut session.arrivals, self.transport_sequence) else {
            return Time::NEVER;
        };
        arrivals.record(sequence, self.now);
        session.feedback_due = session.feedback_due.min(self.now.plus_ms(FEEDBACK_INTERVAL_MS));
        session.feedback_due
    }

    /// The packet as its track's ring keeps it.
    fn packet(&self, continuity: Continuity, payload_type: u8, payload_len: usize) -> Packet {
        Packet {
            index: self.index.wrapping_add(continuity.index_base),
            timestamp: self.header.timestamp.wrapping_add(continuity.timestamp_base),
            payload_type,
            marker: self.header.marker,
            header_len: self.header.len as u16,
            len: (self.header.len + payload_len) as u16,
            arrived: self.now,
        }
    }
}
