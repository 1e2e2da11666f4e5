//! The relay when queues fail: before a push, after it, or for good.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hokusai_queue::{Error, LeaseTerms, Move, Queue, RelayBatch, Relayed, Settled, State, Stats, Survey, Taken};
use hokusai_registry::{LaneState, QueueOpener, Relay, RelayConfig, subscriptions};
use hokusai_testbed::{Redis, eventually};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};
use tokio_util::sync::CancellationToken;

use crate::home::{Home, InSql, OnRedis, QUEUE, waiting};

crate::scenarios!(a_lost_reply_repeats_nothing, a_lost_push_is_made_again, a_stuck_queue_holds_up_no_other, an_outage_is_waited_out);

/// What goes wrong with a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It never arrives.
    BeforePush,
    /// It arrives, its answer does not.
    AfterPush,
    /// No answer ever comes.
    Stuck,
}

/// A queue whose pushes fail as told, one after the other, and then work.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Queue>,
    faults: Mutex<Vec<Fault>>,
    relayed: AtomicU32,
}

impl Faulty {
    fn next_fault(&self) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        if faults.first() == Some(&Fault::Stuck) { Some(Fault::Stuck) } else { (!faults.is_empty()).then(|| faults.remove(0)) }
    }
}

fn lost() -> Error {
    Error::Unavailable { address: "test".into(), source: "the connection was cut".into() }
}

#[async_trait]
impl Queue for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn push(&self, entries: &[Bytes]) -> Result<(), Error> {
        self.inner.push(entries).await
    }
    async fn relay(&self, batch: RelayBatch<'_>) -> Result<Relayed, Error> {
        self.relayed.fetch_add(1, Ordering::Relaxed);
        match self.next_fault() {
            None => self.inner.relay(batch).await,
            Some(Fault::BeforePush) => Err(lost()),
            Some(Fault::AfterPush) => self.inner.relay(batch).await.and(Err(lost())),
            Some(Fault::Stuck) => std::future::pending().await,
        }
    }
    async fn take(&self, max: usize, wait: Duration, acks: &[Bytes]) -> Result<Taken, Error> {
        self.inner.take(max, wait, acks).await
    }
    async fn settle(&self, moves: &[Move]) -> Result<Vec<Settled>, Error> {
        self.inner.settle(moves).await
    }
    async fn survey(&self, terms: &LeaseTerms) -> Result<Survey, Error> {
        self.inner.survey(terms).await
    }
    async fn peek(&self, state: State, offset: usize, limit: usize) -> Result<Vec<Bytes>, Error> {
        self.inner.peek(state, offset, limit).await
    }
    async fn stats(&self) -> Result<Stats, Error> {
        self.inner.stats().await
    }
}

/// Gives the default queue its faults.
struct FaultyOpener {
    inner: Arc<dyn QueueOpener>,
    queue: Arc<Faulty>,
}

impl FaultyOpener {
    async fn new(inner: Arc<dyn QueueOpener>, faults: &[Fault]) -> Arc<Self> {
        let queue = inner.open(QUEUE).await.unwrap();
        let queue = Arc::new(Faulty { inner: queue, faults: Mutex::new(faults.to_vec()), relayed: AtomicU32::new(0) });
        Arc::new(Self { inner, queue })
    }
}

#[async_trait]
impl QueueOpener for FaultyOpener {
    async fn open(&self, name: &str) -> Result<Arc<dyn Queue>, Error> {
        if name == QUEUE { Ok(self.queue.clone()) } else { self.inner.open(name).await }
    }
}

/// With each of these faults once on the way, in one relay or with a new one after each, everything is published once
/// and in order.
async fn converges(home: &Home, inner: Arc<dyn QueueOpener>, faults: &[Fault], restart: bool) {
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    let opener = FaultyOpener::new(inner, faults).await;
    let mut relay = home.relay(opener.clone());
    for model in 0..6 {
        home.accept(&format!("m{model}")).await;
        while relay.pass().await.is_err() {
            // More is committed before the repetition.
            home.accept(&format!("m{model}-meanwhile")).await;
            if restart {
                relay = home.relay(opener.clone());
            }
        }
    }
    let queue: Arc<dyn Queue> = opener.queue.clone();
    assert_eq!(waiting(&queue).await, home.outbox(&["model_ready_to_deploy"]).await);
    assert!(opener.queue.faults.lock().unwrap().is_empty());
    assert_eq!(home.subscriptions().list().await.unwrap()[0].rewinds, 0);
}

