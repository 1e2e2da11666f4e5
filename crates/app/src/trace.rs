//! The answer to "where is my model": everything that is known of it on one timeline, and at its end what it waits for.
//!
//! What happened comes from the registration's history, which every part writes in the transaction that makes it true. Where
//! it stands now is asked of those who hold it: the outbox, the queues, the ledger. Only reads; a queue that does not answer
//! is said, and spoils nothing else.

mod standing;

use anyhow::Context as _;
use hokusai_db::Database;
use hokusai_deploy::{Deployment, Deployments, Filter};
use hokusai_event::Timestamp;
use hokusai_queue::{Pause, Queue, State};
use hokusai_registry::{HistoryRow, Registration, Registrations, Status, Whereabouts, whereabouts};
use serde::Serialize;
use serde_json::Value;

pub(crate) use standing::Standing;

use crate::assembly::Queues;

/// Timelines shown at most.
const TIMELINES: u32 = 20;
/// Entries of each state of a queue that are looked through, those to be taken next first.
const LOOKED_THROUGH: usize = 20_000;
const PAGE: usize = 500;

/// One model version's way.
#[derive(Debug, Serialize)]
pub(crate) struct Timeline {
    /// None for a message that was published by hand.
    pub(crate) registration_id: Option<String>,
    pub(crate) model_id: Option<String>,
    pub(crate) status: Option<Status>,
    pub(crate) message_id: Option<String>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) token_address: Option<String>,
    pub(crate) transaction_hash: Option<String>,
    /// What happened, oldest first.
    pub(crate) steps: Vec<Step>,
    /// Where its message is.
    pub(crate) places: Vec<Place>,
    /// What the ledger here holds for it.
    pub(crate) deployments: Vec<Deployment>,
    #[serde(flatten)]
    pub(crate) standing: Standing,
}

/// Something that happened.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) at: Timestamp,
    pub(crate) what: String,
    pub(crate) detail: Value,
}

impl From<HistoryRow> for Step {
    fn from(HistoryRow { at, step, detail, .. }: HistoryRow) -> Self {
        Self { at, what: step, detail }
    }
}

/// A queue and the message.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Place {
    pub(crate) queue: String,
    /// Whether the relay has brought it there, by its note; true for what was found there.
    pub(crate) published: bool,
    /// Where it lies: main, processing, delayed or dlq.
    pub(crate) state: Option<State>,
    /// Failed attempts so far.
    pub(crate) retry_count: Option<u64>,
    /// Since when the consumers are done with it.
    pub(crate) finished_at: Option<Timestamp>,
    /// The pause that is in force.
    pub(crate) paused: Option<Pause>,
    /// Why the relay publishes nothing there.
    pub(crate) relay_stopped: Option<String>,
    /// Why the queue could not be asked.
    pub(crate) error: Option<String>,
}

/// Everything that `what` may mean: a registration, a model, a token, a message or a transaction.
pub(crate) async fn trace(what: &str, db: &Database, queues: &Queues, default_queue: &str) -> anyhow::Result<Vec<Timeline>> {
    let registrations = Registrations::new(db.clone());
    let mut found = registrations.find(what, TIMELINES).await?;
    let by_transaction = Filter { transaction: Some(what.to_owned()), ..Filter::default() };
    for deployment in Deployments::new(db.clone()).list(&by_transaction).await? {
        let registration = registrations.by_message(&deployment.request.message_id).await?;
        let known = |one: &Registration| found.iter().any(|other| other.document.registration_id == one.document.registration_id);
        found.extend(registration.filter(|one| !known(one)));
    }
    let looking = Looking { db, queues, default_queue };
    let mut timelines = Vec::new();
    for registration in found {
        let history = registrations.history(&registration.document.registration_id).await?;
        timelines.push(looking.registration(registration, history).await?);
    }
    if timelines.is_empty() {
        timelines.extend(looking.message(what).await?);
    }
    Ok(timelines)
}

/// Where one looks.
struct Looking<'a> {
    db: &'a Database,
    queues: &'a Queues,
    default_queue: &'a str,
}

