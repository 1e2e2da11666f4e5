//! What only Redis has: foreign clients on the same lists, orphans, outages, and its own ways to refuse.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use hokusai_queue::{
    Cursor, Error, LeaseTerms, Move, Queue, RedisQueue, RedisSettings, RelayBatch, Relayed, Settled, State, Status, Verdict,
    reaper::{self, ReaperConfig},
};
use hokusai_testbed::{Redis, eventually, free_port};
use redis::{AsyncCommands, aio::MultiplexedConnection};

use crate::{
    bench::{Bench, NAME, PATIENCE, bytes, message, reaper_config, redis_queue},
    consuming::{Handling, Work, config},
};

fn processing() -> String {
    format!("{NAME}:processing")
}

async fn raw(redis: &Redis) -> MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// What a consumer does that was written against plain Redis.
async fn foreign_take(connection: &mut MultiplexedConnection) -> Bytes {
    connection.brpoplpush(NAME, processing(), 1.0).await.unwrap()
}

#[tokio::test]
async fn foreign_producers_and_consumers_work_beside_ours() {
    let bench = Bench::redis().await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    let _: () = foreign.lpush(NAME, &["a", "b"]).await.unwrap();
    assert_eq!(bench.take(1).await, bytes(&["a"]));
    assert_eq!(foreign_take(&mut foreign).await, "b");
    bench.push(&["c"]).await;
    assert_eq!(foreign_take(&mut foreign).await, "c");
    let removed: i64 = foreign.lrem(processing(), 1, "b").await.unwrap();
    assert_eq!(removed, 1);
    assert_eq!(bench.settle(Move::Ack { entry: "a".into() }).await, Settled::Done);
    assert_eq!(bench.peek(State::Processing).await, bytes(&["c"]));
}

#[tokio::test]
async fn what_a_foreign_consumer_abandoned_is_returned() {
    let bench = Bench::redis().await;
    bench.pass().await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    bench.push(&[&message(1)]).await;
    foreign_take(&mut foreign).await;
    eventually("it is returned", PATIENCE, async || (bench.pass().await.returned == 1).then_some(())).await;
    let removed: i64 = foreign.lrem(processing(), 1, message(1)).await.unwrap();
    assert_eq!(removed, 0, "the former holder is fenced");
    assert!(bench.take_one().await.ends_with(br#""hokusai_expiries":1}"#));
}

/// What a relay publishes to a queue that does not know it yet.
fn first(entries: &[Bytes]) -> RelayBatch<'_> {
    static CURSOR: LazyLock<Cursor> = LazyLock::new(|| Cursor::new(1, "event"));
    RelayBatch { source: "s", expected: None, next: &CURSOR, entries }
}

#[tokio::test]
async fn orphans_are_kept_until_told_otherwise() {
    let redis = Redis::start().await;
    let mut foreign = raw(&redis).await;
    for n in 0..40 {
        let _: () = foreign.lpush(processing(), message(n)).await.unwrap();
    }
    let queue: Arc<dyn Queue> = Arc::new(redis_queue(&redis).await);
    queue.push(&[message(99).into()]).await.unwrap();
    let own = queue.take(1, Duration::ZERO, &[]).await.unwrap().entries;
    let pass = async |reap_orphans| {
        let terms = LeaseTerms { first_sight: Duration::from_millis(50), reap_orphans, ..LeaseTerms::default() };
        reaper::pass(&*queue, &ReaperConfig { terms, ..reaper_config() }).await.unwrap()
    };
    let mut returned = 0;
    eventually("what was taken after the first meeting expires", PATIENCE, async || {
        let report = pass(false).await;
        assert_eq!(report.survey.orphans, 40);
        returned += report.returned;
        (returned == 1).then_some(())
    })
    .await;
    assert!(queue.peek(State::Main, 0, 9).await.unwrap()[0].starts_with(&own[0][..20]));
    // One is finished by its foreign consumer after all; the lease it leaves behind is found, a stretch in each pass.
    let _: i64 = foreign.lrem(processing(), 1, message(7)).await.unwrap();
    eventually("its lease is purged", PATIENCE, async || (pass(false).await.survey.orphans == 39).then_some(())).await;
    eventually("all are returned", PATIENCE, async || {
        returned += pass(true).await.returned;
        (returned == 40).then_some(())
    })
    .await;
    assert_eq!(queue.stats().await.unwrap().processing, 0);
}

#[tokio::test]
async fn after_redis_lost_everything_what_is_taken_is_no_orphan() {
    let bench = Bench::redis().await;
    bench.push(&["a", "b"]).await;
    bench.take(1).await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut foreign).await.unwrap();
    bench.push(&[&message(1)]).await;
    bench.take_one().await;
    eventually("it is returned", PATIENCE, async || (bench.pass().await.returned == 1).then_some(())).await;
}

