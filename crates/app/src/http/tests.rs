//! The interface, called in process on a real database. Bodies are compared as snapshots, ids and times masked.

mod limits;
mod operation;
mod queues;
mod reading;
mod register;
mod stream;
mod wrong_fields;

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use hokusai_db::Database;
use hokusai_queue::{Queue, RedisQueue, RedisSettings, SqlQueue};
use hokusai_registry::{QueueOpener, RegistrarOptions, Registrations, Subscriptions, registrar};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;

use super::{Api, Carrier, Queues, Version, router};

const QUEUE: &str = "hokusai:model_ready_queue";
const RUN: &str = "0123456789abcdef0123456789abcdef";

/// A server without a socket, on a database of its own.
struct Server {
    api: Api,
    router: Router,
    _dir: tempfile::TempDir,
    _committer: DropGuard,
}

#[derive(Clone)]
struct Local(Database);

#[async_trait]
impl QueueOpener for Local {
    async fn open(&self, name: &str) -> Result<Arc<dyn Queue>, hokusai_queue::Error> {
        Ok(Arc::new(SqlQueue::new(self.0.clone(), name)))
    }
}

struct OnRedis(RedisSettings);

#[async_trait]
impl QueueOpener for OnRedis {
    async fn open(&self, name: &str) -> Result<Arc<dyn Queue>, hokusai_queue::Error> {
        Ok(Arc::new(RedisQueue::connect(&self.0, name).await?))
    }
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Api)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&format!("sqlite:{}", dir.path().join("hokusai.db").display())).await.unwrap();
        database.migrate(&[hokusai_queue::MIGRATIONS, hokusai_registry::MIGRATIONS, hokusai_deploy::MIGRATIONS].concat()).await.unwrap();
        let (registrar, committer) = registrar(database.clone(), RegistrarOptions::default());
        let stop = CancellationToken::new();
        tokio::spawn(committer.run(stop.clone()));
        let mut api = Api {
            registrar,
            registrations: Registrations::new(database.clone()),
            subscriptions: Subscriptions::new(database.clone()),
            queues: Queues {
                carrier: Carrier::Local,
                default: QUEUE.into(),
                others: Vec::new(),
                opener: Arc::new(Local(database.clone())),
            },
            database,
            relay: None,
            chain: None,
            mlflow: None,
            version: Version { version: "1.2.3", commit: None },
        };
        api.subscriptions.ensure_default(QUEUE).await.unwrap();
        change(&mut api);
        Self { router: router(api.clone()), api, _dir: dir, _committer: stop.drop_guard() }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        answer(&self.router, request).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap()).await
    }

    async fn register(&self, body: &Value) -> Answer {
        self.post("/api/v1/models/register", body.to_string()).await
    }

    async fn queue(&self) -> Arc<dyn Queue> {
        self.api.queues.open(QUEUE).await.unwrap()
    }
}

async fn answer(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
    Answer { status: parts.status, headers: parts.headers, bytes }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn text(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.json())).to_owned()
    }

    /// Status, type and body, with everything masked that differs from run to run.
    fn shown(&self) -> String {
        let kind = self.header("content-type").unwrap_or("-");
        let mut body = self.json();
        mask(&mut body);
        format!("{} {kind}\n{}", self.status.as_u16(), serde_json::to_string_pretty(&body).unwrap())
    }
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                if key == "latency_ms" && value.is_number() {
                    *value = json!("[ms]");
                }
                mask(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::String(text) => *text = masked(text),
        _ => {}
    }
}

/// Every UUID and every time in a text.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        if rest.get(..36).is_some_and(|part| uuid::Uuid::try_parse(part).is_ok()) {
            masked.push_str("[uuid]");
            rest = &rest[36..];
        } else if rest.get(..32).is_some_and(|part| part.ends_with("+00:00") && part.parse::<jiff::Timestamp>().is_ok()) {
            masked.push_str("[time]");
            rest = &rest[32..];
        } else {
            masked.push(sign);
            rest = &rest[sign.len_utf8()..];
        }
    }
    masked
}

/// A request that is accepted.
fn good() -> Value {
    json!({
        "model_uri": format!("runs:/{RUN}/model"),
        "model_name": "chat-model",
        "token_id": "msg-ai",
        "metric_name": "reply_rate",
        "baseline_value": 0.1,
        "current_value": 0.15,
    })
}

/// The same with some fields changed.
fn with(changes: Value) -> Value {
    let mut body = good();
    for (key, value) in changes.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}
