//! Encodings of a simulcast: which one a viewer gets, and that it sees no seam between them.

use std::time::Duration;

use fanline::control::request::{RidOrder, Simulcast};
use fanline::io::sim::{Link, Rate};
use str0m::media::Mid;

use crate::media::{CAMERA, Shape, VOICE};
use crate::world::{Who, World, for_each_seed};

/// Each counts sequence and time from elsewhere, and is known by the size of its packets.
const ENCODINGS: [(&str, Shape); 3] = [
    ("q", Shape { payload_bytes: 200, first_sequence: 100, first_timestamp: 0x1000_0000, ..CAMERA }),
    ("h", Shape { payload_bytes: 500, first_sequence: 30_000, first_timestamp: 0x7fff_0000, ..CAMERA }),
    ("f", CAMERA),
];

fn wish(rid: &str, rid_not_available: RidOrder) -> Option<Simulcast> {
    Some(Simulcast { preferred_rid: Some(rid.to_owned()), rid_not_available, ..Simulcast::default() })
}

/// The encodings that came in, in order; each once per run of its packets.
fn seen(world: &World, who: Who, mid: Mid) -> Vec<&'static str> {
    let rid = |bytes| ENCODINGS.iter().find(|(_, shape)| shape.payload_bytes == bytes).unwrap().0;
    let mut seen: Vec<_> = world.sink(who, mid).arrivals.iter().map(|arrival| rid(arrival.bytes)).collect();
    seen.dedup();
    seen
}

/// One stream to whoever looks at sequence numbers and timestamps, and each new encoding begins with a key frame.
fn assert_seamless(world: &World, who: Who, mid: Mid) {
    let sink = world.sink(who, mid);
    assert_eq!(sink.damaged, 0);
    for pair in sink.arrivals.windows(2) {
        let [before, after] = [pair[0], pair[1]];
        assert_eq!(after.sequence, before.sequence + 1);
        let forward = after.timestamp.wrapping_sub(before.timestamp) as i32;
        // An encoding that stops is missed for a second, and the next one begins with a key frame.
        assert!((0..120_000).contains(&forward), "{forward} ticks");
        if before.bytes != after.bytes {
            assert!(after.note.key && after.note.first, "a switch in the middle of something");
            assert!(forward > 0, "two pictures of one time");
            let apart_us = i64::from(forward) * 100 / 9 - after.at.since(before.at) as i64;
            assert!(apart_us.abs() < 50_000, "{apart_us} us off");
        }
    }
}

#[test]
fn viewers_switch_up_and_down_without_a_seam() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
        world.publish_simulcast(ann, "camera", &ENCODINGS);
        let mids = [bob, cleo].map(|who| (who, world.pull(who, &[(ann, "camera")])[0]));
        world.run_ms(3_000);
        for (who, mid) in mids {
            assert_eq!(seen(&world, who, mid).last(), Some(&"f"), "the best, as nothing is asked for");
        }
        for (who, mid) in mids {
            let first = world.sink(who, mid).arrivals[0].note;
            assert!(first.key && first.first, "nothing precedes the first key frame");
        }
        for rid in ["q", "h", "f", "q", "f"] {
            for (who, mid) in mids {
                let updated = world.update(who, Some(mid), (ann, "camera"), wish(rid, RidOrder::None));
                assert_eq!(updated.error, None);
            }
            world.run_ms(1_500);
            for (who, mid) in mids {
                assert_eq!(seen(&world, who, mid).last(), Some(&rid));
            }
        }
        for (who, mid) in mids {
            assert_seamless(&world, who, mid);
            let asked = world.client(ann).source("f").key_frames_asked.len();
            assert!(asked <= 12, "{asked} key frames for three switches");
        }
    });
}

#[test]
fn silent_encoding_gives_way_as_the_viewer_says() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let ann = world.join();
        world.publish_simulcast(ann, "camera", &ENCODINGS);
        let viewers = [world.join(), world.join(), world.join()];
        let mids = viewers.map(|who| world.pull(who, &[(ann, "camera")])[0]);
        let [best, only, prefers] = viewers;
        world.update(only, Some(mids[1]), (ann, "camera"), wish("h", RidOrder::None));
        world.update(prefers, Some(mids[2]), (ann, "camera"), wish("h", RidOrder::Asciibetical));
        world.run_ms(1_500);
        let last = |world: &World| [0, 1, 2].map(|n| *seen(world, viewers[n], mids[n]).last().unwrap());
        assert_eq!(last(&world), ["f", "h", "h"]);
        for rid in ["h", "f"] {
            world.client(ann).source(rid).muted = true;
        }
        world.run_ms(2_500);
        assert_eq!(last(&world), ["q", "h", "q"]);
        let heard = world.sink(only, mids[1]).heard();
        world.run_ms(1_000);
        assert_eq!(world.sink(only, mids[1]).heard(), heard, "nothing instead of h");
        for rid in ["h", "f"] {
            world.client(ann).source(rid).muted = false;
        }
        world.run_ms(2_000);
        assert_eq!(last(&world), ["f", "h", "h"]);
        assert!(world.sink(only, mids[1]).heard() > heard);
        assert_seamless(&world, best, mids[0]);
        assert_seamless(&world, prefers, mids[2]);
    });
}

