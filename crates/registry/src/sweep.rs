//! The sweep: finds out which events a queue's consumers are done with although nobody said so, and prunes the outbox.
//!
//! A foreign consumer acknowledges by removing the message, and tells nobody. So an event counts as finished on a queue when
//! it was **seen absent** from main, processing, delayed and dlq while the queue's cursor stands at or beyond its position:
//! then the queue has had it, and has it no more. It must be absent twice, [`SweepConfig::settle`] apart, because a foreign
//! client's own retry removes and then pushes. Dead-lettered is not finished.
//!
//! The cost of a pass does not depend on how long main is: what entered main is read once, as it enters, and remembered by a
//! `Shadow`; of what is there only the end that is taken from is read again.
//!
//! **What is kept.** An event stays in the outbox until every queue subscribed to its type has finished it, the registration
//! that a `model_ready_to_deploy` belongs to has come to an end, and it is older than [`SweepConfig::retention`]. Until then a
//! queue that lost it gets it again. The newest events stay whatever their age: a queue that comes back with an older cursor
//! is known by the event it names.

mod shadow;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use hokusai_db::Database;
use hokusai_queue::{Look, Queue};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::shadow::Shadow;
pub(crate) use self::shadow::message_id;
use crate::{
    bulk::{self, Column},
    outbox,
    relay::{QueueOpener, RelayError},
};

/// Positions that one pass looks through.
const WINDOW: i64 = 50_000;
/// Passes after which a queue's events are looked through from the first one again, for what was published anew.
const FRESH_START: u32 = 60;
/// Absent events remembered, at most, until they are absent for the second time.
const ABSENT: usize = 200_000;
/// Events pruned in one transaction.
const PRUNED: i64 = 1_000;

const FINISHED: bulk::Insert = bulk::Insert {
    into: "finished (message_id, queue, at_ms, swept)",
    columns: &[Column::Text, Column::Text, Column::Number, Column::Number],
    tail: "ON CONFLICT DO NOTHING",
};

/// How a sweep works.
#[derive(Debug, Clone)]
pub struct SweepConfig {
    /// The time between two passes.
    pub interval: Duration,
    /// How long an event must have been absent to be believed finished.
    pub settle: Duration,
    /// How old an event is before it may be pruned.
    pub retention: Duration,
    /// How many of the newest events are not pruned, at least one.
    pub newest: u32,
    /// The time between two prunings.
    pub prune_every: Duration,
}

impl Default for SweepConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            settle: Duration::from_secs(10),
            retention: Duration::from_secs(30 * 24 * 3600),
            newest: 10_000,
            prune_every: Duration::from_secs(600),
        }
    }
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Events found to be finished.
    pub finished: u64,
    /// Events removed from the outbox.
    pub pruned: u64,
}

/// The sweep of one database. Any number of them may run on it at once.
pub struct Sweep {
    db: Database,
    opener: Arc<dyn QueueOpener>,
    config: SweepConfig,
    lanes: BTreeMap<String, Lane>,
    pruned: Option<Instant>,
}

impl std::fmt::Debug for Sweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweep").field("db", &self.db).field("config", &self.config).finish_non_exhaustive()
    }
}

/// What is remembered of one queue between passes.
#[derive(Default)]
struct Lane {
    shadow: Shadow,
    /// How often the relay had found writes lost; more than that now, and nothing that was seen counts.
    rewinds: Option<i64>,
    /// Every event up to here is finished.
    low: i64,
    /// Where the next pass goes on.
    from: i64,
    passes: u32,
    /// Events that were absent, and since when.
    absent: HashMap<String, Instant>,
}

/// An event that is published and not known to be finished.
struct Candidate {
    message_id: String,
    position: i64,
}

impl Sweep {
    /// A sweep of `db`'s outbox.
    pub fn new(db: Database, opener: Arc<dyn QueueOpener>, config: SweepConfig) -> Self {
        Self { db, opener, config, lanes: BTreeMap::new(), pruned: None }
    }

