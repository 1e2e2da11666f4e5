//! `hokusai queue dlq`: what was given up, and what becomes of it.
//!
//! Redriving puts the original back into main with its counters at zero. What the registry or the ledger knows to be
//! deployed is not sent again unless forced: a worker of ours would only acknowledge it, a foreign one might deploy it twice.

use anyhow::bail;
use clap::{Args, Subcommand};
use hokusai_db::Database;
use hokusai_queue::{Queue, State, dead_letter};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Outcome, QueueName,
    output::{Format, or_dash, table},
    queue::{Pace, Who, ago, parse_length, remind, show},
};
use crate::{
    assembly::Assembly,
    config::Env,
    dead_letters::{HASH_MIN, Hand, Letter, Moved},
};

/// Dead letters read at once.
const PAGE: usize = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, the longest there first
    List {
        #[command(flatten)]
        selection: Selection,
        /// How many to show
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
    /// Show one with all it holds
    Show {
        /// Its message id, or the hash that `list` shows (the first 8 signs will do)
        id: String,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
    /// Deliver dead letters again, their counters reset; shows what it would do unless told to --execute
    Redrive {
        #[command(flatten)]
        selection: Selection,
        /// At most so many in a second
        #[arg(long, default_value_t = 50.0)]
        rate: f64,
        /// Do it
        #[arg(long)]
        execute: bool,
        /// Deliver also what is deployed already
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
    /// Throw dead letters away for good; shows what it would do unless told to --execute
    Discard {
        #[command(flatten)]
        selection: Selection,
        /// Why, for the registration's history
        #[arg(long)]
        reason: String,
        /// Do it
        #[arg(long)]
        execute: bool,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        queue: QueueName,
        #[command(flatten)]
        format: Format,
    },
}

/// Which dead letters are meant: every part that is given must hold.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Message ids, or hashes as `list` shows them (the first 8 signs will do)
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Only those of this error kind, such as retries_exhausted, expired, refused, unparsable
    #[arg(long)]
    kind: Option<String>,
    /// Only those that ask for this token
    #[arg(long, value_name = "SYMBOL")]
    token: Option<String>,
    /// Only those given up longer ago than this, such as 15m, 2h, 7d
    #[arg(long, value_name = "TIME", value_parser = parse_length)]
    older_than: Option<SignedDuration>,
    /// Only those given up more recently than this
    #[arg(long, value_name = "TIME", value_parser = parse_length)]
    newer_than: Option<SignedDuration>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl Selection {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.kind.is_none() && self.token.is_none() && self.older_than.is_none() && self.newer_than.is_none()
    }

    /// What changes something must be told what to change.
    fn demand(&self) -> anyhow::Result<()> {
        if self.is_empty() && !self.all {
            bail!("say which: ids, --kind, --token, --older-than, --newer-than, or --all");
        }
        Ok(())
    }

    fn holds(&self, letter: &Letter, now: Timestamp) -> bool {
        let age = letter.failed_at.map(|at| now.duration_since(at));
        (self.ids.is_empty() || self.ids.iter().any(|id| letter.is_called(id)))
            && self.kind.as_ref().is_none_or(|kind| letter.kind.as_ref() == Some(kind))
            && self.token.as_ref().is_none_or(|token| letter.token.as_ref().is_some_and(|symbol| symbol.eq_ignore_ascii_case(token)))
            && self.older_than.is_none_or(|least| age.is_some_and(|age| age >= least))
            && self.newer_than.is_none_or(|most| age.is_some_and(|age| age <= most))
    }
}

/// Reads all dead letters before any is moved, because moving shifts the others.
async fn select(queue: &dyn Queue, selection: &Selection) -> anyhow::Result<Vec<Letter>> {
    let now = Timestamp::now();
    let mut letters = Vec::new();
    loop {
        let page = queue.peek(State::Dlq, letters.len(), PAGE).await?;
        let last = page.len() < PAGE;
        letters.extend(page.into_iter().map(Letter::read));
        if last {
            break;
        }
    }
    for id in &selection.ids {
        anyhow::ensure!(letters.iter().any(|letter| letter.is_called(id)), "no dead letter of {} is called {id}", queue.name());
    }
    letters.retain(|letter| selection.holds(letter, now));
    Ok(letters)
}

pub(crate) async fn run(command: DlqCommand, env: &Env<'_>) -> anyhow::Result<Outcome> {
    match command {
        DlqCommand::List { selection, limit, queue, format } => {
            let queue = Assembly::open_queues(env).await?.queue(queue.queue.as_deref())?;
            let mut letters = select(&*queue, &selection).await?;
            letters.truncate(limit);
            format.print(&letters, |letters| list(letters))?;
            Ok(Outcome::Done)
        }
        DlqCommand::Show { id, queue, format } => {
            let queue = Assembly::open_queues(env).await?.queue(queue.queue.as_deref())?;
            let one = Selection { ids: vec![id], kind: None, token: None, older_than: None, newer_than: None, all: false };
            for letter in select(&*queue, &one).await? {
                let message = dead_letter::parse(&letter.entry).map_or(Value::Null, |read| show(&read.original));
                let shown = json!({"letter": letter, "entry": show(&letter.entry), "message": message});
                format.print(&shown, |shown| format!("{shown:#}"))?;
            }
            Ok(Outcome::Done)
        }
        DlqCommand::Redrive { selection, rate, execute, force, who, queue, format } => {
            selection.demand()?;
            let (desk, letters) = Desk::open(queue, &selection, who, env).await?;
            desk.redrive(letters, Pace::new(rate)?, execute, force, format).await
        }
        DlqCommand::Discard { selection, reason, execute, who, queue, format } => {
            selection.demand()?;
            let (desk, letters) = Desk::open(queue, &selection, who, env).await?;
            desk.discard(letters, &reason, execute, format).await
        }
    }
}

fn list(letters: &[Letter]) -> String {
    if letters.is_empty() {
        return "no dead letters".into();
    }
    let now = Timestamp::now();
    let rows = letters.iter().map(|letter| {
        let error: String = letter.error.clone().unwrap_or_default().chars().take(80).collect();
        let age = letter.failed_at.map(|at| ago(at, now));
        let start = letter.hash[..HASH_MIN].to_owned();
        vec![
            start,
            letter.name(),
            or_dash(letter.kind.as_ref()),
            or_dash(letter.token.as_ref()),
            or_dash(letter.attempts),
            or_dash(age),
            error,
        ]
    });
    table(&["hash", "message", "kind", "token", "deliveries", "age", "error"], rows)
}

/// What became, or would become, of one dead letter.
#[derive(Debug, Serialize)]
struct Fate {
    hash: String,
    message_id: Option<String>,
    /// `would_redrive`, `redriven`, `would_discard`, `discarded`, `already_deployed`, `not_a_message`, `gone`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Fate {
    fn of(letter: &Letter, moved: Moved, done: &'static str) -> Self {
        let (outcome, detail) = match moved {
            Moved::Done => (done, None),
            Moved::Gone => ("gone", None),
            Moved::NotAMessage => ("not_a_message", letter.error.clone()),
            Moved::AlreadyDeployed(where_from) => ("already_deployed", Some(where_from)),
        };
        Self { hash: letter.hash.clone(), message_id: letter.message_id.clone(), outcome, detail }
    }

    /// What would become of it, if nothing speaks against it.
    fn planned(letter: &Letter, objection: Option<Moved>, outcome: &'static str) -> Self {
        match objection {
            Some(objection) => Self::of(letter, objection, outcome),
            None => Self { detail: letter.error.clone(), ..Self::of(letter, Moved::Done, outcome) },
        }
    }
}

/// Where dead letters are moved by hand.
struct Desk {
    queue: std::sync::Arc<dyn Queue>,
    db: Database,
    by: String,
}

impl Desk {
    async fn open(queue: QueueName, selection: &Selection, who: Who, env: &Env<'_>) -> anyhow::Result<(Self, Vec<Letter>)> {
        let assembly = Assembly::open(env).await?;
        let queue = assembly.queue(queue.queue.as_deref())?;
        let letters = select(&*queue, selection).await?;
        Ok((Self { queue, db: assembly.database()?.clone(), by: who.name(env) }, letters))
    }

    async fn redrive(&self, letters: Vec<Letter>, mut pace: Pace, execute: bool, force: bool, format: Format) -> anyhow::Result<Outcome> {
        let mut fates = Vec::new();
        for letter in &letters {
            if !execute {
                fates.push(Fate::planned(letter, self.hand().objection(letter, force).await?, "would_redrive"));
                continue;
            }
            pace.next().await;
            fates.push(Fate::of(letter, self.hand().redrive(letter, force).await?, "redriven"));
        }
        self.tell(&fates, execute, format)
    }

    async fn discard(&self, letters: Vec<Letter>, reason: &str, execute: bool, format: Format) -> anyhow::Result<Outcome> {
        let mut fates = Vec::new();
        for letter in &letters {
            fates.push(match execute {
                true => Fate::of(letter, self.hand().discard(letter, reason).await?, "discarded"),
                false => Fate::planned(letter, None, "would_discard"),
            });
        }
        self.tell(&fates, execute, format)
    }

    fn hand(&self) -> Hand<'_> {
        Hand { queue: &*self.queue, db: &self.db, by: &self.by }
    }

    fn tell(&self, fates: &[Fate], execute: bool, format: Format) -> anyhow::Result<Outcome> {
        let count = |outcome: &str| fates.iter().filter(|fate| fate.outcome == outcome).count();
        if execute {
            let (redriven, discarded) = (count("redriven"), count("discarded"));
            tracing::warn!(queue = self.queue.name(), by = self.by, redriven, discarded, "dead letters were moved by hand");
        }
        let told = json!({"queue": self.queue.name(), "executed": execute, "letters": fates});
        format.print(&told, |_| {
            if fates.is_empty() {
                return "no dead letter is meant by this".into();
            }
            let rows = fates.iter().map(|fate| {
                let name = fate.message_id.clone().unwrap_or_else(|| fate.hash[..16].to_owned());
                vec![name, fate.outcome.replace('_', " "), fate.detail.clone().unwrap_or_default().chars().take(100).collect()]
            });
            table(&["message", "what", ""], rows)
        })?;
        remind(execute, format)?;
        Ok(Outcome::Done)
    }
}