impl Looking<'_> {
    async fn registration(&self, registration: Registration, history: Vec<HistoryRow>) -> anyhow::Result<Timeline> {
        let document = &registration.document;
        let (mut places, mut deployments) = (Vec::new(), Vec::new());
        if let Some(message_id) = &document.message_id {
            places = self.places(message_id).await?;
            deployments = self.deployments(message_id).await?;
        }
        let since = history.last().map_or(registration.updated_at, |last| last.at);
        let standing = Standing::of(&registration, since, &places, deployments.last());
        Ok(Timeline {
            registration_id: Some(document.registration_id.clone()),
            model_id: Some(document.model_id.clone()),
            status: Some(registration.status),
            message_id: document.message_id.clone(),
            correlation_id: Some(document.correlation_id.clone()),
            token_address: registration.token_address.clone(),
            transaction_hash: registration.transaction_hash.clone(),
            steps: history.into_iter().map(Step::from).collect(),
            places,
            deployments,
            standing,
        })
    }

    /// A message that belongs to no registration here: published by hand, or by somebody else's producer.
    async fn message(&self, message_id: &str) -> anyhow::Result<Option<Timeline>> {
        let places = self.places(message_id).await?;
        let deployments = self.deployments(message_id).await?;
        if deployments.is_empty() && places.iter().all(|place| place.state.is_none()) {
            return Ok(None);
        }
        let deployment = deployments.last();
        Ok(Some(Timeline {
            registration_id: None,
            model_id: deployment.map(|deployment| deployment.request.model_id.clone()),
            status: None,
            message_id: Some(message_id.to_owned()),
            correlation_id: deployment.map(|deployment| deployment.request.correlation_id.clone()),
            token_address: deployment.map(|deployment| deployment.token_address.to_string()),
            transaction_hash: deployment.and_then(|deployment| deployment.transaction_hash).map(|hash| hash.to_string()),
            steps: vec![],
            standing: Standing::of_message(message_id, &places, deployment),
            places,
            deployments,
        }))
    }

    async fn deployments(&self, message_id: &str) -> anyhow::Result<Vec<Deployment>> {
        let filter = Filter { message_id: Some(message_id.to_owned()), ..Filter::default() };
        Ok(Deployments::new(self.db.clone()).list(&filter).await?)
    }

    /// Each queue that has, had or is to have the message.
    async fn places(&self, message_id: &str) -> anyhow::Result<Vec<Place>> {
        let known = whereabouts(self.db, message_id).await.context("the outbox cannot be read")?;
        let mut places = Vec::new();
        for known in known.iter().filter(|known| known.queue.is_some()) {
            places.push(self.look(known, message_id).await);
        }
        if known.is_empty() {
            let anywhere = Whereabouts {
                committed_ms: 0,
                queue: Some(self.default_queue.to_owned()),
                published: false,
                stopped: None,
                finished_ms: None,
                swept: false,
            };
            places.push(self.look(&anywhere, message_id).await);
        }
        Ok(places)
    }

    async fn look(&self, known: &Whereabouts, message_id: &str) -> Place {
        let queue = known.queue.clone().unwrap_or_default();
        let finished_at = known.finished_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(Timestamp::new);
        let mut place = Place {
            queue: queue.clone(),
            published: known.published,
            finished_at,
            relay_stopped: known.stopped.clone(),
            ..Place::default()
        };
        if let Err(error) = self.look_into(&mut place, message_id).await {
            tracing::debug!(queue, error = &error as &dyn std::error::Error, "a queue cannot be looked into");
            place.error = Some(crate::http::advice(&error).to_owned());
        }
        place
    }

    async fn look_into(&self, place: &mut Place, message_id: &str) -> Result<(), hokusai_queue::Error> {
        let queue = self.queues.open(&place.queue)?;
        if let Some((state, entry)) = find(&*queue, message_id).await? {
            place.state = Some(state);
            place.published = true;
            place.retry_count = entry.get("retry_count").and_then(Value::as_u64);
        }
        if let Some(upkeep) = queue.upkeep() {
            place.paused = upkeep.pause().await?;
        }
        Ok(())
    }
}

/// The entry that carries a message, and where it lies. Processing and delayed come last: what moves on while one looks is met.
async fn find(queue: &dyn Queue, message_id: &str) -> Result<Option<(State, Value)>, hokusai_queue::Error> {
    for state in [State::Dlq, State::Main, State::Processing, State::Delayed] {
        let mut offset = 0;
        while offset < LOOKED_THROUGH {
            let page = queue.peek(state, offset, PAGE).await?;
            let mut messages = page.iter().filter_map(|entry| message(state, entry));
            if let Some(entry) = messages.find(|entry| entry.get("message_id").and_then(Value::as_str) == Some(message_id)) {
                return Ok(Some((state, entry)));
            }
            if page.len() < PAGE {
                break;
            }
            offset += PAGE;
        }
    }
    Ok(None)
}

/// The message of an entry; of a dead letter the original.
fn message(state: State, entry: &[u8]) -> Option<Value> {
    if state != State::Dlq {
        return serde_json::from_slice(entry).ok();
    }
    let letter = hokusai_queue::dead_letter::parse(entry).ok()?;
    serde_json::from_slice(&letter.original).ok()
}
