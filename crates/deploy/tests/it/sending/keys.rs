//! What changes between two runs: the registry, the role, the key.

use std::sync::Arc;

use hokusai_deploy::{
    DeploymentState, FeePolicy, Finality, Ledger, LocalSigner, NoJournal, Node, Outage, RegistryPlan, Sender, SenderConfig, Signer,
    check_chain, deploy_registry,
    token::{
        IModelTokenRegistry::Role,
        ModelTokenRegistry::{grantRoleCall, revokeRoleCall},
        RegistryArguments, token_address,
    },
};
use hokusai_testbed::{ANVIL_KEYS, eventually};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    ground::{Ground, WITHIN, config, deployer, owner, request, until_settled, until_state},
    outages::is,
};

fn another_key() -> Arc<LocalSigner> {
    Arc::new(LocalSigner::from_hex(ANVIL_KEYS[2]).unwrap())
}

/// What was sent to the registry of before is settled by what that registry did.
#[tokio::test]
async fn another_registry_does_not_refuse_what_the_first_one_did() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    ground.rpc("evm_setAutomine", json!([true])).await;
    let arguments = RegistryArguments { owner: owner(), controller: owner(), deployer: deployer().address(), initial_supply: None };
    let plan = RegistryPlan { arguments, one_key_for_all: false, fees: FeePolicy::default(), patience: WITHIN };
    let second = deploy_registry(&Node::over(ground.client.clone()), &*another_key(), &plan).await.unwrap().address;
    ground.rpc("evm_setAutomine", json!([false])).await;

    let running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("FIRST", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    running.stop().await;
    let moved = Ledger::new(ground.db.clone(), 31_337, second, Arc::new(NoJournal));
    let _running = ground.start(&moved, config());
    ground.mine().await;
    let settled = until_settled(&ledger, &planned).await.remove(0);
    assert_eq!((settled.state, settled.registry), (DeploymentState::Final, ground.registry), "{settled:?}");
    assert_eq!(settled.token_address, token_address(ground.registry, "FIRST"));
    ground.rpc("evm_setAutomine", json!([true])).await;
    let again = until_settled(&moved, &moved.plan(&[request("FIRST", "1")]).await.unwrap()).await.remove(0);
    assert_eq!(again.token_address, token_address(second, "FIRST"));
}

#[tokio::test]
async fn without_the_role_what_was_sent_is_settled_and_nothing_new_is_sent() {
    let ground = Ground::anvil(super::ground::Store::Sqlite).await;
    let ledger = ground.ledger();
    let deep = SenderConfig { finality: Finality::Confirmations(3), ..config() };
    let running = ground.start(&ledger, deep.clone());
    let planned = ledger.plan(&[request("BEFORE", "1")]).await.unwrap();
    until_state(&ledger, &planned[0], DeploymentState::Included).await;
    running.stop().await;
    ground.as_owner(revokeRoleCall { role: Role::Deployer as u8, account: deployer().address() }).await;
    ground.mine().await;

    let facts = check_chain(&ground.node, ground.registry, deployer().address(), None, None).await.unwrap();
    assert!(!facts.may_deploy);
    let mut running = ground.start(&ledger, deep);
    assert_eq!(until_settled(&ledger, &planned).await[0].state, DeploymentState::Final);
    let late = ledger.plan(&[request("AFTER", "1")]).await.unwrap();
    running.reports("the outage", is(Outage::NotPermitted)).await;
    assert_eq!(ledger.get(&late[0].id).await.unwrap().unwrap().state, DeploymentState::Planned);
}

/// The new key's sender sends what the old one signed, signs nothing for it, and settles it.
#[tokio::test]
async fn what_another_key_signed_is_finished_without_it() {
    let ground = Ground::still_anvil().await;
    let ledger = ground.ledger();
    let running = ground.start(&ledger, config());
    let planned = ledger.plan(&[request("ROTATED", "1")]).await.unwrap();
    let hash = until_state(&ledger, &planned[0], DeploymentState::Broadcast).await.transaction_hash;
    running.stop().await;
    ground.rpc("anvil_dropTransaction", json!([hash])).await;
    ground.as_owner(grantRoleCall { role: Role::Deployer as u8, account: another_key().address() }).await;
    ground.mine().await;

    let shutdown = CancellationToken::new();
    let sender = Sender::new(ledger.clone(), ground.node.clone(), another_key(), config());
    let task = tokio::spawn(sender.run(shutdown.clone()));
    eventually("the same bytes are back", WITHIN, async || {
        (!ground.rpc("eth_getTransactionByHash", json!([hash])).await.is_null()).then_some(())
    })
    .await;
    ground.rpc("evm_setAutomine", json!([true])).await;
    ground.mine().await;
    assert_eq!(until_settled(&ledger, &planned).await[0].transaction_hash, hash);
    let new = until_settled(&ledger, &ledger.plan(&[request("ROTATED", "2")]).await.unwrap()).await.remove(0);
    assert_eq!(new.outcome.as_deref(), Some("version_recorded"));
    shutdown.cancel();
    task.await.unwrap().unwrap();
    let accounts: Vec<String> =
        sqlx::query_scalar("SELECT account FROM deploy_slots ORDER BY created_at").fetch_all(ground.db.reader()).await.unwrap();
    assert_eq!(accounts, [deployer().address().to_string(), another_key().address().to_string()]);
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 2));
}
