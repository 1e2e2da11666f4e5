//! `hokusai trace`: by whatever name one asks, one timeline, and at its end what it waits for.

use hokusai_testbed::Redis;
use serde_json::{Value, json};

use crate::{
    program::Place,
    services::{Chain, request},
};

fn register(place: &Place, number: u64) -> Value {
    let request = request(&format!("traced model {number}"), number, &format!("TRACE-{number}"));
    place.run_with(&["register", "--request", "-", "--json"], request.to_string()).json()
}

/// The only timeline that this name leads to.
fn trace(place: &Place, what: &str) -> Value {
    let told = place.run(&["trace", what, "--json"]).json();
    let timelines = told["timelines"].as_array().unwrap();
    assert_eq!(timelines.len(), 1, "{what}: {told}");
    timelines[0].clone()
}

fn waits_for(timeline: &Value) -> &str {
    timeline["waits_for"].as_str().unwrap_or_else(|| panic!("it waits for nothing: {timeline}"))
}

#[tokio::test]
async fn whatever_it_is_called_it_is_found() {
    let redis = Redis::start().await;
    let place = Place::new().with("REDIS_URL", redis.url());
    let registered = register(&place, 1);
    register(&place, 2);
    let id = registered["registration_id"].as_str().unwrap();
    for field in ["registration_id", "message_id", "model_id", "model_name", "correlation_id"] {
        assert_eq!(trace(&place, registered[field].as_str().unwrap())["registration_id"], id, "{field}");
    }
    // A symbol in any case.
    assert_eq!(trace(&place, "trace-1")["registration_id"], id);
    let told = place.run(&["trace", "nothing of the kind"]).failed(1);
    assert!(told.contains("nothing is known of nothing of the kind"), "{told}");
    // The signs of a pattern mean themselves.
    let told = place.run(&["trace", "%", "--json"]);
    assert_eq!((told.code, serde_json::from_str::<Value>(&told.stdout).unwrap()["timelines"].clone()), (Some(1), json!([])));
}

#[tokio::test]
async fn it_says_what_is_waited_for_at_every_station() {
    let redis = Redis::start().await;
    let place = Place::new().with("REDIS_URL", redis.url()).with("MESSAGE_RETRY_BASE_DELAY", "600");
    register(&place, 1);
    let waiting = trace(&place, "TRACE-1");
    assert_eq!(waits_for(&waiting), "a worker to take it from hokusai:model_ready_queue");
    assert_eq!((&waiting["places"][0]["state"], &waiting["status"]), (&json!("main"), &json!("queued")));
    assert!(waiting["since"].is_string() && waiting["steps"][0]["what"] == "queued", "{waiting}");

    place.run(&["queue", "pause", "--reason", "gas is dear"]).ok();
    assert!(waits_for(&trace(&place, "TRACE-1")).contains("paused by"));
    place.run(&["queue", "resume"]).ok();

    place.run(&["consume", "--exec", "exit 1", "--concurrency", "1", "--max", "1"]).ok();
    let delayed = trace(&place, "TRACE-1");
    assert_eq!(waits_for(&delayed), "its next attempt on hokusai:model_ready_queue, after 1 failed");

    register(&place, 2);
    place.run(&["consume", "--exec", "echo no gas >&2; exit 65", "--concurrency", "1", "--max", "1"]).ok();
    let dead = trace(&place, "TRACE-2");
    assert_eq!((waits_for(&dead), &dead["places"][0]["state"]), ("a person", &json!("dlq")));
    // The advice is a command that works.
    let advice = dead["advice"].as_str().unwrap();
    let command = advice.rsplit("mended: hokusai ").next().unwrap();
    place.run(&command.split(' ').collect::<Vec<_>>()).ok();
    assert_eq!(waits_for(&trace(&place, "TRACE-2")), "a worker to take it from hokusai:model_ready_queue");

    place.run(&["consume", "--exec", "true", "--concurrency", "1", "--max", "1"]).ok();
    let told = place.run(&["trace", "TRACE-2"]).ok();
    assert!(told.contains("it waits for ") && told.contains("what to do: "), "{told}");
    drop(redis);
    assert!(waits_for(&trace(&place, "TRACE-1")).contains("does not answer"));
}

#[tokio::test]
async fn a_deployed_model_has_arrived() {
    let redis = Redis::start().await;
    let chain = Chain::start(&["--slots-in-an-epoch", "1"]).await;
    let place = chain.known_to(Place::new().with("REDIS_URL", redis.url()));
    register(&place, 1);
    let mut worker = place.start(&["worker"]);
    let deployed = worker
        .until("the registration is deployed", async |_| Some(trace(&place, "TRACE-1")).filter(|one| one["status"] == "deployed"))
        .await;
    worker.stop("TERM").await;
    assert_eq!((&deployed["waits_for"], &deployed["advice"]), (&Value::Null, &Value::Null));
    let steps: Vec<&str> = deployed["steps"].as_array().unwrap().iter().map(|step| step["what"].as_str().unwrap()).collect();
    assert_eq!((steps.first(), steps.last()), (Some(&"queued"), Some(&"deployed")), "{steps:?}");
    // By the chain's names too.
    for field in ["transaction_hash", "token_address"] {
        assert_eq!(trace(&place, deployed[field].as_str().unwrap())["registration_id"], deployed["registration_id"], "{field}");
    }
    assert_eq!(deployed["deployments"][0]["state"], "final");
}
