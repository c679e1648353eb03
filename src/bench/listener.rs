//! A client that receives: which packets came, which are missing, and its reports.
//!
//! Every listener counts every packet by the sequence number, which SRTP leaves in the clear. Some decrypt each
//! packet and compare it with what it should be; the others do so with the first of a stream, which tells them how
//! sequence numbers relate to the speaker's own.

use std::sync::Arc;

use super::media::{Departures, Stamp};
use super::tally::Tally;
use crate::rtp::header::Header;
use crate::rtp::rtcp::{self, Packet, ReportBlock, Writer};
use crate::rtp::srtp::{Opener, RtpReplay, Sealer};
use crate::time::{Time, ntp_mid32};

pub struct Listener {
    tracks: Arc<[Departures]>,
    streams: Vec<Stream>,
    /// Whether it decrypts every packet.
    pub is_sampled: bool,
    /// Whether it counts: those of a storm do not.
    pub is_measured: bool,
    ssrc: u32,
    next_report: Time,
    /// Of the current measurement.
    pub received: u64,
}

/// One incoming SSRC.
struct Stream {
    ssrc: u32,
    track: usize,
    replay: RtpReplay,
    /// What to add to an index to have the speaker's number.
    offset: u64,
    first: u64,
    newest: u64,
    received: u64,
    /// Expected and received at the last report.
    reported: (u64, u64),
    /// The middle of the last sender report's NTP time, and when it came.
    sender_report: Option<(u32, Time)>,
}

/// What a packet led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    /// All tracks of the room have been heard.
    All,
}

/// As browsers do for audio.
const REPORT_INTERVAL_US: u64 = 5_000_000;

/// No listener hears more tracks than a report has room for, times this.
const BLOCKS_MAX: usize = 31;

impl Listener {
    pub fn new(tracks: Arc<[Departures]>, ssrc: u32, is_sampled: bool, is_measured: bool, now: Time) -> Self {
        // Reports of many listeners that join together are spread over the interval.
        let next_report = now.plus_us(REPORT_INTERVAL_US + u64::from(ssrc) % REPORT_INTERVAL_US);
        let streams = Vec::with_capacity(tracks.len());
        Self { tracks, streams, is_sampled, is_measured, ssrc, next_report, received: 0 }
    }

    /// Takes an SRTP packet that arrived at `at`.
    pub fn packet(
        &mut self,
        packet: &[u8],
        at: Time,
        opener: &Opener,
        scratch: &mut [u8],
        tally: &mut Tally,
    ) -> Heard {
        let Ok(header) = Header::parse(packet) else { return Heard::Nothing };
        let known = self.streams.iter().position(|stream| stream.ssrc == header.ssrc);
        let position = known.unwrap_or(self.streams.len());
        let (index, stamp) = match self.streams.get(position) {
            Some(stream) if !self.is_sampled => (stream.replay.estimate(header.sequence), None),
            stream => {
                let first = u64::from(header.sequence);
                let index = stream.map_or(first, |stream| stream.replay.estimate(header.sequence));
                let stamp = decrypt(packet, &header, index, opener, scratch);
                if stamp.is_none_or(|stamp| usize::from(stamp.track) >= self.tracks.len()) {
                    tally.corrupt += 1;
                    return Heard::Nothing;
                }
                (index, stamp)
            }
        };
        if known.is_none() {
            let Some(stamp) = stamp else { return Heard::Nothing };
            self.streams.push(Stream::new(header.ssrc, index, stamp));
        }
        let stream = &mut self.streams[position];
        self.received += stream.count(index, stamp, at, packet.len(), self.is_measured, &self.tracks, tally);
        match known.is_none() && self.streams.len() == self.tracks.len() {
            true => Heard::All,
            false => Heard::Nothing,
        }
    }

