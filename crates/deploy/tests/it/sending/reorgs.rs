//! Blocks that go away, and nonces that others use.

use std::{sync::Arc, time::Duration};

use hokusai_deploy::{
    DeploymentState, Finality, LocalSigner, Node, Sender, SenderConfig, Signer,
    token::{IModelTokenRegistry::Role, ModelTokenRegistry::grantRoleCall},
};
use hokusai_testbed::{ANVIL_KEYS, eventually};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::ground::{Cutter, Ground, Point, Store, WITHIN, config, deployer, owner, request, until_settled, until_state};

#[tokio::test]
async fn a_reorg_before_finality_brings_the_same_bytes_back() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    let _running = ground.start(&ledger, SenderConfig { finality: Finality::Confirmations(3), ..config() });
    let planned = ledger.plan(&[request("REORG", "1")]).await.unwrap();
    let included = until_state(&ledger, &planned[0], DeploymentState::Included).await;
    ground.rpc("evm_setAutomine", json!([false])).await;
    ground.rpc("anvil_reorg", json!([1, []])).await;
    let again = until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    assert_eq!(again.transaction_hash, included.transaction_hash);
    assert_eq!(again.block_number, None);
    eventually("it is final", WITHIN, async || {
        ground.mine().await;
        ledger.get(&planned[0].id).await.unwrap().unwrap().state.is_settled().then_some(())
    })
    .await;
    let settled = until_settled(&ledger, &planned).await.remove(0);
    assert_eq!(settled.transaction_hash, included.transaction_hash);
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 1));
    ground.check_nonces().await;
}

#[tokio::test]
async fn a_deeper_reorg_takes_a_final_back_and_it_is_made_true_again() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    let watchful = SenderConfig { recheck_every: Duration::from_millis(20), ..config() };
    let _running = ground.start(&ledger, watchful);
    let planned = ledger.plan(&[request("DEEP", "1")]).await.unwrap();
    let first = until_settled(&ledger, &planned).await.remove(0);
    ground.rpc("evm_setAutomine", json!([false])).await;
    ground.rpc("anvil_reorg", json!([1, []])).await;
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    eventually("it is in the pool again", WITHIN, async || (ground.nonce("pending").await == 2).then_some(())).await;
    ground.mine().await;
    let second = until_settled(&ledger, &planned).await.remove(0);
    assert_eq!(second.transaction_hash, first.transaction_hash);
    assert!(second.block_number > first.block_number);
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 1));
    ground.check_nonces().await;
}

/// A run that is cut when it has stored its signature and is about to send.
async fn sign_and_die(ground: &Ground, ledger: &hokusai_deploy::Ledger) {
    let cutter = Cutter::new(Point::SENDING);
    *ground.faults.cutter.lock() = Some(cutter.clone());
    let sender = ground.sender(&ledger.clone().with_probe(cutter.clone()), config());
    tokio::select! {
        () = cutter.reached.notified() => {}
        outcome = sender.run(CancellationToken::new()) => panic!("the sender ended: {outcome:?}"),
    }
    *ground.faults.cutter.lock() = None;
    ground.let_lease_run_out().await;
}

#[tokio::test]
async fn a_nonce_used_by_somebody_else_is_given_up_and_the_request_planned_anew() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    let planned = ledger.plan(&[request("MINE", "1")]).await.unwrap();
    sign_and_die(&ground, &ledger).await;

    let theirs = ground.foreign_ledger().await;
    let foreign = ground.start(&theirs, config());
    until_settled(&theirs, &theirs.plan(&[request("THEIRS", "1")]).await.unwrap()).await;
    foreign.stop().await;

    let _running = ground.start(&ledger, config());
    let settled = until_settled(&ledger, &planned).await.remove(0);
    assert_eq!(settled.state, DeploymentState::Final);
    assert_eq!(ground.slot_states().await, ["lost", "final"]);
    assert_eq!((ground.tokens().await, ground.versions().await), (2, 2));
}

/// The nonce is signed, and before it was sent somebody else with another key made it all true.
#[tokio::test]
async fn a_signed_nonce_without_purpose_is_cancelled() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    let planned = ledger.plan(&[request("VAIN", "1")]).await.unwrap();
    sign_and_die(&ground, &ledger).await;

    let other = Arc::new(LocalSigner::from_hex(ANVIL_KEYS[2]).unwrap());
    ground.as_owner(grantRoleCall { role: Role::Deployer as u8, account: other.address() }).await;
    let theirs = ground.foreign_ledger().await;
    let shutdown = CancellationToken::new();
    let sender = Sender::new(theirs.clone(), Node::over(ground.client.clone()), other, config());
    let foreign = tokio::spawn(sender.run(shutdown.clone()));
    until_settled(&theirs, &theirs.plan(&[request("VAIN", "1")]).await.unwrap()).await;
    shutdown.cancel();
    foreign.await.unwrap().unwrap();

    let _running = ground.start(&ledger, config());
    let settled = until_settled(&ledger, &planned).await.remove(0);
    assert_eq!((settled.outcome.as_deref(), settled.transaction_hash), (Some("already_recorded"), None));
    let purposes: Vec<_> = ground.attempts().await.into_iter().map(|attempt| attempt.1).collect();
    assert_eq!(purposes, ["register", "cancel"]);
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 1));
    ground.check_nonces().await;
}

/// A foreign transaction with our key waits, ours is signed above it, and the foreign one is forgotten.
#[tokio::test]
async fn a_hole_in_the_nonces_is_filled() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let transfer = json!([{ "from": deployer().address(), "to": owner(), "value": "0x1" }]);
    let foreign = ground.rpc("eth_sendTransaction", transfer).await;
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("HOLE", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    ground.rpc("anvil_dropTransaction", json!([foreign])).await;
    eventually("the hole is filled", WITHIN, async || (ground.attempts().await.len() == 2).then_some(())).await;
    eventually("it is final", WITHIN, async || {
        ground.mine().await;
        ledger.get(&planned[0].id).await.unwrap().unwrap().state.is_settled().then_some(())
    })
    .await;
    eventually("both are settled", WITHIN, async || (ground.slot_states().await == ["final", "final"]).then_some(())).await;
    ground.check_nonces().await;
}
