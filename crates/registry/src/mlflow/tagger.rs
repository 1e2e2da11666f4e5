//! Shows in MLflow what became of each version: tags that say its token, verdict, status and, later, where the token is.
//!
//! What is to be shown follows from the registrations; `mlflow_tags` remembers what is. The tagger walks along the histories
//! from where it stood, a little further back, and sets what differs. So a crash, of any of the three, leaves nothing unsaid:
//! it is done again until MLflow has taken it. A version that MLflow no longer has is given up with a warning, until its
//! registration changes again. If a version is registered for several tokens, its tags show the one that changed last.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use hokusai_db::Database;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::client::{MlflowClient, MlflowError};
use crate::registrations::{Registration, Registrations};

/// Histories looked at in one query.
const PAGE: i64 = 500;
/// How far the walk goes before its place is written down again, in milliseconds.
const WRITTEN_EVERY_MS: i64 = 10_000;

/// How a tagger works.
#[derive(Debug, Clone)]
pub struct TaggerConfig {
    /// The time between two passes.
    pub interval: Duration,
    /// The same after MLflow or the database did not answer.
    pub patience: Duration,
    /// How far each pass goes back: longer than a transaction takes to commit.
    pub overlap: Duration,
}

impl Default for TaggerConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), patience: Duration::from_secs(5), overlap: Duration::from_secs(30) }
    }
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// The database did not answer.
    #[error(transparent)]
    Database(#[from] hokusai_db::Error),
    /// MLflow did not, or takes nothing from us.
    #[error(transparent)]
    Mlflow(#[from] MlflowError),
}

/// See the module's description. Any number of them may run on one database.
#[derive(Debug)]
pub struct Tagger {
    db: Database,
    client: MlflowClient,
    config: TaggerConfig,
    from_ms: Option<i64>,
    written_ms: i64,
}

type Tags = BTreeMap<String, String>;

impl Tagger {
    /// A tagger for the registrations in `db`.
    pub fn new(db: Database, client: MlflowClient, config: TaggerConfig) -> Self {
        Self { db, client, config, from_ms: None, written_ms: 0 }
    }

    /// Tags until shutdown. Outages are waited out.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut pause = self.config.interval;
        let mut said = String::new();
        while shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            // A pass that is cut off is a crash like any other.
            let Some(passed) = shutdown.run_until_cancelled(self.pass()).await else { return };
            let problem = passed.as_ref().err().map(ToString::to_string).unwrap_or_default();
            pause = if problem.is_empty() { self.config.interval } else { self.config.patience };
            if !problem.is_empty() && problem != said {
                tracing::warn!(error = problem, "model versions could not be tagged; trying until they are");
            }
            said = problem;
        }
    }

    /// One pass; answers how many versions it tagged.
    ///
    /// # Errors
    ///
    /// [`TagError`]; what was not done is done by a later pass.
    pub async fn pass(&mut self) -> Result<u64, TagError> {
        let mut tagged = 0;
        let mut at = (self.begin().await?, String::new());
        loop {
            let page: Vec<(i64, String)> = sqlx::query_as(
                "SELECT at_ms, registration_id FROM registration_history
                 WHERE at_ms > $1 OR (at_ms = $1 AND registration_id > $2) ORDER BY at_ms, registration_id LIMIT $3",
            )
            .bind(at.0)
            .bind(at.1)
            .bind(PAGE)
            .fetch_all(self.db.reader())
            .await
            .map_err(hokusai_db::Error::from)?;
            let Some(last) = page.last().cloned() else { return Ok(tagged) };
            let changed: HashSet<String> = page.into_iter().map(|(_, id)| id).collect();
            for id in changed {
                tagged += u64::from(self.show(&id).await?);
            }
            self.reached(last.0).await?;
            at = last;
        }
    }

    async fn begin(&mut self) -> Result<i64, hokusai_db::Error> {
        if let Some(from_ms) = self.from_ms {
            return Ok(from_ms);
        }
        let row: Option<(i64,)> = sqlx::query_as("SELECT at_ms FROM mlflow_tagged_until").fetch_optional(self.db.reader()).await?;
        self.written_ms = row.map_or(0, |(at_ms,)| at_ms);
        self.from_ms = Some(self.written_ms);
        Ok(self.written_ms)
    }

    async fn reached(&mut self, at_ms: i64) -> Result<(), hokusai_db::Error> {
        let overlap_ms = i64::try_from(self.config.overlap.as_millis()).unwrap_or(i64::MAX);
        let from_ms = at_ms.saturating_sub(overlap_ms).max(0);
        self.from_ms = Some(from_ms);
        if from_ms >= self.written_ms + WRITTEN_EVERY_MS {
            let sql = "INSERT INTO mlflow_tagged_until (one, at_ms) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET at_ms = excluded.at_ms";
            let mut tx = self.db.write().await?;
            sqlx::query(sql).bind(from_ms).execute(&mut *tx).await?;
            tx.commit().await?;
            self.written_ms = from_ms;
        }
        Ok(())
    }

    /// Shows one registration, if it is not shown already.
    async fn show(&self, id: &str) -> Result<bool, TagError> {
        let Some(registration) = Registrations::new(self.db.clone()).get(id).await? else { return Ok(false) };
        if !registration.document.in_mlflow || registration.superseded_by.is_some() {
            return Ok(false);
        }
        let shown = self.shown(id).await?;
        let wanted = tags(&registration);
        if shown == wanted {
            return Ok(false);
        }
        match self.set(&registration, &shown, &wanted).await {
            Ok(()) => {}
            Err(error) if is_final(&error) => {
                tracing::warn!(%error, registration_id = id, "a model version cannot be tagged");
            }
            Err(error) => return Err(error.into()),
        }
        self.note_shown(id, &wanted).await?;
        Ok(true)
    }

    async fn shown(&self, id: &str) -> Result<Tags, hokusai_db::Error> {
        let sql = "SELECT tags FROM mlflow_tags WHERE registration_id = $1";
        let row: Option<(String,)> = sqlx::query_as(sql).bind(id).fetch_optional(self.db.reader()).await?;
        Ok(row.and_then(|(tags,)| serde_json::from_str(&tags).ok()).unwrap_or_default())
    }

    async fn set(&self, registration: &Registration, shown: &Tags, wanted: &Tags) -> Result<(), MlflowError> {
        let (name, version) = (&registration.document.model_name, &registration.document.model_version);
        for key in shown.keys().filter(|key| !wanted.contains_key(*key)) {
            self.client.delete_tag(name, version, key).await?;
        }
        for (key, value) in wanted.iter().filter(|(key, value)| shown.get(*key) != Some(value)) {
            self.client.set_tag(name, version, key, value).await?;
        }
        Ok(())
    }

    async fn note_shown(&self, id: &str, tags: &Tags) -> Result<(), hokusai_db::Error> {
        let mut tx = self.db.write().await?;
        sqlx::query(
            "INSERT INTO mlflow_tags (registration_id, tags, at_ms) VALUES ($1, $2, $3)
             ON CONFLICT (registration_id) DO UPDATE SET tags = excluded.tags, at_ms = excluded.at_ms",
        )
        .bind(id)
        .bind(serde_json::to_string(tags).expect("text is JSON"))
        .bind(Timestamp::now().as_millisecond())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// What MLflow shows of a registration.
fn tags(registration: &Registration) -> Tags {
    let document = &registration.document;
    let verdict = serde_json::to_value(document.verdict).ok().and_then(|verdict| verdict.as_str().map(str::to_owned));
    let all = [
        ("hokusai.registration", Some(document.registration_id.clone())),
        ("hokusai.token", Some(document.token_id.as_str().to_owned())),
        ("hokusai.verdict", verdict),
        ("hokusai.reason", Some(document.reason.clone())),
        ("hokusai.status", Some(registration.status.to_string())),
        ("hokusai.chain_id", registration.chain_id.map(|id| id.to_string())),
        ("hokusai.token_address", registration.token_address.clone()),
        ("hokusai.transaction", registration.transaction_hash.clone()),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// Whether the same tags would be refused for ever. Refused credentials are not: somebody will correct them.
fn is_final(error: &MlflowError) -> bool {
    match error {
        MlflowError::NotFound { .. } => true,
        MlflowError::Refused { status, .. } => !matches!(status, 401 | 403 | 407),
        _ => false,
    }
}
