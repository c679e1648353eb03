//! What goes the other way: reports, key frame requests, transport-wide feedback.

use std::time::{Duration, SystemTime};

use fanline::io::sim::Link;
use str0m::rtp::rtcp::Rtcp;

use crate::media::{CAMERA, Shape, VOICE};
use crate::world::{Who, World, for_each_seed};

/// When a source began, by one (NTP, RTP) pair of a report.
fn beginning(ntp: SystemTime, rtp: u32, shape: &Shape) -> SystemTime {
    let elapsed = u64::from(rtp.wrapping_sub(shape.first_timestamp));
    ntp - Duration::from_micros(elapsed * 1_000_000 / shape.clock_rate)
}

fn apart(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).or_else(|_| b.duration_since(a)).unwrap()
}

#[test]
fn sender_reports_keep_voice_and_picture_in_sync() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let [ann, bob, cleo] = [world.join_observing(), world.join(), world.join()];
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        let pulls = [(ann, "voice"), (ann, "camera")];
        let mids = [bob, cleo].map(|who| world.pull(who, &pulls));
        world.set_uplink(ann, Link { delay: Duration::from_millis(70), ..Link::default() });
        world.run_ms(15_000);
        let begun = world.client(ann).sources.iter().map(|s| s.began.unwrap()).collect::<Vec<_>>();
        assert_eq!(begun[0], begun[1], "voice and picture began together");
        // Where the publisher's own reports put that moment.
        let truth = world.client(ann).rtcp_sent.iter().find_map(|(_, packet)| match packet {
            Rtcp::SenderReport(sr) if sr.sender_info.rtp_time.denom() == 90_000 => None,
            Rtcp::SenderReport(sr) => Some((sr.sender_info.ntp_time, sr.sender_info.rtp_time.numer() as u32)),
            _ => None,
        });
        let (ntp, rtp) = truth.expect("the publisher reports");
        let candidates = [&VOICE, &CAMERA].map(|shape| beginning(ntp, rtp, shape));
        for (who, mids) in [bob, cleo].into_iter().zip(&mids) {
            for (mid, shape) in mids.iter().zip([VOICE, CAMERA]) {
                let reports = &world.sink(who, *mid).reports;
                assert!(reports.len() >= 2, "{} reports", reports.len());
                for report in reports {
                    let said = beginning(report.ntp, report.rtp, &shape);
                    let off = candidates.iter().map(|&truth| apart(said, truth)).min().unwrap();
                    assert!(off <= Duration::from_millis(1), "{:?} is off by {off:?}", shape.kind);
                }
                let heard = world.sink(who, *mid).heard() as u32;
                let counted = reports.last().unwrap().packets;
                assert!(counted > 0 && counted <= heard + 10, "{counted} sent, {heard} heard");
            }
        }
    });
}

/// How far apart the publisher's requests for key frames came, in ms.
fn asked_apart_ms(world: &mut World, who: Who) -> Vec<u64> {
    let asked = &world.client(who).source("camera").key_frames_asked;
    asked.windows(2).map(|pair| pair[1].since(pair[0]) / 1_000).collect()
}

#[test]
fn fifty_viewers_who_lose_their_picture_cost_the_publisher_two_key_frames_a_second() {
    for_each_seed(&[1], |seed| {
        let mut world = World::new(seed, 2);
        let ann = world.join();
        world.publish(ann, &[("camera", CAMERA)]);
        let viewers: Vec<_> = (0..50).map(|_| world.join()).collect();
        let mids: Vec<_> = viewers.iter().map(|&who| world.pull(who, &[(ann, "camera")])[0]).collect();
        world.run_ms(1_000);
        let plis_before: u64 = world.snapshots().iter().map(|shard| shard.plis_received).sum();
        let asked_before = world.client(ann).source("camera").key_frames_asked.len();
        let lost_at = world.now;
        for _ in 0..30 {
            for (&who, &mid) in viewers.iter().zip(&mids) {
                world.client(who).lose_picture(mid);
            }
            world.run_ms(100);
        }
        world.run_ms(500);
        let asked = world.client(ann).source("camera").key_frames_asked.len() - asked_before;
        assert!((6..=8).contains(&asked), "{asked} requests in three and a half seconds");
        assert!(asked_apart_ms(&mut world, ann).iter().all(|&ms| ms >= 499));
        let plis: u64 = world.snapshots().iter().map(|shard| shard.plis_received).sum();
        assert!(plis - plis_before >= 50 * 10, "{}: everybody did ask", plis - plis_before);
        for (&who, &mid) in viewers.iter().zip(&mids) {
            let mut keys = world.sink(who, mid).arrivals.iter().filter(|a| a.note.key && a.at > lost_at);
            let first = keys.next().expect("a key frame came").at;
            assert!(first.since(lost_at) <= 600_000, "after {} us", first.since(lost_at));
        }
    });
}

#[test]
fn a_viewer_who_joins_late_soon_sees_a_key_frame() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 2);
        let ann = world.join();
        world.publish(ann, &[("camera", CAMERA)]);
        world.run_ms(3_000);
        let asked = world.client(ann).source("camera").key_frames_asked.len();
        assert!(asked <= 1, "nobody watches, so nobody asks: {asked}");
        for _ in 0..4 {
            let who = world.join();
            let mid = world.pull(who, &[(ann, "camera")])[0];
            let connected = world.now;
            world.run_ms(700);
            let first = world.sink(who, mid).arrivals.iter().find(|arrival| arrival.note.key);
            let first = first.expect("a key frame comes").at;
            assert!(first.since(connected) <= 600_000, "after {} us", first.since(connected));
            world.run_ms(130);
        }
        assert!(asked_apart_ms(&mut world, ann).iter().all(|&ms| ms >= 499));
    });
}

#[test]
fn the_publisher_hears_how_its_packets_arrive() {
    for_each_seed(&[1, 2], |seed| {
        let mut world = World::new(seed, 1);
        let ann = world.join_observing();
        world.publish(ann, &[("voice", VOICE), ("camera", CAMERA)]);
        world.set_uplink(ann, Link { delay: Duration::from_millis(5), loss: 0.1, ..Link::default() });
        world.run_ms(2_000);
        let from = world.now;
        world.run_ms(10_000);
        let heard = world.client(ann).rtcp.iter().filter(|(at, _)| *at >= from);
        let (mut feedback, mut blocks, mut losses) = (0, 0, Vec::new());
        for (_, packet) in heard {
            match packet {
                Rtcp::Twcc(_) => feedback += 1,
                Rtcp::ReceiverReport(report) => {
                    blocks += report.reports.len();
                    losses.extend(report.reports.iter().map(|block| f64::from(block.fraction_lost) / 256.0));
                }
                _ => {}
            }
        }
        assert!((150..=210).contains(&feedback), "{feedback} feedback packets in ten seconds");
        assert!((16..=24).contains(&blocks), "{blocks} report blocks for two tracks in ten seconds");
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        assert!((0.06..0.14).contains(&mean), "a loss of one in ten is reported as {mean}");
    });
}
