//! The five types of message, and payloads as typed events.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::baseline::{MetricDirection, judge};
use crate::field::{Field, check_fields};
use crate::identity::TokenSymbol;
use crate::invalid::{Invalid, quoted};
use crate::json;
use crate::payload::{MetricImproved, ModelDeployed, ModelReadyToDeploy, ModelRegistered, ModelValidationFailed};
use crate::timestamp::Timestamp;

/// The version of the payloads' layout that we emit.
pub const MESSAGE_VERSION: &str = "1.0";

const PAYLOAD: &str = "payload.";

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// A model beat its baseline: deploy its token.
    ModelReadyToDeploy,
    /// A model version was registered, whatever the verdict.
    ModelRegistered,
    /// A registered model version did not reach its baseline.
    ModelValidationFailed,
    /// A model version is on the chain, at final depth, under its token.
    ModelDeployed,
    /// A later model version of a token is better than the one before it.
    MetricImproved,
}

impl MessageType {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ModelReadyToDeploy, Self::ModelRegistered, Self::ModelValidationFailed, Self::ModelDeployed, Self::MetricImproved];

    /// As envelopes write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ModelReadyToDeploy => "model_ready_to_deploy",
            Self::ModelRegistered => "model_registered",
            Self::ModelValidationFailed => "model_validation_failed",
            Self::ModelDeployed => "model_deployed",
            Self::MetricImproved => "metric_improved",
        }
    }

    /// The table of its payload.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::ModelReadyToDeploy => ModelReadyToDeploy::FIELDS,
            Self::ModelRegistered => ModelRegistered::FIELDS,
            Self::ModelValidationFailed => ModelValidationFailed::FIELDS,
            Self::ModelDeployed => ModelDeployed::FIELDS,
            Self::MetricImproved => MetricImproved::FIELDS,
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl std::str::FromStr for MessageType {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Invalid::new("message_type", format!("must be one of {known}, is {}", quoted(text)))
        })
    }
}

/// A payload that obeys its type's table.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// See [`MessageType::ModelReadyToDeploy`].
    ModelReadyToDeploy(ModelReadyToDeploy),
    /// See [`MessageType::ModelRegistered`].
    ModelRegistered(ModelRegistered),
    /// See [`MessageType::ModelValidationFailed`].
    ModelValidationFailed(ModelValidationFailed),
    /// See [`MessageType::ModelDeployed`].
    ModelDeployed(ModelDeployed),
    /// See [`MessageType::MetricImproved`].
    MetricImproved(MetricImproved),
}

/// The same expression for whichever payload the event holds.
macro_rules! each {
    ($event:expr, $payload:ident => $expression:expr) => {
        match $event {
            Event::ModelReadyToDeploy($payload) => $expression,
            Event::ModelRegistered($payload) => $expression,
            Event::ModelValidationFailed($payload) => $expression,
            Event::ModelDeployed($payload) => $expression,
            Event::MetricImproved($payload) => $expression,
        }
    };
}

impl Event {
    /// Reads a bare payload, naming everything that is wrong with it; the fields' paths begin with `payload.`.
    pub fn parse(kind: MessageType, payload: &[u8]) -> Result<Self, Vec<Invalid>> {
        let object = json::parse_object(payload).map_err(|invalid| {
            let field = if invalid.field.is_empty() { "payload".to_owned() } else { format!("{PAYLOAD}{}", invalid.field) };
            vec![Invalid { field, ..invalid }]
        })?;
        Self::from_object(kind, object)
    }

    /// Reads the payload of a scanned envelope.
    pub(crate) fn read(kind: MessageType, payload: &RawValue) -> Result<Self, Vec<Invalid>> {
        match serde_json::from_str(payload.get()) {
            Ok(object) => Self::from_object(kind, object),
            Err(error) => Err(vec![Invalid::new("payload", format!("must be an object: {error}"))]),
        }
    }

    fn from_object(kind: MessageType, mut object: Map<String, Value>) -> Result<Self, Vec<Invalid>> {
        if kind == MessageType::ModelReadyToDeploy {
            supply_current_value(&mut object);
        }
        let problems = check_fields(kind.fields(), &mut object, PAYLOAD);
        if !problems.is_empty() {
            return Err(problems);
        }
        let value = Value::Object(object);
        let event = match kind {
            MessageType::ModelReadyToDeploy => serde_json::from_value(value).map(Self::ModelReadyToDeploy),
            MessageType::ModelRegistered => serde_json::from_value(value).map(Self::ModelRegistered),
            MessageType::ModelValidationFailed => serde_json::from_value(value).map(Self::ModelValidationFailed),
            MessageType::ModelDeployed => serde_json::from_value(value).map(Self::ModelDeployed),
            MessageType::MetricImproved => serde_json::from_value(value).map(Self::MetricImproved),
        };
        event.map_err(|error| vec![Invalid::new("payload", error.to_string())])
    }

