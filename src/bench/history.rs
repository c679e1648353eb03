//! What a speaker keeps of the video that it sent, to send it again when it is asked for (RFC 4588).
//!
//! As many packets as a browser keeps or more; who asks later is not answered, as there.

/// Two seconds of 2.5 Mb/s. A power of two, so that a sequence number leads to one slot.
const PACKETS: usize = 512;

/// A packet, as far as a retransmission repeats it.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Vec<u8>,
}

pub struct History(Vec<Kept>);

impl History {
    pub fn new() -> Self {
        Self(vec![Kept::default(); PACKETS])
    }

    pub fn keep(&mut self, sequence: u16, timestamp: u32, marker: bool, payload: &[u8]) {
        let kept = &mut self.0[usize::from(sequence) % PACKETS];
        (kept.sequence, kept.timestamp, kept.marker) = (sequence, timestamp, marker);
        kept.payload.clear();
        kept.payload.extend_from_slice(payload);
    }

    pub fn find(&self, sequence: u16) -> Option<&Kept> {
        let kept = &self.0[usize::from(sequence) % PACKETS];
        (kept.sequence == sequence && !kept.payload.is_empty()).then_some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_packets_are_found_by_their_numbers_and_no_others() {
        let mut history = History::new();
        assert!(history.find(0).is_none(), "nothing was sent");
        (65_000_u16..=65_535).chain(0..100).for_each(|n| history.keep(n, n.into(), n == 5, &n.to_be_bytes()));
        let kept = history.find(5).unwrap();
        assert_eq!((kept.timestamp, kept.marker, &kept.payload[..]), (5, true, &[0, 5][..]));
        assert_eq!(history.find(65_535).unwrap().payload, [255, 255]);
        assert!(history.find(65_000).is_none() && history.find(100).is_none());
    }
}
