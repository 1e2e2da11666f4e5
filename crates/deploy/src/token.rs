//! What is asked of the registry contract, and what it answers.
//!
//! A [`TokenRequest`] is one model version whose token shall exist. This module checks it before it costs gas, encodes
//! one or many as the calldata of a transaction, bounds how many fit into one, predicts the token's address, and reads
//! from a transaction's logs what became of each. It is pure: sending is the sender's affair.
//!
//! Invariants: what [`calldata`] encodes, the registry contract decodes (malformed calldata would revert a whole
//! batch); what [`TokenRequest::check`] lets pass, the registry does not refuse; [`token_address`] is the contract's
//! own `tokenAddress`.

mod batch;
pub mod contract;
mod fixed_point;
mod outcome;
mod request;

pub use batch::{MAX_CALLDATA_BYTES, MAX_ITEMS, calldata, fit, gas_bound, supply_gas};
pub use contract::{
    IModelToken, IModelTokenRegistry, INTERFACE_VERSION, ModelTokenRegistry, RegistryArguments, registry_init_code, standard_json_input,
    symbol_key, token_address, version_key,
};
pub use fixed_point::{DECIMALS, from_fixed_point, to_fixed_point};
pub use outcome::{Misread, Outcome, Revert, read_outcomes, read_revert, recorded_versions};
pub use request::{MAX_MODEL_ID_BYTES, MAX_SYMBOL_BYTES, MAX_TEXT_BYTES, TokenRequest, Unfit};
