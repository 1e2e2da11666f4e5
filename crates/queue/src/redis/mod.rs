//! The queue on Redis lists, beside whoever else uses them.
//!
//! For a queue `Q`, three lists belong to the outside world and hold nothing but messages and dead-letter entries:
//!
//! | key | type | holds | who writes it |
//! |---|---|---|---|
//! | `Q` | list | main; pushed at the left, taken from the right | everybody |
//! | `Q:processing` | list | taken, not finished; pushed at the left | everybody |
//! | `Q:dlq` | list | dead-letter entries; pushed at the left | everybody |
//! | `Q:delayed` | zset | retries by the time they are due | `retry`, `promote` |
//! | `Q:leases` | zset | the bytes of entries in processing by the time their lease runs out; `+inf` for orphans | `extend`, `lease`, `meet`, `relay`, `open_pass` |
//! | `Q:cursor` | hash | cursor of each relay source: `position:message_id` | `relay` |
//! | `Q:reaper` | hash | `met`: first meeting, `pass`: last pass, `walk`: where it goes on, `paused`: the pause in force | `meet`, `relay`, `open_pass`, `lease`, an operator |
//!
//! Invariants:
//!
//! - Every arrow is one command or one script. The hot path is pipelined: LMOVE to take, LREM to acknowledge.
//! - A take writes no lease. The reaper gives one to whatever it sees without, which is also what finds the entries of
//!   foreign consumers, and those of a take whose reply was lost.
//! - Times are the server's own.

mod link;
mod pushing;
mod reaping;
mod scripts;
mod server;
mod settings;
mod taking;
mod upkeep;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Cmd, ErrorKind, Pipeline, RedisResult, ServerErrorKind, Value, cmd};
pub use settings::{CertificateCheck, RedisSettings};

use self::{link::Link, pushing::Pushes, taking::Commands};
use crate::{Cursor, Error, LeaseTerms, Move, Queue, RelayBatch, Relayed, Settled, State, Stats, Survey, Taken, Upkeep};

/// Extensions made by one call of the script.
const EXTENSIONS: usize = 64;

/// A queue on Redis 6.2 or later, or on Valkey.
#[derive(Debug)]
pub struct RedisQueue {
    name: String,
    keys: Keys,
    link: Arc<Link>,
    commands: Commands,
    pushes: Pushes,
    /// Whether this queue was met before, so that only the first take has to ask.
    met: AtomicBool,
    /// Taken and not yet settled through this handle.
    in_hand: AtomicI64,
    /// The length of main after the last take; more than none before the first.
    waiting: AtomicI64,
    /// The length of processing after the last take.
    processing: AtomicI64,
}

#[derive(Debug)]
struct Keys {
    main: String,
    processing: String,
    dlq: String,
    delayed: String,
    leases: String,
    cursor: String,
    reaper: String,
}

impl Keys {
    fn new(name: &str) -> Self {
        let key = |suffix| format!("{name}:{suffix}");
        Self {
            main: name.to_owned(),
            processing: key("processing"),
            dlq: key("dlq"),
            delayed: key("delayed"),
            leases: key("leases"),
            cursor: key("cursor"),
            reaper: key("reaper"),
        }
    }
}

impl RedisQueue {
    /// Connects, and fails if the server cannot be reached or does not admit us.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`], [`Error::Denied`], [`Error::Misconfigured`].
    pub async fn connect(settings: &RedisSettings, name: &str) -> Result<Self, Error> {
        let queue = Self::lazy(settings, name)?;
        queue.stats().await?;
        Ok(queue)
    }

    /// Connects when first used: for a service that must start while Redis is away.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the settings cannot be used at all.
    pub fn lazy(settings: &RedisSettings, name: &str) -> Result<Self, Error> {
        let (keys, link) = (Keys::new(name), Arc::new(Link::new(settings)?));
        Ok(Self {
            name: name.to_owned(),
            commands: Commands::new(&keys),
            pushes: Pushes::new(link.clone(), &keys.main),
            keys,
            link,
            met: AtomicBool::new(false),
            in_hand: AtomicI64::new(0),
            waiting: AtomicI64::new(1),
            processing: AtomicI64::new(0),
        })
    }

    /// Sends commands in one go; scripts that the server has lost are loaded and called again.
    async fn send(&self, commands: Vec<Cmd>) -> Result<Vec<RedisResult<Value>>, Error> {
        let commands = pipeline(commands);
        let mut answers = self.link.send(&commands).await?;
        let lost: Vec<usize> = answers.iter().enumerate().filter(|(_, answer)| is_lost_script(answer)).map(|(at, _)| at).collect();
        if !lost.is_empty() {
            let mut again = Pipeline::new();
            for source in scripts::SOURCES {
                again.cmd("SCRIPT").arg("LOAD").arg(*source);
            }
            for at in &lost {
                if let Some(command) = commands.cmd_iter().nth(*at) {
                    again.add_command(command.clone());
                }
            }
            let late = self.link.send(&again).await?.into_iter().skip(scripts::SOURCES.len());
            for (at, answer) in lost.into_iter().zip(late) {
                answers[at] = answer;
            }
        }
        Ok(answers)
    }

