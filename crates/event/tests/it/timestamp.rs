//! Moments: what is read, and the one form that is written.

use hokusai_event::{Timestamp, emit, read_timestamp};
use jiff::Timestamp as Moment;
use proptest::prelude::*;

#[track_caller]
fn reads(text: &str, emitted: &str) {
    assert_eq!(emit(read_timestamp(text).unwrap()), emitted, "{text}");
}

#[test]
fn rfc_3339_and_what_python_writes_are_read() {
    reads("2025-01-27T15:30:00Z", "2025-01-27T15:30:00.000000+00:00");
    reads("2025-01-27t15:30:00z", "2025-01-27T15:30:00.000000+00:00");
    reads("2025-01-27T17:30:00.5+02:00", "2025-01-27T15:30:00.500000+00:00");
    reads("2025-01-27T10:00:00-05:30", "2025-01-27T15:30:00.000000+00:00");
    // datetime.utcnow().isoformat(), with and without microseconds, and str() of it.
    reads("2025-01-27T15:30:00.123456", "2025-01-27T15:30:00.123456+00:00");
    reads("2025-01-27T15:30:00", "2025-01-27T15:30:00.000000+00:00");
    reads("2025-01-27 15:30:00.123456+00:00", "2025-01-27T15:30:00.123456+00:00");
    // strftime("%z"), PostgreSQL, JavaScript, a leap second.
    reads("2025-01-27T15:30:00+0000", "2025-01-27T15:30:00.000000+00:00");
    reads("2025-01-27 15:30:00+00", "2025-01-27T15:30:00.000000+00:00");
    reads("2025-01-27T15:30:00.123Z", "2025-01-27T15:30:00.123000+00:00");
    reads("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000000+00:00");
    reads("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000+00:00");
}

#[test]
fn other_texts_are_refused() {
    for text in [
        "",
        "now",
        "2025-01-27",
        "15:30:00",
        "1737991800",
        "2025-02-30T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2025-01-27T15:30:00 Z",
        "2025-01-27T15:30:00Z[UTC]",
        "2025-01-27T15:30:00.1234567890Z",
        "0001-01-01T00:00:00+01:00",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "２０２５-01-27T15:30:00Z",
    ] {
        let invalid = read_timestamp(text).unwrap_err();
        assert!(invalid.problem.contains("must be a time such as"), "{text}: {invalid}");
    }
}

#[test]
fn nanoseconds_are_cut_also_before_the_epoch() {
    assert_eq!(emit(Moment::new(0, 1_999).unwrap()), "1970-01-01T00:00:00.000001+00:00");
    assert_eq!(emit(Moment::new(-1, -1).unwrap()), "1969-12-31T23:59:58.999999+00:00");
    assert_eq!(emit(Moment::MIN), "0001-01-01T00:00:00.000000+00:00");
    assert_eq!(emit(Moment::MAX).len(), 32);
}

proptest! {
    /// Python 3.8's `fromisoformat` wants exactly this many characters in exactly these places.
    #[test]
    fn the_form_written_never_varies(seconds in -62_135_596_800_i64..=253_402_207_200, nanoseconds in 0_i64..1_000_000_000) {
        let at = Moment::new(seconds, 0).unwrap().checked_add(jiff::SignedDuration::from_nanos(nanoseconds)).unwrap();
        let text = emit(at);
        let shape: String = text.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
        prop_assert_eq!(shape, "0000-00-00T00:00:00.000000+00:00");
        prop_assert!(text.ends_with("+00:00"));
        prop_assert_eq!(read_timestamp(&text).unwrap(), Timestamp::new(at).at());
    }
}
