//! `hokusai registration`, and where it and `register` work: a server, or the database itself.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use hokusai_db::Database;
use hokusai_registry::{Filter, Nudge, RegisterRequest, RegistrarOptions, Registrations, Relay, RelayConfig, registrar};
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::{
    Outcome,
    output::{Format, or_dash, table},
};
use crate::{
    api,
    assembly::Assembly,
    client::{ApiClient, Ids},
    config::{Env, mlflow, remote_api},
    http::wire::{Registered, RegistrationDetail, RegistrationList, RegistrationView, Search, Status, Step},
    server,
};

const POLL: Duration = Duration::from_millis(250);
/// The most registrations that a list shows.
const LIST_MAX: u32 = 200;

#[derive(Debug, Subcommand)]
pub(crate) enum RegistrationCommand {
    /// List registrations, the newest first
    List {
        /// Only those of this status: queued, deploying, deployed, rejected, refused, dead_lettered
        #[arg(long)]
        status: Option<hokusai_registry::Status>,
        /// Only those of this token
        #[arg(long, value_name = "SYMBOL")]
        token: Option<String>,
        /// Only those of this model
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(LIST_MAX)))]
        limit: u32,
        /// Only those older than this registration
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Show one with its history
    Show {
        /// The registration's id
        id: String,
        #[command(flatten)]
        format: Format,
    },
    /// Wait until one is deployed, or has come to another end (exit code 1)
    Wait {
        /// The registration's id
        id: String,
        /// Seconds to wait at most
        #[arg(long, default_value_t = 600.0)]
        timeout: f64,
        #[command(flatten)]
        format: Format,
    },
}

pub(crate) async fn run(command: RegistrationCommand, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let source = Source::open(env).await?;
    match command {
        RegistrationCommand::List { status, token, model, limit, after, format } => {
            let search = Search { status: status.map(Into::into), token, model, limit: Some(limit), after };
            let list = source.list(search).await?;
            format.print(&list, |list| describe_list(&list.registrations))?;
            Ok(Outcome::Done)
        }
        RegistrationCommand::Show { id, format } => {
            let detail = source.get(&id).await?;
            format.print(&detail, describe)?;
            Ok(Outcome::Done)
        }
        RegistrationCommand::Wait { id, timeout, format } => {
            let timeout = Duration::try_from_secs_f64(timeout).context("--timeout is not a length of time")?;
            let detail = wait(&source, &id, timeout).await?;
            format.print(&detail, describe)?;
            Ok(if detail.registration.status == Status::Deployed { Outcome::Done } else { Outcome::Failed })
        }
    }
}

async fn wait(source: &Source, id: &str, timeout: Duration) -> anyhow::Result<RegistrationDetail> {
    let progress = if stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    progress.enable_steady_tick(Duration::from_millis(100));
    let waiting = async {
        loop {
            let detail = source.get(id).await?;
            let status = detail.registration.status;
            if !matches!(status, Status::Queued | Status::Deploying) {
                return anyhow::Ok(detail);
            }
            let since = detail.history.last().map(|step| format!("{} since {}", step.step, step.at));
            progress.set_message(format!("{}: {}", detail.registration.model_id, since.unwrap_or_default()));
            tokio::time::sleep(POLL).await;
        }
    };
    let ended = tokio::time::timeout(timeout, waiting).await;
    progress.finish_and_clear();
    match ended {
        Ok(detail) => detail,
        Err(_) => {
            let status = source.get(id).await?.registration.status;
            bail!(
                "registration {id} is still {} after {} s; is a worker running, and is it connected to this queue?",
                name(status),
                timeout.as_secs()
            )
        }
    }
}

fn describe_list(registrations: &[RegistrationView]) -> String {
    let rows = registrations.iter().map(|one| {
        let address = one.deployment.as_ref().map(|deployment| deployment.token_address.as_str());
        vec![one.registration_id.clone(), name(one.status), one.model_id.clone(), or_dash(address), one.created_at.clone()]
    });
    table(&["registration", "status", "model", "token", "registered"], rows)
}

fn describe(detail: &RegistrationDetail) -> String {
    let one = &detail.registration;
    let mut text = format!(
        "{} {}\nregistration {}\n{} {} against a baseline of {}: {}\n",
        one.model_id,
        name(one.status),
        one.registration_id,
        one.metric_name,
        one.current_value,
        one.baseline_value,
        one.reason
    );
    if let Some(deployment) = &one.deployment {
        text += &format!(
            "token        {}\ntransaction  {} in block {}\ngas          {}, fee {} wei\n",
            deployment.token_address,
            or_dash(deployment.transaction_hash.as_deref()),
            or_dash(deployment.block_number),
            or_dash(deployment.gas_used),
            or_dash(deployment.fee_wei.as_deref())
        );
    }
    let steps = detail.history.iter().map(|Step { at, step, detail, .. }| vec![at.clone(), step.clone(), particulars(detail)]);
    text + "\n" + &table(&["when", "what", ""], steps)
}

