//! One example of each message, the same every time: for docs, schemas and whoever writes a consumer.

use serde_json::{Value, json};

use crate::envelope::Envelope;
use crate::event::{Event, MessageType};
use crate::timestamp::read_timestamp;

const MESSAGE_ID: &str = "550e8400-e29b-41d4-a716-446655440000";
const CORRELATION_ID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
const REGISTRATION_ID: &str = "0194a8b2-5f3c-7e1d-8a4b-2c6d9e0f1a2b";
const MAX_RETRIES: u32 = 3;

/// An example of a whole message.
pub fn example(message_type: MessageType) -> Value {
    let at = read_timestamp("2025-01-27T15:30:00.123456Z").unwrap_or_default();
    let event = example_event(message_type);
    let envelope = Envelope::new(MESSAGE_ID.to_owned(), CORRELATION_ID.to_owned(), at, MAX_RETRIES, &event);
    serde_json::to_value(envelope.expect("the example is valid")).expect("an envelope is JSON")
}

/// The event inside [`example`].
pub fn example_event(message_type: MessageType) -> Event {
    let mut payload = json!({
        "model_id": "msg-model/1/msg-ai", "token_symbol": "msg-ai", "model_name": "msg-model", "model_version": "1",
        "mlflow_run_id": "abc123def456",
    });
    let particular = particular(message_type);
    if let (Value::Object(payload), Value::Object(particular)) = (&mut payload, particular) {
        payload.extend(particular);
    }
    Event::parse(message_type, payload.to_string().as_bytes()).expect("the example is valid")
}

/// What the types do not have in common.
fn particular(message_type: MessageType) -> Value {
    match message_type {
        MessageType::ModelReadyToDeploy => json!({
            "metric_name": "reply_rate", "baseline_value": 0.75, "current_value": 0.82, "registration_id": REGISTRATION_ID,
            "contributor_address": "0x1234567890123456789012345678901234567890", "experiment_name": "baseline-improvements",
            "tags": {"team": "messaging"}, "metric_direction": "higher_is_better",
        }),
        MessageType::ModelRegistered => json!({
            "metric_name": "reply_rate", "baseline_value": 0.75, "current_value": 0.82, "registration_id": REGISTRATION_ID,
            "contributor_address": "0x1234567890123456789012345678901234567890", "experiment_name": "baseline-improvements",
            "tags": {"team": "messaging"},
        }),
        MessageType::ModelValidationFailed => json!({
            "metric_name": "reply_rate", "baseline_value": 0.75, "current_value": 0.71, "registration_id": REGISTRATION_ID,
            "reason": "current value 0.71 is worse than baseline 0.75 (higher is better, -5.33 %)",
        }),
        MessageType::ModelDeployed => json!({
            "message_id": "1b4e28ba-2fa1-41d2-883f-0016d3cca427", "registration_id": REGISTRATION_ID, "chain_id": 31337,
            "registry_address": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
            "token_address": "0xa16E02E87b7454126E5E10d957A927A7F5B5d2be",
            "transaction_hash": "0x88df016429689c079f3b2f6ad39fa052532c56795b733da78a91ebe6a713944b", "block_number": 7,
            "gas_used": 106_214, "fee_wei": "159321000743498", "elapsed_ms": 2_140, "deployed_at": "2025-01-27T15:30:00.101Z",
        }),
        MessageType::MetricImproved => json!({
            "metric_name": "reply_rate", "previous_value": 0.79, "current_value": 0.82, "registration_id": REGISTRATION_ID,
            "token_address": "0xa16E02E87b7454126E5E10d957A927A7F5B5d2be",
        }),
    }
}
