//! A viewer of a simulcast with sound, on a thin link whose rate changes: the best picture that fits.

use std::time::Duration;

use fanline::control::request::{RidOrder, Simulcast};
use fanline::io::sim::{Link, Rate};

use crate::media::{CAMERA, Shape, VOICE};
use crate::world::{World, for_each_seed};

const SMALL: Shape =
    Shape { interval_us: 66_667, packets_per_frame: 1, packets_per_key_frame: 3, is_layered: true, ..CAMERA };

/// 60, 120 and 300 kb/s of payload, fifteen frames a second in three temporal layers.
const ENCODINGS: [(&str, Shape); 3] = [
    ("q", Shape { payload_bytes: 500, ..SMALL }),
    ("h", Shape { payload_bytes: 1_000, ..SMALL }),
    ("f", Shape { payload_bytes: 1_250 / 2, packets_per_frame: 4, packets_per_key_frame: 8, ..SMALL }),
];

fn downlink(bitrate_bps: u64) -> Link {
    let rate = Some(Rate { bitrate_bps, queue_bytes: bitrate_bps * 3 / 80 });
    Link { delay: Duration::from_millis(20), rate, ..Link::default() }
}

#[test]
fn picture_steps_with_the_rate_again_and_again() {
    for_each_seed(&[1, 2], |seed| {
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
        for (kbps, _rid) in
            [(5_000, "f"), (136, "q"), (240, "h"), (5_000, "f"), (136, "q"), (240, "h"), (5_000, "f")]
        {
            world.set_downlink(bob, downlink(kbps * 1_000));
            for second in 0..20 {
                let from = world.sink(bob, mids[1]).arrivals.len();
                let sound = world.sink(bob, mids[0]).arrivals.len();
                world.run_ms(1_000);
                let estimate = world.state(bob).unwrap().available_bitrate_bps.unwrap();
                let arrivals = &world.sink(bob, mids[1]).arrivals[from..];
                let count = |bytes| {
                    arrivals
                        .iter()
                        .filter(|a| a.bytes == bytes)
                        .map(|a| a.note.frame)
                        .collect::<std::collections::BTreeSet<_>>()
                        .len()
                };
                let heard = world.sink(bob, mids[0]).arrivals.len() - sound;
                let (client, server) = world.ends(bob);
                let queue = world.net.queue_delay(server, client).as_millis();
                println!(
                    "{kbps:>5} {second:>3} est {:>5} f {:>3} h {:>3} q {:>3} sound {heard} queue {queue}",
                    estimate / 1000,
                    count(625),
                    count(1000),
                    count(500)
                );
            }
        }
    });
}
