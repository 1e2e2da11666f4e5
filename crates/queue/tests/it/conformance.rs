//! What every queue promises.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hokusai_queue::{
    Cursor, LeaseTerms, Move, RelayBatch, Relayed, Settled, State, attempts, dead_letter,
    reaper::{self, ReaperConfig},
};
use hokusai_testbed::eventually;

use crate::bench::{Bench, FIRST_SIGHT, PATIENCE, bytes, message, reaper_config};

crate::on_every_backend! {
    entries_are_taken_in_the_order_pushed
    an_empty_queue_gives_nothing
    a_waiting_take_wakes_on_a_push
    acks_ride_with_the_next_take
    whoever_is_late_is_told
    a_retry_at_once_is_in_main
    a_retry_later_waits_until_due
    a_released_entry_is_next_and_unchanged
    a_dead_letter_can_be_redriven_or_discarded
    an_extended_lease_does_not_expire
    an_expiry_is_counted_and_fences_the_former_holder
    expiring_too_often_ends_in_the_dead_letter_queue
    an_unparsable_entry_ends_in_the_dead_letter_queue
    leases_are_renewed_after_an_outage
    identical_entries_are_settled_one_at_a_time
    a_relay_moves_its_cursor_with_its_entries
    a_stale_relay_is_refused
    any_bytes_are_carried
    peeking_takes_nothing
    several_takers_share_without_overlap
    a_pass_is_bounded
}

async fn entries_are_taken_in_the_order_pushed(bench: Bench) {
    bench.push(&["a", "b"]).await;
    bench.push(&["c"]).await;
    assert_eq!(bench.stats().await, (3, 0, 0, 0));
    assert_eq!(bench.take(2).await, bytes(&["a", "b"]));
    assert_eq!(bench.stats().await, (1, 2, 0, 0));
    assert_eq!(bench.take(2).await, bytes(&["c"]));
}

async fn an_empty_queue_gives_nothing(bench: Bench) {
    let before = Instant::now();
    let taken = bench.queue.take(10, Duration::from_millis(100), &[]).await.unwrap();
    assert!(taken.entries.is_empty() && taken.acked.is_empty());
    assert!(before.elapsed() >= Duration::from_millis(95), "it waited as told");
    bench.push(&[]).await;
    assert!(bench.queue.settle(&[]).await.unwrap().is_empty());
    assert_eq!(bench.take(0).await, bytes(&[]));
}

async fn a_waiting_take_wakes_on_a_push(bench: Bench) {
    let queue = bench.queue.clone();
    let take = tokio::spawn(async move { queue.take(10, PATIENCE, &[]).await.unwrap() });
    tokio::task::yield_now().await;
    let before = Instant::now();
    bench.other.push(&bytes(&["a"])).await.unwrap();
    assert_eq!(take.await.unwrap().entries, bytes(&["a"]));
    assert!(before.elapsed() < Duration::from_secs(2), "woken after {:?}", before.elapsed());
}

async fn acks_ride_with_the_next_take(bench: Bench) {
    bench.push(&["a", "b", "c"]).await;
    let first = bench.take(2).await;
    let taken = bench.taken(2, &first).await;
    assert_eq!((taken.entries, taken.acked), (bytes(&["c"]), vec![Settled::Done, Settled::Done]));
    let taken = bench.taken(2, &bytes(&["a", "c"])).await;
    assert_eq!((taken.entries, taken.acked), (vec![], vec![Settled::NotYours, Settled::Done]));
    assert_eq!(bench.stats().await, (0, 0, 0, 0));
}

async fn whoever_is_late_is_told(bench: Bench) {
    bench.push(&["a"]).await;
    let entry = Bytes::from("a");
    let with = Bytes::from("b");
    let moves = [
        Move::Ack { entry: entry.clone() },
        Move::Extend { entry: entry.clone(), lease: PATIENCE },
        Move::Retry { entry: entry.clone(), with: with.clone(), after: Duration::ZERO },
        Move::Retry { entry: entry.clone(), with: with.clone(), after: PATIENCE },
        Move::Release { entry: entry.clone() },
        Move::DeadLetter { entry: entry.clone(), with: with.clone() },
        Move::Expire { entry: entry.clone(), with: with.clone(), to: State::Main },
        Move::Redrive { entry: entry.clone(), with: with.clone() },
        Move::Discard { entry },
    ];
    assert_eq!(bench.queue.settle(&moves).await.unwrap(), vec![Settled::NotYours; moves.len()]);
    assert_eq!(bench.stats().await, (1, 0, 0, 0), "an entry in main is nobody's yet");
}

