//! What shards count, as plain values: the only thing that `shard` and `api` share about statistics.
//!
//! A shard owns its counters, copies them into a [`ShardSnapshot`] about once a second and sends the
//! copy to control, which keeps the latest of each shard in [`Snapshots`] for `/metrics`. There are no
//! atomics and no rates here: counters only grow, and whoever reads them divides by time.

use std::sync::{Mutex, PoisonError};

use crate::drop_reason::DropCounts;
use crate::id::ShardId;

/// Upper bounds of the turn histogram in µs, each inclusive; longer turns fall into one more bucket.
///
/// A turn below 250 µs is invisible next to network jitter; one above 20 ms delays the next audio frame.
pub const TURN_BOUNDS_US: [u64; 13] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000];

/// How many turns took how long: one count per bound, and one for the turns longer than all bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TurnHistogram([u64; TURN_BOUNDS_US.len() + 1]);

impl TurnHistogram {
    pub fn observe(&mut self, turn_us: u64) {
        let bucket = TURN_BOUNDS_US.partition_point(|&bound| bound < turn_us);
        if let Some(count) = self.0.get_mut(bucket) {
            *count += 1;
        }
    }

    /// Pairs of upper bound in µs (`None`: no bound) and the turns in that bucket alone.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let bounds = TURN_BOUNDS_US.iter().map(|&bound| Some(bound)).chain([None]);
        bounds.zip(self.0.iter().copied())
    }
}

/// Upper bounds of the bandwidth histogram in bits per second, each inclusive: steps of video quality.
pub const BANDWIDTH_BOUNDS_BPS: [u64; 8] =
    [100_000, 300_000, 600_000, 1_000_000, 2_000_000, 3_000_000, 5_000_000, 10_000_000];

/// How many subscribers have how much bandwidth: one count per bound, and one for those above all bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BandwidthHistogram([u64; BANDWIDTH_BOUNDS_BPS.len() + 1]);

impl BandwidthHistogram {
    pub fn observe(&mut self, available_bps: u64) {
        let bucket = BANDWIDTH_BOUNDS_BPS.partition_point(|&bound| bound < available_bps);
        if let Some(count) = self.0.get_mut(bucket) {
            *count += 1;
        }
    }

    /// Pairs of upper bound in bits per second (`None`: no bound) and how many are at most there.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let bounds = BANDWIDTH_BOUNDS_BPS.iter().map(|&bound| Some(bound)).chain([None]);
        let sums = self.0.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        bounds.zip(sums)
    }
}

/// The counters and gauges of one shard at one moment. All counters start at 0 with the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardSnapshot {
    pub shard: ShardId,
    /// UDP datagrams from the network, of every kind.
    pub datagrams_received: u64,
    /// UDP payload bytes of them.
    pub bytes_received: u64,
    /// UDP datagrams handed to the network; a segmented send counts each segment.
    pub datagrams_sent: u64,
    /// UDP payload bytes of them.
    pub bytes_sent: u64,
    /// Calls into the kernel that sent something: `datagrams_sent / sends` is the gain of batching.
    pub sends: u64,
    /// RTP packets that decrypted and belong to a track.
    pub rtp_packets_received: u64,
    /// RTP packets sealed for subscribers, retransmissions included.
    pub rtp_packets_sent: u64,
    /// SRTCP datagrams that decrypted.
    pub rtcp_received: u64,
    /// SRTCP datagrams sealed.
    pub rtcp_sent: u64,
    /// Datagrams passed to control: STUN and DTLS.
    pub punted: u64,
    /// Packets sent again because a subscriber asked (RFC 4588).
    pub retransmissions_sent: u64,
    /// Packets sent again to probe what a subscriber's path carries.
    pub probe_packets_sent: u64,
    /// Packets of video that had to wait for their subscriber's pacer, of those sent.
    pub paced_packets_sent: u64,
    /// Subscriptions of video that began with a key frame from the track ring.
    pub catch_ups: u64,
    /// Packets that subscribers asked for again: sequence numbers, not NACK messages.
    pub nacks_received: u64,
    /// Packets that we asked publishers for again: sequence numbers, not NACK messages.
    pub nacks_sent: u64,
    /// Key frame requests (PLI, FIR) from subscribers, before they are coalesced.
    pub plis_received: u64,
    /// Key frame requests to publishers, after they were coalesced.
    pub plis_sent: u64,
    pub drops: DropCounts,
    /// Sessions that this shard holds at the moment.
    pub sessions: u64,
    /// Publications (tracks of local publishers) at the moment.
    pub publications: u64,
    /// Subscriptions that this shard serves at the moment.
    pub legs: u64,
    /// The estimated bandwidths of those that are sent video, at the moment.
    pub available_bps: BandwidthHistogram,
    /// Turns of the shard's loop.
    pub turns: u64,
    /// How long those turns took that had work to do.
    pub turn_us: TurnHistogram,
    /// Sum of the durations in `turn_us`, in µs: its growth over a second is the shard's utilisation.
    pub busy_us: u64,
}

