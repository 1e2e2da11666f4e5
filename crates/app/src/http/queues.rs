//! The queues: what waits where, and what to do with what was given up.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::future::join_all;
use hokusai_queue::{Queue, State as Place};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    body::{self, JsonBytes},
    health::{Condition, Depths, Paused, advice, look},
    problem::{self, Document, Problem},
    search::{Search, Segment},
};
use crate::dead_letters::{Hand, Letter, Moved};

/// The most entries answered at once, or named in one redrive.
const MAX_ENTRIES: usize = 200;
/// How far into the dead-letter queue named entries are looked for.
const SEARCH_DEPTH: usize = 100_000;
const SEARCH_PAGE: usize = 1_000;

/// One queue of this installation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueView {
    name: String,
    /// Whether it is the one that `model_ready_to_deploy` goes to unless told otherwise.
    default: bool,
    status: Condition,
    /// Null if they could not be counted.
    depths: Option<Depths>,
    /// Our consumers take nothing from it, by somebody's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<Paused>,
    /// The message types that are sent to it.
    message_types: BTreeSet<String>,
    /// Why the relay no longer writes to it, if it stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
    /// What is wrong and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

/// Every queue of this installation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueList {
    queues: Vec<QueueView>,
}

/// The queues, their depths and what is sent to them.
#[utoipa::path(get, path = "/api/v1/queues", operation_id = "listQueues", tag = "queues", responses(
    (status = 200, description = "Every queue; one that does not answer is listed as unhealthy.", body = QueueList),
    (status = 503, description = "The database does not answer.", body = Document, content_type = problem::CONTENT_TYPE),
))]
pub(crate) async fn list(State(api): State<Api>) -> Result<Json<QueueList>, Problem> {
    let known = known(&api).await?;
    let views = known.into_iter().map(|(name, sent)| view(&api, name, sent));
    Ok(Json(QueueList { queues: join_all(views).await }))
}

/// What the relay sends to a queue, and whether it does.
#[derive(Debug, Default)]
struct Sent {
    types: BTreeSet<String>,
    stopped: Option<String>,
}

/// Every queue this installation reads from or writes to: the only names that are ever opened.
async fn known(api: &Api) -> Result<BTreeMap<String, Sent>, Problem> {
    let mut known = BTreeMap::from([(api.queues.default.clone(), Sent::default())]);
    known.extend(api.queues.others.iter().map(|name| (name.clone(), Sent::default())));
    for subscription in api.subscriptions.list().await? {
        known.insert(subscription.queue, Sent { types: subscription.types, stopped: subscription.stopped });
    }
    Ok(known)
}

async fn view(api: &Api, name: String, sent: Sent) -> QueueView {
    let look = look(api, &name).await;
    QueueView {
        default: name == api.queues.default,
        status: look.condition(),
        depths: look.depths.ok(),
        paused: look.paused,
        message_types: sent.types,
        stopped: sent.stopped,
        error: look.depths.err(),
        name,
    }
}

async fn open(api: &Api, name: &str) -> Result<Arc<dyn Queue>, Problem> {
    if !known(api).await?.contains_key(name) {
        return Err(Problem::unknown(format!("There is no queue `{name}`; GET /api/v1/queues lists the queues.")));
    }
    Ok(api.queues.open(name).await?)
}

