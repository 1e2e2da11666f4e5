//! Reading and printing the envelope.

use hokusai_event::{
    Envelope, Event, MAX_MESSAGE_BYTES, MESSAGE_VERSION, MessageType, check_message, example, example_event, read_timestamp,
};
use serde_json::{Value, json};

use crate::{accepted, changed, refused};

const READY: MessageType = MessageType::ModelReadyToDeploy;

fn parse(text: &str) -> Envelope {
    Envelope::parse(text.as_bytes()).unwrap()
}

fn new(event: &Event) -> Result<Envelope, hokusai_event::Invalid> {
    Envelope::new("m-1".into(), "c-1".into(), read_timestamp("2025-01-27T15:30:00Z").unwrap(), 3, event)
}

#[test]
fn the_least_envelope() {
    let envelope = parse(r#"{"message_id":"m","message_type":"t","timestamp":"2025-01-27T15:30:00","payload":{}}"#);
    assert_eq!((envelope.retry_count, envelope.max_retries, envelope.correlation_id.as_deref()), (0, None, None));
    assert_eq!(envelope.correlation(), "m");
    let printed = String::from_utf8(envelope.to_bytes()).unwrap();
    let expected = r#"{"message_id":"m","message_type":"t","timestamp":"2025-01-27T15:30:00.000000+00:00","payload":{},"retry_count":0,"correlation_id":"m"}"#;
    assert_eq!(printed, expected);
}

#[test]
fn unknown_keys_and_the_payloads_bytes_survive() {
    let payload = "{ \"z\" : 1e2,\n \"a\":[1.10, 12345678901234567890123], \"\\u0061b\" : \"\\u00e9\" }";
    let text = format!(
        r#"{{"zeta":{{"b":1.0,"a":2}},"message_id":"m","payload":{payload},"message_type":"t","hokusai_expiries":1,"timestamp":"2025-01-27T15:30:00Z","alpha": null}}"#
    );
    let envelope = parse(&text);
    assert_eq!(envelope.payload.get(), payload);
    let printed = String::from_utf8(envelope.to_bytes()).unwrap();
    assert!(printed.contains(payload), "{printed}");
    assert!(printed.ends_with(r#""zeta":{"b":1.0,"a":2},"hokusai_expiries":1,"alpha":null}"#), "{printed}");
    assert_eq!(parse(&printed).to_bytes(), printed.as_bytes());
}

#[test]
fn the_correlation_id_is_found_in_the_payload_when_the_envelope_lost_it() {
    let without = changed(READY, |message| {
        message.as_object_mut().unwrap().shift_remove("correlation_id");
    });
    let envelope = Envelope::parse(&without).unwrap();
    assert_eq!(envelope.correlation(), example(READY)["correlation_id"].as_str().unwrap());
}

#[test]
fn fields_of_the_envelope_are_checked() {
    let with = |field: &str, value: Value| changed(READY, |message| message[field] = value);
    refused(&with("message_id", json!("")), "message_id", "must not be empty");
    refused(&with("message_id", json!(7)), "message_id", "must be text, is a number");
    refused(&with("message_type", json!("model_lost")), "message_type", "must be one of model_ready_to_deploy, model_registered");
    refused(&with("timestamp", json!(1_737_991_800)), "timestamp", "must be text, is a number");
    refused(&with("payload", json!([])), "payload", "must be an object, is an array");
    refused(&with("payload", json!("{}")), "payload", "must be an object, is text");
    refused(&with("retry_count", json!(-1)), "retry_count", "must be a whole number from 0 to 4294967295, is -1");
    refused(&with("max_retries", json!("3")), "max_retries", "is the text \"3\": write it without quotes");
    accepted(&with("message_id", json!("any text at all 🙂")));
    accepted(&with("retry_count", Value::Null));
    assert_eq!(Envelope::parse(&with("message_type", json!("model_lost"))).unwrap().message_type, "model_lost");
    for text in ["[]", "null", "7", "\"x\"", " true"] {
        let invalid = Envelope::parse(text.as_bytes()).unwrap_err();
        assert!(invalid.to_string().starts_with("message: must be a JSON object, is "), "{invalid}");
    }
}

#[test]
fn a_new_message_has_everything_that_is_always_emitted() {
    let bare = json!({
        "model_id": "m/1/T", "token_symbol": "T", "metric_name": "loss", "baseline_value": 2, "current_value": 1, "model_name": "m",
        "model_version": "1", "mlflow_run_id": "r", "metric_direction": "lower_is_better",
    });
    let event = Event::parse(READY, bare.to_string().as_bytes()).unwrap();
    let envelope = new(&event).unwrap();
    let message: Value = serde_json::from_slice(&envelope.to_bytes()).unwrap();
    assert_eq!(message["max_retries"], 3);
    assert_eq!(message["retry_count"], 0);
    assert_eq!(message["correlation_id"], "c-1");
    let payload = &message["payload"];
    assert_eq!(payload["timestamp"], "2025-01-27T15:30:00.000000+00:00");
    assert_eq!(payload["message_version"], MESSAGE_VERSION);
    assert_eq!(payload["improvement_percentage"], 50.0);
    assert_eq!(payload["performance_data"], json!({"loss": 1.0}));
    assert_eq!(payload["correlation_id"], "c-1");
    assert_eq!(payload.get("contributor_address"), None);
    accepted(&envelope.to_bytes());
}

#[test]
fn an_improvement_over_zero_is_written_as_null() {
    let Event::ModelReadyToDeploy(mut ready) = example_event(READY) else { panic!("another event") };
    ready.baseline_value = 0.0;
    let message: Value = serde_json::from_slice(&new(&ready.into()).unwrap().to_bytes()).unwrap();
    assert_eq!(message["payload"].get("improvement_percentage"), Some(&Value::Null));
}

#[test]
fn a_new_message_obeys_the_rules_it_is_read_by() {
    let Event::ModelReadyToDeploy(good) = example_event(READY) else { panic!("another event") };
    let check = |field: &str, spoil: &dyn Fn(&mut hokusai_event::ModelReadyToDeploy)| {
        let mut ready = good.clone();
        spoil(&mut ready);
        assert_eq!(new(&ready.into()).unwrap_err().field, field);
    };
    check("payload.current_value", &|ready| ready.current_value = f64::NAN);
    check("payload.baseline_value", &|ready| ready.baseline_value = f64::INFINITY);
    check("payload.improvement_percentage", &|ready| ready.improvement_percentage = Some(f64::NAN));
    check("payload.model_name", &|ready| ready.model_name = "two\nlines".into());
    check("payload.mlflow_run_id", &|ready| ready.mlflow_run_id = String::new());
    check("payload.tags.k", &|ready| ready.tags = Some([("k".into(), "x".repeat(100_001))].into()));
    check("", &|ready| drop(ready.unknown.insert("note".into(), "x".repeat(MAX_MESSAGE_BYTES - 1_500).into())));
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let mut ready = good.clone();
    ready.unknown.insert("deep".into(), deep);
    assert!(new(&ready.clone().into()).unwrap_err().problem.contains("levels deep"));
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    // The envelope and the payload are the other two.
    ready.unknown.insert("deep".into(), nested(hokusai_event::MAX_DEPTH - 2));
    let deepest = new(&ready.clone().into()).unwrap();
    assert!(check_message(&deepest.to_bytes()).is_ok());
    ready.unknown.insert("deep".into(), nested(hokusai_event::MAX_DEPTH - 1));
    assert!(new(&ready.clone().into()).unwrap_err().field.starts_with("payload.deep[0]"));
    ready.unknown = [("tags".to_owned(), json!({}))].into_iter().collect();
    assert_eq!(new(&ready.into()).unwrap_err().field, "payload.tags");
    let nameless = Envelope::new(String::new(), String::new(), jiff::Timestamp::UNIX_EPOCH, 3, &good.into());
    assert_eq!(nameless.unwrap_err().field, "message_id");
}

#[test]
fn every_type_survives_the_way_there_and_back() {
    for message_type in MessageType::ALL {
        assert_eq!(message_type.as_str().parse(), Ok(message_type));
        let event = example_event(message_type);
        let envelope = new(&event).unwrap();
        let (read, read_event) = check_message(&envelope.to_bytes()).unwrap();
        assert_eq!(read.to_bytes(), envelope.to_bytes());
        let at = envelope.timestamp.at();
        assert_eq!(Envelope::new_bytes("m-1", "c-1", at, 3, event.clone()), Ok(envelope.to_bytes()));
        assert_eq!(read_event.message_type(), message_type);
        assert_eq!(read_event.model_id(), event.model_id());
        assert_eq!(new(&read_event).unwrap().to_bytes(), envelope.to_bytes());
    }
}
