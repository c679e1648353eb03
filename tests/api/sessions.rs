//! The envelope of all requests, and what a session is apart from its tracks.

use std::time::Duration;

use fanline::time::Clock;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN};
use serde_json::json;
use str0m::media::{Direction, MediaKind};

use crate::client::{Client, has_line, local, offer, remote, sdp_of, sections};
use crate::peer::Peer;
use crate::server::{APP, Answer, OTHER_APP, OTHER_SECRET, SECRET, Server};

const NOBODY: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_session_is_made_under_both_prefixes_whatever_the_body_is_called() {
    let server = Server::start();
    for prefix in ["/v1", ""] {
        for content_type in ["application/json", "text/plain;charset=UTF-8", "application/x-nonsense"] {
            for body in ["", "{}", r#"{"userId":7,"sessionDescription":null}"#] {
                let path = format!("{prefix}/apps/{APP}/sessions/new?thirdparty=false&correlationId=x&flag");
                let request = server.raw(Method::POST, &path).bearer_auth(SECRET);
                let answer = Answer::of(request.header(CONTENT_TYPE, content_type).body(body)).await;
                let id = answer.body["sessionId"].as_str().unwrap();
                assert!(id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
                assert_eq!(answer, Answer { status: 201, body: json!({ "sessionId": id }) });
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_listed_empty_at_first() {
    let server = Server::start();
    let id = server.new_session().await;
    for prefix in ["/v1", ""] {
        let path = format!("{prefix}/apps/{APP}/sessions/{id}?");
        let listed = Answer::of(server.raw(Method::GET, &path).bearer_auth(SECRET)).await;
        assert_eq!(listed.ok(), json!({ "tracks": [], "dataChannels": [] }));
    }
}

#[tokio::test]
async fn a_page_from_anywhere_can_read_a_refusal() {
    let server = Server::start();
    let path = format!("/v1/apps/{APP}/sessions/{NOBODY}");
    let request = |method| server.raw(method, &path).header(ORIGIN, "null");
    // `Answer::of` demands JSON and the permission to read it.
    let nobody = Answer::of(request(Method::GET)).await;
    nobody.is_refused(401, "unauthorized", &[]);
    let wrong_secret = Answer::of(request(Method::GET).header(AUTHORIZATION, "Bearer wrong")).await;
    wrong_secret.is_refused(401, "unauthorized", &[]);
    let no_method = Answer::of(request(Method::PATCH).bearer_auth(SECRET)).await;
    no_method.is_refused(405, "not_found", &["PATCH"]);
    let unknown_app =
        Answer::of(server.raw(Method::POST, "/v1/apps/nobody/sessions/new").bearer_auth(SECRET));
    unknown_app.await.is_refused(404, "not_found", &[]);
    let too_large = server.request(Method::PUT, &format!("/sessions/{NOBODY}/renegotiate"));
    let too_large = Answer::of(too_large.body(vec![b' '; 2 << 20])).await;
    too_large.is_refused(413, "payload_too_large", &[]);
}

#[tokio::test]
async fn an_unknown_session_is_gone_at_once_whoever_owns_it() {
    let server = Server::start();
    let foreign = format!("/v1/apps/{OTHER_APP}/sessions/new");
    let foreign = Answer::of(server.raw(Method::POST, &foreign).bearer_auth(OTHER_SECRET)).await;
    let foreign = foreign.body["sessionId"].as_str().unwrap().to_owned();
    let begun = Clock::runtime_instant();
    let mut texts = Vec::new();
    for id in [NOBODY, &foreign] {
        let answers = [
            server.get(&format!("/sessions/{id}")).await,
            server
                .post(&format!("/sessions/{id}/tracks/new"), json!({ "tracks": [remote(id, "mic")] }))
                .await,
            server.put(&format!("/sessions/{id}/tracks/close"), json!({ "tracks": [] })).await,
        ];
        for answer in &answers {
            answer.is_refused(410, "session_error", &[id]);
        }
        texts.push(answers.map(|answer| answer.body.to_string().replace(id, "<id>")));
    }
    assert_eq!(texts[0], texts[1], "who does not own a session cannot tell it from none");
    assert!(Clock::runtime_instant() - begun < Duration::from_secs(1));
}

#[tokio::test]
async fn an_offer_of_data_channels_alone_connects_the_session() {
    let server = Server::start();
    let peer = Peer::new().await;
    let (_, sdp) = peer.offer(|api| api.add_channel("chat".into()));
    let created = server.post("/sessions/new", json!({ "sessionDescription": offer(&sdp) })).await;
    assert_eq!((created.status, &created.body["sessionDescription"]["type"]), (201, &json!("answer")));
    let answered = sections(sdp_of(&created.body));
    assert!(answered.len() == 1 && answered[0].starts_with("m=application 9 "), "{answered:?}");
    peer.accept_answer(sdp_of(&created.body));
    peer.is_connected().await;
    server.metric_becomes("fanline_sessions_connected", 1.0).await;
}

#[tokio::test]
async fn media_offered_with_the_session_is_inactive_until_it_has_a_name() {
    let server = Server::start();
    let peer = Peer::new().await;
    let (mids, sdp) = peer.offer_media(&[(MediaKind::Audio, Direction::SendOnly)]);
    let created = server.post("/sessions/new", json!({ "sessionDescription": offer(&sdp) })).await;
    assert_eq!(created.status, 201);
    assert!(has_line(sections(sdp_of(&created.body))[0], "a=inactive"));
    peer.accept_answer(sdp_of(&created.body));
    peer.is_connected().await;
    let id = created.body["sessionId"].as_str().unwrap().to_owned();
    let client = Client { server: &server, id, peer };
    assert_eq!(client.tracks().await, []);

    let (_, sdp) = client.peer.offer(|api| api.set_direction(mids[0].as_str().into(), Direction::SendOnly));
    let named = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], "mic")] });
    let named = client.tracks_new(named).await.ok();
    assert!(has_line(sections(sdp_of(&named))[0], "a=recvonly"), "{}", sdp_of(&named));
}

