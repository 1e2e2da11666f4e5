//! What became of every message, by the notes that each process left of its own doings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use crate::fault::Fault;

/// Counts over rounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) rounds: u64,
    /// Messages whose producer was told that they are in.
    pub(crate) sent: u64,
    /// Finished by somebody.
    pub(crate) ended: u64,
    /// Finished once more.
    pub(crate) again: u64,
    /// Failed attempts of messages that no handler failed.
    pub(crate) burnt: u64,
    /// In the dead-letter queue, without having been refused by a handler.
    pub(crate) dead: u64,
    /// Lost between a foreign client's two commands.
    pub(crate) in_gap: u64,
    /// Lost by Redis, which had acknowledged them, and in no outbox.
    pub(crate) by_redis: u64,
    pub(crate) lost: u64,
    pub(crate) stuck: u64,
    /// Came out and was never sent.
    pub(crate) alien: u64,
    /// Rounds that could not be finished, or repeated without a reason to.
    pub(crate) broken: u64,
}

impl Outcome {
    pub(crate) fn numbers(&self) -> [u64; 12] {
        let Self { rounds, sent, ended, again, burnt, dead, in_gap, by_redis, lost, stuck, alien, broken } = *self;
        [rounds, sent, ended, again, burnt, dead, in_gap, by_redis, lost, stuck, alien, broken]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.sent += other.sent;
        self.ended += other.ended;
        self.again += other.again;
        self.burnt += other.burnt;
        self.dead += other.dead;
        self.in_gap += other.in_gap;
        self.by_redis += other.by_redis;
        self.lost += other.lost;
        self.stuck += other.stuck;
        self.alien += other.alien;
        self.broken += other.broken;
    }

    pub(crate) fn is_good(&self) -> bool {
        self.lost + self.stuck + self.alien + self.broken == 0
    }
}

/// What was sent, and by whom.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Answered registrations: their events are in an outbox.
    pub(crate) registered: BTreeSet<String>,
    /// Acknowledged by Redis, and nowhere else.
    pub(crate) pushed: BTreeSet<String>,
    /// Their producer was killed or cut off before it was told.
    pub(crate) unsure: BTreeSet<String>,
}

/// What the notes and the dead-letter queue say.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    done: BTreeMap<String, u64>,
    dead: BTreeSet<String>,
    gap: BTreeSet<String>,
    burnt: u64,
}

impl Ends {
    /// Reads the notes in `place`.
    pub(crate) fn read(place: &Path, letters: &[Value]) -> Self {
        let mut ends = Self::default();
        for file in fs::read_dir(place).unwrap().map(|file| file.unwrap()) {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.starts_with("done.") {
                let envelope: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
                ends.finished(&envelope);
            } else if name.starts_with("consumer.") {
                ends.noted(&notes(&file.path()));
            }
        }
        ends.dead = letters.iter().map(|letter| id_of(&original(letter))).collect();
        ends
    }

    fn finished(&mut self, envelope: &Value) {
        let failed_on_purpose = !text(&envelope["payload"]["token_symbol"]).starts_with("OK");
        if !failed_on_purpose && envelope["retry_count"].as_u64().unwrap_or(0) > 0 {
            self.burnt += 1;
        }
        *self.done.entry(id_of(envelope)).or_default() += 1;
    }

    fn noted(&mut self, notes: &[(String, String)]) {
        let mut open = BTreeSet::new();
        for (event, id) in notes {
            match event.as_str() {
                "removing" => drop(open.insert(id.clone())),
                "pushed" => drop(open.remove(id)),
                "handled" => *self.done.entry(id.clone()).or_default() += 1,
                _ => {}
            }
        }
        self.gap.extend(open);
    }

    fn has(&self, id: &str) -> bool {
        self.done.contains_key(id) || self.dead.contains(id)
    }

    /// The messages that nothing explains.
    pub(crate) fn missing<'a>(&'a self, sent: &'a Sent, fault: Fault) -> impl Iterator<Item = &'a String> {
        let pushed = sent.pushed.iter().filter(move |_| !fault.is_forgetful());
        sent.registered.iter().chain(pushed).filter(|id| !self.has(id) && !self.gap.contains(*id))
    }

    /// The round's result.
    pub(crate) fn outcome(&self, sent: &Sent, fault: Fault, stuck: u64, letters: &[Value]) -> Outcome {
        let count = |ids: &mut dyn Iterator<Item = &String>| ids.count() as u64;
        let all = || sent.registered.iter().chain(&sent.pushed);
        let known = |id: &String| sent.registered.contains(id) || sent.pushed.contains(id) || sent.unsure.contains(id);
        let again = self.done.values().map(|times| times - 1).sum();
        let unexplained = again > 0 && fault.repetitions().is_none();
        let refused = |letter: &&Value| text(&original(letter)["payload"]["token_symbol"]).starts_with("REJECT");
        Outcome {
            rounds: 1,
            sent: count(&mut all()),
            ended: count(&mut all().filter(|id| self.has(id))),
            again,
            burnt: self.burnt,
            dead: letters.iter().filter(|letter| !refused(letter)).count() as u64,
            in_gap: count(&mut all().filter(|id| !self.has(id) && self.gap.contains(*id))),
            by_redis: count(&mut sent.pushed.iter().filter(|id| fault.is_forgetful() && !self.has(id) && !self.gap.contains(*id))),
            lost: count(&mut self.missing(sent, fault)),
            stuck,
            alien: count(&mut self.done.keys().chain(&self.dead).filter(|id| !known(id))),
            broken: u64::from(unexplained),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn id_of(envelope: &Value) -> String {
    text(&envelope["message_id"]).to_owned()
}

fn original(letter: &Value) -> Value {
    serde_json::from_str(text(&letter["original_message"])).unwrap_or_default()
}

/// Event and message, line by line; a killed process may have begun a last line.
pub(crate) fn notes(path: &Path) -> Vec<(String, String)> {
    let written = fs::read_to_string(path).unwrap_or_default();
    let whole = written.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.split_once(' ').map(|(event, id)| (event.to_owned(), id.to_owned()))).collect()
}
