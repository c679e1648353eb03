//! Layers towards a viewer whose bandwidth is short, through a real shard: what leaves can be decoded, has no gaps,
//! and comes back when there is room. The viewer tells its bandwidth itself (REMB), so that the stories are exact;
//! how it is estimated is another matter (`tests/sim`).

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure, in its helpers too")]

use std::collections::HashSet;
use std::net::SocketAddr;

use dependency::Scalability;
use fanline::forward::rewrite::SendCodec;
use fanline::forward::select::Selection;
use fanline::id::{LegId, MediaKind, Mid, ShardId, TrackKey};
use fanline::io::Bell;
use fanline::rtp::codec::{VideoCodec, vp8};
use fanline::rtp::demux::is_rtcp;
use fanline::rtp::extension::{Extension, ExtensionMap};
use fanline::rtp::header::Header;
use fanline::rtp::rtcp::{self, Writer};
use fanline::rtp::template::{HeaderTemplate, patch};
use fanline::shard::command::{
    Command, EncodingConfig, LegConfig, PublicationConfig, ReceiveCodec, TrackConfig,
};
use fanline::shard::punt;
use fanline::time::{Time, ntp_mid32};
use support::{MemoryIo, Peer, Rig, START, Wire};

#[path = "support/dependency.rs"]
mod dependency;
mod support;

const TRACK: TrackKey = TrackKey { index: 0, generation: 1 };
const PUBLISHER_SSRC: u32 = 0x0a0a_0a0a;
const PUBLISHER_RTX_SSRC: u32 = 0x0b0b_0b0b;
const VIEWER_SSRC: u32 = 0x1000_0000;
const VIEWER_RTX_SSRC: u32 = 0x2000_0000;
/// Of media and RTX, at the publisher and at the viewer.
const PAYLOAD_TYPES: [[u8; 2]; 2] = [[96, 97], [102, 103]];
/// Of the dependency descriptor.
const DESCRIPTOR_IDS: [u8; 2] = [5, 9];

const PLENTY_BPS: u64 = 20_000_000;

/// A packet as it came to the viewer.
#[derive(Debug, Clone)]
struct Got {
    sequence: u16,
    marker: bool,
    descriptor: Option<Vec<u8>>,
    payload: Vec<u8>,
}

/// A publisher of video, one viewer of it, and what was sent and seen.
struct Story {
    rig: Rig<MemoryIo>,
    wire: Wire,
    publisher: Peer,
    viewer: Peer,
    now: Time,
    next_sequence: u64,
    timestamp: u32,
    /// By sequence number of the publisher: header and payload, for retransmissions.
    said: Vec<(u16, Vec<u8>)>,
    got: Vec<Got>,
    /// Retransmissions that came: the original number and the payload.
    again: Vec<(u16, Vec<u8>)>,
    key_frame_asked: bool,
    /// The middle of the NTP time in the viewer's latest sender report, as its answer names it.
    last_sr: Option<u32>,
}

fn extensions(side: usize) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    map.set(Extension::DependencyDescriptor, DESCRIPTOR_IDS[side]);
    map
}

fn publication(mid: Mid) -> PublicationConfig {
    PublicationConfig {
        track: TRACK,
        kind: MediaKind::Video,
        mid,
        codecs: vec![ReceiveCodec {
            payload_type: PAYLOAD_TYPES[0][0],
            rtx_payload_type: Some(PAYLOAD_TYPES[0][1]),
            clock_rate: 90_000,
            nack: true,
            pli: true,
        }],
        encodings: vec![EncodingConfig {
            rid: None,
            ssrc: Some(PUBLISHER_SSRC),
            rtx_ssrc: Some(PUBLISHER_RTX_SSRC),
        }],
        extensions: extensions(0),
        transport_cc: false,
    }
}

