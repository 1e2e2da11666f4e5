//! Whether the chain has a registration that nobody reported: the reconciler's question.

use std::error::Error;

use alloy::{
    primitives::{Address, U256},
    sol_types::SolCall,
};
use async_trait::async_trait;
use hokusai_deploy::{
    At, check_node,
    token::contract::IModelTokenRegistry::{VersionId, tokenOfCall, versionNumberCall},
};
use hokusai_event::{ModelDeployed, Timestamp};
use hokusai_registry::{ChainRecord, OnChain, Registration};

use super::RegistryOnChain;

type Failed = Box<dyn Error + Send + Sync>;

#[async_trait]
impl ChainRecord for RegistryOnChain {
    async fn find(&self, registration: &Registration) -> Result<OnChain, Failed> {
        let facts = check_node(&self.node, self.pinned_chain_id, self.finality).await?;
        let document = &registration.document;
        let symbol = document.token_id.as_str().to_owned();
        let version =
            VersionId { symbol: symbol.clone(), modelName: document.model_name.clone(), modelVersion: document.model_version.clone() };
        let question = versionNumberCall { version };
        if self.ask(&question, At::Latest).await? == U256::ZERO {
            return Ok(OnChain::Absent);
        }
        let Some(last_final) = self.final_block(facts.finality).await? else { return Ok(OnChain::NotFinal) };
        let at = At::Number(last_final);
        if self.ask(&question, at).await? == U256::ZERO {
            return Ok(OnChain::NotFinal);
        }
        let token = self.ask(&tokenOfCall { symbol }, at).await?;
        Ok(OnChain::Final(Box::new(self.deployed(registration, facts.chain_id, token)?)))
    }
}

impl RegistryOnChain {
    async fn ask<C: SolCall>(&self, question: &C, at: At) -> Result<C::Return, Failed> {
        let answer = self.node.call(Address::ZERO, self.registry, &question.abi_encode().into(), at).await?;
        Ok(C::abi_decode_returns(&answer)?)
    }

    /// Which transaction it was is not known, nor what it cost.
    fn deployed(&self, registration: &Registration, chain_id: u64, token: Address) -> Result<ModelDeployed, Failed> {
        let document = &registration.document;
        let now = Timestamp::new(jiff::Timestamp::now());
        Ok(ModelDeployed {
            model_id: document.model_id.clone(),
            token_symbol: document.token_id.clone(),
            model_name: document.model_name.clone(),
            model_version: document.model_version.clone(),
            mlflow_run_id: document.mlflow_run_id.clone(),
            message_id: document.message_id.clone().unwrap_or_default(),
            chain_id,
            registry_address: hokusai_event::Address::parse(&self.registry.to_string())?,
            token_address: hokusai_event::Address::parse(&token.to_string())?,
            deployed_at: now,
            timestamp: Some(now),
            message_version: None,
            registration_id: Some(document.registration_id.clone()),
            transaction_hash: None,
            block_number: None,
            gas_used: None,
            fee_wei: None,
            elapsed_ms: None,
            correlation_id: Some(document.correlation_id.clone()),
            unknown: serde_json::Map::new(),
        })
    }
}
