//! `hokusai`: carries a machine-learning model to its token, exactly once.
//!
//! The program and the Python package are both thin around this: [`command`] is the whole command line.

#![warn(missing_docs)]
#![allow(
    rustdoc::invalid_html_tags,
    reason = "seen when private items are documented too: the comments on options are help texts for a terminal, with <placeholders>"
)]

mod api;
mod assembly;
mod chain_check;
mod cli;
mod client;
mod config;
mod dead_letters;
mod demo;
mod dev;
mod http;
mod messages;
mod rescue;
mod roles;
mod rpc_server;
mod server;
mod tasks;
mod telemetry;
mod worker;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use crate::{
    cli::{Cli, Outcome},
    config::Env,
};

/// Runs one command line, the program's name first, to its end: 0 done, 1 failed (what is wrong is on standard error), 2 it
/// cannot be read.
pub fn command(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match start(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hokusai: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(cli: Cli) -> anyhow::Result<Outcome> {
    let env = environment();
    telemetry::start(&env, cli.default_log_level())?;
    use_one_tls()?;
    cli.run(&env).await
}

/// The process's environment: the only place that reads it.
fn environment() -> Env<'static> {
    Env::new(|name| std::env::var(name).ok())
}

/// One TLS implementation for Redis, PostgreSQL, HTTP and RPC.
fn use_one_tls() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before ours; this is a defect"))
}
