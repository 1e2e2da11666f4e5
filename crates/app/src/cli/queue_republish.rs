//! `hokusai queue republish`: events of the outbox once more, with the same bytes and past the relay's cursor. At least
//! once, as everything done by hand.

use clap::Args;
use hokusai_event::{Envelope, Event};
use hokusai_registry::republish::{Published, Which, note_republished, published};
use serde::Serialize;
use serde_json::json;

use super::{
    Outcome, QueueName,
    output::{Format, or_dash, table},
    queue::{Pace, Who, remind},
};
use crate::{assembly::Assembly, config::Env, dead_letters};

#[derive(Debug, Args)]
pub(crate) struct RepublishArgs {
    /// Message ids
    #[arg(value_name = "ID", required_unless_present_any = ["from_position", "since"], conflicts_with_all = ["from_position", "since"])]
    ids: Vec<String>,
    /// From this position of the outbox on
    #[arg(long, value_name = "N", requires = "to_position", conflicts_with = "since")]
    from_position: Option<i64>,
    /// To this position, which is included
    #[arg(long, value_name = "N", requires = "from_position")]
    to_position: Option<i64>,
    /// Everything made at this time or later, such as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<jiff::Timestamp>,
    /// Also what is finished or deployed already
    #[arg(long)]
    force: bool,
    /// At most so many in a second
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
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

fn parse_time(text: &str) -> Result<jiff::Timestamp, String> {
    hokusai_event::read_timestamp(text).map_err(|invalid| invalid.problem)
}

/// What became, or would become, of one event.
#[derive(Debug, Serialize)]
struct Fate {
    message_id: String,
    message_type: String,
    position: i64,
    /// `would_republish`, `republished`, `finished`, `already_deployed`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

pub(crate) async fn run(args: RepublishArgs, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let assembly = Assembly::open(env).await?;
    let (db, queue) = (assembly.database()?.clone(), assembly.queue(args.queue.queue.as_deref())?);
    let which = match (args.from_position.zip(args.to_position), args.since) {
        (Some((from, to)), _) => Which::Positions(from, to),
        (None, Some(since)) => Which::Since(since),
        (None, None) => Which::Messages(args.ids.clone()),
    };
    let events = published(&db, queue.name(), &which).await?;
    for id in &args.ids {
        anyhow::ensure!(
            events.iter().any(|event| event.message_id == *id),
            "the outbox has published no event {id} to {}; what waits for the relay will be published anyway",
            queue.name()
        );
    }
    let (mut pace, by) = (Pace::new(args.rate)?, args.who.name(env));
    let mut fates = Vec::new();
    for event in &events {
        let hindrance = if args.force { None } else { hindrance(&db, event).await? };
        let (outcome, detail) = match hindrance {
            Some(hindrance) => hindrance,
            None if !args.execute => ("would_republish", None),
            None => {
                pace.next().await;
                let mut tx = db.write().await?;
                let detail = json!({"queue": queue.name(), "by": by, "force": args.force});
                note_republished(&mut tx, queue.name(), &event.message_id, "republished", &detail).await?;
                tx.commit().await?;
                queue.push(std::slice::from_ref(&event.envelope)).await?;
                tracing::info!(queue = queue.name(), message_id = event.message_id, by, "an event was published again by hand");
                ("republished", None)
            }
        };
        let Published { message_id, message_type, position, .. } = event.clone();
        fates.push(Fate { message_id, message_type, position, outcome, detail });
    }
    let republished = fates.iter().filter(|fate| fate.outcome == "republished").count();
    if republished > 0 {
        tracing::warn!(queue = queue.name(), by, republished, "events were published again by hand");
    }
    args.format.print(&json!({"queue": queue.name(), "executed": args.execute, "events": fates}), |_| {
        let rows = fates.iter().map(|fate| {
            let what = fate.outcome.replace('_', " ");
            vec![fate.position.to_string(), fate.message_id.clone(), fate.message_type.clone(), what, or_dash(fate.detail.as_ref())]
        });
        table(&["position", "message", "type", "what", ""], rows)
    })?;
    remind(args.execute, args.format)?;
    Ok(Outcome::Done)
}

/// Why an event should not be published again.
pub(super) async fn hindrance(db: &hokusai_db::Database, event: &Published) -> anyhow::Result<Option<(&'static str, Option<String>)>> {
    if event.finished {
        return Ok(Some(("finished", None)));
    }
    if let Ok(Event::ModelReadyToDeploy(ready)) = Envelope::parse(&event.envelope).and_then(|envelope| envelope.event())
        && let Some(where_from) = dead_letters::deployed(db, &ready).await?
    {
        return Ok(Some(("already_deployed", Some(where_from))));
    }
    Ok(None)
}
