//! The rules of single fields, and the tables that say which fields a message has.
//!
//! A table ([`Field`]) is read by the parser, the JSON Schema and `docs/messages.md`, so the three cannot disagree. The
//! checkers are public because registration requests obey the same rules under other names.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::baseline::MetricDirection;
use crate::identity::{Address, TokenSymbol};
use crate::invalid::{Invalid, quoted};
use crate::json::kind_of;
use crate::timestamp::{Timestamp, read_timestamp};

/// The longest model name, in characters: what MLflow's tables hold.
pub const MODEL_NAME_MAX_CHARS: usize = 256;
/// The longest model version, in characters. MLflow numbers versions; other registries name them.
pub const MODEL_VERSION_MAX_CHARS: usize = 128;
/// The longest model id, in characters: the longest name, version and symbol fit together.
pub const MODEL_ID_MAX_CHARS: usize = 512;
/// The longest MLflow run id, in characters: MLflow's own limit.
pub const RUN_ID_MAX_CHARS: usize = 256;
/// The longest metric name, in characters: MLflow's own limit.
pub const METRIC_NAME_MAX_CHARS: usize = 250;
/// The longest experiment name, in characters: MLflow's own limit.
pub const EXPERIMENT_NAME_MAX_CHARS: usize = 500;
/// The longest tag name, in characters: MLflow's own limit.
pub const TAG_NAME_MAX_CHARS: usize = 250;
/// The longest tag value, in characters.
pub const TAG_VALUE_MAX_CHARS: usize = 100_000;
/// The longest reason, in characters.
pub const REASON_MAX_CHARS: usize = 4_000;
/// The largest whole number: the largest that JavaScript reads exactly.
pub const WHOLE_MAX: u64 = 9_007_199_254_740_991;

/// One row of a message's table.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// Whether it may be missing.
    pub need: Need,
    /// What its value may be.
    pub kind: Kind,
    /// What it says, for the docs.
    pub about: &'static str,
}

/// Whether a field may be missing. Where it may, `null` says the same as its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A message without it is refused.
    Required,
    /// May be missing or null on input; our own messages always have the key.
    Emitted,
    /// May be missing or null.
    Optional,
}

/// What a field's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text, control characters included, of at least so many characters.
    AnyText {
        /// The fewest characters.
        min: usize,
    },
    /// Printable text on one line, not blank.
    Text {
        /// The most characters.
        max: usize,
    },
    /// A [`TokenSymbol`].
    Symbol,
    /// A finite number, whole or not.
    Number,
    /// A whole number from 0 on.
    Whole {
        /// The largest.
        max: u64,
    },
    /// A [`MetricDirection`].
    Direction,
    /// A [`Timestamp`](crate::Timestamp).
    Timestamp,
    /// A version of the payload's layout that this crate understands: 1, or 1 and a minor version.
    Version,
    /// An [`Address`].
    Address,
    /// A transaction's hash.
    Hash,
    /// An amount of wei: a whole number too large for JSON numbers, so written as text.
    Wei,
    /// An object whose values are text.
    Tags,
    /// Any object.
    Object,
}

impl Kind {
    /// Checks a value that is not null; a whole number written as `3.0` becomes `3`.
    pub fn check(self, value: &mut Value, field: &str) -> Result<(), Invalid> {
        match self {
            Self::AnyText { .. } | Self::Text { .. } | Self::Version | Self::Hash | Self::Wei => {
                self.check_str(read_text(value, field)?, field)
            }
            Self::Symbol => TokenSymbol::parse(read_text(value, field)?).map(drop).map_err(|invalid| invalid.at(field)),
            Self::Number => read_number(value, field).map(drop),
            Self::Whole { max } => read_whole(value, field, max).map(|whole| *value = whole.into()),
            Self::Direction => read_text(value, field)?.parse::<MetricDirection>().map(drop).map_err(|invalid| invalid.at(field)),
            Self::Timestamp => read_timestamp(read_text(value, field)?).map(drop).map_err(|invalid| invalid.at(field)),
            Self::Address => Address::parse(read_text(value, field)?).map(drop).map_err(|invalid| invalid.at(field)),
            Self::Tags => read_tags(value, field).map(drop),
            Self::Object if value.is_object() => Ok(()),
            Self::Object => Err(not_a(value, field, "an object")),
        }
    }

