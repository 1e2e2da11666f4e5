//! `hokusai queue`: how full the queues are, and what lies in them.

use clap::Subcommand;
use hokusai_queue::State;
use serde_json::{Value, json};

use super::{
    QueueName,
    output::{Format, table},
};
use crate::{assembly::Assembly, config::Env};

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Count the messages in each state
    Stats {
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
    /// Show messages without taking them
    Peek {
        /// main, processing, delayed or dlq
        #[arg(long, default_value = "main")]
        state: State,
        /// How many to pass over
        #[arg(long, default_value_t = 0)]
        offset: usize,
        /// How many to show
        #[arg(long, default_value_t = 10)]
        limit: usize,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
}

pub(crate) async fn run(command: QueueCommand, env: &Env<'_>) -> anyhow::Result<()> {
    let assembly = Assembly::open_queues(env).await?;
    match command {
        QueueCommand::Stats { queue, format } => {
            let queue = assembly.queue(queue.queue.as_deref())?;
            let stats = queue.stats().await?;
            let counts = json!({"queue": queue.name(), "main": stats.main, "processing": stats.processing, "delayed": stats.delayed, "dlq": stats.dlq});
            format.print(&counts, |_| {
                let row = [stats.main, stats.processing, stats.delayed, stats.dlq].map(|count| count.to_string());
                table(&["queue", "main", "processing", "delayed", "dead letter"], [[vec![queue.name().to_owned()], row.to_vec()].concat()])
            })
        }
        QueueCommand::Peek { state, offset, limit, queue, format } => {
            let queue = assembly.queue(queue.queue.as_deref())?;
            let entries = queue.peek(state, offset, limit).await?;
            let shown: Vec<Value> = entries.iter().map(|entry| show(entry)).collect();
            format.print(&shown, |shown| {
                if shown.is_empty() {
                    return format!("nothing in {state} of {}", queue.name());
                }
                shown.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            })
        }
    }
}

/// JSON as it is, other text as text, bytes that are neither in Base64.
pub(crate) fn show(entry: &[u8]) -> Value {
    serde_json::from_slice(entry).unwrap_or_else(|_| match std::str::from_utf8(entry) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, entry) }),
    })
}
