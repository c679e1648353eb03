//! What a shard says by itself over RTCP: reports, NACKs, key frame requests, transport-wide feedback.
//!
//! A session has one timer; when it fires, everything of the session that is due leaves in as few compound
//! packets as it fits. The shard is the only sender of SRTCP under its sessions' keys.

use crate::drop_reason::DropReason;
use crate::forward::leg::Leg;
use crate::forward::receive::SenderClock;
use crate::id::SessionSlot;
use crate::io::{Io, Path};
use crate::rtp::rtcp::{ReportBlock, Writer};
use crate::rtp::srtp::Sealer;
use crate::shard::Core;
use crate::shard::command::Event;
use crate::shard::session::{Activity, Encoding, LegRef, Session};
use crate::shard::track::{Track, Tracks};
use crate::stats::ShardSnapshot;
use crate::time::{Time, ntp_mid32};

/// Reports of a session with video, and of any until its first sender reports have gone out: 1 s, as libwebrtc.
pub(super) const REPORT_INTERVAL_MS: u64 = 1_000;
/// Reports of a session with audio alone: 5 s, the interval of RFC 3550 §6.2.
const REPORT_INTERVAL_AUDIO_MS: u64 = 5_000;

/// Reports fall due at moments that all sessions share, 50 a second: those of a thousand listeners then wake the shard 50
/// times a second, not 200 times. An audience that began together is spread over turns by [`SESSIONS_PER_TURN_MAX`].
const REPORT_GRID_US: u64 = 20_000;

/// Sessions whose timers one turn serves, each with a datagram or so: media waits for at most some 200 microseconds.
const SESSIONS_PER_TURN_MAX: usize = 64;

/// A compound packet stays below any MTU that WebRTC works over (1,280 bytes of IPv6 less headers and tag).
const COMPOUND_BYTES_MAX: usize = 1_180;
/// Room for the SRTCP index and the longest tag.
const TRAILER_BYTES_MAX: usize = 20;

/// Report blocks in one receiver report (RFC 3550 §6.4.2: a 5-bit count).
const BLOCKS_MAX: usize = 31;

impl Core {
    /// Does what is due for sessions whose timer has fired. What is beyond a turn's share stays due.
    pub(super) fn run_timers(&mut self, io: &mut impl Io, now: Time) -> usize {
        let mut count = 0;
        while count < SESSIONS_PER_TURN_MAX
            && let Some((due, slot)) = self.timers.pop(now)
        {
            let Some((session, outlet)) = self.sessions.both_mut(slot) else { continue };
            if session.timer != due {
                continue;
            }
            count += 1;
            session.timer = Time::NEVER;
            if let Ok((path, sealer)) = outlet.ready() {
                let mut out = Outbox::new(path, sealer, io, &mut self.counters);
                write_due(slot, session, (&self.tracks, &mut self.nacks), &mut out, now);
                out.flush();
            }
            self.poll_bandwidth(slot, now);
            self.check_activity(slot, now);
            self.schedule(slot, now);
        }
        count
    }

    /// Lets the session's estimator notice that time has passed.
    fn poll_bandwidth(&mut self, slot: SessionSlot, now: Time) {
        if let Some(bandwidth) = self.sessions.bandwidth_mut(slot) {
            bandwidth.estimator.poll(now);
            self.note_probe(slot, now);
            self.allocate(slot, now);
        }
    }

