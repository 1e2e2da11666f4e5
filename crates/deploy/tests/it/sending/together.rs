//! Everything goes well.

use std::sync::Arc;

use alloy::primitives::U256;
use async_trait::async_trait;
use hokusai_db::Tx;
use hokusai_deploy::{Change, DeploymentState, Finality, Journal, JournalError, SenderConfig, token::token_address};
use hokusai_testbed::eventually;
use parking_lot::Mutex;

use super::ground::{Ground, Store, WITHIN, config, request, sum, until_settled, until_state};

/// Writes each change into a table of its own, in the ledger's transaction.
#[derive(Debug, Default)]
struct Diary {
    committed: Mutex<Vec<(String, Option<DeploymentState>, DeploymentState)>>,
}

#[async_trait]
impl Journal for Diary {
    async fn record(&self, tx: &mut Tx, changes: &[Change]) -> Result<(), JournalError> {
        for change in changes {
            sqlx::query("INSERT INTO diary (deployment, state) VALUES ($1, $2)")
                .bind(change.deployment.id.clone())
                .bind(change.deployment.state.as_str())
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    fn committed(&self, changes: &[Change]) {
        let changes = changes.iter().map(|change| (change.deployment.id.clone(), change.from, change.deployment.state));
        self.committed.lock().extend(changes);
    }
}

async fn check_one_then_sixty(ground: &Ground) {
    let mut tx = ground.db.write().await.unwrap();
    sqlx::query("CREATE TABLE diary (deployment TEXT NOT NULL, state TEXT NOT NULL)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let diary = Arc::new(Diary::default());
    let ledger = ground.ledger_with(diary.clone());
    let running = ground.start(&ledger, config());

    let planned = ledger.plan(&[request("Solo", "1")]).await.unwrap();
    let solo = until_settled(&ledger, &planned).await.remove(0);
    assert_eq!(solo.state, DeploymentState::Final);
    assert_eq!(solo.outcome.as_deref(), Some("token_created"));
    assert_eq!(solo.token_address, token_address(ground.registry, "solo"));
    assert!(solo.gas_used.unwrap() > 80_000 && solo.fee_wei.unwrap() > U256::ZERO && solo.block_number.is_some());
    assert!(solo.transaction_hash.is_some() && solo.elapsed_ms().unwrap() >= 0);

    use DeploymentState::{Broadcast, Final, Planned, Signed};
    // It is told after the commit that the ledger shows already.
    eventually("the journal is told", WITHIN, async || (diary.committed.lock().len() == 4).then_some(())).await;
    let steps: Vec<_> = diary.committed.lock().iter().map(|(_, from, to)| (*from, *to)).collect();
    assert_eq!(steps, [(None, Planned), (Some(Planned), Signed), (Some(Signed), Broadcast), (Some(Broadcast), Final)]);
    let written: Vec<String> = sqlx::query_scalar("SELECT state FROM diary").fetch_all(ground.db.reader()).await.unwrap();
    assert_eq!(written, ["planned", "signed", "broadcast", "final"]);

    let sixty: Vec<_> = (0..60).map(|number| request(&format!("Batch-{number}"), "1")).collect();
    let planned = ledger.plan(&sixty).await.unwrap();
    let settled = until_settled(&ledger, &planned).await;
    assert!(settled.iter().all(|deployment| deployment.outcome.as_deref() == Some("token_created")));
    let hash = settled[0].transaction_hash;
    assert!(settled.iter().all(|deployment| deployment.transaction_hash == hash), "one transaction for all");
    let receipt = ground.rpc("eth_getTransactionReceipt", serde_json::json!([hash])).await;
    let whole = |field: &str| receipt[field].as_str().unwrap().parse::<U256>().unwrap();
    let (gas, fee) = sum(&settled);
    assert_eq!(U256::from(gas), whole("gasUsed"));
    assert_eq!(fee, whole("gasUsed") * whole("effectiveGasPrice"));

    assert_eq!((ground.tokens().await, ground.versions().await), (61, 61));
    ground.check_nonces().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_then_sixty_on_the_embedded_chain_and_sqlite() {
    check_one_then_sixty(&Ground::embedded(Store::Sqlite).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_then_sixty_on_anvil_and_postgres() {
    check_one_then_sixty(&Ground::anvil(Store::Postgres).await).await;
}

#[tokio::test]
async fn versions_of_one_symbol_are_recorded_on_one_token() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("TWICE", "1"), request("twice", "2")]).await.unwrap();
    let settled = until_settled(&ledger, &planned).await;
    assert_eq!(settled[0].token_address, settled[1].token_address);
    let planned = ledger.plan(&[request("Twice", "3")]).await.unwrap();
    let third = until_settled(&ledger, &planned).await.remove(0);
    assert_eq!(third.outcome.as_deref(), Some("version_recorded"));
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 3));
}

#[tokio::test]
async fn what_somebody_else_deployed_is_found_and_costs_nothing() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let theirs = ground.foreign_ledger().await;
    let running = ground.start(&theirs, config());
    until_settled(&theirs, &theirs.plan(&[request("FOUND", "1")]).await.unwrap()).await;
    running.stop().await;

    let ledger = ground.ledger();
    let sent = ground.faults.sent();
    let _running = ground.start(&ledger, config());
    let found = until_settled(&ledger, &ledger.plan(&[request("found", "1")]).await.unwrap()).await.remove(0);
    assert_eq!((found.state, found.outcome.as_deref()), (DeploymentState::Final, Some("already_recorded")));
    assert_eq!((found.transaction_hash, found.gas_used, found.fee_wei), (None, Some(0), Some(U256::ZERO)));
    assert_eq!(found.token_address, token_address(ground.registry, "FOUND"));
    assert_eq!(ground.faults.sent(), sent, "nothing was sent");
}

#[tokio::test]
async fn the_finalized_tag_is_waited_for() {
    // With one slot an epoch, anvil calls the block before the last but one final.
    let ground = Ground::anvil_with(&["--slots-in-an-epoch", "1"], Store::Sqlite).await;
    let ledger = ground.ledger();
    let _running = ground.start(&ledger, SenderConfig { finality: Finality::Finalized, ..config() });
    let planned = ledger.plan(&[request("TAG", "1")]).await.unwrap();
    let included = until_state(&ledger, &planned[0], DeploymentState::Included).await.block_number.unwrap();
    eventually("it is final", WITHIN, async || {
        let found = ledger.get(&planned[0].id).await.unwrap().unwrap();
        let block = ground.rpc("eth_getBlockByNumber", serde_json::json!(["finalized", false])).await;
        let finalized = block["number"].as_str().unwrap().parse::<U256>().unwrap();
        assert!(found.state != DeploymentState::Final || finalized >= U256::from(included), "final at depth only");
        if found.state == DeploymentState::Included {
            ground.mine().await;
        }
        found.state.is_settled().then_some(())
    })
    .await;
}

/// With the settings of production a chain that answers at once is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_instant_chain_a_token_takes_less_than_a_second() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let _running = ground.start(&ledger, SenderConfig::new(Finality::Confirmations(1)));
    let mut quickest = i64::MAX;
    for number in 0..5 {
        let planned = ledger.plan(&[request(&format!("QUICK-{number}"), "1")]).await.unwrap();
        quickest = quickest.min(until_settled(&ledger, &planned).await[0].elapsed_ms().unwrap());
    }
    assert!(quickest < 300, "{quickest} ms");
}
