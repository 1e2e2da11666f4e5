//! Strict reading of JSON that strangers sent.
//!
//! One pass over the whole text, before anything is kept, refuses what parsers disagree about: keys that appear twice, numbers
//! beyond a double, the `NaN` and `Infinity` that Python writes, lone surrogates, and nesting deep enough to exhaust a
//! reader's stack. The error names the field, however deep. After it, every value of the message can be read without surprises.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::invalid::{Invalid, quoted};

/// The largest message read, in bytes: the most that SQS carries, so that a message accepted on one queue fits every queue.
pub const MAX_MESSAGE_BYTES: usize = 1_048_576;

/// How deeply objects and arrays may nest, the outermost counted. Below the 128 at which `serde_json` gives up and far below
/// the limits of Python and JavaScript, so that whoever consumes the message can read it too.
pub const MAX_DEPTH: usize = 100;

/// Reads a JSON object as strictly as messages are read, for request bodies and payload files.
pub fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, Invalid> {
    if let Some(Value::Object(object)) = read_strictly(bytes) {
        return Ok(object);
    }
    // Something is wrong, and only the walk can say what and where.
    match serde_json::from_str(scan(bytes)?) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Invalid::whole(format!("must be a JSON object, is {}", kind_of(&other)))),
        Err(error) => Err(Invalid::whole(format!("is not JSON: {error}"))),
    }
}

/// Checks the whole text and returns it as text.
pub(crate) fn scan(bytes: &[u8]) -> Result<&str, Invalid> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Invalid::whole(format!("is {} bytes long; at most {MAX_MESSAGE_BYTES} are read", bytes.len())));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => walk(text.as_bytes()).map(|()| text),
        Err(error) => {
            let field = walk(bytes).err().map(|invalid| invalid.field).unwrap_or_default();
            Err(Invalid::new(field, format!("is not UTF-8 at byte {} of the message", error.valid_up_to())))
        }
    }
}

/// Whether `value` has at most so many levels of objects and arrays.
pub(crate) fn nests_within(value: &Value, levels: usize) -> bool {
    match (value, levels.checked_sub(1)) {
        (Value::Array(items), Some(inner)) => items.iter().all(|item| nests_within(item, inner)),
        (Value::Object(object), Some(inner)) => object.values().all(|value| nests_within(value, inner)),
        (Value::Array(_) | Value::Object(_), None) => false,
        _ => true,
    }
}

/// The members of a scanned object, in order, each with its bytes as written.
pub(crate) fn members(text: &str) -> Result<Vec<(String, Box<RawValue>)>, Invalid> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, Box<RawValue>)>;
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a JSON object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    if !text.trim_start().starts_with('{') {
        let kind = serde_json::from_str(text).map_or("something else", |value| kind_of(&value));
        return Err(Invalid::whole(format!("must be a JSON object, is {kind}")));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Members).map_err(|error| Invalid::whole(format!("is not JSON: {error}")))
}

/// What a value is, as the problems of [`Invalid`] say it.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn walk(bytes: &[u8]) -> Result<(), Invalid> {
    let trail = RefCell::new(Trail::default());
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let walked = Walk { trail: &trail, depth: 0 }.deserialize(&mut reader).and_then(|()| reader.end());
    walked.map_err(|error| {
        let trail = trail.into_inner();
        let problem = trail.problem.unwrap_or_else(|| problem_of(&error, bytes));
        Invalid::new(path_of(&trail.steps), problem)
    })
}

/// Reads in one pass what [`walk`] finds nothing wrong with, and `None` of anything else.
fn read_strictly(bytes: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_MESSAGE_BYTES)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: 0 }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

/// Builds a value by the rules of [`Walk`].
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth < MAX_DEPTH { Ok(Self { depth: self.depth + 1 }) } else { Err(E::custom("too deep")) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(key) = map.next_key()? {
            if object.insert(key, map.next_value_seed(inner)?).is_some() {
                return Err(serde::de::Error::custom("a key twice"));
            }
        }
        Ok(Value::Object(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(truth.into())
    }
    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// Where the walk failed, and why if the fault is not one of syntax.
#[derive(Default)]
struct Trail {
    /// Innermost first: the steps are added on the way out.
    steps: Vec<Step>,
    problem: Option<String>,
}

enum Step {
    Key(String),
    Index(usize),
}

#[derive(Clone, Copy)]
struct Walk<'t> {
    trail: &'t RefCell<Trail>,
    depth: usize,
}

impl Walk<'_> {
    fn inner(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }

    fn enter<E: serde::de::Error>(self) -> Result<(), E> {
        if self.depth < MAX_DEPTH { Ok(()) } else { Err(self.refuse(format!("nests more than {MAX_DEPTH} levels deep"))) }
    }

    fn refuse<E: serde::de::Error>(self, problem: String) -> E {
        self.trail.borrow_mut().problem = Some(problem);
        E::custom("refused")
    }

    fn step(self, step: Step) {
        self.trail.borrow_mut().steps.push(step);
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.enter()?;
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                self.step(Step::Key(key));
                return Err(self.refuse("appears twice in the same object".to_owned()));
            }
            if let Err(error) = map.next_value_seed(self.inner()) {
                self.step(Step::Key(key));
                return Err(error);
            }
            seen.insert(key);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.enter()?;
        for index in 0.. {
            match items.next_element_seed(self.inner()) {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(error) => {
                    self.step(Step::Index(index));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        if number.is_finite() { Ok(()) } else { Err(E::custom("number out of range")) }
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The path as the docs write it: `payload.tags.team`, `payload.list[3]`. Keys are a stranger's, so they are cut short.
fn path_of(innermost_first: &[Step]) -> String {
    const SHOWN_STEPS: usize = 8;
    let mut path = String::new();
    for (number, step) in innermost_first.iter().rev().enumerate() {
        if number == SHOWN_STEPS {
            path.push('…');
            break;
        }
        match step {
            Step::Index(index) => path.push_str(&format!("[{index}]")),
            Step::Key(key) => {
                if number > 0 {
                    path.push('.');
                }
                path.push_str(quoted(key).replacen('"', "", 1).trim_end_matches('"'));
            }
        }
    }
    path
}

fn problem_of(error: &serde_json::Error, bytes: &[u8]) -> String {
    if let Some(name) = not_finite_at(bytes, error.line(), error.column()) {
        return format!("is {name}, which is not JSON; numbers must be finite");
    }
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = error.to_string();
    let what = what.strip_suffix(&place).unwrap_or(&what);
    if what == "number out of range" {
        return "is a number beyond what a double can hold; numbers must be finite".to_owned();
    }
    format!("is not JSON: {what}{place}")
}

/// Python's `json.dumps` writes these for floats that are not finite.
fn not_finite_at(bytes: &[u8], line: usize, column: usize) -> Option<&'static str> {
    let start: usize = bytes.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let tail = bytes.get(start + column.checked_sub(1)?..)?;
    let negative = start + column >= 2 && bytes.get(start + column - 2) == Some(&b'-');
    match tail {
        _ if tail.starts_with(b"NaN") => Some("NaN"),
        _ if tail.starts_with(b"Infinity") && negative => Some("-Infinity"),
        _ if tail.starts_with(b"Infinity") => Some("Infinity"),
        _ => None,
    }
}
