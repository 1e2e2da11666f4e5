//! The audit: where every event of the outbox is, on every queue that subscribed to it.
//!
//! Each event is exactly one of: not relayed yet; in main, processing, delayed or dlq; finished; or *unconfirmed*: the queue
//! has had it, holds it no more, and nobody has said that it is finished. What a foreign consumer acknowledged looks like
//! that until the sweep believes it; and so does a message that somebody's two commands lost between them.
//!
//! Messages move while one reads. What was not found is looked for again, so that a move is not taken for a loss.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hokusai_db::Database;
use hokusai_queue::{Lease, Queue, State};
use serde::Serialize;

use crate::{outbox, relay::RelayError, sweep::message_id};

/// How long at least what was not found is looked for again, and how often.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(250);
/// Entries read at once.
const PAGE: usize = 500;
/// Events read at once.
const EVENTS: i64 = 5_000;

/// What became of the events of one queue.
#[derive(Debug, Clone, Default, Serialize)]
pub struct QueueAudit {
    /// The queue.
    pub queue: String,
    /// Events of subscribed types since the subscription began; the sum of the following.
    pub events: u64,
    /// Not relayed yet, or to be relayed again because the queue lost writes.
    pub waiting: u64,
    /// In main.
    pub main: u64,
    /// In processing.
    pub processing: u64,
    /// Delayed until their next attempt.
    pub delayed: u64,
    /// Given up.
    pub dlq: u64,
    /// Finished: our consumers said so.
    pub finished: u64,
    /// Finished: the sweep saw it absent twice.
    pub swept: u64,
    /// Unaccounted for.
    pub unconfirmed: Vec<Unconfirmed>,
    /// Acknowledged by somebody who did not report a deployment: the registration is not at its end.
    pub unreported: Vec<Unconfirmed>,
    /// Messages in the queue that come from elsewhere.
    pub foreign: u64,
    /// Entries that carry no message id.
    pub unreadable: u64,
    /// Messages that are in the queue more than once.
    pub repeated: Vec<String>,
    /// Entries of processing, and their leases.
    pub custody: CustodyAudit,
}

/// An event that is in no state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unconfirmed {
    /// The message.
    pub message_id: String,
    /// Its type.
    pub message_type: String,
    /// Its place in the outbox.
    pub position: i64,
    /// The registration it belongs to.
    pub registration_id: Option<String>,
    /// Where that registration stands.
    pub status: Option<String>,
    /// When the event was made, in milliseconds of the epoch.
    pub created_ms: i64,
}

/// Entries of processing, and their leases.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CustodyAudit {
    /// Whether the backend shows them.
    pub known: bool,
    /// Entries without a lease: the next pass of a reaper gives them one.
    pub without_lease: u64,
    /// Entries left over from before the queue was first met.
    pub orphans: u64,
    /// Entries whose lease has run out: the next pass of a reaper takes them back.
    pub expired: u64,
    /// Leases without an entry.
    pub stale: u64,
    /// When the oldest message in processing was made, in milliseconds of the epoch.
    pub oldest_ms: Option<i64>,
}

/// One event as the database has it.
struct Event {
    place: Unconfirmed,
    waiting: bool,
    finished: bool,
    swept: bool,
}

/// Everything a queue holds, by message id.
#[derive(Default)]
struct Contents {
    places: HashMap<String, Vec<State>>,
    unreadable: u64,
}

