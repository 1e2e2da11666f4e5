//! Many models at once through processes that are killed: PostgreSQL, Redis, a chain, one server, two workers.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hokusai_deploy::token::contract::version_key;
use hokusai_testbed::{Postgres, Redis, eventually, free_port};
use serde_json::{Value, json};

use crate::{
    program::{PATIENCE, Place, Role},
    services::{Api, Chain, DEPLOYED_QUEUE, Lists, QUEUE, request},
};

const MODELS: u64 = 300;
const CLIENTS: usize = 16;

/// The models in tens: six new symbols, one of them with a metric where less is better; two later versions of symbols of
/// the same ten, written otherwise; one below its baseline; one a repetition.
fn model(number: u64) -> Value {
    let first_of_ten = number - number % 10;
    let fresh = || request(&format!("model {number}"), number, &format!("Crowd-{number}"));
    match number % 10 {
        later @ (5 | 6) => {
            let earlier = first_of_ten + later - 5;
            let symbol = if later == 5 { format!("crowd-{earlier}") } else { format!("CROWD-{earlier}") };
            request(&format!("model {earlier}"), number, &symbol)
        }
        7 => {
            let mut short = fresh();
            short["current_value"] = json!(0.5);
            short
        }
        8 => {
            let mut less = fresh();
            less["metric_direction"] = json!("lower_is_better");
            less["current_value"] = json!(0.5);
            less
        }
        9 => model(first_of_ten),
        _ => fresh(),
    }
}

/// Registers all models, [`CLIENTS`] at once, each until it is answered; counts the answers.
async fn register_all(api: &Api, answered: &Cell<usize>) -> Vec<Value> {
    use futures_util::{StreamExt as _, stream};
    let register = async |number| {
        let request = model(number);
        let answer = eventually("an answer", PATIENCE, async || {
            let answer = api.try_register(&request).await;
            if answer.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            answer
        });
        let answer = answer.await;
        answered.set(answered.get() + 1);
        answer
    };
    stream::iter(0..MODELS).map(register).buffered(CLIENTS).collect().await
}

struct Crowd {
    chain: Chain,
    redis: Redis,
    api: Api,
    server: Place,
    worker: Place,
}

impl Crowd {
    async fn new() -> Self {
        let (chain, redis, postgres) = tokio::join!(Chain::start(&[]), Redis::start(), Postgres::start());
        let database = postgres.database().await;
        let api = Api::at(free_port());
        let place = || {
            let place = Place::new().with("DATABASE_URL", &database).with("REDIS_URL", redis.url());
            place.with("PROCESSING_TIMEOUT", "5")
        };
        let (server, worker) = (place().with("HOKUSAI_LISTEN", api.listen()), chain.known_to(place()));
        Self { chain, redis, api, server, worker }
    }

    async fn start_server(&self) -> Role {
        let mut server = self.server.start(&["serve"]);
        server.answers(&self.api.url).await;
        server
    }

    async fn start_worker(&self) -> Role {
        let mut worker = self.worker.start(&["worker"]);
        worker.prints("Starting Hokusai token deployment service").await;
        worker
    }
}

#[tokio::test]
async fn every_model_gets_its_token_once_whoever_is_killed() {
    let crowd = Crowd::new().await;
    let server = crowd.start_server().await;
    let first = crowd.start_worker().await;
    let second = crowd.start_worker().await;
    let answered = Cell::new(0);
    let killing = async {
        let reached = async |count| {
            eventually(&format!("{count} answers"), PATIENCE, async || (answered.get() >= count).then_some(())).await;
        };
        reached(80).await;
        first.kill();
        let first = crowd.start_worker().await;
        reached(150).await;
        server.kill();
        (first, crowd.start_server().await)
    };
    let (answers, (first, mut server)) = tokio::join!(register_all(&crowd.api, &answered), killing);

    let mut lists = Lists::of(&crowd.redis);
    let registrations = crowd.api.settled(&mut server, &mut lists).await;
    check_answers(&answers, &registrations);
    check_chain(&crowd, &registrations).await;
    for queue in [QUEUE, DEPLOYED_QUEUE] {
        server.until("emptied the queues", async |_| (lists.depths(queue) == [0; 4]).then_some(())).await;
    }
    check_keys(&mut lists);
    for registration in registrations.values().step_by(20) {
        check_history(&crowd, registration).await;
    }
    for role in [first, second, server] {
        role.stop("TERM").await;
    }
}

/// Every answer stands, and repetitions got the answer of the first.
fn check_answers(answers: &[Value], registrations: &BTreeMap<String, Value>) {
    assert_eq!(answers.len() as u64, MODELS);
    for (number, answer) in answers.iter().enumerate() {
        let registration = &registrations[answer["registration_id"].as_str().unwrap()];
        assert_eq!(registration["model_id"], answer["model_id"], "an answered registration is lost");
        let expected = if number % 10 == 7 { "rejected" } else { "deployed" };
        assert_eq!(registration["status"], expected, "model {number}");
        if number % 10 == 9 {
            assert_eq!(answer["registration_id"], answers[number - 9]["registration_id"]);
        }
    }
    assert_eq!(registrations.len() as u64, MODELS * 9 / 10);
}

/// The chain holds one token for each symbol and each accepted version once, and the registrations say the same.
async fn check_chain(crowd: &Crowd, registrations: &BTreeMap<String, Value>) {
    let history = crowd.chain.history().await;
    history.assert_exactly_once();
    let tokens: BTreeMap<String, String> =
        history.tokens.iter().map(|(token, symbol)| (symbol.to_lowercase(), token.to_string())).collect();
    let mut symbols = BTreeSet::new();
    let mut versions = 0;
    for one in registrations.values().filter(|one| one["status"] == "deployed") {
        let text = |name: &str| one[name].as_str().unwrap();
        let symbol = text("token_id").to_lowercase();
        assert!(history.versions.contains(&version_key(&symbol, text("model_name"), text("model_version"))), "{}", one["model_id"]);
        assert_eq!(one["deployment"]["token_address"], json!(tokens[&symbol]));
        symbols.insert(symbol);
        versions += 1;
    }
    assert_eq!((history.symbols(), history.versions.len()), (symbols, versions));
}

/// Redis holds what the layout names and nothing else.
fn check_keys(lists: &mut Lists) {
    let known = [("", "list"), (":processing", "list"), (":dlq", "list"), (":delayed", "zset"), (":leases", "zset"), (":cursor", "hash")];
    for (key, kind) in lists.keys() {
        let suffix = key.strip_prefix(QUEUE).or_else(|| key.strip_prefix(DEPLOYED_QUEUE));
        let suffix = suffix.unwrap_or_else(|| panic!("{key} is nobody's key"));
        assert!(suffix == ":reaper" || known.contains(&(suffix, kind.as_str())), "{key} is a {kind}");
    }
    for queue in [QUEUE, DEPLOYED_QUEUE] {
        assert_eq!(lists.keys().get(&format!("{queue}:cursor")).map(String::as_str), Some("hash"));
    }
}

/// Deployed once in its own history, too.
async fn check_history(crowd: &Crowd, registration: &Value) {
    let id = registration["registration_id"].as_str().unwrap();
    let detail = crowd.api.get(&format!("/api/v1/registrations/{id}")).await.unwrap();
    let steps: Vec<_> = detail["history"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    let ends = steps.iter().filter(|step| matches!(**step, "deployed" | "rejected")).count();
    assert_eq!(ends, 1, "{steps:?}");
}
