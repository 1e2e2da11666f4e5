//! The sender dies at every single point, and another one finishes: before and after each commit of the ledger, before
//! each question to the node and after each answer. Then the tokens on the chain are counted.

use std::{sync::Arc, time::Duration};

use hokusai_deploy::{Deployment, Ledger, SenderConfig};
use tokio_util::sync::CancellationToken;

use super::ground::{Cutter, Ground, Store, config, request, until_settled};

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
async fn check_every_cut_after(ground: &Ground, first: Option<usize>) {
    let ledger = ground.ledger();
    let (tokens, versions) = (ground.tokens().await, ground.versions().await);
    for at in 0.. {
        assert!(at < 200, "a run of one transaction passes fewer points");
        let symbol = format!("CUT-{}-{at}", first.unwrap_or_default());
        let requests = [request(&format!("{symbol}-A"), "1"), request(&format!("{symbol}-B"), "1"), request(&format!("{symbol}-a"), "2")];
        let planned = ledger.plan(&requests).await.unwrap();
        if let Some(first) = first {
            assert!(run_until(ground, &ledger, &planned, &Cutter::new(first)).await);
            ground.let_lease_run_out().await;
        }
        let cutter = Cutter::new(at);
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

/// Points of a run, counted from the start: signed and stored; sent, and the answer not yet seen; sent, and not written down.
const STORED: usize = 17;
const SENT: usize = 19;
const SENT_UNWRITTEN: usize = 20;

async fn check_every_cut(ground: &Ground) {
    check_every_cut_after(ground, None).await;
    for first in [STORED, SENT, SENT_UNWRITTEN] {
        check_every_cut_after(ground, Some(first)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_may_die_anywhere_on_the_embedded_chain_and_sqlite() {
    check_every_cut(&Ground::embedded(Store::Sqlite).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_may_die_anywhere_on_anvil_and_postgres() {
    check_every_cut_after(&Ground::anvil(Store::Postgres).await, None).await;
}
