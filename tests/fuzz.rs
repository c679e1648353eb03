//! Hostile input, bounded and repeatable: generated and mutated bytes at every parser that a stranger can
//! reach, and at a live shard.
//!
//! `FUZZ_ROUNDS` (inputs per test) and `FUZZ_SEED` are its settings; a failure prints both. What each
//! parser must hold to is in `support/targets.rs`, which the coverage-guided targets in `fuzz/` share.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure, in its helpers too")]

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;

use fanline::config::{Config, Host};
use fanline::id::ShardId;
use fanline::io::Bell;
use fanline::rtp::demux::is_rtcp;
use fanline::rtp::header::Header;
use fanline::rtp::rtcp::{ReportBlock, Writer};
use fanline::rtp::srtp::{DtlsRole, KeyingMaterial, Opener, Sealer};
use fanline::shard::punt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use support::{MemoryIo, Peer, Rig, START, Stream, VIDEO, Wire, leg_ssrcs, media_ssrc};

#[path = "support/dependency.rs"]
mod dependency;
mod support;
#[path = "support/targets.rs"]
mod targets;

/// Enough to meet every branch of the parsers, and done in seconds without optimisation.
const ROUNDS: u64 = 3_000;

const SEED: u64 = 1;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

/// Calls `each` with a generator, as often as is set. The seed is in the output of a failed test.
fn rounds(each: impl FnMut(&mut StdRng)) {
    rounds_costing(1, each);
}

/// The same for what takes `cost` times a parser's round.
fn rounds_costing(cost: u64, mut each: impl FnMut(&mut StdRng)) {
    let (rounds, seed) = (setting("FUZZ_ROUNDS", ROUNDS) / cost, setting("FUZZ_SEED", SEED));
    println!("FUZZ_SEED={seed} FUZZ_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    (0..rounds).for_each(|_| each(&mut rng));
}

/// Numbers at which lengths and counts break.
const EDGES: [u8; 8] = [0, 1, 0x0f, 0x7f, 0x80, 0x81, 0xfe, 0xff];

/// Something like one of `corpus`: cut, grown, spliced, or with bytes replaced; sometimes wholly random.
fn mutant(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus.choose(rng).unwrap().clone();
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.random()),
            2 => bytes.splice(at.., tail(corpus, rng)).for_each(drop),
            3 => bytes.extend_from_within(at..),
            4 => bytes = noise(rng, 64),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if rng.random() { *EDGES.choose(rng).unwrap() } else { *byte ^ (1 << (at % 8)) };
                }
            }
        }
        bytes.truncate(4_096);
    }
    bytes
}

fn tail(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let other = corpus.choose(rng).unwrap();
    other[rng.random_range(0..=other.len())..].to_vec()
}

fn noise(rng: &mut StdRng, len_max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..len_max)];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn contexts() -> (Sealer, Opener) {
    let profile = targets::PROFILES[0];
    let exported = vec![7; profile.keying_material_len()];
    KeyingMaterial::from_dtls(profile, &exported).unwrap().into_contexts(DtlsRole::Server)
}

