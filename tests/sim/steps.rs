//! A viewer of a simulcast with sound, on a thin link whose rate changes: the best picture that fits.

use std::collections::BTreeSet;
use std::time::Duration;

use fanline::control::request::{RidOrder, Simulcast};
use fanline::io::sim::{Link, Rate};
use fanline::time::Time;
use str0m::media::Mid;

use crate::media::{Arrival, CAMERA, Shape, VOICE};
use crate::world::{Who, World, for_each_seed};

const SMALL: Shape =
    Shape { interval_us: 66_667, packets_per_frame: 1, packets_per_key_frame: 3, is_layered: true, ..CAMERA };

/// 60, 120 and 300 kb/s of payload, fifteen frames a second in three temporal layers.
const ENCODINGS: [(&str, Shape); 3] = [
    ("q", Shape { payload_bytes: 500, ..SMALL }),
    ("h", Shape { payload_bytes: 1_000, ..SMALL }),
    ("f", Shape { payload_bytes: 625, packets_per_frame: 4, packets_per_key_frame: 8, ..SMALL }),
];

/// How long the picture may take to find its place, and then stays there.
const SETTLING_MS: u64 = 15_000;
const STEADY_MS: u64 = 5_000;

/// With a queue of 300 ms.
fn downlink(bitrate_bps: u64) -> Link {
    let rate = Some(Rate { bitrate_bps, queue_bytes: bitrate_bps * 3 / 80 });
    Link { delay: Duration::from_millis(20), rate, ..Link::default() }
}

/// Rates of the link in turn, and the encoding that fits in. The sound takes 45 kb/s with its headers, the encodings
/// 66, 130 and 320.
const STEPS: [(u64, &str); 7] =
    [(5_000, "f"), (136, "q"), (240, "h"), (5_000, "f"), (136, "q"), (240, "h"), (5_000, "f")];

#[test]
fn picture_steps_with_the_rate_again_and_again() {
    for_each_seed(&[1, 2, 3], |seed| {
        let mut world = World::new(seed, 1);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE)]);
        world.publish_simulcast(ann, "camera", &ENCODINGS);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        let order = Simulcast {
            priority_ordering: RidOrder::Asciibetical,
            rid_not_available: RidOrder::Asciibetical,
            ..Simulcast::default()
        };
        world.update(bob, Some(mids[1]), (ann, "camera"), Some(order));
        world.run_ms(1_000);
        for (kbps, rid) in STEPS {
            world.set_downlink(bob, downlink(kbps * 1_000));
            world.run_ms(SETTLING_MS);
            let from = world.now;
            world.run_ms(STEADY_MS);
            let pictures: BTreeSet<_> =
                since(&world, bob, mids[1], from).map(|a| (a.bytes, a.note.frame)).collect();
            let bytes = ENCODINGS.iter().find(|(name, _)| *name == rid).unwrap().1.payload_bytes;
            assert!(
                pictures.iter().all(|(seen, _)| *seen == bytes),
                "not {rid} alone at {kbps} kb/s: {pictures:?}"
            );
            let full = STEADY_MS * 1_000 / SMALL.interval_us;
            assert!(
                pictures.len() as u64 * 2 >= full - 2,
                "{} of {full} pictures at {kbps} kb/s",
                pictures.len()
            );
            let heard = since(&world, bob, mids[0], from).count() as u64;
            let said = STEADY_MS * 1_000 / VOICE.interval_us;
            assert!(heard * 100 >= said * 96, "{heard} of {said} packets of sound at {kbps} kb/s");
            let estimate = world.state(bob).unwrap().available_bitrate_bps.unwrap() / 1_000;
            assert!(
                estimate < kbps * 5 / 4 && (estimate > kbps * 7 / 10 || kbps == 5_000),
                "{estimate} of {kbps} kb/s"
            );
        }
    });
}

fn since(world: &World, who: Who, mid: Mid, from: Time) -> impl Iterator<Item = &Arrival> {
    world.sink(who, mid).arrivals.iter().filter(move |arrival| arrival.at >= from)
}
