//! `hokusai message` and `hokusai publish`: what a message must be, and getting one into a queue.

use serde_json::{Value, json};

use crate::program::Place;

const TYPES: [&str; 5] = ["model_ready_to_deploy", "model_registered", "model_validation_failed", "model_deployed", "metric_improved"];

fn example(place: &Place) -> Value {
    place.run(&["message", "example", "model_ready_to_deploy"]).json()
}

fn main_depth(place: &Place, queue: &str) -> u64 {
    place.run(&["queue", "stats", "--queue", queue, "--json"]).json()["main"].as_u64().unwrap()
}

fn peek(place: &Place, queue: &str) -> Vec<Value> {
    let peeked = place.run(&["queue", "peek", "--queue", queue, "--limit", "100", "--json"]).json();
    peeked.as_array().unwrap().clone()
}

#[test]
fn every_example_is_valid_and_every_type_has_a_schema() {
    let place = Place::new();
    for message_type in TYPES {
        let example = place.run(&["message", "example", message_type]).ok();
        let report = place.run_with(&["message", "validate", "--json"], &example).json();
        assert_eq!((&report[0]["valid"], &report[0]["message_type"]), (&json!(true), &json!(message_type)), "{report}");
        let schema = place.run(&["message", "schema", message_type]).json();
        assert!(schema["$schema"].is_string() && schema["properties"].is_object(), "{schema}");
    }
    let complaint = place.run(&["message", "example", "model_imagined"]).failed(2);
    assert!(complaint.contains("model_ready_to_deploy") && complaint.contains("model_imagined"), "{complaint}");
}

#[test]
fn validate_names_each_wrong_field_and_goes_on() {
    let place = Place::new();
    let good = example(&place);
    let mut bad = good.clone();
    bad["payload"]["baseline_value"] = json!("much");
    bad["payload"].as_object_mut().unwrap().remove("model_name");
    let input = format!("{bad}\n{good}\n");
    let run = place.run_with(&["message", "validate", "--json"], &input);
    assert_eq!(run.code, Some(1));
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let fields: Vec<_> = report[0]["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert!(fields.contains(&"payload.baseline_value") && fields.contains(&"payload.model_name"), "{report}");
    assert_eq!(report[1]["valid"], true);

    let told = place.run_with(&["message", "validate"], &input);
    assert_eq!(told.code, Some(1));
    assert!(told.stdout.contains("payload.baseline_value"), "{}", told.stdout);
    place.run_with(&["message", "validate"], "").failed(1);
    place.run(&["message", "validate", "no-such-file"]).failed(1);
}

#[test]
fn publish_takes_payloads_and_envelopes_however_they_are_laid_out() {
    let place = Place::new();
    let envelope = example(&place);
    let payload = &envelope["payload"];
    let forms = [
        ("envelope", envelope.to_string(), 1),
        ("payload", payload.to_string(), 1),
        ("pretty", serde_json::to_string_pretty(payload).unwrap(), 1),
        ("ndjson", format!("{payload}\n{envelope}\n\n{payload}\n"), 3),
        ("array", json!([payload, envelope, payload]).to_string(), 3),
    ];
    for (queue, input, count) in forms {
        let published = place.run_with(&["publish", "--queue", queue, "--json"], &input).json();
        assert_eq!((&published["queue"], &published["published"]), (&json!(queue), &json!(count)), "{queue}");
        let entries = peek(&place, queue);
        let ids: Vec<_> = entries.iter().map(|entry| entry["message_id"].clone()).collect();
        assert_eq!(Value::from(ids), published["message_ids"], "{queue}: the oldest is taken first");
        for entry in &entries {
            assert_eq!(entry["message_type"], "model_ready_to_deploy");
            assert_eq!(entry["payload"]["token_symbol"], payload["token_symbol"]);
        }
    }
    // A whole envelope keeps its ids, also beside payloads that get new ones.
    assert_eq!(peek(&place, "envelope")[0], envelope);
    let mixed = peek(&place, "array");
    assert_eq!(mixed[1]["message_id"], envelope["message_id"]);
    assert!(mixed[0]["message_id"] != mixed[2]["message_id"] && mixed[0]["message_id"] != envelope["message_id"]);
    // The payload's own correlation id becomes the envelope's.
    assert_eq!(mixed[0]["correlation_id"], payload["correlation_id"]);
}

#[test]
fn publish_refuses_the_whole_input_for_one_bad_message() {
    let place = Place::new();
    let good = example(&place);
    let mut bad = good.clone();
    bad["payload"]["token_symbol"] = json!("two words");
    let not_finite = good.to_string().replace("0.82", "1e999");
    for input in [format!("{good}\n{bad}\n{good}"), format!("{good}\nnonsense"), not_finite, json!([good, 7]).to_string()] {
        let complaint = place.run_with(&["publish"], &input).failed(1);
        assert!(complaint.contains("nothing was published"), "{complaint}");
    }
    let complaint = place.run_with(&["publish"], format!("{good}\n{bad}")).failed(1);
    assert!(complaint.contains("message 2: payload.token_symbol"), "{complaint}");
    place.run_with(&["publish"], "").failed(1);
    place.run_with(&["publish"], b"\xff\xfe").failed(1);
    place.run(&["publish", "no-such-file"]).failed(1);
    assert_eq!(main_depth(&place, "hokusai:model_ready_queue"), 0);
}

#[test]
fn publish_knows_other_types() {
    let place = Place::new();
    let deployed = place.run(&["message", "example", "model_deployed"]).json();
    let payload = deployed["payload"].to_string();
    place.run_with(&["publish", "--type", "model_deployed", "--queue", "site"], &payload).ok();
    assert_eq!(peek(&place, "site")[0]["message_type"], "model_deployed");
    // As what it is not, it is refused.
    place.run_with(&["publish", "--queue", "site"], &payload).failed(1);
    place.run_with(&["publish", "--type", "imagined"], &payload).failed(2);
}

#[test]
fn queue_commands_tell_people_and_programs() {
    let place = Place::new();
    let stats = place.run(&["queue", "stats", "--json"]).json();
    assert_eq!(stats, json!({"queue": "hokusai:model_ready_queue", "main": 0, "processing": 0, "delayed": 0, "dlq": 0}));
    assert_eq!(place.run(&["queue", "peek", "--json"]).json(), json!([]));
    assert!(place.run(&["queue", "peek"]).ok().contains("nothing in main"));

    let input: String = (0..5)
        .map(|number| {
            let mut message = example(&place);
            message["message_id"] = json!(format!("m{number}"));
            format!("{message}\n")
        })
        .collect();
    place.run_with(&["publish"], input).ok();
    let table = place.run(&["queue", "stats"]).ok();
    let mut lines = table.lines();
    assert_eq!(lines.next().unwrap().split_whitespace().collect::<Vec<_>>(), ["queue", "main", "processing", "delayed", "dead", "letter"]);
    assert_eq!(lines.next().unwrap().split_whitespace().collect::<Vec<_>>(), ["hokusai:model_ready_queue", "5", "0", "0", "0"]);
    let page = place.run(&["queue", "peek", "--offset", "1", "--limit", "2", "--json"]).json();
    let ids: Vec<_> = page.as_array().unwrap().iter().map(|entry| entry["message_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["m1", "m2"]);
    place.run(&["queue", "peek", "--state", "nowhere"]).failed(2);
}
