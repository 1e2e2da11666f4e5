//! Committed rows to a Redis list, on a thread of its own so that no commit waits for it. Not a relay: what it holds is lost with it.

use std::sync::mpsc::{self, Sender};

use anyhow::{Context, Result};
use register_bench::redis::Redis;

use crate::{Row, Waiting};

/// Takes the rows of one commit.
pub(crate) struct Push(Sender<Vec<Row>>);

impl Push {
    pub(crate) fn push(&self, rows: Vec<Row>) -> Result<()> {
        self.0.send(rows).context("pushing to Redis has stopped")
    }
}

impl Waiting {
    /// Tells the request that its row is committed, and gives the row back.
    pub(crate) fn answer(self) -> Row {
        // A client that went away has no more interest in its answer.
        let _ = self.committed.send(());
        self.row
    }
}

pub(crate) fn start(address: &str, queue: &str) -> Result<Push> {
    let mut redis = Redis::connect(address)?;
    let queue = queue.to_owned();
    let (sender, receiver) = mpsc::channel::<Vec<Row>>();
    std::thread::spawn(move || {
        while let Ok(rows) = receiver.recv() {
            if let Err(error) = push(&mut redis, &queue, &rows) {
                eprintln!("pushing stops: {error:#}");
                return;
            }
        }
    });
    Ok(Push(sender))
}

fn push(redis: &mut Redis, queue: &str, rows: &[Row]) -> Result<()> {
    let messages: Vec<Vec<u8>> = rows.iter().map(message).collect();
    let mut command: Vec<&[u8]> = vec![b"LPUSH", queue.as_bytes()];
    command.extend(messages.iter().map(Vec::as_slice));
    redis.call(&command)?;
    Ok(())
}

/// An envelope as hokusai would send it, its payload the registration as it came.
fn message(row: &Row) -> Vec<u8> {
    let mut message = format!(
        "{{\"message_id\":\"{}\",\"message_type\":\"model_ready_to_deploy\",\"timestamp\":\"2025-01-27T15:30:00.000000+00:00\",\"payload\":",
        row.id
    )
    .into_bytes();
    message.extend_from_slice(&row.body);
    message.extend_from_slice(format!(",\"retry_count\":0,\"max_retries\":3,\"correlation_id\":\"{}\"}}", row.id).as_bytes());
    message
}
