//! `hokusai consume --exec CMD`: a consumer in any language, one process for each message.
//!
//! The envelope goes to the command's standard input. Exit code 0 acknowledges, 65 (`EX_DATAERR` of BSD's sysexits)
//! dead-letters at once, anything else is a failed attempt.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_trait::async_trait;
use clap::Args;
use hokusai_queue::{Consumer, Delivery, Handler, Verdict};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStderr, Command},
    sync::oneshot,
};

use super::QueueName;
use crate::{assembly::Assembly, config::Env, roles, tasks::Tasks};

/// `EX_DATAERR`: the input is bad, and no further attempt can help.
const EXIT_BAD_MESSAGE: i32 = 65;
/// How much of a failed command's standard error is kept with the message.
const KEPT_ERROR_BYTES: usize = 2000;
/// How long a finished command's last words may take to arrive.
const LATE_WORDS: Duration = Duration::from_millis(100);
/// Beyond the handler timeout, for settling what the handlers said.
const GRACE: Duration = Duration::from_secs(10);

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
    let grace = config.handler_timeout + GRACE;
    let has_limit = config.limit.is_some();
    let consumer = Consumer::new(Arc::clone(&queue), config)?;
    let mut tasks = Tasks::with_grace(grace);
    let shutdown = tasks.shutdown();
    roles::start_reaper(&mut tasks, queue, &assembly.queue_config);
    let handler: Arc<dyn Handler> = Arc::new(Exec { command: args.exec });
    let (ended, limit_reached) = oneshot::channel();
    tasks.start("consumer", async move {
        consumer.run(handler, shutdown.clone()).await?;
        if has_limit {
            let _ = ended.send(());
            shutdown.cancelled().await;
        }
        Ok(())
    });
    let done = async {
        // Without a limit the sender is dropped when the consumer ends, which is then a failure for the tasks to tell.
        if limit_reached.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tasks.run_until(done).await
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
        command.args(["-c", &self.command]).process_group(0).stdin(whole(&delivery.entry)?).stdout(Stdio::inherit()).stderr(Stdio::piped());
        let mut child = command.spawn().context("/bin/sh cannot be started")?;
        let group = Group::of(&child);
        let stderr = child.stderr.take().context("the command has no standard error")?;
        let mut complaint = Tail::default();
        let run = async { child.wait().await.context("the command cannot be waited for") };
        let status = complaint.listen(stderr, run).await?;
        group.ended();
        Ok(match status.code() {
            Some(0) => Verdict::Done,
            Some(EXIT_BAD_MESSAGE) => Verdict::Dead { kind: "rejected".into(), error: told("exit code 65", &complaint.text()) },
            Some(code) => Verdict::Retry { error: told(&format!("exit code {code}"), &complaint.text()) },
            None => Verdict::Retry { error: told(&status.to_string(), &complaint.text()) },
        })
    }
}

/// A message as standard input that is complete before the command starts. Through a pipe a command that outlives us, killed
/// at the wrong moment, would take the beginning of a message, or nothing, for all of it.
fn whole(message: &[u8]) -> anyhow::Result<Stdio> {
    use std::io::{Seek as _, Write as _};
    let mut file = tempfile::tempfile().context("the message cannot be laid out for the command")?;
    file.write_all(message).context("the message cannot be laid out for the command")?;
    file.rewind().context("the message cannot be laid out for the command")?;
    Ok(file.into())
}

/// The command's process group. Dropped before the command ended (the handler timeout), it is killed as a whole, so that
/// nothing of it works on beside the next attempt.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The end of what a command says on standard error, which is also passed on.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// Listens until `run` is over, and a moment longer for what is still on the way: a process that the command left in the
    /// background may hold the pipe for ever.
    async fn listen<T>(&mut self, mut stderr: ChildStderr, run: impl Future<Output = T>) -> T {
        let mut run = std::pin::pin!(run);
        let mut chunk = [0; 4096];
        let ended = loop {
            tokio::select! {
                ended = &mut run => break ended,
                read = stderr.read(&mut chunk) => match read {
                    Ok(length @ 1..) => self.hear(&chunk[..length]),
                    Ok(0) | Err(_) => break run.await,
                },
            }
        };
        while let Ok(Ok(length @ 1..)) = tokio::time::timeout(LATE_WORDS, stderr.read(&mut chunk)).await {
            self.hear(&chunk[..length]);
        }
        ended
    }

    fn hear(&mut self, words: &[u8]) {
        use std::io::Write as _;
        // Nobody may be listening to ours.
        let _ = std::io::stderr().write_all(words);
        self.0.extend_from_slice(words);
        let surplus = self.0.len().saturating_sub(KEPT_ERROR_BYTES);
        self.0.drain(..surplus);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim().to_owned()
    }
}

fn told(ending: &str, complaint: &str) -> String {
    if complaint.is_empty() { ending.to_owned() } else { format!("{ending}: {complaint}") }
}
