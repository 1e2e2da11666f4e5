//! A bare loop on the `redis` crate: what it costs to go through a general client, with no promise kept.

use std::{cell::RefCell, rc::Rc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use queue_bench::{
    PROCESSING, QUEUE, clock,
    message::{self, Stamp},
    options::{Options, Verb},
    tally::{Report, Stretch, Tally},
};
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection, cmd};
use tokio::task::{LocalSet, spawn_local};

const PATIENCE: Duration = Duration::from_secs(150);
/// Batches under way at once.
const LOOPS: usize = 2;
const EMPTY_WAITS: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let local = LocalSet::new();
    let work = local.run_until(async move {
        match options.verb {
            Verb::Publish { count, callers, batch } => publish(options.port, count, callers, batch).await,
            Verb::Consume { count } => consume(options.port, count, options.batch).await,
            Verb::Send { rate, seconds } => send(options.port, rate, seconds).await,
            Verb::Receive { count } => receive(options.port, count).await,
            Verb::Check { .. } | Verb::Strand { .. } => bail!("`limit` does that"),
        }
    });
    tokio::time::timeout(PATIENCE, work).await.context("not done in time")??.print()
}

async fn connect(port: u16) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn publish(port: u16, count: u64, callers: usize, batch: usize) -> Result<Report> {
    let connection = connect(port).await?;
    let next = Rc::new(RefCell::new(0));
    let stretch = Stretch::new();
    let mut publishers = Vec::new();
    for _ in 0..callers {
        let (mut connection, next) = (connection.clone(), next.clone());
        publishers.push(spawn_local(async move {
            loop {
                let first = next.replace_with(|next| *next + batch as u64);
                if first >= count {
                    return Ok(());
                }
                let mut push = cmd("LPUSH");
                push.arg(QUEUE);
                for number in first..(first + batch as u64).min(count) {
                    push.arg(message::bytes(Stamp { number, published_ns: 0 }));
                }
                push.query_async::<i64>(&mut connection).await?;
            }
        }));
    }
    for publisher in publishers {
        let done: Result<()> = publisher.await?;
        done?;
    }
    Ok(stretch.report(count, vec![]))
}

/// What the loops share: what was handled, and how much has been asked for.
struct Shared {
    tally: Tally,
    left: u64,
}

async fn consume(port: u16, count: u64, batch: usize) -> Result<Report> {
    let connection = connect(port).await?;
    let shared = Rc::new(RefCell::new(Shared { tally: Tally::new(count)?, left: count }));
    let mut loops = Vec::new();
    for _ in 0..LOOPS {
        let blocking = connect(port).await?;
        loops.push(spawn_local(take_handle_ack(connection.clone(), blocking, shared.clone(), batch)));
    }
    for one in loops {
        one.await??;
    }
    let shared = Rc::into_inner(shared).context("both loops have ended")?.into_inner();
    Ok(shared.tally.report())
}

/// The acks of the batch before and the next moves in one pipeline.
async fn take_handle_ack(
    mut connection: MultiplexedConnection,
    mut blocking: MultiplexedConnection,
    shared: Rc<RefCell<Shared>>,
    batch: usize,
) -> Result<()> {
    let (mut acks, mut empty) = (Vec::<Vec<u8>>::new(), 0);
    loop {
        let moves = reserve(&shared, batch);
        if moves == 0 && acks.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for entry in acks.drain(..) {
            pipeline.cmd("LREM").arg(PROCESSING).arg(-1).arg(entry).ignore();
        }
        for _ in 0..moves {
            pipeline.cmd("LMOVE").arg(QUEUE).arg(PROCESSING).arg("RIGHT").arg("LEFT");
        }
        let came: Vec<Option<Vec<u8>>> = pipeline.query_async(&mut connection).await?;
        acks.extend(came.into_iter().flatten());
        if acks.is_empty() && moves > 0 {
            let mut wait = cmd("BLMOVE");
            wait.arg(QUEUE).arg(PROCESSING).arg("RIGHT").arg("LEFT").arg("0.5");
            acks.extend(wait.query_async::<Option<Vec<u8>>>(&mut blocking).await?);
            empty = if acks.is_empty() { empty + 1 } else { 0 };
            ensure!(empty < EMPTY_WAITS, "no more messages came");
        }
        let mut shared = shared.borrow_mut();
        shared.left += (moves - acks.len()) as u64;
        for entry in &acks {
            shared.tally.note(entry)?;
        }
    }
}

fn reserve(shared: &RefCell<Shared>, batch: usize) -> usize {
    let mut shared = shared.borrow_mut();
    let moves = batch.min(usize::try_from(shared.left).unwrap_or(usize::MAX));
    shared.left -= moves as u64;
    moves
}

async fn send(port: u16, rate: u64, seconds: u64) -> Result<Report> {
    let mut connection = connect(port).await?;
    let count = rate * seconds;
    let mut latencies = Vec::with_capacity(usize::try_from(count)?);
    let (stretch, began) = (Stretch::new(), clock::now_ns());
    for number in 0..count {
        clock::sleep_until(began + number * 1_000_000_000 / rate);
        let published_ns = clock::now_ns();
        let message = message::bytes(Stamp { number, published_ns });
        cmd("LPUSH").arg(QUEUE).arg(message).query_async::<i64>(&mut connection).await?;
        latencies.push(clock::now_ns() - published_ns);
    }
    Ok(stretch.report(count, latencies))
}

async fn receive(port: u16, count: u64) -> Result<Report> {
    let mut connection = connect(port).await?;
    let (mut tally, mut entry, mut empty) = (Tally::new(count)?, None::<Vec<u8>>, 0);
    while tally.handled() < count {
        let mut pipeline = redis::pipe();
        if let Some(entry) = entry.take() {
            pipeline.cmd("LREM").arg(PROCESSING).arg(-1).arg(entry).ignore();
        }
        pipeline.cmd("BLMOVE").arg(QUEUE).arg(PROCESSING).arg("RIGHT").arg("LEFT").arg(1);
        (entry,) = pipeline.query_async(&mut connection).await?;
        empty = if entry.is_none() { empty + 1 } else { 0 };
        ensure!(empty < EMPTY_WAITS, "{} of {count} messages came", tally.handled());
        if let Some(entry) = &entry {
            tally.note(entry)?;
        }
    }
    if let Some(entry) = entry {
        cmd("LREM").arg(PROCESSING).arg(-1).arg(entry).query_async::<i64>(&mut connection).await?;
    }
    Ok(tally.report())
}
