//! The endpoints about the tracks of a session. A 200 can hold items that failed: that is control's say.

use axum::Json;
use axum::body::Body;
use axum::extract::State;

use super::auth::Target;
use super::error::Refusal;
use super::{Answer, ApiState, body};
use crate::control::request::{ErrorCode, TracksRequest, TracksResponse};

/// `POST /sessions/{session}/tracks/new`: push or pull.
pub(super) async fn new(State(api): State<ApiState>, target: Target, body: Body) -> Answer<TracksResponse> {
    let body: TracksRequest = body::required(body, &api.limits).await?;
    let (asked, most) = (body.tracks.len(), api.limits.request_tracks_max);
    if asked > most {
        let description = format!("{asked} tracks in one request; split it into requests of at most {most}");
        return Err(Refusal::new(ErrorCode::InvalidParams, description));
    }
    Ok(Json(api.control.new_tracks(target.app, target.session, body).await?))
}

/// `PUT /sessions/{session}/tracks/update`: other encodings or another source for what is pulled.
pub(super) async fn update(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<TracksResponse> {
    let body = body::required(body, &api.limits).await?;
    Ok(Json(api.control.update_tracks(target.app, target.session, body).await?))
}

/// `PUT /sessions/{session}/tracks/close`. Not limited in number: a teardown closes all tracks at once.
pub(super) async fn close(State(api): State<ApiState>, target: Target, body: Body) -> Answer<TracksResponse> {
    let body = body::required(body, &api.limits).await?;
    Ok(Json(api.control.close_tracks(target.app, target.session, body).await?))
}
