//! Publishing: the client's offer, our answer, and the tracks between them.

use std::time::Duration;

use fanline::time::Clock;
use serde_json::{Value, json};
use str0m::media::{Direction, MediaKind};

use crate::client::{Client, answer, has_line, local, offer, remote, sdp_of, sections};
use crate::server::{Server, is_failed};

const AUDIO: (MediaKind, Direction) = (MediaKind::Audio, Direction::SendOnly);
const VIDEO: (MediaKind, Direction) = (MediaKind::Video, Direction::SendOnly);

#[tokio::test]
async fn the_answer_to_a_push_lets_any_client_connect() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let (mids, sdp) = client.peer.offer_media(&[AUDIO, VIDEO]);
    let items = [local(&mids[1], "camera"), local(&mids[0], "mic")];
    let body = client.tracks_new(json!({ "sessionDescription": offer(&sdp), "tracks": items })).await.ok();
    let expected =
        [json!({ "mid": mids[1], "trackName": "camera" }), json!({ "mid": mids[0], "trackName": "mic" })];
    assert_eq!(body["tracks"], json!(expected), "in the order of the request, and nothing more");
    assert_eq!(body["requiresImmediateRenegotiation"], false);
    assert_eq!(body["sessionDescription"]["type"], "answer");
    let sdp = sdp_of(&body);
    assert!(has_line(sdp, "a=ice-lite") && !sdp.contains("a=setup:act"), "{sdp}");
    let candidates = sdp.lines().filter(|line| line.starts_with("a=candidate:")).collect::<Vec<_>>();
    assert!(candidates.len() == 1 && candidates[0].contains(" 127.0.0.1 "), "{candidates:?}");
    assert!(has_line(sdp, "a=end-of-candidates"), "{sdp}");
    for section in sections(sdp) {
        assert!(has_line(section, "a=recvonly") && has_line(section, "a=rtcp-mux"), "{section}");
    }
    assert!(has_line(sdp, "a=setup:passive"), "{sdp}");
}

#[tokio::test]
async fn a_push_is_listed_at_once_and_active() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let mids = client.push(&[(MediaKind::Audio, "mic"), (MediaKind::Video, "camera")]).await;
    let of =
        |mid: &str, name: &str| ("local".to_owned(), mid.to_owned(), name.to_owned(), "active".to_owned());
    assert_eq!(client.tracks().await, [of(&mids[0], "mic"), of(&mids[1], "camera")]);
}

#[tokio::test]
async fn a_push_that_makes_no_sense_says_why_and_changes_nothing() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let (mids, sdp) = client.peer.offer_media(&[AUDIO, VIDEO]);
    let (mic, camera) = (mids[0].as_str(), mids[1].as_str());
    let tracks = |items: &[Value]| json!({ "sessionDescription": offer(&sdp), "tracks": items });
    let invalid = [
        (tracks(&[local(mic, "a"), json!({ "location": "local", "trackName": "b" })]), &["\"b\"", "mid"][..]),
        (tracks(&[local("nope", "a")]), &["\"a\"", "\"nope\""]),
        (tracks(&[local("a mid that is too long to be one", "a")]), &["\"a\"", "too long"]),
        (tracks(&[json!({ "location": "local", "mid": mic })]), &["trackName", mic]),
        (tracks(&[local(mic, "")]), &["trackName", mic]),
        (tracks(&[local(mic, "a"), local(camera, "a")]), &["\"a\"", mic, camera]),
        (tracks(&[local(mic, "a"), local(mic, "b")]), &["\"b\"", mic]),
        (tracks(&[local(mic, "a"), remote(&client.id, "a")]), &["local", "remote"]),
        (json!({ "tracks": [local(mic, "a")] }), &["sessionDescription"]),
        (json!({}), &["tracks"]),
        (json!({ "autoDiscover": true }), &["sessionDescription"]),
    ];
    for (body, names) in &invalid {
        client.tracks_new(body.clone()).await.is_refused(406, "invalid_params", names);
        assert_eq!(client.tracks().await, [], "{body}");
    }
    let wrong_type = json!({ "sessionDescription": answer(&sdp), "tracks": [local(mic, "a")] });
    let refused = client.tracks_new(wrong_type).await;
    refused.is_refused(406, "invalid_session_description", &["answer", "offer"]);
    let bare: String = sdp.split_inclusive("\r\n").filter(|line| !line.starts_with("a=ice-ufrag")).collect();
    let no_ice = json!({ "sessionDescription": offer(&bare), "tracks": [local(mic, "a")] });
    client.tracks_new(no_ice).await.is_refused(400, "decoding_error", &["SDP contains no ice-ufrag"]);
    let other_hash = sdp.replace(
        "a=fingerprint:sha-256 ",
        "a=fingerprint:sha-384 00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:",
    );
    let other_hash = json!({ "sessionDescription": offer(&other_hash), "tracks": [local(mic, "a")] });
    client.tracks_new(other_hash).await.is_refused(406, "invalid_session_description", &["sha-256"]);

    // The session is as good as new: the same offer is taken, names and all.
    let body = client.tracks_new(tracks(&[local(mic, "a"), local(camera, "b")])).await.ok();
    client.peer.accept_answer(sdp_of(&body));
    client.peer.is_connected().await;
}

