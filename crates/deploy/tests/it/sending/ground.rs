//! A chain with a registry, a ledger, and everything that can be broken between them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    rpc::{
        client::RpcClient,
        json_rpc::{RequestPacket, ResponsePacket},
    },
    sol_types::{SolCall, SolEvent},
    transports::{BoxTransport, TransportError, TransportErrorKind, TransportFut, http::Http},
};
use hokusai_db::Database;
use hokusai_deploy::{
    Deployment, DeploymentState, FeePolicy, Finality, Journal, Ledger, LocalSigner, MIGRATIONS, NoJournal, Node, RegistryPlan, Sender,
    SenderConfig, SenderStatus, Signer, deploy_registry,
    deployment::Patience,
    embedded::{EmbeddedChain, EmbeddedConfig, EmbeddedTransport},
    ledger::Probe,
    token::{
        IModelTokenRegistry::{TokenCreated, VersionRecorded},
        RegistryArguments, TokenRequest,
    },
};
use hokusai_testbed::{ANVIL_KEYS, Anvil, Postgres, eventually};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::Notify, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tower::Service;

pub(super) const WITHIN: Duration = Duration::from_secs(20);

/// Which database holds the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    Sqlite,
    Postgres,
}

/// What a [`Faulty`] transport does to requests, and what it saw of them.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Requests are not forwarded.
    pub(super) away: AtomicBool,
    /// Requests for sending are forwarded, and their answers lost.
    pub(super) lose_answers: AtomicBool,
    /// Requests for sending are answered with success and go nowhere.
    pub(super) swallow: AtomicBool,
    pub(super) cutter: Mutex<Option<Arc<Cutter>>>,
    /// Requests whose text contains the first are answered with the second, a `result` or an `error`, and not forwarded.
    said: Mutex<Vec<(String, Value)>>,
    pub(super) seen: Mutex<BTreeMap<String, usize>>,
}

impl Faults {
    pub(super) fn sent(&self) -> usize {
        self.seen("eth_sendRawTransaction")
    }

    pub(super) fn seen(&self, method: &str) -> usize {
        self.seen.lock().get(method).copied().unwrap_or_default()
    }

    /// Answers requests that contain `needle` with a JSON-RPC error.
    pub(super) fn refuse(&self, needle: &str, message: &str) {
        self.answer(needle, json!({ "error": { "code": -32000, "message": message } }));
    }

    /// Answers requests that contain `needle` with this.
    pub(super) fn answer(&self, needle: &str, answer: Value) {
        self.said.lock().push((needle.to_owned(), answer));
    }

    pub(super) fn be_honest(&self) {
        self.said.lock().clear();
    }

    fn lie(&self, packet: &RequestPacket) -> Option<ResponsePacket> {
        let request = packet.as_single()?;
        let text = request.serialized().get();
        let mut answer = self.said.lock().iter().find(|(needle, _)| text.contains(needle.as_str()))?.1.clone();
        answer["jsonrpc"] = json!("2.0");
        answer["id"] = json!(request.id());
        Some(serde_json::from_value(answer).unwrap())
    }
}

/// Where a [`Cutter`] stops whoever comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// At the n-th point of all.
    Nth(usize),
    /// At the n-th point of this name.
    Named(&'static str, usize),
}

impl Point {
    /// The signature is stored, and nothing sent.
    pub(super) const STORED: Self = Self::Named("sign", 1);
    /// About to be sent.
    pub(super) const SENDING: Self = Self::Named("eth_sendRawTransaction asked", 0);
    /// Sent, and the answer not yet seen.
    pub(super) const SENT: Self = Self::Named("eth_sendRawTransaction answered", 0);
    /// Sent, and not written down.
    pub(super) const SENT_UNWRITTEN: Self = Self::Named("broadcast", 0);
}

/// Stops whoever comes to a point: for ever, or until told to go on.
#[derive(Debug)]
pub(super) struct Cutter {
    at: Point,
    passed: AtomicUsize,
    pub(super) reached: Notify,
    pub(super) go_on: Notify,
    pub(super) log: Mutex<Vec<String>>,
}

impl Cutter {
    pub(super) fn new(at: Point) -> Arc<Self> {
        Arc::new(Self { at, passed: AtomicUsize::new(0), reached: Notify::new(), go_on: Notify::new(), log: Mutex::default() })
    }

