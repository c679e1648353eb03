//! What the clients say and hear: RTP payloads that carry a counter, a time and a checksum.
//!
//! Video looks like VP8 to whoever peeks: a descriptor whose S bit marks the first packet of a frame, and
//! a payload header whose lowest bit is clear in key frames (RFC 7741 §4.2, RFC 6386 §9.1).

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use fanline::time::Time;
use str0m::media::{MediaKind, Mid, Pt, Rid};

/// Bytes of a note between VP8's descriptor and its filler.
const HEAD_BYTES: usize = 1 + 8 + 8 + 4 + 4;
const CHECKSUM_BYTES: usize = 8;

/// What one packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Counts the packets of a source from 0.
    pub counter: u64,
    pub sent: Time,
    /// RTP time since the source began.
    pub elapsed: u32,
    pub frame: u32,
    pub key: bool,
    /// Whether it opens its frame.
    pub first: bool,
    /// The temporal layer of its frame, of a source that has such.
    pub layer: Option<u8>,
}

impl Note {
    pub fn write(&self, len: usize) -> Vec<u8> {
        let begins = if self.first { 0x10 } else { 0x00 };
        let mut bytes = match self.layer {
            Some(layer) => vec![0x80 | begins, 0x20, layer << 6 | u8::from(self.allows_switch_up()) << 5],
            None => vec![begins],
        };
        bytes.push(u8::from(!self.key));
        bytes.extend(self.counter.to_be_bytes());
        bytes.extend(self.sent.0.to_be_bytes());
        bytes.extend(self.elapsed.to_be_bytes());
        bytes.extend(self.frame.to_be_bytes());
        let filler = self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let filled = len - bytes.len() - CHECKSUM_BYTES;
        bytes.extend(filler.iter().cycle().take(filled));
        let sum = checksum(&bytes);
        bytes.extend(sum.to_be_bytes());
        bytes
    }

    /// The first frame of a layer after one of the lowest needs no other of its layer.
    fn allows_switch_up(&self) -> bool {
        matches!(self.frame % 4, 1 | 2)
    }

    /// `None` if a bit is not as it was written.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        let first = body.first()? & 0x10 != 0;
        let is_layered = body.first()? & 0x80 != 0;
        let layer = if is_layered { Some(body.get(2)? >> 6) } else { None };
        let head = body.get(if is_layered { 3 } else { 1 }..)?;
        if checksum(body) != u64::from_be_bytes(*sum) || head.len() < HEAD_BYTES {
            return None;
        }
        Some(Self {
            counter: u64::from_be_bytes(head[1..9].try_into().ok()?),
            sent: Time(u64::from_be_bytes(head[9..17].try_into().ok()?)),
            elapsed: u32::from_be_bytes(head[17..21].try_into().ok()?),
            frame: u32::from_be_bytes(head[21..25].try_into().ok()?),
            key: head[0] & 1 == 0,
            first,
            layer,
        })
    }
}

/// FNV-1a over words: a debug build spends most of its time here otherwise.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17)
    })
}

/// How a source talks.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub kind: MediaKind,
    pub interval_us: u64,
    pub packets_per_frame: u32,
    /// A key frame has several times the packets.
    pub packets_per_key_frame: u32,
    pub payload_bytes: usize,
    pub clock_rate: u64,
    /// The first sequence number, and the RTP timestamp of the beginning.
    pub first_sequence: u64,
    pub first_timestamp: u32,
    /// Frames are of temporal layers 0, 2, 1, 2 in turn.
    pub is_layered: bool,
}

/// Opus at 32 kbit/s: a packet of 80 bytes every 20 ms.
pub const VOICE: Shape = Shape {
    kind: MediaKind::Audio,
    interval_us: 20_000,
    packets_per_frame: 1,
    packets_per_key_frame: 1,
    payload_bytes: 80,
    clock_rate: 48_000,
    first_sequence: 1_000,
    first_timestamp: 0x7654_3210,
    is_layered: false,
};

/// Video at 720 kbit/s and 30 frames a second: bursts of 1,000-byte packets.
pub const CAMERA: Shape = Shape {
    kind: MediaKind::Video,
    interval_us: 33_333,
    packets_per_frame: 3,
    packets_per_key_frame: 8,
    payload_bytes: 1_000,
    clock_rate: 90_000,
    first_sequence: 20_000,
    first_timestamp: 0xffff_f000,
    is_layered: false,
};

/// As Chromium's encoder of VP8 has it, in three layers.
const LAYERS: [u8; 4] = [0, 2, 1, 2];

/// One published track at its origin.
pub struct Source {
    pub name: String,
    pub mid: Mid,
    /// Of one encoding of a simulcast.
    pub rid: Option<Rid>,
    pub pt: Pt,
    pub shape: Shape,
    /// When it began to talk.
    pub began: Option<Time>,
    pub muted: bool,
    /// In dBov, told with each packet.
    pub level_dbov: Option<i8>,
    /// Packets said so far.
    pub said: u64,
    pub frames: u32,
    key_frame_due: bool,
    /// When we were asked for key frames.
    pub key_frames_asked: Vec<Time>,
}

/// A packet to write.
pub struct Utterance {
    pub note: Note,
    pub sequence: u64,
    pub timestamp: u32,
    pub ends_frame: bool,
    pub at: Time,
}

