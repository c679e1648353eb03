//! Every codec and header extension that browsers bring, from a publisher's numbers to a subscriber's.

use super::*;
use crate::rtp::extension::Extension;

/// Format, its parameters, and whether RTX repairs it: what Chromium, Firefox, Safari offer between them.
const VIDEO: [(u8, &str, &str); 14] = [
    (96, "VP8/90000", ""),
    (98, "VP9/90000", "profile-id=0"),
    (100, "VP9/90000", "profile-id=2"),
    (35, "VP9/90000", "profile-id=1"),
    (37, "VP9/90000", "profile-id=3"),
    (102, "H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f"),
    (104, "H264/90000", "level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42e01f"),
    (106, "H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d001f"),
    (108, "H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=64001f"),
    (122, "H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=f4001f"),
    (112, "H265/90000", "level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST"),
    (114, "H265/90000", "level-id=180;profile-id=2;tier-flag=0;tx-mode=SRST"),
    (45, "AV1/90000", "level-idx=5;profile=0;tier=0"),
    (47, "AV1/90000", "level-idx=5;profile=1;tier=0"),
];

const AUDIO: [(u8, &str, &str); 5] = [
    (111, "opus/48000/2", "minptime=10;stereo=1;sprop-stereo=1;usedtx=1;useinbandfec=1"),
    (63, "red/48000/2", "111/111"),
    (0, "PCMU/8000", ""),
    (8, "PCMA/8000", ""),
    (126, "telephone-event/8000", "0-15"),
];

const FORWARDED: [Extension; 6] = [
    Extension::AudioLevel,
    Extension::VideoOrientation,
    Extension::PlayoutDelay,
    Extension::AbsCaptureTime,
    Extension::DependencyDescriptor,
    Extension::ColorSpace,
];

const FEEDBACK: [&str; 4] = ["transport-cc", "ccm fir", "nack", "nack pli"];

