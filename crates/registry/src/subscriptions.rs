//! Subscriptions: which event types the relay publishes to which queue, from where on.
//!
//! Invariants:
//!
//! - The default queue receives `model_ready_to_deploy` and nothing else: consumers written for it would deploy a token for
//!   any message they find there. Other types go only where they were subscribed.
//! - A queue keeps its progress when it is unsubscribed: subscribed again, it goes on where it was.

use std::{collections::BTreeSet, str::FromStr};

use hokusai_db::{Database, Tx};
use hokusai_event::MessageType;
use jiff::Timestamp;

use crate::outbox::{self, Source};

/// More than any outbox holds: all events that wait are given their positions.
const ALL_WAITING: i64 = i64::MAX;

/// From where on a queue receives a type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// What is committed after the subscription.
    Now,
    /// Everything that the outbox still holds.
    Beginning,
    /// What was committed at this time or later; a time to come means now.
    At(Timestamp),
}

/// One queue's subscription.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Subscription {
    /// The queue.
    pub queue: String,
    /// The types it receives.
    pub types: BTreeSet<String>,
    /// Whether it is the default queue, the one that `model_ready_to_deploy` goes to without being asked.
    pub is_default: bool,
    /// The last position published there, if any was.
    pub position: Option<i64>,
    /// Why the relay publishes nothing more there, if that is so: see [`outbox::renew_source`].
    pub stopped: Option<String>,
    /// How often the queue was found to have lost writes.
    pub rewinds: i64,
}

/// What waits to be published to a queue.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Backlog {
    /// The queue.
    pub queue: String,
    /// How many events.
    pub events: i64,
    /// Since when the oldest of them waits, in milliseconds of the epoch.
    pub oldest_ms: i64,
}

/// What `HOKUSAI_SUBSCRIPTIONS` or a command asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The queue.
    pub queue: String,
    /// The types it shall receive.
    pub types: Vec<MessageType>,
    /// From where on.
    pub start: Start,
}

/// Why a subscription was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// What was asked for cannot be read; the text says what and where.
    #[error("{0}")]
    Syntax(String),
    /// The queue may already be past the start that was asked for.
    #[error(
        "queue {queue} already receives events, and may have received those up to position {position}; a new type can only start \
         there now, so subscribe from `now`, or subscribe another queue"
    )]
    Behind {
        /// The queue.
        queue: String,
        /// The last position given.
        position: i64,
    },
    /// The default queue receives only `model_ready_to_deploy`.
    #[error("{queue} is the default queue, whose consumers deploy a token for every message: subscribe another queue to {types}")]
    DefaultQueue {
        /// The queue.
        queue: String,
        /// What was asked for.
        types: String,
    },
    /// The database.
    #[error(transparent)]
    Database(#[from] hokusai_db::Error),
}

impl From<sqlx::Error> for SubscribeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Reads `HOKUSAI_SUBSCRIPTIONS`: `queue=type+type;queue=type`.
///
/// A type is one of the message types, or `*` for all. Each queue's list may end in `@now` (what is meant without it),
/// `@beginning`, or `@` and an RFC 3339 time. Blanks around the signs and empty parts are ignored.
///
/// # Errors
///
/// [`SubscribeError::Syntax`] naming the part that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Wanted>, SubscribeError> {
    text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(parse_part).collect()
}

fn parse_part(part: &str) -> Result<Wanted, SubscribeError> {
    let wrong = |problem: &str| SubscribeError::Syntax(format!("subscription `{part}`: {problem}"));
    let (queue, rest) = part.split_once('=').ok_or_else(|| wrong("must be written queue=type+type"))?;
    let (types, start) = match rest.split_once('@') {
        Some((types, start)) => (types, parse_start(start.trim()).map_err(|problem| wrong(&problem))?),
        None => (rest, Start::Now),
    };
    let queue = queue.trim();
    if queue.is_empty() || queue.chars().any(|sign| sign.is_whitespace() || sign.is_control()) {
        return Err(wrong("the queue's name must not be empty or hold blanks"));
    }
    let mut wanted = Vec::new();
    for name in types.split('+').map(str::trim) {
        match name {
            "*" => wanted.extend(MessageType::ALL),
            name => wanted.push(MessageType::from_str(name).map_err(|error| wrong(&error.to_string()))?),
        }
    }
    wanted.sort_by_key(ToString::to_string);
    wanted.dedup();
    Ok(Wanted { queue: queue.to_owned(), types: wanted, start })
}

/// Reads `now`, `beginning` or a time.
///
/// # Errors
///
/// A sentence for whoever wrote it.
pub fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "now" => Ok(Start::Now),
        "beginning" => Ok(Start::Beginning),
        time => hokusai_event::read_timestamp(time)
            .map(Start::At)
            .map_err(|_| format!("the start `{time}` must be `now`, `beginning` or an RFC 3339 time")),
    }
}

