//! One queue's lane: plans a push, makes it, and learns from the answer. The picture is in the parent module.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hokusai_queue::{Cursor, Queue, RelayBatch, Relayed};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    RelayError, Shared,
    progress::{begin, record, rewind, stop},
};
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
    /// Where the queue was last noted to be.
    noted: Option<Cursor>,
    /// Whether the relay has ever published to the queue.
    begun: bool,
    stopped: Option<String>,
    last_position: i64,
    /// Whether there are events without a position.
    waiting: bool,
    /// Whether the queue can be where this lane believes it to be: not if the database was restored under it.
    believable: bool,
}

/// Where the queue's cursor is believed to be.
#[derive(Debug, Clone)]
pub(super) struct Belief {
    pub(super) source: String,
    pub(super) cursor: Option<Cursor>,
    /// Whether the database was told this cursor, and when it was last told one.
    pub(super) is_recorded: bool,
    recorded: Instant,
}

/// A push: from the cursor the queue should have to the one it is to have.
#[derive(Debug)]
struct Push {
    expected: Option<Cursor>,
    next: Cursor,
    entries: Vec<Bytes>,
}

/// What a refused push means.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The queue is further: the push had arrived and its answer was lost, or another relay publishes too.
    Ahead(Cursor),
    /// The queue lost writes.
    Behind(Option<Cursor>),
    /// The cursor names no event of this database.
    Foreign(Cursor),
}

