//! Registers the model versions whose tags in MLflow ask for it.
//!
//! A version asks by tags named `hokusai.` and a field of a registration; `hokusai.token_id` is what asks, the others say the
//! rest. Tags of the registered model count for all its versions, a version's own win. With `hokusai.alias` only the version
//! that has this alias asks. What is wrong with the tags is written back as `hokusai.error`.
//!
//! MLflow's webhooks say where to look; [`Intake::sweep`] looks everywhere, for those that never came. Both do the same, and
//! doing it twice changes nothing: a version that is registered for its token already is left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hokusai_db::Database;
use hokusai_event::TokenSymbol;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::{
    client::{MlflowClient, MlflowError, ModelVersion, Tag},
    webhook::HookEvent,
};
use crate::{
    register::{Receipt, RegisterError, Registrar},
    request::RegisterRequest,
};

/// What our tags begin with.
const PREFIX: &str = "hokusai.";
/// The tags that ask, without the prefix; each but the alias is a field of a registration.
const ASKING: [&str; 9] = [
    "token_id",
    "metric_name",
    "baseline",
    "baseline_value",
    "current_value",
    "metric_direction",
    "contributor_address",
    "experiment_name",
    "alias",
];
/// Where a wish that cannot be fulfilled is answered.
const ERROR: &str = "hokusai.error";
/// The longest answer of that sort, in characters.
const ERROR_MAX_CHARS: usize = 1_000;

/// What became of a version that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Attended {
    /// It was registered, now or by the same wish before.
    Registered {
        /// Its registration.
        registration: Box<Receipt>,
    },
    /// It is registered for the token already, by whomever.
    Known {
        /// Its registration.
        registration_id: String,
    },
    /// It asks for nothing, or not yet.
    NotAsked {
        /// What it would take.
        reason: String,
    },
    /// It asks for what cannot be; the reason stands in its tag `hokusai.error` too.
    Refused {
        /// Why.
        reason: String,
    },
}

/// See the module's description; cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    db: Database,
    registrar: Registrar,
    client: MlflowClient,
}

/// The tags that ask, without the prefix.
type Wish = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
struct Model {
    name: String,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    aliases: Vec<AliasRow>,
}

#[derive(Debug, Deserialize)]
struct AliasRow {
    alias: String,
    version: String,
}

#[derive(Debug, Deserialize)]
struct ModelAnswer {
    registered_model: Model,
}

impl Intake {
    /// Registers through `registrar`, which must ask the same MLflow for versions.
    pub fn new(db: Database, registrar: Registrar, client: MlflowClient) -> Self {
        Self { db, registrar, client }
    }

    /// Attends to what a webhook says happened.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] if MLflow or the database is away: have it sent again.
    pub async fn attend(&self, event: &HookEvent) -> Result<Attended, RegisterError> {
        let concerns = match (event.entity.as_str(), event.action.as_str()) {
            ("model_version" | "model_version_alias", "created") => true,
            ("model_version_tag", "set") => event.data.key.strip_prefix(PREFIX).is_some_and(|key| ASKING.contains(&key)),
            _ => false,
        };
        if !concerns {
            return Ok(not_asked(format!("{}.{} asks for no registration", event.entity, event.action)));
        }
        match self.look(&event.data.name, &event.data.version).await {
            Err(RegisterError::Mlflow(error)) if matches!(*error, MlflowError::NotFound { .. }) => Ok(not_asked(error.to_string())),
            looked => looked,
        }
    }