/// A foreign consumer blocked on the queue takes before anybody of ours has met it, and dies.
#[tokio::test]
async fn what_is_relayed_is_no_orphan_whoever_takes_it() {
    let bench = Bench::redis().await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    let _: () = foreign.lpush(processing(), "left there years ago").await.unwrap();
    assert_eq!(bench.queue.relay(first(&bytes(&[&message(1)]))).await.unwrap(), Relayed::Moved);
    let taken: Option<Bytes> = foreign.rpoplpush(NAME, processing()).await.unwrap();
    assert_eq!(taken, Some(message(1).into()));
    eventually("it is returned", PATIENCE, async || {
        let report = bench.pass().await;
        assert_eq!(report.survey.orphans, 1, "what was there before the meeting is one still");
        (report.returned == 1).then_some(())
    })
    .await;
}

/// Redis comes back empty while a take of ours waits, which then takes without having met it.
#[tokio::test]
async fn what_a_waiting_take_brings_is_no_orphan() {
    let bench = Bench::redis().await;
    bench.take(1).await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut foreign).await.unwrap();
    let queue = bench.queue.clone();
    let waits = tokio::spawn(async move { queue.take(1, PATIENCE, &[]).await });
    let _: () = foreign.lpush(NAME, message(1)).await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap().entries, bytes(&[&message(1)]));
    let met: bool = foreign.hexists(format!("{NAME}:reaper"), "met").await.unwrap();
    assert!(met);
    eventually("it is returned", PATIENCE, async || (bench.pass().await.returned == 1).then_some(())).await;
}

#[tokio::test]
async fn a_lease_without_an_entry_is_purged() {
    let bench = Bench::redis().await;
    bench.push(&["a"]).await;
    let acks = bench.take(1).await;
    assert_eq!(bench.pass().await.survey.leased, 1);
    assert_eq!(bench.taken(1, &acks).await.acked, [Settled::Done], "the hot path leaves the lease behind");
    eventually("it is purged", PATIENCE, async || (bench.pass().await.survey.purged == 1).then_some(())).await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    let keys: Vec<String> = foreign.keys("*").await.unwrap();
    assert_eq!(keys, [format!("{NAME}:reaper")]);
}

/// Or the same bytes, taken again later, would have what is left of it.
#[tokio::test]
async fn a_lease_left_behind_by_an_ack_is_purged() {
    let bench = Bench::redis().await;
    let mut connection = raw(bench.redis.as_ref().unwrap()).await;
    bench.push(&["a", "b"]).await;
    let taken = bench.take(2).await;
    assert_eq!(bench.queue.survey(&reaper_config().terms).await.unwrap().leased, 2);
    let acked = bench.queue.take(0, Duration::ZERO, &taken[..1]).await.unwrap().acked;
    assert_eq!(acked, [Settled::Done]);
    assert_eq!(bench.queue.upkeep().unwrap().custody().await.unwrap().stale, taken[..1]);
    assert_eq!(bench.queue.survey(&reaper_config().terms).await.unwrap().purged, 1);
    let left: Vec<Vec<u8>> = redis::cmd("ZRANGE").arg(format!("{NAME}:leases")).arg(0).arg(-1).query_async(&mut connection).await.unwrap();
    assert_eq!(left, [taken[1].to_vec()]);
}

