//! The envelope around every payload.
//!
//! Reading keeps what it does not understand: unknown keys stay in their order, and the payload's bytes are carried verbatim, so
//! that printing an envelope again changes neither. What is not kept is the spelling of the envelope's own fields.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::event::Event;
use crate::field::{Field, Kind, Need, check_fields};
use crate::invalid::Invalid;
use crate::json::{self, MAX_DEPTH, MAX_MESSAGE_BYTES};
use crate::timestamp::Timestamp;

/// What our messages leave free below [`MAX_MESSAGE_BYTES`], so that counters can grow on the way without making them unreadable.
const HEADROOM_BYTES: usize = 1_024;

/// Room for most of our messages, so that writing one does not move it.
const USUAL_BYTES: usize = 1_536;

/// The fields of the envelope.
pub const ENVELOPE_FIELDS: &[Field] = &[
    Field {
        name: "message_id",
        need: Need::Required,
        kind: Kind::AnyText { min: 1 },
        about: "Identifies the message, also when it is delivered again. We emit UUIDs; any text that is not empty is accepted.",
    },
    Field {
        name: "message_type",
        need: Need::Required,
        kind: Kind::AnyText { min: 1 },
        about: "What the message is about: one of the types below.",
    },
    Field { name: "timestamp", need: Need::Required, kind: Kind::Timestamp, about: "When the message was made." },
    Field {
        name: "payload",
        need: Need::Required,
        kind: Kind::Object,
        about: "What the type's table says. Its bytes are carried verbatim.",
    },
    Field {
        name: "retry_count",
        need: Need::Emitted,
        kind: Kind::Whole { max: u32::MAX as u64 },
        about: "How many attempts have failed; 0 if missing.",
    },
    Field {
        name: "max_retries",
        need: Need::Optional,
        kind: Kind::Whole { max: u32::MAX as u64 },
        about: "How many failed attempts are repeated: 3 means four deliveries. The consumer's configured maximum if missing.",
    },
    Field {
        name: "correlation_id",
        need: Need::Emitted,
        kind: Kind::AnyText { min: 0 },
        about: "Ties together all messages of one registration. If missing, the payload's, else the `message_id`.",
    },
];

/// One message.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Identifies the message, also when it is delivered again.
    pub message_id: String,
    /// What the message is about; perhaps a type that this crate does not know.
    pub message_type: String,
    /// When the message was made.
    pub timestamp: Timestamp,
    /// The payload, an object, exactly as received.
    pub payload: Box<RawValue>,
    /// How many attempts have failed.
    pub retry_count: u32,
    /// How many failed attempts are repeated; the consumer's configured maximum if `None`.
    pub max_retries: Option<u32>,
    /// The envelope's correlation id, or the payload's copy if the envelope has lost its own. See [`Envelope::correlation`].
    pub correlation_id: Option<String>,
    /// Keys that [`ENVELOPE_FIELDS`] does not name, in their order, with their bytes as received.
    pub unknown: Vec<(String, Box<RawValue>)>,
}

impl Envelope {
    /// Reads a message; the first problem found is the error. The payload is only known to be an object.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        Parts::split(bytes)?.envelope().map_err(first)
    }

    /// A new message about `event`, with everything that our messages always have. What it emits obeys the type's table.
    pub fn new(message_id: String, correlation_id: String, at: jiff::Timestamp, max_retries: u32, event: &Event) -> Result<Self, Invalid> {
        let event = emitted(&message_id, &correlation_id, at, event.clone())?;
        let envelope = Self {
            message_id,
            message_type: event.message_type().to_string(),
            timestamp: Timestamp::new(at),
            payload: to_raw_value(&event.payload()).map_err(|error| Invalid::new("payload", error.to_string()))?,
            retry_count: 0,
            max_retries: Some(max_retries),
            correlation_id: Some(correlation_id),
            unknown: Vec::new(),
        };
        check_emitted(&envelope.to_bytes(), &event)?;
        Ok(envelope)
    }

    /// The bytes of [`Envelope::new`], written once, for whoever keeps nothing else of it.
    pub fn new_bytes(
        message_id: &str,
        correlation_id: &str,
        at: jiff::Timestamp,
        max_retries: u32,
        event: Event,
    ) -> Result<Vec<u8>, Invalid> {
        let event = emitted(message_id, correlation_id, at, event)?;
        let layout = Layout {
            message_id,
            message_type: event.message_type().as_str(),
            timestamp: Timestamp::new(at),
            payload: &event.payload(),
            retry_count: 0,
            max_retries: Some(max_retries),
            correlation_id,
            unknown: &[],
        };
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        serde_json::to_writer(&mut bytes, &layout).map_err(|error| Invalid::new("payload", error.to_string()))?;
        check_emitted(&bytes, &event)?;
        Ok(bytes)
    }

    /// The message as JSON on one line, unless the payload received has line breaks.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing to memory cannot fail, and every key is text.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The payload by its type.
    pub fn event(&self) -> Result<Event, Invalid> {
        Event::read(self.message_type.parse()?, &self.payload).map_err(first)
    }

    /// What ties this message to others: its correlation id, or its own id if it came without one.
    pub fn correlation(&self) -> &str {
        self.correlation_id.as_deref().unwrap_or(&self.message_id)
    }
}

/// `event` with everything that we always emit, obeying its table.
fn emitted(message_id: &str, correlation_id: &str, at: jiff::Timestamp, event: Event) -> Result<Event, Invalid> {
    if message_id.is_empty() {
        return Err(Invalid::new("message_id", "must not be empty"));
    }
    event.emitted(at, correlation_id)
}

