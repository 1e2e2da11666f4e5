//! A database with everything that tests ask of it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hokusai_db::{Database, Migration};
use hokusai_queue::{Queue, RedisQueue, RedisSettings, SqlQueue};
use hokusai_registry::{
    Mlflow, Nudge, QueueOpener, Receipt, RegisterError, RegisterRequest, Registrar, RegistrarOptions, Relay, RelayConfig, Subscriptions,
    registrar,
};
use hokusai_testbed::{Postgres, Redis};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const QUEUE: &str = "hokusai:model_ready_queue";

/// A migrated database and a registrar on it.
pub(crate) struct Home {
    pub(crate) db: Database,
    pub(crate) registrar: Registrar,
    pub(crate) nudge: Nudge,
    pub(crate) url: String,
    _committer: DropGuard,
    _dir: Option<tempfile::TempDir>,
}

impl Home {
    pub(crate) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("registry.db").display());
        Self::open(&url, Some(dir)).await
    }

    pub(crate) async fn postgres(server: &Postgres) -> Self {
        Self::open(&server.database().await, None).await
    }

    async fn open(url: &str, dir: Option<tempfile::TempDir>) -> Self {
        let db = Database::open(url).await.unwrap();
        let migrations: Vec<Migration> = [hokusai_queue::MIGRATIONS, hokusai_registry::MIGRATIONS].concat();
        db.migrate(&migrations).await.unwrap();
        let nudge = Nudge::new();
        let (registrar, committer) = start(&db, RegistrarOptions { nudge: nudge.clone(), ..RegistrarOptions::default() });
        Self { db, registrar, nudge, url: url.to_owned(), _committer: committer, _dir: dir }
    }

    /// A second registrar on the same database, with connections of its own, as another process has.
    pub(crate) async fn other_process(&self) -> (Registrar, DropGuard) {
        start(&Database::open(&self.url).await.unwrap(), RegistrarOptions::default())
    }

    /// A registrar on this database that asks MLflow.
    pub(crate) fn with_mlflow(&self, mlflow: Mlflow) -> (Registrar, DropGuard) {
        start(&self.db, RegistrarOptions { mlflow: Some(mlflow), ..RegistrarOptions::default() })
    }

    pub(crate) async fn register(&self, request: RegisterRequest) -> Result<Receipt, RegisterError> {
        self.registrar.register(request, None, None).await
    }

    /// Registers a model `name` with a token of the same name.
    pub(crate) async fn accept(&self, name: &str) -> Receipt {
        self.register(request(json!({ "model_name": name, "token_id": name }))).await.unwrap()
    }

    pub(crate) fn subscriptions(&self) -> Subscriptions {
        Subscriptions::new(self.db.clone())
    }

    pub(crate) fn relay(&self, opener: Arc<dyn QueueOpener>) -> Relay {
        Relay::new(self.db.clone(), opener, self.nudge.clone(), RelayConfig::default())
    }

    pub(crate) async fn source(&self) -> String {
        hokusai_registry::outbox::source_id(&self.db).await.unwrap()
    }

    pub(crate) async fn count(&self, table: &'static str) -> i64 {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(self.db.reader()).await.unwrap()
    }

    /// The envelopes of these types, in the order of their positions.
    pub(crate) async fn outbox(&self, types: &[&str]) -> Vec<Bytes> {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT message_type, envelope FROM outbox WHERE position IS NOT NULL ORDER BY position")
                .fetch_all(self.db.reader())
                .await
                .unwrap();
        rows.into_iter().filter(|(kind, _)| types.contains(&kind.as_str())).map(|(_, envelope)| envelope.into()).collect()
    }

    pub(crate) async fn finish(&self, queue: &str, message_id: &str) {
        let mut tx = self.db.write().await.unwrap();
        hokusai_registry::outbox::finish(&mut tx, queue, message_id, jiff::Timestamp::now()).await.unwrap();
        tx.commit().await.unwrap();
    }
}

fn start(db: &Database, options: RegistrarOptions) -> (Registrar, DropGuard) {
    let shutdown = CancellationToken::new();
    let (registrar, committer) = registrar(db.clone(), options);
    tokio::spawn(committer.run(shutdown.clone()));
    (registrar, shutdown.drop_guard())
}

/// A request, with fields changed.
pub(crate) fn request(change: Value) -> RegisterRequest {
    let mut body = json!({
        "model_uri": "runs:/abc123/model", "model_name": "msg model", "token_id": "msg-ai", "metric_name": "reply_rate",
        "baseline_value": 0.75, "current_value": 0.82,
    });
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    RegisterRequest::from_json(body.to_string().as_bytes()).unwrap()
}

/// Queues on a Redis.
pub(crate) struct OnRedis(pub(crate) RedisSettings);

impl OnRedis {
    pub(crate) fn new(redis: &Redis) -> Arc<Self> {
        Arc::new(Self(RedisSettings::from_url(&redis.url()).unwrap()))
    }

    pub(crate) async fn queue(&self, name: &str) -> Arc<dyn Queue> {
        Arc::new(RedisQueue::connect(&self.0, name).await.unwrap())
    }
}

#[async_trait]
impl QueueOpener for OnRedis {
    async fn open(&self, name: &str) -> Result<Arc<dyn Queue>, hokusai_queue::Error> {
        Ok(Arc::new(RedisQueue::connect(&self.0, name).await?))
    }
}

/// Queues in the registry's own database.
pub(crate) struct InSql(pub(crate) Database);

#[async_trait]
impl QueueOpener for InSql {
    async fn open(&self, name: &str) -> Result<Arc<dyn Queue>, hokusai_queue::Error> {
        Ok(Arc::new(SqlQueue::new(self.0.clone(), name)))
    }
}

/// What waits in a queue, the next to be taken first.
pub(crate) async fn waiting(queue: &Arc<dyn Queue>) -> Vec<Bytes> {
    queue.peek(hokusai_queue::State::Main, 0, 100_000).await.unwrap()
}

/// A connection for what no queue does.
pub(crate) async fn redis_command(redis: &Redis, command: &mut redis::Cmd) {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    command.exec_async(&mut connection).await.unwrap();
}
