//! Where a message of the outbox has got to, for whoever asks after one.

use hokusai_db::{Database, Error};
use serde::Serialize;

/// A message and one queue that is subscribed to its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Whereabouts {
    /// When the event was committed, in milliseconds of the epoch.
    pub committed_ms: i64,
    /// The queue; `None` if none is subscribed to this type.
    pub queue: Option<String>,
    /// Whether the relay has noted that the queue has it. A note may be a second old.
    pub published: bool,
    /// Why the relay publishes nothing to this queue, if that is so.
    pub stopped: Option<String>,
    /// When the queue's consumers were done with it, in milliseconds of the epoch.
    pub finished_ms: Option<i64>,
    /// Whether nobody said so, and the sweep found it gone.
    pub swept: bool,
}

type Row = (i64, Option<String>, Option<i64>, Option<i64>, Option<String>, Option<i64>, Option<i64>);

/// Where a message is, as far as the database knows: a line for each queue; none if it is no message of this outbox, or one that was
/// pruned.
///
/// # Errors
///
/// As the database says.
pub async fn whereabouts(db: &Database, message_id: &str) -> Result<Vec<Whereabouts>, Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT o.created_ms, s.queue, o.position, p.position, p.stopped, f.at_ms, f.swept FROM outbox o
         LEFT JOIN subscriptions s
           ON s.message_type = o.message_type AND (o.position IS NULL OR o.position > s.start_position)
         LEFT JOIN relay_progress p ON p.queue = s.queue
         LEFT JOIN finished f ON f.message_id = o.message_id AND f.queue = s.queue
         WHERE o.message_id = $1 ORDER BY s.queue",
    )
    .bind(message_id)
    .fetch_all(db.reader())
    .await?;
    let read = |(committed_ms, queue, position, relayed, stopped, finished_ms, swept): Row| Whereabouts {
        committed_ms,
        queue,
        published: position.is_some_and(|position| relayed.is_some_and(|relayed| position <= relayed)),
        stopped,
        finished_ms,
        swept: swept == Some(1),
    };
    Ok(rows.into_iter().map(read).collect())
}