async fn a_retry_at_once_is_in_main(bench: Bench) {
    bench.push(&["a", "b"]).await;
    let entry = bench.take_one().await;
    let retry = Move::Retry { entry, with: "a2".into(), after: Duration::ZERO };
    assert_eq!(bench.settle(retry.clone()).await, Settled::Done);
    assert_eq!(bench.settle(retry).await, Settled::NotYours);
    assert_eq!(bench.take(9).await, bytes(&["b", "a2"]));
}

async fn a_retry_later_waits_until_due(bench: Bench) {
    bench.push(&["a", "b"]).await;
    for (entry, after) in bench.take(2).await.into_iter().zip([Duration::from_secs(3600), Duration::from_millis(150)]) {
        let with = Bytes::from([&entry[..], b"2"].concat());
        assert_eq!(bench.settle(Move::Retry { entry, with, after }).await, Settled::Done);
    }
    let before = Instant::now();
    assert_eq!(bench.peek(State::Delayed).await, bytes(&["b2", "a2"]), "the soonest first");
    assert_eq!(bench.pass().await.survey.promoted, 0);
    eventually("the entry is due", PATIENCE, async || (bench.pass().await.survey.promoted == 1).then_some(())).await;
    assert!(before.elapsed() >= Duration::from_millis(100));
    assert_eq!(bench.take(9).await, bytes(&["b2"]));
    assert_eq!(bench.stats().await, (0, 1, 1, 0));
}

async fn a_released_entry_is_next_and_unchanged(bench: Bench) {
    bench.push(&["a", "b", "c"]).await;
    let entries = bench.take(2).await;
    let moves: Vec<Move> = entries.into_iter().rev().map(|entry| Move::Release { entry }).collect();
    assert_eq!(bench.queue.settle(&moves).await.unwrap(), [Settled::Done; 2]);
    assert_eq!(bench.take(9).await, bytes(&["a", "b", "c"]));
}

async fn a_dead_letter_can_be_redriven_or_discarded(bench: Bench) {
    let texts = [message(1), message(2)];
    bench.push(&texts.each_ref().map(String::as_str)).await;
    for entry in bench.take(2).await {
        let with = dead_letter::build(&entry, "q", "permanent", "no", jiff::Timestamp::now());
        assert_eq!(bench.settle(Move::DeadLetter { entry, with }).await, Settled::Done);
    }
    let letters = bench.peek(State::Dlq).await;
    assert_eq!(bench.stats().await, (0, 0, 0, 2));
    let redrive = Move::Redrive { entry: letters[0].clone(), with: dead_letter::redrive_bytes(&letters[0]).unwrap() };
    assert_eq!(bench.settle(redrive.clone()).await, Settled::Done);
    assert_eq!(bench.settle(redrive).await, Settled::NotYours);
    let discard = Move::Discard { entry: letters[1].clone() };
    assert_eq!(bench.settle(discard.clone()).await, Settled::Done);
    assert_eq!(bench.settle(discard).await, Settled::NotYours);
    assert_eq!(bench.take(9).await, bytes(&[&texts[0]]));
    assert_eq!(bench.stats().await, (0, 1, 0, 0));
}

async fn an_extended_lease_does_not_expire(bench: Bench) {
    bench.push(&[&message(1), &message(2)]).await;
    let entries = bench.take(2).await;
    assert_eq!(bench.pass().await.survey.leased, 2);
    let extend = Move::Extend { entry: entries[0].clone(), lease: Duration::from_secs(60) };
    assert_eq!(bench.settle(extend).await, Settled::Done);
    eventually("the other one expires", PATIENCE, async || (bench.pass().await.returned == 1).then_some(())).await;
    let expire = Move::Expire { entry: entries[0].clone(), with: "x".into(), to: State::Main };
    assert_eq!(bench.settle(expire).await, Settled::NotYours);
    assert_eq!(bench.peek(State::Processing).await, entries[..1]);
}

async fn an_expiry_is_counted_and_fences_the_former_holder(bench: Bench) {
    bench.push(&[&message(1)]).await;
    let former = bench.take_one().await;
    let seen = Instant::now();
    assert_eq!(bench.pass().await.survey.leased, 1);
    assert_eq!(bench.pass().await.survey.leased, 0, "a lease is given once");
    eventually("the lease runs out", PATIENCE, async || (bench.pass().await.returned == 1).then_some(())).await;
    assert!(seen.elapsed() >= FIRST_SIGHT);
    let again = bench.take_one().await;
    assert_eq!(attempts::read(&again).unwrap().expiries, 1);
    let late = [
        Move::Ack { entry: former.clone() },
        Move::Extend { entry: former.clone(), lease: PATIENCE },
        Move::Release { entry: former.clone() },
        Move::DeadLetter { entry: former, with: "x".into() },
    ];
    assert_eq!(bench.queue.settle(&late).await.unwrap(), [Settled::NotYours; 4]);
    assert_eq!(bench.settle(Move::Ack { entry: again }).await, Settled::Done);
    assert_eq!(bench.stats().await, (0, 0, 0, 0));
}

