//! The rules of the fields, seen through `model_ready_to_deploy`.

use hokusai_event::{Address, Event, MessageType, MetricDirection, TokenSymbol, check_message, model_id};
use serde_json::{Value, json};

use crate::{accepted, changed, ready_with, refused};

fn ready(message: &[u8]) -> hokusai_event::ModelReadyToDeploy {
    match check_message(message).unwrap().1 {
        Event::ModelReadyToDeploy(ready) => ready,
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_are_numbers() {
    accepted(&ready_with("baseline_value", json!(1)));
    accepted(&ready_with("baseline_value", json!(-1e308)));
    refused(&ready_with("baseline_value", json!("0.75")), "payload.baseline_value", "is the text \"0.75\": write it without quotes");
    refused(&ready_with("baseline_value", json!("high")), "payload.baseline_value", "must be a number, is text");
    refused(&ready_with("baseline_value", json!(true)), "payload.baseline_value", "must be a number, is true or false");
    refused(&ready_with("baseline_value", json!(null)), "payload.baseline_value", "must not be null");
    refused(&ready_with("model_version", json!(1)), "payload.model_version", "must be text, is a number");
}

#[test]
fn performance_data_supplies_a_missing_current_value_and_nothing_else() {
    let supply = |message: &mut Value| {
        message["payload"]["performance_data"] = json!({"reply_rate": 0.9, "other": "x"});
        message["payload"]["current_value"] = Value::Null;
    };
    assert_eq!(ready(&changed(MessageType::ModelReadyToDeploy, supply)).current_value, 0.9);
    assert_eq!(ready(&ready_with("performance_data", json!({"reply_rate": 0.9}))).current_value, 0.82, "what is stated wins");
    let text = |message: &mut Value| {
        supply(message);
        message["payload"]["performance_data"]["reply_rate"] = json!("0.9");
    };
    refused(&changed(MessageType::ModelReadyToDeploy, text), "payload.current_value", "without quotes");
    let other_metric = |message: &mut Value| {
        supply(message);
        message["payload"]["metric_name"] = json!("accuracy");
    };
    refused(&changed(MessageType::ModelReadyToDeploy, other_metric), "payload.current_value", "must not be null");
}

#[test]
fn token_symbols() {
    for symbol in ["A", "msg-ai", "TEST", "-", "0", &"x".repeat(64)] {
        accepted(&ready_with("token_symbol", json!(symbol)));
    }
    for symbol in ["", "msg_ai", "msg ai", "ümlaut", "a/b", "a\n", "\u{212a}", &"x".repeat(65)] {
        refused(&ready_with("token_symbol", json!(symbol)), "payload.token_symbol", "letters A-Z or a-z, digits or hyphens");
    }
    let symbol = TokenSymbol::parse("Msg-AI").unwrap();
    assert_eq!((symbol.as_str(), symbol.key().as_str()), ("Msg-AI", "msg-ai"));
    assert_eq!(symbol, TokenSymbol::parse("MSG-ai").unwrap());
}

#[test]
fn model_names_are_printable_text() {
    for name in ["msg model v2", "模型 🙂", "a/b:c\"d\\", " x ", &"é".repeat(256)] {
        assert_eq!(ready(&ready_with("model_name", json!(name))).model_name, name);
    }
    refused(&ready_with("model_name", json!("a\u{0}b")), "payload.model_name", "control characters, contains U+0000");
    refused(&ready_with("model_name", json!("a\nb")), "payload.model_name", "U+000A");
    refused(&ready_with("model_name", json!("a\u{9b}b")), "payload.model_name", "U+009B");
    refused(&ready_with("model_name", json!(" \u{3000}")), "payload.model_name", "blank");
    refused(&ready_with("model_name", json!("é".repeat(257))), "payload.model_name", "257 characters long; at most 256");
}

#[test]
fn addresses_with_mixed_case_need_their_checksum() {
    // From EIP-55.
    for address in [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0x27b1fdb04752bbc536007a920d24acb045561c26",
    ] {
        let parsed = Address::parse(address).unwrap();
        assert_eq!(parsed.as_str(), address);
        assert_eq!(parsed.checksummed(), address);
        assert_eq!(parsed, Address::parse(&address.to_lowercase()).unwrap());
        assert_eq!(Address::from(parsed.bytes()).as_str(), address);
        assert_eq!(ready(&ready_with("contributor_address", json!(address))).contributor_address, Some(parsed));
    }
    let mistyped = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed";
    refused(&ready_with("contributor_address", json!(mistyped)), "payload.contributor_address", "EIP-55 checksum");
    refused(
        &ready_with("contributor_address", json!("0x1234...")),
        "payload.contributor_address",
        "0x and 40 hex digits, is \"0x1234...\"",
    );
    refused(&ready_with("contributor_address", json!("")), "payload.contributor_address", "must be an address");
    refused(&ready_with("contributor_address", json!(7)), "payload.contributor_address", "must be text, is a number");
}

#[test]
fn optional_fields_may_be_absent_or_null() {
    for field in MessageType::ModelReadyToDeploy.fields().iter().filter(|field| field.need != hokusai_event::Need::Required) {
        accepted(&ready_with(field.name, Value::Null));
        accepted(&ready_with(field.name, None));
    }
    let bare = ready(&ready_with("contributor_address", Value::Null));
    assert_eq!(bare.contributor_address, None);
}

#[test]
fn tags_are_text_to_text() {
    let tags = ready(&ready_with("tags", json!({"a": "b", "note": "two\nlines", "empty": ""}))).tags.unwrap();
    assert_eq!(tags["note"], "two\nlines");
    refused(&ready_with("tags", json!({"a": 1})), "payload.tags.a", "must be text, is a number");
    refused(&ready_with("tags", json!({"": "x"})), "payload.tags", "has a name that must not be empty");
    refused(&ready_with("tags", json!(["a"])), "payload.tags", "must be an object, is an array");
}

#[test]
fn direction_and_version() {
    let lower = ready(&ready_with("metric_direction", json!("lower_is_better")));
    assert_eq!(lower.metric_direction, Some(MetricDirection::LowerIsBetter));
    refused(&ready_with("metric_direction", json!("down")), "payload.metric_direction", "higher_is_better or lower_is_better");
    accepted(&ready_with("message_version", json!("1.1")));
    refused(&ready_with("message_version", json!("2.0")), "payload.message_version", "version 1 and its minor versions");
}

#[test]
fn whole_numbers_may_be_written_with_a_point() {
    let with = |value: Value| changed(MessageType::ModelDeployed, |message| message["payload"]["block_number"] = value);
    let Event::ModelDeployed(deployed) = check_message(&with(json!(7.0))).unwrap().1 else { panic!("another event") };
    assert_eq!(deployed.block_number, Some(7));
    refused(&with(json!(7.5)), "payload.block_number", "must be a whole number from 0 to 9007199254740991, is 7.5");
    refused(&with(json!(-7)), "payload.block_number", "must be a whole number");
}

#[test]
fn unknown_keys_stay_in_the_typed_payload_and_in_what_is_emitted_from_it() {
    let message = changed(MessageType::ModelReadyToDeploy, |message| message["payload"]["x_signature"] = json!({"alg": ["ed25519"]}));
    let (envelope, event) = check_message(&message).unwrap();
    let Event::ModelReadyToDeploy(ready) = &event else { panic!("{event:?}") };
    assert_eq!(ready.unknown["x_signature"], json!({"alg": ["ed25519"]}));
    let again = hokusai_event::Envelope::new("id".into(), "c".into(), envelope.timestamp.at(), 3, &event).unwrap();
    assert_eq!(serde_json::to_value(&again).unwrap()["payload"]["x_signature"], json!({"alg": ["ed25519"]}));
}

#[test]
fn identity_ignores_the_symbols_case_and_nothing_else() {
    let key = |symbol: &str, model: &str| {
        let message = changed(MessageType::ModelReadyToDeploy, |message| {
            message["payload"]["token_symbol"] = json!(symbol);
            message["payload"]["model_name"] = json!(model);
        });
        ready(&message).version_key()
    };
    assert_eq!(key("MSG-ai", "m"), key("msg-AI", "m"));
    assert_ne!(key("msg-ai", "m"), key("msg-ai", "M"));
    assert_eq!(model_id("msg-model", "1", "msg-ai"), "msg-model/1/msg-ai");
}

#[test]
fn a_model_id_is_never_compared_with_the_other_fields() {
    accepted(&ready_with("model_id", json!("something else entirely")));
}

#[test]
fn every_problem_is_named_at_once() {
    let message = changed(MessageType::ModelReadyToDeploy, |message| {
        message["payload"]["token_symbol"] = json!("a b");
        message["payload"]["baseline_value"] = json!("1");
        message["timestamp"] = json!("yesterday");
        message.as_object_mut().unwrap().shift_remove("message_id");
    });
    let problems = check_message(&message).unwrap_err();
    let fields: Vec<&str> = problems.iter().map(|invalid| invalid.field.as_str()).collect();
    assert_eq!(fields, ["message_id", "timestamp", "payload.token_symbol", "payload.baseline_value"]);
}

#[test]
fn bare_payloads_are_read_by_their_type() {
    let payload = hokusai_event::example(MessageType::MetricImproved)["payload"].to_string();
    assert!(Event::parse(MessageType::MetricImproved, payload.as_bytes()).is_ok());
    let problems = Event::parse(MessageType::ModelReadyToDeploy, br#"{"baseline_value": NaN}"#).unwrap_err();
    assert_eq!(problems[0].to_string(), "payload.baseline_value: is NaN, which is not JSON; numbers must be finite");
    let problems = Event::parse(MessageType::ModelReadyToDeploy, b"[]").unwrap_err();
    assert_eq!(problems[0].to_string(), "payload: must be a JSON object, is an array");
}
