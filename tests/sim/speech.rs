//! Who is speaking, as the state of a session tells it.

use crate::media::{CAMERA, VOICE};
use crate::world::{Who, World, for_each_seed};
use fanline::control::request::AudioLevelState;

/// What the state of `who` says of the track called `name`.
fn level(world: &mut World, who: Who, name: &str) -> Option<AudioLevelState> {
    let tracks = world.state(who).unwrap().tracks;
    tracks.into_iter().find(|track| track.track_name == name).unwrap().audio_level
}

fn is_speaking(world: &mut World, who: Who, name: &str) -> bool {
    level(world, who, name).is_some_and(|level| level.speaking)
}

#[test]
fn speaker_is_shown_as_such_to_itself_and_to_whoever_pulls() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
        world.publish(ann, &[("ann", VOICE), ("camera", CAMERA)]);
        world.publish(bob, &[("bob", VOICE)]);
        world.pull(cleo, &[(ann, "ann"), (bob, "bob"), (ann, "camera")]);
        for (who, name) in [(ann, "ann"), (bob, "bob")] {
            world.client(who).source(name).level_dbov = Some(-70);
        }
        world.run_ms(1_500);
        assert!(!is_speaking(&mut world, ann, "ann") && !is_speaking(&mut world, cleo, "bob"));
        world.client(bob).source("bob").level_dbov = Some(-25);
        world.run_ms(250);
        let seen = [is_speaking(&mut world, bob, "bob"), is_speaking(&mut world, cleo, "bob")];
        assert_eq!(seen, [true, true], "at once");
        assert!(!is_speaking(&mut world, cleo, "ann"));
        world.run_ms(2_000);
        let heard = level(&mut world, cleo, "bob").unwrap();
        assert!((-27..=-25).contains(&heard.level_dbov), "{heard:?}");
        world.client(bob).source("bob").muted = true;
        world.run_ms(2_000);
        let silence = AudioLevelState { level_dbov: -127, speaking: false };
        assert_eq!(level(&mut world, cleo, "bob"), Some(silence), "who sends nothing is silent");
        assert_eq!(level(&mut world, cleo, "camera"), None);
    });
}

#[test]
fn track_whose_packets_tell_no_level_has_none() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 1);
        let ann = world.join();
        world.publish(ann, &[("voice", VOICE)]);
        world.run_ms(1_500);
        assert_eq!(level(&mut world, ann, "voice"), None);
    });
}
