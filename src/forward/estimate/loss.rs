//! What losses say about the rate: whether they come of it, found out by sending less for a moment.
//!
//! draft-ietf-rmcat-gcc-02 §6 takes every loss above 10 % as congestion, and so starves on a radio link that
//! loses 15 % at any rate. libwebrtc fits a path model with an *inherent* loss to its recent past. Here the two
//! are told apart by experiment: when losses exceed what is known to be inherent, the rate is cut, by a fraction
//! for which congestion predicts clearly fewer losses. If they fall, they were ours, and the cut stays; if they
//! do not, they are the path's, and the cut is taken back.
//!
//! An experiment needs a sender that follows the rate. Who sends more than it may, because nothing smaller is to be
//! had, shows the capacity by what arrives. Who sends much less than it may is not what congests the path: only
//! losses that spoil the picture are then worth the cut, and seldom. But if it has a queue stand nevertheless, the rate
//! is a mistake.

use crate::time::Time;

/// Losses are judged over at least so many packets and so much time sent; over a second, few must do…
const WINDOW_US: u64 = 250_000;
const WINDOW_PACKETS: u32 = 20;
const WINDOW_LONG_US: u64 = 1_000_000;
const WINDOW_LONG_PACKETS: u32 = 5;
/// …and when most is lost, a shorter time.
const WINDOW_FLOOD_US: u64 = 80_000;
const FLOOD: f64 = 0.5;

/// More than this is never taken for inherent: no video survives it, and others need the path.
const INHERENT_MAX: f64 = 0.30;
/// Losses above the inherent ones that are worth an experiment, besides what chance explains.
const EXCESS: f64 = 0.05;
/// The same of a sender that is not at its limit, and how long after one experiment it has none again.
const EXCESS_LIMITED: f64 = 0.1;
const LIMITED_PAUSE_US: u64 = 30_000_000;
/// Who sends this much more than it may does not follow.
const UNHEEDED: f64 = 1.15;
/// What was allowed a window ago counts so much of what is allowed now: feedback tells of what was sent before.
const ALLOWED_BEFORE: f64 = 0.5;
/// How many standard deviations chance explains.
const SIGMAS: f64 = 2.5;
/// Weight of a window in what is known to be inherent.
const WEIGHT: f64 = 0.1;

/// The cut of an experiment, and of what floods the path.
const CUT: (f64, f64) = (0.7, 0.9);
/// The evidence, as the logarithm of a ratio of likelihoods, at which an experiment ends: 20 to 1.
const EVIDENCE: f64 = 3.0;
/// An experiment without a verdict by then, because nobody sends enough, ends as if losses were inherent: they
/// are not of a rate that nobody sends at.
const TRIAL_US_MAX: u64 = 3_000_000;
/// Losses that congestion leaves when it has ended, so that one late loss does not refute it.
const RESIDUAL: f64 = 0.02;
/// A rate that the cut changed less than this tells nothing.
const CUT_VISIBLE: f64 = 0.95;

/// Growth of the bound per second when losses have ended.
const RECOVERY_PER_S: f64 = 1.15;

/// The losses of packets sent in some stretch of time.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    from: Time,
    until: Time,
    packets: u32,
    lost: u32,
    bytes: u64,
    lost_bytes: u64,
}

impl Window {
    fn add(&mut self, sent: Time, bytes: u32, is_lost: bool) {
        if self.packets == 0 {
            self.from = sent;
        }
        self.until = self.until.max(sent);
        self.packets += 1;
        self.bytes += u64::from(bytes);
        if is_lost {
            self.lost += 1;
            self.lost_bytes += u64::from(bytes);
        }
    }

    fn span_us(&self) -> u64 {
        self.until.since(self.from)
    }

    fn is_complete(&self, app_limited: bool) -> bool {
        let is_enough = |us, packets| self.span_us() >= us && self.packets >= packets;
        if app_limited {
            return is_enough(WINDOW_LONG_US, WINDOW_PACKETS);
        }
        is_enough(WINDOW_US, WINDOW_PACKETS)
            || is_enough(WINDOW_LONG_US, WINDOW_LONG_PACKETS)
            || is_enough(WINDOW_FLOOD_US, WINDOW_PACKETS) && self.loss() > FLOOD
    }

    fn loss(&self) -> f64 {
        f64::from(self.lost) / f64::from(self.packets.max(1))
    }

    fn sent_bps(&self) -> f64 {
        self.bytes as f64 * 8e6 / self.span_us().max(1) as f64
    }

    fn carried_bps(&self) -> f64 {
        (self.bytes - self.lost_bytes) as f64 * 8e6 / self.span_us().max(1) as f64
    }

