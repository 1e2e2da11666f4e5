//! A queue on a backend of its own, and short ways to say what tests say often.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hokusai_db::Database;
use hokusai_queue::{
    LeaseTerms, Move, Queue, RedisQueue, RedisSettings, Settled, SqlQueue, State, Stats, Taken,
    reaper::{self, ReaperConfig, Report},
};
use hokusai_testbed::{Postgres, Redis};

pub(crate) const NAME: &str = "hokusai:model_ready_queue";
/// Longer than anything here should take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const FIRST_SIGHT: Duration = Duration::from_millis(300);

pub(crate) struct Bench {
    pub(crate) queue: Arc<dyn Queue>,
    /// Another process's view of the same queue.
    pub(crate) other: Arc<dyn Queue>,
    pub(crate) redis: Option<Redis>,
    _dir: Option<tempfile::TempDir>,
}

impl Bench {
    pub(crate) async fn redis() -> Self {
        Self::of(Redis::start().await).await
    }

    pub(crate) async fn valkey() -> Self {
        Self::of(Redis::valkey().await).await
    }

    async fn of(redis: Redis) -> Self {
        let queue = Arc::new(redis_queue(&redis).await);
        let other = Arc::new(redis_queue(&redis).await);
        Self { queue, other, redis: Some(redis), _dir: None }
    }

    pub(crate) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("queue.db").display());
        let db = Database::open(&url).await.unwrap();
        db.migrate(hokusai_queue::MIGRATIONS).await.unwrap();
        let other = Database::open(&url).await.unwrap();
        Self { queue: Arc::new(SqlQueue::new(db, NAME)), other: Arc::new(SqlQueue::new(other, NAME)), redis: None, _dir: Some(dir) }
    }

    pub(crate) fn postgres(db: &Database, name: &str) -> Self {
        let queue = |db: &Database| Arc::new(SqlQueue::new(db.clone(), name));
        Self { queue: queue(db), other: queue(db), redis: None, _dir: None }
    }

    pub(crate) async fn push(&self, entries: &[&str]) {
        self.queue.push(&bytes(entries)).await.unwrap();
    }

    pub(crate) async fn take(&self, max: usize) -> Vec<Bytes> {
        self.taken(max, &[]).await.entries
    }

    pub(crate) async fn taken(&self, max: usize, acks: &[Bytes]) -> Taken {
        self.queue.take(max, Duration::ZERO, acks).await.unwrap()
    }

    pub(crate) async fn take_one(&self) -> Bytes {
        let mut entries = self.take(1).await;
        assert_eq!(entries.len(), 1, "there is an entry to take");
        entries.remove(0)
    }

    pub(crate) async fn settle(&self, change: Move) -> Settled {
        self.queue.settle(&[change]).await.unwrap()[0]
    }

    pub(crate) async fn peek(&self, state: State) -> Vec<Bytes> {
        self.queue.peek(state, 0, 1000).await.unwrap()
    }

    pub(crate) async fn stats(&self) -> (u64, u64, u64, u64) {
        let Stats { main, processing, delayed, dlq } = self.queue.stats().await.unwrap();
        (main, processing, delayed, dlq)
    }

    pub(crate) async fn pass(&self) -> Report {
        reaper::pass(&*self.queue, &reaper_config()).await.unwrap()
    }
}

pub(crate) async fn redis_queue(redis: &Redis) -> RedisQueue {
    RedisQueue::connect(&RedisSettings::from_url(&redis.url()).unwrap(), NAME).await.unwrap()
}

pub(crate) async fn postgres() -> Database {
    let db = Database::open(&Postgres::start().await.database().await).await.unwrap();
    db.migrate(hokusai_queue::MIGRATIONS).await.unwrap();
    db
}

pub(crate) fn reaper_config() -> ReaperConfig {
    let terms = LeaseTerms { first_sight: FIRST_SIGHT, ..LeaseTerms::default() };
    ReaperConfig { interval: Duration::from_millis(20), terms, ..ReaperConfig::default() }
}

pub(crate) fn bytes(entries: &[&str]) -> Vec<Bytes> {
    entries.iter().map(|entry| Bytes::from(entry.to_string())).collect()
}

/// A whole envelope.
pub(crate) fn message(id: usize) -> String {
    format!(r#"{{"message_id":"{id}","message_type":"test","payload":{{"n": {id}}},"retry_count":0}}"#)
}
