//! One queue's lane: plans a push, makes it, and learns from the answer. The picture is in the parent module.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hokusai_db::Tx;
use hokusai_queue::{Queue, RelayBatch, Relayed};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{RelayError, Shared};
use crate::{nudge::Waiter, outbox};

/// What a pass did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It did something, and there may be more.
    On {
        /// Events published.
        entries: u64,
    },
    /// There was nothing to publish.
    Nothing,
    /// The queue is stopped.
    Stopped,
}

/// What the database says about this lane.
struct Standing {
    source: String,
    position: Option<i64>,
    attempted: Option<i64>,
    stopped: Option<String>,
    last_position: i64,
    waiting: bool,
}

/// What is to be done next.
enum Plan {
    Push(Push),
    /// Somebody else was at it: look again.
    Again,
    Nothing,
}

/// A push: from the cursor the queue should have to the one it is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Push {
    expected: Option<i64>,
    next: i64,
}

/// What a refused push means.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// It had arrived, and its answer was lost.
    ReplyLost,
    /// The queue lost writes and is back at this cursor.
    WritesLost(Option<i64>),
    /// The cursor is nobody's that this database knows.
    Foreign(i64),
}

impl Refusal {
    /// Sound only if the database still says that `push` is the one under way: otherwise another relay moved on.
    fn of(push: Push, actual: Option<i64>) -> Self {
        match actual {
            Some(actual) if actual == push.next => Self::ReplyLost,
            Some(actual) if push.expected.is_none_or(|expected| actual > expected) => Self::Foreign(actual),
            actual => Self::WritesLost(actual),
        }
    }
}

