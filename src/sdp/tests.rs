//! Stories of whole sessions, told through what each side writes. The snapshots are our descriptions as a
//! client reads them: review a change of one against what browsers accept.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

mod codecs;
mod properties;

const CHROMIUM: &str = include_str!("fixtures/chromium-publish.sdp");
const CHROMIUM_RECVONLY: &str = include_str!("fixtures/chromium-subscribe.sdp");
const FIREFOX: &str = include_str!("fixtures/firefox-publish.sdp");
const AIORTC: &str = include_str!("fixtures/aiortc-publish.sdp");
const GSTREAMER: &str = include_str!("fixtures/gstreamer-publish.sdp");
const LIBWEBRTC: &str = include_str!("fixtures/libwebrtc-publish.sdp");
const ALL: [&str; 6] = [CHROMIUM, CHROMIUM_RECVONLY, FIREFOX, AIORTC, GSTREAMER, LIBWEBRTC];

fn session() -> Negotiation {
    Negotiation::new(
        4_711,
        LocalTransport {
            ufrag: "fanline0".into(),
            pwd: "0123456789abcdefghijkl".into(),
            fingerprint: format!("sha-256 {}", ["AB"; 32].join(":")),
            candidates: vec!["192.0.2.1:3478".parse().unwrap(), "[2001:db8::1]:3478".parse().unwrap()],
            ice_lite: true,
        },
    )
}

fn mid(text: &str) -> Mid {
    text.parse().unwrap()
}

fn offer(sdp: &str) -> Remote {
    Remote::parse(Kind::Offer, sdp).unwrap()
}

/// Every line of a recorded offer that sends, published.
fn publish_all(session: &mut Negotiation, sdp: &str) -> String {
    let offer = offer(sdp);
    let sends = |line: &&RemoteLine| matches!(line.kind, LineKind::Media(_)) && line.direction.sends();
    let intents: Vec<_> =
        offer.lines().iter().filter(sends).map(|line| (line.mid, Intent::Receive)).collect();
    session.answer(&offer, &intents).unwrap()
}

/// The tracks that the publisher of `sdp` negotiates, as a subscriber is sent them.
fn tracks_of(sdp: &str) -> Vec<Send> {
    let mut publisher = session();
    publish_all(&mut publisher, sdp);
    let mut ssrc = 9_000;
    let mut track = |line: &Line| {
        let receive = line.receive.as_ref()?;
        let LineKind::Media(kind) = line.kind else { return None };
        ssrc += 2;
        Some(Send {
            kind,
            codecs: receive.codecs.clone(),
            extensions: receive.extensions,
            ssrc,
            rtx_ssrc: (kind == MediaKind::Video).then_some(ssrc + 1),
            cname: "publisher".into(),
            stream_id: "stream".into(),
            track_id: format!("track-{}", line.mid),
            transport_cc: kind == MediaKind::Video,
        })
    };
    publisher.lines().iter().filter_map(&mut track).collect()
}

fn audio_of(sdp: &str) -> Send {
    tracks_of(sdp).into_iter().find(|track| track.kind == MediaKind::Audio).unwrap()
}

fn video_of(sdp: &str) -> Send {
    tracks_of(sdp).into_iter().find(|track| track.kind == MediaKind::Video).unwrap()
}

/// What a client that accepts everything answers to our offer.
fn answer_to(offer: &str) -> String {
    let swapped = offer.lines().filter_map(|line| match line {
        "a=sendonly" => Some("a=recvonly".to_owned()),
        "a=recvonly" => Some("a=sendonly".to_owned()),
        "a=setup:actpass" => Some("a=setup:active".to_owned()),
        "a=ice-lite" => None,
        _ if line.starts_with("a=ssrc") || line.starts_with("a=msid:") => None,
        _ if line.starts_with("a=rid:") => Some(line.replace("recv", "send")),
        _ if line.starts_with("a=simulcast:") => Some(line.replace("recv", "send")),
        _ => Some(line.to_owned()),
    });
    swapped.map(|line| line + "\r\n").collect()
}

