//! What tells a new packet from a repeated one, and where a 16-bit sequence number stands in 48 bits (RFC
//! 3711 §3.3.1, §3.3.2).
//!
//! Everything here changes only by packets that were authenticated: a forged sequence number must not move
//! a window. So a receiver asks first (`estimate`, `check`), opens the packet, and only then tells
//! (`accept`).

use crate::drop_reason::DropReason;

/// The rollover counter and the replay window of one incoming SSRC.
///
/// A sender's first packet has rollover counter 0, whatever its sequence number. The window tells 1,024
/// packets apart, which is more than two seconds of a 4 Mbit/s video.
#[derive(Debug, Clone, Default)]
pub struct RtpReplay {
    window: Window<17>,
}

impl RtpReplay {
    pub fn new() -> Self {
        Self::default()
    }

    /// The 48-bit index (rollover counter, then `sequence`) nearest to the newest accepted one.
    ///
    /// The nearest may lie before a stream's first packets, where there is no index: 65,500 after a first
    /// packet 100. Only the rollover counter 0 is left for it, and the tag tells whether it is the right
    /// one.
    pub fn estimate(&self, sequence: u16) -> u64 {
        let Some(newest) = self.window.newest() else { return sequence.into() };
        let same_cycle = newest & !0xffff | u64::from(sequence);
        let ahead = i32::from(sequence) - i32::from(newest as u16);
        if ahead > 0x8000 {
            same_cycle.checked_sub(0x1_0000).unwrap_or(same_cycle)
        } else if ahead < -0x8000 {
            same_cycle + 0x1_0000
        } else {
            same_cycle
        }
    }

    /// Fails with `Replayed` for an index accepted before, with `TooOld` for one that the window has left
    /// behind.
    pub fn check(&self, index: u64) -> Result<(), DropReason> {
        self.window.check(index)
    }

    /// To be called for an authenticated packet that passed `check`, and for no other.
    pub fn accept(&mut self, index: u64) {
        self.window.accept(index);
    }
}

/// The replay windows of a peer's SRTCP senders.
///
/// An SRTCP index counts per sender SSRC (RFC 3711 §3.2.3: the SSRC is part of what identifies a context).
/// A peer that sends several streams may report from each of them with a counter of its own, as libsrtp
/// does, or with one counter for all; a window per SSRC is right for both, a common one would call the
/// former's reports replays.
///
/// Memory is bounded: with more than [`SENDERS_MAX`] senders the one not heard of for longest is forgotten,
/// and its old packets could be replayed. Nobody else can bring that about, since a window opens only for
/// an authenticated packet; what a peer with that many senders risks is that an old report of its own
/// counts again.
pub(super) struct RtcpReplay {
    /// Those heard of most recently first.
    senders: [Sender; SENDERS_MAX],
    known: usize,
}

/// A publisher of eight simulcast videos in three layers has 24 senders. 32 bytes each.
const SENDERS_MAX: usize = 32;

#[derive(Clone, Copy, Default)]
struct Sender {
    ssrc: u32,
    /// Guarantees the 64 packets that RFC 3711 §3.3.2 asks for.
    window: Window<2>,
}

impl RtcpReplay {
    pub fn new() -> Self {
        Self { senders: [Sender::default(); SENDERS_MAX], known: 0 }
    }

    pub fn check(&self, ssrc: u32, index: u32) -> Result<(), DropReason> {
        let sender = self.senders.iter().take(self.known).find(|sender| sender.ssrc == ssrc);
        sender.map_or(Ok(()), |sender| sender.window.check(index.into()))
    }

    /// To be called for an authenticated packet that passed `check`, and for no other.
    pub fn accept(&mut self, ssrc: u32, index: u32) {
        let position = self.senders.iter().take(self.known).position(|sender| sender.ssrc == ssrc);
        let position = position.unwrap_or_else(|| self.make_room(ssrc));
        self.senders[..=position].rotate_right(1);
        self.senders[0].window.accept(index.into());
    }

    fn make_room(&mut self, ssrc: u32) -> usize {
        self.known = (self.known + 1).min(SENDERS_MAX);
        let last = self.known - 1;
        self.senders[last] = Sender { ssrc, ..Sender::default() };
        last
    }
}

/// Which of the newest indexes were accepted: a bitmap whose words are re-used in a circle, as in RFC 6479,
/// so that moving on clears words and shifts none. One word is always partly ahead, hence `(WORDS - 1) *
/// 64` packets.
#[derive(Debug, Clone, Copy)]
struct Window<const WORDS: usize> {
    /// One more than the newest accepted index; 0 before the first.
    end: u64,
    accepted: [u64; WORDS],
}

impl<const WORDS: usize> Default for Window<WORDS> {
    fn default() -> Self {
        Self { end: 0, accepted: [0; WORDS] }
    }
}

impl<const WORDS: usize> Window<WORDS> {
    const LEN: u64 = (WORDS as u64 - 1) * 64;

    fn newest(&self) -> Option<u64> {
        self.end.checked_sub(1)
    }

    fn check(&self, index: u64) -> Result<(), DropReason> {
        if index >= self.end {
            Ok(())
        } else if self.end - index > Self::LEN {
            Err(DropReason::TooOld)
        } else if self.accepted[Self::slot(index / 64)] & bit(index) != 0 {
            Err(DropReason::Replayed)
        } else {
            Ok(())
        }
    }