impl Source {
    pub fn new(name: &str, mid: Mid, pt: Pt, shape: Shape) -> Self {
        Self {
            name: name.to_owned(),
            mid,
            rid: None,
            pt,
            shape,
            began: None,
            muted: false,
            level_dbov: None,
            said: 0,
            frames: 0,
            key_frame_due: true,
            key_frames_asked: Vec::new(),
        }
    }

    pub fn ask_for_key_frame(&mut self, now: Time) {
        self.key_frames_asked.push(now);
        self.key_frame_due = true;
    }

    /// The packets of the next frame, if its time has come.
    pub fn speak(&mut self, now: Time) -> Vec<Utterance> {
        let began = *self.began.get_or_insert(now);
        let at = began.plus_us(u64::from(self.frames) * self.shape.interval_us);
        if at > now {
            return Vec::new();
        }
        let frame = self.frames;
        self.frames += 1;
        if self.muted {
            return Vec::new();
        }
        let key = std::mem::take(&mut self.key_frame_due);
        let layer =
            self.shape.is_layered.then(|| if key { 0 } else { LAYERS[frame as usize % LAYERS.len()] });
        let count = if key { self.shape.packets_per_key_frame } else { self.shape.packets_per_frame };
        let elapsed = (at.since(began) * self.shape.clock_rate / 1_000_000) as u32;
        let packets = (0..count).map(|n| {
            let counter = self.said + u64::from(n);
            let note = Note { counter, sent: now, elapsed, frame, key, first: n == 0, layer };
            Utterance {
                note,
                sequence: self.shape.first_sequence + counter,
                timestamp: self.shape.first_timestamp.wrapping_add(elapsed),
                ends_frame: n + 1 == count,
                at,
            }
        });
        let packets = packets.collect();
        self.said += u64::from(count);
        packets
    }
}

/// One packet as it came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub note: Note,
    pub at: Time,
    /// Extended by the receiver.
    pub sequence: u64,
    pub timestamp: u32,
    /// Of the payload: tells the encodings of a simulcast apart.
    pub bytes: usize,
}

/// A sender report as it came.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub ntp: SystemTime,
    pub rtp: u32,
    pub packets: u32,
}

/// One pulled track at its destination.
#[derive(Default)]
pub struct Sink {
    pub arrivals: Vec<Arrival>,
    pub reports: Vec<Report>,
    /// Payloads that do not read back.
    pub damaged: u64,
    /// By how much sequence and timestamp differ from the source's own count; constant while it lives.
    sequence_shift: Option<u64>,
    timestamp_shift: Option<u32>,
    /// Packets whose sequence number or timestamp broke that rule.
    pub misnumbered: u64,
}

impl Sink {
    pub fn hear(&mut self, payload: &[u8], sequence: u64, timestamp: u32, at: Time) {
        let Some(note) = Note::read(payload) else {
            self.damaged += 1;
            return;
        };
        let sequence_shift = sequence.wrapping_sub(note.counter);
        let timestamp_shift = timestamp.wrapping_sub(note.elapsed);
        let as_before = *self.sequence_shift.get_or_insert(sequence_shift) == sequence_shift
            && *self.timestamp_shift.get_or_insert(timestamp_shift) == timestamp_shift;
        self.misnumbered += u64::from(!as_before);
        self.arrivals.push(Arrival { note, at, sequence, timestamp, bytes: payload.len() });
    }

    pub fn heard(&self) -> usize {
        self.arrivals.len()
    }

    /// The counters heard at or after `from`.
    pub fn counters(&self) -> impl Iterator<Item = u64> {
        self.arrivals.iter().map(|arrival| arrival.note.counter)
    }

    /// How many of the source's packets `from..until` never came.
    pub fn missed(&self, from: u64, until: u64) -> u64 {
        let heard: HashSet<_> = self.counters().filter(|counter| (from..until).contains(counter)).collect();
        until.saturating_sub(from) - heard.len() as u64
    }

    pub fn heard_twice(&self) -> usize {
        self.heard() - self.counters().collect::<HashSet<_>>().len()
    }

    pub fn is_in_order(&self) -> bool {
        self.arrivals.is_sorted_by_key(|arrival| arrival.note.counter)
    }

    /// The longest pause between two packets that arrived in `from..until`.
    pub fn longest_pause(&self, from: Time, until: Time) -> Duration {
        let within = self.arrivals.iter().map(|arrival| arrival.at).filter(|at| (from..until).contains(at));
        let moments: Vec<_> = [from].into_iter().chain(within).chain([until]).collect();
        moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Every packet intact, under the numbers it should have, none twice.
    pub fn assert_sound(&self) {
        assert_eq!(self.damaged, 0, "payloads were damaged");
        assert_eq!(self.misnumbered, 0, "sequence numbers or timestamps drifted");
        assert_eq!(self.heard_twice(), 0, "packets came twice");
    }

    /// Sound, in order, and without a gap from its first packet until `until`.
    pub fn assert_perfect(&self, until: u64) {
        self.assert_sound();
        assert!(self.is_in_order(), "packets came out of order");
        let first = self.counters().next().expect("something was heard");
        assert_eq!(self.missed(first, until), 0, "packets are missing after {first}");
    }
}
