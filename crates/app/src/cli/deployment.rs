//! `hokusai deployment`: what the ledger knows, and what a person wants of it.

use anyhow::Context as _;
use clap::Subcommand;
use hokusai_deploy::{Deployment, DeploymentState, Deployments, Filter, Wish};

use super::output::{Format, or_dash, table};
use crate::{
    assembly::open_database,
    config::{Env, database_url},
};

#[derive(Debug, Subcommand)]
pub(crate) enum DeploymentCommand {
    /// List deployments, the oldest first
    List {
        /// Only those in this state: planned, signed, broadcast, included, final, refused
        #[arg(long)]
        state: Option<DeploymentState>,
        /// Only those of this token
        #[arg(long, value_name = "SYMBOL")]
        token: Option<String>,
        /// Only those this message asked for
        #[arg(long, value_name = "ID")]
        message: Option<String>,
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        format: Format,
    },
    /// Replace a stuck transaction by a dearer one now
    Bump(WishArgs),
    /// Do not deploy one after all; what was sent already may win nevertheless
    Cancel(WishArgs),
    /// Plan a refused one again, whatever it was refused for
    Retry(WishArgs),
    /// Show one
    Show {
        /// The deployment's id
        id: String,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct WishArgs {
    /// The deployment's id
    id: String,
    #[command(flatten)]
    format: Format,
}

pub(crate) async fn run(command: DeploymentCommand, env: &Env<'_>) -> anyhow::Result<()> {
    let deployments = Deployments::new(open_database(&database_url(env)?).await?);
    match command {
        DeploymentCommand::List { state, token, message, limit, format } => {
            let filter = Filter { state, symbol: token, message_id: message, limit: Some(limit), ..Filter::default() };
            let found = deployments.list(&filter).await?;
            format.print(&found, |found| table(&["deployment", "state", "model", "token", "transaction", "gas"], found.iter().map(row)))
        }
        DeploymentCommand::Bump(args) => wish(&deployments, Wish::Bump, args).await,
        DeploymentCommand::Cancel(args) => wish(&deployments, Wish::Cancel, args).await,
        DeploymentCommand::Retry(args) => wish(&deployments, Wish::Retry, args).await,
        DeploymentCommand::Show { id, format } => {
            let found = deployments.get(&id).await?.with_context(|| format!("the ledger holds no deployment {id}"))?;
            format.print(&found, describe)
        }
    }
}

/// Writes down what the worker that holds the account is to do at its next turn.
async fn wish(deployments: &Deployments, wish: Wish, WishArgs { id, format }: WishArgs) -> anyhow::Result<()> {
    let asked = deployments.wish(&id, wish).await?.with_context(|| format!("the ledger holds no deployment {id}"))?;
    let state = asked.deployment.state;
    let because = asked.deployment.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    anyhow::ensure!(asked.noted, "deployment {id} is {state}{because}: nothing can be done about it this way");
    format.print(&asked, |_| format!("noted; the worker does it at its next turn (now {state})"))
}

fn row(deployment: &Deployment) -> Vec<String> {
    vec![
        deployment.id.clone(),
        deployment.state.to_string(),
        deployment.request.model_id.clone(),
        deployment.token_address.to_string(),
        or_dash(deployment.transaction_hash),
        or_dash(deployment.gas_used),
    ]
}

fn describe(deployment: &Deployment) -> String {
    let time = |ms| jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |at| at.to_string());
    let lines = [
        ("model", deployment.request.model_id.clone()),
        ("state", deployment.state.to_string()),
        ("reason", or_dash(deployment.reason.as_deref())),
        ("chain", deployment.chain_id.to_string()),
        ("registry", deployment.registry.to_string()),
        ("token", deployment.token_address.to_string()),
        ("transaction", or_dash(deployment.transaction_hash)),
        ("block", or_dash(deployment.block_number)),
        ("gas", or_dash(deployment.gas_used)),
        ("fee (wei)", or_dash(deployment.fee_wei)),
        ("outcome", or_dash(deployment.outcome.as_deref())),
        ("message", deployment.request.message_id.clone()),
        ("correlation", deployment.request.correlation_id.clone()),
        ("planned", time(deployment.created_at_ms)),
        ("changed", time(deployment.updated_at_ms)),
    ];
    lines.map(|(name, value)| format!("{name:12} {value}")).join("\n")
}
