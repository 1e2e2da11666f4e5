//! `hokusai register`, `registration` and `subscription`: in a database of one's own, and through a server.

use hokusai_testbed::free_port;
use serde_json::{Value, json};

use crate::{
    program::{Place, Run},
    services::Api,
};

const REGISTER: [&str; 13] = [
    "register",
    "--model-uri",
    "runs:/abc123/model",
    "--model-name",
    "reply writer",
    "--token-id",
    "MSG-AI",
    "--metric-name",
    "reply_rate",
    "--baseline-value",
    "-0.75",
    "--current-value",
    "0.82",
];

fn register(place: &Place, more: &[&str]) -> Run {
    place.run(&[&REGISTER[..], more].concat())
}

/// The same commands, whoever answers them.
fn check_register_show_and_list(place: &Place) {
    let first = register(place, &["--tag", "team=messaging", "--json"]).json();
    assert_eq!(first["model_id"], "reply writer/1/MSG-AI");
    assert_eq!((&first["status"], &first["verdict"], &first["event_emitted"]), (&json!("queued"), &json!("accepted"), &json!(true)));
    let again = register(place, &["--tag", "team=messaging", "--json"]).json();
    assert_eq!(again["registration_id"], first["registration_id"]);
    assert_eq!(again["message_id"], first["message_id"]);

    // Other content under the same identity is a conflict that names the first.
    let complaint = register(place, &["--tag", "team=other"]).failed(1);
    assert!(complaint.contains(first["registration_id"].as_str().unwrap()), "{complaint}");

    let rejected = json!({
        "model_uri": "runs:/def456/model", "model_name": "reply writer", "token_id": "msg-ai", "metric_name": "reply_rate",
        "baseline_value": 0.75, "current_value": 0.5,
    });
    let run = place.run_with(&["register", "--request", "-", "--json"], rejected.to_string());
    assert_eq!(run.code, Some(1), "{run:?}");
    let rejected: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&rejected["status"], &rejected["event_emitted"], &rejected["message_id"]),
        (&json!("rejected"), &json!(false), &Value::Null)
    );
    assert!(rejected["reason"].as_str().unwrap().contains("0.5"), "{rejected}");

    let id = first["registration_id"].as_str().unwrap();
    let shown = place.run(&["registration", "show", id, "--json"]).json();
    assert_eq!((&shown["registration_id"], &shown["tags"]["team"]), (&json!(id), &json!("messaging")));
    assert_eq!(shown["history"][0]["step"], "queued");
    assert!(place.run(&["registration", "show", id]).ok().contains("reply writer/1/MSG-AI queued"));

    let list = place.run(&["registration", "list", "--json"]).json();
    let models: Vec<_> = list["registrations"].as_array().unwrap().iter().map(|one| one["model_id"].as_str().unwrap()).collect();
    assert_eq!(models, ["reply writer/2/msg-ai", "reply writer/1/MSG-AI"], "the newest first");
    let list = place.run(&["registration", "list", "--status", "rejected", "--token", "MSG-AI", "--json"]).json();
    assert_eq!(list["registrations"].as_array().unwrap().len(), 1);
    assert_eq!(place.run(&["registration", "list"]).ok().lines().count(), 3);

    let complaint = place.run(&["registration", "wait", id, "--timeout", "0.3"]).failed(1);
    assert!(complaint.contains("still queued"), "{complaint}");
    let waited = place.run(&["registration", "wait", rejected["registration_id"].as_str().unwrap()]);
    assert!(waited.code == Some(1) && waited.stdout.contains("rejected"), "{waited:?}");
    let complaint = place.run(&["registration", "show", "01a1f90d-b08a-762f-b2a4-000000000000"]).failed(1);
    assert!(complaint.contains("there is no registration"), "{complaint}");
}

#[test]
fn in_a_database_of_its_own() {
    let place = Place::new();
    check_register_show_and_list(&place);
    // Without a server running, the message has reached the queue already.
    let waiting = place.run(&["queue", "peek", "--json"]).json();
    assert_eq!(waiting.as_array().unwrap().len(), 1);
    assert_eq!(waiting[0]["payload"]["model_id"], "reply writer/1/MSG-AI");
}

