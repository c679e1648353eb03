//! One subscription on its hot side: which encoding a subscriber is on, and how a packet is numbered for it.
//!
//! Sequence numbers, timestamps and VP8's picture counters are continuous over switches of encoding and of
//! track, which begin where a decoder can, and over layers that are left out: to the receiver it is one stream.
//! The rule it keeps (RFC 3711 §9.1): a pair of SSRC and index never leaves twice with other bytes. Live
//! packets go out once per index because the track ring takes each index once; everything sent again is
//! RTX with an SSRC and a sequence of its own (RFC 4588). What comes late of an encoding that was left has no
//! index any more, and is dropped.

use crate::forward::glance::Glance;
use crate::forward::layers::{LayerFilter, Passage};
use crate::forward::pace::Backlog;
use crate::forward::picture::{FrameNumbering, PictureCounters, PictureNumbering};
use crate::forward::select::{Flowing, Selection};
use crate::forward::track_ring::Packet;
use crate::id::{LegId, SessionSlot};
use crate::rtp::layer::{Layer, Points};
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
    /// The best encoding that its bandwidth allows.
    bound: u8,
    /// The best operating point that its bandwidth allows, of the encoding that it is to receive.
    point: Layer,
    /// What it receives, or did last.
    encoding: u8,
    /// What it goes over to at the next place where a decoder can begin.
    awaited: Option<u8>,
    /// It receives nothing until then.
    is_paused: bool,
    /// What it received last was of another track, whose clocks are not this one's.
    is_foreign: bool,
    /// It is paused because it could not be sent what there was in time.
    is_behind: bool,
    numbering: Numbering,
    timing: Timing,
    pictures: PictureNumbering,
    frames: FrameNumbering,
    /// Which layers go out, once some do not; cold, as most legs have none.
    layers: Option<Box<LayerFilter>>,
    rtx_next: u64,
    /// Sent since the beginning, as sender reports count (RFC 3550 §6.4.1).
    pub packets: u32,
    pub octets: u32,
}

/// A packet as it leaves for one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    /// Extended sequence number: rollover counter and sequence.
    pub index: u64,
    pub timestamp: u32,
    /// It only fills the place of a packet that is not wanted, and has no payload.
    pub is_empty: bool,
    pub counters: Counters,
}

/// What a subscriber finds in a packet otherwise than the publisher wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub picture: Option<PictureCounters>,
    pub frame_number: Option<u16>,
    /// Nothing of its picture follows, as higher layers are left out: the marker bit is set.
    pub ends_picture: bool,
}

/// Why a packet does not leave for one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNumbered {
    /// It is from before the join, or from before the last switch.
    TooEarly,
    /// Its layer is left out.
    LeftOut,
}

/// How track indices become this leg's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbering {
    /// The first packet decides, and leaves under this number.
    Pending { first_sequence: u16 },
    /// `outgoing = index + offset`; packets before `first` are from before the join.
    Running { first: u64, offset: u64, highest: u64 },
}

/// How a track's timestamps become this leg's.
#[derive(Debug, Clone, Copy)]
struct Timing {
    offset: u32,
    /// How much of the offset was added because time would have stood still otherwise.
    ahead: u32,
    /// The timestamp of the newest packet that left, and when it came in; never, if none did.
    last: u32,
    last_arrived: Time,
    /// Has nothing to do with timestamps, but there is room for it here.
    respite: Respite,
}

impl Default for Timing {
    fn default() -> Self {
        Self { offset: 0, ahead: 0, last: 0, last_arrived: Time::NEVER, respite: Respite::default() }
    }
}

impl Timing {
    fn has_begun(&self) -> bool {
        self.last_arrived != Time::NEVER
    }

    fn leave(&mut self, packet: &Packet) -> u32 {
        let out = packet.timestamp.wrapping_add(self.offset);
        if !self.has_begun() || (out.wrapping_sub(self.last) as i32) >= 0 {
            (self.last, self.last_arrived) = (out, packet.arrived);
        }
        out
    }