async fn a_lost_reply_repeats_nothing(home: Home) {
    let redis = Redis::start().await;
    converges(&home, OnRedis::new(&redis), &[Fault::AfterPush, Fault::AfterPush, Fault::BeforePush, Fault::AfterPush], false).await;
}

/// The relay dies between recording the attempt and the push, and after the push.
async fn a_lost_push_is_made_again(home: Home) {
    let inner = Arc::new(InSql(home.db.clone()));
    converges(&home, inner, &[Fault::BeforePush, Fault::AfterPush, Fault::AfterPush, Fault::BeforePush], true).await;
}

async fn a_stuck_queue_holds_up_no_other(home: Home) {
    let redis = Redis::start().await;
    let inner = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    home.subscriptions().add(&subscriptions::parse("site=*").unwrap()[0]).await.unwrap();
    let opener = FaultyOpener::new(inner.clone(), &[Fault::Stuck]).await;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(home.relay(opener.clone()).run(shutdown.clone()));
    let site = inner.queue("site").await;
    for count in 1..=3 {
        home.accept(&format!("m{count}")).await;
        eventually("the other queue is served", Duration::from_secs(10), async || (waiting(&site).await.len() == 2 * count).then_some(()))
            .await;
    }
    assert_eq!(opener.queue.relayed.load(Ordering::Relaxed), 1);
    running.abort();
}

async fn an_outage_is_waited_out(home: Home) {
    let mut redis = Redis::start().await;
    let opener = OnRedis::new(&redis);
    home.subscriptions().ensure_default(QUEUE).await.unwrap();
    let config = RelayConfig {
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(100),
        verify: Duration::from_millis(50),
        poll: Duration::from_millis(50),
        ..RelayConfig::default()
    };
    let relay = Relay::new(home.db.clone(), opener.clone(), home.nudge.clone(), config);
    let status = relay.status();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(shutdown.clone()));
    home.accept("before").await;
    let queue = opener.queue(QUEUE).await;
    eventually("the first is published", Duration::from_secs(10), async || (waiting(&queue).await.len() == 1).then_some(())).await;
    redis.kill().await;
    home.accept("during").await;
    eventually("the outage shows", Duration::from_secs(20), async || {
        matches!(status.lanes().first()?.state, LaneState::Outage { .. }).then_some(())
    })
    .await;
    // It comes back empty: both are published, the first one again.
    redis.restart().await;
    let queue = eventually("Redis is back", Duration::from_secs(10), async || opener.open(QUEUE).await.ok()).await;
    eventually("both are published", Duration::from_secs(20), async || (waiting(&queue).await.len() == 2).then_some(())).await;
    assert_eq!(waiting(&queue).await, home.outbox(&["model_ready_to_deploy"]).await);
    shutdown.cancel();
    running.await.unwrap();
}

/// One thing that happens to a registry, its relay or its Redis.
#[derive(Debug, Clone)]
enum Happening {
    Register,
    Finish(usize),
    Pass,
    Fails(Fault),
    AnotherRelay,
    /// Redis goes back to what it was at an earlier moment.
    GoesBack(usize),
    Flush,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => Just(Happening::Register),
        1 => (0..20_usize).prop_map(Happening::Finish),
        4 => Just(Happening::Pass),
        1 => Just(Happening::Fails(Fault::BeforePush)),
        2 => Just(Happening::Fails(Fault::AfterPush)),
        1 => Just(Happening::AnotherRelay),
        1 => (0..20_usize).prop_map(Happening::GoesBack),
        1 => Just(Happening::Flush),
    ]
}

/// What Redis holds: the list and the cursor.
type Snapshot = (Vec<Vec<u8>>, Option<String>);

struct World {
    home: Home,
    connection: redis::aio::MultiplexedConnection,
    opener: Arc<FaultyOpener>,
    relay: Relay,
    source: String,
    finished: Vec<String>,
    message_ids: Vec<String>,
    snapshots: Vec<Snapshot>,
    lost_writes: bool,
}

