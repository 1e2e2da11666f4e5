//! Transactions that wait: for an earlier nonce, for a lower base fee, or for the next block. Pure.
//!
//! Data: per sender, by nonce. Invariants: every transaction here was valid on its own when it came (signature, chain,
//! size, intrinsic gas); there is one per sender and nonce; nothing here has a nonce below its sender's.
//! The rules and the words of the refusals are geth's, because clients match on them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use alloy::{
    consensus::{Transaction as _, TxType},
    eips::eip2718::Encodable2718 as _,
    primitives::{Address, B256, U256},
};
use revm::primitives::{eip3860::MAX_INITCODE_SIZE, eip7825::TX_GAS_LIMIT_CAP};

use super::{block::SignedTx, execute::intrinsic_gas, state::Record};

/// How far a replacement must raise both fees, in percent of the old ones.
const PRICE_BUMP_PERCENT: u128 = 110;
/// The largest transaction taken, as in geth.
const MAX_TRANSACTION_BYTES: usize = 128 * 1024;
/// How many transactions may wait for one sender, and in all.
const MAX_WAITING_PER_SENDER: usize = 1024;
const MAX_WAITING: usize = 8192;

/// Why a transaction is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("already known")]
    AlreadyKnown,
    #[error("nonce too low: next nonce {next}, tx nonce {nonce}")]
    NonceTooLow { next: u64, nonce: u64 },
    #[error("nonce has max value: tx nonce {}", u64::MAX)]
    NonceMax,
    #[error("replacement transaction underpriced")]
    ReplacementUnderpriced,
    #[error("insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, overshot {}", cost.saturating_sub(*balance))]
    InsufficientFunds { balance: U256, cost: U256 },
    #[error("insufficient funds for gas * price + value: balance {balance}, queued cost {queued}, tx cost {cost}")]
    OverdraftWithQueue { balance: U256, queued: U256, cost: U256 },
    #[error("intrinsic gas too low: gas {gas}, minimum needed {needed}")]
    IntrinsicGas { gas: u64, needed: u64 },
    #[error("insufficient gas for floor data gas cost: gas {gas}, minimum needed {needed}")]
    FloorGas { gas: u64, needed: u64 },
    #[error("exceeds block gas limit")]
    BlockGasLimit,
    #[error("transaction gas limit too high (cap: {TX_GAS_LIMIT_CAP}, tx: {gas})")]
    GasLimitCap { gas: u64 },
    #[error("oversized data: transaction size {size}, limit {MAX_TRANSACTION_BYTES}")]
    Oversized { size: usize },
    #[error("max initcode size exceeded: code size {size}, limit {MAX_INITCODE_SIZE}")]
    InitcodeSize { size: usize },
    #[error("max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {cap}")]
    TipAboveFeeCap { tip: u128, cap: u128 },
    #[error("invalid chain id for signer: have {have} want {want}")]
    ChainId { have: u64, want: u64 },
    #[error("only replay-protected (EIP-155) transactions allowed over RPC")]
    NotReplayProtected,
    #[error("transaction type not supported")]
    TypeNotSupported,
    #[error("sender not an eoa: address {0}")]
    SenderHasCode(Address),
    #[error("txpool is full")]
    Full,
}

/// Checks what is wrong with a transaction whatever the state of the chain.
pub(super) fn check(tx: &SignedTx, chain_id: u64, block_gas_limit: u64) -> Result<(), Refusal> {
    if !matches!(tx.tx_type(), TxType::Legacy | TxType::Eip2930 | TxType::Eip1559) {
        return Err(Refusal::TypeNotSupported);
    }
    match tx.chain_id() {
        None => return Err(Refusal::NotReplayProtected),
        Some(have) if have != chain_id => return Err(Refusal::ChainId { have, want: chain_id }),
        Some(_) => {}
    }
    let size = tx.encode_2718_len();
    if size > MAX_TRANSACTION_BYTES {
        return Err(Refusal::Oversized { size });
    }
    if tx.kind().is_create() && tx.input().len() > MAX_INITCODE_SIZE {
        return Err(Refusal::InitcodeSize { size: tx.input().len() });
    }
    let tip = tx.max_priority_fee_per_gas().unwrap_or_default();
    if tip > tx.max_fee_per_gas() {
        return Err(Refusal::TipAboveFeeCap { tip, cap: tx.max_fee_per_gas() });
    }
    if tx.nonce() == u64::MAX {
        return Err(Refusal::NonceMax);
    }
    check_gas(tx, block_gas_limit)
}

