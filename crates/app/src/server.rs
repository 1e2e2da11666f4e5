//! The server: registers models, relays their events, brings back what is stuck, learns what was deployed.

mod dead_letters;
mod deployed;
mod mlflow;
mod reapers;
mod upkeep;

use std::sync::Arc;

use anyhow::Context as _;
use hokusai_db::Database;
use hokusai_queue::Consumer;
use hokusai_registry::{
    Nudge, Registrar, RegistrarOptions, Subscriptions, registrar,
    relay::{Relay, RelayConfig, RelayStatus},
};

pub(crate) use self::{
    mlflow::MlflowParts,
    upkeep::{start_reconciler, start_sweep},
};
use crate::{assembly::Queues, config::QueueConfig, http::MlflowHook, roles, tasks::Tasks};

/// What a server works with.
pub(crate) struct ServerParts {
    pub(crate) db: Database,
    pub(crate) queues: Queues,
    pub(crate) config: QueueConfig,
    pub(crate) mlflow: Option<MlflowParts>,
}

/// What others in the process use of a running server.
pub(crate) struct Server {
    pub(crate) registrar: Registrar,
    pub(crate) relay: RelayStatus,
    pub(crate) nudge: Nudge,
    pub(crate) mlflow: Option<MlflowHook>,
}

/// Subscribes the queues and starts everything but HTTP.
pub(crate) async fn start(tasks: &mut Tasks, parts: ServerParts) -> anyhow::Result<Server> {
    let ServerParts { db, queues, config, mlflow } = parts;
    subscribe(&db, &config).await?;
    let shutdown = tasks.shutdown();
    let nudge = Nudge::new();

    let numbering = mlflow.as_ref().map(|parts| parts.mlflow.clone());
    let options =
        RegistrarOptions { max_retries: config.max_retries, nudge: nudge.clone(), mlflow: numbering, ..RegistrarOptions::default() };
    let (registrar, committer) = registrar(db.clone(), options);
    tasks.start("committer", {
        let shutdown = shutdown.clone();
        async move {
            committer.run(shutdown).await;
            Ok(())
        }
    });

    let relay = start_relay(tasks, db.clone(), queues.clone(), nudge.clone());
    tasks.start("reapers", {
        let (db, queues, config, shutdown) = (db.clone(), queues.clone(), config.clone(), shutdown.clone());
        async move {
            reapers::run(&db, &queues, &config, &shutdown).await;
            Ok(())
        }
    });
    start_sweep(tasks, db.clone(), &queues, &config);
    start_deployed_consumer(tasks, &db, &queues, &config).await?;
    let main = queues.open(&config.name)?;
    tasks.start("dead letters", {
        let db = db.clone();
        async move {
            dead_letters::watch(&db, main, &shutdown).await;
            Ok(())
        }
    });
    let mlflow = mlflow.map(|parts| mlflow::start(tasks, &db, &registrar, parts));
    Ok(Server { registrar, relay, nudge, mlflow })
}

/// Starts the relay of `db`'s outbox.
pub(crate) fn start_relay(tasks: &mut Tasks, db: Database, queues: Queues, nudge: Nudge) -> RelayStatus {
    let relay = Relay::new(db, Arc::new(queues), nudge, RelayConfig::default());
    let status = relay.status();
    let shutdown = tasks.shutdown();
    tasks.start("relay", async move {
        relay.run(shutdown).await;
        Ok(())
    });
    status
}

/// Makes the subscriptions of a server.
pub(crate) async fn subscribe(db: &Database, config: &QueueConfig) -> anyhow::Result<()> {
    Subscriptions::new(db.clone()).ensure_default(&config.name).await?;
    subscribe_others(db, config).await
}

/// Makes the subscriptions that every outbox has, a worker's own too: `model_deployed` goes to the server's queue, and to
/// whoever was subscribed to it.
pub(crate) async fn subscribe_others(db: &Database, config: &QueueConfig) -> anyhow::Result<()> {
    use hokusai_registry::subscriptions::{self, Start, Wanted};
    let types = vec![hokusai_event::MessageType::ModelDeployed];
    let deployed = Wanted { queue: config.deployed_name.clone(), types, start: Start::Beginning };
    let configured = config.subscriptions.as_deref().map(subscriptions::parse).transpose().context("HOKUSAI_SUBSCRIPTIONS")?;
    let subscriptions = Subscriptions::new(db.clone());
    for wanted in std::iter::once(deployed).chain(configured.unwrap_or_default()) {
        subscriptions.add(&wanted).await?;
    }
    Ok(())
}

async fn start_deployed_consumer(tasks: &mut Tasks, db: &Database, queues: &Queues, config: &QueueConfig) -> anyhow::Result<()> {
    let queue = queues.open(&config.deployed_name)?;
    let consumer = Consumer::new(queue, roles::consumer_config(config))?;
    let handler = Arc::new(deployed::DeployedHandler::new(db.clone(), &config.deployed_name));
    let shutdown = tasks.shutdown();
    tasks.start("model_deployed consumer", async move { Ok(consumer.run(handler, shutdown).await.map(drop)?) });
    Ok(())
}
