//! What a registration endpoint could reach: axum, a parsed body, one row a request, and nothing else that hokusai does.
//!
//! | store | mode | before the answer |
//! |---|---|---|
//! | - | `none` | the body is parsed |
//! | SQLite | `each` | its row is committed, alone |
//! | SQLite | `group` | its row is committed, with those of all requests that waited at the same time |
//! | PostgreSQL | `each` | its row is committed, alone, on one connection of a pool |
//! | PostgreSQL | `group` | as with SQLite, one statement for all rows |
//!
//! SQLite runs in WAL mode with `synchronous=FULL`, PostgreSQL with `fsync` and `synchronous_commit`: an answered row survives a power cut.
//! With `--redis` a group's rows are also pushed to a list once they are committed and answered: the floor for "from answer to message".

mod postgres;
mod push;
mod sqlite;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use register_bench::registration::Registration;
use tokio::sync::oneshot;

/// One row per request, with as little around it as possible.
#[derive(Debug, Parser)]
struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long, value_enum)]
    mode: Mode,
    /// `sqlite:FILE` or `postgres://…`; not for mode `none`.
    #[arg(long)]
    database: Option<String>,
    /// PostgreSQL, mode `each`: connections in the pool.
    #[arg(long, default_value_t = 16)]
    pool: usize,
    /// Mode `group`: push the rows to a list of this Redis, `host:port`, when they are committed.
    #[arg(long)]
    redis: Option<String>,
    /// The list.
    #[arg(long, default_value = "hokusai:model_ready_queue")]
    queue: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    None,
    Each,
    Group,
}

/// A row to be: the parsed identity, and the body as it came.
#[derive(Debug)]
struct Row {
    id: String,
    token: String,
    body: Bytes,
}

/// A row waiting for the commit that will hold it.
#[derive(Debug)]
struct Waiting {
    row: Row,
    committed: oneshot::Sender<()>,
}

/// As many rows as one commit takes at most.
const GROUP: usize = 1024;

enum Store {
    None,
    SqliteEach(sqlite::Each),
    PostgresEach(postgres::Each),
    SqliteGroup(std::sync::mpsc::Sender<Waiting>),
    PostgresGroup(tokio::sync::mpsc::UnboundedSender<Waiting>),
}

impl Store {
    async fn open(options: &Options) -> Result<Self> {
        if options.mode == Mode::None {
            return Ok(Self::None);
        }
        let url = options.database.as_deref().context("this mode needs --database")?;
        let push = options.redis.as_deref().map(|address| push::start(address, &options.queue)).transpose()?;
        if push.is_some() && options.mode != Mode::Group {
            bail!("--redis goes with --mode group");
        }
        Ok(match (url.strip_prefix("sqlite:"), options.mode) {
            (Some(file), Mode::Group) => Self::SqliteGroup(sqlite::group(file, push)?),
            (Some(file), _) => Self::SqliteEach(sqlite::Each::open(file)?),
            (None, Mode::Group) => Self::PostgresGroup(postgres::group(url, push).await?),
            (None, _) => Self::PostgresEach(postgres::Each::open(url, options.pool).await?),
        })
    }

    /// Returns when the row is committed.
    async fn insert(&self, row: Row) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::SqliteEach(each) => each.insert(&row),
            Self::PostgresEach(each) => each.insert(&row).await,
            Self::SqliteGroup(writer) => wait(row, |waiting| writer.send(waiting).is_ok()).await,
            Self::PostgresGroup(writer) => wait(row, |waiting| writer.send(waiting).is_ok()).await,
        }
    }
}

async fn wait(row: Row, send: impl FnOnce(Waiting) -> bool) -> Result<()> {
    let (committed, answer) = oneshot::channel();
    if !send(Waiting { row, committed }) {
        bail!("the writer has stopped");
    }
    answer.await.context("the writer stopped before it committed this row")
}

struct Endpoint {
    store: Store,
    start: u64,
    count: AtomicU64,
}

async fn register(State(endpoint): State<Arc<Endpoint>>, body: Bytes) -> Response {
    let token = match serde_json::from_slice::<Registration<'_>>(&body) {
        Ok(registration) => registration.token_id.into_owned(),
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let id = format!("{:016x}{:016x}", endpoint.start, endpoint.count.fetch_add(1, Ordering::Relaxed));
    let answer = format!("{{\"registration_id\":\"{id}\",\"message_id\":\"{id}\"}}");
    match endpoint.store.insert(Row { id, token, body }).await {
        Ok(()) => (StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let endpoint = Endpoint { store: Store::open(&options).await?, start, count: AtomicU64::new(0) };
    let router = Router::new()
        .route("/api/v1/models/register", post(register))
        .route("/live", get(|| async { "live" }))
        .with_state(Arc::new(endpoint));
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}
