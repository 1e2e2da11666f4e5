//! Rescue: what is wrong with a queue in the brief's layout, whoever filled it, and the repair of it.
//!
//! No database is needed and none of our services: the queue may never have known us. Looking changes nothing, not even a
//! key of ours. Repairing makes the same moves that our consumers and reaper make, each atomic, so that it can be done while
//! others work on the queue: who still holds a message that was taken back finds that it is no longer theirs.

mod repair;

use std::collections::BTreeMap;

use anyhow::Context as _;
use bytes::Bytes;
use hokusai_event::{Envelope, Event, check_message};
use hokusai_queue::{Attempts, Lease, Queue, State, Stats, attempts, dead_letter};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;

pub(crate) use self::repair::{Repaired, repair};
use crate::cli::show;

/// Entries read at once.
const PAGE: usize = 500;
/// How much of an unreadable entry is shown.
const SHOWN: usize = 200;

/// What counts as what.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// A message in processing without a live lease counts as stuck when it was made longer ago than this.
    pub(crate) stuck_after: SignedDuration,
    /// The limit of messages that do not say their own.
    pub(crate) max_retries: u32,
    pub(crate) now: Timestamp,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    pub(crate) queue: String,
    #[serde(flatten)]
    pub(crate) stats: Stats,
    /// Taken, and not finished for too long.
    pub(crate) stuck: Vec<Stuck>,
    /// In processing, and young enough to be worked on, or held by a consumer of ours.
    pub(crate) in_progress: u64,
    /// Entries that are no message at all.
    pub(crate) unparsable: Vec<Unparsable>,
    /// Messages that break the rules of their type: consumers will refuse them.
    pub(crate) invalid: Vec<Invalid>,
    /// Model versions that more than one message asks for.
    pub(crate) requested_twice: Vec<Twice>,
    /// Messages that are there more than once.
    pub(crate) duplicates: Vec<Duplicate>,
    /// Dead letters whose message still had retries.
    pub(crate) had_retries: Vec<HadRetries>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Stuck {
    pub(crate) message_id: String,
    pub(crate) message_type: String,
    /// When it was made: it is stuck since then at the earliest; a plain list does not tell when it was taken.
    pub(crate) made_at: Timestamp,
    pub(crate) retry_count: u32,
    #[serde(skip)]
    entry: Bytes,
}

#[derive(Debug, Serialize)]
pub(crate) struct Unparsable {
    pub(crate) state: State,
    pub(crate) problem: String,
    pub(crate) bytes: usize,
    /// Its beginning.
    pub(crate) shown: Value,
    #[serde(skip)]
    entry: Bytes,
}

#[derive(Debug, Serialize)]
pub(crate) struct Invalid {
    pub(crate) message_id: String,
    pub(crate) state: State,
    pub(crate) problems: Vec<String>,
}

/// Where a message is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Place {
    pub(crate) message_id: String,
    pub(crate) state: State,
}

#[derive(Debug, Serialize)]
pub(crate) struct Twice {
    pub(crate) token: String,
    pub(crate) model_name: String,
    pub(crate) model_version: String,
    pub(crate) messages: Vec<Place>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Duplicate {
    pub(crate) message_id: String,
    pub(crate) states: Vec<State>,
}

#[derive(Debug, Serialize)]
pub(crate) struct HadRetries {
    pub(crate) message_id: Option<String>,
    pub(crate) retry_count: u32,
    pub(crate) max_retries: u32,
    pub(crate) error: String,
    #[serde(skip)]
    entry: Bytes,
}

/// Looks at everything in the queue. Entries that move meanwhile may be missed or seen twice.
pub(crate) async fn look(queue: &dyn Queue, terms: &Terms) -> anyhow::Result<Findings> {
    let mut reading = Reading::default();
    let upkeep = queue.upkeep().context("this queue shows nobody what it holds")?;
    let custody = upkeep.custody().await?;
    for (entry, lease) in custody.held {
        let held = matches!(lease, Lease::Until(at) if at > custody.now_ms);
        reading.processing(entry, held, terms);
    }
    for state in [State::Main, State::Delayed, State::Dlq] {
        let mut offset = 0;
        loop {
            let page = queue.peek(state, offset, PAGE).await?;
            let last = page.len() < PAGE;
            offset += page.len();
            for entry in page {
                if state == State::Dlq { reading.dead(entry, terms) } else { drop(reading.message(&entry, state)) }
            }
            if last {
                break;
            }
        }
    }
    Ok(reading.findings(queue.name(), queue.stats().await?))
}

#[derive(Default)]
struct Reading {
    stuck: Vec<Stuck>,
    in_progress: u64,
    unparsable: Vec<Unparsable>,
    invalid: Vec<Invalid>,
    had_retries: Vec<HadRetries>,
    /// By lower-cased symbol, model and version.
    versions: BTreeMap<(String, String, String), Vec<Place>>,
    places: BTreeMap<String, Vec<State>>,
}

impl Reading {
    fn processing(&mut self, entry: Bytes, held: bool, terms: &Terms) {
        let Some(envelope) = self.message(&entry, State::Processing) else { return };
        let made_at = envelope.timestamp.at();
        if held || terms.now.duration_since(made_at) < terms.stuck_after {
            self.in_progress += 1;
            return;
        }
        let Envelope { message_id, message_type, retry_count, .. } = envelope;
        self.stuck.push(Stuck { message_id, message_type, made_at, retry_count, entry });
    }

