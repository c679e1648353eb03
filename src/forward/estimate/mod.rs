//! How much a subscriber's path carries, estimated on the sending side from what its receiver reports.
//!
//! Google Congestion Control (draft-ietf-rmcat-gcc-02, and libwebrtc's published behaviour where it goes beyond),
//! one estimator per session that receives video. In the order in which a feedback meets them: `history` says what
//! was sent, `groups` and `trend` see the queue before the bottleneck grow, `throughput` what arrives,
//! `aimd` turns the two into a rate, `loss` bounds it, and `probe` looks for more. Receivers without
//! transport-wide feedback tell their own estimate (REMB), which is then taken.
//!
//! Pure: `now` is an argument, and after construction nothing allocates. Deliberately absent: what to do with the
//! estimate, which is the allocator's, and what padding a probe consists of, which is the shard's.

mod aimd;
mod groups;
mod history;
mod loss;
mod probe;
mod throughput;
mod trend;

use crate::rtp::rtcp::TransportFeedback;
use crate::time::Time;
use aimd::{Observation, RateControl};
use groups::PacketGroups;
use history::{Outcome, SendHistory};
use loss::LossControl;
use probe::{Probing, Situation};
use throughput::Throughput;
use trend::{DelayTrend, Usage};

/// What a subscriber is believed to get before anything is known, as in libwebrtc.
pub const START_BPS: u64 = 300_000;
/// Below this no video is worth sending, and feedback would be too rare to find out that there is more.
pub const MIN_BPS: u64 = 50_000;

/// What a receiver's own estimate is worth at most: sums with it stay far from overflowing.
pub const MAX_BPS: u64 = 10_000_000_000;

/// A feedback that does not come although packets were sent: the path is gone or jammed.
const SILENCE_US: u64 = 1_000_000;
const SILENCE_FACTOR: f64 = 0.5;

/// Who sends less than the first part of the estimate is limited by what there is to send, until it
/// sends more than the second.
const APP_LIMITED: (f64, f64) = (0.65, 0.8);

/// After a decrease losses are of the queue that caused it for so long, beyond a round trip.
const DELAY_REACTED_US: u64 = 300_000;

/// A queue of so long is more than what frames and jitter make.
const STANDING_MS: f64 = 25.0;

/// How much faster than the estimate a pacer sends: a frame's packets leave within two thirds of its time, and fit
/// into the queue of a path whose buffer is short.
pub const PACING: f64 = 1.5;

/// A round trip until one is measured.
const RTT_ASSUMED_US: u64 = 100_000;

/// The estimator of one subscriber's path. All rates are of whole datagrams' payload: RTP header to SRTP tag.
pub struct SendSideEstimator {
    history: SendHistory,
    groups: PacketGroups,
    trend: DelayTrend,
    throughput: Throughput,
    rate: RateControl,
    loss: LossControl,
    probing: Probing,
    sending: SendRate,
    wanted_bps: f64,
    remb_bps: Option<f64>,
    /// The shortest recent time from sending a packet to hearing of it.
    rtt_us: Option<u64>,
    last_feedback: Option<Time>,
    /// Whether the receiver sends transport-wide feedback.
    is_answered: bool,
    /// The first packet sent since then.
    unanswered: Option<Time>,
}

impl SendSideEstimator {
    pub fn new(start_bps: u64) -> Self {
        Self {
            history: SendHistory::new(),
            groups: PacketGroups::default(),
            trend: DelayTrend::default(),
            throughput: Throughput::default(),
            rate: RateControl::new(start_bps as f64),
            loss: LossControl::default(),
            probing: Probing::default(),
            sending: SendRate::default(),
            wanted_bps: 0.0,
            remb_bps: None,
            rtt_us: None,
            last_feedback: None,
            is_answered: false,
            unanswered: None,
        }
    }

    /// The receiver has agreed to send transport-wide feedback: it can be probed.
    pub fn expect_feedback(&mut self) {
        self.is_answered = true;
    }

