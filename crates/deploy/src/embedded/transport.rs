//! The embedded chain as an alloy transport: what speaks to a node over HTTP speaks to it unchanged.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use alloy::{
    rpc::json_rpc::{ErrorPayload, RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest},
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use serde_json::{Value, value::to_raw_value};
use tower::Service;

use super::{EmbeddedChain, JsonRpcError};

/// Carries requests to an [`EmbeddedChain`]; cheap to clone. `RpcClient::new(EmbeddedTransport::new(chain), true)`.
#[derive(Debug, Clone)]
pub struct EmbeddedTransport {
    chain: Arc<EmbeddedChain>,
}

impl EmbeddedTransport {
    /// A transport to this chain.
    pub fn new(chain: Arc<EmbeddedChain>) -> Self {
        Self { chain }
    }
}

impl Service<RequestPacket> for EmbeddedTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let chain = self.chain.clone();
        Box::pin(async move {
            match packet {
                RequestPacket::Single(request) => Ok(ResponsePacket::Single(answer(&chain, &request).await?)),
                RequestPacket::Batch(requests) => {
                    let mut answers = Vec::with_capacity(requests.len());
                    for request in &requests {
                        answers.push(answer(&chain, request).await?);
                    }
                    Ok(ResponsePacket::Batch(answers))
                }
            }
        })
    }
}

async fn answer(chain: &EmbeddedChain, request: &SerializedRequest) -> Result<Response, TransportError> {
    let params: Value = match request.params() {
        Some(raw) => serde_json::from_str(raw.get()).map_err(TransportErrorKind::custom)?,
        None => Value::Null,
    };
    let payload = match chain.request(request.method(), &params).await {
        Ok(result) => ResponsePayload::Success(to_raw_value(&result).map_err(TransportErrorKind::custom)?),
        Err(JsonRpcError { code, message, data }) => {
            let data = data.map(|data| to_raw_value(&data)).transpose().map_err(TransportErrorKind::custom)?;
            ResponsePayload::Failure(ErrorPayload { code, message: message.into(), data })
        }
    };
    Ok(Response { id: request.id().clone(), payload })
}
