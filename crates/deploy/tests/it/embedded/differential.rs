//! The same requests to anvil and to the embedded chain must give the same answers, wherever the answer does not depend on a
//! clock, on the state root, or on words that are each node's own.

use std::time::Duration;

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, TxEip2930, TxEnvelope, TxLegacy},
    network::TxSignerSync as _,
    primitives::{Address, TxKind, U256},
    rpc::client::{ClientBuilder, RpcClient},
    signers::local::PrivateKeySigner,
    transports::TransportError,
};
use hokusai_deploy::embedded::{DEV_CHAIN_ID, EmbeddedTransport};
use hokusai_testbed::{Anvil, eventually};
use serde_json::{Value, json};

use super::{GWEI, account, chain, deployment, invocation, raw, sign, transfer};

#[tokio::test]
async fn answers_as_anvil_does() {
    // anvil gives its first block the base fee it is told; ours follows from the genesis block's, an eighth higher.
    let anvil = Anvil::start(&["--hardfork", "osaka", "--gas-limit", "30000000", "--base-fee", "875000000"]).await;
    let theirs = Witness::new(ClientBuilder::default().http(anvil.url().parse().unwrap())).observe().await;
    let ours = Witness::new(RpcClient::new(EmbeddedTransport::new(chain().await), true)).observe().await;
    let different: Vec<String> = ours
        .iter()
        .zip(&theirs)
        .filter(|(ours, theirs)| ours != theirs)
        .map(|((label, ours), (_, theirs))| format!("{label}\n  ours   {ours}\n  anvil  {theirs}"))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 80, "the scenario ran to its end: {}", ours.len());
}

/// Runs the scenario on one node and writes down what it saw.
struct Witness {
    node: RpcClient,
    signer: PrivateKeySigner,
    seen: Vec<(String, Value)>,
}

impl Witness {
    fn new(node: RpcClient) -> Self {
        Self { node, signer: account(0), seen: Vec::new() }
    }

    async fn observe(mut self) -> Vec<(String, Value)> {
        let contract = self.deploys_and_calls().await;
        self.simulates(contract).await;
        self.takes_every_kind_of_transaction().await;
        self.queues_and_replaces().await;
        self.refuses().await;
        self.looks_back(contract).await;
        self.seen
    }

    async fn deploys_and_calls(&mut self) -> Address {
        let me = self.signer.address();
        self.ask("chain id", "eth_chainId", json!([])).await;
        self.ask("nonce before", "eth_getTransactionCount", json!([me, "latest"])).await;
        self.ask("estimate of a transfer", "eth_estimateGas", json!([{ "from": me, "to": Address::repeat_byte(0x22), "value": "0x1" }]))
            .await;
        self.mine("transfer", transfer(0)).await;
        self.mine("deployment", deployment(1)).await;
        let contract = me.create(1);
        self.ask("code", "eth_getCode", json!([contract, "latest"])).await;
        for (nonce, op) in (2..).zip([0, 0, 1, 2, 3, 4, 5, 6]) {
            self.mine(&format!("operation {op} at nonce {nonce}"), invocation(nonce, contract, op)).await;
        }
        self.mine("a deployment that reverts", TxEip1559 { input: vec![0x60, 0, 0x60, 0, 0xfd].into(), ..deployment(10) }).await;
        self.ask("slot", "eth_getStorageAt", json!([contract, "0x0", "latest"])).await;
        self.ask("balance", "eth_getBalance", json!([Address::repeat_byte(0x11), "latest"])).await;
        self.ask("own balance", "eth_getBalance", json!([me, "latest"])).await;
        contract
    }

