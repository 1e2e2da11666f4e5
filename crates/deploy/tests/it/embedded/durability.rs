//! What was visible once is there again, after a restart as after a SIGKILL.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use alloy::{consensus::TxEnvelope, primitives::B256};
use futures_util::future::join_all;
use hokusai_db::Database;
use hokusai_deploy::embedded::{EmbeddedChain, EmbeddedConfig, Error};
use hokusai_testbed::Postgres;
use serde_json::{Value, json};

use super::{account, deployment, get, invocation, send, sign, transfer};

/// Where the child of the SIGKILL test finds its database. Without it that test does nothing.
const CHILD_DATABASE: &str = "HOKUSAI_TEST_EMBEDDED_DATABASE";
const SENDERS: usize = 4;

struct Store {
    dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.dir.path().join("chain.db").display())
    }

    async fn db(&self) -> Database {
        Database::open(&self.url()).await.unwrap()
    }

    async fn open(&self) -> Arc<EmbeddedChain> {
        self.try_open(EmbeddedConfig::default()).await.unwrap()
    }

    async fn try_open(&self, config: EmbeddedConfig) -> Result<Arc<EmbeddedChain>, Error> {
        EmbeddedChain::open(Some(self.db().await), config).await
    }

    async fn execute(&self, sql: &'static str) {
        let mut tx = self.db().await.write().await.unwrap();
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
}

/// Everything a client can see.
async fn everything(chain: &EmbeddedChain) -> Vec<Value> {
    let height = get(chain, "eth_blockNumber", json!([])).await;
    let last = u64::from_str_radix(height.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    let mut seen = vec![height];
    for number in 0..=last {
        let tag = format!("{number:#x}");
        seen.push(get(chain, "eth_getBlockByNumber", json!([tag, true])).await);
        seen.push(get(chain, "eth_getBlockReceipts", json!([tag])).await);
        seen.push(get(chain, "eth_getBalance", json!([account(0).address(), tag])).await);
    }
    seen.push(get(chain, "eth_getLogs", json!([{ "fromBlock": "earliest" }])).await);
    seen
}

async fn send_all(chain: &EmbeddedChain, together: &[TxEnvelope]) {
    for sent in join_all(together.iter().map(|tx| send(chain, tx))).await {
        sent.unwrap();
    }
}

async fn some_history(chain: &EmbeddedChain) {
    let signer = account(0);
    let contract = signer.address().create(0);
    send(chain, &sign(deployment(0), &signer)).await.unwrap();
    for (nonce, op) in (1..).zip([0, 0, 1, 2, 3, 5, 0]) {
        send(chain, &sign(invocation(nonce, contract, op), &signer)).await.unwrap();
    }
    let together: Vec<_> = (0..5).map(|nonce| sign(transfer(nonce), &account(1))).collect();
    send_all(chain, &together).await;
}

#[tokio::test]
async fn reopening_gives_the_same_chain() {
    let store = Store::new();
    let chain = store.open().await;
    some_history(&chain).await;
    let before = everything(&chain).await;
    drop(chain);
    let chain = store.open().await;
    assert_eq!(everything(&chain).await, before);
    send(&chain, &sign(transfer(8), &account(0))).await.expect("it goes on from there");
}

#[tokio::test]
async fn postgresql_keeps_it_as_well() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let open = async || EmbeddedChain::open(Some(Database::open(&url).await.unwrap()), EmbeddedConfig::default()).await.unwrap();
    let chain = open().await;
    some_history(&chain).await;
    assert_eq!(everything(&*open().await).await, everything(&chain).await);
}

#[tokio::test]
async fn a_store_belongs_to_its_settings() {
    let store = Store::new();
    drop(store.open().await);
    let other = EmbeddedConfig { chain_id: 1234, ..EmbeddedConfig::default() };
    let error = store.try_open(other).await.unwrap_err();
    assert!(matches!(error, Error::OtherChain { .. }), "{error}");
}

