//! `hokusai message`: check messages, show examples and schemas.

use clap::Subcommand;
use hokusai_event::{Invalid, MessageType, check_message, example, schema};
use serde_json::{Value, json};

use super::{
    Input, Outcome,
    output::{Format, print_line},
};
use crate::messages;

#[derive(Debug, Subcommand)]
pub(crate) enum MessageCommand {
    /// Check messages: whole envelopes, JSON or NDJSON
    Validate {
        #[command(flatten)]
        input: Input,
        #[command(flatten)]
        format: Format,
    },
    /// Print an example of a message type
    Example {
        /// Such as model_ready_to_deploy
        #[arg(value_name = "TYPE", value_parser = parse_type)]
        message_type: MessageType,
    },
    /// Print the JSON Schema of a message type
    Schema {
        /// Such as model_ready_to_deploy
        #[arg(value_name = "TYPE", value_parser = parse_type)]
        message_type: MessageType,
    },
}

pub(crate) fn parse_type(text: &str) -> Result<MessageType, String> {
    text.parse().map_err(|invalid: Invalid| invalid.problem)
}

pub(crate) fn run(command: MessageCommand) -> anyhow::Result<Outcome> {
    match command {
        MessageCommand::Validate { input, format } => validate(&input, format),
        MessageCommand::Example { message_type } => print_json(&example(message_type)),
        MessageCommand::Schema { message_type } => print_json(&schema(message_type)),
    }
}

fn print_json(value: &Value) -> anyhow::Result<Outcome> {
    print_line(&serde_json::to_string_pretty(value)?)?;
    Ok(Outcome::Done)
}

fn validate(input: &Input, format: Format) -> anyhow::Result<Outcome> {
    let bytes = input.read()?;
    let mut all_valid = true;
    let mut report = Vec::new();
    for (index, message) in messages::split(&bytes).into_iter().enumerate() {
        let checked = message.map_err(|invalid| vec![invalid]).and_then(|message| check_message(&message));
        all_valid &= checked.is_ok();
        report.push(line(index + 1, checked));
    }
    anyhow::ensure!(!report.is_empty(), "there is no message in the input");
    format.print(&report, |report| report.iter().map(describe).collect::<Vec<_>>().join("\n"))?;
    Ok(if all_valid { Outcome::Done } else { Outcome::Failed })
}

fn line(number: usize, checked: Result<(hokusai_event::Envelope, hokusai_event::Event), Vec<Invalid>>) -> Value {
    match checked {
        Ok((envelope, event)) => json!({
            "number": number, "valid": true, "message_id": envelope.message_id, "message_type": envelope.message_type,
            "token_symbol": event.token_symbol().as_str(), "model_id": event.model_id(),
        }),
        Err(problems) => {
            let errors: Vec<_> = problems.iter().map(|invalid| json!({"field": invalid.field, "problem": invalid.problem})).collect();
            json!({"number": number, "valid": false, "errors": errors})
        }
    }
}

fn describe(line: &Value) -> String {
    let number = &line["number"];
    if line["valid"] == true {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        return format!("{number}: valid {} {}, token {}", text("message_type"), text("message_id"), text("token_symbol"));
    }
    let errors = line["errors"].as_array().into_iter().flatten();
    let errors: Vec<_> = errors
        .map(|error| match (error["field"].as_str().unwrap_or_default(), error["problem"].as_str().unwrap_or_default()) {
            ("", problem) => format!("  {problem}"),
            (field, problem) => format!("  {field}: {problem}"),
        })
        .collect();
    format!("{number}: invalid\n{}", errors.join("\n"))
}
