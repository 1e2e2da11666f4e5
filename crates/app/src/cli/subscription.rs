//! `hokusai subscription`: which queues receive which message types.

use clap::Subcommand;
use hokusai_registry::{Subscriptions, Wanted, subscriptions::parse_start};

use super::output::{Format, or_dash, print_line, table};
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
