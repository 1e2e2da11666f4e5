//! The queues: what waits where, and what to do with what was given up.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::future::join_all;
use hokusai_queue::{Move, Queue, Settled, State as Place, dead_letter};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    body::{self, JsonBytes},
    health::{Condition, Depths, advice, depths},
    problem::{self, Document, Problem},
    search::{Search, Segment},
};

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
    let counted = depths(api, &name).await;
    QueueView {
        default: name == api.queues.default,
        status: if counted.is_ok() { Condition::Healthy } else { Condition::Unhealthy },
        depths: counted.ok(),
        message_types: sent.types,
        stopped: sent.stopped,
        error: counted.err(),
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
    repair(&api, &name, &bytes, |entry| {
        let with = dead_letter::redrive_bytes(&entry).ok()?;
        Some(Move::Redrive { entry, with })
    })
    .await
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
    repair(&api, &name, &bytes, |entry| Some(Move::Discard { entry })).await
}

async fn repair(api: &Api, name: &str, body: &[u8], make: impl Fn(Bytes) -> Option<Move>) -> Result<Json<Outcome>, Problem> {
    let Chosen { ids } = body::parse(body)?;
    if !(1..=MAX_ENTRIES).contains(&ids.len()) {
        return Err(Problem::invalid(hokusai_event::Invalid::new("ids", format!("must hold 1 to {MAX_ENTRIES} ids"))));
    }
    let queue = open(api, name).await?;
    let mut outcome = Outcome::default();
    let mut sought: HashSet<String> = ids.into_iter().collect();
    let (mut moved, mut moves) = (Vec::new(), Vec::new());
    for (id, entry) in find(&*queue, &mut sought).await? {
        match make(entry) {
            Some(each) => {
                moved.push(id);
                moves.push(each);
            }
            None => outcome.not_a_message.push(id),
        }
    }
    outcome.gone.extend(sought);
    let settled = queue.settle(&moves).await?;
    for (id, settled) in moved.into_iter().zip(settled) {
        match settled {
            Settled::Done => outcome.done.push(id),
            Settled::NotYours => outcome.gone.push(id),
        }
    }
    tracing::info!(queue = name, done = ?outcome.done, gone = ?outcome.gone, "dead-letter entries were moved by hand");
    Ok(Json(outcome))
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
