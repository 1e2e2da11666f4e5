//! The contract every backend keeps: the states of an entry, the moves between them, and who may make them.
//!
//! ```text
//! main ──take──▶ processing (+ lease) ──ack──▶ gone
//!  ▲ ▲                 │ │ ├──retry later──▶ delayed ──due──▶ main
//!  │ └──── release ────┘ │ ├──dead-letter──▶ dlq ──redrive──▶ main
//!  └──── lease expired ──┘ └──extend──▶ processing, longer lease
//! ```
//!
//! An entry is known by its bytes, as on a Redis list: two identical entries are one message, and a move affects one of
//! them. Whoever gives an entry back changed (a retry, an expiry) thereby fences its former holder, whose moves then
//! answer [`Settled::NotYours`].

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, Upkeep};

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waiting to be taken.
    Main,
    /// Taken by a consumer, ours or a foreign one.
    Processing,
    /// Waiting for its next attempt to be due.
    Delayed,
    /// Given up; waits for a person.
    Dlq,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Main, Self::Processing, Self::Delayed, Self::Dlq];

    /// The name used in addresses and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Processing => "processing",
            Self::Delayed => "delayed",
            Self::Dlq => "dlq",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a state of a queue: it must be main, processing, delayed or dlq")]
pub struct UnknownState(String);

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// One queue. Cheap calls, safe to use from many tasks and processes at once.
#[async_trait]
pub trait Queue: Send + Sync + fmt::Debug {
    /// The queue's name, as others know it.
    fn name(&self) -> &str;

    /// What operators and housekeeping need; `None` if this backend shows nobody what it holds.
    fn upkeep(&self) -> Option<&dyn Upkeep> {
        None
    }

    /// What about the way the backend is set up endangers what the queue holds, in words for people.
    async fn warnings(&self) -> Result<Vec<String>, Error> {
        Ok(vec![])
    }

    /// Adds entries to main, the oldest first: the first of them is taken first. At least once: after
    /// [`Error::Unavailable`] they may or may not have arrived.
    async fn push(&self, entries: &[Bytes]) -> Result<(), Error>;

    /// Adds entries to main and moves the cursor of their source, both or neither, if the cursor is where the caller
    /// believes it to be. That fences a stale relay, and makes a lost reply harmless: the repetition is refused.
    async fn relay(&self, batch: RelayBatch<'_>) -> Result<Relayed, Error>;

    /// Moves up to `max` entries from main to processing, after acknowledging `acks`. Waits up to `wait` for the first
    /// entry. Let it finish rather than dropping it: a dropped call may have taken entries, which then wait in
    /// processing for the reaper.
    async fn take(&self, max: usize, wait: Duration, acks: &[Bytes]) -> Result<Taken, Error>;

    /// Makes the moves in the order given, each atomic for itself, and answers each. After an error some of them may
    /// have been made; all can be repeated, and those that were made answer [`Settled::NotYours`] then.
    async fn settle(&self, moves: &[Move]) -> Result<Vec<Settled>, Error>;

    /// One pass over what needs looking after: promotes delayed entries that are due, gives a lease to whatever lies in
    /// processing without one, forgets leases whose entry is gone, and lists the entries whose lease has run out. The
    /// caller then decides about those and settles [`Move::Expire`]; see [`crate::reaper`].
    async fn survey(&self, terms: &LeaseTerms) -> Result<Survey, Error>;

    /// Reads without taking. Main: the next to be taken first. Processing and dlq: the longest there first. Delayed: the
    /// soonest due first.
    async fn peek(&self, state: State, offset: usize, limit: usize) -> Result<Vec<Bytes>, Error>;

    /// How many entries there are in each state.
    async fn stats(&self) -> Result<Stats, Error>;
}

/// Where a source's relay stands in a queue: the position of the last event it gave, and which event that was. A queue only
/// compares it, as a whole: a position alone would make a copy of the source's database pass for the database itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// At the event with this message id, which has this position.
    pub fn new(position: i64, message_id: &str) -> Self {
        Self(format!("{position}:{message_id}"))
    }

    /// Position and message id; `None` if it was written by something else.
    pub fn event(&self) -> Option<(i64, &str)> {
        let (position, message_id) = self.0.split_once(':')?;
        Some((position.parse().ok()?, message_id))
    }