/// What obeys its table may still be too deep or too long. Text, numbers and keys need no second look: their types hold
/// nothing that cannot be read again.
fn check_emitted(bytes: &[u8], event: &Event) -> Result<(), Invalid> {
    // The payload is one level down.
    if !event.nests_within(MAX_DEPTH - 1) {
        json::scan(bytes)?;
    }
    let (length, most) = (bytes.len(), MAX_MESSAGE_BYTES - HEADROOM_BYTES);
    if length > most {
        return Err(Invalid::whole(format!("would be {length} bytes long; at most {most} are emitted")));
    }
    Ok(())
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let layout = Layout {
            message_id: &self.message_id,
            message_type: &self.message_type,
            timestamp: self.timestamp,
            payload: &*self.payload,
            retry_count: self.retry_count,
            max_retries: self.max_retries,
            correlation_id: self.correlation(),
            unknown: &self.unknown,
        };
        layout.serialize(serializer)
    }
}

/// An envelope as it is written.
struct Layout<'e, P: ?Sized> {
    message_id: &'e str,
    message_type: &'e str,
    timestamp: Timestamp,
    payload: &'e P,
    retry_count: u32,
    max_retries: Option<u32>,
    correlation_id: &'e str,
    unknown: &'e [(String, Box<RawValue>)],
}

impl<P: Serialize + ?Sized> Serialize for Layout<'_, P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("message_id", self.message_id)?;
        map.serialize_entry("message_type", self.message_type)?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.serialize_entry("payload", self.payload)?;
        map.serialize_entry("retry_count", &self.retry_count)?;
        // Never null: consumers that declare a plain integer would refuse it.
        if let Some(max_retries) = self.max_retries {
            map.serialize_entry("max_retries", &max_retries)?;
        }
        map.serialize_entry("correlation_id", self.correlation_id)?;
        for (key, value) in self.unknown {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// Validates a whole message, envelope and payload, and names everything that is wrong with it.
pub fn check_message(bytes: &[u8]) -> Result<(Envelope, Event), Vec<Invalid>> {
    let parts = Parts::split(bytes).map_err(|invalid| vec![invalid])?;
    let event = parts.event();
    match (parts.envelope(), event) {
        (Ok(envelope), Ok(event)) => Ok((envelope, event)),
        (envelope, event) => Err(envelope.err().into_iter().chain(event.err()).flatten().collect()),
    }
}

/// A scanned message, its fields apart.
struct Parts {
    /// The envelope's own fields; the payload is represented by its kind alone.
    known: Map<String, Value>,
    payload: Option<Box<RawValue>>,
    unknown: Vec<(String, Box<RawValue>)>,
    problems: Vec<Invalid>,
}

impl Parts {
    fn split(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut known = Map::new();
        let mut payload = None;
        let mut unknown = Vec::new();
        for (key, raw) in json::members(json::scan(bytes)?)? {
            if key == "payload" && raw.get().starts_with('{') {
                known.insert(key, Value::Object(Map::new()));
                payload = Some(raw);
            } else if ENVELOPE_FIELDS.iter().any(|field| field.name == key) {
                let value = serde_json::from_str(raw.get()).map_err(|error| Invalid::new(&key, format!("is not JSON: {error}")))?;
                known.insert(key, value);
            } else {
                unknown.push((key, raw));
            }
        }
        let problems = check_fields(ENVELOPE_FIELDS, &mut known, "");
        Ok(Self { known, payload, unknown, problems })
    }

    fn envelope(self) -> Result<Envelope, Vec<Invalid>> {
        let missing = |name: &str| vec![Invalid::new(name, "is missing")];
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let payload = self.payload.ok_or_else(|| missing("payload"))?;
        let text = |name: &str| self.known.get(name).and_then(Value::as_str).map(str::to_owned);
        let count = |name: &str| self.known.get(name).and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
        Ok(Envelope {
            message_id: text("message_id").ok_or_else(|| missing("message_id"))?,
            message_type: text("message_type").ok_or_else(|| missing("message_type"))?,
            timestamp: text("timestamp").ok_or_else(|| missing("timestamp"))?.parse().map_err(|invalid| vec![invalid])?,
            retry_count: count("retry_count").unwrap_or(0),
            max_retries: count("max_retries"),
            correlation_id: text("correlation_id").filter(|id| !id.is_empty()).or_else(|| correlation_in(&payload)),
            payload,
            unknown: self.unknown,
        })
    }

    fn event(&self) -> Result<Event, Vec<Invalid>> {
        let message_type = self.known.get("message_type").and_then(Value::as_str);
        match (message_type, &self.payload) {
            (Some(message_type), Some(payload)) => Event::read(message_type.parse().map_err(|invalid| vec![invalid])?, payload),
            // The envelope's own problems say which is missing.
            _ => Err(Vec::new()),
        }
    }
}

/// The copy of the correlation id inside the payload, which survives clients that drop what they do not know of an envelope.
fn correlation_in(payload: &RawValue) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Copy {
        correlation_id: Option<Value>,
    }
    let copy: Copy = serde_json::from_str(payload.get()).ok()?;
    copy.correlation_id?.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
}

/// There is always one; should there not be, the message as a whole is at fault.
fn first(problems: Vec<Invalid>) -> Invalid {
    problems.into_iter().next().unwrap_or_else(|| Invalid::whole("is not valid"))
}
