//! The limits and timers of the API, each as a setting and, where that does not take half a minute, as its default.
//!
//! Those of single verbs are claimed beside them: the waits of a pull in `pull.rs`, the expiry of sessions and tracks
//! in `sessions.rs`, m-lines used again without a limit in `close.rs`.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};
use str0m::media::{Direction, MediaKind};

use crate::client::{Client, local, local_channel, offer, remote, remote_channel, sdp_of, with};
use crate::server::{Answer, Server};

const NOBODY: &str = "0123456789abcdef0123456789abcdef";

fn pull(tracks: usize) -> Value {
    json!({ "tracks": vec![remote(NOBODY, "mic"); tracks] })
}

#[tokio::test]
async fn a_session_is_asked_fifty_times_a_second_and_its_neighbour_as_often() {
    // The default: the tests' own start-up takes the limit out of the way.
    let server = Server::with(&["--max-requests-per-second", "50"]);
    let [busy, other] = [server.new_session().await, server.new_session().await];
    let ask = |id: &str| server.request(Method::GET, &format!("/sessions/{id}"));
    let mut refused = None;
    for asked in 0..1_000 {
        let answer = ask(&busy).send().await.unwrap();
        if answer.status() == 429 {
            assert!(asked >= 50, "refused at the {asked}th");
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a thousand requests take less than twenty seconds");
    assert_eq!(refused.headers()[RETRY_AFTER], "1");
    assert_eq!(refused.headers()["access-control-allow-origin"], "*");
    let mut last = Answer::of(ask(&busy)).await;
    for _ in 0..200 {
        last = if last.status == 429 { break } else { Answer::of(ask(&busy)).await };
    }
    last.is_refused(429, "temporarily_unavailable_error", &["50 requests per second"]);
    Answer::of(ask(&other)).await.ok();
    server.new_session().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Answer::of(ask(&busy)).await.ok();
}

#[tokio::test]
async fn a_request_adds_sixty_four_tracks_or_channels_and_not_one_more() {
    let server = Server::start();
    let session = format!("/sessions/{}", server.new_session().await);
    let path = format!("{session}/tracks/new");
    assert_eq!(server.post(&path, pull(64)).await.ok()["tracks"].as_array().unwrap().len(), 64);
    server.post(&path, pull(65)).await.is_refused(406, "invalid_params", &["65", "64"]);
    let channels = json!({ "dataChannels": vec![local_channel("chat"); 65] });
    let refused = server.post(&format!("{session}/datachannels/new"), channels).await;
    refused.is_refused(406, "invalid_params", &["65", "64"]);
    let server = Server::with(&["--max-tracks-per-request", "2"]);
    let path = format!("/sessions/{}/tracks/new", server.new_session().await);
    server.post(&path, pull(2)).await.ok();
    server.post(&path, pull(3)).await.is_refused(406, "invalid_params", &["3", "2"]);
}

#[tokio::test]
async fn one_request_pushes_or_pulls() {
    let server = Server::start();
    let session = format!("/sessions/{}", server.new_session().await);
    let tracks = json!({ "tracks": [remote(NOBODY, "mic"), local("0", "mic")] });
    let refused = server.post(&format!("{session}/tracks/new"), tracks).await;
    refused.is_refused(406, "invalid_params", &["local and remote", "separate requests"]);
    let channels = json!({ "dataChannels": [local_channel("chat"), remote_channel(NOBODY, "chat")] });
    let refused = server.post(&format!("{session}/datachannels/new"), channels).await;
    refused.is_refused(406, "invalid_params", &["local and remote", "separate requests"]);
}

#[tokio::test]
async fn a_body_has_a_mebibyte_and_no_more() {
    let server = Server::start();
    let path = format!("/sessions/{}/tracks/new", server.new_session().await);
    let padded = |bytes: usize| with(pull(1), "padding", json!("x".repeat(bytes)));
    server.post(&path, padded(1_000_000)).await.ok();
    server.post(&path, padded(1 << 20)).await.is_refused(413, "payload_too_large", &["1048576"]);
    let server = Server::with(&["--max-body-bytes", "2000"]);
    let path = format!("/sessions/{}/tracks/new", server.new_session().await);
    server.post(&path, pull(2)).await.ok();
    server.post(&path, pull(30)).await.is_refused(413, "payload_too_large", &["2000"]);
}

#[tokio::test]
async fn sessions_are_as_many_as_the_server_was_told() {
    let server = Server::with(&["--max-sessions", "1"]);
    let id = server.new_session().await;
    let full = Answer::of(server.request(Method::POST, "/sessions/new")).await;
    full.is_refused(503, "temporarily_unavailable_error", &["1 sessions"]);
    Answer::of(server.request(Method::DELETE, &format!("/sessions/{id}"))).await.ok();
    server.new_session().await;
}

#[tokio::test]
async fn what_needs_a_transport_waits_for_it_and_is_then_too_early() {
    let server = Server::with(&["--connect-wait", "300ms"]);
    let publisher = Client::publishing(&server, "mic").await;
    let client = Client::new(&server).await;
    let (mids, sdp) = client.peer.offer(|api| {
        api.add_channel("server-events".into());
        api.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None).to_string()
    });
    let body = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids, "own")] });
    let pushed = client.tracks_new(body).await.ok();
    let ours = json!({ "location": "local", "trackName": "ours", "kind": "audio" });
    let channels = json!({ "dataChannels": [local_channel("chat")] });
    for early in [
        client.tracks_new(json!({ "tracks": [remote(&publisher.id, "mic")] })).await,
        client.tracks_new(json!({ "tracks": [ours] })).await,
        client.datachannels_new(channels.clone()).await,
    ] {
        early.is_refused(425, "session_error", &["0.3 s", "negotiation"]);
    }
    client.peer.accept_answer(sdp_of(&pushed));
    client.datachannels_new(channels).await.ok();
    client.pull_one(&publisher, "mic").await;
}

#[tokio::test]
async fn a_session_outlives_a_network_that_fails_for_less_than_the_timeout() {
    let server = Server::with(&["--connectivity-timeout", "6s", "--media-timeout", "6s"]);
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&publisher, "mic").await;
    listener.peer.hears(&mid, "mic").await;
    publisher.peer.is_cut_off(true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    listener.peer.hears_nothing_more(&mid, "mic").await;
    publisher.peer.is_cut_off(false);
    listener.peer.hears(&mid, "mic").await;
    assert_eq!(publisher.tracks().await[0].3, "active");
}

#[tokio::test]
async fn who_does_not_acknowledge_in_time_loses_the_subscription() {
    let server = Server::with(&["--ack-timeout", "300ms"]);
    let publisher = Client::with_channels(&server).await;
    let subscriber = Client::with_channels(&server).await;
    publisher.channel(local_channel("chat")).await;
    let item = with(remote_channel(&publisher.id, "chat"), "waitForAck", json!(true));
    subscriber.channel(item).await;
    assert_eq!(subscriber.channels().await[0].2, "initializing");
    subscriber.peer.a_channel_closes().await;
    assert_eq!(subscriber.channels().await[0].2, "inactive");
}
