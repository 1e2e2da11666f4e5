//! From requests to the calldata of one transaction, and how many fit into one.
//!
//! Three bounds: [`MAX_ITEMS`], [`MAX_CALLDATA_BYTES`], and the gas of a transaction. The gas bound here is computed
//! from the requests alone and errs upwards; the node's estimate remains the last word.

use alloy::{
    primitives::{Bytes, U256},
    sol_types::SolCall,
};

use super::{
    contract::IModelTokenRegistry::{registerCall, registerManyCall},
    request::{TokenRequest, Unfit},
};

/// The most requests in one transaction.
pub const MAX_ITEMS: usize = 150;

/// The most calldata in one transaction. Clients refuse transactions above 128 KiB; the rest of it is for the envelope.
pub const MAX_CALLDATA_BYTES: usize = 127 * 1024;

/// The calldata that asks the registry for all the requests: `register` for one, `registerMany` for more.
/// Fails on the first request that does not pass [`TokenRequest::check`], so check each before putting them together.
pub fn calldata(requests: &[TokenRequest]) -> Result<Bytes, Unfit> {
    let mut records = requests.iter().map(TokenRequest::record).collect::<Result<Vec<_>, _>>()?;
    let call = match records.len() {
        1 => registerCall { record: records.remove(0) }.abi_encode(),
        _ => registerManyCall { records }.abi_encode(),
    };
    Ok(call.into())
}

/// How many of the first requests fit into one transaction of at most `gas_limit`: at least one, if there is any.
/// The requests have been checked. `supply_gas` is what a token costs more for the supply it starts with ([`supply_gas`]).
pub fn fit(requests: &[TokenRequest], gas_limit: u64, supply_gas: u64) -> usize {
    let (mut bytes, mut gas) = (ENVELOPE_BYTES, TRANSACTION_GAS);
    let fitting = requests.iter().take(MAX_ITEMS).take_while(|request| {
        bytes += calldata_bytes(request);
        gas += gas_bound(request, supply_gas);
        bytes <= MAX_CALLDATA_BYTES && gas <= gas_limit
    });
    fitting.count().max(1).min(requests.len())
}

/// More gas than registering the checked request takes, whatever is on chain already; without the transaction's own.
pub fn gas_bound(request: &TokenRequest, supply_gas: u64) -> u64 {
    let calldata = calldata_bytes(request) as u64;
    let creation = creation_gas(request) + supply_gas;
    calldata * (CALLDATA_BYTE_GAS + LOG_BYTE_GAS + COPY_BYTE_GAS) + ITEM_GAS + creation.max(later_version_gas(request))
}

/// What a first supply adds to a token at most: two new slots, a cold account of a new contract, a call through its proxy, and an
/// event.
pub fn supply_gas(initial_supply: U256) -> u64 {
    if initial_supply.is_zero() { 0 } else { 2 * NEW_SLOT_GAS + 12_000 }
}

const ENVELOPE_BYTES: usize = 4 + 32 + 32;
const TRANSACTION_GAS: u64 = 21_000 + 10_000;
const CALLDATA_BYTE_GAS: u64 = 16;
const LOG_BYTE_GAS: u64 = 8;
/// Copies within memory, and memory itself.
const COPY_BYTE_GAS: u64 = 7;
const CODE_BYTE_GAS: u64 = 207;
const NEW_SLOT_GAS: u64 = 22_100;
/// Checks, hashes, copies, events, cold accounts.
const ITEM_GAS: u64 = 16_000;

/// Creating the token: the code that it becomes is the dear part.
fn creation_gas(request: &TokenRequest) -> u64 {
    const PROXY_HEADER_NUMBERS_AND_CONTRIBUTOR_BYTES: usize = 45 + 5 + 2 * 16 + 20;
    let texts = [&request.symbol, &request.model_name, &request.model_version, &request.metric_name, &request.model_id];
    let code = PROXY_HEADER_NUMBERS_AND_CONTRIBUTOR_BYTES + texts.iter().map(|text| text.len()).sum::<usize>();
    32_000 + code as u64 * CODE_BYTE_GAS
}

/// Recording a version on a token that exists: reading the token's code, and two slots; a long version has its own.
fn later_version_gas(request: &TokenRequest) -> u64 {
    const LONGEST_SHORT_VERSION_BYTES: usize = 11;
    const READING_GAS: u64 = 30_000;
    let version = request.model_version.len();
    let text_slots = if version > LONGEST_SHORT_VERSION_BYTES { 1 + version.div_ceil(32) } else { 0 };
    READING_GAS + (2 + text_slots as u64) * NEW_SLOT_GAS
}

/// What the request adds to a batch's calldata.
fn calldata_bytes(request: &TokenRequest) -> usize {
    const OFFSET_IN_THE_ARRAY_BYTES: usize = 32;
    let texts =
        [&request.symbol, &request.model_name, &request.model_version, &request.model_id, &request.mlflow_run_id, &request.metric_name];
    let padded = texts.iter().map(|text| 32 + text.len().next_multiple_of(32)).sum::<usize>();
    OFFSET_IN_THE_ARRAY_BYTES + RECORD_WORDS * 32 + padded
}

/// The fields of a `ModelRecord`, one word each; texts follow where the word points.
const RECORD_WORDS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::request::tests::request;

    #[test]
    fn the_bytes_are_counted_exactly() {
        let one = request("MSG-AI", "1");
        let two = TokenRequest { model_id: "x".repeat(1024), mlflow_run_id: String::new(), ..one.clone() };
        for requests in [vec![one.clone(), one.clone()], vec![two.clone(), one, two]] {
            let counted = ENVELOPE_BYTES + requests.iter().map(calldata_bytes).sum::<usize>();
            assert_eq!(calldata(&requests).unwrap().len(), counted);
        }
    }

    #[test]
    fn a_batch_is_bounded_by_items_bytes_and_gas() {
        let small = vec![request("S", "1"); 400];
        assert_eq!(fit(&small, u64::MAX, 0), MAX_ITEMS);
        let (without, with) = (fit(&small, 16_777_216, 0), fit(&small, 16_777_216, supply_gas(U256::ONE)));
        assert!((100..MAX_ITEMS + 1).contains(&without) && (80..without).contains(&with), "{without}, {with}");
        let large = vec![TokenRequest { model_id: "x".repeat(1024), ..request("L", "1") }; 400];
        let fitting = fit(&large, u64::MAX, 0);
        assert!(calldata(&large[..fitting]).unwrap().len() <= MAX_CALLDATA_BYTES);
        assert!(calldata(&large[..fitting + 1]).unwrap().len() > MAX_CALLDATA_BYTES);
    }

    #[test]
    fn a_request_too_dear_for_any_batch_goes_alone() {
        assert_eq!(fit(&vec![request("S", "1"); 3], 1, 0), 1);
        assert_eq!(fit(&[], 1, 0), 0);
    }
}
