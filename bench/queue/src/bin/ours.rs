//! hokusai-queue through its public interface: the consumer with retries, dead letters and a reaper, as `hokusai consume` runs it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use clap::Parser as _;
use hokusai_queue::{
    Consumer, ConsumerConfig, Delivery, Handler, Queue, RedisQueue, RedisSettings, Verdict,
    reaper::{self, ReaperConfig},
};
use queue_bench::{
    QUEUE, clock,
    message::{self, Stamp},
    options::{Options, Verb},
    tally::{Report, Stretch, Tally},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(150);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let settings = RedisSettings::from_url(&format!("redis://127.0.0.1:{}", options.port))?;
    let queue: Arc<dyn Queue> = Arc::new(RedisQueue::connect(&settings, QUEUE).await?);
    let work = async {
        match options.verb {
            Verb::Publish { count, callers, batch } => publish(queue, count, callers, batch).await,
            Verb::Consume { count } | Verb::Receive { count } => consume(queue, count, options.concurrency).await,
            Verb::Send { rate, seconds } => send(queue, rate, seconds).await,
            Verb::Check { .. } | Verb::Strand { .. } => bail!("`limit` does that"),
        }
    };
    tokio::time::timeout(PATIENCE, work).await.context("not done in time")??.print()
}

async fn publish(queue: Arc<dyn Queue>, count: u64, callers: usize, batch: usize) -> Result<Report> {
    let next = Arc::new(AtomicU64::new(0));
    let stretch = Stretch::new();
    let mut publishers = JoinSet::new();
    for _ in 0..callers {
        let (queue, next) = (queue.clone(), next.clone());
        publishers.spawn(async move {
            loop {
                let first = next.fetch_add(batch as u64, Ordering::Relaxed);
                if first >= count {
                    return Ok(());
                }
                let numbers = first..(first + batch as u64).min(count);
                let entries: Vec<Bytes> = numbers.map(|number| message::bytes(Stamp { number, published_ns: 0 }).into()).collect();
                queue.push(&entries).await?;
            }
        });
    }
    while let Some(done) = publishers.join_next().await {
        let done: Result<(), hokusai_queue::Error> = done?;
        done?;
    }
    Ok(stretch.report(count, vec![]))
}

#[derive(Debug)]
struct Counting(Mutex<Tally>);

#[async_trait]
impl Handler for Counting {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).note(&delivery.entry) {
            Ok(()) => Verdict::Done,
            Err(error) => Verdict::Dead { kind: "unexpected".to_owned(), error: error.to_string() },
        }
    }
}

async fn consume(queue: Arc<dyn Queue>, count: u64, concurrency: usize) -> Result<Report> {
    let handler = Arc::new(Counting(Mutex::new(Tally::new(count)?)));
    let shutdown = CancellationToken::new();
    let reaper = tokio::spawn(reaper::run(queue.clone(), ReaperConfig::default(), shutdown.clone()));
    let config = ConsumerConfig { concurrency, limit: Some(count), ..ConsumerConfig::default() };
    let summary = Consumer::new(queue, config)?.run(handler.clone(), shutdown.clone()).await?;
    let handler = Arc::into_inner(handler).context("the consumer has ended")?;
    let report = handler.0.into_inner().unwrap_or_else(PoisonError::into_inner).report();
    shutdown.cancel();
    reaper.await?;
    ensure!(summary.done == count && summary.lost == 0, "{summary:?}, where {count} messages were to be acknowledged");
    Ok(report)
}

async fn send(queue: Arc<dyn Queue>, rate: u64, seconds: u64) -> Result<Report> {
    let count = rate * seconds;
    let mut latencies = Vec::with_capacity(usize::try_from(count)?);
    let (stretch, began) = (Stretch::new(), clock::now_ns());
    for number in 0..count {
        // Nothing else runs on this thread that could be delayed.
        clock::sleep_until(began + number * 1_000_000_000 / rate);
        let published_ns = clock::now_ns();
        queue.push(&[message::bytes(Stamp { number, published_ns }).into()]).await?;
        latencies.push(clock::now_ns() - published_ns);
    }
    Ok(stretch.report(count, latencies))
}