#[tokio::test]
async fn an_altered_log_is_refused() {
    let store = Store::new();
    some_history(&*store.open().await).await;
    store.execute("UPDATE embedded_blocks SET hash = (SELECT hash FROM embedded_blocks WHERE number = 3) WHERE number = 4").await;
    let error = store.try_open(EmbeddedConfig::default()).await.unwrap_err();
    assert!(matches!(error, Error::Diverged { block: 4, .. }), "{error}");
    store.execute("UPDATE embedded_blocks SET transactions = header WHERE number = 2").await;
    let error = store.try_open(EmbeddedConfig::default()).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { block: 2, .. }), "{error}");
    store.execute("DELETE FROM embedded_blocks WHERE number = 1").await;
    let error = store.try_open(EmbeddedConfig::default()).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { block: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_sender_who_gives_up_loses_nothing() {
    let store = Store::new();
    let chain = store.open().await;
    let signer = account(0);
    for nonce in 0..60 {
        let tx = sign(transfer(nonce), &signer);
        // Abandoned after ever more time: before, while and after the block is written.
        let patience = Duration::from_micros(nonce * 40);
        let _ = tokio::time::timeout(patience, send(&chain, &tx)).await;
        let again = send(&chain, &tx).await;
        let refused = again.as_ref().err().map(|error| error.message.as_str()).unwrap_or_default();
        assert!(again.is_ok() || refused.starts_with("already known") || refused.starts_with("nonce too low"), "{refused}");
        let receipt = get(&chain, "eth_getTransactionReceipt", json!([tx.tx_hash()])).await;
        assert_eq!(receipt["status"], "0x1", "nonce {nonce}");
    }
    let before = everything(&chain).await;
    drop(chain);
    assert_eq!(everything(&*store.open().await).await, before);
}

#[tokio::test]
async fn two_writers_of_one_store_agree() {
    let store = Store::new();
    let (one, two) = (store.open().await, store.open().await);
    for nonce in 0..5 {
        send(&one, &sign(transfer(nonce), &account(1))).await.unwrap();
        send(&two, &sign(transfer(nonce), &account(2))).await.unwrap();
    }
    let seen = everything(&two).await;
    assert_eq!(everything(&*store.open().await).await, seen);
}

#[tokio::test]
async fn sigkill_loses_nothing_that_was_visible() {
    let store = Store::new();
    let mut promised: Vec<B256> = Vec::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::durability::sends_until_it_is_killed", "--nocapture"])
            .env(CHILD_DATABASE, store.url())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = promised.len() + fastrand::usize(1..80);
        let hash = |line: &str| line.strip_prefix("visible ").and_then(|hash| hash.parse::<B256>().ok());
        while promised.len() < enough {
            let line = lines.next().expect("it runs until it is killed").unwrap();
            promised.extend(hash(&line));
        }
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..3000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had printed before it died counts as well; a line cut short does not parse.
        promised.extend(lines.map_while(Result::ok).filter_map(|line| hash(&line)));
        let chain = store.open().await;
        for transaction in &promised {
            let receipt = get(&chain, "eth_getTransactionReceipt", json!([transaction])).await;
            assert_eq!(receipt["status"], "0x1", "round {round}: {transaction} was visible and is gone");
        }
    }
}

/// The child of the test above: sends from several accounts at once, and prints each hash once its receipt can be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_until_it_is_killed() {
    let Ok(url) = std::env::var(CHILD_DATABASE) else { return };
    let chain = EmbeddedChain::open(Some(Database::open(&url).await.unwrap()), EmbeddedConfig::default()).await.unwrap();
    join_all((0..SENDERS).map(|index| send_and_print(&chain, index))).await;
}

async fn send_and_print(chain: &EmbeddedChain, index: usize) {
    let signer = account(index);
    let count = get(chain, "eth_getTransactionCount", json!([signer.address(), "latest"])).await;
    let next = u64::from_str_radix(count.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    for nonce in next.. {
        let hash = send(chain, &sign(transfer(nonce), &signer)).await.unwrap();
        let receipt = get(chain, "eth_getTransactionReceipt", json!([hash])).await;
        assert!(!receipt.is_null());
        let mut out = std::io::stdout().lock();
        writeln!(out, "visible {hash}").unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_transactions() {
    let store = Store::new();
    let chain = store.open().await;
    let signed: Vec<_> = (0..500_u64).map(|n| sign(transfer(n / 10), &account(usize::try_from(n % 10).unwrap()))).collect();
    let started = std::time::Instant::now();
    for together in signed.chunks(100) {
        send_all(&chain, together).await;
    }
    let sent = started.elapsed();
    for tx in &signed {
        assert_eq!(get(&chain, "eth_getTransactionReceipt", json!([tx.tx_hash()])).await["status"], "0x1");
    }
    drop(chain);
    let started = std::time::Instant::now();
    let blocks = get(&*store.open().await, "eth_blockNumber", json!([])).await;
    println!("500 transactions in {sent:?}, replayed from {blocks} blocks in {:?}", started.elapsed());
}
