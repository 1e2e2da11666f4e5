//! A nudge wakes the relay at once after a commit, without anybody keeping count.

use tokio::sync::watch;

/// Wakes whoever waits for it; cheap to clone. Nudges that come while nobody waits are remembered as one.
#[derive(Debug, Clone)]
pub struct Nudge(watch::Sender<()>);

impl Default for Nudge {
    fn default() -> Self {
        Self::new()
    }
}

impl Nudge {
    /// One that nobody waits for yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    /// Says that something was committed.
    pub fn nudge(&self) {
        self.0.send_modify(|()| {});
    }

    pub(crate) fn waiter(&self) -> Waiter {
        Waiter { _keeps_it_open: self.clone(), nudged: self.0.subscribe() }
    }
}

/// One waiter. It holds a [`Nudge`] itself, so that waiting never fails.
#[derive(Debug)]
pub(crate) struct Waiter {
    _keeps_it_open: Nudge,
    nudged: watch::Receiver<()>,
}

impl Waiter {
    /// Returns once there was a nudge since the last call.
    pub(crate) async fn nudged(&mut self) {
        self.nudged.changed().await.expect("this waiter holds a sender");
    }
}
