//! Who is in the room, with which session and tracks: the signalling of the demo over one WebSocket per member.
//!
//! The sessions/tracks API has no rooms on purpose: telling people about each other is the application's job.
//! So the hub knows nothing of sessions but their names, and relays what its members say. Everything is in
//! memory and bounded; the newest roster replaces an unsent older one, so a slow member holds no backlog.
//! Deliberately absent: history, authentication, any call into the server.
//!
//! A member says `join` once, `update` when its session or tracks change, and `leave`; the hub says `welcome`
//! to a new member, `roster` (the whole room) to everybody at each change, and `error`.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A full mesh of subscriptions grows with the square of the members; 16 tiles are what a page can show.
const MEMBERS_PER_ROOM_MAX: usize = 16;
/// 256 rooms of 16 members with 16 KiB each: 64 MiB at worst.
const ROOMS_MAX: usize = 256;
/// A join with four tracks takes about 500 bytes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Camera, microphone, a shared screen with its sound. 15 members' tracks then fit the API's 64 per request.
const TRACKS_PER_MEMBER_MAX: usize = 4;
/// Session ids have 32 characters, track names of browsers (UUIDs) 36; a person's name fits too.
const NAME_CHARS_MAX: usize = 64;

/// How patient the hub is. An argument, so that tests need not wait for half a minute.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub ping_every: Duration,
    /// A member that let this many pings pass without a sign of life is dropped.
    pub pings_unanswered_max: u32,
    /// A member whose socket takes no bytes for this long is dropped.
    pub send_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let (ping_every, send_timeout) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { ping_every, pings_unanswered_max: 3, send_timeout }
    }
}

/// `/demo/hub?room=NAME`.
pub fn router(hub: Arc<Hub>) -> Router {
    Router::new().route("/demo/hub", get(enter)).with_state(hub)
}

#[derive(Deserialize)]
struct Entrance {
    room: String,
}

async fn enter(
    State(hub): State<Arc<Hub>>,
    Query(Entrance { room }): Query<Entrance>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !is_name(&room) {
        let text = format!("the room's name must have 1 to {NAME_CHARS_MAX} printable characters");
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| attend(socket, Visitor { hub, room, seat: None }))
}

