//! A client that sends: its packets, when they are due, and its reports.
//!
//! Audio is a packet every 20 ms. Video is a burst of equal packets per frame, as encoders make it: a frame leaves
//! as fast as the socket takes it, a key frame is larger. Packets are due by the nominal clock, so a generator
//! that is late catches up and its lateness is counted.
//!
//! Video is a publisher's in full: a NACK is answered by RTX, a PLI or FIR by a key frame, and a simulcast has a
//! source for each of its encodings, told apart by mid and rid as browsers do. Losses on the way to the server can be
//! had on purpose ([`Shape::loss`]).

use std::sync::Arc;

use super::description::{Kind, MID_ID, REPAIRED_RID_ID, RID_ID, RTX_PAYLOAD_TYPE};
use super::history::History;
use super::media::{Departures, Frame, PAYLOAD_BYTES_MIN, Stamp};
use super::tally::Tally;
use crate::rtp::header::FIXED_LEN;
use crate::rtp::rtcp::{self, Packet, Writer};
use crate::rtp::srtp::Sealer;
use crate::time::{Clock, Time};

/// What is sent on one track.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub kind: Kind,
    /// Of an audio packet, and the most of a video packet: its UDP payload, header and tag included.
    pub packet_bytes: usize,
    /// Silence as Opus transmits it: a short packet every 400 ms.
    pub dtx: bool,
    pub video_bps: u64,
    pub frames_per_second: u64,
    /// A key frame this often, in µs, beside those that are asked for; 0 for none.
    pub key_frame_interval_us: u64,
    /// Which one of a simulcast this is.
    pub encoding: Option<Encoding>,
    /// How many of its packets are lost on the way, 0..=1; retransmissions are not.
    pub loss: f64,
}

/// One of the encodings of a simulcast (RFC 8853).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// One letter.
    pub rid: &'static str,
    /// The best one's bitrate over this one's.
    divisor: u64,
}

/// From the best on: each has half the width and height of the one before.
pub const ENCODINGS: [Encoding; 3] = [
    Encoding { rid: "f", divisor: 1 },
    Encoding { rid: "h", divisor: 4 },
    Encoding { rid: "q", divisor: 16 },
];

/// Where a source stands in its speaker's session description.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// A digit.
    pub mid: u8,
    pub ssrc: u32,
    pub rtx_ssrc: u32,
}

/// One track of a speaker, or one encoding of it.
pub struct Source {
    /// The room's number of it; `None` for an encoding that nobody is to get.
    track: Option<u16>,
    tracks: Arc<[Departures]>,
    shape: Shape,
    line: Line,
    /// Of the next packet: rollover counter and sequence number.
    index: u64,
    number: u64,
    frames: u64,
    phase_us: u64,
    first_due: Time,
    /// When the next frame is.
    pub due: Time,
    next_report: Time,
    next_key_frame: Time,
    octets: u64,
    history: Option<History>,
    /// Of the next retransmission.
    rtx_index: u64,
}

/// The track that the stamps of an unheard encoding name: a listener that gets one finds it corrupt.
const UNHEARD: u16 = u16::MAX;

/// A one-byte header extension with mid and rid, of one character each (RFC 8285 §4.2).
const EXTENSION_BYTES: usize = 8;

/// The original sequence number before a retransmission's payload (RFC 4588 §4).
const OSN_BYTES: usize = 2;

/// AEAD tags are the longer ones; packets are sized for them whatever the profile.
const TAG_BYTES: usize = 16;

/// What an encoder makes of a key frame, against a frame between: two to ten times, by content.
const KEY_FRAME_FACTOR: u64 = 4;

/// Speech and silence of a speaker with DTX, in turn, in packets of 20 ms.
const SPURT_PACKETS: u64 = 100;

/// Of Opus in DTX: one packet of comfort noise in 400 ms.
const SILENCE_PACKETS: u64 = 20;

const AUDIO_INTERVAL_US: u64 = 20_000;

/// By how much frames come later than their nominal clock says, as a clock that is slow would have them, in 1/1000.
///
/// The kernel splits CPU time by what its tick meets, 100, 250 or 1,000 times a second. The nominal intervals are
/// multiples of the tick's, so that it would meet the same moment of every burst, or the same few; like this it
/// meets all of them, evenly, within 5 s.
const SLOWER_BY: u64 = 4;

const REPORT_INTERVAL_US: u64 = 1_000_000;

/// Between two key frames that were asked for: what libwebrtc's encoders keep to.
const KEY_FRAME_PAUSE_US: u64 = 300_000;

