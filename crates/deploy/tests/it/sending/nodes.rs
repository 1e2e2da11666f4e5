//! Nodes as they are: what anvil says, several addresses, the startup check, deploying a registry.

use std::time::Duration;

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::Encodable2718,
    primitives::{Address, Bytes, TxKind, U256},
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::SolCall,
};
use hokusai_deploy::{
    FeePolicy, Finality, HttpOptions, InstallError, Node, RegistryPlan, RpcError, Signer, Unfitting, check_chain, deploy_registry,
    token::{IModelTokenRegistry::registerManyCall, ModelTokenRegistry::pauseCall, RegistryArguments, Revert, read_revert},
};
use hokusai_testbed::{ANVIL_KEYS, Anvil, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ground::{Ground, Store, deployer, owner};

fn raw(key: &str, nonce: u64, max_fee_wei: u128, value: U256) -> Vec<u8> {
    let transaction = TxEip1559 {
        chain_id: 31_337,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: max_fee_wei,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(Address::repeat_byte(1)),
        value,
        ..TxEip1559::default()
    };
    let signer: PrivateKeySigner = key.parse().unwrap();
    let signature = signer.sign_hash_sync(&transaction.signature_hash()).unwrap();
    TxEnvelope::from(transaction.into_signed(signature)).encoded_2718()
}

#[tokio::test]
async fn what_anvil_says_is_understood() {
    const GWEI: u128 = 1_000_000_000;
    let ground = Ground::still_anvil().await;
    let node = &ground.node;
    let key = ANVIL_KEYS[2];
    let first = raw(key, 0, 10 * GWEI, U256::ONE);
    node.send(&first).await.unwrap();
    assert!(matches!(node.send(&first).await, Err(RpcError::AlreadyKnown)));
    let cheaper = node.send(&raw(key, 0, 10 * GWEI, U256::from(2))).await;
    assert!(matches!(cheaper, Err(RpcError::Underpriced { .. })), "{cheaper:?}");
    ground.mine().await;
    let late = node.send(&raw(key, 0, 20 * GWEI, U256::from(3))).await;
    assert!(matches!(late, Err(RpcError::NonceTooLow)), "{late:?}");
    let dear = node.send(&raw(key, 1, 20 * GWEI, U256::MAX >> 1)).await;
    assert!(matches!(dear, Err(RpcError::Unfunded { .. })), "{dear:?}");

    ground.as_owner(pauseCall {}).await;
    ground.mine().await;
    let call = Bytes::from(registerManyCall { records: Vec::new() }.abi_encode());
    match node.estimate_gas(deployer().address(), Some(ground.registry), &call).await {
        Err(RpcError::Reverted { data: Some(data), .. }) => assert_eq!(read_revert(&data), Revert::Paused),
        other => panic!("{other:?}"),
    }
    match node.call(owner(), ground.registry, &call, hokusai_deploy::At::Latest).await {
        Err(RpcError::Reverted { data: Some(_), .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_fails_is_replaced_by_the_next_and_a_foreign_chain_is_refused() {
    let (ours, other) = (Anvil::start(&[]).await, Anvil::start(&["--chain-id", "5"]).await);
    let dead = format!("http://user:secret@127.0.0.1:{}/v3/KEY", free_port());
    let urls: Vec<_> = [dead.clone(), ours.url()].iter().map(|url| url.parse().unwrap()).collect();
    let node = Node::http(&urls, &HttpOptions::default()).unwrap();
    assert_eq!(node.chain_id().await.unwrap(), 31_337);
    assert!(node.head().await.unwrap().base_fee_wei.is_some());

    let alone = Node::http(&[dead.parse().unwrap()], &HttpOptions::default()).unwrap();
    let error = alone.chain_id().await.unwrap_err();
    assert!(error.is_away());
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("127.0.0.1") && !shown.contains("KEY") && !shown.contains("secret"), "{shown}");

    let pinned = HttpOptions { chain_id: Some(31_337), timeout: Duration::from_secs(5) };
    let wrong = Node::http(&[other.url().parse().unwrap()], &pinned).unwrap();
    let error = wrong.head().await.unwrap_err().to_string();
    assert!(error.contains("serves chain 5, not chain 31337"), "{error}");
    assert!(Node::http(&[], &pinned).is_err());
    assert!(Node::http(&["ws://127.0.0.1".parse().unwrap()], &pinned).is_err());
}

#[tokio::test]
async fn the_startup_check_says_what_does_not_fit() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let (node, registry, us) = (&ground.node, ground.registry, deployer().address());
    let facts = check_chain(node, registry, us, Some(31_337), None).await.unwrap();
    assert_eq!((facts.chain_id, facts.finality), (31_337, Finality::Confirmations(1)));
    let chosen = check_chain(node, registry, us, None, Some(Finality::Finalized)).await.unwrap();
    assert_eq!(chosen.finality, Finality::Finalized);

    let error = check_chain(node, registry, us, Some(1), None).await.unwrap_err();
    assert!(matches!(error, Unfitting::Chain { pinned: 1, found: 31_337 }), "{error}");
    let error = check_chain(node, Address::repeat_byte(9), us, None, None).await.unwrap_err();
    assert!(matches!(error, Unfitting::NoRegistry { .. }) && error.to_string().contains("HOKUSAI_REGISTRY_ADDRESS"), "{error}");
    assert!(facts.may_deploy);
    assert!(!check_chain(node, registry, owner(), None, None).await.unwrap().may_deploy, "what was sent can be settled all the same");
}

#[tokio::test]
async fn a_registry_is_not_deployed_with_one_key_for_everything() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let us = deployer().address();
    let arguments = RegistryArguments { owner: us, controller: owner(), deployer: us, initial_supply: None };
    let mut plan = RegistryPlan { arguments, one_key_for_all: false, fees: FeePolicy::default(), patience: Duration::from_secs(5) };
    let error = deploy_registry(&ground.node, &*deployer(), &plan).await.unwrap_err();
    assert!(matches!(error, InstallError::SharedKey { role: "owner", .. }), "{error}");
    plan.one_key_for_all = true;
    let deployed = deploy_registry(&ground.node, &*deployer(), &plan).await.unwrap();
    check_chain(&ground.node, deployed.address, us, None, None).await.unwrap();
}

/// After signing only a clear refusal says that there is no such transaction.
#[tokio::test]
async fn an_unclear_answer_to_a_deployment_names_the_transaction() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let arguments = RegistryArguments { owner: owner(), controller: owner(), deployer: deployer().address(), initial_supply: None };
    let plan = RegistryPlan { arguments, one_key_for_all: false, fees: FeePolicy::default(), patience: Duration::from_millis(50) };
    ground.faults.refuse("eth_sendRawTransaction", "a mystery");
    let error = deploy_registry(&ground.node, &*deployer(), &plan).await.unwrap_err();
    assert!(matches!(&error, InstallError::Unknown { last, .. } if last.contains("a mystery")), "{error}");
    ground.faults.be_honest();
    ground.faults.refuse("eth_sendRawTransaction", "insufficient funds for gas * price + value");
    let error = deploy_registry(&ground.node, &*deployer(), &plan).await.unwrap_err();
    assert!(matches!(error, InstallError::Rpc(RpcError::Unfunded { .. })), "{error}");
}

/// An endpoint that says which chain it is, and answers every other request with this.
async fn endpoint(status: &'static str, body: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0_u8; 65536];
            let length = stream.read(&mut request).await.unwrap_or_default();
            let (status, body) = if String::from_utf8_lossy(&request[..length]).contains("eth_chainId") {
                ("200 OK", r#"{"jsonrpc":"2.0","id":0,"result":"0x7a69"}"#)
            } else {
                (status, body)
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

/// Providers say it in several ways.
#[tokio::test]
async fn a_rate_limit_is_a_reason_to_ask_the_next_endpoint() {
    let anvil = Anvil::start(&[]).await;
    let limited = [
        ("429 Too Many Requests", r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"slow down"}}"#),
        (
            "200 OK",
            r#"{"jsonrpc":"2.0","id":0,"error":{"code":429,"message":"Your app has exceeded its compute units per second capacity."}}"#,
        ),
        ("200 OK", r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32005,"message":"project ID request rate exceeded"}}"#),
    ];
    for (status, body) in limited {
        let limited = endpoint(status, body).await;
        let urls = [limited.parse().unwrap(), anvil.url().parse().unwrap()];
        let node = Node::http(&urls, &HttpOptions::default()).unwrap();
        assert_eq!(node.head().await.unwrap().number, 0, "{body}");
        let alone = Node::http(&urls[..1], &HttpOptions::default()).unwrap();
        let error = alone.head().await.unwrap_err();
        assert!(error.is_away(), "{error}");
    }
}