fn answer(sdp: &str) -> Remote {
    Remote::parse(Kind::Answer, sdp).unwrap()
}

/// Pulls `sends` in one exchange that the client accepts in full.
fn pull(session: &mut Negotiation, sends: Vec<Send>) -> (String, Vec<Mid>) {
    let (offer, mids) = session.offer(sends, false).unwrap();
    session.apply_answer(&answer(&answer_to(&offer))).unwrap();
    (offer, mids)
}

/// A client's offer made from the description we wrote last: the client's view of all m-lines.
fn offer_after(ours: &str) -> String {
    answer_to(ours).replace("a=setup:active", "a=setup:actpass").replace("a=setup:passive", "a=setup:actpass")
}

/// `sdp` with the section of `mid` edited.
fn edit(sdp: &str, mid: &str, change: impl Fn(&str) -> String) -> String {
    let mut sections = sdp.split("m=");
    let head = sections.next().unwrap().to_owned();
    let has_mid = |section: &str| section.lines().any(|line| line == format!("a=mid:{mid}"));
    head + &sections
        .map(|section| format!("m={section}"))
        .map(|section| if has_mid(&section) { change(&section) } else { section })
        .collect::<String>()
}

/// Stops a transceiver: port 0, and out of the BUNDLE group.
fn stop(sdp: &str, mid: &str) -> String {
    let stopped = edit(sdp, mid, |section| section.replacen(" 9 ", " 0 ", 1));
    let group = |line: &str| {
        let mids: Vec<&str> = line.split(' ').filter(|word| *word != mid).collect();
        mids.join(" ")
    };
    let lines = stopped
        .lines()
        .map(|line| if line.starts_with("a=group:BUNDLE") { group(line) } else { line.to_owned() });
    lines.map(|line| line + "\r\n").collect()
}

fn count(text: &str, pattern: &str) -> usize {
    text.matches(pattern).count()
}

#[test]
fn every_recorded_publisher_is_answered_under_its_own_numbers() {
    insta::assert_snapshot!("answer_chromium", publish_all(&mut session(), CHROMIUM));
    insta::assert_snapshot!("answer_firefox", publish_all(&mut session(), FIREFOX));
    insta::assert_snapshot!("answer_aiortc", publish_all(&mut session(), AIORTC));
    insta::assert_snapshot!("answer_gstreamer", publish_all(&mut session(), GSTREAMER));
    insta::assert_snapshot!("answer_libwebrtc", publish_all(&mut session(), LIBWEBRTC));
}

#[test]
fn a_published_simulcast_names_its_encodings_by_rid() {
    let mut chromium = session();
    publish_all(&mut chromium, CHROMIUM);
    let receive = chromium.line(mid("1")).unwrap().receive.clone().unwrap();
    let rids: Vec<&str> = receive.encodings.iter().map(|e| e.rid.as_ref().unwrap().as_str()).collect();
    assert_eq!(rids, ["h", "m", "l"]);
    assert!(receive.encodings.iter().all(|encoding| encoding.ssrc.is_none()));
    assert!(receive.transport_cc);

    let mut firefox = session();
    publish_all(&mut firefox, FIREFOX);
    let receive = firefox.line(mid("1")).unwrap().receive.clone().unwrap();
    let first = receive.encodings[0];
    assert_eq!(
        (first.rid, first.ssrc.is_some(), first.rtx_ssrc.is_some()),
        (Some("h".parse().unwrap()), true, true)
    );
    assert_eq!(receive.encodings.len(), 3);
}

#[test]
fn extensions_that_the_client_only_receives_are_not_expected_from_it() {
    let mut firefox = session();
    let text = publish_all(&mut firefox, FIREFOX);
    let receive = firefox.line(mid("1")).unwrap().receive.clone().unwrap();
    assert_eq!(receive.extensions.id(Extension::PlayoutDelay), None);
    assert_eq!(receive.extensions.id(Extension::Mid), Some(3));
    assert!(!text.contains("playout-delay"));
}

