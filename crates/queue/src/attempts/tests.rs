use proptest::prelude::*;

use super::*;

#[track_caller]
fn check_failure(before: &str, after: &str) {
    assert_eq!(std::str::from_utf8(&after_failure(before.as_bytes()).unwrap()).unwrap(), after);
}

#[test]
fn absent_counters_are_zero() {
    assert_eq!(read(br#"{"payload":{"retry_count":7}}"#).unwrap(), Attempts::default());
}

#[test]
fn counters_are_read_where_they_stand() {
    let attempts = read(br#" {"retry_count" : 2, "max_retries":5,"hokusai_expiries":1 } "#).unwrap();
    assert_eq!(attempts, Attempts { retry_count: 2, max_retries: Some(5), expiries: 1 });
    assert_eq!(attempts.deliveries(), 4);
}

#[test]
fn a_failure_changes_the_digits_and_nothing_else() {
    check_failure(
        r#"{ "a" : 1.50,"retry_count":9 , "payload":{"x":[1, 2]} }"#,
        r#"{ "a" : 1.50,"retry_count":10 , "payload":{"x":[1, 2]} }"#,
    );
}

#[test]
fn a_missing_counter_becomes_the_last_member() {
    check_failure("{ \"a\": {} }\n", "{ \"a\": {},\"retry_count\":1 }\n");
    check_failure(" { } ", " {\"retry_count\":1 } ");
    check_failure("{}", "{\"retry_count\":1}");
}

#[test]
fn an_escaped_name_is_the_same_name() {
    check_failure(r#"{"retry\u005fcount":0}"#, r#"{"retry\u005fcount":1}"#);
}

#[test]
fn of_a_repeated_counter_the_last_counts_and_all_are_set() {
    check_failure(r#"{"retry_count":5,"retry_count":1}"#, r#"{"retry_count":2,"retry_count":2}"#);
}

#[test]
fn null_is_absent_and_a_whole_fraction_is_a_count() {
    check_failure(r#"{"retry_count":null}"#, r#"{"retry_count":1}"#);
    check_failure(r#"{"retry_count":3.0}"#, r#"{"retry_count":4}"#);
    assert_eq!(read(br#"{"max_retries":null}"#).unwrap().max_retries, None);
}

#[test]
fn an_expiry_counts_apart() {
    let once = after_expiry(br#"{"retry_count":1}"#).unwrap();
    assert_eq!(&once[..], br#"{"retry_count":1,"hokusai_expiries":1}"#);
    assert_eq!(&after_expiry(&once).unwrap()[..], br#"{"retry_count":1,"hokusai_expiries":2}"#);
}

#[test]
fn a_reset_invents_no_member() {
    assert_eq!(&reset(br#"{"a":1}"#).unwrap()[..], br#"{"a":1}"#);
    assert_eq!(&reset(br#"{"hokusai_expiries":2,"a":1,"retry_count":3}"#).unwrap()[..], br#"{"hokusai_expiries":0,"a":1,"retry_count":0}"#);
}

#[test]
fn what_is_no_envelope_is_unreadable() {
    let bad: [&[u8]; 9] = [b"", b"[]", b"7", b"{", b"{\"a\":NaN}", b"\xff\xfe", b"{\"a\":\"\xff\"}", br#"{"a":1} x"#, b"\xef\xbb\xbf{}"];
    for entry in bad {
        assert!(matches!(read(entry), Err(Unreadable::Json(_))), "{entry:?}");
    }
    for entry in [r#"{"retry_count":-1}"#, r#"{"retry_count":"1"}"#, r#"{"retry_count":1.5}"#, r#"{"hokusai_expiries":4294967296}"#] {
        assert!(matches!(read(entry.as_bytes()), Err(Unreadable::Counter { .. })), "{entry}");
    }
}

#[test]
fn a_counter_at_its_limit_stays_there() {
    check_failure(r#"{"retry_count":4294967295}"#, r#"{"retry_count":4294967295}"#);
}

proptest! {
    #[test]
    fn rewriting_keeps_every_other_byte(
        before in "[ \n]{0,2}", text in "[^\"\\\\\u{0}-\u{1f}]{0,20}", count in 0..2_000u32, after in "[ \t]{0,2}"
    ) {
        let entry = format!("{before}{{\"x\":\"{text}\",{after}\"retry_count\":{count}{after},\"y\":[1,{{}}]}}");
        let expected = entry.replace(&format!("\"retry_count\":{count}"), &format!("\"retry_count\":{}", count + 1));
        let rewritten = after_failure(entry.as_bytes()).unwrap();
        prop_assert_eq!(std::str::from_utf8(&rewritten).unwrap(), expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused(entry in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = after_failure(&entry);
        let _ = reset(&entry);
    }
}
