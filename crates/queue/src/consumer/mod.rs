//! Handling a queue's messages: what a handler says about one, and what that does to it.
//!
//! A [`Consumer`] is one future. It takes the next batch while handlers run, lets acknowledgements ride with the next
//! take, extends what takes long, and spawns nothing: handlers run concurrently inside it, on the caller's task.
//!
//! The bound on what is in hand: no more is taken than `concurrency` handlers finish within an eighth of the lease at
//! the pace seen so far, at least `concurrency` and at most 256 entries or 32 MiB; what has waited unstarted for a
//! quarter of the lease goes back. So a worker that dies withholds little, and for no longer than a lease and a pass of
//! the reaper.

mod attempt;
mod desk;
mod run;
mod settlement;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{Attempts, ConfigError, Error, Queue};

/// The longest delay between two attempts.
pub const LONGEST_DELAY: Duration = Duration::from_secs(300);

/// A message in a handler's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Exactly as it was taken.
    pub entry: Bytes,
    /// How often it was tried.
    pub attempts: Attempts,
}

/// What became of a delivery, and so what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Handled: acknowledged.
    Done,
    /// It failed and may succeed later: burns an attempt, backs off, is dead-lettered when its attempts are used up.
    Retry {
        /// Why, for people.
        error: String,
    },
    /// It can never succeed: dead-lettered at once.
    Dead {
        /// Why, for programs.
        kind: String,
        /// Why, for people.
        error: String,
    },
    /// Something that every message needs is away: the entry goes back with nothing burned, and taking pauses.
    Outage {
        /// What is away.
        error: String,
    },
    /// Somebody else finishes it, through [`Holder::settle`]: the entry stays in processing, its lease extended.
    Held,
}

/// Handles messages.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles one. Runs inside the consumer's task: hand long computations to a blocking thread. It is dropped when the
    /// handler timeout is reached, and a panic counts as a failed attempt.
    async fn handle(&self, delivery: &Delivery) -> Verdict;

    /// Told after this consumer has moved a message to the dead-letter queue, whichever verdict or limit led there.
    async fn dead_lettered(&self, entry: &[u8], kind: &str, error: &str) {
        let _ = (entry, kind, error);
    }
}

/// How a consumer works.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// Handlers running at once.
    pub concurrency: usize,
    /// The lease of what takes long: `PROCESSING_TIMEOUT`.
    pub lease: Duration,
    /// The longest wait for a first message; the consumer itself never waits longer than a second at a time, which is
    /// how long a shutdown may have to wait for an idle one.
    pub wait: Duration,
    /// After this a handler is dropped and its attempt has failed.
    pub handler_timeout: Duration,
    /// Failed attempts after which a message is tried no more, unless its envelope says otherwise; 3 means four deliveries.
    pub max_retries: u32,
    /// The first retry's delay, doubled for each further one up to [`LONGEST_DELAY`]; half of it is jitter.
    pub base_delay: Duration,
    /// A message that expired this often is dead-lettered rather than handled.
    pub max_expiries: u32,
    /// Stop after this many messages.
    pub limit: Option<u64>,
    /// Held deliveries at once; no more is taken while there are that many.
    pub max_held: usize,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            concurrency: 16,
            lease: Duration::from_secs(300),
            wait: Duration::from_secs(5),
            handler_timeout: Duration::from_secs(120),
            max_retries: 3,
            base_delay: Duration::from_secs(1),
            max_expiries: 3,
            limit: None,
            max_held: 1000,
        }
    }
}

impl ConsumerConfig {
    /// Checks the relations between the settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the setting that has to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        let timeout = self.handler_timeout;
        if self.concurrency == 0 {
            Err(ConfigError::new("concurrency", "must be at least 1"))
        } else if timeout.is_zero() {
            Err(ConfigError::new("handler timeout", "must be longer than nothing"))
        } else if self.lease <= timeout {
            let problem = format!("is {:?}, and must be longer than the handler timeout of {timeout:?}", self.lease);
            Err(ConfigError::new("PROCESSING_TIMEOUT", problem))
        } else if self.wait.is_zero() {
            Err(ConfigError::new("QUEUE_POLL_INTERVAL", "must be longer than nothing"))
        } else if self.max_expiries == 0 {
            Err(ConfigError::new("max expiries", "must be at least 1"))
        } else if self.max_held == 0 {
            Err(ConfigError::new("max held", "must be at least 1"))
        } else {
            Ok(())
        }
    }
}

/// What a consumer is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Messages are being handled.
    Taking,
    /// Nothing to do.
    Idle,
    /// Nothing is taken, because something is away.
    Paused {
        /// What.
        reason: String,
        /// Since when.
        since: jiff::Timestamp,
    },
    /// Ended.
    Stopped,
}

/// What a consumer did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Acknowledged.
    pub done: u64,
    /// Failed and given another attempt.
    pub retried: u64,
    /// Given up.
    pub dead: u64,
    /// Put back unchanged.
    pub released: u64,
    /// Answered "not yours": somebody else has them.
    pub lost: u64,
}

/// Ends held deliveries from elsewhere.
#[derive(Debug, Clone)]
pub struct Holder {
    verdicts: mpsc::UnboundedSender<(Bytes, Verdict)>,
}

impl Holder {
    /// Ends a delivery that its handler left [`Verdict::Held`]. It may come before the handler has said so, and it may
    /// come for an entry that this consumer does not have (taken in a former life): then it is tried, and nothing
    /// happens if the entry is not in processing. After the consumer has stopped it does nothing; the redelivery will
    /// find the work done.
    pub fn settle(&self, entry: Bytes, verdict: Verdict) {
        let _ = self.verdicts.send((entry, verdict));
    }
}

/// Takes messages from a queue and has them handled.
#[derive(Debug)]
pub struct Consumer {
    queue: Arc<dyn Queue>,
    config: ConsumerConfig,
    holder: Holder,
    verdicts: mpsc::UnboundedReceiver<(Bytes, Verdict)>,
    status: watch::Sender<Status>,
}

impl Consumer {
    /// # Errors
    ///
    /// As [`ConsumerConfig::check`].
    pub fn new(queue: Arc<dyn Queue>, config: ConsumerConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let (sender, verdicts) = mpsc::unbounded_channel();
        Ok(Self { queue, config, holder: Holder { verdicts: sender }, verdicts, status: watch::Sender::new(Status::Idle) })
    }

    /// Ends held deliveries; clone it as you like.
    pub fn holder(&self) -> Holder {
        self.holder.clone()
    }

    /// What it is doing, and every change of that.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until `shutdown`, or until the limit is reached; then releases what is unstarted or held, and finishes what
    /// runs. An outage of the queue is waited out, never an error.
    ///
    /// # Errors
    ///
    /// What waiting does not cure: [`Error::Denied`], [`Error::Misconfigured`], [`Error::Rejected`].
    pub async fn run(self, handler: Arc<dyn Handler>, shutdown: CancellationToken) -> Result<Summary, Error> {
        run::run(self, handler, shutdown).await
    }
}
