//! The endpoints about a session as a whole. What they mean is decided by control; here they are read
//! and written.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Caller, Target};
use super::error::Refusal;
use super::openapi::{OFFER, OfApp, OfDescription, OfSession, OfValues, SESSION};
use super::{Answer, ApiState, body};
use crate::control::request::{
    EndSessionResponse, ErrorCode, NewSession, NewSessionResponse, RenegotiateRequest, RenegotiateResponse,
    SessionList, SessionState, SessionsPage,
};

/// Sessions on a page unless the query says otherwise, and at most: some 20 and 200 KB of JSON.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

/// `POST /sessions/new`: 201, the one answer that is not 200. An empty body is the usual one.
#[utoipa::path(
    post,
    path = "/sessions/new",
    tag = "sessions",
    operation_id = "newSession",
    summary = "Make a session",
    description = "One that never connects expires, after 30 s unless the server is told otherwise.",
    params(Caller, NewSessionQuery),
    request_body(
        content = Option<NewSession>,
        description = "Usually none. With an offer, the answer comes at once.",
        example = json!({ "sessionDescription": { "type": "offer", "sdp": OFFER } })
    ),
    responses(
        (status = 201, description = "The session", body = NewSessionResponse,
         links(
             ("get" = (operation_id = "getSession", parameters(("session" = "$response.body#/sessionId")))),
             ("end" = (operation_id = "endSession", parameters(("session" = "$response.body#/sessionId")))),
             ("tracks" = (operation_id = "newTracks", parameters(("session" = "$response.body#/sessionId"))))
         ),
         example = json!({ "sessionId": SESSION })),
        OfApp,
        OfDescription
    )
)]
pub(super) async fn new(
    State(api): State<ApiState>,
    Caller(app): Caller,
    query: Result<Query<NewSessionQuery>, QueryRejection>,
    body: Body,
) -> Result<(StatusCode, Json<NewSessionResponse>), Refusal> {
    let Query(query) = query.map_err(|error| Refusal::new(ErrorCode::InvalidParams, error.body_text()))?;
    let body: NewSession = body::optional(body, &api.limits).await?;
    let body = NewSession { thirdparty: query.thirdparty, ..body };
    Ok((StatusCode::CREATED, Json(api.control.new_session(app, body).await?)))
}

/// What kind of session.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct NewSessionQuery {
    /// Whether the peer is another server, ICE-lite itself: then this one checks connectivity and connects to it
    #[serde(default)]
    #[param(required = false)]
    thirdparty: bool,
}

/// Which page of the sessions.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Most sessions on the page; 100 if left out
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    limit: Option<usize>,
    /// The `cursor` of the page before
    #[param(pattern = "^[0-9a-fA-F]{32}$", nullable = false)]
    cursor: Option<String>,
}

impl PageQuery {
    fn page(self) -> Result<SessionsPage, Refusal> {
        let limit = self.limit.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            let text = format!("limit is {limit}; choose one from 1 to {PAGE_MAX}");
            return Err(Refusal::new(ErrorCode::InvalidParams, text));
        }
        let after = self.cursor.map(|cursor| cursor.parse()).transpose().map_err(|_| {
            let text = "cursor is none that this server gave out; leave it out to begin at the first session";
            Refusal::new(ErrorCode::InvalidParams, text)
        })?;
        Ok(SessionsPage { limit, after })
    }
}

/// `GET /sessions`.
#[utoipa::path(
    get,
    path = "/sessions",
    tag = "extensions",
    operation_id = "listSessions",
    summary = "List the app's sessions",
    description = "In pages, by id. A session that lives throughout is on exactly one of them.",
    params(Caller, PageQuery),
    responses(
        (status = 200, description = "A page; `cursor` leads to the next, if there is one", body = SessionList,
         example = json!({
             "sessions": [{
                 "sessionId": SESSION, "ageSeconds": 61, "connected": true, "localTracks": 2, "remoteTracks": 7
             }],
             "cursor": SESSION
         })),
        OfApp,
        OfValues
    )
)]
pub(super) async fn list(
    State(api): State<ApiState>,
    Caller(app): Caller,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Answer<SessionList> {
    let Query(query) = query.map_err(|error| Refusal::new(ErrorCode::InvalidParams, error.body_text()))?;
    Ok(Json(api.control.list_sessions(app, query.page()?).await?))
}

/// `GET /sessions/{session}`.
#[utoipa::path(
    get,
    path = "/sessions/{session}",
    tag = "sessions",
    operation_id = "getSession",
    summary = "Look at a session",
    description = "What it publishes (local) and pulls (remote).",
    params(Target),
    responses(
        (status = 200, description = "The session", body = SessionState,
         example = json!({
             "tracks": [
                 {
                     "location": "local", "mid": "0", "trackName": "mic", "status": "active",
                     "audioLevel": { "levelDbov": -31, "speaking": true }
                 },
                 { "location": "remote", "mid": "1", "trackName": "mic", "sessionId": SESSION, "status": "active" }
             ],
             "dataChannels": []
         })),
        OfSession
    )
)]
pub(super) async fn get(State(api): State<ApiState>, target: Target) -> Answer<SessionState> {
    Ok(Json(api.control.get_session(target.app, target.session).await?))
}

/// `DELETE /sessions/{session}`.
#[utoipa::path(
    delete,
    path = "/sessions/{session}",
    tag = "extensions",
    operation_id = "endSession",
    summary = "End a session",
    description = "At once, with all it publishes and pulls. Its client finds out as of a lost connection.",
    params(Target),
    responses(
        (status = 200, description = "It has ended", body = EndSessionResponse, example = json!({})),
        OfSession
    )
)]
pub(super) async fn end(State(api): State<ApiState>, target: Target) -> Answer<EndSessionResponse> {
    Ok(Json(api.control.end_session(target.app, target.session).await?))
}

/// `PUT /sessions/{session}/renegotiate`.
#[utoipa::path(
    put,
    path = "/sessions/{session}/renegotiate",
    tag = "sessions",
    operation_id = "renegotiate",
    summary = "Answer the server's offer",
    description = "Legal while an offer is out: after a request whose answer demands immediate renegotiation.",
    params(Target),
    request_body(
        content = RenegotiateRequest,
        example = json!({ "sessionDescription": { "type": "answer", "sdp": "v=0\r\n…" } })
    ),
    responses(
        (status = 200, description = "Taken", body = RenegotiateResponse, example = json!({})),
        OfSession,
        OfDescription
    )
)]
pub(super) async fn renegotiate(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<RenegotiateResponse> {
    let body: RenegotiateRequest = body::required(body, &api.limits).await?;
    Ok(Json(api.control.renegotiate(target.app, target.session, body).await?))
}
