//! What the lanes say about themselves, for health and metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use hokusai_event::emit;
use jiff::Timestamp;

/// How a lane is doing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LaneState {
    /// It publishes, or waits for something to publish.
    Running,
    /// The queue or the database does not answer; it tries again.
    Outage {
        /// What was said last.
        error: String,
        /// Since when nothing worked, RFC 3339.
        since: String,
    },
    /// It publishes nothing more until somebody decides.
    Stopped {
        /// Why, and what to do.
        reason: String,
    },
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LaneStatus {
    /// The queue it publishes to.
    pub queue: String,
    /// How it is doing.
    #[serde(flatten)]
    pub state: LaneState,
    /// The last position the queue is known to have.
    pub position: Option<i64>,
    /// Positions given but not yet published there, when the lane last looked. For what waits while the queue is away see
    /// [`Subscriptions::backlogs`](crate::Subscriptions::backlogs).
    pub lag: i64,
}

/// The lanes of a running relay; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct RelayStatus(Arc<Mutex<BTreeMap<String, LaneStatus>>>);

impl RelayStatus {
    /// All lanes, by queue.
    pub fn lanes(&self) -> Vec<LaneStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Notes where a lane is, and that it works.
    pub(super) fn note(&self, queue: &str, position: Option<i64>, last_position: i64) {
        self.change(queue, |lane| {
            lane.state = LaneState::Running;
            lane.position = position;
            lane.lag = last_position - position.unwrap_or(0);
        });
    }

    pub(super) fn note_outage(&self, queue: &str, error: &str, at: Timestamp) {
        self.change(queue, |lane| {
            let since = match &lane.state {
                LaneState::Outage { since, .. } => since.clone(),
                LaneState::Running | LaneState::Stopped { .. } => emit(at),
            };
            lane.state = LaneState::Outage { error: error.to_owned(), since };
        });
    }

    pub(super) fn note_stopped(&self, queue: &str, reason: &str) {
        self.change(queue, |lane| lane.state = LaneState::Stopped { reason: reason.to_owned() });
    }

    pub(super) fn forget(&self, queue: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(queue);
    }

    fn change(&self, queue: &str, change: impl FnOnce(&mut LaneStatus)) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(lanes.entry(queue.to_owned()).or_insert_with(|| LaneStatus {
            queue: queue.to_owned(),
            state: LaneState::Running,
            position: None,
            lag: 0,
        }));
    }
}