#[tokio::test]
async fn an_m_line_on_which_the_client_does_not_send_is_no_track() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let (mids, sdp) = client.peer.offer_media(&[(MediaKind::Audio, Direction::RecvOnly)]);
    let body = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], "mic")] });
    client.tracks_new(body).await.is_refused(406, "invalid_params", &[&mids[0], "sendonly"]);
    assert_eq!(client.tracks().await, []);
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_can_be_repeated() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let (mids, sdp) = client.peer.offer_media(&[AUDIO]);
    let push = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], "mic")] });
    let lost = client.tracks_new(push.clone()).await.ok();
    let begun = Clock::runtime_instant();
    let repeated = client.tracks_new(push).await.ok();
    assert!(Clock::runtime_instant() - begun < Duration::from_secs(1), "nothing has to connect for it");
    assert_eq!(repeated["tracks"], lost["tracks"]);
    client.peer.accept_answer(sdp_of(&repeated));
    client.peer.is_connected().await;
    client.peer.talk(&mids[0], "mic");
    assert_eq!(client.tracks().await.len(), 1);
    assert_eq!(server.metric("fanline_tracks").await, 1.0);
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&client, "mic").await;
    listener.peer.hears(&mid, "mic").await;
}

#[tokio::test]
async fn a_second_push_adds_to_the_first() {
    let server = Server::start();
    let client = Client::publishing(&server, "mic").await;
    client.push(&[(MediaKind::Audio, "music")]).await;
    let listener = Client::new(&server).await;
    for name in ["mic", "music"] {
        let mid = listener.pull_one(&client, name).await;
        listener.peer.hears(&mid, name).await;
    }
    let listed = client.tracks().await;
    assert!(listed.len() == 2 && listed.iter().all(|track| track.3 == "active"), "{listed:?}");
}

#[tokio::test]
async fn a_name_is_taken_until_its_track_is_closed() {
    let server = Server::start();
    let client = Client::publishing(&server, "mic").await;
    let taken = client.tracks().await[0].1.clone();
    let (mids, sdp) = client.peer.offer_media(&[AUDIO]);
    let push = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], "mic")] });
    let refused = client.tracks_new(push.clone()).await;
    refused.is_refused(406, "invalid_params", &["\"mic\"", &taken, &mids[0]]);
    client.tracks_close(json!({ "tracks": [{ "mid": taken }], "force": true })).await.ok();
    client.tracks_new(push).await.ok();
}

#[tokio::test]
async fn another_name_on_a_mid_replaces_its_track() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let mids = client.push(&[(MediaKind::Audio, "mic")]).await;
    let listener = Client::new(&server).await;
    let old = listener.pull_one(&client, "mic").await;
    listener.peer.hears(&old, "mic").await;

    let sdp = client.peer.offer_again();
    let push = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], "music")] });
    let body = client.tracks_new(push).await.ok();
    client.peer.accept_answer(sdp_of(&body));
    client.peer.talk(&mids[0], "music");
    let new = listener.pull_one(&client, "music").await;
    listener.peer.hears(&new, "music").await;
    listener.peer.hears_nothing_more(&old, "music").await;
    let listed = client.tracks().await;
    assert_eq!(listed.iter().filter(|track| track.3 == "active").count(), 1, "{listed:?}");
    let gone = listener.tracks_new(json!({ "tracks": [remote(&client.id, "mic")] })).await.ok();
    is_failed(&gone["tracks"][0], "not_found_track_error", &["mic"]);
}

#[tokio::test]
async fn auto_discover_publishes_each_sending_m_line_once_under_a_name_of_its_own() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let receiving = (MediaKind::Video, Direction::RecvOnly);
    let (mids, sdp) = client.peer.offer_media(&[AUDIO, receiving, VIDEO]);
    let discover = |sdp: &str| json!({ "sessionDescription": offer(sdp), "autoDiscover": true });
    let body = client.tracks_new(discover(&sdp)).await.ok();
    let found = body["tracks"].as_array().unwrap();
    let seen: Vec<_> = found.iter().map(|item| (&item["mid"], &item["kind"])).collect();
    assert_eq!(seen, [(&json!(mids[0]), &json!("audio")), (&json!(mids[2]), &json!("video"))]);
    assert_ne!(found[0]["trackName"], found[1]["trackName"]);
    client.peer.accept_answer(sdp_of(&body));
    client.peer.is_connected().await;

    client.peer.talk(&mids[0], "found");
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&client, found[0]["trackName"].as_str().unwrap()).await;
    listener.peer.hears(&mid, "found").await;

    let (more, sdp) = client.peer.offer_media(&[AUDIO]);
    let body = client.tracks_new(discover(&sdp)).await.ok();
    assert_eq!(body["tracks"].as_array().unwrap().len(), 1, "what is published already is not found again");
    assert_eq!(body["tracks"][0]["mid"], json!(more[0]));
}
