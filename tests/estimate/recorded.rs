//! What real browsers said of what they received over a link of known rate, told to the estimator again.
//!
//! A recording (`recordings/`) has a line for each thing that the estimator of a session was told, with the
//! microseconds since the line before:
//!
//! | line | is |
//! |---|---|
//! | `l US KBPS` | the link carries this from now on, headers of IPv4 and UDP included |
//! | `e US` | `expect_feedback` |
//! | `w US BPS` | `set_wanted_bps` |
//! | `s US BYTES` | `on_sent` |
//! | `b US BYTES` | `on_sent_beside` |
//! | `f US HEX` | `on_feedback`: the body of the RTCP packet |
//!
//! It is replayed open loop: what was sent does not follow what is estimated now. To record anew, have these functions
//! of `SendSideEstimator`, and the call of `on_feedback` in `shard/ingress.rs`, write such lines to a file, serve with
//! that a browser behind `startLink` of `tests/browser/impairer.js`, and add the moments at which its rate was set.
//! The sequence numbers start at 0, so a recording starts with its session.

use fanline::forward::estimate::{START_BPS, SendSideEstimator};
use fanline::rtp::rtcp::TransportFeedback;
use fanline::time::Time;

const START: Time = Time(1_800_000_000_000_000);
/// IPv4 and UDP.
const HEADERS_BYTES: u64 = 28;

/// Encodings come in steps. While the one that fits needs less than the link carries, nothing shows by how much, and
/// the estimate rises until a probe, or the next larger encoding, fills the queue.
const MOST: f64 = 1.4;

/// A stretch of time in which the link carried the same.
struct Phase {
    from: Time,
    link_bps: f64,
    packets: u64,
    bytes: u64,
    /// What was estimated after each feedback.
    estimates: Vec<(Time, f64)>,
}

impl Phase {
    /// What the link carried of what is estimated, which excludes headers.
    fn capacity_bps(&self) -> f64 {
        self.link_bps * self.bytes as f64 / (self.bytes + HEADERS_BYTES * self.packets) as f64
    }

    /// The estimates as parts of the capacity, from so long after the phase's start on.
    fn parts(&self, after_us: u64) -> impl Iterator<Item = f64> {
        let late = self.estimates.iter().filter(move |(at, _)| at.since(self.from) >= after_us);
        late.map(|(_, bps)| bps / self.capacity_bps())
    }

    /// How long it took to the first estimate that the link carries.
    fn obeyed_after_us(&self) -> Option<u64> {
        let found = self.estimates.iter().find(|(_, bps)| *bps <= self.capacity_bps());
        found.map(|(at, _)| at.since(self.from))
    }
}

fn replay(recording: &str) -> Vec<Phase> {
    let mut estimator = SendSideEstimator::new(START_BPS);
    let (mut now, mut phases) = (START, Vec::<Phase>::new());
    for line in recording.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let (kind, us) = (words.next().unwrap(), words.next().unwrap());
        let value = words.next().unwrap_or_default();
        advance(&mut estimator, &mut now, us.parse().unwrap());
        if kind == "l" {
            let link_bps = value.parse::<f64>().unwrap() * 1e3;
            phases.push(Phase { from: now, link_bps, packets: 0, bytes: 0, estimates: Vec::new() });
            continue;
        }
        tell(&mut estimator, kind, value, now);
        let phase = phases.last_mut().expect("a link before what it carries");
        match kind {
            "s" | "b" => {
                phase.packets += 1;
                phase.bytes += value.parse::<u64>().unwrap();
            }
            "f" => phase.estimates.push((now, estimator.available_bps() as f64)),
            _ => {}
        }
    }
    phases
}

/// Lets time pass as a shard does, which polls every millisecond of a probe.
fn advance(estimator: &mut SendSideEstimator, now: &mut Time, us: u64) {
    let until = now.plus_us(us);
    while estimator.is_probing() && now.plus_us(1_000) < until {
        *now = now.plus_us(1_000);
        estimator.poll(*now);
    }
    *now = until;
    estimator.poll(until);
}

fn tell(estimator: &mut SendSideEstimator, kind: &str, value: &str, now: Time) {
    match kind {
        "e" => estimator.expect_feedback(),
        "w" => estimator.set_wanted_bps(value.parse().unwrap()),
        "s" => _ = estimator.on_sent(value.parse().unwrap(), now),
        "b" => estimator.on_sent_beside(value.parse().unwrap(), now),
        "f" => {
            let body = unhex(value);
            estimator.on_feedback(&TransportFeedback::parse(&body).unwrap(), now);
        }
        _ => panic!("{kind} in a recording"),
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn feedback_of_browsers_shows_what_their_link_carries_and_that_it_carries_less() {
    for (name, recording) in [
        ("chromium", include_str!("recordings/chromium.txt")),
        ("firefox", include_str!("recordings/firefox.txt")),
    ] {
        let phases = replay(recording);
        assert_eq!(phases.len(), 2, "{name}");
        for phase in &phases {
            let half_us = phase.estimates.last().unwrap().0.since(phase.from) / 2;
            let (least, most) =
                phase.parts(half_us).fold((f64::MAX, 0.0), |(least, most), p| (p.min(least), p.max(most)));
            let mean = phase.parts(half_us).sum::<f64>() / phase.parts(half_us).count() as f64;
            let capacity_bps = phase.capacity_bps();
            println!("{name} at {capacity_bps:.0} b/s: {least:.2} to {most:.2}, on average {mean:.2}");
            assert!(least > 0.5 && most < MOST, "{name}: {least} to {most} of {capacity_bps}");
            assert!((0.8..1.15).contains(&mean), "{name}: {mean} of {capacity_bps}");
        }
        let obeyed_us = phases[1].obeyed_after_us();
        println!("{name} obeys after {obeyed_us:?} µs");
        assert!(obeyed_us.is_some_and(|us| us < 1_200_000), "{name}: {obeyed_us:?}");
    }
}
