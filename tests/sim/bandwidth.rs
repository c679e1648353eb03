//! What each viewer's path carries: known per viewer, probed for, and nobody else's business.

use std::time::Duration;

use fanline::drop_reason::DropReason;
use fanline::io::sim::{Link, Rate};

use crate::media::{CAMERA, VOICE};
use crate::world::{Who, World, for_each_seed};

/// A way down that carries this much, with a queue of 200 ms.
fn bottleneck(bitrate_bps: u64) -> Link {
    let rate = Some(Rate { bitrate_bps, queue_bytes: bitrate_bps / 8 / 5 });
    Link { delay: Duration::from_millis(20), rate, ..Link::default() }
}

fn available_bps(world: &mut World, who: Who) -> Option<u64> {
    world.state(who).unwrap().available_bitrate_bps
}

#[test]
fn each_viewer_of_video_has_an_estimate_of_its_own_path() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob, cleo, dora] = [world.join(), world.join(), world.join(), world.join()];
        world.publish(ann, &[("camera", CAMERA), ("mic", VOICE)]);
        for (who, track) in [(bob, "camera"), (cleo, "camera"), (dora, "mic")] {
            world.pull(who, &[(ann, track)]);
        }
        world.set_downlink(bob, bottleneck(1_500_000));
        world.set_downlink(cleo, bottleneck(20_000_000));
        world.run_ms(8_000);
        assert_eq!(available_bps(&mut world, ann), None, "a publisher is sent no video");
        assert_eq!(available_bps(&mut world, dora), None, "nor is a listener");
        let narrow = available_bps(&mut world, bob).unwrap();
        assert!((1_200_000..1_650_000).contains(&narrow), "{narrow}");
        let wide = available_bps(&mut world, cleo).unwrap();
        assert!((2_200_000..3_600_000).contains(&wide), "as far as is wanted: {wide}");
        let shards = world.snapshots();
        let counted: u64 =
            shards.iter().map(|shard| shard.available_bps.cumulative().last().unwrap().1).sum();
        assert_eq!(counted, 2);
        assert!(shards.iter().map(|shard| shard.probe_packets_sent).sum::<u64>() > 10);

        world.set_downlink(bob, bottleneck(400_000));
        world.run_ms(1_500);
        let fallen = available_bps(&mut world, bob).unwrap();
        assert!(fallen < 440_000, "{fallen}");
        assert!(available_bps(&mut world, cleo).unwrap() > 2_200_000, "one's path is not another's");
    });
}

#[test]
fn probes_are_nothing_that_a_viewer_would_see() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 1);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("camera", CAMERA)]);
        let mid = world.pull(bob, &[(ann, "camera")])[0];
        world.set_downlink(bob, bottleneck(10_000_000));
        world.run_ms(5_000);
        assert!(world.snapshots()[0].probe_packets_sent > 10);
        let sink = world.sink(bob, mid);
        sink.assert_sound();
        assert!(sink.arrivals.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1));
    });
}

#[test]
fn retransmissions_take_a_bounded_part_of_a_hopeless_path() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 1);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("camera", CAMERA)]);
        world.pull(bob, &[(ann, "camera")]);
        let hopeless = Link { loss: 0.6, ..bottleneck(10_000_000) };
        world.set_downlink(bob, hopeless);
        world.run_ms(10_000);
        assert!(world.drops(DropReason::RetransmissionBudget) > 0);
        let shard = world.snapshots()[0];
        // Of what was sent at first, 35 %, and what may be saved up.
        let bound = shard.rtp_packets_sent * 35 / 100 + 80;
        assert!(shard.retransmissions_sent < bound, "{} over {bound}", shard.retransmissions_sent);
    });
}

#[test]
fn one_bad_path_among_five_is_not_the_others_concern() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let ann = world.join();
        world.publish(ann, &[("camera", CAMERA)]);
        let viewers: Vec<_> = (0..5).map(|_| world.join()).collect();
        let mids: Vec<_> = viewers.iter().map(|&who| world.pull(who, &[(ann, "camera")])[0]).collect();
        for &viewer in &viewers {
            world.set_downlink(viewer, bottleneck(5_000_000));
        }
        world.set_downlink(viewers[0], Link { loss: 0.2, ..bottleneck(300_000) });
        world.run_ms(500);
        let from = world.client(ann).source("camera").said;
        let asked = world.client(ann).source("camera").key_frames_asked.len();
        world.run_ms(20_000);
        let until = world.client(ann).source("camera").said;
        world.run_ms(500);
        for (&viewer, &mid) in viewers.iter().zip(&mids).skip(1) {
            let sink = world.sink(viewer, mid);
            assert_eq!(sink.missed(from, until), 0);
            let watched = sink.arrivals.iter().filter(|a| a.note.counter >= from);
            let late = watched.filter(|a| a.at.since(a.note.sent) > 80_000).count();
            assert!(late * 200 < sink.arrivals.len(), "{late} of {} are late", sink.arrivals.len());
        }
        let asked = world.client(ann).source("camera").key_frames_asked.len() - asked;
        assert!(asked <= 20, "{asked} key frames in twenty seconds");
    });
}
