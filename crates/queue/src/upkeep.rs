//! What operators and the registry's housekeeping ask of a queue, beside the moves: pause it, see who holds what, and
//! look for messages without reading all of main.
//!
//! A backend that cannot do this (one that shows nobody what it holds) offers no [`Upkeep`].

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Cursor, Error};

/// The most entries of main that a look reads from the end that is taken from.
pub const FRONT: usize = 512;
/// The most entries that a look reads as having entered main since the mark.
pub const ENTERED: usize = 20_000;
/// The most entries of processing, delayed and dlq together that a look reads.
pub const ELSEWHERE: usize = 100_000;

/// A pause that somebody has ordered: our consumers take nothing. It binds no foreign consumer, which does not know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who ordered it.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
    /// When.
    pub at: jiff::Timestamp,
}

impl Pause {
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("texts and a time can be written as JSON")
    }

    /// A pause that cannot be read is a pause nevertheless.
    pub(crate) fn from_text(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|_| Self {
            by: "somebody".into(),
            reason: text.to_owned(),
            at: jiff::Timestamp::UNIX_EPOCH,
        })
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "paused by {} ({})", self.by, self.reason)
    }
}

/// The lease of an entry in processing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lease {
    /// None yet: taken a moment ago, or no reaper runs.
    None,
    /// It runs out at this time, in milliseconds of the epoch.
    Until(i64),
    /// It never runs out: an orphan of the time before the queue was first met.
    Endless,
}

/// Who holds what, by the queue's own clock.
#[derive(Debug, Clone, Default)]
pub struct Custody {
    /// The queue's clock, in milliseconds of the epoch.
    pub now_ms: i64,
    /// The entries of processing, the longest there first, with their leases.
    pub held: Vec<(Bytes, Lease)>,
    /// Leases whose entry is gone: left behind by an acknowledgement on the hot path, until a pass of the reaper.
    pub stale: Vec<Bytes>,
}

/// Where main stood at a look, to find what enters later. Opaque; good for the queue it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Main was empty.
    Empty,
    /// The entry that had entered last.
    Newest(Bytes),
    /// The last position given out.
    Position(i64),
}

/// What a look saw, all at one moment.
#[derive(Debug, Clone)]
pub struct Look {
    /// Where the source that was asked about stands.
    pub cursor: Option<Cursor>,
    /// Everything in processing, delayed and dlq; `None` if there is more than [`ELSEWHERE`].
    pub elsewhere: Option<Vec<Bytes>>,
    /// The entries of main to be taken next, at most [`FRONT`], the next one first.
    pub front: Vec<Bytes>,
    /// The entries of main that entered it since the mark, the oldest first; `None` if that cannot be told.
    pub entered: Option<Vec<Bytes>>,
    /// Whether `front` and `entered` together are all of main.
    pub whole: bool,
    /// Where main stands now.
    pub mark: Mark,
}

/// See the module's description.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Orders a pause, or ends it. Kept with the queue: consumers of ours, wherever they run, follow within about a second.
    async fn set_pause(&self, pause: Option<&Pause>) -> Result<(), Error>;

    /// The pause in force.
    async fn pause(&self) -> Result<Option<Pause>, Error>;

    /// The entries of processing with their leases, and the leases without entries. Reads all of processing.
    async fn custody(&self) -> Result<Custody, Error>;

    /// Looks for messages at a cost that does not depend on the length of main: reads what is not in main, the end of main
    /// that is taken from, and what entered since `mark`.
    async fn look(&self, source: &str, mark: Option<&Mark>) -> Result<Look, Error>;
}
