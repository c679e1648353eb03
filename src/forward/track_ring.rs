//! The last second or so of one encoding, in plaintext: what subscribers are served from, live and again.
//!
//! Packets are decrypted straight into the ring and stay until newer ones need the space, so the ring is
//! also the retransmission cache of every subscriber of its shard. It relies on the caller for
//! authentication and replay protection, and knows nothing of subscribers.
//!
//! Space is a ring of bytes, found through a ring of slots indexed by extended sequence number. A packet
//! is there while its slot still names it and its bytes have not been reserved for a newer one.

use std::ops::Range;

use crate::id::MediaKind;
use crate::time::Time;

/// The largest plaintext RTP packet a ring takes: an Ethernet frame's UDP payload, with head room for
/// networks that carry a little more.
pub const PACKET_BYTES_MAX: usize = 1_600;

/// What a ring may hold, as the sum that it is.
///
/// Audio: a second of 10 ms packets is 100; 256 slots leave room for bursts, 64 KiB for 256 bytes each
/// (a 64 kb/s Opus packet of 20 ms has 160). Video: a second at 8 Mb/s is 1 MB or about 900 packets;
/// 2,048 slots leave room for small packets and retransmissions.
#[derive(Debug, Clone, Copy)]
struct Budget {
    slots: usize,
    bytes: usize,
}

impl Budget {
    const fn of(kind: MediaKind) -> Self {
        match kind {
            MediaKind::Audio => Self { slots: 256, bytes: 64 * 1_024 },
            MediaKind::Video => Self { slots: 2_048, bytes: 1_024 * 1_024 },
        }
    }
}

/// Where the fields of a stored packet are, so that nobody parses it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Extended sequence number, continuous over the life of the track.
    pub index: u64,
    pub timestamp: u32,
    pub payload_type: u8,
    pub marker: bool,
    /// Bytes before the payload, in the packet as received.
    pub header_len: u16,
    /// Bytes of header and payload, RTP padding excluded.
    pub len: u16,
    pub arrived: Time,
}

#[derive(Clone, Copy)]
struct Slot {
    packet: Packet,
    /// Position of the first byte, counted from the ring's beginning of time.
    at: u64,
}

/// One encoding's packets on one shard.
pub struct TrackRing {
    bytes: Box<[u8]>,
    slots: Box<[Option<Slot>]>,
    /// Position where the next packet goes.
    head: u64,
    /// Everything below this position has been given to a reservation.
    floor: u64,
    highest: Option<u64>,
}

/// Why a packet was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// A packet with this index is there, or one that took its slot.
    Present,
    /// Larger than [`PACKET_BYTES_MAX`].
    TooLarge,
}

impl TrackRing {
    pub fn new(kind: MediaKind) -> Self {
        let budget = Budget::of(kind);
        Self {
            bytes: vec![0; budget.bytes].into_boxed_slice(),
            slots: vec![None; budget.slots].into_boxed_slice(),
            head: 0,
            floor: 0,
            highest: None,
        }
    }

    /// The highest index stored so far.
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Contiguous room for the largest packet; what it displaces is gone even if nothing is committed.
    pub fn reserve(&mut self) -> &mut [u8] {
        let capacity = self.bytes.len() as u64;
        let offset = self.head % capacity;
        if offset + PACKET_BYTES_MAX as u64 > capacity {
            self.head += capacity - offset;
        }
        self.floor = self.floor.max((self.head + PACKET_BYTES_MAX as u64).saturating_sub(capacity));
        let start = (self.head % capacity) as usize;
        self.bytes.get_mut(start..start + PACKET_BYTES_MAX).expect("reserve moved the head to where it fits")
    }

    /// Keeps what was written into the last reservation as `packet`.
    pub fn commit(&mut self, packet: Packet) -> Result<(), NotStored> {
        if usize::from(packet.len) > PACKET_BYTES_MAX {
            return Err(NotStored::TooLarge);
        }
        if self.displaces_newer(packet.index) {
            return Err(NotStored::Present);
        }
        let at = self.head;
        self.head += u64::from(packet.len);
        *self.slot_mut(packet.index) = Some(Slot { packet, at });
        self.highest = Some(self.highest.map_or(packet.index, |highest| highest.max(packet.index)));
        Ok(())
    }

