//! The one door into the control thread: every verb of the API, what it carries, what it answers.
//!
//! The structs are the JSON objects of the sessions/tracks API, so that a verb can be read beside its
//! documentation. Unknown fields are ignored (clients echo ours back to us), absent ones are absent in
//! JSON too: a `null` or an empty string would fail the validation of existing clients.

use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::{mpsc, oneshot};

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
}

impl ControlHandle {
    pub fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { requests }
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
        answer.await.map_err(|_| stopping(()))?
    }
}

/// An SDP with its role, as the API carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDescription {
    #[serde(rename = "type")]
    pub kind: SdpType,
    pub sdp: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SdpType {
    Offer,
    Answer,
}

/// Body of `sessions/new`; usually empty, an offer in the older form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSession {
    pub session_description: Option<SessionDescription>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSessionResponse {
    pub session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_description: Option<SessionDescription>,
}

/// Body of `tracks/new`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracksRequest {
    pub session_description: Option<SessionDescription>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub tracks: Vec<TrackObject>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub auto_discover: bool,
}

/// One item of `tracks`, in a request.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackObject {
    pub location: Location,
    pub mid: Option<String>,
    pub track_name: Option<String>,
    /// The publisher's session; kept as text because an id that is none fails the item, not the request.
    pub session_id: Option<String>,
    pub kind: Option<TrackKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Location {
    Local,
    Remote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackKind {
    Audio,
    Video,
}

impl From<MediaKind> for TrackKind {
    fn from(kind: MediaKind) -> Self {
        match kind {
            MediaKind::Audio => Self::Audio,
            MediaKind::Video => Self::Video,
        }
    }
}

/// Answer of `tracks/new` and `tracks/close`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TracksResponse {
    pub requires_immediate_renegotiation: bool,
    pub tracks: Vec<TrackResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_description: Option<SessionDescription>,
}

/// One item of `tracks`, in an answer: the track, or why there is none.
///
/// `mid` is the empty string on an item that failed to be pulled, as the original does.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<TrackKind>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub error: Option<RequestError>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenegotiateRequest {
    pub session_description: SessionDescription,
}

/// `{}`: the original answers an empty object.
#[derive(Debug, Clone, Serialize)]
pub struct RenegotiateResponse {}

/// Body of `tracks/close`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloseTracksRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub tracks: Vec<CloseTrackObject>,
    pub session_description: Option<SessionDescription>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub force: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct CloseTrackObject {
    pub mid: String,
}

/// Answer of `GET /sessions/{id}`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionState {
    pub tracks: Vec<TrackState>,
    pub data_channels: Vec<DataChannelState>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackState {
    pub location: Location,
    pub mid: String,
    pub track_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    pub status: Status,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataChannelState {
    pub location: Location,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    pub data_channel_name: String,
    pub id: u16,
    pub status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Active,
    Inactive,
    /// Of data channels only: not open yet, or still waiting for its subscriber's first message.
    Initializing,
}

/// Body of `datachannels/establish`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EstablishRequest {
    pub data_channel: DataChannelObject,
    pub session_description: Option<SessionDescription>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EstablishResponse {
    pub requires_immediate_renegotiation: bool,
    pub data_channel: EstablishedChannel,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_description: Option<SessionDescription>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EstablishedChannel {
    pub data_channel_name: String,
    pub id: u16,
}

/// Body of `datachannels/new` and `datachannels/update`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataChannelsRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub data_channels: Vec<DataChannelObject>,
}

/// One item of `dataChannels`, in a request. An absent policy is, for a subscription, the publisher's.
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloseDataChannelsRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub data_channels: Vec<CloseDataChannelObject>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct CloseDataChannelObject {
    pub id: u16,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataChannelsResponse {
    pub data_channels: Vec<DataChannelResult>,
}

/// One item of `dataChannels`, in an answer: the channel, or why there is none.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataChannelResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_channel_name: Option<String>,
    /// The SCTP stream on which the client opens its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_reply: Option<bool>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub error: Option<RequestError>,
}

/// What control counts, for the metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Census {
    pub sessions: u64,
    pub sessions_connected: u64,
    pub tracks: u64,
    pub subscriptions: u64,
    pub data_channels: u64,
}

/// A verb or an item that failed: a code for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestError {
    pub error_code: ErrorCode,
    /// Names the offending thing and, where there is one, the remedy.
    pub error_description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    /// The data channel is published, or subscribed to, already.
    RepeatedLocalTrackError,
    #[serde(rename = "temporarily_unavailable_error")]
    TemporarilyUnavailable,
    InternalError,
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
