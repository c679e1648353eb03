//! The hub over real WebSockets on loopback.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;

/// Generous: it bounds a failure, a passing test never waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn members_learn_of_each_other_with_session_and_tracks() {
    let hub = start(Pace::default()).await;
    let mut ada = hub.join("blue", ada()).await;
    let mut bob = hub.join("blue", listener("Bob")).await;

    let roster = bob.hear("roster").await;
    assert_eq!(
        roster["members"],
        json!([
            { "memberId": 0, "name": "Ada", "sessionId": "a1",
              "tracks": [{ "trackName": "camera", "kind": "video", "muted": false }] },
            { "memberId": 1, "name": "Bob", "tracks": [] },
        ])
    );
    while ada.hear_names().await != ["Ada", "Bob"] {}
}

#[tokio::test]
async fn rooms_do_not_hear_each_other() {
    let hub = start(Pace::default()).await;
    let _ada = hub.join("blue", ada()).await;
    let mut bob = hub.join("red", listener("Bob")).await;
    assert_eq!(bob.hear_names().await, ["Bob"]);
}

#[tokio::test]
async fn update_replaces_what_a_member_said() {
    let hub = start(Pace::default()).await;
    let mut ada = hub.join("blue", ada()).await;
    ada.hear("roster").await;
    ada.say(json!({ "type": "update", "name": "Ada", "sessionId": "a2", "tracks": [] })).await;
    let roster = ada.hear("roster").await;
    assert_eq!(roster["members"], json!([{ "memberId": 0, "name": "Ada", "sessionId": "a2", "tracks": [] }]));
}

#[tokio::test]
async fn leaving_and_vanishing_both_free_the_seat() {
    let hub = start(Pace::default()).await;
    let mut ada = hub.join("blue", ada()).await;
    let mut bob = hub.join("blue", listener("Bob")).await;
    let cem = hub.join("blue", listener("Cem")).await;

    bob.say(json!({ "type": "leave" })).await;
    drop(cem);
    while ada.hear_names().await != ["Ada"] {}
    drop(ada);
    let mut dan = hub.join("blue", listener("Dan")).await;
    assert_eq!(dan.hear_names().await, ["Dan"]);
}

#[tokio::test]
async fn silent_member_is_dropped_and_a_live_one_is_not() {
    let brisk = Pace { ping_every: Duration::from_millis(40), ..Pace::default() };
    let hub = start(brisk).await;
    let mut ada = hub.join("blue", ada()).await;
    // Nobody reads Bob's socket, so nobody answers its pings.
    let _bob = hub.join("blue", listener("Bob")).await;
    while ada.hear_names().await != ["Ada", "Bob"] {}
    assert_eq!(ada.hear_names().await, ["Ada"]);
}

