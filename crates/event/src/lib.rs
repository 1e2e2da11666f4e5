//! The wire format of hokusai's messages and the baseline verdict.
//!
//! A message is an [`Envelope`] around a payload; a payload that obeys its type's table is an [`Event`]. Everything here is pure:
//! no clock, no randomness, no input or output, no knowledge of queues or chains.
//!
//! - [`check_message`] validates a whole message and names everything that is wrong with it.
//! - [`Envelope::parse`] is for whoever carries messages: it looks at the envelope and keeps the payload's bytes.
//! - [`judge`] compares a metric with its baseline.
//! - [`MessageType::fields`] is the table of a type's payload, from which parser, [`schema`] and `docs/messages.md` are made.
//!
//! Invariants: no input panics or exhausts the stack; no number that is not finite is ever read or written; what is unknown
//! survives; what [`Envelope::new`] emits, [`check_message`] accepts.

#![warn(missing_docs)]

mod baseline;
mod envelope;
mod event;
mod example;
mod field;
mod identity;
mod invalid;
mod json;
mod payload;
mod schema;
mod timestamp;

pub use baseline::{MetricDirection, Verdict, judge};
pub use envelope::{ENVELOPE_FIELDS, Envelope, check_message};
pub use event::{Event, MESSAGE_VERSION, MessageType};
pub use example::{example, example_event};
pub use field::{
    EXPERIMENT_NAME_MAX_CHARS, Field, Kind, METRIC_NAME_MAX_CHARS, MODEL_ID_MAX_CHARS, MODEL_NAME_MAX_CHARS, MODEL_VERSION_MAX_CHARS, Need,
    REASON_MAX_CHARS, RUN_ID_MAX_CHARS, TAG_NAME_MAX_CHARS, TAG_VALUE_MAX_CHARS, WHOLE_MAX, check_fields, check_finite, check_metric_name,
    check_model_name, check_text, read_number, read_tags, read_text, read_whole,
};
pub use identity::{Address, TokenSymbol, VersionKey, model_id};
pub use invalid::Invalid;
pub use json::{MAX_DEPTH, MAX_MESSAGE_BYTES, parse_object};
pub use payload::{MetricImproved, ModelDeployed, ModelReadyToDeploy, ModelRegistered, ModelValidationFailed};
pub use schema::{field_schema, schema};
pub use timestamp::{Timestamp, emit, read_timestamp};