    /// What may be sent, in bits per second.
    pub fn available_bps(&self) -> u64 {
        let own = self.rate.bps().min(self.loss.bound_bps().unwrap_or(f64::MAX));
        let bps = match (self.last_feedback, self.remb_bps) {
            (None, Some(remb)) => remb,
            _ => own,
        };
        (bps as u64).clamp(MIN_BPS, MAX_BPS)
    }

    /// What there would be to send if the path carried all: probing goes no further.
    pub fn set_wanted_bps(&mut self, bps: u64) {
        self.wanted_bps = bps as f64;
    }

    /// Notes a packet that leaves. Returns the transport-wide sequence number that it must carry.
    pub fn on_sent(&mut self, bytes: usize, now: Time) -> u16 {
        let cluster = self.probing.on_sent(bytes);
        self.sending.add(bytes, now);
        self.unanswered = self.unanswered.or(Some(now));
        self.history.push(bytes, cluster, now)
    }

    /// Notes a packet that leaves without such a number, as audio's do.
    pub fn on_sent_beside(&mut self, bytes: usize, now: Time) {
        self.sending.add(bytes, now);
        self.history.push_beside(bytes);
    }

    /// Whether feedback tells of no more packets than are remembered. A few bytes can announce 65,535 of them, and
    /// who sends such ones over and over must not keep a shard busy.
    pub fn may_take(feedback: &TransportFeedback<'_>) -> bool {
        u64::from(feedback.status_count) <= history::WINDOW
    }

    /// Takes in transport-wide feedback.
    pub fn on_feedback(&mut self, feedback: &TransportFeedback<'_>, now: Time) {
        let Self { history, groups, trend, throughput, loss, probing, .. } = self;
        let mut newest = None;
        let arriving = 1.0 - loss.inherent();
        history.apply(feedback, now, |report| {
            probing.on_report(&report);
            let bytes = u32::from(report.bytes) + u32::from(report.beside);
            match report.outcome {
                Outcome::Untold => throughput.add_untimed(f64::from(bytes) * arriving),
                Outcome::Lost => loss.add(report.sent, bytes, true),
                Outcome::Received { was_told_lost: true, .. } => loss.recovered(),
                Outcome::Received { arrived_us, .. } => {
                    loss.add(report.sent, bytes, false);
                    throughput.add(bytes, arrived_us);
                    if let Some(delta) = groups.add(report.sent, arrived_us) {
                        trend.add(&delta);
                    }
                    newest = newest.max(Some(report.sent));
                }
            }
        });
        let Some(newest) = newest else { return };
        self.last_feedback = Some(now);
        self.is_answered = true;
        self.unanswered = None;
        self.note_round_trip(now.since(newest));
        self.update(now);
    }

    /// The receiver's own estimate (draft-alvestrand-rmcat-remb-03): taken if it sends no other feedback.
    pub fn on_remb(&mut self, bps: u64) {
        self.remb_bps = Some(bps as f64);
    }

    /// What follows from time alone: a probe begins, or silence is noticed. Wants to be called every second or
    /// after each feedback, and every millisecond while [`is_probing`](Self::is_probing).
    pub fn poll(&mut self, now: Time) {
        self.sending.roll(now);
        if self.last_feedback.is_some()
            && self.unanswered.is_some_and(|since| now.since(since) > SILENCE_US + 2 * self.rtt_us())
        {
            // What leaves from here on is waited for anew. If nothing does, silence says nothing more.
            self.unanswered = None;
            self.rate.back_off(SILENCE_FACTOR, now);
            self.probing.abandon();
        }
        if !self.is_answered {
            return; // Nothing would show what came of a probe.
        }
        let situation = Situation {
            estimate_bps: self.available_bps() as f64,
            wanted_bps: self.wanted_bps,
            is_calm: self.trend.usage() == Usage::Normal && self.loss.is_calm(),
            decreased: self.rate.decreased(),
        };
        self.probing.plan(&situation, now);
    }

    /// Whether a probe is being sent.
    pub fn is_probing(&self) -> bool {
        self.probing.is_running()
    }

