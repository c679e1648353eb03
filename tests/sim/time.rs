//! What time does: a control plane that stalls, and everything that expires.

use fanline::control::request::ErrorCode;

use crate::media::{CAMERA, VOICE};
use crate::world::{World, for_each_seed};

#[test]
fn media_flows_on_while_control_stands_still() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let pulls = [(ann, "voice"), (ann, "camera")];
        let mids = [bob, cleo].map(|who| world.pull(who, &pulls));
        world.run_ms(1_000);
        let from = world.now;
        world.control_stalled = true;
        for _ in 0..30 {
            world.run_ms(100);
            // Reports and key frame requests are the data plane's own.
            world.client(bob).lose_picture(mids[0][1]);
        }
        let until = world.now;
        world.control_stalled = false;
        for (who, mids) in [bob, cleo].into_iter().zip(&mids) {
            for (mid, (name, interval_ms)) in mids.iter().zip([("voice", 21), ("camera", 35)]) {
                let said = world.client(ann).source(name).said;
                let sink = world.sink(who, *mid);
                sink.assert_perfect(said - 9);
                let pause = sink.longest_pause(from, until);
                assert!(pause.as_millis() <= interval_ms, "{name} paused for {pause:?}");
            }
        }
        let camera = world.client(ann).source("camera");
        assert!(camera.key_frames_asked.iter().filter(|at| **at > from).count() >= 5);
        // And control takes up where it stood.
        let dora = world.join();
        let mid = world.pull(dora, &[(ann, "voice")])[0];
        world.run_ms(500);
        assert!(world.sink(dora, mid).heard() > 20);
    });
}

#[test]
fn a_session_that_never_connects_ends_after_thirty_seconds() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 1);
        let ann = world.join();
        world.run_ms(29_000);
        assert!(world.state(ann).is_ok());
        world.run_ms(2_500);
        assert_eq!(world.state(ann).unwrap_err().error_code, ErrorCode::SessionGone);
        assert_eq!(world.snapshots()[0].sessions, 0);
    });
}

#[test]
fn a_connected_session_lives_by_its_checks_and_ends_thirty_seconds_after_the_last() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 1);
        let ann = world.join();
        world.publish(ann, &[("voice", VOICE)]);
        world.client(ann).source("voice").muted = true;
        world.run_ms(65_000);
        assert!(world.state(ann).is_ok(), "silent, but there");
        world.client(ann).is_dead = true;
        world.run_ms(25_000);
        assert!(world.state(ann).is_ok());
        world.run_ms(7_000);
        assert_eq!(world.state(ann).unwrap_err().error_code, ErrorCode::SessionGone);
        assert_eq!(world.census().sessions, 0);
    });
}

#[test]
fn a_track_without_packets_ends_after_thirty_seconds_and_its_session_does_not() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.run_ms(1_000);
        world.client(ann).source("camera").muted = true;
        world.run_ms(28_000);
        assert_eq!((world.census().tracks, world.census().subscriptions), (2, 2));
        world.run_ms(4_000);
        assert_eq!((world.census().tracks, world.census().subscriptions), (1, 1));
        let error = world.ask_to_pull(bob, &[(ann, "camera")]).unwrap().tracks[0].error.clone();
        assert_eq!(error.unwrap().error_code, ErrorCode::NotFoundTrackError);
        let said = world.client(ann).source("voice").said;
        world.sink(bob, mids[0]).assert_perfect(said - 1);
    });
}

#[test]
fn an_offer_nobody_answers_is_rolled_back_and_the_next_pull_works() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        world.ask_to_pull(bob, &[(ann, "camera")]).unwrap();
        let error = world.ask_to_pull(bob, &[(ann, "voice")]).unwrap_err();
        assert_eq!(error.error_code, ErrorCode::InvalidSessionDescription);
        world.run_ms(11_500);
        let mid = world.pull(bob, &[(ann, "voice")])[0];
        world.run_ms(1_000);
        let said = world.client(ann).source("voice").said;
        world.sink(bob, mid).assert_perfect(said - 1);
        assert_eq!(world.census().subscriptions, 1);
    });
}
