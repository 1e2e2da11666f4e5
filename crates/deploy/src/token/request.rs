//! One model version whose token shall exist, and what must hold before it may cost gas.

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use super::{
    contract::{
        IModelTokenRegistry::{ModelRecord, VersionId},
        symbol_key, version_key,
    },
    fixed_point::to_fixed_point,
};

/// The longest symbol the registry takes.
pub const MAX_SYMBOL_BYTES: usize = 64;
/// The longest model name, model version, run id and metric name the registry takes.
pub const MAX_TEXT_BYTES: usize = 256;
/// The longest model id the registry takes.
pub const MAX_MODEL_ID_BYTES: usize = 1024;

/// One model version whose token shall exist. The ledger keeps it as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// The token symbol as written. Its identity ignores case; the first casing to reach the chain is displayed.
    pub symbol: String,
    /// The model's name, part of the version's identity.
    pub model_name: String,
    /// The model's version, part of the version's identity.
    pub model_version: String,
    /// An opaque id, carried to the chain.
    pub model_id: String,
    /// The MLflow run, carried to the chain; empty where there is none.
    pub mlflow_run_id: String,
    /// The metric by which the model was judged.
    pub metric_name: String,
    /// What the model had to reach.
    pub baseline_value: f64,
    /// What the model reached.
    pub current_value: f64,
    /// The direction of the metric.
    pub lower_is_better: bool,
    /// Who contributed the model. The zero address means nobody, as it does on chain.
    pub contributor: Option<Address>,
    /// The message that asked.
    pub message_id: String,
    /// The correlation id of that message.
    pub correlation_id: String,
    /// The registration behind it, where it is ours.
    pub registration_id: Option<String>,
}

/// A request that no attempt can make true. Permanent: the message belongs in the dead letters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Unfit {
    /// The payload field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl TokenRequest {
    /// What identifies the symbol on chain: Keccak-256 of its lower-cased form.
    pub fn symbol_key(&self) -> B256 {
        symbol_key(&self.symbol)
    }

    /// What identifies the version on chain and in the ledger.
    pub fn version_key(&self) -> B256 {
        version_key(&self.symbol, &self.model_name, &self.model_version)
    }

    /// The version's identity as the registry's views take it.
    pub fn version_id(&self) -> VersionId {
        VersionId { symbol: self.symbol.clone(), modelName: self.model_name.clone(), modelVersion: self.model_version.clone() }
    }

    /// Checks everything that the registry would refuse, so that refusing costs no gas.
    pub fn check(&self) -> Result<(), Unfit> {
        self.record().map(drop)
    }

    /// The request as the registry takes it, checked.
    pub fn record(&self) -> Result<ModelRecord, Unfit> {
        check_symbol(&self.symbol)?;
        check_text("model_name", &self.model_name, 1, MAX_TEXT_BYTES)?;
        check_text("model_version", &self.model_version, 1, MAX_TEXT_BYTES)?;
        check_text("model_id", &self.model_id, 1, MAX_MODEL_ID_BYTES)?;
        check_text("mlflow_run_id", &self.mlflow_run_id, 0, MAX_TEXT_BYTES)?;
        check_text("metric_name", &self.metric_name, 1, MAX_TEXT_BYTES)?;
        let baseline = to_fixed_point("baseline_value", self.baseline_value)?;
        let current = to_fixed_point("current_value", self.current_value)?;
        self.check_improvement()?;
        Ok(ModelRecord {
            symbol: self.symbol.clone(),
            modelName: self.model_name.clone(),
            modelVersion: self.model_version.clone(),
            modelId: self.model_id.clone(),
            runId: self.mlflow_run_id.clone(),
            metricName: self.metric_name.clone(),
            baseline,
            current,
            lowerIsBetter: self.lower_is_better,
            contributor: self.contributor.unwrap_or_default(),
        })
    }

    /// Equal to the baseline is enough.
    fn check_improvement(&self) -> Result<(), Unfit> {
        let (falls_short, relation) = if self.lower_is_better {
            (self.current_value > self.baseline_value, "above")
        } else {
            (self.current_value < self.baseline_value, "below")
        };
        if !falls_short {
            return Ok(());
        }
        Err(Unfit {
            field: "current_value",
            problem: format!(
                "{} of {} is {relation} the baseline of {}: the model does not reach it",
                self.metric_name, self.current_value, self.baseline_value
            ),
        })
    }
}