fn check_gas(tx: &SignedTx, block_gas_limit: u64) -> Result<(), Refusal> {
    let gas = tx.gas_limit();
    if gas > block_gas_limit {
        return Err(Refusal::BlockGasLimit);
    }
    if gas > TX_GAS_LIMIT_CAP {
        return Err(Refusal::GasLimitCap { gas });
    }
    let (intrinsic, floor) = intrinsic_gas(tx);
    if gas < intrinsic {
        return Err(Refusal::IntrinsicGas { gas, needed: intrinsic });
    }
    if gas < floor {
        return Err(Refusal::FloorGas { gas, needed: floor });
    }
    Ok(())
}

/// The most a transaction can take from its sender.
fn worst_cost(tx: &SignedTx) -> U256 {
    U256::from(tx.max_fee_per_gas()).saturating_mul(U256::from(tx.gas_limit())).saturating_add(tx.value())
}

/// The waiting transactions.
#[derive(Debug, Default)]
pub(super) struct Pool {
    senders: HashMap<Address, BTreeMap<u64, Waiting>>,
    by_hash: HashMap<B256, SignedTx>,
    arrivals: u64,
}

#[derive(Debug, Clone)]
struct Waiting {
    tx: SignedTx,
    arrival: u64,
}

impl Pool {
    /// Takes a transaction that passed [`check`], given its sender's account.
    pub(super) fn admit(&mut self, tx: SignedTx, account: Option<Record>) -> Result<(), Refusal> {
        if self.by_hash.contains_key(tx.tx_hash()) {
            return Err(Refusal::AlreadyKnown);
        }
        let (next, balance) = account.map_or((0, U256::ZERO), |account| (account.nonce, account.balance));
        if account.is_some_and(|account| account.code_hash != revm::primitives::KECCAK_EMPTY) {
            return Err(Refusal::SenderHasCode(tx.signer()));
        }
        if tx.nonce() < next {
            return Err(Refusal::NonceTooLow { next, nonce: tx.nonce() });
        }
        self.check_funds(&tx, balance)?;
        self.check_place(&tx)?;
        self.insert(tx);
        Ok(())
    }

    fn check_funds(&self, tx: &SignedTx, balance: U256) -> Result<(), Refusal> {
        let cost = worst_cost(tx);
        if cost > balance {
            return Err(Refusal::InsufficientFunds { balance, cost });
        }
        let others = self.senders.get(&tx.signer()).into_iter().flatten().filter(|(nonce, _)| **nonce != tx.nonce());
        let queued = others.fold(U256::ZERO, |sum, (_, waiting)| sum.saturating_add(worst_cost(&waiting.tx)));
        if queued.saturating_add(cost) > balance {
            return Err(Refusal::OverdraftWithQueue { balance, queued, cost });
        }
        Ok(())
    }

    /// Either there is room, or the transaction pays enough more than the one in its place.
    fn check_place(&self, tx: &SignedTx) -> Result<(), Refusal> {
        let queue = self.senders.get(&tx.signer());
        let Some(old) = queue.and_then(|queue| queue.get(&tx.nonce())) else {
            let full = self.by_hash.len() >= MAX_WAITING || queue.is_some_and(|queue| queue.len() >= MAX_WAITING_PER_SENDER);
            return if full { Err(Refusal::Full) } else { Ok(()) };
        };
        let tip = |tx: &SignedTx| tx.max_priority_fee_per_gas().unwrap_or_else(|| tx.max_fee_per_gas());
        let raised = |old: u128, new: u128| new > old && new >= old.saturating_mul(PRICE_BUMP_PERCENT) / 100;
        if raised(old.tx.max_fee_per_gas(), tx.max_fee_per_gas()) && raised(tip(&old.tx), tip(tx)) {
            Ok(())
        } else {
            Err(Refusal::ReplacementUnderpriced)
        }
    }