/// One connection from its first message to its last. Dropping the visitor gives the seat back.
async fn attend(mut socket: WebSocket, mut visitor: Visitor) {
    let pace = visitor.hub.pace;
    let mut ping = tokio::time::interval(pace.ping_every);
    let mut unanswered = 0;
    loop {
        let outgoing = tokio::select! {
            incoming = socket.recv() => {
                unanswered = 0;
                match visitor.receive(incoming) {
                    ControlFlow::Continue(None) => continue,
                    ControlFlow::Continue(Some(answer)) => answer,
                    ControlFlow::Break(()) => return,
                }
            }
            roster = visitor.next_roster() => Message::Text(roster),
            _ = ping.tick() => {
                if unanswered == pace.pings_unanswered_max {
                    return;
                }
                unanswered += 1;
                Message::Ping(Default::default())
            }
        };
        match tokio::time::timeout(pace.send_timeout, socket.send(outgoing)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// What a connection is to the hub: a stranger, and after `join` a member with a seat.
struct Visitor {
    hub: Arc<Hub>,
    room: String,
    seat: Option<Seat>,
}

impl Visitor {
    /// The answer to what came in, if it needs one; `Break` when the connection is over.
    fn receive(
        &mut self,
        incoming: Option<Result<Message, axum::Error>>,
    ) -> ControlFlow<(), Option<Message>> {
        match incoming {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(FromMember::Leave) => ControlFlow::Break(()),
                Ok(FromMember::Join(profile)) => ControlFlow::Continue(Some(self.join(profile))),
                Ok(FromMember::Update(profile)) => ControlFlow::Continue(self.update(profile)),
                Err(error) => ControlFlow::Continue(Some(refusal(format!("malformed message: {error}")))),
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => ControlFlow::Continue(None),
            Some(Ok(Message::Binary(_))) => {
                ControlFlow::Continue(Some(refusal("malformed message: expected JSON in a text message")))
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => ControlFlow::Break(()),
        }
    }

    fn join(&mut self, profile: Profile) -> Message {
        if self.seat.is_some() {
            return refusal("this connection has joined already; send an update");
        }
        match profile.check().and_then(|()| self.hub.join(&self.room, profile)) {
            Ok(seat) => {
                let welcome = ToMember::Welcome { member_id: seat.member };
                self.seat = Some(seat);
                Message::Text(welcome.to_json())
            }
            Err(reason) => refusal(reason),
        }
    }

    fn update(&mut self, profile: Profile) -> Option<Message> {
        let Some(seat) = &self.seat else { return Some(refusal("join before the first update")) };
        match profile.check() {
            Ok(()) => {
                self.hub.update(seat, profile);
                None
            }
            Err(reason) => Some(refusal(reason)),
        }
    }

    /// The newest roster once it differs from the last one told; never for a stranger.
    async fn next_roster(&mut self) -> Utf8Bytes {
        let Some(seat) = &mut self.seat else { return std::future::pending().await };
        seat.roster.changed().await.expect("a room lives as long as its last seat");
        seat.roster.borrow_and_update().clone()
    }
}

/// All rooms. The lock is held for map operations only, never over an await.
pub struct Hub {
    rooms: Mutex<Rooms>,
    pace: Pace,
}

#[derive(Default)]
struct Rooms {
    by_name: HashMap<String, Room>,
    next_member: u64,
}

struct Room {
    /// In the order of arrival, which is the order of the tiles.
    members: BTreeMap<u64, Profile>,
    /// The latest roster as JSON. A `watch` keeps one value: a slow reader skips what it missed.
    roster: watch::Sender<Utf8Bytes>,
}

/// A member's place in a room; dropping it tells the others.
struct Seat {
    hub: Arc<Hub>,
    room: String,
    member: u64,
    roster: watch::Receiver<Utf8Bytes>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.leave(&self.room, self.member);
    }
}

impl Hub {
    pub fn new(pace: Pace) -> Arc<Self> {
        Arc::new(Self { rooms: Mutex::default(), pace })
    }

    fn join(self: &Arc<Self>, room: &str, profile: Profile) -> Result<Seat, String> {
        let mut rooms = self.rooms();
        if rooms.by_name.len() == ROOMS_MAX && !rooms.by_name.contains_key(room) {
            return Err(format!("all {ROOMS_MAX} rooms are in use"));
        }
        let member = rooms.next_member;
        let entry = rooms.by_name.entry(room.to_owned()).or_insert_with(Room::empty);
        if entry.members.len() == MEMBERS_PER_ROOM_MAX {
            return Err(format!("the room is full: it has {MEMBERS_PER_ROOM_MAX} members"));
        }
        // Before the roster is told, so that the new member is told as well.
        let roster = entry.roster.subscribe();
        entry.members.insert(member, profile);
        entry.tell();
        rooms.next_member += 1;
        Ok(Seat { hub: Arc::clone(self), room: room.to_owned(), member, roster })
    }

    fn update(&self, seat: &Seat, profile: Profile) {
        if let Some(room) = self.rooms().by_name.get_mut(&seat.room) {
            room.members.insert(seat.member, profile);
            room.tell();
        }
    }

    fn leave(&self, name: &str, member: u64) {
        let mut rooms = self.rooms();
        let Some(room) = rooms.by_name.get_mut(name) else { return };
        room.members.remove(&member);
        if room.members.is_empty() {
            rooms.by_name.remove(name);
        } else {
            room.tell();
        }
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().expect("nothing panics while it holds the rooms")
    }
}

impl Room {
    fn empty() -> Self {
        Self { members: BTreeMap::new(), roster: watch::Sender::default() }
    }

    fn tell(&self) {
        let members = self.members.iter().map(|(&member_id, profile)| Member { member_id, profile });
        let roster = ToMember::Roster { members: members.collect() };
        self.roster.send_replace(roster.to_json());
    }
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromMember {
    Join(Profile),
    Update(Profile),
    Leave,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
enum ToMember<'a> {
    Welcome { member_id: u64 },
    Roster { members: Vec<Member<'a>> },
    Error { message: String },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member<'a> {
    member_id: u64,
    #[serde(flatten)]
    profile: &'a Profile,
}

/// What a member says of itself.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    name: String,
    /// Absent for a listener, who has no session before there is somebody to hear.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(default)]
    tracks: Vec<Track>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Track {
    track_name: String,
    kind: Kind,
    #[serde(default)]
    muted: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Audio,
    Video,
}

impl Profile {
    fn check(&self) -> Result<(), String> {
        if self.tracks.len() > TRACKS_PER_MEMBER_MAX {
            return Err(format!("a member may have {TRACKS_PER_MEMBER_MAX} tracks at most"));
        }
        if self.session_id.is_none() && !self.tracks.is_empty() {
            return Err("tracks need the sessionId they were published in".into());
        }
        let mut names =
            [&self.name].into_iter().chain(&self.session_id).chain(self.tracks.iter().map(|t| &t.track_name));
        match names.find(|name| !is_name(name)) {
            Some(name) => Err(format!("{name:?} must have 1 to {NAME_CHARS_MAX} printable characters")),
            None => Ok(()),
        }
    }
}

impl ToMember<'_> {
    fn to_json(&self) -> Utf8Bytes {
        serde_json::to_string(self).expect("strings, numbers and lists become JSON").into()
    }
}

fn refusal(message: impl Into<String>) -> Message {
    Message::Text(ToMember::Error { message: message.into() }.to_json())
}

fn is_name(text: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests;
