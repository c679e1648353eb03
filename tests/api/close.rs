//! Closing, and what becomes of m-lines and mids afterwards.

use serde_json::{Value, json};
use str0m::media::{Direction, MediaKind};

use crate::client::{Client, has_line, local, offer, remote, sdp_of, sections};
use crate::peer::Peer;
use crate::server::{Server, is_failed};

/// The pulled one, the closed one that the same offer rejects, and one that stays for the transport's sake.
const M_LINES_MAX: usize = 3;

/// (mid, status) of the tracks that are listed under `location`.
async fn listed(client: &Client<'_>, location: &str) -> Vec<(String, String)> {
    let tracks = client.tracks().await.into_iter().filter(|track| track.0 == location);
    tracks.map(|(_, mid, _, status)| (mid, status)).collect()
}

fn closed(mids: &[&str]) -> Value {
    mids.iter().map(|mid| json!({ "mid": mid })).collect()
}

#[tokio::test]
async fn a_forced_close_of_a_published_track_ends_it_for_all_without_sdp() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let mid = publisher.tracks().await[0].1.clone();
    let listener = Client::new(&server).await;
    let heard_on = listener.pull_one(&publisher, "mic").await;
    listener.peer.hears(&heard_on, "mic").await;
    let body = publisher.tracks_close(json!({ "tracks": closed(&[&mid]), "force": true })).await.ok();
    assert_eq!(body, json!({ "requiresImmediateRenegotiation": false, "tracks": [{ "mid": mid }] }));
    listener.peer.hears_nothing_more(&heard_on, "mic").await;
    let inactive = "inactive".to_owned();
    assert_eq!(listed(&publisher, "local").await, [(mid.clone(), inactive.clone())]);
    assert_eq!(listed(&listener, "remote").await, [(heard_on, inactive)]);
    let again = publisher.tracks_close(json!({ "tracks": closed(&[&mid]), "force": true })).await.ok();
    is_failed(&again["tracks"][0], "close_track_error", &["Track doesn't exist or was already closed", &mid]);
    assert_eq!(again["tracks"][0]["mid"], json!(mid));
}

#[tokio::test]
async fn a_forced_close_of_a_pulled_track_ends_it_for_this_session_alone() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let (leaving, staying) = (Client::new(&server).await, Client::new(&server).await);
    for listener in [&leaving, &staying] {
        let mid = listener.pull_one(&publisher, "mic").await;
        listener.peer.hears(&mid, "mic").await;
    }
    leaving.tracks_close(json!({ "tracks": closed(&["0"]), "force": true })).await.ok();
    leaving.peer.hears_nothing_more("0", "mic").await;
    staying.peer.hears("0", "mic").await;
    server.metric_becomes("fanline_subscriptions", 1.0).await;
    assert_eq!(publisher.tracks().await[0].3, "active");
}

#[tokio::test]
async fn a_negotiated_close_of_the_first_m_line_keeps_the_transport_of_the_others() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    let mids = publisher.push(&[(MediaKind::Audio, "mic"), (MediaKind::Audio, "music")]).await;
    let listener = Client::new(&server).await;
    let [mic, music] =
        [listener.pull_one(&publisher, "mic").await, listener.pull_one(&publisher, "music").await];
    listener.peer.hears(&mic, "mic").await;

    let sdp = publisher.peer.offer_stop(&[&mids[0]]);
    let close = json!({ "tracks": closed(&[&mids[0]]), "sessionDescription": offer(&sdp), "force": false });
    let body = publisher.tracks_close(close).await.ok();
    assert_eq!(body["tracks"], closed(&[&mids[0]]));
    assert_eq!(body["sessionDescription"]["type"], "answer");
    let answered = sections(sdp_of(&body));
    assert!(answered[0].starts_with("m=audio 0 ") && answered[1].starts_with("m=audio 9 "), "{answered:?}");
    publisher.peer.accept_answer(sdp_of(&body));
    listener.peer.hears_nothing_more(&mic, "mic").await;
    listener.peer.hears(&music, "music").await;
}

