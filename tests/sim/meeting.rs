//! People who meet: everybody hears and sees everybody, wherever they were placed.

use fanline::drop_reason::DropReason;

use crate::media::{CAMERA, VOICE};
use crate::world::{World, for_each_seed};

/// Two people publish and pull each other, then talk for ten seconds.
fn two_people(seed: u64, shards: u16) {
    let mut world = World::new(seed, shards);
    let [ann, bob] = [world.join(), world.join()];
    for who in [ann, bob] {
        world.publish(who, &[("voice", VOICE), ("camera", CAMERA)]);
    }
    assert_eq!(world.shard_of(ann) != world.shard_of(bob), shards > 1, "sessions are spread over shards");
    let pairs = [(ann, bob), (bob, ann)];
    let pulled = pairs.map(|(who, other)| world.pull(who, &[(other, "voice"), (other, "camera")]));
    world.run_ms(10_000);
    for (mids, (who, other)) in pulled.iter().zip(pairs) {
        for (mid, name) in mids.iter().zip(["voice", "camera"]) {
            let said = world.client(other).source(name).said;
            let sink = world.sink(who, *mid);
            // What was said in the last 20 ms is on its way.
            sink.assert_perfect(said - 12);
            assert!(sink.heard() as u64 > said * 9 / 10, "{name}: {} of {said}", sink.heard());
        }
        assert!(world.sink(who, mids[1]).arrivals.iter().any(|arrival| arrival.note.key));
    }
}

#[test]
fn two_people_on_one_shard_hear_and_see_each_other() {
    for_each_seed(&[1, 2], |seed| two_people(seed, 1));
}

#[test]
fn two_people_on_different_shards_hear_and_see_each_other() {
    for_each_seed(&[1, 2], |seed| two_people(seed, 2));
}

#[test]
fn one_speaker_reaches_fifty_listeners_over_two_shards_and_crosses_over_once() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 2);
        let speaker = world.join();
        world.publish(speaker, &[("voice", VOICE)]);
        let listeners: Vec<_> = (0..50).map(|_| world.join()).collect();
        let mids: Vec<_> = listeners.iter().map(|&who| world.pull(who, &[(speaker, "voice")])[0]).collect();
        let before = world.snapshots();
        let said_before = world.client(speaker).source("voice").said;
        world.run_ms(5_000);
        let after = world.snapshots();
        let said = world.client(speaker).source("voice").said;
        for (&who, &mid) in listeners.iter().zip(&mids) {
            let sink = world.sink(who, mid);
            sink.assert_perfect(said - 1);
            assert!(sink.arrivals.iter().all(|arrival| arrival.at.since(arrival.note.sent) <= 12_000));
        }
        let home = world.shard_of(speaker);
        let sent: Vec<_> = (0..2).map(|n| after[n].rtp_packets_sent - before[n].rtp_packets_sent).collect();
        let legs: Vec<_> = after.iter().map(|shard| shard.legs).collect();
        assert_eq!(legs, [25, 25]);
        let spoken = said - said_before;
        for shard in 0..2 {
            let expected = spoken * legs[shard];
            assert!(sent[shard].abs_diff(expected) <= 2 * legs[shard], "{} of {expected}", sent[shard]);
        }
        let received = after[home].rtp_packets_received - before[home].rtp_packets_received;
        assert!(received.abs_diff(spoken) <= 2);
        assert_eq!(
            after[1 - home].rtp_packets_received,
            0,
            "no packet of his came to the other shard's socket"
        );
        // A packet that crosses over twice is dropped there for being in the ring already.
        assert_eq!(after[1 - home].drops.get(DropReason::TooOld), 0);
    });
}

#[test]
fn a_pull_waits_for_a_publisher_that_is_still_connecting() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.offer_tracks(ann, &[("voice", VOICE)]);
        let asked = world.now;
        let mid = world.pull(bob, &[(ann, "voice")])[0];
        assert!(world.client(ann).connected, "the pull was answered after the publisher had come");
        assert!(world.now.since(asked) < 1_000_000);
        world.run_ms(1_000);
        let said = world.client(ann).source("voice").said;
        world.sink(bob, mid).assert_perfect(said - 1);
    });
}