    /// What chance may add to losses of probability `p`.
    fn noise(&self, p: f64) -> f64 {
        SIGMAS * (p * (1.0 - p) / f64::from(self.packets.max(1))).sqrt()
    }

    /// How much likelier these losses are under probability `p` than under `q`, as a logarithm.
    fn evidence(&self, p: f64, q: f64) -> f64 {
        let arrived = f64::from(self.packets - self.lost);
        f64::from(self.lost) * (p / q).ln() + arrived * ((1.0 - p) / (1.0 - q)).ln()
    }
}

/// A cut under way, and what was before it.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// Packets sent from here on count.
    began: Time,
    before: Window,
    cut: f64,
    /// Less was sent than allowed.
    app_limited: bool,
}

/// The loss-based bound on the rate, in bits per second.
#[derive(Default)]
pub struct LossControl {
    window: Window,
    inherent: f64,
    bound_bps: Option<f64>,
    trial: Option<Trial>,
    /// Of the last packets more were lost than the path loses anyway.
    is_excessive: bool,
    /// What was allowed when the packets under judgement left, or more.
    allowed_bps: f64,
    /// Of a sender that is not at its limit.
    no_trial_before: Time,
}

/// What a verdict depends on besides the losses.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The rate that is allowed.
    pub target_bps: f64,
    /// The rate that would be, were it not for losses.
    pub unbounded_bps: f64,
    /// Whether less is sent than allowed.
    pub app_limited: bool,
    /// Whether packets wait before the bottleneck all the time.
    pub is_queued: bool,
    /// Whether delay has just shown congestion and been reacted to.
    pub delay_reacted: bool,
    pub rtt_us: u64,
}

impl LossControl {
    /// `None` while losses do not limit the rate.
    pub fn bound_bps(&self) -> Option<f64> {
        self.bound_bps
    }

    /// Losses are as expected, and do not limit the rate.
    pub fn is_calm(&self) -> bool {
        self.bound_bps.is_none() && !self.is_excessive
    }

    /// The fraction that the path loses at any rate.
    pub fn inherent(&self) -> f64 {
        self.inherent
    }

    /// A packet's fate, told in the order sent.
    pub fn add(&mut self, sent: Time, bytes: u32, is_lost: bool) {
        if self.trial.is_none_or(|trial| sent >= trial.began) {
            self.window.add(sent, bytes, is_lost);
        }
    }

    /// A packet told as lost has arrived after all.
    pub fn recovered(&mut self) {
        self.window.lost = self.window.lost.saturating_sub(1);
    }

    /// Judges the losses if enough packets have been told of. If they show what the path carries, and that less than
    /// is sent, returns the rate to go down to.
    pub fn update(&mut self, context: &Context, now: Time) -> Option<f64> {
        if let Some(trial) = self.trial {
            return self.conclude(&trial, now);
        }
        if !self.window.is_complete(context.app_limited) {
            return None;
        }
        let window = std::mem::take(&mut self.window);
        self.allowed_bps = context.target_bps.max(ALLOWED_BEFORE * self.allowed_bps);
        self.judge(&window, context, now)
    }

    fn judge(&mut self, window: &Window, context: &Context, now: Time) -> Option<f64> {
        let excess = window.loss() - self.inherent;
        let worth = if context.app_limited && !context.is_queued { EXCESS_LIMITED } else { EXCESS };
        self.is_excessive = excess > worth.max(window.noise(self.inherent.max(0.01)));
        if !self.is_excessive {
            self.recover(window, context, excess);
            return None;
        }
        let is_unheeded = window.sent_bps() > UNHEEDED * self.allowed_bps;
        let is_mistaken = context.app_limited && context.is_queued;
        if window.loss() > INHERENT_MAX + EXCESS || (is_unheeded || is_mistaken) && !context.delay_reacted {
            // This much is lost at a far too high rate only: what arrives is what the path carries.
            return Some(self.give_way(window));
        }
        let is_due = !context.app_limited || now >= self.no_trial_before;
        if is_due && !context.delay_reacted {
            self.begin_trial(window, context, now);
        }
        None
    }

    fn give_way(&mut self, window: &Window) -> f64 {
        self.bound_bps = None;
        window.carried_bps() * CUT.1
    }

    fn begin_trial(&mut self, window: &Window, context: &Context, now: Time) {
        let cut = (1.0 - 1.3 * (window.loss() - self.inherent)).clamp(CUT.0, CUT.1);
        // A cut above what is sent would change nothing.
        let sent_bps = if context.app_limited { window.sent_bps() } else { f64::MAX };
        self.bound_bps = Some(context.target_bps.min(sent_bps) * cut);
        // What the queue holds from before the cut has a round trip to leave.
        let began = now.plus_us(context.rtt_us.min(500_000));
        self.trial = Some(Trial { began, before: *window, cut, app_limited: context.app_limited });
        if context.app_limited {
            self.no_trial_before = now.plus_us(LIMITED_PAUSE_US);
        }
    }

