//! The endpoints about the data channels of a session. A 200 can hold items that failed: that is control's
//! say.

use axum::Json;
use axum::body::Body;
use axum::extract::State;

use super::auth::Target;
use super::error::Refusal;
use super::{Answer, ApiState, body};
use crate::control::request::{DataChannelsRequest, DataChannelsResponse, ErrorCode, EstablishResponse};

/// `POST /sessions/{session}/datachannels/establish`: the section of the description, by our offer or theirs.
pub(super) async fn establish(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<EstablishResponse> {
    let body = body::required(body, &api.limits).await?;
    Ok(Json(api.control.establish_data_channels(target.app, target.session, body).await?))
}

/// `POST /sessions/{session}/datachannels/new`: publish or subscribe. As many in one request as tracks.
pub(super) async fn new(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<DataChannelsResponse> {
    let body: DataChannelsRequest = body::required(body, &api.limits).await?;
    let (asked, most) = (body.data_channels.len(), api.limits.request_tracks_max);
    if asked > most {
        let description =
            format!("{asked} data channels in one request; split it into requests of at most {most}");
        return Err(Refusal::new(ErrorCode::InvalidParams, description));
    }
    Ok(Json(api.control.new_data_channels(target.app, target.session, body).await?))
}

/// `PUT /sessions/{session}/datachannels/update`: who may reply.
pub(super) async fn update(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<DataChannelsResponse> {
    let body = body::required(body, &api.limits).await?;
    Ok(Json(api.control.update_data_channels(target.app, target.session, body).await?))
}

/// `PUT /sessions/{session}/datachannels/close`.
pub(super) async fn close(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<DataChannelsResponse> {
    let body = body::required(body, &api.limits).await?;
    Ok(Json(api.control.close_data_channels(target.app, target.session, body).await?))
}