    pub(super) async fn pass(&self, point: &str) {
        self.log.lock().push(point.to_owned());
        let (counts, number) = match self.at {
            Point::Nth(number) => (true, number),
            Point::Named(name, number) => (name == point, number),
        };
        if counts && self.passed.fetch_add(1, Ordering::SeqCst) == number {
            self.reached.notify_one();
            self.go_on.notified().await;
        }
    }
}

#[async_trait::async_trait]
impl Probe for Cutter {
    async fn at(&self, point: &'static str) {
        self.pass(point).await;
    }
}

/// A transport that fails on demand.
#[derive(Clone)]
struct Faulty {
    inner: BoxTransport,
    faults: Arc<Faults>,
}

impl Faulty {
    async fn ask(mut self, packet: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let method = packet.method_names().collect::<Vec<_>>().join(",");
        *self.faults.seen.lock().entry(method.clone()).or_default() += 1;
        let cutter = self.faults.cutter.lock().clone();
        if let Some(cutter) = &cutter {
            cutter.pass(&format!("{method} asked")).await;
        }
        let sending = method == "eth_sendRawTransaction";
        if self.faults.away.load(Ordering::SeqCst) || (sending && self.faults.swallow.load(Ordering::SeqCst)) {
            return Err(TransportErrorKind::custom_str("the test cut the wire"));
        }
        if let Some(answer) = self.faults.lie(&packet) {
            return Ok(answer);
        }
        let answer = self.inner.call(packet).await;
        if sending && self.faults.lose_answers.load(Ordering::SeqCst) {
            return Err(TransportErrorKind::custom_str("the test lost the answer"));
        }
        if let Some(cutter) = &cutter {
            cutter.pass(&format!("{method} answered")).await;
        }
        answer
    }
}

impl Service<RequestPacket> for Faulty {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        Box::pin(self.clone().ask(packet))
    }
}

/// Everything a test stands on. The deployer is the first development account; the second owns and controls the registry.
pub(super) struct Ground {
    _anvil: Option<Anvil>,
    /// Past the faults.
    pub(super) client: RpcClient,
    /// Through the faults.
    pub(super) node: Node,
    pub(super) faults: Arc<Faults>,
    pub(super) registry: Address,
    pub(super) db: Database,
    pub(super) db_url: String,
    dir: tempfile::TempDir,
}

impl Ground {
    pub(super) async fn embedded(store: Store) -> Self {
        let chain = EmbeddedChain::open(None, EmbeddedConfig::default()).await.unwrap();
        Self::over(BoxTransport::new(EmbeddedTransport::new(chain)), None, store).await
    }

    /// anvil that makes blocks only when told to.
    pub(super) async fn still_anvil() -> Self {
        let ground = Self::anvil(Store::Sqlite).await;
        ground.rpc("evm_setAutomine", json!([false])).await;
        ground
    }

    pub(super) async fn anvil(store: Store) -> Self {
        Self::anvil_with(&[], store).await
    }

    pub(super) async fn anvil_with(args: &[&str], store: Store) -> Self {
        let anvil = Anvil::start(args).await;
        let url = anvil.url().parse().unwrap();
        Self::over(BoxTransport::new(Http::new(url)), Some(anvil), store).await
    }

    async fn over(transport: BoxTransport, anvil: Option<Anvil>, store: Store) -> Self {
        let faults = Arc::new(Faults::default());
        let client = RpcClient::new(transport.clone(), true);
        let node = Node::over(RpcClient::new(Faulty { inner: transport, faults: faults.clone() }, true));
        let registry = deploy(&Node::over(client.clone())).await;
        let dir = tempfile::tempdir().unwrap();
        let url = match store {
            Store::Sqlite => format!("sqlite:{}", dir.path().join("ledger.db").display()),
            Store::Postgres => Postgres::start().await.database().await,
        };
        let db = Database::open(&url).await.unwrap();
        db.migrate(MIGRATIONS).await.unwrap();
        Self { _anvil: anvil, client, node, faults, registry, db, db_url: url, dir }
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.ledger_with(Arc::new(NoJournal))
    }

    pub(super) fn ledger_with(&self, journal: Arc<dyn Journal>) -> Ledger {
        Ledger::new(self.db.clone(), 31_337, self.registry, journal)
    }

