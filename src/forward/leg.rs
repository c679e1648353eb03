//! One subscription on its hot side: which encoding a subscriber is on, and how a packet is numbered for it.
//!
//! Sequence numbers, timestamps and VP8's picture counters are continuous over switches of encoding and of
//! track, which begin where a decoder can: to the receiver it is one stream. The rule it keeps (RFC 3711 §9.1): a pair of SSRC and index never leaves twice with other bytes. Live
//! packets go out once per index because the track ring takes each index once; everything sent again is
//! RTX with an SSRC and a sequence of its own (RFC 4588). What comes late of an encoding that was left has no
//! index any more, and is dropped.

use crate::forward::picture::PictureNumbering;
use crate::forward::select::{Flowing, Selection};
use crate::forward::track_ring::Packet;
use crate::id::{LegId, SessionSlot};
use crate::rtp::codec::vp8::Descriptor;
use crate::time::Time;

/// SRTP indices have 48 bits: the rollover counter over the sequence number.
const INDEX_MASK: u64 = (1 << 48) - 1;

/// How far a sender's clocks may disagree with arrival times before they are not believed: more than any
/// playout delay, less than the minutes that a clock which was set wrong is off.
const CLOCKS_TRUSTED_WITHIN_S: u32 = 5;

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
    pub selection: Selection,
    /// What it receives, or did last.
    encoding: u8,
    /// What it goes over to at the next place where a decoder can begin.
    awaited: Option<u8>,
    /// It receives nothing until then.
    is_paused: bool,
    /// What it received last was of another track, whose clocks are not this one's.
    is_foreign: bool,
    numbering: Numbering,
    timing: Timing,
    pub pictures: PictureNumbering,
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

/// How a track's timestamps become this leg's.
#[derive(Debug, Clone, Copy, Default)]
struct Timing {
    offset: u32,
    /// How much of the offset was added because time would have stood still otherwise.
    ahead: u32,
    /// The newest packet that left: its timestamp, and when it came in.
    last: Option<(u32, Time)>,
}

impl Timing {
    fn leave(&mut self, packet: &Packet) -> u32 {
        let out = packet.timestamp.wrapping_add(self.offset);
        if self.last.is_none_or(|(last, _)| (out.wrapping_sub(last) as i32) >= 0) {
            self.last = Some((out, packet.arrived));
        }
        out
    }

