//! Transactions that fail on the chain: only an explained failure is held against the request.

use alloy::primitives::{Bytes, hex};
use hokusai_deploy::{
    DeploymentState, Outage,
    token::ModelTokenRegistry::{pauseCall, unpauseCall},
};
use hokusai_testbed::eventually;
use serde_json::json;

use super::{
    ground::{Ground, WITHIN, config, request, until_settled, until_state},
    outages::is,
};

/// Mines until all is settled.
async fn mine_until_settled(ground: &Ground, ledger: &hokusai_deploy::Ledger, planned: &[hokusai_deploy::Deployment]) {
    ground.rpc("evm_setAutomine", json!([true])).await;
    ground.mine().await;
    let settled = until_settled(ledger, planned).await;
    assert!(settled.iter().all(|deployment| deployment.state == DeploymentState::Final), "{settled:?}");
}

/// Neither the state before the block nor the one after it shows why the transaction failed.
#[tokio::test]
async fn a_pause_within_one_block_refuses_nothing() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("BLINK", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    ground.as_owner(pauseCall {}).await;
    ground.as_owner_cheaply(unpauseCall {}).await;
    ground.mine().await;
    eventually("it failed", WITHIN, async || (ground.slot_states().await[0] == "reverted").then_some(())).await;
    mine_until_settled(&ground, &ledger, &planned).await;
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 1));
}

#[tokio::test]
async fn a_failure_without_a_reason_is_tried_again() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let code = ground.rpc("eth_getCode", json!([ground.registry, "latest"])).await;
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("SILENT", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    let reverts_without_data = Bytes::from(hex!("5f5ffd"));
    ground.rpc("anvil_setCode", json!([ground.registry, reverts_without_data])).await;
    ground.mine().await;
    eventually("it failed", WITHIN, async || (ground.slot_states().await[0] == "reverted").then_some(())).await;
    assert_ne!(ledger.get(&planned[0].id).await.unwrap().unwrap().state, DeploymentState::Refused);
    ground.rpc("anvil_setCode", json!([ground.registry, code])).await;
    mine_until_settled(&ground, &ledger, &planned).await;
}

#[tokio::test]
async fn a_node_that_cannot_replay_refuses_nothing() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let mut running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("REPLAY", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    ground.as_owner(pauseCall {}).await;
    ground.faults.refuse("eth_call", "a mystery");
    ground.mine().await;
    running.reports("the outage", is(Outage::NodeRefuses)).await;
    assert!(!ledger.get(&planned[0].id).await.unwrap().unwrap().state.is_settled());
    ground.faults.be_honest();
    running.reports("the outage", is(Outage::RegistryPaused)).await;
    ground.as_owner(unpauseCall {}).await;
    mine_until_settled(&ground, &ledger, &planned).await;
}