impl Story {
    fn new(codec: VideoCodec) -> Self {
        let (io, wire) = MemoryIo::heard();
        let mut rig = Rig::new(vec![(io, Bell::new().unwrap())]);
        let address = |n: u8| SocketAddr::from(([10, 0, 0, n], 4_000));
        let [publisher, viewer] = [1, 2].map(|n| rig.join(ShardId(0), address(n)));
        let mid = Mid::from_bytes(b"0").unwrap();
        let track = TrackConfig {
            key: TRACK,
            kind: MediaKind::Video,
            publisher: ShardId(0),
            encodings: 1,
            codecs: vec![(PAYLOAD_TYPES[0][0], codec)],
            extensions: extensions(0),
        };
        rig.tell(ShardId(0), Command::AddTrack { track: Box::new(track) });
        let publication = publication(mid);
        let slot = publisher.slot;
        rig.tell(ShardId(0), Command::Publish { slot, publication: Box::new(publication), ack: 0 });
        let leg = LegConfig {
            id: LegId(0),
            track: TRACK,
            ssrc: VIEWER_SSRC,
            rtx_ssrc: Some(VIEWER_RTX_SSRC),
            first_sequence: 65_500 & 0x7fff,
            first_rtx_sequence: 0,
            mid,
            codecs: vec![SendCodec {
                from: PAYLOAD_TYPES[0][0],
                to: PAYLOAD_TYPES[1][0],
                rtx: Some(PAYLOAD_TYPES[1][1]),
                clock_rate: 90_000,
            }],
            extensions: extensions(1),
            selection: Selection::default(),
            is_resumable: false,
        };
        rig.tell(ShardId(0), Command::Subscribe { slot: viewer.slot, leg: Box::new(leg), ack: 0 });
        rig.settle(START);
        let mut story = Self {
            rig,
            wire,
            publisher,
            viewer,
            now: START,
            next_sequence: 1_000,
            timestamp: 0,
            said: Vec::new(),
            got: Vec::new(),
            again: Vec::new(),
            key_frame_asked: false,
            last_sr: None,
        };
        story.has_bandwidth(PLENTY_BPS);
        story
    }

    /// The viewer says what it can receive.
    fn has_bandwidth(&mut self, bps: u64) {
        self.viewer_says(|writer| writer.remb(1, bps, &[VIEWER_SSRC]));
    }

