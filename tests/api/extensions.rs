//! What goes beyond the original API: an app's sessions as a list, and the end of one by request.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use str0m::media::{Direction, MediaKind};

use crate::client::{Client, local, offer, remote};
use crate::server::{Answer, OTHER_APP, OTHER_SECRET, Server};

async fn delete(server: &Server, id: &str) -> Answer {
    Answer::of(server.request(Method::DELETE, &format!("/sessions/{id}"))).await
}

fn ids_of(page: &Value) -> Vec<String> {
    page["sessions"].as_array().unwrap().iter().map(|s| s["sessionId"].as_str().unwrap().into()).collect()
}

#[tokio::test]
async fn every_session_of_the_app_is_on_one_page_and_none_of_another() {
    let server = Server::start();
    let mut made = BTreeSet::new();
    for _ in 0..7 {
        made.insert(server.new_session().await);
    }
    let foreign = format!("/v1/apps/{OTHER_APP}/sessions");
    let new = server.raw(Method::POST, &format!("{foreign}/new")).bearer_auth(OTHER_SECRET);
    let theirs = Answer::of(new).await.body["sessionId"].as_str().unwrap().to_owned();

    let (mut listed, mut sizes, mut query) = (Vec::new(), Vec::new(), "?limit=3".to_owned());
    loop {
        let page = server.get(&format!("/sessions{query}")).await.ok();
        sizes.push(ids_of(&page).len());
        listed.extend(ids_of(&page));
        let Some(cursor) = page["cursor"].as_str() else { break };
        query = format!("?limit=3&cursor={cursor}");
    }
    assert_eq!(sizes, [3, 3, 1]);
    assert_eq!(listed, Vec::from_iter(made), "in the order of ids");
    let list = Answer::of(server.raw(Method::GET, &foreign).bearer_auth(OTHER_SECRET)).await.ok();
    assert_eq!(ids_of(&list), [theirs]);
    assert_eq!(list["cursor"], Value::Null, "the last page leads nowhere");
}

#[tokio::test]
async fn the_list_tells_who_is_connected_and_what_flows() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let subscriber = Client::new(&server).await;
    subscriber.pull_one(&publisher, "mic").await;
    let idle = server.new_session().await;
    let page = server.get("/sessions?correlationId=x").await.ok();
    for (id, connected, local, remote) in
        [(&publisher.id, true, 1, 0), (&subscriber.id, true, 0, 1), (&idle, false, 0, 0)]
    {
        let found = page["sessions"].as_array().unwrap().iter().find(|s| s["sessionId"] == **id).unwrap();
        assert!(found["ageSeconds"].as_u64().unwrap() < 60, "{found}");
        // The answer to our offer is taken before the subscriber's checks have gone through.
        assert!(found["connected"] == connected || *id == subscriber.id, "{found}");
        assert_eq!(
            (&found["localTracks"], &found["remoteTracks"]),
            (&json!(local), &json!(remote)),
            "{found}"
        );
    }
}

#[tokio::test]
async fn a_page_that_cannot_be_is_refused() {
    let server = Server::start();
    for (query, named) in [
        ("limit=0", "limit"),
        ("limit=1001", "1000"),
        ("limit=many", "limit"),
        ("limit=-1", "limit"),
        ("cursor=", "cursor"),
        ("cursor=abc", "cursor"),
    ] {
        let answer = server.get(&format!("/sessions?{query}")).await;
        answer.is_refused(406, "invalid_params", &[named]);
    }
}

#[tokio::test]
async fn a_session_ends_at_once_with_all_it_publishes() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let subscriber = Client::new(&server).await;
    let mid = subscriber.pull_one(&publisher, "mic").await;

    assert_eq!(delete(&server, &publisher.id).await, Answer { status: 200, body: json!({}) });
    server.get(&format!("/sessions/{}", publisher.id)).await.is_refused(410, "session_error", &[]);
    delete(&server, &publisher.id).await.is_refused(410, "session_error", &[&publisher.id]);
    assert_eq!(ids_of(&server.get("/sessions").await.ok()), std::slice::from_ref(&subscriber.id));
    assert_eq!(server.metric("fanline_sessions").await, 1.0);

    let late = Client::new(&server).await;
    let items = late.pull(&[remote(&publisher.id, "mic")]).await;
    assert_eq!(items[0]["errorCode"], "not_found_track_error", "{items:?}");
    let closed = subscriber.tracks_close(json!({ "tracks": [{ "mid": mid }], "force": true })).await.ok();
    assert_eq!(closed["tracks"].as_array().unwrap().len(), 1, "the subscriber lives on: {closed}");
}

#[tokio::test]
async fn a_request_that_waits_is_answered_when_its_session_ends() {
    let server = Server::with(&["--pull-wait", "8s", "--connect-wait", "8s"]);
    let (publisher, subscriber) = (Client::new(&server).await, Client::publishing(&server, "own").await);
    let (mids, sdp) = publisher.peer.offer_media(&[(MediaKind::Audio, Direction::SendOnly)]);
    let tracks = [local(&mids[0], "silent")];
    publisher.tracks_new(json!({ "sessionDescription": offer(&sdp), "tracks": tracks })).await.ok();
    let waiting = subscriber.tracks_new(json!({ "tracks": [remote(&publisher.id, "silent")] }));
    let ending = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        delete(&server, &subscriber.id).await.ok();
        delete(&server, &publisher.id).await.ok();
    };
    let (waited, ()) = tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(waiting, ending) })
        .await
        .expect("nobody waits for what has ended");
    assert!(
        waited.status == 410 || waited.body["tracks"][0]["errorCode"] == "not_found_track_error",
        "{waited:?}"
    );
}

#[tokio::test]
async fn nobody_ends_a_session_of_another_app() {
    let server = Server::start();
    let id = server.new_session().await;
    let path = format!("/v1/apps/{OTHER_APP}/sessions/{id}");
    let foreign = Answer::of(server.raw(Method::DELETE, &path).bearer_auth(OTHER_SECRET)).await;
    foreign.is_refused(410, "session_error", &[&id]);
    server.get(&format!("/sessions/{id}")).await.ok();
}
