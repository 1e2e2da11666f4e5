//! From a registration's HTTP answer to its message in Redis.
//!
//! One thread registers at a fixed rate and notes when each answer came and which message it named; another takes messages from the queue as
//! soon as they are there and notes when. Both read the same clock. The difference is what a consumer waits after the registrant knows; it
//! includes the consumer's own reading, so it is an upper bound. A message that is there before its answer counts as 0 and as `early`.
//!
//! Messages are taken by BRPOP, then by RPOP with a count until the list is empty.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use register_bench::{
    drive::{self, Outcome, Pace, Plan},
    latency::Latencies,
    redis::{Redis, Reply},
    registration::{Requests, Target},
};
use serde::Deserialize;
use serde_json::json;

/// Measures the time from a registration's answer to its message.
#[derive(Debug, Parser)]
struct Options {
    #[arg(long)]
    address: SocketAddr,
    /// `host:port`
    #[arg(long)]
    redis: String,
    #[arg(long, default_value = "hokusai:model_ready_queue")]
    queue: String,
    #[arg(long, default_value = "/api/v1/models/register")]
    path: String,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Registrations per second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds to wait, after the last answer, for messages that have not come.
    #[arg(long, default_value_t = 30.0)]
    patience: f64,
    #[arg(long, default_value_t = 16)]
    names: u16,
    /// A further header line, `Name: value`.
    #[arg(long)]
    header: Vec<String>,
}

/// What the answer and the message have in common.
#[derive(Deserialize)]
struct Named {
    message_id: String,
}

struct Answered {
    message_id: String,
    at: Instant,
    measured: bool,
}

/// What the registering thread tells the consumer.
#[derive(Debug, Default)]
struct Progress {
    accepted: AtomicU64,
    finished: AtomicBool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let mut redis = Redis::connect(&options.redis)?;
    while !take(&mut redis, &options.queue, "0.05")?.is_empty() {}
    let progress = Arc::new(Progress::default());
    let consumer = {
        let (progress, queue, patience) = (progress.clone(), options.queue.clone(), Duration::from_secs_f64(options.patience));
        thread::spawn(move || consume(&mut redis, &queue, &progress, patience))
    };
    let registered = register(&options, &progress);
    progress.finished.store(true, Ordering::Release);
    let arrived = consumer.join().expect("the consumer does not panic")?;
    let (outcome, answers) = registered?;
    let report = Report::compare(&answers, &arrived);
    let failed = outcome.refused + outcome.unanswered + report.missing > 0;
    println!("{}", report.to_json(outcome, options.rate, arrived.repeated));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn register(options: &Options, progress: &Progress) -> Result<(Outcome, Vec<Answered>)> {
    let target = Target { host: options.address.to_string(), path: options.path.clone(), headers: options.header.clone() };
    let plan = Plan {
        address: options.address,
        connections: options.connections,
        pace: Pace::Open { per_second: options.rate },
        warmup: Duration::from_secs_f64(options.warmup),
        measure: Duration::from_secs_f64(options.seconds),
        max_requests: 10_000_000,
    };
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos() ^ std::process::id().rotate_left(16);
    let mut bodies = Vec::new();
    let outcome = drive::run(&plan, Requests::new(&target, seed, options.names), |at, body, measured| {
        progress.accepted.fetch_add(1, Ordering::Relaxed);
        bodies.push((at, body.to_vec(), measured));
    })?;
    // Parsed when the run is over: parsing is not part of what is measured.
    let answers = bodies.into_iter().map(|(at, body, measured)| {
        let Named { message_id } = serde_json::from_slice(&body)
            .with_context(|| format!("an answer that names no message: {}", String::from_utf8_lossy(&body)))?;
        Ok(Answered { message_id, at, measured })
    });
    Ok((outcome, answers.collect::<Result<_>>()?))
}

struct Arrived {
    first: HashMap<String, Instant>,
    repeated: u64,
}

fn consume(redis: &mut Redis, queue: &str, progress: &Progress, patience: Duration) -> Result<Arrived> {
    let mut seen: Vec<(Instant, Vec<u8>)> = Vec::new();
    let mut finished_at = None;
    loop {
        let messages = take(redis, queue, "0.2")?;
        let at = Instant::now();
        seen.extend(messages.into_iter().map(|message| (at, message)));
        if progress.finished.load(Ordering::Acquire) {
            let finished_at = *finished_at.get_or_insert(at);
            let complete = seen.len() as u64 >= progress.accepted.load(Ordering::Relaxed);
            if complete || at > finished_at + patience {
                break;
            }
        }
    }
    let mut arrived = Arrived { first: HashMap::with_capacity(seen.len()), repeated: 0 };
    for (at, message) in seen {
        let Named { message_id } = serde_json::from_slice(&message).context("a message without message_id")?;
        match arrived.first.entry(message_id) {
            Entry::Occupied(_) => arrived.repeated += 1,
            Entry::Vacant(entry) => {
                entry.insert(at);
            }
        }
    }
    Ok(arrived)
}

/// The oldest messages of the queue; waits for the first.
fn take(redis: &mut Redis, queue: &str, wait_s: &str) -> Result<Vec<Vec<u8>>> {
    let first = redis.call(&[b"BRPOP", queue.as_bytes(), wait_s.as_bytes()])?;
    let Reply::Many(key_and_value) = first else { return Ok(Vec::new()) };
    let mut messages: Vec<Vec<u8>> = key_and_value.into_iter().skip(1).map(bytes).collect::<Result<_>>()?;
    if let Reply::Many(more) = redis.call(&[b"RPOP", queue.as_bytes(), b"512"])? {
        for message in more {
            messages.push(bytes(message)?);
        }
    }
    Ok(messages)
}

fn bytes(reply: Reply) -> Result<Vec<u8>> {
    match reply {
        Reply::Bytes(bytes) => Ok(bytes),
        other => bail!("a list held {other:?}"),
    }
}

#[derive(Default)]
struct Report {
    after_answer: Latencies,
    early: u64,
    missing: u64,
}

impl Report {
    fn compare(answers: &[Answered], arrived: &Arrived) -> Self {
        let mut report = Self::default();
        for answer in answers {
            let Some(&at) = arrived.first.get(&answer.message_id) else {
                report.missing += 1;
                continue;
            };
            if answer.measured {
                report.early += u64::from(at < answer.at);
                report.after_answer.add(at.saturating_duration_since(answer.at));
            }
        }
        report
    }

    fn to_json(&self, outcome: Outcome, rate: u32, repeated: u64) -> serde_json::Value {
        json!({
            "mode": "arrive",
            "rate": rate,
            "per_s": outcome.latencies.count() as f64 / outcome.measured.as_secs_f64().max(1e-9),
            "answer_to_message": self.after_answer.clone().summary(),
            "early": self.early,
            "missing": self.missing,
            "repeated": repeated,
            "latency": outcome.latencies.summary(),
            "lateness": outcome.lateness.summary(),
            "sent": outcome.sent,
            "accepted": outcome.accepted,
            "refused": outcome.refused,
            "unanswered": outcome.unanswered,
            "first_refusal": outcome.first_refusal,
        })
    }
}