    async fn ask(&self, command: Cmd) -> Result<Value, Error> {
        let answer = self.send(vec![command]).await?.pop().unwrap_or(Ok(Value::Nil));
        answer.map_err(|error| self.link.classify(error))
    }

    fn number(&self, answer: &RedisResult<Value>) -> Result<i64, Error> {
        match answer {
            Ok(Value::Int(number)) => Ok(*number),
            Ok(Value::BulkString(text)) => {
                std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| self.link.unexpected(&Value::Nil))
            }
            Ok(other) => Err(self.link.unexpected(other)),
            Err(error) => Err(self.link.classify(error.clone())),
        }
    }

    fn entries(&self, answer: Value) -> Result<Vec<Bytes>, Error> {
        let Value::Array(items) = answer else { return Err(self.link.unexpected(&answer)) };
        items.into_iter().map(|item| bytes_of(item).ok_or_else(|| self.link.unexpected(&Value::Nil))).collect()
    }

    fn settled(&self, answer: &RedisResult<Value>) -> Result<Settled, Error> {
        Ok(if self.number(answer)? > 0 { Settled::Done } else { Settled::NotYours })
    }

    fn command(&self, change: &Move) -> Cmd {
        let Keys { main, processing, dlq, delayed, leases, .. } = &self.keys;
        let end = self.near_end();
        match change {
            Move::Ack { entry } => {
                let mut call = scripts::call(&scripts::ACK, &[processing, leases]);
                call.arg(&entry[..]).arg(end);
                call
            }
            Move::Extend { entry, lease } => {
                let mut call = scripts::call(&scripts::EXTEND, &[processing, leases]);
                call.arg(millis(*lease)).arg(&entry[..]);
                call
            }
            Move::Retry { entry, with, after } => {
                let mut call = scripts::call(&scripts::RETRY, &[processing, leases, main, delayed]);
                call.arg(&entry[..]).arg(&with[..]).arg(millis(*after)).arg(end);
                call
            }
            Move::Release { entry } => {
                let mut call = scripts::call(&scripts::RELEASE, &[processing, leases, main]);
                call.arg(&entry[..]).arg(end);
                call
            }
            Move::DeadLetter { entry, with } => {
                let mut call = scripts::call(&scripts::DEAD_LETTER, &[processing, leases, dlq]);
                call.arg(&entry[..]).arg(&with[..]).arg(end);
                call
            }
            Move::Expire { entry, with, to } => {
                let target = if *to == State::Dlq { dlq } else { main };
                let mut call = scripts::call(&scripts::EXPIRE, &[processing, leases, target]);
                call.arg(&entry[..]).arg(&with[..]);
                call
            }
            Move::Redrive { entry, with } => {
                let mut call = scripts::call(&scripts::REDRIVE, &[dlq, main]);
                call.arg(&entry[..]).arg(&with[..]);
                call
            }
            Move::Withdraw { entry, with } => {
                let mut call = scripts::call(&scripts::WITHDRAW, &[main, dlq]);
                call.arg(&entry[..]).arg(&with[..]);
                call
            }
            Move::Discard { entry } => {
                let mut discard = cmd("LREM");
                discard.arg(dlq).arg(-1).arg(&entry[..]);
                discard
            }
        }
    }

    /// Extensions by one lease, which usually come many at a time, in few calls.
    async fn extend(&self, entries: &[&Bytes], lease: Duration) -> Result<Vec<Settled>, Error> {
        let calls = entries.chunks(EXTENSIONS).map(|chunk| {
            let mut call = scripts::call(&scripts::EXTEND, &[&self.keys.processing, &self.keys.leases]);
            call.arg(millis(lease));
            for entry in chunk {
                call.arg(&entry[..]);
            }
            call
        });
        let mut settled = Vec::with_capacity(entries.len());
        for answer in self.send(calls.collect()).await? {
            match answer {
                Ok(Value::Array(items)) => {
                    for item in items {
                        settled.push(self.settled(&Ok(item))?);
                    }
                }
                Ok(other) => return Err(self.link.unexpected(&other)),
                Err(error) => return Err(self.link.classify(error)),
            }
        }
        Ok(settled)
    }
}

#[async_trait]
impl Queue for RedisQueue {
    fn name(&self) -> &str {
        &self.name
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(self)
    }

    async fn warnings(&self) -> Result<Vec<String>, Error> {
        self.server_warnings().await
    }

    async fn push(&self, entries: &[Bytes]) -> Result<(), Error> {
        self.pushes.push(entries).await.map_err(|error| self.link.classify(error))
    }

