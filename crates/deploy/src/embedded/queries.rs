//! The methods that only read: blocks, transactions, receipts, logs, accounts, fees.
//!
//! The JSON is alloy's own RPC types, so that it is what clients expect down to the order of the fields.

use std::sync::Arc;

use alloy::{
    consensus::{ReceiptEnvelope, Sealable as _, Transaction as _, transaction::TransactionInfo},
    eips::{BlockNumberOrTag, eip2718::Encodable2718 as _},
    network::primitives::BlockTransactions,
    primitives::{Address, B256, Bytes, U64, U256, keccak256},
    rpc::types::{Block, BlockId, FeeHistory, Filter, FilterBlockOption, Header, Log, RpcBlockHash, Transaction, TransactionReceipt},
};
use serde_json::{Value, json};

use super::{
    Core,
    block::{Chain, SealedBlock},
    rpc::{JsonRpcError, Params, to_json},
    state::Record,
};

/// What a transaction should offer above the base fee, as anvil says.
const SUGGESTED_TIP_WEI: u64 = 1_000_000_000;
/// How many blocks one `eth_feeHistory` covers at most, as in geth.
const MAX_FEE_HISTORY: u64 = 1024;

impl Core {
    pub(super) fn query(&self, method: &str, params: Params<'_>) -> Result<Value, JsonRpcError> {
        match method {
            "web3_clientVersion" => Ok(json!(concat!("hokusai-embedded/v", env!("CARGO_PKG_VERSION")))),
            "web3_sha3" => to_json(&keccak256(params.required::<Bytes>(0)?)),
            "net_version" => Ok(json!(self.config.chain_id.to_string())),
            "net_listening" => Ok(json!(true)),
            "net_peerCount" => Ok(json!("0x0")),
            "eth_chainId" => to_json(&U64::from(self.config.chain_id)),
            "eth_syncing" => Ok(json!(false)),
            "eth_accounts" => Ok(json!([])),
            "eth_blockNumber" => to_json(&U64::from(self.chain.read().height())),
            "eth_gasPrice" => to_json(&U64::from(self.chain.read().head().next_base_fee().saturating_add(SUGGESTED_TIP_WEI))),
            "eth_maxPriorityFeePerGas" => to_json(&U64::from(SUGGESTED_TIP_WEI)),
            "eth_blobBaseFee" => Ok(json!("0x1")),
            "eth_feeHistory" => self.fee_history(params),
            "eth_getLogs" => self.logs(&params.required(0)?),
            "eth_getBalance" | "eth_getTransactionCount" | "eth_getCode" | "eth_getStorageAt" => self.account_query(method, params),
            _ => self.block_query(method, params),
        }
    }

    fn account_query(&self, method: &str, params: Params<'_>) -> Result<Value, JsonRpcError> {
        let address: Address = params.required(0)?;
        let at = |index| -> Result<_, JsonRpcError> {
            let id = params.optional::<BlockId>(index)?.unwrap_or_default();
            Ok((id, self.height_of(id)?))
        };
        let account = |height| self.chain.read().state.account(height, address);
        match method {
            "eth_getBalance" => to_json(&account(at(1)?.1).map_or(U256::ZERO, |account| account.balance)),
            "eth_getCode" => {
                let height = at(1)?.1;
                let chain = self.chain.read();
                let code = chain.state.account(height, address).map(|account| chain.state.code(account.code_hash).original_bytes());
                to_json(&code.unwrap_or_default())
            }
            "eth_getStorageAt" => {
                let slot: U256 = params.required(1)?;
                to_json(&B256::from(self.chain.read().state.slot(at(2)?.1, address, slot)))
            }
            _ => {
                let (id, height) = at(1)?;
                let nonce = |account: Option<Record>| account.map_or(0, |account| account.nonce);
                if id != BlockId::pending() {
                    return to_json(&U64::from(nonce(account(height))));
                }
                let pool = self.pool.lock();
                let next = nonce(self.chain.read().account(address));
                to_json(&U64::from(pool.pending_nonce(address, next)))
            }
        }
    }

