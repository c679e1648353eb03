//! The demo room at `/demo`: a page that joins a room with camera and microphone, and the worked example
//! of a client of the sessions/tracks API.
//!
//! The page is served from memory, so the binary needs no files beside it. It calls the same HTTP API as any
//! other client, under `base_path` of the same origin; who is in which room is told by `hub`, because
//! the API knows sessions and tracks only. It is switched on when the server made its own development app.
//! Deliberately absent: accounts, persistence, rooms that span servers.

mod hub;

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use serde::Serialize;

use hub::{Hub, Pace};

/// What the page needs in order to call the API. No `Debug`: it holds the app's secret.
#[derive(Clone)]
pub struct DemoApp {
    pub app_id: String,
    /// The bearer token of the app.
    pub secret: String,
    /// Path of the app's endpoints on this origin, without a slash at the end: `/v1/apps/<app id>`.
    pub base_path: String,
}

/// Everything below `/demo`, to be merged into the server's router.
pub fn router(app: DemoApp) -> Router {
    let config = Config { app_id: app.app_id, token: app.secret, base_path: app.base_path };
    Router::new()
        .route("/demo", file(HTML, include_str!("static/index.html")))
        .route("/demo/", file(HTML, include_str!("static/index.html")))
        .route("/demo/style.css", file(CSS, include_str!("static/style.css")))
        .route("/demo/page.js", file(JAVASCRIPT, include_str!("static/page.js")))
        .route("/demo/room.js", file(JAVASCRIPT, include_str!("static/room.js")))
        .route("/demo/peer.js", file(JAVASCRIPT, include_str!("static/peer.js")))
        .route("/demo/api.js", file(JAVASCRIPT, include_str!("static/api.js")))
        .route("/demo/stats.js", file(JAVASCRIPT, include_str!("static/stats.js")))
        .route("/demo/config.json", get(move || async move { (HEADERS, axum::Json(config)) }))
        .merge(hub::router(Hub::new(Pace::default())))
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The policy makes "no external resources" a fact that the browser enforces. Nothing is cached, for a
/// restarted server has a new token and perhaps a new page.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

fn file(content_type: &'static str, body: &'static str) -> MethodRouter {
    get(move || async move { (HEADERS, [(header::CONTENT_TYPE, content_type)], body).into_response() })
}

/// `/demo/config.json`. A page may hold the token here only because the app was made for this demo, on a
/// developer's machine, and dies with the process. In production the token lets its holder end and
/// impersonate every session of the app: keep it on your own server, which decides who may publish and pull,
/// and let pages call that server.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    app_id: String,
    token: String,
    base_path: String,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn page_and_everything_it_loads_is_served() {
        let origin = start().await;
        let mut wanted = BTreeSet::from(["/demo".to_owned()]);
        let mut served = BTreeSet::new();
        while let Some(path) = wanted.pop_first() {
            let answer = reqwest::get(format!("{origin}{path}")).await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("'self'"));
            let text = answer.text().await.unwrap();
            served.insert(path);
            wanted.extend(references(&text).filter(|found| !served.contains(found)));
        }
        let files = ["", "/api.js", "/page.js", "/peer.js", "/room.js", "/stats.js", "/style.css"];
        assert_eq!(served, files.iter().map(|file| format!("/demo{file}")).collect());
    }

    #[tokio::test]
    async fn config_tells_the_page_where_the_api_is_and_is_not_cached() {
        let answer = reqwest::get(format!("{}/demo/config.json", start().await)).await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let expected = serde_json::json!({ "appId": "a", "token": "s", "basePath": "/v1/apps/a" });
        assert_eq!(answer.json::<serde_json::Value>().await.unwrap(), expected);
    }

    async fn start() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let app = DemoApp { app_id: "a".into(), secret: "s".into(), base_path: "/v1/apps/a".into() };
        tokio::spawn(async move { axum::serve(listener, router(app)).await });
        origin
    }

    /// The files that quoted text names: `"/demo/x.css"` in HTML, `"./x.js"` in a module.
    fn references(text: &str) -> impl Iterator<Item = String> {
        let is_file = |quoted: &&str| quoted.ends_with(".js") || quoted.ends_with(".css");
        let quoted = text.split('"').filter(is_file);
        quoted.map(|name| format!("/demo/{}", name.trim_start_matches("/demo/").trim_start_matches("./")))
    }
}
