//! M-lines that carry a track each way: offered by a client or by the server, and pulled onto by name or mid.

use serde_json::{Value, json};
use str0m::media::{Direction, MediaKind};

use crate::client::{Client, has_line, local, offer, remote, sdp_of, sections, with};
use crate::server::{Server, is_failed};

const AUDIO: MediaKind = MediaKind::Audio;

/// Publishes audio on an m-line that can carry another track back. Returns its mid.
async fn push_bidirectional(client: &Client<'_>, name: &str) -> String {
    let (mids, sdp) = client.peer.offer_media(&[(AUDIO, Direction::SendRecv)]);
    let item = with(local(&mids[0], name), "bidirectionalMediaStream", json!(true));
    let item = with(item, "kind", json!("audio"));
    let body = client.tracks_new(json!({ "sessionDescription": offer(&sdp), "tracks": [item] })).await.ok();
    assert_eq!(body["tracks"], json!([{ "mid": mids[0], "trackName": name }]));
    let section = *sections(sdp_of(&body)).last().unwrap();
    assert!(has_line(section, "a=sendrecv"), "{section}");
    client.peer.accept_answer(sdp_of(&body));
    client.peer.is_connected().await;
    client.peer.talk(&mids[0], name);
    mids[0].clone()
}

fn pull_onto(publisher: &Client<'_>, name: &str, mid: &str) -> Value {
    json!({ "tracks": [with(remote(&publisher.id, name), "mid", json!(mid))] })
}

#[tokio::test]
async fn a_track_comes_back_on_the_m_line_of_another_without_sdp() {
    let server = Server::start();
    let [user, singer] = [Client::new(&server).await, Client::publishing(&server, "song").await];
    let mid = push_bidirectional(&user, "mic").await;
    let body = user.tracks_new(pull_onto(&singer, "song", "#mic")).await.ok();
    let item = json!({ "sessionId": singer.id, "trackName": "song", "mid": mid });
    assert_eq!(body, json!({ "requiresImmediateRenegotiation": false, "tracks": [item] }));
    user.peer.hears(&mid, "song").await;
    let heard_on = singer.pull_one(&user, "mic").await;
    singer.peer.hears(&heard_on, "mic").await;
    let listed: Vec<_> =
        user.tracks().await.into_iter().map(|(side, on, name, _)| (side, on, name)).collect();
    let track = |side: &str, name: &str| (side.to_owned(), mid.clone(), name.to_owned());
    assert_eq!(listed, [track("local", "mic"), track("remote", "song")]);
}

#[tokio::test]
async fn one_m_line_carries_one_source_after_another() {
    let server = Server::start();
    let user = Client::new(&server).await;
    let [one, two] = [Client::publishing(&server, "one").await, Client::publishing(&server, "two").await];
    let mid = push_bidirectional(&user, "mic").await;
    user.tracks_new(pull_onto(&one, "one", &mid)).await.ok();
    user.peer.hears(&mid, "one").await;
    user.tracks_new(pull_onto(&two, "two", &mid)).await.ok();
    user.peer.hears(&mid, "two").await;
    user.peer.hears_nothing_more(&mid, "one").await;
    let (_, published_on, ..) = two.tracks().await.remove(0);
    two.tracks_close(json!({ "tracks": [{ "mid": published_on }], "force": true })).await.ok();
    user.peer.hears_nothing_more(&mid, "two").await;
    let body = user.tracks_new(pull_onto(&one, "one", "#mic")).await.ok();
    assert_eq!(body["tracks"][0].get("errorCode"), None, "{body}");
    user.peer.hears(&mid, "one").await;
}

#[tokio::test]
async fn closing_a_bidirectional_mid_ends_both_ways_and_it_can_begin_anew() {
    let server = Server::start();
    let [user, singer] = [Client::new(&server).await, Client::publishing(&server, "song").await];
    let mid = push_bidirectional(&user, "mic").await;
    user.tracks_new(pull_onto(&singer, "song", "#mic")).await.ok();
    let heard_on = singer.pull_one(&user, "mic").await;
    user.peer.hears(&mid, "song").await;
    singer.peer.hears(&heard_on, "mic").await;
    user.tracks_close(json!({ "tracks": [{ "mid": mid }], "force": true })).await.ok();
    user.peer.hears_nothing_more(&mid, "song").await;
    singer.peer.hears_nothing_more(&heard_on, "mic").await;
    let sdp = user.peer.offer_again();
    let item = with(local(&mid, "mic again"), "bidirectionalMediaStream", json!(true));
    let body = user.tracks_new(json!({ "sessionDescription": offer(&sdp), "tracks": [item] })).await.ok();
    user.peer.accept_answer(sdp_of(&body));
    user.tracks_new(pull_onto(&singer, "song", "#mic again")).await.ok();
    user.peer.hears(&mid, "song").await;
}

