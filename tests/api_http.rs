//! The HTTP contract, over a real socket, against a control that only pretends.
//!
//! What is claimed here is everything that HTTP adds to the verbs: who may ask, what is refused before
//! control hears of it, and the shape of every answer. What the verbs mean is tested with the real control.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic, helpers included")]

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanline::api::{ApiState, Apps, Limits, router, serve};
use fanline::control::request::{
    Census, ControlHandle, DataChannelsResponse, EndSessionResponse, ErrorCode, EstablishResponse,
    EstablishedChannel, Location, NewSessionResponse, RenegotiateResponse, Request, RequestError, SdpType,
    SessionDescription, SessionList, SessionState, Status, TrackObject, TrackResult, TrackState,
    TracksResponse,
};
use fanline::drop_reason::DropReason;
use fanline::id::{SessionId, ShardId};
use fanline::stats::{ShardSnapshot, Snapshots};
use proptest::prelude::*;
use reqwest::header::{ALLOW, CONTENT_TYPE, ORIGIN, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

const LIVE: &str = "00000000000000000000000000000001";
const HOLDING: &str = "00000000000000000000000000000002";

/// Every code, its JSON name, and the status it must travel under.
const CODES: [(ErrorCode, &str, u16); 14] = [
    (ErrorCode::Unauthorized, "unauthorized", 401),
    (ErrorCode::NotFound, "not_found", 404),
    (ErrorCode::DecodingError, "decoding_error", 400),
    (ErrorCode::InvalidParams, "invalid_params", 406),
    (ErrorCode::PayloadTooLarge, "payload_too_large", 413),
    (ErrorCode::SessionNotConnected, "session_error", 425),
    (ErrorCode::SessionGone, "session_error", 410),
    (ErrorCode::InvalidSessionDescription, "invalid_session_description", 406),
    (ErrorCode::NotFoundTrackError, "not_found_track_error", 404),
    (ErrorCode::EmptyTrackError, "empty_track_error", 404),
    (ErrorCode::CloseTrackError, "close_track_error", 404),
    (ErrorCode::RepeatedLocalTrackError, "repeated_local_track_error", 409),
    (ErrorCode::TemporarilyUnavailable, "temporarily_unavailable_error", 503),
    (ErrorCode::InternalError, "internal_error", 500),
];

/// The session whose every request fails with the code at `index` of [`CODES`].
fn failing(index: usize) -> String {
    format!("ee{:030x}", index)
}

/// [`LIVE`] lives, [`HOLDING`] answers after 300 ms, [`failing`] fails as asked, all others are gone.
fn fate_of(session: SessionId) -> Result<(), RequestError> {
    let index = usize::from(session.0[15]);
    match session.to_string().as_str() {
        LIVE | HOLDING => Ok(()),
        id if id.starts_with("ee") => Err(RequestError::new(CODES[index].0, "as asked")),
        _ => Err(RequestError::new(ErrorCode::SessionGone, "no such session")),
    }
}

async fn pretend_control(mut requests: mpsc::Receiver<Request>) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::NewSession { body, reply, .. } => {
                let session_description = body
                    .session_description
                    .map(|offer| SessionDescription { kind: SdpType::Answer, sdp: offer.sdp });
                let _ = reply.send(Ok(NewSessionResponse { session_id: LIVE.into(), session_description }));
            }
            Request::GetSession { session, reply, .. } => {
                if session.to_string() == HOLDING {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                let _ = reply.send(fate_of(session).map(|()| state()));
            }
            Request::ListSessions { reply, .. } => {
                let _ = reply.send(Ok(SessionList { sessions: vec![], cursor: None }));
            }
            Request::EndSession { session, reply, .. } => {
                let _ = reply.send(fate_of(session).map(|()| EndSessionResponse {}));
            }
            Request::NewTracks { session, body, reply, .. } => {
                let _ = reply.send(fate_of(session).map(|()| echoed(body.tracks)));
            }
            Request::Renegotiate { session, reply, .. } => {
                let _ = reply.send(fate_of(session).map(|()| RenegotiateResponse {}));
            }
            Request::CloseTracks { session, body, reply, .. } => {
                let closed = body
                    .tracks
                    .into_iter()
                    .map(|t| TrackResult { mid: Some(t.mid), ..TrackResult::default() });
                let _ = reply.send(fate_of(session).map(|()| tracks_response(closed.collect())));
            }
            Request::UpdateTracks { session, body, reply, .. } => {
                let _ = reply.send(fate_of(session).map(|()| echoed(body.tracks)));
            }
            Request::EstablishDataChannels { session, reply, .. } => {
                let established = EstablishResponse {
                    requires_immediate_renegotiation: false,
                    data_channel: EstablishedChannel { data_channel_name: "server-events".into(), id: 0 },
                    session_description: None,
                };
                let _ = reply.send(fate_of(session).map(|()| established));
            }
            Request::NewDataChannels { session, reply, .. }
            | Request::UpdateDataChannels { session, reply, .. }
            | Request::CloseDataChannels { session, reply, .. } => {
                let none = DataChannelsResponse { data_channels: vec![] };
                let _ = reply.send(fate_of(session).map(|()| none));
            }
            Request::Census { reply } => {
                let _ = reply.send(Census {
                    sessions: 3,
                    sessions_connected: 2,
                    tracks: 5,
                    subscriptions: 7,
                    transport_media_dropped: 0,
                    data_channels: 11,
                });
            }
        }
    }
}

