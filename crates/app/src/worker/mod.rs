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

mod handler;
mod held;
mod journal;
mod request;

use std::{sync::Arc, time::Duration};

use alloy::primitives::Address;
use hokusai_db::Database;
use hokusai_deploy::{Ledger, Node, Sender, SenderConfig, Signer};
use hokusai_queue::{Consumer, ConsumerConfig, Queue};
use hokusai_registry::Nudge;

use self::{
    handler::{DeployHandler, HandlerParts},
    held::Held,
    journal::RegistryJournal,
};
use crate::tasks::Tasks;

/// How often held messages are compared with the ledger, for what another process settled there.
const LEDGER_POLL: Duration = Duration::from_millis(300);

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
        let shutdown = shutdown.clone();
        async move {
            held.watch(&ledger.deployments(), LEDGER_POLL, &shutdown).await;
            Ok(())
        }
    });
    tasks.start("consumer", async move { Ok(consumer.run(handler, shutdown).await.map(drop)?) });
    Ok(())
}