#[test]
fn a_fresh_subscriber_is_offered_mids_from_0_in_request_order() {
    let mut subscriber = session();
    let (text, mids) = pull(&mut subscriber, tracks_of(CHROMIUM));
    insta::assert_snapshot!("pull_chromium", text);
    assert_eq!(mids, [mid("0"), mid("1")]);
    assert_eq!(subscriber.dtls_role(), Some(DtlsRole::Passive));
    let video = subscriber.line(mid("1")).unwrap().send.clone().unwrap();
    assert_eq!((video.ssrc, video.rtx_ssrc, video.nack, video.pli), (9_004, Some(9_005), true, true));
    assert!(!text.contains("abs-send-time") && !text.contains("a=rid") && !text.contains("a=simulcast"));
}

#[test]
fn a_track_is_pulled_under_the_numbers_of_a_session_that_published_before() {
    let mut firefox = session();
    publish_all(&mut firefox, FIREFOX);
    let (text, mids) = pull(&mut firefox, tracks_of(CHROMIUM));
    insta::assert_snapshot!("pull_chromium_after_publishing_firefox", text);
    assert_eq!(mids, [mid("3"), mid("4")]);
    let video = firefox.line(mid("4")).unwrap().send.clone().unwrap();
    let vp8 = video.codecs[0];
    assert_eq!((vp8.publisher_pt, vp8.publisher_rtx, vp8.pt, vp8.rtx_pt), (96, Some(97), 120, Some(124)));
    assert_eq!(video.extensions.id(Extension::Mid), Some(3));
    let audio = firefox.line(mid("3")).unwrap().send.clone().unwrap();
    assert_eq!(audio.codecs[0].pt, 109);

    let mut chromium = session();
    publish_all(&mut chromium, CHROMIUM);
    insta::assert_snapshot!(
        "pull_firefox_after_publishing_chromium",
        pull(&mut chromium, tracks_of(FIREFOX)).0
    );
    let mut gstreamer = session();
    publish_all(&mut gstreamer, GSTREAMER);
    insta::assert_snapshot!(
        "pull_aiortc_after_publishing_gstreamer",
        pull(&mut gstreamer, tracks_of(AIORTC)).0
    );
}

#[test]
fn a_client_may_pull_by_its_own_offer() {
    let mut subscriber = session();
    let intents = [(mid("0"), Intent::Send(audio_of(FIREFOX))), (mid("1"), Intent::Send(video_of(FIREFOX)))];
    let text = subscriber.answer(&offer(CHROMIUM_RECVONLY), &intents).unwrap();
    insta::assert_snapshot!("answer_chromium_recvonly", text);
    let video = subscriber.line(mid("1")).unwrap().send.clone().unwrap();
    assert_eq!((video.codecs[0].publisher_pt, video.codecs[0].pt), (120, 96));
}

#[test]
fn a_bidirectional_line_sends_and_receives() {
    let sendrecv = CHROMIUM.replace("a=sendonly", "a=sendrecv");
    let mut both = session();
    let intents = [(mid("0"), Intent::SendReceive(audio_of(FIREFOX)))];
    let text = both.answer(&offer(&sendrecv), &intents).unwrap();
    assert_eq!((count(&text, "a=sendrecv"), count(&text, "a=inactive")), (1, 1));
    let line = both.line(mid("0")).unwrap();
    assert!(line.send.is_some() && line.receive.is_some());
}

#[test]
fn a_line_nobody_asked_for_is_inactive_not_rejected() {
    let mut fresh = session();
    let text = fresh.answer(&offer(CHROMIUM), &[(mid("1"), Intent::Receive)]).unwrap();
    assert_eq!((count(&text, "a=inactive"), count(&text, "a=recvonly"), count(&text, " 0 UDP")), (1, 1, 0));
    assert!(fresh.line(mid("0")).unwrap().receive.is_none());
}

