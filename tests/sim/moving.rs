//! Clients that change: another address, another peer connection, a thinner line.

use std::time::Duration;

use fanline::io::sim::{Link, Rate};

use crate::media::{CAMERA, VOICE};
use crate::world::{World, for_each_seed};

#[test]
fn a_client_whose_nat_gives_it_another_address_is_followed() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.run_ms(1_000);
        for who in [ann, bob] {
            world.rebind(who);
            // The next connectivity check from the new address moves the path.
            world.run_ms(6_000);
            let from = world.now;
            world.run_ms(2_000);
            let until = world.now;
            for mid in &mids {
                let sink = world.sink(bob, *mid);
                sink.assert_sound();
                let pause = sink.longest_pause(from, until);
                assert!(pause <= Duration::from_millis(40), "{who:?} moved: {pause:?} of silence");
            }
        }
        assert_eq!(world.census().sessions_connected, 2);
    });
}

/// When the old peer's close_notify reaches the server.
#[derive(Clone, Copy)]
enum Goodbye {
    AtOnce,
    /// After the next pull has been asked for.
    Late,
    Never,
}

fn stops_everything_and_comes_back(seed: u64, goodbye: Goodbye) {
    let mut world = World::new(seed, 2);
    let [ann, bob] = [world.join(), world.join()];
    world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
    for round in 0..3 {
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.set_uplink(bob, Link { delay: Duration::from_millis(5), ..Link::default() });
        world.run_ms(1_500);
        for (mid, name) in mids.iter().zip(["voice", "camera"]) {
            let said = world.client(ann).source(name).said;
            let sink = world.sink(bob, *mid);
            assert!(sink.heard() > 40, "round {round}: {} of {name} heard", sink.heard());
            sink.assert_perfect(said - 9);
        }
        world.stop_all(bob, &mids);
        let now = world.now;
        match goodbye {
            Goodbye::AtOnce => world.client(bob).leave(now),
            Goodbye::Late => {
                world.set_uplink(bob, Link { delay: Duration::from_millis(200), ..Link::default() });
                world.client(bob).leave(now);
            }
            Goodbye::Never => {}
        }
        world.client(bob).renew(now);
        assert_eq!(world.census().subscriptions, 0);
    }
    assert_eq!(world.census().sessions, 2);
}

#[test]
fn a_client_that_has_stopped_everything_comes_back_with_another_peer() {
    for_each_seed(&[1], |seed| {
        for goodbye in [Goodbye::AtOnce, Goodbye::Late, Goodbye::Never] {
            stops_everything_and_comes_back(seed, goodbye);
        }
    });
}

#[test]
fn a_publisher_that_has_stopped_everything_comes_back_with_another_peer() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        for round in 0..3 {
            let sent = world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
            let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
            world.run_ms(1_000);
            for (mid, name) in mids.iter().zip(["voice", "camera"]) {
                let said = world.client(ann).source(name).said;
                let sink = world.sink(bob, *mid);
                assert!(sink.heard() > 40, "round {round}: {} of {name} heard", sink.heard());
                sink.assert_perfect(said - 9);
            }
            world.stop_all(ann, &sent);
            let now = world.now;
            world.client(ann).leave(now);
            world.client(ann).renew(now);
            assert_eq!((world.census().tracks, world.census().subscriptions), (0, 0));
        }
    });
}

#[test]
fn a_viewer_with_a_thin_line_slows_nobody_else() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 1);
        let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
        world.publish(ann, &[("camera", CAMERA)]);
        let [to_bob, to_cleo] = [bob, cleo].map(|who| world.pull(who, &[(ann, "camera")])[0]);
        let thin = Rate { bitrate_bps: 300_000, queue_bytes: 30_000 };
        world
            .set_downlink(bob, Link { delay: Duration::from_millis(5), rate: Some(thin), ..Link::default() });
        world.run_ms(1_000);
        let from = world.now;
        world.run_ms(9_000);
        let (client, server) = world.ends(bob);
        assert!(world.net.link_counters(server, client).overflowed > 100, "the line was thin");
        let said = world.client(ann).source("camera").said;
        let sink = world.sink(cleo, to_cleo);
        sink.assert_perfect(said - 9);
        let mut watched = sink.arrivals.iter().filter(|arrival| arrival.note.sent >= from);
        assert!(watched.all(|arrival| arrival.at.since(arrival.note.sent) <= 12_000));
        let sink = world.sink(bob, to_bob);
        assert_eq!((sink.damaged, sink.heard_twice()), (0, 0));
    });
}