impl Shape {
    /// The smallest `packet_bytes`.
    pub const PACKET_BYTES_MIN: usize = FIXED_LEN + PAYLOAD_BYTES_MIN + TAG_BYTES;

    fn header_bytes(&self) -> usize {
        FIXED_LEN + if self.encoding.is_some() { EXTENSION_BYTES } else { 0 }
    }

    pub fn frame_interval_us(&self) -> u64 {
        let nominal_us = match self.kind {
            Kind::Audio => AUDIO_INTERVAL_US,
            Kind::Video => 1_000_000 / self.frames_per_second,
        };
        nominal_us + nominal_us * SLOWER_BY / 1_000
    }

    /// How many packets of how many bytes of payload frame `frame` has.
    fn cut(&self, frame: u64, is_key: bool) -> (usize, usize) {
        let payload_max = self.packet_bytes - self.header_bytes() - TAG_BYTES;
        match self.kind {
            Kind::Audio if self.dtx => match (frame / SPURT_PACKETS) % 2 {
                0 => (1, payload_max),
                _ if frame.is_multiple_of(SILENCE_PACKETS) => (1, PAYLOAD_BYTES_MIN),
                _ => (0, 0),
            },
            Kind::Audio => (1, payload_max),
            Kind::Video => {
                let factor = if is_key { KEY_FRAME_FACTOR } else { 1 };
                let bps = self.video_bps / self.encoding.map_or(1, |encoding| encoding.divisor);
                let bytes = (bps / 8 / self.frames_per_second * factor) as usize;
                let packets = bytes.div_ceil(payload_max).max(1);
                (packets, bytes.div_ceil(packets).max(PAYLOAD_BYTES_MIN))
            }
        }
    }
}

impl Source {
    /// `phase_us` is by how much its frames are due after those of a source that began at the same time.
    pub fn new(
        track: Option<u16>,
        tracks: Arc<[Departures]>,
        shape: Shape,
        line: Line,
        phase_us: u64,
    ) -> Self {
        Self {
            phase_us,
            track,
            tracks,
            shape,
            line,
            // Far from a wrap, so that losing the first packets cannot hide one (RFC 3711 §3.3.1).
            index: u64::from(line.ssrc & 0x3fff),
            rtx_index: u64::from(line.rtx_ssrc & 0x3fff),
            history: (shape.kind == Kind::Video).then(History::new),
            number: 0,
            frames: 0,
            first_due: Time::NEVER,
            due: Time::NEVER,
            next_report: Time::NEVER,
            next_key_frame: Time::NEVER,
            octets: 0,
        }
    }

    /// Starts to speak: frames are due at whole intervals since the epoch, and the phase after it.
    pub fn begin(&mut self, now: Time) {
        let interval = self.shape.frame_interval_us();
        self.first_due = Time(now.0.next_multiple_of(interval)).plus_us(self.phase_us);
        self.due = self.first_due;
        self.next_report = self.first_due;
        self.next_key_frame = self.first_due;
    }

    /// Somebody needs a key frame.
    pub fn ask_for_key_frame(&mut self, now: Time) {
        self.next_key_frame = self.next_key_frame.min(now.plus_us(KEY_FRAME_PAUSE_US));
    }

    /// Sends the frame that is due.
    pub fn speak(&mut self, clock: Clock, sealer: &Sealer, tally: &mut Tally, send: &mut impl FnMut(&[u8])) {
        let due = self.due;
        let frame = self.frames;
        self.frames += 1;
        self.due = self.first_due.plus_us(self.frames * self.shape.frame_interval_us());
        if tally.window.is_silent(due) {
            return;
        }
        let is_key = self.shape.kind == Kind::Video && due >= self.next_key_frame;
        if is_key {
            let interval = self.shape.key_frame_interval_us;
            self.next_key_frame = if interval > 0 { due.plus_us(interval) } else { Time::NEVER };
        }
        let (packets, payload_len) = self.shape.cut(frame, is_key);
        for packet in 0..packets {
            let vp8 = Frame { picture_id: frame as u16 & 0x7fff, is_key, begins: packet == 0 };
            let vp8 = (self.shape.kind == Kind::Video).then_some(vp8);
            let marker = vp8.is_some() && packet + 1 == packets;
            let sent = clock.now();
            self.packet(sealer, sent, due, (vp8, marker, payload_len), send);
            if let Some(track) = self.track {
                tally.sent(track.into(), sent, sent.since(due));
            }
        }
    }

