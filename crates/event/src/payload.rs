//! The payloads, one declaration each: the Rust type and the table of its fields come from the same lines.
//!
//! Every payload names the model version and the token it is about; those fields stand in the macro. Keys that a declaration does not name are kept in
//! `unknown`, so that whoever emits a payload again loses nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::baseline::MetricDirection;
use crate::field::{
    EXPERIMENT_NAME_MAX_CHARS, Field, Kind, METRIC_NAME_MAX_CHARS, MODEL_ID_MAX_CHARS, MODEL_NAME_MAX_CHARS, MODEL_VERSION_MAX_CHARS, Need,
    REASON_MAX_CHARS, RUN_ID_MAX_CHARS, Typed, WHOLE_MAX,
};
use crate::identity::{Address, TokenSymbol, VersionKey};
use crate::invalid::Invalid;
use crate::timestamp::Timestamp;

const ID: Kind = Kind::AnyText { min: 1 };
/// Ours are UUIDs; others' are kept beside them in tables and indexes, hence bounded.
const REGISTRATION: Kind = Kind::Text { max: 255 };
const METRIC: Kind = Kind::Text { max: METRIC_NAME_MAX_CHARS };
const WHOLE: Kind = Kind::Whole { max: WHOLE_MAX };

/// `required` fields have their type; `emitted` and `optional` ones are `Option`s. The common fields come before a type's own.
macro_rules! payload {
    (
        $(#[$meta:meta])*
        $name:ident
        required { $($required:tt)* }
        emitted { $($emitted:tt)* }
        optional { $($optional:tt)* }
    ) => {
        payload! {
            @whole $(#[$meta])* $name
            required {
                model_id: String = Kind::Text { max: MODEL_ID_MAX_CHARS },
                    "The model version's id. We emit `<model_name>/<model_version>/<token_id>`; on input it is opaque.";
                token_symbol: TokenSymbol = Kind::Symbol,
                    "The token's symbol. Case does not distinguish symbols; the first casing seen is displayed.";
                model_name: String = Kind::Text { max: MODEL_NAME_MAX_CHARS }, "The registered model's name.";
                model_version: String = Kind::Text { max: MODEL_VERSION_MAX_CHARS }, "The model's version in the registry.";
                mlflow_run_id: String = Kind::Text { max: RUN_ID_MAX_CHARS }, "The MLflow run that made the model.";
                $($required)*
            }
            emitted {
                timestamp: Timestamp = Kind::Timestamp, "When the event happened.";
                message_version: String = Kind::Version, "The version of the payload's layout: `1.0`.";
                $($emitted)*
            }
            optional {
                $($optional)*
                correlation_id: String = Kind::AnyText { min: 0 },
                    "The envelope's `correlation_id` again, which a foreign client's retry may drop there. Ours always have it.";
            }
        }
    };
    (
        @whole $(#[$meta:meta])* $name:ident
        required { $($required:ident: $required_type:ty = $required_kind:expr, $required_about:literal;)* }
        emitted { $($emitted:ident: $emitted_type:ty = $emitted_kind:expr, $emitted_about:literal;)* }
        optional { $($optional:ident: $optional_type:ty = $optional_kind:expr, $optional_about:literal;)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $(#[doc = $required_about] pub $required: $required_type,)*
            $(#[doc = $emitted_about] #[serde(default)] pub $emitted: Option<$emitted_type>,)*
            $(#[doc = $optional_about] #[serde(default, skip_serializing_if = "Option::is_none")] pub $optional: Option<$optional_type>,)*
            /// Keys that the table does not name, kept for whoever emits this payload again.
            #[serde(flatten)]
            pub unknown: Map<String, Value>,
        }

        impl $name {
            /// The fields, in the order in which they are written.
            pub const FIELDS: &'static [Field] = &[
                $(Field { name: stringify!($required), need: Need::Required, kind: $required_kind, about: $required_about },)*
                $(Field { name: stringify!($emitted), need: Need::Emitted, kind: $emitted_kind, about: $emitted_about },)*
                $(Field { name: stringify!($optional), need: Need::Optional, kind: $optional_kind, about: $optional_about },)*
            ];

            /// Checks what the types do not rule out; the first problem is the error.
            pub(crate) fn check(&self) -> Result<(), Invalid> {
                $(Typed::check(&self.$required, $required_kind, stringify!($required))?;)*
                $(self.$emitted.as_ref().map_or(Ok(()), |value| Typed::check(value, $emitted_kind, stringify!($emitted)))?;)*
                $(self.$optional.as_ref().map_or(Ok(()), |value| Typed::check(value, $optional_kind, stringify!($optional)))?;)*
                match self.unknown.keys().find(|key| Self::FIELDS.iter().any(|field| field.name == *key)) {
                    Some(key) => Err(Invalid::new(key.as_str(), "is given twice: it is a field of its own")),
                    None => Ok(()),
                }
            }

            /// What makes two payloads speak of the same model version.
            pub fn version_key(&self) -> VersionKey {
                VersionKey {
                    token: self.token_symbol.key(),
                    model_name: self.model_name.clone(),
                    model_version: self.model_version.clone(),
                }
            }
        }
    };
}

payload! {
    /// A model beat its baseline: deploy its token.
    ModelReadyToDeploy
    required {
        metric_name: String = METRIC, "The metric that was compared.";
        baseline_value: f64 = Kind::Number, "The value to reach.";
        current_value: f64 = Kind::Number,
            "The model's value. If it is missing, `performance_data` may supply it under the metric's name.";
    }
    emitted {
        improvement_percentage: f64 = Kind::Number,
            "Percent of the absolute baseline, positive for better, two decimals; null if the baseline is 0.";
        performance_data: Map<String, Value> = Kind::Object,
            "Measurements by name; ours hold at least the metric's name with `current_value`.";
    }
    optional {
        contributor_address: Address = Kind::Address, "Who contributed the model.";
        experiment_name: String = Kind::Text { max: EXPERIMENT_NAME_MAX_CHARS }, "The MLflow experiment.";
        tags: BTreeMap<String, String> = Kind::Tags, "Labels, text to text.";
        metric_direction: MetricDirection = Kind::Direction, "Which way the metric improves; `higher_is_better` if missing.";
        registration_id: String = REGISTRATION, "The registration that caused this, if it was one of ours.";
    }
}

payload! {
    /// A model version was registered, whatever the verdict.
    ModelRegistered
    required {
        registration_id: String = REGISTRATION, "The registration.";
        metric_name: String = METRIC, "The metric that was compared.";
        baseline_value: f64 = Kind::Number, "The value to reach.";
        current_value: f64 = Kind::Number, "The model's value.";
    }
    emitted {
        improvement_percentage: f64 = Kind::Number,
            "Percent of the absolute baseline, positive for better, two decimals; null if the baseline is 0.";
        metric_direction: MetricDirection = Kind::Direction, "Which way the metric improves; `higher_is_better` if missing.";
    }
    optional {
        contributor_address: Address = Kind::Address, "Who contributed the model.";
        experiment_name: String = Kind::Text { max: EXPERIMENT_NAME_MAX_CHARS }, "The MLflow experiment.";
        tags: BTreeMap<String, String> = Kind::Tags, "Labels, text to text.";
    }
}

payload! {
    /// A registered model version did not reach its baseline.
    ModelValidationFailed
    required {
        registration_id: String = REGISTRATION, "The registration.";
        metric_name: String = METRIC, "The metric that was compared.";
        baseline_value: f64 = Kind::Number, "The value to reach.";
        current_value: f64 = Kind::Number, "The model's value.";
        reason: String = Kind::Text { max: REASON_MAX_CHARS }, "Why the model was rejected, for people.";
    }
    emitted {
        improvement_percentage: f64 = Kind::Number,
            "Percent of the absolute baseline, positive for better, two decimals; null if the baseline is 0.";
        metric_direction: MetricDirection = Kind::Direction, "Which way the metric improves; `higher_is_better` if missing.";
    }
    optional {}
}

payload! {
    /// A model version is on the chain, at final depth, under its token.
    ModelDeployed
    required {
        message_id: String = ID, "The `message_id` of the `model_ready_to_deploy` message that asked for it.";
        chain_id: u64 = WHOLE, "The EVM chain.";
        registry_address: Address = Kind::Address, "The registry contract.";
        token_address: Address = Kind::Address, "The token contract.";
        deployed_at: Timestamp = Kind::Timestamp, "When the deployment was found final.";
    }
    emitted {
        registration_id: String = REGISTRATION, "The registration; null if the request was not one of ours.";
        transaction_hash: String = Kind::Hash,
            "The transaction that recorded the version; null if it was somebody else's and is not known.";
        block_number: u64 = WHOLE, "The transaction's block; null if the transaction is.";
        gas_used: u64 = WHOLE,
            "The gas this version used, its share if the transaction recorded several; null if it was not ours.";
        fee_wei: String = Kind::Wei, "The fee paid for that gas, in wei; null if the transaction was not ours.";
        elapsed_ms: u64 = WHOLE, "From taking the request to final, in milliseconds; null if it was not measured.";
    }
    optional {}
}

payload! {
    /// A later model version of a token is better than the one before it.
    MetricImproved
    required {
        metric_name: String = METRIC, "The metric that improved.";
        previous_value: f64 = Kind::Number, "The best value before.";
        current_value: f64 = Kind::Number, "The better version's value.";
    }
    emitted {
        registration_id: String = REGISTRATION, "The registration of the better version; null if the request was not one of ours.";
        improvement_percentage: f64 = Kind::Number,
            "Percent of the absolute previous value, positive for better, two decimals; null if that is 0.";
        metric_direction: MetricDirection = Kind::Direction, "Which way the metric improves; `higher_is_better` if missing.";
    }
    optional {
        token_address: Address = Kind::Address, "The token contract, once there is one.";
    }
}
