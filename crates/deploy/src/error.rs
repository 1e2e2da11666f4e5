//! What can go wrong in this room, by what the caller does next.

use alloy::primitives::{Address, B256};

use crate::{deployment::Outage, journal::JournalError, rpc_error::RpcError, signer::SignError};

/// The ledger or the sender failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database failed; [`is_transient`](hokusai_db::Error::is_transient) tells whether to try again.
    #[error(transparent)]
    Database(#[from] hokusai_db::Error),
    /// The journal refused a change: the ledger's transaction was rolled back, and nothing happened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The node failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The key could not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Another sender holds the account now: this one must write nothing more.
    #[error("the lease of account {account} on chain {chain_id} is not ours any more; another sender took it over")]
    LeaseLost {
        /// The chain.
        chain_id: u64,
        /// The account.
        account: Address,
    },
    /// Nothing can go on for a reason that lies outside; nothing is lost.
    #[error("{outage}: {detail}")]
    Outage {
        /// Which.
        outage: Outage,
        /// What was seen, and what to do.
        detail: String,
    },
    /// The node serves another chain of the same id than the one this ledger is about.
    #[error(
        "the ledger is about a chain {chain_id} that began with block {pinned}, but the node's chain {chain_id} began with {found}: a development          chain was started anew, or it is another network; use the node of before, or an empty DATABASE_URL"
    )]
    OtherGenesis {
        /// The chain.
        chain_id: u64,
        /// The hash of the first block, as the ledger has it.
        pinned: B256,
        /// As the node has it.
        found: B256,
    },
    /// A row of the ledger cannot be read.
    #[error("the ledger's {table} row {row} cannot be read: {problem}")]
    Unreadable {
        /// The table.
        table: &'static str,
        /// Which row.
        row: String,
        /// What is wrong.
        problem: String,
    },
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Error {
    /// The outage it amounts to; `None` if waiting will not mend it.
    pub fn outage(&self) -> Option<Outage> {
        match self {
            Self::Database(error) => error.is_transient().then_some(Outage::DatabaseAway),
            Self::Journal(error) => error.is_transient().then_some(Outage::DatabaseAway),
            Self::Rpc(error) => Some(match error {
                RpcError::Unfunded { .. } => Outage::OutOfFunds,
                RpcError::Away { .. } | RpcError::Garbled { .. } => Outage::NodeAway,
                _ => Outage::NodeRefuses,
            }),
            // A key service may come back, and a local key does not fail.
            Self::Sign(_) => Some(Outage::KeyAway),
            Self::Outage { outage, .. } => Some(*outage),
            Self::LeaseLost { .. } | Self::OtherGenesis { .. } | Self::Unreadable { .. } => None,
        }
    }
}
