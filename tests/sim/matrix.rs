//! Video over every kind of path: losses, round trips and capacities, each with each.
//!
//! What a viewer of a simulcast gets of it, as a table. By default a few of the paths; all ninety with
//! `FANLINE_SIM_MATRIX=all cargo test --test sim matrix -- --nocapture`.

use std::collections::BTreeMap;
use std::time::Duration;

use fanline::io::sim::{Link, Rate};
use fanline::time::Time;

use crate::media::{Arrival, CAMERA, Shape};
use crate::world::{Who, World};

/// About 170, 400 and 780 kb/s on the wire.
const ENCODINGS: [(&str, Shape); 3] = [
    ("q", Shape { payload_bytes: 200, ..CAMERA }),
    ("h", Shape { payload_bytes: 500, ..CAMERA }),
    ("f", CAMERA),
];

const SECONDS: u64 = 20;
/// Of which the first are for finding the capacity.
const SETTLING_S: u64 = 5;

/// A pause between pictures that a viewer sees as a freeze (as libwebrtc: a picture's time and 150 ms).
const FREEZE_US: u64 = 33_333 + 150_000;

/// The capacity in bits per second at a second of the run.
type Capacity = (&'static str, fn(f64) -> f64);

const CAPACITIES: [Capacity; 6] = [
    ("0.3 Mb/s", |_| 0.3e6),
    ("1 Mb/s", |_| 1e6),
    ("3 Mb/s", |_| 3e6),
    ("10 Mb/s", |_| 10e6),
    ("step 3-0.5", |s| if s < 10.0 { 3e6 } else { 0.5e6 }),
    ("sawtooth", |s| 0.3e6 + 2.2e6 * (s % 10.0 / 5.0 - 1.0).abs()),
];

/// What a viewer got.
struct Outcome {
    /// Of the pictures that were sent while it watched, those that came whole.
    whole: f64,
    frozen_ms: u64,
    switches: usize,
    /// Means over the run, in bits per second.
    estimate_bps: f64,
    capacity_bps: f64,
    received_bps: f64,
}

fn watch(seed: u64, loss: f64, rtt_ms: u64, capacity: fn(f64) -> f64) -> Outcome {
    let mut world = World::new(seed, 1);
    let [ann, bob] = [world.join(), world.join()];
    world.publish_simulcast(ann, "camera", &ENCODINGS);
    let mid = world.pull(bob, &[(ann, "camera")])[0];
    let began = world.now;
    let (mut estimates, mut capacities) = (Vec::new(), Vec::new());
    for tenth in 0..SECONDS * 10 {
        let bps = capacity(tenth as f64 / 10.0);
        shape_path(&mut world, bob, loss, rtt_ms, bps);
        world.run_ms(100);
        if tenth >= SETTLING_S * 10 {
            let estimate = world.state(bob).unwrap().available_bitrate_bps;
            estimates.push(estimate.unwrap() as f64);
            capacities.push(bps);
        }
    }
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let from = began.plus_ms(SETTLING_S * 1_000);
    let sink = world.sink(bob, mid);
    assert_eq!(sink.damaged, 0);
    let arrivals: Vec<_> = sink.arrivals.iter().filter(|arrival| arrival.note.sent >= from).collect();
    let pictures = whole_pictures(&arrivals);
    let watched_us = (SECONDS - SETTLING_S) * 1_000_000;
    let mut switches: Vec<_> = arrivals.iter().map(|arrival| arrival.bytes).collect();
    switches.dedup();
    Outcome {
        whole: pictures.len() as f64 / (watched_us as f64 / 33_333.0),
        frozen_ms: frozen_us(&pictures, from, world.now) / 1_000,
        switches: switches.len().saturating_sub(1),
        estimate_bps: mean(&estimates),
        capacity_bps: mean(&capacities),
        received_bps: arrivals.iter().map(|a| a.bytes as f64 * 8e6).sum::<f64>() / watched_us as f64,
    }
}

fn shape_path(world: &mut World, viewer: Who, loss: f64, rtt_ms: u64, bitrate_bps: f64) {
    let delay = Duration::from_micros(rtt_ms * 500);
    let queue_bytes = (bitrate_bps * 0.3 / 8.0) as u64;
    let rate = Some(Rate { bitrate_bps: bitrate_bps as u64, queue_bytes });
    world.set_downlink(viewer, Link { delay, loss, rate, ..Link::default() });
    world.set_uplink(viewer, Link { delay, loss, ..Link::default() });
}

/// When each picture of which every packet came was complete, in order.
fn whole_pictures(arrivals: &[&Arrival]) -> Vec<Time> {
    let mut pictures: BTreeMap<(usize, u32), (u32, Time)> = BTreeMap::new();
    for arrival in arrivals {
        let picture = pictures.entry((arrival.bytes, arrival.note.frame)).or_insert((0, Time(0)));
        let packets = if arrival.note.key { CAMERA.packets_per_key_frame } else { CAMERA.packets_per_frame };
        picture.0 += 1;
        if picture.0 == packets {
            picture.1 = arrival.at;
        }
    }
    let mut whole: Vec<_> = pictures.into_values().map(|(_, at)| at).filter(|at| *at != Time(0)).collect();
    whole.sort();
    whole
}

fn frozen_us(pictures: &[Time], from: Time, until: Time) -> u64 {
    let moments: Vec<_> = [from].into_iter().chain(pictures.iter().copied()).chain([until]).collect();
    moments.windows(2).map(|pair| pair[1].since(pair[0])).filter(|pause| *pause > FREEZE_US).sum()
}

#[test]
fn viewers_see_what_their_path_carries() {
    let is_full = std::env::var("FANLINE_SIM_MATRIX").is_ok_and(|which| which == "all");
    let seed = std::env::var("FANLINE_SIM_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("seed {seed}, {} of {SECONDS} s, a queue of 300 ms", SECONDS - SETTLING_S);
    println!(
        "{:<12}{:>6}{:>8}{:>9}{:>11}{:>10}{:>12}{:>12}{:>11}",
        "capacity", "loss", "rtt, ms", "pictures", "frozen, ms", "switches", "estimate", "of", "received"
    );
    for (name, capacity) in CAPACITIES {
        for loss in [0.0, 0.01, 0.05, 0.1, 0.2] {
            for rtt_ms in [10, 100, 300] {
                let is_sample = rtt_ms == 100 && [0.0, 0.05].contains(&loss);
                if !(is_full || is_sample) {
                    continue;
                }
                let seen = watch(seed, loss, rtt_ms, capacity);
                println!(
                    "{name:<12}{:>5}%{rtt_ms:>8}{:>8.0}%{:>11}{:>10}{:>9.2} Mb{:>9.2} Mb{:>8.2} Mb",
                    loss * 100.0,
                    seen.whole * 100.0,
                    seen.frozen_ms,
                    seen.switches,
                    seen.estimate_bps / 1e6,
                    seen.capacity_bps / 1e6,
                    seen.received_bps / 1e6,
                );
                if seen.capacity_bps >= 1e6 && loss <= 0.01 && !name.starts_with(['s']) {
                    assert!(seen.whole > 0.95, "{name}, {loss} lost, {rtt_ms} ms: {} whole", seen.whole);
                }
            }
        }
    }
}
