//! The node away, answers lost, no money, no patience: nothing is lost, nothing is done twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::primitives::U256;
use async_trait::async_trait;
use hokusai_db::Tx;
use hokusai_deploy::{
    Change, DeploymentState, FeePolicy, Journal, JournalError, Outage, SenderConfig, SenderStatus, Signer,
    deployment::Patience,
    token::ModelTokenRegistry::{pauseCall, unpauseCall},
};
use hokusai_testbed::{Postgres, eventually};
use serde_json::json;

use super::ground::{Cutter, Ground, Point, Store, WITHIN, config, deployer, request, until_settled, until_state};

pub(super) fn is(outage: Outage) -> impl Fn(&SenderStatus) -> bool {
    move |status| matches!(status, SenderStatus::Outage { outage: reported, .. } if *reported == outage)
}

#[tokio::test]
async fn a_node_away_burns_nothing_and_work_goes_on_when_it_is_back() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    ground.faults.away.store(true, Ordering::SeqCst);
    let mut running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("AWAY", "1")]).await.unwrap();
    running.reports("the outage", is(Outage::NodeAway)).await;
    assert_eq!(ledger.get(&planned[0].id).await.unwrap().unwrap().state, DeploymentState::Planned);
    ground.faults.away.store(false, Ordering::SeqCst);
    until_settled(&ledger, &planned).await;
    running.reports("rest", |status| *status == SenderStatus::Idle).await;
    ground.check_nonces().await;
}

#[tokio::test]
async fn a_lost_answer_is_found_on_the_chain() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    ground.faults.lose_answers.store(true, Ordering::SeqCst);
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("LOST", "1"), request("LOST", "2")]).await.unwrap();
    until_settled(&ledger, &planned).await;
    assert_eq!((ground.tokens().await, ground.versions().await, ground.faults.sent()), (1, 2, 1));
    ground.check_nonces().await;
}

#[tokio::test]
async fn bytes_that_never_arrived_are_sent_again_unchanged() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    ground.faults.swallow.store(true, Ordering::SeqCst);
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("SWALLOWED", "1")]).await.unwrap();
    let maybe_sent = until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    ground.faults.swallow.store(false, Ordering::SeqCst);
    let settled = until_settled(&ledger, &planned).await.remove(0);
    assert_eq!(settled.transaction_hash, maybe_sent.transaction_hash);
    assert_eq!(ground.attempts().await.len(), 1);
}

#[tokio::test]
async fn a_forgotten_transaction_is_sent_again() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("DROPPED", "1")]).await.unwrap();
    let hash = until_state(&ledger, &planned[0], DeploymentState::Broadcast).await.transaction_hash;
    ground.rpc("anvil_dropTransaction", json!([hash])).await;
    eventually("it is back", WITHIN, async || {
        let known = ground.rpc("eth_getTransactionByHash", json!([hash])).await;
        (!known.is_null()).then_some(())
    })
    .await;
    ground.mine().await;
    assert_eq!(until_settled(&ledger, &planned).await[0].transaction_hash, hash);
    ground.check_nonces().await;
}

#[tokio::test]
async fn a_stuck_transaction_is_replaced_by_a_dearer_one() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let impatient = SenderConfig { patience: Patience { stuck_after_ms: 50, resend_after_ms: 20, ..config().patience }, ..config() };
    let _running = ground.start(&ledger, impatient);
    let planned = ledger.plan(&[request("STUCK", "1")]).await.unwrap();
    let attempts = eventually("two bumps", WITHIN, async || Some(ground.attempts().await).filter(|attempts| attempts.len() > 2)).await;
    let fees: Vec<u128> = attempts.iter().map(|attempt| attempt.3.parse().unwrap()).collect();
    assert!(fees.windows(2).all(|pair| pair[1] * 1000 >= pair[0] * 1125), "{fees:?}");
    assert!(attempts.iter().all(|attempt| attempt.0 == 1 && attempt.1 == "register"));
    ground.mine().await;
    let settled = until_settled(&ledger, &planned).await.remove(0);
    let included = settled.transaction_hash.unwrap().to_string();
    assert!(ground.attempts().await.iter().any(|attempt| attempt.2 == included));
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 1));
    ground.check_nonces().await;
}

