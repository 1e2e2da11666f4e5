//! The JSON-RPC surface beyond what is compared with anvil.

use alloy::{
    consensus::{
        Header,
        proofs::{calculate_transaction_root, ordered_trie_root_with_encoder},
    },
    network::TransactionBuilder as _,
    primitives::{Address, B256, U256},
    providers::{Provider as _, ProviderBuilder},
    rpc::{
        client::RpcClient,
        types::{Block, TransactionReceipt, TransactionRequest},
    },
};
use hokusai_deploy::embedded::{DEV_KEYS, EmbeddedTransport};
use serde_json::{Value, json};

use super::{account, chain, deployment, get, init_code, invocation, send, sign, transfer};

#[test]
fn the_dev_keys_are_anvils() {
    let addresses: Vec<Address> = (0..DEV_KEYS.len()).map(|index| account(index).address()).collect();
    assert_eq!(addresses[0].to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
    assert_eq!(addresses[9].to_string(), "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720");
}

#[tokio::test]
async fn alloys_provider_works_over_the_transport() {
    let client = RpcClient::new(EmbeddedTransport::new(chain().await), true);
    let provider = ProviderBuilder::new().wallet(account(0)).connect_client(client);
    let deploy = TransactionRequest::default().with_deploy_code(init_code());
    let receipt = provider.send_transaction(deploy).await.unwrap().get_receipt().await.unwrap();
    let contract = receipt.contract_address.unwrap();
    assert!(receipt.status());
    let count = TransactionRequest::default().with_to(contract).with_input(vec![0]);
    let receipt = provider.send_transaction(count.clone()).await.unwrap().get_receipt().await.unwrap();
    assert_eq!(receipt.logs().len(), 1);
    assert_eq!(provider.call(count).await.unwrap().as_ref(), U256::from(2).to_be_bytes::<32>());
    let revert = TransactionRequest::default().with_to(contract).with_input(vec![1]);
    let error = provider.call(revert).await.unwrap_err();
    let error = error.as_error_resp().expect("the chain's answer");
    assert_eq!((error.code, &*error.message), (3, "execution reverted: nope"));
    assert!(error.as_revert_data().is_some());
}

#[tokio::test]
async fn blocks_are_what_their_hashes_say() {
    let chain = chain().await;
    let signer = account(0);
    let contract = signer.address().create(0);
    send(&chain, &sign(invocation(1, contract, 0), &signer)).await.unwrap();
    send(&chain, &sign(invocation(2, contract, 0), &signer)).await.unwrap();
    send(&chain, &sign(deployment(0), &signer)).await.unwrap();
    let mut parent = B256::ZERO;
    for number in ["0x0", "0x1"] {
        let block: Block = serde_json::from_value(get(&chain, "eth_getBlockByNumber", json!([number, true])).await).unwrap();
        let header: Header = block.header.inner.clone();
        assert_eq!((header.hash_slow(), header.parent_hash), (block.header.hash, parent));
        let transactions: Vec<_> = block.transactions.txns().map(|tx| tx.inner.inner().clone()).collect();
        assert_eq!(calculate_transaction_root(&transactions), header.transactions_root);
        let receipts: Vec<TransactionReceipt> = serde_json::from_value(get(&chain, "eth_getBlockReceipts", json!([number])).await).unwrap();
        let root = ordered_trie_root_with_encoder(&receipts, |receipt, buffer| {
            alloy::eips::Encodable2718::encode_2718(&receipt.inner.clone().into_primitives_receipt(), buffer);
        });
        assert_eq!(root, header.receipts_root);
        let indices: Vec<u64> = receipts.iter().flat_map(|receipt| receipt.logs()).filter_map(|log| log.log_index).collect();
        assert_eq!(indices, (0..indices.len() as u64).collect::<Vec<_>>(), "log indices run through the block");
        parent = block.header.hash;
    }
    let by_hash = get(&chain, "eth_getBlockByHash", json!([parent, false])).await;
    assert_eq!(by_hash, get(&chain, "eth_getBlockByNumber", json!(["finalized", false])).await);
}

#[tokio::test]
async fn the_past_stays_readable() {
    let chain = chain().await;
    let signer = account(0);
    let contract = signer.address().create(0);
    send(&chain, &sign(deployment(0), &signer)).await.unwrap();
    for nonce in 1..4 {
        send(&chain, &sign(invocation(nonce, contract, 0), &signer)).await.unwrap();
    }
    let call = json!({ "to": contract, "data": "0x00" });
    for (block, count) in [("0x1", 1), ("0x2", 2), ("0x4", 4), ("latest", 4)] {
        let answer = get(&chain, "eth_call", json!([call, block])).await;
        assert_eq!(answer, json!(format!("{count:#066x}")), "{block}");
    }
    assert_eq!(get(&chain, "eth_getCode", json!([contract, "earliest"])).await, json!("0x"));
    assert_eq!(chain.request("eth_call", &json!([call, "0x5"])).await.unwrap_err().message, "header not found");
}

#[tokio::test]
async fn the_envelope_is_json_rpc() {
    let chain = chain().await;
    let answer = async |body: &str| {
        let bytes = chain.respond(body.as_bytes()).await;
        (!bytes.is_empty()).then(|| serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let ok = answer(r#"{"jsonrpc":"2.0","id":"a","method":"eth_chainId"}"#).await.unwrap();
    assert_eq!(ok, json!({ "jsonrpc": "2.0", "id": "a", "result": "0x7a69" }));
    let cases = [
        ("{", -32700),
        ("[]", -32600),
        ("7", -32600),
        (r#"{"id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"evm_mine"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":{}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":["0x12"]}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":[]}"#, -32602),
    ];
    for (body, code) in cases {
        assert_eq!(answer(body).await.unwrap()["error"]["code"], code, "{body}");
    }
    let note = r#"{"jsonrpc":"2.0","method":"eth_chainId"}"#;
    assert_eq!(answer(note).await, None, "a notification is not answered");
    let batch = format!(r#"[{note},{{"jsonrpc":"2.0","id":1,"method":"net_version"}},5]"#);
    let batch = answer(&batch).await.unwrap();
    assert_eq!(batch[0], json!({ "jsonrpc": "2.0", "id": 1, "result": "31337" }));
    assert_eq!(batch[1]["error"]["code"], -32600);
    let tx = transfer(0);
    let sent = json!({ "jsonrpc": "2.0", "id": 2, "method": "eth_sendRawTransaction", "params": super::raw(&sign(tx, &account(0))) });
    assert!(answer(&sent.to_string()).await.unwrap()["result"].is_string());
}
