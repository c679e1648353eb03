//! Pulling: what is offered, what is waited for, and what flows.

use std::time::{Duration, Instant};

use fanline::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use str0m::media::{Direction, MediaKind};

use crate::client::{Client, answer, has_line, local, offer, remote, sdp_of, sections};
use crate::peer::Peer;
use crate::server::{Answer, OTHER_SECRET, Server, is_failed};

const NOBODY: &str = "0123456789abcdef0123456789abcdef";
const LISTENS: (MediaKind, Direction) = (MediaKind::Audio, Direction::RecvOnly);

fn now() -> Instant {
    Clock::runtime_instant()
}

#[tokio::test]
async fn what_is_pushed_is_heard_by_who_pulls_it() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    publisher.push(&[(MediaKind::Audio, "mic"), (MediaKind::Video, "camera")]).await;
    for _ in 0..3 {
        let listener = Client::new(&server).await;
        let items = listener.pull(&[remote(&publisher.id, "camera"), remote(&publisher.id, "mic")]).await;
        for item in &items {
            listener.peer.hears(item["mid"].as_str().unwrap(), item["trackName"].as_str().unwrap()).await;
        }
    }
}

#[tokio::test]
async fn once_a_pull_has_succeeded_no_packet_is_missed() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    let mids = publisher.push(&[(MediaKind::Audio, "mic"), (MediaKind::Audio, "music")]).await;
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&publisher, "mic").await;
    listener.peer.hears(&mid, "mic").await;
    publisher.peer.falls_silent();
    let mid = listener.pull_one(&publisher, "music").await;
    publisher.peer.say(&mids[1], "now", 3);
    listener.peer.hears_times(&mid, "now", 3).await;
}

#[tokio::test]
async fn a_fresh_session_is_offered_mids_from_zero_in_the_order_of_success() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    publisher.push(&[(MediaKind::Audio, "mic"), (MediaKind::Video, "camera")]).await;
    let listener = Client::new(&server).await;
    let tracks = ["camera", "nothing", "mic"].map(|name| remote(&publisher.id, name));
    let body = listener.tracks_new(json!({ "tracks": tracks })).await.ok();
    assert_eq!(body["requiresImmediateRenegotiation"], true);
    assert_eq!(body["sessionDescription"]["type"], "offer");
    let id = &publisher.id;
    assert_eq!(body["tracks"][0], json!({ "sessionId": id, "trackName": "camera", "mid": "0" }));
    assert_eq!(body["tracks"][2], json!({ "sessionId": id, "trackName": "mic", "mid": "1" }));
    let failed = &body["tracks"][1];
    assert_eq!(
        (&failed["sessionId"], &failed["trackName"], &failed["mid"]),
        (&json!(id), &json!("nothing"), &json!(""))
    );
    is_failed(failed, "not_found_track_error", &["nothing", id]);
    let sdp = sdp_of(&body);
    let offered = sections(sdp);
    assert!(
        offered.len() == 2 && offered[0].starts_with("m=video 9 ") && offered[1].starts_with("m=audio 9 ")
    );
    for (section, mid) in offered.iter().zip(["a=mid:0", "a=mid:1"]) {
        assert!(has_line(section, mid) && has_line(section, "a=sendonly"), "{section}");
        assert!(!section.contains("a=simulcast") && !section.contains("a=rid"), "{section}");
    }
    assert!(has_line(sdp, "a=setup:actpass") && has_line(sdp, "a=ice-lite"), "{sdp}");
    listener.complete(&body).await;
    listener.peer.hears("0", "camera").await;
    listener.peer.hears("1", "mic").await;
}

