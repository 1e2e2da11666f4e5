use serde_json::json;

use super::*;

fn body() -> Value {
    json!({
        "model_uri": "runs:/abc123/model", "model_name": "msg model", "token_id": "msg-ai", "metric_name": "reply_rate",
        "baseline_value": 0.75, "current_value": 0.82,
    })
}

fn read(change: Value) -> Result<RegisterRequest, Invalid> {
    let mut body = body();
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    RegisterRequest::from_json(body.to_string().as_bytes())
}

/// A request with this change is refused, naming this field.
fn refused(change: Value, field: &str) {
    let invalid = read(change.clone()).expect_err(&change.to_string());
    assert_eq!(invalid.field, field, "{change}: {invalid}");
}

#[test]
fn the_smallest_request_is_read() {
    let request = read(json!({})).unwrap();
    assert_eq!(request.location, ModelUri::Run { run_id: "abc123".into(), path: "model".into() });
    assert_eq!(request.metric_direction, MetricDirection::HigherIsBetter);
    assert_eq!(request.origin().unwrap(), Origin { run_id: "abc123".into(), artifact_path: "model".into(), version: Version::Next });
}

#[test]
fn every_field_is_checked_and_named() {
    for field in ["baseline_value", "baseline", "current_value"] {
        refused(json!({ field: [] }), field);
    }
    refused(json!({ "baseline_value": null }), "baseline_value");
    for field in ["model_uri", "model_name", "token_id", "metric_name"] {
        let mut body = body();
        body.as_object_mut().unwrap().remove(field);
        let invalid = RegisterRequest::from_json(body.to_string().as_bytes()).unwrap_err();
        assert_eq!((invalid.field.as_str(), invalid.problem.as_str()), (field, "is missing"));
        refused(json!({ field: null }), field);
        refused(json!({ field: [] }), field);
    }
    for (field, wrong) in [
        ("model_name", json!("")),
        ("model_name", json!("a/b")),
        ("model_name", json!("a:b")),
        ("model_name", json!("a\u{0}b")),
        ("model_name", json!("x".repeat(257))),
        ("token_id", json!("msg ai")),
        ("token_id", json!("x".repeat(65))),
        ("token_id", json!(7)),
        ("metric_name", json!("  ")),
        ("baseline_value", json!("0.75")),
        ("baseline_value", json!(true)),
        ("metric_direction", json!("up")),
        ("contributor_address", json!("0x1234")),
        ("contributor_address", json!("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD".to_lowercase().replace("0x5a", "0x5A"))),
        ("experiment_name", json!("")),
        ("tags", json!(["a"])),
        ("tags.a", json!(null)),
        ("mlflow_run_id", json!("other")),
        ("performance_data", json!(1)),
        ("performance_data.reply_rate", json!(null)),
        ("model_uri", json!("models:/other/3")),
        ("model_uri", json!("runs:/abc123")),
        ("token", json!("msg-ai")),
    ] {
        match field.split_once('.') {
            Some(("tags", key)) => refused(json!({ "tags": { key: 1 } }), field),
            Some(("performance_data", key)) => refused(json!({ "performance_data": { key: 0.9 } }), field),
            _ => refused(json!({ field: wrong }), field),
        }
    }
}

#[test]
fn values_may_be_left_to_mlflow() {
    let request = read(json!({ "baseline_value": null, "current_value": null, "baseline": "models:/msg model@champion" })).unwrap();
    assert_eq!((request.baseline_value, request.current_value), (None, None));
    assert_eq!(request.values().unwrap_err().field, "baseline_value");
    assert_eq!(read(json!({ "current_value": null })).unwrap().values().unwrap_err().field, "current_value");
    let measured = read(json!({ "current_value": null, "performance_data": { "reply_rate": 0.9 } })).unwrap();
    assert_eq!(measured.values().unwrap(), Values { baseline: 0.75, current: 0.9 });
}

#[test]
fn what_is_not_json_is_refused() {
    let whole = |body: &[u8]| RegisterRequest::from_json(body).unwrap_err().field;
    assert_eq!(whole(b""), "");
    assert_eq!(whole(b"[]"), "");
    assert_eq!(whole(b"{\"model_uri\": NaN}"), "model_uri");
    assert_eq!(whole(b"{\"model_uri\": 1e999}"), "model_uri");
    assert_eq!(whole(&[b' '; MAX_REQUEST_BYTES + 1]), "");
    let deep = format!("{{\"performance_data\": {}{}}}", "[".repeat(200_000), "]".repeat(0));
    assert!(whole(deep.as_bytes()).starts_with("performance_data"));
}

#[test]
fn an_origin_without_mlflow_needs_a_run() {
    let origin = |change: Value| read(change).unwrap().origin();
    let run = "0123456789abcdef0123456789abcdef";
    assert_eq!(origin(json!({ "model_uri": "models:/msg model/3" })).unwrap_err().field, "mlflow_run_id");
    let fixed = origin(json!({ "model_uri": "models:/msg model/3", "mlflow_run_id": "r" })).unwrap();
    assert_eq!((fixed.run_id.as_str(), fixed.version), ("r", Version::Fixed(3)));
    assert_eq!(origin(json!({ "model_uri": "s3://bucket/model" })).unwrap_err().field, "mlflow_run_id");
    let found = origin(json!({ "model_uri": format!("s3://bucket/1/{run}/artifacts/model") })).unwrap();
    assert_eq!((found.run_id.as_str(), found.version), (run, Version::Next));
    assert_eq!(origin(json!({ "model_uri": "models:/msg model@champion" })).unwrap_err().field, "model_uri");
}

#[test]
fn spelling_does_not_make_another_content() {
    let digest = |change: Value| read(change).and_then(|request| Ok(request.digest(request.values()?))).unwrap();
    let plain = digest(json!({ "performance_data": { "a": 1, "b": { "c": 1, "d": 2 } } }));
    assert_eq!(plain, digest(json!({ "performance_data": { "b": { "d": 2.0, "c": 1 }, "a": 1.0 } })));
    assert_ne!(plain, digest(json!({ "performance_data": { "a": 2 } })));
    assert_eq!(digest(json!({ "baseline_value": 0 })), digest(json!({ "baseline_value": -0.0 })));
    assert_eq!(digest(json!({})), digest(json!({ "metric_direction": "higher_is_better", "mlflow_run_id": "abc123" })));
    let address = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
    assert_eq!(digest(json!({ "contributor_address": address })), digest(json!({ "contributor_address": address.to_lowercase() })));
    for other in [json!({ "current_value": 0.83 }), json!({ "tags": {} }), json!({ "metric_name": "m" }), json!({ "experiment_name": "e" })]
    {
        assert_ne!(digest(json!({})), digest(other));
    }
}