#[test]
fn a_second_push_leaves_the_first_as_it_was() {
    let mut client = session();
    client.answer(&offer(CHROMIUM), &[(mid("0"), Intent::Receive)]).unwrap();
    let before = client.line(mid("0")).unwrap().receive.clone();
    client.answer(&offer(CHROMIUM), &[(mid("1"), Intent::Receive)]).unwrap();
    assert_eq!(client.line(mid("0")).unwrap().receive, before);
    assert!(client.line(mid("1")).unwrap().receive.is_some());
}

#[test]
fn a_publisher_that_pauses_finds_its_track_again() {
    let mut client = session();
    publish_all(&mut client, CHROMIUM);
    let paused = edit(CHROMIUM, "1", |section| section.replace("a=sendonly", "a=inactive"));
    let text = client.answer(&offer(&paused), &[]).unwrap();
    assert_eq!(count(&text, "a=inactive"), 1);
    assert!(client.line(mid("1")).unwrap().receive.is_none());
    client.answer(&offer(CHROMIUM), &[]).unwrap();
    assert!(client.line(mid("1")).unwrap().receive.is_some());
}

#[test]
fn the_transport_survives_the_end_of_the_first_line() {
    let mut client = session();
    publish_all(&mut client, CHROMIUM);
    let text = client.answer(&offer(&stop(CHROMIUM, "0")), &[(mid("0"), Intent::Close)]).unwrap();
    insta::assert_snapshot!("answer_chromium_first_line_stopped", text);
    assert_eq!(client.line(mid("0")).unwrap().state, LineState::Closed);
    assert!(text.contains("a=group:BUNDLE 1 2\r\n"));
    assert_eq!(count(&text, "a=candidate:1 "), 1);
}

#[test]
fn closing_a_line_that_is_alive_in_the_offer_answers_inactive() {
    let mut client = session();
    publish_all(&mut client, CHROMIUM);
    let text =
        client.answer(&offer(CHROMIUM), &[(mid("0"), Intent::Close), (mid("1"), Intent::Close)]).unwrap();
    assert_eq!((count(&text, "a=inactive"), count(&text, " 0 UDP")), (2, 0));
}

#[test]
fn a_force_closed_publication_can_be_published_again_on_its_mid() {
    let mut client = session();
    publish_all(&mut client, CHROMIUM);
    client.close(mid("0"));
    assert!(client.line(mid("0")).unwrap().receive.is_none());
    client.answer(&offer(CHROMIUM), &[]).unwrap();
    assert!(client.line(mid("0")).unwrap().receive.is_none(), "not before control says so");
    client.answer(&offer(CHROMIUM), &[(mid("0"), Intent::Receive)]).unwrap();
    assert!(client.line(mid("0")).unwrap().receive.is_some());
}

#[test]
fn a_closed_pull_is_rejected_by_the_next_offer_and_its_place_used_by_the_one_after() {
    let mut subscriber = session();
    pull(&mut subscriber, tracks_of(CHROMIUM));
    subscriber.close(mid("1"));
    let (rejecting, mids) = pull(&mut subscriber, vec![audio_of(FIREFOX)]);
    insta::assert_snapshot!("pull_after_close", rejecting);
    assert_eq!(mids, [mid("2")]);
    let (recycling, mids) = pull(&mut subscriber, vec![video_of(CHROMIUM)]);
    insta::assert_snapshot!("pull_into_the_closed_place", recycling);
    assert_eq!(mids, [mid("3")]);
    assert_eq!(subscriber.lines().len(), 3, "no m-line more");
    assert!(subscriber.line(mid("1")).is_none());
}

