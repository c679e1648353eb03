//! Probing: short bursts above the estimate that show whether the path carries more.
//!
//! A cluster is sent at a given rate for some milliseconds, media counted in and the rest filled up by
//! retransmissions of what the subscriber has anyway. From how its packets arrive follows what the path carries.
//! When to probe follows libwebrtc: at the start at three and six times the first estimate, on from there while it
//! succeeds, and from time to time while more is wanted than the estimate allows. Deliberately absent: what a
//! probe consists of, and the timer that sends it, which are the shard's.

use super::history::{Outcome, Report};
use crate::time::Time;

/// What a cluster takes at least: shorter ones measure the path's jitter.
const CLUSTER_US: f64 = 15_000.0;
const CLUSTER_PACKETS: u32 = 5;
/// A cluster that could not be sent by then, for want of packets, is given up.
const CLUSTER_US_MAX: u64 = 150_000;

/// The first clusters, in multiples of the first estimate.
const FIRST: [f64; 2] = [3.0, 6.0];
/// After a success the next is this much higher…
const FURTHER: f64 = 2.0;
/// …and a success is a result of at least this part of the cluster's rate.
const SUCCESS: f64 = 0.7;

/// The pause between probes while more is wanted; it doubles with each that finds nothing.
const PAUSE_US: (u64, u64) = (2_000_000, 4_000_000);
/// A probe that finds this much more has found something.
const FOUND: f64 = 1.1;
/// After a decrease the queue needs time to drain.
const PAUSE_AFTER_DECREASE_US: u64 = 1_000_000;
/// A drop to below this part makes what was learnt about the path useless.
const DROP: f64 = 0.66;

/// Beyond what is wanted this much may be probed, so that a result can lie above it.
const WANTED_MARGIN: f64 = 1.2;

/// Clusters whose packets are in flight at a time.
const MEASURED_MAX: usize = 4;
/// The part of a cluster that must have arrived before it says something.
const ARRIVED_MIN: f64 = 0.6;
/// A path that delivers less than this part of the cluster's rate is saturated…
const SATURATED: f64 = 0.9;
/// …and is then believed to carry this part of what it delivered.
const SATURATED_TRUST: f64 = 0.95;
/// Arriving this much faster than sent, a cluster was held up on the way, and says nothing.
const COMPRESSED: f64 = 2.0;

/// A cluster that is being sent.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    id: u8,
    bps: f64,
    began: Time,
    bytes: u64,
    packets: u32,
}

impl Cluster {
    fn bytes_min(&self) -> u64 {
        (self.bps * CLUSTER_US / 8e6) as u64
    }

    fn is_complete(&self) -> bool {
        self.packets >= CLUSTER_PACKETS && self.bytes >= self.bytes_min()
    }
}

/// A cluster whose packets are reported.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    id: u8,
    bps: f64,
    packets_sent: u32,
    packets: u32,
    bytes: u64,
    first_sent: Time,
    last_sent: Time,
    last_sent_bytes: u32,
    first_arrived_us: i64,
    last_arrived_us: i64,
    first_arrived_bytes: u32,
}

/// What a cluster has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeResult {
    pub bps: f64,
    /// The path, not the cluster, set the limit.
    pub is_saturated: bool,
}

/// What a decision to probe depends on. Rates in bits per second.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    pub estimate_bps: f64,
    pub wanted_bps: f64,
    /// Neither delay nor loss shows congestion.
    pub is_calm: bool,
    pub decreased: Time,
}

pub struct Probing {
    id: u8,
    running: Option<Cluster>,
    /// Rates of clusters to follow at once.
    queued: [Option<f64>; 2],
    measured: [Measured; MEASURED_MAX],
    pause_us: u64,
    /// When the last cluster began, and the estimate then.
    last: Option<(Time, f64)>,
    estimate_max_bps: f64,
}

impl Default for Probing {
    fn default() -> Self {
        Self {
            id: 0,
            running: None,
            queued: [None; 2],
            measured: [Measured::default(); MEASURED_MAX],
            pause_us: PAUSE_US.0,
            last: None,
            estimate_max_bps: 0.0,
        }
    }
}

