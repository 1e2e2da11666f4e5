//! `POST /integrations/mlflow`: MLflow's webhooks.
//!
//! A delivery is believed by its signature alone (`HOKUSAI_MLFLOW_WEBHOOK_SECRET`), within a window of time, once. What it
//! says is only where to look: tags and metrics are read from MLflow itself.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName},
};
use hokusai_registry::mlflow::{Attended, Headers, HookEvent, Intake, is_known, remember, verify};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    body::{self, JsonBytes},
    problem::{self, Document, Kind, Problem},
};
use crate::config::Secret;

const SIGNATURE: HeaderName = HeaderName::from_static("x-mlflow-signature");
const TIMESTAMP: HeaderName = HeaderName::from_static("x-mlflow-timestamp");
const DELIVERY_ID: HeaderName = HeaderName::from_static("x-mlflow-delivery-id");

/// What deliveries are checked by and given to.
#[derive(Debug, Clone)]
pub(crate) struct MlflowHook {
    pub(crate) secret: Option<Secret>,
    pub(crate) intake: Intake,
}

/// What became of a delivery.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Delivered {
    /// `registered`, `known` (registered already), `not_asked`, `refused`, or `duplicate` (this delivery was attended to before).
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_id: Option<String>,
    /// Why nothing was registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<Attended> for Delivered {
    fn from(attended: Attended) -> Self {
        match attended {
            Attended::Registered { registration } => {
                Self { outcome: "registered", registration_id: Some(registration.registration_id), reason: registration.reason }
            }
            Attended::Known { registration_id } => Self { outcome: "known", registration_id: Some(registration_id), reason: None },
            Attended::NotAsked { reason } => Self { outcome: "not_asked", registration_id: None, reason: Some(reason) },
            Attended::Refused { reason } => Self { outcome: "refused", registration_id: None, reason: Some(reason) },
        }
    }
}

/// Receives a webhook of MLflow's model registry. A model version whose tags ask for it is registered; see docs/mlflow.md.
#[utoipa::path(post, path = "/integrations/mlflow", operation_id = "receiveMlflowWebhook", tag = "registrations",
    params(
        ("X-MLflow-Signature" = String, Header, description = "`v1,` and the base64 of HMAC-SHA256 over `<delivery id>.<timestamp>.<body>`."),
        ("X-MLflow-Timestamp" = String, Header, description = "Unix time in seconds, at most 300 s from this server's."),
        ("X-MLflow-Delivery-Id" = String, Header, description = "A delivery is attended to once."),
    ),
    request_body(content = String, content_type = "application/json", description = "MLflow's event."),
    responses(
        (status = 200, description = "Attended to; `outcome` says how.", body = Delivered),
        (status = 400, description = "The body is no JSON.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 401, description = "The signature is not ours, or the delivery is too old.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 501, description = "This server is not connected to an MLflow; the variable is named.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 503, description = "MLflow or the database does not answer; MLflow sends the delivery again.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn receive(State(api): State<Api>, headers: HeaderMap, JsonBytes(bytes): JsonBytes) -> Result<Json<Delivered>, Problem> {
    let (hook, secret) = configured(&api)?;
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let headers = Headers { signature: text(&SIGNATURE), timestamp: text(&TIMESTAMP), delivery_id: text(&DELIVERY_ID) };
    let id = verify(secret.reveal(), &headers, &bytes, jiff::Timestamp::now())
        .map_err(|forged| Problem::new(Kind::Forged, format!("Nothing was done: {forged}.")))?;
    let event: HookEvent = body::parse(&bytes)?;
    if is_known(&api.database, id).await? {
        return Ok(Json(Delivered { outcome: "duplicate", registration_id: None, reason: None }));
    }
    let attended = hook.intake.attend(&event).await?;
    remember(&api.database, id, jiff::Timestamp::now()).await?;
    let delivered = Delivered::from(attended);
    tracing::info!(
        delivery_id = id,
        model = event.data.name,
        version = event.data.version,
        outcome = delivered.outcome,
        "MLflow says {}.{}",
        event.entity,
        event.action
    );
    Ok(Json(delivered))
}

fn configured(api: &Api) -> Result<(&MlflowHook, &Secret), Problem> {
    let missing = |variable: &str| Problem::new(Kind::NotConfigured, format!("{variable} is not set for this server."));
    let hook = api.mlflow.as_ref().ok_or_else(|| missing("MLFLOW_TRACKING_URI"))?;
    Ok((hook, hook.secret.as_ref().ok_or_else(|| missing("HOKUSAI_MLFLOW_WEBHOOK_SECRET"))?))
}
