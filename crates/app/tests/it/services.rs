//! The services around the program, seen through their own protocols: a chain with our registry, Redis, the HTTP API.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use alloy::{
    primitives::{Address, B256, Bytes, LogData},
    sol_types::SolEvent as _,
};
use hokusai_deploy::token::contract::IModelTokenRegistry::{TokenCreated, VersionRecorded};
use hokusai_testbed::{ANVIL_KEYS, Anvil, Redis};
use serde_json::{Value, json};

use crate::program::{Place, Role, Run};

pub(crate) const QUEUE: &str = "hokusai:model_ready_queue";
pub(crate) const DEPLOYED_QUEUE: &str = "hokusai:model_deployed";

/// Anvil's second and third accounts.
const OWNER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
const CONTROLLER: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";

/// An anvil with our registry on it, put there by the program itself.
pub(crate) struct Chain {
    pub(crate) anvil: Anvil,
    pub(crate) registry: String,
}

impl Chain {
    pub(crate) async fn start(args: &[&str]) -> Self {
        let anvil = Anvil::start(args).await;
        let place = Place::new().with("WEB3_PROVIDER_URL", anvil.url()).with("DEPLOYER_PRIVATE_KEY", ANVIL_KEYS[0]);
        let deployed = place.run(&["contracts", "deploy", "--owner", OWNER, "--controller", CONTROLLER, "--json"]).json();
        Self { anvil, registry: deployed["address"].as_str().unwrap().to_owned() }
    }

    /// Tells a worker of it.
    pub(crate) fn known_to(&self, place: Place) -> Place {
        place
            .with("WEB3_PROVIDER_URL", self.anvil.url())
            .with("DEPLOYER_PRIVATE_KEY", ANVIL_KEYS[0])
            .with("HOKUSAI_REGISTRY_ADDRESS", &self.registry)
    }

    pub(crate) async fn history(&self) -> History {
        history(&self.anvil.url(), &self.registry).await
    }
}

/// What a registry has recorded, by its own events.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct History {
    /// Symbol as displayed, by the token's address; in order of creation it would be by block.
    pub(crate) tokens: Vec<(Address, String)>,
    pub(crate) versions: Vec<B256>,
}

impl History {
    /// Fails if a symbol has two tokens or a version was recorded twice.
    #[track_caller]
    pub(crate) fn assert_exactly_once(&self) {
        let symbols: BTreeSet<_> = self.tokens.iter().map(|(_, symbol)| symbol.to_lowercase()).collect();
        assert_eq!(symbols.len(), self.tokens.len(), "a symbol has more than one token: {:?}", self.tokens);
        let versions: BTreeSet<_> = self.versions.iter().collect();
        assert_eq!(versions.len(), self.versions.len(), "a version was recorded more than once");
    }

    pub(crate) fn symbols(&self) -> BTreeSet<String> {
        self.tokens.iter().map(|(_, symbol)| symbol.to_lowercase()).collect()
    }
}

/// Reads a registry's events by JSON-RPC.
pub(crate) async fn history(url: &str, registry: &str) -> History {
    let logs = rpc(url, "eth_getLogs", json!([{"address": registry, "fromBlock": "0x0", "toBlock": "latest"}])).await;
    let mut history = History { tokens: Vec::new(), versions: Vec::new() };
    for log in logs.as_array().unwrap() {
        let topics: Vec<B256> = serde_json::from_value(log["topics"].clone()).unwrap();
        let data: Bytes = serde_json::from_value(log["data"].clone()).unwrap();
        let data = LogData::new_unchecked(topics, data);
        if let Ok(created) = TokenCreated::decode_log_data(&data) {
            history.tokens.push((created.token, created.symbol));
            history.versions.push(created.versionKey);
        } else if let Ok(recorded) = VersionRecorded::decode_log_data(&data) {
            history.versions.push(recorded.versionKey);
        }
    }
    history
}

/// One JSON-RPC call.
pub(crate) async fn rpc(url: &str, method: &str, params: Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer: Value = reqwest::Client::new().post(url).json(&body).send().await.unwrap().json().await.unwrap();
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    answer["result"].clone()
}

/// Foundry's cast, as anybody who looks at the chain would use it.
pub(crate) fn cast(place: &Place, args: &[&str]) -> String {
    let cast = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/node_modules/.bin/cast");
    assert!(Path::new(cast).exists(), "cast is not installed: run scripts/setup (npm ci --prefix tools)");
    let quoted: Vec<_> = args.iter().map(|arg| format!("'{arg}'")).collect();
    let run: Run = place.shell(&format!("{cast} {}", quoted.join(" ")));
    run.ok().trim().to_owned()
}

