//! What a token costs, beside a token deployed the simple way, in the same run: `contracts/GAS.md` is what this measures.
//! Gas is deterministic, so the file must agree to the last unit; with `UPDATE_GAS=1` it is written instead.

use std::{collections::HashMap, fmt::Write as _, path::Path};

use alloy::{
    network::TransactionBuilder,
    primitives::Bytes,
    rpc::types::TransactionRequest,
    sol_types::{SolCall as _, SolValue as _},
};
use hokusai_deploy::token::{IModelTokenRegistry::registerManyCall, TokenRequest, calldata, fit};

use super::{Chain, Outcome, request};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/GAS.md");
/// No transaction may use more (EIP-7825).
const TRANSACTION_GAS_CAP: u64 = 16_777_216;

/// In per cent of a direct deployment: alone, in a batch of 10, in a batch of 50.
const MOST_OF_DIRECT_PERCENT: [f64; 3] = [18.0, 14.5, 14.0];
const SIZES: [usize; 3] = [1, 10, 50];

/// Gas for each item, alone and in batches.
type Row = [u64; 3];

#[tokio::test]
async fn the_gas_table_is_what_a_chain_charges() {
    let chain = Chain::start().await;
    let direct = DirectTokens::measure(&chain).await;
    let rows = measure(&chain).await;
    for (gas, most_percent) in rows[0].1.iter().zip(MOST_OF_DIRECT_PERCENT) {
        let percent = of(*gas, direct.mintable);
        assert!(
            percent <= most_percent,
            "a token costs {gas} gas, which is {percent:.2} % of {} and not {most_percent} %",
            direct.mintable
        );
    }
    let measured = table(&direct, chain.registry_gas, &rows);
    let path = Path::new(TABLE);
    if std::env::var_os("UPDATE_GAS").is_some() {
        std::fs::write(path, measured).expect("the table is written");
        return;
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(committed, measured, "contracts/GAS.md is stale: run this test with UPDATE_GAS=1");
}

/// Gas of a token deployed by itself, with the name and the symbol that ours would have.
struct DirectTokens {
    mintable: u64,
    without_mint: u64,
    with_supply: u64,
}

impl DirectTokens {
    async fn measure(chain: &Chain) -> Self {
        let json = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../contracts/artifacts/direct.json"));
        let codes: HashMap<String, Bytes> = serde_json::from_str(&json.expect("the artifact is there")).expect("the artifact is JSON");
        let gas = async |name: &str| {
            let arguments = ("Hokusai MSG-AI", "MSG-AI", chain.owner).abi_encode_params();
            let code = [&codes[name][..], &arguments].concat();
            let receipt = chain.transact(TransactionRequest::default().from(chain.deployer).with_deploy_code(code)).await;
            assert!(receipt.status(), "{name} is deployed");
            receipt.gas_used
        };
        Self {
            mintable: gas("DirectToken").await,
            without_mint: gas("DirectTokenWithoutMint").await,
            with_supply: gas("DirectTokenWithSupply").await,
        }
    }
}

async fn measure(chain: &Chain) -> Vec<(&'static str, Row)> {
    let exact =
        |request: TokenRequest| TokenRequest { baseline_value: 0.821_428_571_428_571_4, current_value: 0.876_543_209_876_543_2, ..request };
    let mut rows = Vec::new();
    let mut measure = async |what, letter, version, change: fn(TokenRequest) -> TokenRequest| {
        let mut row = Row::default();
        for (gas, size) in row.iter_mut().zip(SIZES) {
            let symbols = (0..size).map(|number| format!("{letter}{size:02}-{number:02}"));
            let requests: Vec<_> = symbols.map(|symbol| change(request(&symbol, version))).collect();
            *gas = chain.register_at_cost(&requests).await.1 / size as u64;
        }
        rows.push((what, row));
    };
    measure("token and first version", 'T', "1", |request| request).await;
    measure("the same, metrics with 16 decimals", 'D', "1", exact).await;
    measure("the same, naming no contributor", 'N', "1", |request| TokenRequest { contributor: None, ..request }).await;
    measure("second version", 'T', "2", |request| request).await;
    measure("later version", 'T', "3", |request| request).await;
    measure("repeat of a first version", 'T', "1", |request| request).await;
    measure("repeat of a later version", 'T', "3", |request| request).await;
    rows
}

fn of(gas: u64, whole: u64) -> f64 {
    gas as f64 * 100.0 / whole as f64
}

fn table(direct: &DirectTokens, registry_gas: u64, rows: &[(&str, Row)]) -> String {
    let calldata_bytes = calldata(&[request("T01-00", "1")]).expect("the request is fit").len();
    let mut table = format!(
        "# Gas\n\n\
         Written by `UPDATE_GAS=1 cargo test -p hokusai-deploy --test it gas_table`; without the variable the same test fails if\n\
         this file is not what a chain (anvil) charges. Everything is measured in one run, with the same compiler settings.\n\n\
         Deployed the simple way, one contract for each token (`gas/Direct.sol`):\n\n\
         | OpenZeppelin ERC20 + Ownable, with name, symbol and owner | gas |\n|---|--:|\n\
         | whose owner can mint: the reference below | {} |\n\
         | which nobody can mint, so that there is never any | {} |\n\
         | with a first supply, and never more | {} |\n\n\
         Through the registry, for each item, all included: transaction, calldata ({calldata_bytes} bytes), token, record, event.\n\n\
         | | alone | in a batch of 10 | in a batch of 50 |\n|---|--:|--:|--:|\n",
        direct.mintable, direct.without_mint, direct.with_supply
    );
    for (what, row) in rows {
        let cells = row.map(|gas| format!("{gas} ({:.1} %)", of(gas, direct.mintable)));
        writeln!(table, "| {what} | {} |", cells.join(" | ")).expect("a string takes everything");
    }
    let of_least = rows[0].1.map(|gas| format!("{:.1} %", of(gas, direct.without_mint)));
    write!(
        table,
        "\nOf the token that nobody can mint, the first row is {}. The test holds the first row to {} % of the reference.\n\n\
         The registry itself costs {registry_gas} gas, once for each chain.\n",
        of_least.join(", "),
        MOST_OF_DIRECT_PERCENT.map(|percent| percent.to_string()).join(", ")
    )
    .expect("a string takes everything");
    table
}

/// The dearest requests of their kind: every text as long as it may be, nothing that could be left out.
fn longest(symbol: &str, version: char) -> TokenRequest {
    TokenRequest {
        model_name: "n".repeat(256),
        model_version: version.to_string().repeat(256),
        model_id: "i".repeat(1024),
        mlflow_run_id: "r".repeat(256),
        metric_name: "m".repeat(256),
        baseline_value: 1.234_567_890_123_456e20,
        current_value: 1.634_567_890_123_456e20,
        ..request(symbol, "")
    }
}

#[tokio::test]
async fn what_fits_a_transaction_stays_under_the_gas_cap() {
    let chain = Chain::start().await;
    let symbol = |number: usize| format!("{number:03}{}", "S".repeat(61));
    type Make = fn(&str) -> TokenRequest;
    let kinds: [(&str, Make); 5] = [
        ("usual first versions", |symbol| request(symbol, "1")),
        ("usual later versions", |symbol| request(symbol, "2")),
        ("longest first versions", |symbol| longest(&symbol.to_lowercase().replace('s', "t"), 'v')),
        ("longest later versions", |symbol| longest(&symbol.to_lowercase().replace('s', "t"), 'w')),
        ("longest versions once more", |symbol| longest(&symbol.to_lowercase().replace('s', "t"), 'w')),
    ];
    for (kind, make) in kinds {
        let requests: Vec<_> = (0..200).map(|number| make(&symbol(number))).collect();
        let batch = &requests[..fit(&requests, TRANSACTION_GAS_CAP, 0)];
        let call = TransactionRequest::default()
            .from(chain.deployer)
            .to(chain.registry)
            .gas_limit(TRANSACTION_GAS_CAP)
            .input(calldata(batch).expect("the requests are fit").into());
        let receipt = chain.transact(call).await;
        assert!(receipt.status(), "{kind}: {} of them do not fit", batch.len());
        assert!(batch.len() > 20 && receipt.gas_used <= TRANSACTION_GAS_CAP, "{kind}: {} in {} gas", batch.len(), receipt.gas_used);
        let outcomes = chain.outcomes(batch, &receipt);
        assert!(outcomes.iter().all(|outcome| !matches!(outcome, Outcome::Refused { .. })), "{kind}: {outcomes:?}");
    }
    // Not even an empty batch is an error.
    chain.send(chain.deployer, chain.registry, registerManyCall { records: Vec::new() }.abi_encode()).await;
}