    fn viewer_says(&mut self, write: impl FnOnce(&mut Writer<'_>) -> bool) {
        says(&mut self.viewer, &mut self.wire, write);
        self.settle();
    }

    /// Begins a new picture, a thirtieth of a second after the last.
    fn next_picture(&mut self) {
        self.now = self.now.plus_us(33_333);
        self.timestamp += 3_000;
    }

    /// The publisher sends a packet, unless it gets lost. Returns its sequence number.
    fn say(&mut self, marker: bool, descriptor: Option<&[u8]>, payload: &[u8], is_lost: bool) -> u16 {
        let mut header = HeaderTemplate::new(marker, PAYLOAD_TYPES[0][0]);
        if let Some(descriptor) = descriptor {
            assert!(header.push(DESCRIPTOR_IDS[0], descriptor));
        }
        header.finish();
        let index = self.next_sequence;
        self.next_sequence += 1;
        let mut packet = header.as_bytes().to_vec();
        let header_len = packet.len();
        patch(&mut packet, index as u16, self.timestamp, PUBLISHER_SSRC);
        packet.extend_from_slice(payload);
        self.said.push((index as u16, packet.clone()));
        if !is_lost {
            self.publisher_sends(packet, header_len, index);
        }
        index as u16
    }

    /// The publisher repeats a packet that was lost (RFC 4588).
    fn repeat(&mut self, sequence: u16, rtx_index: u64) {
        let said = self.said.iter().find(|(known, _)| *known == sequence).unwrap().1.clone();
        let header = Header::parse(&said).unwrap();
        let mut packet = said[..header.len].to_vec();
        packet[1] = packet[1] & 0x80 | PAYLOAD_TYPES[0][1];
        patch(&mut packet, rtx_index as u16, header.timestamp, PUBLISHER_RTX_SSRC);
        packet.extend(sequence.to_be_bytes());
        packet.extend_from_slice(&said[header.len..]);
        self.publisher_sends(packet, header.len, rtx_index);
    }

    fn publisher_sends(&mut self, mut packet: Vec<u8>, header_len: usize, index: u64) {
        packet.resize(packet.len() + self.publisher.sealer.rtp_overhead(), 0);
        self.publisher.sealer.protect_rtp(&mut packet, header_len, index);
        self.wire.send(self.publisher.address, &packet);
        self.settle();
    }

    /// Lets the shard do what is to be done, and hears what it sends.
    fn settle(&mut self) {
        self.rig.settle(self.now);
        let mut records = Vec::new();
        while let Some(record) = self.wire.tap.next() {
            let (path, bytes) = punt::read(record).unwrap();
            records.push((path.remote, bytes.to_vec()));
        }
        self.wire.tap.release();
        for (to, bytes) in records {
            if to == self.viewer.address && !is_rtcp(&bytes) {
                self.viewer_hears(&bytes);
            } else if to == self.viewer.address {
                let mut plain = vec![0; bytes.len()];
                let len = self.viewer.opener.unprotect_rtcp(&bytes, &mut plain).unwrap();
                let ntp = rtcp::packets(&plain[..len]).find_map(|packet| match packet {
                    Ok(rtcp::Packet::SenderReport { ntp, .. }) => Some(ntp_mid32(ntp)),
                    _ => None,
                });
                self.last_sr = ntp.or(self.last_sr);
            } else if to == self.publisher.address {
                let mut plain = vec![0; bytes.len()];
                let len = self.publisher.opener.unprotect_rtcp(&bytes, &mut plain).unwrap();
                let is_pli = |packet| matches!(packet, Ok(rtcp::Packet::PictureLossIndication { .. }));
                self.key_frame_asked |= rtcp::packets(&plain[..len]).any(is_pli);
            }
        }
    }

    fn viewer_hears(&mut self, bytes: &[u8]) {
        let header = Header::parse(bytes).unwrap();
        let mut plain = vec![0; bytes.len()];
        let len =
            self.viewer.opener.unprotect_rtp(bytes, header.len, header.sequence.into(), &mut plain).unwrap();
        let payload = plain[header.len..len].to_vec();
        if header.ssrc == VIEWER_RTX_SSRC {
            let (original, payload) = payload.split_first_chunk::<2>().unwrap();
            self.again.push((u16::from_be_bytes(*original), payload.to_vec()));
            return;
        }
        assert_eq!((header.ssrc, header.payload_type), (VIEWER_SSRC, PAYLOAD_TYPES[1][0]));
        let mut elements = header.extensions(bytes);
        let descriptor = elements.find(|(id, _)| *id == DESCRIPTOR_IDS[1]).map(|(_, value)| value.to_vec());
        self.got.push(Got { sequence: header.sequence, marker: header.marker, descriptor, payload });
    }

    fn take(&mut self) -> Vec<Got> {
        std::mem::take(&mut self.got)
    }

    fn take_key_frame_asked(&mut self) -> bool {
        std::mem::take(&mut self.key_frame_asked)
    }
}

/// Sends RTCP to the shard.
fn says(peer: &mut Peer, wire: &mut Wire, write: impl FnOnce(&mut Writer<'_>) -> bool) {
    let mut bytes = [0; 256];
    let mut writer = Writer::new(&mut bytes);
    assert!(write(&mut writer));
    let len = writer.finish().len();
    let mut packet = bytes[..len].to_vec();
    packet.resize(len + peer.sealer.profile().rtcp_overhead(), 0);
    let len = peer.sealer.protect_rtcp(&mut packet, len).unwrap();
    wire.send(peer.address, &packet[..len]);
}

fn assert_no_gaps(got: &[Got]) {
    for pair in got.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1), "a gap");
    }
}

/// VP8 with three temporal layers as libvpx lays them out: 0 2 1 2, where 1 and the 2 before it sync.
struct Vp8 {
    picture: u16,
    tl0: u8,
}

impl Vp8 {
    const PAYLOAD_BYTES: usize = 1_000;

    fn temporal_id(&self) -> u8 {
        [0, 2, 1, 2][usize::from(self.picture % 4)]
    }

