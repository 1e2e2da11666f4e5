//! Log lines: structured, to standard error, so that standard output holds nothing but a command's answer.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::{ConfigError, Env, LogFormat, log_format, log_level};

/// Libraries whose own information is noise at our INFO.
const QUIET: &str = "hyper=warn,h2=warn,rustls=warn,sqlx=warn,alloy_transport_http=warn,alloy_rpc_client=warn,reqwest=warn,tower=warn";

/// Starts logging for the rest of the process. `default_level` counts when `LOG_LEVEL` is not set.
pub(crate) fn start(env: &Env<'_>, default_level: &str) -> Result<(), ConfigError> {
    let level = if env.text("LOG_LEVEL").is_some() { log_level(env) } else { default_level.to_owned() };
    let filter = EnvFilter::try_new(format!("{QUIET},{level}")).map_err(|error| ConfigError {
        variable: "LOG_LEVEL",
        problem: format!("`{level}` is not a level or a list of filters: {error}"),
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    // Where hokusai is carried inside another program, that program's logging stands.
    let _ = match log_format(env, stderr().is_terminal())? {
        LogFormat::Text => registry.with(fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal()).with_target(false)).try_init(),
        LogFormat::Json => registry
            .with(fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false).with_writer(stderr))
            .try_init(),
    };
    Ok(())
}
