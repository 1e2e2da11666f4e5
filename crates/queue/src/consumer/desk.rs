//! What a consumer has in hand, and what to do with it next. No I/O, and time comes as an argument.
//!
//! Invariants:
//!
//! - Every entry taken is in exactly one place: ready, suspect, a slot (running), held, or concluded (an ack or a step).
//! - A suspect, which has expired before, runs only while nothing else does, and while it runs nothing else unstarted is
//!   in hand: if it kills the worker, it takes no other entry's lease with it but those of held ones.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    ConsumerConfig, Delivery, LONGEST_DELAY, Status, Verdict,
    settlement::{Dead, Step},
};
use crate::{Move, attempts, dead_letter};

/// The most entries in hand, and the most bytes.
const MOST_IN_HAND: usize = 256;
const MOST_BYTES: usize = 32 << 20;
/// From here on what is in hand is taken in two halves, so that one is under way while the other is handled.
const MUCH: usize = 64;
/// How long an ack waits for a take to ride with.
pub(super) const ACK_PATIENCE: Duration = Duration::from_millis(5);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_QUEUE_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Extensions made in one round.
const EXTENSIONS: usize = 512;

#[derive(Debug, Clone)]
struct Custody {
    delivery: Delivery,
    taken: Instant,
    started: Instant,
    extended: Option<Instant>,
}

/// What is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Away {
    Queue,
    Handler,
}

#[derive(Debug)]
struct Pause {
    away: Away,
    status: Status,
    until: Instant,
    delay: Duration,
}

#[derive(Debug)]
pub(super) struct Desk {
    config: ConsumerConfig,
    queue: String,
    ready: VecDeque<Custody>,
    suspect: Option<Custody>,
    alone: bool,
    cautious: bool,
    slots: Vec<Option<Custody>>,
    running: usize,
    held: HashMap<Bytes, Custody>,
    /// Verdicts on running deliveries that somebody else finished before their handler said that they are held.
    early: Vec<(Bytes, Verdict)>,
    acks: Vec<Bytes>,
    acks_since: Option<Instant>,
    pub(super) steps: Vec<Step>,
    pause: Option<Pause>,
    /// A pause that somebody ordered; nothing is taken or started.
    ordered: Option<crate::Pause>,
    /// The pessimistic time a handler takes, once one was seen.
    pace: Option<Duration>,
    entry_bytes: usize,
    handled: u64,
    stopping: bool,
    checked: Instant,
}

impl Desk {
    pub(super) fn new(config: ConsumerConfig, queue: &str, now: Instant) -> Self {
        Self {
            slots: (0..config.concurrency).map(|_| None).collect(),
            config,
            queue: queue.to_owned(),
            ready: VecDeque::new(),
            suspect: None,
            alone: false,
            cautious: false,
            running: 0,
            held: HashMap::new(),
            early: Vec::new(),
            acks: Vec::new(),
            acks_since: None,
            steps: Vec::new(),
            pause: None,
            ordered: None,
            pace: None,
            entry_bytes: 1,
            handled: 0,
            stopping: false,
            checked: now,
        }
    }

    /// What a take brought. The unreadable and the too often expired are dead-lettered; of suspects one is kept.
    pub(super) fn receive(&mut self, entries: Vec<Bytes>, now: Instant) {
        let (mut back, mut calm, mut suspicious) = (Vec::new(), false, false);
        for entry in entries {
            let Some(custody) = self.accept(entry, now) else { continue };
            if self.stopping || custody.delivery.attempts.expiries == 0 {
                calm = true;
                self.ready.push_back(custody);
            } else {
                suspicious = true;
                match self.suspect {
                    None => self.suspect = Some(custody),
                    Some(_) => back.push(custody),
                }
            }
        }
        // Where one suspect was there may be more: they are looked at one by one until something else comes.
        self.cautious = suspicious || (self.cautious && !calm);
        // Taken while the pause began: what the pause put back may have come straight again.
        if self.ordered.is_some() || self.pause.as_ref().is_some_and(|pause| now < pause.until) {
            back.extend(self.ready.drain(..));
            back.extend(self.suspect.take_if(|_| self.ordered.is_some()));
        }
        self.release(back);
    }

