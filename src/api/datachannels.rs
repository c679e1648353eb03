//! The endpoints about the data channels of a session. A 200 can hold items that failed: that is control's
//! say.

use axum::Json;
use axum::body::Body;
use axum::extract::State;

use super::auth::Target;
use super::openapi::{OfBody, OfConnection, OfDescription, OfSession, SESSION};
use super::{Answer, ApiState, body};
use crate::control::request::{
    CloseDataChannelsRequest, DataChannelsRequest, DataChannelsResponse, EstablishRequest, EstablishResponse,
};

/// `POST /sessions/{session}/datachannels/establish`: the section of the description, by our offer or theirs.
#[utoipa::path(
    post,
    path = "/sessions/{session}/datachannels/establish",
    tag = "data channels",
    operation_id = "establishDataChannels",
    summary = "Set up data channels",
    description = "By an offer of the server, for renegotiate, or by the one in the request.",
    params(Target),
    request_body(content = EstablishRequest, example = json!({ "dataChannel": { "location": "remote", "dataChannelName": "server-events" } })),
    responses(
        (status = 200, description = "Established, or offered", body = EstablishResponse, example = json!({
             "requiresImmediateRenegotiation": true,
             "dataChannel": { "dataChannelName": "server-events", "id": 0 },
             "sessionDescription": { "type": "offer", "sdp": "v=0\r\n…" }
         })),
        OfSession,
        OfDescription,
        OfConnection
    )
)]
pub(super) async fn establish(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<EstablishResponse> {
    let body: EstablishRequest = body::required(body, &api.limits).await?;
    Ok(Json(api.control.establish_data_channels(target.app, target.session, body).await?))
}

/// `POST /sessions/{session}/datachannels/new`: publish or subscribe. As many in one request as tracks.
#[utoipa::path(
    post,
    path = "/sessions/{session}/datachannels/new",
    tag = "data channels",
    operation_id = "newDataChannels",
    summary = "Publish or subscribe to data channels",
    description = "All local or all remote. A 200 can hold items that failed.",
    params(Target),
    request_body(content = DataChannelsRequest, example = json!({ "dataChannels": [{ "location": "local", "dataChannelName": "chat" }] })),
    responses(
        (status = 200, description = "The channels, in the order of the request", body = DataChannelsResponse, example = json!({ "dataChannels": [{ "location": "local", "dataChannelName": "chat", "id": 2 }] })),
        OfSession,
        OfBody,
        OfConnection
    )
)]
pub(super) async fn new(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<DataChannelsResponse> {
    let body: DataChannelsRequest = body::required(body, &api.limits).await?;
    api.limits.check_items(body.data_channels.len(), "data channels")?;
    Ok(Json(api.control.new_data_channels(target.app, target.session, body).await?))
}

/// `PUT /sessions/{session}/datachannels/update`: who may reply.
#[utoipa::path(
    put,
    path = "/sessions/{session}/datachannels/update",
    tag = "data channels",
    operation_id = "updateDataChannels",
    summary = "Give or take the right to reply",
    description = "Of a subscription; the last that was given it has it.",
    params(Target),
    request_body(content = DataChannelsRequest, example = json!({
        "dataChannels": [{ "location": "remote", "sessionId": SESSION, "dataChannelName": "chat", "canReply": true }]
    })),
    responses(
        (status = 200, description = "The channels, in the order of the request", body = DataChannelsResponse, example = json!({
             "dataChannels": [{
                 "location": "remote", "sessionId": SESSION, "dataChannelName": "chat", "id": 2, "canReply": true
             }]
         })),
        OfSession,
        OfBody
    )
)]
pub(super) async fn update(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<DataChannelsResponse> {
    let body: DataChannelsRequest = body::required(body, &api.limits).await?;
    Ok(Json(api.control.update_data_channels(target.app, target.session, body).await?))
}

/// `PUT /sessions/{session}/datachannels/close`.
#[utoipa::path(
    put,
    path = "/sessions/{session}/datachannels/close",
    tag = "data channels",
    operation_id = "closeDataChannels",
    summary = "Close data channels",
    description = "By id; an id that is not there is an item that failed, in a 200.",
    params(Target),
    request_body(content = CloseDataChannelsRequest, example = json!({ "dataChannels": [{ "id": 2 }] })),
    responses(
        (status = 200, description = "Closed, item by item", body = DataChannelsResponse, example = json!({ "dataChannels": [{ "id": 2 }] })),
        OfSession,
        OfBody
    )
)]
pub(super) async fn close(
    State(api): State<ApiState>,
    target: Target,
    body: Body,
) -> Answer<DataChannelsResponse> {
    let body: CloseDataChannelsRequest = body::required(body, &api.limits).await?;
    Ok(Json(api.control.close_data_channels(target.app, target.session, body).await?))
}
