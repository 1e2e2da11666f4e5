//! `hokusai`: carries a machine-learning model to its token, exactly once.
//!
//! The program and the Python package are both thin around this: [`command`] is the whole command line, [`embed`] the rest.

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
pub mod embed;
mod http;
mod messages;
mod rescue;
mod roles;
mod rpc_server;
mod server;
mod tasks;
mod telemetry;
mod trace;
mod worker;

use std::ffi::OsString;

use clap::Parser;

use crate::{
    cli::{Cli, Outcome},
    config::Env,
};

/// Runs one command line, the program's name first, to its end: 0 done, 1 failed (what is wrong is on standard error), 2 it
/// cannot be read.
pub fn command(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    match start(cli) {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Failed) => 1,
        Err(error) => {
            eprintln!("hokusai: {error:#}");
            1
        }
    }
}

#[tokio::main]
async fn start(cli: Cli) -> anyhow::Result<Outcome> {
    let env = environment();
    telemetry::start(&env, cli.default_log_level())?;
    cli.run(&env).await
}

/// The process's environment.
fn environment() -> Env<'static> {
    environment_under(|_| None)
}

/// The process's environment below `overrides`: the only place that reads it.
fn environment_under(overrides: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Env<'static> {
    use_one_tls();
    Env::new(move |name| overrides(name).or_else(|| std::env::var(name).ok()))
}

/// One TLS implementation for Redis, PostgreSQL, HTTP and RPC; whoever was first here keeps it.
fn use_one_tls() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
