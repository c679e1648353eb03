//! The HTTP face of the server: one line per endpoint, each a thin skin over a verb of
//! [`control::request`](crate::control::request).
//!
//! What lives here is what only HTTP has: authentication, limits, statuses, CORS, the access log and the
//! metrics page. Every body is JSON (but `/metrics`), errors included, and nothing ever redirects:
//! existing clients parse whatever comes. Never here: anything about a shard, SDP or media. Not here
//! either: TLS, which a reverse proxy adds.

mod auth;
mod body;
mod datachannels;
mod error;
mod metrics;
mod observe;
mod openapi;
mod rate;
mod serve;
mod sessions;
mod tracks;

pub use auth::Apps;
pub use openapi::Document;
pub use serve::serve;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN, RETRY_AFTER};
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use serde_json::json;
use tokio::sync::watch;
use tower_http::cors::{Any, CorsLayer};

use crate::control::request::{AppId, Census, ControlHandle, ErrorCode};
use crate::id::SessionId;
use crate::stats::Snapshots;
use error::Refusal;
use metrics::HttpMetrics;
use rate::RateLimiter;

/// All endpoints, under both prefixes that clients use.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .nest("/v1/apps/{app}", verbs())
        .nest("/apps/{app}", verbs())
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics::page))
        .route("/openapi.json", get(openapi::document))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        // Outside of all that can refuse: a page must be able to read an error, or it sees a network failure.
        .layer(cors())
        .layer(middleware::from_fn_with_state(state.clone(), observe::request))
        .with_state(state)
}

fn verbs() -> Router<ApiState> {
    Router::new()
        .route("/sessions/new", post(sessions::new))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{session}", get(sessions::get).delete(sessions::end))
        .route("/sessions/{session}/tracks/new", post(tracks::new))
        .route("/sessions/{session}/renegotiate", put(sessions::renegotiate))
        .route("/sessions/{session}/tracks/update", put(tracks::update))
        .route("/sessions/{session}/tracks/close", put(tracks::close))
        .route("/sessions/{session}/datachannels/establish", post(datachannels::establish))
        .route("/sessions/{session}/datachannels/new", post(datachannels::new))
        .route("/sessions/{session}/datachannels/update", put(datachannels::update))
        .route("/sessions/{session}/datachannels/close", put(datachannels::close))
}

/// What an endpoint that answers 200 returns.
type Answer<T> = Result<Json<T>, Refusal>;

/// What the HTTP side may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body that is accepted, in bytes.
    pub body_bytes_max: usize,
    /// How long a body may take to arrive.
    pub body_read_timeout: Duration,
    /// Tracks that one request may add.
    pub request_tracks_max: usize,
    /// Requests per second about one session, also the burst that may come at once.
    pub session_requests_per_second: u32,
}

impl Default for Limits {
    /// A large offer has 20 KB; the rate and the number of tracks are those that clients of the API are told.
    fn default() -> Self {
        Self {
            body_bytes_max: 256 * 1024,
            body_read_timeout: Duration::from_secs(10),
            request_tracks_max: 64,
            session_requests_per_second: 50,
        }
    }
}

impl Limits {
    /// Refuses a request that asks for more items, which are `what`, than one may add.
    fn check_items(&self, asked: usize, what: &str) -> Result<(), Refusal> {
        let most = self.request_tracks_max;
        if asked <= most {
            return Ok(());
        }
        let description = format!("{asked} {what} in one request; split it into requests of at most {most}");
        Err(Refusal::new(ErrorCode::InvalidParams, description))
    }
}

/// What the endpoints share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ApiState {
    control: ControlHandle,
    apps: watch::Receiver<Arc<Apps>>,
    snapshots: Arc<Snapshots>,
    stopping: watch::Receiver<bool>,
    limits: Limits,
    rate: Arc<Mutex<RateLimiter>>,
    http: HttpMetrics,
}

impl ApiState {
    /// `apps` may change at any time; requests under way keep the ones they began with. `stopping`
    /// turns true before the listener closes, so that a load balancer sees `/healthz` fail in time.
    pub fn new(
        control: ControlHandle,
        apps: watch::Receiver<Arc<Apps>>,
        snapshots: Arc<Snapshots>,
        stopping: watch::Receiver<bool>,
        limits: Limits,
    ) -> Self {
        let rate = Arc::new(Mutex::new(RateLimiter::new(limits.session_requests_per_second)));
        Self { control, apps, snapshots, stopping, limits, rate, http: HttpMetrics::default() }
    }

    /// `None` when control has stopped, or is so far behind that whoever watches us should know.
    async fn census(&self) -> Option<Census> {
        const PATIENCE: Duration = Duration::from_secs(1);
        tokio::time::timeout(PATIENCE, self.control.census()).await.ok().flatten()
    }

    fn admit(&self, app: &AppId, session: SessionId, now: Instant) -> Result<(), Refusal> {
        if self.rate.lock().unwrap_or_else(PoisonError::into_inner).admit(app, session, now) {
            return Ok(());
        }
        Err(Refusal::too_many_requests(format!(
            "more than {} requests per second about this session; retry in a second",
            self.limits.session_requests_per_second
        )))
    }
}

/// 200 while new sessions are welcome; 503 once the server is stopping, or when control does not answer.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operation",
    operation_id = "health",
    summary = "Whether new sessions are welcome",
    description = "",
    security(()),
    responses(
        (status = 200, description = "They are", body = Object, example = json!({ "status": "ok" })),
        (status = 503, description = "The server is stopping, or does not answer", body = Object,
         example = json!({ "status": "stopping" }))
    )
)]
async fn healthz(State(api): State<ApiState>) -> (StatusCode, Json<serde_json::Value>) {
    let stopping = *api.stopping.borrow();
    let (code, status) = if stopping {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if api.census().await.is_none() {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    } else {
        (StatusCode::OK, "ok")
    };
    (code, Json(json!({ "status": status })))
}

async fn no_such_path(uri: Uri) -> Refusal {
    let description = format!("no endpoint at {}; see the API page of the documentation", uri.path());
    Refusal::new(ErrorCode::NotFound, description)
}

async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let description = format!("{} does not support {method}; the header Allow says what it does", uri.path());
    Refusal::method_not_allowed(description)
}

/// Any origin, as pages are opened from files too (`Origin: null`). That is safe because no cookie is
/// involved: who has the secret may use it from anywhere.
fn cors() -> CorsLayer {
    /// Chromium caches no preflight longer than this.
    const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(7_200);
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE])
        .expose_headers([RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE)
        .vary([ORIGIN])
}