    /// As it is kept.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Cursor {
    fn from(kept: String) -> Self {
        Self(kept)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Entries of one relay, and the step of its cursor.
#[derive(Debug, Clone, Copy)]
pub struct RelayBatch<'a> {
    /// The relaying database's id.
    pub source: &'a str,
    /// Where the cursor must be; `None` if it must not exist.
    pub expected: Option<&'a Cursor>,
    /// Where the cursor is put.
    pub next: &'a Cursor,
    /// The entries, oldest first.
    pub entries: &'a [Bytes],
}

/// What became of a [`RelayBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relayed {
    /// Entries pushed, cursor moved.
    Moved,
    /// Nothing changed; the cursor is at `actual`, not where it was expected.
    Refused {
        /// `None` if this source has no cursor here.
        actual: Option<Cursor>,
    },
}

/// What a take brought.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// In the order they were waiting.
    pub entries: Vec<Bytes>,
    /// One answer for each of the acks.
    pub acked: Vec<Settled>,
}

/// One arrow of the state diagram. All but the last four start in processing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Done with it: gone.
    Ack {
        /// The entry as taken.
        entry: Bytes,
    },
    /// Still working on it: its lease runs out `lease` from now.
    Extend {
        /// The entry as taken.
        entry: Bytes,
        /// From now.
        lease: Duration,
    },
    /// Another attempt, with other bytes (a counter went up).
    Retry {
        /// The entry as taken.
        entry: Bytes,
        /// The entry as it will be delivered next.
        with: Bytes,
        /// Zero puts it into main at once, anything else into delayed until then.
        after: Duration,
    },
    /// Back to the end of main that is taken from, unchanged, as if never taken.
    Release {
        /// The entry as taken.
        entry: Bytes,
    },
    /// Given up.
    DeadLetter {
        /// The entry as taken.
        entry: Bytes,
        /// The dead-letter entry.
        with: Bytes,
    },
    /// Taken away from a holder whose lease has run out; refused if it has been extended meanwhile.
    Expire {
        /// The entry as surveyed.
        entry: Bytes,
        /// The entry as it will be delivered next, or its dead-letter entry.
        with: Bytes,
        /// [`State::Main`] or [`State::Dlq`].
        to: State,
    },
    /// From dlq back to main.
    Redrive {
        /// The dead-letter entry.
        entry: Bytes,
        /// The message, as it will be delivered.
        with: Bytes,
    },
    /// From main straight to dlq: what a person has found to be unreadable.
    Withdraw {
        /// The entry as it waits.
        entry: Bytes,
        /// Its dead-letter entry.
        with: Bytes,
    },
    /// From dlq to nowhere.
    Discard {
        /// The dead-letter entry.
        entry: Bytes,
    },
}

impl Move {
    /// The entry that is moved, as it is now.
    pub fn entry(&self) -> &Bytes {
        match self {
            Self::Ack { entry }
            | Self::Extend { entry, .. }
            | Self::Retry { entry, .. }
            | Self::Release { entry }
            | Self::DeadLetter { entry, .. }
            | Self::Expire { entry, .. }
            | Self::Redrive { entry, .. }
            | Self::Withdraw { entry, .. }
            | Self::Discard { entry } => entry,
        }
    }
}

/// The answer to a [`Move`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It was where the move starts, and was moved.
    Done,
    /// It was not there: settled before, or taken away after its lease ran out. Nothing was changed.
    NotYours,
}

/// How long entries may be held, and how much one [`Queue::survey`] does.
#[derive(Debug, Clone)]
pub struct LeaseTerms {
    /// The lease given to an entry found without one: `PROCESSING_TIMEOUT`. Also the renewal after an outage.
    pub first_sight: Duration,
    /// If the last pass is longer ago than this, nobody could extend or be expired meanwhile: all leases are renewed
    /// before any is expired.
    pub outage_after: Duration,
    /// Whether entries that were in processing when this queue was first met are reaped like any other. Until this is
    /// said once, they are only counted: their foreign consumer may have been at it for hours, and may be dead for years.
    pub reap_orphans: bool,
    /// How many entries one pass promotes, and how many it lists as expired.
    pub batch: usize,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { first_sight: Duration::from_secs(300), outage_after: Duration::from_secs(60), reap_orphans: false, batch: 256 }
    }
}

/// What a pass found and did.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Delayed entries that were due, now in main.
    pub promoted: u64,
    /// Entries that were given their first lease.
    pub leased: u64,
    /// Leases without an entry, removed.
    pub purged: u64,
    /// Leases renewed because no reaper had run for too long.
    pub renewed: u64,
    /// Entries left over from before this queue was first met, which wait for [`LeaseTerms::reap_orphans`].
    pub orphans: u64,
    /// Entries whose lease has run out.
    pub expired: Vec<Bytes>,
    /// Whether the bound on a pass's work left something to do.
    pub more: bool,
}

/// How many entries are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Waiting.
    pub main: u64,
    /// Taken.
    pub processing: u64,
    /// Waiting for their next attempt.
    pub delayed: u64,
    /// Given up.
    pub dlq: u64,
}
