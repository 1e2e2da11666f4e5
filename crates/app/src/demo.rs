//! `hokusai demo`: the whole pipeline, once, on a database, queue and chain of its own in a temporary directory.
//!
//! Nothing is played: these are the registrar, relay, queue, worker, ledger, sender and contracts of production, on
//! SQLite and the embedded chain.

use std::{
    io::{IsTerminal as _, stderr},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use hokusai_deploy::embedded::{EmbeddedChain, EmbeddedConfig};
use hokusai_queue::Stats;
use hokusai_registry::{Receipt, RegisterRequest, Registration, Registrations, Status};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    assembly::{Assembly, Queues, open_database},
    cli::{Format, Outcome, or_dash, table},
    config::{Env, QueueConfig},
    dev::{self, Pipeline},
    tasks::Tasks,
};

/// It takes a second or two; a machine that needs longer than this has another problem.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    format: Format,
}

/// One model of the demo, and what should become of it.
struct Model {
    name: &'static str,
    run: u8,
    token: &'static str,
    metric: &'static str,
    lower_is_better: bool,
    baseline: f64,
    current: f64,
    deployed: bool,
}

const fn model(name: &'static str, run: u8, token: &'static str, metric: &'static str, baseline: f64, current: f64) -> Model {
    Model { name, run, token, metric, lower_is_better: false, baseline, current, deployed: true }
}

/// Some beat their baseline, one ties, one falls short, one is registered twice, one is a second version of a token that
/// exists, and one has a metric where less is better.
const MODELS: [Model; 8] = [
    model("reply-writer", 1, "MSG-AI", "reply_rate", 0.75, 0.82),
    model("churn-forest", 2, "CHURN", "auroc", 0.81, 0.874),
    model("price-net", 3, "PRICE", "r2", 0.9, 0.9),
    model("spam-filter", 4, "SPAM", "f1", 0.97, 0.951).rejected(),
    model("lead-scorer", 5, "LEAD", "precision", 0.6, 0.71),
    model("lead-scorer", 5, "LEAD", "precision", 0.6, 0.71),
    model("reply-writer", 6, "msg-ai", "reply_rate", 0.82, 0.86),
    model("demand-forecast", 7, "DEMAND", "rmse", 12.5, 9.75).lower_is_better(),
];

impl Model {
    const fn rejected(self) -> Self {
        Self { deployed: false, ..self }
    }

    const fn lower_is_better(self) -> Self {
        Self { lower_is_better: true, ..self }
    }

