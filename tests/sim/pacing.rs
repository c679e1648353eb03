//! Pictures larger than a path takes at once: spread over time, and for who is far behind, left out.

use std::time::Duration;

use fanline::drop_reason::DropReason;
use fanline::forward::pace::Pacing;
use fanline::io::sim::{Link, Rate};
use fanline::shard::ShardSettings;

use crate::media::{CAMERA, Shape, VOICE};
use crate::world::{World, for_each_seed};

/// 24 packets a picture at 5 pictures a second and 60 a key frame: 1 Mb/s in bursts.
const SLIDES: Shape =
    Shape { packets_per_frame: 24, packets_per_key_frame: 60, interval_us: 200_000, ..CAMERA };

fn path(bitrate_bps: u64, queue_ms: u64) -> Link {
    let rate = Some(Rate { bitrate_bps, queue_bytes: bitrate_bps / 8_000 * queue_ms });
    Link { delay: Duration::from_millis(20), rate, ..Link::default() }
}

/// Packets that a path of 2 Mb/s with a queue of 60 ms had no room for, of pictures as large as that queue, and how
/// late audio beside them came at worst, in ms.
fn overflowed_and_late(seed: u64, percent: u32) -> (u64, u64) {
    let defaults = ShardSettings::default();
    let settings = ShardSettings { pacing: Pacing { percent, ..defaults.pacing }, ..defaults };
    let mut world = World::with(seed, 1, settings);
    let [ann, bob] = [world.join(), world.join()];
    world.publish(ann, &[("slides", SLIDES), ("voice", VOICE)]);
    let mids = world.pull(bob, &[(ann, "slides"), (ann, "voice")]);
    world.set_downlink(bob, path(2_000_000, 60));
    world.run_ms(5_000);
    let (client, server) = world.ends(bob);
    let before = world.net.link_counters(server, client).overflowed;
    let from = world.now;
    world.run_ms(10_000);
    let overflowed = world.net.link_counters(server, client).overflowed - before;
    let voice = world.sink(bob, mids[1]);
    let late = voice.arrivals.iter().filter(|a| a.note.sent > from).map(|a| a.at.since(a.note.sent));
    (overflowed, late.max().unwrap() / 1_000)
}

#[test]
fn pictures_as_large_as_a_paths_queue_get_through_it_when_paced() {
    for_each_seed(&[1, 2], |seed| {
        let (lost, late_ms) = overflowed_and_late(seed, 0);
        let (lost_paced, late_ms_paced) = overflowed_and_late(seed, 150);
        println!("unpaced {lost} lost, audio {late_ms} ms late; paced {lost_paced}, {late_ms_paced} ms");
        assert!(lost > 100, "{lost}: the path is too wide to show anything");
        assert!(lost_paced * 2 < lost, "{lost_paced} of {lost} are lost");
        assert!(late_ms_paced <= late_ms, "{late_ms_paced} ms against {late_ms}");
    });
}

/// Datagrams per send of pictures of eight packets, 2.3 Mb/s, that go to one viewer by a path of `bitrate_bps`.
fn segments_per_send(seed: u64, percent: u32, bitrate_bps: u64) -> f64 {
    const DETAILED: Shape = Shape { packets_per_frame: 8, packets_per_key_frame: 40, ..CAMERA };
    let defaults = ShardSettings::default();
    let settings = ShardSettings { pacing: Pacing { percent, ..defaults.pacing }, ..defaults };
    let mut world = World::with(seed, 1, settings);
    let [ann, bob] = [world.join(), world.join()];
    world.publish(ann, &[("camera", DETAILED)]);
    world.pull(bob, &[(ann, "camera")]);
    world.set_downlink(bob, path(bitrate_bps, 200));
    world.run_ms(5_000);
    let before = world.snapshots()[0];
    world.run_ms(10_000);
    let after = &world.snapshots()[0];
    (after.datagrams_sent - before.datagrams_sent) as f64 / (after.sends - before.sends) as f64
}

