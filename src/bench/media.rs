//! What speakers say: packets that carry their number and the moment of their sending.
//!
//! The payload passes an SFU untouched, so a listener that decrypts a packet knows which one it is and how long
//! it took. One that does not can tell from the sequence number, once it has decrypted one packet of the stream:
//! [`Departures`] says when that number left.
//!
//! A video's payload begins as a VP8 frame does (RFC 7741), since a forwarder looks for key frames and may rewrite
//! the picture id; the rest is filler, as it is for audio.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Time;

/// When the latest packets of a track of the room left.
///
/// Written by the thread that sends the track, read by all that receive it. Each slot is an atomic of its own;
/// a packet's slot is written before the packet is sent, so who has the packet sees it.
pub struct Departures(Box<[AtomicU64]>);

/// Half a minute of 270 packets/s. A packet that comes later than that is taken for a newer one.
const DEPARTURES: usize = 8_192;

impl Departures {
    pub fn new() -> Self {
        Self((0..DEPARTURES).map(|_| AtomicU64::new(0)).collect())
    }

    pub fn note(&self, number: u64, at: Time) {
        self.slot(number).store(at.0, Ordering::Release);
    }

    /// When packet `number` left. Something else for a number never sent.
    pub fn of(&self, number: u64) -> Time {
        Time(self.slot(number).load(Ordering::Acquire))
    }

    fn slot(&self, number: u64) -> &AtomicU64 {
        &self.0[number as usize % DEPARTURES]
    }
}

/// What a payload says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub track: u16,
    /// Counts the track's packets from 0.
    pub number: u64,
    pub sent: Time,
}

/// Tells our payloads from those of others.
const MAGIC: [u8; 2] = [0xfa, 0x7e];

const STAMP_LEN: usize = 20;

/// A payload descriptor with a 15-bit picture id (RFC 7741 §4.2), then room for a key frame's header (RFC 6386
/// §9.1).
const VP8_LEN: usize = 4 + 10;

/// The shortest payload that holds what it must.
pub const PAYLOAD_BYTES_MIN: usize = VP8_LEN + STAMP_LEN;

/// Of a video packet: which frame it is of.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub picture_id: u16,
    pub is_key: bool,
    pub begins: bool,
}

impl Stamp {
    /// Writes the start of an audio payload, or of a video payload of `frame`.
    pub fn write(self, frame: Option<Frame>, payload: &mut [u8]) {
        let at = match frame {
            Some(frame) => {
                write_vp8(frame, payload);
                VP8_LEN
            }
            None => 0,
        };
        let stamp = &mut payload[at..at + STAMP_LEN];
        stamp[..2].copy_from_slice(&MAGIC);
        stamp[2..4].copy_from_slice(&self.track.to_be_bytes());
        stamp[4..12].copy_from_slice(&self.number.to_be_bytes());
        stamp[12..].copy_from_slice(&self.sent.0.to_be_bytes());
    }

    /// Reads it back; `None` if the payload is not one of ours.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let audio = payload.get(..STAMP_LEN).filter(|stamp| stamp.starts_with(&MAGIC));
        let stamp = audio.or_else(|| payload.get(VP8_LEN..VP8_LEN + STAMP_LEN))?;
        if !stamp.starts_with(&MAGIC) {
            return None;
        }
        let track = u16::from_be_bytes(*stamp[2..].first_chunk()?);
        let number = u64::from_be_bytes(*stamp[4..].first_chunk()?);
        let sent = Time(u64::from_be_bytes(*stamp[12..].first_chunk()?));
        Some(Self { track, number, sent })
    }
}

fn write_vp8(Frame { picture_id, is_key, begins }: Frame, payload: &mut [u8]) {
    let [id_high, id_low] = (picture_id | 0x8000).to_be_bytes();
    payload[..4].copy_from_slice(&[0x80 | u8::from(begins) << 4, 0x80, id_high, id_low]);
    // The first bit of the frame tag is 0 for a key frame; its start code and a size of 640 × 360 follow.
    let header = [0x10 | u8::from(!is_key), 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01];
    payload[4..VP8_LEN].copy_from_slice(&header);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_from_audio_and_from_video() {
        let stamp = Stamp { track: 3, number: 1 << 40, sent: Time(1_800_000_000_000_001) };
        for frame in [None, Some(Frame { picture_id: 77, is_key: true, begins: true })] {
            let mut payload = [0x55; PAYLOAD_BYTES_MIN];
            stamp.write(frame, &mut payload);
            assert_eq!(Stamp::read(&payload), Some(stamp));
        }
        assert_eq!(Stamp::read(&[0x55; 40]), None);
        assert_eq!(Stamp::read(&MAGIC), None);
    }

    #[test]
    fn the_last_departures_are_known_by_number() {
        let departures = Departures::new();
        departures.note(5, Time(100));
        departures.note(5 + DEPARTURES as u64, Time(200));
        departures.note(6, Time(300));
        assert_eq!((departures.of(5 + DEPARTURES as u64), departures.of(6)), (Time(200), Time(300)));
    }
}
