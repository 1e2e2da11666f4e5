//! A chain with our registry, a database and a queue, and what is counted of them.
//!
//! A lane is used for one run after the other, each with symbols of its own, so that what one run leaves behind the next ones would
//! trip over.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::primitives::B256;
use hokusai_db::Database;
use hokusai_deploy::token::contract::version_key;
use hokusai_testbed::{Postgres, Redis};
use serde_json::{Value, json};

use crate::{
    postgres::PostgresProxy,
    program::{Place, Role},
    rpc::{RpcProxy, Upstream},
    services::{Chain, History, Lists},
    trap::{At, Trap},
};

/// Anvil's first account.
pub(crate) const DEPLOYER: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
/// Nothing takes longer; only what has failed waits for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A model version that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) symbol: String,
    pub(crate) version: u64,
}

impl Wanted {
    pub(crate) fn key(&self) -> B256 {
        version_key(&self.symbol, "model", &self.version.to_string())
    }

    pub(crate) fn message(&self, id: &str) -> String {
        let Self { symbol, version } = self;
        let payload = json!({
            "model_id": format!("model/{version}/{symbol}"), "token_symbol": symbol, "metric_name": "accuracy", "baseline_value": 0.5,
            "current_value": 0.6, "model_name": "model", "model_version": version.to_string(), "mlflow_run_id": "run",
        });
        json!({ "message_id": id, "message_type": "model_ready_to_deploy", "timestamp": "2026-01-01T00:00:00Z", "payload": payload })
            .to_string()
    }
}

/// What became of everything that was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) messages: usize,
    pub(crate) tokens: usize,
    pub(crate) versions: usize,
    /// Symbols with more than one token, and versions recorded more than once.
    pub(crate) duplicates: usize,
    /// Versions that are not on the chain.
    pub(crate) lost: usize,
    pub(crate) dead_letters: usize,
    /// Nonces that the chain waits for, and slots of the ledger that did not end well.
    pub(crate) holes: usize,
}

impl Count {
    pub(crate) fn is_good(&self) -> bool {
        self.duplicates + self.lost + self.dead_letters + self.holes == 0
    }

    /// What came since an earlier count of the same lane.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let Self { messages, tokens, versions, .. } = *earlier;
        Self { messages: self.messages - messages, tokens: self.tokens - tokens, versions: self.versions - versions, ..*self }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.tokens += other.tokens;
        self.versions += other.versions;
        self.duplicates += other.duplicates;
        self.lost += other.lost;
        self.dead_letters += other.dead_letters;
        self.holes += other.holes;
    }
}

/// Compares a registry's history with what was asked of it.
pub(crate) fn compare(history: &History, wanted: &[Wanted]) -> Count {
    let symbols: BTreeSet<String> = wanted.iter().map(|wanted| wanted.symbol.to_lowercase()).collect();
    let versions: BTreeSet<B256> = history.versions.iter().copied().collect();
    let asked: BTreeSet<B256> = wanted.iter().map(Wanted::key).collect();
    let tokens = history.symbols();
    Count {
        tokens: history.tokens.len(),
        versions: history.versions.len(),
        duplicates: history.tokens.len() - tokens.len() + history.versions.len() - versions.len(),
        lost: symbols.difference(&tokens).count() + asked.difference(&versions).count(),
        ..Count::default()
    }
}

/// How many nonces of the deployer the chain has used, and how many wait or are missing behind those.
pub(crate) async fn nonces(node: &Upstream) -> (u64, u64) {
    let ask = async |tag: &str| {
        let answer = node.ask("eth_getTransactionCount", json!([DEPLOYER, tag])).await;
        u64::from_str_radix(answer.as_str().unwrap_or("0x0").trim_start_matches("0x"), 16).unwrap()
    };
    let used = ask("latest").await;
    (used, ask("pending").await.saturating_sub(used))
}

pub(crate) struct Lane {
    chain: Chain,
    db: Database,
    lists: Lists,
    queue: String,
    place: Place,
    node: Upstream,
    pub(crate) trap: Arc<Trap>,
    wanted: Vec<Wanted>,
    dead_letters: u64,
    _proxies: (RpcProxy, PostgresProxy),
}