    fn request(&self) -> anyhow::Result<RegisterRequest> {
        let direction = if self.lower_is_better { "lower_is_better" } else { "higher_is_better" };
        let body = serde_json::json!({
            "model_uri": format!("runs:/{:032x}/model", self.run), "model_name": self.name, "token_id": self.token,
            "metric_name": self.metric, "baseline_value": self.baseline, "current_value": self.current, "metric_direction": direction,
        });
        Ok(RegisterRequest::from_json(body.to_string().as_bytes())?)
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    model_id: String,
    status: Status,
    token_symbol: String,
    token_address: Option<String>,
    transaction_hash: Option<String>,
    block_number: Option<u64>,
    gas_used: Option<u64>,
    fee_wei: Option<String>,
    elapsed_ms: u64,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    registrations: Vec<Line>,
    queue: Stats,
}

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<Outcome> {
    let dir = tempfile::Builder::new().prefix("hokusai-demo-").tempdir().context("no temporary directory can be made")?;
    let db = open_database(&format!("sqlite:{}", dir.path().join("hokusai.db").display())).await?;
    // The defaults, whatever the environment says: the demo needs nothing and touches nothing.
    let queue_config = QueueConfig::read(&Env::new(|_| None))?;
    let assembly = Assembly { queues: Queues::local(db.clone()), db: Some(db), queue_config };
    let mut tasks = Tasks::default();
    let progress = progress();
    let pipeline = start(&assembly, &mut tasks, &progress).await?;
    let report = tokio::select! {
        report = tokio::time::timeout(LIMIT, carry(&assembly, &pipeline, &progress)) => report.context("the demo did not end in time")?,
        error = tasks.failed() => Err(error),
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    progress.finish_and_clear();
    let stopped = tasks.stop().await;
    let report = report?;
    stopped?;
    args.format.print(&report, describe)?;
    Ok(if report.is_right() { Outcome::Done } else { Outcome::Failed })
}

async fn start(assembly: &Assembly, tasks: &mut Tasks, progress: &ProgressBar) -> anyhow::Result<Pipeline> {
    progress.set_message("starting a database, a queue and a chain");
    let chain = EmbeddedChain::open(None, EmbeddedConfig::default()).await?;
    dev::start_pipeline(tasks, assembly, chain, None).await
}

/// Registers the models and follows them to their end.
async fn carry(assembly: &Assembly, pipeline: &Pipeline, progress: &ProgressBar) -> anyhow::Result<Report> {
    progress.set_message("registering");
    let started = Instant::now();
    let registrar = &pipeline.server.registrar;
    // At once, as eight developers would.
    let receipts = futures_util::future::try_join_all(MODELS.iter().map(async |model| {
        let request = model.request()?;
        anyhow::Ok(registrar.register(request, None, None).await?)
    }));
    let receipts = receipts.await?;
    let registrations = Registrations::new(assembly.database()?.clone());
    let lines = follow(&registrations, &receipts, started, progress).await?;
    let queue = assembly.queue(None)?;
    loop {
        // The last message is acknowledged a moment after its registration is final.
        let stats = queue.stats().await?;
        if stats == (Stats { dlq: stats.dlq, ..Stats::default() }) {
            return Ok(Report { registrations: lines, queue: stats });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until every registration has come to its end, and notes when each did.
async fn follow(
    registrations: &Registrations,
    receipts: &[Receipt],
    started: Instant,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<Line>> {
    let mut lines: Vec<Option<Line>> = receipts.iter().map(|_| None).collect();
    while lines.iter().any(Option::is_none) {
        for (receipt, line) in receipts.iter().zip(&mut lines).filter(|(_, line)| line.is_none()) {
            let registration = registrations.get(&receipt.registration_id).await?.context("a registration is gone; this is a defect")?;
            if !matches!(registration.status, Status::Queued | Status::Deploying) {
                *line = Some(Line::of(registration, started));
            }
        }
        let ended = lines.iter().flatten().count();
        progress.set_position(ended as u64);
        progress.set_message(format!("{ended} of {} at their end", lines.len()));
        tokio::time::sleep(POLL).await;
    }
    Ok(lines.into_iter().flatten().collect())
}

fn progress() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {bar:24} {msg}").expect("the template is a constant");
    let bar = ProgressBar::new(MODELS.len() as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(80));
    bar
}

impl Line {
    fn of(registration: Registration, started: Instant) -> Self {
        Self {
            model_id: registration.document.model_id,
            status: registration.status,
            token_symbol: registration.document.token_id.as_str().to_owned(),
            token_address: registration.token_address,
            transaction_hash: registration.transaction_hash,
            block_number: registration.block_number,
            gas_used: registration.gas_used,
            fee_wei: registration.fee_wei,
            elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            reason: Some(registration.document.reason),
        }
    }
}

impl Report {
    /// Whether everything went as [`MODELS`] says it should.
    fn is_right(&self) -> bool {
        let as_expected = MODELS.iter().zip(&self.registrations).all(|(model, line)| {
            let expected = if model.deployed { Status::Deployed } else { Status::Rejected };
            line.status == expected && line.token_address.is_some() == model.deployed
        });
        as_expected && self.registrations.len() == MODELS.len() && self.queue == Stats::default()
    }
}

fn describe(report: &Report) -> String {
    let rows = report.registrations.iter().map(|line| {
        vec![
            line.model_id.clone(),
            line.status.to_string(),
            or_dash(line.token_address.as_deref()),
            or_dash(line.transaction_hash.as_deref().map(shorten)),
            or_dash(line.gas_used),
            or_dash(line.fee_wei.as_deref().map(ether)),
            format!("{} ms", line.elapsed_ms),
        ]
    });
    let Stats { main, processing, delayed, dlq } = report.queue;
    let lines = table(&["model", "verdict", "token", "transaction", "gas", "fee", "time"], rows);
    let rejected = report.registrations.iter().filter(|line| line.status != Status::Deployed);
    let reasons: String = rejected.map(|line| format!("\n{}: {}", line.model_id, line.reason.as_deref().unwrap_or_default())).collect();
    let tokens: std::collections::BTreeSet<_> = report.registrations.iter().filter_map(|line| line.token_address.as_deref()).collect();
    let ending = if report.is_right() { "Everything went as it should." } else { "Something is wrong: see above." };
    format!(
        "{lines}\n{reasons}\n\n{} tokens. Queue: main {main}, processing {processing}, delayed {delayed}, dead letter {dlq}. {ending}",
        tokens.len()
    )
}

fn shorten(hash: &str) -> String {
    match (hash.get(..10), hash.get(hash.len().saturating_sub(6)..)) {
        (Some(head), Some(tail)) if hash.len() > 20 => format!("{head}…{tail}"),
        _ => hash.to_owned(),
    }
}

fn ether(wei: &str) -> String {
    wei.parse::<f64>().map_or_else(|_| wei.to_owned(), |wei| format!("{:.6} ETH", wei / 1e18))
}
