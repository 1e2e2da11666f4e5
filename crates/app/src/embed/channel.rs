//! One queue: publishing to it, consuming from it, looking at it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use hokusai_event::{Envelope, MessageType, check_message};
use hokusai_queue::{Consumer, Delivery, Handler, Queue, Verdict, reaper};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Failure, Kind, Settings, registry::json as text};
use crate::{assembly::Assembly, config::QueueConfig, messages, roles};

/// A lease outlives its handler's time by so much.
const BEYOND: Duration = Duration::from_secs(10);
/// How often it is looked whether nothing happens any more.
const LOOK: Duration = Duration::from_millis(50);

/// A queue by the configuration.
#[derive(Debug)]
pub struct Channel {
    queue: Arc<dyn Queue>,
    config: QueueConfig,
}

/// What a callback says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Handled.
    Done,
    /// A failed attempt, and why.
    Failed(String),
    /// It can never succeed, and why.
    Never(String),
}

/// Handles one message, an envelope as it was taken. Runs on a thread that may block.
pub type Callback = Arc<dyn Fn(&[u8]) -> Answer + Send + Sync>;

/// How to consume.
#[derive(Debug, Clone)]
pub struct Consuming {
    /// Messages handled at once.
    pub concurrency: usize,
    /// The longest wait for a first message; `QUEUE_POLL_INTERVAL` if `None`.
    pub wait: Option<Duration>,
    /// How long a message may be handled before its attempt has failed; `PROCESSING_TIMEOUT` if `None`.
    pub timeout: Option<Duration>,
    /// Return after so many messages.
    pub limit: Option<u64>,
    /// Return when nothing has come for so long.
    pub idle: Option<Duration>,
    /// Whether only `model_ready_to_deploy` messages are handed over. Others, and those that break its rules, are dead-lettered.
    pub ready_only: bool,
}

impl Channel {
    /// The named queue, or that of `MESSAGE_QUEUE_NAME`. Redis is connected to on first use.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn open(settings: &Settings, name: Option<&str>) -> Result<Self, Failure> {
        let assembly = Assembly::open_queues(&settings.env()).await?;
        Ok(Self { queue: assembly.queue(name)?, config: assembly.queue_config })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.queue.name()
    }

    /// Publishes a `model_ready_to_deploy` payload, or a whole envelope of any type; answers its message id. At least once:
    /// after a lost reply it may be there twice.
    ///
    /// # Errors
    ///
    /// [`Failure`]; [`Kind::Invalid`] names every field that is wrong.
    pub async fn publish(&self, document: &[u8]) -> Result<String, Failure> {
        let completed = messages::complete(document, MessageType::ModelReadyToDeploy, self.config.max_retries, Timestamp::now());
        let (id, entry) = completed.map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::new(Kind::Invalid, problems.join("\n"))
        })?;
        self.queue.push(std::slice::from_ref(&entry)).await?;
        tracing::info!(message_id = id, queue = self.name(), "Published message");
        Ok(id)
    }

    /// How many messages are where: an object of `main_queue`, `processing`, `delayed`, `dead_letter`, and how long it took to
    /// ask.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn stats(&self) -> Result<String, Failure> {
        let started = Instant::now();
        let stats = self.queue.stats().await?;
        let latency_ms = (started.elapsed().as_secs_f64() * 1e5).round() / 1e2;
        text(&json!({
            "main_queue": stats.main, "processing": stats.processing, "delayed": stats.delayed, "dead_letter": stats.dlq,
            "latency_ms": latency_ms,
        }))
    }

    /// Consumes until `stop`, a limit, or idleness, and beside that brings back what is stuck in the queue. What runs when
    /// it stops is finished, what is not begun goes back. Answers how many messages were acknowledged.
    ///
    /// # Errors
    ///
    /// [`Failure`]; an outage of the queue is waited out.
    pub async fn consume(&self, callback: Callback, how: &Consuming, stop: &CancellationToken) -> Result<u64, Failure> {
        let mut config = roles::consumer_config(&self.config);
        config.concurrency = how.concurrency;
        config.limit = how.limit;
        config.wait = how.wait.unwrap_or(config.wait);
        config.handler_timeout = how.timeout.unwrap_or(self.config.processing_timeout);
        config.lease = config.handler_timeout + BEYOND;
        let consumer = Consumer::new(Arc::clone(&self.queue), config).map_err(anyhow::Error::from)?;
        let hands = Arc::new(Hands::new(callback, how.ready_only));
        // The reaper ends with the consumer, whatever ends that.
        let over = CancellationToken::new();
        let consume = async {
            let summary = consumer.run(Arc::clone(&hands) as Arc<dyn Handler>, stop.clone()).await;
            over.cancel();
            summary
        };
        let reap = reaper::run(Arc::clone(&self.queue), roles::reaper_config(&self.config), over.clone());
        let watch = async {
            let Some(idle) = how.idle else { return };
            while over.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
                if hands.idle_for() >= idle {
                    stop.cancel();
                    return;
                }
            }
        };
        let (summary, (), ()) = tokio::join!(consume, reap, watch);
        Ok(summary?.done)
    }
}

/// Hands messages to the callback.
struct Hands {
    callback: Callback,
    ready_only: bool,
    busy: AtomicU64,
    last: Mutex<Instant>,
}

impl Hands {
    fn new(callback: Callback, ready_only: bool) -> Self {
        Self { callback, ready_only, busy: AtomicU64::new(0), last: Mutex::new(Instant::now()) }
    }

    fn idle_for(&self) -> Duration {
        if self.busy.load(Ordering::Relaxed) > 0 { Duration::ZERO } else { self.last.lock().elapsed() }
    }

    fn unusable(&self, entry: &[u8]) -> Option<Verdict> {
        let dead = |kind: &str, error: String| Some(Verdict::Dead { kind: kind.into(), error });
        if !self.ready_only {
            return Envelope::parse(entry).err().and_then(|invalid| dead("invalid_message", invalid.to_string()));
        }
        match check_message(entry) {
            Err(problems) => dead("invalid_message", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
            Ok((envelope, event)) if event.message_type() != MessageType::ModelReadyToDeploy => {
                let error = format!("message_type: this consumer is for model_ready_to_deploy, this is {}", envelope.message_type);
                dead("unexpected_type", error)
            }
            Ok(_) => None,
        }
    }

    async fn call(&self, entry: Bytes) -> Verdict {
        let callback = Arc::clone(&self.callback);
        match tokio::task::spawn_blocking(move || callback(&entry)).await {
            Ok(Answer::Done) => Verdict::Done,
            Ok(Answer::Failed(error)) => Verdict::Retry { error },
            Ok(Answer::Never(error)) => Verdict::Dead { kind: "rejected".into(), error },
            Err(panic) => Verdict::Retry { error: panic.to_string() },
        }
    }
}

/// Counts a message as in hand for as long as it is handled, also if that is cut off.
struct Busy<'h>(&'h Hands);

impl<'h> Busy<'h> {
    fn new(hands: &'h Hands) -> Self {
        hands.busy.fetch_add(1, Ordering::Relaxed);
        Self(hands)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *self.0.last.lock() = Instant::now();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Handler for Hands {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        let _busy = Busy::new(self);
        match self.unusable(&delivery.entry) {
            Some(verdict) => verdict,
            None => self.call(delivery.entry.clone()).await,
        }
    }

    async fn dead_lettered(&self, entry: &[u8], kind: &str, error: &str) {
        let message_id = Envelope::parse(entry).map(|envelope| envelope.message_id).ok();
        tracing::error!(message_id, kind, "Moved message to DLQ due to: {error}");
    }
}
