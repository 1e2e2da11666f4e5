//! The outbox: events committed together with the change they tell of, kept with the exact bytes to publish.
//!
//! Invariants:
//!
//! - An event's bytes are written once and never change: a second publication is identical to the first.
//! - Positions are dense, begin at 1, and are given under the lock of the `source` row, in the order of the commits. On SQLite,
//!   whose only writer is that lock, `append` gives them; on PostgreSQL, where a transaction may overtake another, `assign`
//!   does so when relaying: an event that commits late gets a late position and is never passed over.
//! - What is finished is known per (event, queue); being dead-lettered is not being finished.

use bytes::Bytes;
use hokusai_db::{Database, Error, Tx};
use hokusai_event::{Envelope, Event, Invalid, MessageType};
use hokusai_queue::Cursor;
use jiff::Timestamp;
use uuid::Uuid;

use crate::bulk::{
    self, AnyQuery,
    Column::{Bytes as Blob, Number, Text},
    Filled, Insert,
};

/// An event to be appended.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Unique; ours are UUIDs in the order of their making.
    pub message_id: String,
    /// What it tells of.
    pub message_type: MessageType,
    /// The registration it belongs to, if one is known here.
    pub registration_id: Option<String>,
    /// The whole envelope, as it will be published.
    pub envelope: Bytes,
    /// When it was made.
    pub at: Timestamp,
}

impl NewEvent {
    /// Wraps `event` in an envelope with an id of its own.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if the event breaks the rules of its type.
    pub fn new(
        event: &Event,
        registration_id: Option<String>,
        correlation_id: String,
        at: Timestamp,
        max_retries: u32,
    ) -> Result<Self, Invalid> {
        Self::wrap(event.clone(), registration_id, &correlation_id, at, max_retries)
    }

    pub(crate) fn wrap(
        event: Event,
        registration_id: Option<String>,
        correlation_id: &str,
        at: Timestamp,
        max_retries: u32,
    ) -> Result<Self, Invalid> {
        let (message_id, message_type) = (new_id(), event.message_type());
        let envelope = Envelope::new_bytes(&message_id, correlation_id, at, max_retries, event)?;
        Ok(Self { message_id, message_type, registration_id, envelope: envelope.into(), at })
    }
}

/// A UUID (version 7): those made later by one process sort later, which keeps the tables' indexes appending.
pub(crate) fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// Appends `events` in somebody's transaction. Nudge the relay after the commit.
///
/// # Errors
///
/// [`Error::Exists`] if one of the message ids is taken.
pub async fn append(tx: &mut Tx, events: &[NewEvent]) -> Result<(), Error> {
    let first = if bulk::on_sqlite(tx) { Some(reserve(tx, events.len()).await?) } else { None };
    OUTBOX.run(tx, placed(first, events.to_vec()), bind).await.map(drop)
}

const OUTBOX: Insert = Insert {
    into: "outbox (message_id, message_type, registration_id, envelope, created_ms, position)",
    columns: &[Text, Text, Text, Blob, Number, Number],
    tail: "",
};

/// Takes so many positions, on SQLite; answers the first.
pub(crate) async fn reserve(tx: &mut Tx, events: usize) -> Result<i64, Error> {
    let events = i64::try_from(events).expect("a transaction appends few events");
    let last: i64 = sqlx::query_scalar("UPDATE source SET last_position = last_position + $1 RETURNING last_position")
        .bind(events)
        .fetch_one(&mut **tx)
        .await?;
    Ok(last - events + 1)
}

/// The insert of `events`, which are moved into it, with room for so many; the first has position `first`, if they have any yet.
pub(crate) fn append_of(room: usize, first: Option<i64>, events: Vec<NewEvent>) -> Filled<'static> {
    OUTBOX.of(room, placed(first, events), bind)
}

/// Each of `events` with its position.
fn placed(first: Option<i64>, events: Vec<NewEvent>) -> Vec<(NewEvent, Option<i64>)> {
    let positions = (0..).map(|offset| first.map(|first| first + offset));
    events.into_iter().zip(positions).collect()
}

fn bind(query: AnyQuery, (event, position): (NewEvent, Option<i64>)) -> AnyQuery {
    query
        .bind(event.message_id)
        .bind(event.message_type.as_str())
        .bind(event.registration_id)
        .bind(Vec::from(event.envelope))
        .bind(event.at.as_millisecond())
        .bind(position)
}

