//! Repairing what was found: every move is made only if the entry is still where it was seen.

use bytes::Bytes;
use hokusai_queue::{Move, Queue, Settled, State, attempts, dead_letter};
use jiff::Timestamp;
use serde::Serialize;

use super::Findings;

/// Moves made in one request.
const TOGETHER: usize = 100;

/// What a repair did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Repaired {
    /// Taken back into main, the expiry counted.
    pub(crate) taken_back: u64,
    /// Unreadable entries moved to the dead letters, kept whole.
    pub(crate) dead_lettered: u64,
    /// Dead letters that still had retries, back in main with their counters at zero.
    pub(crate) redriven: u64,
    /// No longer where they were seen: somebody was faster.
    pub(crate) gone: u64,
}

/// Repairs; dead letters are left alone unless `redrive`.
pub(crate) async fn repair(queue: &dyn Queue, findings: &Findings, redrive: bool, now: Timestamp) -> anyhow::Result<Repaired> {
    let mut repaired = Repaired::default();
    let back = findings.stuck.iter().filter_map(|stuck| take_back(&stuck.entry));
    repaired.taken_back = settle(queue, back.collect(), &mut repaired.gone).await?;
    let unreadable = findings.unparsable.iter().filter_map(|found| {
        let with = dead_letter::build(&found.entry, queue.name(), dead_letter::UNPARSABLE, &found.problem, now);
        bury(found.state, found.entry.clone(), with)
    });
    repaired.dead_lettered = settle(queue, unreadable.collect(), &mut repaired.gone).await?;
    if redrive {
        let again = findings.had_retries.iter().filter_map(|letter| {
            let with = dead_letter::redrive_bytes(&letter.entry).ok()?;
            Some(Move::Redrive { entry: letter.entry.clone(), with })
        });
        repaired.redriven = settle(queue, again.collect(), &mut repaired.gone).await?;
    }
    Ok(repaired)
}

fn take_back(entry: &Bytes) -> Option<Move> {
    let with = attempts::after_expiry(entry).ok()?;
    Some(Move::Retry { entry: entry.clone(), with, after: std::time::Duration::ZERO })
}

/// Only main and processing: what waits in `delayed` was readable when our consumer put it there, and a dead letter is
/// where it belongs.
fn bury(state: State, entry: Bytes, with: Bytes) -> Option<Move> {
    match state {
        State::Main => Some(Move::Withdraw { entry, with }),
        State::Processing => Some(Move::DeadLetter { entry, with }),
        State::Delayed | State::Dlq => None,
    }
}

async fn settle(queue: &dyn Queue, moves: Vec<Move>, gone: &mut u64) -> anyhow::Result<u64> {
    let mut done = 0;
    for moves in moves.chunks(TOGETHER) {
        for settled in queue.settle(moves).await? {
            match settled {
                Settled::Done => done += 1,
                Settled::NotYours => *gone += 1,
            }
        }
    }
    Ok(done)
}
