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

/// SIGINT and SIGTERM, from the moment they are watched: one that comes while a role still starts is not forgotten.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    pub(crate) fn watch() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(unix::SignalKind::interrupt()).context("SIGINT cannot be watched")?,
            terminate: unix::signal(unix::SignalKind::terminate()).context("SIGTERM cannot be watched")?,
        })
    }

    /// Waits for either.
    pub(crate) async fn received(&mut self) {
        let name = tokio::select! { _ = self.interrupt.recv() => "SIGINT", _ = self.terminate.recv() => "SIGTERM" };
        tracing::info!("Received {name}, shutting down");
    }
}

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

    /// The same with signals that were watched before.
    pub(crate) async fn run_until_received(self, signals: Signals) -> anyhow::Result<()> {
        self.run(signals, std::future::pending()).await
    }

    /// Runs until `done`, a signal, or a task that fails; then stops all tasks. A second SIGINT does not wait for them.
    pub(crate) async fn run_until(self, done: impl Future<Output = ()>) -> anyhow::Result<()> {
        self.run(Signals::watch()?, done).await
    }

    async fn run(mut self, mut signals: Signals, done: impl Future<Output = ()>) -> anyhow::Result<()> {
        let failure = tokio::select! {
            () = signals.received() => None,
            ended = self.running.join_next() => Some(unexpected(ended)),
            () = done => None,
        };
        self.shutdown.cancel();
        let stopped = tokio::select! {
            stopped = self.join() => stopped,
            _ = signals.interrupt.recv() => Err(anyhow!("interrupted again: stopped without finishing what was in hand")),
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