    fn packet(
        &mut self,
        sealer: &Sealer,
        sent: Time,
        due: Time,
        (vp8, marker, payload_len): (Option<Frame>, bool, usize),
        send: &mut impl FnMut(&[u8]),
    ) {
        let mut packet = [0x55; 2_048];
        let header_len = self.shape.header_bytes();
        let packet = &mut packet[..header_len + payload_len + sealer.rtp_overhead()];
        let timestamp = self.timestamp(due);
        self.header(
            packet,
            (self.shape.kind.payload_type(), marker),
            self.index,
            timestamp,
            (self.line.ssrc, RID_ID),
        );
        let stamp = Stamp { track: self.track.unwrap_or(UNHEARD), number: self.number, sent };
        let payload = &mut packet[header_len..header_len + payload_len];
        stamp.write(vp8, payload);
        if let Some(history) = &mut self.history {
            history.keep(self.index as u16, timestamp, marker, payload);
        }
        sealer.protect_rtp(packet, header_len, self.index);
        if let Some(track) = self.track {
            self.tracks[usize::from(track)].note(self.number, sent);
        }
        let is_lost = is_lost(self.number, self.shape.loss);
        self.index += 1;
        self.number += 1;
        self.octets += payload_len as u64;
        if !is_lost {
            send(packet);
        }
    }

    /// Answers a request for packet `sequence`, if that is still kept. Returns whether it is.
    fn resend(&mut self, sequence: u16, sealer: &Sealer, send: &mut impl FnMut(&[u8])) -> bool {
        let Some(kept) = self.history.as_ref().and_then(|history| history.find(sequence)) else {
            return false;
        };
        let mut packet = [0; 2_048];
        let header_len = self.shape.header_bytes();
        let payload_len = OSN_BYTES + kept.payload.len();
        let packet = &mut packet[..header_len + payload_len + sealer.rtp_overhead()];
        self.header(
            packet,
            (RTX_PAYLOAD_TYPE, kept.marker),
            self.rtx_index,
            kept.timestamp,
            (self.line.rtx_ssrc, REPAIRED_RID_ID),
        );
        let payload = &mut packet[header_len..header_len + payload_len];
        payload[..OSN_BYTES].copy_from_slice(&sequence.to_be_bytes());
        payload[OSN_BYTES..].copy_from_slice(&kept.payload);
        sealer.protect_rtp(packet, header_len, self.rtx_index);
        self.rtx_index += 1;
        send(packet);
        true
    }

    /// Writes an RTP header; that of an encoding with its mid and, as element `rid_id`, its rid.
    fn header(
        &self,
        packet: &mut [u8],
        (payload_type, marker): (u8, bool),
        index: u64,
        timestamp: u32,
        (ssrc, rid_id): (u32, u8),
    ) {
        packet[0] = 0x80;
        packet[1] = u8::from(marker) << 7 | payload_type;
        packet[2..4].copy_from_slice(&(index as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
        packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
        if let Some(encoding) = self.shape.encoding {
            packet[0] |= 0x10;
            let elements = [MID_ID << 4, self.line.mid, rid_id << 4, encoding.rid.as_bytes()[0]];
            packet[FIXED_LEN..FIXED_LEN + 4].copy_from_slice(&[0xbe, 0xde, 0, 1]);
            packet[FIXED_LEN + 4..FIXED_LEN + EXTENSION_BYTES].copy_from_slice(&elements);
        }
    }

    /// When [`report`](Self::report) has something to say.
    pub fn next_report(&self) -> Time {
        self.next_report
    }

    /// Sends a sender report if one is due.
    pub fn report(&mut self, now: Time, sealer: &mut Sealer, send: &mut impl FnMut(&[u8])) {
        if now < self.next_report {
            return;
        }
        self.next_report = now.plus_us(REPORT_INTERVAL_US);
        let mut bytes = [0; 256];
        let mut writer = Writer::new(&mut bytes);
        let (packets, octets) = (self.number as u32, self.octets as u32);
        writer.sender_report(self.line.ssrc, now.ntp(), self.timestamp(now), packets, octets, &[]);
        writer.sdes_cname(self.line.ssrc, "bench");
        let len = writer.len();
        if let Some(len) = sealer.protect_rtcp(&mut bytes, len) {
            send(&bytes[..len]);
        }
    }

    fn timestamp(&self, at: Time) -> u32 {
        (at.since(self.first_due) * self.shape.kind.clock_rate() / 1_000_000) as u32
    }
}

/// A spread of losses that is the same in every run: Weyl's sequence by the golden ratio.
fn is_lost(number: u64, loss: f64) -> bool {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) as f64) < loss * 2_f64.powi(64)
}

