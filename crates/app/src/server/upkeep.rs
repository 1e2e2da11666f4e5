//! What is done for the outbox in the background: the sweep, and the reconciler.

use std::sync::Arc;

use hokusai_db::Database;
use hokusai_registry::{ChainRecord, Reconciler, ReconcilerConfig, Sweep, SweepConfig};

use crate::{assembly::Queues, config::QueueConfig, tasks::Tasks};

/// Finds out what foreign consumers have finished, and prunes what nobody needs.
pub(crate) fn start_sweep(tasks: &mut Tasks, db: Database, queues: &Queues, config: &QueueConfig) {
    let sweep_config = SweepConfig { retention: config.outbox_retention, ..SweepConfig::default() };
    let sweep = Sweep::new(db, Arc::new(queues.clone()), sweep_config);
    let shutdown = tasks.shutdown();
    tasks.start("sweep", async move {
        sweep.run(shutdown).await;
        Ok(())
    });
}

/// Publishes again what is neither queued nor on the chain.
pub(crate) fn start_reconciler(
    tasks: &mut Tasks,
    db: Database,
    queues: &Queues,
    config: &QueueConfig,
    chain: Option<Arc<dyn ChainRecord>>,
) -> anyhow::Result<()> {
    let defaults = ReconcilerConfig::default();
    let interval = defaults.interval.min(config.reconcile_after.max(std::time::Duration::from_secs(1)));
    let reconciler_config = ReconcilerConfig { after: config.reconcile_after, interval, ..defaults };
    let reconciler = Reconciler::new(db, queues.open(&config.name)?, chain, reconciler_config);
    let shutdown = tasks.shutdown();
    tasks.start("reconciler", async move {
        reconciler.run(shutdown).await;
        Ok(())
    });
    Ok(())
}