    /// Copies a whole packet in: the way of retransmissions and of packets from another shard.
    pub fn insert(&mut self, packet: Packet, bytes: &[&[u8]]) -> Result<(), NotStored> {
        if bytes.iter().map(|part| part.len()).sum::<usize>() != usize::from(packet.len)
            || usize::from(packet.len) > PACKET_BYTES_MAX
        {
            return Err(NotStored::TooLarge);
        }
        if self.displaces_newer(packet.index) {
            return Err(NotStored::Present);
        }
        let mut room = self.reserve();
        for part in bytes {
            let (to, rest) = room.split_at_mut(part.len());
            to.copy_from_slice(part);
            room = rest;
        }
        self.commit(packet)
    }

    /// The packet with this index and its bytes, header included, if it is still here.
    pub fn get(&self, index: u64) -> Option<(Packet, &[u8])> {
        let (packet, range) = self.locate(index)?;
        Some((packet, self.bytes.get(range)?))
    }

    /// The packet with this index and where in the ring its bytes are, for [`bytes`](Self::bytes) until the next
    /// reservation: what a fan-out looks up once and uses for every subscriber.
    pub fn locate(&self, index: u64) -> Option<(Packet, Range<usize>)> {
        let slot = self.slots.get(self.slot_index(index))?.as_ref()?;
        if slot.packet.index != index || slot.at < self.floor {
            return None;
        }
        let start = (slot.at % self.bytes.len() as u64) as usize;
        Some((slot.packet, start..start + usize::from(slot.packet.len)))
    }

    /// Bytes that [`locate`](Self::locate) has found.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or(&[])
    }

    pub fn contains(&self, index: u64) -> bool {
        self.get(index).is_some()
    }

    fn displaces_newer(&self, index: u64) -> bool {
        let slot = self.slots.get(self.slot_index(index)).and_then(Option::as_ref);
        slot.is_some_and(|slot| slot.packet.index >= index)
    }

    fn slot_index(&self, index: u64) -> usize {
        (index % self.slots.len() as u64) as usize
    }

    fn slot_mut(&mut self, index: u64) -> &mut Option<Slot> {
        let at = self.slot_index(index);
        self.slots.get_mut(at).expect("slot_index is a remainder by the length")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(index: u64, len: usize) -> Packet {
        Packet {
            index,
            timestamp: index as u32 * 960,
            payload_type: 111,
            marker: false,
            header_len: 12,
            len: len as u16,
            arrived: Time(index),
        }
    }

    fn contents(index: u64, len: usize) -> Vec<u8> {
        (0..len).map(|i| (index as usize * 31 + i) as u8).collect()
    }

    #[test]
    fn a_packet_is_there_until_its_bytes_are_needed() {
        let mut ring = TrackRing::new(MediaKind::Audio);
        for index in 0..200 {
            ring.insert(packet(index, 1_000), &[&contents(index, 1_000)]).unwrap();
        }
        assert!(!ring.contains(0), "64 KiB hold about 64 packets of 1,000 bytes");
        assert!(ring.contains(150));
        assert_eq!(ring.get(199).unwrap().1, &contents(199, 1_000)[..]);
    }

    #[test]
    fn a_late_packet_takes_its_place_and_a_duplicate_does_not() {
        let mut ring = TrackRing::new(MediaKind::Audio);
        for index in [10, 12, 11] {
            ring.insert(packet(index, 40), &[&contents(index, 40)]).unwrap();
        }
        assert_eq!(ring.get(11).unwrap().1, &contents(11, 40)[..]);
        assert_eq!(ring.highest(), Some(12));
        assert_eq!(ring.insert(packet(11, 40), &[&contents(0, 40)]), Err(NotStored::Present));
    }

    #[test]
    fn a_reservation_that_fails_costs_only_the_oldest_bytes() {
        let mut ring = TrackRing::new(MediaKind::Audio);
        for index in 0..60 {
            ring.insert(packet(index, 1_000), &[&contents(index, 1_000)]).unwrap();
        }
        for _ in 0..1_000 {
            ring.reserve().fill(0xff);
        }
        for index in 10..60 {
            assert_eq!(ring.get(index).unwrap().1, &contents(index, 1_000)[..]);
        }
    }

    proptest! {
        #[test]
        fn what_the_ring_gives_is_what_was_put_in(
            steps in prop::collection::vec((0u64..400, 1usize..=PACKET_BYTES_MAX), 1..400),
        ) {
            let mut ring = TrackRing::new(MediaKind::Audio);
            let mut lengths = std::collections::HashMap::new();
            for (index, len) in steps {
                if ring.insert(packet(index, len), &[&contents(index, len)]).is_ok() {
                    lengths.insert(index, len);
                }
                for (&known, &len) in &lengths {
                    if let Some((_, bytes)) = ring.get(known) {
                        prop_assert_eq!(bytes, &contents(known, len)[..]);
                    }
                }
            }
        }
    }
}
