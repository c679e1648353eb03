//! One subscription on its hot side: how a packet of the track is numbered for one subscriber.
//!
//! The rule it keeps (RFC 3711 §9.1): a pair of SSRC and index never leaves twice with other bytes. Live
//! packets go out once per index because the track ring takes each index once; everything sent again is
//! RTX with an SSRC and a sequence of its own (RFC 4588).

use crate::id::{LegId, SessionSlot};

/// SRTP indices have 48 bits: the rollover counter over the sequence number.
const INDEX_MASK: u64 = (1 << 48) - 1;

/// A subscription of one track; a dense array of these is what a fan-out walks.
#[derive(Debug, Clone)]
pub struct Leg {
    pub session: SessionSlot,
    pub id: LegId,
    pub ssrc: u32,
    /// The SSRC of retransmissions, if the subscriber takes them.
    pub rtx_ssrc: Option<u32>,
    /// Which of the track's header shapes this subscriber gets.
    pub shape: u16,
    pub encoding: u8,
    numbering: Numbering,
    first_sequence: u16,
    rtx_next: u64,
    /// Sent since the beginning, as sender reports count (RFC 3550 §6.4.1).
    pub packets: u32,
    pub octets: u32,
}

/// How track indices become this leg's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbering {
    /// The first packet decides.
    Pending,
    /// `outgoing = index + offset`; packets before `first` are from before the join.
    Running { first: u64, offset: u64, highest: u64 },
}

impl Leg {
    pub fn new(
        session: SessionSlot,
        id: LegId,
        ssrcs: (u32, Option<u32>),
        first_sequence: u16,
        first_rtx_sequence: u16,
    ) -> Self {
        Self {
            session,
            id,
            ssrc: ssrcs.0,
            rtx_ssrc: ssrcs.1,
            shape: 0,
            encoding: 0,
            numbering: Numbering::Pending,
            first_sequence,
            rtx_next: u64::from(first_rtx_sequence),
            packets: 0,
            octets: 0,
        }
    }

    /// The SRTP index under which the track's packet `index` leaves; `None` if it is from before the join.
    pub fn outgoing(&mut self, index: u64) -> Option<u64> {
        match &mut self.numbering {
            Numbering::Pending => {
                let out = u64::from(self.first_sequence);
                let offset = out.wrapping_sub(index);
                self.numbering = Numbering::Running { first: index, offset, highest: out };
                Some(out)
            }
            Numbering::Running { first, offset, highest } => {
                if index < *first {
                    return None;
                }
                let out = index.wrapping_add(*offset) & INDEX_MASK;
                *highest = (*highest).max(out);
                Some(out)
            }
        }
    }

    /// The track index behind a sequence number that the subscriber names, e.g. in a NACK.
    pub fn track_index(&self, sequence: u16) -> Option<u64> {
        let Numbering::Running { first, offset, highest } = self.numbering else { return None };
        let behind = (highest as u16).wrapping_sub(sequence);
        let out = highest.checked_sub(u64::from(behind))?;
        let index = out.wrapping_sub(offset);
        (index >= first && behind < 1 << 15).then_some(index)
    }

    /// New keys: the receiver's rollover counters begin at 0 again, while sequence numbers go on.
    pub fn rekey(&mut self) {
        if let Numbering::Running { offset, highest, .. } = &mut self.numbering {
            let rollovers = *highest & !0xffff;
            *offset = offset.wrapping_sub(rollovers);
            *highest -= rollovers;
        }
        self.rtx_next &= 0xffff;
    }

    /// The index for the next retransmission.
    pub fn next_rtx(&mut self) -> u64 {
        let index = self.rtx_next & INDEX_MASK;
        self.rtx_next += 1;
        index
    }

    pub fn count_sent(&mut self, payload_bytes: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload_bytes as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leg(first_sequence: u16) -> Leg {
        Leg::new(SessionSlot(0), LegId(0), (1, Some(2)), first_sequence, 7)
    }

    #[test]
    fn output_starts_where_it_was_told_and_keeps_the_gaps() {
        let mut leg = leg(100);
        let out: Vec<_> = [70_000, 70_001, 70_004, 70_003].map(|index| leg.outgoing(index)).into();
        assert_eq!(out, [Some(100), Some(101), Some(104), Some(103)]);
        assert_eq!(leg.outgoing(69_999), None, "from before the join");
    }

    #[test]
    fn the_rollover_counter_is_relative_to_the_join() {
        let mut leg = leg(0x7fff);
        leg.outgoing(5);
        assert_eq!(leg.outgoing(5 + 0x8001), Some(0x1_0000), "ROC 1, sequence 0");
    }

    #[test]
    fn a_nack_across_the_wrap_finds_its_packet() {
        let mut leg = leg(0x7ff0);
        leg.outgoing(0);
        leg.outgoing(0x8011);
        assert_eq!(leg.track_index(0x0001), Some(0x8011));
        assert_eq!(leg.track_index(0xffff), Some(0x800f));
        assert_eq!(leg.track_index(0x0002), None, "never sent");
    }

    #[test]
    fn retransmissions_count_on_their_own() {
        let mut leg = leg(0);
        assert_eq!([leg.next_rtx(), leg.next_rtx()], [7, 8]);
    }

    #[test]
    fn new_keys_begin_without_rollovers_and_go_on_in_sequence() {
        let mut leg = leg(0x7ff0);
        leg.outgoing(0);
        leg.outgoing(0x1_8011);
        leg.rekey();
        assert_eq!(leg.outgoing(0x1_8012), Some(0x0002));
        assert_eq!(leg.track_index(0x0002), Some(0x1_8012));
    }

    proptest! {
        #[test]
        fn what_went_out_can_be_found_again(start in 0u64..1 << 40, first in 0u16..1 << 15, ahead in 0u64..30_000) {
            let mut leg = leg(first);
            leg.outgoing(start);
            let out = leg.outgoing(start + ahead).unwrap();
            prop_assert_eq!(leg.track_index(out as u16), Some(start + ahead));
        }
    }
}
