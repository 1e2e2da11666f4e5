//! Making moves stick: repeated through an outage, and the handler told of dead letters after they happened.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{Handler, Summary};
use crate::{Error, Move, Queue, Settled};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Tries left once the consumer is to stop: then the entries stay in processing, where the reaper finds them.
const LAST_TRIES: u32 = 4;

/// A move, and what to tell the handler once it is made.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) change: Move,
    pub(super) dead: Option<Dead>,
}

#[derive(Debug)]
pub(super) struct Dead {
    pub(super) kind: String,
    pub(super) error: String,
}

impl From<Move> for Step {
    fn from(change: Move) -> Self {
        Self { change, dead: None }
    }
}

pub(super) struct Settlement {
    pub(super) summary: Summary,
    pub(super) failed: Option<Error>,
}

/// Settles all steps, trying again while the queue is away.
pub(super) async fn settle(queue: Arc<dyn Queue>, handler: Arc<dyn Handler>, steps: Vec<Step>, shutdown: CancellationToken) -> Settlement {
    let (moves, dead): (Vec<Move>, Vec<Option<Dead>>) = steps.into_iter().map(|step| (step.change, step.dead)).unzip();
    let mut summary = Summary::default();
    let (answers, repeated) = match persist(&*queue, &moves, &shutdown).await {
        Ok(answered) => answered,
        Err(error) => {
            summary.lost = moves.len() as u64;
            return Settlement { summary, failed: Some(error) };
        }
    };
    for ((change, dead), answer) in moves.iter().zip(dead).zip(answers) {
        // After an error, "not yours" most likely answers our own first try.
        let made = answer == Settled::Done || repeated;
        count(&mut summary, change, made);
        if let (true, Some(dead)) = (made, dead) {
            tell(&*handler, change.entry(), &dead).await;
        }
    }
    Settlement { summary, failed: None }
}

async fn persist(queue: &dyn Queue, moves: &[Move], shutdown: &CancellationToken) -> Result<(Vec<Settled>, bool), Error> {
    let (mut pause, mut last_tries, mut repeated) = (FIRST_PAUSE, 0, false);
    loop {
        match queue.settle(moves).await {
            Ok(answers) => return Ok((answers, repeated)),
            Err(error) if error.is_outage() && last_tries < LAST_TRIES => tracing::debug!(%error, "settling has to wait"),
            Err(error) => return Err(error),
        }
        repeated = true;
        if shutdown.is_cancelled() {
            last_tries += 1;
            tokio::time::sleep(pause.min(FIRST_PAUSE * 4)).await;
        } else {
            tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.cancelled() => {} }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn count(summary: &mut Summary, change: &Move, made: bool) {
    if !made {
        summary.lost += 1;
        return;
    }
    match change {
        Move::Ack { .. } => summary.done += 1,
        Move::Retry { .. } => summary.retried += 1,
        Move::DeadLetter { .. } => summary.dead += 1,
        Move::Release { .. } => summary.released += 1,
        Move::Extend { .. } | Move::Expire { .. } | Move::Redrive { .. } | Move::Withdraw { .. } | Move::Discard { .. } => {}
    }
}

async fn tell(handler: &dyn Handler, entry: &Bytes, dead: &Dead) {
    let telling = async { handler.dead_lettered(entry, &dead.kind, &dead.error).await };
    if AssertUnwindSafe(telling).catch_unwind().await.is_err() {
        tracing::error!(kind = dead.kind, "the handler panicked when told of a dead letter");
    }
}