    /// Dead-letters what no handler shall see.
    fn accept(&mut self, entry: Bytes, now: Instant) -> Option<Custody> {
        self.entry_bytes = (self.entry_bytes * 7 + entry.len()) / 8 + 1;
        let refusal = match attempts::read(&entry) {
            Ok(attempts) if attempts.expiries < self.config.max_expiries => {
                return Some(Custody { delivery: Delivery { entry, attempts }, taken: now, started: now, extended: None });
            }
            Ok(attempts) => (dead_letter::EXPIRED, format!("its lease ran out {} times", attempts.expiries)),
            Err(error) => (dead_letter::UNPARSABLE, error.to_string()),
        };
        self.handled += 1;
        self.bury(entry, refusal.0, &refusal.1);
        None
    }

    /// The next delivery to run, and its slot. `quiet`: no settlement is under way.
    pub(super) fn next(&mut self, quiet: bool, now: Instant) -> Option<(usize, Delivery)> {
        if self.stopping || self.alone || self.pause.as_ref().is_some_and(|pause| now < pause.until) {
            return None;
        }
        let slot = self.slots.iter().position(Option::is_none)?;
        let mut custody = match self.ready.pop_front() {
            Some(custody) => custody,
            None if quiet && self.running == 0 && self.acks.is_empty() && self.steps.is_empty() => {
                self.alone = self.suspect.is_some();
                self.suspect.take()?
            }
            None => return None,
        };
        custody.started = now;
        let delivery = custody.delivery.clone();
        self.slots[slot] = Some(custody);
        self.running += 1;
        Some((slot, delivery))
    }

