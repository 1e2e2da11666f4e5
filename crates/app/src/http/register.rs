//! `POST /api/v1/models/register`.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hokusai_event::{Invalid, Need, check_fields, field_schema, parse_object};
use hokusai_registry::{RegisterError, RegisterRequest, mlflow::MlflowError};
use serde_json::json;
use utoipa::ToSchema;

use super::{
    Api,
    body::{self, JsonBytes},
    frame::{CORRELATION_ID, IDEMPOTENCY_KEY, id_header},
    problem::{self, Document, Kind, Problem},
    wire::Registered,
};

/// Stands for the request in the OpenAPI document, where [`request_schema`] replaces it.
#[derive(Debug, ToSchema)]
#[schema(as = RegisterRequest)]
pub(crate) struct RegisterRequestSchema {}

/// The request's schema, made from the table that requests are checked by.
pub(crate) fn request_schema() -> serde_json::Value {
    let fields = RegisterRequest::FIELDS;
    let properties: serde_json::Map<_, _> = fields.iter().map(|field| (field.name.to_owned(), field_schema(field))).collect();
    let required: Vec<_> = fields.iter().filter(|field| field.need == Need::Required).map(|field| field.name).collect();
    json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
        "examples": [{
            "model_uri": "runs:/0123456789abcdef0123456789abcdef/model",
            "model_name": "chat-model",
            "token_id": "msg-ai",
            "metric_name": "reply_rate",
            "baseline_value": 0.1,
            "current_value": 0.15,
        }],
    })
}

/// Registers a model. If it reaches its baseline, its token will be deployed, exactly once.
///
/// Sending the same request again (with the same `Idempotency-Key`, or simply the same content) answers what the first
/// one did. When the answer comes, the registration and its events are committed.
#[utoipa::path(post, path = "/api/v1/models/register", operation_id = "registerModel", tag = "registrations",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "The client's own name for this request; 1 to 255 visible ASCII characters."),
        ("X-Correlation-ID" = Option<String>, Header, description = "Ties together everything that comes of this request; made up if missing."),
    ),
    request_body = RegisterRequestSchema,
    responses(
        (status = 201, description = "Registered: `queued`, or `rejected` if the model is below its baseline.", body = Registered,
            headers(("Location" = String, description = "The registration."))),
        (status = 200, description = "Registered before, by the same request.", body = Registered,
            headers(("Location" = String, description = "The registration."))),
        (status = 400, description = "The body is no JSON, or a header is not acceptable.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 409, description = "An earlier registration, named in `registration_id`, says something else.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 413, description = "The body is larger than 256 KiB.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 415, description = "The body is not declared as JSON.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 422, description = "Fields are missing or wrong; `errors` names them.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 502, description = "MLflow refuses; the reason is in `detail`.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 503, description = "The database or MLflow does not answer. The registration may have been made: send the same request again.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn register(State(api): State<Api>, headers: HeaderMap, JsonBytes(bytes): JsonBytes) -> Result<Response, Problem> {
    let idempotency_key = id_header(&headers, &IDEMPOTENCY_KEY)?;
    let correlation_id = id_header(&headers, &CORRELATION_ID)?;
    let request = RegisterRequest::from_json(&bytes).map_err(|first| body::refuse(&bytes, wrong_fields(&bytes, first)))?;
    let receipt = api.registrar.register(request, idempotency_key, correlation_id).await?;
    let status = if receipt.replayed { StatusCode::OK } else { StatusCode::CREATED };
    let location = format!("/api/v1/registrations/{}", receipt.registration_id);
    let mut response = (status, Json(Registered::from(receipt))).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// All fields that are wrong by themselves; parsing stops at the first, but who corrects a request wants them all.
fn wrong_fields(bytes: &[u8], first: Invalid) -> Vec<Invalid> {
    let Ok(mut object) = parse_object(bytes) else { return vec![first] };
    let mut all = check_fields(RegisterRequest::FIELDS, &mut object, "");
    if !all.contains(&first) {
        all.insert(0, first);
    }
    all
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Invalid(invalid) => Self::invalid(invalid),
            RegisterError::Conflict { first, what } => Self::conflict(first, format!("Nothing was registered: {what}.")),
            RegisterError::Unavailable(ref cause) => {
                let detail = "The database does not answer. The registration may have been made: send the same request again.";
                Self::unavailable(detail, cause)
            }
            RegisterError::Stopped => {
                Self::new(Kind::Unavailable, "The server is stopping; nothing was registered. Send the same request again.").retry_after(5)
            }
            RegisterError::Mlflow(error) => of_mlflow(&error),
            _ => Self::internal(&error),
        }
    }
}

/// MLflow's address stays in the log.
fn of_mlflow(error: &MlflowError) -> Problem {
    match error {
        MlflowError::Unavailable { .. } => Problem::unavailable("MLflow does not answer. Send the same request again.", error),
        MlflowError::NotFound { what, message, .. } => {
            Problem::new(Kind::Invalid, "MLflow does not know what the request refers to; see `errors`.")
                .naming(vec![Invalid::new("model_uri", format!("refers to {what}, which MLflow does not know: {message}"))])
        }
        MlflowError::Refused { doing, status, code, message, .. } => {
            Problem::new(Kind::Upstream, format!("MLflow refused to {doing}: {status} {code} {message}")).because(error)
        }
        MlflowError::Unexpected { doing, problem, .. } => {
            Problem::new(Kind::Upstream, format!("MLflow answered something unexpected when asked to {doing}: {problem}")).because(error)
        }
        _ => Problem::internal(error),
    }
}
