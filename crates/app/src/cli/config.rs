//! `hokusai config`: the variables in effect.

use clap::Args;
use serde_json::{Map, Value};

use super::output::{Format, print_line, table};
use crate::config::{Env, VARIABLES, document};

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Print what each variable means instead, as Markdown
    #[arg(long, conflicts_with = "json")]
    reference: bool,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(args: &ConfigArgs, env: &Env<'_>) -> anyhow::Result<()> {
    if args.reference {
        return print_line(document().trim_end());
    }
    let shown: Vec<_> = VARIABLES.iter().map(|variable| (variable, env.shown(variable))).collect();
    let json: Map<String, Value> = shown.iter().map(|(variable, value)| (variable.name.to_owned(), value.clone().into())).collect();
    args.format.print(&json, |_| {
        let rows = shown.iter().map(|(variable, value)| {
            let (value, origin) = match value {
                Some(value) => (value.clone(), "environment"),
                None if variable.default.is_empty() => ("-".into(), "not set"),
                None => (variable.default.replace('`', ""), "default"),
            };
            vec![variable.name.to_owned(), value, origin.to_owned()]
        });
        table(&["variable", "value", "from"], rows)
    })
}
