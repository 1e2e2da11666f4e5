//! MLflow, as far as registering needs it: it resolves where a model is, and numbers its versions.
//!
//! Before MLflow is asked for a version, the intent to have one is committed. A version is searched for by run and source
//! before one is made, and again after: if two processes made one at once, both take the lower. So whatever crashes in between,
//! the repeated request ends with the same version. What may be asked twice is asked again after a transient answer (`client`);
//! making a version is not, whoever registers sends the request again.
//!
//! Values that a request leaves out are read from runs (`metric`). If the version is registered for the token already, they
//! are those of that registration: an alias that has moved since does not make the same request another one.
//! [`Tagger`] shows in MLflow what became of each version; [`Intake`] registers versions whose tags ask for it.

mod client;
mod intake;
mod metric;
mod settings;
mod tagger;
mod webhook;

use std::sync::Arc;

use hokusai_db::Database;
use hokusai_event::{Invalid, TokenSymbol};
use jiff::Timestamp;
use tokio::sync::Mutex;

use self::client::Run;
pub use self::{
    client::{MlflowClient, MlflowError, ModelVersion, Tag},
    intake::{Attended, Intake},
    settings::{MlflowSettings, MlflowTls},
    tagger::{TagError, Tagger, TaggerConfig},
    webhook::{Connected, Forged, Headers, HookData, HookEvent, WINDOW, is_known, remember, verify},
};
use crate::{
    model_uri::ModelUri,
    register::RegisterError,
    request::{Origin, RegisterRequest, Values, Version, source_key},
};

/// Requests of one origin take turns within a process; those of different origins seldom share a lane.
const LANES: usize = 64;

/// MLflow as the one who numbers versions; cheap to clone.
#[derive(Debug, Clone)]
pub struct Mlflow {
    client: MlflowClient,
    lanes: Arc<[Mutex<()>]>,
}

/// What is to become a version: the run, and the sources that its versions may have, the first of which a new one gets.
struct Wanted {
    origin: Origin,
    sources: Vec<String>,
    logged_model: Option<String>,
}

impl Mlflow {
    /// With the server that `client` talks to.
    pub fn new(client: MlflowClient) -> Self {
        Self { client, lanes: (0..LANES).map(|_| Mutex::new(())).collect() }
    }

    /// The server that is asked.
    pub fn client(&self) -> &MlflowClient {
        &self.client
    }

    /// Finds or makes the version that `request` speaks of, and the values that it leaves to MLflow.
    pub(crate) async fn register(&self, db: &Database, request: &RegisterRequest) -> Result<(Origin, Values), RegisterError> {
        let mut origin = self.locate(request).await?;
        if origin.version == Version::Next
            && let Some(version) = resolved(db, &source_key(&request.model_name, &origin)).await?
        {
            origin.version = Version::Given(version);
        }
        if let Some(values) = metric::registered(db, request, &origin).await? {
            return Ok((origin, values));
        }
        let run = self.known_run(&origin.run_id, request).await?;
        let values = metric::values(&self.client, request, run.as_ref()).await?;
        if origin.version == Version::Next {
            origin = self.version_of(db, request, origin, run.as_ref()).await?;
        }
        Ok((origin, values))
    }

    async fn locate(&self, request: &RegisterRequest) -> Result<Origin, RegisterError> {
        match &request.location {
            ModelUri::Version { name, version } => self.existing(self.client.version(name, &version.to_string()).await, request),
            ModelUri::Alias { name, alias } => self.existing(self.client.aliased(name, alias).await, request),
            ModelUri::Logged { model_id } => self.logged(model_id, request).await,
            ModelUri::Run { .. } | ModelUri::Elsewhere(_) => Ok(request.origin()?),
        }
    }

