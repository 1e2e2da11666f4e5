//! Reads JSON bodies, bounded before anything looks at them.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use futures_util::StreamExt as _;
use hokusai_event::Invalid;
use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};

/// The largest body accepted.
pub(crate) const MAX_BYTES: usize = 256 * 1024;
/// How much of a body that is too large is read away, so that a client that writes before it reads sees the answer.
const DRAIN_BYTES: usize = 32 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The bytes of a body that was declared as JSON and is no larger than [`MAX_BYTES`].
#[derive(Debug)]
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        if !is_json(&parts.headers) {
            drain(body, &parts.headers).await;
            return Err(Problem::new(Kind::UnsupportedMediaType, "Send the body as `Content-Type: application/json`, in UTF-8."));
        }
        read(body, &parts.headers).await.map(Self)
    }
}

async fn read(body: Body, headers: &HeaderMap) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::TooLarge, format!("The body may hold {MAX_BYTES} bytes."));
    if declared_length(headers).is_some_and(|bytes| bytes > MAX_BYTES as u64) {
        drain(body, headers).await;
        return Err(too_large());
    }
    let mut chunks = body.into_data_stream();
    let mut bytes = bytes::BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::new(Kind::Unreadable, "The body ended before it was complete."))?;
        if bytes.len() + chunk.len() > MAX_BYTES {
            drain(Body::from_stream(chunks), headers).await;
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Reads a refused body away. Without this the connection is reset under a client still sending, which then reports a
/// broken pipe instead of the problem. A client that waits for `100 Continue` has sent nothing: it is not asked to.
async fn drain(body: Body, headers: &HeaderMap) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut chunks = body.into_data_stream();
    let read_away = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    // Out of time or not, the answer is the same.
    let _ = tokio::time::timeout(DRAIN_TIME, read_away).await;
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `application/json` or `application/<anything>+json`, in UTF-8. Required, because a browser sends other types across
/// origins without asking.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let mut parts = value.split(';').map(|part| part.trim().to_ascii_lowercase());
    let essence = parts.next().unwrap_or_default();
    let json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    let utf8 =
        parts.filter_map(|part| part.strip_prefix("charset=").map(|name| name.trim_matches('"').to_owned())).all(|name| name == "utf-8");
    json && utf8
}

/// Why these bytes are no JSON at all, if they are not.
fn unreadable(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("The body is empty; it must be a JSON object.".to_owned());
    }
    if let Err(error) = std::str::from_utf8(bytes) {
        return Some(format!("The body is not UTF-8: see byte {}.", error.valid_up_to()));
    }
    let error = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).err()?;
    Some(format!("The body is not JSON: {error}."))
}

/// The problem with a body in which these fields are wrong: 400 if no JSON parser reads it, 422 if one does.
pub(crate) fn refuse(bytes: &[u8], errors: Vec<Invalid>) -> Problem {
    match unreadable(bytes) {
        Some(detail) => Problem::new(Kind::Unreadable, detail).naming(errors),
        None => Problem::new(Kind::Invalid, "What the body says is not acceptable; see `errors`.").naming(errors),
    }
}

/// Parses a small body, naming the field that is wrong.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { path };
        Invalid::new(field, error.inner().to_string())
    });
    let whole = read.and_then(|value| json.end().map(|()| value).map_err(|error| Invalid::whole(error.to_string())));
    whole.map_err(|invalid| refuse(bytes, vec![invalid]))
}
