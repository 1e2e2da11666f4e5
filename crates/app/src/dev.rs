//! `hokusai dev`: all roles in one process, on a chain of their own; everything kept in one directory.

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use alloy::primitives::Address;
use anyhow::{Context as _, bail};
use hokusai_db::Database;
use hokusai_deploy::{
    FeePolicy, LocalSigner, Node, RegistryPlan, SenderConfig, Signer, check_chain, deploy_registry,
    embedded::{DEV_KEYS, EmbeddedChain, EmbeddedConfig, EmbeddedTransport},
    token::RegistryArguments,
};

use crate::{
    api,
    assembly::Assembly,
    chain_check::RegistryOnChain,
    cli::print_line,
    config::{Env, ServerConfig, data_dir},
    roles, rpc_server,
    server::{self, Server, ServerParts},
    tasks::Tasks,
    worker::{self, WorkerParts},
};

/// A block is made as soon as a transaction comes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nobody else may use this chain, so after a crash there is nobody to wait for.
const ACCOUNT_LEASE: Duration = Duration::from_secs(3);
/// Blocks are cheap here and fees play money.
const MAX_FEE_PER_GAS_WEI: u128 = 1_000_000_000_000;

pub(crate) async fn run(env: &Env<'static>) -> anyhow::Result<()> {
    let listen = ServerConfig::read(env)?;
    listen.require_loopback()?;
    anyhow::ensure!(listen.rpc_listen.ip().is_loopback(), "HOKUSAI_RPC_LISTEN: the keys of this chain are public; listen on 127.0.0.1");
    let dir = data_dir(env)?;
    let _lock = lock(&dir)?;
    let mlflow = api::mlflow_parts(env)?;
    let http = rpc_server::bind(listen.listen, "HOKUSAI_LISTEN").await?;
    let rpc = rpc_server::bind(listen.rpc_listen, "HOKUSAI_RPC_LISTEN").await?;

    let assembly = Assembly::open(env).await?;
    let chain = open_chain(&dir.join("chain.db")).await?;
    let mut tasks = Tasks::default();
    let pipeline = start_pipeline(&mut tasks, &assembly, Arc::clone(&chain), mlflow).await?;
    let chain_check = RegistryOnChain::new(pipeline.node.clone(), pipeline.registry).shared();
    let api = api::assemble(&pipeline.server, assembly.database()?.clone(), &assembly.queues, &assembly.queue_config, Some(chain_check));
    let (http_address, rpc_address) = (http.local_addr()?, rpc.local_addr()?);
    api::start(&mut tasks, http, api);
    let shutdown = tasks.shutdown();
    tasks.start("JSON-RPC", async move { rpc_server::serve(rpc, chain, shutdown).await });
    print_line(&welcome(&dir, http_address, rpc_address, pipeline.registry))?;
    tasks.run_until_signal().await
}

/// A running server and worker on one embedded chain.
pub(crate) struct Pipeline {
    pub(crate) server: Server,
    pub(crate) node: Node,
    pub(crate) registry: Address,
}

/// Starts server and worker on `chain`, whose registry is put there first if it is new.
pub(crate) async fn start_pipeline(
    tasks: &mut Tasks,
    assembly: &Assembly,
    chain: Arc<EmbeddedChain>,
    mlflow: Option<server::MlflowParts>,
) -> anyhow::Result<Pipeline> {
    let node = Node::over(alloy::rpc::client::RpcClient::new(EmbeddedTransport::new(chain), true));
    let signer: Arc<dyn Signer> = Arc::new(LocalSigner::from_hex(DEV_KEYS[0])?);
    let registry = registry_on(&node, &signer).await?;
    let facts = check_chain(&node, registry, signer.address(), None, None).await?;
    let db = assembly.database()?.clone();
    let parts = ServerParts { db: db.clone(), queues: assembly.queues.clone(), config: assembly.queue_config.clone(), mlflow };
    let server = server::start(tasks, parts).await?;
    let mut sender = SenderConfig { lease: ACCOUNT_LEASE, ..SenderConfig::new(facts.finality) };
    sender.fees.max_fee_per_gas_wei = MAX_FEE_PER_GAS_WEI;
    let parts = WorkerParts {
        db,
        queue: assembly.queue(None)?,
        consumer: roles::consumer_config(&assembly.queue_config),
        node: node.clone(),
        signer,
        registry,
        chain_id: facts.chain_id,
        sender,
        nudge: server.nudge.clone(),
        max_retries: assembly.queue_config.max_retries,
        ledger_retention: None,
    };
    worker::start(tasks, parts)?;
    Ok(Pipeline { server, node, registry })
}

/// The chain kept in a file.
async fn open_chain(file: &Path) -> anyhow::Result<Arc<EmbeddedChain>> {
    let db = Database::open(&format!("sqlite:{}", file.display())).await.context("the chain's database cannot be opened")?;
    db.migrate(hokusai_deploy::embedded::MIGRATIONS).await?;
    Ok(EmbeddedChain::open(Some(db), EmbeddedConfig::default()).await?)
}

/// The registry is the deployer's first contract, so its address is known; it is made when the chain is new. Here, and
/// only here, the public development key owns and controls it too.
async fn registry_on(node: &Node, signer: &Arc<dyn Signer>) -> anyhow::Result<Address> {
    let account = signer.address();
    let address = account.create(0);
    if node.code(address).await?.is_empty() {
        let plan = RegistryPlan {
            arguments: RegistryArguments { owner: account, controller: account, deployer: account, initial_supply: None },
            one_key_for_all: true,
            fees: FeePolicy { max_fee_per_gas_wei: MAX_FEE_PER_GAS_WEI, ..FeePolicy::default() },
            patience: PATIENCE,
        };
        let deployed = deploy_registry(node, signer.as_ref(), &plan).await?;
        anyhow::ensure!(
            deployed.address == address,
            "the registry went to {} instead of {address}: the deployer's account was used before; start over with another HOKUSAI_DATA_DIR",
            deployed.address
        );
    }
    Ok(address)
}

/// Two processes must not write one chain. The lock goes with the process, however it ends.
fn lock(dir: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(dir).with_context(|| format!("HOKUSAI_DATA_DIR: {} cannot be created", dir.display()))?;
    let file = File::create(dir.join("dev.lock")).with_context(|| format!("HOKUSAI_DATA_DIR: {} cannot be written", dir.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another `hokusai dev` runs on {}; stop it, or set HOKUSAI_DATA_DIR", dir.display())
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("{} cannot be locked", dir.display())),
    }
}

fn welcome(dir: &Path, http: std::net::SocketAddr, rpc: std::net::SocketAddr, registry: Address) -> String {
    let run = format!("{:032x}", fastrand::u128(..));
    let body = serde_json::json!({
        "model_uri": format!("runs:/{run}/model"), "model_name": "msg-model", "token_id": "msg-ai",
        "metric_name": "reply_rate", "baseline_value": 0.75, "current_value": 0.82,
    });
    format!(
        "API       http://{http}\nJSON-RPC  http://{rpc}  (chain {chain_id})\nregistry  {registry}\ndata      {dir}\n\nRegister a model:\n\n  \
         curl -s http://{http}/api/v1/models/register -H 'content-type: application/json' -d '{body}'\n\nand see its token:\n\n  \
         curl -s http://{http}/api/v1/tokens/msg-ai\n",
        chain_id = hokusai_deploy::embedded::DEV_CHAIN_ID,
        dir = dir.display(),
    )
}
