//! Data channels: how they are established, who hears what, and what a slow reader costs whom.

use serde_json::json;
use str0m::media::MediaKind;

use crate::client::{
    Client, answer, local_channel, offer, remote, remote_channel, sdp_of, sections, server_events, with,
};
use crate::peer::Peer;
use crate::server::{Server, is_failed};

fn item(name: &str, status: &str, location: &str) -> (String, String, String) {
    (location.to_owned(), name.to_owned(), status.to_owned())
}

/// Bytes that tell where they are.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 256) as u8 ^ at as u8).collect()
}

#[tokio::test]
async fn the_server_offers_data_channels_and_opens_the_first() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let asked = json!({ "dataChannel": server_events() });
    let offered = client.datachannels_establish(asked.clone()).await.ok();
    assert_eq!(offered["requiresImmediateRenegotiation"], true);
    assert_eq!(offered["dataChannel"], json!({ "dataChannelName": "server-events", "id": 0 }));
    assert_eq!(offered["sessionDescription"]["type"], "offer");
    let refused = client.datachannels_new(json!({ "dataChannels": [local_channel("early")] })).await;
    refused.is_refused(406, "invalid_session_description", &[]);
    client.complete(&offered).await;
    client.peer.is_connected().await;
    client.peer.channel_opens("server-events").await;
    let again = client.datachannels_establish(asked).await.ok();
    assert_eq!(again["requiresImmediateRenegotiation"], false);
    assert_eq!(again.get("sessionDescription"), None);
}

#[tokio::test]
async fn a_client_that_offers_data_channels_is_answered() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let (_, sdp) = client.peer.offer(|api| api.add_channel("server-events".into()));
    let body = json!({ "dataChannel": server_events(), "sessionDescription": offer(&sdp) });
    let answered = client.datachannels_establish(body).await.ok();
    assert_eq!(answered["requiresImmediateRenegotiation"], false);
    assert_eq!(answered["sessionDescription"]["type"], "answer");
    client.peer.accept_answer(sdp_of(&answered));
    client.peer.channel_opens("server-events").await;
    assert!(client.channel(local_channel("chat")).await >= 1);
}

#[tokio::test]
async fn media_comes_first_and_data_channels_after() {
    let server = Server::start();
    let publisher = Client::publishing(&server, "mic").await;
    let subscriber = Client::new(&server).await;
    let mid = subscriber.pull_one(&publisher, "mic").await;
    for client in [&publisher, &subscriber] {
        client
            .complete(&client.datachannels_establish(json!({ "dataChannel": server_events() })).await.ok())
            .await;
        client.peer.channel_opens("server-events").await;
    }
    let ours = publisher.channel(local_channel("chat")).await;
    let theirs = subscriber.channel(remote_channel(&publisher.id, "chat")).await;
    publisher.peer.tells(ours, "beside media");
    subscriber.peer.is_told(theirs, "beside media").await;
    subscriber.peer.hears(&mid, "mic").await;
}

#[tokio::test]
async fn an_application_section_in_the_first_offer_is_enough() {
    let server = Server::start();
    let client = Client::new(&server).await;
    let (mid, sdp) = client.peer.offer(|api| {
        let mid = api.add_media(MediaKind::Audio, str0m::media::Direction::SendOnly, None, None, None);
        api.add_channel("mine".into());
        mid.to_string()
    });
    let body = json!({ "sessionDescription": offer(&sdp), "tracks": [crate::client::local(&mid, "mic")] });
    let pushed = client.tracks_new(body).await.ok();
    assert_eq!(sections(sdp_of(&pushed)).len(), 2);
    client.peer.accept_answer(sdp_of(&pushed));
    let ours = client.channel(local_channel("chat")).await;
    let other = Client::with_channels(&server).await;
    let theirs = other.channel(remote_channel(&client.id, "chat")).await;
    client.peer.tells(ours, "hello");
    other.peer.is_told(theirs, "hello").await;
}

#[tokio::test]
async fn three_subscribers_get_text_binary_and_large_messages_intact() {
    let server = Server::start();
    let publisher = Client::with_channels(&server).await;
    let ours = publisher.channel(local_channel("chat")).await;
    let mut subscribers = Vec::new();
    for _ in 0..3 {
        let subscriber = Client::with_channels(&server).await;
        let id = subscriber.channel(remote_channel(&publisher.id, "chat")).await;
        subscribers.push((subscriber, id));
    }
    publisher.peer.tells(ours, "grüße");
    for len in [5, 60_000, 262_144] {
        publisher.peer.tells_bytes(ours, true, pattern(len));
    }
    for (subscriber, id) in &subscribers {
        subscriber.peer.is_told(*id, "grüße").await;
        for len in [5, 60_000, 262_144] {
            subscriber.peer.is_told_bytes(*id, true, &pattern(len)).await;
        }
        assert_eq!(subscriber.peer.messages_told(), 4);
        assert_eq!(subscriber.channels().await, [item("chat", "active", "remote")]);
    }
    assert_eq!(publisher.channels().await, [item("chat", "active", "local")]);
    server.metric_becomes("fanline_data_channels", 4.0).await;
}

