//! Sessions whose peer is another server that is ICE-lite itself: here a second instance of the program. One
//! checks connectivity, nominates and begins DTLS; media crosses both ways.

use reqwest::Method;
use serde_json::{Value, json};
use str0m::media::MediaKind;

use crate::client::{Client, answer, has_line, local, offer, remote, sdp_of, sections, with};
use crate::server::{Answer, Server};

/// A session at `server` that connects outwards.
async fn outward(server: &Server) -> String {
    let made = Answer::of(server.request(Method::POST, "/sessions/new?thirdparty=true")).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.body["sessionId"].as_str().unwrap().to_owned()
}

fn bidirectional(item: Value) -> Value {
    with(item, "bidirectionalMediaStream", json!(true))
}

/// Joins a session at each of two servers by an m-line that carries `there` to the first and `here` to the
/// second. Returns the sessions.
async fn bridge(first: &Server, second: &Server) -> (String, String) {
    let [ours, theirs] = [outward(first).await, second.new_session().await];
    let item = bidirectional(json!({ "location": "local", "trackName": "there", "kind": "audio" }));
    let asked = first.post(&format!("/sessions/{ours}/tracks/new"), json!({ "tracks": [item] })).await.ok();
    let sdp = sdp_of(&asked);
    assert!(!has_line(sdp, "a=ice-lite"), "a full agent: {sdp}");
    assert!(has_line(sdp, "a=setup:actpass"), "{sdp}");
    let item = bidirectional(local("0", "here"));
    let body = json!({ "sessionDescription": offer(sdp), "tracks": [item] });
    let answered = second.post(&format!("/sessions/{theirs}/tracks/new"), body).await.ok();
    assert!(has_line(sdp_of(&answered), "a=ice-lite"));
    assert!(has_line(sections(sdp_of(&answered))[0], "a=sendrecv"));
    let body = json!({ "sessionDescription": answer(sdp_of(&answered)) });
    first.put(&format!("/sessions/{ours}/renegotiate"), body).await.ok();
    (ours, theirs)
}

#[tokio::test]
async fn media_crosses_between_two_servers_both_ways_on_one_m_line() {
    let [first, second] = [Server::start(), Server::start()];
    let (ours, theirs) = bridge(&first, &second).await;
    let ann = Client::publishing(&first, "ann").await;
    let bob = Client::publishing(&second, "bob").await;
    let onto = |session: &str, name: &str, mid: &str| json!({ "tracks": [with(remote(session, name), "mid", json!(mid))] });
    let pulled =
        first.post(&format!("/sessions/{ours}/tracks/new"), onto(&ann.id, "ann", "#there")).await.ok();
    let item = json!({ "sessionId": ann.id, "trackName": "ann", "mid": "0" });
    assert_eq!(pulled, json!({ "requiresImmediateRenegotiation": false, "tracks": [item] }));
    second.post(&format!("/sessions/{theirs}/tracks/new"), onto(&bob.id, "bob", "#here")).await.ok();
    let at_first = ann.pull(&[remote(&ours, "there")]).await;
    ann.peer.hears(at_first[0]["mid"].as_str().unwrap(), "bob").await;
    let at_second = bob.pull(&[remote(&theirs, "here")]).await;
    bob.peer.hears(at_second[0]["mid"].as_str().unwrap(), "ann").await;
}

#[tokio::test]
async fn tracks_are_passed_on_to_another_server_by_a_pull_of_an_outward_session() {
    let [first, second] = [Server::start(), Server::start()];
    let [ours, theirs] = [outward(&first).await, second.new_session().await];
    let ann = Client::new(&first).await;
    ann.push(&[(MediaKind::Audio, "voice"), (MediaKind::Video, "face")]).await;
    let tracks = json!({ "tracks": [remote(&ann.id, "voice"), remote(&ann.id, "face")] });
    let asked = first.post(&format!("/sessions/{ours}/tracks/new"), tracks).await.ok();
    let items = json!([local("0", "voice"), local("1", "face")]);
    let body = json!({ "sessionDescription": offer(sdp_of(&asked)), "tracks": items });
    let answered = second.post(&format!("/sessions/{theirs}/tracks/new"), body).await.ok();
    let body = json!({ "sessionDescription": answer(sdp_of(&answered)) });
    first.put(&format!("/sessions/{ours}/renegotiate"), body).await.ok();
    let bob = Client::new(&second).await;
    let pulled = bob.pull(&[remote(&theirs, "voice"), remote(&theirs, "face")]).await;
    bob.peer.hears(pulled[0]["mid"].as_str().unwrap(), "voice").await;
    bob.peer.hears(pulled[1]["mid"].as_str().unwrap(), "face").await;
}

