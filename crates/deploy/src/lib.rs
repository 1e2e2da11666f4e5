//! One token per symbol, one record per model version, whatever crashes on the way.
//!
//! A [`token::TokenRequest`] is planned in the [`Ledger`]; the [`Sender`] makes it true on the chain. "Exactly once" is kept here and
//! nowhere else: one ledger row per model version, signed bytes stored before they are sent, recovery that sends the same
//! bytes, and a contract ([`token`]) that makes a second token impossible.
//!
//! - [`deployment`]: the states and the pure function between them. [`ledger`]: the tables. [`sender`]: the loop.
//! - [`Journal`]: how the application writes, in the ledger's transaction, what a change means to it.
//! - [`Node`], [`RpcError`]: an EVM node. [`embedded`]: one in this process.
//! - [`check_chain`]: what must hold before a sender starts. [`deploy_registry`]: what a person does once per chain.
//!
//! What is absent: queues, HTTP servers, models' meaning. Nothing here reads the environment.
#![warn(missing_docs)]

mod chain;
pub mod deployment;
pub mod embedded;
mod error;
mod install;
mod journal;
pub mod ledger;
mod rpc;
mod rpc_error;
pub mod sender;
mod signer;
pub mod token;

pub use chain::{BadFinality, ChainFacts, Finality, Unfitting, UnknownChain, check_chain, check_node};
pub use deployment::{DeploymentState, Outage};
pub use error::Error;
pub use install::{DeployedRegistry, InstallError, RegistryPlan, deploy_registry};
pub use journal::{Change, Journal, JournalError, NoJournal};
pub use ledger::{Asked, Deployment, Deployments, Filter, Ledger, MIGRATIONS, Pruned, Wish};
pub use rpc::{At, Head, HttpOptions, Node, Receipt, Unusable};
pub use rpc_error::RpcError;
pub use sender::{FeePolicy, Sender, SenderConfig, SenderStatus};
pub use signer::{BadKey, BadKeystore, BadKmsKey, KmsSigner, LocalSigner, SignError, Signer};
