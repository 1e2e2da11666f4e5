//! Looks up on the chain what a foreign deployer says it deployed: its word is where to look, the chain's is recorded.

mod recorded;

use std::sync::Arc;

use alloy::{
    primitives::{Address, B256, U256},
    sol_types::SolCall,
};
use async_trait::async_trait;
use hokusai_deploy::{
    At, Finality, HttpOptions, Node, RpcError, check_node,
    token::{
        contract::IModelTokenRegistry::{VersionId, tokenOfCall, versionNumberCall},
        recorded_versions, version_key,
    },
};
use hokusai_event::Invalid;
use jiff::Timestamp;

use crate::{
    config::{ChainConfig, Env},
    http::{ChainCheck, Claim, Denial, OnChain},
    roles,
};

/// The registry on its chain, to ask questions of.
#[derive(Debug)]
pub(crate) struct RegistryOnChain {
    node: Node,
    registry: Address,
    /// As configured; the chain's default otherwise.
    finality: Option<Finality>,
    pinned_chain_id: Option<u64>,
}

impl RegistryOnChain {
    pub(crate) fn new(node: Node, registry: Address) -> Self {
        Self { node, registry, finality: None, pinned_chain_id: None }
    }

    /// The configured one; `None` for a server that was not told of any chain.
    pub(crate) fn configured(env: &Env<'_>) -> anyhow::Result<Option<Self>> {
        if env.text("WEB3_PROVIDER_URL").is_none() && env.text("HOKUSAI_REGISTRY_ADDRESS").is_none() {
            return Ok(None);
        }
        let config = ChainConfig::read(env)?;
        let node = Node::http(&config.providers, &HttpOptions::default())?;
        let registry = roles::parse_registry(&config.registry)?;
        Ok(Some(Self { node, registry, finality: config.finality, pinned_chain_id: config.chain_id }))
    }

    pub(crate) fn shared(self) -> Arc<dyn ChainCheck> {
        Arc::new(self)
    }

    async fn view<C: SolCall>(&self, question: &C) -> Result<C::Return, Denial> {
        let data = question.abi_encode().into();
        let answer = self.node.call(Address::ZERO, self.registry, &data, At::Latest).await.map_err(unavailable)?;
        C::abi_decode_returns(&answer).map_err(|error| Denial::Unavailable(Box::new(error)))
    }

    /// The newest final block.
    async fn final_block(&self, finality: Finality) -> Result<Option<u64>, RpcError> {
        Ok(match finality {
            Finality::Finalized => self.node.block(At::Finalized).await?.map(|block| block.number),
            Finality::Confirmations(count) => (self.node.head().await?.number + 1).checked_sub(count),
        })
    }
}

#[async_trait]
impl ChainCheck for RegistryOnChain {
    async fn verify(&self, claim: &Claim) -> Result<OnChain, Denial> {
        let facts =
            check_node(&self.node, self.pinned_chain_id, self.finality).await.map_err(|error| Denial::Unavailable(Box::new(error)))?;
        let symbol = claim.symbol.as_str().to_owned();
        let token = self.view(&tokenOfCall { symbol: symbol.clone() }).await?;
        if token.into_array() != claim.token_address.bytes() {
            return Err(otherwise(
                "token_address",
                if token.is_zero() {
                    "the registry has no token of this symbol".into()
                } else {
                    format!("the registry's token of this symbol is {token}")
                },
            ));
        }
        let version = VersionId { symbol, modelName: claim.model_name.clone(), modelVersion: claim.model_version.clone() };
        if self.view(&versionNumberCall { version }).await? == U256::ZERO {
            return Err(otherwise("transaction_hash", "the registry has not recorded this model version".into()));
        }
        let hash: B256 = claim.transaction_hash.parse().map_err(|_| otherwise("transaction_hash", "is no transaction hash".into()))?;
        let receipt = self.node.receipt(hash).await.map_err(unavailable)?;
        let receipt = receipt.ok_or_else(|| otherwise("transaction_hash", "the chain has no such transaction in a block".into()))?;
        let recorded = recorded_versions(self.registry, receipt.logs.iter().map(|log| &log.inner));
        if !receipt.success || !recorded.contains(&version_key(claim.symbol.as_str(), &claim.model_name, &claim.model_version)) {
            return Err(otherwise("transaction_hash", "this transaction did not record the model version".into()));
        }
        let last_final = self.final_block(facts.finality).await.map_err(unavailable)?;
        if last_final.is_none_or(|last| receipt.block_number > last) {
            return Err(Denial::NotFinal);
        }
        let items = recorded.len().max(1);
        Ok(OnChain {
            chain_id: facts.chain_id,
            registry_address: claim_address(self.registry)?,
            token_address: claim.token_address.clone(),
            transaction_hash: Some(claim.transaction_hash.clone()),
            block_number: Some(receipt.block_number),
            gas_used: Some(receipt.gas_used / items as u64),
            fee_wei: Some((receipt.fee_wei / U256::from(items)).to_string()),
            deployed_at: Timestamp::now(),
        })
    }
}

fn claim_address(address: Address) -> Result<hokusai_event::Address, Denial> {
    hokusai_event::Address::parse(&address.to_string()).map_err(Denial::Otherwise)
}

fn otherwise(field: &str, problem: String) -> Denial {
    Denial::Otherwise(Invalid::new(field, problem))
}

fn unavailable(error: RpcError) -> Denial {
    Denial::Unavailable(Box::new(error))
}
