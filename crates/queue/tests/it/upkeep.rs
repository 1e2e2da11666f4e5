//! Pausing, seeing who holds what, and looking for messages at a bounded cost.

use bytes::Bytes;
use hokusai_queue::{Lease, Look, Mark, Move, Pause, Settled, State, Status, Upkeep, Verdict, upkeep::FRONT};
use hokusai_testbed::eventually;

use crate::{
    bench::{Bench, PATIENCE, bytes, message},
    consuming::{Handling, Work, config},
};

crate::on_every_backend! {
    a_pause_is_kept_and_ended
    a_paused_queue_is_not_taken_from
    custody_tells_who_holds_what
    a_look_sees_a_short_queue_whole
    a_look_at_a_long_queue_reads_its_ends
    what_waits_can_be_withdrawn
}

fn upkeep(bench: &Bench) -> &dyn Upkeep {
    bench.queue.upkeep().expect("this backend has upkeep")
}

fn pause() -> Pause {
    Pause { by: "ada".into(), reason: "gas is \"dear\"".into(), at: "2026-01-31T12:00:00Z".parse().unwrap() }
}

async fn a_pause_is_kept_and_ended(bench: Bench) {
    assert_eq!(upkeep(&bench).pause().await.unwrap(), None);
    upkeep(&bench).set_pause(Some(&pause())).await.unwrap();
    assert_eq!(bench.other.upkeep().unwrap().pause().await.unwrap(), Some(pause()), "another process sees it");
    upkeep(&bench).set_pause(None).await.unwrap();
    assert_eq!(upkeep(&bench).pause().await.unwrap(), None);
}

async fn a_paused_queue_is_not_taken_from(bench: Bench) {
    upkeep(&bench).set_pause(Some(&pause())).await.unwrap();
    bench.push(&[&message(1)]).await;
    let handling = Handling::new(|_, _| Verdict::Done);
    let lease = PATIENCE * 60;
    let mut work = Work::start(&bench.queue, &handling, hokusai_queue::ConsumerConfig { lease, ..config() });
    let paused = |status: &Status| matches!(status, Status::Paused { reason, .. } if reason.contains("ada") && reason.contains("dear"));
    work.until(paused).await;
    assert_eq!((handling.deliveries(), bench.stats().await), (0, (1, 0, 0, 0)));
    upkeep(&bench).set_pause(None).await.unwrap();
    let resumed = std::time::Instant::now();
    eventually("it goes on", PATIENCE, async || (handling.deliveries() == 1).then_some(())).await;
    assert!(resumed.elapsed() < std::time::Duration::from_secs(5), "whatever the lease: {:?}", resumed.elapsed());
    // Ordered while it waits for a message.
    upkeep(&bench).set_pause(Some(&pause())).await.unwrap();
    work.until(paused).await;
    bench.push(&[&message(2)]).await;
    eventually("what a take under way brought goes back", PATIENCE, async || (bench.stats().await == (1, 0, 0, 0)).then_some(())).await;
    assert_eq!(handling.deliveries(), 1);
    work.stop().await;
}

async fn custody_tells_who_holds_what(bench: Bench) {
    bench.push(&[&message(1), &message(2)]).await;
    let first = bench.take_one().await;
    bench.pass().await;
    let second = bench.take_one().await;
    let custody = upkeep(&bench).custody().await.unwrap();
    let entries: Vec<_> = custody.held.iter().map(|(entry, _)| entry.clone()).collect();
    assert_eq!(entries, [first.clone(), second]);
    assert!(matches!(custody.held[0].1, Lease::Until(at) if at > custody.now_ms - 1000), "{custody:?}");
    assert_eq!(custody.held[1].1, Lease::None);
    assert_eq!(custody.stale, bytes(&[]));
    // The hot path's ack leaves the lease of Redis behind.
    assert_eq!(bench.taken(0, std::slice::from_ref(&first)).await.acked, [Settled::Done]);
    let custody = upkeep(&bench).custody().await.unwrap();
    assert_eq!(custody.held.len(), 1);
    assert!(custody.stale.is_empty() || custody.stale == [first]);
}

