//! Sequence numbers that wrap (RFC 3711 §3.3.1): on the publisher's side, on the subscriber's, and unseen.

use std::time::Duration;

use fanline::io::sim::Link;
use str0m::media::MediaKind;

use crate::media::{CAMERA, Shape, VOICE};
use crate::world::{World, for_each_seed};

/// 4,000 small packets a second, so that a sequence number wraps within 17 s.
const TORRENT: Shape = Shape {
    kind: MediaKind::Audio,
    interval_us: 5_000,
    packets_per_frame: 20,
    packets_per_key_frame: 20,
    first_sequence: 65_500,
    ..VOICE
};

#[test]
fn rollover_counters_of_publisher_and_subscribers_are_their_own() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
        world.publish(ann, &[("torrent", TORRENT)]);
        let to_bob = world.pull(bob, &[(ann, "torrent")])[0];
        world.run_ms(500);
        // The publisher has wrapped; who joins now must not start at its rollover counter.
        let to_cleo = world.pull(cleo, &[(ann, "torrent")])[0];
        world.run_ms(17_000);
        let dora = world.join();
        let to_dora = world.pull(dora, &[(ann, "torrent")])[0];
        world.run_ms(300);
        let said = world.client(ann).source("torrent").said;
        for (who, mid) in [(bob, to_bob), (cleo, to_cleo), (dora, to_dora)] {
            let sink = world.sink(who, mid);
            sink.assert_perfect(said - 80);
            let [first, last] = [sink.arrivals.first(), sink.arrivals.last()].map(|a| a.unwrap().sequence);
            assert!(first < 1 << 15, "{first}: a subscriber starts in the lower half, rollover counter 0");
            assert_eq!(last > 1 << 16, who != dora, "{last}: the first two have wrapped");
        }
    });
}

#[test]
fn video_that_wraps_amid_losses_heals_across_the_wrap() {
    for_each_seed(&[1, 2, 3], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("camera", Shape { first_sequence: 65_300, ..CAMERA })]);
        let mid = world.pull(bob, &[(ann, "camera")])[0];
        let bad = Link { delay: Duration::from_millis(20), loss: 0.1, ..Link::default() };
        world.set_uplink(ann, bad);
        world.set_downlink(bob, bad);
        let from = world.client(ann).source("camera").said;
        assert!(from < 200, "{from}: the wrap is still to come");
        world.run_ms(6_000);
        let until = world.client(ann).source("camera").said;
        assert!(until > 400);
        world.set_uplink(ann, Link { loss: 0.0, ..bad });
        world.set_downlink(bob, Link { loss: 0.0, ..bad });
        world.run_ms(1_000);
        let sink = world.sink(bob, mid);
        sink.assert_sound();
        let missed = sink.missed(from, until);
        assert!(missed <= 2, "{missed} of {} are missing", until - from);
    });
}
