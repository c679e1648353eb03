//! Strangers and corrupted datagrams: they cost a counter, and nobody's media.
//!
//! Not claimed: that a handshake survives forged datagrams from its own client's address (DTLS has no
//! protection before its keys), nor that ICE resists someone who can also hold back the original of a check.

use std::time::Duration;

use fanline::drop_reason::DropReason;
use fanline::io::sim::Link;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

use crate::media::{CAMERA, VOICE};
use crate::world::{World, for_each_seed};

/// What is wrong with a datagram of the attacker.
fn malformed(real: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = real.choose(random).expect("the client has sent something").clone();
    match random.random_range(0..6) {
        0 => {
            bytes = vec![0; random.random_range(0..1_600)];
            random.fill_bytes(&mut bytes);
        }
        1 => {
            // Random, but for a first byte of each protocol (RFC 7983).
            bytes = vec![0; random.random_range(1..1_300)];
            random.fill_bytes(&mut bytes);
            bytes[0] = *[0, 1, 20, 22, 63, 64, 128, 144, 191, 192].choose(random).unwrap();
        }
        2 => bytes.truncate(random.random_range(0..bytes.len())),
        3 => bytes.extend([0; 40].map(|_: u8| random.random::<u8>())),
        _ => {
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..guarded_bytes(&bytes));
                bytes[at] ^= 1 << random.random_range(0..8);
            }
        }
    }
    // A change that undoes itself would be a replay, which is another claim.
    if real.contains(&bytes) {
        bytes[0] ^= 0x80;
    }
    bytes
}

/// What of a datagram its integrity covers. All of it, but for STUN's FINGERPRINT attribute at the end: a
/// check that differs only there is a replay.
fn guarded_bytes(datagram: &[u8]) -> usize {
    const FINGERPRINT_BYTES: usize = 8;
    match datagram.first() {
        Some(0..=3) => datagram.len() - FINGERPRINT_BYTES,
        _ => datagram.len(),
    }
}

#[test]
fn malformed_datagrams_disturb_nobody() {
    for_each_seed(&[1, 2, 3], |seed| {
        let mut world = World::new(seed, 2);
        let mut random = StdRng::seed_from_u64(seed ^ 0xbad);
        let [ann, bob] = [world.join(), world.join()];
        world.client(ann).tap = Some(Vec::new());
        world.client(bob).tap = Some(Vec::new());
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.run_ms(3_000);
        let real = [ann, bob].map(|who| world.client(who).tap.take().unwrap());
        let mallory = world.net.socket(([10, 6, 6, 6], 666).into());
        let servers = [ann, bob].map(|who| world.ends(who).1);
        for _ in 0..3_000 {
            let whose = random.random_range(0..2);
            let bytes = malformed(&real[whose], &mut random);
            match random.random_bool(0.5) {
                true => mallory.send(*servers.choose(&mut random).unwrap(), &bytes),
                false => world.client([ann, bob][whose]).socket.send(servers[whose], &bytes),
            }
            world.step();
        }
        world.run_ms(2_000);
        for (mid, name) in mids.iter().zip(["voice", "camera"]) {
            let said = world.client(ann).source(name).said;
            world.sink(bob, *mid).assert_perfect(said - 9);
        }
        assert_eq!(world.census().sessions_connected, 2);
        assert!(!world.client(ann).closed && !world.client(bob).closed);
        for reason in [DropReason::NotOurs, DropReason::UnknownSource, DropReason::AuthenticationFailed] {
            let dropped = world.drops(reason);
            assert!(dropped > 50, "{}: {dropped}", reason.as_str());
        }
        let malformed = world.drops(DropReason::MalformedRtp) + world.drops(DropReason::MalformedRtcp);
        assert!(malformed > 0, "no header was cut short");
        world.client(ann).sources.iter_mut().for_each(|source| source.muted = true);
        world.run_ms(10);
        let received: u64 = world.snapshots().iter().map(|shard| shard.rtp_packets_received).sum();
        let said: u64 = world.client(ann).sources.iter().map(|source| source.said).sum();
        assert_eq!(received, said, "only what decrypts counts as received");
        // What was refused moved nothing: media still comes from and goes to where it did.
        assert_eq!(mallory.recv().map(|(_, _, bytes)| bytes.len()), None);
    });
}

