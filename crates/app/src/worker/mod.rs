//! The worker: turns `model_ready_to_deploy` messages into deployments, and settles the messages when those are done.
//!
//! ```text
//! queue ──▶ handler ──plan──▶ ledger ◀──▶ sender ──▶ chain
//!              │ held            │
//!              ▼                 ▼ same SQL transaction
//!            held ◀──settled── journal ──▶ registration, history, model_deployed, finished
//!              └──▶ acknowledged or dead-lettered
//! ```
//!
//! A planned message stays in processing, held, until its deployment is final or refused. If this process dies meanwhile,
//! the message is delivered again and attaches to the same row of the ledger.

mod direct;
mod handler;
mod held;
mod journal;
mod planner;
mod request;

use std::{sync::Arc, time::Duration};

use alloy::primitives::Address;
use hokusai_db::Database;
use hokusai_deploy::{Ledger, Node, Pruned, Sender, SenderConfig, Signer};
use hokusai_queue::{Consumer, ConsumerConfig, Queue};
use hokusai_registry::Nudge;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{direct::Direct, request::Unusable};
use self::{
    handler::{DeployHandler, HandlerParts},
    held::Held,
    journal::RegistryJournal,
};
use crate::tasks::Tasks;

/// How often held messages are compared with the ledger, for what another process settled there.
const LEDGER_POLL: Duration = Duration::from_millis(300);

/// How much is forgotten in one transaction, the pause before the next one, and that before the next look.
const PRUNED_AT_ONCE: u32 = 200;
const PRUNE_PAUSE: Duration = Duration::from_millis(500);
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// What a worker works with.
pub(crate) struct WorkerParts {
    pub(crate) db: Database,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) consumer: ConsumerConfig,
    pub(crate) node: Node,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) registry: Address,
    pub(crate) chain_id: u64,
    pub(crate) sender: SenderConfig,
    /// Woken when a `model_deployed` event was committed.
    pub(crate) nudge: Nudge,
    /// `max_retries` of the messages it emits.
    pub(crate) max_retries: u32,
    /// How long what ended stays in the ledger; `None` for ever.
    pub(crate) ledger_retention: Option<Duration>,
}

/// Starts consumer and sender.
pub(crate) fn start(tasks: &mut Tasks, parts: WorkerParts) -> anyhow::Result<()> {
    let consumer = Consumer::new(Arc::clone(&parts.queue), parts.consumer.clone())?;
    let held = Arc::new(Held::new(consumer.holder()));
    let journal = Arc::new(RegistryJournal::new(parts.queue.name(), parts.max_retries, parts.nudge.clone(), Arc::clone(&held)));
    let ledger = Ledger::new(parts.db.clone(), parts.chain_id, parts.registry, journal);
    let sender = Sender::new(ledger.clone(), parts.node, parts.signer, parts.sender);
    let handler = Arc::new(DeployHandler::new(HandlerParts {
        ledger: ledger.clone(),
        db: parts.db,
        queue: parts.queue.name(),
        held: Arc::clone(&held),
        sender: sender.status(),
        nudge: parts.nudge,
        max_retries: parts.max_retries,
    }));

    let shutdown = tasks.shutdown();
    tasks.start("sender", {
        let shutdown = shutdown.clone();
        async move { Ok(sender.run(shutdown).await?) }
    });
    tasks.start("held messages", {
        let (shutdown, deployments) = (shutdown.clone(), ledger.deployments());
        async move {
            held.watch(&deployments, LEDGER_POLL, &shutdown).await;
            Ok(())
        }
    });
    if let Some(retention) = parts.ledger_retention {
        let (ledger, shutdown) = (ledger.clone(), shutdown.clone());
        tasks.start("ledger pruning", async move {
            prune(&ledger, retention, &shutdown).await;
            Ok(())
        });
    }
    tasks.start("consumer", async move { Ok(consumer.run(handler, shutdown).await.map(drop)?) });
    Ok(())
}

/// Forgets what ended longer ago than `retention`, now and every hour, in short transactions with pauses between them.
async fn prune(ledger: &Ledger, retention: Duration, shutdown: &CancellationToken) {
    let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    loop {
        let before_ms = jiff::Timestamp::now().as_millisecond().saturating_sub(retention_ms);
        let pause = match ledger.prune(before_ms, PRUNED_AT_ONCE).await {
            Ok(pruned) => {
                if pruned != Pruned::default() {
                    tracing::info!(deployments = pruned.deployments, slots = pruned.slots, "forgot what ended long ago");
                }
                let more = pruned.deployments.max(pruned.slots) >= PRUNED_AT_ONCE as usize;
                if more { PRUNE_PAUSE } else { PRUNE_EVERY }
            }
            Err(error) => {
                tracing::warn!(%error, "the ledger could not be pruned; trying again later");
                PRUNE_EVERY
            }
        };
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}
