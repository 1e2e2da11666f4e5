//! The calls of MLflow's REST interface that registering makes, and no more.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::settings::{MlflowSettings, unusable, with_tls, without_credentials};

/// What a search answers at once.
const PAGE: &str = "1000";
/// How long to wait before asking again after a transient answer; then it is for the caller to say.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
/// An answer that took so long is not asked for again.
const SLOW: Duration = Duration::from_secs(5);
/// The longest part of an answer that is repeated in an error.
const SHOWN_CHARS: usize = 300;

/// Why MLflow was of no help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MlflowError {
    /// It does not answer, or says that it cannot now. What was asked may have happened: send the request again.
    #[error("MLflow at {address} is not available: {source}")]
    Unavailable {
        /// Where, without credentials.
        address: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It does not know what was asked for.
    #[error("MLflow at {address} does not know {what}: {message}")]
    NotFound {
        /// Where, without credentials.
        address: String,
        /// What it does not know.
        what: String,
        /// What it said.
        message: String,
    },
    /// It refuses: the credentials, or the request itself.
    #[error("MLflow at {address} refused to {doing}: {status} {code} {message}")]
    Refused {
        /// Where, without credentials.
        address: String,
        /// What was asked of it.
        doing: String,
        /// The HTTP status.
        status: u16,
        /// MLflow's own code, if there was one.
        code: String,
        /// What it said.
        message: String,
    },
    /// What answered is no MLflow, or one of a version that answers otherwise.
    #[error("what answers at {address} is not the MLflow that was expected ({doing}): {problem}")]
    Unexpected {
        /// Where, without credentials.
        address: String,
        /// What was asked of it.
        doing: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The settings cannot be used.
    #[error("{variable}: {problem}")]
    Settings {
        /// Which of them.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// A registered version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ModelVersion {
    /// The registered model.
    pub name: String,
    /// The version's number.
    pub version: String,
    /// Where its artifacts came from.
    #[serde(default)]
    pub source: String,
    /// The run that made it.
    pub run_id: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<Tag>,
    /// The aliases that name it; answered when one version is asked for.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// A tag of a model or a version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tag {
    /// Its name.
    pub key: String,
    /// What it says.
    #[serde(default)]
    pub value: String,
}

/// A run, as far as it is needed.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) run_id: String,
    pub(super) artifact_uri: String,
    /// The last value of each.
    pub(super) metrics: BTreeMap<String, f64>,
    /// The logged models it put out.
    pub(super) models: Vec<String>,
}

/// A connection to MLflow; cheap to clone.
#[derive(Clone)]
pub struct MlflowClient {
    settings: MlflowSettings,
    http: reqwest::Client,
}

impl fmt::Debug for MlflowClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MlflowClient").field(&self.settings).finish()
    }
}

#[derive(Deserialize)]
struct VersionAnswer {
    model_version: ModelVersion,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    error_code: String,
    message: String,
}

/// One call: what it is for, and what it asks after, for its errors.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<Value>,
    pub(super) doing: String,
    /// Whether doing it twice is the same as once.
    pub(super) repeatable: bool,
}

impl MlflowClient {
    /// Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`MlflowError::Settings`] if the address is not http or https, or holds credentials.
    pub fn new(settings: MlflowSettings) -> Result<Self, MlflowError> {
        const URI: &str = "MLFLOW_TRACKING_URI";
        if !matches!(settings.tracking_uri.scheme(), "http" | "https") {
            return Err(unusable(URI, "must begin with http:// or https://, as an MLflow server's address does"));
        }
        if !settings.tracking_uri.username().is_empty() || settings.tracking_uri.password().is_some() {
            let problem = "must not hold credentials: give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD";
            return Err(unusable(URI, problem));
        }
        let http = reqwest::Client::builder().timeout(settings.timeout).connect_timeout(settings.timeout);
        let http = with_tls(http, &settings.tls)?.build().map_err(|error| unusable(URI, error.to_string()))?;
        Ok(Self { http, settings })
    }

    /// The server's address without credentials.
    pub fn address(&self) -> String {
        without_credentials(&self.settings.tracking_uri).as_str().trim_end_matches('/').to_owned()
    }

    /// A registered version by its number.
    ///
    /// # Errors
    ///
    /// [`MlflowError::NotFound`] if there is none.
    pub async fn version(&self, name: &str, version: &str) -> Result<ModelVersion, MlflowError> {
        let doing = format!("look up version {version} of model {name:?}");
        let answer: VersionAnswer = self.get("model-versions/get", &[("name", name), ("version", version)], doing).await?;
        Ok(answer.model_version)
    }

    /// The version that an alias names now.
    ///
    /// # Errors
    ///
    /// [`MlflowError::NotFound`] if there is none.
    pub async fn aliased(&self, name: &str, alias: &str) -> Result<ModelVersion, MlflowError> {
        let doing = format!("look up alias {alias:?} of model {name:?}");
        match self.get("registered-models/alias", &[("name", name), ("alias", alias)], doing).await {
            Ok(VersionAnswer { model_version }) => Ok(model_version),
            // For an alias that does not exist MLflow does not answer 404.
            Err(MlflowError::Refused { address, code, message, .. }) if code == "INVALID_PARAMETER_VALUE" => {
                Err(MlflowError::NotFound { address, what: format!("alias {alias:?} of model {name:?}"), message })
            }
            Err(error) => Err(error),
        }
    }