/// Redis as a foreign client sees it.
pub(crate) struct Lists {
    connection: redis::Connection,
}

impl Lists {
    pub(crate) fn of(redis: &Redis) -> Self {
        Self::at(&redis.url())
    }

    pub(crate) fn at(url: &str) -> Self {
        Self { connection: redis::Client::open(url).unwrap().get_connection().unwrap() }
    }

    pub(crate) fn query<T: redis::FromRedisValue>(&mut self, command: &str, args: &[&[u8]]) -> T {
        let mut request = redis::cmd(command);
        for arg in args {
            request.arg(*arg);
        }
        request.query(&mut self.connection).unwrap()
    }

    /// LPUSH, as every producer of the brief does.
    pub(crate) fn push(&mut self, queue: &str, entry: impl AsRef<[u8]>) {
        let _: u64 = self.query("LPUSH", &[queue.as_bytes(), entry.as_ref()]);
    }

    /// The lengths of main, processing, delayed and dlq.
    pub(crate) fn depths(&mut self, queue: &str) -> [u64; 4] {
        let mut length = |command: &str, suffix: &str| self.query(command, &[format!("{queue}{suffix}").as_bytes()]);
        [length("LLEN", ""), length("LLEN", ":processing"), length("ZCARD", ":delayed"), length("LLEN", ":dlq")]
    }

    pub(crate) fn dead_letters(&mut self, queue: &str) -> Vec<Value> {
        let letters: Vec<Vec<u8>> = self.query("LRANGE", &[format!("{queue}:dlq").as_bytes(), b"0", b"-1"]);
        letters.iter().map(|letter| serde_json::from_slice(letter).unwrap()).collect()
    }

    pub(crate) fn keys(&mut self) -> BTreeMap<String, String> {
        let keys: Vec<String> = self.query("KEYS", &[b"*"]);
        keys.into_iter().map(|key| (key.clone(), self.query("TYPE", &[key.as_bytes()]))).collect()
    }
}

/// The HTTP API of a running server.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) url: String,
    http: reqwest::Client,
}

impl Api {
    pub(crate) fn at(port: u16) -> Self {
        Self { url: format!("http://127.0.0.1:{port}"), http: reqwest::Client::new() }
    }

    /// Where to listen for it to be there.
    pub(crate) fn listen(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// One attempt. `None` if the server is away, or answers that it cannot just now.
    pub(crate) async fn try_register(&self, request: &Value) -> Option<Value> {
        let answer = self.http.post(format!("{}/api/v1/models/register", self.url)).json(request).send().await.ok()?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.ok()?;
        if status == 503 {
            return None;
        }
        assert!(matches!(status, 200 | 201), "{status}: {body} for {request}");
        Some(body)
    }

    pub(crate) async fn register(&self, request: &Value) -> Value {
        self.try_register(request).await.unwrap_or_else(|| panic!("{} does not answer", self.url))
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.ok()?;
        answer.status().is_success().then_some(())?;
        answer.json().await.ok()
    }

    /// Waits until every registration is deployed or rejected.
    pub(crate) async fn settled(&self, role: &mut Role, lists: &mut Lists) -> BTreeMap<String, Value> {
        let look = async |_: &str| {
            let all = self.registrations().await.ok_or("the server does not answer")?;
            let open: Vec<_> = all.values().filter(|one| one["status"] != "deployed" && one["status"] != "rejected").collect();
            if let Some(first) = open.first() {
                let depths = [lists.depths(QUEUE), lists.depths(DEPLOYED_QUEUE)];
                return Err(format!("{} of {} are open; queues hold {depths:?}; the first is {first:#}", open.len(), all.len()));
            }
            Ok(all)
        };
        role.until_or("brought every registration to its end", look).await
    }

    /// All registrations, by id.
    pub(crate) async fn registrations(&self) -> Option<BTreeMap<String, Value>> {
        let mut found = BTreeMap::new();
        let mut after = String::new();
        loop {
            let page = self.get(&format!("/api/v1/registrations?limit=200{after}")).await?;
            for one in page["registrations"].as_array()? {
                found.insert(one["registration_id"].as_str()?.to_owned(), one.clone());
            }
            let Some(next) = page["next"].as_str() else { return Some(found) };
            after = format!("&after={next}");
        }
    }
}

/// A request to register, of a run of its own.
pub(crate) fn request(model: &str, run: u64, token: &str) -> Value {
    json!({
        "model_uri": format!("runs:/{run:032x}/model"), "model_name": model, "token_id": token,
        "metric_name": "accuracy", "baseline_value": 0.75, "current_value": 0.82,
    })
}