    /// How many entries to take now, while so many are `asked` for that may still come.
    pub(super) fn wanted(&self, asked: usize, now: Instant) -> usize {
        if self.stopping || self.ordered.is_some() || self.suspect.is_some() || self.alone || self.held.len() >= self.config.max_held {
            return 0;
        }
        let in_hand = self.ready.len() + self.running + asked;
        let probing = match &self.pause {
            Some(pause) if now < pause.until || in_hand > 0 => return 0,
            pause => pause.is_some(),
        };
        let (most, room) = (self.room(), self.room().saturating_sub(in_hand));
        // Many small takes cost more than few large ones.
        if room * 2 < most || (self.cautious && asked > 0) {
            return 0;
        }
        // Of what is much, half: the other half is handled meanwhile.
        let batch = if most < MUCH { most } else { (most / 2).max(self.config.concurrency) };
        let most = if probing || self.cautious { 1 } else { room.min(batch) };
        let left = self.config.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.handled + (in_hand + self.held.len()) as u64));
        most.min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// The bound on what is in hand; see the module's description.
    fn room(&self) -> usize {
        let concurrency = self.config.concurrency;
        let Some(pace) = self.pace else { return concurrency };
        let rounds = (self.config.lease / 8).as_nanos() / pace.as_nanos().max(1);
        let entries = usize::try_from(rounds).unwrap_or(usize::MAX).saturating_mul(concurrency);
        entries.min(MOST_IN_HAND).min(MOST_BYTES / self.entry_bytes).max(concurrency)
    }

    /// A handler has come to its verdict.
    pub(super) fn conclude(&mut self, slot: usize, verdict: Verdict, now: Instant) {
        let Some(custody) = self.slots[slot].take() else { return };
        self.running -= 1;
        self.alone = false;
        self.learn(now - custody.started);
        let early = self.early.iter().position(|(entry, _)| *entry == custody.delivery.entry).map(|at| self.early.swap_remove(at).1);
        match verdict {
            Verdict::Held => match early {
                Some(verdict) => self.end(custody, verdict, now),
                None => {
                    self.recovered(now);
                    self.held.insert(custody.delivery.entry.clone(), custody);
                }
            },
            verdict => self.end(custody, verdict, now),
        }
    }

    /// Somebody else has come to a verdict.
    pub(super) fn settle(&mut self, entry: Bytes, verdict: Verdict, now: Instant) {
        if verdict == Verdict::Held {
            return;
        }
        if self.slots.iter().flatten().any(|custody| custody.delivery.entry == entry) {
            self.early.push((entry, verdict));
            return;
        }
        let custody = self.held.remove(&entry).unwrap_or_else(|| {
            let attempts = attempts::read(&entry).unwrap_or_default();
            Custody { delivery: Delivery { entry, attempts }, taken: now, started: now, extended: Some(now) }
        });
        self.end(custody, verdict, now);
    }

    fn end(&mut self, custody: Custody, verdict: Verdict, now: Instant) {
        if let Verdict::Outage { error } = verdict {
            let mut back: Vec<Custody> = vec![custody];
            back.extend(self.ready.drain(..));
            back.extend(self.suspect.take());
            self.release(back);
            self.pause(Away::Handler, error, now);
            return;
        }
        self.handled += 1;
        self.recovered(now);
        match verdict {
            // A lease was written for it, which the bare ack of the hot path would leave behind.
            Verdict::Done if custody.extended.is_some() => self.steps.push(Move::Ack { entry: custody.delivery.entry }.into()),
            Verdict::Done => {
                self.acks_since.get_or_insert(now);
                self.acks.push(custody.delivery.entry);
            }
            Verdict::Retry { error } => self.retry(custody.delivery, &error),
            Verdict::Dead { kind, error } => self.bury(custody.delivery.entry, &kind, &error),
            Verdict::Outage { .. } | Verdict::Held => {}
        }
    }

    fn retry(&mut self, delivery: Delivery, error: &str) {
        let Delivery { entry, attempts } = delivery;
        let most = attempts.max_retries.unwrap_or(self.config.max_retries);
        if attempts.retry_count >= most {
            return self.bury(entry, dead_letter::RETRIES_EXHAUSTED, error);
        }
        match attempts::after_failure(&entry) {
            Ok(with) => self.steps.push(Move::Retry { entry, with, after: delay(self.config.base_delay, attempts.retry_count) }.into()),
            Err(unreadable) => self.bury(entry, dead_letter::UNPARSABLE, &unreadable.to_string()),
        }
    }

    fn bury(&mut self, entry: Bytes, kind: &str, error: &str) {
        let with = dead_letter::build(&entry, &self.queue, kind, error, jiff::Timestamp::now());
        let dead = Dead { kind: kind.to_owned(), error: error.to_owned() };
        self.steps.push(Step { change: Move::DeadLetter { entry, with }, dead: Some(dead) });
    }

    /// Puts entries back so that they are taken in the same order again: the last goes first.
    fn release(&mut self, back: Vec<Custody>) {
        self.steps.extend(back.into_iter().rev().map(|custody| Move::Release { entry: custody.delivery.entry }.into()));
    }

    /// Stops taking for a while that grows as long as it does not help.
    pub(super) fn pause(&mut self, away: Away, reason: String, now: Instant) {
        let longest = if away == Away::Queue { LONGEST_QUEUE_PAUSE } else { LONGEST_PAUSE };
        match &mut self.pause {
            Some(pause) if now < pause.until => {}
            Some(pause) => {
                pause.delay = (pause.delay * 2).min(longest);
                pause.until = now + pause.delay;
                pause.away = away;
                if let Status::Paused { reason: known, .. } = &mut pause.status {
                    *known = reason;
                }
            }
            None => {
                tracing::warn!(queue = self.queue, reason, "something is away; taking pauses");
                let status = Status::Paused { reason, since: jiff::Timestamp::now() };
                self.pause = Some(Pause { away, status, until: now + FIRST_PAUSE, delay: FIRST_PAUSE });
            }
        }
    }

    /// What somebody has ordered: a pause gives back what is unstarted, its end lets taking go on.
    pub(super) fn order(&mut self, pause: Option<crate::Pause>) {
        if self.ordered == pause {
            return;
        }
        match &pause {
            Some(pause) => {
                tracing::warn!(queue = self.queue, by = pause.by, reason = pause.reason, "the queue is paused; nothing is taken");
                let back = self.ready.drain(..).chain(self.suspect.take()).collect();
                self.release(back);
            }
            None => tracing::info!(queue = self.queue, "the pause is over"),
        }
        self.ordered = pause;
    }

    /// A handler came to another verdict than an outage. What was under way when the outage began proves nothing.
    fn recovered(&mut self, now: Instant) {
        if self.pause.as_ref().is_some_and(|pause| pause.away == Away::Handler && now >= pause.until) {
            self.resume();
        }
    }

    /// A take brought nothing. Where nothing waits, nothing is held up: whatever comes next finds out what is away.
    pub(super) fn found_nothing(&mut self, now: Instant) {
        if self.steps.is_empty() {
            self.recovered(now);
        }
    }

    /// The queue has answered.
    pub(super) fn queue_answered(&mut self) {
        if self.pause.as_ref().is_some_and(|pause| pause.away == Away::Queue) {
            self.resume();
        }
    }

    /// Whether an outage is being waited out.
    pub(super) fn is_pausing(&self, now: Instant) -> bool {
        self.pause.as_ref().is_some_and(|pause| now < pause.until)
    }

    fn resume(&mut self) {
        self.pause = None;
        tracing::info!(queue = self.queue, "taking goes on");
    }

    fn learn(&mut self, took: Duration) {
        self.pace = Some(match self.pace {
            Some(pace) if took < pace => pace - (pace - took) / 16,
            _ => took,
        });
    }

    /// The acks that a take may carry now.
    pub(super) fn take_acks(&mut self) -> Vec<Bytes> {
        self.acks_since = None;
        std::mem::take(&mut self.acks)
    }

    /// Acks whose take failed.
    pub(super) fn return_acks(&mut self, acks: Vec<Bytes>, now: Instant) {
        self.steps.extend(acks.into_iter().map(|entry| Step::from(Move::Ack { entry })));
        self.acks_since = (!self.acks.is_empty()).then_some(now);
    }

    /// Sends the acks on their own if no take is coming that they could ride with: none is under way (`taking`), and nothing
    /// is left to do whose end would start one.
    pub(super) fn flush_acks(&mut self, taking: bool, now: Instant) {
        let nothing_else = !taking && self.running == 0 && self.ready.is_empty();
        if nothing_else || self.acks_since.is_some_and(|since| now >= since + ACK_PATIENCE) {
            self.acks_since = None;
            self.steps.extend(self.acks.drain(..).map(|entry| Step::from(Move::Ack { entry })));
        }
    }

    /// What has to be extended by now; unstarted entries that have waited too long go back. Looked at every twelfth of
    /// the lease.
    pub(super) fn look_after(&mut self, now: Instant) -> Vec<Bytes> {
        if now < self.next_look() {
            return vec![];
        }
        self.checked = now;
        let stale = self.ready.iter().position(|custody| now < custody.taken + self.config.lease / 4).unwrap_or(self.ready.len());
        let mut back: Vec<Custody> = self.ready.drain(..stale).collect();
        back.extend(self.suspect.take_if(|custody| now >= custody.taken + self.config.lease / 2));
        self.release(back);
        let lease = self.config.lease;
        let in_custody = self.slots.iter_mut().flatten().chain(self.held.values_mut());
        let due = in_custody.filter(|custody| now >= custody.extended.unwrap_or(custody.taken) + lease / 3);
        due.take(EXTENSIONS)
            .map(|custody| {
                custody.extended = Some(now);
                custody.delivery.entry.clone()
            })
            .collect()
    }

    fn next_look(&self) -> Instant {
        self.checked + (self.config.lease / 12).max(Duration::from_millis(5))
    }

    /// An extension was answered with "not yours". A running handler is left to finish; its verdict will find out.
    pub(super) fn lose(&mut self, entry: &Bytes) -> bool {
        self.held.remove(entry).is_some()
    }

    /// Takes and starts no more.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Once the last take has ended, which would take them right back: gives back what is unstarted or held.
    pub(super) fn give_back(&mut self) {
        let mut back: Vec<Custody> =
            self.ready.drain(..).chain(self.suspect.take()).chain(self.held.drain().map(|(_, held)| held)).collect();
        back.sort_by_key(|custody| (custody.taken, custody.started));
        self.release(back);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(super) fn limit_reached(&self) -> bool {
        self.config.limit.is_some_and(|limit| self.handled >= limit)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running == 0 && self.acks.is_empty() && self.steps.is_empty()
    }

    /// When to look again although nothing happens. What is overdue waits for something else that is under way.
    pub(super) fn wake_at(&self, now: Instant) -> Instant {
        let acks = self.acks_since.map(|since| since + ACK_PATIENCE);
        let pause = self.pause.as_ref().map(|pause| pause.until);
        let ahead = [Some(self.next_look()), acks, pause].into_iter().flatten().filter(|at| *at > now);
        ahead.min().unwrap_or(now + LONGEST_SLEEP)
    }

    pub(super) fn status(&self) -> Status {
        if let Some(ordered) = &self.ordered {
            return Status::Paused { reason: ordered.to_string(), since: ordered.at };
        }
        match &self.pause {
            Some(pause) => pause.status.clone(),
            None if self.running + self.ready.len() + self.held.len() > 0 || self.suspect.is_some() => Status::Taking,
            None => Status::Idle,
        }
    }
}

/// Half fixed, half jitter, so that what failed together does not return together.
fn delay(base: Duration, retry_count: u32) -> Duration {
    let full = base.saturating_mul(1 << retry_count.min(20)).min(LONGEST_DELAY);
    full / 2 + (full / 2).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests;
