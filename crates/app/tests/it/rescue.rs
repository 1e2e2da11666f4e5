//! `hokusai rescue`: on a queue that never knew us.

use std::collections::BTreeMap;

use hokusai_testbed::Redis;
use serde_json::{Value, json};

use crate::{
    program::Place,
    services::{Lists, QUEUE},
};

/// A message of the quick start, made at `at`.
fn message(id: &str, token: &str, at: &str) -> Value {
    json!({
        "message_id": id, "message_type": "model_ready_to_deploy", "timestamp": at,
        "payload": {
            "model_id": "test-model/1/test-token", "token_symbol": token, "metric_name": "accuracy", "baseline_value": 0.80,
            "current_value": 0.85, "model_name": "test-model", "model_version": "1", "mlflow_run_id": "test-run-123",
        },
    })
}

const LONG_AGO: &str = "2025-01-27T15:30:00.123456";

fn letter(original: &Value, error: &str) -> String {
    json!({"original_message": original.to_string(), "error": error, "failed_at": "2025-01-28T15:30:00", "queue": QUEUE}).to_string()
}

/// What consumers of the guides leave behind.
fn leave_behind(lists: &mut Lists) {
    let now = jiff::Timestamp::now().to_string();
    let (processing, dlq) = (format!("{QUEUE}:processing"), format!("{QUEUE}:dlq"));
    let mut tried = message("tried", "TRIED", LONG_AGO);
    tried["retry_count"] = json!(2);
    for entry in [message("stuck", "STUCK", LONG_AGO), tried.clone(), message("young", "YOUNG", &now)] {
        lists.push(&processing, entry.to_string());
    }
    lists.push(&processing, b"\xff\xfe is no text");
    lists.push(QUEUE, message("first", "TWICE", LONG_AGO).to_string());
    lists.push(QUEUE, "{\"cut\": ");
    lists.push(QUEUE, message("second", "twice", LONG_AGO).to_string());
    lists.push(QUEUE, message("stuck", "STUCK", LONG_AGO).to_string());
    lists.push(QUEUE, message("refused", "two words", LONG_AGO).to_string());
    tried["message_id"] = json!("lost patience");
    lists.push(&dlq, letter(&tried, "gas"));
    tried["message_id"] = json!("exhausted");
    tried["retry_count"] = json!(3);
    lists.push(&dlq, letter(&tried, "gas"));
}

/// Everything that the server holds, bit by bit.
fn dump(lists: &mut Lists) -> BTreeMap<String, Vec<u8>> {
    let keys: Vec<String> = lists.query("KEYS", &[b"*"]);
    keys.into_iter().map(|key| (key.clone(), lists.query("DUMP", &[key.as_bytes()]))).collect()
}

fn ids<'a>(found: &'a Value, field: &str) -> Vec<&'a str> {
    found.as_array().unwrap().iter().map(|one| one[field].as_str().unwrap()).collect()
}

fn main_of(lists: &mut Lists) -> Vec<Vec<u8>> {
    lists.query("LRANGE", &[QUEUE.as_bytes(), b"0", b"-1"])
}

