//! Every way to reach a Redis, and every way to lose it: replaced, promoted, hanging, silent. What is noticed must heal by
//! itself, with the same handle.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hokusai_queue::{Cursor, Error, Move, Queue, RedisQueue, RedisSettings, RelayBatch, Relayed, Settled, State, Verdict, reaper};
use hokusai_testbed::{Proxy, Redis, eventually, free_port};

use crate::{
    bench::{NAME, PATIENCE, bytes, message, reaper_config},
    consuming::{Handling, Work, config},
};

/// A response's time limit and the longest wait of a take, and a little.
const NOTICED: Duration = Duration::from_secs(25);

fn queue_at(url: &str) -> RedisQueue {
    RedisQueue::lazy(&RedisSettings::from_url(url).unwrap(), NAME).unwrap()
}

/// Every command and every script once.
async fn exercise(queue: &dyn Queue) {
    queue.push(&bytes(&["a", "b", "c", "d", "e", "f"])).await.unwrap();
    let mut taken = queue.take(6, Duration::ZERO, &[]).await.unwrap().entries;
    let mut next = || taken.remove(0);
    let lease = Duration::from_secs(60);
    let letter = Bytes::from("letter");
    let moves = [
        Move::Ack { entry: next() },
        Move::Retry { entry: next(), with: "b2".into(), after: Duration::ZERO },
        Move::Retry { entry: next(), with: "c2".into(), after: lease },
        Move::Release { entry: next() },
        Move::DeadLetter { entry: next(), with: letter.clone() },
        Move::Extend { entry: next(), lease: Duration::ZERO },
        Move::Redrive { entry: letter.clone(), with: "e2".into() },
        Move::Discard { entry: letter },
    ];
    let mut expected = vec![Settled::Done; 7];
    expected.push(Settled::NotYours);
    assert_eq!(queue.settle(&moves).await.unwrap(), expected);
    queue.survey(&reaper_config().terms).await.unwrap();
    let next = Cursor::new(1, "event");
    let relayed = queue.relay(RelayBatch { source: "s", expected: None, next: &next, entries: &bytes(&["g"]) }).await.unwrap();
    assert_eq!(relayed, Relayed::Moved);
    let upkeep = queue.upkeep().unwrap();
    assert_eq!(upkeep.pause().await.unwrap(), None);
    assert_eq!(upkeep.custody().await.unwrap().held.len(), 1);
    for state in State::ALL {
        queue.peek(state, 0, 9).await.unwrap();
    }
    let mut entries = queue.take(9, Duration::ZERO, &bytes(&["f"])).await.unwrap().entries;
    entries.sort();
    assert_eq!(entries, bytes(&["b2", "d", "e2", "g"]));
    let before = Instant::now();
    assert!(queue.take(1, Duration::from_millis(50), &entries).await.unwrap().entries.is_empty());
    assert!(before.elapsed() >= Duration::from_millis(45));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.main, stats.processing, stats.delayed, stats.dlq), (0, 0, 1, 0));
}

#[tokio::test]
async fn by_a_unix_socket() {
    let redis = Redis::start_with(&["--save", "", "--unixsocket", "redis.sock"]).await;
    let url = format!("unix://{}?db=3", redis.dir().join("redis.sock").display());
    exercise(&queue_at(&url)).await;
    assert!(redis.tell("INFO keyspace").await.contains("db3:"), "the database of the address is used");
}

#[tokio::test]
async fn by_a_password() {
    let redis = Redis::start_with(&["--save", "", "--requirepass", "s3cret/@:"]).await;
    exercise(&queue_at(&format!("redis://:s3cret%2F%40%3A@127.0.0.1:{}/0", redis.port()))).await;
    let wrong = queue_at(&format!("redis://:s3crets@127.0.0.1:{}/0", redis.port()));
    let error = wrong.stats().await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }) && !format!("{error} {error:?}").contains("s3cret"), "{error:?}");
}