    /// Takes note of a message; `None` if it is none.
    fn message(&mut self, entry: &Bytes, state: State) -> Option<Envelope> {
        let envelope = match read(entry) {
            Ok((envelope, _)) => envelope,
            Err(problem) => {
                let shown = show(&entry[..entry.len().min(SHOWN)]);
                self.unparsable.push(Unparsable { state, problem, bytes: entry.len(), shown, entry: entry.clone() });
                return None;
            }
        };
        self.place(&envelope, state);
        match check_message(entry) {
            Ok((_, event)) => self.version(&envelope, &event, state),
            Err(problems) => self.invalid.push(Invalid {
                message_id: envelope.message_id.clone(),
                state,
                problems: problems.iter().map(ToString::to_string).collect(),
            }),
        }
        Some(envelope)
    }

    fn dead(&mut self, entry: Bytes, terms: &Terms) {
        let Ok(letter) = dead_letter::parse(&entry) else {
            // Some consumers move the bare message.
            drop(self.message(&entry, State::Dlq));
            return;
        };
        // What could not be read had no attempts to lose.
        let Ok((envelope, attempts)) = read(&letter.original) else { return };
        self.place(&envelope, State::Dlq);
        if let Ok(event) = envelope.event() {
            self.version(&envelope, &event, State::Dlq);
        }
        let max_retries = attempts.max_retries.unwrap_or(terms.max_retries);
        if attempts.retry_count < max_retries {
            let (message_id, retry_count) = (Some(envelope.message_id), attempts.retry_count);
            self.had_retries.push(HadRetries { message_id, retry_count, max_retries, error: letter.error, entry });
        }
    }

    fn place(&mut self, envelope: &Envelope, state: State) {
        self.places.entry(envelope.message_id.clone()).or_default().push(state);
    }

    fn version(&mut self, envelope: &Envelope, event: &Event, state: State) {
        let Event::ModelReadyToDeploy(ready) = event else { return };
        let key = (ready.token_symbol.key(), ready.model_name.clone(), ready.model_version.clone());
        self.versions.entry(key).or_default().push(Place { message_id: envelope.message_id.clone(), state });
    }

    fn findings(self, queue: &str, stats: Stats) -> Findings {
        let different = |places: &[Place]| places.iter().any(|place| place.message_id != places[0].message_id);
        let requested_twice = self.versions.into_iter().filter(|(_, places)| different(places));
        let duplicates = self.places.into_iter().filter(|(_, states)| states.len() > 1);
        Findings {
            queue: queue.to_owned(),
            stats,
            stuck: self.stuck,
            in_progress: self.in_progress,
            unparsable: self.unparsable,
            invalid: self.invalid,
            requested_twice: requested_twice
                .map(|((token, model_name, model_version), messages)| Twice { token, model_name, model_version, messages })
                .collect(),
            duplicates: duplicates.map(|(message_id, states)| Duplicate { message_id, states }).collect(),
            had_retries: self.had_retries,
        }
    }
}

/// A message with readable counters, or what is wrong with it.
fn read(entry: &[u8]) -> Result<(Envelope, Attempts), String> {
    let attempts = attempts::read(entry).map_err(|error| error.to_string())?;
    let envelope = Envelope::parse(entry).map_err(|invalid| invalid.to_string())?;
    Ok((envelope, attempts))
}
