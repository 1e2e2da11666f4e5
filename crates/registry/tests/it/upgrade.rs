//! A database of an earlier version loses nothing when its tables change shape, in whatever state its relay left it.

use bytes::Bytes;
use hokusai_db::{Database, Migration};
use hokusai_event::{MessageType, example_event};
use hokusai_queue::{Cursor, RelayBatch, Relayed};
use hokusai_registry::{MIGRATIONS, NewEvent, Nudge, Relay, RelayConfig};
use hokusai_testbed::{Postgres, Redis};

use crate::home::{OnRedis, QUEUE, waiting};

/// The last migration by which the relay recorded a push before making it.
const ATTEMPTS_RECORDED: i64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let dir = tempfile::tempdir().unwrap();
    upgrade(&format!("sqlite:{}", dir.path().join("old.db").display())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    let server = Postgres::start().await;
    upgrade(&server.database().await).await;
}

async fn upgrade(url: &str) {
    let db = Database::open(url).await.unwrap();
    let old: Vec<Migration> = MIGRATIONS.iter().copied().filter(|step| step.number <= ATTEMPTS_RECORDED).collect();
    db.migrate(&old).await.unwrap();
    let event = |_| {
        let kind = MessageType::ModelReadyToDeploy;
        NewEvent::new(&example_event(kind), None, "c".into(), jiff::Timestamp::now(), 3).unwrap()
    };
    let events: Vec<NewEvent> = (0..3).map(event).collect();
    let entries: Vec<Bytes> = events.iter().map(|event| event.envelope.clone()).collect();
    fill(&db, &events).await;

    // The push that is noted as under way had arrived, and its answer was lost.
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    let queue = opener.queue(QUEUE).await;
    let next = Cursor::new(2, &events[1].message_id);
    let push = RelayBatch { source: "the source", expected: None, next: &next, entries: &entries[..2] };
    assert!(matches!(queue.relay(push).await.unwrap(), Relayed::Moved));

    db.migrate(MIGRATIONS).await.unwrap();
    let relay = Relay::new(db.clone(), opener.clone(), Nudge::new(), RelayConfig::default());
    assert_eq!((relay.pass().await.unwrap(), relay.pass().await.unwrap()), (1, 0));
    assert_eq!(waiting(&queue).await, entries);
    let positions: Vec<(i64, String)> =
        sqlx::query_as("SELECT position, message_id FROM outbox ORDER BY position").fetch_all(db.reader()).await.unwrap();
    let expected: Vec<(i64, String)> = (1..).zip(events.iter().map(|event| event.message_id.clone())).collect();
    assert_eq!(positions, expected);
    let intents: Vec<(Vec<u8>, String)> =
        sqlx::query_as("SELECT source_key, model_name FROM intents").fetch_all(db.reader()).await.unwrap();
    assert_eq!(intents, [(vec![7_u8; 32], "m".to_owned())]);
}

/// Two events with positions and one without, a push recorded as under way to the second, and an intent.
async fn fill(db: &Database, events: &[NewEvent]) {
    let mut tx = db.write().await.unwrap();
    for sql in [
        "INSERT INTO source (one, id, last_position) VALUES (1, 'the source', 2)",
        "INSERT INTO subscriptions (queue, message_type, start_position, is_default, created_ms)
         VALUES ('hokusai:model_ready_queue', 'model_ready_to_deploy', 0, 1, 0)",
    ] {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    for (event, position) in events.iter().zip([Some(1_i64), Some(2), None]) {
        sqlx::query("INSERT INTO outbox (message_id, message_type, envelope, position, created_ms) VALUES ($1, $2, $3, $4, $5)")
            .bind(event.message_id.as_str())
            .bind(event.message_type.as_str())
            .bind(event.envelope.to_vec())
            .bind(position)
            .bind(event.at.as_millisecond())
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    sqlx::query(
        "INSERT INTO relay_progress (queue, position, position_event, attempted, attempted_event, rewinds) VALUES ($1, 1, $2, 2, $3, 0)",
    )
    .bind(QUEUE)
    .bind(events[0].message_id.as_str())
    .bind(events[1].message_id.as_str())
    .execute(&mut *tx)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO intents (source_key, token_key, model_name, run_id, artifact_path, created_ms) VALUES ($1, 't', 'm', 'r', 'model', 0)",
    )
    .bind(vec![7_u8; 32])
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}
