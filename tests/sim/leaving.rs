//! People who leave, with and without a word: what they held is given back, and the others notice nothing.

use fanline::control::request::{ErrorCode, Status};

use crate::media::{CAMERA, VOICE};
use crate::world::{Who, World, for_each_seed};

/// How a client goes.
#[derive(Clone, Copy)]
enum Exit {
    /// BYE and close_notify.
    Goodbye,
    /// A power cut: noticed after 30 s without a connectivity check, and by the next look a second later.
    Silent,
}

impl Exit {
    fn go(self, world: &mut World, who: Who) {
        let now = world.now;
        let client = world.client(who);
        match self {
            Self::Goodbye => {
                client.leave(now);
                world.run_ms(200);
            }
            Self::Silent => {
                client.is_dead = true;
                world.run_ms(36_000);
            }
        }
    }
}

/// (sessions, publications, legs) over all shards.
fn held(world: &mut World) -> (u64, u64, u64) {
    let shards = world.snapshots();
    let sum = |of: fn(&fanline::stats::ShardSnapshot) -> u64| shards.iter().map(of).sum();
    (sum(|shard| shard.sessions), sum(|shard| shard.publications), sum(|shard| shard.legs))
}

fn publisher_leaves(seed: u64, exit: Exit) {
    let mut world = World::new(seed, 2);
    let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
    world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
    world.publish(cleo, &[("voice", VOICE)]);
    for who in [bob, cleo] {
        world.pull(who, &[(ann, "voice"), (ann, "camera")]);
    }
    let to_bob = world.pull(bob, &[(cleo, "voice")])[0];
    world.run_ms(2_000);
    assert_eq!(held(&mut world), (3, 3, 5));
    exit.go(&mut world, ann);
    let census = world.census();
    assert_eq!((census.sessions, census.tracks, census.subscriptions), (2, 1, 1));
    assert_eq!(world.state(ann).unwrap_err().error_code, ErrorCode::SessionGone);
    let state = world.state(bob).unwrap();
    let ended = |name| move |track: &&fanline::control::request::TrackState| track.track_name == name;
    let anns = world.clients[ann.0].session.clone();
    for track in state.tracks.iter().filter(|track| track.session_id.as_ref() == Some(&anns)) {
        assert_eq!(track.status, Status::Inactive, "{}", track.track_name);
    }
    assert!(state.tracks.iter().any(|track| track.status == Status::Active));
    assert_eq!(state.tracks.iter().filter(ended("camera")).count(), 1);
    assert_eq!(held(&mut world), (2, 1, 1));
    let heard: usize = world.client(bob).sinks.values().map(|sink| sink.heard()).sum();
    let others_before = world.sink(bob, to_bob).heard();
    world.run_ms(2_000);
    let others = world.sink(bob, to_bob).heard() - others_before;
    let heard_since = world.client(bob).sinks.values().map(|sink| sink.heard()).sum::<usize>() - heard;
    assert_eq!(heard_since, others, "nothing is forwarded of who has left");
    let said = world.client(cleo).source("voice").said;
    world.sink(bob, to_bob).assert_perfect(said - 1);
}

#[test]
fn publisher_that_says_goodbye_ends_its_tracks_and_nobody_elses() {
    for_each_seed(&[1, 2], |seed| publisher_leaves(seed, Exit::Goodbye));
}

#[test]
fn publisher_that_falls_silent_ends_its_tracks_after_thirty_seconds() {
    for_each_seed(&[1], |seed| publisher_leaves(seed, Exit::Silent));
}

fn subscriber_leaves(seed: u64, exit: Exit) {
    let mut world = World::new(seed, 2);
    let [ann, bob, cleo, dora] = [(); 4].map(|()| world.join());
    world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
    let pulls = [(ann, "voice"), (ann, "camera")];
    let mids = [bob, cleo, dora].map(|who| world.pull(who, &pulls));
    world.run_ms(1_000);
    assert_eq!(held(&mut world), (4, 2, 6));
    exit.go(&mut world, bob);
    assert_eq!(held(&mut world), (3, 2, 4));
    exit.go(&mut world, dora);
    assert_eq!(held(&mut world), (2, 2, 2));
    let census = world.census();
    assert_eq!((census.sessions, census.tracks, census.subscriptions), (2, 2, 2));
    // Both places are free again; whoever takes them hears everything from its first packet on.
    let [eve, fay] = [world.join(), world.join()];
    let later = [eve, fay].map(|who| world.pull(who, &pulls));
    world.run_ms(2_000);
    assert_eq!(held(&mut world), (4, 2, 6));
    for (who, mids) in [(cleo, &mids[1]), (eve, &later[0]), (fay, &later[1])] {
        for (mid, name) in mids.iter().zip(["voice", "camera"]) {
            let said = world.client(ann).source(name).said;
            world.sink(who, *mid).assert_perfect(said - 9);
        }
    }
}

#[test]
fn subscriber_that_says_goodbye_leaves_the_others_undisturbed_and_its_place_free() {
    for_each_seed(&[1, 2], |seed| subscriber_leaves(seed, Exit::Goodbye));
}

#[test]
fn subscriber_that_falls_silent_leaves_the_others_undisturbed_and_its_place_free() {
    for_each_seed(&[1], |seed| subscriber_leaves(seed, Exit::Silent));
}

#[test]
fn a_track_can_be_closed_and_pulled_again() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.run_ms(1_000);
        let closed = world.close(bob, &mids[1..]);
        assert_eq!(closed.tracks[0].error, None);
        assert_eq!(held(&mut world), (2, 2, 1));
        let heard = world.sink(bob, mids[1]).heard();
        world.run_ms(1_000);
        assert_eq!(world.sink(bob, mids[1]).heard(), heard, "a closed pull is silent");
        world.client(bob).sinks.remove(&mids[1]);
        let again = world.pull(bob, &[(ann, "camera")])[0];
        world.run_ms(2_000);
        for (mid, name) in [(mids[0], "voice"), (again, "camera")] {
            let said = world.client(ann).source(name).said;
            world.sink(bob, mid).assert_perfect(said - 9);
        }
        assert_eq!(held(&mut world), (2, 2, 2));
    });
}

#[test]
fn everything_can_be_closed_by_force_and_pulled_again_over_the_same_peer() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        for round in 0..4 {
            let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
            world.run_ms(1_000);
            for (mid, name) in mids.iter().zip(["voice", "camera"]) {
                let said = world.client(ann).source(name).said;
                let sink = world.sink(bob, *mid);
                assert!(sink.heard() > 40, "round {round}: {} of {name} heard", sink.heard());
                sink.assert_perfect(said - 9);
            }
            world.close(bob, &mids);
            world.client(bob).sinks.clear();
            assert_eq!(held(&mut world), (2, 2, 0));
        }
    });
}

#[test]
fn a_hundred_comings_and_goings_leave_nothing_behind() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 2);
        for _ in 0..25 {
            let [ann, bob, cleo, dora] = [(); 4].map(|()| world.join());
            world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
            for who in [bob, cleo, dora] {
                world.pull(who, &[(ann, "voice"), (ann, "camera")]);
            }
            world.run_ms(20);
            let now = world.now;
            // The order in which they go is the order of their seats: publisher first, last, in between.
            for who in [bob, ann, dora, cleo] {
                world.client(who).leave(now);
            }
            world.run_ms(100);
            world.clients.clear();
        }
        let census = world.census();
        assert_eq!((census.sessions, census.tracks, census.subscriptions), (0, 0, 0));
        assert_eq!(held(&mut world), (0, 0, 0));
    });
}
