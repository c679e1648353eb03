//! Video over every kind of path: losses, round trips and capacities, each with each.
//!
//! What a viewer of a simulcast gets of it, as a table. By default a few of the paths; all ninety with
//! `FANLINE_SIM_MATRIX=all cargo test --test sim matrix -- --nocapture`. With `FANLINE_SIM_MATRIX_JSON=FILE` also as
//! JSON, of which `scripts/video-report` makes tables and plots.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fanline::control::request::{RidOrder, Simulcast};
use fanline::io::sim::{Link, Rate};
use fanline::time::Time;
use serde::Serialize;
use serde_json::json;

use crate::media::{Arrival, CAMERA, Shape};
use crate::world::{Who, World};

/// About 170, 386 and 746 kb/s on the wire.
const ENCODINGS: [(&str, Shape); 3] = [
    ("q", Shape { payload_bytes: 200, ..CAMERA }),
    ("h", Shape { payload_bytes: 500, ..CAMERA }),
    ("f", CAMERA),
];

/// Of each packet beside its payload, as the server counts it.
const OVERHEAD_BYTES: u64 = 36;

/// The estimate from which on the highest of these is chosen: it must fit 87 % of it.
const BEST_CHOSEN_BPS: u64 =
    8 * 30 * CAMERA.packets_per_frame as u64 * (CAMERA.payload_bytes as u64 + OVERHEAD_BYTES) * 100 / 87;

const SECONDS: u64 = 20;
/// Of which the first are for finding the capacity.
const SETTLING_S: u64 = 5;

/// Until what was sent last is there: the longest way, the queue, and a retransmission.
const ON_THE_WAY_MS: u64 = 1_000;

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

/// Where a viewer sits.
#[derive(Clone, Copy)]
struct Path {
    capacity: Capacity,
    loss: f64,
    rtt_ms: u64,
}

/// What a viewer got.
#[derive(Serialize)]
struct Outcome {
    capacity: &'static str,
    loss: f64,
    rtt_ms: u64,
    /// Of the pictures that were sent while it watched, those that came whole.
    whole: f64,
    frozen_ms: u64,
    switches: usize,
    /// Means over the run, in bits per second.
    estimate_bps: f64,
    capacity_bps: f64,
    received_bps: f64,
    /// Each tenth of a second from the very beginning.
    samples: Vec<Sample>,
}

/// In bits per second.
#[derive(Clone, Copy, Serialize)]
struct Sample {
    estimate_bps: f64,
    capacity_bps: f64,
    received_bps: f64,
}

