//! The outermost layer: what every request gets, whichever route it meets.
//!
//! A request id, a log span, bounded header values, a time limit, a caught panic, and every error answer in the one form
//! of `problem.rs`, those of the router itself included.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt as _;
use tracing::Instrument as _;
use uuid::Uuid;

use super::problem::{self, Kind, Problem};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest id a client may bring: as long as the registry keeps.
const MAX_ID_BYTES: usize = 255;

/// How long a request may take. Streams are not concerned: theirs begin with an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(pub(crate) Duration);

pub(crate) async fn frame(State(patience): State<Patience>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let request_id = request_id(request.headers());
    let correlation_id = request.headers().get(CORRELATION_ID).and_then(|id| id.to_str().ok()).filter(|id| id.len() <= MAX_ID_BYTES);
    let span = tracing::info_span!("http", %method, path, request_id, correlation_id);
    async {
        let answer = bounded(patience.0, next.run(request)).await;
        let mut response = in_one_form(answer, method.as_str(), &path, &request_id);
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        tracing::debug!(status = response.status().as_u16(), elapsed_ms, "answered");
        response
    }
    .instrument(span)
    .await
}

/// Runs the handler for at most `patience`, and turns a panic into a problem: neither takes the connection down.
async fn bounded(patience: Duration, handler: impl Future<Output = Response>) -> Response {
    match tokio::time::timeout(patience, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(panic = message.unwrap_or("not a text"), "a handler panicked");
            Problem::new(Kind::Internal, "The cause is in the server's log, under this request_id.").into_response()
        }
        Err(_) => {
            let detail =
                format!("No answer within {} s. Whatever was begun may still complete; repeating the request is safe.", patience.as_secs());
            Problem::new(Kind::TooSlow, detail).retry_after(5).into_response()
        }
    }
}

/// Completes the problem a handler returned, or makes one of a bare error status; leaves everything else alone.
fn in_one_form(mut response: Response, method: &str, path: &str, request_id: &str) -> Response {
    let status = response.status();
    let told = response.extensions_mut().remove::<Problem>();
    let problem = match told {
        Some(problem) => problem,
        None if is_bare_error(&response) => Problem::of_status(status, method, path),
        None => return response,
    };
    problem.log();
    let mut answer = problem.answer(path, request_id);
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, allow);
    }
    answer
}

/// An error whose body is not for machines. An unhealthy /health answers 503 with its report, which stays.
fn is_bare_error(response: &Response) -> bool {
    let status = response.status();
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/json") || value.starts_with(problem::CONTENT_TYPE.as_bytes())
    });
    (status.is_client_error() || status.is_server_error()) && !json
}

/// The client's request id if it is one we can repeat in a log and a header, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    given.filter(|id| is_id(id)).map_or_else(|| Uuid::now_v7().to_string(), ToOwned::to_owned)
}

/// Visible ASCII of a bounded length.
fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_ID_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Reads an id header a client may send: absent, or 1 to 255 visible ASCII characters, once.
pub(crate) fn id_header(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refuse = |problem: &str| Err(Problem::parameter(name.as_str(), problem));
    if values.next().is_some() {
        return refuse("must be given once");
    }
    match value.to_str() {
        Ok(text) if is_id(text) => Ok(Some(text.to_owned())),
        _ => refuse("must be 1 to 255 visible ASCII characters"),
    }
}