async fn expiring_too_often_ends_in_the_dead_letter_queue(bench: Bench) {
    bench.push(&[&message(1)]).await;
    let dead = eventually("it is given up", PATIENCE, async || {
        bench.take(1).await;
        bench.pass().await.dead.pop()
    })
    .await;
    assert_eq!(dead.kind, dead_letter::EXPIRED);
    let letter = dead_letter::parse(&bench.peek(State::Dlq).await[0]).unwrap();
    assert_eq!((letter.error_kind.as_deref(), letter.attempts), (Some(dead_letter::EXPIRED), Some(3)));
    assert_eq!(attempts::read(&letter.original).unwrap().expiries, 2);
    assert_eq!(bench.stats().await, (0, 0, 0, 1));
}

async fn an_unparsable_entry_ends_in_the_dead_letter_queue(bench: Bench) {
    let junk = Bytes::from_static(b"\xffjunk");
    bench.queue.push(std::slice::from_ref(&junk)).await.unwrap();
    bench.push(&[&message(1)]).await;
    bench.take(2).await;
    let mut returned = 0;
    let dead = eventually("both are decided", PATIENCE, async || {
        let report = bench.pass().await;
        returned += report.returned;
        report.dead.into_iter().next()
    })
    .await;
    assert_eq!((dead.kind, &dead.entry), (dead_letter::UNPARSABLE, &junk));
    eventually("the other one is not held up", PATIENCE, async || {
        returned += bench.pass().await.returned;
        (returned == 1).then_some(())
    })
    .await;
    assert_eq!(dead_letter::parse(&bench.peek(State::Dlq).await[0]).unwrap().original, junk);
}

async fn leases_are_renewed_after_an_outage(bench: Bench) {
    let pass = async |outage_after| {
        let terms = LeaseTerms { first_sight: FIRST_SIGHT, outage_after, ..LeaseTerms::default() };
        reaper::pass(&*bench.queue, &ReaperConfig { terms, ..reaper_config() }).await.unwrap()
    };
    bench.push(&[&message(1)]).await;
    bench.take_one().await;
    assert_eq!(pass(PATIENCE).await.survey.leased, 1);
    // Nobody reaps until the lease has run out.
    tokio::time::sleep(FIRST_SIGHT + Duration::from_millis(50)).await;
    let report = pass(FIRST_SIGHT).await;
    assert_eq!((report.survey.renewed, report.returned), (1, 0));
    assert_eq!(bench.stats().await, (0, 1, 0, 0));
    eventually("the renewed lease runs out", PATIENCE, async || (pass(PATIENCE).await.returned == 1).then_some(())).await;
}

async fn identical_entries_are_settled_one_at_a_time(bench: Bench) {
    bench.push(&["a", "a", "a"]).await;
    assert_eq!(bench.take(3).await.len(), 3);
    let ack = Move::Ack { entry: "a".into() };
    assert_eq!(bench.settle(ack.clone()).await, Settled::Done);
    assert_eq!(bench.stats().await, (0, 2, 0, 0));
    let both = [ack.clone(), ack.clone(), ack];
    assert_eq!(bench.queue.settle(&both).await.unwrap(), [Settled::Done, Settled::Done, Settled::NotYours]);
}

async fn a_relay_moves_its_cursor_with_its_entries(bench: Bench) {
    let at = |position| Cursor::new(position, "some-event");
    let relay = async |source, expected: Option<i64>, next, entries: &[&str]| {
        let expected = expected.map(at);
        bench.queue.relay(RelayBatch { source, expected: expected.as_ref(), next: &at(next), entries: &bytes(entries) }).await.unwrap()
    };
    assert_eq!(relay("one", None, 2, &["a", "b"]).await, Relayed::Moved);
    assert_eq!(relay("one", Some(2), 3, &["c"]).await, Relayed::Moved);
    assert_eq!(relay("two", None, i64::MAX - 1, &["d"]).await, Relayed::Moved, "each source has its own");
    assert_eq!(relay("two", Some(i64::MAX - 1), i64::MAX, &[]).await, Relayed::Moved);
    assert_eq!(bench.take(9).await, bytes(&["a", "b", "c", "d"]));
    let many: Vec<String> = (0..2500).map(|n| n.to_string()).collect();
    assert_eq!(relay("one", Some(3), 4, &many.iter().map(String::as_str).collect::<Vec<_>>()).await, Relayed::Moved);
    assert_eq!(bench.queue.peek(State::Main, 2499, 5).await.unwrap(), bytes(&["2499"]));
}

