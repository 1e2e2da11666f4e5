//! Registers models as fast as N connections go, or at a fixed rate, and prints what came of it as one JSON object.

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use clap::Parser;
use register_bench::{
    drive::{self, Outcome, Pace, Plan},
    registration::{Requests, Target},
};
use serde_json::json;

/// Registers models over HTTP/1.1 keep-alive connections.
#[derive(Debug, Parser)]
struct Options {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long, default_value = "/api/v1/models/register")]
    path: String,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests per second, at fixed moments, whatever the server does. Without it every connection sends when it has its answer.
    #[arg(long, value_name = "RATE")]
    open: Option<u32>,
    /// Seconds that are not measured.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Seconds that are.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Stop after so many requests.
    #[arg(long, default_value_t = 5_000_000)]
    max_requests: u64,
    /// Distinct model names.
    #[arg(long, default_value_t = 16)]
    names: u16,
    /// Makes the identities of this run; by default the clock does.
    #[arg(long)]
    seed: Option<u32>,
    /// A further header line, `Name: value`.
    #[arg(long)]
    header: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let target = Target { host: options.address.to_string(), path: options.path, headers: options.header };
    let plan = Plan {
        address: options.address,
        connections: options.connections,
        pace: options.open.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
        warmup: Duration::from_secs_f64(options.warmup),
        measure: Duration::from_secs_f64(options.seconds),
        max_requests: options.max_requests,
    };
    let seed = options.seed.map_or_else(clock_seed, Ok)?;
    let outcome = drive::run(&plan, Requests::new(&target, seed, options.names), |_, _, _| {})?;
    let failed = outcome.refused + outcome.unanswered > 0;
    println!("{}", report(&plan, outcome));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn clock_seed() -> Result<u32> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos() ^ std::process::id().rotate_left(16))
}

fn report(plan: &Plan, outcome: Outcome) -> serde_json::Value {
    let seconds = outcome.measured.as_secs_f64();
    json!({
        "mode": match plan.pace { Pace::Closed => "closed", Pace::Open { .. } => "open" },
        "connections": plan.connections,
        "seconds": seconds,
        "per_s": outcome.latencies.count() as f64 / seconds.max(1e-9),
        "latency": outcome.latencies.summary(),
        "lateness": outcome.lateness.summary(),
        "sent": outcome.sent,
        "accepted": outcome.accepted,
        "refused": outcome.refused,
        "unanswered": outcome.unanswered,
        "first_refusal": outcome.first_refusal,
    })
}
