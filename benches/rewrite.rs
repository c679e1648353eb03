//! What renumbering and relabelling cost: a header built once per packet and shape, and the few fields that
//! each leg patches.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fanline::forward::glance::Glance;
use fanline::forward::leg::Leg;
use fanline::forward::rewrite::{SendCodec, Shape};
use fanline::forward::track_ring::Packet;
use fanline::id::{LegId, Mid, SessionSlot};
use fanline::rtp::extension::{Extension, ExtensionMap};
use fanline::rtp::header::Header;
use fanline::rtp::layer::Points;
use fanline::rtp::template::{HeaderTemplate, patch};
use fanline::time::Time;

/// What publishers send: Opus with its level, and a video packet with a dependency descriptor (three bytes
/// in all packets but those of key frames) and a transport-wide sequence number, which ends here.
const ELEMENTS: [(&str, &[(Extension, usize)]); 3] = [
    ("bare", &[]),
    ("audio", &[(Extension::AudioLevel, 1), (Extension::TransportCc, 2)]),
    (
        "video",
        &[
            (Extension::TransportCc, 2),
            (Extension::DependencyDescriptor, 3),
            (Extension::AbsSendTime, 3),
            (Extension::VideoContentType, 1),
        ],
    ),
];

/// A packet with these elements under ids from 1 on, and the map of these ids.
fn packet(elements: &[(Extension, usize)]) -> (Packet, Vec<u8>, ExtensionMap) {
    let mut map = ExtensionMap::default();
    let mut template = HeaderTemplate::new(true, 96);
    for (id, &(extension, len)) in (1..).zip(elements) {
        map.set(extension, id);
        template.push(id, &vec![0x5a; len]);
    }
    template.finish();
    let mut bytes = template.as_bytes().to_vec();
    let header_len = bytes.len() as u16;
    bytes.resize(120, 0x5a);
    let packet = Packet {
        index: 1_000,
        timestamp: 0,
        payload_type: 96,
        marker: true,
        header_len,
        len: 120,
        arrived: Time(0),
    };
    (packet, bytes, map)
}

/// The subscriber accepted everything, under other ids.
fn shape(mid: Option<Mid>) -> Shape {
    let mut extensions = ExtensionMap::default();
    for (id, &extension) in (1..15).rev().zip(Extension::ALL) {
        extensions.set(extension, id);
    }
    let codec = SendCodec { from: 96, to: 102, rtx: Some(103), clock_rate: 90_000 };
    Shape::new(vec![codec], extensions, mid)
}

/// Once per packet and shape.
fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("rewrite/header");
    let mid = Mid::from_bytes(b"12").expect("two printable bytes");
    for (name, elements) in ELEMENTS {
        let (packet, stored, publisher) = packet(elements);
        for (with, mid) in [("", None), ("_and_mid", Some(mid))] {
            let shape = shape(mid);
            group.bench_function(BenchmarkId::from_parameter(format!("{name}{with}")), |b| {
                b.iter(|| shape.header(black_box(&packet), black_box(&stored), &publisher));
            });
        }
        group.bench_function(BenchmarkId::from_parameter(format!("{name}_parse")), |b| {
            b.iter(|| Header::parse(black_box(&stored)));
        });
    }
}

/// Once per leg.
fn per_leg(c: &mut Criterion) {
    let mut leg = Leg::new(SessionSlot(0), LegId(0), (1, Some(2)), 100, 0);
    let (mut packet, stored, _) = packet(ELEMENTS[1].1);
    let glance = Glance { is_beginning: true, picture: None, layering: None };
    c.bench_function("rewrite/number", |b| {
        b.iter(|| {
            packet.index += 1;
            leg.number(black_box(&packet), &glance, Points::NONE)
        });
    });
    let index = packet.index;
    let mut header = stored[..20].to_vec();
    c.bench_function("rewrite/patch", |b| {
        b.iter(|| patch(black_box(&mut header), index as u16, index as u32, 7));
    });
}

criterion_group!(benches, build, per_leg);
criterion_main!(benches);
