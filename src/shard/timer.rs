//! Which session has something to do next.
//!
//! A binary heap of (moment, slot). A session has one live entry, the one equal to its `timer` field;
//! hastening it pushes another and leaves the old one to be skipped when it comes up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::id::SessionSlot;
use crate::time::Time;

/// Room for a live and a stale entry of this many sessions before the heap has to grow.
const CAPACITY: usize = 16_384;

pub struct Timers(BinaryHeap<Reverse<(Time, u32)>>);

impl Timers {
    pub fn new() -> Self {
        Self(BinaryHeap::with_capacity(CAPACITY))
    }

    /// Makes the session's timer fire at `due` unless it fires earlier anyway. `timer` is the session's field.
    pub fn hasten(&mut self, slot: SessionSlot, timer: &mut Time, due: Time) {
        if due < *timer {
            *timer = due;
            self.0.push(Reverse((due, slot.0)));
        }
    }

    /// The next entry that is due, live or stale.
    pub fn pop(&mut self, now: Time) -> Option<(Time, SessionSlot)> {
        let &Reverse((due, slot)) = self.0.peek()?;
        if due > now {
            return None;
        }
        self.0.pop();
        Some((due, SessionSlot(slot)))
    }

    pub fn next_due(&self) -> Option<Time> {
        self.0.peek().map(|Reverse((due, _))| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hastening_brings_forward_and_never_delays() {
        let mut timers = Timers::new();
        let mut timer = Time::NEVER;
        timers.hasten(SessionSlot(1), &mut timer, Time(100));
        timers.hasten(SessionSlot(1), &mut timer, Time(200));
        timers.hasten(SessionSlot(1), &mut timer, Time(50));
        assert_eq!(timers.next_due(), Some(Time(50)));
        assert_eq!(timers.pop(Time(49)), None);
        assert_eq!(timers.pop(Time(150)), Some((Time(50), SessionSlot(1))));
        assert_eq!(timers.pop(Time(150)), Some((Time(100), SessionSlot(1))), "stale: differs from the field");
        assert_eq!(timers.pop(Time(150)), None);
    }
}