    fn frame(&mut self, key: bool) -> Vec<u8> {
        let temporal = self.temporal_id();
        self.tl0 = self.tl0.wrapping_add((temporal == 0).into());
        let [high, low] = (self.picture & 0x7fff).to_be_bytes();
        let syncs = u8::from(temporal > 0);
        self.picture += 1;
        let mut payload =
            vec![0x90, 0xe0, high | 0x80, low, self.tl0, temporal << 6 | syncs << 5, u8::from(!key)];
        payload.resize(Self::PAYLOAD_BYTES, 0x5a);
        payload
    }
}

/// The temporal layers of VP8 packets.
fn temporal_ids(got: &[Got]) -> HashSet<u8> {
    got.iter().map(|got| vp8::Descriptor::parse(&got.payload).unwrap().temporal.unwrap().id).collect()
}

fn say_vp8(story: &mut Story, encoder: &mut Vp8, pictures: u32) {
    for picture in 0..pictures {
        story.next_picture();
        let frame = encoder.frame(picture == 0 && encoder.picture == 0);
        story.say(true, None, &frame, false);
    }
}

#[test]
fn temporal_layers_of_vp8_go_and_come_back_and_its_counters_close_up() {
    let mut story = Story::new(VideoCodec::Vp8);
    let mut encoder = Vp8 { picture: 0, tl0: 0 };
    say_vp8(&mut story, &mut encoder, 120);
    assert_eq!(temporal_ids(&story.take()[60..]), HashSet::from([0, 1, 2]), "there is room for all");
    story.take_key_frame_asked();
    // All of it is 250 kb/s: a bit more than half is without the highest layer.
    story.has_bandwidth(180_000);
    say_vp8(&mut story, &mut encoder, 60);
    let passing = story.take();
    say_vp8(&mut story, &mut encoder, 60);
    let without = story.take();
    assert_eq!(temporal_ids(&without), HashSet::from([0, 1]));
    story.has_bandwidth(80_000);
    say_vp8(&mut story, &mut encoder, 120);
    let base = story.take();
    assert_eq!(temporal_ids(&base[base.len() - 20..]), HashSet::from([0]));
    story.has_bandwidth(PLENTY_BPS);
    say_vp8(&mut story, &mut encoder, 300);
    let back = story.take();
    assert_eq!(temporal_ids(&back[back.len() - 60..]), HashSet::from([0, 1, 2]));
    let all = [passing, without, base, back].concat();
    assert_no_gaps(&all);
    let counters = all.iter().map(|got| {
        let descriptor = vp8::Descriptor::parse(&got.payload).unwrap();
        (descriptor.picture_id.unwrap().value, descriptor.tl0_picture_index.unwrap().value)
    });
    let counters: Vec<_> = counters.collect();
    for pair in counters.windows(2) {
        assert_eq!(pair[1].0, pair[0].0 + 1, "no picture is missing");
        assert!(pair[1].1.wrapping_sub(pair[0].1) <= 1, "and no picture of the base layer");
    }
    assert!(!story.take_key_frame_asked(), "temporal layers need no key frame");
}

/// VP9 with spatial layers, one packet per frame.
fn say_vp9(story: &mut Story, spatial: u8, pictures: u32, picture: &mut u16, key_when_asked: bool) -> u32 {
    let mut keys = 0;
    for _ in 0..pictures {
        story.next_picture();
        let key = *picture == 0 || key_when_asked && story.take_key_frame_asked();
        keys += u32::from(key);
        for s in 0..spatial {
            let [high, low] = (*picture & 0x7fff).to_be_bytes();
            // I, P, L, B, E; the layer byte: S and, above the lowest, D.
            let flags = 0x80 | u8::from(!key) << 6 | 0x20 | 0x0c;
            let mut payload = vec![flags, high | 0x80, low, s << 1 | u8::from(s > 0), 0];
            payload.resize(300 << s, 0x33);
            story.say(s + 1 == spatial, None, &payload, false);
        }
        *picture += 1;
    }
    keys
}

/// The spatial layer of a VP9 packet of these tests.
fn spatial_id(got: &Got) -> u8 {
    got.payload[3] >> 1 & 7
}

