//! A request to register a model: reading it strictly, and what makes two requests the same.
//!
//! The *identity* of a request is (model name, run, artifact path, token); its *content* is everything else that was
//! said. Two requests of one identity and content are one registration. Without MLflow the identity is read out of the
//! request alone:
//!
//! | `model_uri` | run | artifact path | version |
//! |---|---|---|---|
//! | `runs:/<run>/<path>` | `<run>` | `<path>` | the next number, or the one this run and path already have |
//! | `models:/<model_name>/<n>` | `mlflow_run_id`, required | the URI | `<n>` |
//! | anything else | `mlflow_run_id`, or the run in `…/<32 hex digits>/artifacts/…` | the URI | as for `runs:` |
//!
//! Aliases and logged models are known to MLflow only, and refused without it.

use std::collections::BTreeMap;

use hokusai_event::{
    Address, EXPERIMENT_NAME_MAX_CHARS, Field, Invalid, Kind, METRIC_NAME_MAX_CHARS, MODEL_NAME_MAX_CHARS, MetricDirection, Need,
    RUN_ID_MAX_CHARS, TokenSymbol, check_fields, parse_object,
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::model_uri::{BaselineUri, MODEL_URI_MAX_CHARS, ModelUri, run_in_location};

/// The largest request, in bytes. Its events must fit every queue, several hundred of them one relay batch.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

const fn field(name: &'static str, need: Need, kind: Kind, about: &'static str) -> Field {
    Field { name, need, kind, about }
}

/// A request that obeys [`RegisterRequest::FIELDS`].
#[derive(Debug, Clone, PartialEq)]
pub struct RegisterRequest {
    /// Where the model is, as it was written.
    pub model_uri: String,
    /// The same, taken apart.
    pub location: ModelUri,
    /// The registered model's name.
    pub model_name: String,
    /// The token's symbol.
    pub token_id: TokenSymbol,
    /// The metric that is compared.
    pub metric_name: String,
    /// The value to reach; if missing, it is read from `baseline`.
    pub baseline_value: Option<f64>,
    /// The model whose metric is the value to reach.
    pub baseline: Option<BaselineUri>,
    /// The model's value; if missing, it is read from the model's run.
    pub current_value: Option<f64>,
    /// Which way the metric improves.
    pub metric_direction: MetricDirection,
    /// Who contributed the model.
    pub contributor_address: Option<Address>,
    /// The MLflow experiment.
    pub experiment_name: Option<String>,
    /// Labels.
    pub tags: Option<BTreeMap<String, String>>,
    /// The run that made the model, where `model_uri` does not say.
    pub mlflow_run_id: Option<String>,
    /// Measurements by name.
    pub performance_data: Option<Map<String, Value>>,
}

impl RegisterRequest {
    /// The fields of a request.
    pub const FIELDS: &'static [Field] = &[
        field(
            "model_uri",
            Need::Required,
            Kind::Text { max: MODEL_URI_MAX_CHARS },
            "Where the model is: `runs:/<run>/<path>`, `models:/<name>/<version>` or another location.",
        ),
        field("model_name", Need::Required, Kind::Text { max: MODEL_NAME_MAX_CHARS }, "The name to register the model under."),
        field("token_id", Need::Required, Kind::Symbol, "The token's symbol."),
        field("metric_name", Need::Required, Kind::Text { max: METRIC_NAME_MAX_CHARS }, "The metric that is compared."),
        field("baseline_value", Need::Optional, Kind::Number, "The value to reach; required unless MLflow is to read it from `baseline`."),
        field(
            "baseline",
            Need::Optional,
            Kind::Text { max: MODEL_URI_MAX_CHARS },
            "The model whose metric is the value to reach, for MLflow to read: `runs:/<run>`, `models:/<name>/<version>` or `models:/<name>@<alias>`.",
        ),
        field("current_value", Need::Optional, Kind::Number, "The model's value; if missing, MLflow reads the metric of the model's run."),
        field("metric_direction", Need::Optional, Kind::Direction, "Which way the metric improves; `higher_is_better` if missing."),
        field("contributor_address", Need::Optional, Kind::Address, "Who contributed the model."),
        field("experiment_name", Need::Optional, Kind::Text { max: EXPERIMENT_NAME_MAX_CHARS }, "The MLflow experiment."),
        field("tags", Need::Optional, Kind::Tags, "Labels, text to text."),
        field(
            "mlflow_run_id",
            Need::Optional,
            Kind::Text { max: RUN_ID_MAX_CHARS },
            "The run that made the model; required where `model_uri` does not name one.",
        ),
        field("performance_data", Need::Optional, Kind::Object, "Measurements by name."),
    ];

    /// Reads a request body.
    ///
    /// # Errors
    ///
    /// [`Invalid`] naming the first field that is wrong. A field that is not known is refused too: it is a typing error more
    /// often than it is a wish.
    pub fn from_json(body: &[u8]) -> Result<Self, Invalid> {
        if body.len() > MAX_REQUEST_BYTES {
            return Err(Invalid::whole(format!("is {} bytes long; at most {MAX_REQUEST_BYTES} are read", body.len())));
        }
        Self::from_object(parse_object(body)?)
    }

    /// Reads a request from an object that was parsed strictly.
    ///
    /// # Errors
    ///
    /// As for [`from_json`](Self::from_json).
    pub fn from_object(mut object: Map<String, Value>) -> Result<Self, Invalid> {
        if let Some(unknown) = object.keys().find(|key| !Self::FIELDS.iter().any(|field| field.name == *key)) {
            let known = Self::FIELDS.iter().map(|field| field.name).collect::<Vec<_>>().join(", ");
            return Err(Invalid::new(unknown.as_str(), format!("is not a field of a registration; the fields are {known}")));
        }
        if let Some(problem) = check_fields(Self::FIELDS, &mut object, "").into_iter().next() {
            return Err(problem);
        }
        let request = Self::checked(object)?;
        request.check_relations()?;
        Ok(request)
    }

    /// Takes the fields out of an object whose fields were checked one by one.
    fn checked(mut object: Map<String, Value>) -> Result<Self, Invalid> {
        let mut text = |name: &str| match object.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let model_uri = text("model_uri").unwrap_or_default();
        let token_id = TokenSymbol::parse(&text("token_id").unwrap_or_default()).map_err(|invalid| invalid.at("token_id"))?;
        let contributor_address = text("contributor_address").map(|text| Address::parse(&text)).transpose();
        let metric_direction = text("metric_direction").map(|text| text.parse()).transpose()?.unwrap_or_default();
        Ok(Self {
            location: ModelUri::parse(&model_uri)?,
            model_uri,
            token_id,
            metric_direction,
            contributor_address: contributor_address.map_err(|invalid| invalid.at("contributor_address"))?,
            model_name: text("model_name").unwrap_or_default(),
            metric_name: text("metric_name").unwrap_or_default(),
            experiment_name: text("experiment_name"),
            mlflow_run_id: text("mlflow_run_id"),
            baseline: text("baseline").map(|text| BaselineUri::parse(&text)).transpose()?,
            baseline_value: number(&object, "baseline_value"),
            current_value: number(&object, "current_value"),
            tags: object.get("tags").filter(|tags| !tags.is_null()).map(|tags| hokusai_event::read_tags(tags, "tags")).transpose()?,
            performance_data: match object.remove("performance_data") {
                Some(Value::Object(data)) => Some(data),
                _ => None,
            },
        }
        .measured())
    }

    /// Measurements may supply a missing `current_value`, as they may in a message.
    fn measured(mut self) -> Self {
        let found = self.performance_data.as_ref().and_then(|data| number(data, &self.metric_name));
        self.current_value = self.current_value.or(found);
        self
    }

    /// What no field says alone.
    fn check_relations(&self) -> Result<(), Invalid> {
        if let Some(sign) = self.model_name.chars().find(|sign| matches!(sign, '/' | ':')) {
            return Err(Invalid::new(
                "model_name",
                format!("must not contain `{sign}`, as in MLflow: the name is part of model URIs and ids"),
            ));
        }
        if let (ModelUri::Run { run_id, .. }, Some(stated)) = (&self.location, &self.mlflow_run_id)
            && run_id != stated
        {
            return Err(Invalid::new("mlflow_run_id", format!("is {stated:?}, but model_uri names the run {run_id:?}")));
        }
        if let ModelUri::Version { name, .. } | ModelUri::Alias { name, .. } = &self.location
            && *name != self.model_name
        {
            return Err(Invalid::new("model_uri", format!("names the model {name:?}, but model_name is {:?}", self.model_name)));
        }
        if self.baseline_value.is_none() && self.baseline.is_none() {
            return Err(Invalid::new("baseline_value", "is missing; give it, or name the model to compare with as `baseline`"));
        }
        let measured = self.performance_data.as_ref().and_then(|data| data.get(&self.metric_name));
        match (measured.map(|value| (value, value.as_f64())), self.current_value) {
            (Some((value, number)), Some(current)) if number != Some(current) => {
                let field = format!("performance_data.{}", self.metric_name);
                Err(Invalid::new(field, format!("is {value}, but current_value is {current}")))
            }
            _ => Ok(()),
        }
    }

    /// The values that are compared, where no MLflow can be asked for those that are missing.
    ///
    /// # Errors
    ///
    /// [`Invalid`] naming the one that is missing.
    pub(crate) fn values(&self) -> Result<Values, Invalid> {
        let without = "and there is no MLflow to read it from (MLFLOW_TRACKING_URI)";
        let baseline = self.baseline_value.ok_or_else(|| Invalid::new("baseline_value", format!("is missing, {without}")))?;
        let current = self.current_value.ok_or_else(|| Invalid::new("current_value", format!("is missing, {without}")))?;
        Ok(Values { baseline, current })
    }

    /// What the request says of the model's origin, where no MLflow can be asked.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if only MLflow could say, or if the run is missing.
    pub fn origin(&self) -> Result<Origin, Invalid> {
        let whole = || self.model_uri.clone();
        match &self.location {
            ModelUri::Run { run_id, path } => Ok(Origin { run_id: run_id.clone(), artifact_path: path.clone(), version: Version::Next }),
            ModelUri::Version { version, .. } => {
                Ok(Origin { run_id: self.stated_run()?, artifact_path: whole(), version: Version::Fixed(*version) })
            }
            ModelUri::Elsewhere(location) => {
                let run_id = match (&self.mlflow_run_id, run_in_location(location)) {
                    (Some(stated), _) => stated.clone(),
                    (None, Some(found)) => found.to_owned(),
                    (None, None) => self.stated_run()?,
                };
                Ok(Origin { run_id, artifact_path: whole(), version: Version::Next })
            }
            ModelUri::Alias { .. } | ModelUri::Logged { .. } => {
                let problem = "can only be resolved by MLflow, and none is configured (MLFLOW_TRACKING_URI): use runs:/<run id>/<path>";
                Err(Invalid::new("model_uri", problem))
            }
        }
    }

    fn stated_run(&self) -> Result<String, Invalid> {
        let problem = "is missing, and model_uri does not name the run: give it, or use runs:/<run id>/<path>";
        self.mlflow_run_id.clone().ok_or_else(|| Invalid::new("mlflow_run_id", problem))
    }

    /// A digest of the content: two requests of one identity mean the same if it is the same. Spelling (of a number, the
    /// symbol's case, the order of keys) does not count, nor does whether a value was given or read from MLflow.
    pub(crate) fn digest(&self, values: Values) -> [u8; 32] {
        let content = (
            &self.metric_name,
            values.baseline.to_bits(),
            values.current.to_bits(),
            self.metric_direction.as_str(),
            self.contributor_address.as_ref().map(|address| address.bytes()),
            &self.experiment_name,
            &self.tags,
            self.performance_data.as_ref().map(sorted),
        );
        Sha256::digest(serde_json::to_vec(&content).expect("text, numbers and their lists are JSON")).into()
    }
}

