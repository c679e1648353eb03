//! Who is speaking: the loudness of one audio track, from the levels that its packets carry (RFC 6464).
//!
//! A level says how loud 20 ms were. What a user interface wants is slower: up within a syllable, down after a
//! pause, and not to flicker between two words. Packets that do not come (DTX, a muted microphone, losses) count
//! as silence. Pure; once per packet of the publisher, never per subscriber.

use crate::rtp::extension::AudioLevel;
use crate::time::Time;

/// Silence, in -dBov.
const SILENT_DBOV: u8 = 127;

/// How fast the loudness follows a louder packet, and a quieter one.
const RISE_US: u64 = 60_000;
const FALL_US: u64 = 300_000;

/// Louder than this is speech, in -dBov: speech into a headset is at 20 to 35, a quiet room above 55.
const SPEECH_DBOV: u8 = 40;
/// Quieter than this is none.
const PAUSE_DBOV: u8 = 50;

/// How long it must be none: pauses between words are shorter.
const PAUSE_US: u64 = 700_000;

/// Without packets for this long nothing is heard: DTX sends one every 400 ms.
const ABSENT_US: u64 = 500_000;

/// The loudness of one track.
#[derive(Debug, Clone, Copy, Default)]
pub struct Speech {
    /// How far above silence, in 256ths of a decibel.
    loudness: u32,
    last: Option<Time>,
    is_speaking: bool,
    /// Since when it has been quiet, while it counts as speaking.
    quiet_since: Option<Time>,
}

/// What can be told of a track's sound at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loudness {
    /// In -dBov: 0 is the loudest there is, 127 silence.
    pub level_dbov: u8,
    pub is_speaking: bool,
}

impl Loudness {
    pub const SILENCE: Self = Self { level_dbov: SILENT_DBOV, is_speaking: false };
}

impl Speech {
    /// Notes a packet's level. Returns whether speaking has begun or ended with it.
    pub fn note(&mut self, level: AudioLevel, now: Time) -> bool {
        let target = u32::from(SILENT_DBOV - level.level_dbov) << 8;
        let elapsed_us = self.last.map_or(20_000, |last| now.since(last).min(ABSENT_US));
        self.last = Some(now);
        let pace_us = if target > self.loudness { RISE_US } else { FALL_US };
        let (from, to) = (i64::from(self.loudness), i64::from(target));
        let step = (to - from) * elapsed_us as i64 / (elapsed_us + pace_us) as i64;
        self.loudness = (from + step) as u32;
        self.judge(now)
    }

    /// Notes that time has passed. Returns whether speaking has ended.
    pub fn pass(&mut self, now: Time) -> bool {
        let is_absent = self.last.is_some_and(|last| now.since(last) >= ABSENT_US);
        if is_absent {
            self.loudness = 0;
        }
        is_absent && std::mem::take(&mut self.is_speaking)
    }

    pub fn loudness(&self) -> Loudness {
        Loudness { level_dbov: self.level_dbov(), is_speaking: self.is_speaking }
    }

    fn level_dbov(&self) -> u8 {
        SILENT_DBOV - (self.loudness >> 8) as u8
    }

    fn judge(&mut self, now: Time) -> bool {
        let level = self.level_dbov();
        let before = self.is_speaking;
        if level <= SPEECH_DBOV {
            self.is_speaking = true;
        }
        if level <= PAUSE_DBOV {
            self.quiet_since = None;
        } else if self.is_speaking {
            let since = *self.quiet_since.get_or_insert(now);
            self.is_speaking = now.since(since) < PAUSE_US;
        }
        self.is_speaking != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A track of 20 ms packets.
    #[derive(Default)]
    struct Story {
        speech: Speech,
        now: Time,
        /// When it began and ended, in ms.
        changes: Vec<(u64, bool)>,
    }

    impl Story {
        fn hear(&mut self, level_dbov: u8, ms: u64) -> &mut Self {
            for _ in 0..ms / 20 {
                self.now = self.now.plus_ms(20);
                if self.speech.note(AudioLevel { voice: false, level_dbov }, self.now) {
                    self.changes.push((self.now.0 / 1_000, self.speech.loudness().is_speaking));
                }
            }
            self
        }
    }

    #[test]
    fn speech_begins_with_a_syllable_and_ends_after_a_pause() {
        let mut story = Story::default();
        story.hear(70, 1_000).hear(25, 400).hear(70, 400).hear(25, 400).hear(70, 3_000);
        let [(begin, true), (end, false)] = story.changes[..] else { panic!("{:?}", story.changes) };
        assert!((1_000..1_200).contains(&begin), "{begin}");
        assert!((2_900..3_500).contains(&end), "{end}: the pause between two words was none");
        assert!(story.speech.loudness().level_dbov.abs_diff(70) <= 1);
    }

    #[test]
    fn a_click_is_no_speech_and_a_noisy_room_neither() {
        let mut story = Story::default();
        story.hear(80, 500).hear(20, 20).hear(80, 1_000).hear(45, 5_000);
        assert_eq!(story.changes, []);
        assert!(story.speech.loudness().level_dbov.abs_diff(45) <= 1);
    }

    #[test]
    fn who_sends_nothing_is_silent() {
        let mut story = Story::default();
        story.hear(20, 1_000);
        let last = story.now;
        assert!(!story.speech.pass(last.plus_ms(499)));
        assert!(story.speech.pass(last.plus_ms(500)), "speaking has ended");
        assert_eq!(story.speech.loudness(), Loudness::SILENCE);
        assert!(!story.speech.pass(last.plus_ms(600)), "and ends once");
    }

    proptest! {
        #[test]
        fn levels_stay_between_the_loudest_and_silence(steps in prop::collection::vec((0u8..128, 0u64..3_000_000), 1..200)) {
            let (mut speech, mut now) = (Speech::default(), Time(0));
            for (level_dbov, gap_us) in steps {
                now = now.plus_us(gap_us);
                let before = speech.is_speaking;
                let changed = speech.note(AudioLevel { voice: true, level_dbov }, now);
                prop_assert_eq!(changed, before != speech.is_speaking);
                prop_assert!(speech.loudness().level_dbov <= SILENT_DBOV);
            }
        }
    }
}