fn watch(seed: u64, Path { capacity: (name, capacity), loss, rtt_ms }: Path) -> Outcome {
    let mut world = World::new(seed, 1);
    let [ann, bob] = [world.join(), world.join()];
    world.publish_simulcast(ann, "camera", &ENCODINGS);
    let mid = world.pull(bob, &[(ann, "camera")])[0];
    let fitting = Simulcast { priority_ordering: RidOrder::Asciibetical, ..Simulcast::default() };
    world.update(bob, Some(mid), (ann, "camera"), Some(fitting));
    let began = world.now;
    let mut samples = Vec::new();
    for tenth in 0..SECONDS * 10 {
        let capacity_bps = capacity(tenth as f64 / 10.0);
        shape_path(&mut world, bob, loss, rtt_ms, capacity_bps);
        while world.now < began.plus_ms((tenth + 1) * 100) {
            world.step();
        }
        let estimate_bps = world.state(bob).unwrap().available_bitrate_bps.unwrap() as f64;
        samples.push(Sample { estimate_bps, capacity_bps, received_bps: 0.0 });
    }
    world.run_ms(ON_THE_WAY_MS);
    let sink = world.sink(bob, mid);
    assert_eq!(sink.damaged, 0);
    for arrival in &sink.arrivals {
        let tenth = arrival.at.since(began) / 100_000;
        if let Some(sample) = samples.get_mut(tenth as usize) {
            sample.received_bps += arrival.bytes as f64 * 80.0;
        }
    }
    let settled = &samples[SETTLING_S as usize * 10..];
    let mean = |of: fn(&Sample) -> f64| settled.iter().map(of).sum::<f64>() / settled.len() as f64;
    let (from, until) = (began.plus_ms(SETTLING_S * 1_000), began.plus_ms(SECONDS * 1_000));
    let is_watched = |arrival: &&Arrival| (from..until).contains(&arrival.note.sent);
    let arrivals: Vec<_> = sink.arrivals.iter().filter(is_watched).collect();
    let pictures = whole_pictures(&arrivals);
    let delay = Duration::from_micros(rtt_ms * 500);
    let mut encodings: Vec<_> = pictures.iter().map(|picture| picture.payload_bytes).collect();
    encodings.dedup();
    Outcome {
        capacity: name,
        loss,
        rtt_ms,
        whole: pictures.len() as f64 / (until.since(from) / CAMERA.interval_us) as f64,
        frozen_ms: frozen_us(&pictures, from + delay, until + delay) / 1_000,
        switches: encodings.len().saturating_sub(1),
        estimate_bps: mean(|sample| sample.estimate_bps),
        capacity_bps: mean(|sample| sample.capacity_bps),
        received_bps: mean(|sample| sample.received_bps),
        samples,
    }
}

fn shape_path(world: &mut World, viewer: Who, loss: f64, rtt_ms: u64, bitrate_bps: f64) {
    let delay = Duration::from_micros(rtt_ms * 500);
    let queue_bytes = (bitrate_bps * 0.3 / 8.0) as u64;
    let rate = Some(Rate { bitrate_bps: bitrate_bps as u64, queue_bytes });
    world.set_downlink(viewer, Link { delay, loss, rate, ..Link::default() });
    world.set_uplink(viewer, Link { delay, loss, ..Link::default() });
}

/// A picture of which every packet came.
struct Picture {
    /// Of each packet, which tells the encoding.
    payload_bytes: usize,
    /// When it was complete.
    at: Time,
}

/// In the order in which they were taken, not that of their arrival: a late retransmission is no switch.
fn whole_pictures(arrivals: &[&Arrival]) -> Vec<Picture> {
    let mut counts: BTreeMap<(usize, u32), u32> = BTreeMap::new();
    let mut pictures: BTreeMap<u32, Picture> = BTreeMap::new();
    for arrival in arrivals {
        let count = counts.entry((arrival.bytes, arrival.note.frame)).or_default();
        let packets = if arrival.note.key { CAMERA.packets_per_key_frame } else { CAMERA.packets_per_frame };
        *count += 1;
        if *count == packets {
            let picture = Picture { payload_bytes: arrival.bytes, at: arrival.at };
            pictures.entry(arrival.note.frame).or_insert(picture);
        }
    }
    pictures.into_values().collect()
}

fn frozen_us(pictures: &[Picture], from: Time, until: Time) -> u64 {
    let mut moments: Vec<_> = pictures.iter().map(|picture| picture.at).chain([from, until]).collect();
    moments.sort();
    moments.windows(2).map(|pair| pair[1].since(pair[0])).filter(|pause| *pause > FREEZE_US).sum()
}

/// Watches all paths, as many at a time as there are cores; in the order of the paths.
fn watch_all(seed: u64, paths: &[Path]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let take = || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        paths.get(at).map(|path| (at, watch(seed, *path)))
    };
    let mut outcomes: Vec<_> = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let watchers: Vec<_> =
            (0..cores).map(|_| scope.spawn(|| std::iter::from_fn(take).collect::<Vec<_>>())).collect();
        watchers.into_iter().flat_map(|watcher| watcher.join().unwrap()).collect()
    });
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn paths(is_full: bool) -> Vec<Path> {
    let mut paths = Vec::new();
    for capacity in CAPACITIES {
        for loss in [0.0, 0.01, 0.05, 0.1, 0.2] {
            for rtt_ms in [10, 100, 300] {
                paths.extend((is_full || is_sample(loss, rtt_ms)).then_some(Path { capacity, loss, rtt_ms }));
            }
        }
    }
    paths
}