    /// Sets the timer for what is due next. A session that is not ready yet, and so could not report, looks
    /// again in a report's interval.
    fn schedule(&mut self, slot: SessionSlot, now: Time) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if session.report_due <= now {
            session.report_due = now.plus_ms(REPORT_INTERVAL_MS);
        }
        let encodings = session.publications.iter().flat_map(|p| &p.encodings);
        let feedback = encodings.map(Encoding::due).min().unwrap_or(Time::NEVER).min(session.feedback_due);
        let timeout = self.settings.media_timeout;
        let alive = session.publications.iter().filter(|p| p.activity != Activity::Silent);
        let silence = alive.map(|p| p.last_packet + timeout).min().unwrap_or(Time::NEVER);
        let due = feedback.min(silence).max(now.plus_ms(1)).min(session.report_due);
        self.timers.hasten(slot, &mut session.timer, due);
    }

    /// Tells control of a track that has fallen silent; of the next one at the next turn.
    fn check_activity(&mut self, slot: SessionSlot, now: Time) {
        let timeout = self.settings.media_timeout;
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let mut silent = None;
        for publication in &mut session.publications {
            if publication.activity != Activity::Silent && now - publication.last_packet >= timeout {
                publication.activity = Activity::Silent;
                silent = Some(publication.config.track);
                break;
            }
        }
        if let Some(track) = silent {
            self.tell(Event::TrackSilent(track));
        }
    }
}

/// Everything of `session` that is due. `nacks` is scratch memory.
fn write_due(
    slot: SessionSlot,
    session: &mut Session,
    (tracks, nacks): (&Tracks, &mut Vec<u16>),
    out: &mut Outbox<'_, impl Io>,
    now: Time,
) {
    if session.report_due <= now {
        let complete = write_reports(slot, session, tracks, out, now);
        let rare = complete && !session.has_video();
        let interval = if rare { REPORT_INTERVAL_AUDIO_MS } else { REPORT_INTERVAL_MS };
        session.report_due = Time(now.plus_ms(interval).0.next_multiple_of(REPORT_GRID_US));
    }
    write_requests(session, nacks, out, now);
    if session.feedback_due <= now {
        write_transport_feedback(session, out);
    }
}

/// A receiver report about what the peer publishes, a sender report for each of its legs, and our name.
/// Returns whether every leg could report.
fn write_reports(
    slot: SessionSlot,
    session: &mut Session,
    tracks: &Tracks,
    out: &mut Outbox<'_, impl Io>,
    now: Time,
) -> bool {
    let mut blocks = [ReportBlock::default(); BLOCKS_MAX];
    let encodings = session.publications.iter_mut().flat_map(|p| &mut p.encodings);
    let reports = encodings.filter_map(|encoding| encoding.receiver.report_block(encoding.ssrc?, now));
    let mut count = 0;
    for (slot, block) in blocks.iter_mut().zip(reports) {
        *slot = block;
        count += 1;
    }
    let blocks = blocks.get(..count).unwrap_or(&[]);
    out.write(|w| w.receiver_report(session.rtcp_ssrc, blocks));
    let mut complete = true;
    for leg in &mut session.legs {
        let Some(track) = tracks.get(leg.track) else { continue };
        let Some(sent) = track.leg(slot, leg.id) else { continue };
        complete &= write_sender_report(leg, (track, sent), out, now);
    }
    out.write(|w| w.sdes_cname(session.rtcp_ssrc, &session.cname));
    complete
}

/// The publisher's clocks as they are now, under the leg's own counters: lip sync survives forwarding.
fn write_sender_report(
    leg: &mut LegRef,
    (track, sent): (&Track, &Leg),
    out: &mut Outbox<'_, impl Io>,
    now: Time,
) -> bool {
    let clock = track.encodings.get(usize::from(sent.encoding())).and_then(|e| e.clock);
    let Some(clock) = clock else { return false };
    let rate = track.shapes.get(usize::from(sent.shape)).map_or(90_000, |shape| shape.clock_rate());
    let (ntp, rtp) = advance(&clock, rate, now);
    let rtp = rtp.wrapping_add(sent.timestamp_offset());
    if out.write(|w| w.sender_report(leg.ssrc, ntp, rtp, sent.packets, sent.octets, &[])) {
        leg.last_report = Some((ntp_mid32(ntp), now));
    }
    true
}

/// The publisher's NTP and RTP clocks, run on from its last report to `now`.
fn advance(clock: &SenderClock, clock_rate: u32, now: Time) -> (u64, u32) {
    let elapsed_us = now.since(clock.arrived);
    let ntp = clock.ntp.wrapping_add(((u128::from(elapsed_us) << 32) / 1_000_000) as u64);
    let rtp = clock.rtp.wrapping_add((elapsed_us * u64::from(clock_rate) / 1_000_000) as u32);
    (ntp, rtp)
}