impl ShardSnapshot {
    /// A shard that has done nothing.
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            datagrams_received: 0,
            bytes_received: 0,
            datagrams_sent: 0,
            bytes_sent: 0,
            sends: 0,
            rtp_packets_received: 0,
            rtp_packets_sent: 0,
            rtcp_received: 0,
            rtcp_sent: 0,
            punted: 0,
            retransmissions_sent: 0,
            probe_packets_sent: 0,
            paced_packets_sent: 0,
            catch_ups: 0,
            nacks_received: 0,
            nacks_sent: 0,
            plis_received: 0,
            plis_sent: 0,
            drops: DropCounts::default(),
            sessions: 0,
            publications: 0,
            legs: 0,
            available_bps: BandwidthHistogram::default(),
            turns: 0,
            turn_us: TurnHistogram::default(),
            busy_us: 0,
        }
    }
}

/// The latest snapshot of every shard.
///
/// Control stores, `/metrics` reads, both on the control thread: the lock is never contended, and no
/// shard ever sees it.
#[derive(Debug)]
pub struct Snapshots(Mutex<Vec<ShardSnapshot>>);

impl Snapshots {
    /// One empty slot for each of `shards` shards.
    pub fn new(shards: u16) -> Self {
        Self(Mutex::new((0..shards).map(|shard| ShardSnapshot::new(ShardId(shard))).collect()))
    }

    /// Replaces the snapshot of its shard. One of a shard that does not exist is let go.
    pub fn store(&self, snapshot: ShardSnapshot) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(snapshot.shard.index()) {
            *slot = snapshot;
        }
    }

    /// A copy of all, in the order of shards.
    pub fn all(&self) -> Vec<ShardSnapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_as_long_as_a_bound_counts_below_it() {
        let mut turns = TurnHistogram::default();
        for turn_us in [0, 10, 11, 100_000, 100_001, u64::MAX] {
            turns.observe(turn_us);
        }
        let counted: Vec<_> = turns.buckets().filter(|&(_, count)| count > 0).collect();
        assert_eq!(counted, [(Some(10), 2), (Some(25), 1), (Some(100_000), 1), (None, 2)]);
    }

    #[test]
    fn bandwidths_are_counted_up_to_each_bound() {
        let mut bandwidths = BandwidthHistogram::default();
        [50_000, 300_000, 300_001, 50_000_000].into_iter().for_each(|bps| bandwidths.observe(bps));
        let sums: Vec<_> = bandwidths.cumulative().map(|(_, sum)| sum).collect();
        assert_eq!(sums, [1, 2, 3, 3, 3, 3, 3, 3, 4]);
    }

    #[test]
    fn the_latest_snapshot_of_a_shard_replaces_its_own_and_no_other() {
        let snapshots = Snapshots::new(2);
        snapshots.store(ShardSnapshot { legs: 7, ..ShardSnapshot::new(ShardId(1)) });
        snapshots.store(ShardSnapshot { legs: 9, ..ShardSnapshot::new(ShardId(1)) });
        snapshots.store(ShardSnapshot { legs: 5, ..ShardSnapshot::new(ShardId(2)) });
        let legs: Vec<_> = snapshots.all().iter().map(|shard| shard.legs).collect();
        assert_eq!(legs, [0, 9]);
    }
}