#[tokio::test]
async fn the_list_of_mids_rules_when_the_offer_stops_fewer() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    let names = ["a", "b", "c"];
    publisher.push(&names.map(|name| (MediaKind::Audio, name))).await;
    let listener = Client::new(&server).await;
    listener.pull(&names.map(|name| remote(&publisher.id, name))).await;
    listener.peer.hears("1", "b").await;

    let sdp = listener.peer.offer_stop(&["0"]);
    let close = json!({ "tracks": closed(&["0", "1"]), "sessionDescription": offer(&sdp), "force": false });
    let body = listener.tracks_close(close).await.ok();
    assert_eq!(body["tracks"], closed(&["0", "1"]));
    let answered = sections(sdp_of(&body));
    assert!(answered[0].starts_with("m=audio 0 "), "{}", answered[0]);
    assert!(answered[1].starts_with("m=audio 9 ") && has_line(answered[1], "a=inactive"), "{}", answered[1]);
    assert!(has_line(answered[2], "a=sendonly"), "{}", answered[2]);
    listener.peer.accept_answer(sdp_of(&body));
    listener.peer.hears_nothing_more("1", "b").await;
    listener.peer.hears("2", "c").await;
    let statuses: Vec<_> = listed(&listener, "remote").await.into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses, ["inactive", "inactive", "active"]);
}

#[tokio::test]
async fn all_tracks_of_a_session_are_closed_by_one_request_whoever_publishes_them() {
    let server = Server::start();
    let other = Client::publishing(&server, "talk").await;
    let client = Client::new(&server).await;
    let own = client.push(&[(MediaKind::Video, "camera"), (MediaKind::Audio, "mic")]).await;
    let pulled = client.pull_one(&other, "talk").await;
    let sdp = client.peer.offer_stop(&[&own[0]]);
    let mids = [own[0].as_str(), &own[1], &pulled];
    let close = json!({ "tracks": closed(&mids), "sessionDescription": offer(&sdp), "force": false });
    let body = client.tracks_close(close).await.ok();
    assert_eq!(body["tracks"], closed(&mids));
    client.peer.accept_answer(sdp_of(&body));
    assert!(client.tracks().await.iter().all(|track| track.3 == "inactive"));
    server.metric_becomes("fanline_tracks", 1.0).await;
    server.metric_becomes("fanline_subscriptions", 0.0).await;
    server.metric_becomes("fanline_legs", 0.0).await;
}

#[tokio::test]
async fn an_unknown_mid_fails_alone() {
    let server = Server::start();
    let client = Client::publishing(&server, "mic").await;
    let mid = client.tracks().await[0].1.clone();
    let body = client.tracks_close(json!({ "tracks": closed(&["77", &mid, ""]), "force": true })).await.ok();
    is_failed(&body["tracks"][0], "close_track_error", &["\"77\""]);
    assert_eq!(body["tracks"][1], json!({ "mid": mid }));
    is_failed(&body["tracks"][2], "close_track_error", &[]);
    assert_eq!(client.tracks().await[0].3, "inactive");
}

#[tokio::test]
async fn a_close_that_makes_no_sense_closes_nothing() {
    let server = Server::start();
    let client = Client::publishing(&server, "mic").await;
    let mid = client.tracks().await[0].1.clone();
    for (body, status, code, names) in [
        (json!({ "tracks": [], "force": true }), 406, "invalid_params", &["Expecting at least 1 track"][..]),
        (json!({}), 406, "invalid_params", &["Expecting at least 1 track"]),
        (json!({ "tracks": closed(&[&mid]) }), 406, "invalid_params", &["sessionDescription", "force"]),
        (json!({ "tracks": [{}], "force": true }), 400, "decoding_error", &["mid"]),
        (
            json!({ "tracks": closed(&[&mid]), "sessionDescription": { "type": "answer", "sdp": "v=0" } }),
            406,
            "invalid_session_description",
            &["answer", "offer"],
        ),
    ] {
        client.tracks_close(body).await.is_refused(status, code, names);
        assert_eq!(client.tracks().await[0].3, "active");
    }
}

