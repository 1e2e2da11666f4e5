//! What travels as JSON, for the handlers, the client and the OpenAPI document alike.
//!
//! These are promises to programs elsewhere: fields are added, never renamed or removed. Times are RFC 3339 in UTC.

use std::collections::BTreeMap;

use hokusai_registry as registry;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::history::Change;
pub(crate) use super::problem::FieldError;

/// How far a registration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Accepted; its message is in the queue or on the way there.
    Queued,
    /// A worker is making it true on the chain.
    Deploying,
    /// On the chain, at final depth.
    Deployed,
    /// Below its baseline; nothing was emitted for deployment.
    Rejected,
    /// The chain or the worker refuses it for good; the reason is in the history.
    Refused,
    /// Its message was given up and waits for a person.
    DeadLettered,
}

/// The answer to a registration.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Registered {
    #[schema(example = "0199b2f0-7c1e-7d32-9a44-0b6ef1a2c3d4")]
    pub(crate) registration_id: String,
    /// `<model_name>/<model_version>/<token_id>`
    #[schema(example = "chat-model/3/msg-ai")]
    pub(crate) model_id: String,
    pub(crate) model_name: String,
    pub(crate) model_version: String,
    pub(crate) token_id: String,
    pub(crate) mlflow_run_id: String,
    pub(crate) status: Status,
    /// Whether `model_ready_to_deploy` was emitted: the model is accepted.
    pub(crate) event_emitted: bool,
    /// The id of that message.
    pub(crate) message_id: Option<String>,
    pub(crate) correlation_id: String,
    /// `accepted` or `rejected`.
    #[schema(example = "accepted")]
    pub(crate) verdict: String,
    /// Over the absolute baseline, positive for better; null if the baseline is 0.
    pub(crate) improvement_percentage: Option<f64>,
    /// Why the model was rejected.
    pub(crate) reason: Option<String>,
}

/// Which registrations are wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Search {
    /// Only those that are this far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub(crate) status: Option<Status>,
    /// Only those of this token; case does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "msg-ai")]
    pub(crate) token: Option<String>,
    /// Only those of this model name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// How many to answer, 1 to 200; 50 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u32>,
    /// `next` of the page before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
}

/// One page of registrations, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct RegistrationList {
    pub(crate) registrations: Vec<RegistrationView>,
    /// What to send as `after` for the next page; null at the end.
    pub(crate) next: Option<String>,
}

/// A registration and how far it has come.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct RegistrationView {
    pub(crate) registration_id: String,
    pub(crate) status: Status,
    pub(crate) model_id: String,
    pub(crate) model_name: String,
    pub(crate) model_version: String,
    pub(crate) token_id: String,
    pub(crate) mlflow_run_id: String,
    pub(crate) model_uri: String,
    pub(crate) metric_name: String,
    pub(crate) baseline_value: f64,
    pub(crate) current_value: f64,
    /// `higher_is_better` or `lower_is_better`.
    pub(crate) metric_direction: String,
    pub(crate) improvement_percentage: Option<f64>,
    /// `accepted` or `rejected`.
    pub(crate) verdict: String,
    /// The comparison in a sentence.
    pub(crate) reason: String,
    pub(crate) contributor_address: Option<String>,
    pub(crate) experiment_name: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    /// The id of its `model_ready_to_deploy` message.
    pub(crate) message_id: Option<String>,
    pub(crate) correlation_id: String,
    /// The registration that took its place, if it was rejected and one did.
    pub(crate) superseded_by: Option<String>,
    /// Where it is, once it is deployed.
    pub(crate) deployment: Option<Deployment>,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

/// What the chain holds.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Deployment {
    pub(crate) chain_id: Option<u64>,
    pub(crate) token_address: String,
    /// Null if the version was recorded by a transaction that is not known here.
    pub(crate) transaction_hash: Option<String>,
    pub(crate) block_number: Option<u64>,
    pub(crate) gas_used: Option<u64>,
    /// The fee paid, in wei, in decimal digits.
    pub(crate) fee_wei: Option<String>,
    pub(crate) deployed_at: Option<String>,
}

/// A registration with its history.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct RegistrationDetail {
    #[serde(flatten)]
    pub(crate) registration: RegistrationView,
    /// What happened to it, the oldest first.
    pub(crate) history: Vec<Step>,
}

/// One thing that happened to a registration.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Step {
    /// Its place in the registration's history, from 1.
    pub(crate) number: i64,
    pub(crate) at: String,
    #[schema(example = "registered")]
    pub(crate) step: String,
    /// The particulars; which there are depends on the step.
    pub(crate) detail: Value,
}

