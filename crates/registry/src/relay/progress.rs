//! What the database keeps of a lane: where its queue was, and whether it is stopped.
//!
//! It is a note, written when there is nothing to publish and now and then in between. The queue's own cursor is what counts:
//! a relay that starts from an old note is refused, and learns from the cursor, which names its event. So no push waits for a
//! commit.

use hokusai_db::{Database, Error};
use hokusai_queue::Cursor;

use super::lane::Belief;
use crate::bulk::AnyQuery;

/// Notes that the relay publishes to this queue from now on: types subscribed later can only start then.
pub(super) async fn begin(db: &Database, queue: &str) -> Result<(), Error> {
    let sql = "UPDATE relay_progress SET position = 0 WHERE queue = $1 AND position IS NULL";
    write(db, sqlx::query(sql).bind(queue.to_owned())).await
}

/// Notes where the queue is, unless another relay has noted that it is further.
pub(super) async fn record(db: &Database, queue: &str, belief: &mut Belief) -> Result<(), Error> {
    if belief.is_recorded {
        return Ok(());
    }
    if let Some((position, event)) = belief.cursor.as_ref().and_then(Cursor::event) {
        let sql = "UPDATE relay_progress SET position = $1, position_event = $2
             WHERE queue = $3 AND stopped IS NULL AND (position IS NULL OR position < $1) AND EXISTS (SELECT 1 FROM source WHERE id = $4)
               AND EXISTS (SELECT 1 FROM outbox WHERE position = $1 AND message_id = $2)";
        let query = sqlx::query(sql).bind(position).bind(event.to_owned()).bind(queue.to_owned()).bind(belief.source.clone());
        write(db, query).await?;
    }
    belief.note_recorded();
    Ok(())
}

/// Goes back to where a queue is that has lost writes.
pub(super) async fn rewind(db: &Database, queue: &str, belief: &mut Belief, actual: Option<Cursor>) -> Result<(), Error> {
    let (position, event) = actual.as_ref().and_then(Cursor::event).map_or((0, None), |(position, event)| (position, Some(event)));
    let sql = "UPDATE relay_progress SET position = $1, position_event = $2, rewinds = rewinds + 1
         WHERE queue = $3 AND stopped IS NULL AND EXISTS (SELECT 1 FROM source WHERE id = $4)";
    let query = sqlx::query(sql).bind(position).bind(event.map(str::to_owned)).bind(queue.to_owned()).bind(belief.source.clone());
    write(db, query).await?;
    belief.move_to(actual);
    belief.note_recorded();
    Ok(())
}

/// Stops the lane for every relay of this database, until somebody renews its source.
pub(super) async fn stop(db: &Database, queue: &str, source: &str, reason: &str) -> Result<(), Error> {
    let sql = "UPDATE relay_progress SET stopped = $1 WHERE queue = $2 AND EXISTS (SELECT 1 FROM source WHERE id = $3)";
    write(db, sqlx::query(sql).bind(reason.to_owned()).bind(queue.to_owned()).bind(source.to_owned())).await
}

async fn write(db: &Database, query: AnyQuery) -> Result<(), Error> {
    let mut tx = db.write().await?;
    query.execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}