pub(super) struct Lane {
    shared: Arc<Shared>,
    name: String,
    queue: Option<Arc<dyn Queue>>,
    /// A push that arrived, which the database does not say yet.
    arrived: Option<Push>,
    /// When the queue's cursor was last known to be where it should be.
    verified: Option<Instant>,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, name: String) -> Self {
        Self { shared, name, queue: None, arrived: None, verified: None }
    }

    pub(super) async fn run(mut self, end: CancellationToken) {
        let mut waiter = self.shared.nudge.waiter();
        let mut pause = self.shared.config.first_pause;
        while !end.is_cancelled() {
            match self.pass().await {
                Ok(Moved::On { .. }) => pause = self.shared.config.first_pause,
                Ok(Moved::Nothing | Moved::Stopped) => {
                    pause = self.shared.config.first_pause;
                    self.wait(&mut waiter, &end).await;
                }
                Err(error) => {
                    self.note_failure(&error);
                    self::pause(pause, &end).await;
                    pause = (pause * 2).min(self.shared.config.longest_pause);
                }
            }
        }
    }

    async fn wait(&self, waiter: &mut Waiter, end: &CancellationToken) {
        tokio::select! {
            () = end.cancelled() => {}
            () = waiter.nudged() => {}
            () = tokio::time::sleep(self.shared.config.poll) => {}
        }
    }

    fn note_failure(&mut self, error: &RelayError) {
        tracing::warn!(queue = self.name, %error, "the relay cannot publish; it tries again");
        self.shared.status.note_outage(&self.name, &error.to_string(), Timestamp::now());
    }

    /// One push, or what has to be settled before one.
    pub(super) async fn pass(&mut self) -> Result<Moved, RelayError> {
        let Some(standing) = self.standing().await? else { return Ok(Moved::Nothing) };
        if let Some(reason) = standing.stopped {
            self.shared.status.note_stopped(&self.name, &reason);
            return Ok(Moved::Stopped);
        }
        let push = match self.plan(&standing).await? {
            Plan::Push(push) => push,
            Plan::Again => return Ok(Moved::On { entries: 0 }),
            Plan::Nothing => {
                self.shared.status.note(&self.name, standing.position, standing.last_position);
                return self.verify(&standing).await;
            }
        };
        let entries = self.entries(push).await?;
        let queue = self.queue().await?;
        let batch = RelayBatch { source: &standing.source, expected: push.expected, next: push.next, entries: &entries };
        match queue.relay(batch).await.map_err(|source| self.failed(source))? {
            Relayed::Moved => {
                self.arrived = Some(push);
                self.verified = Some(Instant::now());
                self.shared.status.note(&self.name, Some(push.next), standing.last_position.max(push.next));
                Ok(Moved::On { entries: entries.len() as u64 })
            }
            Relayed::Refused { actual } => self.refused(push, Some(push.next), actual).await,
        }
    }

    /// With nothing to publish, makes sure now and then that the queue still has its cursor: a queue that lost its
    /// writes must not have to wait for the next event to get the last ones again.
    async fn verify(&mut self, standing: &Standing) -> Result<Moved, RelayError> {
        let due = self.verified.is_none_or(|verified| verified.elapsed() >= self.shared.config.verify);
        let (true, Some(position)) = (due, standing.position) else { return Ok(Moved::Nothing) };
        let batch = RelayBatch { source: &standing.source, expected: Some(position), next: position, entries: &[] };
        match self.queue().await?.relay(batch).await.map_err(|source| self.failed(source))? {
            Relayed::Moved => {
                self.verified = Some(Instant::now());
                Ok(Moved::Nothing)
            }
            Relayed::Refused { actual } => self.refused(Push { expected: standing.position, next: position }, None, actual).await,
        }
    }

    fn failed(&self, source: hokusai_queue::Error) -> RelayError {
        RelayError::Queue { queue: self.name.clone(), source }
    }

    async fn queue(&mut self) -> Result<Arc<dyn Queue>, RelayError> {
        if let Some(queue) = &self.queue {
            return Ok(queue.clone());
        }
        let queue = self.shared.opener.open(&self.name).await.map_err(|source| self.failed(source))?;
        self.queue = Some(queue.clone());
        Ok(queue)
    }

    async fn standing(&self) -> Result<Option<Standing>, RelayError> {
        type Row = (String, i64, Option<i64>, Option<i64>, Option<String>, i64);
        let row: Option<Row> = sqlx::query_as(
            "SELECT s.id, s.last_position, p.position, p.attempted, p.stopped,
                    (SELECT COUNT(*) FROM (SELECT 1 AS one FROM outbox WHERE position IS NULL LIMIT 1) AS waiting)
             FROM source s, relay_progress p WHERE p.queue = $1",
        )
        .bind(self.name.as_str())
        .fetch_optional(self.shared.db.reader())
        .await?;
        Ok(row.map(|(source, last_position, position, attempted, stopped, waiting)| Standing {
            source,
            position,
            attempted,
            stopped,
            last_position,
            waiting: waiting > 0,
        }))
    }

    /// The next push, recorded as attempted.
    async fn plan(&mut self, standing: &Standing) -> Result<Plan, RelayError> {
        let arrived = self.arrived.take().filter(|push| standing.position == push.expected && standing.attempted == Some(push.next));
        if let (Some(next), None) = (standing.attempted, arrived) {
            return Ok(Plan::Push(Push { expected: standing.position, next }));
        }
        let position = arrived.map_or(standing.position, |arrived| Some(arrived.next));
        let from = position.unwrap_or(0);
        let more = standing.waiting || standing.last_position > from;
        if !more && arrived.is_none() {
            return Ok(Plan::Nothing);
        }
        let mut tx = self.shared.db.write().await?;
        let mut last_position = standing.last_position;
        if more {
            let mut source = outbox::lock_source(&mut tx).await?;
            outbox::assign(&mut tx, &mut source, i64::from(self.shared.config.batch)).await?;
            last_position = source.last_position;
        }
        let next = (last_position > from).then(|| last_position.min(from + i64::from(self.shared.config.batch)));
        let recorded = self.record(&mut tx, standing, position, next).await?;
        tx.commit().await?;
        match next {
            Some(next) if recorded => Ok(Plan::Push(Push { expected: position, next })),
            // After an arrival was recorded there may be something new; after another relay's step there is.
            _ => Ok(Plan::Again),
        }
    }

    /// Moves the lane's row on from what `standing` saw; `false` if it is no longer as it was.
    async fn record(&self, tx: &mut Tx, standing: &Standing, position: Option<i64>, attempted: Option<i64>) -> Result<bool, RelayError> {
        let changed = sqlx::query(
            "UPDATE relay_progress SET position = $1, attempted = $2
             WHERE queue = $3 AND stopped IS NULL AND position IS NOT DISTINCT FROM $4 AND attempted IS NOT DISTINCT FROM $5",
        )
        .bind(position)
        .bind(attempted)
        .bind(self.name.as_str())
        .bind(standing.position)
        .bind(standing.attempted)
        .execute(&mut **tx)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// The subscribed and unfinished events of a push, oldest first.
    async fn entries(&self, push: Push) -> Result<Vec<Bytes>, RelayError> {
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
            "SELECT o.envelope FROM outbox o
             JOIN subscriptions s ON s.queue = $1 AND s.message_type = o.message_type
             WHERE o.position > $2 AND o.position <= $3 AND o.position > s.start_position
               AND NOT EXISTS (SELECT 1 FROM finished f WHERE f.message_id = o.message_id AND f.queue = $1)
             ORDER BY o.position",
        )
        .bind(self.name.as_str())
        .bind(push.expected.unwrap_or(0))
        .bind(push.next)
        .fetch_all(self.shared.db.reader())
        .await?;
        Ok(rows.into_iter().map(|(envelope,)| envelope.into()).collect())
    }

    /// Learns from a refusal, if the database still says what it said when `push` was made: `attempted` was recorded.
    async fn refused(&mut self, push: Push, attempted: Option<i64>, actual: Option<i64>) -> Result<Moved, RelayError> {
        let unchanged = self.standing().await?.is_some_and(|now| now.position == push.expected && now.attempted == attempted);
        if !unchanged {
            return Ok(Moved::On { entries: 0 });
        }
        match Refusal::of(push, actual) {
            Refusal::ReplyLost => self.arrived = Some(push),
            Refusal::WritesLost(actual) => {
                tracing::warn!(queue = self.name, expected = push.expected, actual, "the queue lost writes; publishing again from there");
                self.go_back(push.expected, attempted, actual).await?;
            }
            Refusal::Foreign(actual) => {
                let reason = foreign(&self.name, push, actual);
                tracing::error!(queue = self.name, reason);
                self.stop(push.expected, attempted, &reason).await?;
                self.shared.status.note_stopped(&self.name, &reason);
                return Ok(Moved::Stopped);
            }
        }
        Ok(Moved::On { entries: 0 })
    }

    async fn go_back(&self, position: Option<i64>, attempted: Option<i64>, actual: Option<i64>) -> Result<(), RelayError> {
        let mut tx = self.shared.db.write().await?;
        sqlx::query(
            "UPDATE relay_progress SET position = $1, attempted = NULL, rewinds = rewinds + 1
             WHERE queue = $2 AND position IS NOT DISTINCT FROM $3 AND attempted IS NOT DISTINCT FROM $4",
        )
        .bind(actual)
        .bind(self.name.as_str())
        .bind(position)
        .bind(attempted)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    async fn stop(&self, position: Option<i64>, attempted: Option<i64>, reason: &str) -> Result<(), RelayError> {
        let mut tx = self.shared.db.write().await?;
        sqlx::query(
            "UPDATE relay_progress SET stopped = $1
             WHERE queue = $2 AND position IS NOT DISTINCT FROM $3 AND attempted IS NOT DISTINCT FROM $4",
        )
        .bind(reason)
        .bind(self.name.as_str())
        .bind(position)
        .bind(attempted)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

fn foreign(queue: &str, push: Push, actual: i64) -> String {
    let ours = push.expected.map_or_else(|| "at none yet".to_owned(), |expected| format!("at {expected}"));
    format!(
        "the relay cursor of queue {queue} is at {actual}, where this database, being {ours}, never put it: the database was \
         restored from a backup, or another copy of it publishes to the same queue. Make sure that only one copy runs, then \
         give this database a new source id: unfinished events are published again from the start"
    )
}

pub(super) async fn pause(pause: Duration, end: &CancellationToken) {
    tokio::select! {
        () = end.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: Option<i64>, next: i64, actual: Option<i64>, meaning: Refusal) {
        assert_eq!(Refusal::of(Push { expected, next }, actual), meaning);
    }

    #[test]
    fn a_refusal_is_understood() {
        check(Some(10), 20, Some(20), Refusal::ReplyLost);
        check(None, 20, Some(20), Refusal::ReplyLost);
        check(Some(10), 20, Some(9), Refusal::WritesLost(Some(9)));
        check(Some(10), 20, None, Refusal::WritesLost(None));
        check(Some(10), 20, Some(15), Refusal::Foreign(15));
        check(Some(10), 20, Some(21), Refusal::Foreign(21));
        check(None, 20, Some(3), Refusal::Foreign(3));
    }
}
