//! The one error of the HTTP interface: an RFC 9457 problem document.
//!
//! Handlers return a [`Problem`]; the outermost layer (`frame.rs`) completes it with the request it belongs to, logs its
//! cause, and writes it out. Invariants: a cause is logged once, there, and never reaches the client; every document has
//! `type`, `title`, `status`, `detail`, `instance` and `request_id`; whatever fields are wrong are named in `errors`.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hokusai_event::Invalid;
use hokusai_registry::SubscribeError;
use serde::Serialize;
use utoipa::ToSchema;

/// What a problem document looks like on the wire.
pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// One sort of failure: what a client can tell apart and act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unreadable,
    BadParameter,
    Forged,
    Unknown,
    NoSuchRoute,
    MethodNotAllowed,
    Conflict,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    NotOnChain,
    NotFinal,
    HeadersTooLarge,
    Internal,
    NotConfigured,
    Upstream,
    Unavailable,
    TooSlow,
}

impl Kind {
    /// Name within the `type` URI, status, and title; the three never change separately.
    fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Unreadable => ("unreadable", StatusCode::BAD_REQUEST, "The request body cannot be read"),
            Self::BadParameter => ("bad-parameter", StatusCode::BAD_REQUEST, "A parameter or header is not acceptable"),
            Self::Forged => ("forged", StatusCode::UNAUTHORIZED, "The signature is not believed"),
            Self::Unknown => ("unknown", StatusCode::NOT_FOUND, "There is nothing by that name"),
            Self::NoSuchRoute => ("no-such-route", StatusCode::NOT_FOUND, "There is no such address"),
            Self::MethodNotAllowed => ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The address does not answer this method"),
            Self::Conflict => ("conflict", StatusCode::CONFLICT, "The request contradicts an earlier one"),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The request body is too large"),
            Self::UnsupportedMediaType => ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be JSON"),
            Self::Invalid => ("invalid", StatusCode::UNPROCESSABLE_ENTITY, "A field is not acceptable"),
            Self::NotOnChain => ("not-on-chain", StatusCode::UNPROCESSABLE_ENTITY, "The chain does not show this"),
            Self::NotFinal => ("not-final", StatusCode::CONFLICT, "The chain may still change its mind"),
            Self::HeadersTooLarge => ("headers-too-large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "A header is too long"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "The server failed"),
            Self::NotConfigured => ("not-configured", StatusCode::NOT_IMPLEMENTED, "The server is not configured for this"),
            Self::Upstream => ("upstream", StatusCode::BAD_GATEWAY, "A service needed for this refuses"),
            Self::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "A service needed for this does not answer"),
            Self::TooSlow => ("too-slow", StatusCode::SERVICE_UNAVAILABLE, "The request took too long"),
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        self.row().1
    }

    /// The kind of an error answer made by the router itself rather than by a handler.
    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NoSuchRoute,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::UNPROCESSABLE_ENTITY => Self::Invalid,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Self::HeadersTooLarge,
            StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable,
            status if status.is_client_error() => Self::BadParameter,
            _ => Self::Internal,
        }
    }
}

/// One field that is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
pub(crate) struct FieldError {
    /// The field as a path into the body (`tags.stage`), a parameter, or a header; empty for the whole.
    #[schema(example = "baseline_value")]
    pub(crate) field: String,
    /// What is wrong with it and what it must be.
    pub(crate) problem: String,
}

impl From<Invalid> for FieldError {
    fn from(invalid: Invalid) -> Self {
        Self { field: invalid.field, problem: invalid.problem }
    }
}

/// An error answer (RFC 9457, `application/problem+json`).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document {
    /// What sort of problem this is; stable, to be compared and not fetched.
    #[serde(rename = "type")]
    #[schema(example = "urn:hokusai:problem:invalid")]
    kind: String,
    /// The same for every problem of this type.
    title: String,
    /// The HTTP status, repeated.
    #[schema(example = 422)]
    status: u16,
    /// What happened here, and what to do about it.
    detail: String,
    /// The address that was asked.
    #[schema(example = "/api/v1/models/register")]
    instance: String,
    /// Finds this request in the server's log; also in the `X-Request-Id` header.
    request_id: String,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// On a conflict: the registration that came first.
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_id: Option<String>,
}

