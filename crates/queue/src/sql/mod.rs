//! The queue in a SQL database: SQLite on one host, PostgreSQL on many.
//!
//! | table | holds |
//! |---|---|
//! | `queue_entries` | every entry: its queue, position, state, bytes, and `at`: due time if delayed, end of the lease if in processing (`NULL`: no lease yet) |
//! | `queue_heads` | for each queue the positions used at either end, the time of the reaper's last pass, and the pause in force |
//! | `queue_cursors` | the cursor of each relay source |
//!
//! Invariants:
//!
//! - Main is taken from the lowest position. Whatever enters main or dlq gets the highest position so far plus one, and
//!   what is released the lowest minus one, so that positions never repeat.
//! - Every transaction that gives out positions locks the queue's head first, so that two of them cannot deadlock.
//! - Entries are found by `digest` and compared by their bytes; of identical ones a move affects one.
//! - Times are the database's own.

mod upkeep;
mod wake;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use hokusai_db::{Backend, Database, Error as DbError, Migration, Tx};
use sqlx::{AssertSqlSafe, Row};
use tokio::{sync::Notify, time::Instant};

use crate::{Cursor, Error, LeaseTerms, Move, Queue, RelayBatch, Relayed, Settled, State, Stats, Survey, Taken, Upkeep};

/// How long a push of another process may go unnoticed by a waiting take.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How often a transaction is run that another one was in the way of.
const TRIES: usize = 5;
/// Bytes of expired entries listed by one survey.
const EXPIRED_BYTES: usize = 8 << 20;

/// The tables.
pub const MIGRATIONS: &[Migration] = &[
    Migration { room: "queue", number: 1, sql: include_str!("tables.sql"), sqlite: None },
    Migration { room: "queue", number: 2, sql: "ALTER TABLE queue_heads ADD COLUMN pause TEXT", sqlite: None },
    // Cursors name their event. What a bare position stood at cannot be told any more, so the old ones go: their relays, whose
    // own migration gives their databases a new source id, publish what is unfinished again.
    Migration {
        room: "queue",
        sqlite: None,
        number: 3,
        sql: "
DROP TABLE queue_cursors;
CREATE TABLE queue_cursors (
    queue TEXT NOT NULL,
    source TEXT NOT NULL,
    cursor TEXT NOT NULL,
    PRIMARY KEY (queue, source)
);
",
    },
];

/// A queue in a database; its tables are made by [`MIGRATIONS`].
#[derive(Debug)]
pub struct SqlQueue {
    db: Database,
    name: String,
    pushed: Arc<Notify>,
}

impl SqlQueue {
    /// The queue of this name; it exists once something is pushed.
    pub fn new(db: Database, name: &str) -> Self {
        let pushed = wake::of(db.display_url(), name);
        Self { db, name: name.to_owned(), pushed }
    }

    fn error(&self, error: impl Into<DbError>) -> Error {
        let (error, address) = (error.into(), self.db.display_url().to_owned());
        if error.is_transient() {
            Error::Unavailable { address, source: error.into() }
        } else {
            Error::Rejected { address, source: error.into() }
        }
    }

    /// Runs a whole transaction, again if another one was in the way.
    async fn transact<T, F>(&self, work: impl Fn() -> F + Send + Sync) -> Result<T, Error>
    where
        F: Future<Output = Result<T, DbError>> + Send,
        T: Send,
    {
        for _ in 1..TRIES {
            match work().await {
                Err(DbError::Again(_)) => {}
                outcome => return outcome.map_err(|error| self.error(error)),
            }
        }
        work().await.map_err(|error| self.error(error))
    }

    /// The database's clock in milliseconds.
    fn now(&self) -> &'static str {
        match self.db.backend() {
            Backend::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            Backend::Postgres => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }

