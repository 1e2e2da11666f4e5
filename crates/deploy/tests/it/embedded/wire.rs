//! Whatever comes in, an answer goes out.

use std::sync::{Arc, LazyLock};

use alloy::eips::eip2718::Encodable2718 as _;
use hokusai_deploy::embedded::EmbeddedChain;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{account, chain, deployment, invocation, send, sign};

/// A chain with a little history, shared by all cases.
static NODE: LazyLock<(Runtime, Arc<EmbeddedChain>)> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let node = runtime.block_on(async {
        let chain = chain().await;
        let signer = account(0);
        send(&chain, &sign(deployment(0), &signer)).await.unwrap();
        send(&chain, &sign(invocation(1, signer.address().create(0), 0), &signer)).await.unwrap();
        chain
    });
    (runtime, node)
});

const METHODS: [&str; 28] = [
    "web3_sha3",
    "eth_feeHistory",
    "eth_getLogs",
    "eth_getBalance",
    "eth_getTransactionCount",
    "eth_getCode",
    "eth_getStorageAt",
    "eth_getTransactionByHash",
    "eth_getRawTransactionByHash",
    "eth_getTransactionReceipt",
    "eth_getBlockByNumber",
    "eth_getBlockByHash",
    "eth_getBlockReceipts",
    "eth_getBlockTransactionCountByNumber",
    "eth_getBlockTransactionCountByHash",
    "eth_getTransactionByBlockNumberAndIndex",
    "eth_getTransactionByBlockHashAndIndex",
    "eth_sendRawTransaction",
    "eth_call",
    "eth_estimateGas",
    "eth_blockNumber",
    "eth_gasPrice",
    "eth_maxPriorityFeePerGas",
    "eth_syncing",
    "net_version",
    "web3_clientVersion",
    "eth_accounts",
    "eth_nothing",
];

/// Values as clients send them, nearly as they send them, and not at all as they send them.
fn value() -> impl Strategy<Value = Value> {
    let me = account(0).address();
    let known = prop::sample::select(vec![
        Value::Null,
        json!(true),
        json!("latest"),
        json!("earliest"),
        json!("pending"),
        json!("0x0"),
        json!("0x1"),
        json!("0xffffffffffffffff"),
        json!(format!("{:#066x}", 42)),
        json!(me),
        json!(me.create(0)),
        json!({ "blockNumber": "0x1" }),
        json!({ "fromBlock": "0x0", "toBlock": "0xffffffffffffffff" }),
        json!({ "to": me.create(0), "data": "0x00" }),
        json!({ "from": me, "value": "0xffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff" }),
        json!({ "from": me, "data": "0x60fe", "gas": "0xffffffffffffffff", "gasPrice": "0xffffffffffffffffffffffffffffffff" }),
        json!([0.0, 50.0, 100.0]),
        json!(1e300),
    ]);
    let key = prop::sample::select(vec![
        "from",
        "to",
        "data",
        "input",
        "value",
        "gas",
        "gasPrice",
        "nonce",
        "type",
        "topics",
        "address",
        "blockHash",
        "fromBlock",
        "accessList",
        "chainId",
    ]);
    let leaf = prop_oneof![
        4 => known,
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => "0x[0-9a-f]{0,70}".prop_map(Value::from),
        1 => ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|entries| entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_parameters_make_it_panic(method in prop::sample::select(METHODS.to_vec()), params in prop::collection::vec(value(), 0..4)) {
        let (runtime, node) = &*NODE;
        // An internal error is a panic caught on its way, or an answer that could not be written.
        if let Err(error) = runtime.block_on(node.request(method, &Value::from(params))) {
            prop_assert_ne!(error.code, -32603, "{}", error);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), value().prop_map(|value| value.to_string().into_bytes())]) {
        let (runtime, node) = &*NODE;
        let answer = runtime.block_on(node.respond(&body));
        prop_assert!(serde_json::from_slice::<Value>(&answer).is_ok());
    }

    #[test]
    fn no_damaged_transaction_gets_in_as_its_sender(position in 0_usize..200, bit in 0_u8..8) {
        let (runtime, node) = &*NODE;
        let signer = account(1);
        let mut bytes = sign(deployment(0), &signer).encoded_2718();
        let position = position % bytes.len();
        bytes[position] ^= 1 << bit;
        let sent = runtime.block_on(node.request("eth_sendRawTransaction", &json!([alloy::primitives::Bytes::from(bytes)])));
        // A changed message recovers to some other, empty account.
        prop_assert!(sent.is_err());
    }
}
