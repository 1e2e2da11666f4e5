//! The values that are compared: those that were stated, and those that MLflow has.
//!
//! A stated value that MLflow has too must be the same but for rounding: a registration that says 0.82 of a run that logged
//! 0.79 is refused, whichever of the two is wrong. What MLflow does not have is taken as stated.

use hokusai_db::Database;
use hokusai_event::Invalid;

use super::{
    client::{MlflowClient, MlflowError, Run},
    resolved_version,
};
use crate::{
    document::Document,
    model_uri::{BaselineUri, ModelUri},
    register::RegisterError,
    request::{Origin, RegisterRequest, Values},
};

/// How far a rounded number may be from what it was rounded from, as a part of it.
const ROUNDING: f64 = 0.01;
/// The same for numbers that passed through single precision.
const SINGLE: f64 = 1e-6;

/// The values that an earlier registration of this version and token was judged by, in place of those that `request` leaves
/// out. A rejected one counts for nothing: it may be superseded.
pub(super) async fn registered(db: &Database, request: &RegisterRequest, origin: &Origin) -> Result<Option<Values>, RegisterError> {
    let Some(version) = resolved_version(origin) else { return Ok(None) };
    let row: Option<(String,)> = sqlx::query_as(
        "SELECT document FROM registrations
         WHERE token_key = $1 AND model_name = $2 AND model_version = $3 AND superseded_by IS NULL AND status <> 'rejected' LIMIT 1",
    )
    .bind(request.token_id.key())
    .bind(request.model_name.as_str())
    .bind(version)
    .fetch_optional(db.reader())
    .await
    .map_err(hokusai_db::Error::from)?;
    let earlier = row.and_then(|(document,)| serde_json::from_str::<Document>(&document).ok());
    Ok(earlier.map(|earlier| Values {
        baseline: request.baseline_value.unwrap_or(earlier.baseline_value),
        current: request.current_value.unwrap_or(earlier.current_value),
    }))
}

/// The values of a new registration. `run` made the model.
pub(super) async fn values(client: &MlflowClient, request: &RegisterRequest, run: Option<&Run>) -> Result<Values, RegisterError> {
    let metric = &request.metric_name;
    let current = settle("current_value", request.current_value, measured(run, metric, "current_value")?)?;
    let current = current.ok_or_else(|| Invalid::new("current_value", format!("is missing, and {}", unmeasured(run, metric))))?;
    let baseline = match &request.baseline {
        Some(baseline) => {
            let run = baseline_run(client, baseline).await?;
            let found = measured(Some(&run), metric, "baseline")?;
            let missing = || Invalid::new("baseline", format!("is {}, but {}", baseline.text, unmeasured(Some(&run), metric)));
            settle("baseline_value", request.baseline_value, Some(found.ok_or_else(missing)?))?
        }
        None => request.baseline_value,
    };
    let baseline = baseline.ok_or_else(|| Invalid::new("baseline_value", "is missing, and no `baseline` is named"))?;
    Ok(Values { baseline, current })
}

/// A value, and what MLflow calls it.
struct Measured<'r> {
    value: f64,
    run_id: &'r str,
}

fn measured<'r>(run: Option<&'r Run>, metric: &str, field: &str) -> Result<Option<Measured<'r>>, Invalid> {
    let Some((run, value)) = run.and_then(|run| Some((run, *run.metrics.get(metric)?))) else { return Ok(None) };
    if !value.is_finite() {
        return Err(Invalid::new(field, format!("must be a finite number, but the run {} logged {metric:?} as {value}", run.run_id)));
    }
    Ok(Some(Measured { value: value + 0.0, run_id: &run.run_id }))
}

fn unmeasured(run: Option<&Run>, metric: &str) -> String {
    match run {
        Some(run) if run.metrics.is_empty() => format!("the run {} logged no metrics", run.run_id),
        Some(run) => {
            let known: Vec<&str> = run.metrics.keys().map(String::as_str).take(20).collect();
            format!("the run {} logged no metric {metric:?}; it logged {}", run.run_id, known.join(", "))
        }
        None => "MLflow does not know the run".to_owned(),
    }
}

fn settle(field: &str, stated: Option<f64>, measured: Option<Measured<'_>>) -> Result<Option<f64>, Invalid> {
    match (stated, measured) {
        (Some(stated), Some(found)) if !agree(stated, found.value) => {
            Err(Invalid::new(field, format!("is {stated}, but the run {} logged {}", found.run_id, found.value)))
        }
        (Some(stated), _) => Ok(Some(stated)),
        (None, found) => Ok(found.map(|found| found.value)),
    }
}

/// Whether `stated` is `measured`, rounded to the digits it was written with.
fn agree(stated: f64, measured: f64) -> bool {
    let difference = (stated - measured).abs();
    let digits = stated.to_string().split_once('.').map_or(0, |(_, digits)| digits.len());
    let half_a_digit = 0.5 * 10_f64.powi(-i32::try_from(digits).unwrap_or(i32::MAX));
    let size = measured.abs();
    difference <= SINGLE * size || difference <= half_a_digit.min(ROUNDING * size) * (1.0 + 1e-9)
}

async fn baseline_run(client: &MlflowClient, baseline: &BaselineUri) -> Result<Run, RegisterError> {
    find_run(client, baseline).await.map_err(|error| match error {
        MlflowError::NotFound { what, message, .. } => {
            Invalid::new("baseline", format!("refers to {what}, which MLflow does not know: {message}")).into()
        }
        error => error.into(),
    })
}

async fn find_run(client: &MlflowClient, baseline: &BaselineUri) -> Result<Run, MlflowError> {
    let run_id = match &baseline.location {
        ModelUri::Run { run_id, .. } => Some(run_id.clone()),
        ModelUri::Version { name, version } => client.version(name, &version.to_string()).await?.run_id,
        ModelUri::Alias { name, alias } => client.aliased(name, alias).await?.run_id,
        ModelUri::Logged { model_id } => client.logged_model_run(model_id).await?,
        ModelUri::Elsewhere(_) => None,
    };
    match run_id.filter(|run_id| !run_id.is_empty()) {
        Some(run_id) => client.run(&run_id).await,
        None => Err(client.without_run(&baseline.text)),
    }
}

#[cfg(test)]
mod tests {
    use super::agree;

    #[test]
    fn rounded_numbers_agree() {
        for (stated, measured) in
            [(0.82, 0.8249), (0.82, 0.82), (0.8199, 0.819_94), (95.0, 95.3), (0.0, 0.0), (-0.82, -0.8231), (0.82, 0.819_999_992_847_442_6)]
        {
            assert!(agree(stated, measured), "{stated} {measured}");
        }
        for (stated, measured) in [(0.82, 0.79), (0.8, 0.8499), (1.0, 0.53), (0.0, 0.004), (0.82, -0.82), (0.8231, 0.8232)] {
            assert!(!agree(stated, measured), "{stated} {measured}");
        }
    }
}
