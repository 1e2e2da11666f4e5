//! The calls to an EVM node that the sender needs, and no others.
//!
//! A [`Node`] is an alloy `RpcClient` over any transport: HTTP with failover (`rpc/http.rs`), or the embedded chain. Every
//! call has a time limit; every error is classified by `rpc_error.rs`. Nothing here retries: the sender decides.

mod http;

use std::{sync::Arc, time::Duration};

use alloy::{
    primitives::{Address, B256, Bytes, U64, U128, U256},
    rpc::{
        client::RpcClient,
        json_rpc::{RpcRecv, RpcSend},
        types::Log,
    },
};
use serde::Deserialize;
use serde_json::json;
use url::Url;

pub use self::http::{HttpOptions, Unusable};
use crate::{
    embedded::{EmbeddedChain, EmbeddedTransport},
    rpc_error::{RpcError, classify},
};

/// Room for the transport to try each of its endpoints within a call's limit.
const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// The node, or the several that stand for it.
#[derive(Clone, Debug)]
pub struct Node {
    client: RpcClient,
    limit: Duration,
}

/// Which block a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest block.
    Latest,
    /// What the node would put into the next block.
    Pending,
    /// The newest block that consensus has made final.
    Finalized,
    /// A block by its number.
    Number(u64),
}

impl At {
    fn tag(self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Pending => "pending".to_owned(),
            Self::Finalized => "finalized".to_owned(),
            Self::Number(number) => format!("{number:#x}"),
        }
    }
}

/// A block's header, as far as the sender reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Its base fee per gas; `None` on a chain without EIP-1559.
    pub base_fee_wei: Option<u128>,
    /// How much gas it may use.
    pub gas_limit: u64,
}

