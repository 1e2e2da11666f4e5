//! Producers and consumers of the brief, beside ours: plain Redis commands, and whatever they may put into a list.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hokusai_testbed::Redis;
use serde_json::{Value, json};

use crate::{
    program::Place,
    services::{Chain, Lists, QUEUE},
};

/// The message of the quick start, down to `datetime.utcnow().isoformat()`: no counters, no correlation id, no time inside
/// the payload.
fn quick_start(symbol: &str) -> Value {
    json!({
        "message_id": format!("quick-start-{symbol}"),
        "message_type": "model_ready_to_deploy",
        "timestamp": "2025-01-27T15:30:00.123456",
        "payload": {
            "model_id": "test-model/1/test-token",
            "token_symbol": symbol,
            "metric_name": "accuracy",
            "baseline_value": 0.80,
            "current_value": 0.85,
            "improvement_percentage": 6.25,
            "model_name": "test-model",
            "model_version": "1",
            "mlflow_run_id": "test-run-123"
        }
    })
}

fn with_payload(symbol: &str, field: &str, value: Value) -> Vec<u8> {
    let mut message = quick_start(symbol);
    message["payload"][field] = value;
    message.to_string().into_bytes()
}

/// What no worker can deploy, and the kind of complaint it deserves.
fn unusable() -> Vec<(&'static str, Vec<u8>)> {
    let mut another_type = quick_start("TYPE");
    another_type["message_type"] = json!("metric_imagined");
    let mut without_payload = quick_start("NONE");
    without_payload.as_object_mut().unwrap().remove("payload");
    vec![
        ("garbage", b"hello, is anybody there?".to_vec()),
        ("empty", Vec::new()),
        ("not UTF-8", b"{\"message_id\": \"\xff\xfe\"}".to_vec()),
        ("an array", b"[1, 2, 3]".to_vec()),
        ("a cut message", quick_start("CUT").to_string().into_bytes()[..200].to_vec()),
        ("2 MB of nothing", vec![b'x'; 2 << 20]),
        ("a 2 MB field", with_payload("LONG", "model_name", json!("m".repeat(2 << 20)))),
        ("deeply nested", [b"[".repeat(200_000), b"]".repeat(200_000)].concat()),
        ("deeply nested inside", {
            let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
            quick_start("DEEP").to_string().replace("6.25", &deep).into_bytes()
        }),
        ("a symbol with a space", with_payload("two words", "model_version", json!("1"))),
        ("a missing field", with_payload("MISSING", "mlflow_run_id", Value::Null)),
        ("a number as text", with_payload("TEXT", "baseline_value", json!("0.8"))),
        ("a number that is none", quick_start("NAN").to_string().replace("0.85", "NaN").into_bytes()),
        ("a wrong checksum", with_payload("SUM", "contributor_address", json!("0x5FbDB2315678afecb367f032d93F642f64180aA3"))),
        ("below its baseline", with_payload("BELOW", "current_value", json!(0.5))),
        ("another type", another_type.to_string().into_bytes()),
        ("no payload", without_payload.to_string().into_bytes()),
    ]
}

fn original(letter: &Value) -> Vec<u8> {
    match letter["original_message"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => STANDARD.decode(letter["original_message_base64"].as_str().unwrap()).unwrap(),
    }
}

#[tokio::test]
async fn a_worker_serves_the_plain_protocol() {
    let (chain, redis) = tokio::join!(Chain::start(&[]), Redis::start());
    let mut lists = Lists::of(&redis);
    let place = chain.known_to(Place::new().with("REDIS_URL", redis.url()).with("PROCESSING_TIMEOUT", "3"));
    let mut worker = place.start(&["worker"]);

    lists.push(QUEUE, quick_start("FIRST").to_string());
    for (_, entry) in unusable() {
        lists.push(QUEUE, entry);
    }
    lists.push(QUEUE, quick_start("LAST").to_string());
    let count = unusable().len() as u64;
    worker.until("came to an end with all", async |_| (lists.depths(QUEUE) == [0, 0, 0, count]).then_some(())).await;

    let letters = lists.dead_letters(QUEUE);
    for (what, entry) in unusable() {
        let letter = letters.iter().find(|letter| original(letter) == entry);
        let letter = letter.unwrap_or_else(|| panic!("{what} is in no dead letter as it was"));
        assert_eq!(letter.get("original_message").is_some(), std::str::from_utf8(&entry).is_ok(), "{what}");
        assert!(letter["error"].as_str().is_some_and(|error| !error.is_empty() && error.len() < 4096), "{what}: {}", letter["error"]);
        assert!(letter["error_kind"].is_string(), "{what}");
        assert_eq!((&letter["queue"], &letter["attempts"]), (&json!(QUEUE), &json!(1)), "{what}");
        letter["failed_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let symbols = chain.history().await.symbols();
    assert_eq!(symbols, ["first", "last"].map(String::from).into());

    // A foreign consumer took one by BRPOPLPUSH and died: it comes back. The same message once more changes nothing.
    lists.push(&format!("{QUEUE}:processing"), quick_start("STUCK").to_string());
    lists.push(QUEUE, quick_start("FIRST").to_string());
    worker.until("took over what was stuck", async |_| chain.history().await.symbols().contains("stuck").then_some(())).await;
    worker.until("acknowledged all", async |_| (lists.depths(QUEUE) == [0, 0, 0, count]).then_some(())).await;

    // The redrive of the brief: read, repair, push, remove.
    let repaired = quick_start("REPAIRED").to_string();
    lists.push(QUEUE, &repaired);
    let letter: Vec<u8> = lists.query("RPOP", &[format!("{QUEUE}:dlq").as_bytes()]);
    assert!(serde_json::from_slice::<Value>(&letter).is_ok());
    worker.until("deployed the repaired one", async |_| chain.history().await.symbols().contains("repaired").then_some(())).await;
    chain.history().await.assert_exactly_once();
    worker.stop("TERM").await;
}
