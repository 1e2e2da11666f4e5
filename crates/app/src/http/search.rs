//! Reads query strings and path segments, naming the parameter that is wrong. Unknown parameters are refused: a filter
//! with a typing error in its name must not answer with everything.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The query string as `T`, which should `deny_unknown_fields`.
#[derive(Debug)]
pub(crate) struct Search<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Search<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = serde_urlencoded::Deserializer::new(url::form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(pairs).map(Self).map_err(|error| {
            let path = error.path().to_string();
            let name = if path == "." || path.is_empty() { "query string" } else { &path };
            Problem::parameter(name, error.inner().to_string())
        })
    }
}

/// The one variable segment of a path, decoded.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let refuse = |_| Problem::parameter("path", "must be percent-encoded UTF-8");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(refuse)?;
        let segment = params.iter().next().map(|(_, value)| value.to_owned());
        segment.map(Self).ok_or_else(|| Problem::parameter("path", "is incomplete"))
    }
}