#[test]
fn the_last_line_is_never_rejected() {
    let mut subscriber = session();
    pull(&mut subscriber, vec![audio_of(CHROMIUM)]);
    subscriber.close(mid("0"));
    let (text, _) = subscriber.offer(Vec::new(), false).unwrap();
    assert_eq!((count(&text, "a=inactive"), count(&text, " 0 UDP")), (1, 0));
}

#[test]
fn a_client_recycles_a_stopped_line_under_a_new_mid() {
    let mut client = session();
    publish_all(&mut client, CHROMIUM);
    client.answer(&offer(&stop(CHROMIUM, "0")), &[]).unwrap();
    let again = CHROMIUM.replace("a=mid:0", "a=mid:7").replace("BUNDLE 0 1 2", "BUNDLE 7 1 2");
    client.answer(&offer(&again), &[(mid("7"), Intent::Receive)]).unwrap();
    assert!(client.line(mid("7")).unwrap().receive.is_some());
    assert!(client.line(mid("0")).is_none());
}

#[test]
fn a_pulled_line_goes_on_through_the_clients_next_push() {
    let mut client = session();
    let (ours, _) = pull(&mut client, tracks_of(CHROMIUM));
    let sent = client.line(mid("1")).unwrap().send.clone();
    let text = client.answer(&offer(&offer_after(&ours)), &[]).unwrap();
    assert_eq!(client.line(mid("1")).unwrap().send, sent);
    assert_eq!(count(&text, "a=sendonly"), 2);
}

#[test]
fn an_unanswered_offer_does_not_wedge_the_session() {
    let mut client = session();
    publish_all(&mut client, CHROMIUM);
    let (lost, _) = client.offer(vec![audio_of(FIREFOX)], false).unwrap();
    assert_eq!(client.answer(&offer(CHROMIUM), &[]), Err(SdpError::OfferPending));
    assert_eq!(client.offer(Vec::new(), false), Err(SdpError::OfferPending));
    client.abandon_offer();

    let mut never_seen = client.clone();
    never_seen.answer(&offer(CHROMIUM), &[]).unwrap();
    assert_eq!(never_seen.lines().len(), 3, "the client has no such line");

    let mut applied = client.clone();
    let text = applied.answer(&offer(&offer_after(&lost)), &[]).unwrap();
    assert_eq!(applied.lines().len(), 4);
    assert_eq!(count(&text, "a=inactive"), 1, "alive for the client, over for us");
    let (text, _) = pull(&mut applied, vec![video_of(FIREFOX)]);
    assert_eq!(count(&text, "m=audio 0 "), 1);

    let (text, mids) = pull(&mut client, vec![audio_of(FIREFOX)]);
    assert_eq!((count(&text, "m=audio 0 "), mids), (1, vec![mid("4")]));
}

#[test]
fn an_answer_without_an_offer_is_refused_and_a_bad_one_leaves_the_offer_out() {
    let mut client = session();
    let (text, _) = client.offer(tracks_of(CHROMIUM), true).unwrap();
    insta::assert_snapshot!("pull_with_data_channels", text);
    let good = answer(&answer_to(&text));
    let short = answer(&answer_to(&without_data_channels(&text)));
    assert_eq!(client.apply_answer(&short), Err(SdpError::LineCount { expected: 3, found: 2 }));
    assert!(client.has_pending_offer());
    assert_eq!(client.apply_answer(&offer(CHROMIUM)), Err(SdpError::WrongKind { expected: Kind::Answer }));
    client.apply_answer(&good).unwrap();
    assert_eq!(client.apply_answer(&good), Err(SdpError::NoOfferPending));
}

fn without_data_channels(text: &str) -> String {
    let cut = text.rfind("m=").unwrap();
    text[..cut].replace("BUNDLE 0 1 2", "BUNDLE 0 1")
}