impl Probing {
    /// Decides whether to begin a cluster.
    pub fn plan(&mut self, situation: &Situation, now: Time) {
        if self.running.is_some_and(|cluster| now.since(cluster.began) > CLUSTER_US_MAX) {
            self.end_cluster();
        }
        let Situation { estimate_bps, wanted_bps, .. } = *situation;
        if estimate_bps < self.estimate_max_bps * DROP {
            self.pause_us = PAUSE_US.0;
            self.estimate_max_bps = estimate_bps;
        }
        self.estimate_max_bps = self.estimate_max_bps.max(estimate_bps);
        if wanted_bps <= estimate_bps || self.running.is_some() {
            return;
        }
        match self.last {
            None => {
                self.queued = FIRST.map(|times| Some(times * estimate_bps));
                self.last = Some((now, estimate_bps));
            }
            Some((last, _)) if self.is_due(last, situation, now) => {
                self.queued[0] = Some(FURTHER * estimate_bps);
                self.last = Some((now, estimate_bps));
            }
            Some(_) => {}
        }
        self.begin_queued(wanted_bps, now);
    }

    fn is_due(&self, last: Time, situation: &Situation, now: Time) -> bool {
        situation.is_calm
            && now.since(last) >= self.pause_us
            && now.since(situation.decreased) >= PAUSE_AFTER_DECREASE_US
    }

