//! `hokusai queue dlq`: what was given up, and what becomes of it.
//!
//! Redriving puts the original back into main with its counters at zero. What the registry or the ledger knows to be
//! deployed is not sent again unless forced: a worker of ours would only acknowledge it, a foreign one might deploy it twice.

use anyhow::bail;
use bytes::Bytes;
use clap::{Args, Subcommand};
use hokusai_db::Database;
use hokusai_deploy::{DeploymentState, Deployments};
use hokusai_event::{Envelope, Event, ModelReadyToDeploy};
use hokusai_queue::{Move, Queue, Settled, State, dead_letter};
use hokusai_registry::{Filter, PAGE_MAX, Registrations, Status, note_step, outbox};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Outcome, QueueName,
    output::{Format, or_dash, table},
    queue::{Pace, Who, ago, parse_length, remind, show},
};
use crate::{assembly::Assembly, config::Env};

/// Dead letters read at once.
const PAGE: usize = 500;
/// The shortest beginning of a hash that names an entry.
const HASH_MIN: usize = 8;

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, the longest there first
    List {
        #[command(flatten)]
        selection: Selection,
        /// How many to show
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
    /// Show one with all it holds
    Show {
        /// Its message id, or the hash that `list` shows (the first 8 signs will do)
        id: String,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
    /// Deliver dead letters again, their counters reset; shows what it would do unless told to --execute
    Redrive {
        #[command(flatten)]
        selection: Selection,
        /// At most so many in a second
        #[arg(long, default_value_t = 50.0)]
        rate: f64,
        /// Do it
        #[arg(long)]
        execute: bool,
        /// Deliver also what is deployed already
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
    /// Throw dead letters away for good; shows what it would do unless told to --execute
    Discard {
        #[command(flatten)]
        selection: Selection,
        /// Why, for the registration's history
        #[arg(long)]
        reason: String,
        /// Do it
        #[arg(long)]
        execute: bool,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
}

/// Which dead letters are meant: every part that is given must hold.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Message ids, or hashes as `list` shows them (the first 8 signs will do)
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Only those of this error kind, such as retries_exhausted, expired, refused, unparsable
    #[arg(long)]
    kind: Option<String>,
    /// Only those that ask for this token
    #[arg(long, value_name = "SYMBOL")]
    token: Option<String>,
    /// Only those given up longer ago than this, such as 15m, 2h, 7d
    #[arg(long, value_name = "TIME", value_parser = parse_length)]
    older_than: Option<SignedDuration>,
    /// Only those given up more recently than this
    #[arg(long, value_name = "TIME", value_parser = parse_length)]
    newer_than: Option<SignedDuration>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl Selection {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.kind.is_none() && self.token.is_none() && self.older_than.is_none() && self.newer_than.is_none()
    }

    /// What changes something must be told what to change.
    fn demand(&self) -> anyhow::Result<()> {
        if self.is_empty() && !self.all {
            bail!("say which: ids, --kind, --token, --older-than, --newer-than, or --all");
        }
        Ok(())
    }

    fn holds(&self, letter: &Letter, now: Timestamp) -> bool {
        let age = letter.failed_at.map(|at| now.duration_since(at));
        (self.ids.is_empty() || self.ids.iter().any(|id| letter.is_called(id)))
            && self.kind.as_ref().is_none_or(|kind| letter.kind.as_ref() == Some(kind))
            && self.token.as_ref().is_none_or(|token| letter.token.as_ref().is_some_and(|symbol| symbol.eq_ignore_ascii_case(token)))
            && self.older_than.is_none_or(|least| age.is_some_and(|age| age >= least))
            && self.newer_than.is_none_or(|most| age.is_some_and(|age| age <= most))
    }
}

/// A dead letter, as far as it can be read.
#[derive(Debug, Serialize)]
struct Letter {
    /// The SHA-256 of its bytes, by which the HTTP API calls it too.
    hash: String,
    message_id: Option<String>,
    kind: Option<String>,
    error: Option<String>,
    failed_at: Option<Timestamp>,
    attempts: Option<u32>,
    model_id: Option<String>,
    token: Option<String>,
    #[serde(skip)]
    entry: Bytes,
    /// What would be delivered again; `None` if it holds no message.
    #[serde(skip)]
    message: Option<Bytes>,
    #[serde(skip)]
    ready: Option<Box<ModelReadyToDeploy>>,
}

impl Letter {
    fn read(entry: Bytes) -> Self {
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

    fn is_called(&self, id: &str) -> bool {
        self.message_id.as_deref() == Some(id) || (id.len() >= HASH_MIN && self.hash.starts_with(&id.to_ascii_lowercase()))
    }

    fn name(&self) -> String {
        self.message_id.clone().unwrap_or_else(|| self.hash[..16].to_owned())
    }
}

/// Reads all dead letters before any is moved, because moving shifts the others.
async fn select(queue: &dyn Queue, selection: &Selection) -> anyhow::Result<Vec<Letter>> {
    let now = Timestamp::now();
    let mut letters = Vec::new();
    loop {
        let page = queue.peek(State::Dlq, letters.len(), PAGE).await?;
        let last = page.len() < PAGE;
        letters.extend(page.into_iter().map(Letter::read));
        if last {
            break;
        }
    }
    for id in &selection.ids {
        anyhow::ensure!(letters.iter().any(|letter| letter.is_called(id)), "no dead letter of {} is called {id}", queue.name());
    }
    letters.retain(|letter| selection.holds(letter, now));
    Ok(letters)
}

pub(crate) async fn run(command: DlqCommand, env: &Env<'_>) -> anyhow::Result<Outcome> {
    match command {
        DlqCommand::List { selection, limit, queue, format } => {
            let queue = Assembly::open_queues(env).await?.queue(queue.queue.as_deref())?;
            let mut letters = select(&*queue, &selection).await?;
            letters.truncate(limit);
            format.print(&letters, |letters| list(letters))?;
            Ok(Outcome::Done)
        }
        DlqCommand::Show { id, queue, format } => {
            let queue = Assembly::open_queues(env).await?.queue(queue.queue.as_deref())?;
            let one = Selection { ids: vec![id], kind: None, token: None, older_than: None, newer_than: None, all: false };
            for letter in select(&*queue, &one).await? {
                let message = dead_letter::parse(&letter.entry).map_or(Value::Null, |read| show(&read.original));
                let shown = json!({"letter": letter, "entry": show(&letter.entry), "message": message});
                format.print(&shown, |shown| format!("{shown:#}"))?;
            }
            Ok(Outcome::Done)
        }
        DlqCommand::Redrive { selection, rate, execute, force, who, queue, format } => {
            selection.demand()?;
            let (desk, letters) = Desk::open(queue, &selection, who, env).await?;
            desk.redrive(letters, Pace::new(rate)?, execute, force, format).await
        }
        DlqCommand::Discard { selection, reason, execute, who, queue, format } => {
            selection.demand()?;
            let (desk, letters) = Desk::open(queue, &selection, who, env).await?;
            desk.discard(letters, &reason, execute, format).await
        }
    }
}

fn list(letters: &[Letter]) -> String {
    if letters.is_empty() {
        return "no dead letters".into();
    }
    let now = Timestamp::now();
    let rows = letters.iter().map(|letter| {
        let error: String = letter.error.clone().unwrap_or_default().chars().take(80).collect();
        let age = letter.failed_at.map(|at| ago(at, now));
        let start = letter.hash[..HASH_MIN].to_owned();
        vec![
            start,
            letter.name(),
            or_dash(letter.kind.as_ref()),
            or_dash(letter.token.as_ref()),
            or_dash(letter.attempts),
            or_dash(age),
            error,
        ]
    });
    table(&["hash", "message", "kind", "token", "deliveries", "age", "error"], rows)
}

/// What became, or would become, of one dead letter.
#[derive(Debug, Serialize)]
struct Fate {
    hash: String,
    message_id: Option<String>,
    /// `would_redrive`, `redriven`, `would_discard`, `discarded`, `already_deployed`, `not_a_message`, `gone`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Fate {
    fn of(letter: &Letter, outcome: &'static str, detail: Option<String>) -> Self {
        Self { hash: letter.hash.clone(), message_id: letter.message_id.clone(), outcome, detail }
    }
}

/// Where dead letters are moved by hand.
struct Desk {
    queue: std::sync::Arc<dyn Queue>,
    db: Database,
    by: String,
}

impl Desk {
    async fn open(queue: QueueName, selection: &Selection, who: Who, env: &Env<'_>) -> anyhow::Result<(Self, Vec<Letter>)> {
        let assembly = Assembly::open(env).await?;
        let queue = assembly.queue(queue.queue.as_deref())?;
        let letters = select(&*queue, selection).await?;
        Ok((Self { queue, db: assembly.database()?.clone(), by: who.name(env) }, letters))
    }

    async fn redrive(&self, letters: Vec<Letter>, mut pace: Pace, execute: bool, force: bool, format: Format) -> anyhow::Result<Outcome> {
        let mut fates = Vec::new();
        for letter in &letters {
            let Some(with) = letter.message.clone() else {
                fates.push(Fate::of(letter, "not_a_message", letter.error.clone()));
                continue;
            };
            let deployed = match &letter.ready {
                Some(ready) if !force => deployed(&self.db, ready).await?,
                _ => None,
            };
            if deployed.is_some() {
                fates.push(Fate::of(letter, "already_deployed", deployed));
            } else if execute {
                pace.next().await;
                self.note(letter, Some(Status::Queued), "redriven", json!({"queue": self.queue.name(), "by": self.by, "force": force}))
                    .await?;
                let change = Move::Redrive { entry: letter.entry.clone(), with };
                fates.push(self.settle(letter, change, "redriven").await?);
            } else {
                fates.push(Fate::of(letter, "would_redrive", letter.error.clone()));
            }
        }
        self.tell(&fates, execute, format)
    }

    async fn discard(&self, letters: Vec<Letter>, reason: &str, execute: bool, format: Format) -> anyhow::Result<Outcome> {
        let mut fates = Vec::new();
        for letter in &letters {
            if !execute {
                fates.push(Fate::of(letter, "would_discard", letter.error.clone()));
                continue;
            }
            let change = Move::Discard { entry: letter.entry.clone() };
            let fate = self.settle(letter, change, "discarded").await?;
            if fate.outcome == "discarded" {
                self.note(letter, None, "discarded", json!({"queue": self.queue.name(), "by": self.by, "reason": reason})).await?;
            }
            fates.push(fate);
        }
        self.tell(&fates, execute, format)
    }

    async fn settle(&self, letter: &Letter, change: Move, done: &'static str) -> anyhow::Result<Fate> {
        let settled = self.queue.settle(&[change]).await?;
        let outcome = if settled == [Settled::Done] { done } else { "gone" };
        tracing::info!(queue = self.queue.name(), message_id = letter.message_id, hash = letter.hash, by = self.by, outcome, "dead letter");
        Ok(Fate::of(letter, outcome, None))
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

    fn tell(&self, fates: &[Fate], execute: bool, format: Format) -> anyhow::Result<Outcome> {
        let count = |outcome: &str| fates.iter().filter(|fate| fate.outcome == outcome).count();
        if execute {
            let (redriven, discarded) = (count("redriven"), count("discarded"));
            tracing::warn!(queue = self.queue.name(), by = self.by, redriven, discarded, "dead letters were moved by hand");
        }
        let told = json!({"queue": self.queue.name(), "executed": execute, "letters": fates});
        format.print(&told, |_| {
            if fates.is_empty() {
                return "no dead letter is meant by this".into();
            }
            let rows = fates.iter().map(|fate| {
                let name = fate.message_id.clone().unwrap_or_else(|| fate.hash[..16].to_owned());
                vec![name, fate.outcome.replace('_', " "), fate.detail.clone().unwrap_or_default().chars().take(100).collect()]
            });
            table(&["message", "what", ""], rows)
        })?;
        remind(execute, format)?;
        Ok(Outcome::Done)
    }
}

/// What says that a model version is deployed already, by the registrations or the ledger of this database.
pub(super) async fn deployed(db: &Database, ready: &ModelReadyToDeploy) -> anyhow::Result<Option<String>> {
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