impl World {
    async fn new(redis: &Redis) -> Self {
        let home = Home::sqlite().await;
        home.subscriptions().ensure_default(QUEUE).await.unwrap();
        let opener = FaultyOpener::new(OnRedis::new(redis), &[]).await;
        let client = redis::Client::open(redis.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let (relay, source) = (home.relay(opener.clone()), home.source().await);
        let (finished, message_ids, snapshots) = (Vec::new(), Vec::new(), Vec::new());
        let mut world = Self { home, connection, opener, relay, source, finished, message_ids, snapshots, lost_writes: false };
        world.restore(&(Vec::new(), None)).await;
        world
    }

    async fn snapshot(&mut self) -> Snapshot {
        let (list, cursor) = redis::pipe()
            .cmd("LRANGE")
            .arg(QUEUE)
            .arg(0)
            .arg(-1)
            .cmd("HGET")
            .arg(format!("{QUEUE}:cursor"))
            .arg(&self.source)
            .query_async(&mut self.connection)
            .await
            .unwrap();
        (list, cursor)
    }

    async fn restore(&mut self, (list, cursor): &Snapshot) {
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("FLUSHALL");
        for entry in list {
            pipe.cmd("RPUSH").arg(QUEUE).arg(entry);
        }
        if let Some(cursor) = cursor {
            pipe.cmd("HSET").arg(format!("{QUEUE}:cursor")).arg(&self.source).arg(cursor);
        }
        pipe.exec_async(&mut self.connection).await.unwrap();
    }

    async fn happens(&mut self, happening: &Happening) {
        match happening {
            Happening::Register => {
                let receipt = self.home.accept(&format!("m{}", self.message_ids.len())).await;
                self.message_ids.push(receipt.message_id.unwrap());
            }
            Happening::Finish(which) if !self.message_ids.is_empty() => {
                let message_id = self.message_ids[which % self.message_ids.len()].clone();
                self.home.finish(QUEUE, &message_id).await;
                self.finished.push(message_id);
            }
            Happening::Pass => drop(self.relay.pass().await),
            Happening::Fails(fault) => {
                self.opener.queue.faults.lock().unwrap().push(*fault);
                drop(self.relay.pass().await);
            }
            Happening::AnotherRelay => self.relay = self.home.relay(self.opener.clone()),
            Happening::GoesBack(which) if !self.snapshots.is_empty() => {
                // What came after that moment never happened, so Redis cannot go back to it.
                self.snapshots.truncate(which % self.snapshots.len() + 1);
                let snapshot = self.snapshots[self.snapshots.len() - 1].clone();
                self.restore(&snapshot).await;
                self.lost_writes = true;
            }
            Happening::Flush => {
                self.snapshots.clear();
                self.restore(&(Vec::new(), None)).await;
                self.lost_writes = true;
            }
            Happening::Finish(_) | Happening::GoesBack(_) => {}
        }
        let snapshot = self.snapshot().await;
        self.snapshots.push(snapshot);
    }

    /// Nothing unfinished is missing; and if Redis lost nothing, nothing is there twice or out of order.
    async fn check(self) {
        self.opener.queue.faults.lock().unwrap().clear();
        self.relay.pass().await.unwrap();
        let queue: Arc<dyn Queue> = self.opener.queue.clone();
        let published = waiting(&queue).await;
        let unfinished = |envelope: &Bytes| !self.finished.iter().any(|id| String::from_utf8_lossy(envelope).contains(id));
        let all = self.home.outbox(&["model_ready_to_deploy"]).await;
        assert_eq!(all.len(), self.message_ids.len());
        for envelope in all.iter().filter(|envelope| unfinished(envelope)) {
            assert!(published.contains(envelope), "an unfinished event is lost");
        }
        if !self.lost_writes {
            let mut rest = all.iter();
            let in_order = published.iter().all(|envelope| rest.any(|other| other == envelope));
            assert!(in_order, "an event was published twice or out of order");
        }
        let subscription = self.home.subscriptions().list().await.unwrap().remove(0);
        assert_eq!((subscription.stopped, subscription.rewinds == 0 || self.lost_writes), (None, true));
    }
}

#[test]
fn whatever_happens_nothing_is_lost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let redis = runtime.block_on(Redis::start());
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(happenings in proptest::collection::vec(happening(), 1..40))| {
        runtime.block_on(async {
            let mut world = World::new(&redis).await;
            for happening in &happenings {
                world.happens(happening).await;
            }
            world.check().await;
        });
    });
}
