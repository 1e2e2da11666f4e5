//! Every field of a registration, wrong in every way: each is refused by name and nothing is registered.

use super::*;

/// One line for each attempt: what was sent, the status, and what `errors` says.
async fn tried(server: &Server, sent: &str, body: impl Into<Body>) -> String {
    let answer = server.post("/api/v1/models/register", body).await;
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status.as_u16(), "{problem}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let errors = problem["errors"].as_array().cloned().unwrap_or_default();
    let errors: Vec<String> =
        errors.iter().map(|error| format!("{}: {}", error["field"].as_str().unwrap(), error["problem"].as_str().unwrap())).collect();
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
    let values = values(
        "model_uri",
        &[
            "null",
            "7",
            "[]",
            "{}",
            "\"\"",
            "\"  \"",
            "\"runs:\"",
            "\"models:/chat-model/latest\"",
            "\"a\\u0000b\"",
            "\"\\ud800\"",
            &long(2_001),
        ],
    )
    .await;
    insta::assert_snapshot!(values, @r#"
    missing → 422 model_uri: is missing
    null → 422 model_uri: must not be null
    7 → 422 model_uri: must be text, is a number
    [] → 422 model_uri: must be text, is an array
    {} → 422 model_uri: must be text, is an object
    "" → 422 model_uri: must not be empty or blank
    "  " → 422 model_uri: must not be empty or blank
    "runs:" → 422 model_uri: must be written runs:/<run id>/<artifact path>
    "models:/chat-model/latest" → 422 model_uri: must be written models:/<name>/<version number>, models:/<name>@<alias> or models:/m-<logged model id>; stages and `latest` name no version that stays the same
    "a\u0000b" → 422 model_uri: must not contain control characters, contains U+0000
    "\ud800" → 422 model_uri: is not JSON: unexpected end of hex escape at line 1 column 21
    "aaaaaaaaaaa…(2003 bytes) → 422 model_uri: is 2001 characters long; at most 2000 are allowed
    "#);
}

#[tokio::test]
async fn model_name() {
    let values = values("model_name", &["null", "true", "\"\"", "\"a/b\"", "\"a:b\"", "\"a\\nb\"", &long(257)]).await;
    insta::assert_snapshot!(values, @r#"
    missing → 422 model_name: is missing
    null → 422 model_name: must not be null
    true → 422 model_name: must be text, is true or false
    "" → 422 model_name: must not be empty or blank
    "a/b" → 422 model_name: must not contain `/`, as in MLflow: the name is part of model URIs and ids
    "a:b" → 422 model_name: must not contain `:`, as in MLflow: the name is part of model URIs and ids
    "a\nb" → 422 model_name: must not contain control characters, contains U+000A
    "aaaaaaaaaaa…(259 bytes) → 422 model_name: is 257 characters long; at most 256 are allowed
    "#);
}

#[tokio::test]
async fn token_id() {
    let values = values("token_id", &["null", "1", "\"\"", "\"msg ai\"", "\"msg_ai\"", "\"mßg\"", &long(65)]).await;
    insta::assert_snapshot!(values, @r#"
    missing → 422 token_id: is missing
    null → 422 token_id: must not be null
    1 → 422 token_id: must be text, is a number
    "" → 422 token_id: must be 1 to 64 letters A-Z or a-z, digits or hyphens, is ""
    "msg ai" → 422 token_id: must be 1 to 64 letters A-Z or a-z, digits or hyphens, is "msg ai"
    "msg_ai" → 422 token_id: must be 1 to 64 letters A-Z or a-z, digits or hyphens, is "msg_ai"
    "mßg" → 422 token_id: must be 1 to 64 letters A-Z or a-z, digits or hyphens, is "mßg"
    "aaaaaaaaaaa…(67 bytes) → 422 token_id: must be 1 to 64 letters A-Z or a-z, digits or hyphens, is "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"…
    "#);
}

#[tokio::test]
async fn metric_name() {
    let values = values("metric_name", &["null", "0.5", "\"\"", "\"a\\u0007\"", &long(251)]).await;
    insta::assert_snapshot!(values, @r#"
    missing → 422 metric_name: is missing
    null → 422 metric_name: must not be null
    0.5 → 422 metric_name: must be text, is a number
    "" → 422 metric_name: must not be empty or blank
    "a\u0007" → 422 metric_name: must not contain control characters, contains U+0007
    "aaaaaaaaaaa…(253 bytes) → 422 metric_name: is 251 characters long; at most 250 are allowed
    "#);
}

#[tokio::test]
async fn baseline_value() {
    let values =
        values("baseline_value", &["null", "\"0.1\"", "true", "[0.1]", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "01"])
            .await;
    insta::assert_snapshot!(values, @r#"
    null → 422 baseline_value: is missing; give it, or name the model to compare with as `baseline`
    "0.1" → 422 baseline_value: must be a number, is the text "0.1": write it without quotes
    true → 422 baseline_value: must be a number, is true or false
    [0.1] → 422 baseline_value: must be a number, is an array
    NaN → 400 baseline_value: is NaN, which is not JSON; numbers must be finite
    Infinity → 400 baseline_value: is Infinity, which is not JSON; numbers must be finite
    -Infinity → 400 baseline_value: is -Infinity, which is not JSON; numbers must be finite
    1e999 → 422 baseline_value: is a number beyond what a double can hold; numbers must be finite
    -1e999 → 422 baseline_value: is a number beyond what a double can hold; numbers must be finite
    0x10 → 400 : is not JSON: expected `,` or `}` at line 1 column 152
    01 → 400 baseline_value: is not JSON: invalid number at line 1 column 152
    "#);
}

#[tokio::test]
async fn current_value() {
    let values = values("current_value", &["null", "\"high\"", "{}", "NaN", "1e999"]).await;
    insta::assert_snapshot!(values, @r#"
    null → 422 current_value: is missing, and there is no MLflow to read it from (MLFLOW_TRACKING_URI)
    "high" → 422 current_value: must be a number, is text
    {} → 422 current_value: must be a number, is an object
    NaN → 400 current_value: is NaN, which is not JSON; numbers must be finite
    1e999 → 422 current_value: is a number beyond what a double can hold; numbers must be finite
    "#);
}

#[tokio::test]
async fn metric_direction() {
    let values = values("metric_direction", &["1", "\"\"", "\"up\"", "\"Higher_Is_Better\""]).await;
    insta::assert_snapshot!(values, @r#"
    1 → 422 metric_direction: must be text, is a number
    "" → 422 metric_direction: must be higher_is_better or lower_is_better, is ""
    "up" → 422 metric_direction: must be higher_is_better or lower_is_better, is "up"
    "Higher_Is_Better" → 422 metric_direction: must be higher_is_better or lower_is_better, is "Higher_Is_Better"
    "#);
}

#[tokio::test]
async fn contributor_address() {
    let wrong_checksum = "\"0x52908400098527886E0F7030069857D2E4169Ee7\"";
    let values =
        values("contributor_address", &["1", "\"\"", "\"0x1234\"", "\"52908400098527886E0F7030069857D2E4169EE7\"", wrong_checksum]).await;
    insta::assert_snapshot!(values, @r#"
    1 → 422 contributor_address: must be text, is a number
    "" → 422 contributor_address: must be an address, 0x and 40 hex digits, is ""
    "0x1234" → 422 contributor_address: must be an address, 0x and 40 hex digits, is "0x1234"
    "52908400098…(42 bytes) → 422 contributor_address: must be an address, 0x and 40 hex digits, is "52908400098527886E0F7030069857D2E4169EE7"
    "0x529084000…(44 bytes) → 422 contributor_address: is an address whose mixed case is not its EIP-55 checksum, "0x52908400098527886E0F7030069857D2E4169E"…: a digit may be mistyped; write it in lower case if it is right
    "#);
}

#[tokio::test]
async fn experiment_name() {
    let values = values("experiment_name", &["1", "\"\"", "\"a\\tb\"", &long(501)]).await;
    insta::assert_snapshot!(values, @r#"
    1 → 422 experiment_name: must be text, is a number
    "" → 422 experiment_name: must not be empty or blank
    "a\tb" → 422 experiment_name: must not contain control characters, contains U+0009
    "aaaaaaaaaaa…(503 bytes) → 422 experiment_name: is 501 characters long; at most 500 are allowed
    "#);
}

#[tokio::test]
async fn tags() {
    let values = values("tags", &["1", "[]", "{\"a\":1}", "{\"a\":null}", "{\"\":\"b\"}", "{\"a\":\"b\",\"a\":\"c\"}"]).await;
    insta::assert_snapshot!(values, @r#"
    1 → 422 tags: must be an object, is a number
    [] → 422 tags: must be an object, is an array
    {"a":1} → 422 tags.a: must be text, is a number
    {"a":null} → 422 tags.a: must be text, is null
    {"":"b"} → 422 tags: has a name that must not be empty or blank
    {"a":"b","a":"c"} → 422 tags.a: appears twice in the same object
    "#);
}

#[tokio::test]
async fn mlflow_run_id() {
    let values = values("mlflow_run_id", &["1", "\"\"", "\"another\"", &long(257)]).await;
    insta::assert_snapshot!(values, @r#"
    1 → 422 mlflow_run_id: must be text, is a number
    "" → 422 mlflow_run_id: must not be empty or blank
    "another" → 422 mlflow_run_id: is "another", but model_uri names the run "0123456789abcdef0123456789abcdef"
    "aaaaaaaaaaa…(259 bytes) → 422 mlflow_run_id: is 257 characters long; at most 256 are allowed
    "#);
}

#[tokio::test]
async fn performance_data() {
    let values = values("performance_data", &["1", "[]", "{\"reply_rate\":0.99}", "{\"p99\":NaN}"]).await;
    insta::assert_snapshot!(values, @r#"
    1 → 422 performance_data: must be an object, is a number
    [] → 422 performance_data: must be an object, is an array
    {"reply_rate":0.99} → 422 performance_data.reply_rate: is 0.99, but current_value is 0.15
    {"p99":NaN} → 400 performance_data.p99: is NaN, which is not JSON; numbers must be finite
    "#);
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
    insta::assert_snapshot!(lines.join("\n"), @r#"
    nothing → 400 : is not JSON: EOF while parsing a value at line 1 column 0
    blanks → 400 : is not JSON: EOF while parsing a value at line 1 column 2
    no JSON → 400 : is not JSON: expected value at line 1 column 1
    half of it → 400 model_uri: is not JSON: EOF while parsing a string at line 1 column 40
    an array → 422 : must be a JSON object, is an array
    null → 422 : must be a JSON object, is null
    an empty object → 422 model_uri: is missing | model_name: is missing | token_id: is missing | metric_name: is missing
    not UTF-8 → 400 model_name: is not UTF-8 at byte 16 of the message
    deeply nested → 422 tags[0][0][0][0][0][0][0]…: nests more than 100 levels deep
    an unknown field → 422 currentvalue: is not a field of a registration; the fields are model_uri, model_name, token_id, metric_name, baseline_value, baseline, current_value, metric_direction, contributor_address, experiment_name, tags, mlflow_run_id, performance_data
    a field twice → 422 token_id: appears twice in the same object
    "#);
}

#[tokio::test]
async fn everything_that_is_wrong_is_named_at_once() {
    let server = Server::start().await;
    let body = with(json!({ "model_name": "", "token_id": "a b", "baseline_value": "0.1" }));
    insta::assert_snapshot!(server.register(&body).await.shown(), @r#"
    422 application/problem+json
    {
      "type": "urn:hokusai:problem:invalid",
      "title": "A field is not acceptable",
      "status": 422,
      "detail": "What the body says is not acceptable; see `errors`.",
      "instance": "/api/v1/models/register",
      "request_id": "[uuid]",
      "errors": [
        {
          "field": "model_name",
          "problem": "must not be empty or blank"
        },
        {
          "field": "token_id",
          "problem": "must be 1 to 64 letters A-Z or a-z, digits or hyphens, is \"a b\""
        },
        {
          "field": "baseline_value",
          "problem": "must be a number, is the text \"0.1\": write it without quotes"
        }
      ]
    }
    "#);
}