#[tokio::test]
async fn every_entry_of_a_long_processing_list_gets_a_lease() {
    let bench = Bench::redis().await;
    bench.pass().await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    let entries: Vec<String> = (0..1000).map(message).collect();
    let _: () = foreign.lpush(processing(), &entries).await.unwrap();
    assert_eq!(bench.pass().await.survey.leased, 1000);
    let leases: u64 = foreign.zcard(format!("{NAME}:leases")).await.unwrap();
    assert_eq!(leases, 1000);
    bench.push(&["mine"]).await;
    let mine = bench.take(1).await;
    assert_eq!(bench.taken(1, &mine).await.acked, [Settled::Done], "from whichever end");
}

/// How many commands of this name the server has executed.
async fn calls(redis: &Redis, command: &str) -> u64 {
    let statistics = redis.tell("INFO commandstats").await;
    let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "current_thread")]
async fn callers_that_push_at_the_same_time_share_a_command() {
    let bench = Bench::redis().await;
    let pushers: Vec<_> = (0..64)
        .map(|caller| {
            let queue = bench.queue.clone();
            tokio::spawn(async move {
                for turn in 0..10 {
                    queue.push(&bytes(&[&format!("{caller}-{turn}")])).await.unwrap();
                }
            })
        })
        .collect();
    for pusher in pushers {
        pusher.await.unwrap();
    }
    let entries = bench.queue.peek(State::Main, 0, 1000).await.unwrap();
    assert_eq!(entries.len(), 640);
    for caller in 0..64 {
        let own: Vec<&Bytes> = entries.iter().filter(|entry| entry.starts_with(format!("{caller}-").as_bytes())).collect();
        let expected: Vec<Bytes> = (0..10).map(|turn| format!("{caller}-{turn}").into()).collect();
        assert!(own.into_iter().eq(&expected), "in the order of each caller");
    }
    let commands = calls(bench.redis.as_ref().unwrap(), "lpush").await;
    assert!(commands < 200, "{commands} commands for 640 pushes");
}

/// Nobody depends on whoever opened the batch: neither when it has left, nor when it is there and is not looked at again.
#[tokio::test(flavor = "current_thread")]
async fn a_caller_that_left_or_sleeps_keeps_nobody_waiting() {
    let bench = Bench::redis().await;
    let entries: Vec<_> = ["a", "b", "c", "d", "e"].map(|entry| bytes(&[entry])).into();
    let mut pushes: Vec<_> = entries.iter().map(|entry| bench.queue.push(entry)).collect();
    // The first is alone and goes by itself; the others gather.
    for push in &mut pushes {
        assert!(futures_util::poll!(push).is_pending());
    }
    let (last, sleeper) = (pushes.pop().unwrap(), pushes.pop().unwrap());
    let (opener, third) = (pushes.remove(1), pushes.remove(1));
    drop(opener);
    tokio::time::timeout(PATIENCE, third).await.unwrap().unwrap();
    tokio::time::timeout(PATIENCE, last).await.unwrap().unwrap();
    drop(sleeper);
    pushes.pop().unwrap().await.unwrap();
    assert_eq!(bench.queue.peek(State::Main, 0, 9).await.unwrap(), bytes(&["a", "b", "c", "d", "e"]));
    // A batch that everybody has left is sent by nobody.
    let mut left: Vec<_> = entries.iter().map(|entry| bench.queue.push(entry)).collect();
    for push in &mut left {
        assert!(futures_util::poll!(push).is_pending());
    }
    drop(left);
    bench.queue.push(&bytes(&["f"])).await.unwrap();
    let entries = bench.queue.peek(State::Main, 0, 19).await.unwrap();
    assert_eq!(entries.last().unwrap(), "f", "{entries:?}");
}

#[tokio::test]
async fn lost_scripts_are_loaded_again() {
    let bench = Bench::redis().await;
    bench.push(&["a", "b"]).await;
    let entries = bench.take(2).await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut foreign).await.unwrap();
    let moves: Vec<Move> = entries.into_iter().map(|entry| Move::Release { entry }).collect();
    assert_eq!(bench.queue.settle(&moves).await.unwrap(), [Settled::Done; 2]);
}

