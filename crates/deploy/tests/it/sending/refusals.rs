//! A node that does not take what it is given, or does not say why: nothing is locked, nothing is paid in vain.

use alloy::primitives::U256;
use hokusai_deploy::{DeploymentState, FeePolicy, Outage, SenderConfig, Signer, deployment::Patience};
use hokusai_testbed::eventually;
use serde_json::json;

use super::{
    ground::{Ground, Store, WITHIN, config, deployer, owner, request, until_settled, until_state},
    outages::is,
};

const SENDING: &str = "eth_sendRawTransaction";

fn impatient() -> SenderConfig {
    SenderConfig { patience: Patience { stuck_after_ms: 50, resend_after_ms: 20, ..config().patience }, ..config() }
}

/// Until the node was asked to take bytes so many times more.
async fn until_sent(ground: &Ground, more: usize) {
    let before = ground.faults.sent();
    eventually("bytes are sent again", WITHIN, async || (ground.faults.sent() >= before + more).then_some(())).await;
}

#[tokio::test]
async fn at_the_cap_a_forgotten_transaction_is_sent_again() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let gas_price =
        ground.rpc("eth_getBlockByNumber", json!(["latest", false])).await["baseFeePerGas"].as_str().unwrap().parse::<U256>().unwrap();
    let tip = ground.rpc("eth_maxPriorityFeePerGas", json!([])).await.as_str().unwrap().parse::<U256>().unwrap();
    // Enough for the first offer, and no eighth more.
    let cap = (gas_price * U256::from(2) + tip).to::<u128>();
    let fees = FeePolicy { max_fee_per_gas_wei: cap, default_tip_wei: 1 };
    let mut running = ground.start(&ledger, SenderConfig { fees, ..impatient() });
    let planned = ledger.plan(&[request("CAPPED", "1")]).await.unwrap();
    let hash = until_state(&ledger, &planned[0], DeploymentState::Broadcast).await.transaction_hash;
    running.reports("the outage", is(Outage::FeeAboveCap)).await;
    ground.rpc("anvil_dropTransaction", json!([hash])).await;
    eventually("it is back", WITHIN, async || (!ground.rpc("eth_getTransactionByHash", json!([hash])).await.is_null()).then_some(())).await;
    ground.mine().await;
    assert_eq!(until_settled(&ledger, &planned).await[0].transaction_hash, hash);
    ground.check_nonces().await;
}

#[tokio::test]
async fn what_cannot_be_paid_is_not_bumped() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("BROKE", "1")]).await.unwrap();
    let hash = until_state(&ledger, &planned[0], DeploymentState::Broadcast).await.transaction_hash;
    running.stop().await;
    ground.rpc("anvil_dropTransaction", json!([hash])).await;
    ground.rpc("anvil_setBalance", json!([deployer().address(), "0x0"])).await;
    let mut running = ground.start(&ledger, impatient());
    running.reports("the outage", is(Outage::OutOfFunds)).await;
    until_sent(&ground, 5).await;
    assert_eq!(ground.attempts().await.len(), 1);
    ground.rpc("anvil_setBalance", json!([deployer().address(), U256::from(10).pow(U256::from(18))])).await;
    eventually("it is final", WITHIN, async || {
        ground.mine().await;
        ledger.get(&planned[0].id).await.unwrap().unwrap().state.is_settled().then_some(())
    })
    .await;
}

#[tokio::test]
async fn bytes_that_the_node_refuses_for_long_are_cancelled_and_their_riders_planned_anew() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    ground.faults.refuse(SENDING, "tx fee (1.20 ether) exceeds the configured cap (1.00 ether)");
    let patience = Patience { refused_after_ms: 50, ..config().patience };
    let mut running = ground.start(&ledger, SenderConfig { patience, ..config() });
    let planned = ledger.plan(&[request("DEAR-A", "1"), request("DEAR-B", "1")]).await.unwrap();
    running.reports("the outage", is(Outage::NodeRefuses)).await;
    eventually("the cancellation", WITHIN, async || (ground.attempts().await.len() == 2).then_some(())).await;
    until_sent(&ground, 5).await;
    let purposes: Vec<_> = ground.attempts().await.into_iter().map(|attempt| attempt.1).collect();
    assert_eq!(purposes, ["register", "cancel"], "one cancellation is enough");
    ground.faults.be_honest();
    let settled = until_settled(&ledger, &planned).await;
    assert!(settled.iter().all(|deployment| deployment.state == DeploymentState::Final), "{settled:?}");
    assert_eq!(ground.slot_states().await, ["final", "final", "final"]);
    assert_eq!((ground.tokens().await, ground.versions().await), (2, 2));
}

