//! Running transactions on revm: into a block, or only to see what would happen.
//!
//! Everything here is a function of a [`Snapshot`], a header and the transactions: no clock, no disk. That is what makes
//! replaying the log give the same blocks.

use std::sync::Arc;

use alloy::{
    consensus::{Header, Receipt, ReceiptEnvelope, Transaction as _, Typed2718 as _, proofs},
    eips::eip2930::AccessList,
    primitives::{Address, Bloom, Log, TxKind},
};
use revm::{
    Context, ExecuteCommitEvm as _, ExecuteEvm as _, MainBuilder as _, MainContext as _, MainnetEvm,
    context::{
        BlockEnv, CfgEnv, TxEnv,
        result::{EVMError, ExecutionResult, InvalidTransaction},
    },
    context_interface::block::BlobExcessGasAndPrice,
    handler::MainnetContext,
    primitives::{eip4844::BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE, hardfork::SpecId},
};

use super::{
    block::{Outcome, SealedBlock, SignedTx, next_header},
    state::{Changes, Overlay, Snapshot},
};

/// The rules the chain plays by: the newest that is live on the main network.
pub(super) const SPEC: SpecId = SpecId::OSAKA;

/// Why the EVM would not start a transaction at all. It cannot fail otherwise: the state is in memory.
pub(super) type NotRun = EVMError<std::convert::Infallible>;

type Evm = MainnetEvm<MainnetContext<Overlay>>;

/// A block under construction.
pub(super) struct BlockBuilder {
    evm: Evm,
    parent: Arc<SealedBlock>,
    header: Header,
    transactions: Vec<SignedTx>,
    outcomes: Vec<Outcome>,
    logs: u64,
}

/// A finished block, and what committing it will change. Not part of the chain yet.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) block: SealedBlock,
    pub(super) changes: Changes,
}

impl BlockBuilder {
    /// Begins the block after the one `parent` is a snapshot of.
    pub(super) fn after(parent: Snapshot, chain_id: u64, timestamp: u64) -> Self {
        let parent_block = parent.chain.read().block(parent.height).expect("a snapshot is of a block").clone();
        let header = next_header(&parent_block, timestamp);
        let evm = evm(parent, configuration(chain_id), block_env(&header));
        Self { evm, parent: parent_block, header, transactions: Vec::new(), outcomes: Vec::new(), logs: 0 }
    }

    pub(super) fn base_fee(&self) -> u64 {
        self.header.base_fee_per_gas.unwrap_or_default()
    }

    pub(super) fn gas_left(&self) -> u64 {
        self.header.gas_limit - self.header.gas_used
    }

    pub(super) fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// Executes a transaction in the block. One that reverts is in the block too; one that may not run leaves no trace.
    pub(super) fn include(&mut self, tx: SignedTx) -> Result<(), NotRun> {
        let result = self.evm.transact_commit(transaction_env(&tx))?;
        let gas_used = result.tx_gas_used();
        self.header.gas_used += gas_used;
        let success = result.is_success();
        // A transaction that failed emitted nothing, whatever it had logged on the way.
        let logs: Vec<Log> = if success { result.into_logs() } else { Vec::new() };
        let first_log = self.logs;
        self.logs += logs.len() as u64;
        let receipt = Receipt { status: success.into(), cumulative_gas_used: self.header.gas_used, logs };
        self.outcomes.push(Outcome {
            receipt: ReceiptEnvelope::from_typed(tx.tx_type(), receipt.with_bloom()),
            gas_used,
            effective_gas_price: tx.effective_gas_price(Some(self.base_fee())),
            contract_address: tx.kind().is_create().then(|| tx.signer().create(tx.nonce())),
            first_log,
        });
        self.transactions.push(tx);
        Ok(())
    }