#[test]
fn spatial_layers_of_vp9_go_with_a_picture_and_come_back_with_a_key_frame() {
    let mut story = Story::new(VideoCodec::Vp9);
    let mut picture = 0;
    say_vp9(&mut story, 3, 90, &mut picture, false);
    story.take_key_frame_asked();
    // 75, 220 and 510 kb/s.
    story.has_bandwidth(300_000);
    say_vp9(&mut story, 3, 60, &mut picture, false);
    let down = story.take();
    let after = &down[down.len() - 40..];
    assert_eq!(after.iter().map(spatial_id).collect::<HashSet<_>>(), HashSet::from([0, 1]));
    assert!(
        after.iter().all(|got| got.marker == (spatial_id(got) == 1)),
        "pictures end with what is sent of them"
    );
    let from_above = down.windows(2).filter(|pair| spatial_id(&pair[0]) == 1 && spatial_id(&pair[1]) == 0);
    assert!(from_above.count() > 20);
    story.has_bandwidth(PLENTY_BPS);
    say_vp9(&mut story, 3, 150, &mut picture, false);
    let waiting = story.take();
    assert!(waiting.iter().all(|got| spatial_id(got) < 2), "no way up without a key frame");
    let keys = say_vp9(&mut story, 3, 60, &mut picture, true);
    assert!((1..=2).contains(&keys), "{keys} key frames for one step");
    let up = story.take();
    assert_eq!(up[up.len() - 3..].iter().map(spatial_id).collect::<Vec<_>>(), [0, 1, 2]);
    let first = up.iter().position(|got| spatial_id(got) == 2).unwrap();
    assert_eq!(up[first].payload[0] & 0x40, 0, "not before the key frame");
    assert!(up[first..].iter().all(|got| got.marker == (spatial_id(got) == 2)));
    assert_no_gaps(&[down, waiting, up].concat());
}

/// One packet per frame whose payload nobody but its receiver can read.
fn say_opaque(story: &mut Story, encoder: &mut Scalability, pictures: u32, sent: &mut Vec<dependency::Sent>) {
    for _ in 0..pictures {
        story.next_picture();
        let is_key = sent.is_empty() || story.take_key_frame_asked();
        let frames = encoder.picture(is_key);
        let last = frames.len() - 1;
        for (at, frame) in frames.into_iter().enumerate() {
            // Looks like a key frame of any codec, and is none.
            let mut payload = vec![0x10 | frame.layer.0, 0x08];
            payload.resize(300 << frame.layer.0, 0x99);
            story.say(at == last, Some(&frame.descriptor), &payload, false);
            sent.push(frame);
        }
    }
}

/// The frames that came, each of which can be decoded with those before it.
fn decoded(got: &[Got], sent: &[dependency::Sent]) -> Vec<(u8, u8)> {
    let number = |descriptor: &[u8]| u16::from_be_bytes([descriptor[1], descriptor[2]]);
    let mut known = HashSet::new();
    let frames = got.iter().map(|got| {
        let number = number(got.descriptor.as_ref().unwrap());
        let frame = sent.iter().find(|frame| frame.number == number).unwrap();
        assert_eq!(got.descriptor.as_ref(), Some(&frame.descriptor), "as it was written");
        for difference in &frame.references {
            assert!(known.contains(&(number - difference)), "{frame:?} cannot be decoded");
        }
        known.insert(number);
        frame.layer
    });
    frames.collect()
}

fn encrypted_payloads(spatial: u8, temporal: u8, key_only: bool) {
    let mut story = Story::new(VideoCodec::Av1);
    let mut encoder = Scalability::new(spatial, temporal, key_only, 7, 100);
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    let mut highest = Vec::new();
    for bps in [PLENTY_BPS, 250_000, 60_000, PLENTY_BPS] {
        story.has_bandwidth(bps);
        say_opaque(&mut story, &mut encoder, 240, &mut sent);
        let here = story.take();
        got.extend_from_slice(&here);
        let layers = decoded(&got, &sent);
        let recent = &layers[layers.len() - 20..];
        highest.push((
            recent.iter().map(|(s, _)| *s).max().unwrap(),
            recent.iter().map(|(_, t)| *t).max().unwrap(),
        ));
        let top = highest.last().unwrap().0;
        for (got, (s, _)) in here[here.len() - 20..].iter().zip(recent) {
            assert_eq!(got.marker, *s == top, "pictures end with what is sent of them");
        }
    }
    let all = (spatial - 1, temporal - 1);
    assert_eq!((highest[0], highest[3]), (all, all), "{highest:?}");
    assert!(highest[1] < all && highest[2] < highest[1], "{highest:?}");
    assert_no_gaps(&got);
}