    /// Checks text of the kinds that are kept as text. The others are types of their own, valid by themselves.
    fn check_str(self, text: &str, field: &str) -> Result<(), Invalid> {
        match self {
            Self::AnyText { min } => check_min(text, field, min),
            Self::Text { max } => check_text(text, field, max),
            Self::Version => check_version(text, field),
            Self::Hash => check_hash(text, field),
            Self::Wei => check_wei(text, field),
            _ => Ok(()),
        }
    }
}

/// A field of a typed payload, checked for what its type does not rule out.
pub(crate) trait Typed {
    fn check(&self, _: Kind, _field: &str) -> Result<(), Invalid> {
        Ok(())
    }
}

impl Typed for String {
    fn check(&self, kind: Kind, field: &str) -> Result<(), Invalid> {
        kind.check_str(self, field)
    }
}

impl Typed for f64 {
    fn check(&self, _: Kind, field: &str) -> Result<(), Invalid> {
        check_finite(*self, field)
    }
}

impl Typed for u64 {
    fn check(&self, kind: Kind, field: &str) -> Result<(), Invalid> {
        match kind {
            Kind::Whole { max } if *self > max => Err(beyond(&(*self).into(), field, max)),
            _ => Ok(()),
        }
    }
}

impl Typed for BTreeMap<String, String> {
    fn check(&self, _: Kind, field: &str) -> Result<(), Invalid> {
        self.iter().try_for_each(|(name, text)| check_tag(name, text, field))
    }
}

impl Typed for TokenSymbol {}
impl Typed for Address {}
impl Typed for Timestamp {}
impl Typed for MetricDirection {}
impl Typed for Map<String, Value> {}

/// Checks `object` against a table and names everything that is wrong. `prefix` goes before the names, such as `payload.`.
pub fn check_fields(table: &[Field], object: &mut Map<String, Value>, prefix: &str) -> Vec<Invalid> {
    let mut problems = Vec::new();
    for Field { name, need, kind, .. } in table {
        let checked = match (object.get_mut(*name), need) {
            (None, Need::Required) => Err(Invalid::new(*name, "is missing")),
            (Some(Value::Null), Need::Required) => Err(Invalid::new(*name, "must not be null")),
            (None | Some(Value::Null), _) => Ok(()),
            (Some(value), _) => kind.check(value, name),
        };
        problems.extend(checked.err().map(|invalid| Invalid { field: format!("{prefix}{}", invalid.field), ..invalid }));
    }
    problems
}

/// Checks printable text on one line: not blank, no control characters or line separators, at most `max` characters.
pub fn check_text(text: &str, field: &str, max: usize) -> Result<(), Invalid> {
    // The commonest case by far, in one look at each byte: visible ASCII and spaces, and not only spaces.
    if text.len() <= max && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.bytes().any(|byte| byte != b' ') {
        return Ok(());
    }
    let chars = text.chars().count();
    if chars > max {
        return Err(Invalid::new(field, format!("is {chars} characters long; at most {max} are allowed")));
    }
    if text.chars().all(is_blank) {
        return Err(Invalid::new(field, "must not be empty or blank"));
    }
    match text.chars().find(|char| is_unprintable(*char)) {
        Some(char) => Err(Invalid::new(field, format!("must not contain control characters, contains U+{:04X}", u32::from(char)))),
        None => Ok(()),
    }
}

/// Checks a model's name: any printable text, spaces included.
pub fn check_model_name(text: &str, field: &str) -> Result<(), Invalid> {
    check_text(text, field, MODEL_NAME_MAX_CHARS)
}

/// Checks a metric's name: any printable text.
pub fn check_metric_name(text: &str, field: &str) -> Result<(), Invalid> {
    check_text(text, field, METRIC_NAME_MAX_CHARS)
}

/// Checks that a number is neither infinite nor NaN.
pub fn check_finite(number: f64, field: &str) -> Result<(), Invalid> {
    if number.is_finite() { Ok(()) } else { Err(Invalid::new(field, format!("must be a finite number, is {number}"))) }
}

