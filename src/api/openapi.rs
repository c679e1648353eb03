//! `/openapi.json`: the API as an OpenAPI 3.1 document, made from the code that serves it.
//!
//! Schemas come from the structs of [`control::request`](crate::control::request), an operation from the
//! `#[utoipa::path]` above its handler, a refusal from the very [`Refusal`] that would be sent. A new endpoint
//! is annotated like its neighbours (parameters [`Caller`] or [`Target`], its own answers, the sets of refusals
//! below that can happen to it) and listed in [`Verbs`], beside its line in the router.
//! Not described: the second prefix `/apps`, and refusals that belong to no operation (no such path, 405).

use std::collections::BTreeMap;

use axum::Json;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::json;
use utoipa::openapi::example::Example;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Header, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema, Type,
};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi};

use super::auth::{Caller, Target};
use super::error::Refusal;
use super::{datachannels, metrics, sessions, tracks};
use crate::control::request::{ErrorCode, RequestError};

/// The whole document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Fanline",
        description = "Sessions and tracks of a selective forwarding unit: the HTTP API of Cloudflare Realtime, \
                       self-hosted. A session is one WebRTC peer connection; a track is one audio or video \
                       stream, named by its publisher's session and a name. Each path is served without the \
                       prefix /v1 as well. Unknown fields and query parameters are ignored.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    servers((url = "/", description = "This server")),
    nest((path = "/v1/apps/{app}", api = Verbs)),
    paths(super::healthz, metrics::page, document),
    components(schemas(RequestError)),
    tags(
        (name = "sessions", description = "A session: made, described, negotiated, ended"),
        (name = "tracks", description = "What a session publishes and pulls"),
        (name = "extensions", description = "Beyond the original API"),
        (name = "operation", description = "For whoever runs the server; keep these from strangers")
    ),
    security(("secret" = [])),
    modifiers(&Finish)
)]
pub struct Document;

/// The endpoints below an app, in the order of the router.
#[derive(OpenApi)]
#[openapi(paths(
    sessions::new,
    sessions::list,
    sessions::get,
    sessions::end,
    sessions::renegotiate,
    tracks::new,
    tracks::update,
    tracks::close,
    datachannels::establish,
    datachannels::new,
    datachannels::update,
    datachannels::close,
))]
struct Verbs;

/// What no annotation can say.
struct Finish;

impl Modify for Finish {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let Some(components) = &mut document.components else { return };
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The app's secret"));
        components.add_security_scheme("secret", SecurityScheme::Http(bearer.build()));
        // Two codes have the same text under two statuses.
        if let Some(RefOr::T(Schema::Object(codes))) = components.schemas.get_mut("ErrorCode")
            && let Some(texts) = &mut codes.enum_values
        {
            texts.dedup();
        }
    }
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operation",
    security(()),
    responses((status = 200, description = "An OpenAPI 3.1 document", body = Object))
)]
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

/// A description with one data channel section, which any peer connection can send and the server answers.
pub(super) const OFFER: &str = "v=0\r\n\
    o=- 4611731400430051336 2 IN IP4 127.0.0.1\r\n\
    s=-\r\n\
    t=0 0\r\n\
    a=group:BUNDLE 0\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
    c=IN IP4 0.0.0.0\r\n\
    a=ice-ufrag:F7gI\r\n\
    a=ice-pwd:x9cml/YzichV2+XlhiMu8g\r\n\
    a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F\r\n\
    a=setup:actpass\r\n\
    a=mid:0\r\n\
    a=sctp-port:5000\r\n";

/// A description with one audio section that sends Opus.
pub(super) const AUDIO_OFFER: &str = "v=0\r\n\
    o=- 4611731400430051336 2 IN IP4 127.0.0.1\r\n\
    s=-\r\n\
    t=0 0\r\n\
    a=group:BUNDLE 0\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
    c=IN IP4 0.0.0.0\r\n\
    a=ice-ufrag:F7gI\r\n\
    a=ice-pwd:x9cml/YzichV2+XlhiMu8g\r\n\
    a=fingerprint:sha-256 D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F\r\n\
    a=setup:actpass\r\n\
    a=mid:0\r\n\
    a=sendonly\r\n\
    a=rtcp-mux\r\n\
    a=rtpmap:111 opus/48000/2\r\n\
    a=fmtp:111 minptime=10;useinbandfec=1\r\n\
    a=ssrc:1001 cname:example\r\n";

