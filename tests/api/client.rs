//! A session and its peer, with the calls an application makes for them.

use serde_json::{Value, json};
use str0m::channel::{ChannelConfig, Reliability};
use str0m::media::{Direction, MediaKind};

use crate::peer::Peer;
use crate::server::{Answer, Server};

pub struct Client<'a> {
    pub server: &'a Server,
    pub id: String,
    pub peer: Peer,
}

impl<'a> Client<'a> {
    pub async fn new(server: &'a Server) -> Self {
        Self::of(server, Peer::new().await).await
    }

    /// A session for a peer that is there already.
    pub async fn of(server: &'a Server, peer: Peer) -> Self {
        Self { server, id: server.new_session().await, peer }
    }

    /// A session that publishes an audio track of this name and talks on it.
    pub async fn publishing(server: &'a Server, name: &str) -> Self {
        let client = Self::new(server).await;
        client.push(&[(MediaKind::Audio, name)]).await;
        client
    }

    fn path(&self, below: &str) -> String {
        format!("/sessions/{}{below}", self.id)
    }

    pub async fn tracks_new(&self, body: Value) -> Answer {
        self.server.post(&self.path("/tracks/new"), body).await
    }

    pub async fn renegotiate(&self, body: Value) -> Answer {
        self.server.put(&self.path("/renegotiate"), body).await
    }

    pub async fn tracks_close(&self, body: Value) -> Answer {
        self.server.put(&self.path("/tracks/close"), body).await
    }

    pub async fn datachannels_establish(&self, body: Value) -> Answer {
        self.server.post(&self.path("/datachannels/establish"), body).await
    }

    pub async fn datachannels_new(&self, body: Value) -> Answer {
        self.server.post(&self.path("/datachannels/new"), body).await
    }

    pub async fn datachannels_update(&self, body: Value) -> Answer {
        self.server.put(&self.path("/datachannels/update"), body).await
    }

    pub async fn datachannels_close(&self, body: Value) -> Answer {
        self.server.put(&self.path("/datachannels/close"), body).await
    }

    /// A session with data channels, by the server's offer.
    pub async fn with_channels(server: &'a Server) -> Self {
        let client = Self::new(server).await;
        client
            .complete(&client.datachannels_establish(json!({ "dataChannel": server_events() })).await.ok())
            .await;
        client.peer.is_connected().await;
        client
    }

    /// Asks for one channel and opens its end. Returns its id.
    pub async fn channel(&self, item: Value) -> u16 {
        let body = self.datachannels_new(json!({ "dataChannels": [item] })).await.ok();
        let made = &body["dataChannels"][0];
        assert_eq!(made.get("errorCode"), None, "{made}");
        let id = u16::try_from(made["id"].as_u64().unwrap()).unwrap();
        self.peer.opens_channel(id, policy(&item));
        id
    }

    /// What `GET` lists of data channels, as (location, name, status).
    pub async fn channels(&self) -> Vec<(String, String, String)> {
        let body = self.server.get(&self.path("")).await.ok();
        let of = |item: &Value, key: &str| item[key].as_str().unwrap().to_owned();
        let channel = |item: &Value| (of(item, "location"), of(item, "dataChannelName"), of(item, "status"));
        body["dataChannels"].as_array().unwrap().iter().map(channel).collect()
    }

    /// What `GET` lists, as (location, mid, track name, status).
    pub async fn tracks(&self) -> Vec<(String, String, String, String)> {
        let body = self.server.get(&self.path("")).await.ok();
        let of = |item: &Value, key: &str| item[key].as_str().unwrap().to_owned();
        let track =
            |item: &Value| (of(item, "location"), of(item, "mid"), of(item, "trackName"), of(item, "status"));
        body["tracks"].as_array().unwrap().iter().map(track).collect()
    }

