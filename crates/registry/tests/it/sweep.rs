//! The sweep, the audit and the reconciler, beside consumers that tell nobody what they do.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use hokusai_event::{Address, ModelDeployed, Timestamp};
use hokusai_queue::{Move, Queue, State};
use hokusai_registry::{
    ChainRecord, OnChain, QueueOpener, Reconciled, Reconciler, ReconcilerConfig, Registration, Registrations, Status, Sweep, SweepConfig,
    Swept, audit,
    republish::{self, Which},
    subscriptions,
};
use hokusai_testbed::Redis;
use serde_json::json;

use crate::home::{Home, InSql, OnRedis, QUEUE, redis_command, request, waiting};

crate::scenarios!(
    what_a_foreign_consumer_acknowledged_is_found_finished,
    what_is_anywhere_is_not_finished,
    a_retry_is_not_taken_for_an_acknowledgement,
    behind_a_long_queue_the_front_is_swept,
    what_redis_lost_is_not_finished,
    the_sql_queue_is_swept_alike,
    the_outbox_is_pruned_when_nobody_needs_it,
    the_audit_accounts_for_every_event,
    published_events_are_found_again,
    the_reconciler_publishes_what_was_lost_between_two_commands,
);

fn sweep(home: &Home, opener: Arc<dyn QueueOpener>) -> Sweep {
    Sweep::new(home.db.clone(), opener, SweepConfig { settle: Duration::ZERO, prune_every: Duration::MAX, ..SweepConfig::default() })
}

/// An event must be seen absent twice.
async fn twice(sweep: &mut Sweep) -> u64 {
    let first = sweep.pass().await.unwrap().finished;
    first + sweep.pass().await.unwrap().finished
}

/// A plain consumer: takes the oldest, and removes it.
async fn foreign_ack(redis: &Redis, entry: &Bytes) {
    redis_command(redis, redis::cmd("LMOVE").arg(QUEUE).arg(format!("{QUEUE}:processing")).arg("RIGHT").arg("LEFT")).await;
    redis_command(redis, redis::cmd("LREM").arg(format!("{QUEUE}:processing")).arg(1).arg(&entry[..])).await;
}

/// Redis, and so many models registered and relayed.
async fn relayed(home: &Home, models: usize) -> (Redis, Arc<OnRedis>, Arc<dyn Queue>) {
    let redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    let registering = (0..models).map(|model| home.register(request(json!({ "model_name": format!("m{model}") }))));
    for registered in futures_util::future::join_all(registering).await {
        registered.unwrap();
    }
    home.relay(opener.clone()).pass().await.unwrap();
    let queue = opener.queue(QUEUE).await;
    (redis, opener, queue)
}

async fn what_a_foreign_consumer_acknowledged_is_found_finished(home: Home) {
    let (redis, opener, queue) = relayed(&home, 5).await;
    let mut sweep = sweep(&home, opener.clone());
    assert_eq!(twice(&mut sweep).await, 0);
    let entries = waiting(&queue).await;
    for entry in &entries[..3] {
        foreign_ack(&redis, entry).await;
    }
    assert_eq!(sweep.pass().await.unwrap().finished, 0, "once may be a client between its two commands");
    assert_eq!(sweep.pass().await.unwrap().finished, 3);
    assert_eq!(twice(&mut sweep).await, 0);
    // What is finished is not published again when Redis loses everything.
    redis_command(&redis, &mut redis::cmd("FLUSHALL")).await;
    home.relay(opener).pass().await.unwrap();
    assert_eq!(waiting(&queue).await, entries[3..]);
}

async fn what_is_anywhere_is_not_finished(home: Home) {
    let (_redis, opener, queue) = relayed(&home, 4).await;
    let taken = queue.take(3, Duration::ZERO, &[]).await.unwrap().entries;
    let letter = hokusai_queue::dead_letter::build(&taken[0], QUEUE, "kind", "error", jiff::Timestamp::now());
    let moves = [
        Move::DeadLetter { entry: taken[0].clone(), with: letter },
        Move::Retry {
            entry: taken[1].clone(),
            with: hokusai_queue::attempts::after_failure(&taken[1]).unwrap(),
            after: Duration::from_secs(600),
        },
    ];
    queue.settle(&moves).await.unwrap();
    let mut sweep = sweep(&home, opener);
    assert_eq!(twice(&mut sweep).await, 0);
    assert_eq!(queue.stats().await.unwrap(), hokusai_queue::Stats { main: 1, processing: 1, delayed: 1, dlq: 1 });
}

