//! Every field of a registration, wrong in every way: each is refused by name and nothing is registered.

use super::*;

/// One line for each attempt: what was sent, the status, and what `errors` says.
async fn tried(server: &Server, sent: &str, body: impl Into<Body>) -> String {
    let answer = server.post("/api/v1/models/register", body).await;
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status.as_u16(), "{problem}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let errors = problem["errors"].as_array().cloned().unwrap_or_default();
    let errors: Vec<String> = errors.iter().map(|error| format!("{}: {}", error["field"].as_str().unwrap(), error["problem"].as_str().unwrap())).collect();
    format!("{sent} → {} {}", answer.status.as_u16(), errors.join(" | "))
}

/// What each of these values does in the field, in JSON as written.
async fn values(field: &str, values: &[&str]) -> String {
    let server = Server::start().await;
    let mut lines = Vec::new();
    let mut missing = good();
    missing.as_object_mut().unwrap().remove(field);
    if RegisterRequestFields::requires(field) {
        lines.push(tried(&server, "missing", missing.to_string()).await);
    }
    for value in values {
        let mut body = good();
        body[field] = json!("@@");
        let shown: String = if value.len() > 40 { format!("{}…({} bytes)", &value[..12], value.len()) } else { (*value).to_owned() };
        lines.push(tried(&server, &shown, body.to_string().replace("\"@@\"", value)).await);
    }
    let registered = server.get("/api/v1/registrations").await.json();
    assert_eq!(registered["registrations"], json!([]), "something was registered");
    lines.join("\n")
}

struct RegisterRequestFields;

impl RegisterRequestFields {
    fn requires(field: &str) -> bool {
        let table = hokusai_registry::RegisterRequest::FIELDS;
        table.iter().any(|row| row.name == field && row.need == hokusai_event::Need::Required)
    }
}

fn long(characters: usize) -> String {
    format!("\"{}\"", "a".repeat(characters))
}

#[tokio::test]
async fn model_uri() {
    let values = values("model_uri", &["null", "7", "[]", "{}", "\"\"", "\"  \"", "\"runs:\"", "\"models:/chat-model/latest\"", "\"a\\u0000b\"", "\"\\ud800\"", &long(2_001)]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn model_name() {
    let values = values("model_name", &["null", "true", "\"\"", "\"a/b\"", "\"a:b\"", "\"a\\nb\"", &long(257)]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn token_id() {
    let values = values("token_id", &["null", "1", "\"\"", "\"msg ai\"", "\"msg_ai\"", "\"mßg\"", &long(65)]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn metric_name() {
    let values = values("metric_name", &["null", "0.5", "\"\"", "\"a\\u0007\"", &long(251)]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn baseline_value() {
    let values = values("baseline_value", &["null", "\"0.1\"", "true", "[0.1]", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "01"]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn current_value() {
    let values = values("current_value", &["null", "\"high\"", "{}", "NaN", "1e999"]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn metric_direction() {
    let values = values("metric_direction", &["1", "\"\"", "\"up\"", "\"Higher_Is_Better\""]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn contributor_address() {
    let wrong_checksum = "\"0x52908400098527886E0F7030069857D2E4169Ee7\"";
    let values = values("contributor_address", &["1", "\"\"", "\"0x1234\"", "\"52908400098527886E0F7030069857D2E4169EE7\"", wrong_checksum]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn experiment_name() {
    let values = values("experiment_name", &["1", "\"\"", "\"a\\tb\"", &long(501)]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn tags() {
    let values = values("tags", &["1", "[]", "{\"a\":1}", "{\"a\":null}", "{\"\":\"b\"}", "{\"a\":\"b\",\"a\":\"c\"}"]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn mlflow_run_id() {
    let values = values("mlflow_run_id", &["1", "\"\"", "\"another\"", &long(257)]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn performance_data() {
    let values = values("performance_data", &["1", "[]", "{\"reply_rate\":0.99}", "{\"p99\":NaN}"]).await;
    insta::assert_snapshot!(values, @"");
}

#[tokio::test]
async fn the_body_as_a_whole() {
    let server = Server::start().await;
    let deep = format!("{{\"tags\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let unknown = with(json!({ "currentvalue": 1 })).to_string();
    let twice = good().to_string().replacen('{', "{\"token_id\":\"other\",", 1);
    let bodies: [(&str, Vec<u8>); 11] = [
        ("nothing", Vec::new()),
        ("blanks", b"  ".to_vec()),
        ("no JSON", b"model_uri=1".to_vec()),
        ("half of it", good().to_string().into_bytes()[..40].to_vec()),
        ("an array", b"[]".to_vec()),
        ("null", b"null".to_vec()),
        ("an empty object", b"{}".to_vec()),
        ("not UTF-8", b"{\"model_name\": \"\xff\xfe\"}".to_vec()),
        ("deeply nested", deep.into_bytes()),
        ("an unknown field", unknown.into_bytes()),
        ("a field twice", twice.into_bytes()),
    ];
    let mut lines = Vec::new();
    for (name, body) in bodies {
        lines.push(tried(&server, name, body).await);
    }
    insta::assert_snapshot!(lines.join("\n"), @"");
}

#[tokio::test]
async fn everything_that_is_wrong_is_named_at_once() {
    let server = Server::start().await;
    let body = with(json!({ "model_name": "", "token_id": "a b", "baseline_value": "0.1" }));
    insta::assert_snapshot!(server.register(&body).await.shown(), @"");
}