/// A way down that carries this much, with a queue of 200 ms.
fn bottleneck(bitrate_bps: u64) -> Link {
    let rate = Some(Rate { bitrate_bps, queue_bytes: bitrate_bps / 8 / 5 });
    Link { delay: Duration::from_millis(20), rate, ..Link::default() }
}

/// How often the encoding changed, of the packets that came after `from`.
fn changes(world: &World, who: Who, mid: Mid, from: usize) -> usize {
    let arrivals = &world.sink(who, mid).arrivals[from..];
    arrivals.windows(2).filter(|pair| pair[0].bytes != pair[1].bytes).count()
}

#[test]
fn viewer_that_says_in_which_order_steps_down_and_up_with_its_bandwidth() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let ann = world.join();
        world.publish_simulcast(ann, "camera", &ENCODINGS);
        let viewers = [world.join(), world.join()];
        let [steps, stays] = viewers;
        let mids = viewers.map(|who| world.pull(who, &[(ann, "camera")])[0]);
        let order = Simulcast { priority_ordering: RidOrder::Asciibetical, ..Simulcast::default() };
        world.update(steps, Some(mids[0]), (ann, "camera"), Some(order));
        // 144, 360 and 720 kb/s, and headers.
        for (bitrate_bps, expected) in [(5_000_000, "f"), (550_000, "h"), (220_000, "q"), (5_000_000, "f")] {
            viewers.iter().for_each(|&who| world.set_downlink(who, bottleneck(bitrate_bps)));
            world.run_ms(12_000);
            let last = *seen(&world, steps, mids[0]).last().unwrap();
            assert_eq!(last, expected, "at {bitrate_bps} bit/s");
            let from = world.sink(steps, mids[0]).heard();
            world.run_ms(5_000);
            assert_eq!(changes(&world, steps, mids[0], from), 0, "at {bitrate_bps} bit/s it stays there");
        }
        assert_eq!(seen(&world, stays, mids[1]).last(), Some(&"f"), "who does not say so is never moved");
        assert!(!seen(&world, stays, mids[1]).contains(&"q"));
    });
}

#[test]
fn another_source_goes_on_under_the_same_numbers() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
        let narrow = Shape { payload_bytes: 500, first_sequence: 5, first_timestamp: 77, ..CAMERA };
        world.publish(ann, &[("camera", CAMERA), ("voice", VOICE)]);
        world.publish(bob, &[("camera", narrow)]);
        let mid = world.pull(cleo, &[(ann, "camera")])[0];
        world.run_ms(1_000);
        for (publisher, rid) in [(bob, "h"), (ann, "f"), (bob, "h")] {
            let updated = world.update(cleo, Some(mid), (publisher, "camera"), None);
            assert_eq!(updated.error, None);
            world.run_ms(1_500);
            assert_eq!(seen(&world, cleo, mid).last(), Some(&rid));
        }
        assert_eq!(seen(&world, cleo, mid), ["f", "h", "f", "h"]);
        assert_seamless(&world, cleo, mid);
        let refused = world.update(cleo, Some(mid), (ann, "voice"), None).error.unwrap();
        assert!(refused.error_description.contains("voice"), "{refused:?}");
        world.run_ms(500);
        assert_seamless(&world, cleo, mid);
    });
}

#[test]
fn a_track_that_follows_one_that_ended_goes_on_under_the_same_numbers() {
    for_each_seed(&[1, 2, 3], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
        let narrow = Shape { payload_bytes: 500, first_sequence: 5, first_timestamp: 77, ..CAMERA };
        let mid = world.publish_bidirectional(ann, "own", CAMERA);
        let ended = world.publish(bob, &[("camera", CAMERA)]);
        world.publish(cleo, &[("camera", narrow)]);
        world.pull_onto(ann, "own", (bob, "camera"));
        world.run_ms(1_000);
        world.close(bob, &ended);
        world.run_ms(300);
        world.pull_onto(ann, "own", (cleo, "camera"));
        world.run_ms(1_500);
        assert_eq!(seen(&world, ann, mid), ["f", "h"]);
        assert_seamless(&world, ann, mid);
    });
}
