//! The endpoints about the tracks of a session. A 200 can hold items that failed: that is control's say.

use axum::Json;
use axum::body::Body;
use axum::extract::State;

use super::auth::Target;
use super::openapi::{AUDIO_OFFER, OfBody, OfConnection, OfDescription, OfSession, SESSION};
use super::{Answer, ApiState, body};
use crate::control::request::{CloseTracksRequest, TracksRequest, TracksResponse, UpdateTracksRequest};

/// `POST /sessions/{session}/tracks/new`: push or pull.
#[utoipa::path(
    post,
    path = "/sessions/{session}/tracks/new",
    tag = "tracks",
    operation_id = "newTracks",
    summary = "Publish or pull tracks",
    description = "Local items publish m-lines of the offer in the request, or of one that the server makes; remote \
                   ones pull tracks of others, into that offer, into one that the server makes, or onto an m-line \
                   that is there. A 200 can hold items that failed.",
    params(Target),
    request_body(
        content = TracksRequest,
        examples(
            ("publish" = (value = json!({
                "sessionDescription": { "type": "offer", "sdp": AUDIO_OFFER },
                "tracks": [{ "location": "local", "mid": "0", "trackName": "mic" }]
            }))),
            ("pull" = (value = json!({
                "tracks": [{ "location": "remote", "sessionId": SESSION, "trackName": "mic" }]
            }))),
            ("pull onto an m-line" = (value = json!({
                "tracks": [{ "location": "remote", "sessionId": SESSION, "trackName": "voice", "mid": "#mic" }]
            }))),
            ("publish by the server's offer" = (value = json!({
                "tracks": [{
                    "location": "local", "trackName": "voice", "kind": "audio", "bidirectionalMediaStream": true
                }]
            })))
        )
    ),
    responses(
        (status = 200, description = "The tracks, in the order of the request", body = TracksResponse,
         examples(
            ("published" = (value = json!({
                "requiresImmediateRenegotiation": false,
                "tracks": [{ "trackName": "mic", "mid": "0" }],
                "sessionDescription": { "type": "answer", "sdp": "v=0\r\n…" }
            }))),
            ("pulled" = (value = json!({
                "requiresImmediateRenegotiation": true,
                "tracks": [{ "sessionId": SESSION, "trackName": "mic", "mid": "0" }],
                "sessionDescription": { "type": "offer", "sdp": "v=0\r\n…" }
            }))),
            ("failed" = (value = json!({
                "requiresImmediateRenegotiation": false,
                "tracks": [{
                    "sessionId": SESSION, "trackName": "mic", "mid": "", "errorCode": "not_found_track_error",
                    "errorDescription": "the publisher has no track of that name"
                }]
            })))
         )),
        OfSession,
        OfDescription,
        OfConnection
    )
)]
pub(super) async fn new(State(api): State<ApiState>, target: Target, body: Body) -> Answer<TracksResponse> {
    let body: TracksRequest = body::required(body, &api.limits).await?;
    api.limits.check_items(body.tracks.len(), "tracks")?;
    Ok(Json(api.control.new_tracks(target.app, target.session, body).await?))
}

/// `PUT /sessions/{session}/tracks/update`: other encodings or another source for what is pulled.
#[utoipa::path(
    put,
    path = "/sessions/{session}/tracks/update",
    tag = "tracks",
    operation_id = "updateTracks",
    summary = "Change what pulled tracks carry",
    description = "Another encoding of a simulcast, or another source on the same mid. A 200 can hold items that \
                   failed.",
    params(Target),
    request_body(
        content = UpdateTracksRequest,
        example = json!({
            "tracks": [{
                "location": "remote", "mid": "0", "sessionId": SESSION, "trackName": "camera",
                "simulcast": { "preferredRid": "h" }
            }]
        })
    ),
    responses(
        (status = 200, description = "The tracks, in the order of the request", body = TracksResponse,
         example = json!({
             "requiresImmediateRenegotiation": false,
             "tracks": [{ "sessionId": SESSION, "trackName": "camera", "mid": "0" }]
         })),
        OfSession,
        OfBody
    )
)]
pub(super) async fn update(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<TracksResponse> {
    let body: UpdateTracksRequest = body::required(body, &api.limits).await?;
    Ok(Json(api.control.update_tracks(target.app, target.session, body).await?))
}

/// `PUT /sessions/{session}/tracks/close`. Not limited in number: a teardown closes all tracks at once.
#[utoipa::path(
    put,
    path = "/sessions/{session}/tracks/close",
    tag = "tracks",
    operation_id = "closeTracks",
    summary = "Close tracks",
    description = "Published and pulled ones alike, by mid: by force without SDP, or with an offer that stops \
                   their m-lines. A mid that is not open is an item that failed, in a 200.",
    params(Target),
    request_body(content = CloseTracksRequest, example = json!({ "tracks": [{ "mid": "0" }], "force": true })),
    responses(
        (status = 200, description = "Closed, item by item", body = TracksResponse,
         example = json!({ "requiresImmediateRenegotiation": false, "tracks": [{ "mid": "0" }] })),
        OfSession,
        OfDescription
    )
)]
pub(super) async fn close(State(api): State<ApiState>, target: Target, body: Body) -> Answer<TracksResponse> {
    let body: CloseTracksRequest = body::required(body, &api.limits).await?;
    Ok(Json(api.control.close_tracks(target.app, target.session, body).await?))
}
