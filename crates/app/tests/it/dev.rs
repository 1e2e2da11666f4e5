//! `hokusai dev`: all roles in one process, on a chain of its own.

use std::{collections::BTreeMap, time::Duration};

use hokusai_deploy::token::contract::version_key;
use hokusai_testbed::free_port;
use serde_json::{Value, json};

use crate::{
    program::{Place, Role},
    services::{Api, cast, history, request, rpc},
};

/// A `dev` that can be killed and started again where it was.
struct Dev {
    place: Place,
    api: Api,
    rpc: String,
}

impl Dev {
    fn new() -> Self {
        let api = Api::at(free_port());
        let rpc_listen = format!("127.0.0.1:{}", free_port());
        let place = Place::new().with("HOKUSAI_LISTEN", api.listen()).with("HOKUSAI_RPC_LISTEN", &rpc_listen);
        Self { place, api, rpc: format!("http://{rpc_listen}") }
    }

    async fn start(&self) -> Role {
        let mut role = self.place.start(&["dev"]);
        role.answers(&self.api.url).await;
        role
    }

    async fn registration(&self, id: &str) -> Option<Value> {
        self.api.get(&format!("/api/v1/registrations/{id}")).await
    }

    async fn deployed(&self, role: &mut Role, id: &str) -> Value {
        role.until(&format!("deployed {id}"), async |_| self.registration(id).await.filter(|one| one["status"] == "deployed")).await
    }

    fn registry(role: &Role) -> String {
        let log = role.log();
        let line = log.lines().find(|line| line.starts_with("registry")).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    }
}

#[tokio::test]
async fn what_it_prints_works_as_pasted() {
    let dev = Dev::new();
    let mut role = dev.start().await;
    role.prints("and see its token").await;
    let log = role.log();
    let curls: Vec<_> = log.lines().map(str::trim).filter(|line| line.starts_with("curl ")).collect();
    let registered = dev.place.shell(curls[0]).json();
    assert_eq!((&registered["status"], &registered["model_id"]), (&json!("queued"), &json!("msg-model/1/msg-ai")), "{registered}");
    let deployed = dev.deployed(&mut role, registered["registration_id"].as_str().unwrap()).await;
    let token = dev.place.shell(curls[1]).json();
    assert_eq!(token["token_address"], deployed["deployment"]["token_address"]);

    // The chain says the same to somebody who knows nothing of us.
    let address = token["token_address"].as_str().unwrap();
    let call = |signature: &str| cast(&dev.place, &["call", address, signature, "--rpc-url", &dev.rpc]);
    assert_eq!((call("name()(string)"), call("symbol()(string)")), ("\"Hokusai msg-ai\"".into(), "\"msg-ai\"".into()));
    assert_eq!(call("modelName()(string)"), "\"msg-model\"");
    let hash = deployed["deployment"]["transaction_hash"].as_str().unwrap();
    assert_eq!(cast(&dev.place, &["receipt", hash, "status", "--rpc-url", &dev.rpc]), "true");
    let dashboard = reqwest::get(&dev.api.url).await.unwrap().status();
    assert!(dashboard.is_success() || dashboard.as_u16() == 404, "{dashboard}");
    role.stop("TERM").await;
}

#[tokio::test]
async fn a_second_one_on_the_same_directory_is_refused() {
    let dev = Dev::new();
    let role = dev.start().await;
    let second = Dev::new();
    let data = dev.place.path().join("data").display().to_string();
    let place = second.place.with("HOKUSAI_DATA_DIR", &data);
    let complaint = place.run(&["dev"]).failed(1);
    assert!(complaint.contains("another `hokusai dev`") && complaint.contains(&data), "{complaint}");
    role.stop("INT").await;
    // Once the first is gone there is nothing in the way.
    let role = place.start(&["dev"]);
    let mut role = role;
    role.answers(&second.api.url).await;
    role.stop("TERM").await;
    assert!(Dev::new().place.with("HOKUSAI_RPC_LISTEN", "0.0.0.0:0").run(&["dev"]).failed(1).contains("HOKUSAI_RPC_LISTEN"));
}

