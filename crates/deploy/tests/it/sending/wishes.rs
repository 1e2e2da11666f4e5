//! What an operator asks for: a bump, a cancellation, limits on what is spent.

use alloy::primitives::U256;
use hokusai_deploy::{DeploymentState, Outage, SenderConfig, Wish};
use hokusai_testbed::eventually;

use super::{
    ground::{Ground, Store, WITHIN, config, request, until_settled, until_state},
    outages::is,
};

/// The wish is written by another process, which knows neither chain nor registry.
#[tokio::test]
async fn a_bump_is_signed_when_asked_for() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("BUMP-A", "1"), request("BUMP-B", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    for deployment in &planned {
        assert!(ground.ledger().deployments().wish(&deployment.id, Wish::Bump).await.unwrap().unwrap().noted);
    }
    eventually("the bump", WITHIN, async || (ground.attempts().await.len() > 1).then_some(())).await;
    ground.mine().await;
    until_settled(&ledger, &planned).await;
    assert!(ground.attempts().await.iter().all(|attempt| attempt.1 == "register"));
    let late = ledger.deployments().wish(&planned[0].id, Wish::Bump).await.unwrap().unwrap();
    assert!(!late.noted && late.deployment.state == DeploymentState::Final);
    assert_eq!(ledger.deployments().wish("nobody", Wish::Bump).await.unwrap(), None);
    ground.check_nonces().await;
}

#[tokio::test]
async fn a_cancelled_deployment_is_refused_and_its_companions_go_on() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("UNWANTED", "1"), request("WANTED", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    assert!(ledger.deployments().wish(&planned[0].id, Wish::Cancel).await.unwrap().unwrap().noted);
    // It is stored before it is sent; the node must have it before a block is made.
    let reached = async || {
        let attempts = ground.attempts().await;
        let [_, (_, _, hash, _)] = &attempts[..] else { return None };
        let known = ground.rpc("eth_getTransactionByHash", serde_json::json!([hash])).await;
        (!known.is_null()).then_some(())
    };
    eventually("the cancellation", WITHIN, reached).await;
    ground.rpc("evm_setAutomine", serde_json::json!([true])).await;
    ground.mine().await;
    let settled = until_settled(&ledger, &planned).await;
    assert_eq!((settled[0].state, settled[1].state), (DeploymentState::Refused, DeploymentState::Final));
    assert!(settled[0].reason.as_deref().unwrap().contains("by hand"));
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 1));
    // Asked for again, it is wanted again.
    let again = ledger.plan(&[request("UNWANTED", "1")]).await.unwrap();
    assert_eq!(until_settled(&ledger, &again).await[0].state, DeploymentState::Final);
}

#[tokio::test]
async fn a_planned_deployment_is_cancelled_before_anything_is_signed() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let planned = ledger.plan(&[request("NEVER", "1")]).await.unwrap();
    assert!(ledger.deployments().wish(&planned[0].id, Wish::Cancel).await.unwrap().unwrap().noted);
    let _running = ground.start(&ledger, config());
    assert_eq!(until_settled(&ledger, &planned).await[0].state, DeploymentState::Refused);
    assert!(ground.attempts().await.is_empty());
}

#[tokio::test]
async fn no_more_is_spent_within_an_hour_than_was_allowed() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let running = ground.start(&ledger, config());
    let first = until_settled(&ledger, &ledger.plan(&[request("THRIFT", "1")]).await.unwrap()).await.remove(0);
    running.stop().await;
    let fee = first.fee_wei.unwrap();
    let mut running = ground.start(&ledger, SenderConfig { max_spend_wei_per_hour: Some(fee + U256::ONE), ..config() });
    let planned = ledger.plan(&[request("THRIFT", "2")]).await.unwrap();
    let status = running.reports("the outage", is(Outage::SpendingLimit)).await;
    assert!(format!("{status:?}").contains(&fee.to_string()), "{status:?}");
    assert_eq!(ground.attempts().await.len(), 1);
    running.stop().await;
    let _running = ground.start(&ledger, SenderConfig { max_spend_wei_per_hour: Some(fee * U256::from(20)), ..config() });
    until_settled(&ledger, &planned).await;
}

#[tokio::test]
async fn a_balance_is_kept() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let most = U256::from(10_000) * U256::from(10).pow(U256::from(18));
    let mut running = ground.start(&ledger, SenderConfig { min_balance_wei: most, ..config() });
    ledger.plan(&[request("KEPT", "1")]).await.unwrap();
    running.reports("the outage", is(Outage::OutOfFunds)).await;
    assert!(ground.attempts().await.is_empty());
}