    fn insert(&mut self, tx: SignedTx) {
        self.arrivals += 1;
        self.by_hash.insert(*tx.tx_hash(), tx.clone());
        let queue = self.senders.entry(tx.signer()).or_default();
        if let Some(old) = queue.insert(tx.nonce(), Waiting { tx, arrival: self.arrivals }) {
            self.by_hash.remove(old.tx.tx_hash());
        }
    }

    pub(super) fn get(&self, hash: B256) -> Option<&SignedTx> {
        self.by_hash.get(&hash)
    }

    /// The nonce after the last transaction of the sender that could be in the next block.
    pub(super) fn pending_nonce(&self, sender: Address, next: u64) -> u64 {
        let Some(queue) = self.senders.get(&sender) else { return next };
        queue.range(next..).zip(next..).take_while(|((nonce, _), expected)| **nonce == *expected).count() as u64 + next
    }

    /// What could be in a block with this base fee, in order of arrival as far as the nonces allow.
    pub(super) fn runnable(&self, base_fee: u64, account: impl Fn(Address) -> Option<Record>) -> Runnable {
        let mut heads = BinaryHeap::new();
        let mut runs = Vec::new();
        for (sender, queue) in &self.senders {
            let next = account(*sender).map_or(0, |account| account.nonce);
            let run: Vec<Waiting> = queue
                .range(next..)
                .zip(next..)
                .take_while(|((nonce, waiting), expected)| **nonce == *expected && waiting.tx.max_fee_per_gas() >= u128::from(base_fee))
                .map(|((_, waiting), _)| waiting.clone())
                .collect();
            if let Some(first) = run.first() {
                heads.push(Reverse((first.arrival, runs.len())));
                runs.push(run.into_iter());
            }
        }
        Runnable { heads, runs }
    }

    /// Forgets everything of the sender below its nonce.
    pub(super) fn prune(&mut self, sender: Address, next: u64) {
        let Some(queue) = self.senders.get_mut(&sender) else { return };
        let later = queue.split_off(&next);
        for waiting in std::mem::replace(queue, later).into_values() {
            self.by_hash.remove(waiting.tx.tx_hash());
        }
        if queue.is_empty() {
            self.senders.remove(&sender);
        }
    }

    /// Forgets one transaction that turned out never to be able to run.
    pub(super) fn drop_one(&mut self, tx: &SignedTx) {
        if self.by_hash.remove(tx.tx_hash()).is_none() {
            return;
        }
        if let Some(queue) = self.senders.get_mut(&tx.signer()) {
            queue.remove(&tx.nonce());
            if queue.is_empty() {
                self.senders.remove(&tx.signer());
            }
        }
    }
}

/// Transactions to try, one at a time; [`skip`](Self::skip) leaves out the rest of a sender's when one did not go in.
#[derive(Debug)]
pub(super) struct Runnable {
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    runs: Vec<std::vec::IntoIter<Waiting>>,
}

impl Runnable {
    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The next transaction, and whose run it belongs to.
    pub(super) fn next(&mut self) -> Option<(SignedTx, usize)> {
        let Reverse((_, run)) = self.heads.pop()?;
        let waiting = self.runs[run].next()?;
        if let Some(following) = self.runs[run].as_slice().first() {
            self.heads.push(Reverse((following.arrival, run)));
        }
        Some((waiting.tx, run))
    }

    pub(super) fn skip(&mut self, run: usize) {
        self.runs[run] = Vec::new().into_iter();
        self.heads.retain(|Reverse((_, other))| *other != run);
    }
}
