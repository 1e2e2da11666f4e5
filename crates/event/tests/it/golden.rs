//! Messages and schemas as files: what the brief's programs send, and what we send, byte for byte.
//! `UPDATE_GOLDEN=1` writes anew what we send.

use std::path::PathBuf;

use hokusai_event::{Envelope, MessageType, check_message, example, example_event, schema};
use serde_json::Value;

use crate::{put, refused};

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "golden", name].iter().collect()
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("golden/{name}: {error}; UPDATE_GOLDEN=1 writes it"))
}

#[track_caller]
fn golden(name: &str, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path(name), text).unwrap();
    }
    assert_eq!(text, String::from_utf8(read(name)).unwrap(), "golden/{name} differs; UPDATE_GOLDEN=1 accepts the change");
}

#[test]
fn the_briefs_messages_are_accepted() {
    for (name, id, symbol, retries) in [
        ("quick-start", "550e8400-e29b-41d4-a716-446655440000", "msg-ai", 0),
        ("test-message", "0f8fad5b-d9cb-469f-a165-70867728950e", "TEST", 0),
        // The same after one failure in the brief's consumer, which prints what pydantic made of it.
        ("retried", "0f8fad5b-d9cb-469f-a165-70867728950e", "TEST", 1),
    ] {
        let (envelope, event) = check_message(&read(&format!("brief/{name}.json"))).unwrap();
        assert_eq!((envelope.message_id.as_str(), envelope.retry_count), (id, retries));
        assert_eq!(event.token_symbol().as_str(), symbol);
    }
}

#[test]
fn the_setup_guides_message_lacks_only_a_whole_address() {
    let text = read("brief/setup-guide.json");
    refused(&text, "payload.contributor_address", "must be an address, 0x and 40 hex digits, is \"0x1234...\"");
    let mut message: Value = serde_json::from_slice(&text).unwrap();
    put(&mut message["payload"], "contributor_address", None);
    let (envelope, _) = check_message(message.to_string().as_bytes()).unwrap();
    assert_eq!(envelope.message_id, "uuid-v4");
}

#[test]
fn our_messages() {
    for message_type in MessageType::ALL {
        let shown = example(message_type);
        let at = shown["timestamp"].as_str().unwrap().parse::<hokusai_event::Timestamp>().unwrap().at();
        let text = |key: &str| shown[key].as_str().unwrap().to_owned();
        let envelope = Envelope::new(text("message_id"), text("correlation_id"), at, 3, &example_event(message_type)).unwrap();
        let bytes = String::from_utf8(envelope.to_bytes()).unwrap();
        assert_eq!(bytes.parse::<Value>().unwrap(), shown, "the example is what we would emit");
        golden(&format!("emitted/{message_type}.json"), &bytes);
    }
}

#[test]
fn our_schemas() {
    for message_type in MessageType::ALL {
        golden(&format!("schema/{message_type}.json"), &format!("{:#}\n", schema(message_type)));
    }
}