    fn begin_queued(&mut self, wanted_bps: f64, now: Time) {
        let [first, second] = self.queued;
        let Some(bps) = first else { return };
        self.queued = [second, None];
        self.id = self.id.wrapping_add(1).max(1);
        let bps = bps.min(wanted_bps * WANTED_MARGIN);
        self.running = Some(Cluster { id: self.id, bps, began: now, bytes: 0, packets: 0 });
        let slot = usize::from(self.id) % MEASURED_MAX;
        self.measured[slot] = Measured { id: self.id, bps, ..Measured::default() };
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// How many bytes of padding the running cluster lacks to have its rate, a millisecond ahead. `None` without one.
    pub fn owed(&self, now: Time) -> Option<usize> {
        let cluster = self.running?;
        let due = cluster.bps * (now.since(cluster.began) + 1_000) as f64 / 8e6;
        Some((due as u64).saturating_sub(cluster.bytes) as usize)
    }

    /// A packet leaves. Returns the cluster that it is part of, 0 for none.
    pub fn on_sent(&mut self, bytes: usize) -> u8 {
        let Some(cluster) = &mut self.running else { return 0 };
        cluster.bytes += bytes as u64;
        cluster.packets += 1;
        let id = cluster.id;
        if cluster.is_complete() {
            self.end_cluster();
        }
        id
    }

    fn end_cluster(&mut self) {
        let Some(cluster) = self.running.take() else { return };
        let slot = &mut self.measured[usize::from(cluster.id) % MEASURED_MAX];
        slot.packets_sent = cluster.packets;
    }

    /// The last result could not be kept.
    pub fn was_misled(&mut self) {
        self.pause_us = (self.pause_us * 2).min(PAUSE_US.1);
    }

    /// Congestion: what was planned would make it worse.
    pub fn abandon(&mut self) {
        self.queued = [None; 2];
        self.end_cluster();
    }

    /// A packet of a cluster is reported.
    pub fn on_report(&mut self, report: &Report) {
        let Outcome::Received { arrived_us, .. } = report.outcome else { return };
        let slot = &mut self.measured[usize::from(report.cluster) % MEASURED_MAX];
        if report.cluster == 0 || slot.id != report.cluster {
            return;
        }
        // What went beside shared the path.
        let bytes = u32::from(report.bytes) + u32::from(report.beside);
        if slot.packets == 0 || report.sent < slot.first_sent {
            slot.first_sent = report.sent;
        }
        if slot.packets == 0 || arrived_us < slot.first_arrived_us {
            (slot.first_arrived_us, slot.first_arrived_bytes) = (arrived_us, bytes);
        }
        if report.sent >= slot.last_sent {
            (slot.last_sent, slot.last_sent_bytes) = (report.sent, bytes);
        }
        slot.last_arrived_us =
            if slot.packets == 0 { arrived_us } else { slot.last_arrived_us.max(arrived_us) };
        slot.packets += 1;
        slot.bytes += u64::from(bytes);
    }

    /// What clusters have shown since it was last asked, and plans on. `lost` is what the path loses anyway.
    pub fn result(&mut self, lost: f64) -> Option<ProbeResult> {
        let mut found = None;
        for at in 0..MEASURED_MAX {
            let measured = self.measured[at];
            let enough = ARRIVED_MIN * f64::from(measured.packets_sent);
            if measured.packets_sent == 0 || f64::from(measured.packets) < enough {
                continue;
            }
            self.measured[at] = Measured::default();
            let Some(result) = measured.result(lost) else { continue };
            self.learn(&measured, &result);
            found = Some(result);
        }
        found
    }

    fn learn(&mut self, measured: &Measured, result: &ProbeResult) {
        let estimate_then = self.last.map_or(0.0, |(_, bps)| bps);
        if result.bps > SUCCESS * measured.bps && self.queued[0].is_none() && !result.is_saturated {
            self.queued[0] = Some(FURTHER * result.bps);
        }
        self.pause_us =
            if result.bps > FOUND * estimate_then { PAUSE_US.0 } else { (self.pause_us * 2).min(PAUSE_US.1) };
    }
}

impl Measured {
    fn result(&self, lost: f64) -> Option<ProbeResult> {
        let sent_us = self.last_sent.since(self.first_sent);
        let arrived_us = self.last_arrived_us - self.first_arrived_us;
        if self.packets < 3 || sent_us == 0 || arrived_us <= 0 {
            return None;
        }
        let present = 1.0 / (1.0 - lost);
        let rate = |without: u32, us: f64| (self.bytes - u64::from(without)) as f64 * 8e6 * present / us;
        // The last packet sent took no time yet; the first to arrive had taken its time before.
        let sent_bps = rate(self.last_sent_bytes, sent_us as f64);
        let arrived_bps = rate(self.first_arrived_bytes, arrived_us as f64);
        if arrived_bps > COMPRESSED * sent_bps {
            return None;
        }
        let is_saturated = arrived_bps < SATURATED * sent_bps;
        let bps = if is_saturated { SATURATED_TRUST * arrived_bps } else { sent_bps.min(arrived_bps) };
        Some(ProbeResult { bps, is_saturated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time(1_000_000_000);

    /// Sends what is owed each millisecond over a path of this capacity; returns all results of some time.
    fn probe(capacity_bps: f64, wanted_bps: f64, ms: u64) -> Vec<ProbeResult> {
        let mut probing = Probing::default();
        let (mut free_us, mut estimate_bps, mut results) = (0i64, 300_000.0, Vec::new());
        let mut flying = Vec::new();
        for now in (0..ms).map(|ms| START.plus_ms(ms)) {
            let situation = Situation { estimate_bps, wanted_bps, is_calm: true, decreased: Time(0) };
            probing.plan(&situation, now);
            while probing.owed(now).is_some_and(|owed| owed > 0) {
                let cluster = probing.on_sent(1_000);
                free_us = free_us.max(now.since(START) as i64) + (8e9 / capacity_bps) as i64;
                let outcome = Outcome::Received { arrived_us: free_us, was_told_lost: false };
                flying.push((
                    free_us as u64 + 50_000,
                    Report { sent: now, bytes: 1_000, beside: 0, cluster, outcome },
                ));
            }
            flying.retain(|(told, report)| {
                let is_due = *told <= now.since(START);
                if is_due {
                    probing.on_report(report);
                }
                !is_due
            });
            if let Some(result) = probing.result(0.0) {
                estimate_bps = estimate_bps.max(result.bps);
                results.push(result);
            }
        }
        results
    }

    #[test]
    fn clusters_climb_to_the_capacity_and_stop_there() {
        for capacity_bps in [1e6, 3e6, 10e6] {
            let results = probe(capacity_bps, 50e6, 1_500);
            let last = results.last().unwrap();
            assert!(last.is_saturated, "{results:?}");
            assert!((0.85..1.0).contains(&(last.bps / capacity_bps)), "{results:?}");
        }
    }

    #[test]
    fn nothing_is_probed_beyond_what_is_wanted() {
        let results = probe(100e6, 2e6, 10_000);
        let best = results.iter().map(|result| result.bps).fold(0.0, f64::max);
        assert!((2e6..2.5e6).contains(&best), "{results:?}");
        assert!(results.len() <= 3, "{results:?}");
    }
}