impl From<hokusai_queue::Error> for Problem {
    fn from(error: hokusai_queue::Error) -> Self {
        match error {
            hokusai_queue::Error::Rejected { .. } => Self::internal(&error),
            _ => Self::unavailable(advice(&error), &error),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// `main` (the default), `processing`, `delayed` or `dlq`.
    #[serde(default = "main")]
    #[param(value_type = Option<String>, example = "dlq")]
    state: Place,
    /// How many entries to pass over.
    #[serde(default)]
    offset: usize,
    /// How many entries to answer, 1 to 200; 50 unless told.
    #[serde(default = "fifty")]
    limit: usize,
}

fn main() -> Place {
    Place::Main
}

fn fifty() -> usize {
    50
}

/// One entry of a queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    /// The SHA-256 of its bytes: what redrive and discard call it by.
    id: String,
    bytes: usize,
    /// The entry, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    json: Option<Box<RawValue>>,
    /// The entry, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl Entry {
    fn new(bytes: &Bytes) -> Self {
        let json = std::str::from_utf8(bytes).ok().and_then(|text| serde_json::from_str::<Box<RawValue>>(text.trim()).ok());
        let base64 = json.is_none().then(|| STANDARD.encode(bytes));
        Self { id: digest(bytes), bytes: bytes.len(), json, base64 }
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Entries of a queue, as they are now; they move while one reads.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entries {
    queue: String,
    #[schema(value_type = String, example = "dlq")]
    state: Place,
    offset: usize,
    /// Main: the next to be taken first. Processing and dlq: the longest there first. Delayed: the soonest due first.
    entries: Vec<Entry>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<usize>,
}

/// Reads entries without taking them.
#[utoipa::path(get, path = "/api/v1/queues/{name}/messages", operation_id = "listQueueMessages", tag = "queues",
    params(("name" = String, Path, description = "The queue, percent-encoded.", example = "hokusai:model_ready_queue"), Page),
    responses(
        (status = 200, description = "The entries.", body = Entries),
        (status = 400, description = "A parameter is wrong.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 404, description = "There is no such queue.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 503, description = "The queue does not answer.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn messages(
    State(api): State<Api>,
    Segment(name): Segment,
    Search(Page { state, offset, limit }): Search<Page>,
) -> Result<Json<Entries>, Problem> {
    if !(1..=MAX_ENTRIES).contains(&limit) {
        return Err(Problem::parameter("limit", format!("must be 1 to {MAX_ENTRIES}")));
    }
    let queue = open(&api, &name).await?;
    let found = queue.peek(state, offset, limit).await?;
    let next_offset = (found.len() == limit).then_some(offset + limit);
    Ok(Json(Entries { queue: name, state, offset, entries: found.iter().map(Entry::new).collect(), next_offset }))
}

/// Which dead-letter entries are meant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chosen {
    /// Ids of entries, as `GET …/messages?state=dlq` shows them; 1 to 200.
    #[serde(default)]
    #[schema(required, min_items = 1, max_items = 200)]
    ids: Vec<String>,
    /// Who does it, for the registrations' histories.
    by: Option<String>,
    /// Why they are discarded, for the registrations' histories.
    reason: Option<String>,
    /// Redrives also what is deployed already.
    #[serde(default)]
    force: bool,
}

/// The longest `by` and `reason`.
const MAX_NOTE_BYTES: usize = 1_000;

impl Chosen {
    fn check(&self) -> Result<(), Problem> {
        let invalid = |field, problem: String| Err(Problem::invalid(hokusai_event::Invalid::new(field, problem)));
        if !(1..=MAX_ENTRIES).contains(&self.ids.len()) {
            return invalid("ids", format!("must hold 1 to {MAX_ENTRIES} ids"));
        }
        for (field, text) in [("by", &self.by), ("reason", &self.reason)] {
            if text.as_ref().is_some_and(|text| text.len() > MAX_NOTE_BYTES) {
                return invalid(field, format!("must be {MAX_NOTE_BYTES} bytes at most"));
            }
        }
        Ok(())
    }
}

/// What became of each of the entries named.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Outcome {
    /// Moved.
    done: Vec<String>,
    /// No longer in the dead-letter queue: somebody was faster.
    gone: Vec<String>,
    /// Holds no message that could be delivered again; discard it or repair it by hand.
    not_a_message: Vec<String>,
    /// Its model version is deployed: redriven only with `force`.
    already_deployed: Vec<String>,
}

/// Puts dead-letter entries back into main, their counters reset.
#[utoipa::path(post, path = "/api/v1/queues/{name}/dlq/redrive", operation_id = "redriveDeadLetters", tag = "queues",
    params(("name" = String, Path, description = "The queue, percent-encoded.")),
    request_body = Chosen,
    responses(
        (status = 200, description = "What became of each entry.", body = Outcome),
        (status = 400, description = "The body cannot be read.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 404, description = "There is no such queue.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 415, description = "The body is not declared as JSON.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 422, description = "A field is wrong.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 503, description = "The queue does not answer.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn redrive(State(api): State<Api>, Segment(name): Segment, JsonBytes(bytes): JsonBytes) -> Result<Json<Outcome>, Problem> {
    repair(&api, &name, &bytes, Repair::Redrive).await
}

/// Removes dead-letter entries for good.
#[utoipa::path(post, path = "/api/v1/queues/{name}/dlq/discard", operation_id = "discardDeadLetters", tag = "queues",
    params(("name" = String, Path, description = "The queue, percent-encoded.")),
    request_body = Chosen,
    responses(
        (status = 200, description = "What became of each entry.", body = Outcome),
        (status = 400, description = "The body cannot be read.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 404, description = "There is no such queue.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 415, description = "The body is not declared as JSON.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 422, description = "A field is wrong.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 503, description = "The queue does not answer.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn discard(State(api): State<Api>, Segment(name): Segment, JsonBytes(bytes): JsonBytes) -> Result<Json<Outcome>, Problem> {
    repair(&api, &name, &bytes, Repair::Discard).await
}

#[derive(Debug, Clone, Copy)]
enum Repair {
    Redrive,
    Discard,
}

async fn repair(api: &Api, name: &str, body: &[u8], repair: Repair) -> Result<Json<Outcome>, Problem> {
    let chosen: Chosen = body::parse(body)?;
    chosen.check()?;
    let queue = open(api, name).await?;
    let hand = Hand { queue: &*queue, db: &api.database, by: chosen.by.as_deref().unwrap_or("the HTTP API") };
    let mut outcome = Outcome::default();
    let mut sought: HashSet<String> = chosen.ids.into_iter().collect();
    for (id, entry) in find(&*queue, &mut sought).await? {
        let letter = Letter::read(entry);
        let moved = match repair {
            Repair::Redrive => hand.redrive(&letter, chosen.force).await,
            Repair::Discard => hand.discard(&letter, chosen.reason.as_deref().unwrap_or_default()).await,
        };
        match moved.map_err(problem)? {
            Moved::Done => outcome.done.push(id),
            Moved::Gone => outcome.gone.push(id),
            Moved::NotAMessage => outcome.not_a_message.push(id),
            Moved::AlreadyDeployed(_) => outcome.already_deployed.push(id),
        }
    }
    outcome.gone.extend(sought);
    tracing::info!(queue = name, by = hand.by, ?repair, done = ?outcome.done, gone = ?outcome.gone, "dead-letter entries were moved by hand");
    Ok(Json(outcome))
}

/// What the queue or the database could not do.
fn problem(error: anyhow::Error) -> Problem {
    match error.downcast::<hokusai_queue::Error>() {
        Ok(error) => error.into(),
        Err(error) => error.downcast::<hokusai_db::Error>().map_or_else(|error| Problem::internal(&*error), Problem::from),
    }
}

/// The dead-letter entries with these ids; those found are taken out of `sought`.
async fn find(queue: &dyn Queue, sought: &mut HashSet<String>) -> Result<Vec<(String, Bytes)>, Problem> {
    let mut found = Vec::new();
    for offset in (0..SEARCH_DEPTH).step_by(SEARCH_PAGE) {
        let page = queue.peek(Place::Dlq, offset, SEARCH_PAGE).await?;
        let last = page.len() < SEARCH_PAGE;
        for entry in page {
            let id = digest(&entry);
            if sought.remove(&id) {
                found.push((id, entry));
            }
        }
        if last || sought.is_empty() {
            break;
        }
    }
    Ok(found)
}
