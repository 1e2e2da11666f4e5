//! The accounts, storage and code of the embedded chain, at every height.
//!
//! Each account and slot keeps its history as (block, value) pairs in block order, so a [`Snapshot`] of any height is a
//! number, not a copy: reading it takes the lock for a single look-up, and blocks committed meanwhile do not change it.
//! There is no Merkle-Patricia trie; the header's state root is a digest chained over the [`Changes`] of every block,
//! which is enough to find a replay that went another way, and no more: `eth_getProof` is not offered.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
};

use alloy::primitives::{Address, B256, Keccak256, U256, map::AddressMap};
use parking_lot::RwLock;
use revm::{
    Database, DatabaseCommit,
    bytecode::Bytecode,
    primitives::KECCAK_EMPTY,
    state::{Account, AccountInfo},
};

use super::block::Chain;

/// What the chain knows about an account besides its storage. An empty account is not kept at all (EIP-161).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) nonce: u64,
    pub(super) balance: U256,
    pub(super) code_hash: B256,
}

impl Record {
    fn of(info: &AccountInfo) -> Option<Self> {
        (!info.is_empty()).then_some(Self { nonce: info.nonce, balance: info.balance, code_hash: info.code_hash })
    }

    fn into_info(self) -> AccountInfo {
        AccountInfo { balance: self.balance, nonce: self.nonce, code_hash: self.code_hash, account_id: None, code: None }
    }
}

/// What a block, or the part of it executed so far, changed. Ordered, so that its digest is.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) accounts: BTreeMap<Address, Option<Record>>,
    pub(super) storage: BTreeMap<(Address, U256), U256>,
    pub(super) code: HashMap<B256, Bytecode>,
}

impl Changes {
    /// The next state root: a digest of the one before and of everything that changed.
    pub(super) fn digest(&self, parent: B256) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update(parent);
        for (address, record) in &self.accounts {
            hasher.update(address);
            if let Some(record) = record {
                hasher.update(record.nonce.to_be_bytes());
                hasher.update(record.balance.to_be_bytes::<32>());
                hasher.update(record.code_hash);
            }
        }
        for ((address, slot), value) in &self.storage {
            hasher.update(address);
            hasher.update(slot.to_be_bytes::<32>());
            hasher.update(value.to_be_bytes::<32>());
        }
        hasher.finalize()
    }

    fn absorb(&mut self, address: Address, account: Account) {
        if !account.is_touched() {
            return;
        }
        if account.is_selfdestructed() {
            // Only a contract created in the same transaction is ever destroyed (EIP-6780): nothing of its storage was kept.
            self.accounts.insert(address, None);
            return;
        }
        self.accounts.insert(address, Record::of(&account.info));
        if let Some(code) = account.info.code.filter(|code| !code.is_empty()) {
            self.code.entry(account.info.code_hash).or_insert(code);
        }
        for (slot, value) in account.storage.into_iter().filter(|(_, value)| value.is_changed()) {
            self.storage.insert((address, slot), value.present_value());
        }
    }
}

/// The committed state at every height.
#[derive(Debug, Default)]
pub(super) struct State {
    accounts: HashMap<Address, History<Option<Record>>>,
    storage: HashMap<(Address, U256), History<U256>>,
    code: HashMap<B256, Bytecode>,
}

impl State {
    pub(super) fn commit(&mut self, height: u64, changes: Changes) {
        for (address, record) in changes.accounts {
            self.accounts.entry(address).or_default().push(height, record);
        }
        for (slot, value) in changes.storage {
            self.storage.entry(slot).or_default().push(height, value);
        }
        self.code.extend(changes.code);
    }

    pub(super) fn account(&self, height: u64, address: Address) -> Option<Record> {
        self.accounts.get(&address).and_then(|history| history.at(height)).flatten()
    }

    pub(super) fn slot(&self, height: u64, address: Address, slot: U256) -> U256 {
        self.storage.get(&(address, slot)).and_then(|history| history.at(height)).unwrap_or_default()
    }

    pub(super) fn code(&self, hash: B256) -> Bytecode {
        self.code.get(&hash).cloned().unwrap_or_default()
    }
}

#[derive(Debug)]
struct History<T>(Vec<(u64, T)>);

impl<T> Default for History<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy + PartialEq> History<T> {
    fn push(&mut self, height: u64, value: T) {
        if self.0.last().is_none_or(|(_, last)| *last != value) {
            self.0.push((height, value));
        }
    }

    fn at(&self, height: u64) -> Option<T> {
        let after = self.0.partition_point(|(block, _)| *block <= height);
        after.checked_sub(1).map(|index| self.0[index].1)
    }
}

/// The state after the block at `height`, for good.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) chain: Arc<RwLock<Chain>>,
    pub(super) height: u64,
}

/// A snapshot with what is being executed on top of it: the database the EVM sees.
#[derive(Debug)]
pub(super) struct Overlay {
    base: Snapshot,
    pub(super) changes: Changes,
}

impl Overlay {
    pub(super) fn new(base: Snapshot) -> Self {
        Self { base, changes: Changes::default() }
    }
}

impl Database for Overlay {
    type Error = Infallible;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        let record = match self.changes.accounts.get(&address) {
            Some(record) => *record,
            None => self.base.chain.read().state.account(self.base.height, address),
        };
        Ok(record.map(Record::into_info))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, Infallible> {
        if hash == KECCAK_EMPTY {
            return Ok(Bytecode::default());
        }
        Ok(match self.changes.code.get(&hash) {
            Some(code) => code.clone(),
            None => self.base.chain.read().state.code(hash),
        })
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, Infallible> {
        Ok(match self.changes.storage.get(&(address, slot)) {
            Some(value) => *value,
            None => self.base.chain.read().state.slot(self.base.height, address, slot),
        })
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, Infallible> {
        Ok(self.base.chain.read().block(number).map(|block| block.hash).unwrap_or_default())
    }
}

impl DatabaseCommit for Overlay {
    fn commit(&mut self, changes: AddressMap<Account>) {
        for (address, account) in changes {
            self.changes.absorb(address, account);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_answers_for_every_height() {
        let mut history = History::default();
        history.push(2, 'a');
        history.push(3, 'a');
        history.push(5, 'b');
        let seen: Vec<Option<char>> = (0..7).map(|height| history.at(height)).collect();
        assert_eq!(seen, [None, None, Some('a'), Some('a'), Some('a'), Some('b'), Some('b')]);
        assert_eq!(history.0.len(), 2, "an unchanged value takes no room");
    }

    #[test]
    fn the_digest_depends_on_the_parent_and_on_every_change() {
        let record = Record { nonce: 1, balance: U256::from(2), code_hash: KECCAK_EMPTY };
        let mut changes = Changes::default();
        changes.accounts.insert(Address::ZERO, Some(record));
        let first = changes.digest(B256::ZERO);
        assert_ne!(first, changes.digest(B256::repeat_byte(1)));
        changes.storage.insert((Address::ZERO, U256::ZERO), U256::from(1));
        assert_ne!(first, changes.digest(B256::ZERO));
    }
}
