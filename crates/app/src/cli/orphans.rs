//! `hokusai queue reap-orphans`: what lay in processing when this queue was first met. Nobody can tell whether its consumer
//! is at work or dead, so it is kept until a person says that it may be brought back.

use bytes::Bytes;
use clap::Args;
use hokusai_queue::{Lease, LeaseTerms};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Outcome, QueueName,
    output::{Format, or_dash, table},
    queue::{Who, ago, made_at, remind, upkeep},
};
use crate::{assembly::Assembly, config::Env};

#[derive(Debug, Args)]
pub(crate) struct ReapArgs {
    /// Do it
    #[arg(long)]
    execute: bool,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    queue: QueueName,
    #[command(flatten)]
    format: Format,
}

/// What was found, and done.
#[derive(Serialize)]
struct Told {
    queue: String,
    executed: bool,
    orphans: Vec<Orphan>,
    /// When whoever may still hold them has to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    reaped_after: Option<Timestamp>,
}

#[derive(Serialize)]
struct Orphan {
    message_id: Option<String>,
    /// When it was made, by its own word.
    made_at: Option<Timestamp>,
    bytes: usize,
}

impl Orphan {
    fn read(entry: &Bytes) -> Self {
        let message_id = hokusai_event::Envelope::parse(entry).ok().map(|envelope| envelope.message_id);
        Self { message_id, made_at: made_at(entry), bytes: entry.len() }
    }
}

pub(crate) async fn run(args: ReapArgs, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let ReapArgs { execute, who, queue, format } = args;
    let assembly = Assembly::open_queues(env).await?;
    let queue = assembly.queue(queue.queue.as_deref())?;
    let held = upkeep(&*queue)?.custody().await?.held;
    let orphans = held.iter().filter(|(_, lease)| *lease == Lease::Endless).map(|(entry, _)| Orphan::read(entry)).collect();
    let mut told = Told { queue: queue.name().to_owned(), executed: execute, orphans, reaped_after: None };
    if execute {
        let lease = assembly.queue_config.processing_timeout;
        // Anything that a reaper of ours does in a pass it may do here too; it gives orphans a lease from now on.
        queue.survey(&LeaseTerms { first_sight: lease, reap_orphans: true, ..LeaseTerms::default() }).await?;
        told.reaped_after = Some(Timestamp::now() + lease);
        tracing::warn!(queue = queue.name(), by = who.name(env), orphans = told.orphans.len(), "orphans may be reaped");
    }
    format.print(&told, describe)?;
    remind(execute || told.orphans.is_empty(), format)?;
    Ok(Outcome::Done)
}

fn describe(told: &Told) -> String {
    if told.orphans.is_empty() {
        return format!("{} holds no orphans", told.queue);
    }
    let now = Timestamp::now();
    let rows = told
        .orphans
        .iter()
        .map(|orphan| vec![or_dash(orphan.message_id.as_ref()), or_dash(orphan.made_at.map(|at| ago(at, now))), orphan.bytes.to_string()]);
    let mut text = table(&["message", "made", "bytes"], rows);
    if let Some(at) = told.reaped_after {
        text += &format!("\nthey are put back into main after {at}, by a reaper that runs then, unless somebody finishes them before");
    }
    text
}
