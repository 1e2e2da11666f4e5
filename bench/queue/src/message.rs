//! The message of the comparison: a `model_ready_to_deploy` envelope of 600 bytes, numbered, and stamped when it is published.
//! `py/message.py` and `node/bullmq.js` build the same one.

use std::{borrow::Cow, fmt::Write as _};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

const TYPE: &str = "model_ready_to_deploy";

/// Borrows from the bytes it was read from.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<'a> {
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    message_type: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    payload: Payload<'a>,
    retry_count: u32,
    max_retries: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    model_id: Cow<'a, str>,
    #[serde(borrow)]
    token_symbol: Cow<'a, str>,
    #[serde(borrow)]
    metric_name: Cow<'a, str>,
    baseline_value: f64,
    current_value: f64,
    improvement_percentage: f64,
    #[serde(borrow)]
    model_name: Cow<'a, str>,
    #[serde(borrow)]
    model_version: Cow<'a, str>,
    #[serde(borrow)]
    mlflow_run_id: Cow<'a, str>,
    #[serde(borrow)]
    contributor_address: Cow<'a, str>,
    #[serde(borrow)]
    tags: Tags<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Tags<'a> {
    #[serde(borrow)]
    dataset: Cow<'a, str>,
    #[serde(borrow)]
    environment: Cow<'a, str>,
    #[serde(borrow)]
    note: Cow<'a, str>,
    /// `CLOCK_MONOTONIC` nanoseconds when it was published, 19 digits; all zeros if nobody asks.
    #[serde(borrow)]
    t: Cow<'a, str>,
}

/// Which message it is, and when it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub number: u64,
    pub published_ns: u64,
}

impl Envelope<'_> {
    /// The message with this number.
    pub fn new(stamp: Stamp) -> Envelope<'static> {
        let mut run = String::with_capacity(32);
        let scattered = (stamp.number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let _ = write!(run, "{scattered:016x}{:016x}", stamp.number);
        Envelope {
            message_id: format!("{:08x}-0000-4000-a000-{:012x}", scattered >> 32, stamp.number).into(),
            message_type: TYPE.into(),
            timestamp: "2026-11-20T10:00:00.123456+00:00".into(),
            payload: Payload {
                model_id: format!("msg-clf-{:09}", stamp.number).into(),
                token_symbol: "MSGAI".into(),
                metric_name: "reply_rate".into(),
                baseline_value: 0.134,
                current_value: 0.1523,
                improvement_percentage: 13.66,
                model_name: "msg-clf-v3".into(),
                model_version: "12".into(),
                mlflow_run_id: run.into(),
                contributor_address: "0x742d35cc6634c0532925a3b844bc9e7595f62341".into(),
                tags: Tags {
                    dataset: "s4-contrib-v3".into(),
                    environment: "bench".into(),
                    note: "x".into(),
                    t: format!("{:019}", stamp.published_ns).into(),
                },
            },
            retry_count: 0,
            max_retries: 3,
        }
    }
}

/// Builds the message and appends it.
pub fn write(stamp: Stamp, into: &mut Vec<u8>) {
    // Serialising plain structs into memory cannot fail.
    let _ = serde_json::to_writer(into, &Envelope::new(stamp));
}

/// The message on its own.
pub fn bytes(stamp: Stamp) -> Vec<u8> {
    let mut message = Vec::with_capacity(640);
    write(stamp, &mut message);
    message
}

/// What every handler does: parses the whole message, checks its type, reads its number and when it was published.
pub fn read(entry: &[u8]) -> Result<Stamp> {
    let envelope: Envelope<'_> = serde_json::from_slice(entry).context("a message that cannot be parsed")?;
    ensure!(envelope.message_type == TYPE, "a message of type {}", envelope.message_type);
    let number = envelope.message_id.get(24..).context("a message id without a number")?;
    Ok(Stamp { number: u64::from_str_radix(number, 16)?, published_ns: envelope.payload.tags.t.parse()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_six_hundred_bytes_and_comes_back() {
        let stamp = Stamp { number: 1_234_567, published_ns: 1_234_567_890_123 };
        let message = bytes(stamp);
        assert_eq!(message.len(), 600, "{}", String::from_utf8_lossy(&message));
        assert_eq!(read(&message).unwrap(), stamp);
    }
}