fn check_symbol(symbol: &str) -> Result<(), Unfit> {
    let fits = (1..=MAX_SYMBOL_BYTES).contains(&symbol.len()) && symbol.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits {
        return Ok(());
    }
    Err(Unfit { field: "token_symbol", problem: format!("must be 1 to {MAX_SYMBOL_BYTES} letters, digits and hyphens") })
}

fn check_text(field: &'static str, text: &str, min_bytes: usize, max_bytes: usize) -> Result<(), Unfit> {
    if (min_bytes..=max_bytes).contains(&text.len()) {
        return Ok(());
    }
    Err(Unfit { field, problem: format!("must be {min_bytes} to {max_bytes} bytes of UTF-8, is {}", text.len()) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::token) fn request(symbol: &str, version: &str) -> TokenRequest {
        TokenRequest {
            symbol: symbol.to_owned(),
            model_name: "sentiment-classifier".to_owned(),
            model_version: version.to_owned(),
            model_id: format!("sentiment-classifier/{version}/{symbol}"),
            mlflow_run_id: "0123456789abcdef0123456789abcdef".to_owned(),
            metric_name: "accuracy".to_owned(),
            baseline_value: 0.82,
            current_value: 0.875,
            lower_is_better: false,
            contributor: Some(Address::repeat_byte(0x42)),
            message_id: "a message".to_owned(),
            correlation_id: "a correlation".to_owned(),
            registration_id: None,
        }
    }

    fn check(change: impl FnOnce(&mut TokenRequest), fault: Option<&str>) {
        let mut request = request("MSG-AI", "1");
        change(&mut request);
        assert_eq!(request.check().err().map(|unfit| unfit.field), fault, "{request:?}");
    }

    #[test]
    fn what_the_registry_would_refuse_is_refused_by_name() {
        check(|_| {}, None);
        check(|request| request.symbol = "s".repeat(64), None);
        check(|request| request.symbol = "s".repeat(65), Some("token_symbol"));
        check(|request| request.symbol = String::new(), Some("token_symbol"));
        check(|request| request.symbol = "MSG_AI".to_owned(), Some("token_symbol"));
        check(|request| request.symbol = "É".to_owned(), Some("token_symbol"));
        check(|request| request.model_name = "é".repeat(128), None);
        check(|request| request.model_name = "é".repeat(129), Some("model_name"));
        check(|request| request.model_version = String::new(), Some("model_version"));
        check(|request| request.model_id = "i".repeat(1025), Some("model_id"));
        check(|request| request.mlflow_run_id = String::new(), None);
        check(|request| request.mlflow_run_id = "r".repeat(257), Some("mlflow_run_id"));
        check(|request| request.metric_name = String::new(), Some("metric_name"));
        check(|request| request.baseline_value = f64::NAN, Some("baseline_value"));
        check(|request| request.current_value = 1e21, Some("current_value"));
    }

    #[test]
    fn a_model_must_reach_its_baseline_in_the_direction_of_its_metric() {
        check(|request| request.current_value = 0.82, None);
        check(|request| request.current_value = 0.81, Some("current_value"));
        check(|request| request.lower_is_better = true, Some("current_value"));
        check(|request| (request.lower_is_better, request.current_value) = (true, 0.5), None);
    }

    #[test]
    fn identity_ignores_the_case_of_the_symbol_and_nothing_else() {
        let one = request("MSG-AI", "1");
        assert_eq!(one.version_key(), request("msg-ai", "1").version_key());
        assert_ne!(one.version_key(), request("MSG-AI", "2").version_key());
        let cased = TokenRequest { model_name: "Sentiment-Classifier".to_owned(), ..one.clone() };
        assert_ne!(one.version_key(), cased.version_key());
    }
}