/// The tracks of a request as if each had succeeded.
fn echoed(tracks: Vec<TrackObject>) -> TracksResponse {
    let echo = |track: TrackObject| TrackResult {
        track_name: track.track_name,
        mid: track.mid,
        ..TrackResult::default()
    };
    tracks_response(tracks.into_iter().map(echo).collect())
}

fn state() -> SessionState {
    let track = TrackState {
        location: Location::Local,
        mid: "0".into(),
        track_name: "mic".into(),
        session_id: None,
        status: Status::Active,
        audio_level: None,
    };
    SessionState { tracks: vec![track], data_channels: vec![], available_bitrate_bps: None }
}

fn tracks_response(tracks: Vec<TrackResult>) -> TracksResponse {
    TracksResponse { requires_immediate_renegotiation: false, tracks, session_description: None }
}

struct Server {
    address: String,
    http: reqwest::Client,
    apps: watch::Sender<Arc<Apps>>,
    stopping: watch::Sender<bool>,
    snapshots: Arc<Snapshots>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
    control: JoinHandle<()>,
}

fn apps(app: &str, secret: &str) -> Arc<Apps> {
    Arc::new([(app.to_owned(), secret.to_owned())].into_iter().collect())
}

impl Server {
    async fn start() -> Self {
        Self::with(Limits { session_requests_per_second: 100_000, ..Limits::default() }).await
    }

    async fn with(limits: Limits) -> Self {
        let (requests, inbox) = mpsc::channel(16);
        let control = tokio::spawn(pretend_control(inbox));
        let (apps, apps_seen) = watch::channel(apps("demo", "s3cret"));
        let (stopping, stopping_seen) = watch::channel(false);
        let snapshots = Arc::new(Snapshots::new(2));
        let state =
            ApiState::new(ControlHandle::new(requests), apps_seen, snapshots.clone(), stopping_seen, limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listener, router(state), async move {
            let _ = stopped.await;
        }));
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { address, http, apps, stopping, snapshots, stop, served, control }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address)).bearer_auth("s3cret")
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::POST, path).body(body).send().await.unwrap()
    }

    async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::PUT, path).body(body).send().await.unwrap()
    }

    /// Writes `bytes` as they are and reads until the server closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

/// The status and the JSON of an answer, which must be JSON, never hold null, and never be cached as
/// another origin's.
async fn json_of(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json", "status {status}");
    assert_eq!(response.headers()["access-control-allow-origin"], "*", "status {status}");
    assert_eq!(response.headers()[VARY], "origin");
    let body = response.json().await.unwrap();
    assert!(!holds_null(&body), "{body}");
    (status, body)
}

