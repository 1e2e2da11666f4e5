//! The counters in a message's envelope: read, and rewritten in place.
//!
//! `retry_count` belongs to the wire format and counts failed attempts; `hokusai_expiries` is ours and counts how often
//! a lease ran out. Rewriting replaces the digits of a counter, or appends it as the last member, and leaves every other
//! byte as it was: a payload that is signed stays signed.
//!
//! Decided here: a name may be written with escapes; of a repeated member the last counts, as in Python and JavaScript,
//! and a rewrite sets all of them, so that every reader sees the same; `null` counts as absent; `3.0` counts as 3.

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The envelope member that counts expired leases.
pub const EXPIRIES: &str = "hokusai_expiries";
const RETRY_COUNT: &str = "retry_count";
const MAX_RETRIES: &str = "max_retries";

/// How often a message has been tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Failed attempts so far.
    pub retry_count: u32,
    /// The message's own limit; it wins over the configured one.
    pub max_retries: Option<u32>,
    /// How often whoever had it let its lease run out.
    pub expiries: u32,
}

impl Attempts {
    /// Deliveries so far, the present one included.
    pub fn deliveries(&self) -> u32 {
        self.retry_count.saturating_add(self.expiries).saturating_add(1)
    }
}

/// The entry is no envelope whose counters can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// Not JSON, or not an object.
    #[error("not a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    /// A counter holds something else than a count.
    #[error("{member}: must be a whole number from 0 to 4294967295, found {found}")]
    Counter {
        /// Which.
        member: &'static str,
        /// Its text, shortened.
        found: String,
    },
}

/// Reads the counters.
///
/// # Errors
///
/// [`Unreadable`]: the entry can only be dead-lettered.
pub fn read(entry: &[u8]) -> Result<Attempts, Unreadable> {
    parse(entry)?.attempts()
}

/// The entry after one more failed attempt.
///
/// # Errors
///
/// As [`read`].
pub fn after_failure(entry: &[u8]) -> Result<Bytes, Unreadable> {
    let members = Members::find(entry)?;
    let count = members.attempts.retry_count.saturating_add(1);
    Ok(rewrite(entry, &members, &[Change { name: RETRY_COUNT, places: &members.retry_count, count: Some(count) }]))
}

/// The entry after its lease ran out once more.
///
/// # Errors
///
/// As [`read`].
pub fn after_expiry(entry: &[u8]) -> Result<Bytes, Unreadable> {
    let members = Members::find(entry)?;
    let count = members.attempts.expiries.saturating_add(1);
    Ok(rewrite(entry, &members, &[Change { name: EXPIRIES, places: &members.expiries, count: Some(count) }]))
}

/// The entry with both counters at zero where they are present.
///
/// # Errors
///
/// As [`read`].
pub fn reset(entry: &[u8]) -> Result<Bytes, Unreadable> {
    let members = Members::find(entry)?;
    let zero = |name, places| Change { name, places, count: None };
    Ok(rewrite(entry, &members, &[zero(RETRY_COUNT, &members.retry_count), zero(EXPIRIES, &members.expiries)]))
}

/// Where the counters stand in the entry.
struct Members {
    attempts: Attempts,
    retry_count: Vec<Range<usize>>,
    expiries: Vec<Range<usize>>,
    /// The end of the last member's value, or of the opening brace.
    end: usize,
    empty: bool,
}

impl Members {
    fn find(entry: &[u8]) -> Result<Self, Unreadable> {
        let envelope = parse(entry)?;
        let place = |raw: &RawValue| {
            let start = raw.get().as_ptr() as usize - entry.as_ptr() as usize;
            start..start + raw.get().len()
        };
        let brace = entry.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
        Ok(Self {
            attempts: envelope.attempts()?,
            retry_count: envelope.retry_count.all().map(place).collect(),
            expiries: envelope.expiries.all().map(place).collect(),
            end: envelope.last.map_or(brace, |raw| place(raw).end),
            empty: envelope.last.is_none(),
        })
    }
}