    fn accept(&mut self, index: u64) {
        let first_new_word = self.end.div_ceil(64);
        for word in (first_new_word..=index / 64).take(WORDS) {
            self.accepted[Self::slot(word)] = 0;
        }
        self.end = self.end.max(index + 1);
        self.accepted[Self::slot(index / 64)] |= bit(index);
    }

    fn slot(word: u64) -> usize {
        (word % WORDS as u64) as usize
    }
}

fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const CYCLE: u64 = 0x1_0000;

    fn after(indexes: &[u64]) -> RtpReplay {
        let mut replay = RtpReplay::new();
        indexes.iter().for_each(|&index| replay.accept(index));
        replay
    }

    #[test]
    fn a_stream_starts_at_rollover_counter_0_wherever_its_sequence_does() {
        for sequence in [0, 1, 0x7fff, 0x8000, 0xffff] {
            assert_eq!(RtpReplay::new().estimate(sequence), u64::from(sequence));
        }
    }

    #[test]
    fn sequence_that_wraps_advances_the_rollover_counter() {
        let replay = after(&[65_534]);
        assert_eq!(replay.estimate(65_535), 65_535);
        assert_eq!(replay.estimate(0), CYCLE);
        assert_eq!(after(&[CYCLE + 65_535]).estimate(3), 2 * CYCLE + 3);
    }

    #[test]
    fn packet_from_before_the_wrap_keeps_its_rollover_counter() {
        assert_eq!(after(&[CYCLE + 2]).estimate(65_533), 65_533);
        assert_eq!(after(&[7 * CYCLE]).estimate(0x8001), 6 * CYCLE + 0x8001);
        assert_eq!(after(&[7 * CYCLE]).estimate(0x8000), 7 * CYCLE + 0x8000);
    }

    #[test]
    fn packet_older_than_a_first_one_near_65535_is_taken_as_such() {
        let replay = after(&[65_535]);
        assert_eq!(replay.estimate(65_530), 65_530);
        assert_eq!(replay.check(65_530), Ok(()));
    }

    #[test]
    fn there_is_no_index_before_rollover_counter_0() {
        assert_eq!(after(&[100]).estimate(65_500), 65_500);
    }

    #[test]
    fn repeated_packet_is_refused_and_a_late_one_is_not() {
        let replay = after(&[10, 12]);
        assert_eq!(replay.check(10), Err(DropReason::Replayed));
        assert_eq!(replay.check(12), Err(DropReason::Replayed));
        assert_eq!(replay.check(11), Ok(()));
    }

    #[test]
    fn window_tells_exactly_the_last_1024() {
        let replay = after(&[5_000]);
        assert_eq!(replay.check(5_000 - 1_023), Ok(()));
        assert_eq!(replay.check(5_000 - 1_024), Err(DropReason::TooOld));
        assert_eq!(replay.check(0), Err(DropReason::TooOld));
    }

    #[test]
    fn srtcp_senders_with_counters_of_their_own_do_not_meet() {
        let mut replay = RtcpReplay::new();
        replay.accept(1, 7);
        assert_eq!(replay.check(2, 7), Ok(()));
        replay.accept(2, 7);
        assert_eq!(replay.check(1, 7), Err(DropReason::Replayed));
        assert_eq!(replay.check(2, 7), Err(DropReason::Replayed));
        assert_eq!(replay.check(1, 8), Ok(()));
    }

    #[test]
    fn the_33rd_srtcp_sender_displaces_the_one_silent_for_longest() {
        let mut replay = RtcpReplay::new();
        (0..SENDERS_MAX as u32).for_each(|ssrc| replay.accept(ssrc, 0));
        replay.accept(0, 1);
        replay.accept(99, 0);
        assert_eq!(replay.check(1, 0), Ok(()));
        for known in [0, 2, 31, 99] {
            assert_eq!(replay.check(known, 0), Err(DropReason::Replayed), "sender {known}");
        }
    }

    proptest! {
        #[test]
        fn window_agrees_with_a_set_of_all_that_was_accepted(
            steps in prop::collection::vec(-1_200_i64..1_300, 1..400), start in 0_u64..200_000
        ) {
            let (mut replay, mut accepted, mut newest) = (RtpReplay::new(), HashSet::new(), None::<u64>);
            for step in steps {
                let index = newest.unwrap_or(start).saturating_add_signed(step);
                let expected = match newest {
                    Some(newest) if index + 1_024 <= newest => Err(DropReason::TooOld),
                    _ if accepted.contains(&index) => Err(DropReason::Replayed),
                    _ => Ok(()),
                };
                prop_assert_eq!(replay.check(index), expected);
                if expected.is_ok() {
                    replay.accept(index);
                    accepted.insert(index);
                    newest = newest.max(Some(index));
                }
            }
        }

        #[test]
        fn estimate_finds_every_index_within_half_a_cycle(
            newest in 0_u64..1 << 47, distance in -0x7fff_i64..0x8000
        ) {
            let index = newest.saturating_add_signed(distance);
            prop_assert_eq!(after(&[newest]).estimate(index as u16), index);
        }
    }
}
