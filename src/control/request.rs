//! The one door into the control thread: every verb of the API, what it carries, what it answers.
//!
//! The structs are the JSON objects of the sessions/tracks API, so that a verb can be read beside its
//! documentation. Unknown fields are ignored (clients echo ours back to us), absent ones are absent in
//! JSON too: a `null` or an empty string would fail the validation of existing clients.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use utoipa::ToSchema;
use utoipa::openapi::{Object, ObjectBuilder, Ref, Type};

use crate::forward::speech::Loudness;
use crate::id::{MediaKind, SessionId};

/// An application: the tenant that owns sessions. Sessions of one app are invisible to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(pub String);

/// A verb on its way to control, with the place where its answer goes.
#[derive(Debug)]
pub enum Request {
    /// `POST /sessions/new`.
    NewSession { app: AppId, body: NewSession, reply: Reply<NewSessionResponse> },
    /// `GET /sessions/{id}`.
    GetSession { app: AppId, session: SessionId, reply: Reply<SessionState> },
    /// `GET /sessions`: beyond the original.
    ListSessions { app: AppId, page: SessionsPage, reply: Reply<SessionList> },
    /// `DELETE /sessions/{id}`: beyond the original. Answered when the session's media has stopped.
    EndSession { app: AppId, session: SessionId, reply: Reply<EndSessionResponse> },
    /// `POST /sessions/{id}/tracks/new`.
    NewTracks { app: AppId, session: SessionId, body: TracksRequest, reply: Reply<TracksResponse> },
    /// `PUT /sessions/{id}/renegotiate`. Legal only while an offer of ours is out.
    Renegotiate {
        app: AppId,
        session: SessionId,
        body: RenegotiateRequest,
        reply: Reply<RenegotiateResponse>,
    },
    /// `PUT /sessions/{id}/tracks/close`.
    CloseTracks { app: AppId, session: SessionId, body: CloseTracksRequest, reply: Reply<TracksResponse> },
    /// `PUT /sessions/{id}/tracks/update`. Legal for tracks that are being pulled.
    UpdateTracks { app: AppId, session: SessionId, body: UpdateTracksRequest, reply: Reply<TracksResponse> },
    /// `POST /sessions/{id}/datachannels/establish`.
    EstablishDataChannels {
        app: AppId,
        session: SessionId,
        body: EstablishRequest,
        reply: Reply<EstablishResponse>,
    },
    /// `POST /sessions/{id}/datachannels/new`. Legal once data channels are established.
    NewDataChannels {
        app: AppId,
        session: SessionId,
        body: DataChannelsRequest,
        reply: Reply<DataChannelsResponse>,
    },
    /// `PUT /sessions/{id}/datachannels/update`.
    UpdateDataChannels {
        app: AppId,
        session: SessionId,
        body: DataChannelsRequest,
        reply: Reply<DataChannelsResponse>,
    },
    /// `PUT /sessions/{id}/datachannels/close`.
    CloseDataChannels {
        app: AppId,
        session: SessionId,
        body: CloseDataChannelsRequest,
        reply: Reply<DataChannelsResponse>,
    },
    /// The gauges of the control plane, for `/metrics`.
    Census { reply: oneshot::Sender<Census> },
}

pub type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

/// What the HTTP side holds: a cloneable sender of requests.
#[derive(Debug, Clone)]
pub struct ControlHandle {
    requests: mpsc::Sender<Request>,
    /// Turns true when the server begins to stop.
    stopping: Option<watch::Receiver<bool>>,
}

/// What a verb that is under way when the server stops may still take: a pull that waits for its publisher
/// must not hold up the stop.
const STOPPING_WAIT: Duration = Duration::from_secs(1);

