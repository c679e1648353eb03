//! `tracks/update`: what is pulled gets another source or other encodings, without SDP.

use serde_json::{Value, json};

use crate::client::{Client, local, remote};
use crate::server::{Answer, Server, is_failed};

impl Client<'_> {
    async fn update(&self, tracks: &[Value]) -> Answer {
        self.server.put(&format!("/sessions/{}/tracks/update", self.id), json!({ "tracks": tracks })).await
    }
}

fn with(mut item: Value, field: &str, value: Value) -> Value {
    item[field] = value;
    item
}

#[tokio::test]
async fn another_source_takes_the_place_of_the_one_that_is_pulled() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "one").await;
    let other = Client::publishing(&server, "two").await;
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&publisher, "one").await;
    listener.peer.hears(&mid, "one").await;
    let item = with(remote(&other.id, "two"), "mid", json!(mid));
    let body = listener.update(std::slice::from_ref(&item)).await.ok();
    let expected = json!({ "sessionId": other.id, "trackName": "two", "mid": mid });
    assert_eq!(body, json!({ "requiresImmediateRenegotiation": false, "tracks": [expected] }));
    listener.peer.hears(&mid, "two").await;
    listener.peer.hears_nothing_more(&mid, "one").await;
    let state = server.get(&format!("/sessions/{}", listener.id)).await.ok();
    let listed = with(remote(&other.id, "two"), "mid", json!(mid));
    assert_eq!(state["tracks"], json!([with(listed, "status", json!("active"))]));
    // Asked again, it changes nothing.
    listener.update(&[item]).await.ok();
    listener.peer.hears(&mid, "two").await;
}

#[tokio::test]
async fn what_cannot_be_updated_fails_alone() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&publisher, "mic").await;
    let wish = json!({ "preferredRid": "h" });
    let items = [
        with(remote(&publisher.id, "mic"), "simulcast", wish.clone()),
        with(remote(&publisher.id, "nothing"), "mid", json!(mid)),
        with(remote(&publisher.id, "nothing"), "mid", json!("7")),
        local(&mid, "mic"),
        json!({ "location": "remote", "simulcast": wish }),
        remote(&publisher.id, "mic"),
    ];
    let body = listener.update(&items).await.ok();
    let expected = [
        ("update_track_error", "no simulcast"),
        ("not_found_track_error", "\"nothing\""),
        ("update_track_error", "\"7\""),
        ("update_track_error", "local"),
        ("update_track_error", "nothing is pulled"),
    ];
    let tracks = body["tracks"].as_array().unwrap();
    for (item, (code, text)) in tracks.iter().zip(expected) {
        is_failed(item, code, &[text]);
    }
    assert_eq!(tracks[5], json!({ "sessionId": publisher.id, "trackName": "mic", "mid": mid }));
    listener.peer.hears(&mid, "mic").await;
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_as_a_whole() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let mic = remote(&publisher.id, "mic");
    let offered = listener.tracks_new(json!({ "tracks": [mic] })).await.ok();
    let early = listener.update(std::slice::from_ref(&mic)).await;
    early.is_refused(406, "invalid_session_description", &["offer"]);
    listener.complete(&offered).await;
    listener.update(&[]).await.is_refused(406, "invalid_params", &["at least 1 track"]);
    let wrong = with(mic.clone(), "simulcast", json!({ "ridNotAvailable": "best" }));
    listener.update(&[wrong]).await.is_refused(400, "decoding_error", &["asciibetical"]);
    let null = with(mic, "simulcast", json!(null));
    assert_eq!(listener.update(&[null]).await.ok()["tracks"][0]["mid"], "0");
}