/// Packets with elements in one-byte form, in two-byte form, with CSRCs and padding, and without anything.
fn rtp_corpus() -> Vec<Vec<u8>> {
    let fixed = |flags| vec![flags, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    let with = |flags, rest: &[u8]| [&fixed(flags)[..], rest].concat();
    let (sealer, _) = contexts();
    let mut stream = Stream::new(VIDEO);
    vec![
        with(0x80, b"payload"),
        with(0x90, &[0xbe, 0xde, 0, 2, 0x10, 1, 0x22, 1, 2, 3, 0, 0, 9, 9]),
        with(0x90, &[0x10, 0, 0, 2, 1, 0, 20, 3, 1, 2, 3, 0, 9, 9]),
        with(0xb2, &[0, 0, 0, 4, 0, 0, 0, 5, 0xbe, 0xde, 0, 0, 9, 9, 2, 2]),
        stream.packet(&sealer, true)[..64].to_vec(),
    ]
}

fn rtcp_corpus() -> Vec<Vec<u8>> {
    let block = ReportBlock {
        ssrc: leg_ssrcs(0).0,
        fraction_lost: 1,
        cumulative_lost: -1,
        highest_sequence: 100,
        jitter: 5,
        last_sr: 6,
        delay_since_last_sr: 7,
    };
    let compound = |write: &dyn Fn(&mut Writer<'_>)| {
        let mut buffer = [0; 1_024];
        let mut writer = Writer::new(&mut buffer);
        write(&mut writer);
        writer.finish().to_vec()
    };
    let (leg, _) = leg_ssrcs(0);
    let arrivals = (0..40_i64).map(|n| (n % 3 != 0).then_some(n * 30));
    vec![
        compound(&|w| _ = w.sender_report(media_ssrc(), 1 << 40, 2, 3, 4, &[block; 31])),
        compound(&|w| _ = w.receiver_report(1, &[block]) && w.sdes_cname(1, "name")),
        compound(&|w| _ = w.nack(1, leg, &[90, 99, 100, 101, 119, 60_000]) && w.pli(1, leg)),
        compound(&|w| _ = w.fir(1, leg, 9) && w.remb(1, 1_000_000, &[leg, 5]) && w.goodbye(&[1, 2])),
        compound(&|w| _ = w.transport_feedback(1, 2, 3, 65_530, arrivals.clone())),
    ]
}

#[test]
fn no_bytes_upset_the_reader_of_rtp_headers() {
    let corpus = rtp_corpus();
    rounds(|rng| targets::header(&mutant(&corpus, rng)));
}

/// What encoders of several modes write, each descriptor behind its length.
fn dependency_corpus() -> Vec<Vec<u8>> {
    let modes = [(1, 1, false), (1, 3, false), (3, 3, false), (3, 3, true), (2, 2, true)];
    let stream = |(spatial, temporal, key_only)| {
        let mut encoder = dependency::Scalability::new(spatial, temporal, key_only, 60, 0xfffe);
        let frames = (0..6).flat_map(|picture| encoder.picture(picture == 0));
        frames.flat_map(|sent| [&[sent.descriptor.len() as u8], &sent.descriptor[..]].concat()).collect()
    };
    modes.map(stream).to_vec()
}

#[test]
fn no_bytes_upset_the_reader_of_dependency_descriptors() {
    let corpus = dependency_corpus();
    rounds(|rng| targets::dependency(&mutant(&corpus, rng)));
}

/// The first bytes of key frames and others, of each codec.
const PAYLOADS: [&[u8]; 6] = [
    &[0x90, 0xf0, 0x92, 0x34, 0x56, 0x87, 0x10, 0],
    &[0xe4, 0x92, 0x34, 0x53, 0x01, 0x02],
    &[0x78, 0, 2, 0x09, 0xf0, 0, 1, 0x67],
    &[48 << 1, 1, 0, 3, 35 << 1, 1, 0x50, 0, 2, 33 << 1, 1],
    &[49 << 1, 1, 0x80 | 19, 0],
    &[0x20, 0x81, 0x00, 0x0a, 0],
];

#[test]
fn no_bytes_upset_the_readers_of_video_payloads() {
    let corpus = PAYLOADS.map(<[u8]>::to_vec);
    rounds(|rng| targets::payload(&mutant(&corpus, rng)));
}

#[test]
fn no_bytes_upset_the_readers_of_rtcp() {
    let corpus = rtcp_corpus();
    rounds(|rng| {
        let bytes = mutant(&corpus, rng);
        targets::rtcp(&bytes);
        targets::transport_feedback(&bytes);
    });
}

#[test]
fn no_forgery_opens_under_keys_of_others() {
    let corpus = [rtp_corpus(), rtcp_corpus()].concat();
    rounds(|rng| targets::srtp(&mutant(&corpus, rng)));
}

#[test]
fn no_change_to_a_sealed_packet_goes_unseen() {
    for profile in targets::PROFILES {
        let exported = vec![7; profile.keying_material_len()];
        let keys = || KeyingMaterial::from_dtls(profile, &exported).unwrap();
        let (sealer, _) = keys().into_contexts(DtlsRole::Server);
        let (_, opener) = keys().into_contexts(DtlsRole::Client);
        let mut stream = Stream::new(VIDEO);
        let sealed = vec![stream.packet(&sealer, true).to_vec()];
        let index = u64::from(Header::parse(&sealed[0]).unwrap().sequence);
        let mut out = [0; 2_048];
        rounds(|rng| {
            let packet = mutant(&sealed, rng);
            let Ok(header) = Header::parse(&packet) else { return };
            let opened = opener.unprotect_rtp(&packet, header.len, index, &mut out);
            assert_eq!(opened.is_ok(), packet == sealed[0], "{profile:?}");
        });
    }
}

#[test]
fn no_record_upsets_the_reader_of_punted_datagrams() {
    let path = fanline::io::Path {
        remote: "[2001:db8::1]:9".parse().unwrap(),
        local: Some("192.0.2.1".parse().unwrap()),
    };
    let mut record = vec![0; punt::PATH_BYTES + 20];
    punt::write_path(record.first_chunk_mut().unwrap(), &path);
    rounds(|rng| targets::punt(&mutant(std::slice::from_ref(&record), rng)));
}

const DESCRIPTIONS: [&str; 6] = [
    include_str!("../src/sdp/fixtures/aiortc-publish.sdp"),
    include_str!("../src/sdp/fixtures/chromium-publish.sdp"),
    include_str!("../src/sdp/fixtures/chromium-subscribe.sdp"),
    include_str!("../src/sdp/fixtures/firefox-publish.sdp"),
    include_str!("../src/sdp/fixtures/gstreamer-publish.sdp"),
    include_str!("../src/sdp/fixtures/libwebrtc-publish.sdp"),
];

/// Something like one of the texts: lines left out, doubled, moved, taken from another, and numbers and
/// letters changed in them.
fn mutant_text(corpus: &[&str], rng: &mut StdRng) -> String {
    let mut lines: Vec<String> = corpus.choose(rng).unwrap().lines().map(str::to_owned).collect();
    for _ in 0..rng.random_range(0..8) {
        let (at, other) = (rng.random_range(0..lines.len()), rng.random_range(0..lines.len()));
        match rng.random_range(0..7) {
            0 if lines.len() > 1 => _ = lines.remove(at),
            1 => lines.insert(at, lines[other].clone()),
            2 => lines.swap(at, other),
            3 => {
                let foreign: Vec<&str> = corpus.choose(rng).unwrap().lines().collect();
                lines.insert(at, (*foreign.choose(rng).unwrap()).to_owned());
            }
            4 => lines.truncate(at + 1),
            _ => lines[at] = mutant_line(&lines[at], rng),
        }
    }
    lines.join(if rng.random_ratio(9, 10) { "\r\n" } else { "\n" }) + "\r\n"
}

fn mutant_line(line: &str, rng: &mut StdRng) -> String {
    const WORDS: [&str; 8] = ["0", "-1", "65536", "99999999999999999999", "", ":", "é", "a b"];
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let at = rng.random_range(0..words.len());
    match rng.random_range(0..4) {
        0 => words[at] = (*WORDS.choose(rng).unwrap()).to_owned(),
        1 => _ = words.remove(at),
        2 => words.insert(at, (*WORDS.choose(rng).unwrap()).to_owned()),
        _ => {
            let mutated = mutant(&[words[at].clone().into_bytes()], rng);
            words[at] = String::from_utf8_lossy(&mutated).into_owned();
        }
    }
    words.join(" ")
}

#[test]
fn no_description_upsets_offer_and_answer() {
    rounds(|rng| targets::sdp(&mutant_text(&DESCRIPTIONS, rng)));
}

#[test]
fn no_file_upsets_the_settings() {
    const FILES: [&str; 2] = [
        "http = \"0.0.0.0:8080\"\nadvertise = [\"198.51.100.7\"]\ncores = [\"1-3\"]\nlog = \"info\"\n",
        "app = [\"prod:0123456789abcdef0123456789abcdef\"]\nudp_port = 40000\nshards = 2\n\
         media_timeout = \"30s\"\nno_gso = true\nmax_sessions = 100\ndemo = \"never\"\n",
    ];
    let host = Host { cores: vec![0, 1, 2, 3], addresses: vec!["192.0.2.7".parse().unwrap()] };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // Each round builds the command line anew.
    rounds_costing(10, |rng| {
        let text = mutant_text(&FILES, rng);
        file.as_file_mut().set_len(0).unwrap();
        std::io::Seek::rewind(file.as_file_mut()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let args = ["fanline".into(), "serve".into(), "--config".into(), file.path().as_os_str().to_owned()];
        if let Err(error) = Config::load(args, std::iter::empty::<(OsString, OsString)>(), &host) {
            assert_eq!(error.to_string().lines().count(), 1, "an error is one line: {error}");
        }
    });
}

/// A shard with one publisher and one subscriber, both of whom may do their worst.
struct Victim {
    rig: Rig<MemoryIo>,
    wire: Wire,
    peers: [Peer; 2],
    stream: Stream,
}

impl Victim {
    fn new() -> Self {
        let (io, wire) = MemoryIo::heard();
        let mut rig = Rig::new(vec![(io, Bell::new().unwrap())]);
        let address = |n: u8| SocketAddr::from(([10, 0, 0, n], 4_000));
        let peers = [1, 2].map(|n| rig.join(ShardId(0), address(n)));
        rig.publish(&peers[0], &VIDEO);
        rig.settle(START);
        rig.subscribe(&peers[1], &VIDEO, 0);
        rig.settle(START);
        Self { rig, wire, peers, stream: Stream::new(VIDEO) }
    }

    /// How many RTP packets the subscriber got since it was last asked.
    fn heard_by_the_subscriber(&mut self) -> usize {
        let mut count = 0;
        while let Some(record) = self.wire.tap.next() {
            let (path, bytes) = punt::read(record).unwrap();
            count += usize::from(path.remote == self.peers[1].address && !is_rtcp(bytes));
        }
        self.wire.tap.release();
        count
    }
}

/// An SRTP packet that authenticates, whatever its header and payload say.
fn sealed_rtp(bytes: &[u8], sealer: &Sealer) -> Option<Vec<u8>> {
    let header = Header::parse(bytes).ok()?;
    let mut packet = bytes.to_vec();
    packet.resize(bytes.len() + sealer.rtp_overhead(), 0);
    sealer.protect_rtp(&mut packet, header.len, header.sequence.into());
    Some(packet)
}

/// An SRTCP packet that authenticates.
fn sealed_rtcp(bytes: &[u8], sealer: &mut Sealer) -> Option<Vec<u8>> {
    let mut packet = bytes.to_vec();
    packet.resize(bytes.len() + sealer.profile().rtcp_overhead(), 0);
    let len = (bytes.len() >= 8).then(|| sealer.protect_rtcp(&mut packet, bytes.len()))??;
    packet.truncate(len);
    Some(packet)
}

#[test]
fn a_live_shard_forwards_on_whatever_its_peers_seal() {
    let (rtp, rtcp) = (rtp_corpus(), rtcp_corpus());
    let mut victim = Victim::new();
    let mut now = START;
    rounds(|rng| {
        let who = rng.random_range(0..2);
        let peer = &mut victim.peers[who];
        let packet = match rng.random_range(0..4) {
            0 => Some(mutant(&rtp, rng)),
            1 => Some(mutant(&rtcp, rng)),
            2 => sealed_rtp(&mutant(&rtp, rng), &peer.sealer),
            _ => sealed_rtcp(&mutant(&rtcp, rng), &mut peer.sealer),
        };
        if let Some(packet) = packet.filter(|packet| packet.len() < 4_096) {
            victim.wire.send(victim.peers[who].address, &packet);
        }
        now = now.plus_us(rng.random_range(0..50_000));
        victim.rig.settle(now);
        victim.heard_by_the_subscriber();
    });
    // What was sealed may have moved the replay window anywhere in its first cycle; one of these is ahead of it.
    for step in 0..20 {
        victim.stream.next = step * 0x1000;
        let packet = victim.stream.packet(&victim.peers[0].sealer, true);
        victim.wire.send(victim.peers[0].address, packet);
        victim.rig.settle(now);
    }
    assert!(victim.heard_by_the_subscriber() > 0, "the publisher's packets still arrive");
}
