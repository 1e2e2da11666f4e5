//! `hokusai queue`: how full the queues are, what lies in them, and what to do about it.

use clap::{Args, Subcommand};
use hokusai_queue::{Pause, Queue, State, Stats, Upkeep, dead_letter};
use hokusai_registry::{Backlog, Subscriptions};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Outcome, QueueName, audit, dlq, orphans,
    output::{Format, or_dash, print_line, table},
    queue_republish,
};
use crate::{
    assembly::Assembly,
    config::{Env, operator},
};

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Count the messages in each state; how old the oldest are, what the relay has still to bring, whether it is paused
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
    /// Let our consumers take nothing from a queue until `resume`; foreign consumers do not know of it and go on
    Pause {
        /// Why, for whoever wonders
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
    /// Let our consumers take from a queue again
    Resume {
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
    /// Let what others left in processing before this queue was first met be brought back like anything else; shows what it
    /// would do unless told to --execute
    ReapOrphans(orphans::ReapArgs),
    /// Publish events of the outbox again, with the same bytes; shows what it would do unless told to --execute
    Republish(queue_republish::RepublishArgs),
    /// Look at what was given up, put it back or throw it away
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Prove where every event is; exit code 1 if one is unaccounted for
    Audit(audit::AuditArgs),
}

/// Who acts, as histories tell it.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// Who does it [default: the USER variable]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Who {
    pub(crate) fn name(&self, env: &Env<'_>) -> String {
        self.by.clone().unwrap_or_else(|| operator(env))
    }
}

pub(crate) async fn run(command: QueueCommand, env: &Env<'_>) -> anyhow::Result<Outcome> {
    match command {
        QueueCommand::Stats { queue, format } => stats(queue, format, env).await,
        QueueCommand::Peek { state, offset, limit, queue, format } => {
            let queue = Assembly::open_queues(env).await?.queue(queue.queue.as_deref())?;
            let entries = queue.peek(state, offset, limit).await?;
            let shown: Vec<Value> = entries.iter().map(|entry| show(entry)).collect();
            format.print(&shown, |shown| {
                if shown.is_empty() {
                    return format!("nothing in {state} of {}", queue.name());
                }
                shown.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            })?;
            Ok(Outcome::Done)
        }
        QueueCommand::Pause { reason, who, queue, format } => {
            let pause = Pause { by: who.name(env), reason, at: Timestamp::now() };
            set_pause(Some(pause), queue, format, env).await
        }
        QueueCommand::Resume { queue, format } => set_pause(None, queue, format, env).await,
        QueueCommand::ReapOrphans(args) => orphans::run(args, env).await,
        QueueCommand::Republish(args) => queue_republish::run(args, env).await,
        QueueCommand::Dlq(command) => dlq::run(command, env).await,
        QueueCommand::Audit(args) => audit::run(args, env).await,
    }
}

async fn set_pause(pause: Option<Pause>, queue: QueueName, format: Format, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let queue = Assembly::open_queues(env).await?.queue(queue.queue.as_deref())?;
    let upkeep = upkeep(&*queue)?;
    let before = upkeep.pause().await?;
    upkeep.set_pause(pause.as_ref()).await?;
    tracing::info!(queue = queue.name(), ?pause, "the pause was changed");
    let told = json!({"queue": queue.name(), "paused": pause, "before": before});
    format.print(&told, |_| match (&pause, &before) {
        (Some(_), _) => {
            format!("{} is paused: our consumers stop taking within a second or two; foreign consumers are not affected", queue.name())
        }
        (None, Some(before)) => format!("{} is not {before} any more", queue.name()),
        (None, None) => format!("{} was not paused", queue.name()),
    })?;
    Ok(Outcome::Done)
}

/// What only some backends offer.
pub(super) fn upkeep(queue: &dyn Queue) -> anyhow::Result<&dyn Upkeep> {
    queue.upkeep().ok_or_else(|| anyhow::anyhow!("what carries {} shows nobody what it holds and cannot be paused", queue.name()))
}

/// `queue stats`.
#[derive(Serialize)]
struct Standing {
    queue: String,
    main: u64,
    processing: u64,
    delayed: u64,
    dlq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<Pause>,
    #[serde(skip_serializing_if = "Oldest::is_none")]
    oldest: Oldest,
    /// What the relay has still to bring, if anything; only where a database is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<Backlog>,
}

/// When the oldest message in each state was made, or given up.
#[derive(Serialize)]
struct Oldest {
    main: Option<Timestamp>,
    processing: Option<Timestamp>,
    dlq: Option<Timestamp>,
}

impl Oldest {
    fn is_none(&self) -> bool {
        self.main.is_none() && self.processing.is_none() && self.dlq.is_none()
    }
}