#[tokio::test]
async fn a_dead_connection_heals() {
    let bench = Bench::redis().await;
    bench.push(&["a"]).await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    let waiting = bench.queue.clone();
    assert!(waiting.take(1, Duration::from_millis(20), &[]).await.unwrap().entries.len() == 1);
    assert!(waiting.take(1, Duration::from_millis(20), &[]).await.unwrap().entries.is_empty());
    let _: i64 =
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").query_async(&mut foreign).await.unwrap();
    eventually("stats are answered", PATIENCE, async || bench.queue.stats().await.ok()).await;
    bench.push(&["b"]).await;
    let taken = eventually("a take is answered", PATIENCE, async || waiting.take(1, Duration::from_secs(1), &[]).await.ok()).await;
    assert_eq!(taken.entries, bytes(&["b"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_outlives_an_outage_of_redis() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let queue: Arc<dyn Queue> = Arc::new(redis_queue(&redis).await);
    queue.push(&(0..50).map(|n| message(n).into()).collect::<Vec<Bytes>>()).await.unwrap();
    let handling = Handling::new(|_, handling| {
        if handling.deliveries() > 20 && !handling.broken.load(std::sync::atomic::Ordering::SeqCst) {
            return Verdict::Outage { error: "wait for the kill".into() };
        }
        Verdict::Done
    });
    let mut work = Work::start(&queue, &handling, config());
    work.until(|status| matches!(status, Status::Paused { .. })).await;
    redis.kill().await;
    handling.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(queue.stats().await, Err(Error::Unavailable { .. })));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(&*work.status.borrow(), Status::Paused { .. }));
    redis.restart().await;
    eventually("everything is handled", PATIENCE, async || {
        let stats = queue.stats().await.ok()?;
        (stats.main + stats.processing + stats.delayed == 0).then_some(())
    })
    .await;
    let summary = work.stop().await;
    assert_eq!((summary.dead, summary.retried), (0, 0), "an outage burns nothing");
    assert_eq!(handling.seen.lock().unwrap().len(), 50);
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let redis = Redis::start_with(&["--requirepass", "s3cret"]).await;
    let settings = RedisSettings::from_url(&redis.url()).unwrap();
    let error = RedisQueue::connect(&settings, NAME).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    let error = RedisQueue::connect(&settings.clone().password("wr0ng"), NAME).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("wr0ng"));
    let queue = RedisQueue::connect(&settings.password("s3cret"), NAME).await.unwrap();
    assert!(!format!("{queue:?}").contains("s3cret"));

    let nowhere = RedisSettings::from_host("127.0.0.1", Some(free_port()), false);
    let error = RedisQueue::connect(&nowhere, NAME).await.unwrap_err();
    assert!(error.is_outage(), "{error:?}");
}

#[tokio::test]
async fn a_key_that_is_no_queue_is_a_misconfiguration() {
    let bench = Bench::redis().await;
    let mut foreign = raw(bench.redis.as_ref().unwrap()).await;
    let _: () = foreign.set(NAME, "something").await.unwrap();
    for error in [
        bench.queue.push(&bytes(&["a"])).await.unwrap_err(),
        bench.queue.take(1, Duration::ZERO, &[]).await.unwrap_err(),
        bench.queue.stats().await.unwrap_err(),
        bench.queue.relay(first(&bytes(&["a"]))).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Misconfigured { .. }), "{error:?}");
    }
}

