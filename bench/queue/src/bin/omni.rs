//! omniqueue, the nearest Rust queue, on Redis lists (`--kind list`) or streams: its own consumers, one for each unit of concurrency.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser as _;
use omniqueue::backends::{RedisBackend, RedisConfig};
use queue_bench::{
    clock,
    message::{Envelope, Stamp},
    options::{Options, Verb},
    tally::{Report, Stretch, Tally},
};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(150);
const KEY: &str = "omni:q";
/// Of each consumer. Its background tasks use some of them: with two it hangs.
const CONNECTIONS: usize = 6;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    let streams = options.kind != "list";
    if streams {
        make_group(options.port).await;
    }
    let work = async {
        match options.verb {
            Verb::Publish { count, callers, .. } => publish(options.port, streams, count, callers).await,
            Verb::Consume { count } | Verb::Receive { count } => consume(&options, streams, count).await,
            Verb::Send { rate, seconds } => send(options.port, streams, rate, seconds).await,
            Verb::Check { .. } | Verb::Strand { .. } => bail!("`limit` does that"),
        }
    };
    tokio::time::timeout(PATIENCE, work).await.context("not done in time")??.print()
}

/// It is there already when a second process comes.
async fn make_group(port: u16) {
    let Ok(client) = redis::Client::open(format!("redis://127.0.0.1:{port}/")) else { return };
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return };
    let mut create = redis::cmd("XGROUP");
    let _: redis::RedisResult<()> = create.arg("CREATE").arg(KEY).arg("g").arg("0").arg("MKSTREAM").query_async(&mut connection).await;
}

fn config(port: u16, connections: usize) -> RedisConfig {
    RedisConfig {
        dsn: format!("redis://127.0.0.1:{port}/"),
        max_connections: u16::try_from(connections).unwrap_or(64),
        reinsert_on_nack: false,
        queue_key: KEY.into(),
        delayed_queue_key: format!("{KEY}:delayed"),
        delayed_lock_key: format!("{KEY}:delayed_lock"),
        consumer_group: "g".into(),
        consumer_name: "c".into(),
        payload_key: "payload".into(),
        ack_deadline_ms: 30_000,
        dlq_config: None,
        sentinel_config: None,
    }
}

async fn publish(port: u16, streams: bool, count: u64, callers: usize) -> Result<Report> {
    let producer = Arc::new(RedisBackend::builder(config(port, callers * 2 + 4)).use_redis_streams(streams).build_producer().await?);
    let next = Arc::new(AtomicU64::new(0));
    let stretch = Stretch::new();
    let mut publishers = JoinSet::new();
    for _ in 0..callers {
        let (producer, next) = (producer.clone(), next.clone());
        publishers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                producer.send_serde_json(&Envelope::new(Stamp { number, published_ns: 0 })).await?;
            }
        });
    }
    while let Some(done) = publishers.join_next().await {
        let done: Result<(), omniqueue::QueueError> = done?;
        done?;
    }
    Ok(stretch.report(count, vec![]))
}

async fn consume(options: &Options, streams: bool, count: u64) -> Result<Report> {
    let tally = Arc::new(Mutex::new(Tally::new(count)?));
    let acked = Arc::new(AtomicU64::new(0));
    let mut consumers = JoinSet::new();
    for _ in 0..options.concurrency {
        let (tally, acked) = (tally.clone(), acked.clone());
        let batch = options.batch;
        let mut consumer = RedisBackend::builder(config(options.port, CONNECTIONS)).use_redis_streams(streams).build_consumer().await?;
        consumers.spawn(async move {
            while acked.load(Ordering::Relaxed) < count {
                for delivery in consumer.receive_all(batch, Duration::from_millis(500)).await? {
                    let payload = delivery.borrow_payload().context("a delivery without a payload")?;
                    tally.lock().unwrap_or_else(PoisonError::into_inner).note(payload)?;
                    delivery.ack().await.map_err(|(error, _)| anyhow!(error))?;
                    acked.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        });
    }
    // The last ack ends it, not the idle waits of the other consumers.
    while acked.load(Ordering::Relaxed) < count {
        tokio::select! {
            Some(ended) = consumers.join_next() => { let ended: Result<()> = ended?; ended? },
            () = tokio::time::sleep(Duration::from_millis(1)) => {},
        }
    }
    consumers.shutdown().await;
    let tally = Arc::into_inner(tally).context("all consumers have ended")?;
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner).report())
}

async fn send(port: u16, streams: bool, rate: u64, seconds: u64) -> Result<Report> {
    let producer = RedisBackend::builder(config(port, 4)).use_redis_streams(streams).build_producer().await?;
    let count = rate * seconds;
    let mut latencies = Vec::with_capacity(usize::try_from(count)?);
    let (stretch, began) = (Stretch::new(), clock::now_ns());
    for number in 0..count {
        tokio::task::block_in_place(|| clock::sleep_until(began + number * 1_000_000_000 / rate));
        let published_ns = clock::now_ns();
        producer.send_serde_json(&Envelope::new(Stamp { number, published_ns })).await?;
        latencies.push(clock::now_ns() - published_ns);
    }
    Ok(stretch.report(count, latencies))
}