/// The permissions that `docs/queue.md` says are needed are enough.
#[tokio::test]
async fn by_a_user_with_no_more_than_the_documented_permissions() {
    let redis = Redis::start_with(&["--save", ""]).await;
    let documented = "+lpush +lmove +blmove +lrem +llen +lrange +zrange +zcard +exists +evalsha +script|load \
                      +rpush +lpos +lpop +rpop +lindex +zadd +zrem +zscore +zcount +zrangebyscore +hget +hset +hsetnx +hdel +time";
    let answer = redis.tell(&format!("ACL SETUSER queue on >s3cret ~{NAME} ~{NAME}:* {documented}")).await;
    assert_eq!(answer, "+OK\r\n");
    let queue = queue_at(&format!("redis://queue:s3cret@127.0.0.1:{}/0", redis.port()));
    exercise(&queue).await;
    assert!(matches!(queue.warnings().await, Err(Error::Denied { .. })), "INFO is not needed, and not allowed here");

    assert_eq!(redis.tell("ACL SETUSER queue -lpush").await, "+OK\r\n");
    let error = queue.push(&bytes(&["x"])).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    let next = Cursor::new(1, "event");
    let moved = queue.relay(RelayBatch { source: "t", expected: None, next: &next, entries: &bytes(&["x"]) }).await.unwrap_err();
    assert!(matches!(moved, Error::Denied { .. }), "refused inside a script: {moved:?}");
}

/// In a cluster of one node; every key of a queue must be in one slot.
#[tokio::test]
async fn by_a_name_with_a_hash_tag_in_a_cluster() {
    let redis = Redis::start_with(&["--save", "", "--cluster-enabled", "yes"]).await;
    assert_eq!(redis.tell("CLUSTER ADDSLOTSRANGE 0 16383").await, "+OK\r\n");
    eventually("the cluster is up", PATIENCE, async || redis.tell("CLUSTER INFO").await.contains("cluster_state:ok").then_some(())).await;
    let settings = RedisSettings::from_url(&redis.url()).unwrap();
    exercise(&RedisQueue::connect(&settings, "{hokusai}:model_ready_queue").await.unwrap()).await;
    let error = RedisQueue::connect(&settings, NAME).await.unwrap().take(1, Duration::ZERO, &[]).await.unwrap_err();
    assert!(matches!(error, Error::Misconfigured { .. }) && error.to_string().contains("hash tag"), "{error}");
}