    pub(super) fn finish(self) -> Candidate {
        let Self { evm, parent, mut header, transactions, outcomes, .. } = self;
        let changes = evm.ctx.journaled_state.database.changes;
        let receipts: Vec<&ReceiptEnvelope> = outcomes.iter().map(|outcome| &outcome.receipt).collect();
        header.receipts_root = proofs::ordered_trie_root_with_encoder(&receipts, |receipt, buffer| {
            alloy::eips::Encodable2718::encode_2718(*receipt, buffer);
        });
        header.transactions_root = proofs::ordered_trie_root_with_encoder(&transactions, |tx, buffer| {
            alloy::eips::Encodable2718::encode_2718(tx.inner(), buffer);
        });
        header.logs_bloom = receipts.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | *receipt.logs_bloom());
        header.state_root = changes.digest(parent.header.state_root);
        Candidate { block: SealedBlock::new(header, transactions, outcomes), changes }
    }
}

/// What a call would do after the block of `snapshot`; nothing is kept.
pub(super) fn simulate(snapshot: &Snapshot, chain_id: u64, call: TxEnv) -> Result<ExecutionResult, NotRun> {
    let block = snapshot.chain.read().block(snapshot.height).expect("a snapshot is of a block").clone();
    let mut env = block_env(&block.header);
    if call.gas_price == 0 {
        // A call that pays nothing must not fail for it; geth lowers the base fee in the same way.
        env.basefee = 0;
    }
    let mut configuration = configuration(chain_id);
    configuration.disable_nonce_check = true;
    configuration.disable_eip3607 = true;
    // The cap is a rule for transactions; a call may read with all the gas of a block.
    configuration.tx_gas_limit_cap = Some(u64::MAX);
    Ok(evm(snapshot.clone(), configuration, env).transact(call)?.result)
}

/// The gas a transaction costs before its first instruction, and the least it costs by its size (EIP-7623).
pub(super) fn intrinsic_gas(tx: &SignedTx) -> (u64, u64) {
    let gas = CfgEnv::new_with_spec(SPEC).gas_params.initial_tx_gas_for_tx(transaction_env(tx), None);
    (gas.initial_total_gas(), gas.floor_gas())
}

fn evm(base: Snapshot, configuration: CfgEnv, block: BlockEnv) -> Evm {
    Context::mainnet().with_cfg(configuration).with_db(Overlay::new(base)).with_block(block).build_mainnet()
}

fn configuration(chain_id: u64) -> CfgEnv {
    CfgEnv::new_with_spec(SPEC).with_chain_id(chain_id)
}

fn block_env(header: &Header) -> BlockEnv {
    BlockEnv {
        number: alloy::primitives::U256::from(header.number),
        beneficiary: header.beneficiary,
        timestamp: alloy::primitives::U256::from(header.timestamp),
        gas_limit: header.gas_limit,
        basefee: header.base_fee_per_gas.unwrap_or_default(),
        prevrandao: Some(header.mix_hash),
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice::new(0, BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE)),
        ..BlockEnv::default()
    }
}

fn transaction_env(tx: &SignedTx) -> TxEnv {
    TxEnv {
        tx_type: tx.ty(),
        caller: tx.signer(),
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        kind: tx.kind(),
        value: tx.value(),
        data: tx.input().clone(),
        nonce: tx.nonce(),
        chain_id: tx.chain_id(),
        access_list: tx.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: tx.max_priority_fee_per_gas(),
        ..TxEnv::default()
    }
}

/// A call to run with [`simulate`], from the fields of an RPC request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) from: Address,
    pub(super) to: TxKind,
    pub(super) gas_limit: u64,
    pub(super) gas_price: u128,
    pub(super) value: alloy::primitives::U256,
    pub(super) data: alloy::primitives::Bytes,
    pub(super) access_list: AccessList,
}

impl Call {
    pub(super) fn env(&self) -> TxEnv {
        TxEnv {
            tx_type: u8::from(!self.access_list.is_empty()),
            caller: self.from,
            gas_limit: self.gas_limit,
            gas_price: self.gas_price,
            kind: self.to,
            value: self.value,
            data: self.data.clone(),
            access_list: self.access_list.clone(),
            chain_id: None,
            ..TxEnv::default()
        }
    }
}

/// Whether a transaction that could not run in this block may run in a later one.
pub(super) fn may_run_later(error: &NotRun) -> bool {
    matches!(
        error,
        EVMError::Transaction(
            InvalidTransaction::GasPriceLessThanBasefee
                | InvalidTransaction::NonceTooHigh { .. }
                | InvalidTransaction::CallerGasLimitMoreThanBlock
        )
    )
}