/// Audits one queue. For what cannot be found it goes on looking for `patience`: what a foreign consumer has acknowledged is
/// accounted for once a sweep, where one runs, has seen it absent twice.
///
/// # Errors
///
/// [`RelayError`] if database or queue do not answer.
pub async fn audit(db: &Database, queue: &dyn Queue, patience: Duration) -> Result<QueueAudit, RelayError> {
    let failed = |source| RelayError::Queue { queue: queue.name().to_owned(), source };
    let cursor = cursor(db, queue).await?;
    let contents = Contents::read(queue).await.map_err(failed)?;
    let mut audit = QueueAudit { queue: queue.name().to_owned(), unreadable: contents.unreadable, ..QueueAudit::default() };
    let mut known = HashSet::new();
    let mut after = 0;
    loop {
        let page = events(db, queue.name(), after, cursor).await?;
        for event in &page {
            if contents.places.contains_key(&event.place.message_id) {
                known.insert(event.place.message_id.clone());
            }
            audit.count(event, contents.places.get(&event.place.message_id));
        }
        match page.last() {
            Some(last) if i64::try_from(page.len()).unwrap_or(EVENTS) >= EVENTS => after = last.place.position,
            _ => break,
        }
    }
    let waiting = waiting(db, queue.name()).await?;
    audit.waiting += waiting;
    audit.events += waiting;
    audit.foreign = (contents.places.len() - known.len()) as u64;
    audit.repeated = contents.places.iter().filter(|(_, places)| places.len() > 1).map(|(id, _)| id.clone()).collect();
    audit.repeated.sort();
    audit.look_again(db, queue, patience.max(PATIENCE)).await?;
    audit.custody = custody(queue).await.map_err(failed)?;
    Ok(audit)
}

impl QueueAudit {
    /// Whether every event is accounted for.
    pub fn is_whole(&self) -> bool {
        self.unconfirmed.is_empty()
    }

    fn count(&mut self, event: &Event, places: Option<&Vec<State>>) {
        self.events += 1;
        match places.and_then(|places| places.first()) {
            Some(place) => self.put(*place),
            None if event.finished => {
                if event.swept {
                    self.swept += 1;
                    let open = matches!(event.place.status.as_deref(), Some("queued" | "deploying"));
                    if open && event.place.message_type == "model_ready_to_deploy" {
                        self.unreported.push(event.place.clone());
                    }
                } else {
                    self.finished += 1;
                }
            }
            None if event.waiting => self.waiting += 1,
            None => self.unconfirmed.push(event.place.clone()),
        }
    }

    fn put(&mut self, place: State) {
        match place {
            State::Main => self.main += 1,
            State::Processing => self.processing += 1,
            State::Delayed => self.delayed += 1,
            State::Dlq => self.dlq += 1,
        }
    }

    /// Looks for the unconfirmed again: they may have been moving.
    async fn look_again(&mut self, db: &Database, queue: &dyn Queue, patience: Duration) -> Result<(), RelayError> {
        let deadline = Instant::now() + patience;
        while !self.unconfirmed.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
            let failed = |source| RelayError::Queue { queue: queue.name().to_owned(), source };
            let contents = Contents::read(queue).await.map_err(failed)?;
            let cursor = cursor(db, queue).await?;
            for place in std::mem::take(&mut self.unconfirmed) {
                self.events -= 1;
                let event = event(db, queue.name(), place.position, cursor).await?;
                match event {
                    Some(event) => self.count(&event, contents.places.get(&place.message_id)),
                    // Pruned meanwhile, which only the finished are.
                    None => (self.events, self.finished) = (self.events + 1, self.finished + 1),
                }
            }
        }
        Ok(())
    }
}

impl Contents {
    /// Reads in the order in which messages move, so that most of those that move meanwhile are met.
    async fn read(queue: &dyn Queue) -> Result<Self, hokusai_queue::Error> {
        let mut contents = Self::default();
        for state in [State::Dlq, State::Main, State::Processing, State::Delayed] {
            let mut offset = 0;
            loop {
                let page = queue.peek(state, offset, PAGE).await?;
                page.iter().for_each(|entry| contents.add(entry, state));
                if page.len() < PAGE {
                    break;
                }
                offset += PAGE;
            }
        }
        Ok(contents)
    }

    fn add(&mut self, entry: &Bytes, state: State) {
        match message_id(entry) {
            Some(id) => self.places.entry(id).or_default().push(state),
            None => self.unreadable += 1,
        }
    }
}