#[tokio::test]
async fn by_tls_in_each_of_the_three_ways() {
    let file = |name: &str| format!("{}/tests/it/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (port, certificate, key, ca) = (free_port(), file("server.pem"), file("server.key"), file("ca.pem"));
    let mut args = vec!["--save", "", "--tls-auth-clients", "no", "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let port_text = port.to_string();
    args.extend(["--tls-ca-cert-file", &ca, "--tls-port", &port_text, "--requirepass", "s3cret"]);
    let _redis = Redis::start_with(&args).await;
    let settings =
        |host: &str, check: &str| RedisSettings::from_url(&format!("rediss://:s3cret@{host}:{port}/0?ssl_cert_reqs={check}")).unwrap();
    let authority = std::fs::read(&ca).unwrap();
    for check in ["required", "optional"] {
        let unknown = RedisQueue::connect(&settings("localhost", check), NAME).await.unwrap_err();
        assert!(matches!(unknown, Error::Misconfigured { .. }), "{check}: an authority nobody named: {unknown:?}");
        let trusting = |host| settings(host, check).ca_pem(authority.clone());
        let another = RedisQueue::connect(&trusting("127.0.0.1"), NAME).await.unwrap_err();
        assert!(matches!(another, Error::Misconfigured { .. }), "{check}: a certificate for another host: {another:?}");
        exercise(&RedisQueue::connect(&trusting("localhost"), check).await.unwrap()).await;
    }
    exercise(&RedisQueue::connect(&settings("127.0.0.1", "none"), NAME).await.unwrap()).await;
}

/// A primary with a replica, and an address that follows the failover, as a managed service has it.
struct Pair {
    primary: Redis,
    replica: Redis,
    address: Proxy,
}

impl Pair {
    async fn start() -> Self {
        let primary = Redis::start().await;
        let replica = primary.replica().await;
        let address = Proxy::to(primary.port()).await;
        Self { primary, replica, address }
    }

    /// Promotes the replica when it has everything, and demotes the primary.
    async fn fail_over(&self) {
        assert!(self.primary.tell("CLIENT PAUSE 2000 WRITE").await.starts_with("+OK"));
        eventually("the replica has all", PATIENCE, async || (self.primary.offset().await == self.replica.offset().await).then_some(()))
            .await;
        self.replica.promote().await;
        self.address.point_at(self.replica.port());
        self.primary.follow(&self.replica).await;
        assert!(self.primary.tell("CLIENT UNPAUSE").await.starts_with("+OK"));
    }
}

/// The first call after a failover may fail, as an outage; the second must not.
async fn heals<T>(what: &str, mut call: impl AsyncFnMut() -> Result<T, Error>) -> T {
    match call().await {
        Ok(answer) => return answer,
        Err(error) => assert!(error.is_outage(), "{what}: {error:?}"),
    }
    call().await.unwrap_or_else(|error| panic!("{what}, again: {error:?}"))
}

#[tokio::test]
async fn a_promoted_replica_is_followed_by_whatever_is_called_first() {
    let pair = Pair::start().await;
    let handles: Vec<RedisQueue> = (0..5).map(|_| queue_at(&pair.address.redis_url())).collect();
    for queue in &handles {
        queue.push(&bytes(&[&message(0)])).await.unwrap();
    }
    let entry = handles[0].take(1, Duration::ZERO, &[]).await.unwrap().entries.remove(0);
    pair.fail_over().await;

    let [push, take, settle, relaying, survey] = &handles[..] else { unreachable!() };
    heals("LPUSH", async || push.push(&bytes(&[&message(1)])).await).await;
    let taken = heals("LMOVE", async || take.take(1, Duration::ZERO, &[]).await).await;
    assert_eq!(taken.entries.len(), 1);
    let retry = [Move::Retry { entry, with: "again".into(), after: Duration::ZERO }];
    assert_eq!(heals("a script", async || settle.settle(&retry).await).await, [Settled::Done]);
    let entries = bytes(&["relayed"]);
    let next = Cursor::new(1, "event");
    let batch = RelayBatch { source: "s", expected: None, next: &next, entries: &entries };
    assert_eq!(heals("a script that answers an array", async || relaying.relay(batch).await).await, Relayed::Moved);
    heals("a pass", async || reaper::pass(survey, &reaper_config()).await).await;
    assert_eq!(survey.stats().await.unwrap().main, 6, "five pushed, two taken, three more");
}

/// A consumer idle in BLMOVE on the old primary is thrown out by the demotion and goes on at the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_consumer_follows_the_promotion() {
    let pair = Pair::start().await;
    let queue: Arc<dyn Queue> = Arc::new(queue_at(&pair.address.redis_url()));
    let handling = Handling::new(|_, _| Verdict::Done);
    let work = Work::start(&queue, &handling, config());
    pair.fail_over().await;
    queue_at(&pair.replica.url()).push(&bytes(&[&message(1)])).await.unwrap();
    eventually("it is handled", PATIENCE, async || (handling.deliveries() == 1).then_some(())).await;
    eventually("it is acknowledged", PATIENCE, async || (queue.stats().await.ok()?.processing == 0).then_some(())).await;
    work.stop().await;
}

/// Another server, empty, at the same address: nothing of the old one is believed, and nothing on it taken for an orphan.
#[tokio::test]
async fn a_replaced_server_is_met_again() {
    let (old, new) = (Redis::start().await, Redis::start().await);
    let address = Proxy::to(old.port()).await;
    let queue = queue_at(&address.redis_url());
    queue.push(&bytes(&[&message(1), &message(2)])).await.unwrap();
    let held = queue.take(1, Duration::ZERO, &[]).await.unwrap().entries;
    reaper::pass(&queue, &reaper_config()).await.unwrap();
    address.point_at(new.port());
    drop(old);
    heals("push", async || queue.push(&bytes(&[&message(3)])).await).await;
    let taken = queue.take(2, Duration::ZERO, &held).await.unwrap();
    assert_eq!((taken.entries.len(), taken.acked), (1, vec![Settled::NotYours]));
    eventually("what is abandoned there comes back", PATIENCE, async || {
        (reaper::pass(&queue, &reaper_config()).await.unwrap().returned == 1).then_some(())
    })
    .await;
}

/// The command was carried out and its answer lost: told as an outage, and nothing is lost by it.
#[tokio::test]
async fn a_lost_reply_loses_nothing() {
    let redis = Redis::start().await;
    let address = Proxy::to(redis.port()).await;
    let queue = queue_at(&address.redis_url());
    queue.push(&bytes(&[&message(1)])).await.unwrap();
    reaper::pass(&queue, &reaper_config()).await.unwrap();

    address.cut_next_reply();
    let error = queue.take(1, Duration::ZERO, &[]).await.unwrap_err();
    assert!(error.is_outage(), "{error:?}");
    assert_eq!(queue.stats().await.unwrap().processing, 1, "it was taken, and its taker does not know");
    eventually("it comes back", PATIENCE, async || (reaper::pass(&queue, &reaper_config()).await.unwrap().returned == 1).then_some(()))
        .await;

    let entries = bytes(&["relayed"]);
    let next = Cursor::new(7, "event");
    let batch = RelayBatch { source: "s", expected: None, next: &next, entries: &entries };
    address.cut_next_reply();
    assert!(queue.relay(batch).await.unwrap_err().is_outage());
    assert_eq!(queue.relay(batch).await.unwrap(), Relayed::Refused { actual: Some(next.clone()) }, "the repetition does no harm");
    assert_eq!(queue.stats().await.unwrap().main, 2);

    let entry = queue.take(1, Duration::ZERO, &[]).await.unwrap().entries.remove(0);
    let ack = [Move::Ack { entry }];
    address.cut_next_reply();
    assert!(queue.settle(&ack).await.unwrap_err().is_outage());
    assert_eq!(queue.settle(&ack).await.unwrap(), [Settled::NotYours]);
}

/// The network swallows everything, without a word, while the consumer waits for an entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_waiting_on_a_connection_that_died_silently_heals() {
    let redis = Redis::start().await;
    let address = Proxy::to(redis.port()).await;
    let queue: Arc<dyn Queue> = Arc::new(queue_at(&address.redis_url()));
    let direct = queue_at(&redis.url());
    let handling = Handling::new(|_, _| Verdict::Done);
    let work = Work::start(&queue, &handling, config());
    direct.push(&bytes(&[&message(1)])).await.unwrap();
    eventually("it works", PATIENCE, async || (handling.deliveries() == 1).then_some(())).await;
    address.strand();
    let silent = Instant::now();
    direct.push(&bytes(&[&message(2)])).await.unwrap();
    // The server may hand it to the dead connection; then it is the reaper that brings it back.
    eventually("it heals", NOTICED, async || {
        let _ = reaper::pass(&direct, &reaper_config()).await;
        (handling.deliveries() >= 2).then_some(())
    })
    .await;
    assert!(silent.elapsed() < NOTICED);
    eventually("all is acknowledged", NOTICED, async || {
        let _ = reaper::pass(&direct, &reaper_config()).await;
        let stats = direct.stats().await.unwrap();
        (stats.main + stats.processing == 0).then_some(())
    })
    .await;
    work.stop().await;
}