fn holds_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(holds_null),
        Value::Object(fields) => fields.values().any(holds_null),
        _ => false,
    }
}

async fn refusal_of(response: Response) -> (u16, String, String) {
    let (status, body) = json_of(response).await;
    let text = |key: &str| body[key].as_str().unwrap().to_owned();
    let (code, description) = (text("errorCode"), text("errorDescription"));
    assert!(!description.is_empty());
    (status, code, description)
}

fn session(path: &str) -> String {
    format!("/v1/apps/demo/sessions/{LIVE}{path}")
}

const PULL: &str = r#"{"tracks":[{"location":"local","mid":"0","trackName":"mic"}]}"#;
const ANSWER: &str = r#"{"sessionDescription":{"type":"answer","sdp":"v=0"}}"#;

#[tokio::test]
async fn every_endpoint_answers_under_both_prefixes() {
    let server = Server::start().await;
    for prefix in ["/v1/apps/demo", "/apps/demo"] {
        let of = |path: &str| format!("{prefix}/sessions/{LIVE}{path}");
        let created = json_of(server.post(&format!("{prefix}/sessions/new"), "").await).await;
        assert_eq!(created, (201, json!({ "sessionId": LIVE })));
        let pulled = json_of(server.post(&of("/tracks/new"), PULL).await).await;
        let tracks = json!([{ "trackName": "mic", "mid": "0" }]);
        assert_eq!(pulled, (200, json!({ "requiresImmediateRenegotiation": false, "tracks": tracks })));
        assert_eq!(json_of(server.put(&of("/renegotiate"), ANSWER).await).await, (200, json!({})));
        let close = r#"{"tracks":[{"mid":"0"}],"force":true}"#;
        let closed = json_of(server.put(&of("/tracks/close"), close).await).await;
        let tracks = json!([{ "mid": "0" }]);
        assert_eq!(closed, (200, json!({ "requiresImmediateRenegotiation": false, "tracks": tracks })));
        let (status, got) = json_of(server.get(&of("")).await).await;
        assert_eq!(
            (status, &got["tracks"][0]["status"], &got["dataChannels"]),
            (200, &json!("active"), &json!([]))
        );
    }
}

#[tokio::test]
async fn a_new_session_needs_no_body_and_no_content_type() {
    let server = Server::start().await;
    for body in ["", " \r\n", "{}", r#"{"sessionDescription":null,"unheardOf":[1]}"#] {
        let (status, created) = json_of(server.post("/apps/demo/sessions/new", body).await).await;
        assert_eq!((status, created), (201, json!({ "sessionId": LIVE })), "{body:?}");
    }
    let offer = r#"{"sessionDescription":{"type":"offer","sdp":"v=0"}}"#;
    for content_type in ["text/plain;charset=UTF-8", "application/json", "image/png"] {
        let request =
            server.request(Method::POST, "/apps/demo/sessions/new").header(CONTENT_TYPE, content_type);
        let (status, created) = json_of(request.body(offer).send().await.unwrap()).await;
        assert_eq!((status, &created["sessionDescription"]["type"]), (201, &json!("answer")));
    }
}

#[tokio::test]
async fn query_strings_do_not_matter() {
    let server = Server::start().await;
    for query in ["?", "?streamDebug", "?correlationId=m1&userId=%zz&x", "?correlationId="] {
        assert_eq!(server.get(&session(query)).await.status(), 200, "{query}");
    }
}

