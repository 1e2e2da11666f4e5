//! `hokusai`: carries a machine-learning model to its token, exactly once.
//!
//! Exit codes: 0 done, 1 failed (what is wrong is on standard error), 2 the command line cannot be read.

#![expect(rustdoc::invalid_html_tags, reason = "the comments on options are help texts for a terminal, with <placeholders>")]

mod api;
mod assembly;
mod chain_check;
mod cli;
mod client;
mod config;
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

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Outcome},
    config::Env,
};

/// Registering is a thousand small allocations in each millisecond, on several threads, and glibc's allocator was a sixth of its cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
    let env = Env::new(|name| std::env::var(name).ok());
    telemetry::start(&env, cli.default_log_level())?;
    // One TLS implementation for Redis, PostgreSQL, HTTP and RPC.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before ours; this is a defect"))?;
    cli.run(&env).await
}
