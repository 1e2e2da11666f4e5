//! `hokusai subscription`: which queues receive which message types.

use clap::Subcommand;
use hokusai_db::Database;
use hokusai_registry::{Subscriptions, Wanted, outbox, subscriptions::parse_start};
use serde_json::json;

use super::{
    output::{Format, or_dash, print_line, table},
    queue::{Who, remind},
};
use crate::{assembly::Assembly, config::Env};

#[derive(Debug, Subcommand)]
pub(crate) enum SubscriptionCommand {
    /// Let a queue receive message types
    Add {
        /// The queue
        queue: String,
        /// Message types, separated by commas
        #[arg(long, value_delimiter = ',', required = true, value_name = "TYPE", value_parser = super::message::parse_type)]
        types: Vec<hokusai_event::MessageType>,
        /// Which events it gets first: now, beginning, or a time such as 2026-01-31T00:00:00Z
        #[arg(long, default_value = "now")]
        from: String,
    },
    /// Show the subscriptions
    List(Format),
    /// Let a queue receive nothing any more; what it holds stays there
    Remove {
        /// The queue
        queue: String,
    },
    /// Give this database a new identity as a source of messages, after it was restored from a backup or cloned; every queue then
    /// gets its unfinished events again. Shows what it would do unless told to --execute
    RenewSource {
        /// Do it
        #[arg(long)]
        execute: bool,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        format: Format,
    },
}

pub(crate) async fn run(command: SubscriptionCommand, env: &Env<'_>) -> anyhow::Result<()> {
    let assembly = Assembly::open(env).await?;
    let subscriptions = Subscriptions::new(assembly.database()?.clone());
    match command {
        SubscriptionCommand::Add { queue, types, from } => {
            let start = parse_start(&from).map_err(|problem| anyhow::anyhow!("--from: {problem}"))?;
            subscriptions.add(&Wanted { queue: queue.clone(), types, start }).await?;
            print_line(&format!("{queue} is subscribed"))
        }
        SubscriptionCommand::Remove { queue } => {
            anyhow::ensure!(subscriptions.remove(&queue, &[]).await?, "{queue} is not subscribed to anything");
            print_line(&format!("{queue} is not subscribed any more"))
        }
        SubscriptionCommand::RenewSource { execute, who, format } => {
            renew_source(assembly.database()?, execute, &who.name(env), format).await
        }
        SubscriptionCommand::List(format) => {
            let list = subscriptions.list().await?;
            format.print(&list, |list| {
                let rows = list.iter().map(|one| {
                    let types = one.types.iter().cloned().collect::<Vec<_>>().join(", ");
                    let state = one.stopped.clone().unwrap_or_else(|| "running".into());
                    vec![one.queue.clone(), types, or_dash(one.position), one.rewinds.to_string(), state]
                });
                table(&["queue", "types", "position", "rewinds", "state"], rows)
            })
        }
    }
}

async fn renew_source(db: &Database, execute: bool, by: &str, format: Format) -> anyhow::Result<()> {
    let before = outbox::source_id(db).await?;
    let subscriptions = Subscriptions::new(db.clone()).list().await?;
    let stopped: Vec<&str> = subscriptions.iter().filter(|one| one.stopped.is_some()).map(|one| &*one.queue).collect();
    let queues: Vec<&str> = subscriptions.iter().map(|one| &*one.queue).collect();
    let now = if execute { Some(outbox::renew_source(db).await?) } else { None };
    if let Some(now) = &now {
        tracing::warn!(before, now, by, "the database has a new source id");
    }
    let told = json!({"executed": execute, "before": before, "source": now, "queues": queues, "stopped": stopped});
    format.print(&told, |_| match &now {
        Some(now) => format!("the source id was {before} and is {now}; unfinished events are published again to {}", queues.join(", ")),
        None => {
            let stopped = if stopped.is_empty() { "none".to_owned() } else { stopped.join(", ") };
            format!("the source id is {before}; queues to which the relay has stopped publishing: {stopped}")
        }
    })?;
    remind(execute, format)
}