impl ControlHandle {
    pub fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { requests, stopping: None }
    }

    /// Cuts verbs short that are still under way a second after `stopping` has turned true.
    pub fn cut_short_by(self, stopping: watch::Receiver<bool>) -> Self {
        Self { stopping: Some(stopping), ..self }
    }

    pub async fn new_session(
        &self,
        app: AppId,
        body: NewSession,
    ) -> Result<NewSessionResponse, RequestError> {
        self.ask(|reply| Request::NewSession { app, body, reply }).await
    }

    pub async fn get_session(&self, app: AppId, session: SessionId) -> Result<SessionState, RequestError> {
        self.ask(|reply| Request::GetSession { app, session, reply }).await
    }

    pub async fn list_sessions(&self, app: AppId, page: SessionsPage) -> Result<SessionList, RequestError> {
        self.ask(|reply| Request::ListSessions { app, page, reply }).await
    }

    pub async fn end_session(
        &self,
        app: AppId,
        session: SessionId,
    ) -> Result<EndSessionResponse, RequestError> {
        self.ask(|reply| Request::EndSession { app, session, reply }).await
    }

    pub async fn new_tracks(
        &self,
        app: AppId,
        session: SessionId,
        body: TracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        self.ask(|reply| Request::NewTracks { app, session, body, reply }).await
    }

    pub async fn renegotiate(
        &self,
        app: AppId,
        session: SessionId,
        body: RenegotiateRequest,
    ) -> Result<RenegotiateResponse, RequestError> {
        self.ask(|reply| Request::Renegotiate { app, session, body, reply }).await
    }

    pub async fn close_tracks(
        &self,
        app: AppId,
        session: SessionId,
        body: CloseTracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        self.ask(|reply| Request::CloseTracks { app, session, body, reply }).await
    }

    pub async fn update_tracks(
        &self,
        app: AppId,
        session: SessionId,
        body: UpdateTracksRequest,
    ) -> Result<TracksResponse, RequestError> {
        self.ask(|reply| Request::UpdateTracks { app, session, body, reply }).await
    }

    pub async fn establish_data_channels(
        &self,
        app: AppId,
        session: SessionId,
        body: EstablishRequest,
    ) -> Result<EstablishResponse, RequestError> {
        self.ask(|reply| Request::EstablishDataChannels { app, session, body, reply }).await
    }

    pub async fn new_data_channels(
        &self,
        app: AppId,
        session: SessionId,
        body: DataChannelsRequest,
    ) -> Result<DataChannelsResponse, RequestError> {
        self.ask(|reply| Request::NewDataChannels { app, session, body, reply }).await
    }

    pub async fn update_data_channels(
        &self,
        app: AppId,
        session: SessionId,
        body: DataChannelsRequest,
    ) -> Result<DataChannelsResponse, RequestError> {
        self.ask(|reply| Request::UpdateDataChannels { app, session, body, reply }).await
    }

    pub async fn close_data_channels(
        &self,
        app: AppId,
        session: SessionId,
        body: CloseDataChannelsRequest,
    ) -> Result<DataChannelsResponse, RequestError> {
        self.ask(|reply| Request::CloseDataChannels { app, session, body, reply }).await
    }

    /// `None` when control has stopped.
    pub async fn census(&self) -> Option<Census> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Census { reply }).await.ok()?;
        answer.await.ok()
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RequestError> {
        let stopping = |_| {
            RequestError::new(
                ErrorCode::TemporarilyUnavailable,
                "the server is shutting down; retry elsewhere",
            )
        };
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| stopping(()))?;
        tokio::select! {
            answer = answer => answer.map_err(|_| stopping(()))?,
            () = self.cut_off() => Err(stopping(())),
        }
    }

    async fn cut_off(&self) {
        let stopped = match &self.stopping {
            Some(stopping) => stopping.clone().wait_for(|stopping| *stopping).await.is_ok(),
            None => false,
        };
        if !stopped {
            return std::future::pending().await;
        }
        tokio::time::sleep(STOPPING_WAIT).await;
    }
}

/// An SDP with its role, as the API carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionDescription {
    #[serde(rename = "type")]
    pub kind: SdpType,
    pub sdp: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SdpType {
    Offer,
    Answer,
}

/// Body of `sessions/new`; usually empty, an offer in the older form.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewSession {
    pub session_description: Option<SessionDescription>,
    /// Whether the peer is an ICE-lite server that waits for our connectivity checks. A parameter of the query.
    #[serde(skip)]
    #[schema(ignore)]
    pub thirdparty: bool,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewSessionResponse {
    pub session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub session_description: Option<SessionDescription>,
}

/// Body of `tracks/new`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TracksRequest {
    pub session_description: Option<SessionDescription>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub tracks: Vec<TrackObject>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub auto_discover: bool,
}

/// One item of `tracks`, in a request.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrackObject {
    pub location: Location,
    /// Of a local track: its m-line in the offer. Of a remote one: an m-line that is there and shall carry it, by
    /// its mid or as `#` and the name of the track on it; a new one if left out.
    pub mid: Option<String>,
    pub track_name: Option<String>,
    /// The publisher's session; kept as text because an id that is none fails the item, not the request.
    pub session_id: Option<String>,
    /// Of a local track that the server shall offer to receive.
    pub kind: Option<TrackKind>,
    /// Of a local track: its m-line shall be able to carry a track of others the other way.
    pub bidirectional_media_stream: Option<bool>,
    /// Which encodings of a remote simulcast are wanted.
    pub simulcast: Option<Simulcast>,
}