    /// The run; `None` if MLflow knows none by that id and `model_uri` does not insist that it does.
    async fn known_run(&self, run_id: &str, request: &RegisterRequest) -> Result<Option<Run>, MlflowError> {
        match self.client.run(run_id).await {
            Ok(run) => Ok(Some(run)),
            Err(MlflowError::NotFound { .. }) if !matches!(request.location, ModelUri::Run { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn existing(&self, version: Result<ModelVersion, MlflowError>, request: &RegisterRequest) -> Result<Origin, RegisterError> {
        let version = version?;
        let run_id = agreed_run(version.run_id, request)?;
        Ok(Origin { run_id, artifact_path: request.model_uri.clone(), version: Version::Given(version.version) })
    }

    async fn logged(&self, model_id: &str, request: &RegisterRequest) -> Result<Origin, RegisterError> {
        let run_id = agreed_run(self.client.logged_model_run(model_id).await?, request)?;
        Ok(Origin { run_id, artifact_path: request.model_uri.clone(), version: Version::Next })
    }

    /// The version of `origin`, from our own tables if they know it by now.
    async fn version_of(
        &self,
        db: &Database,
        request: &RegisterRequest,
        origin: Origin,
        run: Option<&Run>,
    ) -> Result<Origin, RegisterError> {
        let key = source_key(&request.model_name, &origin);
        let lane = usize::from(key[0]) % LANES;
        let _turn = self.lanes[lane].lock().await;
        if let Some(version) = resolved(db, &key).await? {
            return Ok(Origin { version: Version::Given(version), ..origin });
        }
        record_intent(db, &key, &request.model_name, &request.token_id, &origin).await?;
        let wanted = self.wanted(request, origin, run).await?;
        let version = self.find_or_make(&request.model_name, &wanted).await?;
        Ok(Origin { version: Version::Given(version), ..wanted.origin })
    }

    async fn wanted(&self, request: &RegisterRequest, origin: Origin, run: Option<&Run>) -> Result<Wanted, RegisterError> {
        match (&request.location, run) {
            (ModelUri::Run { path, .. }, Some(run)) => {
                let artifact = format!("{}/{path}", run.artifact_uri.trim_end_matches('/'));
                let logged_model = self.client.logged_model_named(run, path).await?;
                let logged = logged_model.iter().map(|model_id| format!("models:/{model_id}"));
                let sources = logged.chain([artifact, request.model_uri.clone()]).collect();
                Ok(Wanted { origin, sources, logged_model })
            }
            (ModelUri::Logged { model_id }, _) => {
                Ok(Wanted { origin, sources: vec![format!("models:/{model_id}")], logged_model: Some(model_id.clone()) })
            }
            _ => Ok(Wanted { origin, sources: vec![request.model_uri.clone()], logged_model: None }),
        }
    }

    async fn find_or_make(&self, model_name: &str, wanted: &Wanted) -> Result<String, MlflowError> {
        if let Some(version) = self.lowest(model_name, wanted).await? {
            return Ok(version);
        }
        self.client.ensure_model(model_name).await?;
        let (source, run_id) = (&wanted.sources[0], &wanted.origin.run_id);
        let made = self.client.make_version(model_name, source, run_id, wanted.logged_model.as_deref()).await?;
        Ok(self.lowest(model_name, wanted).await?.unwrap_or(made.version))
    }

    async fn lowest(&self, model_name: &str, wanted: &Wanted) -> Result<Option<String>, MlflowError> {
        let versions = self.client.versions_of_run(&wanted.origin.run_id).await?;
        let ours = versions.into_iter().filter(|version| version.name == model_name && wanted.sources.contains(&version.source));
        Ok(ours.map(|version| version.version).min_by_key(|version| version.parse::<u64>().unwrap_or(u64::MAX)))
    }
}

/// The run that MLflow names, which must be the one that the request names, if both do.
fn agreed_run(known: Option<String>, request: &RegisterRequest) -> Result<String, Invalid> {
    match (known.filter(|run| !run.is_empty()), &request.mlflow_run_id) {
        (Some(known), Some(stated)) if known != *stated => {
            Err(Invalid::new("mlflow_run_id", format!("is {stated:?}, but in MLflow model_uri belongs to the run {known:?}")))
        }
        (Some(known), _) => Ok(known),
        (None, Some(stated)) => Ok(stated.clone()),
        (None, None) => Err(Invalid::new("mlflow_run_id", "is missing, and MLflow does not know the run of model_uri")),
    }
}

/// The version, if it is known already.
fn resolved_version(origin: &Origin) -> Option<&str> {
    match &origin.version {
        Version::Given(version) => Some(version),
        Version::Next | Version::Fixed(_) => None,
    }
}

async fn resolved(db: &Database, source_key: &[u8]) -> Result<Option<String>, hokusai_db::Error> {
    let sql = "SELECT model_version FROM intents WHERE source_key = $1 AND model_version IS NOT NULL LIMIT 1";
    let row: Option<(String,)> = sqlx::query_as(sql).bind(source_key).fetch_optional(db.reader()).await?;
    Ok(row.map(|(version,)| version))
}

async fn record_intent(
    db: &Database,
    source_key: &[u8],
    model_name: &str,
    token: &TokenSymbol,
    origin: &Origin,
) -> Result<(), hokusai_db::Error> {
    let mut tx = db.write().await?;
    sqlx::query(
        "INSERT INTO intents (source_key, token_key, model_name, run_id, artifact_path, created_ms) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
    )
    .bind(source_key)
    .bind(token.key())
    .bind(model_name)
    .bind(origin.run_id.as_str())
    .bind(origin.artifact_path.as_str())
    .bind(Timestamp::now().as_millisecond())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}
