//! How the server goes.

use std::time::Duration;

use serde_json::json;
use str0m::media::MediaKind;
use tokio::time::timeout;

use crate::client::{Client, remote};
use crate::server::{Answer, Server, is_failed};

#[tokio::test]
async fn a_server_in_the_middle_of_a_call_stops_within_two_seconds() {
    let mut server = Server::start();
    {
        let publisher = Client::publishing(&server, "mic").await;
        let listener = Client::new(&server).await;
        let mid = listener.pull_one(&publisher, "mic").await;
        listener.peer.hears(&mid, "mic").await;
        server.terminate();
    }
    let ended = timeout(Duration::from_secs(2), server.ended()).await;
    assert_eq!(ended.expect("the process ends"), Some(0));
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_server_goes() {
    let answer = answer_of_a_pull_when_the_server_stops("700ms").await;
    is_failed(&answer.ok()["tracks"][0], "empty_track_error", &["muted"]);
}

#[tokio::test]
async fn a_pull_that_waits_for_long_does_not_hold_up_the_stop() {
    let answer = answer_of_a_pull_when_the_server_stops("30s").await;
    assert_eq!(answer.status, 503, "{answer:?}");
}

/// What a pull of a silent track is answered if the server is told to stop while it waits. The server must
/// be gone within two seconds of the answer.
async fn answer_of_a_pull_when_the_server_stops(pull_wait: &str) -> Answer {
    let mut server = Server::with(&["--pull-wait", pull_wait]);
    let answer = {
        let publisher = Client::publishing(&server, "mic").await;
        publisher.push(&[(MediaKind::Audio, "muted")]).await;
        publisher.peer.falls_silent();
        let listener = Client::new(&server).await;
        let pull = listener.tracks_new(json!({ "tracks": [remote(&publisher.id, "muted")] }));
        let signal = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            server.terminate();
        };
        let (answer, ()) = tokio::join!(pull, signal);
        answer
    };
    let ended = timeout(Duration::from_secs(2), server.ended()).await;
    assert_eq!(ended.expect("the process ends"), Some(0));
    answer
}