#[tokio::test]
async fn a_mid_that_was_closed_by_force_publishes_again() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    let mids = publisher.push(&[(MediaKind::Audio, "mic")]).await;
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&publisher, "mic").await;
    listener.peer.hears(&mid, "mic").await;
    for name in ["unmuted", "mic"] {
        publisher.tracks_close(json!({ "tracks": closed(&[&mids[0]]), "force": true })).await.ok();
        let sdp = publisher.peer.offer_again();
        let push = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], name)] });
        let body = publisher.tracks_new(push).await.ok();
        publisher.peer.accept_answer(sdp_of(&body));
        publisher.peer.talk(&mids[0], name);
        let mid = listener.pull_one(&publisher, name).await;
        listener.peer.hears(&mid, name).await;
    }
    let active = listed(&publisher, "local").await;
    assert_eq!(active.iter().filter(|(_, status)| status == "active").count(), 1, "{active:?}");
}

#[tokio::test]
async fn m_lines_of_closed_pulls_are_used_again() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    for round in 0..30 {
        let pull = json!({ "tracks": [remote(&publisher.id, "mic")] });
        let body = listener.tracks_new(pull).await.ok();
        let m_lines = sections(sdp_of(&body)).len();
        assert!(m_lines <= M_LINES_MAX, "{m_lines} m-lines in round {round}");
        listener.complete(&body).await;
        let mid = body["tracks"][0]["mid"].as_str().unwrap();
        listener.peer.hears(mid, "mic").await;
        listener.tracks_close(json!({ "tracks": closed(&[mid]), "force": true })).await.ok();
    }
    let listed = listener.tracks().await.len();
    assert!(listed <= M_LINES_MAX, "{listed} tracks are listed, more than there are m-lines");
}

#[tokio::test]
async fn m_lines_that_a_client_stops_and_adds_are_used_again() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::publishing(&server, "own").await;
    for round in 0..10 {
        let mid = listener.pull_one(&publisher, "mic").await;
        listener.peer.hears(&mid, "mic").await;
        let sdp = listener.peer.offer_stop(&[&mid]);
        let m_lines = sections(&sdp).len();
        assert!(m_lines <= M_LINES_MAX, "{m_lines} m-lines in round {round}");
        let close = json!({ "tracks": closed(&[&mid]), "sessionDescription": offer(&sdp), "force": false });
        let body = listener.tracks_close(close).await.ok();
        listener.peer.accept_answer(sdp_of(&body));
    }
}

#[tokio::test]
async fn a_pull_whose_m_line_a_push_stops_ends_with_it() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let client = Client::publishing(&server, "own").await;
    let mid = client.pull_one(&publisher, "mic").await;
    client.peer.hears(&mid, "mic").await;
    let (music, sdp) = client.peer.offer(|api| {
        api.stop_media(mid.as_str().into());
        api.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None).to_string()
    });
    let push = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&music, "music")] });
    let body = client.tracks_new(push).await.ok();
    client.peer.accept_answer(sdp_of(&body));
    assert_eq!(listed(&client, "remote").await, [(mid, "inactive".to_owned())]);
    server.metric_becomes("fanline_subscriptions", 0.0).await;
    server.metric_becomes("fanline_legs", 0.0).await;
}

#[tokio::test]
async fn a_session_that_closed_everything_starts_over_with_another_peer_connection() {
    let server = Server::start();
    let mut client = Client::new(&server).await;
    let mids = client.push(&[(MediaKind::Audio, "mic")]).await;
    let sdp = client.peer.offer_stop(&[&mids[0]]);
    let close = json!({ "tracks": closed(&[&mids[0]]), "sessionDescription": offer(&sdp), "force": false });
    let body = client.tracks_close(close).await.ok();
    assert!(sections(sdp_of(&body))[0].starts_with("m=audio 0 "), "{}", sdp_of(&body));

    client.peer = Peer::new().await;
    let (mids, sdp) = client.peer.offer_media(&[(MediaKind::Audio, Direction::SendOnly)]);
    let push = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], "again")] });
    let body = client.tracks_new(push).await.ok();
    client.peer.accept_answer(sdp_of(&body));
    client.peer.is_connected().await;
    client.peer.talk(&mids[0], "again");
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&client, "again").await;
    listener.peer.hears(&mid, "again").await;
}