    /// A ledger that knows nothing of the other: another operator's, with the same key.
    pub(super) async fn foreign_ledger(&self) -> Ledger {
        let db = Database::open(&format!("sqlite:{}", self.dir.path().join("foreign.db").display())).await.unwrap();
        db.migrate(MIGRATIONS).await.unwrap();
        Ledger::new(db, 31_337, self.registry, Arc::new(NoJournal))
    }

    pub(super) fn sender(&self, ledger: &Ledger, config: SenderConfig) -> Sender {
        Sender::new(ledger.clone(), self.node.clone(), deployer(), config)
    }

    pub(super) fn start(&self, ledger: &Ledger, config: SenderConfig) -> Running {
        self.start_as(deployer(), ledger, config)
    }

    pub(super) fn start_as(&self, signer: Arc<dyn Signer>, ledger: &Ledger, config: SenderConfig) -> Running {
        let sender = Sender::new(ledger.clone(), self.node.clone(), signer, config);
        let (status, shutdown) = (sender.status(), CancellationToken::new());
        let task = tokio::spawn(sender.run(shutdown.clone()));
        Running { status, shutdown, task }
    }

    pub(super) async fn rpc(&self, method: &'static str, params: Value) -> Value {
        self.client.request::<Value, Value>(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// A transaction of the registry's owner, whose key anvil holds, before all others in its block.
    pub(super) async fn as_owner(&self, call: impl SolCall) {
        self.as_owner_for(&call, 200_000_000_000, 100_000_000_000).await;
    }

    /// Likewise, after all others.
    pub(super) async fn as_owner_cheaply(&self, call: impl SolCall) {
        self.as_owner_for(&call, 1_000_000_000, 0).await;
    }

    async fn as_owner_for(&self, call: &impl SolCall, max_fee_wei: u128, tip_wei: u128) {
        let call = json!([{ "from": owner(), "to": self.registry, "data": Bytes::from(call.abi_encode()), "gas": "0x30000",
            "maxPriorityFeePerGas": format!("{tip_wei:#x}"), "maxFeePerGas": format!("{max_fee_wei:#x}") }]);
        self.rpc("eth_sendTransaction", call).await;
    }

    pub(super) async fn mine(&self) {
        self.rpc("evm_mine", json!([])).await;
    }

    /// The attempts the ledger holds: nonce, purpose, hash, offered fee.
    pub(super) async fn attempts(&self) -> Vec<(i64, String, String, String)> {
        sqlx::query_as("SELECT nonce, purpose, hash, max_fee_wei FROM deploy_attempts ORDER BY nonce, number")
            .fetch_all(self.db.reader())
            .await
            .unwrap()
    }

    pub(super) async fn slot_states(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT state FROM deploy_slots ORDER BY nonce").fetch_all(self.db.reader()).await.unwrap()
    }

    /// The lease as if its time had passed.
    pub(super) async fn let_lease_run_out(&self) {
        let mut tx = self.db.write().await.unwrap();
        sqlx::query("UPDATE deploy_leases SET expires_at = 0").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// How many events of a kind the registry has emitted, ever.
    pub(super) async fn events(&self, topic: B256) -> usize {
        let filter = json!([{ "address": self.registry, "fromBlock": "0x0", "toBlock": "latest", "topics": [topic] }]);
        self.rpc("eth_getLogs", filter).await.as_array().unwrap().len()
    }

    pub(super) async fn tokens(&self) -> usize {
        self.events(TokenCreated::SIGNATURE_HASH).await
    }

    /// A token's first version has no event but the token's.
    pub(super) async fn versions(&self) -> usize {
        self.tokens().await + self.events(VersionRecorded::SIGNATURE_HASH).await
    }

    pub(super) async fn nonce(&self, tag: &str) -> u64 {
        let answer = self.rpc("eth_getTransactionCount", json!([deployer().address(), tag])).await;
        u64::from_str_radix(answer.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }

    /// Every nonce that the chain counts of the deployer is one the ledger settled, except the first, which deployed the
    /// registry; nothing waits.
    pub(super) async fn check_nonces(&self) {
        let nonces: Vec<i64> =
            sqlx::query_scalar("SELECT nonce FROM deploy_slots ORDER BY nonce").fetch_all(self.db.reader()).await.unwrap();
        assert_eq!(nonces, (1..=i64::try_from(nonces.len()).unwrap()).collect::<Vec<_>>());
        let states = self.slot_states().await;
        assert!(states.iter().all(|state| state == "final"), "{states:?}");
        assert_eq!(self.nonce("latest").await, nonces.len() as u64 + 1);
        assert_eq!(self.nonce("pending").await, nonces.len() as u64 + 1);
    }
}

pub(super) fn deployer() -> Arc<LocalSigner> {
    Arc::new(LocalSigner::from_hex(ANVIL_KEYS[0]).unwrap())
}

pub(super) fn owner() -> Address {
    LocalSigner::from_hex(ANVIL_KEYS[1]).unwrap().address()
}

async fn deploy(node: &Node) -> Address {
    let arguments = RegistryArguments { owner: owner(), controller: owner(), deployer: deployer().address(), initial_supply: None };
    let plan = RegistryPlan { arguments, one_key_for_all: false, fees: FeePolicy::default(), patience: WITHIN };
    deploy_registry(node, &*deployer(), &plan).await.unwrap().address
}

/// A sender in a task of its own; aborted when dropped, as a crash would.
pub(super) struct Running {
    pub(super) status: watch::Receiver<SenderStatus>,
    pub(super) shutdown: CancellationToken,
    task: JoinHandle<Result<(), hokusai_deploy::Error>>,
}

impl Running {
    pub(super) async fn stop(mut self) {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap().unwrap();
    }

    pub(super) async fn reports(&mut self, what: &str, wanted: impl Fn(&SenderStatus) -> bool) -> SenderStatus {
        let status = tokio::time::timeout(WITHIN, self.status.wait_for(wanted)).await;
        status.unwrap_or_else(|_| panic!("not within {WITHIN:?}: {what}")).unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// As impatient as a test.
pub(super) fn config() -> SenderConfig {
    SenderConfig {
        batch_window: Duration::ZERO,
        idle_poll: Duration::from_millis(20),
        chain_poll_min: Duration::from_millis(1),
        chain_poll_max: Duration::from_millis(20),
        outage_pause_max: Duration::from_millis(20),
        patience: Patience { stuck_after_ms: 60_000, resend_after_ms: 50, lost_after_ms: 300, refused_after_ms: 60_000 },
        hold_back_min: Duration::from_millis(20),
        ..SenderConfig::new(Finality::Confirmations(1))
    }
}

pub(super) fn request(symbol: &str, version: &str) -> TokenRequest {
    TokenRequest {
        symbol: symbol.to_owned(),
        model_name: "sentiment model".to_owned(),
        model_version: version.to_owned(),
        model_id: format!("sentiment model/{version}/{symbol}"),
        mlflow_run_id: "b1946ac92492d2347c6235b4d2611184".to_owned(),
        metric_name: "accuracy".to_owned(),
        baseline_value: 0.85,
        current_value: 0.91,
        lower_is_better: false,
        contributor: Some(Address::repeat_byte(0x42)),
        message_id: format!("message {symbol} {version}"),
        correlation_id: "correlation".to_owned(),
        registration_id: None,
    }
}

pub(super) async fn until_settled(ledger: &Ledger, planned: &[Deployment]) -> Vec<Deployment> {
    until_settled_within(ledger, planned, WITHIN).await
}

pub(super) async fn until_settled_within(ledger: &Ledger, planned: &[Deployment], within: Duration) -> Vec<Deployment> {
    eventually("every deployment is settled", within, async || {
        let mut settled = Vec::new();
        for deployment in planned {
            settled.push(ledger.get(&deployment.id).await.unwrap().unwrap());
        }
        settled.iter().all(|deployment| deployment.state.is_settled()).then_some(settled)
    })
    .await
}

pub(super) async fn until_state(ledger: &Ledger, planned: &Deployment, state: DeploymentState) -> Deployment {
    eventually(&format!("the deployment is {state}"), WITHIN, async || {
        let deployment = ledger.get(&planned.id).await.unwrap().unwrap();
        (deployment.state == state).then_some(deployment)
    })
    .await
}

pub(super) fn sum<'a>(shares: impl IntoIterator<Item = &'a Deployment>) -> (u64, U256) {
    shares
        .into_iter()
        .fold((0, U256::ZERO), |(gas, fee), deployment| (gas + deployment.gas_used.unwrap(), fee + deployment.fee_wei.unwrap()))
}
