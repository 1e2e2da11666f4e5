//! Puts the libraries together: which database, which queues, by the configuration.

use std::{collections::HashMap, sync::Arc};

use anyhow::Context as _;
use async_trait::async_trait;
use hokusai_db::{Database, Migration};
use hokusai_queue::{CertificateCheck, Queue, RedisQueue, RedisSettings, SqlQueue};
use hokusai_registry::QueueOpener;
use parking_lot::Mutex;

use crate::config::{Env, QueueBackend, QueueConfig, RedisAddress, RedisConfig, database_url};

/// The tables of every room. One list for every role: a worker's own database holds an outbox too.
pub(crate) fn migrations() -> Vec<Migration> {
    [hokusai_queue::MIGRATIONS, hokusai_registry::MIGRATIONS, hokusai_deploy::MIGRATIONS].concat()
}

/// Opens and migrates the database.
pub(crate) async fn open_database(url: &str) -> anyhow::Result<Database> {
    let db = Database::open(url).await.context("the database cannot be opened")?;
    db.migrate(&migrations()).await.with_context(|| format!("the tables of {} cannot be brought up to date", db.display_url()))?;
    Ok(db)
}

/// Opens queues by name, each once.
#[derive(Clone)]
pub(crate) struct Queues {
    source: Arc<Source>,
    open: Arc<Mutex<HashMap<String, Arc<dyn Queue>>>>,
}

enum Source {
    Local(Database),
    Redis(RedisSettings),
}

impl Queues {
    /// The queues inside `db`.
    pub(crate) fn local(db: Database) -> Self {
        Self::from(Source::Local(db))
    }

    fn redis(settings: RedisSettings) -> Self {
        Self::from(Source::Redis(settings))
    }

    /// The queue of this name. Redis is connected to when the queue is first used, so that a server starts, and goes on
    /// registering, while Redis is away.
    pub(crate) fn open(&self, name: &str) -> Result<Arc<dyn Queue>, hokusai_queue::Error> {
        let mut open = self.open.lock();
        if let Some(queue) = open.get(name) {
            return Ok(Arc::clone(queue));
        }
        let queue: Arc<dyn Queue> = match &*self.source {
            Source::Local(db) => Arc::new(SqlQueue::new(db.clone(), name)),
            Source::Redis(settings) => Arc::new(RedisQueue::lazy(settings, name)?),
        };
        open.insert(name.to_owned(), Arc::clone(&queue));
        Ok(queue)
    }

    /// Whether they are on Redis.
    pub(crate) fn on_redis(&self) -> bool {
        matches!(*self.source, Source::Redis(_))
    }
}

#[async_trait]
impl QueueOpener for Queues {
    async fn open(&self, name: &str) -> Result<Arc<dyn Queue>, hokusai_queue::Error> {
        Self::open(self, name)
    }
}

impl From<Source> for Queues {
    fn from(source: Source) -> Self {
        Self { source: Arc::new(source), open: Arc::default() }
    }
}

/// What nearly every command needs: the queues, and the database behind them where there is one.
pub(crate) struct Assembly {
    pub(crate) db: Option<Database>,
    pub(crate) queues: Queues,
    pub(crate) queue_config: QueueConfig,
}

impl Assembly {
    /// Database and queues.
    pub(crate) async fn open(env: &Env<'_>) -> anyhow::Result<Self> {
        let queue_config = QueueConfig::read(env)?;
        let db = open_database(&database_url(env)?).await?;
        let queues = match &queue_config.backend {
            QueueBackend::Local => Queues::local(db.clone()),
            QueueBackend::Redis(redis) => Queues::redis(redis_settings(redis)?),
        };
        Ok(Self { db: Some(db), queues, queue_config })
    }

    /// The queues alone: no database is touched when they are on Redis.
    pub(crate) async fn open_queues(env: &Env<'_>) -> anyhow::Result<Self> {
        let queue_config = QueueConfig::read(env)?;
        match &queue_config.backend {
            QueueBackend::Local => Self::open(env).await,
            QueueBackend::Redis(redis) => Ok(Self { db: None, queues: Queues::redis(redis_settings(redis)?), queue_config }),
        }
    }

    /// The named queue, or the configured one.
    pub(crate) fn queue(&self, name: Option<&str>) -> Result<Arc<dyn Queue>, hokusai_queue::Error> {
        self.queues.open(name.unwrap_or(&self.queue_config.name))
    }

    /// The database.
    pub(crate) fn database(&self) -> anyhow::Result<&Database> {
        self.db.as_ref().context("this command needs the database: set DATABASE_URL")
    }
}

/// The configuration's Redis as the queue library takes it.
fn redis_settings(config: &RedisConfig) -> anyhow::Result<RedisSettings> {
    let mut settings = match &config.address {
        RedisAddress::Url(url) => RedisSettings::from_url(url.reveal())?,
        RedisAddress::Host { host, port, tls } => RedisSettings::from_host(host, Some(*port), *tls),
    };
    // A password inside the URL wins over one beside it.
    if let Some(password) = config.password.as_ref().filter(|_| !settings.has_password()) {
        settings = settings.password(password.reveal());
    }
    if !config.verify_certificate {
        settings = settings.certificate_check(CertificateCheck::None);
    }
    if let Some(file) = &config.ca_file {
        let pem = std::fs::read(file).with_context(|| format!("HOKUSAI_REDIS_CA_FILE: {} cannot be read", file.display()))?;
        settings = settings.ca_pem(pem);
    }
    let how = if settings.has_password() { "Using authenticated Redis connection to" } else { "Using Redis connection to" };
    tracing::info!("{how} {settings}");
    Ok(settings)
}
