//! `hokusai contracts deploy`: puts the token registry on a chain, once.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use anyhow::Context as _;
use clap::Subcommand;
use hokusai_deploy::{
    DeployedRegistry, FeePolicy, HttpOptions, Node, RegistryPlan, check_node, deploy_registry,
    token::{RegistryArguments, standard_json_input},
};

use super::output::{Format, print_line};
use crate::{
    config::{ChainConfig, Env},
    roles,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ContractsCommand {
    /// Deploy a token registry with the key of DEPLOYER_PRIVATE_KEY, which gets the deployer role
    Deploy {
        /// Who owns the registry: grants and revokes roles, pauses. Not the deployer
        #[arg(long, value_name = "ADDRESS", value_parser = address)]
        owner: Address,
        /// Who may mint the tokens. Not the deployer
        #[arg(long, value_name = "ADDRESS", value_parser = address)]
        controller: Address,
        /// What every token starts with, in its smallest unit (18 decimals) [default: nothing]
        #[arg(long, value_name = "AMOUNT", requires = "initial_supply_recipient")]
        initial_supply: Option<U256>,
        /// Who gets it
        #[arg(long, value_name = "ADDRESS", value_parser = address, requires = "initial_supply")]
        initial_supply_recipient: Option<Address>,
        /// Seconds to wait for a block
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        #[command(flatten)]
        format: Format,
    },
    /// Print the standard-JSON input of the compiler, with which block explorers verify the contracts
    StandardJson,
}

fn address(text: &str) -> Result<Address, String> {
    let address = hokusai_event::Address::parse(text).map_err(|invalid| invalid.problem)?;
    Ok(Address::from(address.bytes()))
}

pub(crate) async fn run(command: ContractsCommand, env: &Env<'_>) -> anyhow::Result<()> {
    match command {
        ContractsCommand::StandardJson => print_line(standard_json_input().trim_end()),
        ContractsCommand::Deploy { owner, controller, initial_supply, initial_supply_recipient, timeout, format } => {
            let initial_supply = initial_supply.filter(|supply| !supply.is_zero()).zip(initial_supply_recipient);
            let deployment = RegistryRequest { owner, controller, initial_supply, patience: Duration::from_secs(timeout) };
            deploy(&deployment, format, env).await
        }
    }
}

struct RegistryRequest {
    owner: Address,
    controller: Address,
    initial_supply: Option<(U256, Address)>,
    patience: Duration,
}

async fn deploy(request: &RegistryRequest, format: Format, env: &Env<'_>) -> anyhow::Result<()> {
    let RegistryRequest { owner, controller, initial_supply, patience } = *request;
    let providers = ChainConfig::providers(env)?;
    let signer = roles::signer(env).await?;
    let node = Node::http(&providers, &HttpOptions::default()).context("WEB3_PROVIDER_URL")?;
    let facts = check_node(&node, ChainConfig::chain_id(env)?, ChainConfig::finality(env)?).await?;
    let plan = RegistryPlan {
        arguments: RegistryArguments { owner, controller, deployer: signer.address(), initial_supply },
        one_key_for_all: false,
        fees: FeePolicy { max_fee_per_gas_wei: ChainConfig::max_fee_per_gas_wei(env)?, ..FeePolicy::default() },
        patience,
    };
    let deployed = deploy_registry(&node, signer.as_ref(), &plan).await?;
    format.print(&deployed, |deployed| describe(deployed, facts.chain_id))
}

fn describe(deployed: &DeployedRegistry, chain_id: u64) -> String {
    format!(
        "registry {} on chain {chain_id}\ntransaction {} in block {}, gas {}, fee {} wei\n\nGive it to the workers:\n\n  \
         HOKUSAI_REGISTRY_ADDRESS={}\n  HOKUSAI_CHAIN_ID={chain_id}",
        deployed.address, deployed.transaction_hash, deployed.block_number, deployed.gas_used, deployed.fee_wei, deployed.address
    )
}