async fn stats(queue: QueueName, format: Format, env: &Env<'_>) -> anyhow::Result<Outcome> {
    // The database is asked where it is named, or where the queue lives in it.
    let assembly = if env.text("DATABASE_URL").is_some() { Assembly::open(env).await? } else { Assembly::open_queues(env).await? };
    let queue = assembly.queue(queue.queue.as_deref())?;
    let Stats { main, processing, delayed, dlq } = queue.stats().await?;
    let paused = match queue.upkeep() {
        Some(upkeep) => upkeep.pause().await?,
        None => None,
    };
    let oldest = Oldest {
        main: oldest(&*queue, State::Main).await?,
        processing: oldest(&*queue, State::Processing).await?,
        dlq: oldest(&*queue, State::Dlq).await?,
    };
    let relay = match &assembly.db {
        Some(db) => Subscriptions::new(db.clone()).backlogs().await?.into_iter().find(|backlog| backlog.queue == queue.name()),
        None => None,
    };
    let standing = Standing { queue: queue.name().to_owned(), main, processing, delayed, dlq, paused, oldest, relay };
    format.print(&standing, describe)?;
    Ok(Outcome::Done)
}

fn describe(standing: &Standing) -> String {
    let Standing { queue, main, processing, delayed, dlq, paused, oldest, relay } = standing;
    let now = Timestamp::now();
    let row = [*main, *processing, *delayed, *dlq].map(|count| count.to_string());
    let mut rows = vec![[vec![queue.clone()], row.to_vec()].concat()];
    if !oldest.is_none() {
        let age = |at: Option<Timestamp>| or_dash(at.map(|at| ago(at, now)));
        rows.push(vec!["oldest".into(), age(oldest.main), age(oldest.processing), "-".into(), age(oldest.dlq)]);
    }
    let mut text = table(&["queue", "main", "processing", "delayed", "dead letter"], rows);
    if let Some(pause) = paused {
        text += &format!("\n{pause} since {}; foreign consumers are not affected", pause.at);
    }
    if let Some(backlog) = relay {
        let since = Timestamp::from_millisecond(backlog.oldest_ms).map_or_else(|_| "-".into(), |at| ago(at, now));
        text += &format!("\nthe relay has {} events to bring, the oldest made {since} ago", backlog.events);
    }
    text
}

/// When the message that is there longest was made; for a dead letter, when it was given up.
async fn oldest(queue: &dyn Queue, state: State) -> anyhow::Result<Option<Timestamp>> {
    let entry = queue.peek(state, 0, 1).await?.pop();
    Ok(entry.and_then(|entry| if state == State::Dlq { failed_at(&entry) } else { made_at(&entry) }))
}

/// When a message was made, by its own word.
pub(crate) fn made_at(entry: &[u8]) -> Option<Timestamp> {
    hokusai_event::Envelope::parse(entry).ok().map(|envelope| envelope.timestamp.at())
}

/// When a message was given up, by its dead letter's word.
pub(crate) fn failed_at(entry: &[u8]) -> Option<Timestamp> {
    hokusai_event::read_timestamp(&dead_letter::parse(entry).ok()?.failed_at).ok()
}

/// A length of time as people say it.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// Reads `90s`, `15m`, `2h` or `7d`.
pub(crate) fn parse_length(text: &str) -> Result<jiff::SignedDuration, String> {
    let span: jiff::Span = text.parse().map_err(|_| format!("`{text}` is no length of time such as 90s, 15m, 2h or 7d"))?;
    let length = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|error| error.to_string())?;
    if length.is_negative() { Err("must not be negative".into()) } else { Ok(length) }
}

/// At most so many in a second.
#[derive(Debug)]
pub(super) struct Pace(tokio::time::Interval);

impl Pace {
    pub(super) fn new(per_second: f64) -> anyhow::Result<Self> {
        anyhow::ensure!(per_second.is_finite() && per_second > 0.0, "--rate must be more than zero");
        let period = std::time::Duration::try_from_secs_f64(1.0 / per_second)?.max(std::time::Duration::from_micros(1));
        Ok(Self(tokio::time::interval(period)))
    }

    pub(super) async fn next(&mut self) {
        self.0.tick().await;
    }
}

/// The last line of a dry run.
pub(super) fn remind(execute: bool, format: Format) -> anyhow::Result<()> {
    if execute || format.json { Ok(()) } else { print_line("nothing was changed; say --execute to do it") }
}

/// JSON as it is, other text as text, bytes that are neither in Base64.
pub(crate) fn show(entry: &[u8]) -> Value {
    serde_json::from_slice(entry).unwrap_or_else(|_| match std::str::from_utf8(entry) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, entry) }),
    })
}
