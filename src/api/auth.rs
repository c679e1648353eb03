//! Who is asking: the app of the path, proven by its bearer secret, and the session of the path.
//!
//! Only SHA-256 digests of the secrets are kept: equal lengths make the comparison constant in time,
//! and nothing here could print a secret. An unknown app is compared too, with a digest that nothing
//! has, so that it takes as long; that it answers 404 is what clients of the API expect.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use subtle::ConstantTimeEq;

use super::ApiState;
use super::error::Refusal;
use crate::control::request::{AppId, ErrorCode};
use crate::id::SessionId;
use crate::time::Clock;

/// The apps that may use the API and the digest of each one's secret.
#[derive(Default)]
pub struct Apps {
    digests: HashMap<AppId, Digest>,
}

type Digest = [u8; 32];

impl FromIterator<(String, String)> for Apps {
    /// From pairs of app id and secret; of two with the same id the later rules.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(apps: I) -> Self {
        let digested = |(app, secret): (String, String)| (AppId(app), sha256(&secret));
        Self { digests: apps.into_iter().map(digested).collect() }
    }
}

impl fmt::Debug for Apps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.digests.keys()).finish()
    }
}

impl Apps {
    fn authenticate(&self, app: &str, headers: &HeaderMap) -> Result<AppId, Refusal> {
        const DIGEST_OF_NOTHING: Digest = [0; 32];
        let app = AppId(app.to_owned());
        let known = self.digests.get(&app);
        let given = bearer(headers).filter(|secret| !secret.is_empty());
        let expected = known.unwrap_or(&DIGEST_OF_NOTHING);
        let matches: bool = sha256(given.unwrap_or_default()).ct_eq(expected).into();
        match (known, given) {
            (None, _) => {
                Err(Refusal::new(ErrorCode::NotFound, "no such app; is the app id in the URL right?"))
            }
            (_, None) => Err(Refusal::new(
                ErrorCode::Unauthorized,
                "the header `Authorization: Bearer <app secret>` is missing",
            )),
            (_, Some(_)) if !matches => {
                Err(Refusal::new(ErrorCode::Unauthorized, "the bearer token is not the secret of this app"))
            }
            _ => Ok(app),
        }
    }
}

fn sha256(secret: &str) -> Digest {
    let mut out = Digest::default();
    for (to, from) in out.iter_mut().zip(digest(&SHA256, secret.as_bytes()).as_ref()) {
        *to = *from;
    }
    out
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The authenticated app of a request.
pub(super) struct Caller(pub(super) AppId);

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, Refusal> {
        let path = path_params(parts).await?;
        api.apps.borrow().authenticate(param(&path, "app"), &parts.headers).map(Self)
    }
}

/// The authenticated app and the session it asks about, within the session's request rate.
pub(super) struct Target {
    pub(super) app: AppId,
    pub(super) session: SessionId,
}

impl FromRequestParts<ApiState> for Target {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, Refusal> {
        let Caller(app) = Caller::from_request_parts(parts, api).await?;
        let path = path_params(parts).await?;
        let session = param(&path, "session").parse().map_err(|_| {
            Refusal::new(
                ErrorCode::SessionGone,
                "the session id in the URL is not one that this server gave out; make a new session",
            )
        })?;
        api.admit(&app, session, Clock::runtime_instant())?;
        Ok(Self { app, session })
    }
}

async fn path_params(parts: &mut Parts) -> Result<RawPathParams, Refusal> {
    let params = RawPathParams::from_request_parts(parts, &()).await;
    params.map_err(|_| Refusal::new(ErrorCode::NotFound, "the path is not UTF-8 after percent-decoding"))
}

/// Empty when the route has no such parameter, which no app and no session is called.
fn param<'a>(params: &'a RawPathParams, name: &str) -> &'a str {
    params.iter().find_map(|(key, value)| (key == name).then_some(value)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let apps: Apps = [("app".to_owned(), "hunter2".to_owned())].into_iter().collect();
        assert_eq!(format!("{apps:?}"), r#"{AppId("app")}"#);
    }

    #[test]
    fn the_scheme_is_recognised_in_any_case_and_other_schemes_are_not() {
        let with = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer(&with("bearer  s3cret ")), Some("s3cret"));
        assert_eq!(bearer(&with("Basic s3cret")), None);
        assert_eq!(bearer(&with("Bearer")), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
