//! `hokusai config`: the variables in effect.

use serde_json::{Map, Value};

use super::output::{Format, table};
use crate::config::{Env, VARIABLES};

pub(crate) fn run(format: Format, env: &Env<'_>) -> anyhow::Result<()> {
    let shown: Vec<_> = VARIABLES.iter().map(|variable| (variable, env.shown(variable))).collect();
    let json: Map<String, Value> = shown.iter().map(|(variable, value)| (variable.name.to_owned(), value.clone().into())).collect();
    format.print(&json, |_| {
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
