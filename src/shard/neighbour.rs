//! Records between shards: packets to where subscribers are, key frame requests back to the publisher.
//!
//! A track's name travels with every record, generation included: what is still in flight when a track
//! closes cannot reach the next track with its index.

use crate::forward::receive::SenderClock;
use crate::forward::track_ring::Packet;
use crate::id::TrackKey;
use crate::time::Time;

/// What one shard says to another about one encoding of a track.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record<'a> {
    pub track: TrackKey,
    pub encoding: u8,
    pub body: Body<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Body<'a> {
    /// A packet in plaintext, header included, once per packet and shard.
    Media(Packet, &'a [u8]),
    /// The publisher's clocks at its last sender report.
    SenderClock(SenderClock),
    /// A subscriber needs a key frame.
    KeyFrameRequest,
}

const MEDIA: u8 = 0;
const SENDER_CLOCK: u8 = 1;
const KEY_FRAME_REQUEST: u8 = 2;

/// Tag, encoding, index and generation of the track.
const HEAD_BYTES: usize = 1 + 1 + 4 + 4;
/// Index, arrival, timestamp, payload type, marker, header length.
const PACKET_BYTES: usize = 8 + 8 + 4 + 1 + 1 + 2;
/// NTP, RTP, arrival.
const CLOCK_BYTES: usize = 8 + 4 + 8;

impl<'a> Record<'a> {
    /// Bytes that [`write`](Self::write) fills.
    pub fn len(&self) -> usize {
        HEAD_BYTES
            + match self.body {
                Body::Media(_, bytes) => PACKET_BYTES + bytes.len(),
                Body::SenderClock(_) => CLOCK_BYTES,
                Body::KeyFrameRequest => 0,
            }
    }

    /// Writes the record into `to`, which has [`len`](Self::len) bytes.
    pub fn write(&self, to: &mut [u8]) {
        let tag = match self.body {
            Body::Media(..) => MEDIA,
            Body::SenderClock(_) => SENDER_CLOCK,
            Body::KeyFrameRequest => KEY_FRAME_REQUEST,
        };
        let mut to = put(to, &[tag, self.encoding]);
        to = put(to, &self.track.index.to_le_bytes());
        to = put(to, &self.track.generation.to_le_bytes());
        match self.body {
            Body::Media(packet, bytes) => {
                to = put(to, &packet.index.to_le_bytes());
                to = put(to, &packet.arrived.0.to_le_bytes());
                to = put(to, &packet.timestamp.to_le_bytes());
                to = put(to, &[packet.payload_type, u8::from(packet.marker)]);
                to = put(to, &packet.header_len.to_le_bytes());
                put(to, bytes);
            }
            Body::SenderClock(clock) => {
                to = put(to, &clock.ntp.to_le_bytes());
                to = put(to, &clock.rtp.to_le_bytes());
                put(to, &clock.arrived.0.to_le_bytes());
            }
            Body::KeyFrameRequest => {}
        }
    }

    /// Reads what a neighbour wrote; `None` means a bug in the writer.
    pub fn read(mut from: &'a [u8]) -> Option<Self> {
        let [tag, encoding] = take::<2>(&mut from)?;
        let index = u32::from_le_bytes(take(&mut from)?);
        let generation = u32::from_le_bytes(take(&mut from)?);
        let body = match tag {
            MEDIA => read_media(from)?,
            SENDER_CLOCK => Body::SenderClock(SenderClock {
                ntp: u64::from_le_bytes(take(&mut from)?),
                rtp: u32::from_le_bytes(take(&mut from)?),
                arrived: Time(u64::from_le_bytes(take(&mut from)?)),
            }),
            KEY_FRAME_REQUEST => Body::KeyFrameRequest,
            _ => return None,
        };
        Some(Self { track: TrackKey { index, generation }, encoding, body })
    }
}

fn read_media(mut from: &[u8]) -> Option<Body<'_>> {
    let index = u64::from_le_bytes(take(&mut from)?);
    let arrived = Time(u64::from_le_bytes(take(&mut from)?));
    let timestamp = u32::from_le_bytes(take(&mut from)?);
    let [payload_type, marker] = take::<2>(&mut from)?;
    let header_len = u16::from_le_bytes(take(&mut from)?);
    let (marker, len) = (marker != 0, from.len() as u16);
    Some(Body::Media(Packet { index, timestamp, payload_type, marker, header_len, len, arrived }, from))
}

/// Writes `bytes` and returns what is behind them.
fn put<'b>(to: &'b mut [u8], bytes: &[u8]) -> &'b mut [u8] {
    let (here, rest) = to.split_at_mut(bytes.len());
    here.copy_from_slice(bytes);
    rest
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (here, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let packet = Packet {
            index: 1 << 40,
            timestamp: 960,
            payload_type: 111,
            marker: true,
            header_len: 2,
            len: 6,
            arrived: Time(5),
        };
        let clock = SenderClock { ntp: u64::MAX, rtp: 3, arrived: Time(1) };
        for body in [Body::Media(packet, b"packet"), Body::SenderClock(clock), Body::KeyFrameRequest] {
            let record = Record { track: TrackKey { index: 7, generation: 9 }, encoding: 2, body };
            let mut bytes = vec![0; record.len()];
            record.write(&mut bytes);
            assert_eq!(Record::read(&bytes), Some(record));
        }
        assert_eq!(Record::read(&[0; 3]), None);
    }
}