/// Records that `queue`'s consumers are done with an event: it will not be published there again. Recording it twice, or
/// for a message that is not from this outbox, is harmless. Answers whether it was recorded now.
///
/// # Errors
///
/// As the database says.
pub async fn finish(tx: &mut Tx, queue: &str, message_id: &str, at: Timestamp) -> Result<bool, Error> {
    let recorded = sqlx::query("INSERT INTO finished (message_id, queue, at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(message_id)
        .bind(queue)
        .bind(at.as_millisecond())
        .execute(&mut **tx)
        .await?;
    Ok(recorded.rows_affected() > 0)
}

/// The id that queues know this database's relay by; made on first use.
///
/// # Errors
///
/// As the database says.
pub async fn source_id(db: &Database) -> Result<String, Error> {
    let known: Option<(String,)> = sqlx::query_as("SELECT id FROM source").fetch_optional(db.reader()).await?;
    if let Some((id,)) = known {
        return Ok(id);
    }
    let mut tx = db.write().await?;
    let source = lock_source(&mut tx).await?;
    tx.commit().await?;
    Ok(source.id)
}

/// Gives this database a new id, for a database that was restored from a backup or cloned: queues then no longer take it
/// for the one it came from. Every queue starts from the beginning of its subscription: unfinished events are published
/// to it again, with identical bytes.
///
/// # Errors
///
/// As the database says.
pub async fn renew_source(db: &Database) -> Result<String, Error> {
    let mut tx = db.write().await?;
    lock_source(&mut tx).await?;
    let id = Uuid::new_v4().to_string();
    sqlx::query("UPDATE source SET id = $1").bind(id.as_str()).execute(&mut *tx).await?;
    sqlx::query("UPDATE relay_progress SET position = NULL, position_event = NULL, stopped = NULL").execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(id)
}

/// The position at which a queue's cursor stands, if the event there is this database's own: `None` for a cursor that another
/// copy of it has left.
///
/// # Errors
///
/// As the database says.
pub(crate) async fn own_position(db: &Database, queue: &str, cursor: &Cursor) -> Result<Option<i64>, Error> {
    let Some((position, message_id)) = cursor.event() else { return Ok(None) };
    let own: Option<(i64,)> = sqlx::query_as(
        "SELECT 1 FROM outbox WHERE position = $1 AND message_id = $2
         UNION ALL
         SELECT 1 FROM relay_progress WHERE queue = $3 AND position = $1 AND position_event = $2",
    )
    .bind(position)
    .bind(message_id)
    .bind(queue)
    .fetch_optional(db.reader())
    .await?;
    Ok(own.map(|_| position))
}

/// The `source` row, held until the transaction ends.
pub(crate) struct Source {
    pub(crate) id: String,
    pub(crate) last_position: i64,
}

/// Locks the `source` row (an update that changes nothing is a lock on both databases), making it if there is none.
pub(crate) async fn lock_source(tx: &mut Tx) -> Result<Source, Error> {
    const LOCK: &str = "UPDATE source SET last_position = last_position RETURNING id, last_position";
    let mut row: Option<(String, i64)> = sqlx::query_as(LOCK).fetch_optional(&mut **tx).await?;
    if row.is_none() {
        sqlx::query("INSERT INTO source (one, id, last_position) VALUES (1, $1, 0) ON CONFLICT DO NOTHING")
            .bind(Uuid::new_v4().to_string())
            .execute(&mut **tx)
            .await?;
        row = sqlx::query_as(LOCK).fetch_optional(&mut **tx).await?;
    }
    let (id, last_position) = row.ok_or_else(|| Error::from(sqlx::Error::RowNotFound))?;
    Ok(Source { id, last_position })
}

/// Gives the next positions to at most `limit` committed events that have none, oldest first; on SQLite there are no such
/// events. The caller holds `source`.
pub(crate) async fn assign(tx: &mut Tx, source: &mut Source, limit: i64) -> Result<(), Error> {
    if bulk::on_sqlite(tx) {
        return Ok(());
    }
    let given = sqlx::query(
        "WITH next AS (
            SELECT message_id, $1 + ROW_NUMBER() OVER (ORDER BY created_ms, message_id) AS position
            FROM outbox WHERE position IS NULL ORDER BY created_ms, message_id LIMIT $2
         )
         UPDATE outbox SET position = next.position FROM next WHERE outbox.message_id = next.message_id",
    )
    .bind(source.last_position)
    .bind(limit)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if given > 0 {
        source.last_position += i64::try_from(given).expect("a limit of 64 bits bounds it");
        sqlx::query("UPDATE source SET last_position = $1").bind(source.last_position).execute(&mut **tx).await?;
    }
    Ok(())
}
