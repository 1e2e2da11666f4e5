//! The configuration: read once, in `main`, from the process environment through a passed lookup, so that tests never
//! set variables of their own process.
//!
//! Every variable stands in [`VARIABLES`] with its default and meaning; `hokusai config` and `docs/configuration.md`
//! print that table. A section that is not needed by the command at hand is not checked: each is parsed on demand by the
//! command that uses it, and what is missing is an error naming the variable.

mod chain;
mod env;
mod queue;
mod server;
mod storage;
mod variables;

pub(crate) use chain::{ChainConfig, DeployerKey};
pub(crate) use env::{ConfigError, Env, Secret};
pub(crate) use queue::{DEFAULT_QUEUE, QueueBackend, QueueConfig, RedisAddress, RedisConfig, operator};
pub(crate) use server::{LogFormat, ServerConfig, log_format, log_level, remote_api};
pub(crate) use storage::{MlflowConfig, data_dir, database_url, mlflow, mlflow_sweep, webhook_secret};
pub(crate) use variables::{VARIABLES, document};

#[cfg(test)]
mod tests;
