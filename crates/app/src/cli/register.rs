//! `hokusai register`: over HTTP with `HOKUSAI_API_URL`, else into the database.

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::{
    Outcome,
    output::{Format, or_dash},
    registration::Source,
};
use crate::{
    client::Ids,
    config::Env,
    http::wire::{Registered, Status},
};

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// Where the model is: runs:/<run>/<path>, models:/<name>/<version>, or any other address
    #[arg(long, value_name = "URI")]
    model_uri: Option<String>,
    /// The name to register it under
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// The token's symbol
    #[arg(long, value_name = "SYMBOL")]
    token_id: Option<String>,
    /// The metric that is compared
    #[arg(long, value_name = "NAME")]
    metric_name: Option<String>,
    /// The value to reach
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    baseline_value: Option<f64>,
    /// The model whose metric is the value to reach, for MLflow to read: runs:/<run>, models:/<name>/<version>,
    /// models:/<name>@<alias>
    #[arg(long, value_name = "URI")]
    baseline: Option<String>,
    /// The model's value [default: the metric of its MLflow run]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    current_value: Option<f64>,
    /// Which way the metric improves
    #[arg(long, value_name = "DIRECTION")]
    metric_direction: Option<Direction>,
    /// Who contributed the model
    #[arg(long, value_name = "ADDRESS")]
    contributor_address: Option<String>,
    /// The MLflow experiment
    #[arg(long, value_name = "NAME")]
    experiment_name: Option<String>,
    /// The run that made the model, where the address does not say
    #[arg(long, value_name = "RUN")]
    mlflow_run_id: Option<String>,
    /// A label; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// The whole request as a JSON file, or - for standard input; options given beside it win
    #[arg(long, value_name = "FILE")]
    request: Option<std::path::PathBuf>,
    /// Makes a repeated request recognisable as the same
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Direction {
    HigherIsBetter,
    LowerIsBetter,
}

fn tag(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| format!("`{text}` is not KEY=VALUE"))
}

impl RegisterArgs {
    /// The request's body. Whether it is complete and right is for the registry to say.
    fn body(&self) -> anyhow::Result<Vec<u8>> {
        let mut body = match &self.request {
            Some(file) => super::Input { file: file.clone() }.object()?,
            None => Map::new(),
        };
        let direction = self.metric_direction.and_then(|direction| Some(direction.to_possible_value()?.get_name().to_owned()));
        let given: [(&str, Option<Value>); 11] = [
            ("model_uri", self.model_uri.clone().map(Value::from)),
            ("model_name", self.model_name.clone().map(Value::from)),
            ("token_id", self.token_id.clone().map(Value::from)),
            ("metric_name", self.metric_name.clone().map(Value::from)),
            ("baseline_value", self.baseline_value.map(|value| json!(value))),
            ("baseline", self.baseline.clone().map(Value::from)),
            ("current_value", self.current_value.map(|value| json!(value))),
            ("metric_direction", direction.map(Value::from)),
            ("contributor_address", self.contributor_address.clone().map(Value::from)),
            ("experiment_name", self.experiment_name.clone().map(Value::from)),
            ("mlflow_run_id", self.mlflow_run_id.clone().map(Value::from)),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        }
        if !self.tags.is_empty() {
            body.insert(
                "tags".to_owned(),
                self.tags.iter().cloned().map(|(key, value)| (key, Value::from(value))).collect::<Map<_, _>>().into(),
            );
        }
        serde_json::to_vec(&body).context("the request cannot be written as JSON")
    }
}

/// Exit code 1 for a model below its baseline: a script that goes on should know.
pub(crate) async fn run(args: RegisterArgs, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let body = args.body()?;
    let source = Source::open(env).await?;
    let registered = source.register(body, Ids { idempotency_key: args.idempotency_key.as_deref(), correlation_id: None }).await?;
    let rejected = registered.status == Status::Rejected;
    args.format.print(&registered, describe)?;
    Ok(if rejected { Outcome::Failed } else { Outcome::Done })
}

fn describe(registered: &Registered) -> String {
    let improvement = registered.improvement_percentage.map(|percent| format!(" ({percent:+} %)"));
    format!(
        "{} {}{}\nregistration {}\nmessage      {}\n{}",
        registered.model_id,
        registered.verdict,
        improvement.unwrap_or_default(),
        registered.registration_id,
        or_dash(registered.message_id.as_deref()),
        registered.reason.as_deref().unwrap_or_default(),
    )
}