    fn block_query(&self, method: &str, params: Params<'_>) -> Result<Value, JsonRpcError> {
        match method {
            "eth_getTransactionByHash" => self.transaction_by_hash(params.required(0)?),
            "eth_getRawTransactionByHash" => self.raw_transaction(params.required(0)?),
            "eth_getTransactionReceipt" => {
                let found = self.chain.read().find(params.required(0)?);
                to_json(&found.map(|(block, index)| receipt(&block, index)))
            }
            "eth_getBlockByNumber" => self.block(params.required::<BlockNumberOrTag>(0)?.into(), params),
            "eth_getBlockByHash" => self.block(params.required::<B256>(0)?.into(), params),
            "eth_getBlockReceipts" => {
                let block = self.find_block(params.required(0)?);
                to_json(&block.map(|block| (0..block.outcomes.len()).map(|index| receipt(&block, index)).collect::<Vec<_>>()))
            }
            "eth_getBlockTransactionCountByNumber" => self.count(params.required::<BlockNumberOrTag>(0)?.into()),
            "eth_getBlockTransactionCountByHash" => self.count(params.required::<B256>(0)?.into()),
            "eth_getTransactionByBlockNumberAndIndex" => self.transaction_at(params.required::<BlockNumberOrTag>(0)?.into(), params),
            "eth_getTransactionByBlockHashAndIndex" => self.transaction_at(params.required::<B256>(0)?.into(), params),
            _ => Err(JsonRpcError { code: -32601, message: format!("the method {method} does not exist/is not available"), data: None }),
        }
    }

    /// The height a block id means; an unknown block is an error, as its state is.
    pub(super) fn height_of(&self, id: BlockId) -> Result<u64, JsonRpcError> {
        resolve(&self.chain.read(), id).ok_or_else(|| JsonRpcError::refused("header not found"))
    }

    fn find_block(&self, id: BlockId) -> Option<Arc<SealedBlock>> {
        let chain = self.chain.read();
        resolve(&chain, id).and_then(|number| chain.block(number).cloned())
    }

    fn block(&self, id: BlockId, params: Params<'_>) -> Result<Value, JsonRpcError> {
        let full = params.optional(1)?.unwrap_or(false);
        to_json(&self.find_block(id).map(|block| rpc_block(&block, full)))
    }

    fn count(&self, id: BlockId) -> Result<Value, JsonRpcError> {
        to_json(&self.find_block(id).map(|block| U64::from(block.transactions.len())))
    }

    fn transaction_at(&self, id: BlockId, params: Params<'_>) -> Result<Value, JsonRpcError> {
        let index: usize = params.required::<U64>(1)?.saturating_to();
        let block = self.find_block(id).filter(|block| index < block.transactions.len());
        to_json(&block.map(|block| transaction(&block, index)))
    }

    /// In a block or in the pool; both are looked at under the pool's lock, so that none is missed on its way.
    fn transaction_by_hash(&self, hash: B256) -> Result<Value, JsonRpcError> {
        let pool = self.pool.lock();
        if let Some((block, index)) = self.chain.read().find(hash) {
            return to_json(&transaction(&block, index));
        }
        to_json(&pool.get(hash).map(|tx| Transaction::from_transaction((**tx).clone(), TransactionInfo::default())))
    }

    fn raw_transaction(&self, hash: B256) -> Result<Value, JsonRpcError> {
        let pool = self.pool.lock();
        let mined = self.chain.read().find(hash).map(|(block, index)| block.transactions[index].clone());
        to_json(&mined.as_ref().or_else(|| pool.get(hash)).map(|tx| Bytes::from(tx.inner().encoded_2718())))
    }

    fn logs(&self, filter: &Filter) -> Result<Value, JsonRpcError> {
        let chain = self.chain.read();
        let range = match filter.block_option {
            FilterBlockOption::AtBlockHash(hash) => {
                let number = chain.number_of(hash).ok_or_else(|| JsonRpcError::refused("unknown block"))?;
                number..=number
            }
            FilterBlockOption::Range { from_block, to_block } => {
                let height = |tag: Option<BlockNumberOrTag>| match tag.unwrap_or_default() {
                    BlockNumberOrTag::Number(number) => number,
                    BlockNumberOrTag::Earliest => 0,
                    _ => chain.height(),
                };
                let (from, to) = (height(from_block), height(to_block));
                if from > to {
                    return Err(JsonRpcError::bad_params("invalid block range params"));
                }
                from..=to.min(chain.height())
            }
        };
        let blocks = range.filter_map(|number| chain.block(number)).filter(|block| filter.matches_bloom(block.header.logs_bloom));
        let logs: Vec<Log> = blocks.flat_map(|block| block_logs(block)).filter(|log| filter.matches(&log.inner)).collect();
        to_json(&logs)
    }

