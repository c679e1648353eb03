//! Packets that travelled together, so that one delay is measured per burst and not per packet.
//!
//! draft-ietf-rmcat-gcc-02 §5.2-5.3. A sender that hands a frame's packets to the network at once makes a
//! queue of its own at every hop; only how one burst fares against the one before says something about the path.

use crate::time::Time;

/// Packets sent within this time are one burst (§5.2: burst_time).
const BURST_US: u64 = 5_000;

/// Packets that arrive so soon after one another although they were sent further apart were held up together, by
/// a radio or a busy receiver, and are one burst too…
const HELD_UP_GAP_US: i64 = 5_000;
/// …unless it lasts longer than this.
const HELD_UP_MAX_US: i64 = 100_000;

/// The arrivals' clock has jumped if two groups are further apart than this.
const CLOCK_JUMP_US: i64 = 3_000_000;

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent: Time,
    last_sent: Time,
    first_arrived_us: i64,
    last_arrived_us: i64,
}

/// How much later than its predecessor a group was sent, and arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    pub sent_us: i64,
    pub arrived_us: i64,
    /// When the later group arrived, by the receiver's clock.
    pub at_us: i64,
}

/// Takes the packets of a transport in the order sent.
#[derive(Default)]
pub struct PacketGroups {
    current: Option<Group>,
    previous: Option<Group>,
}

impl PacketGroups {
    /// Adds a packet. If it begins a new group, the two before it are complete and make a delta.
    pub fn add(&mut self, sent: Time, arrived_us: i64) -> Option<Delta> {
        let Some(group) = &mut self.current else {
            self.begin(sent, arrived_us);
            return None;
        };
        if sent < group.first_sent {
            return None; // Overtaken on the way: its delay is not the path's.
        }
        if group.belongs(sent, arrived_us) {
            group.last_sent = group.last_sent.max(sent);
            group.last_arrived_us = group.last_arrived_us.max(arrived_us);
            return None;
        }
        let (complete, previous) = (*group, self.previous);
        self.previous = Some(complete);
        self.begin(sent, arrived_us);
        let delta = complete.since(&previous?);
        if delta.arrived_us.abs() > CLOCK_JUMP_US {
            self.previous = None;
            return None;
        }
        Some(delta)
    }

    fn begin(&mut self, sent: Time, arrived_us: i64) {
        self.current = Some(Group {
            first_sent: sent,
            last_sent: sent,
            first_arrived_us: arrived_us,
            last_arrived_us: arrived_us,
        });
    }
}

impl Group {
    fn belongs(&self, sent: Time, arrived_us: i64) -> bool {
        if sent.since(self.first_sent) <= BURST_US {
            return true;
        }
        let (gap_us, sent_us) = (arrived_us - self.last_arrived_us, sent.since(self.last_sent) as i64);
        gap_us <= HELD_UP_GAP_US && gap_us < sent_us && arrived_us - self.first_arrived_us < HELD_UP_MAX_US
    }

    fn since(&self, previous: &Group) -> Delta {
        Delta {
            sent_us: self.last_sent.since(previous.last_sent) as i64,
            arrived_us: self.last_arrived_us - previous.last_arrived_us,
            at_us: self.last_arrived_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deltas(packets: &[(u64, i64)]) -> Vec<(i64, i64)> {
        let mut groups = PacketGroups::default();
        let added =
            packets.iter().filter_map(|&(sent, arrived)| groups.add(Time(sent * 1_000), arrived * 1_000));
        added.map(|delta| (delta.sent_us / 1_000, delta.arrived_us / 1_000)).collect()
    }

    #[test]
    fn a_burst_is_measured_as_one() {
        let packets = [(0, 50), (2, 51), (33, 85), (34, 87), (66, 120)];
        assert_eq!(deltas(&packets), [(32, 36)], "the third is not complete");
    }

    #[test]
    fn what_was_held_up_together_is_one_burst() {
        let packets = [(0, 50), (33, 90), (66, 91), (99, 92), (132, 170), (165, 203)];
        assert_eq!(deltas(&packets), [(99, 42), (33, 78)]);
    }

    #[test]
    fn an_overtaken_packet_and_a_jump_of_the_clock_measure_nothing() {
        assert_eq!(deltas(&[(0, 50), (33, 83), (10, 84), (66, 116)]), [(33, 33)]);
        let jump = [(0, 50), (33, 83), (66, 116), (99, 9_000), (132, 9_033), (165, 9_066), (198, 9_099)];
        assert_eq!(deltas(&jump), [(33, 33), (33, 33), (33, 33)]);
    }
}