    /// What the event is about.
    pub fn message_type(&self) -> MessageType {
        match self {
            Self::ModelReadyToDeploy(_) => MessageType::ModelReadyToDeploy,
            Self::ModelRegistered(_) => MessageType::ModelRegistered,
            Self::ModelValidationFailed(_) => MessageType::ModelValidationFailed,
            Self::ModelDeployed(_) => MessageType::ModelDeployed,
            Self::MetricImproved(_) => MessageType::MetricImproved,
        }
    }

    /// The model version's id.
    pub fn model_id(&self) -> &str {
        each!(self, payload => &payload.model_id)
    }

    /// The token's symbol.
    pub fn token_symbol(&self) -> &TokenSymbol {
        each!(self, payload => &payload.token_symbol)
    }

    /// The event as we emit it: with everything that is always emitted, checked against the table.
    pub(crate) fn emitted(mut self, at: jiff::Timestamp, correlation_id: &str) -> Result<Self, Invalid> {
        each!(&mut self, payload => {
            payload.timestamp.get_or_insert(Timestamp::new(at));
            payload.message_version.get_or_insert_with(|| MESSAGE_VERSION.to_owned());
            payload.correlation_id = Some(correlation_id.to_owned());
        });
        self.complete_metrics()?;
        each!(&self, payload => payload.check()).map_err(in_payload)?;
        Ok(self)
    }

    /// The payload alone, to be written.
    pub(crate) fn payload(&self) -> impl Serialize {
        struct Payload<'e>(&'e Event);
        impl Serialize for Payload<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                each!(self.0, payload => payload.serialize(serializer))
            }
        }
        Payload(self)
    }

    /// Whether the payload has at most so many levels, itself the first.
    pub(crate) fn nests_within(&self, levels: usize) -> bool {
        let inner = levels.saturating_sub(1);
        let unknown = each!(self, payload => &payload.unknown);
        let measured = match self {
            Self::ModelReadyToDeploy(ready) => ready.performance_data.as_ref(),
            _ => None,
        };
        // The tables' own fields have two levels.
        inner > 0
            && unknown.values().all(|value| json::nests_within(value, inner))
            && measured.is_none_or(|data| data.values().all(|value| json::nests_within(value, inner - 1)))
    }

    fn complete_metrics(&mut self) -> Result<(), Invalid> {
        match self {
            Self::ModelReadyToDeploy(ready) => {
                let direction = ready.metric_direction.unwrap_or_default();
                complete_improvement(&mut ready.improvement_percentage, direction, ready.baseline_value, ready.current_value)?;
                let measured = ready.performance_data.get_or_insert_default();
                measured.entry(&ready.metric_name).or_insert_with(|| ready.current_value.into());
                Ok(())
            }
            Self::ModelRegistered(model) => {
                let direction = *model.metric_direction.get_or_insert_default();
                complete_improvement(&mut model.improvement_percentage, direction, model.baseline_value, model.current_value)
            }
            Self::ModelValidationFailed(model) => {
                let direction = *model.metric_direction.get_or_insert_default();
                complete_improvement(&mut model.improvement_percentage, direction, model.baseline_value, model.current_value)
            }
            Self::MetricImproved(model) => {
                let direction = *model.metric_direction.get_or_insert_default();
                complete_improvement(&mut model.improvement_percentage, direction, model.previous_value, model.current_value)
            }
            Self::ModelDeployed(_) => Ok(()),
        }
    }
}

/// On input, a missing `current_value` may stand in `performance_data` under the metric's name.
fn supply_current_value(object: &mut Map<String, Value>) {
    if object.get("current_value").is_some_and(|value| !value.is_null()) {
        return;
    }
    let metric_name = object.get("metric_name").and_then(Value::as_str);
    let measured = metric_name.and_then(|name| object.get("performance_data")?.get(name)).cloned();
    if let Some(measured) = measured {
        object.insert("current_value".to_owned(), measured);
    }
}

fn in_payload(invalid: Invalid) -> Invalid {
    Invalid { field: format!("{PAYLOAD}{}", invalid.field), ..invalid }
}

/// `serde_json` would write a number that is not finite as null, so it must be refused before.
fn complete_improvement(stated: &mut Option<f64>, direction: MetricDirection, baseline: f64, current: f64) -> Result<(), Invalid> {
    let verdict = judge(direction, baseline, current).map_err(in_payload)?;
    match *stated {
        Some(stated) => crate::check_finite(stated, "payload.improvement_percentage"),
        None => {
            *stated = verdict.improvement_percentage;
            Ok(())
        }
    }
}

/// Each payload is an event.
macro_rules! into_event {
    ($($payload:ident)*) => {
        $(impl From<$payload> for Event {
            fn from(payload: $payload) -> Self {
                Self::$payload(payload)
            }
        })*
    };
}

into_event!(ModelReadyToDeploy ModelRegistered ModelValidationFailed ModelDeployed MetricImproved);
