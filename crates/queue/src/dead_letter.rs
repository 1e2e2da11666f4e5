//! The dead-letter entry: the message exactly as it was received, and why it was given up.
//!
//! Written by us it holds `original_message` (or `original_message_base64`, if the message is not UTF-8), `error`,
//! `failed_at`, `queue`, and ours: `error_kind`, `attempts`. Entries of other writers lack the last two, and are read too.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::attempts;

/// The error kind of a message whose envelope cannot be read.
pub const UNPARSABLE: &str = "unparsable";
/// The error kind of a message whose holders let its lease run out too often.
pub const EXPIRED: &str = "expired";
/// The error kind of a message whose every attempt failed.
pub const RETRIES_EXHAUSTED: &str = "retries_exhausted";

/// A dead-letter entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message exactly as received.
    pub original: Bytes,
    /// Why it was given up, for people.
    pub error: String,
    /// When, as written.
    pub failed_at: String,
    /// The queue it was taken from.
    pub queue: String,
    /// Why, for programs; absent in entries of other writers.
    pub error_kind: Option<String>,
    /// How often it was delivered; absent in entries of other writers.
    pub attempts: Option<u32>,
}

/// The entry holds no original message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotDeadLetter {
    /// Not JSON of the right shape.
    #[error("not a dead-letter entry: {0}")]
    Json(#[from] serde_json::Error),
    /// Neither `original_message` nor `original_message_base64`.
    #[error("not a dead-letter entry: original_message is missing")]
    NoOriginal,
    /// The base64 cannot be decoded.
    #[error("original_message_base64: {0}")]
    Base64(#[from] base64::DecodeError),
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    original_message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_message_base64: Option<String>,
    error: &'a str,
    failed_at: String,
    queue: &'a str,
    error_kind: &'a str,
    attempts: u32,
}

#[derive(Deserialize)]
struct Read<'a> {
    #[serde(borrow)]
    original_message: Option<&'a RawValue>,
    original_message_base64: Option<String>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    failed_at: Option<&'a RawValue>,
    #[serde(borrow)]
    queue: Option<&'a RawValue>,
    error_kind: Option<String>,
    attempts: Option<u32>,
}

/// The entry to put into the dead-letter queue for `original`.
pub fn build(original: &[u8], queue: &str, error_kind: &str, error: &str, failed_at: jiff::Timestamp) -> Bytes {
    let text = std::str::from_utf8(original).ok();
    let written = Written {
        original_message: text,
        original_message_base64: text.is_none().then(|| STANDARD.encode(original)),
        error,
        failed_at: failed_at.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string(),
        queue,
        error_kind,
        attempts: attempts::read(original).map_or(1, |attempts| attempts.deliveries()),
    };
    serde_json::to_vec(&written).expect("strings and numbers can be written as JSON").into()
}

/// Reads a dead-letter entry, ours or another writer's.
///
/// # Errors
///
/// [`NotDeadLetter`] if there is no original message in it.
pub fn parse(entry: &[u8]) -> Result<DeadLetter, NotDeadLetter> {
    let read: Read<'_> = serde_json::from_slice(entry)?;
    let original = match (read.original_message, read.original_message_base64) {
        (Some(text), _) => Bytes::from(text_of(text)),
        (None, Some(encoded)) => STANDARD.decode(encoded)?.into(),
        (None, None) => return Err(NotDeadLetter::NoOriginal),
    };
    Ok(DeadLetter {
        original,
        error: read.error.map(text_of).unwrap_or_default(),
        failed_at: read.failed_at.map(text_of).unwrap_or_default(),
        queue: read.queue.map(text_of).unwrap_or_default(),
        error_kind: read.error_kind,
        attempts: read.attempts,
    })
}

/// What to put back into main for a dead-letter entry: the original, its counters reset. An entry that is itself a
/// message (some consumers move the bare message) goes back as that.
///
/// # Errors
///
/// [`NotDeadLetter`] if there is no message in the entry.
pub fn redrive_bytes(entry: &[u8]) -> Result<Bytes, NotDeadLetter> {
    let original = match parse(entry) {
        Ok(letter) => letter.original,
        Err(_) if is_message(entry) => Bytes::copy_from_slice(entry),
        Err(error) => return Err(error),
    };
    Ok(attempts::reset(&original).unwrap_or(original))
}

/// A JSON string's text; anything else as it is written, because other writers may nest the message itself.
fn text_of(raw: &RawValue) -> String {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
}

fn is_message(entry: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow, rename = "payload")]
        _payload: &'a RawValue,
    }
    serde_json::from_slice::<Message<'_>>(entry).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> jiff::Timestamp {
        "2025-01-27T15:30:00.1234567Z".parse().unwrap()
    }

    #[test]
    fn it_holds_the_message_as_received() {
        let entry = build(br#"{ "retry_count":3,"hokusai_expiries":1}"#, "q", "permanent", "no \"such\" token", at());
        assert_eq!(
            std::str::from_utf8(&entry).unwrap(),
            r#"{"original_message":"{ \"retry_count\":3,\"hokusai_expiries\":1}","error":"no \"such\" token","failed_at":"2025-01-27T15:30:00.123456+00:00","queue":"q","error_kind":"permanent","attempts":5}"#
        );
        let letter = parse(&entry).unwrap();
        assert_eq!(&letter.original[..], br#"{ "retry_count":3,"hokusai_expiries":1}"#);
        assert_eq!((letter.error_kind.as_deref(), letter.attempts), (Some("permanent"), Some(5)));
        assert_eq!(&redrive_bytes(&entry).unwrap()[..], br#"{ "retry_count":0,"hokusai_expiries":0}"#);
    }

    #[test]
    fn what_is_not_utf8_is_kept_in_base64() {
        let entry = build(b"\xff\x00", "q", UNPARSABLE, "bad", at());
        assert!(entry.starts_with(br#"{"original_message_base64":"/wA=","#));
        assert_eq!(&redrive_bytes(&entry).unwrap()[..], b"\xff\x00");
    }

    #[test]
    fn other_writers_are_read() {
        let letter = parse(br#"{"original_message": "{}", "error": null, "failed_at": "2025-01-27T15:30:00", "queue": "q"}"#).unwrap();
        assert_eq!((&letter.original[..], letter.error.as_str(), letter.error_kind), (&b"{}"[..], "", None));
        let nested = parse(br#"{"original_message": {"a": 1}}"#).unwrap();
        assert_eq!(&nested.original[..], br#"{"a": 1}"#);
        assert_eq!(&redrive_bytes(br#"{"payload":{},"retry_count":2}"#).unwrap()[..], br#"{"payload":{},"retry_count":0}"#);
    }

    #[test]
    fn what_holds_no_message_is_refused() {
        assert!(matches!(redrive_bytes(b"junk"), Err(NotDeadLetter::Json(_))));
        assert!(matches!(redrive_bytes(br#"{"error":"x"}"#), Err(NotDeadLetter::NoOriginal)));
    }
}
