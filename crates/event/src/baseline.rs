//! The baseline verdict: whether a model may have its token, and by how much it is better.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricDirection {
    /// As accuracy does. What a message that says nothing means.
    #[default]
    HigherIsBetter,
    /// As a loss or a latency does.
    LowerIsBetter,
}

impl MetricDirection {
    /// Both, the default first.
    pub const ALL: [Self; 2] = [Self::HigherIsBetter, Self::LowerIsBetter];

    /// As messages write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HigherIsBetter => "higher_is_better",
            Self::LowerIsBetter => "lower_is_better",
        }
    }
}

impl fmt::Display for MetricDirection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::str::FromStr for MetricDirection {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|direction| direction.as_str() == text).ok_or_else(|| {
            let problem = format!("must be higher_is_better or lower_is_better, is {}", crate::invalid::quoted(text));
            Invalid::new("metric_direction", problem)
        })
    }
}

/// What [`judge`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether the model is at least as good as the baseline.
    pub meets_baseline: bool,
    /// Percent of the absolute baseline, positive for better, to two decimals. `None` when the baseline is 0, or so small
    /// that the percentage is beyond what a double can hold.
    pub improvement_percentage: Option<f64>,
    /// The comparison in one sentence, for people.
    pub reason: String,
}

/// Compares a metric with its baseline. Equal is good enough; a value that is not finite is refused.
pub fn judge(direction: MetricDirection, baseline: f64, current: f64) -> Result<Verdict, Invalid> {
    crate::check_finite(baseline, "baseline_value")?;
    crate::check_finite(current, "current_value")?;
    let (meets_baseline, better) = match direction {
        MetricDirection::HigherIsBetter => (current >= baseline, "higher"),
        MetricDirection::LowerIsBetter => (current <= baseline, "lower"),
    };
    let improvement_percentage = improvement_percentage(direction, baseline, current);
    let relation = match (meets_baseline, current == baseline) {
        (_, true) => "equals",
        (true, false) => "beats",
        (false, false) => "is worse than",
    };
    let by = improvement_percentage.map(|percent| format!(", {percent:+.2} %")).unwrap_or_default();
    let reason = format!("current value {current} {relation} baseline {baseline} ({better} is better{by})");
    Ok(Verdict { meets_baseline, improvement_percentage, reason })
}

/// Rounds half away from zero, on the binary value: what is shown is a summary, the verdict never depends on it.
fn improvement_percentage(direction: MetricDirection, baseline: f64, current: f64) -> Option<f64> {
    if baseline == 0.0 {
        return None;
    }
    // The difference of two huge numbers of opposite sign overflows; halving both is exact and changes no ratio.
    let scale = if (current - baseline).is_finite() { 1.0 } else { 0.5 };
    let gain = match direction {
        MetricDirection::HigherIsBetter => current * scale - baseline * scale,
        MetricDirection::LowerIsBetter => baseline * scale - current * scale,
    };
    let percent = gain / (baseline * scale).abs() * 100.0;
    let cents = (percent * 100.0).round();
    let rounded = if cents.is_finite() { cents / 100.0 } else { percent };
    // Adding zero turns a negative zero into a plain one.
    rounded.is_finite().then_some(rounded + 0.0)
}