#[tokio::test]
async fn if_all_fail_there_is_nothing_to_negotiate() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let begun = now();
    let tracks = [
        remote(&publisher.id, "nothing"),
        remote(NOBODY, "mic"),
        remote("not an id", "mic"),
        json!({ "location": "remote", "trackName": "mic" }),
        remote(&publisher.id, ""),
        json!({ "location": "remote", "sessionId": publisher.id, "trackName": "mic", "mid": "7" }),
    ];
    let mut body = listener.tracks_new(json!({ "tracks": tracks })).await.ok();
    assert!(now() - begun < Duration::from_millis(200), "there is nothing to wait for");
    let expected = [
        ("not_found_track_error", "\"nothing\""),
        ("not_found_track_error", NOBODY),
        ("not_found_track_error", "\"not an id\""),
        ("invalid_params", "sessionId"),
        ("invalid_params", "trackName"),
        ("invalid_params", "\"7\""),
    ];
    for (item, (code, name)) in body["tracks"].as_array().unwrap().iter().zip(expected) {
        is_failed(item, code, &[name]);
        assert_eq!(item["mid"], "", "{item}");
    }
    body.as_object_mut().unwrap().remove("tracks");
    assert_eq!(body, json!({ "requiresImmediateRenegotiation": false }));
    assert_eq!(listener.tracks().await, []);
}

#[tokio::test]
async fn a_track_of_another_app_is_not_there() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let new = server.raw(Method::POST, "/v1/apps/other/sessions/new");
    let new = Answer::of(new.bearer_auth(OTHER_SECRET)).await;
    let path = format!("/v1/apps/other/sessions/{}/tracks/new", new.body["sessionId"].as_str().unwrap());
    let pull = server.raw(Method::POST, &path).bearer_auth(OTHER_SECRET);
    let pull = pull.body(json!({ "tracks": [remote(&publisher.id, "mic")] }).to_string());
    let body = Answer::of(pull).await.ok();
    is_failed(&body["tracks"][0], "not_found_track_error", &["mic"]);
}

#[tokio::test]
async fn a_publisher_that_is_still_connecting_is_waited_for() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    let (mids, sdp) = publisher.peer.offer_media(&[(MediaKind::Audio, Direction::SendOnly)]);
    let push = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], "mic")] });
    let pushed = publisher.tracks_new(push).await.ok();
    let listener = Client::new(&server).await;
    let connects = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        publisher.peer.accept_answer(sdp_of(&pushed));
        publisher.peer.talk(&mids[0], "mic");
    };
    let (mid, ()) = tokio::join!(listener.pull_one(&publisher, "mic"), connects);
    listener.peer.hears(&mid, "mic").await;
}

#[tokio::test]
async fn a_publisher_that_does_not_come_is_not_found_after_the_wait() {
    let server = Server::with(&["--pull-wait", "300ms"]);
    let publisher = Client::new(&server).await;
    let (mids, sdp) = publisher.peer.offer_media(&[(MediaKind::Audio, Direction::SendOnly)]);
    let push = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], "mic")] });
    publisher.tracks_new(push).await.ok();
    let listener = Client::new(&server).await;
    let body = listener.tracks_new(json!({ "tracks": [remote(&publisher.id, "mic")] })).await.ok();
    is_failed(&body["tracks"][0], "not_found_track_error", &["mic", "0.3 s", "connected"]);
}

#[tokio::test]
async fn a_silent_publisher_is_an_empty_track_after_the_wait_and_does_not_hold_the_others() {
    let server = Server::with(&["--pull-wait", "500ms"]);
    let publisher = Client::publishing(&server, "mic").await;
    publisher.push(&[(MediaKind::Audio, "muted")]).await;
    publisher.peer.falls_silent();
    let talking = Client::publishing(&server, "talk").await;
    let listener = Client::new(&server).await;
    let begun = now();
    let items = listener.pull(&[remote(&publisher.id, "muted"), remote(&talking.id, "talk")]).await;
    assert!((400..2_000).contains(&(now() - begun).as_millis()), "{:?}", now() - begun);
    is_failed(&items[0], "empty_track_error", &["\"muted\"", "0.5 s"]);
    assert_eq!(items[1]["mid"], "0");
    listener.peer.hears("0", "talk").await;
}