#[tokio::test]
async fn only_the_secret_of_the_app_opens_it() {
    let server = Server::start().await;
    let path = format!("http://{}{}", server.address, session(""));
    for authorization in ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer s3cre", "Basic s3cret"] {
        let request = server.http.get(&path).header("authorization", authorization);
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        let (status, code, _) = refusal_of(response).await;
        assert_eq!((status, code.as_str()), (401, "unauthorized"), "{authorization:?}");
    }
    let bare = server.http.get(&path).send().await.unwrap();
    assert_eq!(refusal_of(bare).await.0, 401);
    let lower_case = server.http.get(&path).header("authorization", "bearer s3cret");
    assert_eq!(lower_case.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_unknown_app_is_not_found() {
    let server = Server::start().await;
    for path in ["/v1/apps/other/sessions/new", "/apps/%20/sessions/new", "/apps/%ff/sessions/new"] {
        let (status, code, _) = refusal_of(server.post(path, "").await).await;
        assert_eq!((status, code.as_str()), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn a_changed_secret_rules_from_the_next_request() {
    let server = Server::start().await;
    server.apps.send(apps("demo", "rotated")).unwrap();
    assert_eq!(server.get(&session("")).await.status(), 401);
    server.apps.send(apps("demo", "s3cret")).unwrap();
    assert_eq!(server.get(&session("")).await.status(), 200);
}

#[tokio::test]
async fn a_decoding_error_names_the_place_and_the_field() {
    let server = Server::start().await;
    let cases: [(&[u8], &str); 8] = [
        (b"", "line 1 column 0"),
        (b"{", "line 1 column 1"),
        (b"[1,2", "line 1 column"),
        (b"{}\n x", "line 2 column 2"),
        (br#"{"tracks":[{"mid":"0"}]}"#, "tracks[0]: missing field `location`"),
        (br#"{"tracks":[{"location":"local"},{"location":5}]}"#, "tracks[1].location"),
        (br#"{"sessionDescription":{"type":"offer"}}"#, "missing field `sdp`"),
        (b"{\"tracks\":[{\"location\":\"local\",\"mid\":\"\xff\"}]}", "line 1 column"),
    ];
    for (body, named) in cases {
        let (status, code, description) = refusal_of(server.post(&session("/tracks/new"), body).await).await;
        assert_eq!((status, code.as_str()), (400, "decoding_error"), "{description}");
        assert!(description.contains(named), "{description:?} does not name {named:?}");
    }
}

#[tokio::test]
async fn a_decoding_error_does_not_quote_a_long_body() {
    let server = Server::start().await;
    let body = format!(r#"{{"tracks":[{{"location":"{}"}}]}}"#, "x".repeat(10_000));
    let (_, _, description) = refusal_of(server.post(&session("/tracks/new"), body).await).await;
    assert!(description.len() < 400);
}

#[tokio::test]
async fn sixty_four_tracks_are_accepted_and_one_more_is_not() {
    let server = Server::start().await;
    let body = |n| json!({ "tracks": vec![json!({ "location": "local", "mid": "0" }); n] }).to_string();
    assert_eq!(server.post(&session("/tracks/new"), body(64)).await.status(), 200);
    let (status, code, description) = refusal_of(server.post(&session("/tracks/new"), body(65)).await).await;
    assert_eq!((status, code.as_str()), (406, "invalid_params"));
    assert!(description.contains("65") && description.contains("64"), "{description}");
    let teardown = json!({ "force": true, "tracks": vec![json!({ "mid": "0" }); 200] }).to_string();
    assert_eq!(server.put(&session("/tracks/close"), teardown).await.status(), 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whatever_it_announces() {
    let server = Server::with(Limits { body_bytes_max: 1_000, ..Limits::default() }).await;
    let padded = |n: usize| format!("{PULL}{}", " ".repeat(n - PULL.len()));
    assert_eq!(server.post(&session("/tracks/new"), padded(1_000)).await.status(), 200);
    for n in [1_001, 5_000] {
        let refused = refusal_of(server.post(&session("/tracks/new"), padded(n)).await).await;
        assert_eq!((refused.0, refused.1.as_str()), (413, "payload_too_large"));
    }
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\nConnection: close\r\n",
        session("/tracks/new")
    );
    let announced = server.raw(format!("{head}Content-Length: 99999999999\r\n\r\n").as_bytes()).await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    let chunk = format!("258\r\n{}\r\n", "y".repeat(600));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    let answer = server.raw(chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("payload_too_large"), "{answer}");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let limits = Limits { body_read_timeout: Duration::from_millis(100), ..Limits::default() };
    let server = Server::with(limits).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\nContent-Length: 50\r\n\r\n{{",
        session("/tracks/new")
    );
    let answer = server.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("temporarily_unavailable_error") && answer.contains("application/json"));
}

#[tokio::test]
async fn a_session_that_cannot_exist_is_gone_at_once() {
    let server = Server::start().await;
    let too_long = "ab".repeat(17);
    for id in ["x", "deadbeef", "0000000000000000000000000000000g", "%00", too_long.as_str(), &"0".repeat(32)]
    {
        let path = format!("/v1/apps/demo/sessions/{id}");
        let (status, code, _) = refusal_of(server.get(&path).await).await;
        assert_eq!((status, code.as_str()), (410, "session_error"), "{id}");
        let tracks = server.post(&format!("{path}/tracks/new"), PULL).await;
        assert_eq!(refusal_of(tracks).await.0, 410, "{id}");
    }
}

#[tokio::test]
async fn one_session_cannot_be_asked_without_end() {
    let server = Server::with(Limits { session_requests_per_second: 5, ..Limits::default() }).await;
    let mut refused = Vec::new();
    for _ in 0..30 {
        let response = server.get(&session("")).await;
        if response.status() != StatusCode::OK {
            refused.push(response);
        }
    }
    assert!(refused.len() > 10, "{} of 30 were refused", refused.len());
    let last = refused.pop().unwrap();
    assert_eq!(last.headers()[RETRY_AFTER], "1");
    let (status, code, _) = refusal_of(last).await;
    assert_eq!((status, code.as_str()), (429, "temporarily_unavailable_error"));
    let other = server.get(&format!("/apps/demo/sessions/{}", failing(1))).await;
    assert_eq!(other.status(), 404, "another session is not affected");
    assert_eq!(server.post("/apps/demo/sessions/new", "").await.status(), 201);
}

#[tokio::test]
async fn every_error_code_has_its_status() {
    let server = Server::start().await;
    for (index, (_, name, expected)) in CODES.into_iter().enumerate() {
        let response = server.get(&format!("/apps/demo/sessions/{}", failing(index))).await;
        let (status, code, description) = refusal_of(response).await;
        assert_eq!((status, code.as_str(), description.as_str()), (expected, name, "as asked"));
    }
}

#[tokio::test]
async fn a_wrong_method_says_which_one_is_right() {
    let server = Server::start().await;
    let cases = [
        (Method::PUT, session(""), "GET,HEAD,DELETE"),
        (Method::POST, session(""), "GET,HEAD,DELETE"),
        (Method::GET, "/v1/apps/demo/sessions/new".into(), "POST"),
        (Method::GET, session("/renegotiate"), "PUT"),
        (Method::PATCH, session("/tracks/new"), "POST"),
        (Method::POST, session("/tracks/close"), "PUT"),
        (Method::POST, "/healthz".into(), "GET,HEAD"),
    ];
    for (method, path, allowed) in cases {
        let response = server.request(method.clone(), &path).send().await.unwrap();
        assert_eq!(response.headers()[ALLOW], allowed, "{method} {path}");
        let (status, code, _) = refusal_of(response).await;
        assert_eq!((status, code.as_str()), (405, "not_found"), "{method} {path}");
    }
}

#[tokio::test]
async fn an_unknown_path_is_not_found_in_json_and_never_a_redirect() {
    let server = Server::start().await;
    let paths = ["/", "/v1", "/v2/apps/demo/sessions/new", "/apps/demo/sessions/new/", "//apps/demo"];
    for path in paths.into_iter().map(str::to_owned).chain([session("/tracks"), session("/")]) {
        let (status, code, _) = refusal_of(server.get(&path).await).await;
        assert_eq!((status, code.as_str()), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn head_answers_like_get_without_a_body() {
    let server = Server::start().await;
    let head = server.request(Method::HEAD, &session("")).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.text().await.unwrap()), (200, String::new()));
    let missing = server.request(Method::HEAD, "/nowhere").send().await.unwrap();
    assert_eq!((missing.status().as_u16(), missing.text().await.unwrap()), (404, String::new()));
}

#[tokio::test]
async fn a_preflight_permits_what_clients_send_without_the_secret() {
    let server = Server::start().await;
    for method in ["POST", "PUT"] {
        let url = format!("http://{}{}", server.address, session("/tracks/new"));
        let preflight = server.http.request(Method::OPTIONS, url).header(ORIGIN, "null");
        let preflight = preflight
            .header("access-control-request-method", method)
            .header("access-control-request-headers", "authorization,content-type");
        let response = preflight.send().await.unwrap();
        assert!(response.status().is_success());
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_lowercase();
        assert_eq!(header("access-control-allow-origin"), "*");
        assert_eq!(header("access-control-allow-methods"), "get,post,put,delete,options");
        assert_eq!(header("access-control-allow-headers"), "authorization,content-type");
        assert_eq!(header("access-control-max-age"), "7200");
        assert_eq!(header("vary"), "origin");
    }
}

#[tokio::test]
async fn health_turns_bad_when_the_server_stops_and_when_control_is_gone() {
    let server = Server::start().await;
    assert_eq!(json_of(server.get("/healthz").await).await, (200, json!({ "status": "ok" })));
    server.stopping.send(true).unwrap();
    assert_eq!(json_of(server.get("/healthz").await).await, (503, json!({ "status": "stopping" })));
    server.stopping.send(false).unwrap();
    server.control.abort();
    assert_eq!(json_of(server.get("/healthz").await).await, (503, json!({ "status": "unavailable" })));
    let orphan = server.get(&session("")).await;
    assert_eq!(orphan.headers()[RETRY_AFTER], "1");
    let (status, code, _) = refusal_of(orphan).await;
    assert_eq!((status, code.as_str()), (503, "temporarily_unavailable_error"));
    assert!(server.get("/metrics").await.status().is_success(), "numbers outlive control");
}

#[tokio::test]
async fn metrics_show_shards_control_and_http() {
    let server = Server::start().await;
    let mut shard =
        ShardSnapshot { rtp_packets_sent: 1_234, legs: 9, busy_us: 35, ..ShardSnapshot::new(ShardId(1)) };
    shard.drops.count_many(DropReason::NoKeys, 6);
    shard.turn_us.observe(20);
    shard.turn_us.observe(15);
    server.snapshots.store(shard);
    server.get(&session("?secret=1")).await;
    server.get("/made/up").await;
    let response = server.get("/metrics").await;
    assert!(response.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = response.text().await.unwrap();
    for line in [
        r#"fanline_rtp_packets_sent_total{shard="1"} 1234"#,
        r#"fanline_rtp_packets_received_total{shard="0"} 0"#,
        r#"fanline_drops_total{shard="1",reason="no_keys"} 6"#,
        r#"fanline_legs{shard="1"} 9"#,
        "fanline_sessions 3",
        "fanline_sessions_connected 2",
        "fanline_tracks 5",
        "fanline_subscriptions 7",
        r#"fanline_turn_duration_seconds_bucket{le="0.00001",shard="1"} 0"#,
        r#"fanline_turn_duration_seconds_bucket{le="0.000025",shard="1"} 2"#,
        r#"fanline_turn_duration_seconds_bucket{le="+Inf",shard="1"} 2"#,
        r#"fanline_turn_duration_seconds_sum{shard="1"} 0.000035"#,
        r#"fanline_turn_duration_seconds_count{shard="1"} 2"#,
        r#"fanline_http_requests_total{endpoint="/sessions/{session}",status="200"} 1"#,
        r#"fanline_http_requests_total{endpoint="unknown",status="404"} 1"#,
        r#"fanline_http_request_duration_seconds_count{endpoint="/sessions/{session}"} 1"#,
        concat!("fanline_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line} in:\n{text}");
    }
    for family in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} is not explained");
    }
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_server_stops() {
    let server = Server::start().await;
    let held = server.request(Method::GET, &format!("/apps/demo/sessions/{HOLDING}")).send();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.stop.send(()).unwrap();
    };
    let (held, ()) = tokio::join!(held, stop);
    assert_eq!(held.unwrap().status(), 200);
    within(5, server.served).await.unwrap().unwrap();
    assert!(TcpStream::connect(&server.address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn a_request_head_that_never_ends_is_cut_off() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    tokio::time::pause();
    for _ in 0..8 {
        let _ = stream.write_all(b"a").await;
        tokio::time::advance(Duration::from_secs(10)).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    let mut answer = Vec::new();
    let _ = within(5, stream.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "closed without a word");
}

#[tokio::test]
async fn a_stuck_connection_does_not_keep_the_server_from_stopping() {
    let server = Server::start().await;
    let mut stuck = TcpStream::connect(&server.address).await.unwrap();
    stuck.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    tokio::time::pause();
    server.stop.send(()).unwrap();
    within(11, server.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_access_log_names_the_correlation_id_and_no_other_part_of_the_query() {
    let log = Log::default();
    let to_log = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || to_log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Server::start().await;
    // Tests beside this one may register the log line's callsite just as our subscriber comes, and leave it
    // switched off: let it be registered, then have it looked at again.
    server.get("/healthz").await;
    tracing::callsite::rebuild_interest_cache();
    log.0.lock().unwrap().clear();
    server.get(&session("?token=hidden&correlationId=meeting-7")).await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = log.lines().find(|line| line.contains("fanline::api")).unwrap();
    for part in [r#"correlation_id="meeting-7""#, "method=GET", &session(""), "status=200", "duration_us="] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(!line.contains("hidden") && !line.contains("s3cret"), "{line}");
}

/// What was logged, in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn hostile_request_lines_do_not_stop_the_server() {
    let server = Server::start().await;
    for line in
        ["CONNECT a:1 HTTP/1.1", "OPTIONS * HTTP/1.1", "GET http://x/ HTTP/1.1", "\u{0}\u{0}", "GET / HTTP/3"]
    {
        server.raw(format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await;
    }
    assert_eq!(server.get("/healthz").await.status(), 200);
}

/// A deadline in real time, so that a hung server fails its test and not the whole run.
async fn within<F: Future>(seconds: u64, what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(seconds), what).await.expect("took too long")
}

/// JSON that is close to what the API expects, and JSON that is not.
fn near_json() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-1e999".to_owned()),
        Just(r#""local""#.to_owned()),
        Just(r#""\ud800""#.to_owned()),
        Just(r#"{"type":"offer","sdp":"v=0"}"#.to_owned()),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
    ];
    let key = prop_oneof![
        Just("tracks"),
        Just("sessionDescription"),
        Just("location"),
        Just("mid"),
        Just("autoDiscover"),
        Just("force"),
    ];
    value.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

#[test]
fn no_body_whatsoever_is_an_internal_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start());
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    let body = prop_oneof![near_json().prop_map(String::into_bytes), bytes];
    let verbs = [
        (Method::POST, "/v1/apps/demo/sessions/new".to_owned()),
        (Method::POST, session("/tracks/new")),
        (Method::PUT, session("/renegotiate")),
        (Method::PUT, session("/tracks/close")),
    ];
    let which = prop::sample::select(verbs.to_vec());
    let config = ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(body in body, (method, path) in which)| {
        let request = server.request(method, &path).body(body);
        let (status, _) = runtime.block_on(async { json_of(request.send().await.unwrap()).await });
        prop_assert!([200, 201, 400, 406].contains(&status), "status {}", status);
    });
}