/// What had been seen before a SIGKILL is there after it: registrations, blocks, receipts. What was under way is finished,
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_loses_and_repeats_nothing() {
    let dev = Dev::new().with_short_leases();
    let mut answered: BTreeMap<String, Value> = BTreeMap::new();
    let mut run = 0;
    let mut registry = String::new();
    for round in 0..ROUNDS {
        let mut role = dev.start().await;
        role.prints("and see its token").await;
        registry = Dev::registry(&role);
        let before = answered.len();
        let moment = Duration::from_millis(fastrand::u64(0..400));
        let kill = tokio::time::sleep(moment);
        let mut kill = std::pin::pin!(kill);
        // Registers until the kill, some at once; what was not answered may or may not have been registered.
        loop {
            let batch: Vec<Value> = (0..5)
                .map(|_| {
                    run += 1;
                    model(run)
                })
                .collect();
            let answers = futures_util::future::join_all(batch.iter().map(|request| dev.api.try_register(request)));
            tokio::select! {
                answers = answers => for answer in answers.into_iter().flatten() {
                    answered.insert(answer["registration_id"].as_str().unwrap().to_owned(), answer);
                },
                () = &mut kill => break,
            }
        }
        let seen = Seen::by(&dev).await;
        role.kill();
        let role = dev.start().await;
        seen.assert_still_there(&dev, &format!("round {round}, killed after {moment:?}, {} answered", answered.len() - before)).await;
        role.kill();
    }
    let mut role = dev.start().await;
    let all = role
        .until("deployed everything", async |_| {
            let all = dev.api.registrations().await?;
            all.values().all(|one| one["status"] == "deployed").then_some(all)
        })
        .await;
    for (id, answer) in &answered {
        assert_eq!(all[id]["model_id"], answer["model_id"], "an answered registration is lost");
    }
    let history = history(&dev.rpc, &registry).await;
    history.assert_exactly_once();
    assert_eq!(history.versions.len(), all.len());
    for one in all.values() {
        let text = |name: &str| one[name].as_str().unwrap();
        let key = version_key(text("token_id"), text("model_name"), text("model_version"));
        assert!(history.versions.contains(&key), "{} is called deployed and is not on the chain", one["model_id"]);
    }
    role.until("emptied the queue", async |_| {
        let queues = dev.place.run(&["queue", "stats", "--json"]).json();
        ["main", "processing", "delayed", "dlq"].iter().all(|state| queues[state] == 0).then_some(())
    })
    .await;
    role.stop("TERM").await;
}

const ROUNDS: u32 = 6;

/// A few symbols in different casings, so that most models are later versions.
fn model(run: u64) -> Value {
    let symbol = format!("{}-{}", if run.is_multiple_of(2) { "tok" } else { "TOK" }, run % 7);
    request(&format!("model {}", run % 3), run, &symbol)
}

impl Dev {
    fn with_short_leases(self) -> Self {
        let place = self.place.with("PROCESSING_TIMEOUT", "3").with("LOG_LEVEL", "warn");
        Self { place, ..self }
    }
}

/// What anybody could have seen at one moment.
struct Seen {
    head: u64,
    block: Value,
    deployed: Vec<Value>,
    receipts: Vec<Value>,
}

impl Seen {
    async fn by(dev: &Dev) -> Self {
        let head = rpc(&dev.rpc, "eth_blockNumber", json!([])).await;
        let block = rpc(&dev.rpc, "eth_getBlockByNumber", json!([head, false])).await;
        let registrations = dev.api.registrations().await.unwrap();
        let deployed: Vec<Value> = registrations.into_values().filter(|one| one["status"] == "deployed").collect();
        let mut receipts = Vec::new();
        for hash in block["transactions"].as_array().unwrap() {
            receipts.push(rpc(&dev.rpc, "eth_getTransactionReceipt", json!([hash])).await);
        }
        let head = u64::from_str_radix(head.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
        Self { head, block, deployed, receipts }
    }

    async fn assert_still_there(&self, dev: &Dev, when: &str) {
        let block = rpc(&dev.rpc, "eth_getBlockByNumber", json!([format!("{:#x}", self.head), false])).await;
        assert_eq!(block, self.block, "{when}");
        for receipt in &self.receipts {
            assert_eq!(&rpc(&dev.rpc, "eth_getTransactionReceipt", json!([receipt["transactionHash"]])).await, receipt, "{when}");
        }
        for one in &self.deployed {
            let now = dev.registration(one["registration_id"].as_str().unwrap()).await.unwrap();
            assert_eq!((&now["status"], &now["deployment"]), (&one["status"], &one["deployment"]), "{when}");
        }
    }
}

/// A message by hand came first, so the ledger has the version when it is registered.
#[tokio::test]
async fn a_registration_of_what_is_deployed_already_becomes_deployed() {
    let dev = Dev::new();
    let mut role = dev.start().await;
    let body = request("late-model", 1, "LATE");
    let mut message = dev.place.run(&["message", "example", "model_ready_to_deploy"]).json();
    for (field, value) in
        [("model_id", "late-model/1/LATE"), ("model_name", "late-model"), ("model_version", "1"), ("token_symbol", "LATE")]
    {
        message["payload"][field] = value.into();
    }
    dev.place.run_with(&["publish"], message.to_string().as_bytes()).ok();
    let ended = async |_: &str| {
        let list = dev.place.run(&["deployment", "list", "--state", "final", "--json"]).json();
        (!list.as_array().unwrap().is_empty()).then_some(())
    };
    role.until("the message is deployed", ended).await;
    let registered = dev.api.register(&body).await;
    dev.deployed(&mut role, registered["registration_id"].as_str().unwrap()).await;
    role.stop("TERM").await;
}
