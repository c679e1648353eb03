//! The endpoints about a session as a whole. What they mean is decided by control; here they are read
//! and written.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;

use super::auth::{Caller, Target};
use super::error::Refusal;
use super::{Answer, ApiState, body};
use crate::control::request::{NewSessionResponse, RenegotiateResponse, SessionState};

/// `POST /sessions/new`: 201, the one answer that is not 200. An empty body is the usual one.
pub(super) async fn new(
    State(api): State<ApiState>,
    Caller(app): Caller,
    body: Body,
) -> Result<(StatusCode, Json<NewSessionResponse>), Refusal> {
    let body = body::optional(body, &api.limits).await?;
    Ok((StatusCode::CREATED, Json(api.control.new_session(app, body).await?)))
}

/// `GET /sessions/{session}`.
pub(super) async fn get(State(api): State<ApiState>, target: Target) -> Answer<SessionState> {
    Ok(Json(api.control.get_session(target.app, target.session).await?))
}

/// `PUT /sessions/{session}/renegotiate`.
pub(super) async fn renegotiate(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<RenegotiateResponse> {
    let body = body::required(body, &api.limits).await?;
    Ok(Json(api.control.renegotiate(target.app, target.session, body).await?))
}