#[tokio::test]
async fn an_empty_account_is_an_outage_until_it_is_funded() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    ground.rpc("anvil_setBalance", json!([deployer().address(), "0x0"])).await;
    let mut running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("POOR", "1")]).await.unwrap();
    let status = running.reports("the outage", is(Outage::OutOfFunds)).await;
    assert!(format!("{status:?}").contains(&deployer().address().to_string()), "{status:?}");
    assert!(ground.attempts().await.is_empty(), "nothing is signed that cannot be paid");
    ground.rpc("anvil_setBalance", json!([deployer().address(), U256::from(10).pow(U256::from(18))])).await;
    until_settled(&ledger, &planned).await;
    ground.check_nonces().await;
}

/// Money that a transaction under way keeps, and mostly gives back, is waited for like a block.
#[tokio::test]
async fn what_is_in_flight_may_hold_the_money_for_the_next_without_an_outage() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let mut running = ground.start(&ledger, config());
    let first = ledger.plan(&[request("PAID", "1")]).await.unwrap();
    until_state(&ledger, &first[0], DeploymentState::Broadcast).await;
    let reserved: (i64, String) =
        sqlx::query_as("SELECT gas_limit, max_fee_wei FROM deploy_attempts").fetch_one(ground.db.reader()).await.unwrap();
    let reserved = U256::from(reserved.0) * reserved.1.parse::<U256>().unwrap();
    ground.rpc("anvil_setBalance", json!([deployer().address(), reserved * U256::from(3) / U256::from(2)])).await;
    let asked = ground.faults.seen("eth_getBalance");
    let second = ledger.plan(&[request("NEXT", "1")]).await.unwrap();
    eventually("the balance was looked at", WITHIN, async || (ground.faults.seen("eth_getBalance") > asked + 2).then_some(())).await;
    running.reports("work", |status| matches!(status, SenderStatus::Working { waiting: 1, in_flight: 1 })).await;
    assert_eq!(ground.attempts().await.len(), 1);
    ground.mine().await;
    until_state(&ledger, &second[0], DeploymentState::Broadcast).await;
    ground.mine().await;
    until_settled(&ledger, &[first, second].concat()).await;
    ground.check_nonces().await;
}

#[tokio::test]
async fn a_fee_above_the_cap_is_an_outage() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    let fees = FeePolicy { max_fee_per_gas_wei: 10, default_tip_wei: 1 };
    let mut running = ground.start(&ledger, SenderConfig { fees, ..config() });
    ledger.plan(&[request("CAP", "1")]).await.unwrap();
    running.reports("the outage", is(Outage::FeeAboveCap)).await;
    assert!(ground.attempts().await.is_empty());
}

/// The registry is paused while a batch waits for its block: the batch fails as a whole, through no fault of its parts, which
/// wait together until the registry is open again.
#[tokio::test]
async fn a_batch_that_fails_because_the_registry_was_paused_stays_together() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let mut running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("PAUSED-A", "1"), request("PAUSED-B", "1"), request("PAUSED-C", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    ground.as_owner(pauseCall {}).await;
    ground.mine().await;
    running.reports("the outage", is(Outage::RegistryPaused)).await;
    assert_eq!(ground.slot_states().await, ["reverted"]);
    assert_eq!(ledger.get(&planned[0].id).await.unwrap().unwrap().state, DeploymentState::Planned);

    ground.rpc("evm_setAutomine", json!([true])).await;
    ground.as_owner(unpauseCall {}).await;
    let settled = until_settled(&ledger, &planned).await;
    assert!(settled.iter().all(|deployment| deployment.state == DeploymentState::Final));
    let hashes: std::collections::BTreeSet<_> = settled.iter().map(|deployment| deployment.transaction_hash).collect();
    assert_eq!(hashes.len(), 1, "together");
    assert_eq!((ground.tokens().await, ground.versions().await), (3, 3));
}

/// What an older version planned and this one would refuse does not hold the others up.
#[tokio::test]
async fn a_request_that_does_not_fit_is_refused_and_the_rest_goes_on() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let planned = ledger.plan(&[request("FIT", "1"), request("UNFIT", "1")]).await.unwrap();
    let mut tx = ground.db.write().await.unwrap();
    sqlx::query("UPDATE deploy_deployments SET request = REPLACE(request, '0.91', '0.1') WHERE symbol_key = 'unfit'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let _running = ground.start(&ledger, config());
    let settled = until_settled(&ledger, &planned).await;
    assert_eq!((settled[0].state, settled[1].state), (DeploymentState::Final, DeploymentState::Refused));
    assert!(settled[1].reason.as_deref().unwrap().contains("baseline"));
}

