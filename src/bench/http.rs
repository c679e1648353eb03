//! The application's backend of the room: the calls of the sessions/tracks API that make publishers and listeners.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::BenchError;

/// One application on one server. Clones share connections.
#[derive(Clone)]
pub struct Backend {
    http: reqwest::Client,
    /// Of the server, without a path.
    origin: String,
    /// Of the application: `…/apps/ID`.
    app: String,
    secret: String,
}

/// A pull that waits for its publisher or its transport takes up to 10 s by design.
const PATIENCE: Duration = Duration::from_secs(30);

impl Backend {
    /// `api` is the address of the API with its version, like `http://127.0.0.1:8080/v1`.
    pub fn new(api: &str, app_id: &str, secret: &str) -> Result<Self, BenchError> {
        let api = api.trim_end_matches('/');
        let url = reqwest::Url::parse(api).map_err(|error| {
            BenchError(format!("--api {api}: {error}; write it like http://127.0.0.1:8080/v1"))
        })?;
        let builder = reqwest::Client::builder().timeout(PATIENCE).no_proxy();
        let http = builder.build().map_err(|error| BenchError(format!("no HTTP client: {error}")))?;
        let origin = url.origin().ascii_serialization();
        Ok(Self { http, origin, app: format!("{api}/apps/{app_id}"), secret: secret.to_owned() })
    }

    pub async fn new_session(&self) -> Result<String, BenchError> {
        let body = self.call(Method::POST, "/sessions/new", None).await?;
        text(&body, "/sessionId")
    }

    /// Publishes the m-lines of `offer`, whose mids are 0, 1, …, under these names. Returns the answer.
    pub async fn publish(&self, session: &str, offer: &str, names: &[String]) -> Result<String, BenchError> {
        let local = |(mid, name): (usize, &String)| json!({ "location": "local", "mid": mid.to_string(), "trackName": name });
        let tracks: Vec<_> = names.iter().enumerate().map(local).collect();
        let body = json!({ "sessionDescription": { "type": "offer", "sdp": offer }, "tracks": tracks });
        let answer = self.call(Method::POST, &format!("/sessions/{session}/tracks/new"), Some(body)).await?;
        items_are_in_order(&answer)?;
        text(&answer, "/sessionDescription/sdp")
    }

    /// Asks for tracks. Returns the server's offer.
    pub async fn pull(&self, session: &str, tracks: &[Pull]) -> Result<String, BenchError> {
        let tracks: Vec<_> = tracks.iter().map(Pull::item).collect();
        let path = format!("/sessions/{session}/tracks/new");
        let offer = self.call(Method::POST, &path, Some(json!({ "tracks": tracks }))).await?;
        items_are_in_order(&offer)?;
        text(&offer, "/sessionDescription/sdp")
    }

    pub async fn answer(&self, session: &str, sdp: &str) -> Result<(), BenchError> {
        let body = json!({ "sessionDescription": { "type": "answer", "sdp": sdp } });
        self.call(Method::PUT, &format!("/sessions/{session}/renegotiate"), Some(body)).await.map(drop)
    }

    /// The page of a server that tells its numbers as Fanline does; `None` of another.
    pub async fn metrics(&self) -> Option<String> {
        let response = self.http.get(format!("{}/metrics", self.origin)).send().await.ok()?;
        response.error_for_status().ok()?.text().await.ok()
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, BenchError> {
        let what = format!("{method} {path}");
        let failed = |problem: String| BenchError(format!("{what} failed: {problem}"));
        let request = self.http.request(method, format!("{}{path}", self.app)).bearer_auth(&self.secret);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.map_err(|error| failed(with_causes(&error)))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| failed(with_causes(&error)))?;
        if !status.is_success() {
            return Err(failed(format!("{status}: {text}")));
        }
        serde_json::from_str(&text).map_err(|error| failed(format!("{error}: {text}")))
    }
}

/// A track to be pulled.
pub struct Pull {
    pub session: String,
    pub name: String,
    /// Which encoding of a simulcast.
    pub rid: Option<String>,
}

impl Pull {
    fn item(&self) -> Value {
        let Self { session, name, rid } = self;
        let mut item = json!({ "location": "remote", "sessionId": session, "trackName": name });
        if let Some(rid) = rid {
            item["simulcast"] = json!({ "preferredRid": rid });
        }
        item
    }
}

fn text(body: &Value, pointer: &str) -> Result<String, BenchError> {
    let value = body.pointer(pointer).and_then(Value::as_str);
    value.map(str::to_owned).ok_or_else(|| BenchError(format!("no {pointer} in the server's answer: {body}")))
}

/// Each item of a 200 can still have failed by itself.
fn items_are_in_order(body: &Value) -> Result<(), BenchError> {
    let mut items = body.pointer("/tracks").and_then(Value::as_array).into_iter().flatten();
    match items.find(|item| item.get("errorCode").is_some()) {
        Some(item) => Err(BenchError(format!("a track was refused: {item}"))),
        None => Ok(()),
    }
}

/// reqwest says what it did and leaves why to the sources of the error.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
