//! `eth_call` and `eth_estimateGas`: running a call without keeping what it does.

use std::sync::Arc;

use alloy::{
    consensus::constants::KECCAK_EMPTY,
    primitives::{Address, Bytes, U64, U256},
    rpc::types::{BlockId, TransactionRequest},
    sol_types::{Panic, Revert, SolError as _},
};
use revm::{
    context::result::{EVMError, ExecutionResult, HaltReason, InvalidTransaction},
    primitives::eip7825::TX_GAS_LIMIT_CAP,
};
use serde_json::Value;

use super::{
    Core,
    execute::{Call, NotRun, simulate},
    rpc::{JsonRpcError, Params, to_json},
    state::Snapshot,
};

/// What the simplest transaction costs.
const TRANSFER_GAS: u64 = 21_000;
/// How much an estimate may exceed the least gas that works, as in geth: one part in this many.
const ESTIMATE_TOLERANCE: u64 = 66;

impl Core {
    pub(super) async fn call(self: &Arc<Self>, params: Params<'_>) -> Result<Value, JsonRpcError> {
        let (snapshot, request) = self.simulation(params)?;
        let call = self.call_of(request, self.config.block_gas_limit)?;
        let chain_id = self.config.chain_id;
        let result = in_background(move || simulate(&snapshot, chain_id, call.env())).await?;
        to_json(&output(result.map_err(not_run)?)?)
    }

    pub(super) async fn estimate_gas(self: &Arc<Self>, params: Params<'_>) -> Result<Value, JsonRpcError> {
        let (snapshot, request) = self.simulation(params)?;
        let price = request.max_fee_per_gas.or(request.gas_price).unwrap_or_default();
        let mut call = self.call_of(request, self.config.block_gas_limit.min(TX_GAS_LIMIT_CAP))?;
        call.gas_limit = call.gas_limit.min(affordable_gas(&snapshot, &call, price)?);
        let chain_id = self.config.chain_id;
        let estimate = in_background(move || estimate(&snapshot, chain_id, call)).await?;
        to_json(&U64::from(estimate?))
    }

    /// The state and the request both methods begin with. The third parameter would change the state first.
    fn simulation(&self, params: Params<'_>) -> Result<(Snapshot, TransactionRequest), JsonRpcError> {
        let request: TransactionRequest = params.required(0)?;
        let height = self.height_of(params.optional::<BlockId>(1)?.unwrap_or_default())?;
        for index in 2..4 {
            if params.optional::<Value>(index)?.is_some_and(|overrides| overrides.as_object().is_none_or(|entries| !entries.is_empty())) {
                return Err(JsonRpcError::bad_params("state and block overrides are not supported by the embedded chain"));
            }
        }
        Ok((self.snapshot(height), request))
    }

    fn call_of(&self, request: TransactionRequest, most_gas: u64) -> Result<Call, JsonRpcError> {
        if let Some(have) = request.chain_id.filter(|have| *have != self.config.chain_id) {
            return Err(JsonRpcError::refused(format!("invalid chain id for signer: have {have} want {}", self.config.chain_id)));
        }
        let data = request.input.try_into_unique_input().map_err(|error| JsonRpcError::bad_params(error.to_string()))?;
        Ok(Call {
            from: request.from.unwrap_or(Address::ZERO),
            to: request.to.unwrap_or(alloy::primitives::TxKind::Create),
            gas_limit: request.gas.unwrap_or(most_gas).min(most_gas),
            // Only a price that was named is charged; with none a call is free.
            gas_price: request.gas_price.unwrap_or_default(),
            value: request.value.unwrap_or_default(),
            data: data.unwrap_or_default(),
            access_list: request.access_list.unwrap_or_default(),
        })
    }
}

/// Executing takes milliseconds, sometimes many: not on a thread that serves others.
async fn in_background<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, JsonRpcError> {
    tokio::task::spawn_blocking(run).await.map_err(|error| JsonRpcError::internal(format!("executing the call failed: {error}")))
}

fn affordable_gas(snapshot: &Snapshot, call: &Call, price: u128) -> Result<u64, JsonRpcError> {
    if price == 0 {
        return Ok(u64::MAX);
    }
    let account = snapshot.chain.read().state.account(snapshot.height, call.from);
    let balance = account.map_or(U256::ZERO, |account| account.balance);
    let Some(available) = balance.checked_sub(call.value) else {
        return Err(JsonRpcError::refused("insufficient funds for transfer"));
    };
    Ok((available / U256::from(price)).saturating_to())
}

