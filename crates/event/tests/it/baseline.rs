//! The verdict.

use hokusai_event::MetricDirection::{self, HigherIsBetter, LowerIsBetter};
use hokusai_event::judge;
use proptest::prelude::*;

#[track_caller]
fn check(direction: MetricDirection, baseline: f64, current: f64, meets: bool, improvement: Option<f64>) {
    let verdict = judge(direction, baseline, current).unwrap();
    assert_eq!((verdict.meets_baseline, verdict.improvement_percentage), (meets, improvement), "{}", verdict.reason);
}

#[test]
fn the_examples_of_the_brief() {
    check(HigherIsBetter, 0.75, 0.82, true, Some(9.33));
    check(HigherIsBetter, 0.80, 0.85, true, Some(6.25));
}

#[test]
fn direction_decides_what_is_better() {
    check(HigherIsBetter, 0.8, 0.6, false, Some(-25.0));
    check(LowerIsBetter, 0.8, 0.6, true, Some(25.0));
    check(LowerIsBetter, 120.0, 150.0, false, Some(-25.0));
}

#[test]
fn equal_is_accepted() {
    check(HigherIsBetter, 0.8, 0.8, true, Some(0.0));
    check(LowerIsBetter, 0.8, 0.8, true, Some(0.0));
    check(HigherIsBetter, 0.0, -0.0, true, None);
}

#[test]
fn a_baseline_of_zero_has_no_percentage() {
    check(HigherIsBetter, 0.0, 0.1, true, None);
    check(LowerIsBetter, -0.0, 0.1, false, None);
}

#[test]
fn a_negative_baseline_counts_by_its_absolute_value() {
    check(HigherIsBetter, -2.0, -1.0, true, Some(50.0));
    check(HigherIsBetter, -2.0, -3.0, false, Some(-50.0));
    check(LowerIsBetter, -2.0, -3.0, true, Some(50.0));
}

#[test]
fn rounding_is_to_two_decimals_half_away_from_zero() {
    check(HigherIsBetter, 8.0, 8.0001, true, Some(0.0));
    // 0.125 % exactly, in both directions.
    check(HigherIsBetter, 800.0, 801.0, true, Some(0.13));
    check(HigherIsBetter, 800.0, 799.0, false, Some(-0.13));
    let tiny = judge(HigherIsBetter, 1.0, 0.999_999_9).unwrap().improvement_percentage.unwrap();
    assert_eq!((tiny, tiny.is_sign_positive()), (0.0, true), "no negative zero is written");
}

#[test]
fn what_a_double_cannot_hold_is_no_percentage() {
    check(HigherIsBetter, 1e-300, 1e300, true, None);
    check(HigherIsBetter, -1e308, 1e308, true, Some(200.0));
    check(LowerIsBetter, f64::MAX, f64::MIN, true, Some(200.0));
    check(HigherIsBetter, 1e-300, 1e5, true, Some((1e5 - 1e-300) / 1e-300 * 100.0));
}

#[test]
fn values_that_are_not_finite_are_refused_by_name() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(judge(HigherIsBetter, value, 1.0).unwrap_err().field, "baseline_value");
        assert_eq!(judge(HigherIsBetter, 1.0, value).unwrap_err().field, "current_value");
    }
}

#[test]
fn the_reason_says_it_in_one_sentence() {
    let reason = |direction, baseline, current| judge(direction, baseline, current).unwrap().reason;
    assert_eq!(reason(HigherIsBetter, 0.75, 0.82), "current value 0.82 beats baseline 0.75 (higher is better, +9.33 %)");
    assert_eq!(reason(LowerIsBetter, 0.5, 0.75), "current value 0.75 is worse than baseline 0.5 (lower is better, -50.00 %)");
    assert_eq!(reason(HigherIsBetter, 0.0, 0.0), "current value 0 equals baseline 0 (higher is better)");
}

proptest! {
    #[test]
    fn never_anything_that_is_not_finite(baseline in any::<f64>(), current in any::<f64>(), lower in any::<bool>()) {
        let direction = if lower { LowerIsBetter } else { HigherIsBetter };
        match judge(direction, baseline, current) {
            Err(_) => prop_assert!(!baseline.is_finite() || !current.is_finite()),
            Ok(verdict) => {
                prop_assert!(baseline.is_finite() && current.is_finite());
                let percent = verdict.improvement_percentage;
                prop_assert!(percent.is_none_or(f64::is_finite));
                prop_assert!(percent.is_none_or(|percent| percent == 0.0 || (percent > 0.0) == verdict.meets_baseline));
            }
        }
    }
}