#[test]
fn forgeries_that_overtake_their_originals_do_not_displace_them() {
    for_each_seed(&[1, 2, 3], |seed| {
        let mut world = World::new(seed, 2);
        let mut random = StdRng::seed_from_u64(seed ^ 0xbad);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.run_ms(500);
        let server = world.ends(ann).1;
        for _ in 0..10 {
            // For 40 ms all that she sends is held up, and altered copies of it arrive in its place.
            world.client(ann).tap = Some(Vec::new());
            world.set_uplink(ann, Link { loss: 1.0, ..Link::default() });
            world.run_ms(40);
            let held_up = world.client(ann).tap.take().unwrap();
            world.set_uplink(ann, Link { delay: Duration::from_millis(5), ..Link::default() });
            for _ in 0..100 {
                world.client(ann).socket.send(server, &malformed(&held_up, &mut random));
            }
            for bytes in &held_up {
                world.client(ann).socket.send(server, bytes);
            }
            world.run_ms(100);
        }
        for (mid, name) in mids.iter().zip(["voice", "camera"]) {
            let said = world.client(ann).source(name).said;
            world.sink(bob, *mid).assert_perfect(said - 9);
        }
        let forged = world.drops(DropReason::AuthenticationFailed);
        assert!(forged > 200, "{forged} were refused for their tag");
    });
}

#[test]
fn replayed_media_is_heard_once() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.client(ann).tap = Some(Vec::new());
        world.run_ms(2_000);
        let server = world.ends(ann).1;
        let real = world.client(ann).tap.take().unwrap();
        let media: Vec<_> = real.into_iter().filter(|bytes| (128..192).contains(&bytes[0])).collect();
        for bytes in &media {
            world.client(ann).socket.send(server, bytes);
        }
        world.run_ms(1_000);
        for (mid, name) in mids.iter().zip(["voice", "camera"]) {
            let said = world.client(ann).source(name).said;
            world.sink(bob, *mid).assert_perfect(said - 9);
        }
        // The track ring would refuse them too, but by then they would have counted as received.
        assert_eq!(world.drops(DropReason::Replayed), media.len() as u64);
    });
}

#[test]
fn checks_overheard_and_sent_again_from_elsewhere_move_no_media() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob] = [world.join(), world.join()];
        world.client(bob).tap = Some(Vec::new());
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let mids = world.pull(bob, &[(ann, "voice"), (ann, "camera")]);
        world.run_ms(3_000);
        let real = world.client(bob).tap.take().unwrap();
        let checks: Vec<_> = real.into_iter().filter(|bytes| bytes[0] < 4).collect();
        assert!(checks.len() > 1, "{} checks were overheard", checks.len());
        let mallory = world.net.socket(([10, 6, 6, 6], 666).into());
        let server = world.ends(bob).1;
        for mut check in checks {
            mallory.send(server, &check);
            // The attribute that no integrity covers makes it another datagram, and the same check.
            *check.last_mut().unwrap() ^= 1;
            mallory.send(server, &check);
            world.run_ms(100);
        }
        assert_eq!(mallory.recv().map(|(_, _, bytes)| bytes.len()), None);
        for (mid, name) in mids.iter().zip(["voice", "camera"]) {
            let said = world.client(ann).source(name).said;
            world.sink(bob, *mid).assert_perfect(said - 9);
        }
    });
}

#[test]
fn a_handshake_under_forgery_harms_only_itself() {
    for_each_seed(&[1, 2, 3, 4], |seed| {
        let mut world = World::new(seed, 1);
        let mut random = StdRng::seed_from_u64(seed ^ 0xbad);
        let [ann, bob] = [world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE)]);
        let mid = world.pull(bob, &[(ann, "voice")])[0];
        for _ in 0..5 {
            let cleo = world.join();
            world.client(cleo).tap = Some(Vec::new());
            let response = world.ask_to_pull(cleo, &[(ann, "voice")]).unwrap();
            let answer = world.client(cleo).answer(&response.session_description.unwrap().sdp);
            world.renegotiate(cleo, answer).unwrap();
            for _ in 0..300 {
                world.step();
                let client = world.client(cleo);
                let real = client.tap.clone().unwrap();
                if let (Some(server), false) = (client.server, real.is_empty()) {
                    client.socket.send(server, &malformed(&real, &mut random));
                }
            }
        }
        world.run_ms(500);
        let said = world.client(ann).source("voice").said;
        world.sink(bob, mid).assert_perfect(said - 1);
        assert!(world.census().sessions_connected >= 2);
    });
}