impl Refusal {
    /// `own` says whether `actual` names an event of this database.
    fn of(expected: Option<&Cursor>, actual: Option<Cursor>, own: bool) -> Self {
        match actual {
            Some(actual) if !own => Self::Foreign(actual),
            Some(actual) if position(Some(&actual)) > position(expected) => Self::Ahead(actual),
            actual => Self::Behind(actual),
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
    belief: Option<Belief>,
    /// When the queue's cursor was last known to be where it should be.
    verified: Option<Instant>,
    /// Whether the last push was as large as one may be, so that there is probably more.
    full: bool,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, name: String) -> Self {
        Self { shared, name, queue: None, belief: None, verified: None, full: false }
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
        if let Some(belief) = self.belief.as_mut()
            && let Err(error) = record(&self.shared.db, &self.name, belief).await
        {
            tracing::debug!(queue = self.name, %error, "where the queue is was not recorded; the next relay will ask it");
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
        let Some(mut standing) = self.standing().await? else { return Ok(Moved::Nothing) };
        if let Some(reason) = standing.stopped {
            self.shared.status.note_stopped(&self.name, &reason);
            self.belief = None;
            return Ok(Moved::Stopped);
        }
        if standing.waiting {
            standing.last_position = self.assign().await?;
        }
        let believed = self.belief.take().filter(|belief| belief.source == standing.source && standing.believable);
        let mut belief = believed.unwrap_or_else(|| Belief {
            source: standing.source.clone(),
            cursor: standing.noted.clone(),
            is_recorded: true,
            recorded: Instant::now(),
        });
        let moved = self.push_from(&standing, &mut belief).await;
        self.belief = Some(belief);
        moved
    }

    async fn push_from(&mut self, standing: &Standing, belief: &mut Belief) -> Result<Moved, RelayError> {
        let mut push = None;
        if standing.last_position > position(belief.cursor.as_ref()) {
            // Before the events are read: a type that is subscribed from an earlier start after that would be passed over.
            if !standing.begun {
                begin(&self.shared.db, &self.name).await?;
            }
            push = self.next(belief.cursor.clone()).await?;
        }
        let Some(push) = push else {
            record(&self.shared.db, &self.name, belief).await?;
            self.note(belief.cursor.as_ref(), standing.last_position);
            return self.verify(belief).await;
        };
        let Push { expected, next, entries } = push;
        let batch = RelayBatch { source: &belief.source, expected: expected.as_ref(), next: &next, entries: &entries };
        match self.queue().await?.relay(batch).await.map_err(|source| self.failed(source))? {
            Relayed::Moved => {
                self.note(Some(&next), standing.last_position);
                belief.move_to(Some(next));
                if belief.is_due(self.shared.config.poll) {
                    record(&self.shared.db, &self.name, belief).await?;
                }
                self.verified = Some(Instant::now());
                Ok(Moved::On { entries: entries.len() as u64 })
            }
            Relayed::Refused { actual } => self.refused(belief, actual).await,
        }
    }

    fn note(&self, at: Option<&Cursor>, last_position: i64) {
        let at = at.map(|cursor| position(Some(cursor)));
        self.shared.status.note(&self.name, at, last_position.max(at.unwrap_or(0)));
    }

    /// With nothing to publish, makes sure now and then that the queue still has its cursor: a queue that lost its
    /// writes must not have to wait for the next event to get the last ones again.
    async fn verify(&mut self, belief: &mut Belief) -> Result<Moved, RelayError> {
        let due = self.verified.is_none_or(|verified| verified.elapsed() >= self.shared.config.verify);
        let (true, Some(at)) = (due, belief.cursor.clone()) else { return Ok(Moved::Nothing) };
        let batch = RelayBatch { source: &belief.source, expected: Some(&at), next: &at, entries: &[] };
        match self.queue().await?.relay(batch).await.map_err(|source| self.failed(source))? {
            Relayed::Moved => {
                self.verified = Some(Instant::now());
                Ok(Moved::Nothing)
            }
            Relayed::Refused { actual } => self.refused(belief, actual).await,
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
        type Row = (String, i64, Option<i64>, Option<String>, Option<String>, i64, i64);
        let believed = self.belief.as_ref().and_then(|belief| belief.cursor.clone());
        let (at, event) = believed.as_ref().and_then(Cursor::event).unwrap_or_default();
        let row: Option<Row> = sqlx::query_as(
            "SELECT s.id, s.last_position, p.position, p.position_event, p.stopped,
                    (SELECT COUNT(*) FROM (SELECT 1 AS one FROM outbox WHERE position IS NULL LIMIT 1) AS waiting),
                    (SELECT COUNT(*) FROM outbox o WHERE o.position = $2 AND o.message_id = $3)
             FROM source s, relay_progress p WHERE p.queue = $1",
        )
        .bind(self.name.as_str())
        .bind(at)
        .bind(event)
        .fetch_optional(self.shared.db.reader())
        .await?;
        let cursor = |position: Option<i64>, event: Option<String>| Some(Cursor::new(position?, &event?));
        Ok(row.map(|(source, last_position, position, event, stopped, waiting, own)| {
            let noted = cursor(position, event);
            Standing {
                source,
                begun: position.is_some(),
                believable: own > 0 || believed.is_none() || believed == noted,
                noted,
                stopped,
                last_position,
                waiting: waiting > 0,
            }
        }))
    }

    /// Gives positions to events that have none; answers the last position given.
    async fn assign(&self) -> Result<i64, RelayError> {
        let mut tx = self.shared.db.write().await?;
        let mut source = outbox::lock_source(&mut tx).await?;
        outbox::assign(&mut tx, &mut source, i64::from(self.shared.config.batch)).await?;
        tx.commit().await?;
        Ok(source.last_position)
    }

    /// The push of the events after `expected`: it carries those that are subscribed and not finished, oldest first.
    async fn next(&mut self, expected: Option<Cursor>) -> Result<Option<Push>, RelayError> {
        let rows: Vec<(i64, String, Option<Vec<u8>>)> = sqlx::query_as(
            "SELECT o.position, o.message_id, CASE
                WHEN EXISTS (
                    SELECT 1 FROM subscriptions s WHERE s.queue = $1 AND s.message_type = o.message_type AND s.start_position < o.position)
                 AND NOT EXISTS (SELECT 1 FROM finished f WHERE f.message_id = o.message_id AND f.queue = $1)
                THEN o.envelope END
             FROM outbox o WHERE o.position > $2 ORDER BY o.position LIMIT $3",
        )
        .bind(self.name.as_str())
        .bind(position(expected.as_ref()))
        .bind(i64::from(self.shared.config.batch))
        .fetch_all(self.shared.db.reader())
        .await?;
        self.full = rows.len() as u64 >= u64::from(self.shared.config.batch);
        let Some(next) = rows.last().map(|(position, message_id, _)| Cursor::new(*position, message_id)) else { return Ok(None) };
        let entries = rows.into_iter().filter_map(|(_, _, envelope)| envelope.map(Bytes::from)).collect();
        Ok(Some(Push { expected, next, entries }))
    }

    /// Learns from a refusal where the queue is. A cursor that names an event of this database was left there by its relay,
    /// whatever else this one believed.
    async fn refused(&mut self, belief: &mut Belief, actual: Option<Cursor>) -> Result<Moved, RelayError> {
        let own = match &actual {
            Some(actual) => outbox::own_position(&self.shared.db, &self.name, actual).await?.is_some(),
            None => true,
        };
        let expected = belief.cursor.as_ref();
        match Refusal::of(expected, actual, own) {
            Refusal::Ahead(actual) => belief.move_to(Some(actual)),
            Refusal::Behind(actual) => {
                let (was, is) = (expected.map(Cursor::as_str), actual.as_ref().map(Cursor::as_str));
                tracing::warn!(queue = self.name, expected = was, actual = is, "the queue lost writes; publishing again from there");
                rewind(&self.shared.db, &self.name, belief, actual).await?;
            }
            Refusal::Foreign(actual) => {
                let reason = foreign(&self.name, expected, &actual);
                tracing::error!(queue = self.name, reason);
                stop(&self.shared.db, &self.name, &belief.source, &reason).await?;
                self.shared.status.note_stopped(&self.name, &reason);
                return Ok(Moved::Stopped);
            }
        }
        Ok(Moved::On { entries: 0 })
    }
}

impl Belief {
    pub(super) fn move_to(&mut self, cursor: Option<Cursor>) {
        self.cursor = cursor;
        self.is_recorded = false;
    }

    /// Notes that the database was told.
    pub(super) fn note_recorded(&mut self) {
        (self.is_recorded, self.recorded) = (true, Instant::now());
    }

    /// Whether it is time to tell the database, with more to publish yet.
    fn is_due(&self, every: Duration) -> bool {
        self.recorded.elapsed() >= every
    }
}

fn foreign(queue: &str, expected: Option<&Cursor>, actual: &Cursor) -> String {
    let ours = expected.map_or_else(|| "at none yet".to_owned(), |expected| format!("at {expected}"));
    format!(
        "the relay cursor of queue {queue} is at {actual}, an event that this database, being {ours}, does not have: the \
         database was restored from a backup, or another copy of it publishes to the same queue. Make sure that only one copy \
         runs, then give this database a new source id (hokusai subscription renew-source): unfinished events are published again from the \
         start"
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

    fn check(expected: Option<i64>, actual: Option<Cursor>, own: bool, meaning: &Refusal) {
        assert_eq!(Refusal::of(expected.map(at).as_ref(), actual, own), *meaning);
    }

    #[test]
    fn a_refusal_is_understood() {
        check(Some(10), Some(at(20)), true, &Refusal::Ahead(at(20)));
        check(None, Some(at(20)), true, &Refusal::Ahead(at(20)));
        check(Some(10), Some(at(9)), true, &Refusal::Behind(Some(at(9))));
        check(Some(10), None, true, &Refusal::Behind(None));
        let other = Cursor::new(20, "another");
        check(Some(10), Some(other.clone()), false, &Refusal::Foreign(other));
        check(Some(10), Some(at(9)), false, &Refusal::Foreign(at(9)));
        check(None, Some(at(3)), false, &Refusal::Foreign(at(3)));
        assert_eq!(position(Some(&at(7))), 7);
    }
}
