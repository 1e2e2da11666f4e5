//! The registry contract on a real chain, through the crate's own encoding and reading.

mod gas;

use std::time::Duration;

use alloy::{
    network::TransactionBuilder,
    primitives::{Address, B256, Bytes, Log, U256, keccak256},
    providers::{Provider, RootProvider},
    rpc::types::{TransactionReceipt, TransactionRequest},
    signers::{SignerSync, local::PrivateKeySigner},
    sol,
    sol_types::{SolCall, SolValue},
};
use hokusai_deploy::token::{
    IModelToken, IModelTokenRegistry as Registry, INTERFACE_VERSION, ModelTokenRegistry as Ours, Outcome, RegistryArguments, Revert,
    TokenRequest, calldata, fit, gas_bound, read_outcomes, read_revert, registry_init_code, supply_gas, to_fixed_point, token_address,
};
use hokusai_testbed::{ANVIL_KEYS, Anvil, eventually};

sol! {
    interface Erc20 {
        function name() external view returns (string memory);
        function symbol() external view returns (string memory);
        function decimals() external view returns (uint8);
        function totalSupply() external view returns (uint256);
        function balanceOf(address owner) external view returns (uint256);
        function allowance(address owner, address spender) external view returns (uint256);
        function nonces(address owner) external view returns (uint256);
        function DOMAIN_SEPARATOR() external view returns (bytes32);
        function transferFrom(address from, address to, uint256 amount) external returns (bool);
        function permit(address owner, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
            external;
    }
}

const DEPLOYER: u8 = 0;
const CONTROLLER: u8 = 1;
/// The canonical Permit2, to which Solady's ERC-20 would give an allowance over everything.
const PERMIT2: Address = alloy::primitives::address!("000000000022D473030F116dDEE9F6B43aC78BA3");

/// A registry on an anvil of its own. The accounts are anvil's first three, which it signs for.
struct Chain {
    _anvil: Anvil,
    provider: RootProvider,
    registry: Address,
    registry_gas: u64,
    deployer: Address,
    owner: Address,
    controller: Address,
}

fn account(key: usize) -> PrivateKeySigner {
    ANVIL_KEYS[key].parse().expect("anvil's keys are keys")
}

impl Chain {
    async fn start() -> Self {
        Self::start_with_supply(None).await
    }

    async fn start_with_supply(initial_supply: Option<(U256, Address)>) -> Self {
        let anvil = Anvil::start(&["--silent"]).await;
        let provider = RootProvider::new_http(anvil.url().parse().expect("anvil's address is a URL"));
        let [deployer, owner, controller] = [0, 1, 2].map(|key| account(key).address());
        let mut chain = Self { _anvil: anvil, provider, registry: Address::ZERO, registry_gas: 0, deployer, owner, controller };
        let code = registry_init_code(&RegistryArguments { owner, controller, deployer, initial_supply });
        let receipt = chain.transact(TransactionRequest::default().from(deployer).with_deploy_code(code)).await;
        chain.registry_gas = receipt.gas_used;
        chain.registry = receipt.contract_address.expect("the registry was created");
        chain
    }

    async fn transact(&self, transaction: TransactionRequest) -> TransactionReceipt {
        let pending = self.provider.send_transaction(transaction).await.expect("anvil takes the transaction");
        let hash = *pending.tx_hash();
        eventually("the transaction is mined", Duration::from_secs(10), async || {
            self.provider.get_transaction_receipt(hash).await.expect("anvil answers")
        })
        .await
    }

    /// Sends a call that succeeds.
    async fn send(&self, from: Address, to: Address, data: impl Into<Bytes>) -> TransactionReceipt {
        let receipt = self.transact(TransactionRequest::default().from(from).to(to).input(data.into().into())).await;
        assert!(receipt.status(), "the transaction reverted");
        receipt
    }

    /// The data with which a call reverts.
    async fn revert(&self, from: Address, to: Address, data: impl Into<Bytes>) -> Bytes {
        let call = TransactionRequest::default().from(from).to(to).input(data.into().into());
        let error = self.provider.call(call).await.expect_err("the call reverts");
        error.as_error_resp().and_then(|response| response.as_revert_data()).unwrap_or_default()
    }

    async fn view<C: SolCall>(&self, to: Address, call: C) -> C::Return {
        let call = TransactionRequest::default().to(to).input(call.abi_encode().into());
        let returned = self.provider.call(call).await.expect("the view answers");
        C::abi_decode_returns(&returned).expect("the view answers in its type")
    }

    /// Registers the requests and reads what became of each; also the gas, which is within the bound.
    async fn register_at_cost(&self, requests: &[TokenRequest]) -> (Vec<Outcome>, u64) {
        let receipt = self.send(self.deployer, self.registry, calldata(requests).expect("the requests are fit")).await;
        let supply = self.view(self.registry, Ours::initialSupplyCall {}).await;
        let bound = 31_000 + requests.iter().map(|request| gas_bound(request, supply_gas(supply))).sum::<u64>();
        assert!(receipt.gas_used <= bound, "{} gas is above the bound of {bound}", receipt.gas_used);
        (self.outcomes(requests, &receipt), receipt.gas_used)
    }

    async fn register(&self, requests: &[TokenRequest]) -> Vec<Outcome> {
        self.register_at_cost(requests).await.0
    }

    fn outcomes(&self, requests: &[TokenRequest], receipt: &TransactionReceipt) -> Vec<Outcome> {
        let logs: Vec<Log> = receipt.logs().iter().map(|log| log.inner.clone()).collect();
        read_outcomes(self.registry, requests, &logs).expect("the logs tell of every request")
    }

    /// The registry's own word on where the symbol's token is, which is also ours.
    async fn token(&self, symbol: &str) -> Address {
        let theirs = self.view(self.registry, Registry::tokenAddressCall { symbol: symbol.to_owned() }).await;
        assert_eq!(token_address(self.registry, symbol), theirs, "{symbol}");
        theirs
    }

    async fn version_number(&self, request: &TokenRequest) -> U256 {
        self.view(self.registry, Registry::versionNumberCall { version: request.version_id() }).await
    }
}

fn request(symbol: &str, version: &str) -> TokenRequest {
    TokenRequest {
        symbol: symbol.to_owned(),
        model_name: "sentiment-classifier".to_owned(),
        model_version: version.to_owned(),
        model_id: format!("sentiment-classifier/{version}/{symbol}"),
        mlflow_run_id: "0123456789abcdef0123456789abcdef".to_owned(),
        metric_name: "accuracy".to_owned(),
        baseline_value: 0.82,
        current_value: 0.875,
        lower_is_better: false,
        contributor: Some(Address::repeat_byte(0x42)),
        message_id: "a message".to_owned(),
        correlation_id: "a correlation".to_owned(),
        registration_id: None,
    }
}

fn fixed(value: f64) -> i128 {
    to_fixed_point("value", value).expect("the value fits")
}

#[tokio::test]
async fn one_registration_creates_a_token_that_tells_what_it_stands_for() {
    let chain = Chain::start().await;
    assert_eq!(chain.view(chain.registry, Registry::interfaceVersionCall {}).await, *INTERFACE_VERSION);
    let wanted = request("MSG-AI", "1");
    let token = chain.token("MSG-AI").await;
    assert_eq!(chain.view(chain.registry, Registry::tokenOfCall { symbol: "MSG-AI".to_owned() }).await, Address::ZERO);
    assert_eq!(chain.version_number(&wanted).await, U256::ZERO);

    assert_eq!(chain.register(std::slice::from_ref(&wanted)).await, [Outcome::TokenCreated { token }]);
    assert_eq!(chain.view(chain.registry, Registry::tokenOfCall { symbol: "msg-ai".to_owned() }).await, token);
    assert_eq!(chain.version_number(&wanted).await, U256::ONE);

    assert_eq!(chain.view(token, Erc20::nameCall {}).await, "Hokusai MSG-AI");
    assert_eq!(chain.view(token, Erc20::symbolCall {}).await, "MSG-AI");
    assert_eq!(chain.view(token, Erc20::decimalsCall {}).await, 18);
    assert_eq!(chain.view(token, Erc20::totalSupplyCall {}).await, U256::ZERO);
    assert_carries(&chain, token, &wanted).await;
    assert_eq!(chain.view(token, IModelToken::versionCountCall {}).await, U256::ONE);
    assert_eq!(chain.view(token, IModelToken::currentMetricCall {}).await, fixed(0.875));
    assert_eq!(chain.view(token, IModelToken::latestVersionCall {}).await, "1");
}

/// The token's first version is `first`.
async fn assert_carries(chain: &Chain, token: Address, first: &TokenRequest) {
    assert_eq!(chain.view(token, IModelToken::registryCall {}).await, chain.registry);
    assert_eq!(chain.view(token, IModelToken::modelNameCall {}).await, first.model_name);
    assert_eq!(chain.view(token, IModelToken::modelVersionCall {}).await, first.model_version);
    assert_eq!(chain.view(token, IModelToken::modelIdCall {}).await, first.model_id);
    assert_eq!(chain.view(token, IModelToken::metricNameCall {}).await, first.metric_name);
    assert_eq!(chain.view(token, IModelToken::lowerIsBetterCall {}).await, first.lower_is_better);
    assert_eq!(chain.view(token, IModelToken::baselineMetricCall {}).await, fixed(first.baseline_value));
    assert_eq!(chain.view(token, IModelToken::contributorCall {}).await, first.contributor.unwrap_or_default());
}

#[tokio::test]
async fn whatever_fits_the_bounds_is_carried_whole() {
    let chain = Chain::start().await;
    let longest = TokenRequest {
        symbol: format!("{}Z", "a-9".repeat(21)),
        model_name: "模".repeat(85) + "n",
        model_version: "v".repeat(256),
        model_id: "i".repeat(1024),
        mlflow_run_id: "r".repeat(256),
        metric_name: "m".repeat(256),
        baseline_value: 1.7e20,
        current_value: -1.7e20,
        lower_is_better: true,
        ..request("", "")
    };
    let shortest = TokenRequest {
        symbol: "x".to_owned(),
        model_name: "n".to_owned(),
        model_id: "an id of a foreign producer".to_owned(),
        mlflow_run_id: String::new(),
        metric_name: "m".to_owned(),
        baseline_value: -0.5,
        current_value: 0.0,
        contributor: None,
        ..request("", "v")
    };
    let longest_name = TokenRequest { model_name: "n".repeat(256), ..request("LONG", "1") };
    for first in [longest, shortest, longest_name] {
        let token = chain.token(&first.symbol).await;
        assert_eq!(chain.register(std::slice::from_ref(&first)).await, [Outcome::TokenCreated { token }]);
        assert_carries(&chain, token, &first).await;
        assert_eq!(chain.view(token, IModelToken::currentMetricCall {}).await, fixed(first.current_value));
        assert_eq!(chain.view(token, IModelToken::latestVersionCall {}).await, first.model_version);
        assert_eq!(chain.view(token, Erc20::nameCall {}).await, format!("Hokusai {}", first.symbol));
        assert_eq!(chain.register(std::slice::from_ref(&first)).await, [Outcome::AlreadyRecorded { token }]);
        let second = TokenRequest { model_version: "w".repeat(256), ..first };
        let recorded = Outcome::VersionRecorded { token, number: 2 };
        assert_eq!(chain.register(std::slice::from_ref(&second)).await, [recorded]);
        assert_eq!(chain.view(token, IModelToken::latestVersionCall {}).await, second.model_version);
    }
}

#[tokio::test]
async fn a_repeat_changes_nothing_whatever_its_casing_or_contributor() {
    let chain = Chain::start().await;
    let first = request("Msg-AI", "1");
    let token = chain.token("mSG-ai").await;
    chain.register(std::slice::from_ref(&first)).await;
    let repeats = [
        first.clone(),
        TokenRequest { symbol: "MSG-ai".to_owned(), ..first.clone() },
        TokenRequest { contributor: Some(Address::repeat_byte(0x13)), current_value: 0.99, ..first.clone() },
    ];
    assert_eq!(chain.register(&repeats[..1]).await, [Outcome::AlreadyRecorded { token }]);
    assert_eq!(chain.register(&repeats).await, vec![Outcome::AlreadyRecorded { token }; 3]);
    assert_eq!(chain.view(token, Erc20::symbolCall {}).await, "Msg-AI");
    assert_carries(&chain, token, &first).await;
    assert_eq!(chain.view(token, IModelToken::currentMetricCall {}).await, fixed(0.875));
}

#[tokio::test]
async fn later_versions_are_recorded_once_and_leave_the_first_as_it_was() {
    let chain = Chain::start().await;
    let first = request("MSG-AI", "1");
    chain.register(std::slice::from_ref(&first)).await;
    let token = chain.token("MSG-AI").await;
    let second =
        TokenRequest { current_value: 0.9, contributor: Some(Address::repeat_byte(0x13)), symbol: "msg-ai".to_owned(), ..request("", "2") };
    assert_eq!(chain.register(std::slice::from_ref(&second)).await, [Outcome::VersionRecorded { token, number: 2 }]);
    assert_eq!(chain.register(std::slice::from_ref(&second)).await, [Outcome::AlreadyRecorded { token }]);
    assert_eq!(chain.view(token, IModelToken::currentMetricCall {}).await, fixed(0.9));

    let long = "a version of more than eleven bytes";
    let third = TokenRequest { current_value: 0.85, ..request("MSG-AI", long) };
    let other_metric = TokenRequest { metric_name: "perplexity".to_owned(), current_value: 20.0, ..request("MSG-AI", "4") };
    let other_model = TokenRequest { model_name: "another".to_owned(), ..request("MSG-AI", "1") };
    let batch = [third.clone(), first.clone(), other_metric, third, other_model];
    let expected = [
        Outcome::VersionRecorded { token, number: 3 },
        Outcome::AlreadyRecorded { token },
        Outcome::VersionRecorded { token, number: 4 },
        Outcome::AlreadyRecorded { token },
        Outcome::VersionRecorded { token, number: 5 },
    ];
    assert_eq!(chain.register(&batch[..1]).await, expected[..1]);
    assert_eq!(chain.view(token, IModelToken::latestVersionCall {}).await, long);
    assert_eq!(chain.register(&batch[1..]).await, expected[1..]);
    assert_eq!(chain.view(token, IModelToken::latestVersionCall {}).await, "1");
    assert_eq!(chain.view(token, IModelToken::versionCountCall {}).await, U256::from(5));
    assert_carries(&chain, token, &first).await;

    let asked = batch.iter().chain([&second]).map(TokenRequest::version_id).collect();
    let numbers = chain.view(chain.registry, Registry::versionNumbersCall { versions: asked }).await;
    assert_eq!(numbers, [3, 1, 4, 3, 5, 2].map(U256::from));
}

#[tokio::test]
async fn a_version_by_another_metric_leaves_the_current_metric() {
    let chain = Chain::start().await;
    chain.register(&[request("MSG-AI", "1")]).await;
    let token = chain.token("MSG-AI").await;
    let by_loss = TokenRequest {
        metric_name: "loss".to_owned(),
        baseline_value: 3.0,
        current_value: 2.0,
        lower_is_better: true,
        ..request("MSG-AI", "2")
    };
    assert_eq!(chain.register(&[by_loss]).await, [Outcome::VersionRecorded { token, number: 2 }]);
    assert_eq!(chain.view(token, IModelToken::currentMetricCall {}).await, fixed(0.875));
    assert_eq!(chain.view(token, IModelToken::latestVersionCall {}).await, "2");
}

#[tokio::test]
async fn every_item_of_a_batch_gets_its_outcome() {
    let chain = Chain::start().await;
    for size in [2, 10, 150] {
        let batch = |version: &str| -> Vec<_> { (0..size).map(|number| request(&format!("T{size}-{number:03}"), version)).collect() };
        let first = batch("1");
        for (request, outcome) in first.iter().zip(chain.register(&first).await) {
            assert_eq!(outcome, Outcome::TokenCreated { token: chain.token(&request.symbol).await });
        }
        let recorded = |outcome: &Outcome| matches!(outcome, Outcome::VersionRecorded { number: 2, .. });
        assert!(chain.register(&batch("2")).await.iter().all(recorded));
        let repeated = |outcome: &Outcome| matches!(outcome, Outcome::AlreadyRecorded { .. });
        assert!(chain.register(&batch("2")).await.iter().all(repeated));
    }
}

#[tokio::test]
async fn a_refused_item_is_skipped_in_a_batch_and_reverts_alone() {
    let chain = Chain::start().await;
    let good = request("GOOD", "1");
    let record = |change: fn(&mut Registry::ModelRecord)| {
        let mut record = request("BAD", "1").record().expect("the request is fit");
        change(&mut record);
        record
    };
    let bad = [
        (record(|r| r.symbol = "BAD_SYMBOL".to_owned()), "token_symbol"),
        (record(|r| r.symbol = "é".to_owned()), "token_symbol"),
        (record(|r| r.symbol = "s".repeat(65)), "token_symbol"),
        (record(|r| r.symbol = String::new()), "token_symbol"),
        (record(|r| r.modelName = String::new()), "model_name"),
        (record(|r| r.modelVersion = "v".repeat(257)), "model_version"),
        (record(|r| r.modelId = "i".repeat(1025)), "model_id"),
        (record(|r| r.runId = "r".repeat(257)), "mlflow_run_id"),
        (record(|r| r.metricName = String::new()), "metric_name"),
        (record(|r| r.current = r.baseline - 1), "current_value"),
        (record(|r| r.lowerIsBetter = true), "current_value"),
    ];
    for (record, field) in bad {
        let alone = Registry::registerCall { record: record.clone() }.abi_encode();
        let Revert::Refused { reason } = read_revert(&chain.revert(chain.deployer, chain.registry, alone).await) else {
            panic!("{field}: not refused alone");
        };
        assert!(reason.starts_with(field), "{reason}");

        let requests = [request("BAD", "1"), good.clone()];
        let records = vec![record, good.record().expect("the request is fit")];
        let data = Registry::registerManyCall { records }.abi_encode();
        let receipt = chain.send(chain.deployer, chain.registry, data).await;
        let outcomes = chain.outcomes(&requests, &receipt);
        assert!(matches!(&outcomes[0], Outcome::Refused { reason } if reason.starts_with(field)), "{outcomes:?}");
        assert!(!matches!(outcomes[1], Outcome::Refused { .. }), "{outcomes:?}");
    }
    assert_eq!(chain.version_number(&good).await, U256::ONE);
    assert_eq!(chain.version_number(&request("BAD", "1")).await, U256::ZERO);
}

#[tokio::test]
async fn only_deployers_register_and_only_the_owner_governs() {
    let chain = Chain::start().await;
    let data = calldata(&[request("MSG-AI", "1")]).expect("the request is fit");
    for stranger in [chain.owner, chain.controller] {
        let revert = read_revert(&chain.revert(stranger, chain.registry, data.clone()).await);
        assert_eq!(revert, Revert::NotDeployer { account: stranger });
    }
    let governing: [Vec<u8>; 5] = [
        Ours::grantRoleCall { role: CONTROLLER, account: chain.deployer }.abi_encode(),
        Ours::revokeRoleCall { role: CONTROLLER, account: chain.controller }.abi_encode(),
        Ours::pauseCall {}.abi_encode(),
        Ours::transferOwnershipCall { newOwner: chain.deployer }.abi_encode(),
        Ours::acceptOwnershipCall {}.abi_encode(),
    ];
    for call in governing {
        for stranger in [chain.deployer, chain.controller] {
            chain.revert(stranger, chain.registry, call.clone()).await;
        }
    }

    chain.send(chain.owner, chain.registry, Ours::pauseCall {}.abi_encode()).await;
    assert_eq!(read_revert(&chain.revert(chain.deployer, chain.registry, data.clone()).await), Revert::Paused);
    chain.send(chain.owner, chain.registry, Ours::unpauseCall {}.abi_encode()).await;

    let revoke = Ours::revokeRoleCall { role: DEPLOYER, account: chain.deployer }.abi_encode();
    chain.send(chain.owner, chain.registry, revoke).await;
    let revert = read_revert(&chain.revert(chain.deployer, chain.registry, data.clone()).await);
    assert_eq!(revert, Revert::NotDeployer { account: chain.deployer });
    let grant = Ours::grantRoleCall { role: DEPLOYER, account: chain.deployer }.abi_encode();
    chain.send(chain.owner, chain.registry, grant).await;
    chain.send(chain.deployer, chain.registry, data).await;
}

#[tokio::test]
async fn ownership_moves_in_two_steps_and_never_to_nobody() {
    let chain = Chain::start().await;
    let transfer = Ours::transferOwnershipCall { newOwner: chain.controller }.abi_encode();
    chain.send(chain.owner, chain.registry, transfer).await;
    assert_eq!(chain.view(chain.registry, Ours::ownerCall {}).await, chain.owner);
    chain.send(chain.controller, chain.registry, Ours::acceptOwnershipCall {}.abi_encode()).await;
    assert_eq!(chain.view(chain.registry, Ours::ownerCall {}).await, chain.controller);
    let renounce = keccak256("renounceOwnership()")[..4].to_vec();
    let revert = chain.revert(chain.controller, chain.registry, renounce).await;
    assert_eq!(revert[..], keccak256("OwnerRequired()")[..4]);
}

#[tokio::test]
async fn only_controllers_mint_and_holders_burn() {
    let chain = Chain::start().await;
    chain.register(&[request("MSG-AI", "1")]).await;
    let token = chain.token("MSG-AI").await;
    let mint = IModelToken::mintCall { to: chain.owner, amount: U256::from(100) }.abi_encode();
    for stranger in [chain.deployer, chain.owner] {
        let revert = chain.revert(stranger, token, mint.clone()).await;
        assert_eq!(revert[..4], keccak256("NotController(address)")[..4]);
        let initial = [&keccak256("mintInitialSupply(address,uint256)")[..4], &(stranger, U256::ONE).abi_encode()].concat();
        chain.revert(stranger, token, initial).await;
    }
    chain.send(chain.controller, token, mint).await;
    chain.send(chain.owner, token, IModelToken::burnCall { amount: U256::from(30) }.abi_encode()).await;
    let burn_from = IModelToken::burnFromCall { owner: chain.owner, amount: U256::ONE }.abi_encode();
    chain.revert(chain.deployer, token, burn_from).await;
    assert_eq!(chain.view(token, Erc20::totalSupplyCall {}).await, U256::from(70));
    let allowance = Erc20::allowanceCall { owner: chain.owner, spender: PERMIT2 };
    assert_eq!(chain.view(token, allowance).await, U256::ZERO);
}

#[tokio::test]
async fn a_permit_gives_an_allowance_by_signature() {
    let chain = Chain::start().await;
    chain.register(&[request("MSG-AI", "1")]).await;
    let token = chain.token("MSG-AI").await;
    let mint = IModelToken::mintCall { to: chain.owner, amount: U256::from(100) }.abi_encode();
    chain.send(chain.controller, token, mint).await;

    let (holder, spender, value, deadline) = (account(1), chain.deployer, U256::from(40), U256::MAX);
    let domain = chain.view(token, Erc20::DOMAIN_SEPARATORCall {}).await;
    assert_eq!(domain, domain_of("Hokusai MSG-AI", token));
    let kind = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    let permit = keccak256((kind, holder.address(), spender, value, U256::ZERO, deadline).abi_encode());
    let signature = holder.sign_hash_sync(&keccak256([&[0x19, 0x01], &domain[..], &permit[..]].concat())).expect("signs");
    let call = Erc20::permitCall {
        owner: holder.address(),
        spender,
        value,
        deadline,
        v: 27 + u8::from(signature.v()),
        r: signature.r().into(),
        s: signature.s().into(),
    };
    chain.send(spender, token, call.abi_encode()).await;
    chain.revert(spender, token, call.abi_encode()).await;
    let transfer = Erc20::transferFromCall { from: holder.address(), to: spender, amount: value };
    chain.send(spender, token, transfer.abi_encode()).await;
    assert_eq!(chain.view(token, Erc20::balanceOfCall { owner: spender }).await, value);
    assert_eq!(chain.view(token, Erc20::noncesCall { owner: holder.address() }).await, U256::ONE);
}

fn domain_of(name: &str, token: Address) -> B256 {
    let kind = keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    keccak256((kind, keccak256(name), keccak256("1"), U256::from(31337), token).abi_encode())
}

#[tokio::test]
async fn an_initial_supply_is_created_with_each_token_and_only_then() {
    let (supply, holder) = (U256::from(1_000_000), Address::repeat_byte(0x77));
    let chain = Chain::start_with_supply(Some((supply, holder))).await;
    for symbol in ["ONE", "TWO"] {
        for version in ["1", "2"] {
            chain.register(&[request(symbol, version)]).await;
        }
        let token = chain.token(symbol).await;
        assert_eq!(chain.view(token, Erc20::balanceOfCall { owner: holder }).await, supply);
        assert_eq!(chain.view(token, Erc20::totalSupplyCall {}).await, supply);
    }
    // The holder of so many is one who holds none of the next.
    let requests: Vec<_> = (0..150).map(|number| request(&format!("SUPPLIED-{number}"), "1")).collect();
    let batch = &requests[..fit(&requests, 16_777_216, supply_gas(supply))];
    let (outcomes, gas) = chain.register_at_cost(batch).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::TokenCreated { .. })) && gas <= 16_777_216, "{gas}");
    assert!(batch.len() > 80, "{} in {gas} gas: the bound is too high to be of use", batch.len());
}