async fn a_stale_relay_is_refused(bench: Bench) {
    let (none, a, b) = (Cursor::new(0, "none"), Cursor::new(1, "a"), Cursor::new(1, "b"));
    let relay = async |expected, next| {
        let entries = bytes(&["x"]);
        bench.queue.relay(RelayBatch { source: "one", expected, next, entries: &entries }).await.unwrap()
    };
    let refused = |actual: &Cursor| Relayed::Refused { actual: Some(actual.clone()) };
    assert_eq!(relay(Some(&a), &b).await, Relayed::Refused { actual: None }, "the queue has lost the cursor");
    assert_eq!(relay(None, &a).await, Relayed::Moved);
    assert_eq!(relay(None, &a).await, refused(&a), "the reply was lost, the batch was not");
    assert_eq!(relay(Some(&none), &a).await, refused(&a), "another relay was faster");
    assert_eq!(relay(Some(&b), &b).await, refused(&a), "the same position, and another event");
    assert_eq!(bench.stats().await, (1, 0, 0, 0), "refused is nothing pushed");
}

async fn any_bytes_are_carried(bench: Bench) {
    let large: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let entries: Vec<Bytes> = [b"\xff\xfe\x00\r\n".to_vec(), b" ".to_vec(), large].into_iter().map(Bytes::from).collect();
    bench.queue.push(&entries).await.unwrap();
    assert_eq!(bench.take(3).await, entries);
    bench.pass().await;
    for entry in &entries {
        let retry = Move::Retry { entry: entry.clone(), with: entry.clone(), after: Duration::from_millis(1) };
        assert_eq!(bench.settle(retry).await, Settled::Done);
    }
    eventually("all are due", PATIENCE, async || {
        bench.pass().await;
        (bench.stats().await.0 == 3).then_some(())
    })
    .await;
    let again: HashSet<Bytes> = bench.take(9).await.into_iter().collect();
    assert_eq!(again, entries.iter().cloned().collect());
    assert!(bench.taken(0, &entries).await.acked.iter().all(|answer| *answer == Settled::Done));
}

async fn peeking_takes_nothing(bench: Bench) {
    bench.push(&["a", "b", "c", "d"]).await;
    assert_eq!(bench.queue.peek(State::Main, 1, 2).await.unwrap(), bytes(&["b", "c"]));
    assert_eq!(bench.queue.peek(State::Main, 3, 5).await.unwrap(), bytes(&["d"]));
    assert_eq!(bench.queue.peek(State::Main, 4, 5).await.unwrap(), bytes(&[]));
    assert_eq!(bench.queue.peek(State::Main, 0, 0).await.unwrap(), bytes(&[]));
    bench.take(2).await;
    assert_eq!(bench.peek(State::Processing).await, bytes(&["a", "b"]), "the longest there first");
    assert_eq!(bench.stats().await, (2, 2, 0, 0));
}

async fn several_takers_share_without_overlap(bench: Bench) {
    let entries: Vec<Bytes> = (0..300).map(|n| message(n).into()).collect();
    bench.queue.push(&entries).await.unwrap();
    let takers: Vec<_> = [&bench.queue, &bench.other, &bench.queue, &bench.other]
        .into_iter()
        .map(|queue| {
            let queue = Arc::clone(queue);
            tokio::spawn(async move {
                let mut mine = vec![];
                loop {
                    let taken = queue.take(7, Duration::from_millis(50), &[]).await.unwrap().entries;
                    if taken.is_empty() {
                        return mine;
                    }
                    mine.extend(taken);
                }
            })
        })
        .collect();
    let mut all = vec![];
    for taker in takers {
        all.extend(taker.await.unwrap());
    }
    assert_eq!(all.len(), entries.len());
    assert_eq!(all.into_iter().collect::<HashSet<_>>(), entries.into_iter().collect());
}

async fn a_pass_is_bounded(bench: Bench) {
    let entries: Vec<Bytes> = (0..30).map(|n| message(n).into()).collect();
    bench.queue.push(&entries).await.unwrap();
    bench.take(30).await;
    let terms = LeaseTerms { first_sight: Duration::from_millis(1), batch: 20, ..LeaseTerms::default() };
    bench.queue.survey(&terms).await.unwrap();
    let survey = eventually("all have expired", PATIENCE, async || {
        let survey = bench.queue.survey(&terms).await.unwrap();
        (survey.expired.len() == 20).then_some(survey)
    })
    .await;
    assert!(survey.more);
}