async fn a_retry_is_not_taken_for_an_acknowledgement(home: Home) {
    let (redis, opener, queue) = relayed(&home, 1).await;
    let mut sweep = sweep(&home, opener);
    let entry = queue.take(1, Duration::ZERO, &[]).await.unwrap().entries.remove(0);
    // The brief's retry, caught between its two commands.
    redis_command(&redis, redis::cmd("LREM").arg(format!("{QUEUE}:processing")).arg(1).arg(&entry[..])).await;
    assert_eq!(sweep.pass().await.unwrap().finished, 0);
    let again = hokusai_queue::attempts::after_failure(&entry).unwrap();
    redis_command(&redis, redis::cmd("LPUSH").arg(QUEUE).arg(&again[..])).await;
    assert_eq!(twice(&mut sweep).await, 0);
    queue.take(1, Duration::ZERO, &[]).await.unwrap();
    queue.settle(&[Move::Ack { entry: again }]).await.unwrap();
    assert_eq!(twice(&mut sweep).await, 1);
}

async fn behind_a_long_queue_the_front_is_swept(home: Home) {
    let (redis, opener, queue) = relayed(&home, 3).await;
    let mut sweep = sweep(&home, opener.clone());
    sweep.pass().await.unwrap();
    // Others fill the queue far beyond what a pass reads; one of ours is retried to the end of it.
    let filler: Vec<Bytes> = (0..3_000).map(|n| format!(r#"{{"message_id":"filler {n}"}}"#).into()).collect();
    queue.push(&filler).await.unwrap();
    sweep.pass().await.unwrap();
    let entries = waiting(&queue).await[..3].to_vec();
    for entry in &entries {
        foreign_ack(&redis, entry).await;
    }
    let again = hokusai_queue::attempts::after_failure(&entries[1]).unwrap();
    redis_command(&redis, redis::cmd("LPUSH").arg(QUEUE).arg(&again[..])).await;
    assert_eq!((twice(&mut sweep).await, queue.stats().await.unwrap().main), (2, 3_001));
    // A sweep that begins now knows nothing of what lies in the middle, and so says nothing.
    let mut late = self::sweep(&home, opener);
    assert_eq!(twice(&mut late).await, 0);
    queue.take(2_990, Duration::ZERO, &[]).await.unwrap();
    assert_eq!(twice(&mut late).await, 0, "the retried one is still there");
    let last = queue.take(100, Duration::ZERO, &[]).await.unwrap().entries.pop().unwrap();
    queue.settle(&[Move::Ack { entry: last }]).await.unwrap();
    assert_eq!((twice(&mut late).await, twice(&mut sweep).await), (1, 0));
}

async fn what_redis_lost_is_not_finished(home: Home) {
    let (redis, opener, queue) = relayed(&home, 3).await;
    let mut sweep = sweep(&home, opener.clone());
    sweep.pass().await.unwrap();
    redis_command(&redis, &mut redis::cmd("FLUSHALL")).await;
    assert_eq!(twice(&mut sweep).await, 0, "the cursor does not stand");
    home.relay(opener).pass().await.unwrap();
    assert_eq!((twice(&mut sweep).await, waiting(&queue).await.len()), (0, 3));
}

async fn the_sql_queue_is_swept_alike(home: Home) {
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    for model in 0..3 {
        home.accept(&format!("m{model}")).await;
    }
    let opener = Arc::new(InSql(home.db.clone()));
    home.relay(opener.clone()).pass().await.unwrap();
    let queue = opener.open(QUEUE).await.unwrap();
    let mut sweep = sweep(&home, opener);
    assert_eq!(twice(&mut sweep).await, 0);
    let taken = queue.take(2, Duration::ZERO, &[]).await.unwrap().entries;
    queue.settle(&[Move::Ack { entry: taken[0].clone() }]).await.unwrap();
    assert_eq!(twice(&mut sweep).await, 1);
}

async fn the_outbox_is_pruned_when_nobody_needs_it(home: Home) {
    let (redis, opener, queue) = relayed(&home, 3).await;
    home.subscriptions().add(&subscriptions::parse("site=model_registered@beginning").unwrap()[0]).await.unwrap();
    home.relay(opener.clone()).pass().await.unwrap();
    let config =
        SweepConfig { interval: Duration::ZERO, settle: Duration::ZERO, retention: Duration::ZERO, newest: 1, prune_every: Duration::ZERO };
    let mut sweep = Sweep::new(home.db.clone(), opener.clone(), config);
    assert_eq!(home.count("outbox").await, 6);
    assert_eq!(sweep.pass().await.unwrap(), Swept::default());
    let site = opener.queue("site").await;
    let read = site.take(3, Duration::ZERO, &[]).await.unwrap().entries;
    site.settle(&read.into_iter().map(|entry| Move::Ack { entry }).collect::<Vec<_>>()).await.unwrap();
    let entries = waiting(&queue).await;
    for entry in &entries[..2] {
        foreign_ack(&redis, entry).await;
    }
    sweep.pass().await.unwrap();
    let swept = sweep.pass().await.unwrap();
    assert_eq!((swept.finished, swept.pruned), (5, 3), "what the site has read, but not what a registration still waits for");
    let first = hokusai_event::Envelope::parse(&entries[0]).unwrap().message_id;
    let registration = Registrations::new(home.db.clone()).by_message(&first).await.unwrap().unwrap();
    let mut tx = home.db.write().await.unwrap();
    hokusai_registry::apply_deployed(&mut tx, &deployed(&registration), jiff::Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(sweep.pass().await.unwrap().pruned, 1);
    assert_eq!((home.count("outbox").await, home.count("finished").await), (2, 1));
    // The rest is published again after a loss, and the relay is not confused by what is gone.
    redis_command(&redis, &mut redis::cmd("FLUSHALL")).await;
    home.accept("another").await;
    home.relay(opener).pass().await.unwrap();
    assert_eq!((waiting(&queue).await.len(), waiting(&queue).await[0].clone()), (2, entries[2].clone()));
}

async fn the_audit_accounts_for_every_event(home: Home) {
    let (redis, opener, queue) = relayed(&home, 6).await;
    home.accept("not-relayed").await;
    queue.push(&["foreign", r#"{"message_id":"theirs"}"#].map(Bytes::from)).await.unwrap();
    let entries = waiting(&queue).await;
    foreign_ack(&redis, &entries[0]).await;
    let taken = queue.take(3, Duration::ZERO, &[]).await.unwrap().entries;
    let letter = hokusai_queue::dead_letter::build(&taken[0], QUEUE, "kind", "error", jiff::Timestamp::now());
    queue.settle(&[Move::DeadLetter { entry: taken[0].clone(), with: letter }, Move::Ack { entry: taken[1].clone() }]).await.unwrap();
    home.finish(QUEUE, &hokusai_event::Envelope::parse(&taken[1]).unwrap().message_id).await;
    let seen = audit(&home.db, &*queue, Duration::ZERO).await.unwrap();
    assert_eq!((seen.events, seen.waiting, seen.main, seen.processing, seen.dlq, seen.finished), (7, 1, 2, 1, 1, 1), "{seen:?}");
    assert_eq!((seen.foreign, seen.unreadable, seen.is_whole(), seen.unconfirmed.len()), (1, 1, false, 1));
    let lost = hokusai_event::Envelope::parse(&entries[0]).unwrap().message_id;
    assert_eq!((seen.unconfirmed[0].message_id.as_str(), seen.unconfirmed[0].status.as_deref()), (lost.as_str(), Some("queued")));
    assert!(seen.custody.known && seen.custody.without_lease == 1 && seen.custody.oldest_ms.is_some(), "{:?}", seen.custody);

    assert_eq!(twice(&mut sweep(&home, opener)).await, 1);
    let seen = audit(&home.db, &*queue, Duration::ZERO).await.unwrap();
    assert_eq!((seen.is_whole(), seen.swept, seen.unreported.len(), seen.events), (true, 1, 1, 7), "{seen:?}");
    // Redis loses everything: nothing is unaccounted for, it is to be relayed again.
    redis_command(&redis, &mut redis::cmd("FLUSHALL")).await;
    let seen = audit(&home.db, &*queue, Duration::ZERO).await.unwrap();
    assert_eq!((seen.is_whole(), seen.waiting, seen.finished + seen.swept), (true, 5, 2), "{seen:?}");
}

async fn published_events_are_found_again(home: Home) {
    let (_redis, _opener, queue) = relayed(&home, 4).await;
    let before = jiff::Timestamp::now() + Duration::from_secs(60);
    let find = async |which: Which| -> Vec<Bytes> {
        republish::published(&home.db, QUEUE, &which).await.unwrap().into_iter().map(|event| event.envelope).collect()
    };
    let entries = waiting(&queue).await;
    let id = |entry: &Bytes| hokusai_event::Envelope::parse(entry).unwrap().message_id;
    assert_eq!(find(Which::Messages(vec![id(&entries[2]), "unknown".into(), id(&entries[0])])).await, [&entries[0], &entries[2]]);
    assert_eq!(find(Which::Positions(1, 8)).await, entries);
    assert_eq!(find(Which::Since(jiff::Timestamp::UNIX_EPOCH)).await, entries);
    assert_eq!(find(Which::Since(before)).await, Vec::<Bytes>::new());
    home.accept("later").await;
    assert_eq!(find(Which::Since(jiff::Timestamp::UNIX_EPOCH)).await.len(), 4, "what is not published yet will be");
}

/// A chain that has what it was told.
struct Chain(Vec<String>);

#[async_trait]
impl ChainRecord for Chain {
    async fn find(&self, registration: &Registration) -> Result<OnChain, Box<dyn Error + Send + Sync>> {
        let model = &registration.document.model_name;
        Ok(if self.0.contains(model) { OnChain::Final(Box::new(deployed(registration))) } else { OnChain::Absent })
    }
}

fn deployed(registration: &Registration) -> ModelDeployed {
    let document = &registration.document;
    let address = Address::parse("0x5FbDB2315678afecb367f032d93F642f64180aa3").unwrap();
    ModelDeployed {
        model_id: document.model_id.clone(),
        token_symbol: document.token_id.clone(),
        model_name: document.model_name.clone(),
        model_version: document.model_version.clone(),
        mlflow_run_id: document.mlflow_run_id.clone(),
        message_id: document.message_id.clone().unwrap(),
        chain_id: 31337,
        registry_address: address.clone(),
        token_address: address,
        deployed_at: Timestamp::new(jiff::Timestamp::now()),
        timestamp: None,
        message_version: None,
        registration_id: Some(document.registration_id.clone()),
        transaction_hash: None,
        block_number: None,
        gas_used: None,
        fee_wei: None,
        elapsed_ms: None,
        correlation_id: None,
        unknown: serde_json::Map::new(),
    }
}

async fn the_reconciler_publishes_what_was_lost_between_two_commands(home: Home) {
    let (redis, opener, queue) = relayed(&home, 4).await;
    let entries = waiting(&queue).await;
    for entry in &entries[..3] {
        foreign_ack(&redis, entry).await;
    }
    let model = |entry: &Bytes| match hokusai_event::Envelope::parse(entry).unwrap().event().unwrap() {
        hokusai_event::Event::ModelReadyToDeploy(ready) => ready.model_name,
        other => panic!("{other:?}"),
    };
    let chain: Arc<dyn ChainRecord> = Arc::new(Chain(vec![model(&entries[0])]));
    let config = ReconcilerConfig { after: Duration::from_secs(60), most: 2, ..ReconcilerConfig::default() };
    let reconciler = Reconciler::new(home.db.clone(), queue.clone(), Some(chain), config.clone());
    let later = |minutes: i64| jiff::Timestamp::now() + jiff::SignedDuration::from_mins(minutes);
    let mut sweep = sweep(&home, opener);
    assert_eq!(reconciler.pass(later(60)).await.unwrap(), Reconciled::default(), "nobody has seen them absent yet");
    assert_eq!(twice(&mut sweep).await, 3);
    assert_eq!(reconciler.pass(later(0)).await.unwrap(), Reconciled::default(), "it is too early");
    let without = Reconciler::new(home.db.clone(), queue.clone(), None, config);
    assert_eq!(without.pass(later(2)).await.unwrap(), Reconciled { left: 3, ..Reconciled::default() });
    let did = reconciler.pass(later(2)).await.unwrap();
    assert_eq!(did, Reconciled { republished: 2, found_on_chain: 1, left: 0 });
    assert_eq!(reconciler.pass(later(4)).await.unwrap(), Reconciled::default(), "they are queued");
    let mut expected = entries[1..].to_vec();
    expected.sort();
    let mut now = waiting(&queue).await;
    now.sort();
    assert_eq!(now, expected, "with the same bytes");

    // Once more, and then never again.
    for round in 1..=2 {
        let main = queue.take(10, Duration::ZERO, &[]).await.unwrap().entries;
        queue.settle(&main.into_iter().map(|entry| Move::Ack { entry }).collect::<Vec<_>>()).await.unwrap();
        // The sweep looks through everything again now and then.
        for _ in 0..70 {
            sweep.pass().await.unwrap();
        }
        let did = reconciler.pass(later(10 * round)).await.unwrap();
        let expected = if round == 1 { (3, 0) } else { (1, 2) };
        assert_eq!((did.republished, did.left), expected, "round {round}");
    }
    let registrations = Registrations::new(home.db.clone());
    let first = hokusai_event::Envelope::parse(&entries[0]).unwrap().message_id;
    assert_eq!(registrations.by_message(&first).await.unwrap().unwrap().status, Status::Deployed);
    let lost = hokusai_event::Envelope::parse(&entries[1]).unwrap().message_id;
    let lost = registrations.by_message(&lost).await.unwrap().unwrap();
    let history = registrations.history(&lost.document.registration_id).await.unwrap();
    assert_eq!(history.iter().filter(|row| row.step == republish::RECONCILED).count(), 2);
    assert_eq!(queue.peek(State::Main, 0, 10).await.unwrap().len(), 1);
}
