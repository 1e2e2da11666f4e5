//! The command line: what can be asked, and one match that answers.

mod audit;
mod config;
mod consume;
mod contracts;
mod deployment;
mod dlq;
mod message;
mod mlflow;
mod orphans;
mod output;
mod publish;
mod queue;
mod queue_republish;
mod register;
mod registration;
mod rescue;
mod subscription;
mod trace;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use output::{Format, or_dash, print_line, table};
pub(crate) use queue::show;
pub(crate) use registration::Source;

use crate::{config::Env, demo, dev, roles};

/// Carries machine-learning models that beat their baseline to their tokens on an EVM chain, exactly once.
#[derive(Debug, Parser)]
#[command(name = "hokusai", version, max_term_width = 120, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole pipeline once, on a database, queue and chain of its own in a temporary directory
    Demo(demo::DemoArgs),
    /// Run all roles in one process on this machine, with a chain of its own
    Dev,
    /// Answer the HTTP API, relay events to the queues, bring back what is stuck in them
    Serve,
    /// Take model_ready_to_deploy messages and deploy their tokens
    Worker,
    /// Register a model
    Register(Box<register::RegisterArgs>),
    /// Look at registrations
    #[command(subcommand)]
    Registration(registration::RegistrationCommand),
    /// Put messages into a queue: payloads or whole envelopes, JSON or NDJSON
    Publish(publish::PublishArgs),
    /// Run a command for each message of a queue
    Consume(consume::ConsumeArgs),
    /// Look at queues, pause them, repair them
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Look at any queue in the layout of the guides, ours or not, and repair it
    Rescue(rescue::RescueArgs),
    /// Say which queues receive which message types
    #[command(subcommand)]
    Subscription(subscription::SubscriptionCommand),
    /// Tell where something is, from the run to the token, and what it waits for
    Trace(trace::TraceArgs),
    /// Look at the deployment ledger; bump or cancel what is under way, retry what was refused
    #[command(subcommand)]
    Deployment(deployment::DeploymentCommand),
    /// Check messages, show examples and schemas
    #[command(subcommand)]
    Message(message::MessageCommand),
    /// Connect an MLflow to a hokusai server
    #[command(subcommand)]
    Mlflow(mlflow::MlflowCommand),
    /// Put the token registry on a chain
    #[command(subcommand)]
    Contracts(contracts::ContractsCommand),
    /// Show the configuration in effect, secrets masked
    Config(config::ConfigArgs),
    /// Bring the database's tables up to date
    Migrate,
}

/// A queue to work on.
#[derive(Debug, Args)]
pub(crate) struct QueueName {
    /// The queue's name [default: MESSAGE_QUEUE_NAME]
    #[arg(long, value_name = "NAME")]
    pub(crate) queue: Option<String>,
}

/// Where a command reads from.
#[derive(Debug, Args)]
pub(crate) struct Input {
    /// A file, or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

impl Input {
    /// One JSON object.
    fn object(&self) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
        Ok(hokusai_event::parse_object(&self.read()?)?)
    }

    fn read(&self) -> anyhow::Result<Vec<u8>> {
        use anyhow::Context as _;
        if self.file.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).context("standard input cannot be read")?;
            return Ok(bytes);
        }
        std::fs::read(&self.file).with_context(|| format!("{} cannot be read", self.file.display()))
    }
}

impl Cli {
    /// What is logged when `LOG_LEVEL` says nothing: the long-running roles tell what they do, the others speak through
    /// their answer.
    pub(crate) fn default_log_level(&self) -> &'static str {
        match self.command {
            Command::Dev | Command::Serve | Command::Worker | Command::Consume(_) => "info",
            _ => "warn",
        }
    }

    pub(crate) async fn run(self, env: &Env<'static>) -> anyhow::Result<Outcome> {
        match self.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Dev => dev::run(env).await.map(done),
            Command::Serve => roles::serve(env).await.map(done),
            Command::Worker => roles::worker(env).await.map(done),
            Command::Register(args) => register::run(*args, env).await,
            Command::Registration(command) => registration::run(command, env).await,
            Command::Publish(args) => publish::run(args, env).await,
            Command::Consume(args) => consume::run(args, env).await.map(done),
            Command::Queue(command) => queue::run(command, env).await,
            Command::Rescue(args) => rescue::run(args, env).await,
            Command::Subscription(command) => subscription::run(command, env).await.map(done),
            Command::Trace(args) => trace::run(args, env).await,
            Command::Deployment(command) => deployment::run(command, env).await.map(done),
            Command::Message(command) => message::run(command),
            Command::Mlflow(command) => mlflow::run(command, env).await,
            Command::Contracts(command) => contracts::run(command, env).await.map(done),
            Command::Config(args) => config::run(&args, env).map(done),
            Command::Migrate => roles::migrate(env).await.map(done),
        }
    }
}

/// How a command that could be carried out ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Done,
    /// Exit code 1; what is wrong has been printed.
    Failed,
}

fn done(_: ()) -> Outcome {
    Outcome::Done
}
