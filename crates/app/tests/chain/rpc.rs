//! JSON-RPC between a worker and anvil, for somebody to meddle with.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::trap::Trap;

/// The node itself.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    client: reqwest::Client,
    url: String,
}

impl Upstream {
    pub(crate) fn new(url: String) -> Self {
        Self { client: reqwest::Client::new(), url }
    }

    /// Hands a request on; `None` if the node does not answer.
    pub(crate) async fn pass_on(&self, request: &Value) -> Option<Value> {
        self.client.post(&self.url).json(request).send().await.ok()?.json().await.ok()
    }

    /// Asks something of the test's own. `Null` if the node refuses.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.pass_on(&request).await.map_or(Value::Null, |answer| answer["result"].clone())
    }
}

/// What the worker gets to see.
#[derive(Debug)]
pub(crate) enum Reply {
    Json(Value),
    Status(u16),
    Garbage,
}

/// What happens to a request on its way.
#[async_trait]
pub(crate) trait Wire: Send + Sync {
    async fn carry(&self, method: &str, request: Value, node: &Upstream) -> Reply;
}

#[async_trait]
impl Wire for Trap {
    async fn carry(&self, method: &str, request: Value, node: &Upstream) -> Reply {
        if !self.pass(&format!("{method} asked")).await {
            return Reply::Status(500);
        }
        let answer = node.pass_on(&request).await;
        match answer {
            Some(answer) if self.pass(&format!("{method} answered")).await => Reply::Json(answer),
            _ => Reply::Status(500),
        }
    }
}

type Shared = Arc<(Arc<dyn Wire>, Upstream)>;

/// A node's address with a [`Wire`] behind it.
#[derive(Debug)]
pub(crate) struct RpcProxy {
    port: u16,
    serving: JoinHandle<()>,
}

impl RpcProxy {
    pub(crate) async fn new(node: Upstream, wire: Arc<dyn Wire>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/", post(carry)).with_state(Arc::new((wire, node)));
        let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Self { port, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for RpcProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn carry(State(shared): State<Shared>, body: String) -> Response {
    let (wire, node) = &*shared;
    let request: Value = serde_json::from_str(&body).unwrap();
    let method = request["method"].as_str().unwrap_or("a batch").to_owned();
    match wire.carry(&method, request, node).await {
        Reply::Json(answer) => axum::Json(answer).into_response(),
        Reply::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Reply::Garbage => "<html>the node is resting</html>".into_response(),
    }
}
