//! Joins the HTTP interface to the parts of a running process.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use hokusai_db::Database;
use hokusai_registry::{
    Registrations, Subscriptions,
    mlflow::{Mlflow, MlflowClient, MlflowSettings, MlflowTls},
};
use tokio::net::TcpListener;

use crate::{
    assembly,
    config::{self, Env, MlflowConfig, QueueConfig},
    http::{self, Api, Carrier, ChainCheck},
    server::{MlflowParts, Server},
    tasks::Tasks,
};

/// What the handlers work with.
pub(crate) fn assemble(
    server: &Server,
    db: Database,
    queues: &assembly::Queues,
    config: &QueueConfig,
    chain: Option<Arc<dyn ChainCheck>>,
) -> Api {
    Api {
        registrar: server.registrar.clone(),
        registrations: Registrations::new(db.clone()),
        subscriptions: Subscriptions::new(db.clone()),
        database: db,
        queues: http::Queues {
            carrier: if queues.on_redis() { Carrier::Redis } else { Carrier::Local },
            default: config.name.clone(),
            others: vec![config.deployed_name.clone()],
            opener: Arc::new(queues.clone()),
        },
        relay: Some(server.relay.clone()),
        chain,
        mlflow: server.mlflow.clone(),
        version: http::Version { version: env!("CARGO_PKG_VERSION"), commit: option_env!("HOKUSAI_COMMIT") },
    }
}

/// Serves the API as one of the process's tasks.
pub(crate) fn start(tasks: &mut Tasks, listener: TcpListener, api: Api) {
    let shutdown = tasks.shutdown();
    tasks.start("HTTP", async move { Ok(http::serve(listener, http::router(api), shutdown).await?) });
}

/// MLflow as the environment names it, with what is done for its users.
pub(crate) fn mlflow_parts(env: &Env<'_>) -> anyhow::Result<Option<MlflowParts>> {
    let Some(config) = config::mlflow(env)? else { return Ok(None) };
    Ok(Some(MlflowParts {
        mlflow: mlflow_client(config)?,
        webhook_secret: config::webhook_secret(env)?,
        sweep: config::mlflow_sweep(env)?,
    }))
}

/// A client of the configured MLflow.
pub(crate) fn mlflow_client(config: MlflowConfig) -> anyhow::Result<Mlflow> {
    let reveal = |secret: Option<crate::config::Secret>| secret.map(|secret| secret.reveal().to_owned());
    let settings = MlflowSettings {
        username: reveal(config.username),
        password: reveal(config.password),
        token: reveal(config.token),
        timeout: config.timeout,
        tls: MlflowTls {
            insecure: config.insecure_tls,
            authorities_pem: pem(config.authorities.as_deref(), "MLFLOW_TRACKING_SERVER_CERT_PATH")?,
            client_pem: pem(config.client_certificate.as_deref(), "MLFLOW_TRACKING_CLIENT_CERT_PATH")?,
        },
        ..MlflowSettings::new(config.tracking_uri)
    };
    Ok(Mlflow::new(MlflowClient::new(settings)?))
}

fn pem(file: Option<&Path>, variable: &str) -> anyhow::Result<Option<Vec<u8>>> {
    file.map(|file| std::fs::read(file).with_context(|| format!("{variable}: {} cannot be read", file.display()))).transpose()
}
