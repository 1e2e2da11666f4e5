//! The long-running roles of production: `serve` and `worker`.

use std::{sync::Arc, time::Duration};

use alloy::primitives::Address;
use anyhow::Context as _;
use hokusai_deploy::{
    BadKmsKey, ChainFacts, Finality, HttpOptions, KmsSigner, LocalSigner, Node, SenderConfig, Signer, Unfitting, check_chain,
};
use hokusai_queue::{
    ConsumerConfig, LeaseTerms, Queue,
    reaper::{self, ReaperConfig},
};
use hokusai_registry::{ChainRecord, Nudge};

use crate::{
    api,
    assembly::Assembly,
    chain_check::RegistryOnChain,
    config::{ChainConfig, DeployerKey, Env, QueueConfig, ServerConfig, database_url},
    http::ChainCheck,
    rpc_server,
    server::{self, ServerParts},
    tasks::{Signals, Tasks},
    worker::{self, WorkerParts},
};

/// Pause between two tries to ask how the queue's server is set up.
const CHECK_PAUSE: Duration = Duration::from_secs(5);
/// Pause between two tries to reach the node at startup.
const NODE_PAUSE: Duration = Duration::from_secs(3);

/// `hokusai serve`.
pub(crate) async fn serve(env: &Env<'static>) -> anyhow::Result<()> {
    let listen = ServerConfig::read(env)?;
    listen.require_loopback()?;
    let mlflow = api::mlflow_parts(env)?;
    let assembly = Assembly::open(env).await?;
    let listener = rpc_server::bind(listen.listen, "HOKUSAI_LISTEN").await?;
    let chain = RegistryOnChain::configured(env)?.map(Arc::new);
    let mut tasks = Tasks::default();
    let db = assembly.database()?.clone();
    let parts = ServerParts { db: db.clone(), queues: assembly.queues.clone(), config: assembly.queue_config.clone(), mlflow };
    let server = server::start(&mut tasks, parts).await?;
    let record = chain.clone().map(|chain| chain as Arc<dyn ChainRecord>);
    server::start_reconciler(&mut tasks, db.clone(), &assembly.queues, &assembly.queue_config, record)?;
    let chain = chain.map(|chain| chain as Arc<dyn ChainCheck>);
    let api = api::assemble(&server, db, &assembly.queues, &assembly.queue_config, chain);
    tracing::info!(queue = assembly.queue_config.name, "Serving http://{}", listener.local_addr()?);
    api::start(&mut tasks, listener, api);
    start_setup_check(&mut tasks, assembly.queue(None)?);
    tasks.run_until_signal().await
}