/// Which encodings of a simulcast a subscriber wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Simulcast {
    pub preferred_rid: Option<String>,
    /// What to do when the subscriber's bandwidth is short.
    #[serde(default, deserialize_with = "null_as_default")]
    pub priority_ordering: RidOrder,
    /// What to do while the publisher does not send the preferred encoding.
    #[serde(default, deserialize_with = "null_as_default")]
    pub rid_not_available: RidOrder,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RidOrder {
    /// Nothing takes the place of the preferred encoding.
    #[default]
    None,
    /// Others do, by the order of their rids: `a` is the best.
    Asciibetical,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Location {
    Local,
    Remote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrackKind {
    Audio,
    Video,
}

impl From<TrackKind> for MediaKind {
    fn from(kind: TrackKind) -> Self {
        match kind {
            TrackKind::Audio => Self::Audio,
            TrackKind::Video => Self::Video,
        }
    }
}

impl From<MediaKind> for TrackKind {
    fn from(kind: MediaKind) -> Self {
        match kind {
            MediaKind::Audio => Self::Audio,
            MediaKind::Video => Self::Video,
        }
    }
}

/// Answer of `tracks/new`, `tracks/update` and `tracks/close`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TracksResponse {
    pub requires_immediate_renegotiation: bool,
    pub tracks: Vec<TrackResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub session_description: Option<SessionDescription>,
}

/// One item of `tracks`, in an answer: the track, or why there is none.
///
/// `mid` is the empty string on an item that failed to be pulled, as the original does.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrackResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub track_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub mid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub kind: Option<TrackKind>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = item_error)]
    pub error: Option<RequestError>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RenegotiateRequest {
    pub session_description: SessionDescription,
}

/// `{}`: the original answers an empty object.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RenegotiateResponse {}

/// Body of `tracks/update`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct UpdateTracksRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub tracks: Vec<TrackObject>,
}

/// Body of `tracks/close`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloseTracksRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub tracks: Vec<CloseTrackObject>,
    pub session_description: Option<SessionDescription>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub force: bool,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct CloseTrackObject {
    pub mid: String,
}

/// Answer of `GET /sessions/{id}`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionState {
    pub tracks: Vec<TrackState>,
    pub data_channels: Vec<DataChannelState>,
    /// What the path to the client is estimated to carry, in bits per second, while it is sent video.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub available_bitrate_bps: Option<u64>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrackState {
    pub location: Location,
    pub mid: String,
    pub track_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub session_id: Option<String>,
    pub status: Status,
    /// Of audio whose publisher sends levels; beyond the original API
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub audio_level: Option<AudioLevelState>,
}

/// How loud a track is (RFC 6464), smoothed; at most a second old, and without delay when speaking begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AudioLevelState {
    /// 0 is the loudest there is, -127 silence
    #[schema(minimum = -127, maximum = 0)]
    pub level_dbov: i8,
    pub speaking: bool,
}

impl From<Loudness> for AudioLevelState {
    fn from(loudness: Loudness) -> Self {
        Self { level_dbov: -(loudness.level_dbov.min(127) as i8), speaking: loudness.is_speaking }
    }
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataChannelState {
    pub location: Location,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    pub data_channel_name: String,
    pub id: u16,
    pub status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Active,
    Inactive,
    /// Of data channels only: not open yet, or still waiting for its subscriber's first message.
    Initializing,
}

/// Body of `datachannels/establish`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EstablishRequest {
    pub data_channel: DataChannelObject,
    pub session_description: Option<SessionDescription>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EstablishResponse {
    pub requires_immediate_renegotiation: bool,
    pub data_channel: EstablishedChannel,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub session_description: Option<SessionDescription>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EstablishedChannel {
    pub data_channel_name: String,
    pub id: u16,
}

/// Body of `datachannels/new` and `datachannels/update`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataChannelsRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub data_channels: Vec<DataChannelObject>,
}

/// One item of `dataChannels`, in a request. An absent policy is, for a subscription, the publisher's.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataChannelObject {
    pub location: Location,
    pub data_channel_name: Option<String>,
    /// The publisher's session.
    pub session_id: Option<String>,
    pub ordered: Option<bool>,
    pub max_retransmits: Option<u16>,
    /// Milliseconds.
    pub max_packet_life_time: Option<u16>,
    pub wait_for_ack: Option<bool>,
    pub can_reply: Option<bool>,
}

