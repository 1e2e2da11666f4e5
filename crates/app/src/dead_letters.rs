//! Dead letters and what a person does with them, from the command line as over HTTP: what histories are told, and what is
//! not sent again.
//!
//! What the registry or the ledger knows to be deployed is not delivered again unless forced: a worker of ours would only
//! acknowledge it, a foreign one might deploy it twice.

use bytes::Bytes;
use hokusai_db::Database;
use hokusai_deploy::{DeploymentState, Deployments};
use hokusai_event::{Envelope, Event, ModelReadyToDeploy};
use hokusai_queue::{Move, Queue, Settled, dead_letter};
use hokusai_registry::{Filter, PAGE_MAX, Registrations, Status, note_step, outbox};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::cli::or_dash;

/// The shortest beginning of a hash that names an entry.
pub(crate) const HASH_MIN: usize = 8;

/// A dead letter, as far as it can be read.
#[derive(Debug, Serialize)]
pub(crate) struct Letter {
    /// The SHA-256 of its bytes, by which the HTTP API calls it too.
    pub(crate) hash: String,
    pub(crate) message_id: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) failed_at: Option<Timestamp>,
    pub(crate) attempts: Option<u32>,
    pub(crate) model_id: Option<String>,
    pub(crate) token: Option<String>,
    #[serde(skip)]
    pub(crate) entry: Bytes,
    /// What would be delivered again; `None` if it holds no message.
    #[serde(skip)]
    pub(crate) message: Option<Bytes>,
    #[serde(skip)]
    pub(crate) ready: Option<Box<ModelReadyToDeploy>>,
}

impl Letter {
    pub(crate) fn read(entry: Bytes) -> Self {
        let hash = Sha256::digest(&entry).iter().map(|byte| format!("{byte:02x}")).collect();
        let letter = dead_letter::parse(&entry).ok();
        let message = dead_letter::redrive_bytes(&entry).ok();
        let envelope = message.as_ref().and_then(|message| Envelope::parse(message).ok());
        let ready = envelope.as_ref().and_then(|envelope| match envelope.event() {
            Ok(Event::ModelReadyToDeploy(ready)) => Some(Box::new(ready)),
            _ => None,
        });
        Self {
            hash,
            message_id: envelope.map(|envelope| envelope.message_id),
            failed_at: letter.as_ref().and_then(|letter| hokusai_event::read_timestamp(&letter.failed_at).ok()),
            kind: letter.as_ref().and_then(|letter| letter.error_kind.clone()),
            attempts: letter.as_ref().and_then(|letter| letter.attempts),
            error: letter.map(|letter| letter.error),
            model_id: ready.as_ref().map(|ready| ready.model_id.clone()),
            token: ready.as_ref().map(|ready| ready.token_symbol.as_str().to_owned()),
            entry,
            message,
            ready,
        }
    }

    pub(crate) fn is_called(&self, id: &str) -> bool {
        self.message_id.as_deref() == Some(id) || (id.len() >= HASH_MIN && self.hash.starts_with(&id.to_ascii_lowercase()))
    }

    pub(crate) fn name(&self) -> String {
        self.message_id.clone().unwrap_or_else(|| self.hash[..16].to_owned())
    }
}

/// What became of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Moved {
    Done,
    /// Somebody was faster.
    Gone,
    /// It holds no message that could be delivered again.
    NotAMessage,
    /// Not sent again, for what this says.
    AlreadyDeployed(String),
}

/// Who moves dead letters of which queue, and the database that keeps the histories.
pub(crate) struct Hand<'a> {
    pub(crate) queue: &'a dyn Queue,
    pub(crate) db: &'a Database,
    pub(crate) by: &'a str,
}

impl Hand<'_> {
    /// Why a letter must not be delivered again, if that is so.
    pub(crate) async fn objection(&self, letter: &Letter, force: bool) -> anyhow::Result<Option<Moved>> {
        if letter.message.is_none() {
            return Ok(Some(Moved::NotAMessage));
        }
        match &letter.ready {
            Some(ready) if !force => Ok(deployed(self.db, ready).await?.map(Moved::AlreadyDeployed)),
            _ => Ok(None),
        }
    }

    /// Back into main, its counters reset. The history is told first: it may be handled at once.
    pub(crate) async fn redrive(&self, letter: &Letter, force: bool) -> anyhow::Result<Moved> {
        if let Some(objection) = self.objection(letter, force).await? {
            return Ok(objection);
        }
        let Some(with) = letter.message.clone() else { return Ok(Moved::NotAMessage) };
        let detail = json!({"queue": self.queue.name(), "by": self.by, "force": force});
        self.note(letter, Some(Status::Queued), "redriven", detail).await?;
        self.settle(letter, Move::Redrive { entry: letter.entry.clone(), with }, "redriven").await
    }

    /// Away for good.
    pub(crate) async fn discard(&self, letter: &Letter, reason: &str) -> anyhow::Result<Moved> {
        let moved = self.settle(letter, Move::Discard { entry: letter.entry.clone() }, "discarded").await?;
        if moved == Moved::Done {
            self.note(letter, None, "discarded", json!({"queue": self.queue.name(), "by": self.by, "reason": reason})).await?;
        }
        Ok(moved)
    }

    async fn settle(&self, letter: &Letter, change: Move, what: &'static str) -> anyhow::Result<Moved> {
        let moved = if self.queue.settle(&[change]).await? == [Settled::Done] { Moved::Done } else { Moved::Gone };
        tracing::info!(
            queue = self.queue.name(),
            message_id = letter.message_id,
            hash = letter.hash,
            by = self.by,
            what,
            ?moved,
            "dead letter"
        );
        Ok(moved)
    }

    /// Into the registration's history. What is discarded is finished: no relay shall bring it again.
    async fn note(&self, letter: &Letter, status: Option<Status>, step: &str, detail: Value) -> anyhow::Result<()> {
        let Some(message_id) = &letter.message_id else { return Ok(()) };
        let mut tx = self.db.write().await?;
        let ours = note_step(&mut tx, message_id, status, step, &detail).await?;
        if ours && status.is_none() {
            outbox::finish(&mut tx, self.queue.name(), message_id, Timestamp::now()).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// What says that a model version is deployed already, by the registrations or the ledger of this database.
pub(crate) async fn deployed(db: &Database, ready: &ModelReadyToDeploy) -> anyhow::Result<Option<String>> {
    let filter = Filter {
        status: Some(Status::Deployed),
        token: Some(ready.token_symbol.as_str().to_owned()),
        model: Some(ready.model_name.clone()),
        limit: PAGE_MAX,
        ..Filter::default()
    };
    let registered = Registrations::new(db.clone()).list(&filter).await?;
    if let Some(one) = registered.iter().find(|one| one.document.model_version == ready.model_version) {
        return Ok(Some(format!("registration {} is deployed at {}", one.document.registration_id, or_dash(one.token_address.as_ref()))));
    }
    let filter = hokusai_deploy::Filter {
        state: Some(DeploymentState::Final),
        symbol: Some(ready.token_symbol.as_str().to_owned()),
        limit: Some(10_000),
        ..hokusai_deploy::Filter::default()
    };
    let deployments = Deployments::new(db.clone()).list(&filter).await?;
    let same = |request: &hokusai_deploy::token::TokenRequest| {
        request.model_name == ready.model_name && request.model_version == ready.model_version
    };
    let found = deployments.iter().find(|deployment| same(&deployment.request));
    Ok(found.map(|deployment| format!("deployment {} is final, token {}", deployment.id, deployment.token_address)))
}