/// The position up to which the queue has this database's events: its own word where it can be asked.
async fn cursor(db: &Database, queue: &dyn Queue) -> Result<i64, RelayError> {
    let source = outbox::source_id(db).await?;
    if let Some(upkeep) = queue.upkeep() {
        let look = upkeep.look(&source, None).await;
        let look = look.map_err(|source| RelayError::Queue { queue: queue.name().to_owned(), source })?;
        // A cursor that is not ours says nothing about what the queue was given of ours.
        let Some(cursor) = look.cursor else { return Ok(0) };
        return Ok(outbox::own_position(db, queue.name(), &cursor).await?.unwrap_or(0));
    }
    let sql = "SELECT position FROM relay_progress WHERE queue = $1";
    let row: Option<Option<i64>> = sqlx::query_scalar(sql).bind(queue.name()).fetch_optional(db.reader()).await?;
    Ok(row.flatten().unwrap_or(0))
}

type Row = (String, String, i64, Option<String>, Option<String>, i64, Option<i64>);

const EVENT: &str = "SELECT o.message_id, o.message_type, o.position, o.registration_id, r.status, o.created_ms, f.swept
     FROM outbox o
     JOIN subscriptions s ON s.queue = $1 AND s.message_type = o.message_type AND o.position > s.start_position
     LEFT JOIN finished f ON f.message_id = o.message_id AND f.queue = $1
     LEFT JOIN registrations r ON r.id = o.registration_id";

fn read((message_id, message_type, position, registration_id, status, created_ms, swept): Row, cursor: i64) -> Event {
    Event {
        waiting: position > cursor,
        finished: swept.is_some(),
        swept: swept == Some(1),
        place: Unconfirmed { message_id, message_type, position, registration_id, status, created_ms },
    }
}

async fn events(db: &Database, queue: &str, after: i64, cursor: i64) -> Result<Vec<Event>, RelayError> {
    let sql = format!("{EVENT} WHERE o.position > $2 ORDER BY o.position LIMIT {EVENTS}");
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(queue).bind(after).fetch_all(db.reader()).await?;
    Ok(rows.into_iter().map(|row| read(row, cursor)).collect())
}

async fn event(db: &Database, queue: &str, position: i64, cursor: i64) -> Result<Option<Event>, RelayError> {
    let sql = format!("{EVENT} WHERE o.position = $2");
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(queue).bind(position).fetch_optional(db.reader()).await?;
    Ok(row.map(|row| read(row, cursor)))
}

/// Events that have no position yet.
async fn waiting(db: &Database, queue: &str) -> Result<u64, RelayError> {
    let sql =
        "SELECT COUNT(*) FROM outbox o JOIN subscriptions s ON s.queue = $1 AND s.message_type = o.message_type WHERE o.position IS NULL";
    let count: i64 = sqlx::query_scalar(sql).bind(queue).fetch_one(db.reader()).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

async fn custody(queue: &dyn Queue) -> Result<CustodyAudit, hokusai_queue::Error> {
    let Some(upkeep) = queue.upkeep() else { return Ok(CustodyAudit::default()) };
    let custody = upkeep.custody().await?;
    let mut audit = CustodyAudit { known: true, stale: custody.stale.len() as u64, ..CustodyAudit::default() };
    for (entry, lease) in &custody.held {
        match lease {
            Lease::None => audit.without_lease += 1,
            Lease::Endless => audit.orphans += 1,
            Lease::Until(at) if *at <= custody.now_ms => audit.expired += 1,
            Lease::Until(_) => {}
        }
        let made = hokusai_event::Envelope::parse(entry).ok().map(|envelope| envelope.timestamp.at().as_millisecond());
        audit.oldest_ms = made.into_iter().chain(audit.oldest_ms).min();
    }
    Ok(audit)
}
