//! Packets of several tracks to one listener: they share sends, wait no longer than they may, and keep their order.

use std::time::Duration;

use fanline::shard::ShardSettings;

use crate::media::{CAMERA, Shape, VOICE};
use crate::world::{Who, World, for_each_seed};

/// Up and down, 5 ms each, and the steps of a millisecond in which the simulation looks.
const UNDELAYED_US: u64 = 12_000;

const SPEAKERS: [(&str, Shape); 3] = [
    ("ann", VOICE),
    ("bob", Shape { payload_bytes: 85, ..VOICE }),
    ("eve", Shape { payload_bytes: 60, ..VOICE }),
];

fn with_hold(ms: u64) -> ShardSettings {
    ShardSettings { audio_hold: Duration::from_millis(ms), ..ShardSettings::default() }
}

/// Three people, out of phase and with packets of different lengths, speak to two listeners for five seconds.
/// Returns datagrams per send, and the longest way of a packet in microseconds.
fn panel(seed: u64, hold_ms: u64) -> (f64, u64) {
    let mut world = World::with(seed, 1, with_hold(hold_ms));
    let speakers: Vec<_> = SPEAKERS
        .iter()
        .enumerate()
        .map(|(nth, speaker)| {
            let who = world.join();
            world.publish(who, &[*speaker]);
            world.run_ms(20 - world.now.0 / 1_000 % 20 + 7 * nth as u64);
            who
        })
        .collect();
    let tracks: Vec<_> = speakers.iter().zip(SPEAKERS).map(|(&who, (name, _))| (who, name)).collect();
    let listeners = [world.join(), world.join()];
    let pulled = listeners.map(|who| (who, world.pull(who, &tracks)));
    let before = &world.snapshots()[0];
    world.run_ms(5_000);
    let after = &world.snapshots()[0];
    let mut longest = 0;
    for (listener, mids) in &pulled {
        for (mid, &(speaker, name)) in mids.iter().zip(&tracks) {
            let said = world.client(speaker).source(name).said;
            let sink = world.sink(*listener, *mid);
            sink.assert_perfect(said - 1 - hold_ms / 20);
            let counters = sink.arrivals.iter().map(|arrival| arrival.note.counter);
            assert!(counters.is_sorted(), "{name} overtakes himself");
            let ways = sink.arrivals.iter().map(|arrival| arrival.at.since(arrival.note.sent));
            longest = longest.max(ways.max().unwrap());
        }
    }
    let sent = (after.datagrams_sent - before.datagrams_sent) as f64;
    (sent / (after.sends - before.sends) as f64, longest)
}

#[test]
fn speakers_out_of_phase_share_sends_under_a_hold_and_wait_no_longer() {
    for_each_seed(&[1, 2], |seed| {
        let (alone, undelayed) = panel(seed, 0);
        assert!(undelayed <= UNDELAYED_US, "{undelayed} us");
        let (together, delayed) = panel(seed, 20);
        assert!(together > 2.2 && together > 1.5 * alone, "{together} datagrams in a send, {alone} without");
        assert!((UNDELAYED_US..=UNDELAYED_US + 20_000).contains(&delayed), "{delayed} us");
    });
}

#[test]
fn video_does_not_wait_while_audio_does() {
    for_each_seed(&[1], |seed| {
        let mut world = World::with(seed, 2, with_hold(40));
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.run_ms(3_000);
        let longest = |world: &World, who: Who, mid| {
            let arrivals = &world.sink(who, mid).arrivals;
            arrivals.iter().map(|arrival| arrival.at.since(arrival.note.sent)).max().unwrap()
        };
        assert!(longest(&world, bob, mids[1]) <= UNDELAYED_US);
        // The first packet of a hold waits for all of it, on the listener's shard too.
        let voice = longest(&world, bob, mids[0]);
        assert!((40_000..=40_000 + UNDELAYED_US).contains(&voice), "{voice} us");
    });
}