#[tokio::test]
async fn a_pull_into_a_session_that_does_not_connect_is_too_early() {
    let server = Server::with(&["--connect-wait", "300ms"]);
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let (mids, sdp) = listener.peer.offer_media(&[(MediaKind::Audio, Direction::SendOnly)]);
    let push = json!({ "sessionDescription": offer(&sdp), "tracks": [local(&mids[0], "own")] });
    let pushed = listener.tracks_new(push).await.ok();
    let begun = now();
    let pull = json!({ "tracks": [remote(&publisher.id, "mic")] });
    listener.tracks_new(pull.clone()).await.is_refused(425, "session_error", &["0.3 s"]);
    assert!(now() - begun >= Duration::from_millis(300));

    listener.peer.accept_answer(sdp_of(&pushed));
    let body = listener.tracks_new(pull).await.ok();
    listener.complete(&body).await;
    listener.peer.hears("0", "mic").await;
}

#[tokio::test]
async fn nothing_else_is_negotiated_while_an_offer_is_out() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let pull = json!({ "tracks": [remote(&publisher.id, "mic")] });
    let out = listener.tracks_new(pull.clone()).await.ok();
    let (mids, sdp) = Peer::new().await.offer_media(&[LISTENS]);
    let begun = now();
    for refused in [
        listener.tracks_new(pull.clone()).await,
        listener.tracks_new(json!({ "sessionDescription": offer(&sdp), "autoDiscover": true })).await,
        listener
            .tracks_close(json!({ "tracks": [{ "mid": mids[0] }], "sessionDescription": offer(&sdp) }))
            .await,
    ] {
        refused.is_refused(406, "invalid_session_description", &["renegotiate"]);
        assert_eq!(refused.body["errorSubcode"], "invalid_modification_have_local_offer");
    }
    assert!(now() - begun < Duration::from_millis(500), "a refusal is quick");
    listener.complete(&out).await;
    listener.peer.hears("0", "mic").await;
}

#[tokio::test]
async fn an_answer_is_taken_once() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let body = listener.tracks_new(json!({ "tracks": [remote(&publisher.id, "mic")] })).await.ok();
    let sdp = listener.peer.answer(sdp_of(&body));
    let wrong = listener.renegotiate(json!({ "sessionDescription": offer(&sdp) })).await;
    wrong.is_refused(406, "invalid_session_description", &["offer", "answer"]);
    listener.renegotiate(json!({})).await.is_refused(400, "decoding_error", &["sessionDescription"]);
    let done = listener.renegotiate(json!({ "sessionDescription": answer(&sdp) })).await;
    assert_eq!((done.status, done.body), (200, json!({})));
    let again = listener.renegotiate(json!({ "sessionDescription": answer(&sdp) })).await;
    again.is_refused(406, "invalid_session_description", &["replay"]);
    assert_eq!(again.body["errorSubcode"], "signaling_state_not_stable");
}

