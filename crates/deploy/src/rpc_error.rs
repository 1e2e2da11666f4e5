//! What a node's errors mean. The only place that reads their codes and wording.
//!
//! JSON-RPC standardises almost none of this: clients differ in codes and words, and providers relay either. [`SAYINGS`]
//! is the table; its test holds what anvil says live and recorded samples of geth, erigon, nethermind and reth.
//!
//! Invariant: whatever is not recognised is [`RpcError::Refused`], which the sender treats as an outage a person must look
//! at. Nothing unrecognised ever burns a nonce, an attempt or a message.

use alloy::{
    primitives::Bytes,
    transports::{RpcError as AlloyError, TransportError},
};

/// A call to the node failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// No usable answer: refused connection, timeout, rate limit, a node still syncing. Whether a sent transaction arrived
    /// is not known.
    #[error("{method}: the node does not answer: {source}")]
    Away {
        /// The call.
        method: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node holds these bytes already.
    #[error("the node has this transaction already")]
    AlreadyKnown,
    /// The nonce is used.
    #[error("the nonce is used already")]
    NonceTooLow,
    /// An earlier nonce is missing, and the node does not keep what waits for it.
    #[error("an earlier nonce is missing: {message}")]
    NonceTooHigh {
        /// The node's words.
        message: String,
    },
    /// The fee is too low, alone or as a replacement.
    #[error("the fee is too low: {message}")]
    Underpriced {
        /// The node's words.
        message: String,
    },
    /// The account cannot pay.
    #[error("the account cannot pay: {message}")]
    Unfunded {
        /// The node's words.
        message: String,
    },
    /// The contract reverted.
    #[error("the contract reverted: {message}")]
    Reverted {
        /// The node's words.
        message: String,
        /// What the contract returned, if the node passed it on.
        data: Option<Bytes>,
    },
    /// The node does not know the method.
    #[error("{method}: the node does not offer this method")]
    Unsupported {
        /// The call.
        method: &'static str,
    },
    /// The node refused for another reason.
    #[error("{method}: the node refused (code {code}): {message}")]
    Refused {
        /// The call.
        method: &'static str,
        /// Its code.
        code: i64,
        /// Its words.
        message: String,
    },
    /// The answer cannot be read.
    #[error("{method}: the node's answer cannot be read: {problem}")]
    Garbled {
        /// The call.
        method: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl RpcError {
    /// Whether the node, and not the request, is the trouble.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. })
    }

    pub(crate) fn away(method: &'static str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Away { method, source: why.into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Away,
    AlreadyKnown,
    NonceTooLow,
    NonceTooHigh,
    Underpriced,
    Unfunded,
    Reverted,
    /// Nothing that is known here, although a looser fragment further down would match.
    Refused,
}

/// Lower-case fragments of what nodes say, first match wins: "replacement transaction underpriced" must be met before a
/// looser fragment, and "already known" before the prefixes some clients put around it.
const SAYINGS: &[(&str, Meaning)] = &[
    ("already known", Meaning::AlreadyKnown),
    ("alreadyknown", Meaning::AlreadyKnown),
    ("unknown transaction", Meaning::Refused),
    ("known transaction", Meaning::AlreadyKnown),
    ("already imported", Meaning::AlreadyKnown),
    ("existing tx with same hash", Meaning::AlreadyKnown),
    ("already in pool", Meaning::AlreadyKnown),
    ("nonce too low", Meaning::NonceTooLow),
    ("nonce is too low", Meaning::NonceTooLow),
    ("oldnonce", Meaning::NonceTooLow),
    ("nonce too high", Meaning::NonceTooHigh),
    ("nonce is too high", Meaning::NonceTooHigh),
    ("nonce too distant", Meaning::NonceTooHigh),
    ("nonce is too distant", Meaning::NonceTooHigh),
    ("nonce_too_far_in_future", Meaning::NonceTooHigh),
    ("noncegap", Meaning::NonceTooHigh),
    ("nonce gap", Meaning::NonceTooHigh),
    ("gapped", Meaning::NonceTooHigh),
    ("underpriced", Meaning::Underpriced),
    ("could not replace existing tx", Meaning::Underpriced),
    ("replacementnotallowed", Meaning::Underpriced),
    ("feetoolow", Meaning::Underpriced),
    ("fee too low", Meaning::Underpriced),
    ("less than block base fee", Meaning::Underpriced),
    ("insufficient funds", Meaning::Unfunded),
    ("insufficientfunds", Meaning::Unfunded),
    ("insufficient balance", Meaning::Unfunded),
    ("execution reverted", Meaning::Reverted),
    ("vm execution error", Meaning::Reverted),
    ("vm exception while processing transaction: revert", Meaning::Reverted),
    ("txpool is full", Meaning::Away),
    ("transaction pool is full", Meaning::Away),
    ("sub-pool is full", Meaning::Away),
    ("header not found", Meaning::Away),
    ("unknown block", Meaning::Away),
    ("missing trie node", Meaning::Away),
    ("state not available", Meaning::Away),
    ("gas limit", Meaning::Refused),
    ("rate limit", Meaning::Away),
    ("request limit", Meaning::Away),
    ("request rate", Meaning::Away),
    ("compute units", Meaning::Away),
    ("limit exceeded", Meaning::Away),
    ("too many requests", Meaning::Away),
    ("timeout", Meaning::Away),
    ("timed out", Meaning::Away),
];

/// EIP-1474: limit exceeded, and resource unavailable; and HTTP's "too many requests", which providers put into the packet.
const AWAY_CODES: [i64; 3] = [-32005, -32002, 429];
const METHOD_NOT_FOUND: i64 = -32601;
/// geth and those who follow it: the call reverted, and `data` holds what it returned.
const REVERTED_CODE: i64 = 3;

pub(crate) fn classify(method: &'static str, error: TransportError) -> RpcError {
    match error {
        AlloyError::ErrorResp(payload) => {
            let data = payload.data.as_ref().map(|raw| raw.get());
            answered(method, payload.code, &payload.message, data)
        }
        AlloyError::DeserError { err, .. } => RpcError::Garbled { method, problem: err.to_string() },
        AlloyError::NullResp => RpcError::Garbled { method, problem: "it is null".to_owned() },
        other => RpcError::away(method, other),
    }
}

/// Whether an error in a JSON-RPC answer says that this endpoint cannot serve at the moment, so that another one may.
pub(crate) fn is_away(code: i64, message: &str) -> bool {
    meaning(code, message) == Some(Meaning::Away)
}

fn answered(method: &'static str, code: i64, message: &str, data: Option<&str>) -> RpcError {
    let data = data.and_then(returned);
    match meaning(code, message) {
        Some(Meaning::Away) => RpcError::away(method, format!("code {code}: {message}")),
        Some(Meaning::AlreadyKnown) => RpcError::AlreadyKnown,
        Some(Meaning::NonceTooLow) => RpcError::NonceTooLow,
        Some(Meaning::NonceTooHigh) => RpcError::NonceTooHigh { message: message.to_owned() },
        Some(Meaning::Underpriced) => RpcError::Underpriced { message: message.to_owned() },
        Some(Meaning::Unfunded) => RpcError::Unfunded { message: message.to_owned() },
        Some(Meaning::Reverted) => RpcError::Reverted { message: message.to_owned(), data },
        None if code == METHOD_NOT_FOUND => RpcError::Unsupported { method },
        Some(Meaning::Refused) | None => RpcError::Refused { method, code, message: message.to_owned() },
    }
}

fn meaning(code: i64, message: &str) -> Option<Meaning> {
    if code == REVERTED_CODE {
        return Some(Meaning::Reverted);
    }
    if AWAY_CODES.contains(&code) {
        return Some(Meaning::Away);
    }
    let message = message.to_lowercase();
    SAYINGS.iter().find(|(fragment, _)| message.contains(fragment)).map(|(_, meaning)| *meaning)
}

/// The bytes in an error's `data`: a hex string in most clients, `Reverted 0x…` in nethermind, an object in old ones.
fn returned(raw: &str) -> Option<Bytes> {
    let start = raw.find("0x")?;
    let hex: &str = raw[start..].split(|sign: char| !sign.is_ascii_alphanumeric()).next()?;
    hex.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: i64, message: &str, expected: Option<Meaning>) {
        assert_eq!(meaning(code, message), expected, "code {code}: {message}");
    }

    /// Recorded from the sources and logs of the clients named; anvil's are tested live in `tests/it/anvil.rs`.
    #[test]
    fn recorded_samples_mean_what_they_should() {
        use Meaning::{AlreadyKnown, Away, NonceTooHigh, NonceTooLow, Refused, Reverted, Underpriced, Unfunded};
        // geth (core/txpool/errors.go, core/error.go, core/txpool/validation.go)
        check(-32000, "already known", Some(AlreadyKnown));
        check(-32000, "nonce too low: next nonce 5, tx nonce 4", Some(NonceTooLow));
        check(-32000, "replacement transaction underpriced", Some(Underpriced));
        check(-32000, "transaction underpriced: gas tip cap 0, minimum needed 1000000", Some(Underpriced));
        check(-32000, "max fee per gas less than block base fee: address 0x00, maxFeePerGas: 1, baseFee: 7", Some(Underpriced));
        check(-32000, "insufficient funds for gas * price + value: balance 0, tx cost 21000, overshot 21000", Some(Unfunded));
        check(-32003, "insufficient funds for gas * price + value: address 0x00 have 0 want 21000", Some(Unfunded));
        check(-32000, "txpool is full", Some(Away));
        check(-32000, "header not found", Some(Away));
        check(-32000, "missing trie node d0f1 (path ) state is not available", Some(Away));
        check(3, "execution reverted", Some(Reverted));
        check(-32000, "execution reverted: not the deployer", Some(Reverted));
        check(-32000, "nonce too high: tx nonce 9, gapped nonce 7", Some(NonceTooHigh));
        check(-32000, "transaction type not supported", None);
        check(-32000, "tx fee (1.20 ether) exceeds the configured cap (1.00 ether)", None);
        check(-32000, "transaction gas limit too high (cap: 16777216, tx: 30000000)", Some(Refused));
        check(-32000, "exceeds block gas limit", Some(Refused));
        check(-32000, "block gas limit exceeded", Some(Refused));
        check(-32602, "unknown transaction type: 4", Some(Refused));
        check(-32000, "invalid sender", None);
        // erigon (txnprovider/txpool/txpoolcfg)
        check(-32000, "ALREADY_EXISTS: already known", Some(AlreadyKnown));
        check(-32000, "existing tx with same hash", Some(AlreadyKnown));
        check(-32000, "could not replace existing tx", Some(Underpriced));
        check(-32000, "INTERNAL_ERROR: nonce too low", Some(NonceTooLow));
        check(-32000, "fee too low", Some(Underpriced));
        check(-32000, "pending sub-pool is full", Some(Away));
        // nethermind (Nethermind.TxPool/AcceptTxResult.cs)
        check(-32010, "AlreadyKnown", Some(AlreadyKnown));
        check(-32010, "OldNonce, Current nonce: 5, nonce of rejected tx: 4", Some(NonceTooLow));
        check(-32010, "NonceGap, Future nonce. Expected nonce: 5", Some(NonceTooHigh));
        check(-32010, "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 7", Some(Underpriced));
        check(-32010, "ReplacementNotAllowed", Some(Underpriced));
        check(-32010, "InsufficientFunds, Account balance: 0, cumulative cost: 21000", Some(Unfunded));
        check(-32015, "VM execution error.", Some(Reverted));
        // besu (ethereum/eth/.../TransactionInvalidReason.java)
        check(-32000, "NONCE_TOO_FAR_IN_FUTURE_FOR_SENDER", Some(NonceTooHigh));
        check(-32000, "Transaction nonce is too distant from current sender nonce", Some(NonceTooHigh));
        // reth (crates/rpc/rpc-eth-types/src/error)
        check(-32000, "already known", Some(AlreadyKnown));
        check(-32000, "nonce too low: next nonce 1, tx nonce 0", Some(NonceTooLow));
        // providers
        check(-32005, "project ID request rate exceeded", Some(Away));
        check(-32005, "daily request count exceeded, request rate limited", Some(Away));
        check(429, "Too Many Requests", Some(Away));
        check(429, "Your app has exceeded its compute units per second capacity.", Some(Away));
        check(-32007, "50/second request limit reached - reduce calls per second or upgrade your account", Some(Away));
        check(-32000, "daily limit exceeded", Some(Away));
        check(-32601, "the method eth_maxPriorityFeePerGas does not exist/is not available", None);
    }

    #[test]
    fn what_a_contract_returned_is_found_in_every_shape() {
        let expected: Bytes = "0x08c379a0".parse().expect("hex");
        for raw in [r#""0x08c379a0""#, r#""Reverted 0x08c379a0""#, r#"{"data":"0x08c379a0","message":"revert"}"#] {
            assert_eq!(returned(raw), Some(expected.clone()), "{raw}");
        }
        assert_eq!(returned(r#""nothing""#), None);
    }
}