#[tokio::test]
async fn an_offer_without_ice_credentials_is_a_decoding_error() {
    let server = Server::start();
    let (_, sdp) = Peer::new().await.offer(|api| api.add_channel("chat".into()));
    let bare: String = sdp.split_inclusive("\r\n").filter(|line| !line.starts_with("a=ice-ufrag")).collect();
    let refused = server.post("/sessions/new", json!({ "sessionDescription": offer(&bare) })).await;
    let text = json!({ "errorCode": "decoding_error", "errorDescription": "SDP contains no ice-ufrag" });
    assert_eq!((refused.status, refused.body), (400, text));
    assert_eq!(server.metric("fanline_sessions").await, 0.0, "a refused session is none");
}

#[tokio::test]
async fn a_description_that_is_none_is_a_decoding_error_that_says_where() {
    let server = Server::start();
    let path = format!("/sessions/{}/tracks/new", server.new_session().await);
    for (body, names) in [
        (r#"{"tracks":"#, "EOF"),
        (r#"[]"#, "struct"),
        (r#"{"tracks":[{"mid":"0"}]}"#, "location"),
        (r#"{"tracks":[{"location":"here"}]}"#, "here"),
        (r#"{"sessionDescription":{"type":"pranswer","sdp":"v=0"}}"#, "pranswer"),
        (r#"{"sessionDescription":{"type":"offer"}}"#, "sdp"),
        (r#"{"tracks":[{"location":"local"}],"sessionDescription":{"type":"offer","sdp":"hello"}}"#, "SDP"),
    ] {
        let refused = Answer::of(server.request(Method::POST, &path).body(body)).await;
        refused.is_refused(400, "decoding_error", &[names]);
    }
}

#[tokio::test]
async fn a_session_that_never_connects_expires() {
    let server = Server::with(&["--never-connected-timeout", "500ms"]);
    let id = server.new_session().await;
    server.metric_becomes("fanline_sessions", 0.0).await;
    server.get(&format!("/sessions/{id}")).await.is_refused(410, "session_error", &[&id]);
}

#[tokio::test]
async fn a_session_whose_peer_vanishes_expires_with_its_tracks() {
    let server = Server::with(&["--connectivity-timeout", "1s"]);
    let gone = Client::publishing(&server, "mic").await;
    let id = gone.id.clone();
    drop(gone);
    server.metric_becomes("fanline_sessions", 0.0).await;
    server.get(&format!("/sessions/{id}")).await.is_refused(410, "session_error", &[&id]);
    assert_eq!(server.metric("fanline_tracks").await, 0.0);
}

#[tokio::test]
async fn a_connected_session_without_media_does_not_expire() {
    let server = Server::with(&["--media-timeout", "1s", "--never-connected-timeout", "1s"]);
    let client = Client::new(&server).await;
    let (_, sdp) = client.peer.offer(|api| api.add_channel("chat".into()));
    let body = client.tracks_new(json!({ "sessionDescription": offer(&sdp) })).await.ok();
    client.peer.accept_answer(sdp_of(&body));
    client.peer.is_connected().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(client.tracks().await, []);
}

#[tokio::test]
async fn a_track_without_packets_is_closed_for_all_and_its_session_lives_on() {
    let server = Server::with(&["--media-timeout", "1s"]);
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&publisher, "mic").await;
    listener.peer.hears(&mid, "mic").await;
    publisher.peer.falls_silent();
    server.metric_becomes("fanline_tracks", 0.0).await;
    assert_eq!(publisher.tracks().await[0].3, "inactive");
    assert_eq!(listener.tracks().await[0].3, "inactive");
    let again = listener.tracks_new(json!({ "tracks": [remote(&publisher.id, "mic")] })).await.ok();
    assert_eq!(again["tracks"][0]["errorCode"], "not_found_track_error");
}

#[tokio::test]
async fn the_gauges_follow_a_call_and_return_to_zero() {
    let server = Server::with(&["--connectivity-timeout", "1s"]);
    let publisher = Client::new(&server).await;
    publisher.push(&[(MediaKind::Audio, "mic"), (MediaKind::Video, "camera")]).await;
    let listener = Client::new(&server).await;
    let items = listener.pull(&[remote(&publisher.id, "mic"), remote(&publisher.id, "camera")]).await;
    listener.peer.hears(items[0]["mid"].as_str().unwrap(), "mic").await;
    let gauges = [
        ("fanline_sessions", 2.0),
        ("fanline_sessions_connected", 2.0),
        ("fanline_tracks", 2.0),
        ("fanline_subscriptions", 2.0),
        ("fanline_shard_sessions", 2.0),
        ("fanline_publications", 2.0),
        ("fanline_legs", 2.0),
    ];
    for (name, during) in gauges {
        server.metric_becomes(name, during).await;
    }
    assert!(server.metric("fanline_rtp_packets_sent_total").await > 0.0);
    drop((publisher, listener));
    for (name, _) in gauges {
        server.metric_becomes(name, 0.0).await;
    }
}