    /// Ends the experiment when what came of it is clear.
    fn conclude(&mut self, trial: &Trial, now: Time) -> Option<f64> {
        let window = self.window;
        if window.packets == 0 && now.since(trial.began) < TRIAL_US_MAX {
            return None;
        }
        let seen = window.sent_bps() / trial.before.sent_bps().max(1.0);
        let is_measured = window.span_us() > WINDOW_US;
        let was_heeded = seen < CUT_VISIBLE;
        if is_measured && !was_heeded && !trial.app_limited && window.loss() > self.inherent + EXCESS {
            self.end_trial();
            return Some(self.give_way(&window));
        }
        let cut = if is_measured && was_heeded { seen.max(0.1) } else { trial.cut };
        // What congestion predicts: the path carries as much as before, of less.
        let lost_before = trial.before.loss();
        let of_the_rate =
            (1.0 - (1.0 - lost_before) / cut).max(self.inherent + RESIDUAL).min(0.9 * lost_before);
        let evidence = window.evidence(lost_before, of_the_rate);
        let is_over = now.since(trial.began) > TRIAL_US_MAX;
        if evidence > EVIDENCE || is_over {
            let (lost, packets) = (trial.before.lost + window.lost, trial.before.packets + window.packets);
            self.inherent = (f64::from(lost) / f64::from(packets.max(1))).min(INHERENT_MAX);
            self.bound_bps = None;
        } else if evidence > -EVIDENCE {
            return None;
        }
        self.end_trial();
        None
    }

    fn end_trial(&mut self) {
        self.trial = None;
        self.window = Window::default();
    }

    /// Losses are as expected: the bound makes way, and what is known to be inherent follows them.
    fn recover(&mut self, window: &Window, context: &Context, excess: f64) {
        if self.inherent > 0.0 {
            self.inherent = (self.inherent + WEIGHT * excess).clamp(0.0, INHERENT_MAX);
        }
        let Some(bound) = self.bound_bps else { return };
        let grown = bound * RECOVERY_PER_S.powf(window.span_us().min(2_000_000) as f64 / 1e6);
        // What is sent regardless of the bound and arrives is what the path carries.
        let grown = grown.max(window.carried_bps());
        self.bound_bps = (grown < context.unbounded_bps).then_some(grown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends at what is allowed over a path that loses a fraction of all and what is above its capacity.
    /// Returns the bound, or what is asked for, after some seconds.
    fn allowed_after(seconds: u64, asked_bps: f64, capacity_bps: f64, lost: f64) -> (f64, f64) {
        let mut control = LossControl::default();
        let (mut owed, mut random, mut asked) = (0.0, 1u64, asked_bps);
        let mut now = Time(1_000_000);
        let end = now.plus_ms(seconds * 1_000);
        while now < end {
            let rate = control.bound_bps().unwrap_or(asked).min(asked);
            let congested = (1.0 - capacity_bps / rate).max(0.0);
            for _ in 0..8 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let dice = (random >> 33) as f64 / (1u64 << 31) as f64;
                control.add(now, 1_000, dice < congested + (1.0 - congested) * lost);
                owed += 8_000.0 / rate * 1e6;
                let step = owed as u64;
                owed -= step as f64;
                now = now.plus_us(step);
            }
            let context = Context {
                target_bps: rate,
                unbounded_bps: asked,
                app_limited: false,
                is_queued: false,
                delay_reacted: false,
                rtt_us: 50_000,
            };
            if let Some(bps) = control.update(&context, now) {
                asked = bps;
            }
            asked = (asked * 1.002).min(asked_bps);
        }
        (control.bound_bps().unwrap_or(asked).min(asked), control.inherent())
    }

    #[test]
    fn losses_of_the_path_do_not_lower_the_rate() {
        for lost in [0.0, 0.02, 0.1, 0.2] {
            let (allowed, inherent) = allowed_after(10, 2e6, 1e9, lost);
            assert!(allowed > 1.9e6, "{allowed} at {lost}");
            assert!(inherent < lost + 0.12, "{inherent} at {lost}");
        }
    }

    #[test]
    fn losses_that_come_of_the_rate_lower_it_to_what_the_path_carries() {
        for lost in [0.0, 0.1] {
            let mut total = 0.0;
            for second in 10..20 {
                total += allowed_after(second, 4e6, 1e6, lost).0 / 10.0;
            }
            assert!((0.8e6..1.4e6).contains(&total), "{total} at {lost}");
        }
    }
}