#[tokio::test]
async fn unordered_and_unreliable_channels_carry_messages_too() {
    let server = Server::start();
    let publisher = Client::with_channels(&server).await;
    let subscriber = Client::with_channels(&server).await;
    let policies = [
        json!({ "ordered": false }),
        json!({ "ordered": false, "maxRetransmits": 0 }),
        json!({ "maxPacketLifeTime": 500 }),
    ];
    for (at, policy) in policies.iter().enumerate() {
        let mirrored = |mut item: serde_json::Value| {
            item.as_object_mut().unwrap().extend(policy.as_object().unwrap().clone());
            item
        };
        let name = format!("state-{at}");
        let ours = publisher.channel(mirrored(local_channel(&name))).await;
        let theirs = subscriber.channel(mirrored(remote_channel(&publisher.id, &name))).await;
        publisher.peer.tells(ours, &name);
        subscriber.peer.is_told(theirs, &name).await;
    }
    let other = with(remote_channel(&publisher.id, "state-1"), "maxRetransmits", json!(5));
    let both = with(with(local_channel("x"), "maxRetransmits", json!(1)), "maxPacketLifeTime", json!(1));
    let third = Client::with_channels(&server).await;
    let differs = third.datachannels_new(json!({ "dataChannels": [other] })).await.ok();
    is_failed(&differs["dataChannels"][0], "invalid_params", &["state-1"]);
    let excluded = third.datachannels_new(json!({ "dataChannels": [both] })).await.ok();
    is_failed(&excluded["dataChannels"][0], "invalid_params", &["maxRetransmits", "maxPacketLifeTime"]);
}

#[tokio::test]
async fn the_right_to_reply_moves_to_whom_it_is_given_last() {
    let server = Server::start();
    let publisher = Client::with_channels(&server).await;
    let (ada, bob) = (Client::with_channels(&server).await, Client::with_channels(&server).await);
    let ours = publisher.channel(local_channel("chat")).await;
    let asked = remote_channel(&publisher.id, "chat");
    let adas = ada.channel(with(asked.clone(), "canReply", json!(true))).await;
    let bobs = bob.channel(asked.clone()).await;
    bob.peer.tells(bobs, "unasked");
    ada.peer.tells(adas, "from ada");
    publisher.peer.is_told(ours, "from ada").await;

    let granted = with(asked, "canReply", json!(true));
    let updated = bob.datachannels_update(json!({ "dataChannels": [granted] })).await.ok();
    assert_eq!(updated["dataChannels"][0], with(granted, "id", json!(bobs)));
    ada.peer.tells(adas, "too late");
    bob.peer.tells(bobs, "from bob");
    publisher.peer.is_told(ours, "from bob").await;
    ada.peer.tells(adas, "still");
    publisher.peer.tells(ours, "to all");
    bob.peer.is_told(bobs, "to all").await;
    ada.peer.is_told(adas, "to all").await;
    assert_eq!(publisher.peer.texts(ours), ["from ada", "from bob"]);
    assert_eq!((ada.peer.texts(adas), bob.peer.texts(bobs)), (vec!["to all".into()], vec!["to all".into()]));
}

#[tokio::test]
async fn delivery_waits_for_the_subscribers_first_message() {
    let server = Server::start();
    let publisher = Client::with_channels(&server).await;
    let subscriber = Client::with_channels(&server).await;
    let witness = Client::with_channels(&server).await;
    let ours = publisher.channel(local_channel("chat")).await;
    let asked = with(remote_channel(&publisher.id, "chat"), "waitForAck", json!(true));
    let theirs = subscriber.channel(with(asked, "canReply", json!(true))).await;
    let seen = witness.channel(remote_channel(&publisher.id, "chat")).await;
    publisher.peer.tells(ours, "first");
    witness.peer.is_told(seen, "first").await;
    assert_eq!(subscriber.peer.messages_told(), 0);
    assert_eq!(subscriber.channels().await, [item("chat", "initializing", "remote")]);
    subscriber.peer.tells(theirs, "ready");
    subscriber.peer.is_told(theirs, "first").await;
    subscriber.peer.tells(theirs, "a reply");
    publisher.peer.is_told(ours, "a reply").await;
    assert_eq!(publisher.peer.texts(ours), ["a reply"]);
}

