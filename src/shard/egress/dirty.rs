//! Which tracks have packets to forward, and which of them may wait a little for others.
//!
//! Speakers do not speak in phase: their packets reach a listener in as many sends as there are speakers. With
//! a hold, packets of audio wait for at most that long after the first of them, and then leave together.
//! Video never waits, nor does anything else that a shard sends.

use crate::id::{MediaKind, TrackKey};
use crate::time::Time;

pub struct DirtyTracks {
    due: Vec<TrackKey>,
    held: Vec<TrackKey>,
    hold_us: u64,
    /// When the held ones leave.
    release: Time,
}

/// Tracks with fresh packets in one turn before the list has to grow.
const CAPACITY: usize = 1_024;

impl DirtyTracks {
    /// `hold_us` is how long audio may wait, in microseconds.
    pub fn new(hold_us: u64) -> Self {
        let list = || Vec::with_capacity(CAPACITY);
        Self { due: list(), held: list(), hold_us, release: Time::NEVER }
    }

    /// Notes a track that has become dirty.
    pub fn push(&mut self, track: TrackKey, kind: MediaKind) {
        match kind {
            MediaKind::Audio if self.hold_us > 0 => self.held.push(track),
            _ => self.due.push(track),
        }
    }

    /// The tracks whose packets leave now, to be drained. Starts the hold of those that came since.
    pub fn take_due(&mut self, now: Time) -> &mut Vec<TrackKey> {
        if !self.held.is_empty() {
            self.release = self.release.min(now.plus_us(self.hold_us));
            if self.release <= now {
                self.due.append(&mut self.held);
                self.release = Time::NEVER;
            }
        }
        &mut self.due
    }

    /// When tracks that are held are due, [`Time::NEVER`] if none are.
    pub fn next_due(&self) -> Time {
        self.release
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(index: u32) -> TrackKey {
        TrackKey { index, generation: 0 }
    }

    fn take(dirty: &mut DirtyTracks, now: Time) -> Vec<u32> {
        dirty.take_due(now).drain(..).map(|track| track.index).collect()
    }

    #[test]
    fn audio_waits_for_others_until_the_hold_of_the_first_is_over_and_video_does_not() {
        let mut dirty = DirtyTracks::new(5_000);
        let at = |us| Time(1_000_000).plus_us(us);
        dirty.push(track(1), MediaKind::Audio);
        dirty.push(track(2), MediaKind::Video);
        assert_eq!(take(&mut dirty, at(0)), [2]);
        assert_eq!(dirty.next_due(), at(5_000));
        dirty.push(track(3), MediaKind::Audio);
        assert_eq!(take(&mut dirty, at(4_999)), [0; 0]);
        assert_eq!(take(&mut dirty, at(5_000)), [1, 3]);
        assert_eq!(dirty.next_due(), Time::NEVER);
        dirty.push(track(1), MediaKind::Audio);
        assert_eq!(take(&mut dirty, at(7_000)), [0; 0], "a hold of its own");
        assert_eq!(take(&mut dirty, at(12_000)), [1]);
    }

    #[test]
    fn without_a_hold_nothing_waits() {
        let mut dirty = DirtyTracks::new(0);
        dirty.push(track(1), MediaKind::Audio);
        assert_eq!(take(&mut dirty, Time(0)), [1]);
    }
}