    /// Takes a compound RTCP packet, decrypted.
    pub fn rtcp(&mut self, compound: &[u8], now: Time) {
        for packet in rtcp::packets(compound).flatten() {
            if let Packet::SenderReport { ssrc, ntp, .. } = packet
                && let Some(stream) = self.streams.iter_mut().find(|stream| stream.ssrc == ssrc)
            {
                stream.sender_report = Some((ntp_mid32(ntp), now));
            }
        }
    }

    /// When [`report`](Self::report) has something to say.
    pub fn next_report(&self) -> Time {
        self.next_report
    }

    /// Sends a receiver report if one is due.
    pub fn report(&mut self, now: Time, sealer: &mut Sealer, send: &mut impl FnMut(&[u8])) {
        if now < self.next_report {
            return;
        }
        self.next_report = now.plus_us(REPORT_INTERVAL_US);
        for streams in self.streams.chunks_mut(BLOCKS_MAX) {
            let blocks: Vec<_> = streams.iter_mut().map(|stream| stream.report(now)).collect();
            let mut bytes = [0; 1_024];
            let mut writer = Writer::new(&mut bytes);
            writer.receiver_report(self.ssrc, &blocks);
            writer.sdes_cname(self.ssrc, "bench");
            let len = writer.len();
            if let Some(len) = sealer.protect_rtcp(&mut bytes, len) {
                send(&bytes[..len]);
            }
        }
    }
}

impl Stream {
    fn new(ssrc: u32, index: u64, stamp: Stamp) -> Self {
        Self {
            ssrc,
            track: stamp.track.into(),
            replay: RtpReplay::new(),
            offset: stamp.number.wrapping_sub(index),
            first: index,
            newest: index,
            received: 0,
            reported: (0, 0),
            sender_report: None,
        }
    }

    /// Returns how many packets of the measurement this is: one or none.
    #[expect(clippy::too_many_arguments, reason = "the one place where all that is known of a packet meets")]
    fn count(
        &mut self,
        index: u64,
        stamp: Option<Stamp>,
        at: Time,
        bytes: usize,
        is_measured: bool,
        tracks: &[Departures],
        tally: &mut Tally,
    ) -> u64 {
        let mut number = index.wrapping_add(self.offset);
        if let Some(stamp) = stamp.filter(|stamp| stamp.number != number) {
            // A forwarder that leaves packets out on purpose goes on counting without a gap.
            self.offset = stamp.number.wrapping_sub(index);
            number = stamp.number;
        }
        let sent = stamp.map_or_else(|| tracks[self.track].of(number), |stamp| stamp.sent);
        let counts = is_measured && tally.window.has(sent);
        tally.decrypted += u64::from(counts && stamp.is_some());
        if self.replay.check(index).is_err() {
            tally.duplicates += u64::from(counts);
            return 0;
        }
        self.replay.accept(index);
        self.received += 1;
        let is_late = index < self.newest;
        self.newest = self.newest.max(index);
        if counts {
            tally.reordered += u64::from(is_late);
            tally.received(self.track, number, at.since(sent), bytes);
        }
        counts.into()
    }

    fn report(&mut self, now: Time) -> ReportBlock {
        let expected = self.newest + 1 - self.first.min(self.newest);
        let (expected_before, received_before) = self.reported;
        self.reported = (expected, self.received);
        let expected_since = expected.saturating_sub(expected_before);
        let lost_since = expected_since.saturating_sub(self.received - received_before);
        let (last_sr, delay) = self.sender_report.map_or((0, 0), |(ntp, at)| (ntp, now.since(at)));
        ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: (lost_since * 256 / expected_since.max(1)).min(255) as u8,
            cumulative_lost: expected.saturating_sub(self.received) as i32,
            highest_sequence: self.newest as u32,
            jitter: 0,
            last_sr,
            delay_since_last_sr: (delay * 65_536 / 1_000_000) as u32,
        }
    }
}

fn decrypt(packet: &[u8], header: &Header, index: u64, opener: &Opener, scratch: &mut [u8]) -> Option<Stamp> {
    let len = opener.unprotect_rtp(packet, header.len, index, scratch).ok()?;
    Stamp::read(scratch.get(header.len..len)?)
}
