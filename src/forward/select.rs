//! Which encoding of a simulcast a subscriber gets.
//!
//! Encodings of a track are numbered best first, so a choice is a matter of small numbers. Switching itself,
//! on a key frame and without a seam, is the [`leg`](crate::forward::leg)'s, and how far bandwidth makes it step
//! down is decided by [`allocate`](crate::forward::allocate).

use crate::forward::receive::SenderClock;
use crate::time::Time;

/// An encoding without a packet for this long has stopped. Encoders that adapt switch layers off for
/// seconds; pictures of a slow screen share come at least once a second.
pub const SILENCE_MS: u64 = 1_000;

/// What a subscriber wants of a track's encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Selection {
    pub wish: Wish,
    /// It takes a lesser encoding than it wishes where its bandwidth is short.
    pub steps_down: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// The best that flows.
    #[default]
    Best,
    /// This one whatever happens; nothing while it does not flow, or if there is none of this number.
    Only(u8),
    /// This one, or else the next in order that flows, or else the nearest better one.
    Prefer(u8),
}

/// The encodings that flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flowing(u32);

impl Flowing {
    /// The encodings whose last packet came less than [`SILENCE_MS`] before `now`; `None` has had none.
    pub fn at(now: Time, last_packets: impl Iterator<Item = Option<Time>>) -> Self {
        let flows = |last: Option<Time>| last.is_some_and(|last| now.since(last) < SILENCE_MS * 1_000);
        let numbers = (0..u32::BITS).zip(last_packets).filter(|(_, last)| flows(*last));
        Self(numbers.fold(0, |set, (number, _)| set | 1 << number))
    }

    pub fn contains(self, encoding: u8) -> bool {
        self.0.checked_shr(encoding.into()).is_some_and(|set| set & 1 != 0)
    }

    /// The best from this one on.
    pub fn first_from(self, encoding: u8) -> Option<u8> {
        (encoding..u32::BITS as u8).find(|&encoding| self.contains(encoding))
    }
}

impl Wish {
    /// The encoding to be on; `None` means to stay, because nothing that would do flows.
    pub fn choose(self, flowing: Flowing) -> Option<u8> {
        match self {
            Self::Best => flowing.first_from(0),
            Self::Only(encoding) => Some(encoding),
            Self::Prefer(encoding) => {
                let better = || (0..encoding).rev().find(|&encoding| flowing.contains(encoding));
                flowing.first_from(encoding).or_else(better)
            }
        }
    }
}

/// What to add to timestamps of the encoding with clock `to` so that they continue those of `from`: both
/// are of one sender, so their reports count its time from one origin (RFC 3550 §6.4.1).
pub fn timestamp_shift(from: &SenderClock, to: &SenderClock, clock_rate: u32) -> u32 {
    let apart = i128::from(to.ntp.wrapping_sub(from.ntp) as i64);
    // Half a tick, so that the quotient is rounded and not cut.
    let ticks = (apart * i128::from(clock_rate) + (1 << 31)) >> 32;
    from.rtp.wrapping_sub(to.rtp).wrapping_add(ticks as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flowing(encodings: &[u8]) -> Flowing {
        Flowing(encodings.iter().fold(0, |set, encoding| set | 1 << encoding))
    }

    #[test]
    fn without_a_wish_the_best_that_flows_is_chosen() {
        assert_eq!(Wish::Best.choose(flowing(&[1, 2])), Some(1));
        assert_eq!(Wish::Best.choose(flowing(&[0, 1, 2])), Some(0));
        assert_eq!(Wish::Best.choose(flowing(&[])), None);
    }

    #[test]
    fn the_only_one_wanted_is_never_left() {
        assert_eq!(Wish::Only(1).choose(flowing(&[0, 2])), Some(1));
        assert_eq!(Wish::Only(7).choose(flowing(&[0])), Some(7), "an encoding that does not exist");
    }

    #[test]
    fn a_preferred_one_gives_way_to_the_next_and_at_last_to_a_better_one() {
        let choices = [&[0, 1, 2][..], &[0, 2], &[0], &[]].map(|set| Wish::Prefer(1).choose(flowing(set)));
        assert_eq!(choices, [Some(1), Some(2), Some(0), None]);
    }

    #[test]
    fn an_encoding_flows_until_a_second_after_its_last_packet() {
        let last = [Some(Time(0).plus_ms(1_000)), Some(Time(0).plus_ms(1_001)), None];
        let now = Time(0).plus_ms(2_000);
        assert_eq!(Flowing::at(now, last.into_iter()), flowing(&[1]));
        assert!(!flowing(&[0]).contains(200));
    }

    #[test]
    fn shift_maps_one_encodings_clock_to_the_others() {
        let at = |seconds_64ths: u64, rtp| SenderClock { ntp: seconds_64ths << 26, rtp, arrived: Time(0) };
        // A second apart: what the old one calls 90,500 then, the new one calls 7.
        assert_eq!(timestamp_shift(&at(640, 500), &at(704, 7), 90_000), 90_500 - 7);
        assert_eq!(timestamp_shift(&at(704, 90_500), &at(640, 7), 90_000), 500 - 7);
    }
}