#[tokio::test]
async fn through_a_server() {
    let api = Api::at(free_port());
    let server_place = Place::new().with("HOKUSAI_LISTEN", api.listen());
    let mut server = server_place.start(&["serve"]);
    server.answers(&api.url).await;
    // No database: a client has nowhere to keep one, and needs none.
    let client = Place::new().with("HOKUSAI_API_URL", &api.url).with("HOKUSAI_DATA_DIR", "/nonexistent/nowhere");
    check_register_show_and_list(&client);
    server
        .until("relayed", async |_| {
            let waiting = server_place.run(&["queue", "stats", "--json"]).json();
            (waiting["main"] == 1).then_some(())
        })
        .await;
    server.stop("TERM").await;
    let complaint = register(&client, &[]).failed(1);
    assert!(complaint.contains("127.0.0.1"), "who does not answer must be told: {complaint}");
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let place = Place::new();
    let complaint = place.run(&["register", "--model-name", "m"]).failed(1);
    assert!(complaint.contains("model_uri"), "{complaint}");
    for (option, value, field) in [
        ("--token-id", "two words", "token_id"),
        ("--contributor-address", "0x12", "contributor_address"),
        ("--current-value", "inf", "current_value"),
    ] {
        let mut args: Vec<&str> = REGISTER.to_vec();
        match args.iter().position(|known| *known == option) {
            Some(place) => args[place + 1] = value,
            None => args.extend([option, value]),
        }
        let complaint = place.run(&args).failed(1);
        assert!(complaint.contains(field), "{option} {value}: {complaint}");
    }
    assert_eq!(place.run(&["registration", "list", "--json"]).json()["registrations"], json!([]));
}

#[test]
fn an_idempotency_key_makes_a_repetition_recognisable() {
    let place = Place::new();
    let first = register(&place, &["--idempotency-key", "k1", "--json"]).json();
    let again = register(&place, &["--idempotency-key", "k1", "--json"]).json();
    assert_eq!(first["registration_id"], again["registration_id"]);
    register(&place, &["--idempotency-key", "k1", "--tag", "other=content"]).failed(1);
}

#[test]
fn subscriptions_decide_who_gets_what() {
    let place = Place::new();
    place.run(&["subscription", "add", "site", "--types", "model_ready_to_deploy,model_registered"]).ok();
    place.run(&["subscription", "add", "audit", "--types", "model_validation_failed", "--from", "beginning"]).ok();
    register(&place, &[]).ok();
    let short = json!({
        "model_uri": "runs:/other/model", "model_name": "reply writer", "token_id": "MSG-AI", "metric_name": "reply_rate",
        "baseline_value": 0.75, "current_value": 0.5,
    });
    assert_eq!(place.run_with(&["register", "--request", "-"], short.to_string()).code, Some(1));
    let types = |queue: &str| {
        let entries = place.run(&["queue", "peek", "--queue", queue, "--json"]).json();
        let mut types: Vec<_> =
            entries.as_array().unwrap().iter().map(|entry| entry["message_type"].as_str().unwrap().to_owned()).collect();
        types.sort();
        types
    };
    assert_eq!(types("site"), ["model_ready_to_deploy", "model_registered"]);
    assert_eq!(types("audit"), ["model_validation_failed"]);
    assert_eq!(types("hokusai:model_ready_queue"), ["model_ready_to_deploy"]);

    let list = place.run(&["subscription", "list", "--json"]).json();
    let queues: Vec<_> = list.as_array().unwrap().iter().map(|one| one["queue"].as_str().unwrap()).collect();
    assert_eq!(queues, ["audit", "hokusai:model_deployed", "hokusai:model_ready_queue", "site"]);
    assert!(place.run(&["subscription", "list"]).ok().contains("model_validation_failed"));

    place.run(&["subscription", "remove", "site"]).ok();
    place.run(&["subscription", "remove", "site"]).failed(1);
    place.run(&["subscription", "add", "x", "--types", "imagined"]).failed(2);
    place.run(&["subscription", "add", "x", "--types", "model_deployed", "--from", "whenever"]).failed(1);
}