/// Two processes with one key: one works, the other stands by and takes over when the first dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sender_works_and_the_other_stands_by() {
    let ground = Ground::anvil(Store::Postgres).await;
    let short = SenderConfig { lease: Duration::from_millis(500), ..config() };
    let (first_ledger, second_ledger) = (ground.ledger(), ground.ledger());
    let mut first = ground.start(&first_ledger, short.clone());
    first.reports("rest", |status| *status == SenderStatus::Idle).await;
    let mut second = ground.start(&second_ledger, short);
    second.reports("standing by", |status| matches!(status, SenderStatus::Standby { .. })).await;
    let some: Vec<_> = (0..10).map(|number| request(&format!("PAIR-{number}"), "1")).collect();
    let planned = second_ledger.plan(&some).await.unwrap();
    until_settled(&second_ledger, &planned).await;
    assert!(matches!(*second.status.borrow(), SenderStatus::Standby { .. }));

    let more: Vec<_> = (0..10).map(|number| request(&format!("PAIR-{number}"), "2")).collect();
    let planned = first_ledger.plan(&more).await.unwrap();
    drop(first);
    until_settled(&second_ledger, &planned).await;
    assert_eq!((ground.tokens().await, ground.versions().await), (10, 20));
    ground.check_nonces().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_away_burns_nothing() {
    let ground = Ground::anvil(Store::Postgres).await;
    let ledger = ground.ledger();
    let _running = ground.start(&ledger, config());
    let postgres = Postgres::start().await;
    for round in 0..5 {
        let planned = ledger.plan(&[request(&format!("CUT-OFF-{round}"), "1")]).await.unwrap();
        postgres.disconnect_all(&ground.db_url);
        eventually("it is final", WITHIN, async || {
            let found = ledger.get(&planned[0].id).await.ok()??;
            found.state.is_settled().then_some(())
        })
        .await;
    }
    assert_eq!((ground.tokens().await, ground.versions().await), (5, 5));
    ground.check_nonces().await;
}

/// A journal whose database is away for the first changes.
#[derive(Debug, Default)]
struct Reluctant {
    asked: AtomicUsize,
}

#[async_trait]
impl Journal for Reluctant {
    async fn record(&self, _tx: &mut Tx, changes: &[Change]) -> Result<(), JournalError> {
        let planning = changes.iter().all(|change| change.from.is_none());
        if !planning && self.asked.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            return Err(sqlx::Error::PoolTimedOut.into());
        }
        Ok(())
    }

    fn committed(&self, _changes: &[Change]) {}
}

/// Every second change of state is refused at first: the ledger's change goes with it, and both come again.
#[tokio::test]
async fn a_journal_that_fails_takes_the_change_back() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger_with(Arc::new(Reluctant::default()));
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("RELUCTANT", "1")]).await.unwrap();
    until_settled(&ledger, &planned).await;
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 1));
    ground.check_nonces().await;
}

/// A sender that slept through the end of its lease wakes up in the middle of a transaction that another one finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_lost_its_lease_writes_nothing() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let planned = ledger.plan(&[request("ZOMBIE", "1")]).await.unwrap();
    let cutter = Cutter::new(Point::SENT);
    *ground.faults.cutter.lock() = Some(cutter.clone());
    let mut sleeper = ground.start(&ledger.clone().with_probe(cutter.clone()), config());
    cutter.reached.notified().await;
    *ground.faults.cutter.lock() = None;

    ground.let_lease_run_out().await;
    let mut successor = ground.start(&ledger, config());
    let settled = until_settled(&ledger, &planned).await;
    successor.reports("rest", |status| *status == SenderStatus::Idle).await;
    cutter.go_on.notify_one();
    sleeper.reports("standing by", |status| matches!(status, SenderStatus::Standby { .. })).await;
    assert_eq!(ledger.get(&planned[0].id).await.unwrap().unwrap(), settled[0]);
    ground.check_nonces().await;
}
