//! What strangers and broken programs send: refused with the field named, without a panic.

use hokusai_event::{Envelope, Invalid, MAX_DEPTH, MAX_MESSAGE_BYTES, check_message, parse_object};

fn around(payload: &str) -> String {
    format!(r#"{{"message_id":"m","message_type":"model_ready_to_deploy","timestamp":"2025-01-27T15:30:00Z","payload":{payload}}}"#)
}

#[track_caller]
fn check(message: impl AsRef<[u8]>, field: &str, part_of_problem: &str) {
    let invalid: Invalid = Envelope::parse(message.as_ref()).unwrap_err();
    assert_eq!(invalid.field, field, "{invalid}");
    assert!(invalid.problem.contains(part_of_problem), "{invalid}");
    assert_eq!(check_message(message.as_ref()).unwrap_err(), [invalid]);
}

#[test]
fn pythons_numbers_that_are_not_finite() {
    check(around(r#"{"current_value": NaN}"#), "payload.current_value", "is NaN, which is not JSON; numbers must be finite");
    check(around("{\n \"a\": [1,\n -Infinity]}"), "payload.a[1]", "is -Infinity, which");
    check(around(r#"{"a": {"b": Infinity}}"#), "payload.a.b", "is Infinity, which");
    check(around(r#"{"current_value": 1e999}"#), "payload.current_value", "beyond what a double can hold");
    check(around(r#"{"current_value": -1e999}"#), "payload.current_value", "beyond what a double can hold");
    check(around(&format!(r#"{{"current_value": {}}}"#, "9".repeat(400))), "payload.current_value", "beyond what a double can hold");
}

#[test]
fn keys_that_appear_twice() {
    check(around(r#"{"model_id":"a","model_id":"b"}"#), "payload.model_id", "appears twice");
    check(around(r#"{"x":[{"y":1,"\u0079":2}]}"#), "payload.x[0].y", "appears twice");
    check(r#"{"message_id":"a","message_id":"b"}"#, "message_id", "appears twice");
    check(r#"{"x":1,"x":1}"#, "x", "appears twice");
}

#[test]
fn deep_nesting() {
    let nested = |depth: usize| around(&format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth)));
    // The envelope and the payload are the first two levels.
    assert!(Envelope::parse(nested(MAX_DEPTH - 2).as_bytes()).is_ok());
    check(nested(MAX_DEPTH - 1), "payload.a[0][0][0][0][0][0]…", "nests more than 100 levels deep");
    check(nested(100_000), "payload.a[0][0][0][0][0][0]…", "nests more than 100 levels deep");
    check(around(&r#"{"a":"#.repeat(100_000)), "payload.a.a.a.a.a.a.a…", "nests more than 100 levels deep");
    check("[".repeat(500_000), "[0][0][0][0][0][0][0][0]…", "nests more than 100 levels deep");
}

#[test]
fn size() {
    let padded = |length: usize| {
        let message = around("{}");
        format!("{message}{}", " ".repeat(length - message.len()))
    };
    assert!(Envelope::parse(padded(MAX_MESSAGE_BYTES).as_bytes()).is_ok());
    check(padded(MAX_MESSAGE_BYTES + 1), "", "is 1048577 bytes long; at most 1048576 are read");
    check(vec![b'x'; 10_000_000], "", "is 10000000 bytes long");
}

#[test]
fn text_that_is_not_utf8_or_not_unicode() {
    let mut message = around(r#"{"model_name":"caf?"}"#).into_bytes();
    let at = message.iter().position(|byte| *byte == b'?').unwrap();
    message[at] = 0xe9;
    check(&message, "payload.model_name", &format!("is not UTF-8 at byte {at} of the message"));
    check(b"\xff\xfe{\x00}\x00", "", "is not UTF-8 at byte 0");
    check(around(r#"{"model_name":"\ud800"}"#), "payload.model_name", "is not JSON: ");
}

#[test]
fn what_is_not_json() {
    check("", "", "is not JSON: EOF while parsing a value at line 1 column 0");
    check("hello", "", "is not JSON: expected value at line 1 column 1");
    check("{'a': 1}", "", "is not JSON: key must be a string");
    check(r#"{"a": 1,}"#, "", "is not JSON: trailing comma");
    check(r#"{"a": tru}"#, "a", "is not JSON: expected ident");
    check(around("{}") + "x", "", "is not JSON: trailing characters");
    check(around(r#"{"a": "b"#), "payload.a", "is not JSON: EOF while parsing a string");
    check(around("{\"a\": \"b\nc\"}"), "payload.a", "control character");
    check("\u{feff}{}", "", "is not JSON: expected value");
}

#[test]
fn what_is_quoted_is_short_and_harmless() {
    let key = format!("\u{1b}[31m\"{}", "x".repeat(1_000));
    let message = serde_json::json!({ key: [[1, 2]] }).to_string().replace("[1,2]", "[1,2,]");
    let invalid = Envelope::parse(message.as_bytes()).unwrap_err();
    assert!(invalid.field.len() < 80 && !invalid.field.contains('\u{1b}'), "{invalid}");
    let long = around(&format!(r#"{{"token_symbol":"\u001b{}"}}"#, "y".repeat(1_000)));
    let problems = check_message(long.as_bytes()).unwrap_err();
    let symbol = problems.iter().find(|invalid| invalid.field == "payload.token_symbol").unwrap();
    assert!(symbol.problem.len() < 160 && symbol.problem.contains(r"\u{1b}"), "{symbol}");
}

#[test]
fn request_bodies_are_read_as_strictly() {
    assert_eq!(parse_object(br#"{"a": {"b": 1}}"#).unwrap().len(), 1);
    assert_eq!(parse_object(br#"{"a": {"b": NaN}}"#).unwrap_err().field, "a.b");
    assert_eq!(parse_object(b"[1]").unwrap_err().to_string(), "message: must be a JSON object, is an array");
}