async fn look(bench: &Bench, mark: Option<&Mark>) -> Look {
    upkeep(bench).look("source", mark).await.unwrap()
}

async fn a_look_sees_a_short_queue_whole(bench: Bench) {
    let empty = look(&bench, None).await;
    assert!(empty.whole && empty.front.is_empty() && empty.elsewhere.is_some_and(|entries| entries.is_empty()));
    assert_eq!(empty.cursor, None);
    bench.push(&[&message(1), &message(2), &message(3)]).await;
    let at = hokusai_queue::Cursor::new(7, "event");
    let batch = hokusai_queue::RelayBatch { source: "source", expected: None, next: &at, entries: &[message(4).into()] };
    bench.queue.relay(batch).await.unwrap();
    let dead = bench.take_one().await;
    bench.settle(Move::DeadLetter { entry: dead, with: "dead".into() }).await;
    let late = bench.take_one().await;
    bench.settle(Move::Retry { entry: late, with: "late".into(), after: PATIENCE * 60 }).await;
    let held = bench.take_one().await;
    let seen = look(&bench, Some(&empty.mark)).await;
    assert_eq!((seen.whole, seen.cursor, seen.front.clone()), (true, Some(at), bytes(&[&message(4)])));
    let mut elsewhere = seen.elsewhere.unwrap();
    elsewhere.sort();
    let mut expected = vec![held, "late".into(), "dead".into()];
    expected.sort();
    assert_eq!(elsewhere, expected);
}

async fn a_look_at_a_long_queue_reads_its_ends(bench: Bench) {
    let many: Vec<Bytes> = (0..FRONT + 100).map(|id| message(id).into()).collect();
    bench.queue.push(&many).await.unwrap();
    let first = look(&bench, None).await;
    assert!(!first.whole && first.entered.is_none());
    assert_eq!(first.front.len(), FRONT);
    assert!(first.front.contains(&many[0]) && !first.front.contains(&many[FRONT]));
    let later: Vec<Bytes> = ["x", "y"].map(Bytes::from).into();
    bench.queue.push(&later).await.unwrap();
    bench.take(50).await;
    let second = look(&bench, Some(&first.mark)).await;
    let mut entered = second.entered.expect("the mark is still there");
    entered.sort();
    assert_eq!((second.whole, entered), (false, later));
    let third = look(&bench, Some(&second.mark)).await;
    assert_eq!(third.entered, Some(vec![]));
}

async fn what_waits_can_be_withdrawn(bench: Bench) {
    bench.push(&["junk", "good"]).await;
    let withdraw = Move::Withdraw { entry: "junk".into(), with: "letter".into() };
    assert_eq!(bench.settle(withdraw.clone()).await, Settled::Done);
    assert_eq!(bench.settle(withdraw).await, Settled::NotYours);
    assert_eq!((bench.peek(State::Main).await, bench.peek(State::Dlq).await), (bytes(&["good"]), bytes(&["letter"])));
}

/// The same bytes twice: the look does not guess.
#[tokio::test]
async fn an_ambiguous_mark_is_no_mark() {
    let bench = Bench::redis().await;
    let many: Vec<Bytes> = (0..FRONT + 100).map(|id| message(id).into()).collect();
    bench.queue.push(&many).await.unwrap();
    bench.push(&["same"]).await;
    let first = look(&bench, None).await;
    bench.push(&["between", "same"]).await;
    assert_eq!(look(&bench, Some(&first.mark)).await.entered, None);
    // Main was drained and filled again: all of it has entered since.
    tokio::time::timeout(PATIENCE, async { while !bench.take(200).await.is_empty() {} }).await.unwrap();
    bench.queue.push(&many).await.unwrap();
    let refilled = look(&bench, Some(&first.mark)).await;
    assert!(refilled.whole);
    assert_eq!(refilled.entered.map(|entered| entered.len()), Some(many.len()));
}
