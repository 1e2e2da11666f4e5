//! `hokusai consume --exec CMD`: a consumer in any language, one process for each message.
//!
//! The envelope goes to the command's standard input. Exit code 0 acknowledges, 65 (`EX_DATAERR` of BSD's sysexits)
//! dead-letters at once, anything else is a failed attempt.

use std::{process::Stdio, sync::Arc};

use anyhow::Context as _;
use async_trait::async_trait;
use clap::Args;
use hokusai_queue::{Consumer, Delivery, Handler, Verdict};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::QueueName;
use crate::{assembly::Assembly, config::Env, roles, tasks::Tasks};

/// `EX_DATAERR`: the input is bad, and no further attempt can help.
const EXIT_BAD_MESSAGE: i32 = 65;
/// How much of a failed command's standard error is kept with the message.
const KEPT_ERROR_BYTES: usize = 2000;

#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// The command, run by the shell: exit 0 acknowledges, 65 dead-letters at once, anything else is a failed attempt
    #[arg(long, value_name = "CMD")]
    exec: String,
    /// Messages handled at once [default: HOKUSAI_CONCURRENCY]
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,
    /// Stop after N messages
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    #[command(flatten)]
    queue: QueueName,
}

pub(crate) async fn run(args: ConsumeArgs, env: &Env<'static>) -> anyhow::Result<()> {
    let assembly = Assembly::open_queues(env).await?;
    let queue = assembly.queue(args.queue.queue.as_deref())?;
    let mut config = roles::consumer_config(&assembly.queue_config);
    config.concurrency = args.concurrency.unwrap_or(config.concurrency);
    config.limit = args.max;
    let consumer = Consumer::new(Arc::clone(&queue), config)?;
    let mut tasks = Tasks::default();
    let shutdown = tasks.shutdown();
    roles::start_reaper(&mut tasks, queue, &assembly.queue_config);
    let handler: Arc<dyn Handler> = Arc::new(Exec { command: args.exec });
    let run = consumer.run(handler, shutdown.clone());
    if args.max.is_none() {
        tasks.start("consumer", async move { Ok(run.await.map(drop)?) });
        return tasks.run_until_signal().await;
    }
    // With a limit the consumer ends by itself; a signal ends it earlier.
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut run = std::pin::pin!(run);
    loop {
        tokio::select! {
            summary = &mut run => { summary?; return tasks.stop().await; }
            _ = interrupt.recv() => shutdown.cancel(),
            _ = terminate.recv() => shutdown.cancel(),
        }
    }
}

#[derive(Debug)]
struct Exec {
    command: String,
}

#[async_trait]
impl Handler for Exec {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        match self.exec(delivery).await {
            Ok(verdict) => verdict,
            Err(error) => Verdict::Retry { error: format!("{error:#}") },
        }
    }
}

impl Exec {
    async fn exec(&self, delivery: &Delivery) -> anyhow::Result<Verdict> {
        let mut command = Command::new("/bin/sh");
        // The process group is the command's own, so that Ctrl-C reaches hokusai alone and lets it finish.
        command
            .args(["-c", &self.command])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::inherit())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("/bin/sh cannot be started")?;
        let mut stdin = child.stdin.take().context("the command has no standard input")?;
        let feed = async {
            // A command need not read its input to the end; that is no failure.
            let _ = stdin.write_all(&delivery.entry).await;
            drop(stdin);
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), feed);
        let output = output.context("the command cannot be waited for")?;
        let complaint = tail(&output.stderr);
        if !complaint.is_empty() {
            eprintln!("{complaint}");
        }
        Ok(match output.status.code() {
            Some(0) => Verdict::Done,
            Some(EXIT_BAD_MESSAGE) => Verdict::Dead { kind: "rejected".into(), error: told("exit code 65", &complaint) },
            Some(code) => Verdict::Retry { error: told(&format!("exit code {code}"), &complaint) },
            None => Verdict::Retry { error: told(&output.status.to_string(), &complaint) },
        })
    }
}

fn told(ending: &str, complaint: &str) -> String {
    if complaint.is_empty() { ending.to_owned() } else { format!("{ending}: {complaint}") }
}

fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(KEPT_ERROR_BYTES);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}