/// The least gas that lets the call succeed, within geth's tolerance.
fn estimate(snapshot: &Snapshot, chain_id: u64, mut call: Call) -> Result<u64, JsonRpcError> {
    // What a call would pay is not what it costs in gas: without a price neither fee nor balance is in the way.
    call.gas_price = 0;
    if call.data.is_empty() && is_plain_transfer(snapshot, &call) && call.gas_limit >= TRANSFER_GAS {
        call.gas_limit = TRANSFER_GAS;
        if matches!(simulate(snapshot, chain_id, call.env()), Ok(result) if result.is_success()) {
            return Ok(TRANSFER_GAS);
        }
    }
    let most = call.gas_limit;
    let run = |gas_limit: u64| simulate(snapshot, chain_id, Call { gas_limit, ..call.clone() }.env());
    let result = run(most).map_err(|error| too_little(&error, most).unwrap_or_else(|| not_run(error)))?;
    if let ExecutionResult::Halt { reason: HaltReason::OutOfGas(_), .. } = result {
        return Err(JsonRpcError::refused(format!("gas required exceeds allowance ({most})")));
    }
    let gas = *result.gas();
    output(result)?;
    let suffices = |limit: u64| match run(limit) {
        Ok(result) => Ok(result.is_success()),
        Err(error) if too_little(&error, limit).is_some() => Ok(false),
        Err(error) => Err(not_run(error)),
    };
    // Nothing below what was used can work; a 64th more, and the refund, usually does.
    let mut too_low = gas.tx_gas_used().saturating_sub(1);
    let mut enough = most;
    let likely = (gas.total_gas_spent() + 2300).saturating_mul(64) / 63;
    if likely < enough {
        if suffices(likely)? { enough = likely } else { too_low = likely }
    }
    while too_low + 1 < enough && enough - too_low > enough / ESTIMATE_TOLERANCE {
        let middle = too_low + (enough - too_low) / 2;
        if suffices(middle)? { enough = middle } else { too_low = middle }
    }
    Ok(enough)
}

fn is_plain_transfer(snapshot: &Snapshot, call: &Call) -> bool {
    let chain = snapshot.chain.read();
    call.to.to().is_some_and(|to| chain.state.account(snapshot.height, *to).is_none_or(|account| account.code_hash == KECCAK_EMPTY))
}

/// The refusal for a gas limit that does not even cover what a transaction costs before it runs.
fn too_little(error: &NotRun, limit: u64) -> Option<JsonRpcError> {
    let EVMError::Transaction(
        InvalidTransaction::CallGasCostMoreThanGasLimit { initial_gas: needed, .. }
        | InvalidTransaction::GasFloorMoreThanGasLimit { gas_floor: needed, .. },
    ) = error
    else {
        return None;
    };
    Some(JsonRpcError::refused(format!("intrinsic gas too low: gas {limit}, minimum needed {needed}")))
}

fn not_run(error: NotRun) -> JsonRpcError {
    match error {
        EVMError::Transaction(InvalidTransaction::LackOfFundForMaxFee { fee, balance }) => {
            JsonRpcError::refused(format!("insufficient funds for gas * price + value: have {balance} want {fee}"))
        }
        EVMError::Transaction(InvalidTransaction::GasPriceLessThanBasefee) => {
            JsonRpcError::refused("max fee per gas less than block base fee")
        }
        other => JsonRpcError::refused(other.to_string()),
    }
}

fn output(result: ExecutionResult) -> Result<Bytes, JsonRpcError> {
    match result {
        ExecutionResult::Success { output, .. } => Ok(output.into_data()),
        ExecutionResult::Revert { output, .. } => Err(JsonRpcError::reverted(revert_message(&output), &output)),
        ExecutionResult::Halt { reason, .. } => Err(JsonRpcError::refused(halt_message(&reason))),
    }
}

fn revert_message(output: &Bytes) -> String {
    let reason =
        Revert::abi_decode(output).map(|revert| revert.reason).or_else(|_| Panic::abi_decode(output).map(|panic| panic.to_string()));
    match reason {
        Ok(reason) => format!("execution reverted: {reason}"),
        Err(_) => "execution reverted".into(),
    }
}

fn halt_message(reason: &HaltReason) -> String {
    match reason {
        HaltReason::OutOfGas(_) => "out of gas".into(),
        HaltReason::OpcodeNotFound | HaltReason::NotActivated => "invalid opcode".into(),
        HaltReason::InvalidFEOpcode => "invalid opcode: INVALID".into(),
        HaltReason::InvalidJump => "invalid jump destination".into(),
        HaltReason::StackUnderflow => "stack underflow".into(),
        HaltReason::StackOverflow => "stack limit reached 1024 (1023)".into(),
        HaltReason::CreateCollision => "contract address collision".into(),
        HaltReason::CreateContractSizeLimit => "max code size exceeded".into(),
        other => format!("execution failed: {other:?}"),
    }
}