#[tokio::test]
async fn a_batch_costs_no_more_than_nodes_take() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    const GWEI: u128 = 1_000_000_000;
    ground.rpc("anvil_setNextBlockBaseFeePerGas", json!([format!("{:#x}", 500 * GWEI)])).await;
    ground.mine().await;
    let fees = FeePolicy { max_fee_per_gas_wei: 10_000 * GWEI, default_tip_wei: 1 };
    let _running = ground.start(&ledger, SenderConfig { fees, ..config() });
    let some: Vec<_> = (0..12).map(|number| request(&format!("DEAR-{number}"), "1")).collect();
    let planned = ledger.plan(&some).await.unwrap();
    let settled = until_settled(&ledger, &planned).await;
    assert!(settled.iter().all(|deployment| deployment.state == DeploymentState::Final));
    let costs: Vec<(i64, String)> =
        sqlx::query_as("SELECT gas_limit, max_fee_wei FROM deploy_attempts ORDER BY nonce").fetch_all(ground.db.reader()).await.unwrap();
    assert!(costs.len() > 1, "{costs:?}");
    let ether = U256::from(10).pow(U256::from(18));
    for (gas_limit, max_fee) in costs {
        assert!(U256::from(gas_limit) * max_fee.parse::<U256>().unwrap() <= ether / U256::from(2));
    }
}

#[tokio::test]
async fn a_filled_hole_that_is_not_taken_is_not_cancelled_again_and_again() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let transfer = json!([{ "from": deployer().address(), "to": owner(), "value": "0x1" }]);
    let foreign = ground.rpc("eth_sendTransaction", transfer).await;
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("FILLED", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    ground.faults.refuse(SENDING, "a mystery");
    ground.rpc("anvil_dropTransaction", json!([foreign])).await;
    eventually("the hole is filled", WITHIN, async || (ground.attempts().await.len() == 2).then_some(())).await;
    until_sent(&ground, 5).await;
    assert_eq!(ground.attempts().await.len(), 2);
    ground.faults.be_honest();
    eventually("it is final", WITHIN, async || {
        ground.mine().await;
        ledger.get(&planned[0].id).await.unwrap().unwrap().state.is_settled().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_finds_every_fee_too_low_is_not_fought_with() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let ledger = ground.ledger();
    ground.faults.refuse(SENDING, "transaction underpriced");
    let _running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("CHEAP", "1")]).await.unwrap();
    until_sent(&ground, 10).await;
    assert_eq!(ground.attempts().await.len(), 2, "one raise at once, and no more until prices rise");
    ground.faults.be_honest();
    until_settled(&ledger, &planned).await;
    ground.check_nonces().await;
}

#[tokio::test]
async fn one_request_that_the_node_does_not_explain_keeps_no_other_waiting() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    // Part of the model id, which is in the call and in no question.
    let hex = alloy::primitives::hex::encode("/MYSTERY");
    ground.faults.refuse(&hex, "a mystery");
    let mut running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("MYSTERY", "1"), request("CLEAR-A", "1"), request("CLEAR-B", "1")]).await.unwrap();
    let settled = until_settled(&ledger, &planned[1..]).await;
    assert!(settled.iter().all(|deployment| deployment.state == DeploymentState::Final));
    let status = running.reports("the outage", is(Outage::NodeRefuses)).await;
    assert!(format!("{status:?}").contains("a mystery"), "{status:?}");
    let waiting = ledger.get(&planned[0].id).await.unwrap().unwrap();
    assert_eq!(waiting.state, DeploymentState::Planned);
    assert!(waiting.reason.as_deref().unwrap().contains("a mystery"));
    ground.faults.be_honest();
    assert_eq!(until_settled(&ledger, &planned[..1]).await[0].state, DeploymentState::Final);
    ground.check_nonces().await;
}

/// A transaction in trouble does not keep the hole before it from being filled, which is its cure.
#[tokio::test]
async fn a_hole_is_filled_although_the_transaction_above_it_is_in_trouble() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let transfer = json!([{ "from": deployer().address(), "to": owner(), "value": "0x1" }]);
    let foreign = ground.rpc("eth_sendTransaction", transfer).await;
    let running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("ABOVE", "1")]).await.unwrap();
    let hash = until_state(&ledger, &planned[0], DeploymentState::Broadcast).await.transaction_hash;
    running.stop().await;
    ground.rpc("anvil_dropTransaction", json!([foreign])).await;
    ground.rpc("anvil_dropTransaction", json!([hash])).await;
    let raw: Vec<u8> = sqlx::query_scalar("SELECT raw FROM deploy_attempts").fetch_one(ground.db.reader()).await.unwrap();
    ground.faults.refuse(&alloy::primitives::hex::encode(raw), "a mystery");
    let mut running = ground.start(&ledger, config());
    running.reports("the outage", is(Outage::NodeRefuses)).await;
    eventually("the hole is filled", WITHIN, async || (ground.attempts().await.len() == 2).then_some(())).await;
    ground.faults.be_honest();
    eventually("it is final", WITHIN, async || {
        ground.mine().await;
        ledger.get(&planned[0].id).await.unwrap().unwrap().state.is_settled().then_some(())
    })
    .await;
}
