//! JSON-RPC 2.0: methods to answers, and the envelope around them.
//!
//! Codes and messages are geth's where a client may depend on them: 3 with the data for a revert, -32000 for a refusal of
//! the chain, -32601 for an unknown method, -32602 for bad parameters.

use alloy::{
    consensus::{TxEnvelope, transaction::SignerRecoverable as _},
    eips::eip2718::Decodable2718 as _,
    primitives::{B256, Bytes},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::sync::Arc;

use super::{EmbeddedChain, Error, pool::Refusal};

/// How many requests a batch may hold, as in geth.
const MAX_BATCH: usize = 1000;

/// The error of a request, as JSON-RPC has it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message} (code {code})")]
#[non_exhaustive]
pub struct JsonRpcError {
    /// What kind of error it is.
    pub code: i64,
    /// What is wrong, in geth's words where it has some.
    pub message: String,
    /// The revert data, for code 3.
    pub data: Option<Value>,
}

impl JsonRpcError {
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::coded(-32000, message)
    }

    pub(super) fn bad_params(message: impl Into<String>) -> Self {
        Self::coded(-32602, message)
    }

    pub(super) fn reverted(message: String, data: &Bytes) -> Self {
        Self { code: 3, message, data: Some(Value::String(data.to_string())) }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::coded(-32603, message)
    }

    fn coded(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    fn to_json(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        error
    }
}

/// Why a transaction was not taken, or not put into a block.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the transaction is accepted but its block could not be kept yet: {0}")]
    NotKept(#[from] Error),
}

impl From<SendError> for JsonRpcError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Refused(refusal) => Self::refused(refusal.to_string()),
            SendError::NotKept(_) => Self::internal(error.to_string()),
        }
    }
}

/// The positional parameters of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Params<'a>(&'a [Value]);

impl<'a> Params<'a> {
    fn of(params: &'a Value) -> Result<Self, JsonRpcError> {
        match params {
            Value::Null => Ok(Self(&[])),
            Value::Array(values) => Ok(Self(values)),
            _ => Err(JsonRpcError::bad_params("the parameters must be an array")),
        }
    }

    pub(super) fn required<T: DeserializeOwned>(&self, index: usize) -> Result<T, JsonRpcError> {
        self.optional(index)?.ok_or_else(|| JsonRpcError::bad_params(format!("missing value for required argument {index}")))
    }

    /// Absent and `null` are the same.
    pub(super) fn optional<T: DeserializeOwned>(&self, index: usize) -> Result<Option<T>, JsonRpcError> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                T::deserialize(value).map(Some).map_err(|error| JsonRpcError::bad_params(format!("invalid argument {index}: {error}")))
            }
        }
    }
}

impl EmbeddedChain {
    /// Answers one request.
    ///
    /// Do not call it inside a write transaction on the chain's own store: sending a transaction writes there, and would
    /// wait for itself.
    ///
    /// # Errors
    ///
    /// As JSON-RPC has them.
    pub async fn request(&self, method: &str, params: &Value) -> Result<Value, JsonRpcError> {
        let params = Params::of(params)?;
        match method {
            "eth_sendRawTransaction" => self.send_raw(params).await,
            "eth_call" => self.core.call(params).await,
            "eth_estimateGas" => self.core.estimate_gas(params).await,
            "eth_blockNumber"
            | "eth_getBlockByNumber"
            | "eth_getBlockByHash"
            | "eth_getBlockReceipts"
            | "eth_getTransactionByHash"
            | "eth_getTransactionCount"
            | "eth_getTransactionReceipt" => {
                self.finish_sending().await;
                self.core.query(method, params)
            }
            _ => self.core.query(method, params),
        }
    }

    /// Answers the body of an HTTP request: one request or a batch. Empty if there is nothing to answer, which is when it
    /// held notifications only.
    pub async fn respond(&self, body: &[u8]) -> Vec<u8> {
        let answer = match serde_json::from_slice::<Value>(body) {
            Err(error) => Some(envelope(&Value::Null, Err(JsonRpcError::coded(-32700, format!("parse error: {error}"))))),
            Ok(Value::Array(batch)) => self.respond_batch(&batch).await,
            Ok(single) => self.respond_one(&single).await,
        };
        answer.map(|answer| answer.to_string().into_bytes()).unwrap_or_default()
    }

    async fn respond_batch(&self, batch: &[Value]) -> Option<Value> {
        if batch.is_empty() || batch.len() > MAX_BATCH {
            let message = if batch.is_empty() { "empty batch" } else { "batch too large" };
            return Some(envelope(&Value::Null, Err(JsonRpcError::coded(-32600, message))));
        }
        let mut answers = Vec::with_capacity(batch.len());
        for request in batch {
            answers.extend(self.respond_one(request).await);
        }
        (!answers.is_empty()).then_some(Value::Array(answers))
    }

    async fn respond_one(&self, request: &Value) -> Option<Value> {
        let id = request.get("id");
        let method = request.get("method").and_then(Value::as_str);
        let (Some("2.0"), Some(method)) = (request.get("jsonrpc").and_then(Value::as_str), method) else {
            return Some(envelope(id.unwrap_or(&Value::Null), Err(JsonRpcError::coded(-32600, "invalid request"))));
        };
        let result = self.request(method, request.get("params").unwrap_or(&Value::Null)).await;
        id.map(|id| envelope(id, result))
    }

    async fn send_raw(&self, params: Params<'_>) -> Result<Value, JsonRpcError> {
        let raw: Bytes = params.required(0)?;
        let tx = TxEnvelope::decode_2718_exact(&raw)
            .map_err(|error| JsonRpcError::refused(format!("the transaction cannot be decoded: {error}")))?;
        let tx = tx.try_into_recovered().map_err(|_| JsonRpcError::refused("invalid sender: the signature does not verify"))?;
        let hash: B256 = self.send(Arc::new(tx)).await?;
        to_json(&hash)
    }
}

fn envelope(id: &Value, result: Result<Value, JsonRpcError>) -> Value {
    match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error.to_json() }),
    }
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<Value, JsonRpcError> {
    serde_json::to_value(value).map_err(|error| JsonRpcError::internal(format!("the answer cannot be written: {error}")))
}
