//! Moments in messages: many forms are read, one is written.
//!
//! Read: RFC 3339, and ISO 8601 as Python's `isoformat` and `str` write it, where a time without an offset means UTC.
//! Written: `2025-01-27T15:30:00.123456+00:00`. That is the one form that `datetime.fromisoformat` of Python 3.8 (no `Z`,
//! three or six digits of a fraction), pydantic, JavaScript's `Date` and RFC 3339 all read.

use std::fmt;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::invalid::{Invalid, quoted};

/// The texts that [`read_timestamp`] reads, as a regular expression of ECMA 262.
pub(crate) const PATTERN: &str = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:([0-5][0-9]|60)\
                                  (\\.[0-9]{1,9})?)?([Zz]|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?$";

/// A moment as messages carry it: whole microseconds, from the year 1 (Python's first) on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The moment `at`, cut to whole microseconds. A moment before the year 1 becomes its first.
    pub fn new(at: jiff::Timestamp) -> Self {
        let micros = at.as_microsecond() - i64::from(at.subsec_nanosecond() % 1_000 < 0);
        Self(jiff::Timestamp::from_microsecond(micros).unwrap_or(at).max(first()))
    }

    /// The one form. By hand, because every message has several and general formatting costs as much as the rest of it.
    fn written(self) -> [u8; 32] {
        let civil = TimeZone::UTC.to_datetime(self.0);
        let mut text = *b"0000-00-00T00:00:00.000000+00:00";
        let mut put = |end: usize, digits: usize, number: i32| {
            let mut number = number.unsigned_abs();
            for digit in text[end - digits..end].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        put(4, 4, civil.year().into());
        put(7, 2, civil.month().into());
        put(10, 2, civil.day().into());
        put(13, 2, civil.hour().into());
        put(16, 2, civil.minute().into());
        put(19, 2, civil.second().into());
        put(26, 6, civil.subsec_nanosecond() / 1_000);
        text
    }

    /// The same moment for arithmetic.
    pub fn at(self) -> jiff::Timestamp {
        self.0
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(at: jiff::Timestamp) -> Self {
        Self::new(at)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(std::str::from_utf8(&self.written()).map_err(|_| fmt::Error)?)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        read_timestamp(text).map(Self::new)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.written()).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Writes `at` in the one form of every message and document.
pub fn emit(at: jiff::Timestamp) -> String {
    Timestamp::new(at).to_string()
}

/// Reads a moment; without an offset it is in UTC.
pub fn read_timestamp(text: &str) -> Result<jiff::Timestamp, Invalid> {
    let invalid = || {
        let problem = format!("must be a time such as 2025-01-27T15:30:00Z or 2025-01-27T15:30:00.123456, is {}", quoted(text));
        Invalid::new("timestamp", problem)
    };
    let mut rest = Rest(text.as_bytes());
    let (civil, offset_secs) = rest.moment().filter(|_| rest.0.is_empty()).ok_or_else(invalid)?;
    let utc = civil.checked_sub(SignedDuration::from_secs(offset_secs)).and_then(|civil| civil.to_zoned(TimeZone::UTC));
    let at = utc.map_err(|_| invalid())?.timestamp();
    if at < first() { Err(invalid()) } else { Ok(at) }
}

fn first() -> jiff::Timestamp {
    const YEAR_1_SECONDS: i64 = -62_135_596_800;
    jiff::Timestamp::constant(YEAR_1_SECONDS, 0)
}

/// What of the text is still to be read. Every method takes what it recognises off the front, or answers `None`.
struct Rest<'t>(&'t [u8]);

impl Rest<'_> {
    fn moment(&mut self) -> Option<(DateTime, i64)> {
        let year = self.digits(4)?;
        self.one_of(b"-")?;
        let month = self.digits(2)?;
        self.one_of(b"-")?;
        let day = self.digits(2)?;
        self.one_of(b"Tt ")?;
        let hour = self.digits(2)?;
        self.one_of(b":")?;
        let minute = self.digits(2)?;
        let (second, nanosecond) = self.seconds()?;
        let offset_secs = self.offset_secs()?;
        let small = |number: i32| i8::try_from(number).ok();
        let year = i16::try_from(year).ok()?;
        let civil = DateTime::new(year, small(month)?, small(day)?, small(hour)?, small(minute)?, small(second)?, nanosecond).ok()?;
        Some((civil, offset_secs))
    }

    /// Seconds and nanoseconds, both optional. A leap second, which RFC 3339 allows, reads as the second before it.
    fn seconds(&mut self) -> Option<(i32, i32)> {
        if self.one_of(b":").is_none() {
            return Some((0, 0));
        }
        let second = match self.digits(2)? {
            60 => 59,
            second => second,
        };
        if self.one_of(b".").is_none() {
            return Some((second, 0));
        }
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let scale = 9_u32.checked_sub(u32::try_from(digits).ok()?).filter(|_| digits > 0)?;
        Some((second, self.digits(digits)? * 10_i32.pow(scale)))
    }

    fn offset_secs(&mut self) -> Option<i64> {
        if self.0.is_empty() || self.one_of(b"Zz").is_some() {
            return Some(0);
        }
        let sign = if self.one_of(b"+-")? == b'-' { -1 } else { 1 };
        let hours = self.digits(2).filter(|hours| *hours < 24)?;
        let minutes = if self.one_of(b":").is_some() || !self.0.is_empty() { self.digits(2)? } else { 0 };
        (minutes < 60).then(|| sign * i64::from(hours * 3_600 + minutes * 60))
    }

    fn digits(&mut self, count: usize) -> Option<i32> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.0 = rest;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    fn one_of(&mut self, choices: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        choices.contains(first).then(|| {
            self.0 = rest;
            *first
        })
    }
}
