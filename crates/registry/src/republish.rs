//! Publishing events again, with the same bytes: by hand, and by the reconciler for registrations that nobody finishes.
//!
//! **The reconciler.** A foreign client's retry removes a message and pushes it again; one that dies in between has lost it,
//! and the sweep takes that for an acknowledgement. For a `model_ready_to_deploy` the loss can be told: its registration is
//! not at its end after a time, its message is in no state of the queue, and the chain does not know the version. Then the
//! message is published again, [`ReconcilerConfig::most`] times at most: whoever deploys elsewhere than on the registry that
//! is asked would otherwise be sent the same message for ever. Without a chain to ask nothing is published.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use hokusai_db::{Database, Tx};
use hokusai_event::ModelDeployed;
use hokusai_queue::Queue;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{Registration, Registrations, apply_deployed, note_step, relay::RelayError};

/// The step that the reconciler leaves in a registration's history.
pub const RECONCILED: &str = "reconciled";
/// Registrations looked at in one pass.
const BATCH: i64 = 100;

/// Which events are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those with these message ids.
    Messages(Vec<String>),
    /// Those at these positions, both included.
    Positions(i64, i64),
    /// Those made at this time or later.
    Since(Timestamp),
}

/// A published event of a queue.
#[derive(Debug, Clone)]
pub struct Published {
    /// The message.
    pub message_id: String,
    /// Its type.
    pub message_type: String,
    /// Its place in the outbox.
    pub position: i64,
    /// The registration it belongs to.
    pub registration_id: Option<String>,
    /// Where that registration stands.
    pub status: Option<String>,
    /// Whether the queue's consumers are known to be done with it.
    pub finished: bool,
    /// The exact bytes.
    pub envelope: Bytes,
}

/// The events of a queue's subscription that the relay has already published there, or is about to, in their order. The others
/// will be published anyway.
///
/// # Errors
///
/// As the database says.
pub async fn published(db: &Database, queue: &str, which: &Which) -> Result<Vec<Published>, hokusai_db::Error> {
    const SELECT: &str = "SELECT o.message_id, o.message_type, o.position, o.registration_id, r.status,
            (SELECT COUNT(*) FROM finished f WHERE f.message_id = o.message_id AND f.queue = $1), o.envelope
         FROM outbox o
         JOIN subscriptions s ON s.queue = $1 AND s.message_type = o.message_type AND o.position > s.start_position
         JOIN relay_progress p ON p.queue = $1 AND o.position <= p.position
         LEFT JOIN registrations r ON r.id = o.registration_id";
    type Row = (String, String, i64, Option<String>, Option<String>, i64, Vec<u8>);
    let ask = |condition: &str| sqlx::AssertSqlSafe(format!("{SELECT} WHERE {condition} ORDER BY o.position"));
    let mut rows: Vec<Row> = Vec::new();
    match which {
        Which::Messages(ids) => {
            for id in ids {
                rows.extend(sqlx::query_as::<_, Row>(ask("o.message_id = $2")).bind(queue).bind(id.as_str()).fetch_all(db.reader()).await?);
            }
            rows.sort_by_key(|row| row.2);
            rows.dedup_by_key(|row| row.2);
        }
        Which::Positions(from, to) => {
            let query = sqlx::query_as(ask("o.position >= $2 AND o.position <= $3"));
            rows = query.bind(queue).bind(*from).bind(*to).fetch_all(db.reader()).await?;
        }
        Which::Since(at) => {
            let query = sqlx::query_as(ask("o.created_ms >= $2"));
            rows = query.bind(queue).bind(at.as_millisecond()).fetch_all(db.reader()).await?;
        }
    }
    let published = rows.into_iter().map(|(message_id, message_type, position, registration_id, status, finished, envelope)| Published {
        message_id,
        message_type,
        position,
        registration_id,
        status,
        finished: finished > 0,
        envelope: envelope.into(),
    });
    Ok(published.collect())
}

/// Notes, before it is pushed, that an event is published again: it is not finished any more, and its registration's
/// history says why.
///
/// # Errors
///
/// As the database says.
pub async fn note_republished(
    tx: &mut Tx,
    queue: &str,
    message_id: &str,
    step: &str,
    detail: &serde_json::Value,
) -> Result<(), hokusai_db::Error> {
    sqlx::query("DELETE FROM finished WHERE message_id = $1 AND queue = $2").bind(message_id).bind(queue).execute(&mut **tx).await?;
    note_step(tx, message_id, None, step, detail).await?;
    Ok(())
}

/// What a chain says about a registration's model version.
#[derive(Debug)]
pub enum OnChain {
    /// Recorded, at final depth.
    Final(Box<ModelDeployed>),
    /// Recorded in a block that may still be reorganised away.
    NotFinal,
    /// Not recorded.
    Absent,
}

/// Asks a chain.
#[async_trait]
pub trait ChainRecord: Send + Sync {
    /// Whether this registration's version is recorded.
    async fn find(&self, registration: &Registration) -> Result<OnChain, Box<dyn StdError + Send + Sync>>;
}

/// How a reconciler works.
#[derive(Debug, Clone)]
pub struct ReconcilerConfig {
    /// The time between two passes.
    pub interval: Duration,
    /// How long nothing must have happened to a registration, and its message been gone.
    pub after: Duration,
    /// How often one registration's message is published again.
    pub most: i64,
}

