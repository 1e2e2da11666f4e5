//! The embedded chain: the same as anvil where they can be compared, and never less than it said after a crash.

mod cast;
mod differential;
mod durability;
mod pool;
mod rpc;
mod wire;

use std::sync::Arc;

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718 as _,
    network::TxSignerSync as _,
    primitives::{Address, B256, Bytes, TxKind, U256},
    signers::local::PrivateKeySigner,
};
use hokusai_deploy::embedded::{DEV_CHAIN_ID, DEV_KEYS, EmbeddedChain, EmbeddedConfig, JsonRpcError};
use serde_json::{Value, json};

const GWEI: u128 = 1_000_000_000;

async fn chain() -> Arc<EmbeddedChain> {
    EmbeddedChain::open(None, EmbeddedConfig::default()).await.unwrap()
}

fn account(index: usize) -> PrivateKeySigner {
    DEV_KEYS[index].parse().unwrap()
}

/// A transfer of one wei to the zero address's neighbour, to be changed as the test needs.
fn transfer(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: DEV_CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 20 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to: TxKind::Call(Address::repeat_byte(0x11)),
        value: U256::from(1),
        ..TxEip1559::default()
    }
}

fn sign(mut tx: TxEip1559, signer: &PrivateKeySigner) -> TxEnvelope {
    let signature = signer.sign_transaction_sync(&mut tx).unwrap();
    tx.into_signed(signature).into()
}

fn raw(tx: &TxEnvelope) -> Value {
    json!([Bytes::from(tx.encoded_2718())])
}

async fn send(chain: &EmbeddedChain, tx: &TxEnvelope) -> Result<B256, JsonRpcError> {
    chain.request("eth_sendRawTransaction", &raw(tx)).await.map(|hash| serde_json::from_value(hash).unwrap())
}

async fn get(chain: &EmbeddedChain, method: &str, params: Value) -> Value {
    chain.request(method, &params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
}

/// A contract in a few instructions, chosen by the first byte of the call's data. See [`Code`].
///
/// 0 counts in slot 0, logs the count and returns it; 1 reverts with `Error("nope")`; 2 runs into INVALID; 3 returns what it
/// put into transient storage; 4 loops until the gas is gone; 5 returns the hash of the block before; 6 burns gas if it has less
/// than 100,000 left, as calls behind `try` do.
fn runtime() -> Vec<u8> {
    let mut code = Code::default();
    code.ops(&[0x60, 0, 0x35, 0x60, 0xf8, 0x1c]); // op := calldata[0]
    for (op, label) in [(1, "revert"), (2, "invalid"), (3, "transient"), (4, "loop"), (5, "blockhash"), (6, "greedy")] {
        code.ops(&[0x80, 0x60, op, 0x14]).jump_if(label);
    }
    code.ops(&[0x60, 0, 0x54, 0x60, 1, 0x01, 0x80, 0x60, 0, 0x55, 0x60, 0, 0x52]); // mstore(0, sstore(0, sload(0) + 1))
    code.ops(&[0x60, 0x2a, 0x60, 0x20, 0x60, 0, 0xa1]).return_word(); // log1(0, 32, 42)
    code.label("revert").ops(&[0x63, 0x08, 0xc3, 0x79, 0xa0, 0x60, 0xe0, 0x1b, 0x60, 0, 0x52]);
    code.ops(&[0x60, 0x20, 0x60, 0x04, 0x52, 0x60, 4, 0x60, 0x24, 0x52]);
    code.ops(&[0x63, b'n', b'o', b'p', b'e', 0x60, 0xe0, 0x1b, 0x60, 0x44, 0x52, 0x60, 0x64, 0x60, 0, 0xfd]);
    code.label("invalid").ops(&[0xfe]);
    code.label("transient").ops(&[0x60, 7, 0x60, 1, 0x5d, 0x60, 1, 0x5c, 0x60, 0, 0x52]).return_word();
    code.label("loop").jump("loop");
    code.label("blockhash").ops(&[0x60, 1, 0x43, 0x03, 0x40, 0x60, 0, 0x52]).return_word();
    code.label("greedy").ops(&[0x62, 0x01, 0x86, 0xa0, 0x5a, 0x10]).jump_if("loop").ops(&[0x00]);
    code.assemble()
}

/// Code that deploys [`runtime`].
fn init_code() -> Vec<u8> {
    let runtime = runtime();
    let length = u8::try_from(runtime.len()).expect("it is small");
    // codecopy(0, 11, length); return(0, length)
    [vec![0x60, length, 0x80, 0x60, 11, 0x60, 0, 0x39, 0x60, 0, 0xf3], runtime].concat()
}

fn deployment(nonce: u64) -> TxEip1559 {
    TxEip1559 { to: TxKind::Create, value: U256::ZERO, input: init_code().into(), gas_limit: 500_000, ..transfer(nonce) }
}

fn invocation(nonce: u64, contract: Address, op: u8) -> TxEip1559 {
    TxEip1559 { to: TxKind::Call(contract), value: U256::ZERO, input: vec![op].into(), gas_limit: 200_000, ..transfer(nonce) }
}

/// The smallest assembler with labels.
#[derive(Default)]
struct Code {
    bytes: Vec<u8>,
    labels: Vec<(&'static str, u8)>,
    uses: Vec<(usize, &'static str)>,
}

impl Code {
    fn ops(&mut self, ops: &[u8]) -> &mut Self {
        self.bytes.extend(ops);
        self
    }

    fn label(&mut self, name: &'static str) -> &mut Self {
        self.labels.push((name, u8::try_from(self.bytes.len()).unwrap()));
        self.ops(&[0x5b])
    }

    fn jump(&mut self, label: &'static str) -> &mut Self {
        self.uses.push((self.bytes.len() + 1, label));
        self.ops(&[0x60, 0, 0x56])
    }

    fn jump_if(&mut self, label: &'static str) -> &mut Self {
        self.uses.push((self.bytes.len() + 1, label));
        self.ops(&[0x60, 0, 0x57])
    }

    fn return_word(&mut self) -> &mut Self {
        self.ops(&[0x60, 0x20, 0x60, 0, 0xf3])
    }

    fn assemble(mut self) -> Vec<u8> {
        for (place, label) in self.uses {
            self.bytes[place] = self.labels.iter().find(|(name, _)| *name == label).unwrap().1;
        }
        self.bytes
    }
}
