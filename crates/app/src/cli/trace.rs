//! `hokusai trace`: where something is, from the run to the token.

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::{
    Outcome,
    output::{Format, table},
    queue::ago,
    registration::particulars,
};
use crate::{
    assembly::Assembly,
    config::Env,
    trace::{Timeline, trace},
};

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// A registration, model, token symbol or address, message, transaction or correlation id
    #[arg(value_name = "ANYTHING")]
    what: String,
    #[command(flatten)]
    format: Format,
}

/// Exit code 1 if nothing is known of it.
pub(crate) async fn run(TraceArgs { what, format }: TraceArgs, env: &Env<'_>) -> anyhow::Result<Outcome> {
    let assembly = Assembly::open(env).await?;
    let timelines = trace(&what, assembly.database()?, &assembly.queues, &assembly.queue_config.name).await?;
    if timelines.is_empty() {
        if format.json {
            format.print(&json!({ "asked": what, "timelines": [] }), |_| String::new())?;
            return Ok(Outcome::Failed);
        }
        bail!(
            "nothing is known of {what}: it is no registration, model, token, message or transaction of this database (hokusai config says which)"
        );
    }
    format.print(&json!({ "asked": what, "timelines": timelines }), |_| timelines.iter().map(describe).collect::<Vec<_>>().join("\n\n"))?;
    Ok(Outcome::Done)
}

fn describe(timeline: &Timeline) -> String {
    let subject = timeline.model_id.as_deref().or(timeline.message_id.as_deref()).unwrap_or("a message");
    let status = timeline.status.map(|status| format!(": {status}")).unwrap_or_default();
    let mut lines = vec![format!("{subject}{status}")];
    let ids = [
        ("registration", &timeline.registration_id),
        ("message", &timeline.message_id),
        ("correlation", &timeline.correlation_id),
        ("token", &timeline.token_address),
        ("transaction", &timeline.transaction_hash),
    ];
    lines.extend(ids.into_iter().filter_map(|(name, id)| Some(format!("{name:12} {}", id.as_ref()?))));
    for place in &timeline.places {
        let state = place.state.map_or_else(
            || if place.finished_at.is_some() { "finished".to_owned() } else { "not there".to_owned() },
            |state| format!("in {}", state.as_str()),
        );
        lines.push(format!("{:12} {}: {state}", "queue", place.queue));
    }
    let steps = timeline.steps.iter().map(|step| vec![step.at.to_string(), step.what.clone(), particulars(&step.detail)]);
    if !timeline.steps.is_empty() {
        lines.push(format!("\n{}", table(&["when", "what", ""], steps)));
    }
    let standing = &timeline.standing;
    if let Some(whom) = &standing.waits_for {
        let since = standing.since.map(|since| format!(", for {}", ago(since.at(), Timestamp::now()))).unwrap_or_default();
        lines.push(format!("\nit waits for {whom}{since}"));
    }
    lines.extend(standing.advice.as_ref().map(|advice| format!("what to do: {advice}")));
    lines.join("\n")
}
