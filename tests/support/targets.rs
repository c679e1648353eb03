//! What to do with bytes that anybody may have sent: one function per parser, which reads everything there
//! is to read and checks what must hold of any input. `tests/fuzz.rs` and the targets in `fuzz/` call them.

use fanline::id::{MediaKind, Mid};
use fanline::rtp::codec::{VideoCodec, vp8, vp9};
use fanline::rtp::dependency::Structure;
use fanline::rtp::extension::ExtensionMap;
use fanline::rtp::header::Header;
use fanline::rtp::layer::Layer;
use fanline::rtp::rtcp::{self, Packet, TransportFeedback};
use fanline::rtp::srtp::{DtlsRole, KeyingMaterial, Profile};
use fanline::sdp::{Intent, Kind, LineKind, LocalTransport, Negotiation, Remote, Send};
use fanline::shard::punt;

/// An RTP header, its elements, and the payload that is left.
pub fn header(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    assert!((12..=bytes.len()).contains(&header.len), "a header lies within its packet");
    let in_elements: usize = header.extensions(bytes).map(|(_, value)| value.len()).sum();
    assert!(in_elements <= header.len, "elements lie within the header");
    if let Ok(payload) = header.payload_len(bytes) {
        assert!(header.len + payload <= bytes.len(), "a payload lies behind its header");
    }
}

