//! What a consumer and a reaper make of a queue.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hokusai_queue::{
    Consumer, ConsumerConfig, Delivery, Error, Handler, Holder, Move, Queue, State, Status, Summary, Verdict, attempts, dead_letter, reaper,
};
use hokusai_testbed::eventually;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::bench::{Bench, PATIENCE, bytes, message, reaper_config};

crate::on_every_backend! {
    everything_is_handled_and_acknowledged
    three_retries_are_four_deliveries
    the_message_s_own_limit_wins
    a_permanent_failure_is_dead_lettered_at_once
    an_outage_burns_nothing_and_pauses
    a_held_delivery_is_ended_by_its_holder
    a_held_delivery_can_end_before_it_is_held
    what_takes_long_is_extended
    a_handler_that_hangs_has_failed
    a_handler_that_panics_has_failed
    an_unparsable_entry_is_dead_lettered_unseen
    shutdown_finishes_what_runs_and_releases_the_rest
    a_message_that_has_expired_is_handled_alone
    the_limit_is_kept
    no_more_run_at_once_than_allowed
}

type Respond = dyn Fn(&Delivery, &Handling) -> Verdict + Send + Sync;

/// A handler that answers what it is told to, and remembers what happened.
#[derive(Default)]
pub(crate) struct Handling {
    respond: Option<Box<Respond>>,
    work: Duration,
    pub(crate) seen: Mutex<HashMap<String, usize>>,
    pub(crate) dead: Mutex<Vec<(Bytes, String, String)>>,
    pub(crate) running: AtomicUsize,
    pub(crate) most: AtomicUsize,
    pub(crate) broken: AtomicBool,
}

impl Handling {
    pub(crate) fn new(respond: impl Fn(&Delivery, &Self) -> Verdict + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { respond: Some(Box::new(respond)), ..Self::default() })
    }

    fn slow(work: Duration, respond: impl Fn(&Delivery, &Self) -> Verdict + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { respond: Some(Box::new(respond)), work, ..Self::default() })
    }

    pub(crate) fn deliveries(&self) -> usize {
        self.seen.lock().unwrap().values().sum()
    }
}

#[async_trait]
impl Handler for Handling {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        *self.seen.lock().unwrap().entry(id_of(&delivery.entry)).or_default() += 1;
        if !self.work.is_zero() {
            tokio::time::sleep(self.work).await;
        }
        let verdict = self.respond.as_ref().map_or(Verdict::Done, |respond| respond(delivery, self));
        self.running.fetch_sub(1, Ordering::SeqCst);
        verdict
    }

    async fn dead_lettered(&self, entry: &[u8], kind: &str, error: &str) {
        self.dead.lock().unwrap().push((Bytes::copy_from_slice(entry), kind.to_owned(), error.to_owned()));
    }
}

fn id_of(entry: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(entry).unwrap_or_default();
    value["message_id"].as_str().unwrap_or_default().to_owned()
}

/// A consumer and a reaper at work.
pub(crate) struct Work {
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) holder: Holder,
    shutdown: CancellationToken,
    run: JoinHandle<Result<Summary, Error>>,
    _guard: DropGuard,
}

impl Work {
    pub(crate) fn start(queue: &Arc<dyn Queue>, handling: &Arc<Handling>, config: ConsumerConfig) -> Self {
        let mut reaper = reaper_config();
        reaper.terms.first_sight = config.lease;
        let consumer = Consumer::new(queue.clone(), config).unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(reaper::run(queue.clone(), reaper, shutdown.clone()));
        let (status, holder) = (consumer.status(), consumer.holder());
        let run = tokio::spawn(consumer.run(handling.clone(), shutdown.clone()));
        Self { status, holder, run, _guard: shutdown.clone().drop_guard(), shutdown }
    }

    pub(crate) async fn stop(self) -> Summary {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.run).await.expect("a consumer stops").unwrap().unwrap()
    }

    pub(crate) async fn until(&mut self, wanted: impl FnMut(&Status) -> bool) {
        tokio::time::timeout(PATIENCE, self.status.wait_for(wanted)).await.expect("the status comes").unwrap();
    }
}

pub(crate) fn config() -> ConsumerConfig {
    ConsumerConfig {
        concurrency: 4,
        lease: Duration::from_millis(1500),
        wait: Duration::from_millis(200),
        handler_timeout: Duration::from_millis(400),
        base_delay: Duration::from_millis(20),
        ..ConsumerConfig::default()
    }
}