#[tokio::test]
async fn an_offer_that_nobody_answers_does_not_block_the_session_for_ever() {
    let server = Server::with(&["--offer-timeout", "500ms"]);
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::publishing(&server, "own").await;
    let pull = json!({ "tracks": [remote(&publisher.id, "mic")] });
    listener.tracks_new(pull.clone()).await.ok();
    let body = loop {
        let body = listener.tracks_new(pull.clone()).await;
        if body.status == 200 {
            break body.ok();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    listener.complete(&body).await;
    listener.peer.hears(body["tracks"][0]["mid"].as_str().unwrap(), "mic").await;
    let active = listener.tracks().await.into_iter().filter(|track| track.3 == "active");
    assert_eq!(active.count(), 2, "its own and the pulled one; nothing is left of the lost offer");
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_refused_and_the_next_pull_works() {
    let server = Server::with(&["--offer-timeout", "300ms"]);
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::publishing(&server, "own").await;
    let pull = json!({ "tracks": [remote(&publisher.id, "mic")] });
    let body = listener.tracks_new(pull.clone()).await.ok();
    let late = listener.peer.answer(sdp_of(&body));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let late = listener.renegotiate(json!({ "sessionDescription": answer(&late) })).await;
    late.is_refused(406, "invalid_session_description", &[]);
    let body = listener.tracks_new(pull).await.ok();
    assert_ne!(body["tracks"][0]["mid"], "0", "the mid of the lost offer is the client's by now");
    listener.complete(&body).await;
    listener.peer.hears(body["tracks"][0]["mid"].as_str().unwrap(), "mic").await;
}

#[tokio::test]
async fn a_pull_can_be_closed_while_its_offer_is_out() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    publisher.push(&[(MediaKind::Audio, "a"), (MediaKind::Audio, "b")]).await;
    let listener = Client::new(&server).await;
    let pull = json!({ "tracks": [remote(&publisher.id, "a"), remote(&publisher.id, "b")] });
    let body = listener.tracks_new(pull).await.ok();
    let close = listener.tracks_close(json!({ "tracks": [{ "mid": "0" }], "force": true })).await.ok();
    assert_eq!(close["tracks"], json!([{ "mid": "0" }]));
    listener.complete(&body).await;
    listener.peer.hears("1", "b").await;
    listener.peer.hears_nothing_more("0", "a").await;
}

#[tokio::test]
async fn of_two_pulls_at_once_one_gets_the_offer() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    publisher.push(&[(MediaKind::Audio, "a"), (MediaKind::Audio, "b")]).await;
    let listener = Client::new(&server).await;
    let pull = |name| json!({ "tracks": [remote(&publisher.id, name)] });
    let (one, other) = tokio::join!(listener.tracks_new(pull("a")), listener.tracks_new(pull("b")));
    let (served, refused) = if one.status == 200 { (one, other) } else { (other, one) };
    refused.is_refused(406, "invalid_session_description", &["renegotiate"]);
    let body = served.ok();
    listener.complete(&body).await;
    listener.peer.hears("0", body["tracks"][0]["trackName"].as_str().unwrap()).await;
}

#[tokio::test]
async fn requests_about_one_session_take_turns_and_hold_no_other_session() {
    let server = Server::with(&["--pull-wait", "600ms"]);
    let publisher = Client::publishing(&server, "mic").await;
    publisher.push(&[(MediaKind::Audio, "muted")]).await;
    publisher.peer.falls_silent();
    let talking = Client::publishing(&server, "talk").await;
    let waiting = Client::new(&server).await;
    let elsewhere = Client::new(&server).await;
    let begun = now();
    let timed = async |client: &Client<'_>, publisher: &Client<'_>, name: &str| {
        let body = client.tracks_new(json!({ "tracks": [remote(&publisher.id, name)] })).await.ok();
        (body, now() - begun)
    };
    let ((held, _), (next, next_took), (other, other_took)) = tokio::join!(
        timed(&waiting, &publisher, "muted"),
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            timed(&waiting, &talking, "talk").await
        },
        timed(&elsewhere, &talking, "talk"),
    );
    is_failed(&held["tracks"][0], "empty_track_error", &["muted"]);
    assert!(next_took >= Duration::from_millis(600) && other_took < Duration::from_millis(500));
    for (client, body) in [(&waiting, next), (&elsewhere, other)] {
        client.complete(&body).await;
        client.peer.hears("0", "talk").await;
    }
}

