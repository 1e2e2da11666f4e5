//! Pausing, redriving, discarding, publishing again, auditing: what an operator does at three in the morning.

use hokusai_db::Database;
use hokusai_event::{Address, ModelDeployed, Timestamp, TokenSymbol};
use hokusai_testbed::{Postgres, Redis, free_port};
use serde_json::{Value, json};

use crate::{
    program::Place,
    services::{Api, Chain, Lists, QUEUE, request},
};

/// Registers a model of this number; its message is in the queue when this returns.
fn register(place: &Place, number: u64) -> Value {
    let request = request(&format!("model {number}"), number, &format!("REPAIR-{number}"));
    place.run_with(&["register", "--request", "-", "--json"], request.to_string()).json()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

fn stats(place: &Place) -> [u64; 4] {
    let stats = place.run(&["queue", "stats", "--json"]).json();
    ["main", "processing", "delayed", "dlq"].map(|state| stats[state].as_u64().unwrap())
}

/// Has everything in the queue refused for good.
fn refuse_all(place: &Place, count: usize) {
    place.run(&["consume", "--exec", "echo no gas >&2; exit 65", "--concurrency", "1", "--max", &count.to_string()]).ok();
}

fn outcomes(told: &Value, list: &str) -> Vec<String> {
    told[list].as_array().unwrap().iter().map(|one| text(one, "outcome").to_owned()).collect()
}

fn steps(place: &Place, registration: &Value) -> Vec<String> {
    let shown = place.run(&["registration", "show", text(registration, "registration_id"), "--json"]).json();
    shown["history"].as_array().unwrap().iter().map(|step| text(step, "step").to_owned()).collect()
}

#[tokio::test]
async fn a_paused_queue_is_not_taken_from_by_ours() {
    let redis = Redis::start().await;
    let mut lists = Lists::of(&redis);
    let place = Place::new().with("REDIS_URL", redis.url()).with("USER", "ada");
    let mut consumer = place.start(&["consume", "--exec", "cat >> seen; echo >> seen"]);
    let told = place.run(&["queue", "pause", "--reason", "gas is dear"]).ok();
    assert!(told.contains("foreign consumers are not affected"), "{told}");
    consumer.prints("the queue is paused").await;
    register(&place, 1);
    register(&place, 2);
    let shown = place.run(&["queue", "stats", "--json"]).json();
    assert_eq!((&shown["paused"]["by"], &shown["paused"]["reason"]), (&json!("ada"), &json!("gas is dear")));
    assert!(shown["paused"]["at"].is_string() && shown["oldest"]["main"].is_string(), "{shown}");
    assert!(place.run(&["queue", "stats"]).ok().contains("paused by ada (gas is dear)"));
    // A plain consumer does not know of it; one of ours that starts now does.
    let taken: Vec<u8> = lists.query("BRPOPLPUSH", &[QUEUE.as_bytes(), b"elsewhere", b"1"]);
    assert!(!taken.is_empty());
    let mut late = place.start(&["consume", "--exec", "cat >> seen; echo >> seen"]);
    late.prints("the queue is paused").await;
    assert_eq!((lists.depths(QUEUE), place.path().join("seen").exists()), ([1, 0, 0, 0], false));

    let told = place.run(&["queue", "resume", "--json"]).json();
    assert_eq!((&told["paused"], &told["before"]["by"]), (&Value::Null, &json!("ada")));
    consumer.until("took the message", async |_| place.path().join("seen").exists().then_some(())).await;
    consumer.stop("TERM").await;
    late.stop("TERM").await;
    let keys: Vec<String> = lists.keys().into_keys().filter(|key| key.contains("pause")).collect();
    assert_eq!(keys, [""; 0], "the pause needs no key of its own");
    place.run(&["queue", "pause"]).failed(2);
}

#[test]
fn dead_letters_are_shown_redriven_and_discarded() {
    let place = Place::new();
    let registered: Vec<Value> = (0..4).map(|number| register(&place, number)).collect();
    refuse_all(&place, 4);
    assert_eq!(stats(&place), [0, 0, 0, 4]);
    let list = place.run(&["queue", "dlq", "list", "--json"]).json();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["kind"], &list[0]["token"]), (4, &json!("rejected"), &json!("REPAIR-0")));
    assert!(place.run(&["queue", "dlq", "list", "--kind", "expired"]).ok().contains("no dead letters"));
    assert_eq!(place.run(&["queue", "dlq", "list", "--older-than", "1h", "--json"]).json(), json!([]));
    assert_eq!(place.run(&["queue", "dlq", "list", "--newer-than", "1h", "--limit", "3", "--json"]).json().as_array().unwrap().len(), 3);
    let hash = text(&list[1], "hash");
    let shown = place.run(&["queue", "dlq", "show", &hash[..8], "--json"]).json();
    assert_eq!(
        (&shown["message"]["message_id"], &shown["letter"]["error"]),
        (&registered[1]["message_id"], &json!("exit code 65: no gas"))
    );

    // Nothing moves until it is told to, and nothing at all without being told which.
    place.run(&["queue", "dlq", "redrive", "--execute"]).failed(1);
    let told = place.run(&["queue", "dlq", "redrive", "--all", "--json"]).json();
    assert_eq!((outcomes(&told, "letters"), stats(&place)), (vec!["would_redrive".to_owned(); 4], [0, 0, 0, 4]));
    let told = place.run(&["queue", "dlq", "redrive", &hash[..8], "--execute", "--by", "ada", "--json"]).json();
    assert_eq!((outcomes(&told, "letters"), stats(&place)), (vec!["redriven".to_owned()], [1, 0, 0, 3]));
    let message = text(&registered[2], "message_id");
    place.run(&["queue", "dlq", "redrive", message, "--execute", "--rate", "5"]).ok();
    place.run(&["queue", "dlq", "redrive", "--token", "repair-0", "--kind", "rejected", "--execute"]).ok();
    assert_eq!(stats(&place), [3, 0, 0, 1]);
    let waiting = place.run(&["queue", "peek", "--json"]).json();
    assert_eq!(waiting[0]["retry_count"], 0);
    assert_eq!(steps(&place, &registered[1]).last().unwrap(), "redriven");
    place.run(&["queue", "dlq", "redrive", message]).failed(1);

    place.run(&["queue", "dlq", "discard", "--all"]).failed(2);
    place.run(&["queue", "dlq", "discard", "--all", "--reason", "a test"]).ok();
    assert_eq!(stats(&place), [3, 0, 0, 1]);
    let told = place.run(&["queue", "dlq", "discard", "--all", "--reason", "a test", "--execute", "--json"]).json();
    assert_eq!((outcomes(&told, "letters"), stats(&place)), (vec!["discarded".to_owned()], [3, 0, 0, 0]));
    assert_eq!(steps(&place, &registered[3]).last().unwrap(), "discarded");
    let audit = place.run(&["queue", "audit", "--queue", QUEUE, "--json"]).json();
    assert_eq!((&audit["whole"], &audit["queues"][0]["finished"]), (&json!(true), &json!(1)), "discarded is finished: {audit}");
}

