//! One queue's lane: plans a push, makes it, and learns from the answer. The picture is in the parent module.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hokusai_db::Tx;
use hokusai_queue::{Cursor, Queue, RelayBatch, Relayed};
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
    position: Option<Cursor>,
    attempted: Option<Cursor>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
struct Push {
    expected: Option<Cursor>,
    next: Cursor,
}

/// What a refused push means.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// It had arrived, and its answer was lost.
    ReplyLost,
    /// The queue is elsewhere in what this database has published: it lost writes, and a push that was still under way may
    /// have moved it on since.
    Elsewhere(Option<Cursor>),
    /// The cursor names no event of this database.
    Foreign(Cursor),
}

impl Refusal {
    /// Sound only if the database still says that `push` is the one under way: otherwise another relay moved on. `own` says
    /// whether `actual` names an event of this database.
    fn of(push: &Push, actual: Option<Cursor>, own: bool) -> Self {
        match actual {
            Some(actual) if !own => Self::Foreign(actual),
            Some(actual) if actual == push.next => Self::ReplyLost,
            actual => Self::Elsewhere(actual),
        }
    }
}

/// The position of a cursor that this database has made; 0 if there is none.
fn position(cursor: Option<&Cursor>) -> i64 {
    cursor.and_then(Cursor::event).map_or(0, |(position, _)| position)
}