/// NACKs for what is missing, PLI where a key frame is wanted.
fn write_requests(session: &mut Session, nacks: &mut Vec<u16>, out: &mut Outbox<'_, impl Io>, now: Time) {
    let sender = session.rtcp_ssrc;
    let patience_us = session.answer_time.patience_us(session.rtt_us);
    for encoding in session.publications.iter_mut().flat_map(|p| &mut p.encodings) {
        let Some(media) = encoding.ssrc else { continue };
        if encoding.nack {
            nacks.clear();
            encoding.receiver.nacks(now, patience_us, nacks);
            if !nacks.is_empty() && out.write(|w| w.nack(sender, media, nacks)) {
                out.counters.nacks_sent += nacks.len() as u64;
            }
            if encoding.receiver.take_gave_up() > 0 {
                encoding.keyframes.request();
            }
        }
        if encoding.pli && encoding.keyframes.due(now) && out.write(|w| w.pli(sender, media)) {
            out.counters.plis_sent += 1;
        }
    }
}

fn write_transport_feedback(session: &mut Session, out: &mut Outbox<'_, impl Io>) {
    session.feedback_due = Time::NEVER;
    let sender = session.rtcp_ssrc;
    let media = session.publications.iter().flat_map(|p| &p.encodings).find_map(|e| e.ssrc).unwrap_or(0);
    let Some(arrivals) = &mut session.arrivals else { return };
    while out.write(|w| arrivals.feedback(w, sender, media)) {}
}

/// Collects RTCP packets into compounds and sends each, sealed, when it is full.
struct Outbox<'a, I: Io> {
    bytes: [u8; COMPOUND_BYTES_MAX + TRAILER_BYTES_MAX],
    len: usize,
    path: Path,
    sealer: &'a mut Sealer,
    io: &'a mut I,
    counters: &'a mut ShardSnapshot,
}

impl<'a, I: Io> Outbox<'a, I> {
    fn new(path: Path, sealer: &'a mut Sealer, io: &'a mut I, counters: &'a mut ShardSnapshot) -> Self {
        Self { bytes: [0; COMPOUND_BYTES_MAX + TRAILER_BYTES_MAX], len: 0, path, sealer, io, counters }
    }

    /// Adds a packet, in a new compound if this one has no room. Returns what `write` returns.
    fn write(&mut self, mut write: impl FnMut(&mut Writer<'_>) -> bool) -> bool {
        if self.try_write(&mut write) {
            return true;
        }
        if self.len == 0 {
            return false;
        }
        self.flush();
        self.try_write(&mut write)
    }

    fn try_write(&mut self, write: &mut impl FnMut(&mut Writer<'_>) -> bool) -> bool {
        let room = self.bytes.get_mut(self.len..COMPOUND_BYTES_MAX).unwrap_or(&mut []);
        let mut writer = Writer::new(room);
        let written = write(&mut writer);
        self.len += writer.len();
        written
    }

    /// Seals and sends what has been collected.
    fn flush(&mut self) {
        if self.len == 0 {
            return;
        }
        let Some(len) = self.sealer.protect_rtcp(&mut self.bytes, std::mem::take(&mut self.len)) else {
            return;
        };
        let sealed = self.bytes.get(..len).unwrap_or(&[]);
        match self.io.reserve(&self.path, len) {
            Some(room) => {
                room.copy_from_slice(sealed);
                self.io.commit(len);
                self.counters.rtcp_sent += 1;
            }
            None => self.counters.drops.count(DropReason::SendBufferFull),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run_on_from_the_publishers_report() {
        let clock = SenderClock { ntp: 10 << 32, rtp: 1_000, arrived: Time(5_000_000) };
        let (ntp, rtp) = advance(&clock, 48_000, Time(5_500_000));
        assert_eq!(ntp, (10 << 32) + (1 << 31));
        assert_eq!(rtp, 25_000);
    }
}
