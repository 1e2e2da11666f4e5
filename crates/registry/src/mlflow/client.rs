//! The calls of MLflow's REST interface that registering makes, and no more.

use std::{fmt, time::Duration};

use reqwest::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use url::Url;

/// Versions asked for at once.
const PAGE: &str = "1000";
/// The longest part of an answer that is repeated in an error.
const SHOWN_CHARS: usize = 300;

/// Where MLflow is, and who we are there.
#[derive(Clone)]
pub struct MlflowSettings {
    /// `MLFLOW_TRACKING_URI`, http or https, perhaps with a path.
    pub tracking_uri: Url,
    /// `MLFLOW_TRACKING_USERNAME`.
    pub username: Option<String>,
    /// `MLFLOW_TRACKING_PASSWORD`.
    pub password: Option<String>,
    /// `MLFLOW_TRACKING_TOKEN`; used only without a username, as MLflow's own client does.
    pub token: Option<String>,
    /// How long one call may take.
    pub timeout: Duration,
}

impl MlflowSettings {
    /// Without credentials, and a timeout of 10 seconds.
    pub fn new(tracking_uri: Url) -> Self {
        Self { tracking_uri, username: None, password: None, token: None, timeout: Duration::from_secs(10) }
    }
}

impl fmt::Debug for MlflowSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MlflowSettings")
            .field("tracking_uri", &without_credentials(&self.tracking_uri).as_str())
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("timeout", &self.timeout)
            .finish()
    }
}

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
    #[error("MLFLOW_TRACKING_URI: {0}")]
    Settings(String),
}

/// A registered version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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
}

/// A run, as far as it is needed.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) artifact_uri: String,
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

#[derive(Deserialize)]
struct VersionsAnswer {
    #[serde(default)]
    model_versions: Vec<ModelVersion>,
    next_page_token: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    error_code: String,
    message: String,
}

/// One call: what it is for, and what it asks after, for its errors.
struct Call<'a> {
    method: Method,
    path: &'a str,
    query: &'a [(&'a str, &'a str)],
    body: Option<Value>,
    doing: String,
}

impl MlflowClient {
    /// Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`MlflowError::Settings`] if the address is not http or https, or holds credentials.
    pub fn new(settings: MlflowSettings) -> Result<Self, MlflowError> {
        if !matches!(settings.tracking_uri.scheme(), "http" | "https") {
            return Err(MlflowError::Settings("must begin with http:// or https://, as an MLflow server's address does".into()));
        }
        if !settings.tracking_uri.username().is_empty() || settings.tracking_uri.password().is_some() {
            let problem = "must not hold credentials: give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD";
            return Err(MlflowError::Settings(problem.into()));
        }
        let http = reqwest::Client::builder().timeout(settings.timeout).connect_timeout(settings.timeout).build();
        Ok(Self { http: http.map_err(|error| MlflowError::Settings(error.to_string()))?, settings })
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
        let doing = format!("search the versions of run {run_id:?}");
        if run_id.contains('\'') {
            let message = "a run id never contains an apostrophe".to_owned();
            return Err(MlflowError::NotFound { address: self.address(), what: format!("run {run_id:?}"), message });
        }
        let filter = format!("run_id='{run_id}'");
        let (mut versions, mut token) = (Vec::new(), String::new());
        loop {
            let query = [("filter", filter.as_str()), ("max_results", PAGE), ("page_token", token.as_str())];
            // An empty page token is refused.
            let query = if token.is_empty() { &query[..2] } else { &query[..] };
            let mut answer: VersionsAnswer = self.get("model-versions/search", query, doing.clone()).await?;
            versions.append(&mut answer.model_versions);
            match answer.next_page_token.filter(|token| !token.is_empty()) {
                Some(next) => token = next,
                None => return Ok(versions),
            }
        }
    }

    /// Makes a registered model, if there is none of that name.
    ///
    /// # Errors
    ///
    /// As MLflow says.
    pub async fn ensure_model(&self, name: &str) -> Result<(), MlflowError> {
        let made = self.post("registered-models/create", json!({ "name": name }), format!("make the registered model {name:?}")).await;
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

    pub(super) async fn run(&self, run_id: &str) -> Result<Run, MlflowError> {
        let doing = format!("look up run {run_id:?}");
        let answer: Value = self.get("runs/get", &[("run_id", run_id)], doing.clone()).await?;
        let artifact_uri = answer.pointer("/run/info/artifact_uri").and_then(Value::as_str).map(str::to_owned);
        let artifact_uri = artifact_uri.ok_or_else(|| self.unexpected(doing, "it names no artifact_uri".into()))?;
        let outputs = answer.pointer("/run/outputs/model_outputs").and_then(Value::as_array);
        let id = |output: &Value| output.get("model_id").and_then(Value::as_str).map(str::to_owned);
        // The latest step last, as MLflow itself prefers it.
        let mut models: Vec<(i64, String)> = outputs.into_iter().flatten().filter_map(|output| Some((step(output), id(output)?))).collect();
        models.sort_by_key(|(step, _)| *step);
        Ok(Run { artifact_uri, models: models.into_iter().map(|(_, id)| id).collect() })
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

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)], doing: String) -> Result<T, MlflowError> {
        self.call(Call { method: Method::GET, path, query, body: None, doing }).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: Value, doing: String) -> Result<T, MlflowError> {
        self.call(Call { method: Method::POST, path, query: &[], body: Some(body), doing }).await
    }

    async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, MlflowError> {
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

    fn unexpected(&self, doing: String, problem: String) -> MlflowError {
        MlflowError::Unexpected { address: self.address(), doing, problem }
    }
}

fn step(output: &Value) -> i64 {
    // Protocol buffers write 64-bit numbers as text.
    let step = output.get("step");
    step.and_then(|step| step.as_i64().or_else(|| step.as_str()?.parse().ok())).unwrap_or(0)
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(SHOWN_CHARS).collect()
}

fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // Both fail only for addresses that cannot hold credentials at all.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url
}