impl Default for ReconcilerConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), after: Duration::from_secs(3600), most: 3 }
    }
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Messages published again.
    pub republished: u64,
    /// Registrations that the chain turned out to have.
    pub found_on_chain: u64,
    /// Registrations left alone: not final yet, published again often enough, or there is no chain to ask.
    pub left: u64,
}

/// See the module's description. Any number of them may run on one database at once.
pub struct Reconciler {
    db: Database,
    queue: Arc<dyn Queue>,
    chain: Option<Arc<dyn ChainRecord>>,
    config: ReconcilerConfig,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("queue", &self.queue).field("config", &self.config).finish_non_exhaustive()
    }
}

/// A registration that somebody acknowledged and nobody finished.
struct Open {
    registration_id: String,
    message_id: String,
    times: i64,
}

impl Reconciler {
    /// A reconciler for the default queue.
    pub fn new(db: Database, queue: Arc<dyn Queue>, chain: Option<Arc<dyn ChainRecord>>, config: ReconcilerConfig) -> Self {
        Self { db, queue, chain, config }
    }

    /// Reconciles until shutdown. Outages are waited out.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut total = Reconciled::default();
        let mut left = 0;
        while shutdown.run_until_cancelled(tokio::time::sleep(self.config.interval)).await.is_some() {
            match self.pass(Timestamp::now()).await {
                Ok(did) => {
                    total.republished += did.republished;
                    total.found_on_chain += did.found_on_chain;
                    if did.republished + did.found_on_chain > 0 || did.left != left {
                        tracing::warn!(
                            republished = did.republished,
                            found_on_chain = did.found_on_chain,
                            left = did.left,
                            republished_total = total.republished,
                            "registrations whose message is gone and whose deployment nobody reported"
                        );
                    }
                    left = did.left;
                }
                Err(error) => tracing::warn!(%error, "registrations could not be reconciled; trying again"),
            }
        }
    }

    /// One pass.
    ///
    /// # Errors
    ///
    /// [`RelayError`] if database or queue do not answer. A chain that does not answer leaves its registration for later.
    pub async fn pass(&self, now: Timestamp) -> Result<Reconciled, RelayError> {
        let mut did = Reconciled::default();
        for open in self.open(now).await? {
            let Some(chain) = &self.chain else {
                did.left += 1;
                continue;
            };
            let Some(registration) = Registrations::new(self.db.clone()).get(&open.registration_id).await? else { continue };
            match chain.find(&registration).await {
                Ok(OnChain::Final(deployed)) => {
                    let mut tx = self.db.write().await?;
                    apply_deployed(&mut tx, &deployed, now).await?;
                    tx.commit().await?;
                    did.found_on_chain += 1;
                }
                Ok(OnChain::Absent) if open.times < self.config.most && self.republish(&open, now).await? => did.republished += 1,
                Ok(OnChain::Absent | OnChain::NotFinal) => did.left += 1,
                Err(error) => {
                    tracing::warn!(error, registration_id = open.registration_id, "the chain could not be asked about a registration");
                    did.left += 1;
                }
            }
        }
        Ok(did)
    }

    /// Registrations that are not at their end although their message was swept, the oldest first.
    async fn open(&self, now: Timestamp) -> Result<Vec<Open>, RelayError> {
        let after_ms = i64::try_from(self.config.after.as_millis()).unwrap_or(i64::MAX);
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT r.id, o.message_id,
                    (SELECT COUNT(*) FROM registration_history h WHERE h.registration_id = r.id AND h.step = $1)
             FROM registrations r
             JOIN finished f ON f.queue = $2 AND f.swept = 1 AND f.at_ms < $3
             JOIN outbox o ON o.message_id = f.message_id AND o.registration_id = r.id AND o.message_type = 'model_ready_to_deploy'
             WHERE r.status IN ('queued', 'deploying') AND r.updated_ms < $3 ORDER BY r.updated_ms LIMIT $4",
        )
        .bind(RECONCILED)
        .bind(self.queue.name())
        .bind(now.as_millisecond().saturating_sub(after_ms))
        .bind(BATCH)
        .fetch_all(self.db.reader())
        .await?;
        Ok(rows.into_iter().map(|(registration_id, message_id, times)| Open { registration_id, message_id, times }).collect())
    }

    /// Answers whether it was published: another server may have been faster.
    async fn republish(&self, open: &Open, now: Timestamp) -> Result<bool, RelayError> {
        let ids = Which::Messages(vec![open.message_id.clone()]);
        let Some(event) = published(&self.db, self.queue.name(), &ids).await?.pop() else { return Ok(false) };
        let mut tx = self.db.write().await?;
        let claimed = sqlx::query("DELETE FROM finished WHERE message_id = $1 AND queue = $2 AND swept = 1")
            .bind(open.message_id.as_str())
            .bind(self.queue.name())
            .execute(&mut *tx)
            .await?
            .rows_affected();
        if claimed == 0 {
            return Ok(false);
        }
        let detail = json!({"queue": self.queue.name(), "times": open.times + 1, "at_ms": now.as_millisecond(),
            "reason": "neither queued nor on chain"});
        note_step(&mut tx, &open.message_id, None, RECONCILED, &detail).await?;
        tx.commit().await?;
        // If this fails the event is unfinished and absent: the sweep finds it, and it is published another time.
        let push = self.queue.push(std::slice::from_ref(&event.envelope)).await;
        push.map_err(|source| RelayError::Queue { queue: self.queue.name().to_owned(), source })?;
        Ok(true)
    }
}