#[tokio::test]
async fn it_finds_what_is_wrong_and_changes_nothing_until_told() {
    let redis = Redis::start().await;
    let mut lists = Lists::of(&redis);
    leave_behind(&mut lists);
    let place = Place::new();
    let before = dump(&mut lists);
    let found = place.run(&["rescue", &redis.url(), "--json"]).json();
    let told = place.run(&["rescue", &redis.url()]).ok();
    assert_eq!(dump(&mut lists), before, "a look changes not a bit");
    assert!(!place.path().join("data").exists(), "no database was made");

    assert_eq!((&found["executed"], &found["main"], &found["processing"], &found["dlq"]), (&json!(false), &json!(5), &json!(4), &json!(2)));
    assert_eq!(ids(&found["stuck"], "message_id"), ["stuck", "tried"]);
    assert_eq!((&found["stuck"][0]["made_at"], &found["in_progress"]), (&json!("2025-01-27T15:30:00.123456Z"), &json!(1)));
    assert_eq!(ids(&found["unparsable"], "state"), ["processing", "main"]);
    assert_eq!(ids(&found["invalid"], "message_id"), ["refused"]);
    assert_eq!(found["duplicates"], json!([{"message_id": "stuck", "states": ["processing", "main"]}]));
    let twice: Vec<_> = found["requested_twice"].as_array().unwrap().iter().map(|one| one["token"].as_str().unwrap()).collect();
    assert_eq!(twice, ["tried", "twice"], "whatever the case of the symbol, dead letters included");
    assert_eq!(ids(&found["requested_twice"][1]["messages"], "message_id"), ["first", "second"]);
    assert_eq!(ids(&found["had_retries"], "message_id"), ["lost patience"]);
    for words in ["stuck in processing: 2", "not a message: 2", "asked for by several messages: 2", "still had retries: 1", "--execute"] {
        assert!(told.contains(words), "{words} is missing in\n{told}");
    }
}

#[tokio::test]
async fn it_repairs_when_told() {
    let redis = Redis::start().await;
    let mut lists = Lists::of(&redis);
    leave_behind(&mut lists);
    let place = Place::new();
    let done = place.run(&["rescue", &redis.url(), "--execute", "--json"]).json();
    assert_eq!(done["repaired"], json!({"taken_back": 2, "dead_lettered": 2, "redriven": 0, "gone": 0}));
    assert_eq!(lists.depths(QUEUE), [6, 1, 0, 4]);
    let keys: Vec<String> = lists.keys().into_keys().collect();
    assert_eq!(keys, [QUEUE.to_owned(), format!("{QUEUE}:dlq"), format!("{QUEUE}:processing")], "and no key of ours was left");
    let expired: Vec<Value> = main_of(&mut lists).iter().filter_map(|entry| serde_json::from_slice(entry).ok()).collect();
    let expired: Vec<_> = expired.iter().filter(|entry| entry["hokusai_expiries"] == 1).collect();
    assert_eq!(expired.len(), 2);
    assert!(expired.iter().any(|entry| entry["message_id"] == "tried" && entry["retry_count"] == 2), "an expiry burns no attempt");
    let letters = lists.dead_letters(QUEUE);
    let kept = |letter: &&Value| letter["original_message"] == "{\"cut\": " || letter["original_message_base64"].is_string();
    assert_eq!(letters.iter().filter(kept).count(), 2, "what cannot be read is kept whole");

    let again = place.run(&["rescue", &redis.url(), "--execute", "--redrive-dead-letters", "--json"]).json();
    assert_eq!(again["repaired"], json!({"taken_back": 0, "dead_lettered": 0, "redriven": 1, "gone": 0}));
    assert_eq!(lists.depths(QUEUE), [7, 1, 0, 3]);
    let redriven = |entry: &Vec<u8>| serde_json::from_slice::<Value>(entry).is_ok_and(|entry| entry["message_id"] == "lost patience");
    let redriven: Value = serde_json::from_slice(main_of(&mut lists).iter().find(|entry| redriven(entry)).unwrap()).unwrap();
    assert_eq!(redriven["retry_count"], 0);
}

#[tokio::test]
async fn it_says_what_it_cannot_do() {
    let redis = Redis::start().await;
    let place = Place::new();
    place.run(&["rescue"]).failed(2);
    place.run(&["rescue", &redis.url(), "--redrive-dead-letters"]).failed(2);
    let complaint = place.run(&["rescue", "redis://:secret@127.0.0.1:1/0"]).failed(1);
    assert!(complaint.contains("not available") && !complaint.contains("secret"), "{complaint}");
    let nothing = place.run(&["rescue", &redis.url(), "--queue", "nowhere", "--json"]).json();
    assert_eq!((&nothing["main"], &nothing["stuck"]), (&json!(0), &json!([])));
}