/// Does what a compound RTCP packet, decrypted, asks the sources of a speaker for.
pub fn obey(
    sources: &mut [Source],
    compound: &[u8],
    now: Time,
    sealer: &Sealer,
    tally: &mut Tally,
    send: &mut impl FnMut(&[u8]),
) {
    let of = |sources: &[Source], ssrc| sources.iter().position(|source| source.line.ssrc == ssrc);
    for packet in rtcp::packets(compound).flatten() {
        match packet {
            Packet::Nack { media, sequences, .. } => {
                let Some(at) = of(sources, media) else { continue };
                let resent = sequences.filter(|sequence| sources[at].resend(*sequence, sealer, send));
                tally.retransmitted += resent.count() as u64;
            }
            Packet::PictureLossIndication { media, .. } => {
                of(sources, media).into_iter().for_each(|at| sources[at].ask_for_key_frame(now));
            }
            Packet::FullIntraRequest { entries, .. } => {
                let asked = entries.filter_map(|(ssrc, _)| of(sources, ssrc)).collect::<Vec<_>>();
                asked.into_iter().for_each(|at| sources[at].ask_for_key_frame(now));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIO: Shape = Shape {
        kind: Kind::Audio,
        packet_bytes: 120,
        dtx: false,
        video_bps: 2_500_000,
        frames_per_second: 30,
        key_frame_interval_us: 0,
        encoding: None,
        loss: 0.0,
    };

    #[test]
    fn a_frame_of_video_is_a_burst_of_equal_packets_that_fit() {
        let video = Shape { kind: Kind::Video, packet_bytes: 1_200, ..AUDIO };
        assert_eq!(video.cut(0, false), (9, 1_158));
        let (packets, len) = video.cut(0, true);
        assert!(packets * len >= 4 * 2_500_000 / 8 / 30 && len <= 1_200 - 28, "{packets} of {len}");
    }

    #[test]
    fn frames_keep_step_with_no_tick_of_the_kernel() {
        let video = Shape { kind: Kind::Video, packet_bytes: 1_200, ..AUDIO };
        for (shape, tick_us) in
            [AUDIO, video].into_iter().flat_map(|shape| [10_000, 4_000, 1_000].map(|us| (shape, us)))
        {
            let frames = 5_000_000 / shape.frame_interval_us();
            let mut met = [0; 10];
            (0..frames).for_each(|frame| {
                met[(frame * shape.frame_interval_us() % tick_us * 10 / tick_us) as usize] += 1
            });
            let even = frames / 10;
            assert!(
                met.iter().all(|met| (even * 2 / 3..=even * 3 / 2).contains(met)),
                "{met:?} of {frames}, {tick_us} µs"
            );
        }
    }

    #[test]
    fn encodings_of_a_simulcast_have_quarters_of_the_bitrate_and_room_for_their_names() {
        let cut =
            |encoding| Shape { kind: Kind::Video, packet_bytes: 1_200, encoding, ..AUDIO }.cut(0, false);
        let bytes =
            ENCODINGS.map(|encoding| cut(Some(encoding))).map(|(packets, len)| (packets * len) as u64);
        let whole = 2_500_000 / 8 / 30;
        bytes
            .into_iter()
            .zip([1, 4, 16])
            .for_each(|(bytes, part)| assert!(bytes.abs_diff(whole / part) < 10));
        assert!(cut(Some(ENCODINGS[0])).1 <= 1_200 - FIXED_LEN - EXTENSION_BYTES - TAG_BYTES);
    }

    #[test]
    fn losses_are_as_many_as_were_asked_for() {
        for loss in [0.0, 0.05, 0.5] {
            let lost = (0..10_000).filter(|number| is_lost(*number, loss)).count() as f64;
            assert!((lost - loss * 10_000.0).abs() < 5.0, "{lost}");
        }
    }

    #[test]
    fn audio_with_dtx_is_silent_half_of_the_time() {
        assert_eq!(AUDIO.cut(150, false), (1, 92));
        let dtx = Shape { dtx: true, ..AUDIO };
        let packets =
            |frames: std::ops::Range<u64>| frames.map(|frame| dtx.cut(frame, false).0).sum::<usize>();
        assert_eq!((packets(0..100), packets(100..200)), (100, 5));
    }
}
