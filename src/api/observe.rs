//! Sees every request once: a debug line for people, a count and a duration for the metrics.
//!
//! Never logged: the query (pages put what they like into it) and headers. The exception is
//! `correlationId`, which exists to find a request again in a log.

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use super::ApiState;
use crate::time::Clock;

/// Characters of a correlation id that are logged.
const CORRELATION_CHARS_MAX: usize = 128;

pub(super) async fn request(State(api): State<ApiState>, request: Request, next: Next) -> Response {
    let start = Clock::runtime_instant();
    let endpoint = endpoint_of(&request);
    let method = request.method().clone();
    let uri = request.uri().clone();
    let response = next.run(request).await;
    let took = Clock::runtime_instant().saturating_duration_since(start);
    let status = response.status().as_u16();
    api.http.observe(&endpoint, status, took);
    tracing::debug!(
        %method,
        path = uri.path(),
        status,
        duration_us = took.as_micros() as u64,
        correlation_id = uri.query().and_then(correlation_id),
        "request"
    );
    response
}

/// The endpoint as metrics name it: its route below the app, so that neither app nor session ids
/// multiply the series, nor paths that somebody made up.
fn endpoint_of(request: &Request) -> String {
    if request.method() == Method::OPTIONS {
        return "preflight".into();
    }
    let Some(route) = request.extensions().get::<MatchedPath>() else { return "unknown".into() };
    let route = route.as_str();
    route.split_once("{app}").map_or(route, |(_, below_app)| below_app).into()
}

/// The value as it stands in the query, percent-encoded: it holds no control characters then.
fn correlation_id(query: &str) -> Option<&str> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("correlationId="))?;
    let end = value.char_indices().nth(CORRELATION_CHARS_MAX).map_or(value.len(), |(at, _)| at);
    value.get(..end).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_correlation_id_is_found_among_other_parameters() {
        assert_eq!(correlation_id("a=1&correlationId=m%20x&b"), Some("m%20x"));
        assert_eq!(correlation_id("correlationId="), None);
        assert_eq!(correlation_id("xcorrelationId=1"), None);
        assert_eq!(correlation_id(&format!("correlationId={}", "é".repeat(500))).map(str::len), Some(256));
    }
}
