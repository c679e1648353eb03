//! What the bandwidth estimator claims, over simulated paths whose capacity is known, and how str0m's fares there.
//!
//! `cargo test --test estimate -- --nocapture` prints the table of the comparison; with `FANLINE_ESTIMATE_JSON=FILE` it is
//! written as JSON too, for `scripts/video-report`. All is in virtual time and seeded: `FANLINE_SIM_SEED=N` runs another
//! draw.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure, in its helpers too")]

mod ours;
mod path;
mod recorded;
mod reno;
mod theirs;

use ours::Ours;
use path::{Conditions, Encoder, Trace, run};
use serde::Serialize;
use serde_json::json;
use theirs::Theirs;

/// More than any path here carries.
const WANTED_BPS: f64 = 20e6;

fn ours(conditions: Conditions) -> Trace {
    run(&mut Ours::new(WANTED_BPS), &conditions)
}

fn at(capacity: fn(f64) -> f64) -> Conditions {
    let seed = std::env::var("FANLINE_SIM_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    Conditions { seed, ..Conditions::constant(capacity) }
}

#[test]
fn most_of_a_bottleneck_is_found_within_five_seconds_and_kept() {
    let capacities: [fn(f64) -> f64; 3] = [|_| 1e6, |_| 3e6, |_| 10e6];
    for capacity in capacities {
        for rtt_ms in [10, 50, 100, 300] {
            let trace = ours(Conditions { rtt_ms, ..at(capacity) });
            let found_s = trace.first(0.0, |s| s.estimate_bps >= 0.85 * s.capacity_bps);
            assert!(found_s.is_some_and(|s| s <= 5.0), "{found_s:?} at {} and {rtt_ms} ms", capacity(0.0));
            for second in 5..20 {
                let used = trace.used(f64::from(second), f64::from(second) + 1.0);
                assert!(used > 0.8, "{used} in second {second} at {} and {rtt_ms} ms", capacity(0.0));
            }
            assert!(trace.used(5.0, 20.0) > 0.85);
            let queued_ms = trace.mean(5.0, 20.0, |s| s.queued_ms);
            assert!(queued_ms < 60.0, "{queued_ms} ms at {}", capacity(0.0));
        }
    }
}

#[test]
fn a_drop_of_the_capacity_is_followed_within_a_second() {
    let drops: [fn(f64) -> f64; 4] = [
        |s| if s < 10.0 { 3e6 } else { 1e6 },
        |s| if s < 10.0 { 10e6 } else { 3e6 },
        |s| if s < 10.0 { 10e6 } else { 0.3e6 },
        |s| if s < 10.0 { 1e6 } else { 0.5e6 },
    ];
    for capacity in drops {
        for queue_ms in [50, 300, 1_000] {
            let trace = ours(Conditions { queue_ms, ..at(capacity) });
            let below_s = trace.first(10.0, |s| s.estimate_bps <= s.capacity_bps);
            assert!(
                below_s.is_some_and(|s| s <= 11.0),
                "{below_s:?} to {} over {queue_ms} ms",
                capacity(10.0)
            );
        }
    }
}

#[test]
fn a_rise_of_the_capacity_is_found_within_seconds() {
    let trace = ours(at(|s| if s < 10.0 { 1e6 } else { 3e6 }));
    let found_s = trace.first(10.0, |s| s.estimate_bps >= 0.85 * s.capacity_bps);
    assert!(found_s.is_some_and(|s| s <= 16.0), "{found_s:?}");
}

#[test]
fn flow_beside_tcp_keeps_a_fair_part_of_the_path_and_leaves_one() {
    for queue_ms in [100, 300] {
        let trace = ours(Conditions { queue_ms, cross_traffic: true, seconds: 60, ..at(|_| 4e6) });
        let part = trace.mean(10.0, 60.0, |s| s.delivered_bps / s.capacity_bps);
        let others = trace.mean(10.0, 60.0, |s| s.cross_bps / s.capacity_bps);
        assert!(part > 0.2 && others > 0.2, "{part} beside {others} over {queue_ms} ms");
    }
}

#[test]
fn neither_jitter_nor_losses_by_chance_make_the_estimate_collapse() {
    for jitter_ms in [5, 10, 30] {
        let trace = ours(Conditions { jitter_ms, ..at(|_| 3e6) });
        let used = trace.used(5.0, 20.0);
        assert!(used > 0.8, "{used} with {jitter_ms} ms of jitter");
    }
    for (loss, least) in [(0.01, 0.85), (0.05, 0.8), (0.1, 0.7), (0.2, 0.5)] {
        let trace = ours(Conditions { loss, ..at(|_| 3e6) });
        let used = trace.used(5.0, 20.0);
        assert!(used > least, "{used} with {loss} lost");
    }
}

#[test]
fn estimate_follows_a_capacity_that_comes_and_goes() {
    let trace = ours(Conditions { seconds: 60, ..at(|s| 0.5e6 + 2.5e6 * (s % 20.0 / 10.0 - 1.0).abs()) });
    let (used, queued_ms) = (trace.used(5.0, 60.0), trace.mean(5.0, 60.0, |s| s.queued_ms));
    assert!(used > 0.7 && queued_ms < 100.0, "{used}, {queued_ms} ms");
}

/// What is compared, in the order of the table's columns.
#[derive(Serialize)]
struct Figures {
    /// Mean of |estimate − capacity| as a part of the capacity.
    error: f64,
    used: f64,
    delivered: f64,
    queued_ms: f64,
}

impl Figures {
    fn of(trace: &Trace, seconds: u64) -> Self {
        let (from, to) = (3.0, seconds as f64);
        Self {
            error: trace.mean(from, to, |s| (s.estimate_bps / s.capacity_bps - 1.0).abs()),
            used: trace.used(from, to),
            delivered: trace.mean(from, to, |s| s.delivered_bps / s.capacity_bps),
            queued_ms: trace.mean(from, to, |s| s.queued_ms),
        }
    }
}

fn least_and_most(least_bps: f64, most_bps: f64) -> Encoder {
    Encoder { least_bps, most_bps }
}

fn paths() -> Vec<(&'static str, Conditions)> {
    let tcp = |queue_ms| Conditions { queue_ms, cross_traffic: true, seconds: 60, ..at(|_| 4e6) };
    let limited = |loss, rtt_ms| Conditions {
        loss,
        rtt_ms,
        source: least_and_most(0.0, 0.8e6),
        seconds: 40,
        ..at(|_| 10e6)
    };
    let overloaded =
        |least_bps, queue_ms| Conditions { queue_ms, source: least_and_most(least_bps, 20e6), ..at(|_| 1e6) };
    vec![
        ("0.3 Mb/s", at(|_| 0.3e6)),
        ("1 Mb/s", at(|_| 1e6)),
        ("3 Mb/s", at(|_| 3e6)),
        ("10 Mb/s", at(|_| 10e6)),
        ("1 Mb/s, rtt 300 ms", Conditions { rtt_ms: 300, ..at(|_| 1e6) }),
        ("3 Mb/s, rtt 300 ms", Conditions { rtt_ms: 300, ..at(|_| 3e6) }),
        ("10 Mb/s, rtt 10 ms", Conditions { rtt_ms: 10, ..at(|_| 10e6) }),
        ("3 Mb/s, 1 % lost", Conditions { loss: 0.01, ..at(|_| 3e6) }),
        ("3 Mb/s, 5 % lost", Conditions { loss: 0.05, ..at(|_| 3e6) }),
        ("3 Mb/s, 10 % lost", Conditions { loss: 0.1, ..at(|_| 3e6) }),
        ("3 Mb/s, 20 % lost", Conditions { loss: 0.2, ..at(|_| 3e6) }),
        ("1 Mb/s, 20 % lost", Conditions { loss: 0.2, ..at(|_| 1e6) }),
        ("3 Mb/s, jitter 10 ms", Conditions { jitter_ms: 10, ..at(|_| 3e6) }),
        ("3 Mb/s, jitter 30 ms", Conditions { jitter_ms: 30, ..at(|_| 3e6) }),
        ("3 Mb/s, queue 50 ms", Conditions { queue_ms: 50, ..at(|_| 3e6) }),
        ("3 Mb/s, queue 20 ms", Conditions { queue_ms: 20, ..at(|_| 3e6) }),
        ("3 to 1 to 3 Mb/s", at(|s| if (7.0..14.0).contains(&s) { 1e6 } else { 3e6 })),
        ("10 to 0.3 to 3 Mb/s", at(|s| [10e6, 0.3e6, 3e6][(s / 7.0) as usize])),
        (
            "sawtooth 3-0.5 Mb/s",
            Conditions { seconds: 40, ..at(|s| 0.5e6 + 2.5e6 * (s % 10.0 / 5.0 - 1.0).abs()) },
        ),
        ("10 Mb/s for 0.8", limited(0.0, 10)),
        ("10 Mb/s for 0.8, 1 %", limited(0.01, 50)),
        ("10 Mb/s for 0.8, 5 %", limited(0.05, 50)),
        ("10 Mb/s for 0.8, 10 %", limited(0.1, 50)),
        ("10 Mb/s for 0.1, 5 %", Conditions { source: least_and_most(0.0, 0.1e6), ..limited(0.05, 50) }),
        ("1 Mb/s for 1.3", overloaded(1.3e6, 300)),
        ("1 Mb/s for 2", overloaded(2e6, 300)),
        ("1 Mb/s for 4", overloaded(4e6, 300)),
        ("1 Mb/s for 1.3, 50 ms", overloaded(1.3e6, 50)),
        ("1 Mb/s for 2, 50 ms", overloaded(2e6, 50)),
        ("0.1 Mb/s for 0.13", Conditions { source: least_and_most(0.13e6, 20e6), ..at(|_| 0.1e6) }),
        ("1 Mb/s, 300 ms, 10 %", Conditions { rtt_ms: 300, loss: 0.1, ..at(|_| 1e6) }),
        ("TCP, 4 Mb/s, 100 ms", tcp(100)),
        ("TCP, 4 Mb/s, 300 ms", tcp(300)),
    ]
}

#[test]
fn estimates_are_no_worse_than_those_of_str0m_on_any_path() {
    println!("{:<22}{:>15}{:>15}{:>15}{:>15}", "ours / str0m's", "error", "used", "delivered", "queue, ms");
    let (mut compared, mut worse) = (Vec::new(), Vec::new());
    for (name, conditions) in paths() {
        let ours = Figures::of(&ours(conditions), conditions.seconds);
        let theirs = Figures::of(&run(&mut Theirs::new(WANTED_BPS), &conditions), conditions.seconds);
        compared.push(json!({ "path": name, "ours": ours, "theirs": theirs }));
        let pair = |of: fn(&Figures) -> f64| format!("{:.2} / {:.2}", of(&ours), of(&theirs));
        println!(
            "{name:<22}{:>15}{:>15}{:>15}{:>15}",
            pair(|f| f.error),
            pair(|f| f.used),
            pair(|f| f.delivered),
            format!("{:.0} / {:.0}", ours.queued_ms, theirs.queued_ms),
        );
        let shorter_queue = ours.queued_ms < 0.8 * theirs.queued_ms;
        let is_used = ours.used >= theirs.used - if shorter_queue { 0.08 } else { 0.05 };
        if ours.error > theirs.error + 0.05 || !is_used {
            worse.push(name);
        }
    }
    if let Some(file) = std::env::var_os("FANLINE_ESTIMATE_JSON") {
        std::fs::write(file, json!(compared).to_string()).unwrap();
    }
    assert!(worse.is_empty(), "{worse:?}");
}