    /// What keeps two takers from waiting for each other.
    fn skip_locked(&self) -> &'static str {
        match self.db.backend() {
            Backend::Sqlite => "",
            Backend::Postgres => "FOR UPDATE SKIP LOCKED",
        }
    }

    /// Gives out `count` positions at the far end of main and returns the first. Locks the queue's head.
    async fn positions(&self, tx: &mut Tx, count: usize) -> Result<i64, DbError> {
        let count = as_i64(count);
        let last: i64 = sqlx::query_scalar(
            "INSERT INTO queue_heads (queue, lowest, highest) VALUES ($1, 0, $2) \
             ON CONFLICT (queue) DO UPDATE SET highest = queue_heads.highest + $2 RETURNING highest",
        )
        .bind(&self.name)
        .bind(count)
        .fetch_one(&mut **tx)
        .await?;
        Ok(last - count + 1)
    }

    /// A position before all others.
    async fn position_in_front(&self, tx: &mut Tx) -> Result<i64, DbError> {
        let query = "UPDATE queue_heads SET lowest = lowest - 1 WHERE queue = $1 RETURNING lowest";
        Ok(sqlx::query_scalar(query).bind(&self.name).fetch_one(&mut **tx).await?)
    }

    async fn insert(&self, tx: &mut Tx, entries: &[Bytes]) -> Result<(), DbError> {
        let mut position = self.positions(tx, entries.len()).await?;
        for chunk in entries.chunks(100) {
            let rows = hokusai_db::placeholders(chunk.len(), 5);
            let sql = format!("INSERT INTO queue_entries (queue, position, state, digest, entry) VALUES {rows}");
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for entry in chunk {
                query = query.bind(&self.name).bind(position).bind(State::Main.as_str()).bind(digest(entry)).bind(entry.to_vec());
                position += 1;
            }
            query.execute(&mut **tx).await?;
        }
        Ok(())
    }

    async fn ack(&self, tx: &mut Tx, entry: &[u8], from: State) -> Result<Settled, DbError> {
        let sql = format!("DELETE FROM queue_entries WHERE queue = $1 AND state = $2 AND position = {FIND}");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.name).bind(from.as_str());
        let gone = query.bind(digest(entry)).bind(entry.to_vec()).execute(&mut **tx).await?;
        Ok(settled(gone.rows_affected()))
    }

    /// Moves one entry, with other bytes, to a new position. `delay` makes it due later.
    async fn shift(&self, tx: &mut Tx, shift: Shift<'_>) -> Result<Settled, DbError> {
        let position = if shift.in_front { self.position_in_front(tx).await? } else { self.positions(tx, 1).await? };
        let (now, lapsed) = (self.now(), if shift.if_expired { format!("AND at <= {}", self.now()) } else { String::new() });
        let due = if shift.delay.is_some() { format!("{now} + $9") } else { "CAST($9 AS BIGINT)".to_owned() };
        let sql = format!(
            "UPDATE queue_entries SET position = $5, state = $6, digest = $7, entry = $8, at = {due} \
             WHERE queue = $1 AND state = $2 AND position = {FIND} {lapsed}"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.name).bind(shift.from.as_str());
        let query = query.bind(digest(shift.entry)).bind(shift.entry.to_vec()).bind(position).bind(shift.to.as_str());
        let query = query.bind(digest(shift.with)).bind(shift.with.to_vec()).bind(shift.delay.map(millis));
        Ok(settled(query.execute(&mut **tx).await?.rows_affected()))
    }

    async fn extend(&self, tx: &mut Tx, entry: &[u8], lease: Duration) -> Result<Settled, DbError> {
        let sql = format!("UPDATE queue_entries SET at = {} + $5 WHERE queue = $1 AND state = $2 AND position = {FIND}", self.now());
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.name).bind(State::Processing.as_str());
        let extended = query.bind(digest(entry)).bind(entry.to_vec()).bind(millis(lease)).execute(&mut **tx).await?;
        Ok(settled(extended.rows_affected()))
    }

    async fn apply(&self, tx: &mut Tx, change: &Move) -> Result<Settled, DbError> {
        let plain = |entry, with, to| Shift { entry, with, from: State::Processing, to, delay: None, in_front: false, if_expired: false };
        match change {
            Move::Ack { entry } => self.ack(tx, entry, State::Processing).await,
            Move::Discard { entry } => self.ack(tx, entry, State::Dlq).await,
            Move::Extend { entry, lease } => self.extend(tx, entry, *lease).await,
            Move::Retry { entry, with, after } if after.is_zero() => self.shift(tx, plain(entry, with, State::Main)).await,
            Move::Retry { entry, with, after } => self.shift(tx, Shift { delay: Some(*after), ..plain(entry, with, State::Delayed) }).await,
            Move::Release { entry } => self.shift(tx, Shift { in_front: true, ..plain(entry, entry, State::Main) }).await,
            Move::DeadLetter { entry, with } => self.shift(tx, plain(entry, with, State::Dlq)).await,
            Move::Expire { entry, with, to } => self.shift(tx, Shift { if_expired: true, ..plain(entry, with, *to) }).await,
            Move::Redrive { entry, with } => self.shift(tx, Shift { from: State::Dlq, ..plain(entry, with, State::Main) }).await,
            Move::Withdraw { entry, with } => self.shift(tx, Shift { from: State::Main, ..plain(entry, with, State::Dlq) }).await,
        }
    }

    async fn try_push(&self, entries: &[Bytes]) -> Result<(), DbError> {
        let mut tx = self.db.write().await?;
        self.insert(&mut tx, entries).await?;
        Ok(tx.commit().await?)
    }

    async fn try_relay(&self, batch: RelayBatch<'_>) -> Result<Relayed, DbError> {
        let mut tx = self.db.write().await?;
        self.positions(&mut tx, 0).await?;
        let actual = self.cursor(&mut tx, batch.source).await?;
        if actual.as_ref() != batch.expected {
            return Ok(Relayed::Refused { actual });
        }
        if !batch.entries.is_empty() {
            self.insert(&mut tx, batch.entries).await?;
        }
        let query = "INSERT INTO queue_cursors (queue, source, cursor) VALUES ($1, $2, $3) \
                     ON CONFLICT (queue, source) DO UPDATE SET cursor = excluded.cursor";
        sqlx::query(query).bind(&self.name).bind(batch.source).bind(batch.next.as_str()).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Relayed::Moved)
    }

    async fn try_sweep(&self, max: usize, acks: &[Bytes]) -> Result<Taken, DbError> {
        let mut tx = self.db.write().await?;
        let mut taken = Taken::default();
        for entry in acks {
            taken.acked.push(self.ack(&mut tx, entry, State::Processing).await?);
        }
        taken.entries = self.move_to_processing(&mut tx, max).await?;
        tx.commit().await?;
        Ok(taken)
    }

    async fn try_settle(&self, moves: &[Move]) -> Result<Vec<Settled>, DbError> {
        let mut tx = self.db.write().await?;
        self.positions(&mut tx, 0).await?;
        let mut settled = Vec::with_capacity(moves.len());
        for change in moves {
            settled.push(self.apply(&mut tx, change).await?);
        }
        tx.commit().await?;
        Ok(settled)
    }

    async fn try_survey(&self, terms: &LeaseTerms) -> Result<Survey, DbError> {
        let mut tx = self.db.write().await?;
        let renewed = self.open_pass(&mut tx, terms).await?;
        let promoted = self.promote(&mut tx, terms.batch).await?;
        let leased = self.lease(&mut tx, terms.first_sight).await?;
        tx.commit().await?;
        Ok(Survey { renewed, promoted, leased, more: promoted == terms.batch as u64, ..Survey::default() })
    }

    async fn move_to_processing(&self, tx: &mut Tx, max: usize) -> Result<Vec<Bytes>, DbError> {
        let sql = format!(
            "SELECT position, entry FROM queue_entries WHERE queue = $1 AND state = $2 ORDER BY position LIMIT $3 {}",
            self.skip_locked()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.name).bind(State::Main.as_str()).bind(as_i64(max));
        let rows = query.fetch_all(&mut **tx).await?;
        for chunk in rows.chunks(500) {
            let places: Vec<String> = (3..chunk.len() + 3).map(|at| format!("${at}")).collect();
            let sql = format!("UPDATE queue_entries SET state = $1, at = NULL WHERE queue = $2 AND position IN ({})", places.join(","));
            let mut query = sqlx::query(AssertSqlSafe(sql)).bind(State::Processing.as_str()).bind(&self.name);
            for row in chunk {
                query = query.bind(row.try_get::<i64, _>(0)?);
            }
            query.execute(&mut **tx).await?;
        }
        rows.iter().map(|row| Ok(row.try_get::<Vec<u8>, _>(1)?.into())).collect()
    }

    async fn is_main_empty(&self) -> Result<bool, Error> {
        let query = "SELECT 1 FROM queue_entries WHERE queue = $1 AND state = $2 LIMIT 1";
        let query = sqlx::query(query).bind(&self.name).bind(State::Main.as_str());
        Ok(query.fetch_optional(self.db.reader()).await.map_err(|error| self.error(error))?.is_none())
    }

    async fn cursor(&self, tx: &mut Tx, source: &str) -> Result<Option<Cursor>, DbError> {
        let query = "SELECT cursor FROM queue_cursors WHERE queue = $1 AND source = $2";
        let kept: Option<String> = sqlx::query_scalar(query).bind(&self.name).bind(source).fetch_optional(&mut **tx).await?;
        Ok(kept.map(Cursor::from))
    }

    /// Whether a pass would find nothing and need not be noted yet: an idle queue shall not cost a write each second.
    async fn is_idle(&self, terms: &LeaseTerms) -> Result<bool, DbError> {
        let sql = format!(
            "SELECT passed, {}, (SELECT COUNT(*) FROM (SELECT 1 FROM queue_entries WHERE queue = $1 AND state IN ($2, $3) LIMIT 1) AS busy) \
             FROM queue_heads WHERE queue = $1",
            self.now()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.name).bind(State::Processing.as_str()).bind(State::Delayed.as_str());
        let Some(row) = query.fetch_optional(self.db.reader()).await? else { return Ok(true) };
        let (passed, now, busy): (Option<i64>, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(busy == 0 && passed.is_some_and(|passed| now - passed <= millis(terms.outage_after) / 4))
    }

    /// Notes the pass, and renews the leases if there was none for too long.
    async fn open_pass(&self, tx: &mut Tx, terms: &LeaseTerms) -> Result<u64, DbError> {
        self.positions(tx, 0).await?;
        let sql = format!("SELECT passed, {} FROM queue_heads WHERE queue = $1", self.now());
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&self.name).fetch_one(&mut **tx).await?;
        let (passed, now) = (row.try_get::<Option<i64>, _>(0)?, row.try_get::<i64, _>(1)?);
        let query = "UPDATE queue_heads SET passed = $2 WHERE queue = $1";
        sqlx::query(query).bind(&self.name).bind(now).execute(&mut **tx).await?;
        if passed.is_some_and(|passed| now - passed <= millis(terms.outage_after)) {
            return Ok(0);
        }
        let query = "UPDATE queue_entries SET at = $3 WHERE queue = $1 AND state = $2 AND at < $3";
        let query = sqlx::query(query).bind(&self.name).bind(State::Processing.as_str()).bind(now + millis(terms.first_sight));
        Ok(query.execute(&mut **tx).await?.rows_affected())
    }

    async fn promote(&self, tx: &mut Tx, batch: usize) -> Result<u64, DbError> {
        let (now, skip_locked) = (self.now(), self.skip_locked());
        let sql = format!(
            "SELECT position FROM queue_entries WHERE queue = $1 AND state = $2 AND at <= {now} ORDER BY at, position LIMIT $3 {skip_locked}"
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&self.name).bind(State::Delayed.as_str()).bind(as_i64(batch));
        let due: Vec<i64> = query.fetch_all(&mut **tx).await?;
        let first = if due.is_empty() { 0 } else { self.positions(tx, due.len()).await? };
        for (position, was) in (first..).zip(&due) {
            let query = "UPDATE queue_entries SET position = $3, state = $4, at = NULL WHERE queue = $1 AND position = $2";
            sqlx::query(query).bind(&self.name).bind(*was).bind(position).bind(State::Main.as_str()).execute(&mut **tx).await?;
        }
        Ok(due.len() as u64)
    }

    async fn lease(&self, tx: &mut Tx, first_sight: Duration) -> Result<u64, DbError> {
        let sql = format!("UPDATE queue_entries SET at = {} + $3 WHERE queue = $1 AND state = $2 AND at IS NULL", self.now());
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.name).bind(State::Processing.as_str()).bind(millis(first_sight));
        Ok(query.execute(&mut **tx).await?.rows_affected())
    }

    async fn list_expired(&self, survey: &mut Survey, batch: usize) -> Result<(), DbError> {
        let sql = format!("SELECT entry FROM queue_entries WHERE queue = $1 AND state = $2 AND at <= {} ORDER BY at LIMIT $3", self.now());
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&self.name).bind(State::Processing.as_str()).bind(as_i64(batch));
        let mut rows = query.fetch(self.db.reader());
        let mut bytes = 0;
        while let Some(entry) = rows.try_next().await? {
            let entry: Vec<u8> = entry;
            bytes += entry.len();
            survey.expired.push(entry.into());
            if bytes >= EXPIRED_BYTES {
                break;
            }
        }
        survey.more |= bytes >= EXPIRED_BYTES || survey.expired.len() == batch;
        Ok(())
    }
}

