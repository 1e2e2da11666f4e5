//! The wire format, from outside.

mod agreement;
mod baseline;
mod docs;
mod envelope;
mod golden;
mod hostile;
mod payload;
mod properties;
mod timestamp;

use hokusai_event::{Invalid, MessageType, check_message, example};
use serde_json::Value;

/// The example of a type with one change.
fn changed(message_type: MessageType, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut message = example(message_type);
    change(&mut message);
    message.to_string().into_bytes()
}

/// A `model_ready_to_deploy` message with one payload field set, or removed.
fn ready_with(field: &str, value: impl Into<Option<Value>>) -> Vec<u8> {
    changed(MessageType::ModelReadyToDeploy, |message| put(&mut message["payload"], field, value.into()))
}

fn put(object: &mut Value, field: &str, value: Option<Value>) {
    let object = object.as_object_mut().unwrap();
    match value {
        Some(value) => drop(object.insert(field.to_owned(), value)),
        None => drop(object.shift_remove(field)),
    }
}

#[track_caller]
fn problem(message: &[u8]) -> Invalid {
    let mut problems = check_message(message).expect_err("the message must be refused");
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[track_caller]
fn refused(message: &[u8], field: &str, part_of_problem: &str) {
    let invalid = problem(message);
    assert_eq!(invalid.field, field, "{invalid}");
    assert!(invalid.problem.contains(part_of_problem), "{invalid}");
}

#[track_caller]
fn accepted(message: &[u8]) {
    if let Err(problems) = check_message(message) {
        panic!("refused: {problems:?}");
    }
}
