//! The relay on Redis and on the SQL queue: everything once and in order, whatever is lost.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hokusai_queue::{Cursor, RelayBatch, Relayed};
use hokusai_registry::{LaneState, NewEvent, QueueOpener, Relay, RelayConfig, Sweep, SweepConfig, Swept, outbox, subscriptions};
use hokusai_testbed::{Redis, eventually};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::home::{Home, InSql, OnRedis, QUEUE, redis_command, request, waiting};

crate::scenarios!(
    each_type_goes_where_it_is_subscribed,
    the_sql_queue_is_served_alike,
    a_commit_wakes_the_relay,
    two_relays_publish_everything_once,
    after_a_flush_the_unfinished_is_published_again,
    a_rewound_cursor_is_published_again_from_there,
    a_foreign_cursor_stops_its_queue_alone,
    a_restored_database_takes_no_foreign_cursor_for_its_own,
    a_relay_that_outlives_a_restore_notices,
    a_stale_push_after_a_loss_is_gone_on_from,
    the_events_of_a_batch_may_be_pruned,
    late_commits_are_not_passed_over,
);

const READY: &[&str] = &["model_ready_to_deploy"];

async fn each_type_goes_where_it_is_subscribed(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    for wanted in subscriptions::parse("site=model_registered+model_validation_failed; all=*").unwrap() {
        home.subscriptions().add(&wanted).await.unwrap();
    }
    home.accept("a").await;
    home.register(request(json!({ "model_name": "b", "current_value": 0.1 }))).await.unwrap();
    home.accept("c").await;
    home.relay(opener.clone()).pass().await.unwrap();

    assert_eq!(waiting(&opener.queue(QUEUE).await).await, home.outbox(READY).await);
    let site = home.outbox(&["model_registered", "model_validation_failed"]).await;
    assert_eq!((waiting(&opener.queue("site").await).await, site.len()), (site, 3));
    assert_eq!(waiting(&opener.queue("all").await).await.len(), 5);
    // Nothing is published twice.
    assert_eq!(home.relay(opener).pass().await.unwrap(), 0);
}

async fn the_sql_queue_is_served_alike(home: Home) {
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    for model in 0..20 {
        home.accept(&format!("m{model}")).await;
    }
    let opener = Arc::new(InSql(home.db.clone()));
    assert_eq!(home.relay(opener.clone()).pass().await.unwrap(), 20);
    assert_eq!(waiting(&opener.open(QUEUE).await.unwrap()).await, home.outbox(READY).await);
}

async fn a_commit_wakes_the_relay(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    // Were it for polling, this would take minutes.
    let config = RelayConfig { poll: Duration::from_secs(600), ..RelayConfig::default() };
    let relay = Relay::new(home.db.clone(), opener.clone(), home.nudge.clone(), config);
    let status = relay.status();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(shutdown.clone()));
    let queue = opener.queue(QUEUE).await;
    for count in 1..=3 {
        home.accept(&format!("m{count}")).await;
        eventually("the event is published", Duration::from_secs(10), async || (waiting(&queue).await.len() == count).then_some(())).await;
    }
    shutdown.cancel();
    running.await.unwrap();
    assert_eq!(status.lanes()[0].state, LaneState::Running);
}

async fn two_relays_publish_everything_once(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    let shutdown = CancellationToken::new();
    let config = RelayConfig { batch: 7, poll: Duration::from_millis(20), ..RelayConfig::default() };
    let other = hokusai_db::Database::open(&home.url).await.unwrap();
    let relays = [home.db.clone(), other].map(|db| {
        let relay = Relay::new(db, opener.clone(), home.nudge.clone(), config.clone());
        tokio::spawn(relay.run(shutdown.clone()))
    });
    let registering = (0..150).map(|model| home.register(request(json!({ "model_name": format!("m{model}") }))));
    futures_util::future::join_all(registering).await;
    let queue = opener.queue(QUEUE).await;
    eventually("all is published", Duration::from_secs(30), async || (waiting(&queue).await.len() >= 150).then_some(())).await;
    shutdown.cancel();
    for relay in relays {
        relay.await.unwrap();
    }
    assert_eq!(waiting(&queue).await, home.outbox(READY).await);
    assert_eq!(home.subscriptions().list().await.unwrap()[0].rewinds, 0);
}

async fn after_a_flush_the_unfinished_is_published_again(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    let mut receipts = Vec::new();
    for model in 0..10 {
        receipts.push(home.accept(&format!("m{model}")).await);
    }
    let relay = home.relay(opener.clone());
    relay.pass().await.unwrap();
    let before = waiting(&opener.queue(QUEUE).await).await;
    for receipt in &receipts[..4] {
        home.finish(QUEUE, receipt.message_id.as_deref().unwrap()).await;
    }
    // Finished elsewhere is not finished here.
    home.finish("site", receipts[5].message_id.as_deref().unwrap()).await;

    redis_command(&redis, &mut redis::cmd("FLUSHALL")).await;
    // Without anything new to publish, too.
    relay.pass().await.unwrap();
    assert_eq!(waiting(&opener.queue(QUEUE).await).await, before[4..]);

    redis_command(&redis, &mut redis::cmd("FLUSHALL")).await;
    home.accept("another").await;
    relay.pass().await.unwrap();
    let after = waiting(&opener.queue(QUEUE).await).await;
    assert_eq!((&after[..6], after.len()), (&before[4..], 7));
    assert_eq!(home.subscriptions().list().await.unwrap()[0].rewinds, 2);
}