#[test]
fn a_client_that_rejects_a_pulled_line_closes_it() {
    let mut client = session();
    let (text, _) = client.offer(tracks_of(CHROMIUM), false).unwrap();
    client.apply_answer(&answer(&stop(&answer_to(&text), "1"))).unwrap();
    let line = client.line(mid("1")).unwrap();
    assert_eq!((line.state, line.send.is_none()), (LineState::Closed, true));
}

#[test]
fn data_channels_alone_bring_up_a_session() {
    let only = CHROMIUM.split("m=").enumerate().filter(|(index, _)| matches!(index, 0 | 3));
    let only: Vec<&str> = only.map(|(_, section)| section).collect();
    let sdp = only.join("m=").replace("BUNDLE 0 1 2", "BUNDLE 2");
    insta::assert_snapshot!("answer_data_channels_alone", session().answer(&offer(&sdp), &[]).unwrap());
}

#[test]
fn a_client_that_insists_on_being_the_server_makes_us_the_client() {
    let mut client = session();
    let text = client.answer(&offer(&CHROMIUM.replace("actpass", "passive")), &[]).unwrap();
    assert_eq!((count(&text, "a=setup:active"), client.dtls_role()), (3, Some(DtlsRole::Active)));
    let turned = client.answer(&offer(&CHROMIUM.replace("actpass", "active")), &[]);
    assert_eq!(turned, Err(SdpError::RoleConflict));
}

#[test]
fn a_name_chosen_by_a_client_cannot_add_a_line() {
    let mut track = audio_of(CHROMIUM);
    track.track_id = "x\r\na=ice-lite".into();
    let (text, _) = session().offer(vec![track], false).unwrap();
    assert_eq!(count(&text, "\r\na=ice-lite"), 1, "ours");
}