/// Finds the position of one entry by its bytes; the same parameters in every statement.
const FIND: &str =
    "(SELECT position FROM queue_entries WHERE queue = $1 AND state = $2 AND digest = $3 AND entry = $4 ORDER BY position LIMIT 1)";

struct Shift<'a> {
    entry: &'a Bytes,
    with: &'a Bytes,
    from: State,
    to: State,
    delay: Option<Duration>,
    in_front: bool,
    if_expired: bool,
}

#[async_trait]
impl Queue for SqlQueue {
    fn name(&self) -> &str {
        &self.name
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(self)
    }

    async fn push(&self, entries: &[Bytes]) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        self.transact(|| self.try_push(entries)).await?;
        self.pushed.notify_waiters();
        Ok(())
    }

    async fn relay(&self, batch: RelayBatch<'_>) -> Result<Relayed, Error> {
        let relayed = self.transact(|| self.try_relay(batch)).await?;
        self.pushed.notify_waiters();
        Ok(relayed)
    }

    async fn take(&self, max: usize, wait: Duration, acks: &[Bytes]) -> Result<Taken, Error> {
        let deadline = Instant::now() + wait;
        let mut acked = vec![];
        let mut acks = acks;
        loop {
            let pushed = self.pushed.notified();
            tokio::pin!(pushed);
            pushed.as_mut().enable();
            if !acks.is_empty() || (max > 0 && !self.is_main_empty().await?) {
                let taken = self.transact(|| self.try_sweep(max, acks)).await?;
                acked.extend(taken.acked);
                acks = &[];
                if !taken.entries.is_empty() || max == 0 {
                    return Ok(Taken { entries: taken.entries, acked });
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || max == 0 {
                return Ok(Taken { entries: vec![], acked });
            }
            // A push of this process wakes at once; one of another process is found by looking again.
            let _ = tokio::time::timeout(left.min(POLL_INTERVAL), pushed).await;
        }
    }

    async fn settle(&self, moves: &[Move]) -> Result<Vec<Settled>, Error> {
        if moves.is_empty() {
            return Ok(vec![]);
        }
        let settled = self.transact(|| self.try_settle(moves)).await?;
        self.pushed.notify_waiters();
        Ok(settled)
    }

    async fn survey(&self, terms: &LeaseTerms) -> Result<Survey, Error> {
        if self.is_idle(terms).await.map_err(|error| self.error(error))? {
            return Ok(Survey::default());
        }
        let mut survey = self.transact(|| self.try_survey(terms)).await?;
        if survey.promoted > 0 {
            self.pushed.notify_waiters();
        }
        self.list_expired(&mut survey, terms.batch).await.map_err(|error| self.error(error))?;
        Ok(survey)
    }

    async fn peek(&self, state: State, offset: usize, limit: usize) -> Result<Vec<Bytes>, Error> {
        let order = if state == State::Delayed { "at, position" } else { "position" };
        let sql = format!("SELECT entry FROM queue_entries WHERE queue = $1 AND state = $2 ORDER BY {order} LIMIT $3 OFFSET $4");
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&self.name).bind(state.as_str()).bind(as_i64(limit)).bind(as_i64(offset));
        let entries: Vec<Vec<u8>> = query.fetch_all(self.db.reader()).await.map_err(|error| self.error(error))?;
        Ok(entries.into_iter().map(Bytes::from).collect())
    }

    async fn stats(&self) -> Result<Stats, Error> {
        let query = "SELECT state, COUNT(*) FROM queue_entries WHERE queue = $1 GROUP BY state";
        let rows = sqlx::query(query).bind(&self.name).fetch_all(self.db.reader()).await.map_err(|error| self.error(error))?;
        let mut stats = Stats::default();
        for row in rows {
            let state: String = row.try_get(0).map_err(|error| self.error(error))?;
            let count = u64::try_from(row.try_get::<i64, _>(1).map_err(|error| self.error(error))?).unwrap_or(0);
            match state.parse() {
                Ok(State::Main) => stats.main = count,
                Ok(State::Processing) => stats.processing = count,
                Ok(State::Delayed) => stats.delayed = count,
                Ok(State::Dlq) => stats.dlq = count,
                Err(_) => {}
            }
        }
        Ok(stats)
    }
}

fn settled(rows: u64) -> Settled {
    if rows > 0 { Settled::Done } else { Settled::NotYours }
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Whole milliseconds, rounded up: a short delay is not none.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX).min(1 << 50)
}

/// FNV-1a. Only an index into the entries, whose bytes are compared too: a collision costs time and nothing else.
fn digest(entry: &[u8]) -> i64 {
    let hash = entry.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    i64::from_ne_bytes(hash.to_ne_bytes())
}