/// The subscriptions of a database.
#[derive(Debug, Clone)]
pub struct Subscriptions {
    db: Database,
}

impl Subscriptions {
    /// Those kept in `db`.
    pub fn new(db: Database) -> Self {
        Self { db }
    }

    /// Subscribes a queue to types. What it is already subscribed to stays as it is.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::Behind`] if the queue is past the start asked for; [`SubscribeError::DefaultQueue`] if it is the
    /// default queue and the types are others than its own.
    pub async fn add(&self, wanted: &Wanted) -> Result<(), SubscribeError> {
        let mut tx = self.db.write().await?;
        // The lock on `source` makes everybody who subscribes or relays take turns.
        let mut source = outbox::lock_source(&mut tx).await?;
        outbox::assign(&mut tx, &mut source, ALL_WAITING).await?;
        self.refuse_default(&mut tx, wanted).await?;
        let start = start_position(&mut tx, &source, wanted.start).await?;
        let types = missing_types(&mut tx, wanted).await?;
        if !types.is_empty() && start < source.last_position && is_begun(&mut tx, &wanted.queue).await? {
            return Err(SubscribeError::Behind { queue: wanted.queue.clone(), position: source.last_position });
        }
        for message_type in types {
            insert(&mut tx, &wanted.queue, message_type, start, false).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Makes `queue` the default queue, if it is not. If another was, that one is unsubscribed, and `queue` receives
    /// whatever is not finished there.
    ///
    /// # Errors
    ///
    /// As the database says, and [`SubscribeError::DefaultQueue`] if `queue` is subscribed to other types.
    pub async fn ensure_default(&self, queue: &str) -> Result<(), SubscribeError> {
        let current = "SELECT queue FROM subscriptions WHERE is_default = 1";
        let known: Option<(String,)> = sqlx::query_as(current).fetch_optional(self.db.reader()).await?;
        if known.is_some_and(|(known,)| known == queue) {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        outbox::lock_source(&mut tx).await?;
        let old: Option<(String,)> = sqlx::query_as(current).fetch_optional(&mut *tx).await?;
        let others = subscribed_types(&mut tx, queue).await?;
        if others.iter().any(|name| *name != MessageType::ModelReadyToDeploy.to_string()) {
            let types = others.into_iter().collect::<Vec<_>>().join(", ");
            return Err(SubscribeError::DefaultQueue { queue: queue.to_owned(), types });
        }
        if let Some((old,)) = old.filter(|(old,)| old != queue) {
            retire_default(&mut tx, &old, queue).await?;
        }
        insert(&mut tx, queue, MessageType::ModelReadyToDeploy, 0, true).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Unsubscribes a queue from `types`, or from all if `types` is empty. Answers whether it was subscribed to any.
    ///
    /// # Errors
    ///
    /// As the database says.
    pub async fn remove(&self, queue: &str, types: &[MessageType]) -> Result<bool, SubscribeError> {
        let types = if types.is_empty() { MessageType::ALL.to_vec() } else { types.to_vec() };
        let mut tx = self.db.write().await?;
        let mut removed = 0;
        for message_type in types {
            removed += sqlx::query("DELETE FROM subscriptions WHERE queue = $1 AND message_type = $2")
                .bind(queue)
                .bind(message_type.to_string())
                .execute(&mut *tx)
                .await?
                .rows_affected();
        }
        tx.commit().await?;
        Ok(removed > 0)
    }

    /// All subscriptions, by queue.
    ///
    /// # Errors
    ///
    /// As the database says.
    pub async fn list(&self) -> Result<Vec<Subscription>, SubscribeError> {
        type Row = (String, String, i64, Option<i64>, Option<String>, Option<i64>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT s.queue, s.message_type, s.is_default, p.position, p.stopped, p.rewinds
             FROM subscriptions s LEFT JOIN relay_progress p ON p.queue = s.queue ORDER BY s.queue, s.message_type",
        )
        .fetch_all(self.db.reader())
        .await?;
        let mut list: Vec<Subscription> = Vec::new();
        for (queue, message_type, is_default, position, stopped, rewinds) in rows {
            match list.last_mut().filter(|last| last.queue == queue) {
                Some(last) => drop(last.types.insert(message_type)),
                None => list.push(Subscription {
                    queue,
                    types: BTreeSet::from([message_type]),
                    is_default: is_default != 0,
                    position: position.filter(|position| *position > 0),
                    stopped,
                    rewinds: rewinds.unwrap_or(0),
                }),
            }
        }
        Ok(list)
    }

    /// What waits to be published, by queue; queues for which nothing waits are left out. What was just published may
    /// still be counted.
    ///
    /// # Errors
    ///
    /// As the database says.
    pub async fn backlogs(&self) -> Result<Vec<Backlog>, SubscribeError> {
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT queue, COUNT(*), MIN(created_ms) FROM (
                SELECT s.queue, o.created_ms FROM subscriptions s
                JOIN relay_progress p ON p.queue = s.queue
                JOIN outbox o ON o.message_type = s.message_type AND o.position >
                    CASE WHEN COALESCE(p.position, 0) > s.start_position THEN p.position ELSE s.start_position END
                UNION ALL
                SELECT s.queue, o.created_ms FROM subscriptions s
                JOIN outbox o ON o.message_type = s.message_type AND o.position IS NULL
             ) AS waiting GROUP BY queue ORDER BY queue",
        )
        .fetch_all(self.db.reader())
        .await?;
        Ok(rows.into_iter().map(|(queue, events, oldest_ms)| Backlog { queue, events, oldest_ms }).collect())
    }

    async fn refuse_default(&self, tx: &mut Tx, wanted: &Wanted) -> Result<(), SubscribeError> {
        let default: Option<(i64,)> = sqlx::query_as("SELECT is_default FROM subscriptions WHERE queue = $1 AND is_default = 1")
            .bind(wanted.queue.as_str())
            .fetch_optional(&mut **tx)
            .await?;
        let others: Vec<String> =
            wanted.types.iter().filter(|kind| **kind != MessageType::ModelReadyToDeploy).map(ToString::to_string).collect();
        if default.is_none() || others.is_empty() {
            return Ok(());
        }
        Err(SubscribeError::DefaultQueue { queue: wanted.queue.clone(), types: others.join(", ") })
    }
}

/// The position after which a subscription with this start receives events.
async fn start_position(tx: &mut Tx, source: &Source, start: Start) -> Result<i64, SubscribeError> {
    let since = match start {
        Start::Beginning => return Ok(0),
        Start::Now => return Ok(source.last_position),
        Start::At(time) => time.as_millisecond(),
    };
    let (first,): (Option<i64>,) =
        sqlx::query_as("SELECT MIN(position) FROM outbox WHERE created_ms >= $1").bind(since).fetch_one(&mut **tx).await?;
    Ok(first.map_or(source.last_position, |first| first - 1))
}

/// Whether the relay publishes to the queue: then it may be anywhere in what is committed.
async fn is_begun(tx: &mut Tx, queue: &str) -> Result<bool, SubscribeError> {
    let row: Option<(Option<i64>,)> =
        sqlx::query_as("SELECT position FROM relay_progress WHERE queue = $1").bind(queue).fetch_optional(&mut **tx).await?;
    Ok(row.is_some_and(|(position,)| position.is_some()))
}

async fn subscribed_types(tx: &mut Tx, queue: &str) -> Result<BTreeSet<String>, SubscribeError> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT message_type FROM subscriptions WHERE queue = $1").bind(queue).fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}

async fn missing_types(tx: &mut Tx, wanted: &Wanted) -> Result<Vec<MessageType>, SubscribeError> {
    let have = subscribed_types(tx, &wanted.queue).await?;
    Ok(wanted.types.iter().copied().filter(|kind| !have.contains(&kind.to_string())).collect())
}

async fn insert(tx: &mut Tx, queue: &str, message_type: MessageType, start: i64, is_default: bool) -> Result<(), SubscribeError> {
    sqlx::query(
        "INSERT INTO subscriptions (queue, message_type, start_position, is_default, created_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (queue, message_type) DO UPDATE SET is_default = excluded.is_default",
    )
    .bind(queue)
    .bind(message_type.to_string())
    .bind(start)
    .bind(i64::from(is_default))
    .bind(Timestamp::now().as_millisecond())
    .execute(&mut **tx)
    .await?;
    sqlx::query("INSERT INTO relay_progress (queue, rewinds) VALUES ($1, 0) ON CONFLICT DO NOTHING").bind(queue).execute(&mut **tx).await?;
    Ok(())
}

/// Ends the old default queue's subscription; the new one inherits what was finished there.
async fn retire_default(tx: &mut Tx, old: &str, new: &str) -> Result<(), SubscribeError> {
    sqlx::query("DELETE FROM subscriptions WHERE queue = $1 AND is_default = 1").bind(old).execute(&mut **tx).await?;
    sqlx::query(
        "INSERT INTO finished (message_id, queue, at_ms) SELECT message_id, $1, at_ms FROM finished WHERE queue = $2
         ON CONFLICT DO NOTHING",
    )
    .bind(new)
    .bind(old)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
