//! The document of a registration: everything that was fixed when it was registered, kept as JSON beside the columns that
//! queries need.

use std::collections::BTreeMap;

use hokusai_event::{Address, Event, MetricDirection, ModelReadyToDeploy, ModelRegistered, ModelValidationFailed, Timestamp, TokenSymbol};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where a registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its event is on the way to a deployer, or with one.
    Queued,
    /// A deployer has planned or sent its token.
    Deploying,
    /// Its version is recorded on its token.
    Deployed,
    /// It did not reach its baseline.
    Rejected,
    /// A deployer refused it for good.
    Refused,
    /// Its message was given up and waits for a person.
    DeadLettered,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Queued, Self::Deploying, Self::Deployed, Self::Rejected, Self::Refused, Self::DeadLettered];

    /// As it is stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Deploying => "deploying",
            Self::Deployed => "deployed",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("`{text}` is not a status: it must be one of {known}")
        })
    }
}

/// The baseline verdict in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// At least as good as the baseline.
    Accepted,
    /// Worse than the baseline.
    Rejected,
}

/// What was fixed when a model was registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The registration's id.
    pub registration_id: String,
    /// `<model name>/<version>/<token>`.
    pub model_id: String,
    /// The registered model's name.
    pub model_name: String,
    /// Its version.
    pub model_version: String,
    /// The token's symbol, as it was written.
    pub token_id: TokenSymbol,
    /// The run that made the model.
    pub mlflow_run_id: String,
    /// Where the model is.
    pub model_uri: String,
    /// The metric that was compared.
    pub metric_name: String,
    /// The value to reach.
    pub baseline_value: f64,
    /// The model's value.
    pub current_value: f64,
    /// Which way the metric improves.
    pub metric_direction: MetricDirection,
    /// Percent of the absolute baseline, positive for better; `None` if the baseline is 0.
    pub improvement_percentage: Option<f64>,
    /// The verdict.
    pub verdict: Decision,
    /// The comparison in a sentence.
    pub reason: String,
    /// Who contributed the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contributor_address: Option<Address>,
    /// The MLflow experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment_name: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// Measurements by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance_data: Option<Map<String, Value>>,
    /// The model whose metric was the value to reach, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// Whether MLflow numbered the version, so that it is to be seen there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_mlflow: bool,
    /// The id of its `model_ready_to_deploy` message, if it was accepted.
    pub message_id: Option<String>,
    /// Ties together everything that came of the request.
    pub correlation_id: String,
    /// When it was registered.
    pub created_at: Timestamp,
}

impl Document {
    /// The status it begins with.
    pub fn first_status(&self) -> Status {
        match self.verdict {
            Decision::Accepted => Status::Queued,
            Decision::Rejected => Status::Rejected,
        }
    }

    pub(crate) fn ready(&self) -> Event {
        Event::ModelReadyToDeploy(ModelReadyToDeploy {
            model_id: self.model_id.clone(),
            token_symbol: self.token_id.clone(),
            metric_name: self.metric_name.clone(),
            baseline_value: self.baseline_value,
            current_value: self.current_value,
            model_name: self.model_name.clone(),
            model_version: self.model_version.clone(),
            mlflow_run_id: self.mlflow_run_id.clone(),
            timestamp: Some(self.created_at),
            message_version: None,
            improvement_percentage: self.improvement_percentage,
            performance_data: self.performance_data.clone(),
            contributor_address: self.contributor_address.clone(),
            experiment_name: self.experiment_name.clone(),
            tags: self.tags.clone(),
            metric_direction: Some(self.metric_direction),
            registration_id: Some(self.registration_id.clone()),
            correlation_id: None,
            unknown: Map::new(),
        })
    }

    pub(crate) fn registered(&self) -> Event {
        Event::ModelRegistered(ModelRegistered {
            registration_id: self.registration_id.clone(),
            model_id: self.model_id.clone(),
            token_symbol: self.token_id.clone(),
            metric_name: self.metric_name.clone(),
            baseline_value: self.baseline_value,
            current_value: self.current_value,
            model_name: self.model_name.clone(),
            model_version: self.model_version.clone(),
            mlflow_run_id: self.mlflow_run_id.clone(),
            timestamp: Some(self.created_at),
            message_version: None,
            improvement_percentage: self.improvement_percentage,
            metric_direction: Some(self.metric_direction),
            contributor_address: self.contributor_address.clone(),
            experiment_name: self.experiment_name.clone(),
            tags: self.tags.clone(),
            correlation_id: None,
            unknown: Map::new(),
        })
    }

    pub(crate) fn failed(&self) -> Event {
        Event::ModelValidationFailed(ModelValidationFailed {
            registration_id: self.registration_id.clone(),
            model_id: self.model_id.clone(),
            token_symbol: self.token_id.clone(),
            metric_name: self.metric_name.clone(),
            baseline_value: self.baseline_value,
            current_value: self.current_value,
            model_name: self.model_name.clone(),
            model_version: self.model_version.clone(),
            mlflow_run_id: self.mlflow_run_id.clone(),
            reason: self.reason.clone(),
            timestamp: Some(self.created_at),
            message_version: None,
            improvement_percentage: self.improvement_percentage,
            metric_direction: Some(self.metric_direction),
            correlation_id: None,
            unknown: Map::new(),
        })
    }
}