/// Body of `datachannels/close`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloseDataChannelsRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub data_channels: Vec<CloseDataChannelObject>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct CloseDataChannelObject {
    pub id: u16,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataChannelsResponse {
    pub data_channels: Vec<DataChannelResult>,
}

/// One item of `dataChannels`, in an answer: the channel, or why there is none.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataChannelResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub location: Option<Location>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub data_channel_name: Option<String>,
    /// The SCTP stream on which the client opens its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub can_reply: Option<bool>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = item_error)]
    pub error: Option<RequestError>,
}

/// Which part of the list of sessions: at most `limit` of them, from the first id above `after`.
#[derive(Debug, Clone, Copy)]
pub struct SessionsPage {
    pub limit: usize,
    pub after: Option<SessionId>,
}

/// Answer of `GET /sessions`: a page, in the order of ids.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionList {
    pub sessions: Vec<SessionSummary>,
    /// What the next page begins after; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cursor: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionSummary {
    pub session_id: String,
    /// Whole seconds since the session was made.
    pub age_seconds: u64,
    /// Whether its transport is up.
    pub connected: bool,
    /// Open tracks that it publishes.
    pub local_tracks: usize,
    /// Tracks of others that flow to it.
    pub remote_tracks: usize,
}

/// `{}`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EndSessionResponse {}

/// What control counts, for the metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Census {
    pub sessions: u64,
    pub sessions_connected: u64,
    pub tracks: u64,
    pub subscriptions: u64,
    /// Datagrams of SRTP or SRTCP that a transport tried to send by itself, since the start. Not 0 is a bug:
    /// it would have been a second sender under a shard's keys.
    pub transport_media_dropped: u64,
    pub data_channels: u64,
}

/// A verb or an item that failed: a code for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestError {
    pub error_code: ErrorCode,
    /// Names the offending thing and, where there is one, the remedy.
    pub error_description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub error_subcode: Option<&'static str>,
}

impl RequestError {
    pub fn new(code: ErrorCode, description: impl Into<String>) -> Self {
        Self { error_code: code, error_description: description.into(), error_subcode: None }
    }

    pub fn with_subcode(self, subcode: &'static str) -> Self {
        Self { error_subcode: Some(subcode), ..self }
    }
}

/// The error codes of the API. `api::error` gives each its HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    Unauthorized,
    NotFound,
    DecodingError,
    InvalidParams,
    PayloadTooLarge,
    /// The session's transport must connect first; the client can retry.
    #[serde(rename = "session_error")]
    SessionNotConnected,
    /// The session is unknown, expired or disconnected; the client needs another.
    #[serde(rename = "session_error")]
    SessionGone,
    InvalidSessionDescription,
    NotFoundTrackError,
    EmptyTrackError,
    CloseTrackError,
    UpdateTrackError,
    /// The data channel is published, or subscribed to, already.
    RepeatedLocalTrackError,
    #[serde(rename = "temporarily_unavailable_error")]
    TemporarilyUnavailable,
    InternalError,
}

/// The members of [`RequestError`], all of which an item that worked is without.
fn item_error() -> Object {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    ObjectBuilder::new()
        .property("errorCode", Ref::from_schema_name("ErrorCode"))
        .property("errorDescription", text())
        .property("errorSubcode", text())
        .build()
}

/// Clients send `null` for what they do not have; it means the same as leaving the field out.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_mean_the_same() {
        let body: TracksRequest = serde_json::from_str(
            r#"{"tracks":[{"location":"local","mid":null,"trackName":"a","extra":1}],"autoDiscover":null}"#,
        )
        .unwrap();
        assert_eq!(body.tracks[0].mid, None);
        assert!(!body.auto_discover);
    }

    #[test]
    fn answers_never_hold_null() {
        let failed = TrackResult {
            mid: Some(String::new()),
            error: Some(RequestError::new(ErrorCode::NotFoundTrackError, "gone")),
            ..TrackResult::default()
        };
        assert_eq!(
            serde_json::to_string(&failed).unwrap(),
            r#"{"mid":"","errorCode":"not_found_track_error","errorDescription":"gone"}"#
        );
        let fine =
            TrackResult { mid: Some("0".into()), track_name: Some("t".into()), ..TrackResult::default() };
        assert_eq!(serde_json::to_string(&fine).unwrap(), r#"{"trackName":"t","mid":"0"}"#);
    }
}
