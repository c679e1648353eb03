//! Networks that lose and reorder: what retransmission heals, and what stays an honest gap.

use std::time::Duration;

use fanline::io::sim::Link;

use crate::media::{CAMERA, VOICE};
use crate::world::{World, for_each_seed};

/// One packet in twenty lost, one in thirty overtaken by what follows within 15 ms.
fn bad() -> Link {
    Link {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(3),
        loss: 0.05,
        reorder: 0.03,
        reorder_by: Duration::from_millis(15),
        ..Link::default()
    }
}

/// Half a minute of video over such links; at least 999 of 1,000 packets must arrive.
fn video_heals(seed: u64, bad_uplink: bool, bad_downlink: bool) {
    let mut world = World::new(seed, 2);
    let [ann, bob] = [world.join(), world.join()];
    world.publish(ann, &[("camera", CAMERA)]);
    let mid = world.pull(bob, &[(ann, "camera")])[0];
    world.run_ms(500);
    if bad_uplink {
        world.set_uplink(ann, bad());
    }
    if bad_downlink {
        world.set_downlink(bob, bad());
    }
    let from = world.client(ann).source("camera").said;
    world.run_ms(30_000);
    let until = world.client(ann).source("camera").said;
    world.run_ms(2_000);
    let (client, server) = world.ends(ann);
    let lost_up = world.net.link_counters(client, server).lost;
    let (client, server) = world.ends(bob);
    let lost_down = world.net.link_counters(server, client).lost;
    assert_eq!((lost_up > 60, lost_down > 60), (bad_uplink, bad_downlink), "{lost_up}, {lost_down}");
    let sink = world.sink(bob, mid);
    sink.assert_sound();
    let missed = sink.missed(from, until);
    assert!(missed * 1_000 <= until - from, "{missed} of {} are missing", until - from);
    let shards = world.snapshots();
    let nacks_sent: u64 = shards.iter().map(|shard| shard.nacks_sent).sum();
    let resent: u64 = shards.iter().map(|shard| shard.retransmissions_sent).sum();
    let nacks_received: u64 = shards.iter().map(|shard| shard.nacks_received).sum();
    assert!(resent <= nacks_received, "{resent} sent again, {nacks_received} asked for");
    assert_eq!((nacks_sent > 60, resent > 60), (bad_uplink, bad_downlink), "{nacks_sent}, {resent}");
}

#[test]
fn video_lost_on_the_way_up_reaches_the_subscriber_all_the_same() {
    for_each_seed(&[1, 2, 3], |seed| video_heals(seed, true, false));
}

#[test]
fn video_lost_on_the_way_down_is_sent_again_from_the_track_ring() {
    for_each_seed(&[1, 2, 3], |seed| video_heals(seed, false, true));
}

#[test]
fn video_lost_on_both_ways_heals() {
    for_each_seed(&[1, 2, 3], |seed| video_heals(seed, true, true));
}

#[test]
fn the_same_seed_loses_the_same_packets_and_another_does_not() {
    let heard = |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.set_uplink(ann, bad());
        world.set_downlink(bob, bad());
        world.run_ms(5_000);
        let arrivals = |mid| world.sink(bob, mid).arrivals.iter().map(|a| (a.note.counter, a.at)).collect();
        mids.into_iter().map(arrivals).collect::<Vec<Vec<_>>>()
    };
    assert_eq!(heard(1), heard(1));
    assert_ne!(heard(1), heard(2));
}

#[test]
fn one_subscribers_losses_cost_the_others_nothing() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 1);
        let [ann, bob, cleo] = [world.join(), world.join(), world.join()];
        world.publish(ann, &[("camera", CAMERA)]);
        let [to_bob, to_cleo] = [bob, cleo].map(|who| world.pull(who, &[(ann, "camera")])[0]);
        world.set_downlink(bob, Link { loss: 0.3, ..bad() });
        world.run_ms(1_000);
        let from = world.now;
        world.run_ms(9_000);
        let said = world.client(ann).source("camera").said;
        let sink = world.sink(cleo, to_cleo);
        sink.assert_perfect(said - 9);
        let mut watched = sink.arrivals.iter().filter(|arrival| arrival.note.sent >= from);
        assert!(watched.all(|arrival| arrival.at.since(arrival.note.sent) <= 12_000));
        world.sink(bob, to_bob).assert_sound();
    });
}

#[test]
fn lost_audio_is_an_honest_gap() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE)]);
        let mid = world.pull(bob, &[(ann, "voice")])[0];
        world.set_uplink(ann, bad());
        let (client, server) = world.ends(ann);
        let lost_before = world.net.link_counters(client, server).lost;
        let from = world.client(ann).source("voice").said;
        world.run_ms(30_000);
        let until = world.client(ann).source("voice").said;
        world.run_ms(500);
        // Some of what was lost were ICE checks and reports, and some voice of the last half second.
        let lost = world.net.link_counters(client, server).lost - lost_before;
        let sink = world.sink(bob, mid);
        sink.assert_sound();
        let missed = sink.missed(from, until);
        assert!(missed > 30 && missed <= lost, "{missed} missed of {lost} lost");
    });
}

/// How often the server asked the publisher for packets, of how many that were lost on the way to it.
fn asked_of_lost(seed: u64, rtt_ms: u64) -> (u64, u64) {
    let mut world = World::new(seed, 1);
    let [ann, bob] = [world.join(), world.join()];
    world.publish(ann, &[("camera", CAMERA)]);
    let mid = world.pull(bob, &[(ann, "camera")])[0];
    let delay = Duration::from_millis(rtt_ms / 2);
    world.set_downlink(ann, Link { delay, ..Link::default() });
    world.set_uplink(ann, Link { delay, loss: 0.03, ..Link::default() });
    world.run_ms(5_000);
    let (client, server) = world.ends(ann);
    let lost_before = world.net.link_counters(client, server).lost;
    let asked_before = world.snapshots()[0].nacks_sent;
    let from = world.client(ann).source("camera").said;
    world.run_ms(20_000);
    let until = world.client(ann).source("camera").said;
    world.run_ms(2_000);
    let sink = world.sink(bob, mid);
    sink.assert_sound();
    let missed = sink.missed(from, until);
    assert!(missed * 200 <= until - from, "{missed} of {} are missing at {rtt_ms} ms", until - from);
    let lost = world.net.link_counters(client, server).lost - lost_before;
    (world.snapshots()[0].nacks_sent - asked_before, lost)
}

#[test]
fn publisher_is_asked_again_only_when_its_answer_could_be_there() {
    for_each_seed(&[1, 2], |seed| {
        for rtt_ms in [20, 300] {
            let (asked, lost) = asked_of_lost(seed, rtt_ms);
            // One in thirty answers is lost too, and an answer waits for the pacer of the publisher.
            assert!(lost > 40 && asked * 100 <= lost * 125, "{asked} for {lost} lost at {rtt_ms} ms");
        }
    });
}