/// The head of a recorded offer, and two m-lines with everything above. Numbers are moved up by `shift`, but for
/// static ones; extension ids begin at `first_id`.
fn everything(direction: &str, shift: u8, first_id: u8) -> String {
    let recorded = CHROMIUM.split("m=").next().unwrap().replace("BUNDLE 0 1 2", "BUNDLE 0 1");
    let transport = CHROMIUM.lines().filter(|line| {
        ["a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "a=setup"].iter().any(|name| line.starts_with(name))
    });
    let mut transport: Vec<_> = transport.map(str::to_owned).collect();
    transport.sort();
    transport.dedup();
    let section = |mid: u8, kind: &str, formats: &[(u8, &str, &str)], repairs: bool| {
        let number = |pt: u8| if (90..120).contains(&pt) { pt + shift } else { pt };
        let mut lines = Vec::new();
        let mut numbers = Vec::new();
        for &(pt, rtpmap, fmtp) in formats {
            let pt = number(pt);
            numbers.push(pt.to_string());
            lines.push(format!("a=rtpmap:{pt} {rtpmap}"));
            if !fmtp.is_empty() {
                let fmtp = fmtp.replace("111", &number(111).to_string());
                lines.push(format!("a=fmtp:{pt} {fmtp}"));
            }
            if repairs {
                lines.extend(FEEDBACK.map(|kind| format!("a=rtcp-fb:{pt} {kind}")));
                numbers.push((pt + 1).to_string());
                lines.push(format!("a=rtpmap:{} rtx/90000", pt + 1));
                lines.push(format!("a=fmtp:{} apt={pt}", pt + 1));
            }
        }
        let extensions =
            (first_id..).zip([Extension::Mid, Extension::TransportCc].into_iter().chain(FORWARDED));
        lines.extend(extensions.map(|(id, extension)| format!("a=extmap:{id} {}", extension.uri())));
        let head = format!("m={kind} 9 UDP/TLS/RTP/SAVPF {}", numbers.join(" "));
        let fixed = [
            "c=IN IP4 0.0.0.0".to_owned(),
            format!("a=mid:{mid}"),
            format!("a={direction}"),
            "a=rtcp-mux".to_owned(),
        ];
        [vec![head], fixed.to_vec(), transport.clone(), lines].concat().join("\r\n") + "\r\n"
    };
    recorded + &section(0, "audio", &AUDIO, false) + &section(1, "video", &VIDEO, true)
}

fn pulled() -> Negotiation {
    let mut subscriber = session();
    pull(&mut subscriber, tracks_of(&everything("sendonly", 0, 1)));
    subscriber
}

#[test]
fn every_format_reaches_a_subscriber_that_has_no_numbers_of_its_own_unchanged() {
    let (text, _) = pull(&mut session(), tracks_of(&everything("sendonly", 0, 1)));
    for (pt, rtpmap, fmtp) in AUDIO.into_iter().chain(VIDEO) {
        assert!(text.contains(&format!("a=rtpmap:{pt} {rtpmap}\r\n")), "{rtpmap} {fmtp}\n{text}");
        assert!(fmtp.is_empty() || text.contains(&format!("a=fmtp:{pt} {fmtp}\r\n")), "{fmtp}\n{text}");
    }
    for (pt, ..) in VIDEO {
        assert!(text.contains(&format!("a=fmtp:{} apt={pt}\r\n", pt + 1)), "RTX of {pt}\n{text}");
        for kind in FEEDBACK {
            assert!(text.contains(&format!("a=rtcp-fb:{pt} {kind}\r\n")), "{kind} of {pt}\n{text}");
        }
    }
    insta::assert_snapshot!("pull_of_every_codec", text);
}

#[test]
fn every_format_finds_its_number_in_a_subscriber_that_offers_other_ones() {
    let mut subscriber = session();
    let sends = tracks_of(&everything("sendonly", 0, 1));
    let theirs = everything("recvonly", 3, 4);
    let intents: Vec<_> = sends
        .iter()
        .map(|send| {
            let line = if send.kind == MediaKind::Audio { "0" } else { "1" };
            (mid(line), Intent::Send(send.clone()))
        })
        .collect();
    subscriber.answer(&offer(&theirs), &intents).unwrap();
    let number = |pt: u8| if (90..120).contains(&pt) { pt + 3 } else { pt };
    let sending = |line: &str| subscriber.line(mid(line)).unwrap().send.clone().unwrap();
    let video: Vec<_> = sending("1").codecs.iter().map(|c| (c.publisher_pt, c.pt, c.rtx_pt)).collect();
    assert_eq!(video, VIDEO.map(|(pt, ..)| (pt, number(pt), Some(number(pt) + 1))));
    // RED names the payload type of Opus within its payload, and that is another here.
    let audio: Vec<_> = sending("0").codecs.iter().map(|c| (c.publisher_pt, c.pt)).collect();
    assert_eq!(audio, [(111, 114), (0, 0), (8, 8), (126, 126)]);
}

#[test]
fn extensions_keep_their_meaning_under_the_ids_of_each_side() {
    let published = tracks_of(&everything("sendonly", 0, 1)).remove(1);
    let mut subscriber = session();
    let theirs = everything("recvonly", 0, 4);
    subscriber.answer(&offer(&theirs), &[(mid("1"), Intent::Send(published.clone()))]).unwrap();
    let sent = subscriber.line(mid("1")).unwrap().send.clone().unwrap().extensions;
    for (place, extension) in (2..).zip(FORWARDED) {
        assert_eq!(published.extensions.id(extension), Some(1 + place), "{extension:?}");
        assert_eq!(sent.id(extension), Some(4 + place), "{extension:?}");
    }
}

#[test]
fn red_is_offered_where_opus_keeps_its_number() {
    let subscriber = pulled();
    let audio = subscriber.line(mid("0")).unwrap().send.clone().unwrap();
    let red = audio.codecs.iter().find(|codec| codec.publisher_pt == 63).unwrap();
    assert_eq!((red.pt, audio.codecs[0].pt), (63, 111));
}
