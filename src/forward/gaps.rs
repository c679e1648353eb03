//! Numbers that close up where packets are left out on purpose.
//!
//! Who drops a layer must not let the receiver see holes, which it would ask to be filled. So each number is
//! moved down by how many were left out before it. A bit per number says which; a sum per 64 of them makes both
//! directions a matter of a few instructions, and the memory is the same however often layers change.
//!
//! A number that was missing when later ones went out keeps its place. If it then turns out to be one to leave
//! out, its hole is told to the caller, who can fill it with nothing.

/// The last `64 * WORDS` numbers.
#[derive(Debug, Clone)]
pub struct GapMap<const WORDS: usize> {
    /// By number, modulo the window: set if it was left out.
    left_out: [u64; WORDS],
    /// How many were left out before the first number of each word.
    before: [u64; WORDS],
    total: u64,
    /// The highest number so far; none is below 0.
    highest: Option<u64>,
}

impl<const WORDS: usize> GapMap<WORDS> {
    /// A map in which `first` comes next, and that leaves the numbers before it as they are.
    pub fn new(first: u64) -> Self {
        Self { left_out: [0; WORDS], before: [0; WORDS], total: 0, highest: first.checked_sub(1) }
    }

    /// Where `number` goes; `None` if it was left out, or is from before what is remembered.
    pub fn keep(&mut self, number: u64) -> Option<u64> {
        self.advance(number);
        self.place(number)
    }

    /// Where `number` went or would go, if it is not above all seen.
    pub fn place(&self, number: u64) -> Option<u64> {
        let (slot, bit) = self.slot(number)?;
        let (left_out, before) = (self.left_out.get(slot)?, self.before.get(slot)?);
        if left_out & bit != 0 {
            return None;
        }
        let here = (left_out & (bit - 1)).count_ones();
        Some(number - before - u64::from(here))
    }

    /// Closes up over `number`. If later ones have gone out already it is too late for that, and the place
    /// that stays empty is returned.
    pub fn leave_out(&mut self, number: u64) -> Option<u64> {
        if self.highest.is_some_and(|highest| number <= highest) {
            return self.place(number);
        }
        self.advance(number);
        let (slot, bit) = self.slot(number)?;
        *self.left_out.get_mut(slot)? |= bit;
        self.total += 1;
        None
    }

    /// The number that went to `place`.
    pub fn original(&self, place: u64) -> Option<u64> {
        let highest = self.highest?;
        let newest = highest / 64;
        let oldest = (newest + 1).saturating_sub(WORDS as u64);
        let starts = |word: u64| (word * 64).saturating_sub(self.before_word(word));
        let word = (oldest..=newest).rev().find(|&word| starts(word) <= place)?;
        let mut kept = !self.left_out.get((word % WORDS as u64) as usize)?;
        for _ in 0..place - starts(word) {
            kept &= kept.wrapping_sub(1);
        }
        let number = word * 64 + u64::from(kept.trailing_zeros());
        (kept != 0 && number <= highest).then_some(number)
    }

    fn before_word(&self, word: u64) -> u64 {
        self.before.get((word % WORDS as u64) as usize).copied().unwrap_or(0)
    }

    /// Makes `number` one of those that are remembered.
    fn advance(&mut self, number: u64) {
        let next_word = self.highest.map_or(0, |highest| highest / 64 + 1);
        for word in (next_word..=number / 64).rev().take(WORDS) {
            let slot = (word % WORDS as u64) as usize;
            if let (Some(left_out), Some(before)) = (self.left_out.get_mut(slot), self.before.get_mut(slot)) {
                (*left_out, *before) = (0, self.total);
            }
        }
        self.highest = self.highest.max(Some(number));
    }

    /// The word and the bit of a number that is remembered.
    fn slot(&self, number: u64) -> Option<(usize, u64)> {
        let (word, highest) = (number / 64, self.highest?);
        let is_known = number <= highest && word + WORDS as u64 > highest / 64;
        is_known.then_some(((word % WORDS as u64) as usize, 1 << (number % 64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_left_out_leaves_no_gap() {
        let mut map = GapMap::<2>::new(100);
        assert_eq!(map.keep(100), Some(100));
        assert_eq!(map.leave_out(101), None);
        assert_eq!(map.leave_out(102), None);
        assert_eq!(map.keep(103), Some(101));
        assert_eq!(map.original(101), Some(103));
        assert_eq!((map.original(100), map.original(102)), (Some(100), None));
        assert_eq!(map.keep(101), None, "it was left out");
        assert_eq!(map.keep(99), Some(99), "from before");
    }

    #[test]
    fn missing_number_keeps_its_place_and_leaves_a_hole_if_it_is_not_wanted() {
        let mut map = GapMap::<2>::new(0);
        map.keep(0);
        map.leave_out(1);
        assert_eq!(map.keep(4), Some(3), "2 and 3 are missing");
        assert_eq!(map.keep(2), Some(1));
        assert_eq!(map.leave_out(3), Some(2), "a hole");
        assert_eq!(map.keep(5), Some(4));
    }

    #[test]
    fn leaving_out_twice_is_leaving_out_once() {
        let mut map = GapMap::<2>::new(0);
        map.keep(0);
        assert_eq!((map.leave_out(1), map.leave_out(1)), (None, None));
        assert_eq!(map.keep(2), Some(1));
    }

    #[test]
    fn a_long_silence_forgets_what_was_before() {
        let mut map = GapMap::<2>::new(0);
        (0..50).for_each(|number| _ = map.leave_out(number));
        assert_eq!(map.keep(10_000), Some(9_950));
        assert_eq!((map.keep(49), map.original(9_950)), (None, Some(10_000)));
        assert_eq!(map.keep(9_999), Some(9_949));
    }

    proptest! {
        /// Against a list of all that ever came.
        #[test]
        fn places_are_in_order_without_gaps_and_lead_back(
            start in 0u64..1_000,
            steps in prop::collection::vec((any::<bool>(), 0u64..3, 0u64..6), 1..400),
        ) {
            let mut map = GapMap::<4>::new(start);
            let (mut next, mut left_out) = (start, std::collections::BTreeSet::new());
            let mut places = std::collections::BTreeMap::new();
            for (keep, skipped, late) in steps {
                next += skipped;
                let number = if late == 5 { next.saturating_sub(skipped + 1).max(start) } else { next };
                let expected = number - left_out.range(..number).count() as u64;
                if keep {
                    if let Some(place) = map.keep(number) {
                        prop_assert_eq!(place, expected);
                        places.insert(number, place);
                    } else {
                        prop_assert!(left_out.contains(&number));
                    }
                } else if places.keys().chain(&left_out).all(|known| *known < number) {
                    prop_assert_eq!(map.leave_out(number), None);
                    left_out.insert(number);
                }
                next = next.max(number + 1);
                for (&number, &place) in places.range(next.saturating_sub(150)..) {
                    prop_assert_eq!(map.original(place), Some(number));
                }
            }
        }
    }
}
