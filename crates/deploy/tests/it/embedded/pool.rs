//! What waits, what is replaced, and what is refused.

use alloy::{
    consensus::TxEip1559,
    primitives::{Address, TxKind, U256},
};
use serde_json::{Value, json};

use super::{GWEI, account, chain, get, send, sign, transfer};

fn quantity(value: &Value) -> u128 {
    u128::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[tokio::test]
async fn later_nonces_wait_for_the_gap() {
    let chain = chain().await;
    let signer = account(0);
    let count = async |tag: &str| quantity(&get(&chain, "eth_getTransactionCount", json!([signer.address(), tag])).await);
    let later: Vec<_> = [3, 2, 5, 1].into_iter().map(|nonce| sign(transfer(nonce), &signer)).collect();
    for tx in &later {
        send(&chain, tx).await.unwrap();
    }
    assert_eq!((count("latest").await, count("pending").await), (0, 0));
    let waiting = get(&chain, "eth_getTransactionByHash", json!([later[0].tx_hash()])).await;
    assert_eq!(waiting["blockNumber"], Value::Null);
    send(&chain, &sign(transfer(0), &signer)).await.unwrap();
    for tag in ["latest", "pending", "safe", "finalized"] {
        assert_eq!(count(tag).await, 4, "{tag}");
    }
    let block = get(&chain, "eth_getBlockByNumber", json!(["latest", false])).await;
    assert_eq!((quantity(&block["number"]), block["transactions"].as_array().unwrap().len()), (1, 4), "they share a block");
    assert!(get(&chain, "eth_getTransactionReceipt", json!([later[2].tx_hash()])).await.is_null());
}

#[tokio::test]
async fn a_transaction_below_the_base_fee_waits_until_it_is_bumped() {
    let chain = chain().await;
    let signer = account(0);
    let cheap = TxEip1559 { max_fee_per_gas: 1000, max_priority_fee_per_gas: 100, ..transfer(0) };
    let stuck = sign(cheap.clone(), &signer);
    send(&chain, &stuck).await.expect("it waits, as it would on a node");
    assert!(get(&chain, "eth_getTransactionReceipt", json!([stuck.tx_hash()])).await.is_null());
    let count = get(&chain, "eth_getTransactionCount", json!([signer.address(), "pending"])).await;
    assert_eq!(quantity(&count), 1);
    for (cap, tip) in [(1099, 110), (1100, 109), (5000, 100)] {
        let bump = TxEip1559 { max_fee_per_gas: cap, max_priority_fee_per_gas: tip, ..cheap.clone() };
        let error = send(&chain, &sign(bump, &signer)).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (-32000, "replacement transaction underpriced"), "{cap} {tip}");
    }
    let bumped = sign(transfer(0), &signer);
    send(&chain, &bumped).await.unwrap();
    assert_eq!(get(&chain, "eth_getTransactionReceipt", json!([bumped.tx_hash()])).await["status"], "0x1");
    assert!(get(&chain, "eth_getTransactionByHash", json!([stuck.tx_hash()])).await.is_null(), "the old one is forgotten");
    let error = send(&chain, &stuck).await.unwrap_err();
    assert_eq!(error.message, "nonce too low: next nonce 1, tx nonce 0");
}

#[tokio::test]
async fn a_stuck_transaction_goes_when_the_base_fee_has_fallen() {
    let chain = chain().await;
    // 0.8 gwei: the base fee, 1 gwei at first, falls by an eighth with every nearly empty block.
    let patient = sign(TxEip1559 { max_fee_per_gas: GWEI * 8 / 10, max_priority_fee_per_gas: 1, ..transfer(0) }, &account(1));
    send(&chain, &patient).await.unwrap();
    send(&chain, &sign(transfer(0), &account(0))).await.unwrap();
    send(&chain, &sign(transfer(1), &account(0))).await.unwrap();
    let receipt = get(&chain, "eth_getTransactionReceipt", json!([patient.tx_hash()])).await;
    assert_eq!(receipt["status"], "0x1");
}

#[tokio::test]
async fn refusals_say_why_in_geths_words() {
    let chain = chain().await;
    let signer = account(0);
    let big = |bytes: usize, to| TxEip1559 { input: vec![1; bytes].into(), gas_limit: 16_000_000, to, ..transfer(0) };
    let create = TxKind::Create;
    let call = TxKind::Call(Address::ZERO);
    let ether = U256::from(10).pow(U256::from(18));
    let cases = [
        (TxEip1559 { gas_limit: 20_999, ..transfer(0) }, "intrinsic gas too low: gas 20999, minimum needed 21000"),
        (TxEip1559 { gas_limit: 16_777_217, ..transfer(0) }, "transaction gas limit too high (cap: 16777216, tx: 16777217)"),
        (TxEip1559 { gas_limit: 30_000_001, ..transfer(0) }, "exceeds block gas limit"),
        (TxEip1559 { gas_limit: 40_000, ..big(1000, call) }, "insufficient gas for floor data gas cost: gas 40000, minimum needed 61000"),
        (TxEip1559 { chain_id: 5, ..transfer(0) }, "invalid chain id for signer: have 5 want 31337"),
        (TxEip1559 { max_priority_fee_per_gas: 21 * GWEI, ..transfer(0) }, "max priority fee per gas higher than max fee per gas"),
        (TxEip1559 { value: ether * U256::from(10_001), ..transfer(0) }, "insufficient funds for gas * price + value: balance"),
        (big(128 * 1024, call), "oversized data: transaction size"),
        (big(49_153, create), "max initcode size exceeded: code size 49153, limit 49152"),
    ];
    for (tx, words) in cases {
        let error = send(&chain, &sign(tx, &signer)).await.unwrap_err();
        assert!(error.code == -32000 && error.message.starts_with(words), "expected {words}, got {error}");
    }
    send(&chain, &sign(TxEip1559 { value: ether * U256::from(6000), ..transfer(1) }, &signer)).await.unwrap();
    let overdraft = sign(TxEip1559 { value: ether * U256::from(6000), ..transfer(2) }, &signer);
    let error = send(&chain, &overdraft).await.unwrap_err();
    assert!(error.message.starts_with("insufficient funds for gas * price + value: balance"), "{error}");
}

#[tokio::test]
async fn a_block_holds_no_more_gas_than_its_limit() {
    let chain = chain().await;
    let signer = account(0);
    // They burn nearly all of their gas: three do not fit into one block of 30 million.
    let burn =
        |nonce| TxEip1559 { to: TxKind::Create, input: vec![0xfe].into(), gas_limit: 12_000_000, value: U256::ZERO, ..transfer(nonce) };
    for nonce in [3, 2, 1, 0] {
        send(&chain, &sign(burn(nonce), &signer)).await.unwrap();
    }
    let mut gas = Vec::new();
    for number in ["0x1", "0x2"] {
        gas.push(quantity(&get(&chain, "eth_getBlockByNumber", json!([number, false])).await["gasUsed"]));
    }
    assert_eq!(gas, [24_000_000, 24_000_000]);
    let next = get(&chain, "eth_feeHistory", json!(["0x2", "latest", []])).await;
    let fees: Vec<u128> = next["baseFeePerGas"].as_array().unwrap().iter().map(quantity).collect();
    assert!(fees[0] < fees[1] && fees[1] < fees[2], "full blocks make the base fee rise: {fees:?}");
}