async fn a_rewound_cursor_is_published_again_from_there(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    for model in 0..5 {
        home.accept(&format!("m{model}")).await;
    }
    let relay = home.relay(opener.clone());
    relay.pass().await.unwrap();
    let queue = opener.queue(QUEUE).await;
    let before = waiting(&queue).await;
    // As after a crash of Redis: it is back at position 6, with three of the five messages.
    set_cursor(&redis, &home, &event_at(&home, 6).await).await;
    redis_command(&redis, redis::cmd("LTRIM").arg(QUEUE).arg(-3).arg(-1)).await;
    assert_eq!(waiting(&queue).await, before[..3]);
    relay.pass().await.unwrap();
    assert_eq!(waiting(&queue).await, before);
}

async fn a_foreign_cursor_stops_its_queue_alone(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    home.subscriptions().add(&subscriptions::parse("site=*").unwrap()[0]).await.unwrap();
    home.accept("a").await;
    let relay = home.relay(opener.clone());
    relay.pass().await.unwrap();
    // The database was restored: in an earlier life it had published up to position 9.
    set_cursor(&redis, &home, &Cursor::new(9, "an event of that life")).await;
    for model in 0..10 {
        home.accept(&format!("m{model}")).await;
    }
    relay.pass().await.unwrap();
    let (queue, site) = (opener.queue(QUEUE).await, opener.queue("site").await);
    assert_eq!((waiting(&queue).await.len(), waiting(&site).await.len()), (1, 22));
    // It stays stopped although the database has gone past that position meanwhile, also for another relay.
    assert_eq!(home.relay(opener.clone()).pass().await.unwrap(), 0);
    let stopped = home.subscriptions().list().await.unwrap().into_iter().find(|subscription| subscription.queue == QUEUE).unwrap();
    assert!(stopped.stopped.unwrap().contains("restored"));
    let lanes = relay.status().lanes();
    assert!(lanes.iter().any(|lane| lane.queue == QUEUE && matches!(&lane.state, LaneState::Stopped { .. })), "{lanes:?}");

    let source = outbox::renew_source(&home.db).await.unwrap();
    assert_eq!(source, home.source().await);
    relay.pass().await.unwrap();
    assert_eq!(waiting(&queue).await[1..], home.outbox(READY).await);
}

