//! Late joiners: how long until their first picture, and what it costs the publisher.

use std::time::Duration;

use fanline::io::sim::{Link, Rate};
use fanline::shard::ShardSettings;
use fanline::time::Time;
use str0m::media::Mid;

use crate::media::{CAMERA, Shape};
use crate::world::{Who, World, for_each_seed};

/// Video at 1.2 Mb/s; key frames are four times as large as other pictures.
const WIDE: Shape = Shape { packets_per_frame: 5, packets_per_key_frame: 20, ..CAMERA };

/// What joining was like.
struct Joined {
    /// From having connected until the first whole key frame, in ms, ascending.
    first_picture_ms: Vec<u64>,
    key_frames_asked: usize,
    /// From what was sent to what was seen, in ms: of all viewers the worst, two seconds after its first picture.
    behind_ms: u64,
}

impl Joined {
    fn median(&self) -> u64 {
        self.first_picture_ms[self.first_picture_ms.len() / 2]
    }
}

/// When the first key frame was whole.
fn first_picture(world: &World, who: Who, mid: Mid) -> Time {
    let arrivals = &world.sink(who, mid).arrivals;
    let opening = arrivals.iter().find(|arrival| arrival.note.key).expect("a key frame came").note.frame;
    let parts: Vec<_> = arrivals.iter().filter(|arrival| arrival.note.frame == opening).collect();
    assert_eq!(parts.len(), WIDE.packets_per_key_frame as usize, "the first key frame is whole");
    parts.iter().map(|arrival| arrival.at).max().unwrap()
}

/// Viewers join a publisher, whose round trip is `rtt_ms`, one every `every_ms`.
fn join(seed: u64, catch_up_ms: u64, rtt_ms: u64, every_ms: u64) -> Joined {
    let catch_up = Duration::from_millis(catch_up_ms);
    let mut world = World::with(seed, 2, ShardSettings { catch_up, ..ShardSettings::default() });
    let ann = world.join();
    world.publish(ann, &[("camera", WIDE)]);
    let delay = Duration::from_micros(rtt_ms * 500);
    world.set_uplink(ann, Link { delay, ..Link::default() });
    world.set_downlink(ann, Link { delay, ..Link::default() });
    world.run_ms(3_000);
    let mut viewers = Vec::new();
    for _ in 0..20 {
        let began = world.now;
        let who = world.join();
        let mid = world.pull(who, &[(ann, "camera")])[0];
        let rate = Some(Rate { bitrate_bps: 5_000_000, queue_bytes: 60_000 });
        world.set_downlink(who, Link { delay: Duration::from_millis(20), rate, ..Link::default() });
        viewers.push((who, mid, world.now));
        let left_ms = every_ms.saturating_sub(world.now.since(began) / 1_000);
        world.run_ms(left_ms);
    }
    world.run_ms(4_000);
    let asked = &world.client(ann).source("camera").key_frames_asked;
    assert!(asked.windows(2).all(|pair| pair[1].since(pair[0]) >= 499_000), "at most two a second");
    let key_frames_asked = asked.len();
    let (mut first_picture_ms, mut behind_ms) = (Vec::new(), 0);
    for &(who, mid, connected) in &viewers {
        let first = first_picture(&world, who, mid);
        first_picture_ms.push(first.since(connected) / 1_000);
        let sink = world.sink(who, mid);
        sink.assert_sound();
        let settled = sink.arrivals.iter().filter(|arrival| arrival.at > first.plus_ms(2_000));
        behind_ms = settled.map(|a| a.at.since(a.note.sent) / 1_000).max().unwrap().max(behind_ms);
    }
    first_picture_ms.sort_unstable();
    Joined { first_picture_ms, key_frames_asked, behind_ms }
}

#[test]
fn late_joiners_begin_with_the_latest_key_frame_and_catch_up() {
    println!("publisher  one every  catch-up  first picture  (slowest)  key frames asked  behind after 2 s");
    for_each_seed(&[1], |seed| {
        for (rtt_ms, every_ms) in [(10, 200), (200, 200), (10, 2_000), (200, 2_000)] {
            let outcomes = [0, 1_000, 2_000].map(|catch_up_ms| {
                let joined = join(seed, catch_up_ms, rtt_ms, every_ms);
                println!(
                    "{rtt_ms:>6} ms{every_ms:>9} ms{catch_up_ms:>7} ms{:>12} ms{:>9} ms{:>18}{:>15} ms",
                    joined.median(),
                    joined.first_picture_ms.last().unwrap(),
                    joined.key_frames_asked,
                    joined.behind_ms,
                );
                joined
            });
            let [without, with, _] = &outcomes;
            assert!(with.median() <= without.median());
            assert!(with.behind_ms <= rtt_ms / 2 + 60, "{} ms behind", with.behind_ms);
            if every_ms < 500 {
                assert!(with.median() * 2 < without.median(), "{} of {}", with.median(), without.median());
                assert!(with.key_frames_asked < without.key_frames_asked);
            }
        }
    });
}