#[test]
fn a_camera_that_fits_its_path_leaves_in_runs_as_long_with_pacing_as_without() {
    for_each_seed(&[1, 2], |seed| {
        let [unpaced, paced] = [0, 150].map(|percent| segments_per_send(seed, percent, 5_000_000));
        println!("{paced:.2} segments per send paced, {unpaced:.2} unpaced");
        assert!(paced > 0.95 * unpaced, "{paced} against {unpaced}");
    });
}

/// Pictures of a camera that a path of 300 kb/s can never carry, beside one that can.
#[test]
fn a_viewer_far_behind_gets_whole_pictures_later_and_costs_the_others_nothing() {
    const WIDE: Shape = Shape { packets_per_frame: 6, packets_per_key_frame: 12, ..CAMERA };
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 1);
        let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
        world.publish(ann, &[("camera", WIDE)]);
        let [to_bob, to_cleo] = [bob, cleo].map(|who| world.pull(who, &[(ann, "camera")])[0]);
        world.set_downlink(bob, path(300_000, 300));
        world.run_ms(3_000);
        let from = world.now;
        let asked = world.client(ann).source("camera").key_frames_asked.len();
        world.run_ms(20_000);
        let asked = world.client(ann).source("camera").key_frames_asked.len() - asked;
        assert!(world.drops(DropReason::SubscriberBehind) > 500);
        let said = world.client(ann).source("camera").said;
        let good = world.sink(cleo, to_cleo);
        good.assert_perfect(said - 19);
        let mut watched = good.arrivals.iter().filter(|arrival| arrival.note.sent >= from);
        assert!(watched.all(|arrival| arrival.at.since(arrival.note.sent) <= 12_000));
        let bad = world.sink(bob, to_bob);
        assert_eq!((bad.damaged, bad.heard_twice()), (0, 0));
        let late: Vec<_> = bad.arrivals.iter().filter(|a| a.note.sent > from).collect();
        let latest = late.iter().map(|a| a.at.since(a.note.sent) / 1_000).max().unwrap();
        let keys = late.iter().filter(|a| a.note.key && a.note.first).count();
        println!("{} packets, the latest {latest} ms, {keys} key frames, {asked} asked for", late.len());
        assert!(latest < 4_000, "{latest} ms");
        assert!((2..=6).contains(&keys) && asked <= 6, "{keys} key frames came, {asked} were asked for");
    });
}

/// Ten videos at 1 Mb/s, pulled at once from far away: until a first estimate there is no reason to hold any of them back.
#[test]
fn none_of_many_videos_that_begin_together_falls_behind() {
    const NAMES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    const WIDE: Shape = Shape { packets_per_frame: 4, packets_per_key_frame: 16, ..CAMERA };
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 1);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &NAMES.map(|name| (name, WIDE)));
        let far = Link { delay: Duration::from_millis(250), ..Link::default() };
        world.run_ms(2_500);
        let mids = world.pull(bob, &NAMES.map(|name| (ann, name)));
        world.set_uplink(bob, far);
        world.set_downlink(bob, far);
        world.run_ms(1_000);
        let behind = world.drops(DropReason::SubscriberBehind);
        world.run_ms(3_000);
        println!(
            "{behind} packets not sent in the first second, {} then",
            world.drops(DropReason::SubscriberBehind)
        );
        assert_eq!(behind, 0);
        mids.iter().for_each(|mid| world.sink(bob, *mid).assert_sound());
    });
}

#[test]
fn pictures_that_fit_the_path_do_not_wait() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 1);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("camera", CAMERA)]);
        let mid = world.pull(bob, &[(ann, "camera")])[0];
        world.set_downlink(bob, path(3_000_000, 200));
        world.run_ms(2_000);
        let from = world.now;
        world.run_ms(10_000);
        let sink = world.sink(bob, mid);
        sink.assert_sound();
        let mut watched = sink.arrivals.iter().filter(|arrival| arrival.note.sent >= from);
        assert!(watched.all(|arrival| arrival.at.since(arrival.note.sent) <= 60_000));
    });
}
