//! Nodes that see the chain differently from one look to the next, and chains that are put back.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use hokusai_deploy::{DeploymentState, Error, Finality, Node, Sender, SenderConfig, token::token_address};
use hokusai_testbed::{Anvil, eventually};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::ground::{Ground, Store, WITHIN, config, deployer, request, until_settled, until_state};

/// A node of several behind one address has the block and not its receipts.
#[tokio::test]
async fn a_node_that_lags_takes_nothing_back() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    let watchful = SenderConfig { finality: Finality::Confirmations(3), recheck_every: Duration::from_millis(5), ..config() };
    let _running = ground.start(&ledger, watchful);
    let planned = ledger.plan(&[request("LAG", "1")]).await.unwrap();
    for state in [DeploymentState::Included, DeploymentState::Final] {
        let before = until_state(&ledger, &planned[0], state).await;
        ground.faults.answer("eth_getTransactionReceipt", json!({ "result": null }));
        ground.faults.answer("\"latest\",false", json!({ "result": ground.rpc("eth_getBlockByNumber", json!(["latest", false])).await }));
        let seen = ground.faults.seen("eth_getTransactionReceipt");
        eventually("some looks", WITHIN, async || (ground.faults.seen("eth_getTransactionReceipt") > seen + 3).then_some(())).await;
        assert_eq!(ledger.get(&planned[0].id).await.unwrap().unwrap(), before);
        ground.faults.be_honest();
        ground.mine().await;
        ground.mine().await;
    }
    assert_eq!(ground.attempts().await.len(), 1);
}

/// The chain is put back beyond everything that is looked at again.
#[tokio::test]
async fn nonces_given_back_are_used_again_whatever_their_age() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    let forgetful = SenderConfig { recheck_window: Duration::ZERO, recheck_every: Duration::from_secs(3600), ..config() };
    let running = ground.start(&ledger, forgetful.clone());
    let snapshot = ground.rpc("evm_snapshot", json!([])).await;
    let mut planned = ledger.plan(&[request("BACK-A", "1")]).await.unwrap();
    until_settled(&ledger, &planned).await;
    running.stop().await;
    ground.rpc("evm_revert", json!([snapshot])).await;
    assert_eq!(ground.tokens().await, 0);
    let _running = ground.start(&ledger, forgetful);
    planned.extend(ledger.plan(&[request("BACK-B", "1")]).await.unwrap());
    until_settled(&ledger, &planned).await;
    eventually("both are there", WITHIN, async || (ground.tokens().await == 2).then_some(())).await;
    eventually("both are final", WITHIN, async || (ground.slot_states().await == ["final", "final"]).then_some(())).await;
    ground.check_nonces().await;
}

/// A development chain started anew has the old one's id.
#[tokio::test]
async fn a_ledger_is_about_one_chain() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let running = ground.start(&ledger, config());
    until_settled(&ledger, &ledger.plan(&[request("PINNED", "1")]).await.unwrap()).await;
    running.stop().await;
    let other = Anvil::start(&[]).await;
    let node = Node::http(&[other.url().parse().unwrap()], &hokusai_deploy::HttpOptions::default()).unwrap();
    let sender = Sender::new(ledger, node, deployer(), config());
    let error = tokio::time::timeout(WITHIN, sender.run(CancellationToken::new())).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::OtherGenesis { chain_id: 31_337, .. }), "{error}");
    assert!(error.to_string().contains("DATABASE_URL"), "{error}");
}

/// A registry of another make logs in its own way and puts tokens where it likes: it is asked, as of a block that has the
/// transaction.
#[tokio::test]
async fn a_registry_whose_logs_say_nothing_is_asked() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("MUTE", "1")]).await.unwrap();
    let hash = until_state(&ledger, &planned[0], DeploymentState::Broadcast).await.transaction_hash;
    running.stop().await;
    ground.mine().await;
    let mut receipt = ground.rpc("eth_getTransactionReceipt", json!([hash])).await;
    receipt["logs"] = json!([]);
    ground.faults.answer("eth_getTransactionReceipt", json!({ "result": receipt }));
    let mut tx = ground.db.write().await.unwrap();
    sqlx::query("UPDATE deploy_deployments SET token_address = $1")
        .bind(Address::repeat_byte(9).to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    ground.faults.refuse("\"latest\"]", "the newest block of this node is an older one");
    let _running = ground.start(&ledger, config());
    let settled = until_settled(&ledger, &planned).await.remove(0);
    assert_eq!((settled.state, settled.token_address), (DeploymentState::Final, token_address(ground.registry, "MUTE")));
    assert!(settled.fee_wei.unwrap() > U256::ZERO);
}
