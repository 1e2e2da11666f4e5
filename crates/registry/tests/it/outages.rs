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
