//! The sender dies at every single point, and another one finishes: before and after each commit of the ledger, before
//! each question to the node and after each answer. Then the tokens on the chain are counted.
//!
//! Real workers are killed so in the application's test `chain`, on PostgreSQL and anvil. Here the sender's future is dropped,
//! which is quick enough to do it on SQLite and the embedded chain, and to cut the second sender at every point too, after the
//! first was cut at the worst ones.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hokusai_deploy::{Deployment, Ledger, SenderConfig};
use hokusai_testbed::eventually;
use tokio_util::sync::CancellationToken;

use super::ground::{Cutter, Ground, Point, Store, WITHIN, config, request, until_settled};

/// Looking again at the finals of all runs before would add points to each run.
fn patient() -> SenderConfig {
    SenderConfig { recheck_window: Duration::ZERO, ..config() }
}

/// Runs a sender until the cut or until it has finished its work. Whether it was cut.
async fn run_until(ground: &Ground, ledger: &Ledger, planned: &[Deployment], cutter: &Arc<Cutter>) -> bool {
    let sender = ground.sender(&ledger.clone().with_probe(cutter.clone()), patient());
    *ground.faults.cutter.lock() = Some(cutter.clone());
    let cut = tokio::select! {
        () = cutter.reached.notified() => true,
        _ = until_settled(ledger, planned) => false,
        outcome = sender.run(CancellationToken::new()) => panic!("the sender ended: {outcome:?}"),
    };
    *ground.faults.cutter.lock() = None;
    cut
}

/// Three versions of two symbols, signed in one transaction; the sender is cut at `first`, the next one at every point in
/// turn, and a third one finishes.
async fn check_every_cut_after(ground: &Ground, first: Option<Point>) {
    let ledger = ground.ledger();
    let (tokens, versions) = (ground.tokens().await, ground.versions().await);
    for at in 0.. {
        assert!(at < 200, "a run of one transaction passes fewer points");
        let symbol = format!("CUT-{versions}-{at}");
        let requests = [request(&format!("{symbol}-A"), "1"), request(&format!("{symbol}-B"), "1"), request(&format!("{symbol}-a"), "2")];
        let planned = ledger.plan(&requests).await.unwrap();
        if let Some(first) = first {
            assert!(run_until(ground, &ledger, &planned, &Cutter::new(first)).await);
            ground.let_lease_run_out().await;
        }
        let cutter = Cutter::new(Point::Nth(at));
        let cut = run_until(ground, &ledger, &planned, &cutter).await;
        ground.let_lease_run_out().await;
        let running = ground.start(&ledger, patient());
        until_settled(&ledger, &planned).await;
        running.stop().await;
        let points = cutter.log.lock().join(", ");
        let grown = (ground.tokens().await - tokens, ground.versions().await - versions);
        assert_eq!(grown, (2 * (at + 1), 3 * (at + 1)), "cut {at} after {first:?}: {points}");
        ground.check_nonces().await;
        if !cut {
            assert!(at >= 8, "only {at} points: {points}");
            return;
        }
    }
}

async fn check_every_cut(ground: &Ground) {
    check_every_cut_after(ground, None).await;
    for first in [Point::STORED, Point::SENT, Point::SENT_UNWRITTEN] {
        check_every_cut_after(ground, Some(first)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_may_die_anywhere_on_the_embedded_chain_and_sqlite() {
    check_every_cut(&Ground::embedded(Store::Sqlite).await).await;
}

/// Several transactions in flight, blocks at odd times, answers lost, senders killed every few milliseconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_transactions_survive_many_deaths() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut planned = Vec::new();
    for wave in 0..25 {
        let count = random.usize(1..30);
        let requests: Vec<_> = (0..count).map(|item| request(&format!("WAVE-{wave}-{}", item / 2), &format!("{item}"))).collect();
        planned.extend(ledger.plan(&requests).await.unwrap());
        ground.faults.lose_answers.store(random.bool(), Ordering::SeqCst);
        ground.faults.swallow.store(random.u8(0..4) == 0, Ordering::SeqCst);
        let running = ground.start(&ledger, patient());
        tokio::time::sleep(Duration::from_millis(random.u64(1..40))).await;
        drop(running);
        ground.let_lease_run_out().await;
        if random.bool() {
            ground.mine().await;
        }
    }
    ground.faults.lose_answers.store(false, Ordering::SeqCst);
    ground.faults.swallow.store(false, Ordering::SeqCst);
    let _running = ground.start(&ledger, patient());
    let settled = eventually("everything is final", WITHIN, async || {
        ground.mine().await;
        let mut settled = Vec::new();
        for deployment in &planned {
            settled.push(ledger.get(&deployment.id).await.unwrap().unwrap());
        }
        settled.iter().all(|deployment| deployment.state.is_settled()).then_some(settled)
    })
    .await;
    let symbols: BTreeSet<_> = settled.iter().map(|deployment| deployment.token_address).collect();
    assert_eq!((ground.tokens().await, ground.versions().await), (symbols.len(), planned.len()), "seed {seed}");
    ground.check_nonces().await;
}