/// The server is there and answers nobody for a while: shorter than our patience, nothing happens at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_is_waited_for() {
    let redis = Redis::start().await;
    let queue: Arc<dyn Queue> = Arc::new(queue_at(&redis.url()));
    let handling = Handling::new(|_, _| Verdict::Done);
    let work = Work::start(&queue, &handling, config());
    for pause in ["CLIENT PAUSE 700 ALL", "CLIENT PAUSE 700 WRITE"] {
        assert_eq!(redis.tell(pause).await, "+OK\r\n");
        let before = Instant::now();
        queue.push(&bytes(&[&message(1)])).await.unwrap();
        assert!(before.elapsed() >= Duration::from_millis(600), "{:?}", before.elapsed());
    }
    eventually("all are handled", PATIENCE, async || (handling.deliveries() == 2).then_some(())).await;
    let summary = work.stop().await;
    assert_eq!((summary.done, summary.lost), (2, 0));
}

#[tokio::test]
async fn what_endangers_a_queue_is_said() {
    let careless = Redis::start_with(&["--save", "", "--maxmemory-policy", "allkeys-lru"]).await;
    let warnings = queue_at(&careless.url()).warnings().await.unwrap();
    assert!(warnings.len() == 2 && warnings[0].contains("noeviction") && warnings[1].contains("nothing on disk"), "{warnings:?}");
    let replica = careless.replica().await;
    let warnings = queue_at(&replica.url()).warnings().await.unwrap();
    assert!(warnings.iter().any(|warning| warning.contains("replica")), "{warnings:?}");

    let snapshots = Redis::start_with(&["--save", "60 1000", "--maxmemory-policy", "volatile-lru"]).await;
    let warnings = queue_at(&snapshots.url()).warnings().await.unwrap();
    assert!(warnings[0].contains("keys that expire") && warnings[1].contains("snapshots only"), "{warnings:?}");

    let managed = Redis::start_with(&["--save", "", "--rename-command", "CONFIG", ""]).await;
    let warnings = queue_at(&managed.url()).warnings().await.unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("append-only"), "{warnings:?}");

    let careful = Redis::start_with(&["--save", "", "--appendonly", "yes"]).await;
    assert!(queue_at(&careful.url()).warnings().await.unwrap().is_empty());
    let valkey = Redis::valkey().await;
    assert_eq!(queue_at(&valkey.url()).warnings().await.unwrap().len(), 1, "it keeps nothing on disk, and is new enough");
}