#[tokio::test]
async fn the_server_offers_to_receive_what_the_client_then_publishes() {
    let server = Server::start();
    let [user, listener] = [Client::new(&server).await, Client::publishing(&server, "song").await];
    let voice = json!({
        "location": "local", "trackName": "voice", "kind": "audio", "bidirectionalMediaStream": true
    });
    let camera = json!({ "location": "local", "trackName": "camera", "kind": "video" });
    let body = user.tracks_new(json!({ "tracks": [voice, camera] })).await.ok();
    assert_eq!(body["requiresImmediateRenegotiation"], true);
    let items = json!([{ "mid": "0", "trackName": "voice" }, { "mid": "1", "trackName": "camera" }]);
    assert_eq!(body["tracks"], items);
    assert_eq!(body["sessionDescription"]["type"], "offer");
    let sections = sections(sdp_of(&body));
    assert!(has_line(sections[0], "a=sendrecv") && has_line(sections[1], "a=recvonly"), "{sections:?}");
    assert!(user.tracks().await.is_empty(), "what is offered is not published yet");
    user.tracks_new(pull_onto(&listener, "song", "#voice")).await.is_refused(
        406,
        "invalid_session_description",
        &["renegotiate"],
    );
    user.complete(&body).await;
    user.peer.is_connected().await;
    user.peer.talk("0", "voice");
    user.peer.talk("1", "camera");
    for name in ["voice", "camera"] {
        let mid = listener.pull_one(&user, name).await;
        listener.peer.hears(&mid, name).await;
    }
    user.tracks_new(pull_onto(&listener, "song", "#voice")).await.ok();
    user.peer.hears("0", "song").await;
}

#[tokio::test]
async fn an_offer_to_receive_can_be_added_to_what_a_session_publishes() {
    let server = Server::start();
    let [user, listener] = [Client::publishing(&server, "first").await, Client::new(&server).await];
    let item = json!({ "location": "local", "trackName": "second", "kind": "audio" });
    let body = user.tracks_new(json!({ "tracks": [item] })).await.ok();
    user.complete(&body).await;
    let mid = body["tracks"][0]["mid"].as_str().unwrap();
    user.peer.talk(mid, "second");
    for name in ["first", "second"] {
        let mid = listener.pull_one(&user, name).await;
        listener.peer.hears(&mid, name).await;
    }
}

#[tokio::test]
async fn an_offer_to_receive_that_makes_no_sense_says_why() {
    let server = Server::start();
    let client = Client::publishing(&server, "mic").await;
    let ask = |items: Value| client.tracks_new(json!({ "tracks": items }));
    ask(json!([{ "location": "local", "trackName": "voice" }])).await.is_refused(
        406,
        "invalid_params",
        &["\"voice\"", "kind", "sessionDescription"],
    );
    let with_mid = json!([{ "location": "local", "trackName": "voice", "kind": "audio", "mid": "7" }]);
    ask(with_mid).await.is_refused(406, "invalid_params", &["\"voice\"", "\"7\"", "sessionDescription"]);
    let taken = json!([{ "location": "local", "trackName": "mic", "kind": "audio" }]);
    ask(taken).await.is_refused(406, "invalid_params", &["\"mic\"", "taken"]);
    let voice = json!({ "location": "local", "trackName": "voice", "kind": "audio" });
    ask(json!([voice, voice])).await.is_refused(406, "invalid_params", &["\"voice\"", "taken"]);
    ask(json!([])).await.is_refused(406, "invalid_params", &["tracks is empty"]);
    assert_eq!(client.tracks().await.len(), 1);
}

#[tokio::test]
async fn a_pull_onto_an_m_line_that_cannot_carry_it_fails_alone() {
    let server = Server::start();
    let [user, singer] = [Client::publishing(&server, "mic").await, Client::new(&server).await];
    singer.push(&[(AUDIO, "song"), (MediaKind::Video, "face")]).await;
    let body = user.tracks_new(pull_onto(&singer, "song", "17")).await.ok();
    assert_eq!(body.get("sessionDescription"), None);
    is_failed(&body["tracks"][0], "invalid_params", &["\"17\"", "#trackName"]);
    assert_eq!(body["tracks"][0]["mid"], "");
    let body = user.tracks_new(pull_onto(&singer, "song", "#nobody")).await.ok();
    is_failed(&body["tracks"][0], "invalid_params", &["#nobody"]);
    let body = user.tracks_new(pull_onto(&singer, "song", "#mic")).await.ok();
    is_failed(&body["tracks"][0], "update_track_error", &["\"song\"", "does not send"]);
    let both = json!({ "tracks": [
        with(remote(&singer.id, "face"), "mid", json!("0")), remote(&singer.id, "song")
    ] });
    let body = user.tracks_new(both).await.ok();
    is_failed(&body["tracks"][0], "update_track_error", &["\"face\"", "another kind"]);
    assert_eq!(body["requiresImmediateRenegotiation"], true);
    user.complete(&body).await;
    user.peer.hears(body["tracks"][1]["mid"].as_str().unwrap(), "song").await;
}

#[tokio::test]
async fn a_pull_onto_the_m_line_of_another_pull_takes_its_place() {
    let server = Server::start();
    let user = Client::new(&server).await;
    let [one, two] = [Client::publishing(&server, "one").await, Client::publishing(&server, "two").await];
    let mid = user.pull_one(&one, "one").await;
    user.peer.hears(&mid, "one").await;
    let body = user.tracks_new(pull_onto(&two, "two", &mid)).await.ok();
    assert_eq!(body["requiresImmediateRenegotiation"], false);
    user.peer.hears(&mid, "two").await;
    let body = user.tracks_new(pull_onto(&one, "one", "#two")).await.ok();
    assert_eq!(body["tracks"][0]["mid"], *mid);
    user.peer.hears(&mid, "one").await;
}