#[tokio::test]
async fn a_slow_reader_loses_a_reliable_channel_and_an_unreliable_ones_messages() {
    let server = Server::start();
    let publisher = Client::with_channels(&server).await;
    let (slow, quick) = (Client::with_channels(&server).await, Client::with_channels(&server).await);
    let file = publisher.channel(local_channel("file")).await;
    let state = publisher.channel(with(local_channel("state"), "maxRetransmits", json!(0))).await;
    let lossy = |item| with(item, "maxRetransmits", json!(0));
    let mut files = Vec::new();
    for client in [&slow, &quick] {
        files.push(client.channel(remote_channel(&publisher.id, "file")).await);
        client.channel(lossy(remote_channel(&publisher.id, "state"))).await;
    }
    publisher.peer.tells(file, "begin");
    slow.peer.is_told_times(files[0], 1).await;
    slow.peer.goes_deaf(true);
    for sent in (11..=91).step_by(10) {
        for _ in 0..10 {
            publisher.peer.tells_bytes(file, true, pattern(60_000));
            publisher.peer.tells_bytes(state, true, pattern(2_000));
        }
        quick.peer.is_told_times(files[1], sent).await;
    }
    let statuses = [item("file", "inactive", "remote"), item("state", "active", "remote")];
    assert_eq!(slow.channels().await, statuses);
    let statuses = [item("file", "active", "remote"), item("state", "active", "remote")];
    assert_eq!(quick.channels().await, statuses);
}

#[tokio::test]
async fn a_channel_is_closed_by_either_side_and_its_subscribers_learn_of_it() {
    let server = Server::start();
    let publisher = Client::with_channels(&server).await;
    let subscriber = Client::with_channels(&server).await;
    let ours = publisher.channel(local_channel("chat")).await;
    let theirs = subscriber.channel(remote_channel(&publisher.id, "chat")).await;
    publisher.peer.tells(ours, "hello");
    subscriber.peer.is_told(theirs, "hello").await;
    let ids = json!({ "dataChannels": [{ "id": ours }, { "id": 0 }] });
    let closed = publisher.datachannels_close(ids.clone()).await.ok();
    assert_eq!(closed["dataChannels"][0], with(local_channel("chat"), "id", json!(ours)));
    is_failed(&closed["dataChannels"][1], "close_track_error", &["0"]);
    subscriber.peer.a_channel_closes().await;
    publisher.peer.a_channel_closes().await;
    assert_eq!(subscriber.channels().await, [item("chat", "inactive", "remote")]);
    assert_eq!(publisher.channels().await, []);
    is_failed(&publisher.datachannels_close(ids).await.ok()["dataChannels"][0], "close_track_error", &[]);

    let ours = publisher.channel(local_channel("chat")).await;
    let theirs = subscriber.channel(remote_channel(&publisher.id, "chat")).await;
    publisher.peer.tells(ours, "again");
    subscriber.peer.is_told(theirs, "again").await;
    subscriber.peer.closes_channel(theirs);
    server.metric_becomes("fanline_data_channels", 1.0).await;
    assert_eq!(subscriber.channels().await, [item("chat", "inactive", "remote")]);
    assert_eq!(publisher.channels().await, [item("chat", "active", "local")]);
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name() {
    let server = Server::start();
    let client = Client::with_channels(&server).await;
    let new =
        async |items: serde_json::Value| client.datachannels_new(json!({ "dataChannels": items })).await;
    client.channel(local_channel("chat")).await;
    let own = remote_channel(&client.id, "chat");
    client.channel(own.clone()).await;
    let missing = remote_channel(&client.id, "talk");
    let repeated = new(json!([local_channel("chat")])).await.ok();
    is_failed(&repeated["dataChannels"][0], "repeated_local_track_error", &["chat"]);
    let items = new(json!([own, missing, remote("nobody", "chat")])).await.ok();
    is_failed(&items["dataChannels"][0], "repeated_local_track_error", &["chat"]);
    is_failed(&items["dataChannels"][1], "not_found_track_error", &["talk"]);
    is_failed(&items["dataChannels"][2], "invalid_params", &["dataChannelName"]);
    new(json!([])).await.is_refused(406, "invalid_params", &[]);
    new(json!([own, local_channel("other")])).await.is_refused(406, "invalid_params", &[]);
    let other = json!({ "dataChannel": local_channel("chat") });
    client.datachannels_establish(other).await.is_refused(406, "invalid_params", &["server-events"]);

    let without = Client::publishing(&server, "mic").await;
    let early = without.datachannels_new(json!({ "dataChannels": [local_channel("x")] })).await;
    early.is_refused(425, "session_error", &["datachannels/establish"]);
    let stranger = Peer::new().await;
    let (_, sdp) = stranger.offer_media(&[(MediaKind::Audio, str0m::media::Direction::SendOnly)]);
    let body = json!({ "dataChannel": server_events(), "sessionDescription": offer(&sdp) });
    without.datachannels_establish(body).await.is_refused(
        406,
        "invalid_session_description",
        &["m=application"],
    );
    let body = json!({ "dataChannel": server_events(), "sessionDescription": answer(&sdp) });
    without.datachannels_establish(body).await.is_refused(406, "invalid_session_description", &["offer"]);
}
