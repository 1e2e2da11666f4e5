//! The hot path: acks and moves in one pipeline, and the wait for a first entry.
//!
//! Behind the moves every pipeline asks how long main and processing are, and whether the reaper's key is there: if it is
//! gone, Redis lost what it held (while it was waited for, perhaps), and the queue is met again before anything in it can
//! pass for an orphan.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use redis::{Cmd, Pipeline, Value, cmd};

use super::{Keys, RedisQueue, bytes_of};
use crate::{Error, Settled, Taken};

/// Entries asked for when the queue was empty a moment ago; a fruitless LMOVE costs the server as much as a fruitful one.
const MODEST_TAKE: usize = 8;
/// Entries asked for while others' lie at the tail: an ack at the head passes what was taken after its own entry.
const SHORT_TAKE: usize = 64;

/// Commands that are always the same.
#[derive(Debug)]
pub(super) struct Commands {
    take: Cmd,
    looks: [Cmd; LOOKS],
}

const LOOKS: usize = 3;

impl Commands {
    pub(super) fn new(keys: &Keys) -> Self {
        let about = |name: &str, key: &str| {
            let mut command = cmd(name);
            command.arg(key);
            command
        };
        let mut take = cmd("LMOVE");
        take.arg(&keys.main).arg(&keys.processing).arg("RIGHT").arg("LEFT");
        Self { take, looks: [about("LLEN", &keys.main), about("LLEN", &keys.processing), about("EXISTS", &keys.reaper)] }
    }
}

impl RedisQueue {
    /// Which end of processing LREM starts from. Everybody pushes at the head, so ours are together: at the tail, oldest
    /// first, if there is little else; at the head if the tail is full of what others left there.
    pub(super) fn near_end(&self) -> i64 {
        let foreign = self.processing.load(Ordering::Relaxed) - self.in_hand.load(Ordering::Relaxed).max(0);
        if foreign > self.in_hand.load(Ordering::Relaxed).max(64) { 1 } else { -1 }
    }

    /// Whether they are answered in the opposite order: from the head the newest is the nearest.
    fn add_acks(&self, commands: &mut Pipeline, acks: &[Bytes]) -> bool {
        let newest_first = self.near_end() > 0;
        let end: &[u8] = if newest_first { b"1" } else { b"-1" };
        let mut add = |entry: &Bytes| {
            let mut ack = Cmd::with_capacity(4, self.keys.processing.len() + entry.len() + 8);
            ack.arg(b"LREM").arg(&self.keys.processing).arg(end).arg(&entry[..]);
            commands.add_command(ack);
        };
        if newest_first {
            acks.iter().rev().for_each(&mut add)
        } else {
            acks.iter().for_each(&mut add)
        }
        newest_first
    }

    fn add_looks(&self, commands: &mut Pipeline) {
        for look in &self.commands.looks {
            commands.add_command(look.clone());
        }
    }

    /// Acks and takes in one round trip.
    pub(super) async fn sweep(&self, max: usize, acks: &[Bytes]) -> Result<Taken, Error> {
        let moves = match (self.waiting.load(Ordering::Relaxed), self.near_end()) {
            (0, _) => max.min(MODEST_TAKE),
            (_, 1) => max.min(SHORT_TAKE),
            _ => max,
        };
        let mut commands = Pipeline::with_capacity(acks.len() + moves + LOOKS);
        let reversed = self.add_acks(&mut commands, acks);
        for _ in 0..moves {
            commands.add_command(self.commands.take.clone());
        }
        self.add_looks(&mut commands);
        let mut answers = self.link.exchange(&commands).await.map_err(|error| self.link.classify(error))?.into_iter();
        let acked = self.acked(answers.by_ref().take(acks.len()), reversed);
        // What was taken must reach the caller; an ack that failed beside it is an ack lost, which redelivers at worst.
        match (self.taken(answers, moves).await, acked) {
            (Err(error), _) => Err(error),
            (Ok(entries), Err(error)) if entries.is_empty() => Err(error),
            (Ok(entries), acked) => Ok(Taken { entries, acked: acked.unwrap_or_else(|_| vec![Settled::NotYours; acks.len()]) }),
        }
    }

    /// Waits for one entry on a connection of its own. The acks are answered at once, and are made even if the wait fails.
    pub(super) async fn wait_for_one(&self, wait: Duration, acks: &[Bytes]) -> Result<Taken, Error> {
        let Keys { main, processing, .. } = &self.keys;
        let (mut first, mut commands) = (Pipeline::with_capacity(acks.len()), Pipeline::with_capacity(1 + LOOKS));
        let reversed = self.add_acks(&mut first, acks);
        commands.cmd("BLMOVE").arg(main).arg(processing).arg("RIGHT").arg("LEFT").arg(wait.as_secs_f64());
        self.add_looks(&mut commands);
        let (acked, came) = self.link.block(&first, &commands, wait).await;
        let acked = acked.map_err(|error| self.link.classify(error)).and_then(|answers| self.acked(answers.into_iter(), reversed));
        let entries = match came {
            Ok(answers) => self.taken(answers.into_iter(), 1).await,
            Err(error) => Err(self.link.classify(error)),
        };
        match (entries, acked) {
            (Ok(entries), Err(error)) if entries.is_empty() => Err(error),
            (Ok(entries), acked) => Ok(Taken { entries, acked: acked.unwrap_or_else(|_| vec![Settled::NotYours; acks.len()]) }),
            // The next take will meet the error again.
            (Err(error), Ok(acked)) if !acked.is_empty() => {
                tracing::debug!(queue = self.name, %error, "waiting for an entry failed");
                Ok(Taken { entries: vec![], acked })
            }
            (Err(error), _) => Err(error),
        }
    }

    fn acked(&self, answers: impl Iterator<Item = Value>, reversed: bool) -> Result<Vec<Settled>, Error> {
        let mut acked = answers.map(|answer| self.settled(&answer.extract_error())).collect::<Result<Vec<_>, _>>()?;
        if reversed {
            acked.reverse();
        }
        self.note_taken(0, acked.len());
        Ok(acked)
    }

    /// The entries that came, and what the looks say. The error of a move counts only if no other brought anything.
    async fn taken(&self, mut answers: impl Iterator<Item = Value>, moves: usize) -> Result<Vec<Bytes>, Error> {
        let (mut entries, mut refused) = (Vec::with_capacity(moves), None);
        for answer in answers.by_ref().take(moves) {
            match answer {
                Value::ServerError(error) => refused = Some(error),
                answer => entries.extend(bytes_of(answer)),
            }
        }
        if let (Some(error), true) = (refused, entries.is_empty()) {
            return Err(self.link.classify(error.into()));
        }
        self.note_taken(entries.len(), 0);
        if let (Some(Value::Int(waiting)), Some(Value::Int(processing))) = (answers.next(), answers.next()) {
            self.waiting.store(waiting, Ordering::Relaxed);
            self.processing.store(processing, Ordering::Relaxed);
        }
        if matches!(answers.next(), Some(Value::Int(0))) {
            // What was taken must reach the caller whatever becomes of this.
            self.meet(&entries).await.unwrap_or_else(|error| tracing::warn!(queue = self.name, %error, "the queue could not be met again"));
        }
        Ok(entries)
    }

    pub(super) fn note_taken(&self, taken: usize, settled: usize) {
        #[expect(clippy::cast_possible_wrap, reason = "a batch is no longer than memory is large")]
        let change = taken as i64 - settled as i64;
        let before = self.in_hand.fetch_add(change, Ordering::Relaxed);
        if before + change < 0 {
            self.in_hand.store(0, Ordering::Relaxed);
        }
    }
}