/// The certificate is for `localhost`, signed by an authority nobody else knows; its key protects nothing.
#[tokio::test]
async fn tls_checks_the_certificate_as_told() {
    let file = |name: &str| format!("{}/tests/it/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (port, certificate, key, ca) = (free_port(), file("server.pem"), file("server.key"), file("ca.pem"));
    let _redis = Redis::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let settings = RedisSettings::from_url(&format!("rediss://localhost:{port}/0")).unwrap();
    let error = RedisQueue::connect(&settings, NAME).await.unwrap_err();
    assert!(matches!(error, Error::Misconfigured { .. }), "{error:?}");
    assert!(error.to_string().contains("REDIS_SSL_CERT_REQS"), "{error}");
    let trusting = settings.clone().ca_pem(std::fs::read(&ca).unwrap());
    RedisQueue::connect(&trusting, NAME).await.unwrap().push(&bytes(&["a"])).await.unwrap();
    let unchecked = settings.certificate_check("none".parse().unwrap());
    assert_eq!(RedisQueue::connect(&unchecked, NAME).await.unwrap().stats().await.unwrap().main, 1);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_an_outage() {
    let bench = Bench::redis().await;
    bench.push(&["a"]).await;
    let signal = |name: &str| bench.redis.as_ref().unwrap().process().signal(name);
    signal("STOP");
    let answer = tokio::time::timeout(PATIENCE, bench.queue.stats()).await.expect("a response has its time limit");
    assert!(answer.unwrap_err().is_outage());
    signal("CONT");
    let stats = eventually("it heals", PATIENCE, async || bench.queue.stats().await.ok()).await;
    assert_eq!(stats.main, 1);
}

/// Redis rolls nothing back: a script whose second command is refused must leave the entry somewhere.
#[tokio::test]
async fn a_script_that_is_refused_half_way_loses_nothing() {
    let redis = Redis::start().await;
    let mut admin = raw(&redis).await;
    let queue = redis_queue(&redis).await;
    queue.push(&bytes(&[&message(1)])).await.unwrap();
    let entry = queue.take(1, Duration::ZERO, &[]).await.unwrap().entries.remove(0);
    let _: () = redis::cmd("ACL").arg("SETUSER").arg("default").arg("-rpush").query_async(&mut admin).await.unwrap();
    assert!(queue.settle(&[Move::Release { entry: entry.clone() }]).await.is_err());
    assert_eq!(queue.peek(State::Processing, 0, 10).await.unwrap(), std::slice::from_ref(&entry));
    let _: () = redis::cmd("ACL").arg("SETUSER").arg("default").arg("+rpush").query_async(&mut admin).await.unwrap();
    assert_eq!(queue.settle(&[Move::Release { entry }]).await.unwrap(), [Settled::Done]);

    // The target holds something that is no list.
    let entry = queue.take(1, Duration::ZERO, &[]).await.unwrap().entries.remove(0);
    for key in [NAME.to_owned(), format!("{NAME}:dlq")] {
        let _: () = admin.set(key, "no list").await.unwrap();
    }
    let moves = [
        Move::Retry { entry: entry.clone(), with: "x".into(), after: Duration::ZERO },
        Move::DeadLetter { entry: entry.clone(), with: "x".into() },
        Move::Release { entry: entry.clone() },
    ];
    for change in moves {
        assert!(queue.settle(std::slice::from_ref(&change)).await.is_err(), "{change:?}");
        let left: Vec<Bytes> = admin.lrange(processing(), 0, -1).await.unwrap();
        assert_eq!(left, std::slice::from_ref(&entry), "{change:?}");
    }
    assert!(queue.relay(first(&bytes(&["y"]))).await.is_err());
    let cursor: Option<String> = admin.hget(format!("{NAME}:cursor"), "s").await.unwrap();
    assert_eq!(cursor, None, "nothing was pushed, so the cursor must not move");
}

#[tokio::test]
async fn a_move_that_comes_too_late_leaves_no_trace() {
    let bench = Bench::redis().await;
    bench.push(&[&message(1)]).await;
    let entry = bench.take_one().await;
    assert_eq!(bench.settle(Move::Ack { entry: entry.clone() }).await, Settled::Done);
    let moves = [
        Move::Retry { entry: entry.clone(), with: "x".into(), after: Duration::ZERO },
        Move::Retry { entry: entry.clone(), with: "x".into(), after: Duration::from_secs(9) },
        Move::DeadLetter { entry: entry.clone(), with: "x".into() },
        Move::Release { entry: entry.clone() },
        Move::Redrive { entry: entry.clone(), with: "x".into() },
        Move::Withdraw { entry, with: "x".into() },
    ];
    for change in moves {
        assert_eq!(bench.settle(change).await, Settled::NotYours);
    }
    for state in State::ALL {
        assert_eq!(bench.peek(state).await, bytes(&[]), "{state}");
    }
}