/// Reads text.
pub fn read_text<'v>(value: &'v Value, field: &str) -> Result<&'v str, Invalid> {
    value.as_str().ok_or_else(|| not_a(value, field, "text"))
}

/// Reads a finite number. A number written as text is refused: whether `"1,5"` or `"1e5"` counts is nobody's to guess.
pub fn read_number(value: &Value, field: &str) -> Result<f64, Invalid> {
    match value {
        Value::String(text) if text.trim().parse::<f64>().is_ok() => {
            Err(Invalid::new(field, format!("must be a number, is the text {}: write it without quotes", quoted(text))))
        }
        _ => value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| not_a(value, field, "a number")),
    }
}

/// Reads a whole number from 0 to `max`; `3.0` is one.
pub fn read_whole(value: &Value, field: &str, max: u64) -> Result<u64, Invalid> {
    let number = read_number(value, field)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and within 2^53")]
    let whole = value.as_u64().or_else(|| (number.fract() == 0.0 && (0.0..=WHOLE_MAX as f64).contains(&number)).then_some(number as u64));
    whole.filter(|whole| *whole <= max).ok_or_else(|| beyond(value, field, max))
}

/// Reads tags: an object whose values are all text.
pub fn read_tags(value: &Value, field: &str) -> Result<BTreeMap<String, String>, Invalid> {
    let object = value.as_object().ok_or_else(|| not_a(value, field, "an object"))?;
    let tag = |(name, value): (&String, &Value)| {
        let text = value.as_str();
        check_tag(name, text.unwrap_or_default(), field)?;
        let text = text.ok_or_else(|| not_a(value, &format!("{field}.{name}"), "text"))?;
        Ok((name.clone(), text.to_owned()))
    };
    object.iter().map(tag).collect()
}

fn check_tag(name: &str, text: &str, field: &str) -> Result<(), Invalid> {
    check_text(name, field, TAG_NAME_MAX_CHARS).map_err(|invalid| Invalid::new(field, format!("has a name that {}", invalid.problem)))?;
    let chars = if text.len() > TAG_VALUE_MAX_CHARS { text.chars().count() } else { 0 };
    if chars > TAG_VALUE_MAX_CHARS {
        let problem = format!("is {chars} characters long; at most {TAG_VALUE_MAX_CHARS} are allowed");
        return Err(Invalid::new(format!("{field}.{name}"), problem));
    }
    Ok(())
}

/// What JSON Schema and the checkers both call blank.
fn is_blank(char: char) -> bool {
    char.is_whitespace() || char == '\u{feff}'
}

fn is_unprintable(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')
}

fn check_min(text: &str, field: &str, min: usize) -> Result<(), Invalid> {
    if text.chars().nth(min.saturating_sub(1)).is_some() || min == 0 { Ok(()) } else { Err(Invalid::new(field, "must not be empty")) }
}

fn check_version(text: &str, field: &str) -> Result<(), Invalid> {
    let minor = text
        .strip_prefix('1')
        .filter(|minor| minor.is_empty() || minor.strip_prefix('.').is_some_and(|digits| is_digits(digits) && digits.len() <= 9));
    match minor {
        Some(_) => Ok(()),
        None => Err(Invalid::new(field, format!("is {}; version 1 and its minor versions (1.0) are understood", quoted(text)))),
    }
}

fn check_hash(text: &str, field: &str) -> Result<(), Invalid> {
    match text.strip_prefix("0x") {
        Some(digits) if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(()),
        _ => Err(Invalid::new(field, format!("must be a hash, 0x and 64 hex digits, is {}", quoted(text)))),
    }
}

fn check_wei(text: &str, field: &str) -> Result<(), Invalid> {
    // 78 digits hold every 256-bit number.
    let plain = is_digits(text) && text.len() <= 78 && (text == "0" || !text.starts_with('0'));
    if plain { Ok(()) } else { Err(Invalid::new(field, format!("must be a whole number of wei as text, is {}", quoted(text)))) }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn beyond(value: &Value, field: &str, max: u64) -> Invalid {
    Invalid::new(field, format!("must be a whole number from 0 to {max}, is {value}"))
}

fn not_a(value: &Value, field: &str, wanted: &str) -> Invalid {
    Invalid::new(field, format!("must be {wanted}, is {}", kind_of(value)))
}