    async fn simulates(&mut self, contract: Address) {
        let me = self.signer.address();
        for op in ["0x00", "0x01", "0x03"] {
            self.ask(&format!("call {op}"), "eth_call", json!([{ "from": me, "to": contract, "input": op }, "latest"])).await;
        }
        let from_contract = json!([{ "from": contract, "to": contract, "data": "0x03" }, "latest"]);
        self.ask("call from a contract", "eth_call", from_contract).await;
        self.ask("call of nobody", "eth_call", json!([{ "to": Address::repeat_byte(0x33), "data": "0x01" }, "latest"])).await;
        let revert = json!([{ "from": me, "to": contract, "data": "0x01" }]);
        self.ask("estimate of a revert", "eth_estimateGas", revert).await;
        // Estimates are a search; what matters is that ours suffices and is near theirs.
        for op in ["0x00", "0x06"] {
            let estimate = self.request("eth_estimateGas", json!([{ "from": me, "to": contract, "data": op }])).await.unwrap();
            let gas = u64::from_str_radix(estimate.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
            let enough = json!([{ "from": me, "to": contract, "data": op, "gas": estimate }, "latest"]);
            self.ask(&format!("the estimate of {op} suffices"), "eth_call", enough).await;
            self.note(format!("estimate of {op} in steps of 5000"), json!((gas + 2_000) / 5_000));
        }
    }

    async fn takes_every_kind_of_transaction(&mut self) {
        let to = TxKind::Call(Address::repeat_byte(0x44));
        let (gas_price, gas_limit, value) = (3 * GWEI, 60_000, U256::from(5));
        let mut legacy = TxLegacy { chain_id: Some(DEV_CHAIN_ID), nonce: 11, gas_price, gas_limit, to, value, ..TxLegacy::default() };
        let signature = self.signer.sign_transaction_sync(&mut legacy).unwrap();
        self.mine_signed("legacy", &legacy.into_signed(signature).into()).await;
        let access_list = serde_json::from_value(json!([{ "address": Address::repeat_byte(0x44), "storageKeys": [] }])).unwrap();
        let mut listed =
            TxEip2930 { chain_id: DEV_CHAIN_ID, nonce: 12, gas_price, gas_limit, to, value, access_list, ..TxEip2930::default() };
        let signature = self.signer.sign_transaction_sync(&mut listed).unwrap();
        self.mine_signed("with an access list", &listed.into_signed(signature).into()).await;
    }

    async fn queues_and_replaces(&mut self) {
        let me = self.signer.address();
        let waiting = sign(transfer(14), &self.signer);
        self.submit("a nonce too far", &waiting).await;
        self.ask("pending nonce with a gap", "eth_getTransactionCount", json!([me, "pending"])).await;
        self.ask("no receipt while it waits", "eth_getTransactionReceipt", json!([waiting.tx_hash()])).await;
        self.submit("already known", &waiting).await;
        // anvil takes any higher price; the ten percent a node asks for are tested beside the pool's other rules.
        let cheap = TxEip1559 { value: U256::from(2), max_fee_per_gas: 19 * GWEI, ..transfer(14) };
        self.submit("replacement underpriced", &sign(cheap, &self.signer)).await;
        let bumped = TxEip1559 { value: U256::from(2), max_fee_per_gas: 22 * GWEI, max_priority_fee_per_gas: 2 * GWEI, ..transfer(14) };
        let bumped = sign(bumped, &self.signer);
        self.submit("replacement", &bumped).await;
        self.submit("the gap is filled", &sign(transfer(13), &self.signer)).await;
        self.receipt("the waiting transaction follows", &bumped).await;
        self.ask("the replaced one is gone", "eth_getTransactionReceipt", json!([waiting.tx_hash()])).await;
    }

    async fn refuses(&mut self) {
        let signer = self.signer.clone();
        let broke = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
        let cases = [
            ("nonce too low", sign(transfer(3), &signer)),
            ("insufficient funds", sign(transfer(0), &broke)),
            ("intrinsic gas too low", sign(TxEip1559 { gas_limit: 20_999, ..transfer(15) }, &signer)),
            ("chain", sign(TxEip1559 { chain_id: 1, ..transfer(15) }, &signer)),
        ];
        for (words, tx) in cases {
            self.submit(words, &tx).await;
        }
        self.ask("an unknown method", "eth_doesNotExist", json!([])).await;
    }

    async fn looks_back(&mut self, contract: Address) {
        let height = self.request("eth_blockNumber", json!([])).await.unwrap();
        let height = u64::from_str_radix(height.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
        // What waited and what filled the gap may share a block or not.
        for number in 1..=13.min(height) {
            let block = self.request("eth_getBlockByNumber", json!([format!("{number:#x}"), false])).await.unwrap();
            let fields =
                ["number", "gasUsed", "gasLimit", "baseFeePerGas", "transactions", "transactionsRoot", "receiptsRoot", "logsBloom"];
            self.note(format!("block {number}"), only(&block, &fields));
        }
        let filters = [
            json!({ "fromBlock": "0x0", "address": contract }),
            json!({ "fromBlock": "0x0", "topics": [format!("{:#066x}", 42)] }),
            json!({ "fromBlock": "0x0", "topics": [[format!("{:#066x}", 41)]] }),
            json!({ "fromBlock": "0x0", "toBlock": "0x3", "topics": [null] }),
        ];
        for filter in filters {
            let logs = self.request("eth_getLogs", json!([filter])).await.unwrap();
            self.note(format!("logs for {filter}"), logs.as_array().unwrap().iter().map(log).collect());
        }
        let slot = json!([contract, "0x0", "0x3"]);
        self.ask("a slot as of an earlier block", "eth_getStorageAt", slot).await;
        self.ask("an unknown block", "eth_getBlockByNumber", json!(["0xffff", false])).await;
        let history = self.request("eth_feeHistory", json!(["0x5", "0xb", [10.0, 50.0]])).await.unwrap();
        // The fee after the newest block asked for is compared as that block's own: anvil gives the one after its newest block.
        let mut history = only(&history, &["oldestBlock", "baseFeePerGas", "gasUsedRatio", "reward"]);
        history["baseFeePerGas"].as_array_mut().unwrap().pop();
        self.note("fee history".into(), history);
    }

    async fn mine(&mut self, label: &str, tx: TxEip1559) {
        let tx = sign(tx, &self.signer);
        self.mine_signed(label, &tx).await;
    }

    async fn mine_signed(&mut self, label: &str, tx: &TxEnvelope) {
        self.submit(label, tx).await;
        self.receipt(label, tx).await;
    }

    /// Sends, and notes the hash, or what kind of refusal it was.
    async fn submit(&mut self, label: &str, tx: &TxEnvelope) {
        match self.request("eth_sendRawTransaction", raw(tx)).await {
            Ok(hash) => self.note(format!("{label}: hash"), hash),
            Err(error) => {
                let message = error["message"].as_str().unwrap().to_lowercase();
                // Each node has its own words for these two; the rest must contain the label.
                let known = message.contains(label)
                    || label == "already known" && message.contains("already imported")
                    || label == "replacement underpriced" && message.contains("replacement transaction underpriced");
                self.note(format!("{label}: refused"), json!({ "as expected": known, "message if not": (!known).then_some(message) }));
            }
        }
    }

    async fn receipt(&mut self, label: &str, tx: &TxEnvelope) {
        let receipt = eventually(label, Duration::from_secs(10), async || {
            let receipt = self.request("eth_getTransactionReceipt", json!([tx.tx_hash()])).await.unwrap();
            (!receipt.is_null()).then_some(receipt)
        })
        .await;
        let fields = [
            "transactionHash",
            "type",
            "status",
            "gasUsed",
            "cumulativeGasUsed",
            "effectiveGasPrice",
            "from",
            "to",
            "contractAddress",
            "logsBloom",
        ];
        let mut seen = only(&receipt, &fields);
        seen["logs"] = receipt["logs"].as_array().unwrap().iter().map(log).collect();
        self.note(format!("{label}: receipt"), seen);
        let found = self.request("eth_getTransactionByHash", json!([tx.tx_hash()])).await.unwrap();
        let fields = [
            "hash",
            "type",
            "nonce",
            "from",
            "to",
            "value",
            "input",
            "gas",
            "gasPrice",
            "maxFeePerGas",
            "chainId",
            "r",
            "s",
            "blockNumber",
            "transactionIndex",
        ];
        self.note(format!("{label}: transaction"), only(&found, &fields));
    }

    async fn ask(&mut self, label: &str, method: &'static str, params: Value) {
        let answer = match self.request(method, params).await {
            Ok(answer) => answer,
            // For reverts message and data are the chain's, for other errors the words are each node's own.
            Err(error) if error["code"] == 3 => error,
            Err(error) => json!({ "code": error["code"] }),
        };
        self.note(label.into(), answer);
    }

    fn note(&mut self, label: String, value: Value) {
        self.seen.push((label, value));
    }

    async fn request(&self, method: &'static str, params: Value) -> Result<Value, Value> {
        match self.node.request::<_, Value>(method, params).await {
            Ok(answer) => Ok(answer),
            Err(TransportError::ErrorResp(error)) => {
                Err(json!({ "code": error.code, "message": error.message, "data": error.data.map(|data| data.get().to_owned()) }))
            }
            Err(other) => panic!("{method}: {other}"),
        }
    }
}

fn log(log: &Value) -> Value {
    only(log, &["address", "topics", "data", "logIndex", "transactionIndex", "transactionHash", "removed"])
}

fn only(value: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| ((*field).to_owned(), value[field].clone())).collect()
}