async fn push_messages(bench: &Bench, count: usize) -> Vec<Bytes> {
    let entries: Vec<Bytes> = (0..count).map(|n| message(n).into()).collect();
    bench.queue.push(&entries).await.unwrap();
    entries
}

async fn empty(bench: &Bench) {
    eventually("the queue is empty", PATIENCE, async || (bench.stats().await == (0, 0, 0, 0)).then_some(())).await;
}

async fn dead_letters(bench: &Bench, count: u64) -> Vec<dead_letter::DeadLetter> {
    eventually("there are dead letters", PATIENCE, async || (bench.stats().await == (0, 0, 0, count)).then_some(())).await;
    bench.peek(State::Dlq).await.iter().map(|entry| dead_letter::parse(entry).unwrap()).collect()
}

async fn everything_is_handled_and_acknowledged(bench: Bench) {
    push_messages(&bench, 200).await;
    let handling = Handling::new(|_, _| Verdict::Done);
    let work = Work::start(&bench.queue, &handling, config());
    empty(&bench).await;
    push_messages(&bench, 10).await;
    empty(&bench).await;
    assert_eq!(work.stop().await, Summary { done: 210, ..Summary::default() });
    assert_eq!(handling.deliveries(), 210);
}

async fn three_retries_are_four_deliveries(bench: Bench) {
    push_messages(&bench, 1).await;
    let handling = Handling::new(|_, _| Verdict::Retry { error: "not now".into() });
    let work = Work::start(&bench.queue, &handling, config());
    let letters = dead_letters(&bench, 1).await;
    assert_eq!(work.stop().await, Summary { retried: 3, dead: 1, ..Summary::default() });
    assert_eq!(handling.deliveries(), 4);
    assert_eq!((letters[0].error.as_str(), letters[0].error_kind.as_deref()), ("not now", Some(dead_letter::RETRIES_EXHAUSTED)));
    assert_eq!((letters[0].attempts, letters[0].queue.as_str()), (Some(4), bench.queue.name()));
    assert_eq!(std::str::from_utf8(&letters[0].original).unwrap(), message(0).replace("\"retry_count\":0", "\"retry_count\":3"));
    let dead = handling.dead.lock().unwrap();
    assert_eq!((dead.len(), &dead[0].0), (1, &letters[0].original));
}

