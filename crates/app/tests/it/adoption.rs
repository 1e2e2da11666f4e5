//! What a person decides because no program can: whether what others left in processing may be brought back, and whether
//! this copy of a database is the one that publishes from now on.

use hokusai_testbed::Redis;
use serde_json::{Value, json};

use crate::{
    program::Place,
    services::{Lists, QUEUE, request},
};

fn register(place: &Place, number: u64) -> Value {
    let request = request(&format!("model {number}"), number, &format!("ADOPT-{number}"));
    place.run_with(&["register", "--request", "-", "--json"], request.to_string()).json()
}

fn message(id: &str) -> Value {
    json!({"message_id": id, "message_type": "model_ready_to_deploy", "timestamp": "2026-01-27T15:30:00Z", "payload": {}})
}

fn waiting(lists: &mut Lists) -> Vec<String> {
    let entries: Vec<String> = lists.query("LRANGE", &[QUEUE.as_bytes(), b"0", b"-1"]);
    let id = |entry: &String| serde_json::from_str::<Value>(entry).unwrap()["message_id"].as_str().unwrap().to_owned();
    entries.iter().rev().map(id).collect()
}

#[tokio::test]
async fn orphans_are_reaped_when_somebody_says_so() {
    let redis = Redis::start().await;
    let mut lists = Lists::of(&redis);
    let place = Place::new().with("REDIS_URL", redis.url()).with("PROCESSING_TIMEOUT", "1").with("HOKUSAI_HANDLER_TIMEOUT", "0.5");
    let _: u64 = lists.query("LPUSH", &[format!("{QUEUE}:processing").as_bytes(), message("left").to_string().as_bytes()]);
    assert!(place.run(&["queue", "reap-orphans"]).ok().contains("holds no orphans"), "nobody has met the queue");
    lists.push(QUEUE, message("first").to_string());
    place.run(&["consume", "--exec", "true", "--max", "1"]).ok();
    assert_eq!(lists.depths(QUEUE), [0, 1, 0, 0]);

    let told = place.run(&["queue", "reap-orphans", "--json"]).json();
    assert_eq!((&told["executed"], &told["orphans"][0]["message_id"]), (&json!(false), &json!("left")), "{told}");
    assert!(place.run(&["queue", "reap-orphans"]).ok().contains("--execute"));
    let told = place.run(&["queue", "reap-orphans", "--execute", "--by", "ada", "--json"]).json();
    assert!(told["executed"] == json!(true) && told["reaped_after"].is_string(), "{told}");
    assert!(place.run(&["queue", "reap-orphans"]).ok().contains("holds no orphans"), "it has an ordinary lease");
    place.run(&["consume", "--exec", "cat > seen", "--max", "1"]).ok();
    let seen: Value = serde_json::from_slice(&std::fs::read(place.path().join("seen")).unwrap()).unwrap();
    assert_eq!((&seen["message_id"], &seen["hokusai_expiries"]), (&json!("left"), &json!(1)));
    assert_eq!(lists.depths(QUEUE), [0; 4]);
}

#[tokio::test]
async fn a_restored_database_publishes_again_under_a_new_source_id() {
    let redis = Redis::start().await;
    let mut lists = Lists::of(&redis);
    let place = Place::new().with("REDIS_URL", redis.url());
    let (live, backup) = (place.path().join("data"), place.path().join("backup"));
    let id = |registered: Value| registered["message_id"].as_str().unwrap().to_owned();
    let first = id(register(&place, 1));
    copy(&live, &backup);
    let second = id(register(&place, 2));
    assert_eq!(waiting(&mut lists), [first.clone(), second.clone()]);

    // The backup comes back: the queue's cursor stands at an event that this copy never had.
    std::fs::remove_dir_all(&live).unwrap();
    copy(&backup, &live);
    let third = id(register(&place, 3));
    assert_eq!(waiting(&mut lists), [first.clone(), second.clone()], "the relay has stopped");
    let list = place.run(&["subscription", "list"]).ok();
    assert!(list.contains("renew-source"), "{list}");
    let told = place.run(&["subscription", "renew-source", "--json"]).json();
    assert_eq!(
        (&told["executed"], &told["source"], &told["stopped"]),
        (&json!(false), &Value::Null, &json!(["hokusai:model_deployed", QUEUE])),
        "{told}"
    );
    let told = place.run(&["subscription", "renew-source", "--execute", "--by", "ada", "--json"]).json();
    assert!(told["source"].is_string() && told["source"] != told["before"], "{told}");
    let fourth = id(register(&place, 4));
    assert_eq!(waiting(&mut lists), [first.clone(), second, first, third, fourth], "again from the start, with what came since");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