pub(super) struct Lane {
    shared: Arc<Shared>,
    name: String,
    queue: Option<Arc<dyn Queue>>,
    /// A push that arrived, which the database does not say yet.
    arrived: Option<Push>,
    /// When the queue's cursor was last known to be where it should be.
    verified: Option<Instant>,
    /// Whether the last push was as large as one may be, so that there is probably more.
    full: bool,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, name: String) -> Self {
        Self { shared, name, queue: None, arrived: None, verified: None, full: false }
    }

    pub(super) async fn run(mut self, end: CancellationToken) {
        let mut waiter = self.shared.nudge.waiter();
        let mut pause = self.shared.config.first_pause;
        while !end.is_cancelled() {
            match self.pass().await {
                Ok(Moved::On { .. }) => {
                    pause = self.shared.config.first_pause;
                    if !self.full {
                        self::pause(self.shared.config.gather, &end).await;
                    }
                }
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
                self.note(standing.position.as_ref(), standing.last_position);
                return self.verify(&standing).await;
            }
        };
        self.full = position(Some(&push.next)) - position(push.expected.as_ref()) >= i64::from(self.shared.config.batch);
        let entries = self.entries(&push).await?;
        let queue = self.queue().await?;
        let batch = RelayBatch { source: &standing.source, expected: push.expected.as_ref(), next: &push.next, entries: &entries };
        match queue.relay(batch).await.map_err(|source| self.failed(source))? {
            Relayed::Moved => {
                self.note(Some(&push.next), standing.last_position);
                self.arrived = Some(push);
                self.verified = Some(Instant::now());
                Ok(Moved::On { entries: entries.len() as u64 })
            }
            Relayed::Refused { actual } => self.refused(&push, Some(&push.next), actual).await,
        }
    }

    fn note(&self, at: Option<&Cursor>, last_position: i64) {
        let at = at.map(|cursor| position(Some(cursor)));
        self.shared.status.note(&self.name, at, last_position.max(at.unwrap_or(0)));
    }

    /// With nothing to publish, makes sure now and then that the queue still has its cursor: a queue that lost its
    /// writes must not have to wait for the next event to get the last ones again.
    async fn verify(&mut self, standing: &Standing) -> Result<Moved, RelayError> {
        let due = self.verified.is_none_or(|verified| verified.elapsed() >= self.shared.config.verify);
        let (true, Some(position)) = (due, &standing.position) else { return Ok(Moved::Nothing) };
        let batch = RelayBatch { source: &standing.source, expected: Some(position), next: position, entries: &[] };
        match self.queue().await?.relay(batch).await.map_err(|source| self.failed(source))? {
            Relayed::Moved => {
                self.verified = Some(Instant::now());
                Ok(Moved::Nothing)
            }
            Relayed::Refused { actual } => {
                let push = Push { expected: standing.position.clone(), next: position.clone() };
                self.refused(&push, None, actual).await
            }
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
        type Row = (String, i64, Option<i64>, Option<String>, Option<i64>, Option<String>, Option<String>, i64);
        let row: Option<Row> = sqlx::query_as(
            "SELECT s.id, s.last_position, p.position, p.position_event, p.attempted, p.attempted_event, p.stopped,
                    (SELECT COUNT(*) FROM (SELECT 1 AS one FROM outbox WHERE position IS NULL LIMIT 1) AS waiting)
             FROM source s, relay_progress p WHERE p.queue = $1",
        )
        .bind(self.name.as_str())
        .fetch_optional(self.shared.db.reader())
        .await?;
        let cursor = |position: Option<i64>, event: Option<String>| Some(Cursor::new(position?, &event?));
        Ok(row.map(|(source, last_position, position, event, attempted, attempted_event, stopped, waiting)| Standing {
            source,
            position: cursor(position, event),
            attempted: cursor(attempted, attempted_event),
            stopped,
            last_position,
            waiting: waiting > 0,
        }))
    }

    /// The next push, recorded as attempted.
    async fn plan(&mut self, standing: &Standing) -> Result<Plan, RelayError> {
        let is_attempt = |push: &Push| standing.position == push.expected && standing.attempted.as_ref() == Some(&push.next);
        let arrived = self.arrived.take().filter(is_attempt);
        if let (Some(next), None) = (&standing.attempted, &arrived) {
            return Ok(Plan::Push(Push { expected: standing.position.clone(), next: next.clone() }));
        }
        let at = arrived.as_ref().map_or(&standing.position, |_| &standing.attempted).as_ref();
        let from = position(at);
        let more = standing.waiting || standing.last_position > from;
        if !more && arrived.is_none() {
            return Ok(Plan::Nothing);
        }
        let mut tx = self.shared.db.write().await?;
        let mut next = None;
        if more {
            let batch = i64::from(self.shared.config.batch);
            let mut source = outbox::lock_source(&mut tx).await?;
            outbox::assign(&mut tx, &mut source, batch).await?;
            next = last_event(&mut tx, from, from + batch).await?;
        }
        let recorded = self.record(&mut tx, standing, at, next.as_ref()).await?;
        tx.commit().await?;
        match next {
            Some(next) if recorded => Ok(Plan::Push(Push { expected: at.cloned(), next })),
            None if arrived.is_none() => Ok(Plan::Nothing),
            // After an arrival was recorded there may be something new; after another relay's step there is.
            _ => Ok(Plan::Again),
        }
    }

    /// Moves the lane's row on from what `standing` saw; `false` if it is no longer as it was.
    async fn record(
        &self,
        tx: &mut Tx,
        standing: &Standing,
        position: Option<&Cursor>,
        attempted: Option<&Cursor>,
    ) -> Result<bool, RelayError> {
        let (position, attempted) = (position.and_then(Cursor::event), attempted.and_then(Cursor::event));
        let changed = sqlx::query(
            "UPDATE relay_progress SET position = $1, position_event = $2, attempted = $3, attempted_event = $4
             WHERE queue = $5 AND stopped IS NULL
               AND position_event IS NOT DISTINCT FROM $6 AND attempted_event IS NOT DISTINCT FROM $7",
        )
        .bind(position.map(|(position, _)| position))
        .bind(position.map(|(_, event)| event))
        .bind(attempted.map(|(attempted, _)| attempted))
        .bind(attempted.map(|(_, event)| event))
        .bind(self.name.as_str())
        .bind(event(standing.position.as_ref()))
        .bind(event(standing.attempted.as_ref()))
        .execute(&mut **tx)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// The subscribed and unfinished events of a push, oldest first.
    async fn entries(&self, push: &Push) -> Result<Vec<Bytes>, RelayError> {
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
            "SELECT o.envelope FROM outbox o
             JOIN subscriptions s ON s.queue = $1 AND s.message_type = o.message_type
             WHERE o.position > $2 AND o.position <= $3 AND o.position > s.start_position
               AND NOT EXISTS (SELECT 1 FROM finished f WHERE f.message_id = o.message_id AND f.queue = $1)
             ORDER BY o.position",
        )
        .bind(self.name.as_str())
        .bind(position(push.expected.as_ref()))
        .bind(position(Some(&push.next)))
        .fetch_all(self.shared.db.reader())
        .await?;
        Ok(rows.into_iter().map(|(envelope,)| envelope.into()).collect())
    }

    /// Learns from a refusal, if the database still says what it said when `push` was made: `attempted` was recorded.
    async fn refused(&mut self, push: &Push, attempted: Option<&Cursor>, actual: Option<Cursor>) -> Result<Moved, RelayError> {
        let own = match &actual {
            Some(actual) => outbox::own_position(&self.shared.db, &self.name, actual).await?.is_some(),
            None => true,
        };
        let unchanged = self.standing().await?.is_some_and(|now| now.position == push.expected && now.attempted.as_ref() == attempted);
        if !unchanged {
            return Ok(Moved::On { entries: 0 });
        }
        match Refusal::of(push, actual, own) {
            Refusal::ReplyLost => self.arrived = Some(push.clone()),
            Refusal::Elsewhere(actual) => {
                let (expected, actual) = (push.expected.as_ref(), actual.as_ref());
                let (was, is) = (expected.map(Cursor::as_str), actual.map(Cursor::as_str));
                tracing::warn!(queue = self.name, expected = was, actual = is, "the queue lost writes; publishing again from there");
                self.go_there(expected, attempted, actual).await?;
            }
            Refusal::Foreign(actual) => {
                let reason = foreign(&self.name, push, &actual);
                tracing::error!(queue = self.name, reason);
                self.stop(push.expected.as_ref(), attempted, &reason).await?;
                self.shared.status.note_stopped(&self.name, &reason);
                return Ok(Moved::Stopped);
            }
        }
        Ok(Moved::On { entries: 0 })
    }

    async fn go_there(&self, position: Option<&Cursor>, attempted: Option<&Cursor>, actual: Option<&Cursor>) -> Result<(), RelayError> {
        let mut tx = self.shared.db.write().await?;
        let actual = actual.and_then(Cursor::event);
        sqlx::query(
            "UPDATE relay_progress
             SET position = $1, position_event = $2, attempted = NULL, attempted_event = NULL, rewinds = rewinds + 1
             WHERE queue = $3 AND position_event IS NOT DISTINCT FROM $4 AND attempted_event IS NOT DISTINCT FROM $5",
        )
        .bind(actual.map(|(actual, _)| actual))
        .bind(actual.map(|(_, event)| event))
        .bind(self.name.as_str())
        .bind(event(position))
        .bind(event(attempted))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    async fn stop(&self, position: Option<&Cursor>, attempted: Option<&Cursor>, reason: &str) -> Result<(), RelayError> {
        let mut tx = self.shared.db.write().await?;
        sqlx::query(
            "UPDATE relay_progress SET stopped = $1
             WHERE queue = $2 AND position_event IS NOT DISTINCT FROM $3 AND attempted_event IS NOT DISTINCT FROM $4",
        )
        .bind(reason)
        .bind(self.name.as_str())
        .bind(event(position))
        .bind(event(attempted))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

fn event(cursor: Option<&Cursor>) -> Option<&str> {
    cursor.and_then(Cursor::event).map(|(_, event)| event)
}

/// Where a push goes from `from`: to the last event up to `to` or, where all of those are pruned, to the next one.
async fn last_event(tx: &mut Tx, from: i64, to: i64) -> Result<Option<Cursor>, RelayError> {
    let event: Option<(i64, String)> = sqlx::query_as(
        "SELECT position, message_id FROM outbox WHERE position = COALESCE(
            (SELECT MAX(position) FROM outbox WHERE position > $1 AND position <= $2),
            (SELECT MIN(position) FROM outbox WHERE position > $2))",
    )
    .bind(from)
    .bind(to)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(event.map(|(position, message_id)| Cursor::new(position, &message_id)))
}

fn foreign(queue: &str, push: &Push, actual: &Cursor) -> String {
    let ours = push.expected.as_ref().map_or_else(|| "at none yet".to_owned(), |expected| format!("at {expected}"));
    format!(
        "the relay cursor of queue {queue} is at {actual}, an event that this database, being {ours}, does not have: the \
         database was restored from a backup, or another copy of it publishes to the same queue. Make sure that only one copy \
         runs, then give this database a new source id: unfinished events are published again from the start"
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

    fn at(position: i64) -> Cursor {
        Cursor::new(position, "event")
    }

    fn check(expected: Option<i64>, next: i64, actual: Option<Cursor>, own: bool, meaning: &Refusal) {
        assert_eq!(Refusal::of(&Push { expected: expected.map(at), next: at(next) }, actual, own), *meaning);
    }

    #[test]
    fn a_refusal_is_understood() {
        check(Some(10), 20, Some(at(20)), true, &Refusal::ReplyLost);
        check(None, 20, Some(at(20)), true, &Refusal::ReplyLost);
        check(Some(10), 20, Some(at(9)), true, &Refusal::Elsewhere(Some(at(9))));
        check(Some(10), 20, None, true, &Refusal::Elsewhere(None));
        check(Some(10), 20, Some(at(15)), true, &Refusal::Elsewhere(Some(at(15))));
        check(Some(10), 20, Some(at(21)), true, &Refusal::Elsewhere(Some(at(21))));
        let other = Cursor::new(20, "another");
        check(Some(10), 20, Some(other.clone()), false, &Refusal::Foreign(other));
        check(Some(10), 20, Some(at(9)), false, &Refusal::Foreign(at(9)));
        check(None, 20, Some(at(3)), false, &Refusal::Foreign(at(3)));
        assert_eq!(position(Some(&at(7))), 7);
    }
}