/// The dependency descriptors of packets of one encoding, each behind a byte of its length: what is read of one
/// must make sense for whoever forwards by it.
pub fn dependency(bytes: &[u8]) {
    let mut structure = Structure::default();
    let mut rest = bytes;
    while let Some((&len, behind)) = rest.split_first() {
        let (descriptor, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        let Some(frame) = structure.read(descriptor) else { continue };
        assert_eq!(frame.switches.and(frame.needed_by), frame.switches, "a switch is part of its target");
        assert!(frame.layer.is_within(Layer::MAX));
        let Some(highest) = frame.needed_by.highest() else { continue };
        assert!(structure.active().best_within(highest).is_none_or(|point| point.is_within(Layer::MAX)));
    }
}

/// A video payload of each codec.
pub fn payload(bytes: &[u8]) {
    use VideoCodec::{Av1, H264, H265, Vp8, Vp9};
    for codec in [Vp8, Vp9, H264, H265, Av1] {
        codec.starts_key_frame(bytes);
    }
    if let Some(descriptor) = vp8::Descriptor::parse(bytes) {
        assert!(descriptor.len <= bytes.len(), "a descriptor lies within its payload");
    }
    if let Some(descriptor) = vp9::Descriptor::parse(bytes) {
        assert!(descriptor.layer.is_within(Layer::MAX));
    }
}

/// A compound RTCP packet, down to the last number in it.
pub fn rtcp(bytes: &[u8]) {
    for packet in rtcp::packets(bytes) {
        let Ok(packet) = packet else { return };
        match packet {
            Packet::SenderReport { reports, .. } | Packet::ReceiverReport { reports, .. } => {
                assert!(reports.count() <= 31, "five bits count them");
            }
            Packet::SourceDescription { cnames } => {
                assert!(cnames.map(|(_, name)| name.len()).sum::<usize>() <= bytes.len());
            }
            Packet::Goodbye { ssrcs } | Packet::Remb { ssrcs, .. } => {
                assert!(4 * ssrcs.count() <= bytes.len());
            }
            Packet::Nack { sequences, .. } => {
                // A pair of two bytes each names up to 17 packets.
                assert!(sequences.count() * 4 <= 17 * bytes.len());
            }
            Packet::FullIntraRequest { entries, .. } => assert!(8 * entries.count() <= bytes.len()),
            Packet::TransportFeedback { body, .. } => transport_feedback(body),
            _ => {}
        }
    }
}

/// A body of transport-wide feedback.
pub fn transport_feedback(body: &[u8]) {
    let Ok(feedback) = TransportFeedback::parse(body) else { return };
    assert!(feedback.statuses().count() <= usize::from(u16::MAX), "16 bits count them");
}

pub const PROFILES: [Profile; 3] =
    [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmHmacSha1_80];

/// Both openers of all profiles, under keys that nobody else has: nothing may open.
pub fn srtp(bytes: &[u8]) {
    for profile in PROFILES {
        let exported = vec![0x5a; profile.keying_material_len()];
        let keys = KeyingMaterial::from_dtls(profile, &exported).expect("the length is the profile's");
        let (_, mut opener) = keys.into_contexts(DtlsRole::Server);
        let mut out = [0; 2_048];
        if let Ok(header) = Header::parse(bytes) {
            assert!(opener.unprotect_rtp(bytes, header.len, 7, &mut out).is_err(), "{profile:?}: forged RTP");
        }
        assert!(opener.unprotect_rtcp(bytes, &mut out).is_err(), "{profile:?}: forged RTCP");
    }
}

/// A record from a shard to control, or back.
pub fn punt(bytes: &[u8]) {
    let Some((path, datagram)) = punt::read(bytes) else { return };
    let mut again = vec![0; bytes.len()];
    punt::write_path(again.first_chunk_mut().expect("what was read has a path"), &path);
    again[punt::PATH_BYTES..].copy_from_slice(datagram);
    assert_eq!(punt::read(&again), Some((path, datagram)));
}

/// A description as an offer and as an answer. What an offer's answer says must be SDP again, and what is
/// pulled from its publisher must make an offer that is SDP too.
pub fn sdp(text: &str) {
    let _ = Remote::parse(Kind::Answer, text);
    let Ok(offer) = Remote::parse(Kind::Offer, text) else { return };
    let mut publisher = Negotiation::new(1, local_transport());
    let media = offer.lines().iter().filter(|line| !line.rejected && line.direction.sends());
    let media = media.filter(|line| matches!(line.kind, LineKind::Media(_)));
    let intents: Vec<(Mid, Intent)> = media.map(|line| (line.mid, Intent::Receive)).collect();
    let Ok(answer) = publisher.answer(&offer, &intents) else { return };
    if !publisher.lines().is_empty() {
        let read = Remote::parse(Kind::Answer, &answer);
        assert!(read.is_ok(), "{:?}\n{answer}\nanswers\n{text}", read.err());
    }
    let mut subscriber = Negotiation::new(2, local_transport());
    if let Ok((pulled, _)) = subscriber.offer(sends(&publisher), true) {
        let read = Remote::parse(Kind::Offer, &pulled);
        assert!(read.is_ok(), "{:?}\n{pulled}\npulls from\n{text}", read.err());
    }
}

/// Every track that the publisher's session receives, to be sent to another.
fn sends(publisher: &Negotiation) -> Vec<Send> {
    let tracks = publisher.lines().iter().filter_map(|line| Some((line.kind, line.receive.as_ref()?)));
    let tracks = tracks.enumerate().filter_map(|(n, (kind, receive))| match kind {
        LineKind::Media(kind) => Some(Send {
            kind,
            codecs: receive.codecs.clone(),
            extensions: ExtensionMap::default(),
            ssrc: 2 * n as u32,
            rtx_ssrc: (kind == MediaKind::Video).then_some(2 * n as u32 + 1),
            cname: "fanline".into(),
            stream_id: "stream".into(),
            track_id: format!("track{n}"),
            transport_cc: false,
        }),
        _ => None,
    });
    tracks.collect()
}

fn local_transport() -> LocalTransport {
    LocalTransport {
        ufrag: "abcd".into(),
        pwd: "0123456789abcdefghijkl".into(),
        fingerprint: format!("sha-256 {}", ["00"; 32].join(":")),
        candidates: vec![([192, 0, 2, 1], 4_000).into()],
        ice_lite: true,
    }
}