/// Puts the database back to a backup from before the first event.
async fn restore(home: &Home) {
    let mut tx = home.db.write().await.unwrap();
    for sql in [
        "DELETE FROM outbox",
        "DELETE FROM finished",
        "DELETE FROM registration_history",
        "DELETE FROM registrations",
        "DELETE FROM intents",
        "DELETE FROM models",
        "UPDATE source SET last_position = 0",
        "UPDATE relay_progress SET position = NULL, position_event = NULL",
    ] {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// The steps by which a cursor of bare positions lost a message: what is published after the restore comes to the very
/// position at which the queue was left before it, and would pass for published.
async fn a_restored_database_takes_no_foreign_cursor_for_its_own(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    home.source().await;
    home.accept("a").await;
    home.relay(opener.clone()).pass().await.unwrap();
    let queue = opener.queue(QUEUE).await;
    let before = waiting(&queue).await;
    restore(&home).await;
    home.accept("b").await;
    let relay = home.relay(opener.clone());
    for _ in 0..2 {
        assert_eq!(relay.pass().await.unwrap(), 0);
    }
    assert_eq!(waiting(&queue).await, before);
    let stopped = home.subscriptions().list().await.unwrap().remove(0).stopped.expect("it stops");
    assert!(stopped.contains("restored from a backup") && stopped.contains("new source id"), "{stopped}");
    // That it is in no queue does not make it finished.
    let config = SweepConfig { settle: Duration::ZERO, ..SweepConfig::default() };
    let mut sweep = Sweep::new(home.db.clone(), opener.clone(), config);
    for _ in 0..3 {
        assert_eq!(sweep.pass().await.unwrap(), Swept::default());
    }
    outbox::renew_source(&home.db).await.unwrap();
    relay.pass().await.unwrap();
    assert_eq!(waiting(&queue).await, [before, home.outbox(READY).await].concat());
}

/// Redis lost everything, and the push of a relay that had planned it before came after that.
async fn a_stale_push_after_a_loss_is_gone_on_from(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    home.accept("a").await;
    let relay = home.relay(opener.clone());
    relay.pass().await.unwrap();
    let queue = opener.queue(QUEUE).await;
    let published = waiting(&queue).await;
    // The first relay has learned of the loss and goes to the beginning. What the other one pushes then leads elsewhere.
    redis_command(&redis, &mut redis::cmd("FLUSHALL")).await;
    home.accept("b").await;
    let stale = event_at(&home, 2).await;
    let batch = RelayBatch { source: &home.source().await, expected: None, next: &stale, entries: &published };
    assert_eq!(queue.relay(batch).await.unwrap(), Relayed::Moved);
    let mut tx = home.db.write().await.unwrap();
    sqlx::query("UPDATE relay_progress SET position = NULL, position_event = NULL").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    relay.pass().await.unwrap();
    assert_eq!(waiting(&queue).await, home.outbox(READY).await);
    assert_eq!(home.subscriptions().list().await.unwrap()[0].stopped, None);
}

/// A queue that is subscribed late begins at positions whose events are gone.
async fn the_events_of_a_batch_may_be_pruned(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    for model in 0..10 {
        home.accept(&format!("m{model}")).await;
    }
    home.relay(opener.clone()).pass().await.unwrap();
    let mut tx = home.db.write().await.unwrap();
    sqlx::query("DELETE FROM outbox WHERE position <= 9 OR position BETWEEN 12 AND 15").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    home.subscriptions().add(&subscriptions::parse("site=*@beginning").unwrap()[0]).await.unwrap();
    let config = RelayConfig { batch: 4, ..RelayConfig::default() };
    let relay = Relay::new(home.db.clone(), opener.clone(), home.nudge.clone(), config);
    assert_eq!(relay.pass().await.unwrap(), 7);
    assert_eq!(waiting(&opener.queue("site").await).await.len(), 7);
    assert_eq!(relay.pass().await.unwrap(), 0);
}

/// What the relay remembers of the queue is worth nothing once the database is another.
async fn a_relay_that_outlives_a_restore_notices(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    let config = RelayConfig { poll: Duration::from_millis(20), ..RelayConfig::default() };
    let relay = Relay::new(home.db.clone(), opener.clone(), home.nudge.clone(), config);
    let status = relay.status();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(shutdown.clone()));
    home.accept("a").await;
    let queue = opener.queue(QUEUE).await;
    eventually("the event is published", Duration::from_secs(10), async || (waiting(&queue).await.len() == 1).then_some(())).await;
    restore(&home).await;
    home.accept("b").await;
    let stopped = async || matches!(status.lanes().first()?.state, LaneState::Stopped { .. }).then_some(());
    eventually("the relay stops", Duration::from_secs(10), stopped).await;
    outbox::renew_source(&home.db).await.unwrap();
    eventually("all is published", Duration::from_secs(10), async || (waiting(&queue).await.len() == 2).then_some(())).await;
    shutdown.cancel();
    running.await.unwrap();
}

async fn event_at(home: &Home, position: i64) -> Cursor {
    let event: String =
        sqlx::query_scalar("SELECT message_id FROM outbox WHERE position = $1").bind(position).fetch_one(home.db.reader()).await.unwrap();
    Cursor::new(position, &event)
}

async fn set_cursor(redis: &Redis, home: &Home, cursor: &Cursor) {
    let key = format!("{QUEUE}:cursor");
    redis_command(redis, redis::cmd("HSET").arg(key).arg(home.source().await).arg(cursor.as_str())).await;
}

/// A transaction that inserted its event first and commits last.
async fn late_commits_are_not_passed_over(home: Home) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    let relay = home.relay(opener.clone());
    let event = || {
        let (kind, example) = (hokusai_event::MessageType::ModelReadyToDeploy, jiff::Timestamp::now());
        NewEvent::new(&hokusai_event::example_event(kind), None, "c".into(), example, 3).unwrap()
    };
    let (early, late) = (event(), event());
    if home.db.backend() == hokusai_db::Backend::Postgres {
        let mut first = home.db.write().await.unwrap();
        outbox::append(&mut first, std::slice::from_ref(&early)).await.unwrap();
        append(&home, &late).await;
        assert_eq!(relay.pass().await.unwrap(), 1);
        first.commit().await.unwrap();
    } else {
        // There is one writer: what is inserted first is committed first.
        append(&home, &late).await;
        assert_eq!(relay.pass().await.unwrap(), 1);
        append(&home, &early).await;
    }
    assert_eq!(relay.pass().await.unwrap(), 1);
    let expected: Vec<Bytes> = vec![late.envelope, early.envelope];
    assert_eq!(waiting(&opener.queue(QUEUE).await).await, expected);
}

async fn append(home: &Home, event: &NewEvent) {
    let mut tx = home.db.write().await.unwrap();
    outbox::append(&mut tx, std::slice::from_ref(event)).await.unwrap();
    tx.commit().await.unwrap();
}
