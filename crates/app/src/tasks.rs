//! The tasks of a long-running role: started by name, stopped together.
//!
//! This is the only place that spawns. A task ends because it was told to; one that ends before, by error or panic, takes
//! the process down with a non-zero exit code, so that whatever supervises it starts it again: a server without its relay
//! would look alive and deliver nothing.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use tokio::{signal::unix, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long the tasks may take to finish what is in hand after they were told to stop, unless said otherwise.
const GRACE: Duration = Duration::from_secs(30);

/// The running tasks of a role.
#[derive(Debug)]
pub(crate) struct Tasks {
    running: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
    grace: Duration,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::with_grace(GRACE)
    }
}

impl Tasks {
    /// Tasks that may take so long to finish what is in hand.
    pub(crate) fn with_grace(grace: Duration) -> Self {
        Self { running: JoinSet::new(), shutdown: CancellationToken::new(), grace }
    }

    /// The signal to stop; every task watches it.
    pub(crate) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task.
    pub(crate) fn start<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.running.spawn(async move { (name, task.await) });
    }

    /// Runs until SIGINT or SIGTERM, or until a task fails; then stops all of them.
    pub(crate) async fn run_until_signal(self) -> anyhow::Result<()> {
        self.run_until(std::future::pending()).await
    }

    /// Runs until `done`, a signal, or a task that fails; then stops all tasks. A second SIGINT does not wait for them.
    pub(crate) async fn run_until(mut self, done: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut interrupt = unix::signal(unix::SignalKind::interrupt()).context("SIGINT cannot be watched")?;
        let mut terminate = unix::signal(unix::SignalKind::terminate()).context("SIGTERM cannot be watched")?;
        let failure = tokio::select! {
            _ = interrupt.recv() => { tracing::info!("Received SIGINT, shutting down"); None }
            _ = terminate.recv() => { tracing::info!("Received SIGTERM, shutting down"); None }
            ended = self.running.join_next() => Some(unexpected(ended)),
            () = done => None,
        };
        self.shutdown.cancel();
        let stopped = tokio::select! {
            stopped = self.join() => stopped,
            _ = interrupt.recv() => Err(anyhow!("interrupted again: stopped without finishing what was in hand")),
        };
        match failure {
            Some(failure) => Err(failure),
            None => stopped,
        }
    }

    /// Stops all tasks and waits for them.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.join().await
    }

    /// Resolves when a task ends although nobody told it to.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        unexpected(self.running.join_next().await)
    }

    async fn join(&mut self) -> anyhow::Result<()> {
        let grace = self.grace;
        let all = async {
            let mut first_failure = Ok(());
            while let Some(ended) = self.running.join_next().await {
                let ended = ended.context("a task panicked").and_then(|(name, result)| result.context(name));
                if first_failure.is_ok() {
                    first_failure = ended;
                }
            }
            first_failure
        };
        match timeout(grace, all).await {
            Ok(result) => result,
            Err(_) => bail!("not everything stopped within {} s; what was in hand will be delivered again", grace.as_secs()),
        }
    }
}

type Ended = Option<Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>>;

fn unexpected(ended: Ended) -> anyhow::Error {
    match ended {
        Some(Ok((name, Err(error)))) => error.context(format!("{name} failed")),
        Some(Ok((name, Ok(())))) => anyhow!("{name} ended although nobody told it to"),
        Some(Err(panic)) => anyhow::Error::new(panic).context("a task panicked"),
        None => anyhow!("there is nothing to run"),
    }
}