    /// Every version that came of a run, of any model.
    ///
    /// # Errors
    ///
    /// As MLflow says.
    pub async fn versions_of_run(&self, run_id: &str) -> Result<Vec<ModelVersion>, MlflowError> {
        if run_id.contains('\'') {
            let message = "a run id never contains an apostrophe".to_owned();
            return Err(MlflowError::NotFound { address: self.address(), what: format!("run {run_id:?}"), message });
        }
        self.search("model-versions/search", "model_versions", &format!("run_id='{run_id}'")).await
    }

    /// Everything that a search finds, page by page.
    pub(super) async fn search<T: DeserializeOwned>(&self, path: &str, list: &str, filter: &str) -> Result<Vec<T>, MlflowError> {
        let doing = format!("search {list} where {filter}");
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let query = [("filter", filter), ("max_results", PAGE), ("page_token", token.as_str())];
            // An empty page token is refused.
            let query = if token.is_empty() { &query[..2] } else { &query[..] };
            let mut answer: Map<String, Value> = self.get(path, query, doing.clone()).await?;
            if let Some(page) = answer.remove(list) {
                let page: Vec<T> = serde_json::from_value(page).map_err(|error| self.unexpected(doing.clone(), error.to_string()))?;
                found.extend(page);
            }
            match answer.get("next_page_token").and_then(Value::as_str).filter(|token| !token.is_empty()) {
                Some(next) => token = next.to_owned(),
                None => return Ok(found),
            }
        }
    }

    /// Makes a registered model, if there is none of that name.
    ///
    /// # Errors
    ///
    /// As MLflow says.
    pub async fn ensure_model(&self, name: &str) -> Result<(), MlflowError> {
        let doing = format!("make the registered model {name:?}");
        let made = self.call(Call::repeatable("registered-models/create", json!({ "name": name }), doing)).await;
        match made {
            Ok(Value::Object(_)) => Ok(()),
            Err(MlflowError::Refused { code, .. }) if code == "RESOURCE_ALREADY_EXISTS" => Ok(()),
            Err(error) => Err(error),
            Ok(other) => Err(self.unexpected("make a registered model".into(), format!("it answered {other}"))),
        }
    }

    /// Makes a version of a registered model. Search first: MLflow makes another each time.
    ///
    /// # Errors
    ///
    /// As MLflow says; after [`MlflowError::Unavailable`] it may have been made.
    pub async fn make_version(&self, name: &str, source: &str, run_id: &str, model_id: Option<&str>) -> Result<ModelVersion, MlflowError> {
        let mut body = json!({ "name": name, "source": source, "run_id": run_id });
        if let Some(model_id) = model_id {
            body["model_id"] = model_id.into();
        }
        let doing = format!("make a version of model {name:?}");
        let answer: VersionAnswer = self.post("model-versions/create", body, doing).await?;
        Ok(answer.model_version)
    }

    /// Sets a tag of a version.
    ///
    /// # Errors
    ///
    /// As MLflow says.
    pub async fn set_tag(&self, name: &str, version: &str, key: &str, value: &str) -> Result<(), MlflowError> {
        let body = json!({ "name": name, "version": version, "key": key, "value": value });
        let doing = format!("tag version {version} of model {name:?}");
        self.call::<Value>(Call { method: Method::POST, ..Call::repeatable("model-versions/set-tag", body, doing) }).await.map(drop)
    }

    /// Takes a tag off a version; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// As MLflow says.
    pub async fn delete_tag(&self, name: &str, version: &str, key: &str) -> Result<(), MlflowError> {
        let body = json!({ "name": name, "version": version, "key": key });
        let doing = format!("take a tag off version {version} of model {name:?}");
        let call = Call { method: Method::DELETE, ..Call::repeatable("model-versions/delete-tag", body, doing) };
        match self.call::<Value>(call).await {
            Ok(_) | Err(MlflowError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// That something has no run although one is needed.
    pub(super) fn without_run(&self, what: &str) -> MlflowError {
        MlflowError::NotFound { address: self.address(), what: format!("the run of {what}"), message: "it was made without one".into() }
    }

    pub(super) async fn run(&self, run_id: &str) -> Result<Run, MlflowError> {
        let doing = format!("look up run {run_id:?}");
        let answer: Value = self.get("runs/get", &[("run_id", run_id)], doing.clone()).await?;
        let artifact_uri = answer.pointer("/run/info/artifact_uri").and_then(Value::as_str).map(str::to_owned);
        let artifact_uri = artifact_uri.ok_or_else(|| self.unexpected(doing, "it names no artifact_uri".into()))?;
        let list = |path: &str| answer.pointer(path).and_then(Value::as_array).into_iter().flatten();
        let id = |output: &Value| output.get("model_id").and_then(Value::as_str).map(str::to_owned);
        // The latest step last, as MLflow itself prefers it.
        let outputs = list("/run/outputs/model_outputs");
        let mut models: Vec<(i64, String)> = outputs.filter_map(|output| Some((step(output), id(output)?))).collect();
        models.sort_by_key(|(step, _)| *step);
        let metric = |metric: &Value| Some((metric.get("key")?.as_str()?.to_owned(), number(metric.get("value")?)?));
        let metrics = list("/run/data/metrics").filter_map(metric).collect();
        Ok(Run { run_id: run_id.to_owned(), artifact_uri, metrics, models: models.into_iter().map(|(_, id)| id).collect() })
    }

    /// The logged model of a run that was logged under `name`: since MLflow 3, models are no longer artifacts of their run.
    pub(super) async fn logged_model_named(&self, run: &Run, name: &str) -> Result<Option<String>, MlflowError> {
        for model_id in run.models.iter().rev() {
            let model = self.logged_model(model_id).await?;
            if model.pointer("/model/info/name").and_then(Value::as_str) == Some(name) {
                return Ok(Some(model_id.clone()));
            }
        }
        Ok(None)
    }

    /// The run that a logged model came of, if it came of one.
    pub(super) async fn logged_model_run(&self, model_id: &str) -> Result<Option<String>, MlflowError> {
        let model = self.logged_model(model_id).await?;
        Ok(model.pointer("/model/info/source_run_id").and_then(Value::as_str).map(str::to_owned))
    }

    async fn logged_model(&self, model_id: &str) -> Result<Value, MlflowError> {
        self.get(&format!("logged-models/{model_id}"), &[], format!("look up logged model {model_id:?}")).await
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)], doing: String) -> Result<T, MlflowError> {
        self.call(Call { method: Method::GET, path, query, body: None, doing, repeatable: true }).await
    }

    /// Asks for something that may happen twice if it is repeated.
    async fn post<T: DeserializeOwned>(&self, path: &str, body: Value, doing: String) -> Result<T, MlflowError> {
        self.call(Call { repeatable: false, ..Call::repeatable(path, body, doing) }).await
    }

    /// Calls, and calls again after an answer that may be another one next time.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, MlflowError> {
        let mut pauses = PAUSES.iter();
        loop {
            let started = Instant::now();
            match (self.call_once(call.clone()).await, pauses.next()) {
                // Whoever let us wait that long is not asked to do it again.
                (Err(error @ MlflowError::Unavailable { .. }), Some(pause)) if call.repeatable && started.elapsed() < SLOW => {
                    tracing::debug!(%error, doing = call.doing, "MLflow is asked again");
                    tokio::time::sleep(*pause).await;
                }
                (result, _) => return result,
            }
        }
    }

    async fn call_once<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, MlflowError> {
        let url = format!("{}/api/2.0/mlflow/{}", self.address(), call.path);
        let mut request = self.http.request(call.method, url).query(call.query);
        if let Some(username) = &self.settings.username {
            request = request.basic_auth(username, self.settings.password.as_deref());
        } else if let Some(token) = &self.settings.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.unavailable(error.without_url()))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| self.unavailable(error.without_url()))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.unexpected(call.doing, format!("{error}: {}", shown(&body))));
        }
        Err(self.refused(status, &body, call.doing))
    }

    fn refused(&self, status: StatusCode, body: &[u8], doing: String) -> MlflowError {
        let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
        let message = if refusal.message.is_empty() { shown(body) } else { refusal.message };
        let address = self.address();
        if status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) {
            return self.unavailable(format!("it answered {status} when asked to {doing}: {message}"));
        }
        if status == StatusCode::NOT_FOUND && refusal.error_code.is_empty() {
            return self.unexpected(doing, format!("it answered {status}: {message}"));
        }
        if status == StatusCode::NOT_FOUND || refusal.error_code == "RESOURCE_DOES_NOT_EXIST" {
            return MlflowError::NotFound { address, what: doing.replacen("look up ", "", 1), message };
        }
        MlflowError::Refused { address, doing, status: status.as_u16(), code: refusal.error_code, message }
    }

    fn unavailable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> MlflowError {
        MlflowError::Unavailable { address: self.address(), source: source.into() }
    }

    pub(super) fn unexpected(&self, doing: String, problem: String) -> MlflowError {
        MlflowError::Unexpected { address: self.address(), doing, problem }
    }
}

impl<'a> Call<'a> {
    pub(super) fn repeatable(path: &'a str, body: Value, doing: String) -> Self {
        Self { method: Method::POST, path, query: &[], body: Some(body), doing, repeatable: true }
    }
}

/// Protocol buffers write what JSON cannot hold as text: `"NaN"`, `"Infinity"`.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

fn step(output: &Value) -> i64 {
    // Protocol buffers write 64-bit numbers as text.
    let step = output.get("step");
    step.and_then(|step| step.as_i64().or_else(|| step.as_str()?.parse().ok())).unwrap_or(0)
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(SHOWN_CHARS).collect()
}