#[tokio::test]
async fn an_outward_session_ends_when_the_other_server_is_gone() {
    let [first, second] = [Server::with(&["--connectivity-timeout", "1s"]), Server::start()];
    let (ours, _) = bridge(&first, &second).await;
    first.metric_becomes("fanline_sessions_connected", 1.0).await;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    first.get(&format!("/sessions/{ours}")).await.ok();
    drop(second);
    first.metric_becomes("fanline_sessions", 0.0).await;
}

#[tokio::test]
async fn an_answer_without_an_address_to_check_is_refused_and_can_be_posted_again() {
    let [first, second] = [Server::start(), Server::start()];
    let [ours, theirs] = [outward(&first).await, second.new_session().await];
    let item = json!({ "location": "local", "trackName": "there", "kind": "audio" });
    let asked = first.post(&format!("/sessions/{ours}/tracks/new"), json!({ "tracks": [item] })).await.ok();
    let body = json!({ "sessionDescription": offer(sdp_of(&asked)), "tracks": [] , "autoDiscover": true });
    let answered = second.post(&format!("/sessions/{theirs}/tracks/new"), body).await.ok();
    let bare: String =
        sdp_of(&answered).split_inclusive('\n').filter(|line| !line.starts_with("a=candidate")).collect();
    let path = format!("/sessions/{ours}/renegotiate");
    let renegotiate = |sdp: &str| first.put(&path, json!({ "sessionDescription": answer(sdp) }));
    renegotiate(&bare).await.is_refused(406, "invalid_session_description", &["ICE-lite", "candidate"]);
    renegotiate(sdp_of(&answered)).await.ok();
    first.metric_becomes("fanline_sessions_connected", 1.0).await;
}

#[tokio::test]
async fn two_outward_sessions_of_one_port_do_not_share_an_address() {
    let [first, second] = [Server::with(&["--shards", "1"]), Server::with(&["--shards", "1"])];
    let (connected, _) = bridge(&first, &second).await;
    let [ours, theirs] = [outward(&first).await, second.new_session().await];
    let item = json!({ "location": "local", "trackName": "there", "kind": "audio" });
    let asked = first.post(&format!("/sessions/{ours}/tracks/new"), json!({ "tracks": [item] })).await.ok();
    let body = json!({ "sessionDescription": offer(sdp_of(&asked)), "autoDiscover": true });
    let answered = second.post(&format!("/sessions/{theirs}/tracks/new"), body).await.ok();
    let path = format!("/sessions/{ours}/renegotiate");
    let renegotiate = || first.put(&path, json!({ "sessionDescription": answer(sdp_of(&answered)) }));
    renegotiate().await.is_refused(406, "invalid_session_description", &["another session", "127.0.0.1"]);
    Answer::of(first.request(Method::DELETE, &format!("/sessions/{connected}"))).await.ok();
    renegotiate().await.ok();
}

#[tokio::test]
async fn a_value_of_thirdparty_that_is_none_is_refused() {
    let server = Server::start();
    let ask = |query: &str| server.request(Method::POST, &format!("/sessions/new?{query}"));
    Answer::of(ask("thirdparty=perhaps")).await.is_refused(406, "invalid_params", &["thirdparty"]);
    for query in ["thirdparty=false", "thirdparty=true", "streamDebug&thirdparty=true", "streamDebug="] {
        assert_eq!(Answer::of(ask(query)).await.status, 201, "{query}");
    }
}
