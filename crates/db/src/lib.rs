//! Opens SQLite or PostgreSQL the one way hokusai's promises need, and brings its tables up to date.
//!
//! Three rooms keep tables (`queue`, `registry`, `deploy`), often in one database and one transaction. This crate holds
//! what they must agree on and nothing about any table: the connection settings, the write transaction, the migration
//! lock, and the classification of database errors.
//!
//! Invariants:
//!
//! - A commit that was answered is on disk: SQLite runs with a write-ahead log and `synchronous=FULL`; PostgreSQL is left
//!   at its own default, which is the same.
//! - On SQLite all writes of a process go through one connection, in `BEGIN IMMEDIATE` transactions: a transaction that
//!   reads and then writes never fails half-way for want of the lock, and writers queue here rather than spinning on it.
//! - Queries are written once for both, through [`sqlx::Any`]: `$1` parameters, and only `BIGINT`, `DOUBLE PRECISION`,
//!   `TEXT` and `BYTEA` columns.
#![warn(missing_docs)]

mod error;
mod migrate;

use std::{str::FromStr, sync::Arc, time::Duration};

pub use error::Error;
pub use migrate::Migration;
use sqlx::{
    Any, AnyPool, ConnectOptions,
    any::{AnyConnectOptions, AnyPoolOptions},
};
use url::Url;

/// A write transaction. It is rolled back when dropped without [`commit`](sqlx::Transaction::commit).
pub type Tx = sqlx::Transaction<'static, Any>;

/// How long a writer waits for another process's SQLite transaction before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for a free connection, or for a new one to be made.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long SQLite's log grows before it is copied into the database, in pages of 4 KiB: a page that many transactions change is
/// copied once.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Reading connections kept open on SQLite; a reader holds one only for the time of a query.
const SQLITE_READERS: u32 = 4;
/// Connections kept open on PostgreSQL, shared by readers and writers of one process.
const POSTGRES_CONNECTIONS: u32 = 12;

/// Which database stands behind a [`Database`], for the few statements that must differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One file, one host.
    Sqlite,
    /// A server, any number of hosts.
    Postgres,
}

/// An open database; cheap to clone.
#[derive(Clone)]
pub struct Database {
    backend: Backend,
    readers: AnyPool,
    writer: AnyPool,
    display_url: Arc<str>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.display_url).finish()
    }
}

impl Database {
    /// Opens `sqlite:PATH` (created if missing) or `postgres://…`.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] for anything else, [`Error::Unavailable`] if it does not answer, [`Error::Rejected`] if it refuses.
    pub async fn open(url: &str) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let target = Target::parse(url)?;
        let options = AnyConnectOptions::from_str(&target.url).map_err(Error::from)?.log_statements(tracing::log::LevelFilter::Trace);
        let (readers, writer) = match target.backend {
            Backend::Sqlite => {
                // The writer comes first: it creates the file and switches it to the write-ahead log.
                let writer = sqlite_pool(1).connect_with(options.clone()).await?;
                (sqlite_pool(SQLITE_READERS).connect_with(options).await?, writer)
            }
            Backend::Postgres => {
                let pool = AnyPoolOptions::new()
                    .max_connections(POSTGRES_CONNECTIONS)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .connect_with(options)
                    .await?;
                (pool.clone(), pool)
            }
        };
        Ok(Self { backend: target.backend, readers, writer, display_url: target.display.into() })
    }

    /// Which database this is.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The pool to read from. Writing through it breaks the single-writer rule on SQLite; use [`write`](Self::write).
    pub fn reader(&self) -> &AnyPool {
        &self.readers
    }

    /// Begins a write transaction. On SQLite it holds the process's only writer: await nothing but the database inside
    /// it, and never begin a second one before it ended.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if no connection or lock was to be had in time.
    pub async fn write(&self) -> Result<Tx, Error> {
        let begin = match self.backend {
            Backend::Sqlite => "BEGIN IMMEDIATE",
            Backend::Postgres => "BEGIN",
        };
        Ok(self.writer.begin_with(begin).await?)
    }

    /// Applies the migrations that are not applied yet, each once, in the order given. Safe when several processes start
    /// together: they take turns under a lock.
    ///
    /// # Errors
    ///
    /// [`Error::Migration`] names the step that failed; the steps before it stay applied.
    pub async fn migrate(&self, migrations: &[Migration]) -> Result<(), Error> {
        migrate::run(self, migrations).await
    }

    /// The address without its password, for messages.
    pub fn display_url(&self) -> &str {
        &self.display_url
    }

    /// Closes all connections, waiting for the transactions under way.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// The parameter list of a multi-row insert: `placeholders(2, 2)` is `($1,$2),($3,$4)`.
pub fn placeholders(rows: usize, columns: usize) -> String {
    use std::fmt::Write as _;
    let mut list = String::with_capacity(rows * (columns * 6 + 3));
    for row in 0..rows {
        list.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..columns {
            let comma = if column == 0 { "" } else { "," };
            write!(list, "{comma}${}", row * columns + column + 1).expect("writing to a String cannot fail");
        }
        list.push(')');
    }
    list
}

/// SQLite's settings are per connection, so each new one is given them.
fn sqlite_pool(connections: u32) -> AnyPoolOptions {
    // A file does not hang up: asking each time whether it is still there costs a switch to its thread and back.
    let pool = AnyPoolOptions::new().max_connections(connections).test_before_acquire(false);
    pool.acquire_timeout(ACQUIRE_TIMEOUT + BUSY_TIMEOUT).after_connect(|connection, _| {
        Box::pin(async move {
            // The busy timeout comes first: switching the journal mode itself may have to wait for another process.
            let settings = format!(
                "PRAGMA busy_timeout={}; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; \
                 PRAGMA wal_autocheckpoint={}; PRAGMA cache_size=-16384; PRAGMA temp_store=MEMORY;",
                BUSY_TIMEOUT.as_millis(),
                CHECKPOINT_PAGES
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut *connection).await?;
            Ok(())
        })
    })
}

struct Target {
    backend: Backend,
    url: String,
    display: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, Error> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let file = path.split_once('?').map_or(path, |(file, _)| file);
            if file.is_empty() || file.contains(":memory:") {
                return Err(Error::Url(
                    "an SQLite address needs a file, as in sqlite:hokusai.db; a database in memory would be lost".into(),
                ));
            }
            let url = format!("sqlite://{}?mode=rwc", percent_encode(file));
            return Ok(Self { backend: Backend::Sqlite, url, display: format!("sqlite:{file}") });
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let parsed = Url::parse(url).map_err(|error| Error::Url(format!("the PostgreSQL address cannot be read: {error}")))?;
            let mut display = parsed.clone();
            display.set_query(None);
            if display.password().is_some() {
                // It fails only for addresses that cannot hold a password at all.
                let _ = display.set_password(Some("***"));
            }
            return Ok(Self { backend: Backend::Postgres, url: parsed.into(), display: display.into() });
        }
        Err(Error::Url("the address must begin with sqlite: or postgres:".into()))
    }
}

/// SQLite addresses are URLs to the driver, which decodes them: the few signs with a meaning there are escaped.
fn percent_encode(path: &str) -> String {
    path.chars().fold(String::with_capacity(path.len()), |mut encoded, sign| {
        match sign {
            '%' => encoded.push_str("%25"),
            '?' => encoded.push_str("%3F"),
            '#' => encoded.push_str("%23"),
            ' ' => encoded.push_str("%20"),
            other => encoded.push(other),
        }
        encoded
    })
}

#[cfg(test)]
mod tests;