    /// `packet` follows the last one: as `shift` says, which maps its timestamps to those before, else as far
    /// apart as they arrived, and in any case later.
    fn continue_at(&mut self, packet: &Packet, shift: Option<u32>, clock_rate: u32) {
        let Some((last, arrived)) = self.last else { return };
        let elapsed = packet.arrived.since(arrived) * u64::from(clock_rate) / 1_000_000;
        let by_arrival = last.wrapping_add(elapsed as u32);
        let by_clocks = shift
            .map(|shift| {
                packet.timestamp.wrapping_add(shift).wrapping_add(self.offset).wrapping_sub(self.ahead)
            })
            .filter(|ts| {
                (ts.wrapping_sub(by_arrival) as i32).unsigned_abs() < CLOCKS_TRUSTED_WITHIN_S * clock_rate
            });
        let due = by_clocks.unwrap_or(by_arrival);
        let moves_on = (due.wrapping_sub(last) as i32) > 0;
        let out = if moves_on { due } else { last.wrapping_add(1) };
        self.ahead = out.wrapping_sub(due);
        self.offset = out.wrapping_sub(packet.timestamp);
    }
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
            selection: Selection::default(),
            encoding: 0,
            awaited: None,
            is_paused: false,
            is_foreign: false,
            numbering: Numbering::Pending,
            timing: Timing::default(),
            pictures: PictureNumbering::default(),
            first_sequence,
            rtx_next: u64::from(first_rtx_sequence),
            packets: 0,
            octets: 0,
        }
    }

    /// What it receives, or did last.
    pub fn encoding(&self) -> u8 {
        self.encoding
    }

    /// What it waits for a beginning of.
    pub fn awaited(&self) -> Option<u8> {
        self.awaited
    }

    /// Whether packets of this encoding leave, or may from their next beginning on.
    pub fn heeds(&self, encoding: u8) -> bool {
        self.awaited == Some(encoding) || self.receives(encoding)
    }

    pub fn receives(&self, encoding: u8) -> bool {
        self.encoding == encoding && !self.is_paused
    }

    /// Receives nothing before the next beginning of the encoding that [`steer`](Self::steer) finds.
    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Goes on with another track, from the next beginning of its encoding 0 unless steered elsewhere.
    pub fn move_to_another_track(&mut self, selection: Selection) {
        self.selection = selection;
        self.is_paused = true;
        self.is_foreign = true;
        self.awaited = Some(0);
    }

    /// Looks at which encodings flow, and makes for the one that the selection then means.
    pub fn steer(&mut self, flowing: Flowing) {
        let Some(wanted) = self.selection.choose(flowing) else { return };
        self.awaited = (!self.receives(wanted)).then_some(wanted);
        // Only one will do and it is not there: what flows is not asked for.
        self.is_paused |= self.awaited.is_some() && !flowing.contains(wanted);
    }

    /// The encoding it received last of this track, if any packet left.
    pub fn previous(&self) -> Option<u8> {
        (self.timing.last.is_some() && !self.is_foreign).then_some(self.encoding)
    }

    /// Goes over to `encoding`, whose beginning `packet` is. `shift` is what its timestamps are behind those of
    /// the [`previous`](Self::previous) encoding, if that can be told; `clock_rate` is in Hz.
    pub fn enter(
        &mut self,
        encoding: u8,
        packet: &Packet,
        picture: Option<&Descriptor>,
        shift: Option<u32>,
        clock_rate: u32,
    ) {
        if let Numbering::Running { highest, .. } = self.numbering {
            let offset = (highest + 1).wrapping_sub(packet.index);
            self.numbering = Numbering::Running { first: packet.index, offset, highest };
        }
        self.timing.continue_at(packet, shift, clock_rate);
        if let Some(picture) = picture {
            self.pictures.continue_at(picture);
        }
        self.encoding = encoding;
        self.awaited = None;
        self.is_paused = false;
        self.is_foreign = false;
    }

    /// The timestamp under which a packet leaves that [`outgoing`](Self::outgoing) has numbered.
    pub fn timestamp(&mut self, packet: &Packet) -> u32 {
        self.timing.leave(packet)
    }

    /// What is added to the timestamps of the encoding it receives.
    pub fn timestamp_offset(&self) -> u32 {
        self.timing.offset
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

    /// The newest sequence number that has left, if one has.
    pub fn newest_sequence(&self) -> Option<u16> {
        match self.numbering {
            Numbering::Pending => None,
            Numbering::Running { highest, .. } => Some(highest as u16),
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

    fn packet(index: u64, timestamp: u32, arrived_ms: u64) -> Packet {
        Packet {
            index,
            timestamp,
            payload_type: 96,
            marker: false,
            header_len: 12,
            len: 100,
            arrived: Time(0).plus_ms(arrived_ms),
        }
    }

    /// Sequence and timestamp under which a packet leaves.
    fn send(leg: &mut Leg, packet: &Packet) -> Option<(u64, u32)> {
        Some((leg.outgoing(packet.index)?, leg.timestamp(packet)))
    }

    #[test]
    fn a_leg_fits_two_cache_lines() {
        assert!(size_of::<Leg>() <= 128, "{} bytes", size_of::<Leg>());
    }

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

    fn flowing(last_ms: &[Option<u64>]) -> Flowing {
        let now = Time(0).plus_ms(10_000);
        Flowing::at(now, last_ms.iter().map(|last| last.map(|ms| Time(0).plus_ms(ms))))
    }

    #[test]
    fn switch_goes_on_in_sequence_and_time_and_leaves_late_packets_behind() {
        let mut leg = leg(100);
        assert_eq!(send(&mut leg, &packet(5_000, 90_000, 1_000)), Some((100, 90_000)));
        assert_eq!(send(&mut leg, &packet(5_002, 93_000, 1_033)), Some((102, 93_000)));
        leg.enter(1, &packet(70, 500, 1_066), None, None, 90_000);
        assert!(leg.receives(1) && !leg.heeds(0));
        assert_eq!(send(&mut leg, &packet(70, 500, 1_066)), Some((103, 95_970)));
        assert_eq!(send(&mut leg, &packet(69, 400, 1_067)), None, "from before the key frame");
        assert_eq!(leg.track_index(103), Some(70));
        assert_eq!(leg.track_index(102), None, "of the encoding that was left");
    }

    #[test]
    fn clocks_of_the_sender_decide_about_time_unless_they_are_absurd() {
        for (shift, expected) in [(200_000, 200_500), (1 << 30, 193_960)] {
            let mut leg = leg(100);
            send(&mut leg, &packet(0, 190_000, 1_000));
            leg.enter(1, &packet(9, 500, 1_044), None, Some(shift), 90_000);
            assert_eq!(leg.timestamp(&packet(9, 500, 1_044)), expected);
        }
    }

    #[test]
    fn time_never_stands_still_and_what_was_added_for_that_is_given_back() {
        let mut leg = leg(0);
        send(&mut leg, &packet(0, 9_000, 1_000));
        // The same picture by another encoding: its timestamp has just been used.
        leg.enter(1, &packet(0, 9_000, 1_000), None, Some(0), 90_000);
        assert_eq!(send(&mut leg, &packet(0, 9_000, 1_000)), Some((1, 9_001)));
        leg.enter(0, &packet(1, 12_000, 1_033), None, Some(0), 90_000);
        assert_eq!(send(&mut leg, &packet(1, 12_000, 1_033)), Some((2, 12_000)));
    }

    #[test]
    fn the_best_is_left_when_it_falls_silent_and_taken_again_when_it_is_back() {
        let mut leg = leg(0);
        leg.steer(flowing(&[Some(9_990), Some(9_990)]));
        assert_eq!(leg.awaited(), None, "on it already");
        leg.steer(flowing(&[Some(1), Some(9_990)]));
        assert_eq!(leg.awaited(), Some(1));
        assert!(leg.receives(0) && leg.heeds(1), "it goes on until the other begins");
        leg.enter(1, &packet(0, 0, 0), None, None, 90_000);
        leg.steer(flowing(&[Some(9_990), Some(9_990)]));
        assert_eq!(leg.awaited(), Some(0));
        leg.steer(flowing(&[Some(1), Some(1)]));
        assert_eq!(leg.awaited(), Some(0), "nothing flows: as before");
    }

    #[test]
    fn who_wants_one_encoding_only_gets_nothing_instead() {
        let mut leg = leg(0);
        leg.selection = Selection::Only(2);
        leg.steer(flowing(&[Some(9_990), Some(9_990), None]));
        assert!(!leg.heeds(0) && !leg.heeds(1) && leg.heeds(2));
        leg.enter(2, &packet(0, 0, 0), None, None, 90_000);
        leg.steer(flowing(&[Some(9_990), Some(9_990), Some(1)]));
        assert_eq!((leg.awaited(), leg.receives(2)), (None, true), "it may go on whenever it likes");
    }

    proptest! {
        #[test]
        fn no_index_is_given_twice_over_switches(
            steps in prop::collection::vec((0u8..3, 0u64..40, any::<bool>()), 1..200),
        ) {
            let mut leg = leg(100);
            let (mut given, mut next) = (std::collections::HashSet::new(), [1_000u64, 70_000, 5]);
            let mut forwarded = std::collections::HashSet::new();
            let mut last_timestamp = None;
            for (now, (encoding, late, begins)) in steps.into_iter().enumerate() {
                let index = next[usize::from(encoding)].saturating_sub(late);
                next[usize::from(encoding)] += 1;
                // A ring takes each index once.
                if !forwarded.insert((encoding, index)) {
                    continue;
                }
                let packet = packet(index, index as u32 * 3_000, now as u64);
                let switches = begins && late == 0 && !leg.receives(encoding);
                if switches {
                    leg.enter(encoding, &packet, None, None, 90_000);
                }
                if !leg.receives(encoding) {
                    continue;
                }
                if let Some((out, timestamp)) = send(&mut leg, &packet) {
                    prop_assert!(given.insert(out), "{} twice", out);
                    prop_assert!(!switches || last_timestamp.is_none_or(|last: u32| (timestamp.wrapping_sub(last) as i32) > 0));
                    last_timestamp = leg.timing.last.map(|(last, _)| last);
                }
            }
        }

        #[test]
        fn what_went_out_can_be_found_again(start in 0u64..1 << 40, first in 0u16..1 << 15, ahead in 0u64..30_000) {
            let mut leg = leg(first);
            leg.outgoing(start);
            let out = leg.outgoing(start + ahead).unwrap();
            prop_assert_eq!(leg.track_index(out as u16), Some(start + ahead));
        }
    }
}