    /// Sweeps until shutdown. Outages are waited out.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let started = Instant::now();
            match self.pass().await {
                Ok(Swept { finished: 0, pruned: 0 }) => {}
                Ok(swept) => tracing::info!(finished = swept.finished, pruned = swept.pruned, "events were swept"),
                Err(error) => tracing::warn!(%error, "the sweep could not finish its pass; it tries again"),
            }
            // Whatever a pass costs, it is one part in twenty at most.
            let wait = self.config.interval.max(started.elapsed() * 20);
            if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// One pass over every subscribed queue, and the pruning if it is due. A queue that cannot be looked at does not keep the
    /// others waiting; the first error is returned after all were tried.
    ///
    /// # Errors
    ///
    /// [`RelayError`] of the first queue that did not answer.
    pub async fn pass(&mut self) -> Result<Swept, RelayError> {
        let source = outbox::source_id(&self.db).await?;
        let queues: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT p.queue, p.rewinds, MIN(s.start_position) FROM relay_progress p JOIN subscriptions s ON s.queue = p.queue
             GROUP BY p.queue, p.rewinds ORDER BY p.queue",
        )
        .fetch_all(self.db.reader())
        .await?;
        self.lanes.retain(|queue, _| queues.iter().any(|(known, ..)| known == queue));
        let mut swept = Swept::default();
        let mut first_error = None;
        for (queue, rewinds, start) in queues {
            let mut lane = self.lanes.remove(&queue).unwrap_or_default();
            if lane.rewinds.replace(rewinds) != Some(rewinds) {
                lane = Lane { rewinds: Some(rewinds), low: start, from: start, ..Lane::default() };
            }
            match self.sweep(&queue, &source, start, &mut lane).await {
                Ok(finished) => swept.finished += finished,
                Err(error) => drop(first_error.get_or_insert(error)),
            }
            self.lanes.insert(queue, lane);
        }
        if self.pruned.is_none_or(|pruned| pruned.elapsed() >= self.config.prune_every) {
            swept.pruned = self.prune(Timestamp::now()).await?;
            self.pruned = Some(Instant::now());
        }
        first_error.map_or(Ok(swept), Err)
    }

    async fn sweep(&self, name: &str, source: &str, start: i64, lane: &mut Lane) -> Result<u64, RelayError> {
        let failed = |source| RelayError::Queue { queue: name.to_owned(), source };
        lane.passes += 1;
        if lane.passes.is_multiple_of(FRESH_START) {
            (lane.low, lane.from) = (start, start);
        }
        let queue = self.opener.open(name).await.map_err(failed)?;
        let Some(upkeep) = queue.upkeep() else { return Ok(0) };
        // Followed without a candidate too: what enters main is to be known when one comes.
        let look = upkeep.look(source, lane.shadow.mark()).await.map_err(failed)?;
        lane.shadow.follow(&look);
        let Some(cursor) = &look.cursor else { return Ok(0) };
        // What another copy of this database has published says nothing about what is absent here.
        let Some(cursor) = outbox::own_position(&self.db, name, cursor).await? else { return Ok(0) };
        let until = cursor.min(lane.from + WINDOW);
        let candidates = self.candidates(name, lane.from, until).await?;
        let first = candidates.first().map(|candidate| candidate.position - 1);
        let gone = lane.judge(&*queue, &look, candidates, self.config.settle);
        let finished = self.finish(name, &gone).await?;
        if lane.from <= lane.low {
            lane.low = first.unwrap_or(until).max(lane.low);
        }
        lane.from = if until < cursor { until } else { lane.low };
        Ok(finished)
    }

    /// The unfinished events between two positions.
    async fn candidates(&self, queue: &str, from: i64, until: i64) -> Result<Vec<Candidate>, RelayError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT o.message_id, o.position FROM outbox o
             JOIN subscriptions s ON s.queue = $1 AND s.message_type = o.message_type
             WHERE o.position > $2 AND o.position <= $3 AND o.position > s.start_position
               AND NOT EXISTS (SELECT 1 FROM finished f WHERE f.message_id = o.message_id AND f.queue = $1)
             ORDER BY o.position",
        )
        .bind(queue)
        .bind(from)
        .bind(until)
        .fetch_all(self.db.reader())
        .await?;
        Ok(rows.into_iter().map(|(message_id, position)| Candidate { message_id, position }).collect())
    }

    async fn finish(&self, queue: &str, gone: &[String]) -> Result<u64, RelayError> {
        if gone.is_empty() {
            return Ok(0);
        }
        let at_ms = Timestamp::now().as_millisecond();
        let mut tx = self.db.write().await?;
        let bind =
            |query: bulk::AnyQuery, message_id: &String| query.bind(message_id.clone()).bind(queue.to_owned()).bind(at_ms).bind(1_i64);
        let finished = FINISHED.run(&mut tx, gone, bind).await?;
        tx.commit().await?;
        Ok(finished)
    }

    /// Removes what no re-publication can need any more.
    async fn prune(&self, now: Timestamp) -> Result<u64, RelayError> {
        let retention_ms = i64::try_from(self.config.retention.as_millis()).unwrap_or(i64::MAX);
        let before_ms = now.as_millisecond().saturating_sub(retention_ms);
        let mut pruned = 0;
        loop {
            let mut tx = self.db.write().await?;
            let ids: Vec<String> = sqlx::query_scalar(
                "SELECT o.message_id FROM outbox o
                 WHERE o.position <= (SELECT last_position FROM source) - $3 AND o.created_ms < $1
                   AND NOT EXISTS (
                     SELECT 1 FROM relay_progress p JOIN subscriptions s ON s.queue = p.queue WHERE p.position < o.position)
                   AND NOT EXISTS (
                     SELECT 1 FROM subscriptions s WHERE s.message_type = o.message_type AND s.start_position < o.position
                       AND NOT EXISTS (SELECT 1 FROM finished f WHERE f.message_id = o.message_id AND f.queue = s.queue))
                   AND NOT EXISTS (
                     SELECT 1 FROM registrations r WHERE r.id = o.registration_id AND o.message_type = 'model_ready_to_deploy'
                       AND r.status IN ('queued', 'deploying', 'dead_lettered'))
                 ORDER BY o.position LIMIT $2",
            )
            .bind(before_ms)
            .bind(PRUNED)
            .bind(i64::from(self.config.newest.max(1)))
            .fetch_all(&mut *tx)
            .await?;
            for chunk in ids.chunks(bulk::LIST) {
                for table in ["outbox", "finished"] {
                    let sql = format!("DELETE FROM {table} WHERE message_id IN {}", bulk::list(&tx, chunk.len()));
                    let query = bulk::padded(chunk).fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(id.clone()));
                    query.execute(&mut *tx).await?;
                }
            }
            tx.commit().await?;
            pruned += ids.len() as u64;
            if i64::try_from(ids.len()).unwrap_or(PRUNED) < PRUNED {
                return Ok(pruned);
            }
        }
    }
}

impl Lane {
    /// Which of the candidates are gone for good, by what was just seen.
    fn judge(&mut self, queue: &dyn Queue, look: &Look, candidates: Vec<Candidate>, settle: Duration) -> Vec<String> {
        let Some(elsewhere) = &look.elsewhere else {
            tracing::warn!(queue = queue.name(), "there is too much in processing, delayed and dlq to sweep this queue");
            return vec![];
        };
        let now = Instant::now();
        let present: HashSet<String> = elsewhere.iter().chain(&look.front).filter_map(|entry| message_id(entry)).collect();
        let mut gone = Vec::new();
        for Candidate { message_id, .. } in candidates {
            if present.contains(&message_id) || self.shadow.may_hold(&message_id) {
                self.absent.remove(&message_id);
            } else if self.shadow.is_complete() {
                match self.absent.get(&message_id) {
                    Some(since) if now - *since >= settle => {
                        self.absent.remove(&message_id);
                        gone.push(message_id);
                    }
                    Some(_) => {}
                    None => drop(self.absent.insert(message_id, now)),
                }
            }
        }
        if self.absent.len() > ABSENT {
            self.absent.clear();
        }
        gone
    }
}