impl Lane {
    pub(crate) async fn start(number: usize, redis: &Redis, postgres: &Postgres) -> Self {
        let (chain, database) = tokio::join!(Chain::start(&[]), postgres.database());
        let (trap, node) = (Arc::new(Trap::new()), Upstream::new(chain.anvil.url()));
        let mut url = url::Url::parse(&database).unwrap();
        let proxy = PostgresProxy::new(url.port().unwrap(), Arc::clone(&trap)).await;
        url.set_port(Some(proxy.port())).unwrap();
        url.set_query(Some("sslmode=disable"));
        let rpc = RpcProxy::new(node.clone(), Arc::clone(&trap) as _).await;
        let queue = format!("lane-{number}");
        let place = chain.known_to(Place::new().with("REDIS_URL", redis.url()).with("DATABASE_URL", url.as_str()));
        let place = place.with("WEB3_PROVIDER_URL", rpc.url()).with("MESSAGE_QUEUE_NAME", &queue);
        let place = place.with("PROCESSING_TIMEOUT", "1").with("QUEUE_POLL_INTERVAL", "1");
        // The tables are made before any worker is watched.
        place.run(&["migrate"]).ok();
        let db = Database::open(&database).await.unwrap();
        let lists = Lists::of(redis);
        Self { chain, db, lists, queue, place, node, trap, wanted: Vec::new(), dead_letters: 0, _proxies: (rpc, proxy) }
    }

    pub(crate) fn push(&mut self, wanted: &[Wanted]) {
        for one in wanted {
            let id = format!("{} {} {}", one.symbol, one.version, self.wanted.len());
            self.lists.push(&self.queue, one.message(&id));
            self.wanted.push(one.clone());
        }
    }

    /// Runs a worker until the trap has killed it, or it has nothing left to do and is killed then. Whether the trap did it.
    pub(crate) async fn run(&mut self, at: At) -> Result<bool, String> {
        // As if the time of the lease had passed since the last one died.
        sqlx::query("UPDATE deploy_leases SET expires_at = 0").execute(self.db.reader()).await.unwrap();
        self.trap.set(at);
        let worker = self.place.start(&["worker"]);
        self.trap.aim(worker.pid());
        let trap = Arc::clone(&self.trap);
        let outcome = tokio::select! {
            () = trap.sprung() => Ok(true),
            drained = self.drained() => drained.map(|()| false),
        };
        self.end(worker, outcome)
    }

    fn end(&self, worker: Role, outcome: Result<bool, String>) -> Result<bool, String> {
        let log = worker.kill();
        outcome.map_err(|problem| format!("{problem}\n{}", log.lines().rev().take(30).collect::<Vec<_>>().join("\n")))
    }

    /// Nothing is waiting, in hand or delayed.
    async fn drained(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let [main, processing, delayed, dead] = self.lists.depths(&self.queue);
            self.dead_letters = dead;
            if main + processing + delayed == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{main} in main, {processing} in processing, {delayed} delayed, {dead} dead"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Counts everything this lane was ever asked for.
    pub(crate) async fn count(&self) -> Count {
        let states: Vec<(i64, String)> =
            sqlx::query_as("SELECT nonce, state FROM deploy_slots ORDER BY nonce").fetch_all(self.db.reader()).await.unwrap();
        let (used, waiting) = nonces(&self.node).await;
        // The first nonce deployed the registry.
        let expected = (1_i64..).zip(&states).filter(|(nonce, (found, state))| *nonce == *found && state == "final").count();
        let holes = (states.len() - expected) as u64 + used.abs_diff(states.len() as u64 + 1) + waiting;
        Count {
            messages: self.wanted.len(),
            dead_letters: usize::try_from(self.dead_letters).unwrap(),
            holes: usize::try_from(holes).unwrap(),
            ..compare(&self.chain.history().await, &self.wanted)
        }
    }
}

pub(crate) fn told(problem: &str, found: &impl std::fmt::Debug) {
    eprintln!("{problem}: {found:?}");
}

/// A heading and rows, for people.
pub(crate) fn print(heads: &[&str], rows: &[Vec<String>]) {
    let line = |cells: &[String]| {
        let padded = cells.iter().enumerate().map(|(at, cell)| if at == 0 { format!("{cell:<26}") } else { format!("{cell:>11}") });
        println!("{}", padded.collect::<String>());
    };
    line(&heads.iter().map(ToString::to_string).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}

/// The chain's answer as JSON text, short enough for a person.
pub(crate) fn short(answer: &Value) -> String {
    answer.to_string().chars().take(200).collect()
}