/// A session id as examples show it.
pub(super) const SESSION: &str = "4f1c2a9b7d3e4856a0b1c2d3e4f50617";

impl IntoParams for Caller {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![path_parameter("app", "The id of the app", ObjectBuilder::new().schema_type(Type::String))]
    }
}

impl IntoParams for Target {
    fn into_params(of: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9a-fA-F]{32}$"));
        let mut parameters = Caller::into_params(of);
        parameters.push(path_parameter("session", "The id that sessions/new gave out", id));
        parameters
    }
}

fn path_parameter(name: &str, description: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// What any endpoint of an app can refuse with.
pub(super) struct OfApp;

impl IntoResponses for OfApp {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        describe([
            Refusal::new(ErrorCode::Unauthorized, "the bearer token is not the secret of this app"),
            Refusal::new(ErrorCode::NotFound, "no such app; is the app id in the URL right?"),
            Refusal::new(ErrorCode::TemporarilyUnavailable, "the server is shutting down; retry elsewhere"),
        ])
    }
}

/// What any endpoint of a session can refuse with.
pub(super) struct OfSession;

impl IntoResponses for OfSession {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = OfApp::responses();
        responses.extend(describe([
            Refusal::new(ErrorCode::SessionGone, "the session is unknown, expired or disconnected"),
            Refusal::too_many_requests(
                "more than 50 requests per second about this session; retry in a second",
            ),
        ]));
        responses
    }
}

/// A value of the request that makes no sense.
pub(super) struct OfValues;

impl IntoResponses for OfValues {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        describe([Refusal::new(ErrorCode::InvalidParams, "a value or a combination that cannot be")])
    }
}

/// What any endpoint with a body can refuse with.
pub(super) struct OfBody;

impl IntoResponses for OfBody {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = OfValues::responses();
        responses.extend(describe([
            Refusal::new(ErrorCode::DecodingError, "tracks[0]: missing field `location`"),
            Refusal::body_timed_out("the body did not arrive within 10000 ms; retry"),
            Refusal::new(ErrorCode::PayloadTooLarge, "the body is larger than this server accepts"),
        ]));
        responses
    }
}

/// What any endpoint whose body may hold SDP can refuse with.
pub(super) struct OfDescription;

impl IntoResponses for OfDescription {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = OfBody::responses();
        responses.extend(describe([
            Refusal::new(ErrorCode::InvalidParams, "a value or a combination that cannot be"),
            Refusal::new(ErrorCode::InvalidSessionDescription, "the description has no live m-line"),
            Refusal::new(ErrorCode::InternalError, "DTLS could not start"),
        ]));
        responses
    }
}

/// What an endpoint that needs the session's transport can refuse with.
pub(super) struct OfConnection;

impl IntoResponses for OfConnection {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        describe([Refusal::new(ErrorCode::SessionNotConnected, "the session has not connected within 5 s")])
    }
}

/// The responses that these refusals make, by status; several of one status are its examples.
fn describe<const N: usize>(refusals: [Refusal; N]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Refusal>> = BTreeMap::new();
    for refusal in refusals {
        by_status.entry(refusal.status().as_u16()).or_default().push(refusal);
    }
    by_status.into_iter().map(|(status, refusals)| (status.to_string(), response(refusals).into())).collect()
}

fn response(refusals: Vec<Refusal>) -> Response {
    let reasons: Vec<_> = refusals.iter().map(|refusal| refusal.error().error_description.as_str()).collect();
    let mut response = ResponseBuilder::new().description(reasons.join("; or "));
    let mut content = ContentBuilder::new().schema(Some(Ref::from_schema_name("RequestError")));
    for refusal in refusals {
        let value = json!(refusal.error());
        let name = value["errorCode"].as_str().unwrap_or_default().to_owned();
        let mut example = Example::new();
        example.value = Some(value);
        content = content.examples_from_iter([(name, example)]);
        for header in refusal.into_response().headers().keys().filter(|name| **name != CONTENT_TYPE) {
            response = response.header(header.as_str(), Header::default());
        }
    }
    response.content("application/json", content.build()).build()
}
