//! The endpoints about the tracks of a session. A 200 can hold items that failed: that is control's say.

use axum::Json;
use axum::body::Body;
use axum::extract::State;

use super::auth::Target;
use super::error::Refusal;
use super::{Answer, ApiState, body};
use crate::control::request::{ErrorCode, TracksRequest, TracksResponse};

/// Tracks that one request may add, as the API promises.
const TRACKS_PER_REQUEST_MAX: usize = 64;

/// `POST /sessions/{session}/tracks/new`: push or pull.
pub(super) async fn new(State(api): State<ApiState>, target: Target, body: Body) -> Answer<TracksResponse> {
    let body: TracksRequest = body::required(body, &api.limits).await?;
    let asked = body.tracks.len();
    if asked > TRACKS_PER_REQUEST_MAX {
        let description = format!(
            "{asked} tracks in one request; split it into requests of at most {TRACKS_PER_REQUEST_MAX}"
        );
        return Err(Refusal::new(ErrorCode::InvalidParams, description));
    }
    Ok(Json(api.control.new_tracks(target.app, target.session, body).await?))
}

/// `PUT /sessions/{session}/tracks/close`. Not limited in number: a teardown closes all tracks at once.
pub(super) async fn close(State(api): State<ApiState>, target: Target, body: Body) -> Answer<TracksResponse> {
    let body = body::required(body, &api.limits).await?;
    Ok(Json(api.control.close_tracks(target.app, target.session, body).await?))
}