    /// Looks at every version that carries our tags, and attends to those that are not registered.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] if MLflow or the database is away.
    pub async fn sweep(&self) -> Result<u64, RegisterError> {
        let mut registered = 0;
        for (name, version) in self.candidates().await? {
            match self.look(&name, &version).await {
                Ok(Attended::Registered { .. }) => registered += 1,
                Ok(_) => {}
                Err(RegisterError::Mlflow(error)) if !matches!(*error, MlflowError::Unavailable { .. }) => {
                    tracing::warn!(%error, name, version, "a tagged model version cannot be looked at");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(registered)
    }

    /// Sweeps until shutdown, `interval` after each sweep.
    pub async fn run(self, interval: Duration, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            let Some(swept) = shutdown.run_until_cancelled(self.sweep()).await else { return };
            match swept {
                Ok(0) => {}
                Ok(registered) => tracing::info!(registered, "registered tagged model versions that no webhook had told of"),
                Err(error) => tracing::warn!(%error, "MLflow could not be swept for tagged model versions; trying again"),
            }
        }
    }

    async fn look(&self, name: &str, version: &str) -> Result<Attended, RegisterError> {
        let version = self.client.version(name, version).await?;
        let wish = self.wish(&version).await?;
        let Some(token) = wish.get("token_id") else { return Ok(not_asked("there is no tag hokusai.token_id")) };
        if let Some(alias) = wish.get("alias").filter(|alias| !version.aliases.contains(alias)) {
            return Ok(not_asked(format!("the version does not have the alias {alias}")));
        }
        if let Some(registration_id) = self.registered(token, &version).await? {
            return Ok(Attended::Known { registration_id });
        }
        if !wish.contains_key("metric_name") || !(wish.contains_key("baseline") || wish.contains_key("baseline_value")) {
            return Ok(not_asked("hokusai.metric_name and one of hokusai.baseline and hokusai.baseline_value are needed too"));
        }
        let answer = self.register(&wish, &version).await?;
        let problem = match &answer {
            Attended::Refused { reason } => Some(reason.as_str()),
            _ => None,
        };
        self.answer(&version, problem).await?;
        Ok(answer)
    }

    async fn wish(&self, version: &ModelVersion) -> Result<Wish, RegisterError> {
        let query = [("name", version.name.as_str())];
        let answer: ModelAnswer = self.client.get("registered-models/get", &query, format!("look up model {:?}", version.name)).await?;
        let mut wish = asking(&answer.registered_model.tags);
        wish.extend(asking(&version.tags));
        Ok(wish)
    }

    /// A registration of the version for the token that stands.
    async fn registered(&self, token: &str, version: &ModelVersion) -> Result<Option<String>, RegisterError> {
        let Ok(token) = TokenSymbol::parse(token) else { return Ok(None) };
        let row: Option<(String,)> = sqlx::query_as(
            "SELECT id FROM registrations
             WHERE token_key = $1 AND model_name = $2 AND model_version = $3 AND superseded_by IS NULL AND status <> 'rejected' LIMIT 1",
        )
        .bind(token.key())
        .bind(version.name.as_str())
        .bind(version.version.as_str())
        .fetch_optional(self.db.reader())
        .await
        .map_err(hokusai_db::Error::from)?;
        Ok(row.map(|(id,)| id))
    }

    async fn register(&self, wish: &Wish, version: &ModelVersion) -> Result<Attended, RegisterError> {
        let request = match request(wish, version) {
            Ok(request) => request,
            Err(invalid) => return Ok(refused(format!("{PREFIX}{invalid}"))),
        };
        match self.registrar.register(request, None, None).await {
            Ok(receipt) => Ok(Attended::Registered { registration: Box::new(receipt) }),
            Err(error @ (RegisterError::Invalid(_) | RegisterError::Conflict { .. })) => Ok(refused(error)),
            Err(RegisterError::Mlflow(error)) if !matches!(*error, MlflowError::Unavailable { .. }) => Ok(refused(error)),
            Err(error) => Err(error),
        }
    }

    /// Writes the answer to a wish into the version's tags, or takes an old one away.
    async fn answer(&self, version: &ModelVersion, problem: Option<&str>) -> Result<(), MlflowError> {
        let said = version.tags.iter().find(|tag| tag.key == ERROR).map(|tag| tag.value.as_str());
        let problem: Option<String> = problem.map(|problem| problem.chars().take(ERROR_MAX_CHARS).collect());
        match problem {
            Some(problem) if said != Some(&problem) => self.client.set_tag(&version.name, &version.version, ERROR, &problem).await,
            None if said.is_some() => self.client.delete_tag(&version.name, &version.version, ERROR).await,
            _ => Ok(()),
        }
    }

    /// Every version that may ask and is not registered for anything yet.
    async fn candidates(&self) -> Result<BTreeSet<(String, String)>, RegisterError> {
        let asking_tag = format!("tags.`{PREFIX}token_id` LIKE '%'");
        let mut found = BTreeSet::new();
        let versions: Vec<ModelVersion> = self.client.search("model-versions/search", "model_versions", &asking_tag).await?;
        found.extend(versions.into_iter().map(|version| (version.name, version.version)));
        let models: Vec<Model> = self.client.search("registered-models/search", "registered_models", &asking_tag).await?;
        for model in models {
            match asking(&model.tags).get("alias") {
                Some(alias) => {
                    let named = model.aliases.into_iter().filter(|row| row.alias == *alias);
                    found.extend(named.map(|row| (model.name.clone(), row.version)));
                }
                None => {
                    let filter = format!("name = '{}'", model.name.replace('\'', "''"));
                    let versions: Vec<ModelVersion> = self.client.search("model-versions/search", "model_versions", &filter).await?;
                    found.extend(versions.into_iter().map(|version| (version.name, version.version)));
                }
            }
        }
        let mut unregistered = BTreeSet::new();
        for (name, version) in found {
            if !self.is_registered(&name, &version).await? {
                unregistered.insert((name, version));
            }
        }
        Ok(unregistered)
    }

    async fn is_registered(&self, name: &str, version: &str) -> Result<bool, hokusai_db::Error> {
        let sql = "SELECT id FROM registrations WHERE model_name = $1 AND model_version = $2 LIMIT 1";
        let row: Option<(String,)> = sqlx::query_as(sql).bind(name).bind(version).fetch_optional(self.db.reader()).await?;
        Ok(row.is_some())
    }
}

fn asking(tags: &[Tag]) -> Wish {
    let ours = tags.iter().filter_map(|tag| Some((tag.key.strip_prefix(PREFIX)?, &tag.value)));
    ours.filter(|(key, value)| ASKING.contains(key) && !value.trim().is_empty())
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

fn request(wish: &Wish, version: &ModelVersion) -> Result<RegisterRequest, hokusai_event::Invalid> {
    let mut body = Map::new();
    for (field, text) in wish.iter().filter(|(field, _)| *field != "alias") {
        let number = field.ends_with("_value").then(|| text.parse::<f64>().ok().and_then(serde_json::Number::from_f64)).flatten();
        body.insert(field.clone(), number.map_or_else(|| Value::from(text.as_str()), Value::Number));
    }
    body.insert("model_uri".into(), format!("models:/{}/{}", version.name, version.version).into());
    body.insert("model_name".into(), version.name.as_str().into());
    RegisterRequest::from_object(body)
}

fn not_asked(reason: impl Into<String>) -> Attended {
    Attended::NotAsked { reason: reason.into() }
}

fn refused(reason: impl ToString) -> Attended {
    Attended::Refused { reason: reason.to_string() }
}