    async fn relay(&self, batch: RelayBatch<'_>) -> Result<Relayed, Error> {
        let Keys { main, processing, leases, cursor, reaper, .. } = &self.keys;
        let mut call = scripts::call(&scripts::RELAY, &[cursor, main, reaper, processing, leases]);
        call.arg(batch.source).arg(batch.expected.map_or("", Cursor::as_str)).arg(batch.next.as_str());
        for entry in batch.entries {
            call.arg(&entry[..]);
        }
        let answer = self.ask(call).await?;
        let Value::Array(items) = &answer else { return Err(self.link.unexpected(&answer)) };
        match &items[..] {
            [Value::Int(1)] => Ok(Relayed::Moved),
            [Value::Int(0)] => Ok(Relayed::Refused { actual: None }),
            [Value::Int(0), actual] => Ok(Relayed::Refused { actual: cursor_of(actual.clone()) }),
            _ => Err(self.link.unexpected(&answer)),
        }
    }

    async fn take(&self, max: usize, wait: Duration, acks: &[Bytes]) -> Result<Taken, Error> {
        if !self.met.load(Ordering::Relaxed) {
            self.meet(&[]).await?;
        }
        if self.waiting.load(Ordering::Relaxed) == 0 && max > 0 && !wait.is_zero() {
            return self.wait_for_one(wait, acks).await;
        }
        let mut taken = self.sweep(max, acks).await?;
        if taken.entries.is_empty() && max > 0 && !wait.is_zero() {
            match self.wait_for_one(wait, &[]).await {
                Ok(late) => taken.entries = late.entries,
                // The acks are made and must be answered; the next take will meet the error again.
                Err(error) if !acks.is_empty() => tracing::debug!(queue = self.name, %error, "waiting for an entry failed"),
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    async fn settle(&self, moves: &[Move]) -> Result<Vec<Settled>, Error> {
        if let [Move::Extend { lease, .. }, ..] = moves
            && moves.iter().all(|change| matches!(change, Move::Extend { lease: other, .. } if other == lease))
        {
            let entries: Vec<&Bytes> = moves.iter().map(Move::entry).collect();
            return self.extend(&entries, *lease).await;
        }
        let answers = if moves.is_empty() { vec![] } else { self.send(moves.iter().map(|change| self.command(change)).collect()).await? };
        let mut settled = Vec::with_capacity(moves.len());
        for (change, answer) in moves.iter().zip(answers) {
            settled.push(match answer {
                Ok(Value::Array(items)) if items.len() == 1 => self.settled(&Ok(items[0].clone()))?,
                answer => self.settled(&answer)?,
            });
            if matches!(change, Move::Ack { .. } | Move::Retry { .. } | Move::Release { .. } | Move::DeadLetter { .. }) {
                self.note_taken(0, 1);
            }
        }
        Ok(settled)
    }

    async fn survey(&self, terms: &LeaseTerms) -> Result<Survey, Error> {
        self.pass(terms).await
    }

    async fn peek(&self, state: State, offset: usize, limit: usize) -> Result<Vec<Bytes>, Error> {
        if limit == 0 {
            return Ok(vec![]);
        }
        if state == State::Delayed {
            let mut range = cmd("ZRANGE");
            range.arg(&self.keys.delayed).arg(offset).arg(offset.saturating_add(limit) - 1);
            return self.entries(self.ask(range).await?);
        }
        let key = match state {
            State::Processing => &self.keys.processing,
            State::Dlq => &self.keys.dlq,
            State::Main | State::Delayed => &self.keys.main,
        };
        let mut range = cmd("LRANGE");
        range.arg(key).arg(format!("-{}", offset.saturating_add(limit))).arg(format!("-{}", offset + 1));
        let mut entries = self.entries(self.ask(range).await?)?;
        entries.reverse();
        Ok(entries)
    }

    async fn stats(&self) -> Result<Stats, Error> {
        let lengths = [("LLEN", &self.keys.main), ("LLEN", &self.keys.processing), ("ZCARD", &self.keys.delayed), ("LLEN", &self.keys.dlq)];
        let commands = lengths.map(|(command, key)| {
            let mut length = cmd(command);
            length.arg(key);
            length
        });
        let answers = self.send(commands.to_vec()).await?;
        let numbers = answers.iter().map(|answer| self.number(answer).map(unsigned)).collect::<Result<Vec<u64>, _>>()?;
        let [main, processing, delayed, dlq] = numbers[..] else { return Err(self.link.unexpected(&Value::Nil)) };
        Ok(Stats { main, processing, delayed, dlq })
    }
}

fn pipeline(commands: Vec<Cmd>) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command);
    }
    pipeline
}

fn is_lost_script(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
}

fn bytes_of(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

fn cursor_of(value: Value) -> Option<Cursor> {
    bytes_of(value).map(|kept| String::from_utf8_lossy(&kept).into_owned().into())
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Whole milliseconds, rounded up: a short delay is not none.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).min(1 << 50)
}