#[tokio::test]
async fn a_token_is_where_both_sides_say_and_nobody_can_put_anything_else_there() {
    let chain = Chain::start().await;
    for symbol in ["a", "Z", "0", "-", "--", "MSG-AI", "msg-ai", "mSg-Ai", &"Q".repeat(64), &"aB-9".repeat(16)] {
        chain.token(symbol).await;
    }
    assert_eq!(chain.token("MSG-AI").await, chain.token("msg-ai").await);
    assert_ne!(chain.token("MSG-AI").await, chain.token("MSG-A1").await);
    // The registry's own code, the implementation's, and none: not tokens.
    let implementation = chain.view(chain.registry, Ours::tokenImplementationCall {}).await;
    for token in [chain.registry, implementation, chain.owner] {
        let version = chain.view(chain.registry, Registry::latestVersionCall { token }).await;
        assert_eq!((version.number, version.modelVersion.as_str(), version.metric), (U256::ZERO, "", 0));
    }
    let pending = chain.provider.call(TransactionRequest::default().to(chain.registry)).await.expect("the registry answers");
    assert!(pending.is_empty(), "nothing is under construction between transactions");
}

#[tokio::test]
async fn too_little_gas_reverts_the_whole_and_skips_nothing() {
    let chain = Chain::start().await;
    let batch: Vec<_> = (0..5).map(|number| request(&format!("T{number}"), "1")).collect();
    let call =
        TransactionRequest::default().from(chain.deployer).to(chain.registry).input(calldata(&batch).expect("the requests are fit").into());
    let enough = chain.provider.estimate_gas(call.clone()).await.expect("anvil estimates");
    for gas in [enough / 4, enough / 2, enough * 3 / 4, enough - 15_000] {
        let receipt = chain.transact(call.clone().gas_limit(gas)).await;
        assert!(!receipt.status(), "{gas} of {enough} gas is not enough");
    }
    let receipt = chain.transact(call.gas_limit(enough)).await;
    let outcomes = chain.outcomes(&batch, &receipt);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::TokenCreated { .. })), "{outcomes:?}");
}