fn is_sample(loss: f64, rtt_ms: u64) -> bool {
    rtt_ms == 100 && [0.0, 0.05].contains(&loss)
}

/// What a viewer of one of the few paths must get at least.
struct Bounds {
    whole_min: f64,
    frozen_ms_max: u64,
    switches_max: usize,
    /// Of the mean estimate, over the mean capacity.
    estimate_max: f64,
}

/// With head room: another seed loses other packets.
fn bounds(is_steady: bool, is_lossy: bool) -> Bounds {
    let (whole_min, frozen_ms_max, switches_max) = match (is_steady, is_lossy) {
        (true, false) => (0.98, 300, 2),
        (true, true) => (0.95, 800, 6),
        (false, false) => (0.94, 1_500, 10),
        (false, true) => (0.90, 2_500, 12),
    };
    Bounds { whole_min, frozen_ms_max, switches_max, estimate_max: if is_lossy { 1.3 } else { 1.2 } }
}

/// How an outcome misses its bounds, if it has any.
fn failure(seen: &Outcome) -> Option<String> {
    let &Outcome { capacity, loss, rtt_ms, whole, frozen_ms, switches, .. } = seen;
    let bounds = bounds(!capacity.starts_with('s'), loss > 0.0);
    let estimate = seen.estimate_bps / seen.capacity_bps;
    let is_met = whole >= bounds.whole_min
        && frozen_ms <= bounds.frozen_ms_max
        && switches <= bounds.switches_max
        && estimate <= bounds.estimate_max;
    (is_sample(loss, rtt_ms) && !is_met).then(|| {
        format!(
            "{capacity}, {loss} lost, {rtt_ms} ms: {whole:.3} whole, {frozen_ms} ms frozen, {switches} switches, \
             estimate {estimate:.2} of the capacity"
        )
    })
}

fn print(outcomes: &[Outcome]) {
    println!(
        "{:<12}{:>6}{:>8}{:>9}{:>11}{:>10}{:>12}{:>12}{:>11}",
        "capacity", "loss", "rtt, ms", "pictures", "frozen, ms", "switches", "estimate", "of", "received"
    );
    for seen in outcomes {
        println!(
            "{:<12}{:>5}%{:>8}{:>8.0}%{:>11}{:>10}{:>9.2} Mb{:>9.2} Mb{:>8.2} Mb",
            seen.capacity,
            seen.loss * 100.0,
            seen.rtt_ms,
            seen.whole * 100.0,
            seen.frozen_ms,
            seen.switches,
            seen.estimate_bps / 1e6,
            seen.capacity_bps / 1e6,
            seen.received_bps / 1e6,
        );
    }
}

#[test]
fn viewers_see_what_their_path_carries() {
    let is_full = std::env::var("FANLINE_SIM_MATRIX").is_ok_and(|which| which == "all");
    let seed = std::env::var("FANLINE_SIM_SEED").map_or(1, |seed| seed.parse().unwrap());
    let outcomes = watch_all(seed, &paths(is_full));
    println!("seed {seed}, {} of {SECONDS} s, a queue of 300 ms", SECONDS - SETTLING_S);
    print(&outcomes);
    if let Some(file) = std::env::var_os("FANLINE_SIM_MATRIX_JSON") {
        let report = json!({
            "seed": seed,
            "seconds": SECONDS,
            "settling_s": SETTLING_S,
            "best_chosen_bps": BEST_CHOSEN_BPS,
            "paths": outcomes,
        });
        std::fs::write(file, report.to_string()).unwrap();
    }
    let failures: Vec<_> = outcomes.iter().filter_map(failure).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
