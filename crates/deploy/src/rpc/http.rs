//! JSON-RPC over HTTP to one of several endpoints, as an alloy transport.
//!
//! alloy's own HTTP transport puts the address into spans and errors, and addresses of providers hold keys; this one names
//! an endpoint by host alone. An endpoint that failed is tried last for a while; one that answers with a rate limit, or that it
//! lags, has failed too. Before its first use, and after each failure, an endpoint must name the same chain as the others: a
//! failover to another chain would be believed.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use alloy::{
    rpc::json_rpc::{RequestPacket, ResponsePacket},
    transports::{
        TransportError, TransportErrorKind, TransportFut,
        http::reqwest::{self, Client},
    },
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::Service;
use url::Url;

use crate::rpc_error::is_away;

/// An endpoint that failed is tried last for this long.
const REST: Duration = Duration::from_secs(15);

/// Settings of the HTTP transport.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// The time limit of one attempt at one endpoint.
    pub timeout: Duration,
    /// The chain every endpoint must serve; by default the first to answer decides.
    pub chain_id: Option<u64>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), chain_id: None }
    }
}

/// The addresses cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// There are none.
    #[error("no node address is given")]
    Empty,
    /// One is not HTTP.
    #[error("node address {position}: the scheme must be http or https, not `{scheme}`")]
    Scheme {
        /// Which, from 1.
        position: usize,
        /// What it is instead.
        scheme: String,
    },
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[source] reqwest::Error),
}

#[derive(Debug)]
struct Endpoint {
    url: Url,
    /// Host and port: all of the address that may be shown.
    name: String,
    rests_until: Mutex<Option<Instant>>,
    verified: AtomicBool,
}

#[derive(Debug, Clone)]
pub(super) struct Failover {
    client: Client,
    timeout: Duration,
    chain_id: Arc<OnceLock<u64>>,
    endpoints: Arc<[Endpoint]>,
}

impl Failover {
    pub(super) fn new(urls: &[Url], options: &HttpOptions) -> Result<Self, Unusable> {
        if urls.is_empty() {
            return Err(Unusable::Empty);
        }
        let endpoints = urls.iter().enumerate().map(|(at, url)| Endpoint::new(at + 1, url)).collect::<Result<_, _>>()?;
        let client = Client::builder().timeout(options.timeout).build().map_err(Unusable::Client)?;
        let chain_id = options.chain_id.map_or_else(OnceLock::new, OnceLock::from);
        Ok(Self { client, timeout: options.timeout, chain_id: Arc::new(chain_id), endpoints })
    }

    /// Long enough to try every endpoint, and to verify one.
    pub(super) fn limit(&self) -> Duration {
        self.timeout * (u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX) + 1)
    }

    /// The first answer that is one. If no endpoint has any, what the last one said is the answer.
    async fn ask(self, packet: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let mut failure = Err(TransportErrorKind::backend_gone());
        let (rested, resting): (Vec<_>, Vec<_>) = self.endpoints.iter().partition(|endpoint| !endpoint.rests());
        for endpoint in rested.into_iter().chain(resting) {
            match self.ask_one(endpoint, &packet).await {
                Ok(answer) if !says_away(&answer) => {
                    *endpoint.rests_until.lock() = None;
                    return Ok(answer);
                }
                failed => {
                    tracing::debug!(endpoint = endpoint.name, ?failed, "the endpoint failed");
                    endpoint.failed();
                    failure = failed;
                }
            }
        }
        failure
    }

    async fn ask_one(&self, endpoint: &Endpoint, packet: &RequestPacket) -> Result<ResponsePacket, TransportError> {
        self.verify(endpoint).await?;
        let body = self.post(endpoint, packet).await?;
        serde_json::from_slice(&body)
            .map_err(|error| TransportErrorKind::custom_str(&format!("{}: no JSON-RPC answer: {error}", endpoint.name)))
    }

    async fn verify(&self, endpoint: &Endpoint) -> Result<(), TransportError> {
        if endpoint.verified.load(Ordering::Relaxed) {
            return Ok(());
        }
        let body = self.post(endpoint, &json!({ "jsonrpc": "2.0", "id": 0, "method": "eth_chainId", "params": [] })).await?;
        let said = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|answer| u64::from_str_radix(answer["result"].as_str()?.strip_prefix("0x")?, 16).ok())
            .ok_or_else(|| TransportErrorKind::custom_str(&format!("{}: eth_chainId has no readable answer", endpoint.name)))?;
        let expected = *self.chain_id.get_or_init(|| said);
        if said != expected {
            let problem = format!("{}: serves chain {said}, not chain {expected}; remove it from the list of nodes", endpoint.name);
            return Err(TransportErrorKind::non_retryable_str(&problem));
        }
        endpoint.verified.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn post(&self, endpoint: &Endpoint, body: &impl serde::Serialize) -> Result<Vec<u8>, TransportError> {
        let hide = |error: reqwest::Error| TransportErrorKind::custom_str(&format!("{}: {}", endpoint.name, causes(&error.without_url())));
        let answer = self.client.post(endpoint.url.clone()).json(body).send().await.map_err(hide)?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(hide)?;
        // Some nodes answer a JSON-RPC error with an HTTP error status; a body that is one is the answer, unless the status
        // itself says that there is none to be had here.
        if matches!(status.as_u16(), 429 | 502..=504) {
            return Err(TransportErrorKind::custom_str(&format!("{}: HTTP status {status}", endpoint.name)));
        }
        if status.is_success() || serde_json::from_slice::<ResponsePacket>(&bytes).is_ok_and(|packet| packet.is_error()) {
            return Ok(bytes.to_vec());
        }
        Err(TransportErrorKind::custom_str(&format!("{}: HTTP status {status}", endpoint.name)))
    }
}

impl Endpoint {
    fn new(position: usize, url: &Url) -> Result<Self, Unusable> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Unusable::Scheme { position, scheme: url.scheme().to_owned() });
        }
        let host = url.host_str().unwrap_or_default();
        let name = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Self { url: url.clone(), name, rests_until: Mutex::new(None), verified: AtomicBool::new(false) })
    }

    /// Whatever stands behind the address next need not be what stood there before.
    fn failed(&self) {
        *self.rests_until.lock() = Some(Instant::now() + REST);
        self.verified.store(false, Ordering::Relaxed);
    }

    fn rests(&self) -> bool {
        self.rests_until.lock().is_some_and(|until| Instant::now() < until)
    }
}

fn says_away(answer: &ResponsePacket) -> bool {
    answer.as_error().is_some_and(|error| is_away(error.code, &error.message))
}

/// An error with its sources: reqwest says "error sending request" and leaves "connection refused" to them.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Service<RequestPacket> for Failover {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        Box::pin(self.clone().ask(packet))
    }
}
