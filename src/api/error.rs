//! How a failure looks over HTTP: each error code gets its status here, once.
//!
//! Three refusals exist only in HTTP and have no code of their own, since clients know the codes of the
//! API alone: a wrong method is `not_found` under 405; a body that does not arrive in time and a session
//! that asks too often are `temporarily_unavailable_error` under 408 and 429, as both go away by a retry.

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::control::request::{ErrorCode, RequestError};

/// A request that failed: an error of the API and the status it travels under.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: RequestError,
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn error(&self) -> &RequestError {
        &self.error
    }

    pub(super) fn new(code: ErrorCode, description: impl Into<String>) -> Self {
        RequestError::new(code, description).into()
    }

    pub(super) fn method_not_allowed(description: impl Into<String>) -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, ..Self::new(ErrorCode::NotFound, description) }
    }

    pub(super) fn body_timed_out(description: impl Into<String>) -> Self {
        let refusal = Self::new(ErrorCode::TemporarilyUnavailable, description);
        Self { status: StatusCode::REQUEST_TIMEOUT, ..refusal }
    }

    pub(super) fn too_many_requests(description: impl Into<String>) -> Self {
        let refusal = Self::new(ErrorCode::TemporarilyUnavailable, description);
        Self { status: StatusCode::TOO_MANY_REQUESTS, ..refusal }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self { status: status_of(error.error_code), error }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.error)).into_response();
        match self.status {
            // RFC 9110 §15.5.2 demands the scheme beside every 401.
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The rate limit refills within a second, and a restart takes about as long.
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// The codes about a track belong to items of a 200; as the error of a whole request they mean that the
/// one thing asked for is not there.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::DecodingError => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::NotFound
        | ErrorCode::NotFoundTrackError
        | ErrorCode::EmptyTrackError
        | ErrorCode::CloseTrackError
        | ErrorCode::UpdateTrackError => StatusCode::NOT_FOUND,
        ErrorCode::InvalidParams | ErrorCode::InvalidSessionDescription => StatusCode::NOT_ACCEPTABLE,
        ErrorCode::RepeatedLocalTrackError => StatusCode::CONFLICT,
        ErrorCode::SessionGone => StatusCode::GONE,
        ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::SessionNotConnected => StatusCode::TOO_EARLY,
        ErrorCode::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}