    /// `packet` follows the last one: as `shift` says, which maps its timestamps to those before, else as far
    /// apart as they arrived, and in any case later.
    fn continue_at(&mut self, packet: &Packet, shift: Option<u32>, clock_rate: u32) {
        if !self.has_begun() {
            return;
        }
        let last = self.last;
        let elapsed = packet.arrived.since(self.last_arrived) * u64::from(clock_rate) / 1_000_000;
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

/// How long who has fallen behind gets nothing of the same encoding: its return takes a key frame, which all others
/// get too, so it waits longer each time it falls behind again at once.
#[derive(Debug, Clone, Copy, Default)]
struct Respite {
    /// When it fell behind, or then when it came back, as the low bits of tenths of a second.
    changed: u16,
    wait_s: u8,
}

/// The waits double from a second, as long as what waits takes to be sent, to a pause that nobody takes for a call.
const RESPITE_S_MAX: u8 = 16;

/// Who stays up for longer than this waits the shortest time again.
const STAYED_UP_TENTHS: u16 = 100;

impl Respite {
    fn begin(&mut self, now: Time) {
        let is_again = self.wait_s > 0 && self.elapsed(now) < STAYED_UP_TENTHS;
        self.wait_s = if is_again { (2 * self.wait_s).min(RESPITE_S_MAX) } else { 1 };
        self.changed = tenths(now);
    }

    fn end(&mut self, now: Time) {
        self.changed = tenths(now);
    }

    fn is_over(&self, now: Time) -> bool {
        self.elapsed(now) >= 10 * u16::from(self.wait_s)
    }

    fn elapsed(&self, now: Time) -> u16 {
        tenths(now).wrapping_sub(self.changed)
    }
}

fn tenths(time: Time) -> u16 {
    (time.0 / 100_000) as u16
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
            bound: 0,
            point: Layer::MAX,
            encoding: 0,
            awaited: None,
            is_paused: false,
            is_foreign: false,
            is_behind: false,
            numbering: Numbering::Pending { first_sequence },
            timing: Timing::default(),
            pictures: PictureNumbering::default(),
            frames: FrameNumbering::default(),
            layers: None,
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

    /// What it receives from its next beginning on, or does now.
    pub fn heading(&self) -> u8 {
        self.awaited.unwrap_or(self.encoding)
    }

    /// Nothing has left of what it is to receive: it can begin anywhere that a decoder can.
    pub fn is_beginning(&self) -> bool {
        let has_begun = matches!(self.numbering, Numbering::Running { .. });
        if self.is_paused { self.awaited.is_some() } else { !has_begun }
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

    /// So much waits to be sent to it that it gets nothing new before it has caught up and a decoder can begin.
    pub fn fall_behind(&mut self, now: Time) {
        self.awaited = self.awaited.or(Some(self.encoding));
        self.is_paused = true;
        self.is_behind = true;
        self.timing.respite.begin(now);
    }

    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether it may go over to what it waits for, with that much before it.
    pub fn may_begin(&self, backlog: Backlog, now: Time) -> bool {
        let is_due = self.awaited != Some(self.encoding) || self.timing.respite.is_over(now);
        !self.is_behind || backlog.is_short() && is_due
    }

    /// Whether a packet begins a picture after all that left.
    pub fn is_next_picture(&self, packet: &Packet) -> bool {
        let out = packet.timestamp.wrapping_add(self.timing.offset);
        !self.timing.has_begun() || (out.wrapping_sub(self.timing.last) as i32) > 0
    }

    /// Goes on with another track, from the next beginning of its encoding 0 unless steered elsewhere.
    pub fn move_to_another_track(&mut self, selection: Selection) {
        self.select(selection);
        self.is_paused = true;
        self.is_foreign = true;
        self.awaited = Some(0);
    }

    /// Wants something else, and whatever its bandwidth has meant so far is to be found out anew.
    pub fn select(&mut self, selection: Selection) {
        self.selection = selection;
        (self.bound, self.point) = (0, Layer::MAX);
        self.timing.respite = Respite::default();
    }

    /// Looks at which encodings flow, and makes for the one that the selection then means.
    pub fn steer(&mut self, flowing: Flowing) {
        let Some(wished) = self.selection.wish.choose(flowing) else { return };
        let affordable = flowing.first_from(self.bound).filter(|_| flowing.contains(wished));
        let wanted = affordable.map_or(wished, |affordable| wished.max(affordable));
        self.awaited = (!self.receives(wanted)).then_some(wanted);
        // Only one will do and it is not there: what flows is not asked for.
        self.is_paused |= self.awaited.is_some() && !flowing.contains(wanted);
    }

    /// Keeps to what bandwidth allows: at best `encoding`, and of that the operating point `point`. `offered` are
    /// the points of the encoding it receives, and `is_everything` says whether those within `point` are all.
    pub fn afford(&mut self, (encoding, point): (u8, Layer), offered: Points, is_everything: bool) {
        (self.bound, self.point) = (encoding, point);
        // What is about to be left for something smaller is made as small as it can be until then.
        let leaves_for_less = !self.is_paused && self.encoding < encoding;
        let target = if leaves_for_less { Layer::default() } else { point };
        let is_thinned = leaves_for_less || self.receives(encoding) && !is_everything;
        if self.layers.is_none() {
            if !is_thinned {
                return;
            }
            let Some(highest) = offered.highest() else { return };
            self.layers = Some(Box::new(LayerFilter::new(highest, self.next_index())));
        }
        if let Some(layers) = &mut self.layers {
            layers.aim(target);
        }
    }

    /// The operating point that it was last allowed.
    pub fn point(&self) -> Layer {
        self.point
    }

    /// Only a key frame of the encoding it receives leads to the operating point that it should be at.
    pub fn needs_key_frame(&self) -> bool {
        self.layers.as_ref().is_some_and(|layers| layers.needs_key_frame())
    }

    /// The track index after the last one that left.
    fn next_index(&self) -> u64 {
        match self.numbering {
            Numbering::Pending { .. } => 0,
            Numbering::Running { offset, highest, .. } => (highest + 1).wrapping_sub(offset) & INDEX_MASK,
        }
    }

    /// The encoding it received last of this track, if any packet left.
    pub fn previous(&self) -> Option<u8> {
        (self.timing.has_begun() && !self.is_foreign).then_some(self.encoding)
    }

    /// Goes over to `encoding`, whose beginning `packet` is. `shift` is what its timestamps are behind those of
    /// the [`previous`](Self::previous) encoding, if that can be told; `clock_rate` is in Hz.
    pub fn enter(
        &mut self,
        encoding: u8,
        packet: &Packet,
        glance: &Glance,
        shift: Option<u32>,
        clock_rate: u32,
    ) {
        if let Numbering::Running { highest, .. } = self.numbering {
            let offset = (highest + 1).wrapping_sub(packet.index);
            self.numbering = Numbering::Running { first: packet.index, offset, highest };
        }
        self.timing.continue_at(packet, shift, clock_rate);
        if let Some(picture) = &glance.picture {
            self.pictures.continue_at(picture);
        }
        if let Some(number) = glance.frame_number() {
            self.frames.continue_at(number);
        }
        if let Some(layers) = &mut self.layers {
            layers.restart(packet.index);
            layers.aim(self.point);
        }
        self.encoding = encoding;
        self.awaited = None;
        self.is_paused = false;
        self.is_foreign = false;
        if std::mem::take(&mut self.is_behind) {
            self.timing.respite.end(packet.arrived);
        }
    }

    /// Numbers a packet of the encoding it receives, which has frames for the points `offered`.
    pub fn number(
        &mut self,
        packet: &Packet,
        glance: &Glance,
        offered: Points,
    ) -> Result<Numbered, NotNumbered> {
        let mut picture = glance.picture;
        let passage = match &mut self.layers {
            None => Passage::Whole { index: packet.index, ends_picture: false },
            Some(layers) => {
                let passage = layers.pass(packet.index, glance.layering.as_ref(), offered);
                if let Some(id) = picture.as_mut().and_then(|picture| picture.picture_id.as_mut()) {
                    let passes = matches!(passage, Passage::Whole { .. });
                    id.value = layers.picture(id, passes).unwrap_or(id.value);
                }
                passage
            }
        };
        let (place, is_empty, ends_picture) = match passage {
            Passage::Whole { index, ends_picture } => (index, false, ends_picture),
            Passage::Empty { index } => (index, true, false),
            Passage::LeftOut => return Err(NotNumbered::LeftOut),
        };
        let index = self.outgoing(place).ok_or(NotNumbered::TooEarly)?;
        let timestamp = self.timing.leave(packet);
        let mut counters = Counters { ends_picture, ..Counters::default() };
        if !is_empty {
            counters.picture = picture.as_ref().map(|picture| self.pictures.note(picture));
            counters.frame_number = glance.frame_number().and_then(|number| self.frames.note(number));
        }
        Ok(Numbered { index, timestamp, is_empty, counters })
    }

    /// What a packet that went out had otherwise than the publisher wrote it.
    pub fn counters(&self, glance: &Glance) -> Counters {
        let mut picture = glance.picture;
        if let (Some(layers), Some(id)) =
            (&self.layers, picture.as_mut().and_then(|picture| picture.picture_id.as_mut()))
        {
            id.value = layers.picture_sent(id).unwrap_or(id.value);
        }
        let ends =
            |layers: &LayerFilter| glance.layering.is_some_and(|layering| layers.ends_picture(&layering));
        Counters {
            picture: picture.as_ref().map(|picture| self.pictures.counters(picture)),
            frame_number: glance.frame_number().and_then(|number| self.frames.moved(number)),
            ends_picture: self.layers.as_ref().is_some_and(|layers| ends(layers)),
        }
    }

    /// What is added to the timestamps of the encoding it receives.
    pub fn timestamp_offset(&self) -> u32 {
        self.timing.offset
    }

    /// The SRTP index under which the track's packet `index` leaves, less those left out before it; `None` if it
    /// is from before the join.
    fn outgoing(&mut self, index: u64) -> Option<u64> {
        match &mut self.numbering {
            Numbering::Pending { first_sequence } => {
                let out = u64::from(*first_sequence);
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
            Numbering::Pending { .. } => None,
            Numbering::Running { highest, .. } => Some(highest as u16),
        }
    }

    /// The track index behind a sequence number that the subscriber names, e.g. in a NACK.
    pub fn track_index(&self, sequence: u16) -> Option<u64> {
        let Numbering::Running { first, offset, highest } = self.numbering else { return None };
        let behind = (highest as u16).wrapping_sub(sequence);
        let out = highest.checked_sub(u64::from(behind))?;
        let index = out.wrapping_sub(offset);
        let index = Some(index).filter(|index| *index >= first && behind < 1 << 15)?;
        match &self.layers {
            Some(layers) => layers.original(index),
            None => Some(index),
        }
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
    use crate::forward::select::Wish;
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

    const AUDIO: Glance = Glance { is_beginning: true, picture: None, layering: None };

    /// Sequence and timestamp under which a packet leaves.
    fn send(leg: &mut Leg, packet: &Packet) -> Option<(u64, u32)> {
        let numbered = leg.number(packet, &AUDIO, Points::NONE).ok()?;
        Some((numbered.index, numbered.timestamp))
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
        leg.enter(1, &packet(70, 500, 1_066), &AUDIO, None, 90_000);
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
            leg.enter(1, &packet(9, 500, 1_044), &AUDIO, Some(shift), 90_000);
            assert_eq!(
                send(&mut leg, &packet(9, 500, 1_044)).map(|(_, timestamp)| timestamp),
                Some(expected)
            );
        }
    }

    #[test]
    fn time_never_stands_still_and_what_was_added_for_that_is_given_back() {
        let mut leg = leg(0);
        send(&mut leg, &packet(0, 9_000, 1_000));
        // The same picture by another encoding: its timestamp has just been used.
        leg.enter(1, &packet(0, 9_000, 1_000), &AUDIO, Some(0), 90_000);
        assert_eq!(send(&mut leg, &packet(0, 9_000, 1_000)), Some((1, 9_001)));
        leg.enter(0, &packet(1, 12_000, 1_033), &AUDIO, Some(0), 90_000);
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
        leg.enter(1, &packet(0, 0, 0), &AUDIO, None, 90_000);
        leg.steer(flowing(&[Some(9_990), Some(9_990)]));
        assert_eq!(leg.awaited(), Some(0));
        leg.steer(flowing(&[Some(1), Some(1)]));
        assert_eq!(leg.awaited(), Some(0), "nothing flows: as before");
    }

    #[test]
    fn who_wants_one_encoding_only_gets_nothing_instead() {
        let mut leg = leg(0);
        leg.selection.wish = Wish::Only(2);
        leg.steer(flowing(&[Some(9_990), Some(9_990), None]));
        assert!(!leg.heeds(0) && !leg.heeds(1) && leg.heeds(2));
        leg.enter(2, &packet(0, 0, 0), &AUDIO, None, 90_000);
        leg.steer(flowing(&[Some(9_990), Some(9_990), Some(1)]));
        assert_eq!((leg.awaited(), leg.receives(2)), (None, true), "it may go on whenever it likes");
    }

    #[test]
    fn who_falls_behind_again_and_again_comes_back_ever_later_until_it_stays_up() {
        let mut leg = leg(0);
        let mut now = Time(0).plus_ms(5_000);
        let mut waits = |leg: &mut Leg, up_ms| {
            now = now.plus_ms(up_ms);
            leg.fall_behind(now);
            let fell = now;
            while !leg.may_begin(Backlog::NONE, now) {
                now = now.plus_ms(100);
            }
            leg.enter(0, &Packet { arrived: now, ..packet(0, 0, 0) }, &AUDIO, None, 90_000);
            now.since(fell) / 1_000_000
        };
        let again = [0; 6].map(|_| waits(&mut leg, 2_000));
        assert_eq!(again, [1, 2, 4, 8, 16, 16]);
        assert_eq!([10_001, 2_000].map(|up_ms| waits(&mut leg, up_ms)), [1, 2]);
        leg.select(Selection::default());
        assert_eq!(waits(&mut leg, 2_000), 1, "something else may suit it");
    }

    #[test]
    fn who_falls_behind_may_begin_with_another_encoding_at_once() {
        let mut leg = leg(0);
        let now = Time(0).plus_ms(10_000);
        leg.fall_behind(now);
        assert!(!leg.may_begin(Backlog::NONE, now));
        leg.selection.wish = Wish::Prefer(1);
        leg.steer(flowing(&[Some(9_990), Some(9_990)]));
        assert!(leg.may_begin(Backlog::NONE, now));
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
                    leg.enter(encoding, &packet, &AUDIO, None, 90_000);
                }
                if !leg.receives(encoding) {
                    continue;
                }
                if let Some((out, timestamp)) = send(&mut leg, &packet) {
                    prop_assert!(given.insert(out), "{} twice", out);
                    prop_assert!(!switches || last_timestamp.is_none_or(|last: u32| (timestamp.wrapping_sub(last) as i32) > 0));
                    last_timestamp = leg.timing.has_begun().then_some(leg.timing.last);
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