pub(super) fn particulars(detail: &serde_json::Value) -> String {
    let fields = detail.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    fields
        .map(|(key, value)| format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect::<Vec<_>>()
        .join(" ")
}

fn name(status: Status) -> String {
    hokusai_registry::Status::from(status).to_string()
}

/// Where registrations are: behind `HOKUSAI_API_URL`, or in the database.
pub(crate) enum Source {
    Server(ApiClient),
    Local(Box<LocalRegistry>),
}

pub(crate) struct LocalRegistry {
    db: Database,
    assembly: Assembly,
    mlflow: Option<hokusai_registry::mlflow::Mlflow>,
}

impl Source {
    pub(crate) async fn open(env: &Env<'_>) -> anyhow::Result<Self> {
        if let Some(remote) = remote_api(env)? {
            return Ok(Self::Server(ApiClient::new(&remote.url, remote.key.as_ref().map(|key| key.reveal()))?));
        }
        let mlflow = mlflow(env)?.map(api::mlflow_client).transpose()?;
        let assembly = Assembly::open(env).await?;
        Ok(Self::Local(Box::new(LocalRegistry { db: assembly.database()?.clone(), assembly, mlflow })))
    }

    pub(crate) async fn register(&self, body: Vec<u8>, ids: Ids<'_>) -> anyhow::Result<Registered> {
        match self {
            Self::Server(client) => client.register(body, ids).await,
            Self::Local(local) => local.register(&body, ids).await,
        }
    }

    async fn get(&self, id: &str) -> anyhow::Result<RegistrationDetail> {
        self.find(id).await?.with_context(|| format!("there is no registration {id}"))
    }

    pub(crate) async fn find(&self, id: &str) -> anyhow::Result<Option<RegistrationDetail>> {
        match self {
            Self::Server(client) => client.registration(id).await,
            Self::Local(local) => local.get(id).await,
        }
    }

    /// Messages in the default queue, and in its consumers' hands.
    pub(crate) async fn waiting(&self) -> anyhow::Result<(u64, u64)> {
        match self {
            Self::Server(client) => client.waiting().await,
            Self::Local(local) => {
                let stats = local.assembly.queue(None)?.stats().await?;
                Ok((stats.main, stats.processing))
            }
        }
    }

    pub(crate) async fn list(&self, search: Search) -> anyhow::Result<RegistrationList> {
        match self {
            Self::Server(client) => client.registrations(&search).await,
            Self::Local(local) => local.list(search).await,
        }
    }
}

impl LocalRegistry {
    /// Registers in this process, and relays at once, so that no server needs to run for the message to reach its queue.
    async fn register(&self, body: &[u8], ids: Ids<'_>) -> anyhow::Result<Registered> {
        let request = RegisterRequest::from_json(body)?;
        server::subscribe(&self.db, &self.assembly.queue_config).await?;
        let options = RegistrarOptions {
            max_retries: self.assembly.queue_config.max_retries,
            mlflow: self.mlflow.clone(),
            ..RegistrarOptions::default()
        };
        let (registrar, committer) = registrar(self.db.clone(), options);
        let stop = CancellationToken::new();
        let key = ids.idempotency_key.map(str::to_owned);
        let register = async {
            let receipt = registrar.register(request, key, ids.correlation_id.map(str::to_owned)).await;
            stop.cancel();
            receipt
        };
        let (receipt, ()) = tokio::join!(register, committer.run(stop.clone()));
        let receipt = receipt?;
        let relay = Relay::new(self.db.clone(), std::sync::Arc::new(self.assembly.queues.clone()), Nudge::new(), RelayConfig::default());
        if let Err(error) = relay.pass().await {
            eprintln!("registered; its message is kept and reaches the queue when a server relays it ({error})");
        }
        Ok(receipt.into())
    }

    async fn get(&self, id: &str) -> anyhow::Result<Option<RegistrationDetail>> {
        let registrations = Registrations::new(self.db.clone());
        let Some(registration) = registrations.get(id).await? else { return Ok(None) };
        let history = registrations.history(id).await?.into_iter().map(Step::from).collect();
        Ok(Some(RegistrationDetail { registration: registration.into(), history }))
    }

    async fn list(&self, search: Search) -> anyhow::Result<RegistrationList> {
        let limit = search.limit.unwrap_or(LIST_MAX);
        let filter = Filter { status: search.status.map(Into::into), token: search.token, model: search.model, after: search.after, limit };
        let found = Registrations::new(self.db.clone()).list(&filter).await?;
        let next = (found.len() == limit as usize).then(|| found.last().map(|last| last.document.registration_id.clone())).flatten();
        Ok(RegistrationList { registrations: found.into_iter().map(RegistrationView::from).collect(), next })
    }
}