    /// How many bytes of padding the probe lacks at this moment; 0 without one.
    pub fn probe_owed(&self, now: Time) -> usize {
        self.probing.owed(now).unwrap_or(0)
    }

    fn update(&mut self, now: Time) {
        let inherent = self.loss.inherent();
        let throughput_bps = self.throughput.bps().map(|bps| bps / (1.0 - inherent));
        let last_bps = self.throughput.last_bps().map(|bps| bps / (1.0 - inherent));
        let usage = self.trend.usage();
        self.sending.roll(now);
        let app_limited = self.sending.is_app_limited(self.available_bps() as f64);
        let rtt_us = self.rtt_us();
        let seen = Observation { usage, throughput_bps, last_bps, app_limited, rtt_us };
        let result = self.probing.result(inherent);
        if let Some(result) = result.filter(|result| result.is_saturated) {
            self.rate.saturated(result.bps, now);
        }
        if self.rate.update(&seen, now) {
            self.probing.was_misled();
        }
        if usage == Usage::Over {
            self.probing.abandon();
        }
        if let Some(result) = result
            && usage != Usage::Over
        {
            self.rate.probed(&result, &seen, now);
            self.throughput.expect_change();
        }
        let context = loss::Context {
            target_bps: self.available_bps() as f64,
            unbounded_bps: self.rate.bps(),
            app_limited,
            is_queued: self.trend.queued_ms() > STANDING_MS,
            delay_reacted: now.since(self.rate.decreased()) < DELAY_REACTED_US + rtt_us,
            rtt_us,
        };
        if let Some(bps) = self.loss.update(&context, now) {
            self.rate.lower_to(bps);
        }
        self.poll(now);
    }

    fn rtt_us(&self) -> u64 {
        self.rtt_us.unwrap_or(RTT_ASSUMED_US)
    }

    /// A minimum that forgets: the path may have become longer.
    fn note_round_trip(&mut self, us: u64) {
        let known = self.rtt_us.unwrap_or(us);
        self.rtt_us = Some(if us < known { us } else { known + (us - known) / 32 });
    }
}

/// What is being sent, over windows of a quarter of a second, and whether that is all we may.
#[derive(Default)]
struct SendRate {
    from: Time,
    bytes: u64,
    bps: f64,
    app_limited: bool,
}

impl SendRate {
    const WINDOW_US: u64 = 250_000;

    fn add(&mut self, bytes: usize, now: Time) {
        self.roll(now);
        self.bytes += bytes as u64;
    }

    fn roll(&mut self, now: Time) {
        let elapsed_us = now.since(self.from);
        if elapsed_us >= Self::WINDOW_US {
            let bps = self.bytes as f64 * 8e6 / elapsed_us as f64;
            self.bps = (self.bps + bps) / 2.0;
            self.bytes = 0;
            self.from = now;
        }
    }