#[tokio::test]
async fn a_session_that_publishes_pulls_on_new_m_lines_its_own_tracks_too() {
    let server = Server::start();
    let other = Client::publishing(&server, "mic").await;
    let client = Client::new(&server).await;
    let mids = client.push(&[(MediaKind::Audio, "own")]).await;
    let tracks = [remote(&other.id, "mic"), remote(&client.id, "own")];
    let body = client.tracks_new(json!({ "tracks": tracks })).await.ok();
    let offered = sections(sdp_of(&body));
    assert_eq!(offered.len(), 3);
    assert!(has_line(offered[0], &format!("a=mid:{}", mids[0])) && has_line(offered[0], "a=recvonly"));
    assert!(has_line(offered[1], "a=sendonly") && has_line(offered[2], "a=sendonly"));
    client.complete(&body).await;
    for item in body["tracks"].as_array().unwrap() {
        client.peer.hears(item["mid"].as_str().unwrap(), item["trackName"].as_str().unwrap()).await;
    }
    let (listed, other_id) = (server.get(&format!("/sessions/{}", client.id)).await.ok(), &other.id);
    let pulled: Vec<&Value> =
        listed["tracks"].as_array().unwrap().iter().filter(|track| track["location"] == "remote").collect();
    let first = json!({
        "location": "remote", "mid": body["tracks"][0]["mid"], "trackName": "mic",
        "sessionId": other_id, "status": "active",
    });
    assert_eq!((pulled.len(), pulled[0]), (2, &first));
    let listener = Client::new(&server).await;
    let mid = listener.pull_one(&client, "own").await;
    listener.peer.hears(&mid, "own").await;
}

#[tokio::test]
async fn a_client_that_offers_to_receive_gets_an_answer_and_the_media() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    publisher.push(&[(MediaKind::Audio, "mic"), (MediaKind::Audio, "music")]).await;
    let listener = Client::new(&server).await;
    let (mids, sdp) = listener.peer.offer_media(&[LISTENS, LISTENS]);
    let tracks = [
        json!({ "location": "remote", "sessionId": publisher.id, "trackName": "music", "kind": "audio" }),
        remote(&publisher.id, "nothing"),
        remote(&publisher.id, "mic"),
    ];
    let body = json!({ "sessionDescription": offer(&sdp), "tracks": tracks });
    let body = listener.tracks_new(body).await.ok();
    assert_eq!(body["requiresImmediateRenegotiation"], false);
    assert_eq!(body["sessionDescription"]["type"], "answer");
    assert_eq!((&body["tracks"][0]["mid"], &body["tracks"][2]["mid"]), (&json!(mids[0]), &json!(mids[1])));
    is_failed(&body["tracks"][1], "not_found_track_error", &["nothing"]);
    for section in sections(sdp_of(&body)) {
        assert!(has_line(section, "a=sendonly"), "{section}");
    }
    listener.peer.accept_answer(sdp_of(&body));
    listener.peer.hears(&mids[0], "music").await;
    listener.peer.hears(&mids[1], "mic").await;
}

#[tokio::test]
async fn a_player_that_came_too_early_comes_back_with_another_peer_connection() {
    let server = Server::start();
    let publisher = Client::new(&server).await;
    let mut listener = Client::new(&server).await;
    let (_, sdp) = listener.peer.offer_media(&[LISTENS]);
    let pull =
        |sdp: &str| json!({ "sessionDescription": offer(sdp), "tracks": [remote(&publisher.id, "mic")] });
    let early = listener.tracks_new(pull(&sdp)).await.ok();
    is_failed(&early["tracks"][0], "not_found_track_error", &["mic"]);
    assert_eq!(early.get("sessionDescription"), None);

    publisher.push(&[(MediaKind::Audio, "mic")]).await;
    listener.peer = Peer::new().await;
    let (mids, sdp) = listener.peer.offer_media(&[LISTENS]);
    let body = listener.tracks_new(pull(&sdp)).await.ok();
    listener.peer.accept_answer(sdp_of(&body));
    listener.peer.hears(&mids[0], "mic").await;
}

#[tokio::test]
async fn an_offer_without_a_free_m_line_of_the_kind_fails_that_item_by_name() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let listener = Client::new(&server).await;
    let (_, sdp) = listener.peer.offer_media(&[(MediaKind::Video, Direction::RecvOnly)]);
    let body = json!({ "sessionDescription": offer(&sdp), "tracks": [remote(&publisher.id, "mic")] });
    let body = listener.tracks_new(body).await.ok();
    is_failed(&body["tracks"][0], "invalid_params", &["audio", "\"mic\"", "recvonly"]);
    assert_eq!(body.get("sessionDescription"), None);
}
