//! How many registrations a second one process commits on SQLite, beside a bare group commit of one insert each.
//!
//!     cargo run --release -p hokusai-registry --example register_rate -- [CALLERS] [SECONDS]
//!
//! Each caller waits for its answer before it registers the next model. The bare one has the same shape (a channel, one
//! transaction for all that wait, an answer each) and writes one row of the size of a request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hokusai_db::{Database, Migration};
use hokusai_registry::{RegisterRequest, Registrar, RegistrarOptions, registrar};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

const BARE: &[Migration] = &[Migration {
    room: "bare",
    number: 1,
    sqlite: None,
    sql: "CREATE TABLE bare (id TEXT PRIMARY KEY, body TEXT NOT NULL, created_ms BIGINT NOT NULL)",
}];

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().expect("CALLERS and SECONDS are numbers"));
    let (callers, seconds) = (args.next().unwrap_or(64), args.next().unwrap_or(5));
    for round in 1..=2 {
        println!("round {round}, {callers} callers:");
        println!("  bare insert    {}", rate(callers, seconds, bare().await).await);
        println!("  registration   {}", rate(callers, seconds, registering().await).await);
    }
}

/// One call that is made again and again.
type Call = Arc<dyn Fn(u64) -> futures_util::future::BoxFuture<'static, ()> + Send + Sync>;

async fn rate(callers: u64, seconds: u64, (call, _dir): (Call, tempfile::TempDir)) -> String {
    let spent = cpu_s();
    let (done, next) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let tasks = (0..callers).map(|_| {
        let (call, done, next) = (call.clone(), done.clone(), next.clone());
        tokio::spawn(async move {
            while Instant::now() < end {
                call(next.fetch_add(1, Ordering::Relaxed)).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    futures_util::future::join_all(tasks).await;
    let done = done.load(Ordering::Relaxed) as f64;
    format!("{:>8.0} /s {:>6.1} µs of CPU each", done / start.elapsed().as_secs_f64(), (cpu_s() - spent) / done * 1e6)
}

/// CPU seconds that this process has used, in Linux's ticks of 10 ms.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells of its processes");
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // The state, which is no number, is left out: utime and stime are the 11th and 12th of the others.
    (fields[10] + fields[11]) / 100.0
}

fn body(number: u64) -> String {
    serde_json::json!({
        "model_uri": format!("runs:/{number:032x}/model"), "model_name": format!("model-{}", number % 1_000), "token_id": format!("t{number}"),
        "metric_name": "reply_rate", "baseline_value": 0.75, "current_value": 0.82, "experiment_name": "baseline-improvements",
        "contributor_address": "0x1234567890123456789012345678901234567890", "tags": { "team": "a" },
    })
    .to_string()
}

async fn open(migrations: &[Migration]) -> (Database, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let db = Database::open(&format!("sqlite:{}", dir.path().join("rate.db").display())).await.expect("SQLite opens");
    db.migrate(migrations).await.expect("the tables are made");
    (db, dir)
}

async fn registering() -> (Call, tempfile::TempDir) {
    let (db, dir) = open(hokusai_registry::MIGRATIONS).await;
    let (registrar, committer) = registrar(db, RegistrarOptions::default());
    tokio::spawn(committer.run(CancellationToken::new()));
    let register = async |registrar: Registrar, number: u64| {
        let request = RegisterRequest::from_json(body(number).as_bytes()).expect("the request is valid");
        registrar.register(request, None, None).await.expect("it is registered");
    };
    (Arc::new(move |number| Box::pin(register(registrar.clone(), number))), dir)
}

async fn bare() -> (Call, tempfile::TempDir) {
    let (db, dir) = open(BARE).await;
    let (sender, mut receiver) = mpsc::channel::<(String, oneshot::Sender<()>)>(4_096);
    tokio::spawn(async move {
        let mut waiting = Vec::new();
        while receiver.recv_many(&mut waiting, 256).await > 0 {
            let mut tx = db.write().await.expect("a transaction begins");
            for chunk in waiting.chunks(50) {
                let sql = format!("INSERT INTO bare (id, body, created_ms) VALUES {}", hokusai_db::placeholders(chunk.len(), 3));
                let query = chunk.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, (body, _)| {
                    query.bind(uuid::Uuid::now_v7().to_string()).bind(body.clone()).bind(0_i64)
                });
                query.execute(&mut *tx).await.expect("the rows are written");
            }
            tx.commit().await.expect("it is committed");
            for (_, answer) in waiting.drain(..) {
                let _ = answer.send(());
            }
        }
    });
    let insert = async |sender: mpsc::Sender<(String, oneshot::Sender<()>)>, number: u64| {
        let body = body(number);
        let _: serde_json::Value = serde_json::from_str(&body).expect("it is JSON");
        let (answer, answered) = oneshot::channel();
        sender.send((body, answer)).await.expect("the committer runs");
        answered.await.expect("it is answered");
    };
    (Arc::new(move |number| Box::pin(insert(sender.clone(), number))), dir)
}