async fn the_message_s_own_limit_wins(bench: Bench) {
    bench.push(&[r#"{"message_id":"0","max_retries":0}"#, r#"{"message_id":"1","max_retries":5}"#]).await;
    let handling = Handling::new(|_, _| Verdict::Retry { error: "no".into() });
    let work = Work::start(&bench.queue, &handling, ConsumerConfig { base_delay: Duration::ZERO, ..config() });
    dead_letters(&bench, 2).await;
    work.stop().await;
    let seen = handling.seen.lock().unwrap();
    assert_eq!((seen["0"], seen["1"]), (1, 6));
}

async fn a_permanent_failure_is_dead_lettered_at_once(bench: Bench) {
    let entries = push_messages(&bench, 2).await;
    let handling = Handling::new(|_, _| Verdict::Dead { kind: "bad_token".into(), error: "no such token".into() });
    let work = Work::start(&bench.queue, &handling, config());
    let letters = dead_letters(&bench, 2).await;
    assert_eq!(work.stop().await.dead, 2);
    assert_eq!(handling.deliveries(), 2);
    assert_eq!((letters[0].error_kind.as_deref(), letters[0].attempts), (Some("bad_token"), Some(1)));
    assert!(letters.iter().all(|letter| entries.contains(&letter.original)));
}

async fn an_outage_burns_nothing_and_pauses(bench: Bench) {
    push_messages(&bench, 20).await;
    let handling = Handling::new(|delivery, handling| {
        assert_eq!(delivery.attempts, attempts::Attempts::default(), "nothing was burned");
        if handling.broken.load(Ordering::SeqCst) { Verdict::Outage { error: "no chain".into() } } else { Verdict::Done }
    });
    handling.broken.store(true, Ordering::SeqCst);
    let mut work = Work::start(&bench.queue, &handling, config());
    work.until(|status| matches!(status, Status::Paused { reason, .. } if reason == "no chain")).await;
    eventually("all are back in main", PATIENCE, async || (bench.stats().await == (20, 0, 0, 0)).then_some(())).await;
    assert!(handling.deliveries() <= 8, "it did not go on trying: {}", handling.deliveries());
    handling.broken.store(false, Ordering::SeqCst);
    work.until(|status| !matches!(status, Status::Paused { .. })).await;
    empty(&bench).await;
    let summary = work.stop().await;
    assert_eq!((summary.done, summary.retried, summary.dead), (20, 0, 0));
}

async fn a_held_delivery_is_ended_by_its_holder(bench: Bench) {
    let entries = push_messages(&bench, 4).await;
    let handling = Handling::new(|_, _| Verdict::Held);
    let mut work = Work::start(&bench.queue, &handling, ConsumerConfig { concurrency: 1, ..config() });
    eventually("all are held", PATIENCE, async || (handling.deliveries() == 4).then_some(())).await;
    work.until(|status| *status == Status::Taking).await;
    assert_eq!(bench.stats().await, (0, 4, 0, 0), "held slots are free for others");
    work.holder.settle(entries[0].clone(), Verdict::Done);
    work.holder.settle(entries[1].clone(), Verdict::Dead { kind: "refused".into(), error: "no".into() });
    work.holder.settle("nobody has this".into(), Verdict::Done);
    eventually("two are settled", PATIENCE, async || (bench.stats().await == (0, 2, 0, 1)).then_some(())).await;
    let holder = work.holder.clone();
    let summary = work.stop().await;
    assert_eq!((summary.done, summary.dead, summary.released), (1, 1, 2));
    assert_eq!(bench.peek(State::Main).await, entries[2..], "what is still held goes back unchanged");
    holder.settle(entries[2].clone(), Verdict::Done);
}

async fn a_held_delivery_can_end_before_it_is_held(bench: Bench) {
    push_messages(&bench, 1).await;
    let holder: Arc<Mutex<Option<Holder>>> = Arc::default();
    let within = holder.clone();
    let handling = Handling::slow(Duration::from_millis(50), move |delivery, _| {
        within.lock().unwrap().as_ref().unwrap().settle(delivery.entry.clone(), Verdict::Done);
        Verdict::Held
    });
    let consumer = Consumer::new(bench.queue.clone(), ConsumerConfig { limit: Some(1), ..config() }).unwrap();
    *holder.lock().unwrap() = Some(consumer.holder());
    let run = consumer.run(handling, CancellationToken::new());
    let summary = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
    assert_eq!(summary, Summary { done: 1, ..Summary::default() });
}

async fn what_takes_long_is_extended(bench: Bench) {
    let entries = push_messages(&bench, 3).await;
    let handling = Handling::new(|_, _| Verdict::Held);
    let work = Work::start(&bench.queue, &handling, config());
    eventually("all are held", PATIENCE, async || (handling.deliveries() == 3).then_some(())).await;
    // Two leases long nobody else may get them.
    tokio::time::sleep(config().lease * 2).await;
    assert_eq!(handling.deliveries(), 3);
    for entry in entries {
        work.holder.settle(entry, Verdict::Done);
    }
    empty(&bench).await;
    assert_eq!(work.stop().await, Summary { done: 3, ..Summary::default() });
}

async fn a_handler_that_hangs_has_failed(bench: Bench) {
    bench.push(&[r#"{"message_id":"0","max_retries":1}"#]).await;
    let handling = Handling::slow(PATIENCE, |_, _| Verdict::Done);
    let config = ConsumerConfig { handler_timeout: Duration::from_millis(50), base_delay: Duration::ZERO, ..config() };
    let work = Work::start(&bench.queue, &handling, config);
    let letters = dead_letters(&bench, 1).await;
    assert_eq!(work.stop().await, Summary { retried: 1, dead: 1, ..Summary::default() });
    assert!(letters[0].error.contains("did not finish within 50ms"), "{}", letters[0].error);
}

async fn a_handler_that_panics_has_failed(bench: Bench) {
    bench.push(&[r#"{"message_id":"0","max_retries":0}"#, r#"{"message_id":"1"}"#]).await;
    let handling = Handling::new(|delivery, _| {
        assert_ne!(id_of(&delivery.entry), "0", "a bug");
        Verdict::Done
    });
    let work = Work::start(&bench.queue, &handling, config());
    let letters = dead_letters(&bench, 1).await;
    assert_eq!(work.stop().await, Summary { done: 1, dead: 1, ..Summary::default() });
    assert!(letters[0].error.contains("panicked") && letters[0].error.contains("a bug"), "{}", letters[0].error);
}

async fn an_unparsable_entry_is_dead_lettered_unseen(bench: Bench) {
    let junk = Bytes::from_static(b"\xff\x00 junk");
    bench.queue.push(std::slice::from_ref(&junk)).await.unwrap();
    bench.push(&["[]", &message(1)]).await;
    let handling = Handling::new(|_, _| Verdict::Done);
    let work = Work::start(&bench.queue, &handling, config());
    let letters = dead_letters(&bench, 2).await;
    assert_eq!(work.stop().await, Summary { done: 1, dead: 2, ..Summary::default() });
    assert_eq!(handling.deliveries(), 1);
    assert!(letters.iter().any(|letter| letter.original == junk) && letters.iter().any(|letter| letter.original == "[]"));
    assert_eq!(handling.dead.lock().unwrap().len(), 2);
    assert!(letters.iter().all(|letter| letter.error_kind.as_deref() == Some(dead_letter::UNPARSABLE)));
}

async fn shutdown_finishes_what_runs_and_releases_the_rest(bench: Bench) {
    let entries = push_messages(&bench, 60).await;
    let handling = Handling::slow(Duration::from_millis(100), |_, _| Verdict::Done);
    let work = Work::start(&bench.queue, &handling, ConsumerConfig { concurrency: 2, ..config() });
    eventually("some are running", PATIENCE, async || (handling.deliveries() >= 5).then_some(())).await;
    let summary = work.stop().await;
    assert_eq!(summary.done as usize, handling.deliveries(), "what was started was finished");
    let left = bench.peek(State::Main).await;
    assert_eq!(left, entries[entries.len() - left.len()..], "the rest is back, in order, with nothing burned");
    assert_eq!(bench.stats().await, (60 - summary.done, 0, 0, 0));
}

async fn a_message_that_has_expired_is_handled_alone(bench: Bench) {
    let poison = r#"{"message_id":"poison","hokusai_expiries":1}"#;
    let other = r#"{"message_id":"other","hokusai_expiries":2}"#;
    let calm: Vec<String> = (0..6).map(message).collect();
    let mut all: Vec<&str> = calm.iter().map(String::as_str).collect();
    all.insert(2, poison);
    all.insert(3, other);
    bench.push(&all).await;
    let handling = Handling::slow(Duration::from_millis(30), |delivery, handling| {
        if delivery.attempts.expiries > 0 {
            assert_eq!(handling.running.load(Ordering::SeqCst), 1, "nothing runs beside it");
        }
        Verdict::Done
    });
    let queue = bench.queue.clone();
    let work = Work::start(&queue, &handling, config());
    eventually("the suspect runs", PATIENCE, async || handling.seen.lock().unwrap().contains_key("poison").then_some(())).await;
    if !handling.seen.lock().unwrap().contains_key("other") {
        assert!(bench.stats().await.1 <= 1, "nothing else is in hand");
    }
    empty(&bench).await;
    let summary = work.stop().await;
    assert_eq!((summary.done, summary.retried, summary.dead), (8, 0, 0));
    assert!(handling.most.load(Ordering::SeqCst) > 1, "the others ran together");
}

async fn the_limit_is_kept(bench: Bench) {
    push_messages(&bench, 10).await;
    let handling = Handling::new(|_, _| Verdict::Done);
    let consumer = Consumer::new(bench.queue.clone(), ConsumerConfig { limit: Some(7), ..config() }).unwrap();
    let run = consumer.run(handling.clone(), CancellationToken::new());
    let summary = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
    assert_eq!((summary.done, handling.deliveries()), (7, 7));
    assert_eq!(bench.stats().await, (3, 0, 0, 0));
}

async fn no_more_run_at_once_than_allowed(bench: Bench) {
    push_messages(&bench, 40).await;
    let handling = Handling::slow(Duration::from_millis(10), |_, _| Verdict::Done);
    let work = Work::start(&bench.queue, &handling, ConsumerConfig { concurrency: 3, ..config() });
    empty(&bench).await;
    work.stop().await;
    assert_eq!(handling.most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn impossible_settings_are_refused() {
    let bench = Bench::sqlite().await;
    let check = |config: ConsumerConfig, setting: &str| {
        let error = Consumer::new(bench.queue.clone(), config).unwrap_err();
        assert_eq!(error.setting, setting);
    };
    check(ConsumerConfig { lease: Duration::from_secs(1), handler_timeout: Duration::from_secs(1), ..config() }, "PROCESSING_TIMEOUT");
    check(ConsumerConfig { concurrency: 0, ..config() }, "concurrency");
    check(ConsumerConfig { wait: Duration::ZERO, ..config() }, "QUEUE_POLL_INTERVAL");
    bench.settle(Move::Ack { entry: bytes(&["x"]).remove(0) }).await;
}
