//! `hokusai publish`: messages by hand, past the outbox, hence at least once: after a lost reply a message may be there
//! twice, with the same `message_id`.

use bytes::Bytes;
use clap::Args;
use hokusai_event::{Invalid, MessageType};
use jiff::Timestamp;
use serde_json::json;

use super::{Input, Outcome, QueueName, message::parse_type, output::Format};
use crate::{assembly::Assembly, config::Env, messages};

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    input: Input,
    /// The type of bare payloads; an envelope says its own
    #[arg(long = "type", value_name = "TYPE", default_value = "model_ready_to_deploy", value_parser = parse_type)]
    payload_type: MessageType,
    #[command(flatten)]
    queue: QueueName,
    #[command(flatten)]
    format: Format,
}

/// Everything is checked before anything is published.
pub(crate) async fn run(args: PublishArgs, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let bytes = args.input.read()?;
    let assembly = Assembly::open_queues(env).await?;
    let now = Timestamp::now();
    let mut ids = Vec::new();
    let mut entries: Vec<Bytes> = Vec::new();
    let mut all_valid = true;
    for (index, document) in messages::split(&bytes).into_iter().enumerate() {
        let completed = document
            .map_err(|invalid| vec![invalid])
            .and_then(|document| messages::complete(&document, args.payload_type, assembly.queue_config.max_retries, now));
        match completed {
            Ok((id, entry)) => {
                ids.push(id);
                entries.push(entry);
            }
            Err(problems) => {
                all_valid = false;
                complain(index + 1, &problems);
            }
        }
    }
    if !all_valid {
        eprintln!("nothing was published");
        return Ok(Outcome::Failed);
    }
    anyhow::ensure!(!entries.is_empty(), "there is no message in the input");
    let queue = assembly.queue(args.queue.queue.as_deref())?;
    queue.push(&entries).await?;
    for id in &ids {
        tracing::info!(message_id = id, queue = queue.name(), "Published {} message", args.payload_type);
    }
    args.format.print(&json!({"queue": queue.name(), "published": ids.len(), "message_ids": ids}), |_| {
        format!("published {} to {}", ids.len(), queue.name())
    })?;
    Ok(Outcome::Done)
}

fn complain(number: usize, problems: &[Invalid]) {
    for problem in problems {
        eprintln!("message {number}: {problem}");
    }
}