#[test]
fn a_wish_the_offer_cannot_fill_changes_nothing() {
    let mut client = session();
    let refused = [
        (mid("0"), Intent::Send(audio_of(FIREFOX)), "does not receive"),
        (mid("9"), Intent::Receive, "no live m-line of the offer has mid \"9\""),
    ];
    for (mid, intent, why) in refused {
        let error = client.answer(&offer(CHROMIUM), &[(mid, intent)]).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(client.lines().is_empty() && client.dtls_role().is_none());
    let wrong_kind = [(mid("0"), Intent::Send(video_of(FIREFOX)))];
    let error = client.answer(&offer(CHROMIUM_RECVONLY), &wrong_kind).unwrap_err();
    assert_eq!(error, SdpError::KindMismatch(Place { index: 0, mid: mid("0") }));
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let parse = |sdp: &str| Remote::parse(Kind::Offer, sdp).unwrap_err().to_string();
    let without = |name: &str| {
        let kept = CHROMIUM.lines().filter(|line| !line.starts_with(name));
        kept.map(|line| format!("{line}\r\n")).collect::<String>()
    };
    insta::assert_snapshot!(
        [
            parse("hello"),
            parse(&without("a=ice-")),
            parse(&without("a=fingerprint")),
            parse(&without("a=setup")),
            parse(&without("a=group")),
            parse(&without("a=rtcp-mux")),
            parse(&CHROMIUM.replace("BUNDLE 0 1 2", "BUNDLE 0 2")),
            parse(&CHROMIUM.replace("a=mid:1", "a=mid:0")),
            parse(&CHROMIUM.replace("a=mid:1", "a=mid:seventeen-letters")),
            parse(&CHROMIUM.replace("s=-", "s=\u{7}")),
            session().answer(&offer(&GSTREAMER.replace("96", "111")), &[]).unwrap_err().to_string(),
        ]
        .join("\n")
    );
}

#[test]
fn an_offer_whose_lines_are_all_stopped_is_answered_with_none_alive() {
    let mut client = session();
    publish_all(&mut client, AIORTC);
    let stopped = AIORTC.replace(" 44818 ", " 0 ").replace("BUNDLE 0 1", "BUNDLE");
    let bare: String = stopped
        .lines()
        .filter(|line| !line.starts_with("a=ice") && !line.starts_with("a=fingerprint"))
        .map(|line| format!("{line}\r\n"))
        .collect();
    let text = client.answer(&offer(&bare), &[]).unwrap();
    assert_eq!(count(&text, " 0 UDP"), 2);
}

#[test]
fn the_transport_is_read_wherever_a_client_writes_it() {
    let aiortc = offer(AIORTC);
    let hashes: Vec<HashAlgorithm> = aiortc.fingerprints().iter().map(|print| print.algorithm).collect();
    assert_eq!(hashes, [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512]);
    assert_eq!(aiortc.candidates().len(), 1);
    assert!(aiortc.candidates()[0].starts_with("candidate:1 1 udp "));
    let firefox = offer(FIREFOX);
    assert_eq!(firefox.fingerprints().len(), 1, "at the session level");
    assert_eq!(firefox.ice().map(|(ufrag, pwd)| (ufrag.len(), pwd.len())), Some((8, 32)));
    assert_eq!(firefox.setup(), Some(Setup::ActPass));
    assert!(firefox.lines().iter().all(|line| !line.rejected), "bundle-only is alive in an offer");
}

#[test]
fn a_line_closed_while_its_offer_is_out_is_rejected_by_the_next() {
    let mut subscriber = session();
    let (text, mids) = subscriber.offer(tracks_of(CHROMIUM), false).unwrap();
    subscriber.close(mids[1]);
    subscriber.apply_answer(&answer(&answer_to(&text))).unwrap();
    assert_eq!(subscriber.line(mids[1]).unwrap().state, LineState::Closing);
    assert!(subscriber.line(mids[1]).unwrap().send.is_none());
    let (text, _) = pull(&mut subscriber, Vec::new());
    assert_eq!((count(&text, "m=audio 9 "), count(&text, "m=video 0 ")), (1, 1));
}

#[test]
fn a_session_has_a_last_m_line() {
    let sends = vec![audio_of(GSTREAMER); LINES_MAX + 1];
    assert_eq!(session().offer(sends, false), Err(SdpError::TooManyLines(LINES_MAX + 1)));
}

#[test]
fn an_offer_to_receive_lists_all_codecs_and_both_directions() {
    let ssrcs = (1, 2);
    let undecided = Send::undecided(MediaKind::Audio, ssrcs, "session".to_owned(), "voice".to_owned());
    let mut session = session();
    let wanted = vec![NewLine::SendReceive(undecided), NewLine::Receive(MediaKind::Video)];
    let (text, mids) = session.offer_lines(wanted, false).unwrap();
    assert_eq!(mids.len(), 2);
    insta::assert_snapshot!("offer_to_receive", text.replace("\r\n", "\n"));
}

#[test]
fn a_bidirectional_line_carries_what_comes_and_what_is_decided_later() {
    let mut client = session();
    let undecided = Send::undecided(MediaKind::Video, (1, 2), "session".to_owned(), "camera".to_owned());
    let (text, mids) = client.offer_lines(vec![NewLine::SendReceive(undecided)], false).unwrap();
    client.apply_answer(&answer(&answer_to(&text))).unwrap();
    let line = client.line(mids[0]).unwrap();
    assert!(line.is_bidirectional() && line.receive.is_some() && line.send.is_some());
    let track = tracks_of(CHROMIUM).into_iter().find(|track| track.kind == MediaKind::Video).unwrap();
    let sending = client.redirect(mids[0], MediaKind::Video, &track.codecs).unwrap();
    assert_eq!((sending.ssrc, sending.rtx_ssrc), (1, Some(2)));
    let published: Vec<_> = sending.codecs.iter().map(|codec| codec.publisher_pt).collect();
    assert_eq!(published[0], track.codecs[0].pt, "the publisher's first choice can be carried");
    assert_eq!(client.redirect(mids[0], MediaKind::Audio, &audio_of(FIREFOX).codecs), None);
}