/// A failure on its way to the client.
///
/// Boxed content would save the handlers' results a few bytes and cost every use a dereference; errors are rare.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    registration_id: Option<String>,
    retry_after_s: Option<u32>,
    cause: Option<String>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), registration_id: None, retry_after_s: None, cause: None }
    }

    /// A body that can be read, with a field that is wrong.
    pub(crate) fn invalid(invalid: Invalid) -> Self {
        Self::new(Kind::Invalid, "What the body says is not acceptable; see `errors`.").naming(vec![invalid])
    }

    /// The same problem, with the fields that it is about.
    pub(crate) fn naming(self, errors: Vec<Invalid>) -> Self {
        Self { errors: errors.into_iter().map(FieldError::from).collect(), ..self }
    }

    /// A query parameter, path segment or header that cannot be used.
    pub(crate) fn parameter(name: &str, problem: impl Into<String>) -> Self {
        let errors = vec![FieldError { field: name.to_owned(), problem: problem.into() }];
        Self { errors, ..Self::new(Kind::BadParameter, format!("`{name}` is not acceptable; see `errors`.")) }
    }

    pub(crate) fn unknown(what: impl Into<String>) -> Self {
        Self::new(Kind::Unknown, what)
    }

    pub(crate) fn conflict(first: String, detail: impl Into<String>) -> Self {
        Self { registration_id: Some(first), ..Self::new(Kind::Conflict, detail) }
    }

    /// A service behind this one is away; the same request may succeed later.
    pub(crate) fn unavailable(detail: impl Into<String>, cause: &(dyn std::error::Error + 'static)) -> Self {
        Self { retry_after_s: Some(5), ..Self::new(Kind::Unavailable, detail) }.because(cause)
    }

    /// Something that should not happen; its cause is for the log alone.
    pub(crate) fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(Kind::Internal, "The cause is in the server's log, under this request_id.").because(cause)
    }

    pub(crate) fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    pub(crate) fn because(self, cause: &(dyn std::error::Error + 'static)) -> Self {
        let chain = std::iter::successors(Some(cause), |error| error.source()).map(ToString::to_string);
        Self { cause: Some(chain.collect::<Vec<_>>().join(": ")), ..self }
    }

    /// What an answer of the router or of a layer means, told as a problem.
    pub(crate) fn of_status(status: StatusCode, method: &str, path: &str) -> Self {
        let kind = Kind::of_status(status);
        let detail = match kind {
            Kind::NoSuchRoute => format!("{path} does not exist; /openapi.json lists what does."),
            Kind::MethodNotAllowed => format!("{path} does not answer {method}; the `Allow` header lists what it answers."),
            Kind::TooLarge => "Send a smaller body.".to_owned(),
            _ => format!("The request was refused: {status}."),
        };
        Self::new(kind, detail)
    }

    /// Tells the log what the client is not told. Called once, by the layer that writes the problem out.
    pub(crate) fn log(&self) {
        let status = self.kind.status().as_u16();
        let cause = self.cause.as_deref().unwrap_or("-");
        match (self.kind, &self.cause) {
            (Kind::Internal, _) => tracing::error!(status, cause, "request failed: {}", self.detail),
            (Kind::Unavailable | Kind::TooSlow, _) | (_, Some(_)) => tracing::warn!(status, cause, "request failed: {}", self.detail),
            _ => tracing::debug!(status, errors = ?self.errors, "request refused: {}", self.detail),
        }
    }

    /// Writes the problem out for the request it belongs to.
    pub(crate) fn answer(&self, instance: &str, request_id: &str) -> Response {
        let (name, status, title) = self.kind.row();
        let document = Document {
            kind: format!("urn:hokusai:problem:{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail.clone(),
            instance: instance.to_owned(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
            registration_id: self.registration_id.clone(),
        };
        let body = serde_json::to_vec(&document).expect("strings and numbers serialise");
        let mut response = (status, Body::from(body)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Carries the problem to the outermost layer, which knows the request and writes the body.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<hokusai_db::Error> for Problem {
    fn from(error: hokusai_db::Error) -> Self {
        if error.is_transient() { Self::unavailable("The database does not answer. Try again.", &error) } else { Self::internal(&error) }
    }
}

impl From<SubscribeError> for Problem {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Database(error) => error.into(),
            _ => Self::internal(&error),
        }
    }
}