#[tokio::test]
async fn malformed_messages_are_answered_and_do_not_end_the_connection() {
    let hub = start(Pace::default()).await;
    let mut eve = hub.enter("blue").await;
    for (said, reason) in [
        ("{", "malformed message"),
        (r#"{"type":"shout"}"#, "unknown variant `shout`"),
        (r#"{"type":"join"}"#, "missing field `name`"),
        (r#"{"type":"join","name":""}"#, "1 to 64 printable characters"),
        (r#"{"type":"join","name":"a\u0007"}"#, "1 to 64 printable characters"),
        (r#"{"type":"join","name":"Eve","tracks":[{"trackName":"t","kind":"audio"}]}"#, "need the sessionId"),
        (r#"{"type":"join","name":"Eve","tracks":[{"trackName":"t","kind":"smell"}]}"#, "unknown variant"),
        (r#"{"type":"update","name":"Eve"}"#, "join before"),
    ] {
        eve.socket.send(WsMessage::text(said)).await.unwrap();
        let message = eve.hear("error").await["message"].to_string();
        assert!(message.contains(reason), "{said} was answered by {message}");
    }
    eve.say(listener("Eve")).await;
    assert_eq!(eve.hear_names().await, ["Eve"]);
    eve.say(listener("Eve")).await;
    assert!(eve.hear("error").await["message"].to_string().contains("joined already"));
}

#[tokio::test]
async fn oversized_message_ends_the_connection() {
    let hub = start(Pace::default()).await;
    let mut eve = hub.enter("blue").await;
    eve.socket.send(WsMessage::text(" ".repeat(MESSAGE_BYTES_MAX + 1))).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, eve.socket.next()).await.expect("the hub hangs up");
    assert!(!matches!(end, Some(Ok(WsMessage::Text(_)))), "{end:?}");
}

#[tokio::test]
async fn too_many_tracks_are_refused() {
    let hub = start(Pace::default()).await;
    let mut eve = hub.enter("blue").await;
    let track = json!({ "trackName": "t", "kind": "audio" });
    let tracks = vec![track; TRACKS_PER_MEMBER_MAX + 1];
    eve.say(json!({ "type": "join", "name": "Eve", "sessionId": "e", "tracks": tracks })).await;
    assert!(eve.hear("error").await["message"].to_string().contains("4 tracks at most"));
}

#[test]
fn full_room_and_full_house_are_refused_until_somebody_leaves() {
    let hub = Hub::new(Pace::default());
    let listener = || Profile { name: "L".into(), session_id: None, tracks: Vec::new() };
    let mut seats: Vec<Seat> =
        (0..MEMBERS_PER_ROOM_MAX).map(|_| hub.join("blue", listener()).unwrap()).collect();
    assert!(hub.join("blue", listener()).is_err_and(|reason| reason.contains("room is full")));
    seats.pop();
    seats.push(hub.join("blue", listener()).unwrap());

    let others: Vec<Seat> = (1..ROOMS_MAX).map(|n| hub.join(&n.to_string(), listener()).unwrap()).collect();
    assert!(hub.join("one more", listener()).is_err_and(|reason| reason.contains("rooms are in use")));
    drop((seats, others));
    assert!(hub.rooms().by_name.is_empty());
}

#[tokio::test]
async fn room_needs_a_name() {
    let hub = start(Pace::default()).await;
    for query in ["", "?room=", "?room=%07", &format!("?room={}", "r".repeat(NAME_CHARS_MAX + 1))] {
        let url = format!("ws://{}/demo/hub{query}", hub.address);
        assert!(connect_async(&url).await.is_err(), "{query}");
    }
}

struct RunningHub {
    address: std::net::SocketAddr,
}

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

async fn start(pace: Pace) -> RunningHub {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(Hub::new(pace))).await });
    RunningHub { address }
}

fn ada() -> Value {
    let tracks = json!([{ "trackName": "camera", "kind": "video" }]);
    json!({ "type": "join", "name": "Ada", "sessionId": "a1", "tracks": tracks })
}

fn listener(name: &str) -> Value {
    json!({ "type": "join", "name": name })
}

impl RunningHub {
    async fn enter(&self, room: &str) -> Client {
        let (socket, _) = connect_async(format!("ws://{}/demo/hub?room={room}", self.address)).await.unwrap();
        Client { socket }
    }

    async fn join(&self, room: &str, join: Value) -> Client {
        let mut client = self.enter(room).await;
        client.say(join).await;
        client.hear("welcome").await;
        client
    }
}

impl Client {
    async fn say(&mut self, message: Value) {
        self.socket.send(WsMessage::text(message.to_string())).await.unwrap();
    }

    /// The next message of that type; others are skipped.
    async fn hear(&mut self, wanted: &str) -> Value {
        let search = async {
            while let Some(Ok(message)) = self.socket.next().await {
                let WsMessage::Text(text) = message else { continue };
                let value: Value = serde_json::from_str(&text).unwrap();
                if value["type"] == wanted {
                    return value;
                }
            }
            panic!("the hub hung up before it said {wanted}");
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("the hub never said {wanted}"))
    }

    async fn hear_names(&mut self) -> Vec<String> {
        let roster = self.hear("roster").await;
        let members = roster["members"].as_array().unwrap();
        members.iter().map(|member| member["name"].as_str().unwrap().to_owned()).collect()
    }
}