    fn fee_history(&self, params: Params<'_>) -> Result<Value, JsonRpcError> {
        // Clients send the count as a quantity or as a plain number.
        let count: U64 = params.required(0)?;
        let newest = self.height_of(params.required::<BlockNumberOrTag>(1)?.into())?;
        let percentiles: Option<Vec<f64>> = params.optional(2)?;
        if let Some(percentiles) = &percentiles {
            let increasing = percentiles.windows(2).all(|pair| pair[0] <= pair[1]);
            if !increasing || percentiles.len() > 100 || percentiles.iter().any(|percentile| !(0.0..=100.0).contains(percentile)) {
                return Err(JsonRpcError::refused("invalid reward percentile: they must be between 0 and 100, and increasing"));
            }
        }
        let count = count.saturating_to::<u64>().min(MAX_FEE_HISTORY).min(newest + 1);
        let oldest_block = newest + 1 - count;
        let chain = self.chain.read();
        let blocks: Vec<_> = (oldest_block..=newest).filter_map(|number| chain.block(number)).collect();
        let next = blocks.last().map(|block| block.next_base_fee());
        to_json(&FeeHistory {
            base_fee_per_gas: blocks.iter().map(|block| block.base_fee()).chain(next).map(u128::from).collect(),
            gas_used_ratio: blocks.iter().map(|block| ratio(block.header.gas_used, block.header.gas_limit)).collect(),
            base_fee_per_blob_gas: vec![1; blocks.len() + usize::from(!blocks.is_empty())],
            blob_gas_used_ratio: vec![0.0; blocks.len()],
            oldest_block,
            reward: percentiles.map(|percentiles| blocks.iter().map(|block| rewards(block, &percentiles)).collect()),
        })
    }
}

fn resolve(chain: &Chain, id: BlockId) -> Option<u64> {
    match id {
        BlockId::Hash(RpcBlockHash { block_hash, .. }) => chain.number_of(block_hash),
        BlockId::Number(BlockNumberOrTag::Number(number)) => (number <= chain.height()).then_some(number),
        BlockId::Number(BlockNumberOrTag::Earliest) => Some(0),
        BlockId::Number(_) => Some(chain.height()),
    }
}

fn rpc_block(block: &SealedBlock, full: bool) -> Block {
    let header = block.header.clone().seal_unchecked(block.hash);
    let transactions = if full {
        BlockTransactions::Full((0..block.transactions.len()).map(|index| transaction(block, index)).collect())
    } else {
        BlockTransactions::Hashes(block.transactions.iter().map(|tx| *tx.tx_hash()).collect())
    };
    Block::new(Header::from_consensus(header, Some(U256::ZERO), Some(U256::from(block.size_bytes))), transactions)
        .with_withdrawals(Some(alloy::eips::eip4895::Withdrawals::default()))
}

fn transaction(block: &SealedBlock, index: usize) -> Transaction {
    let tx = &block.transactions[index];
    let info = TransactionInfo {
        hash: Some(*tx.tx_hash()),
        index: Some(index as u64),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        base_fee: Some(block.base_fee()),
        block_timestamp: Some(block.header.timestamp),
    };
    Transaction::from_transaction((**tx).clone(), info)
}

fn receipt(block: &SealedBlock, index: usize) -> TransactionReceipt {
    let (tx, outcome) = (&block.transactions[index], &block.outcomes[index]);
    let mut logs = transaction_logs(block, index);
    let inner: ReceiptEnvelope<Log> = outcome.receipt.clone().map_logs(|_| logs.next().expect("one for each"));
    TransactionReceipt {
        inner,
        transaction_hash: *tx.tx_hash(),
        transaction_index: Some(index as u64),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        gas_used: outcome.gas_used,
        effective_gas_price: outcome.effective_gas_price,
        blob_gas_used: None,
        blob_gas_price: None,
        from: tx.signer(),
        to: tx.to(),
        contract_address: outcome.contract_address,
    }
}

fn transaction_logs(block: &SealedBlock, index: usize) -> impl Iterator<Item = Log> {
    let outcome = &block.outcomes[index];
    outcome.receipt.logs().iter().zip(outcome.first_log..).map(move |(log, log_index)| Log {
        inner: log.clone(),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        block_timestamp: Some(block.header.timestamp),
        transaction_hash: Some(*block.transactions[index].tx_hash()),
        transaction_index: Some(index as u64),
        log_index: Some(log_index),
        removed: false,
    })
}

fn block_logs(block: &SealedBlock) -> impl Iterator<Item = Log> {
    (0..block.outcomes.len()).flat_map(move |index| transaction_logs(block, index))
}

/// The tips at these percentiles of the block's gas, as `eth_feeHistory` defines them.
fn rewards(block: &SealedBlock, percentiles: &[f64]) -> Vec<u128> {
    let base_fee = u128::from(block.base_fee());
    let mut tips: Vec<(u128, u64)> =
        block.outcomes.iter().map(|outcome| (outcome.effective_gas_price.saturating_sub(base_fee), outcome.gas_used)).collect();
    tips.sort_unstable();
    let at = |percentile: &f64| {
        let threshold = ratio(block.header.gas_used, 100) * percentile;
        let mut gas = 0;
        let reached = tips.iter().find(|(_, used)| {
            gas += used;
            ratio(gas, 1) >= threshold
        });
        reached.or(tips.last()).map_or(0, |(tip, _)| *tip)
    };
    percentiles.iter().map(at).collect()
}

#[expect(clippy::cast_precision_loss, reason = "gas is far below the 53 bits a double holds")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