    /// Publishes on new m-lines, connects, and talks on each in the words of its name. Returns the mids.
    pub async fn push(&self, tracks: &[(MediaKind, &str)]) -> Vec<String> {
        let lines: Vec<_> = tracks.iter().map(|&(kind, _)| (kind, Direction::SendOnly)).collect();
        let (mids, sdp) = self.peer.offer_media(&lines);
        let items: Vec<_> = mids.iter().zip(tracks).map(|(mid, (_, name))| local(mid, name)).collect();
        let body = self.tracks_new(json!({ "sessionDescription": offer(&sdp), "tracks": items })).await.ok();
        self.peer.accept_answer(sdp_of(&body));
        self.peer.is_connected().await;
        for (mid, (_, name)) in mids.iter().zip(tracks) {
            self.peer.talk(mid, name);
        }
        mids
    }

    /// Asks for tracks of others, and answers the offer if one comes. Returns the items.
    pub async fn pull(&self, tracks: &[Value]) -> Vec<Value> {
        let body = self.tracks_new(json!({ "tracks": tracks })).await.ok();
        self.complete(&body).await;
        body["tracks"].as_array().unwrap().clone()
    }

    /// Answers the offer in `body`, if there is one.
    pub async fn complete(&self, body: &Value) {
        if body["requiresImmediateRenegotiation"] == true {
            let sdp = self.peer.answer(sdp_of(body));
            let done = self.renegotiate(json!({ "sessionDescription": answer(&sdp) })).await;
            assert_eq!((done.status, done.body), (200, json!({})));
        }
    }

    /// The mid under which the one track `name` of `publisher` is pulled.
    pub async fn pull_one(&self, publisher: &Client<'_>, name: &str) -> String {
        let items = self.pull(&[remote(&publisher.id, name)]).await;
        assert_eq!(items[0].get("errorCode"), None, "{}", items[0]);
        items[0]["mid"].as_str().unwrap().to_owned()
    }
}

pub fn offer(sdp: &str) -> Value {
    json!({ "type": "offer", "sdp": sdp })
}

pub fn answer(sdp: &str) -> Value {
    json!({ "type": "answer", "sdp": sdp })
}

pub fn local(mid: &str, name: &str) -> Value {
    json!({ "location": "local", "mid": mid, "trackName": name })
}

pub fn remote(session: &str, name: &str) -> Value {
    json!({ "location": "remote", "sessionId": session, "trackName": name })
}

pub fn server_events() -> Value {
    json!({ "location": "remote", "dataChannelName": "server-events" })
}

pub fn local_channel(name: &str) -> Value {
    json!({ "location": "local", "dataChannelName": name })
}

pub fn remote_channel(session: &str, name: &str) -> Value {
    json!({ "location": "remote", "sessionId": session, "dataChannelName": name })
}

/// `item` with one more field.
pub fn with(mut item: Value, field: &str, value: Value) -> Value {
    item[field] = value;
    item
}

fn policy(item: &Value) -> ChannelConfig {
    let number = |field: &str| item[field].as_u64().map(|number| u16::try_from(number).unwrap());
    let lifetime = number("maxPacketLifeTime").map(|lifetime| Reliability::MaxPacketLifetime { lifetime });
    let retransmits = number("maxRetransmits").map(|retransmits| Reliability::MaxRetransmits { retransmits });
    let reliability = lifetime.or(retransmits).unwrap_or(Reliability::Reliable);
    ChannelConfig { ordered: item["ordered"] != false, reliability, ..ChannelConfig::default() }
}

pub fn sdp_of(body: &Value) -> &str {
    body["sessionDescription"]["sdp"].as_str().expect("the answer holds SDP")
}

/// The m-sections of a description, each with its `m=` line.
pub fn sections(sdp: &str) -> Vec<&str> {
    let mut starts: Vec<_> = sdp.match_indices("m=").map(|(at, _)| at).collect();
    starts.retain(|&at| at == 0 || sdp[..at].ends_with('\n'));
    let ends = starts.iter().skip(1).copied().chain([sdp.len()]);
    starts.iter().zip(ends).map(|(&start, end)| &sdp[start..end]).collect()
}

/// Whether a line of the section is exactly this.
pub fn has_line(section: &str, line: &str) -> bool {
    section.lines().any(|found| found.trim_end() == line)
}
