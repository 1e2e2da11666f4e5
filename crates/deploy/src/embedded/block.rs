//! Blocks of the embedded chain, and the chain of them in memory.
//!
//! Invariants: blocks are numbered without gaps from the genesis block 0; a block in a [`Chain`] is final and never
//! changes; with a store it was on disk before it came here.

use std::{collections::HashMap, sync::Arc};

use alloy::{
    consensus::{BlockBody, Header, ReceiptEnvelope, TxEnvelope, constants::EMPTY_WITHDRAWALS, transaction::Recovered},
    eips::{eip1559::BaseFeeParams, eip7685::EMPTY_REQUESTS_HASH},
    primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256},
};

use super::{
    EmbeddedConfig,
    state::{Changes, Record, State},
};

/// A transaction whose signature was checked.
pub(super) type SignedTx = Arc<Recovered<TxEnvelope>>;

/// 2025-01-01T00:00:00Z: a constant, so that equal settings give equal chains.
const GENESIS_TIMESTAMP: u64 = 1_735_689_600;

/// What a transaction did.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) receipt: ReceiptEnvelope,
    pub(super) gas_used: u64,
    pub(super) effective_gas_price: u128,
    pub(super) contract_address: Option<Address>,
    /// How many logs the block holds before this transaction's first.
    pub(super) first_log: u64,
}

/// A block and what its transactions did.
#[derive(Debug)]
pub(super) struct SealedBlock {
    pub(super) header: Header,
    pub(super) hash: B256,
    pub(super) size_bytes: usize,
    pub(super) transactions: Vec<SignedTx>,
    pub(super) outcomes: Vec<Outcome>,
}

impl SealedBlock {
    pub(super) fn new(header: Header, transactions: Vec<SignedTx>, outcomes: Vec<Outcome>) -> Self {
        let body = BlockBody {
            transactions: transactions.iter().map(|tx| tx.inner()).collect::<Vec<_>>(),
            ommers: Vec::<Header>::new(),
            withdrawals: Some(alloy::eips::eip4895::Withdrawals::default()),
        };
        let size_bytes = alloy::consensus::Block::rlp_length_for(&header, &body);
        Self { hash: header.hash_slow(), header, size_bytes, transactions, outcomes }
    }

    pub(super) fn base_fee(&self) -> u64 {
        self.header.base_fee_per_gas.unwrap_or_default()
    }

    /// The base fee the protocol gives the block after this one.
    pub(super) fn next_base_fee(&self) -> u64 {
        BaseFeeParams::ethereum().next_block_base_fee(self.header.gas_used, self.header.gas_limit, self.base_fee())
    }
}

/// The header of the block after `parent`, before anything is executed in it.
pub(super) fn next_header(parent: &SealedBlock, timestamp: u64) -> Header {
    Header {
        parent_hash: parent.hash,
        number: parent.header.number + 1,
        timestamp,
        gas_limit: parent.header.gas_limit,
        base_fee_per_gas: Some(parent.next_base_fee()),
        // There is no beacon to take randomness from; it must be the same again when the log is replayed.
        mix_hash: keccak256(parent.hash),
        ..empty_header()
    }
}

fn empty_header() -> Header {
    Header {
        withdrawals_root: Some(EMPTY_WITHDRAWALS),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Header::default()
    }
}

/// All blocks and the state they lead to.
#[derive(Debug)]
pub(super) struct Chain {
    blocks: Vec<Arc<SealedBlock>>,
    by_hash: HashMap<B256, u64>,
    places: HashMap<B256, (u64, usize)>,
    pub(super) state: State,
}

impl Chain {
    /// A chain of one block, which holds the prefunded accounts and is a function of the settings alone.
    pub(super) fn genesis(config: &EmbeddedConfig) -> Self {
        let mut changes = Changes::default();
        for (address, balance_wei) in &config.prefunded {
            let record = Record { nonce: 0, balance: *balance_wei, code_hash: KECCAK256_EMPTY };
            changes.accounts.insert(*address, Some(record));
        }
        let chain_id = B256::from(U256::from(config.chain_id));
        let header = Header {
            timestamp: GENESIS_TIMESTAMP,
            gas_limit: config.block_gas_limit,
            base_fee_per_gas: Some(config.base_fee_wei),
            extra_data: Bytes::from_static(b"hokusai embedded"),
            state_root: changes.digest(chain_id),
            ..empty_header()
        };
        let mut chain = Self { blocks: Vec::new(), by_hash: HashMap::new(), places: HashMap::new(), state: State::default() };
        chain.push(Arc::new(SealedBlock::new(header, Vec::new(), Vec::new())), changes);
        chain
    }

    pub(super) fn push(&mut self, block: Arc<SealedBlock>, changes: Changes) {
        let height = self.blocks.len() as u64;
        debug_assert_eq!(block.header.number, height, "blocks come in order");
        self.by_hash.insert(block.hash, height);
        for (index, tx) in block.transactions.iter().enumerate() {
            self.places.insert(*tx.tx_hash(), (height, index));
        }
        self.blocks.push(block);
        self.state.commit(height, changes);
    }

    pub(super) fn height(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    pub(super) fn head(&self) -> &Arc<SealedBlock> {
        self.blocks.last().expect("a chain has a genesis block")
    }

    pub(super) fn block(&self, number: u64) -> Option<&Arc<SealedBlock>> {
        usize::try_from(number).ok().and_then(|number| self.blocks.get(number))
    }

    pub(super) fn number_of(&self, hash: B256) -> Option<u64> {
        self.by_hash.get(&hash).copied()
    }

    /// The block that holds a transaction, and its index there.
    pub(super) fn find(&self, transaction: B256) -> Option<(Arc<SealedBlock>, usize)> {
        let (number, index) = *self.places.get(&transaction)?;
        Some((self.block(number)?.clone(), index))
    }

    /// The account as of the newest block.
    pub(super) fn account(&self, address: Address) -> Option<Record> {
        self.state.account(self.height(), address)
    }
}