/// A token and the model versions registered for it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Token {
    /// The symbol as it was first written.
    pub(crate) token_id: String,
    /// Its contract, once it is deployed.
    pub(crate) token_address: Option<String>,
    /// The newest first, superseded ones left out; at most 500.
    pub(crate) registrations: Vec<RegistrationView>,
}

/// Something that happened to a registration, as `/api/v1/events` tells it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ChangeView {
    pub(crate) registration_id: String,
    /// How far the registration is now, which may be further than this change.
    pub(crate) status: Status,
    pub(crate) model_id: String,
    pub(crate) token_id: String,
    #[serde(flatten)]
    pub(crate) step: Step,
}

impl From<registry::Status> for Status {
    fn from(status: registry::Status) -> Self {
        match status {
            registry::Status::Queued => Self::Queued,
            registry::Status::Deploying => Self::Deploying,
            registry::Status::Deployed => Self::Deployed,
            registry::Status::Rejected => Self::Rejected,
            registry::Status::Refused => Self::Refused,
            registry::Status::DeadLettered => Self::DeadLettered,
        }
    }
}

impl From<Status> for registry::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Queued => Self::Queued,
            Status::Deploying => Self::Deploying,
            Status::Deployed => Self::Deployed,
            Status::Rejected => Self::Rejected,
            Status::Refused => Self::Refused,
            Status::DeadLettered => Self::DeadLettered,
        }
    }
}

fn verdict(decision: registry::Decision) -> String {
    match decision {
        registry::Decision::Accepted => "accepted",
        registry::Decision::Rejected => "rejected",
    }
    .to_owned()
}

impl From<registry::Receipt> for Registered {
    fn from(receipt: registry::Receipt) -> Self {
        Self {
            registration_id: receipt.registration_id,
            model_id: receipt.model_id,
            model_name: receipt.model_name,
            model_version: receipt.model_version,
            token_id: receipt.token_id.as_str().to_owned(),
            mlflow_run_id: receipt.mlflow_run_id,
            status: receipt.status.into(),
            event_emitted: receipt.event_emitted,
            message_id: receipt.message_id,
            correlation_id: receipt.correlation_id,
            verdict: verdict(receipt.verdict),
            improvement_percentage: receipt.improvement_percentage,
            reason: receipt.reason,
        }
    }
}

impl From<registry::Registration> for RegistrationView {
    fn from(registration: registry::Registration) -> Self {
        let document = registration.document;
        let deployment = registration.token_address.map(|token_address| Deployment {
            chain_id: registration.chain_id,
            token_address,
            transaction_hash: registration.transaction_hash,
            block_number: registration.block_number,
            gas_used: registration.gas_used,
            fee_wei: registration.fee_wei,
            deployed_at: registration.deployed_at,
        });
        Self {
            registration_id: document.registration_id,
            status: registration.status.into(),
            model_id: document.model_id,
            model_name: document.model_name,
            model_version: document.model_version,
            token_id: document.token_id.as_str().to_owned(),
            mlflow_run_id: document.mlflow_run_id,
            model_uri: document.model_uri,
            metric_name: document.metric_name,
            baseline_value: document.baseline_value,
            current_value: document.current_value,
            metric_direction: document.metric_direction.as_str().to_owned(),
            improvement_percentage: document.improvement_percentage,
            verdict: verdict(document.verdict),
            reason: document.reason,
            contributor_address: document.contributor_address.map(|address| address.as_str().to_owned()),
            experiment_name: document.experiment_name,
            tags: document.tags.unwrap_or_default(),
            message_id: document.message_id,
            correlation_id: document.correlation_id,
            superseded_by: registration.superseded_by,
            deployment,
            created_at: document.created_at.to_string(),
            updated_at: registration.updated_at.to_string(),
        }
    }
}

impl From<registry::HistoryRow> for Step {
    fn from(row: registry::HistoryRow) -> Self {
        Self { number: row.number, at: row.at.to_string(), step: row.step, detail: row.detail }
    }
}

impl From<registry::TokenView> for Token {
    fn from(token: registry::TokenView) -> Self {
        Self {
            token_id: token.token_id.as_str().to_owned(),
            token_address: token.token_address,
            registrations: token.registrations.into_iter().map(RegistrationView::from).collect(),
        }
    }
}

impl From<Change> for ChangeView {
    fn from(change: Change) -> Self {
        let at = jiff::Timestamp::from_millisecond(change.place.at_ms).unwrap_or_default();
        Self {
            registration_id: change.place.registration_id,
            status: change.status.into(),
            model_id: change.model_id,
            token_id: change.token_id,
            step: Step { number: change.place.number, at: hokusai_event::emit(at), step: change.step, detail: change.detail },
        }
    }
}