/// What is deployed already is reported and not sent again, by redrive and republish alike.
#[tokio::test]
async fn what_is_deployed_is_not_sent_again() {
    let place = Place::new();
    let registered = [register(&place, 1), register(&place, 2)];
    refuse_all(&place, 2);
    let db = Database::open(&format!("sqlite:{}", place.path().join("data/hokusai.db").display())).await.unwrap();
    let mut tx = db.write().await.unwrap();
    hokusai_registry::apply_deployed(&mut tx, &deployed(&registered[0], 1), jiff::Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
    let told = place.run(&["queue", "dlq", "redrive", "--all", "--execute", "--json"]).json();
    assert_eq!((outcomes(&told, "letters"), stats(&place)), (vec!["already_deployed".to_owned(), "redriven".to_owned()], [1, 0, 0, 1]));
    assert!(text(&told["letters"][0], "detail").contains(text(&registered[0], "registration_id")), "{told}");
    let message = text(&registered[0], "message_id");
    let told = place.run(&["queue", "republish", message, "--execute", "--json"]).json();
    assert_eq!((outcomes(&told, "events"), stats(&place)), (vec!["already_deployed".to_owned()], [1, 0, 0, 1]));
    let told = place.run(&["queue", "republish", message, "--execute", "--force", "--json"]).json();
    assert_eq!((outcomes(&told, "events"), stats(&place)), (vec!["republished".to_owned()], [2, 0, 0, 1]));
    let told = place.run(&["queue", "dlq", "redrive", message, "--force", "--execute", "--json"]).json();
    assert_eq!((outcomes(&told, "letters"), stats(&place)), (vec!["redriven".to_owned()], [3, 0, 0, 0]));
}

fn deployed(registered: &Value, number: u64) -> ModelDeployed {
    let address = Address::parse("0x5FbDB2315678afecb367f032d93F642f64180aa3").unwrap();
    ModelDeployed {
        model_id: text(registered, "model_id").into(),
        token_symbol: TokenSymbol::parse(&format!("REPAIR-{number}")).unwrap(),
        model_name: format!("model {number}"),
        model_version: "1".into(),
        mlflow_run_id: format!("{number:032x}"),
        message_id: text(registered, "message_id").into(),
        chain_id: 31337,
        registry_address: address.clone(),
        token_address: address,
        deployed_at: Timestamp::new(jiff::Timestamp::now()),
        timestamp: None,
        message_version: None,
        registration_id: None,
        transaction_hash: None,
        block_number: None,
        gas_used: None,
        fee_wei: None,
        elapsed_ms: None,
        correlation_id: None,
        unknown: serde_json::Map::new(),
    }
}

#[tokio::test]
async fn the_audit_names_what_is_lost_and_publishes_it_again() {
    let redis = Redis::start().await;
    let mut lists = Lists::of(&redis);
    let place = Place::new().with("REDIS_URL", redis.url());
    let registered: Vec<Value> = (0..3).map(|number| register(&place, number)).collect();
    let told = place.run(&["queue", "audit"]).ok();
    assert!(told.contains("every event is accounted for"), "{told}");

    // Taken and removed, and nobody says whether it is done.
    let lost: Vec<u8> = lists.query("RPOP", &[QUEUE.as_bytes()]);
    let lost_id = text(&registered[0], "message_id");
    let run = place.run(&["queue", "audit"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("unaccounted for: model_ready_to_deploy") && run.stdout.contains(lost_id), "{}", run.stdout);
    let audit: Value = serde_json::from_str(&place.run(&["queue", "audit", "--json"]).stdout).unwrap();
    let queue = audit["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == QUEUE).unwrap();
    assert_eq!((&queue["events"], &queue["main"], &queue["unconfirmed"][0]["message_id"]), (&json!(3), &json!(2), &json!(lost_id)));
    assert_eq!(lists.depths(QUEUE), [2, 0, 0, 0], "an audit changes nothing");

    let audit = place.run(&["queue", "audit", "--repair", "--by", "ada", "--json"]).json();
    let queue = audit["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == QUEUE).unwrap();
    assert_eq!((&queue["repaired"]["republished"], &queue["whole"]), (&json!([lost_id]), &json!(true)));
    let newest: Vec<u8> = lists.query("LINDEX", &[QUEUE.as_bytes(), b"0"]);
    assert_eq!(newest, lost, "with the same bytes");
    assert_eq!(steps(&place, &registered[0]).last().unwrap(), "republished");

    // A lease whose entry is gone, and an entry that has no lease.
    let held: Vec<u8> = lists.query("LMOVE", &[QUEUE.as_bytes(), format!("{QUEUE}:processing").as_bytes(), b"RIGHT", b"LEFT"]);
    let _: u64 = lists.query("ZADD", &[format!("{QUEUE}:leases").as_bytes(), b"99999999999999", b"gone"]);
    let _: u64 = lists.query("HSET", &[format!("{QUEUE}:reaper").as_bytes(), b"met", b"1"]);
    let told = place.run(&["queue", "audit", "--queue", QUEUE]).ok();
    assert!(told.contains("1 leases without an entry") && told.contains("1 entries of processing without a lease"), "{told}");
    let told = place.run(&["queue", "audit", "--queue", QUEUE, "--repair"]).ok();
    assert!(told.contains("1 leases given, 1 purged"), "{told}");
    let leases: Vec<Vec<u8>> = lists.query("ZRANGE", &[format!("{QUEUE}:leases").as_bytes(), b"0", b"-1"]);
    assert_eq!(leases, [held]);
}

#[tokio::test]
async fn events_are_published_again_by_hand() {
    let redis = Redis::start().await;
    let mut lists = Lists::of(&redis);
    let place = Place::new().with("REDIS_URL", redis.url());
    let registered: Vec<Value> = (0..3).map(|number| register(&place, number)).collect();
    let main = |lists: &mut Lists| -> Vec<Vec<u8>> { lists.query("LRANGE", &[QUEUE.as_bytes(), b"0", b"-1"]) };
    let before = main(&mut lists);
    let told = place.run(&["queue", "republish", "--since", "2025-01-01T00:00:00Z", "--json"]).json();
    assert_eq!((outcomes(&told, "events"), main(&mut lists) == before), (vec!["would_republish".to_owned(); 3], true));
    let second = text(&registered[1], "message_id");
    assert!(place.run(&["queue", "republish", second]).ok().contains("--execute"));
    place.run(&["queue", "republish", second, "--execute"]).ok();
    assert_eq!((main(&mut lists)[0].clone(), main(&mut lists).len()), (before[1].clone(), 4));
    let position = told["events"][2]["position"].to_string();
    place.run(&["queue", "republish", "--from-position", &position, "--to-position", &position, "--execute"]).ok();
    assert_eq!((main(&mut lists)[0].clone(), main(&mut lists).len()), (before[0].clone(), 5));
    place.run(&["queue", "republish"]).failed(2);
    let complaint = place.run(&["queue", "republish", "no-such-message"]).failed(1);
    assert!(complaint.contains("no-such-message"), "{complaint}");
}

/// A plain consumer acknowledges and tells nobody; one loses its message between its two commands. The server finds out
/// about both, and brings back what is not on the chain.
#[tokio::test]
async fn the_server_finds_out_what_foreign_consumers_do() {
    let (chain, redis, postgres) = tokio::join!(Chain::start(&[]), Redis::start(), Postgres::start());
    let mut lists = Lists::of(&redis);
    let api = Api::at(free_port());
    let place = Place::new().with("REDIS_URL", redis.url()).with("DATABASE_URL", postgres.database().await);
    let place = chain.known_to(place).with("HOKUSAI_LISTEN", api.listen()).with("HOKUSAI_RECONCILE_AFTER", "1");
    let mut server = place.start(&["serve"]);
    server.answers(&api.url).await;
    let registered = api.register(&request("foreign", 1, "FOREIGN")).await;
    server.until("relayed it", async |_| (lists.depths(QUEUE)[0] == 1).then_some(())).await;
    let lost: Vec<u8> = lists.query("RPOP", &[QUEUE.as_bytes()]);
    server.until("published it again", async |_| (lists.depths(QUEUE)[0] == 1).then_some(())).await;
    let again: Vec<u8> = lists.query("LINDEX", &[QUEUE.as_bytes(), b"0"]);
    assert_eq!(again, lost, "with the same bytes");
    // The step is committed a moment after the push.
    let told = async |_: &str| steps(&place, &registered).contains(&"reconciled".to_owned()).then_some(());
    server.until("notes that it did", told).await;
    // Now a worker deploys it, and the server has nothing more to bring back.
    let worker = place.start(&["worker"]);
    let all = api.settled(&mut server, &mut lists).await;
    assert_eq!(all[text(&registered, "registration_id")]["status"], "deployed");
    chain.history().await.assert_exactly_once();
    let told = place.run(&["queue", "audit", "--wait", "30s"]).ok();
    assert!(told.contains("every event is accounted for"), "{told}");
    worker.stop("TERM").await;
    server.stop("TERM").await;
}
