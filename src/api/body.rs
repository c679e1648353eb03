//! From the bytes of a request to the struct of a verb: bounded in size and in time.
//!
//! The Content-Type is ignored: browsers send JSON as `text/plain` when a page forgets the header, and
//! the pages that exist do. Content-Length is not trusted; the bytes that arrive are counted.

use axum::Json;
use axum::body::{Body, HttpBody};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::Limits;
use super::error::Refusal;
use crate::control::request::ErrorCode;

/// A body that is too large is read on up to this many times the limit and thrown away, so that a
/// client that is still writing finds our answer and not a connection reset.
const DISCARD_FACTOR: usize = 8;

/// Characters of a decoding error that are passed on; it can quote the body at any length.
const DESCRIPTION_CHARS_MAX: usize = 300;

/// Reads and decodes a body that must be there.
///
/// Errors: 400 `decoding_error`, 408, 413 `payload_too_large`.
pub(super) async fn required<T: DeserializeOwned>(body: Body, limits: &Limits) -> Result<T, Refusal> {
    decode(&read(body, limits).await?)
}

/// Like [`required`], but nothing, only white space or `null` is the default.
pub(super) async fn optional<T: DeserializeOwned + Default>(
    body: Body,
    limits: &Limits,
) -> Result<T, Refusal> {
    let bytes = read(body, limits).await?;
    let given: Option<T> = if bytes.trim_ascii().is_empty() { None } else { decode(&bytes)? };
    Ok(given.unwrap_or_default())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let Json(value) = Json::from_bytes(bytes).map_err(|rejection| {
        let description: String = rejection.body_text().chars().take(DESCRIPTION_CHARS_MAX).collect();
        Refusal::new(ErrorCode::DecodingError, description)
    })?;
    Ok(value)
}

async fn read(body: Body, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let reading = read_at_most(body, limits.body_bytes_max);
    tokio::time::timeout(limits.body_read_timeout, reading).await.unwrap_or_else(|_| {
        Err(Refusal::body_timed_out(format!(
            "the body did not arrive within {} ms; retry",
            limits.body_read_timeout.as_millis()
        )))
    })
}

async fn read_at_most(body: Body, limit: usize) -> Result<Vec<u8>, Refusal> {
    let discard_max = limit.saturating_mul(DISCARD_FACTOR);
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(announced.min(limit));
    let mut arrived = 0usize;
    let mut chunks = body.into_data_stream();
    while announced <= discard_max && arrived <= discard_max {
        let Some(chunk) = chunks.next().await else { break };
        let chunk = chunk.map_err(|error| {
            Refusal::new(ErrorCode::DecodingError, format!("the body ended early: {error}"))
        })?;
        arrived = arrived.saturating_add(chunk.len());
        if arrived <= limit {
            bytes.extend_from_slice(&chunk);
        }
    }
    if arrived.max(announced) > limit {
        let description = format!("the body is larger than {limit} bytes, which this server accepts");
        return Err(Refusal::new(ErrorCode::PayloadTooLarge, description));
    }
    Ok(bytes)
}
