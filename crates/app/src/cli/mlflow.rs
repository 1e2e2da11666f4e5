//! `hokusai mlflow connect`: has MLflow tell a hokusai server of its model versions.

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use hokusai_registry::mlflow::Connected;
use serde_json::json;
use url::Url;

use super::{Outcome, output::Format};
use crate::{
    api,
    config::{Env, mlflow, webhook_secret},
};

#[derive(Debug, Subcommand)]
pub(crate) enum MlflowCommand {
    /// Make the webhook in MLflow, or change it, and have MLflow try it
    Connect {
        /// Where MLflow reaches the hokusai server, its address and /integrations/mlflow
        #[arg(long, value_name = "URL")]
        url: Url,
        /// What the webhook is called in MLflow
        #[arg(long, value_name = "NAME", default_value = "hokusai")]
        name: String,
        #[command(flatten)]
        format: Format,
    },
}

pub(crate) async fn run(command: MlflowCommand, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let MlflowCommand::Connect { url, name, format } = command;
    ensure!(matches!(url.scheme(), "http" | "https"), "--url must be an http:// or https:// address");
    let secret =
        webhook_secret(env)?.context("HOKUSAI_MLFLOW_WEBHOOK_SECRET: is not set; give the server and this command the same one")?;
    let config = mlflow(env)?.context("MLFLOW_TRACKING_URI: is not set; it names the MLflow to connect")?;
    let mlflow = api::mlflow_client(config)?;
    let Connected { webhook_id, created } = mlflow.client().connect(&name, url.as_str(), secret.reveal()).await?;
    let tried = mlflow.client().try_webhook(&webhook_id).await?;
    let answer = json!({ "webhook_id": webhook_id, "name": name, "url": url, "created": created, "works": tried.is_ok(),
        "status": tried.as_ref().ok(), "problem": tried.as_ref().err() });
    format.print(&answer, |_| {
        let done = if created { "made" } else { "changed" };
        let tried = match &tried {
            Ok(status) => format!("MLflow reached the server: {status}"),
            Err(problem) => format!("MLflow's try failed: {problem}"),
        };
        format!("webhook {name} {done}: {webhook_id}\n{tried}")
    })?;
    Ok(if tried.is_ok() { Outcome::Done } else { Outcome::Failed })
}