/// A transaction's receipt, as far as the sender reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction.
    pub transaction_hash: B256,
    /// Its block's number.
    pub block_number: u64,
    /// Its block's hash.
    pub block_hash: B256,
    /// Whether the call succeeded.
    pub success: bool,
    /// The gas it used.
    pub gas_used: u64,
    /// What was paid, in wei: gas at the effective price, and on rollups the fee for the parent chain.
    pub fee_wei: U256,
    /// The address of the contract it created, if it created one.
    pub contract_address: Option<Address>,
    /// Its logs.
    pub logs: Vec<Log>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireBlock {
    number: U64,
    hash: B256,
    base_fee_per_gas: Option<U128>,
    gas_limit: U64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireReceipt {
    transaction_hash: B256,
    block_number: U64,
    block_hash: B256,
    status: U64,
    gas_used: U64,
    #[serde(default)]
    effective_gas_price: U256,
    /// On OP-stack rollups, the part paid for the parent chain's data; not contained in the gas price.
    l1_fee: Option<U256>,
    contract_address: Option<Address>,
    logs: Vec<Log>,
}

impl From<WireReceipt> for Receipt {
    fn from(wire: WireReceipt) -> Self {
        Self {
            transaction_hash: wire.transaction_hash,
            block_number: wire.block_number.to(),
            block_hash: wire.block_hash,
            success: wire.status == U64::from(1),
            gas_used: wire.gas_used.to(),
            fee_wei: U256::from(wire.gas_used) * wire.effective_gas_price + wire.l1_fee.unwrap_or_default(),
            contract_address: wire.contract_address,
            logs: wire.logs,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireTransaction {
    #[expect(dead_code, reason = "read only to tell an answer from null")]
    hash: B256,
}

impl Node {
    /// The node behind these addresses: the first that answers, in order.
    ///
    /// # Errors
    ///
    /// A sentence saying what is wrong with the list of addresses; it never contains an address's path or user, which often hold a key.
    pub fn http(urls: &[Url], options: &HttpOptions) -> Result<Self, Unusable> {
        let transport = http::Failover::new(urls, options)?;
        let limit = transport.limit();
        Ok(Self { client: RpcClient::new(transport, false), limit })
    }

    /// A node over any alloy transport.
    pub fn over(client: RpcClient) -> Self {
        Self { client, limit: DEFAULT_LIMIT }
    }

    /// The chain inside this process.
    pub fn embedded(chain: Arc<EmbeddedChain>) -> Self {
        Self::over(RpcClient::new(EmbeddedTransport::new(chain), true))
    }

    /// Sets the time limit of a call.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    async fn ask<P: RpcSend, R: RpcRecv>(&self, method: &'static str, params: P) -> Result<R, RpcError> {
        match tokio::time::timeout(self.limit, self.client.request::<P, R>(method, params)).await {
            Ok(answer) => answer.map_err(|error| classify(method, error)),
            Err(_) => Err(RpcError::away(method, format!("no answer within {} ms", self.limit.as_millis()))),
        }
    }

    /// `eth_chainId`.
    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        Ok(self.ask::<_, U64>("eth_chainId", ()).await?.to())
    }

    /// `eth_getBlockByNumber`, without transactions; `None` if there is no such block.
    pub async fn block(&self, at: At) -> Result<Option<Head>, RpcError> {
        let block: Option<WireBlock> = self.ask("eth_getBlockByNumber", (at.tag(), false)).await?;
        Ok(block.map(|block| Head {
            number: block.number.to(),
            hash: block.hash,
            base_fee_wei: block.base_fee_per_gas.map(|fee| fee.to()),
            gas_limit: block.gas_limit.to(),
        }))
    }

    /// The newest block.
    pub async fn head(&self) -> Result<Head, RpcError> {
        let method = "eth_getBlockByNumber";
        self.block(At::Latest).await?.ok_or_else(|| RpcError::away(method, "the node has no block yet"))
    }

    /// `eth_getCode`.
    pub async fn code(&self, address: Address) -> Result<Bytes, RpcError> {
        self.ask("eth_getCode", (address, At::Latest.tag())).await
    }

    /// `eth_getBalance`.
    pub async fn balance(&self, address: Address) -> Result<U256, RpcError> {
        self.ask("eth_getBalance", (address, At::Latest.tag())).await
    }

    /// `eth_getTransactionCount`: the account's next nonce.
    pub async fn next_nonce(&self, address: Address, at: At) -> Result<u64, RpcError> {
        Ok(self.ask::<_, U64>("eth_getTransactionCount", (address, at.tag())).await?.to())
    }

    /// `eth_call`.
    pub async fn call(&self, from: Address, to: Address, data: &Bytes, at: At) -> Result<Bytes, RpcError> {
        self.ask("eth_call", (json!({ "from": from, "to": to, "data": data }), at.tag())).await
    }

    /// `eth_estimateGas`; without `to`, of a contract's creation.
    pub async fn estimate_gas(&self, from: Address, to: Option<Address>, data: &Bytes) -> Result<u64, RpcError> {
        let mut call = json!({ "from": from, "data": data });
        if let Some(to) = to {
            call["to"] = json!(to);
        }
        Ok(self.ask::<_, U64>("eth_estimateGas", (call,)).await?.to())
    }

    /// `eth_maxPriorityFeePerGas`: the tip the node suggests; `None` if it does not offer the method.
    pub async fn suggested_tip_wei(&self) -> Result<Option<u128>, RpcError> {
        match self.ask::<_, U128>("eth_maxPriorityFeePerGas", ()).await {
            Ok(tip) => Ok(Some(tip.to())),
            Err(RpcError::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `eth_sendRawTransaction`. [`RpcError::AlreadyKnown`] is success; [`RpcError::Away`] means that it may have been sent.
    pub async fn send(&self, raw: &[u8]) -> Result<B256, RpcError> {
        self.ask("eth_sendRawTransaction", (Bytes::copy_from_slice(raw),)).await
    }

    /// `eth_getTransactionReceipt`.
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, RpcError> {
        Ok(self.ask::<_, Option<WireReceipt>>("eth_getTransactionReceipt", (hash,)).await?.map(Receipt::from))
    }

    /// `eth_getTransactionByHash`: whether the node holds the transaction, in a block or waiting for one.
    pub async fn knows(&self, hash: B256) -> Result<bool, RpcError> {
        Ok(self.ask::<_, Option<WireTransaction>>("eth_getTransactionByHash", (hash,)).await?.is_some())
    }
}