    fn is_app_limited(&mut self, allowed_bps: f64) -> bool {
        let part = if self.app_limited { APP_LIMITED.1 } else { APP_LIMITED.0 };
        self.app_limited = self.bps < part * allowed_bps;
        self.app_limited
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::transport_cc::ArrivalRecorder;
    use crate::rtp::rtcp::{Packet, Writer, packets};

    const START: Time = Time(1_800_000_000_000_000);

    /// Sends a packet every 10 ms and lets the receiver report every 50 ms, 20 ms later, unless it is silent.
    fn run(estimator: &mut SendSideEstimator, from_ms: u64, until_ms: u64, bytes: usize, is_silent: bool) {
        let mut recorder = ArrivalRecorder::new();
        for ms in from_ms..until_ms {
            let now = START.plus_ms(ms);
            if ms % 10 == 0 {
                recorder.record(estimator.on_sent(bytes, now), now.plus_ms(20));
            }
            if ms % 50 == 49 && !is_silent {
                let mut buffer = [0; 1_200];
                let mut writer = Writer::new(&mut buffer);
                while recorder.feedback(&mut writer, 1, 2) {}
                for packet in packets(writer.finish()) {
                    let Ok(Packet::TransportFeedback { body, .. }) = packet else { panic!("{packet:?}") };
                    estimator.on_feedback(&TransportFeedback::parse(body).unwrap(), now.plus_ms(20));
                }
            }
            estimator.poll(now);
        }
    }

    #[test]
    fn receiver_without_transport_feedback_is_believed_its_own_estimate_and_not_probed() {
        let mut estimator = SendSideEstimator::new(START_BPS);
        estimator.set_wanted_bps(5_000_000);
        estimator.on_remb(1_234_000);
        run(&mut estimator, 0, 2_000, 400, true);
        assert_eq!(estimator.available_bps(), 1_234_000);
        assert!(!estimator.is_probing());
    }

    #[test]
    fn receiver_with_transport_feedback_is_not_asked_for_another_estimate() {
        let mut estimator = SendSideEstimator::new(START_BPS);
        estimator.on_remb(60_000);
        run(&mut estimator, 0, 1_000, 400, false);
        assert!(estimator.available_bps() >= START_BPS);
    }

    #[test]
    fn silence_of_a_receiver_halves_the_estimate_each_second() {
        let mut estimator = SendSideEstimator::new(1_000_000);
        run(&mut estimator, 0, 1_000, 1_250, false);
        let before = estimator.available_bps();
        run(&mut estimator, 1_000, 3_500, 1_250, true);
        let after = estimator.available_bps();
        assert!(after <= before / 4 && after >= MIN_BPS, "{before} to {after}");
    }

    #[test]
    fn silence_after_which_nothing_is_sent_costs_one_halving() {
        let mut estimator = SendSideEstimator::new(1_000_000);
        run(&mut estimator, 0, 1_000, 1_250, false);
        let before = estimator.available_bps();
        estimator.on_sent(1_250, START.plus_ms(1_000));
        for ms in 1_000..61_000 {
            estimator.poll(START.plus_ms(ms));
        }
        assert_eq!(estimator.available_bps(), before / 2);
    }

    #[test]
    fn absurd_estimates_of_a_receiver_are_bounded() {
        let mut estimator = SendSideEstimator::new(START_BPS);
        for (said, taken) in [(u64::MAX, MAX_BPS), (0, MIN_BPS)] {
            estimator.on_remb(said);
            assert_eq!(estimator.available_bps(), taken);
        }
    }

    #[test]
    fn feedback_that_announces_more_packets_than_are_remembered_is_not_taken() {
        for (count, is_taken) in [(2_048, true), (2_049, false), (0x1fff, false)] {
            // Base 1, `count` statuses, reference time 0, feedback 0, one run of "not received".
            let mut body = vec![0, 1];
            body.extend_from_slice(&u16::to_be_bytes(count));
            body.extend_from_slice(&[0, 0, 0, 0]);
            body.extend_from_slice(&u16::to_be_bytes(count));
            let feedback = TransportFeedback::parse(&body).unwrap();
            assert_eq!(SendSideEstimator::may_take(&feedback), is_taken, "{count}");
        }
    }

    #[test]
    fn who_sends_little_keeps_its_estimate_and_probes_only_for_what_is_wanted() {
        let mut estimator = SendSideEstimator::new(1_000_000);
        run(&mut estimator, 0, 5_000, 250, false);
        assert_eq!(estimator.available_bps(), 1_000_000);
        assert!(!estimator.is_probing(), "nothing is wanted");
        estimator.set_wanted_bps(1_500_000);
        estimator.poll(START.plus_ms(5_001));
        assert!(estimator.is_probing());
        let mut bytes = 0;
        for ms in 5_001..5_100 {
            let now = START.plus_ms(ms);
            while estimator.probe_owed(now) > 0 {
                estimator.on_sent(1_000, now);
                bytes += 1_000;
            }
        }
        let cluster_bytes = 1_500_000 * 12 / 10 * 15 / 8_000;
        assert!((cluster_bytes..cluster_bytes + 5_000).contains(&bytes), "{bytes} of {cluster_bytes}");
    }
}
