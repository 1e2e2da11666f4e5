//! The server: registers models, relays their events, brings back what is stuck, learns what was deployed.

mod dead_letters;
mod deployed;

use std::sync::Arc;

use hokusai_db::Database;
use hokusai_queue::{Consumer, Queue};
use hokusai_registry::{
    Nudge, Registrar, RegistrarOptions, Subscriptions, registrar,
    relay::{Relay, RelayConfig, RelayStatus},
};

use crate::{assembly::Queues, config::QueueConfig, roles, tasks::Tasks};

/// What a server works with.
pub(crate) struct ServerParts {
    pub(crate) db: Database,
    pub(crate) queues: Queues,
    pub(crate) config: QueueConfig,
    pub(crate) mlflow: Option<hokusai_registry::mlflow::Mlflow>,
}

/// What others in the process use of a running server.
pub(crate) struct Server {
    pub(crate) registrar: Registrar,
    pub(crate) relay: RelayStatus,
    pub(crate) nudge: Nudge,
}

/// Subscribes the queues and starts everything but HTTP.
pub(crate) async fn start(tasks: &mut Tasks, parts: ServerParts) -> anyhow::Result<Server> {
    let ServerParts { db, queues, config, mlflow } = parts;
    let known = subscribe(&db, &queues, &config).await?;
    let shutdown = tasks.shutdown();
    let nudge = Nudge::new();

    let options = RegistrarOptions { max_retries: config.max_retries, nudge: nudge.clone(), mlflow, ..RegistrarOptions::default() };
    let (registrar, committer) = registrar(db.clone(), options);
    tasks.start("committer", {
        let shutdown = shutdown.clone();
        async move {
            committer.run(shutdown).await;
            Ok(())
        }
    });

    let relay = start_relay(tasks, db.clone(), queues.clone(), nudge.clone());
    for queue in &known {
        roles::start_reaper(tasks, Arc::clone(queue), &config);
    }
    start_deployed_consumer(tasks, &db, &queues, &config).await?;
    let main = queues.open(&config.name)?;
    tasks.start("dead letters", {
        let db = db.clone();
        async move {
            dead_letters::watch(&db, main, &shutdown).await;
            Ok(())
        }
    });
    Ok(Server { registrar, relay, nudge })
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

/// Makes the configured subscriptions, and opens every queue the server knows.
pub(crate) async fn subscribe(db: &Database, queues: &Queues, config: &QueueConfig) -> anyhow::Result<Vec<Arc<dyn Queue>>> {
    let subscriptions = Subscriptions::new(db.clone());
    subscriptions.ensure_default(&config.name).await?;
    subscribe_deployed(db, config).await?;
    for wanted in config.subscriptions.as_deref().map(hokusai_registry::subscriptions::parse).transpose()?.unwrap_or_default() {
        subscriptions.add(&wanted).await?;
    }
    let mut known = Vec::new();
    for subscription in subscriptions.list().await? {
        known.push(queues.open(&subscription.queue)?);
    }
    Ok(known)
}

/// `model_deployed` goes to the server's own queue, from whichever database it was committed in.
pub(crate) async fn subscribe_deployed(db: &Database, config: &QueueConfig) -> anyhow::Result<()> {
    use hokusai_registry::subscriptions::{Start, Wanted};
    let types = vec![hokusai_event::MessageType::ModelDeployed];
    let wanted = Wanted { queue: config.deployed_name.clone(), types, start: Start::Beginning };
    Ok(Subscriptions::new(db.clone()).add(&wanted).await?)
}

async fn start_deployed_consumer(tasks: &mut Tasks, db: &Database, queues: &Queues, config: &QueueConfig) -> anyhow::Result<()> {
    let queue = queues.open(&config.deployed_name)?;
    let consumer = Consumer::new(queue, roles::consumer_config(config))?;
    let handler = Arc::new(deployed::DeployedHandler::new(db.clone()));
    let shutdown = tasks.shutdown();
    tasks.start("model_deployed consumer", async move { Ok(consumer.run(handler, shutdown).await.map(drop)?) });
    Ok(())
}