/// Looks at every byte of the entry, which is most of what a delivery costs before its handler has it.
fn parse(entry: &[u8]) -> Result<Envelope<'_>, Unreadable> {
    // Text once seen to be UTF-8 need not be looked at again member by member; of other bytes the parser says what is wrong.
    Ok(std::str::from_utf8(entry).map_or_else(|_| serde_json::from_slice(entry), serde_json::from_str)?)
}

fn count(text: &str) -> Option<u32> {
    if let Ok(count) = text.parse() {
        return Some(count);
    }
    let number: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range and wholeness are checked before")]
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

/// A counter and its new count; `None` sets zero where it stands and appends nothing.
struct Change<'a> {
    name: &'a str,
    places: &'a [Range<usize>],
    count: Option<u32>,
}

/// Sets each counter to its new count where it stands, or appends it.
fn rewrite(entry: &[u8], members: &Members, changes: &[Change<'_>]) -> Bytes {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut empty = members.empty;
    for Change { name, places, count } in changes {
        let text = count.unwrap_or(0).to_string();
        if !places.is_empty() {
            edits.extend(places.iter().map(|place| (place.clone(), text.clone())));
        } else if count.is_some() {
            let comma = if empty { "" } else { "," };
            edits.push((members.end..members.end, format!("{comma}\"{name}\":{text}")));
            empty = false;
        }
    }
    edits.sort_by_key(|(place, _)| (place.start, place.end));
    let mut out = Vec::with_capacity(entry.len() + 32);
    let mut from = 0;
    for (place, text) in edits {
        out.extend_from_slice(&entry[from..place.start]);
        out.extend_from_slice(text.as_bytes());
        from = place.end;
    }
    out.extend_from_slice(&entry[from..]);
    out.into()
}

/// The members that matter, as slices of the entry itself.
#[derive(Default)]
struct Envelope<'a> {
    retry_count: Found<'a>,
    max_retries: Found<'a>,
    expiries: Found<'a>,
    last: Option<&'a RawValue>,
}

impl Envelope<'_> {
    fn attempts(&self) -> Result<Attempts, Unreadable> {
        Ok(Attempts {
            retry_count: self.retry_count.count(RETRY_COUNT)?.unwrap_or(0),
            max_retries: self.max_retries.count(MAX_RETRIES)?,
            expiries: self.expiries.count(EXPIRIES)?.unwrap_or(0),
        })
    }
}

/// The values of one member, which is there once at most unless somebody is playing tricks.
#[derive(Default)]
struct Found<'a> {
    first: Option<&'a RawValue>,
    more: Vec<&'a RawValue>,
}

impl<'a> Found<'a> {
    fn push(&mut self, value: &'a RawValue) {
        match self.first {
            None => self.first = Some(value),
            Some(_) => self.more.push(value),
        }
    }

    fn all(&self) -> impl Iterator<Item = &'a RawValue> {
        self.first.into_iter().chain(self.more.iter().copied())
    }

    fn count(&self, member: &'static str) -> Result<Option<u32>, Unreadable> {
        let Some(value) = self.more.last().copied().or(self.first) else { return Ok(None) };
        if value.get() == "null" {
            return Ok(None);
        }
        count(value.get()).map(Some).ok_or_else(|| Unreadable::Counter { member, found: value.get().chars().take(40).collect() })
    }
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Envelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut envelope = Envelope::default();
                while let Some(Name(name)) = map.next_key()? {
                    let value: &'de RawValue = map.next_value()?;
                    match &*name {
                        RETRY_COUNT => envelope.retry_count.push(value),
                        MAX_RETRIES => envelope.max_retries.push(value),
                        EXPIRIES => envelope.expiries.push(value),
                        _ => {}
                    }
                    envelope.last = Some(value);
                }
                Ok(envelope)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A member's name, borrowed unless it is written with escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests;
