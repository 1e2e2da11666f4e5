//! Deploying the registry contract: once per chain, by a person (`hokusai contracts deploy`).
//!
//! It is not repeatable: the address follows from the account and its nonce, so a second run makes a second registry with
//! other tokens. That is why every error after signing names the transaction and the address to look at before running it
//! again. It uses the account's next nonce without a lease: do not run it while a worker sends with the same key.

use std::time::Duration;

use alloy::{
    consensus::TxEip1559,
    primitives::{Address, B256, Bytes, TxKind, U256},
};

use crate::{
    rpc::{At, Node, Receipt},
    rpc_error::RpcError,
    sender::FeePolicy,
    signer::{SignError, Signer, sign},
    token::{RegistryArguments, registry_init_code},
};

/// What the registry is deployed with.
#[derive(Debug, Clone)]
pub struct RegistryPlan {
    /// Owner, controller, deployer role and initial supply.
    pub arguments: RegistryArguments,
    /// Whether owner and controller may be the account with the deployer role: in development only, since whoever steals
    /// that key could then mint and grant.
    pub one_key_for_all: bool,
    /// What may be paid.
    pub fees: FeePolicy,
    /// How long to wait for a block.
    pub patience: Duration,
}

/// A registry that stands on the chain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeployedRegistry {
    /// Its address.
    pub address: Address,
    /// The transaction.
    pub transaction_hash: B256,
    /// The block.
    pub block_number: u64,
    /// The gas it took.
    pub gas_used: u64,
    /// What was paid, in wei.
    pub fee_wei: U256,
}

/// The registry was not deployed, or it is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// Two roles would be one key's.
    #[error(
        "the {role} is also the deployer ({account}); whoever gets hold of the deployer key would have that role too: choose another account"
    )]
    SharedKey {
        /// `owner` or `controller`.
        role: &'static str,
        /// The account.
        account: Address,
    },
    /// The node failed before anything was sent.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The key could not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The chain asks for more than the cap.
    #[error("the base fee is {base_fee_wei} and the tip {tip_wei} wei per gas, together above the fee cap; nothing was sent")]
    FeeAboveCap {
        /// The base fee.
        base_fee_wei: u128,
        /// The tip.
        tip_wei: u128,
    },
    /// It was perhaps sent; whether it is in a block is not known.
    #[error(
        "transaction {transaction_hash} was sent and is in no block that was seen; look for a contract at {address} before deploying again ({last})"
    )]
    Unknown {
        /// The transaction.
        transaction_hash: B256,
        /// Where the registry will be if it is included.
        address: Address,
        /// The last thing the node said.
        last: String,
    },
    /// The constructor failed.
    #[error("transaction {transaction_hash} failed; no registry was deployed")]
    Failed {
        /// The transaction.
        transaction_hash: B256,
    },
}

/// Deploys a registry and waits until it stands in a block.
///
/// # Errors
///
/// See [`InstallError`]; after [`InstallError::Unknown`] look before repeating.
pub async fn deploy_registry(node: &Node, signer: &dyn Signer, plan: &RegistryPlan) -> Result<DeployedRegistry, InstallError> {
    refuse_shared_keys(plan)?;
    let account = signer.address();
    let input = registry_init_code(&plan.arguments);
    let (nonce, transaction) = prepare(node, account, input, plan).await?;
    let address = account.create(nonce);
    let signed = sign(signer, transaction).await?;
    tracing::info!(hash = %signed.hash, %address, "deploying a registry");
    let said = match node.send(&signed.raw).await {
        Ok(_) | Err(RpcError::AlreadyKnown) => "it was accepted".to_owned(),
        // Only these say that no endpoint can have kept it.
        Err(error @ (RpcError::Underpriced { .. } | RpcError::Unfunded { .. })) => return Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "the node did not confirm that it took the transaction; looking for it in blocks");
            error.to_string()
        }
    };
    let Some(receipt) = wait(node, signed.hash, plan.patience).await else {
        return Err(InstallError::Unknown { transaction_hash: signed.hash, address, last: said });
    };
    if !receipt.success {
        return Err(InstallError::Failed { transaction_hash: signed.hash });
    }
    Ok(DeployedRegistry {
        address,
        transaction_hash: signed.hash,
        block_number: receipt.block_number,
        gas_used: receipt.gas_used,
        fee_wei: receipt.fee_wei,
    })
}

fn refuse_shared_keys(plan: &RegistryPlan) -> Result<(), InstallError> {
    let RegistryArguments { owner, controller, deployer, .. } = plan.arguments;
    for (role, account) in [("owner", owner), ("controller", controller)] {
        if account == deployer && !plan.one_key_for_all {
            return Err(InstallError::SharedKey { role, account });
        }
    }
    Ok(())
}

async fn prepare(node: &Node, account: Address, input: Bytes, plan: &RegistryPlan) -> Result<(u64, TxEip1559), InstallError> {
    let head = node.head().await?;
    let base_fee_wei = head.base_fee_wei.unwrap_or_default();
    let tip = node.suggested_tip_wei().await?;
    let tip_wei = tip.unwrap_or(plan.fees.default_tip_wei);
    let offer = plan.fees.offer(base_fee_wei, tip).ok_or(InstallError::FeeAboveCap { base_fee_wei, tip_wei })?;
    let gas = node.estimate_gas(account, None, &input).await?;
    let nonce = node.next_nonce(account, At::Pending).await?;
    let transaction = TxEip1559 {
        chain_id: node.chain_id().await?,
        nonce,
        gas_limit: gas.saturating_add(gas / 10).min(head.gas_limit),
        max_fee_per_gas: offer.max_fee_wei,
        max_priority_fee_per_gas: offer.tip_wei,
        to: TxKind::Create,
        input,
        ..TxEip1559::default()
    };
    Ok((nonce, transaction))
}

/// Asks for the receipt until it is there or patience ends; a node that is away in between is asked again.
async fn wait(node: &Node, hash: B256, patience: Duration) -> Option<Receipt> {
    let asking = async {
        let mut pause = Duration::from_millis(10);
        loop {
            match node.receipt(hash).await {
                Ok(Some(receipt)) => return receipt,
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "waiting for the registry"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    };
    tokio::time::timeout(patience, asking).await.ok()
}
