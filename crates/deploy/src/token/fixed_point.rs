//! Metrics as the chain keeps them: signed fixed-point numbers with 18 decimals.
//!
//! Rounding: a value counts as the decimal number that it is written as, which is the shortest one that reads back as
//! the same `f64`. So 0.85 becomes exactly 850000000000000000, although the nearest `f64` is a little less. Digits
//! beyond the eighteenth decimal are rounded half to even. Order is kept: of two values the greater never becomes the
//! lesser, so a model that reaches its baseline here reaches it on chain.

use super::request::Unfit;

/// Decimals of the chain's metrics.
pub const DECIMALS: usize = 18;

/// The value with [`DECIMALS`] decimals, or why the chain cannot keep it.
pub fn to_fixed_point(field: &'static str, value: f64) -> Result<i128, Unfit> {
    if !value.is_finite() {
        return Err(Unfit { field, problem: format!("must be a finite number, is {value}") });
    }
    fixed(value)
        .ok_or_else(|| Unfit { field, problem: format!("{value} is too large for the chain, which keeps numbers up to about 1.7e20") })
}

/// The nearest `f64` of a metric read from the chain.
pub fn from_fixed_point(metric: i128) -> f64 {
    let decimal = format!("{metric}e-{DECIMALS}");
    decimal.parse().expect("an integer with an exponent is a number")
}

/// `None` if it does not fit an `i128`.
fn fixed(value: f64) -> Option<i128> {
    // `{:e}` prints the shortest digits that read back: one digit, perhaps a point and more digits, and an exponent.
    let scientific = format!("{:e}", value.abs());
    let (mantissa, exponent) = scientific.split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = exponent - i32::try_from(fraction.len()).ok()? + i32::try_from(DECIMALS).ok()?;
    let magnitude = if shift >= 0 {
        digits.checked_mul(10_i128.checked_pow(shift.unsigned_abs())?)?
    } else {
        divide_half_even(digits, shift.unsigned_abs())
    };
    Some(if value.is_sign_negative() { -magnitude } else { magnitude })
}

fn divide_half_even(digits: i128, places: u32) -> i128 {
    // More places than an `i128` has digits leave nothing of the at most 17 digits that an `f64` prints.
    let Some(divisor) = 10_i128.checked_pow(places) else { return 0 };
    let (quotient, remainder) = (digits / divisor, digits % divisor);
    match (remainder * 2).cmp(&divisor) {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Greater => quotient + 1,
        std::cmp::Ordering::Equal => quotient + quotient % 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(value: f64, expected: i128) {
        assert_eq!(to_fixed_point("baseline_value", value), Ok(expected), "{value}");
    }

    #[test]
    fn a_value_is_the_decimal_it_is_written_as() {
        check(0.85, 850_000_000_000_000_000);
        check(-0.1, -100_000_000_000_000_000);
        check(0.1 + 0.2, 300_000_000_000_000_040);
        check(0.0, 0);
        check(-0.0, 0);
        check(20.25, 20_250_000_000_000_000_000);
        check(1e20, 100_000_000_000_000_000_000_000_000_000_000_000_000);
    }

    #[test]
    fn what_the_decimals_cannot_hold_is_rounded_half_to_even() {
        check(1e-18, 1);
        check(5e-19, 0);
        check(1.5e-18, 2);
        check(2.5e-18, 2);
        check(6e-19, 1);
        check(-6e-19, -1);
        check(f64::MIN_POSITIVE, 0);
        check(5e-324, 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.8e20, -1.8e20, f64::MAX] {
            let unfit = to_fixed_point("current_value", value).unwrap_err();
            assert_eq!(unfit.field, "current_value");
        }
    }

    proptest! {
        #[test]
        fn order_is_kept(a in -1e19_f64..1e19, b in -1e19_f64..1e19) {
            let (a_fixed, b_fixed) = (fixed(a).unwrap(), fixed(b).unwrap());
            if a <= b { prop_assert!(a_fixed <= b_fixed) } else { prop_assert!(a_fixed >= b_fixed) }
        }

        #[test]
        fn a_metric_of_few_digits_survives_the_round_trip(digits in -1_000_000_000_000_i64..1_000_000_000_000) {
            #[expect(clippy::cast_precision_loss, reason = "thirteen digits fit a double")]
            let value = digits as f64 / 1e9;
            prop_assert_eq!(from_fixed_point(fixed(value).unwrap()), value);
        }
    }
}