#[test]
fn payloads_that_are_encrypted_end_to_end_are_thinned_by_their_descriptors() {
    encrypted_payloads(3, 3, false);
    encrypted_payloads(3, 1, false);
}

#[test]
fn layers_predicted_in_key_frames_alone_are_thinned_too() {
    encrypted_payloads(3, 3, true);
}

#[test]
fn lost_packet_of_a_layer_that_is_left_out_comes_as_an_empty_one_and_leaves_no_gap() {
    let mut story = Story::new(VideoCodec::Vp8);
    let mut encoder = Vp8 { picture: 0, tl0: 0 };
    say_vp8(&mut story, &mut encoder, 60);
    story.has_bandwidth(80_000);
    say_vp8(&mut story, &mut encoder, 120);
    story.take();
    let mut lost = Vec::new();
    // Two cycles of four pictures, and the one that shows that something is missing.
    for _ in 0..9 {
        story.next_picture();
        let is_lost = encoder.temporal_id() == 2;
        let frame = encoder.frame(false);
        let sequence = story.say(true, None, &frame, is_lost);
        if is_lost {
            lost.push(sequence);
        }
    }
    for (rtx_index, sequence) in (0..).zip(lost) {
        story.repeat(sequence, rtx_index);
    }
    let mut got = story.take();
    assert_eq!(got.iter().filter(|got| got.payload.is_empty()).count(), 4);
    got.sort_by_key(|got| got.sequence);
    assert_no_gaps(&got);
}

#[test]
fn a_nack_finds_its_packet_through_the_layers_left_out() {
    let mut story = Story::new(VideoCodec::Vp8);
    let mut encoder = Vp8 { picture: 0, tl0: 0 };
    say_vp8(&mut story, &mut encoder, 60);
    story.has_bandwidth(80_000);
    say_vp8(&mut story, &mut encoder, 160);
    let got = story.take();
    let wanted = &got[got.len() - 10];
    story.viewer_says(|writer| writer.nack(1, VIEWER_SSRC, &[wanted.sequence]));
    assert_eq!(story.again, [(wanted.sequence, wanted.payload.clone())]);
}

#[test]
fn nacks_repeated_within_a_round_trip_are_answered_once() {
    let mut story = Story::new(VideoCodec::Vp8);
    let mut encoder = Vp8 { picture: 0, tl0: 0 };
    say_vp8(&mut story, &mut encoder, 30);
    let wanted = story.take()[20].sequence;
    let ntp = story.now.ntp();
    says(&mut story.publisher, &mut story.wire, |writer| {
        writer.sender_report(PUBLISHER_SSRC, ntp, story.timestamp, 0, 0, &[])
    });
    story.settle();
    // The viewer answers its next sender report 150 ms after that has left.
    story.last_sr = None;
    while story.last_sr.is_none() {
        story.now = story.now.plus_ms(10);
        story.settle();
    }
    let last_sr = story.last_sr.unwrap();
    story.now = story.now.plus_ms(150);
    let block = rtcp::ReportBlock {
        ssrc: VIEWER_SSRC,
        fraction_lost: 0,
        cumulative_lost: 0,
        highest_sequence: 0,
        jitter: 0,
        last_sr,
        delay_since_last_sr: 0,
    };
    story.viewer_says(|writer| writer.receiver_report(1, &[block]));
    let mut answers = Vec::new();
    for _ in 0..6 {
        story.viewer_says(|writer| writer.nack(1, VIEWER_SSRC, &[wanted, wanted]));
        answers.push(std::mem::take(&mut story.again).len());
        story.now = story.now.plus_ms(50);
    }
    assert_eq!(answers, [1, 0, 0, 1, 0, 0]);
}
