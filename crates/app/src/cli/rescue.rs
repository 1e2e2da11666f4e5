//! `hokusai rescue`: a look at any queue in the brief's layout, and its repair.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::Args;
use hokusai_queue::{RedisQueue, RedisSettings};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    Outcome,
    output::{Format, table},
    queue::{ago, parse_length, remind},
};
use crate::{
    config::{DEFAULT_QUEUE, Env},
    rescue::{Findings, Repaired, Terms, look, repair},
};

/// How many of a kind are listed for a person; JSON holds all.
const LISTED: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct RescueArgs {
    /// The Redis, as in redis://:password@host:6379/0
    #[arg(value_name = "REDIS_URL")]
    redis_url: String,
    /// The queue's name [default: MESSAGE_QUEUE_NAME, else hokusai:model_ready_queue]
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// A message in processing counts as stuck when it was made longer ago than this
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_length)]
    stuck_after: SignedDuration,
    /// The retries of messages that do not say their own limit
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_retries: u32,
    /// Repair: what is stuck goes back into the queue, what cannot be read to the dead letters
    #[arg(long)]
    execute: bool,
    /// With --execute: also deliver again the dead letters that still had retries
    #[arg(long, requires = "execute")]
    redrive_dead_letters: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Report {
    executed: bool,
    #[serde(flatten)]
    findings: Findings,
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<Repaired>,
}

pub(crate) async fn run(args: RescueArgs, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let settings = RedisSettings::from_url(&args.redis_url).context("REDIS_URL")?;
    let name = args.queue.or_else(|| env.text("MESSAGE_QUEUE_NAME")).unwrap_or_else(|| DEFAULT_QUEUE.into());
    let queue = RedisQueue::connect(&settings, &name).await?;
    let now = Timestamp::now();
    let terms = Terms { stuck_after: args.stuck_after, max_retries: args.max_retries, now };
    let findings = look(&queue, &terms).await?;
    let mut repaired = None;
    if args.execute {
        let done = repair(&queue, &findings, args.redrive_dead_letters, now).await?;
        tracing::warn!(queue = name, ?done, "the queue was repaired by hand");
        repaired = Some(done);
    }
    let report = Report { executed: args.execute, findings, repaired };
    args.format.print(&report, |report| describe(report, now))?;
    remind(args.execute, args.format)?;
    Ok(Outcome::Done)
}

fn describe(report: &Report, now: Timestamp) -> String {
    let Findings { queue, stats, stuck, in_progress, unparsable, invalid, requested_twice, duplicates, had_retries } = &report.findings;
    let counts = [stats.main, stats.processing, stats.delayed, stats.dlq].map(|count| count.to_string());
    let mut text = table(&["queue", "main", "processing", "delayed", "dead letter"], [[vec![queue.clone()], counts.to_vec()].concat()]);
    section(&mut text, "stuck in processing", stuck, |one| {
        let age = ago(one.made_at, now);
        vec![one.message_id.clone(), one.message_type.clone(), format!("made {age} ago"), format!("{} failed attempts", one.retry_count)]
    });
    if *in_progress > 0 {
        write!(text, "\n\nin processing and perhaps worked on: {in_progress}").expect("writing to a String cannot fail");
    }
    section(&mut text, "not a message", unparsable, |one| vec![one.state.to_string(), format!("{} bytes", one.bytes), one.problem.clone()]);
    section(&mut text, "a message that will be refused", invalid, |one| {
        vec![one.message_id.clone(), one.state.to_string(), one.problems.join("; ")]
    });
    section(&mut text, "a model version asked for by several messages", requested_twice, |one| {
        let messages: Vec<String> = one.messages.iter().map(|place| format!("{} ({})", place.message_id, place.state)).collect();
        vec![one.token.clone(), format!("{}/{}", one.model_name, one.model_version), messages.join(", ")]
    });
    section(&mut text, "a message that is there more than once", duplicates, |one| {
        let states: Vec<String> = one.states.iter().map(ToString::to_string).collect();
        vec![one.message_id.clone(), states.join(", ")]
    });
    section(&mut text, "a dead letter that still had retries", had_retries, |one| {
        let name = one.message_id.clone().unwrap_or_default();
        vec![name, format!("{} of {}", one.retry_count, one.max_retries), one.error.chars().take(100).collect()]
    });
    if let Some(Repaired { taken_back, dead_lettered, redriven, gone }) = &report.repaired {
        write!(
            text,
            "\n\nrepaired: {taken_back} taken back, {dead_lettered} moved to the dead letters, {redriven} dead letters delivered again, \
             {gone} gone meanwhile"
        )
        .expect("writing to a String cannot fail");
    }
    text
}

fn section<T>(text: &mut String, what: &str, found: &[T], row: impl Fn(&T) -> Vec<String>) {
    if found.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = found.iter().take(LISTED).map(row).collect();
    let more = if found.len() > LISTED { format!("\n… and {} more (--json lists all)", found.len() - LISTED) } else { String::new() };
    let rows = rows.iter().map(|row| row.join("  ")).collect::<Vec<_>>().join("\n  ");
    write!(text, "\n\n{what}: {}\n  {rows}{more}", found.len()).expect("writing to a String cannot fail");
}
