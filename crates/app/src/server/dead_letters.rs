//! Watches the dead letters of the default queue, so that a registration says `dead_lettered` or `refused`, whoever
//! dead-lettered its message: our worker, one with another database, or a foreign consumer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hokusai_db::Database;
use hokusai_event::Envelope;
use hokusai_queue::{
    Queue, State,
    dead_letter::{self, DeadLetter},
};
use hokusai_registry::{Registrations, Status, note_step};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// How long a dead letter may go unnoticed.
const INTERVAL: Duration = Duration::from_secs(1);
/// Dead letters read in one step.
const PAGE: usize = 500;

/// Looks until shutdown. An outage of queue or database is waited out.
pub(super) async fn watch(db: &Database, queue: Arc<dyn Queue>, shutdown: &CancellationToken) {
    let mut seen = Seen::default();
    while shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        if let Err(error) = look(db, queue.as_ref(), &mut seen).await {
            tracing::warn!(error = format!("{error:#}"), "the dead letters cannot be looked at; looking again");
        }
    }
}

/// What was looked at already. Dead letters stay until a person acts, so each is read once; when the newest of those that
/// were read is not where it was, somebody acted, and all are read again.
#[derive(Debug, Default)]
struct Seen {
    count: usize,
    newest: Option<Bytes>,
}

async fn look(db: &Database, queue: &dyn Queue, seen: &mut Seen) -> anyhow::Result<()> {
    let count = usize::try_from(queue.stats().await?.dlq)?;
    if seen.count > 0 && queue.peek(State::Dlq, seen.count - 1, 1).await?.first() != seen.newest.as_ref() {
        *seen = Seen::default();
    }
    while seen.count < count {
        let page = queue.peek(State::Dlq, seen.count, PAGE).await?;
        for entry in &page {
            note(db, entry).await?;
            seen.count += 1;
            seen.newest = Some(entry.clone());
        }
        if page.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Notes one dead letter. What the database refuses for good, it would refuse again; it is nobody's registration then.
async fn note(db: &Database, entry: &[u8]) -> Result<(), hokusai_db::Error> {
    let Some(dead) = Dead::read(entry) else { return Ok(()) };
    match dead.note(db).await {
        Err(error) if !error.is_transient() => {
            tracing::error!(message_id = dead.message_id, %error, "a dead letter cannot be noted");
            Ok(())
        }
        other => other,
    }
}

/// A dead letter that names its message; others are nobody's registration.
struct Dead {
    message_id: String,
    letter: DeadLetter,
}

impl Dead {
    fn read(entry: &[u8]) -> Option<Self> {
        let letter = dead_letter::parse(entry).ok()?;
        let message_id = Envelope::parse(&letter.original).ok()?.message_id;
        Some(Self { message_id, letter })
    }

    async fn note(&self, db: &Database) -> Result<(), hokusai_db::Error> {
        let known = Registrations::new(db.clone()).by_message(&self.message_id).await?;
        let open = known.is_some_and(|registration| matches!(registration.status, Status::Queued | Status::Deploying));
        if !open {
            return Ok(());
        }
        let refused = self.letter.error_kind.as_deref() == Some("refused");
        let (status, step) = if refused { (Status::Refused, "refused") } else { (Status::DeadLettered, "dead_lettered") };
        let detail = json!({"error": self.letter.error, "kind": self.letter.error_kind, "queue": self.letter.queue});
        let mut tx = db.write().await?;
        note_step(&mut tx, &self.message_id, Some(status), step, &detail).await?;
        tx.commit().await?;
        Ok(())
    }
}