/// The two values that are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Values {
    /// The one to reach.
    pub baseline: f64,
    /// The model's.
    pub current: f64,
}

/// Where a model comes from: the part of its identity that its version hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The run.
    pub run_id: String,
    /// The artifact inside it, or the whole location if that is somewhere else.
    pub artifact_path: String,
    /// How its version is found.
    pub version: Version,
}

/// How a model's version is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// The next number of our own registry, or the one this origin already has.
    Next,
    /// This number of our own registry.
    Fixed(u32),
    /// MLflow said so.
    Given(String),
}

/// The key of an origin in the tables.
pub(crate) fn source_key(model_name: &str, origin: &Origin) -> Vec<u8> {
    let mut digest = Sha256::new();
    for part in [model_name, &origin.run_id, &origin.artifact_path] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().to_vec()
}

/// Zero is one number, whatever its sign; so are 1 and 1.0.
fn number(object: &Map<String, Value>, name: &str) -> Option<f64> {
    object.get(name).and_then(Value::as_f64).map(|number| number + 0.0)
}

/// The object with the keys of every object in it in order.
fn sorted(object: &Map<String, Value>) -> Value {
    let ordered: BTreeMap<&String, Value> = object.iter().map(|(key, value)| (key, sorted_value(value))).collect();
    Value::Object(ordered.into_iter().map(|(key, value)| (key.clone(), value)).collect())
}

fn sorted_value(value: &Value) -> Value {
    match value {
        Value::Object(object) => sorted(object),
        Value::Array(items) => Value::Array(items.iter().map(sorted_value).collect()),
        Value::Number(number) => number.as_f64().map_or_else(|| value.clone(), |number| (number + 0.0).into()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
