//! The relay: moves outbox events to every subscribed queue, one lane for each queue.
//!
//! A queue keeps a cursor for each source database: the position of the last event it was given, and which event that was. A
//! push names the cursor it expects and the one it leaves, and the queue does both or neither; so a push repeated after a lost
//! reply, by this relay or by another on the same database, is refused and does no harm.
//!
//! ```text
//!            ┌─── nothing waits: noted, now and then verified ───┐
//!            ▼                                                   │
//!          idle ──events──▶ push from where the queue is believed to be ──▶ moved: it is there
//!                                 ▲            │
//!                                 │            ├─ refused, further on at an event of ours: the reply was lost, or another
//!                                 │            │  relay is at work; go on from there
//!                                 │            ├─ refused, absent or at an earlier event of ours: it lost writes; go there
//!                                 └── outage ──┤
//!                                              └─ refused, at no event of ours: not our cursor; stopped until someone decides
//! ```
//!
//! Invariants:
//!
//! - A cursor is ours if this database has the event that it names, at the position that it names. A position alone proves
//!   nothing: a database that was restored gives the same positions to other events. What a queue's cursor may name is not
//!   pruned.
//! - A push carries only events whose positions are committed. It needs no commit of its own: the queue's cursor tells every
//!   relay how far the others came, and what the database notes of it may be old.
//! - A lane shares nothing with the others but the database: a stuck queue holds up no other.

mod lane;
mod progress;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use hokusai_db::Database;
use hokusai_queue::Queue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::lane::{Lane, Moved};
pub use self::status::{LaneState, LaneStatus, RelayStatus};
use crate::{nudge::Nudge, outbox};

/// How long a push under way may take to be answered at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Opens queues by name, so that the relay need not know what they run on.
#[async_trait]
pub trait QueueOpener: Send + Sync {
    /// Opens one. It is asked again after an error, and once for each queue otherwise.
    async fn open(&self, name: &str) -> Result<Arc<dyn Queue>, hokusai_queue::Error>;
}

/// How a relay works.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// How long a commit of another process may go unnoticed.
    pub poll: Duration,
    /// How long a queue's loss of its writes may go unnoticed while there is nothing to publish.
    pub verify: Duration,
    /// Positions covered by one push, at most.
    pub batch: u32,
    /// How long a lane gathers after a push that was not full. What a push asks of the database and of the queue is the same for
    /// one event as for a batch; an event that comes while nothing goes on does not wait.
    pub gather: Duration,
    /// The first pause after a failure; it doubles until `longest_pause`.
    pub first_pause: Duration,
    /// The longest pause between attempts while a queue or the database is away.
    pub longest_pause: Duration,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            verify: Duration::from_secs(5),
            batch: 256,
            gather: Duration::from_millis(2),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(15),
        }
    }
}

/// Why a relay could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The registry's database.
    #[error(transparent)]
    Database(#[from] hokusai_db::Error),
    /// The queue.
    #[error("queue {queue}: {source}")]
    Queue {
        /// Its name.
        queue: String,
        /// What it said.
        source: hokusai_queue::Error,
    },
}

impl From<sqlx::Error> for RelayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// What the lanes share.
struct Shared {
    db: Database,
    opener: Arc<dyn QueueOpener>,
    config: RelayConfig,
    nudge: Nudge,
    status: RelayStatus,
}

/// The relay of one database. Any number of them may run on it at once.
pub struct Relay {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("db", &self.shared.db).field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Relay {
    /// A relay of `db`'s outbox that wakes at `nudge`.
    pub fn new(db: Database, opener: Arc<dyn QueueOpener>, nudge: Nudge, config: RelayConfig) -> Self {
        Self { shared: Arc::new(Shared { db, opener, config, nudge, status: RelayStatus::default() }) }
    }

    /// What the lanes report about themselves; stays readable while the relay runs.
    pub fn status(&self) -> RelayStatus {
        self.shared.status.clone()
    }

    /// Publishes until shutdown, and then finishes the pushes under way. Outages are waited out, lane by lane, and show in [`status`](Self::status).
    pub async fn run(self, shutdown: CancellationToken) {
        let mut lanes = Lanes { shared: self.shared.clone(), running: BTreeMap::new(), tasks: JoinSet::new() };
        let mut waiter = self.shared.nudge.waiter();
        self.ready(&shutdown).await;
        while !shutdown.is_cancelled() {
            match subscribed_queues(&self.shared.db).await {
                Ok(queues) => lanes.follow(&queues, &shutdown),
                Err(error) => tracing::warn!(%error, "the relay cannot read its subscriptions"),
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(self.shared.config.poll) => {}
                () = waiter.nudged() => {}
            }
        }
        let finished = async { while lanes.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_GRACE, finished).await.is_err() {
            tracing::warn!("a queue does not answer; its push is left to the next relay, which will find out whether it arrived");
        }
    }

    /// Waits until the database has its `source` row, which the lanes read.
    async fn ready(&self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            match outbox::source_id(&self.shared.db).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(%error, "the relay cannot reach its database; it tries again"),
            }
            lane::pause(self.shared.config.poll, shutdown).await;
        }
    }

    /// Publishes all that waits, in every queue, and returns: how many events were published. A queue that cannot be
    /// published to does not keep the others waiting; the first error is returned after all were tried.
    ///
    /// # Errors
    ///
    /// [`RelayError::Queue`] for a queue that did not answer.
    pub async fn pass(&self) -> Result<u64, RelayError> {
        outbox::source_id(&self.shared.db).await?;
        let mut published = 0;
        let mut first_error = None;
        for queue in subscribed_queues(&self.shared.db).await? {
            let mut lane = Lane::new(self.shared.clone(), queue);
            loop {
                match lane.pass().await {
                    Ok(Moved::On { entries }) => published += entries,
                    Ok(Moved::Nothing | Moved::Stopped) => break,
                    Err(error) => {
                        first_error.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        first_error.map_or(Ok(published), Err)
    }
}

/// The running lanes, one task for each subscribed queue.
struct Lanes {
    shared: Arc<Shared>,
    running: BTreeMap<String, CancellationToken>,
    tasks: JoinSet<()>,
}

impl Lanes {
    /// Starts a lane for each queue that has none, and ends those of queues no longer subscribed.
    fn follow(&mut self, queues: &[String], shutdown: &CancellationToken) {
        for queue in queues {
            if !self.running.contains_key(queue) {
                let end = shutdown.child_token();
                self.tasks.spawn(Lane::new(self.shared.clone(), queue.clone()).run(end.clone()));
                self.running.insert(queue.clone(), end);
            }
        }
        self.running.retain(|queue, end| {
            let subscribed = queues.contains(queue);
            if !subscribed {
                end.cancel();
                self.shared.status.forget(queue);
            }
            subscribed
        });
        while let Some(ended) = self.tasks.try_join_next() {
            // A lane that is gone would look alive; the process ends instead, and whatever supervises it starts it again.
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

async fn subscribed_queues(db: &Database) -> Result<Vec<String>, RelayError> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT DISTINCT queue FROM subscriptions ORDER BY queue").fetch_all(db.reader()).await?;
    Ok(rows.into_iter().map(|(queue,)| queue).collect())
}