/// `hokusai worker`. Everything that can be missing is found before the first message is taken.
pub(crate) async fn worker(env: &Env<'static>) -> anyhow::Result<()> {
    let missing = ChainConfig::missing_for_worker(env);
    anyhow::ensure!(missing.is_empty(), missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    let config = ChainConfig::read(env)?;
    let signer = signer(env).await?;
    let registry = parse_registry(&config.registry)?;
    let node = Node::http(&config.providers, &HttpOptions::default()).context("WEB3_PROVIDER_URL")?;
    let assembly = Assembly::open(env).await?;
    let db = assembly.database()?.clone();
    let queue = assembly.queue(None)?;
    let mut tasks = Tasks::default();
    let mut signals = Signals::watch()?;
    let check = check_until_reachable(&node, registry, signer.address(), &config);
    let facts = tokio::select! { facts = check => facts?, () = signals.received() => return Ok(()) };
    tracing::info!(chain_id = facts.chain_id, %registry, deployer = %signer.address(), finality = %facts.finality, "Starting Hokusai token deployment service");
    warn_if_not_permitted(&facts, registry, signer.address());
    log_stats(queue.as_ref()).await;
    start_setup_check(&mut tasks, Arc::clone(&queue));

    server::subscribe_others(&db, &assembly.queue_config).await?;
    let sender = sender_config(&config, facts.finality);
    let nudge = Nudge::new();
    server::start_relay(&mut tasks, db.clone(), assembly.queues.clone(), nudge.clone());
    server::start_sweep(&mut tasks, db.clone(), &assembly.queues, &assembly.queue_config);
    start_reaper(&mut tasks, Arc::clone(&queue), &assembly.queue_config);
    let parts = WorkerParts {
        db,
        queue,
        consumer: consumer_config(&assembly.queue_config),
        node,
        signer,
        registry,
        chain_id: facts.chain_id,
        sender,
        nudge,
        max_retries: assembly.queue_config.max_retries,
        ledger_retention: config.ledger_retention,
    };
    worker::start(&mut tasks, parts)?;
    tasks.run_until_received(signals).await
}

/// `hokusai migrate`. Opening migrates.
pub(crate) async fn migrate(env: &Env<'_>) -> anyhow::Result<()> {
    let db = crate::assembly::open_database(&database_url(env)?).await?;
    crate::cli::print_line(&format!("the tables of {} are up to date", db.display_url()))
}

/// The deployer's key as a signer, with the address that is pinned.
pub(crate) async fn signer(env: &Env<'_>) -> anyhow::Result<Arc<dyn Signer>> {
    let pinned = ChainConfig::deployer_address(env)?;
    let signer = match ChainConfig::deployer_key(env)? {
        DeployerKey::Plain(key) => LocalSigner::from_hex(key.reveal()).context("DEPLOYER_PRIVATE_KEY")?,
        DeployerKey::Keystore { path, password } => {
            LocalSigner::from_keystore(&path, password.reveal()).context("HOKUSAI_DEPLOYER_KEYSTORE")?
        }
        DeployerKey::Kms { key_id } => return Ok(Arc::new(kms_signer(&key_id, pinned).await?)),
    };
    let address = signer.address();
    if let Some(pinned) = pinned.filter(|pinned| *pinned != address) {
        anyhow::bail!("HOKUSAI_DEPLOYER_ADDRESS pins {pinned}, but the deployer's key has the address {address}");
    }
    Ok(Arc::new(signer))
}

/// A key in KMS. The SDK itself reads the standard variables of AWS, and asks the instance or pod for credentials.
async fn kms_signer(key_id: &str, pinned: Option<Address>) -> anyhow::Result<KmsSigner> {
    let aws = aws_config::defaults(aws_config::BehaviorVersion::latest()).load().await;
    KmsSigner::open(&aws, key_id, pinned).await.map_err(|error| match error {
        BadKmsKey::Unpinned { key_id, address } => {
            anyhow::anyhow!(
                "HOKUSAI_DEPLOYER_ADDRESS: is not set; the key {key_id} has the address {address}: if that is the deployer's, set it"
            )
        }
        other => anyhow::Error::new(other).context("HOKUSAI_DEPLOYER_KMS_KEY_ID"),
    })
}

/// The sender's settings by the configuration.
pub(crate) fn sender_config(config: &ChainConfig, finality: Finality) -> SenderConfig {
    let mut sender = SenderConfig::new(finality);
    sender.fees.max_fee_per_gas_wei = config.max_fee_per_gas_wei;
    sender.max_spend_wei_per_hour = config.guards.max_spend_wei_per_hour;
    sender.low_balance_wei = config.guards.low_balance_wei;
    sender.min_balance_wei = config.guards.min_balance_wei;
    sender
}

/// `HOKUSAI_REGISTRY_ADDRESS`, checked as any other address.
pub(crate) fn parse_registry(text: &str) -> anyhow::Result<Address> {
    let address =
        hokusai_event::Address::parse(text).map_err(|invalid| anyhow::anyhow!("HOKUSAI_REGISTRY_ADDRESS: {}", invalid.problem))?;
    Ok(Address::from(address.bytes()))
}

/// A node that is away is waited for; anything else that does not fit is an error.
async fn check_until_reachable(node: &Node, registry: Address, deployer: Address, config: &ChainConfig) -> anyhow::Result<ChainFacts> {
    loop {
        match check_chain(node, registry, deployer, config.chain_id, config.finality).await {
            Err(Unfitting::Rpc(error)) => tracing::warn!(%error, "the node of WEB3_PROVIDER_URL cannot be asked; asking again"),
            other => return Ok(other?),
        }
        tokio::time::sleep(NODE_PAUSE).await;
    }
}

/// What was sent before is settled all the same; new deployments wait, and the sender's status says for what.
pub(crate) fn warn_if_not_permitted(facts: &ChainFacts, registry: Address, deployer: Address) {
    if !facts.may_deploy {
        tracing::warn!(%registry, %deployer, "the deployer does not hold the registry's deployer role: its owner must grant it; nothing new is sent until then");
    }
}

async fn log_stats(queue: &dyn Queue) {
    match queue.stats().await {
        Ok(stats) => tracing::info!(
            queue = queue.name(),
            main_queue = stats.main,
            processing = stats.processing,
            dead_letter = stats.dlq,
            "Queue stats"
        ),
        Err(error) => tracing::warn!(%error, "the queue cannot be asked; it is tried again"),
    }
}

/// Says once what about the queue's server endangers what it holds, as soon as the server can be asked.
fn start_setup_check(tasks: &mut Tasks, queue: Arc<dyn Queue>) {
    let shutdown = tasks.shutdown();
    tasks.start("queue's server check", async move {
        let check = async {
            loop {
                match queue.warnings().await {
                    Ok(warnings) => {
                        warnings.iter().for_each(|warning| tracing::warn!(queue = queue.name(), "the queue's server: {warning}"));
                        return;
                    }
                    Err(error) => tracing::debug!(%error, "how the queue's server is set up could not be asked"),
                }
                tokio::time::sleep(CHECK_PAUSE).await;
            }
        };
        tokio::select! {
            () = check => shutdown.cancelled().await,
            () = shutdown.cancelled() => {}
        }
        Ok(())
    });
}

/// The consumer's settings by the configuration.
pub(crate) fn consumer_config(config: &QueueConfig) -> ConsumerConfig {
    ConsumerConfig {
        concurrency: config.concurrency,
        lease: config.processing_timeout,
        wait: config.poll_interval,
        handler_timeout: config.handler_timeout,
        max_retries: config.max_retries,
        base_delay: config.base_delay,
        ..ConsumerConfig::default()
    }
}

/// The reaper's settings by the configuration.
pub(crate) fn reaper_config(config: &QueueConfig) -> ReaperConfig {
    let terms = LeaseTerms { first_sight: config.processing_timeout, ..LeaseTerms::default() };
    ReaperConfig { terms, ..ReaperConfig::default() }
}

/// Brings back what is stuck in `queue`.
pub(crate) fn start_reaper(tasks: &mut Tasks, queue: Arc<dyn Queue>, config: &QueueConfig) {
    let reaper = reaper::run(queue, reaper_config(config), tasks.shutdown());
    tasks.start("reaper", async move {
        reaper.await;
        Ok(())
    });
}
