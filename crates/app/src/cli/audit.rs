//! `hokusai queue audit`: the proof that nothing was lost, or the names of what was.

use std::{sync::Arc, time::Duration};

use clap::Args;
use hokusai_db::Database;
use hokusai_queue::{LeaseTerms, Move, Queue};
use hokusai_registry::{
    QueueAudit, Subscriptions, outbox,
    republish::{Which, note_republished, published},
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::{
    Outcome,
    output::{Format, or_dash, print_line, table},
    queue::{Who, ago, parse_length},
    queue_republish::hindrance,
};
use crate::{assembly::Assembly, config::Env};

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only this queue [default: every queue that is subscribed to something]
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Finish what is deployed, publish again what is unaccounted for, lease what has no lease and forget leases without entry
    #[arg(long)]
    repair: bool,
    /// Go on looking this long for what cannot be found: what a foreign consumer acknowledged is believed finished when a
    /// running server has missed it for ten seconds
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_length)]
    wait: SignedDuration,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    format: Format,
}

/// What a repair did.
#[derive(Debug, Default, Serialize)]
struct Repaired {
    finished: Vec<String>,
    republished: Vec<String>,
    leases_given: u64,
    leases_purged: u64,
}

#[derive(Debug, Serialize)]
struct Audited {
    #[serde(flatten)]
    audit: QueueAudit,
    /// Whether every event is accounted for.
    whole: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<Repaired>,
}

pub(crate) async fn run(args: AuditArgs, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let assembly = Assembly::open(env).await?;
    let db = assembly.database()?.clone();
    let subscribed = Subscriptions::new(db.clone()).list().await?.into_iter().map(|subscription| subscription.queue);
    let names: Vec<String> = match args.queue {
        Some(name) => vec![name],
        None => subscribed.collect(),
    };
    let by = args.who.name(env);
    let patience = args.wait.unsigned_abs();
    let mut audits = Vec::new();
    for name in names {
        let queue = assembly.queue(Some(&name))?;
        let mut audit = hokusai_registry::audit(&db, &*queue, patience).await?;
        let mut repaired = None;
        if args.repair {
            let repair = Repair { db: &db, queue: &queue, by: &by, first_sight: assembly.queue_config.processing_timeout };
            repaired = Some(repair.run(&audit).await?);
            audit = hokusai_registry::audit(&db, &*queue, patience).await?;
        }
        audits.push(Audited { whole: audit.is_whole(), audit, repaired });
    }
    let whole = audits.iter().all(|audited| audited.whole);
    args.format.print(&json!({"whole": whole, "queues": audits}), |_| describe(&audits))?;
    if !args.format.json {
        print_line(if whole { "every event is accounted for" } else { "events are unaccounted for; --repair publishes them again" })?;
    }
    Ok(if whole { Outcome::Done } else { Outcome::Failed })
}

struct Repair<'a> {
    db: &'a Database,
    queue: &'a Arc<dyn Queue>,
    by: &'a str,
    first_sight: Duration,
}

impl Repair<'_> {
    async fn run(&self, audit: &QueueAudit) -> anyhow::Result<Repaired> {
        let mut repaired = Repaired::default();
        let ids = audit.unconfirmed.iter().map(|event| event.message_id.clone()).collect();
        for event in published(self.db, self.queue.name(), &Which::Messages(ids)).await? {
            let deployed = event.status.as_deref() == Some("deployed") || hindrance(self.db, &event).await?.is_some();
            let mut tx = self.db.write().await?;
            if deployed {
                outbox::finish(&mut tx, self.queue.name(), &event.message_id, Timestamp::now()).await?;
                tx.commit().await?;
                repaired.finished.push(event.message_id);
                continue;
            }
            let detail = json!({"queue": self.queue.name(), "by": self.by, "reason": "unaccounted for in an audit"});
            note_republished(&mut tx, self.queue.name(), &event.message_id, "republished", &detail).await?;
            tx.commit().await?;
            self.queue.push(std::slice::from_ref(&event.envelope)).await?;
            repaired.republished.push(event.message_id);
        }
        self.mend_leases(&mut repaired).await?;
        tracing::warn!(queue = self.queue.name(), by = self.by, ?repaired, "the queue was repaired by hand");
        Ok(repaired)
    }

    async fn mend_leases(&self, repaired: &mut Repaired) -> anyhow::Result<()> {
        let Some(upkeep) = self.queue.upkeep() else { return Ok(()) };
        let stale = upkeep.custody().await?.stale;
        // An extension grants nothing to an entry that is not there, and takes its lease away.
        let moves: Vec<Move> = stale.into_iter().map(|entry| Move::Extend { entry, lease: self.first_sight }).collect();
        repaired.leases_purged = moves.len() as u64;
        self.queue.settle(&moves).await?;
        let terms = LeaseTerms { first_sight: self.first_sight, ..LeaseTerms::default() };
        repaired.leases_given = self.queue.survey(&terms).await?.leased;
        Ok(())
    }
}

fn describe(audits: &[Audited]) -> String {
    let header = ["queue", "events", "to relay", "main", "processing", "delayed", "dead letter", "finished", "swept", "unaccounted"];
    let rows = audits.iter().map(|Audited { audit, .. }| {
        let counts = [audit.events, audit.waiting, audit.main, audit.processing, audit.delayed, audit.dlq, audit.finished, audit.swept];
        let counts = counts.into_iter().chain([audit.unconfirmed.len() as u64]).map(|count| count.to_string());
        std::iter::once(audit.queue.clone()).chain(counts).collect()
    });
    let mut text = table(&header, rows);
    for Audited { audit, repaired, .. } in audits {
        text += &remarks(audit);
        if let Some(Repaired { finished, republished, leases_given, leases_purged }) = repaired {
            text += &format!(
                "\n{}: repaired: {} finished, {} published again, {leases_given} leases given, {leases_purged} purged",
                audit.queue,
                finished.len(),
                republished.len()
            );
        }
    }
    text
}

fn remarks(audit: &QueueAudit) -> String {
    use std::fmt::Write as _;
    let now = Timestamp::now();
    let age = |ms: i64| Timestamp::from_millisecond(ms).map_or_else(|_| "-".into(), |at| ago(at, now));
    let queue = &audit.queue;
    let mut text = String::new();
    let mut say = |line: String| write!(text, "\n{queue}: {line}").expect("writing to a String cannot fail");
    for event in &audit.unconfirmed {
        let status = or_dash(event.status.as_ref());
        say(format!(
            "unaccounted for: {} {} at {}, {} old, registration {status}",
            event.message_type,
            event.message_id,
            event.position,
            age(event.created_ms)
        ));
    }
    if !audit.unreported.is_empty() {
        say(format!(
            "{} acknowledged by somebody who reported no deployment, such as {}",
            audit.unreported.len(),
            audit.unreported[0].message_id
        ));
    }
    for (count, what) in [
        (audit.foreign, "messages that come from elsewhere"),
        (audit.unreadable, "entries without a message id"),
        (audit.repeated.len() as u64, "messages that are there more than once"),
        (audit.custody.without_lease, "entries of processing without a lease (a reaper's next pass gives them one)"),
        (audit.custody.expired, "entries of processing whose lease has run out (a reaper's next pass takes them back)"),
        (audit.custody.orphans, "orphans in processing, from before this queue was first met"),
        (audit.custody.stale, "leases without an entry"),
    ] {
        if count > 0 {
            say(format!("{count} {what}"));
        }
    }
    if let Some(oldest) = audit.custody.oldest_ms {
        say(format!("the oldest message in processing is {} old", age(oldest)));
    }
    text
}
