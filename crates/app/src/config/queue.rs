//! The queue: which one, where, and how long things may take.

use std::{path::PathBuf, time::Duration};

use super::env::{ConfigError, Env, Secret, missing, wrong};

/// The queue of the brief.
pub(crate) const DEFAULT_QUEUE: &str = "hokusai:model_ready_queue";
const DEFAULT_DEPLOYED: &str = "hokusai:model_deployed";

/// The queue's settings.
#[derive(Debug, Clone)]
pub(crate) struct QueueConfig {
    pub(crate) backend: QueueBackend,
    pub(crate) name: String,
    pub(crate) deployed_name: String,
    pub(crate) subscriptions: Option<String>,
    pub(crate) max_retries: u32,
    pub(crate) base_delay: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) processing_timeout: Duration,
    pub(crate) handler_timeout: Duration,
    pub(crate) concurrency: usize,
    pub(crate) outbox_retention: Duration,
    pub(crate) reconcile_after: Duration,
}

/// Where messages wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QueueBackend {
    /// In `DATABASE_URL`.
    Local,
    Redis(RedisConfig),
}

/// How to reach Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedisConfig {
    pub(crate) address: RedisAddress,
    pub(crate) password: Option<Secret>,
    pub(crate) verify_certificate: bool,
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RedisAddress {
    Url(Secret),
    Host { host: String, port: u16, tls: bool },
}

impl QueueConfig {
    pub(crate) fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let seconds = |name, default| env.seconds(name, Duration::from_secs_f64(default));
        let processing_timeout = seconds("PROCESSING_TIMEOUT", 300.0)?;
        let config = Self {
            backend: QueueBackend::read(env)?,
            name: env.text("MESSAGE_QUEUE_NAME").unwrap_or_else(|| DEFAULT_QUEUE.into()),
            deployed_name: env.text("HOKUSAI_DEPLOYED_QUEUE").unwrap_or_else(|| DEFAULT_DEPLOYED.into()),
            subscriptions: env.text("HOKUSAI_SUBSCRIPTIONS"),
            max_retries: env.number("MESSAGE_RETRY_MAX", 3)?,
            base_delay: seconds("MESSAGE_RETRY_BASE_DELAY", 1.0)?,
            poll_interval: seconds("QUEUE_POLL_INTERVAL", 5.0)?,
            processing_timeout,
            handler_timeout: env.seconds("HOKUSAI_HANDLER_TIMEOUT", processing_timeout / 2)?,
            concurrency: env.number("HOKUSAI_CONCURRENCY", 16)?,
            outbox_retention: seconds("HOKUSAI_OUTBOX_RETENTION", 30.0 * 86400.0)?,
            reconcile_after: seconds("HOKUSAI_RECONCILE_AFTER", 3600.0)?,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.processing_timeout < Duration::from_secs(1) {
            return Err(wrong("PROCESSING_TIMEOUT", "must be at least one second"));
        }
        if self.handler_timeout.is_zero() || self.handler_timeout >= self.processing_timeout {
            return Err(wrong(
                "HOKUSAI_HANDLER_TIMEOUT",
                "must be more than zero and less than PROCESSING_TIMEOUT: a message would be delivered again while its handler still runs",
            ));
        }
        if self.concurrency == 0 {
            return Err(wrong("HOKUSAI_CONCURRENCY", "must be at least 1"));
        }
        if self.name == self.deployed_name {
            return Err(wrong(
                "HOKUSAI_DEPLOYED_QUEUE",
                "must differ from MESSAGE_QUEUE_NAME: consumers there would take a deployed token for a request",
            ));
        }
        Ok(())
    }
}

/// Who acts, unless a command is told otherwise.
pub(crate) fn operator(env: &Env<'_>) -> String {
    env.text("USER").unwrap_or_else(|| "somebody".into())
}

impl QueueBackend {
    fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let redis = RedisConfig::read(env)?;
        match (env.text("MESSAGE_QUEUE_TYPE").as_deref(), redis) {
            (Some("redis") | None, Some(redis)) => Ok(Self::Redis(redis)),
            (Some("redis"), None) => Err(missing("REDIS_URL", "MESSAGE_QUEUE_TYPE=redis needs it, or REDIS_HOST")),
            (Some("local") | None, _) => Ok(Self::Local),
            (Some("sqs"), _) => Err(wrong("MESSAGE_QUEUE_TYPE", "`sqs` is not available in this version; use redis or local")),
            (Some(other), _) => Err(wrong("MESSAGE_QUEUE_TYPE", format!("`{other}` is not a queue type; use redis or local"))),
        }
    }
}

impl RedisConfig {
    /// The server that the Redis variables name, if they name one.
    fn read(env: &Env<'_>) -> Result<Option<Self>, ConfigError> {
        let token = env.secret("REDIS_AUTH_TOKEN");
        let has_token = token.is_some();
        let password = env.secret("REDIS_PASSWORD").or(token);
        let address = match (env.secret("REDIS_URL"), env.text("REDIS_HOST")) {
            (Some(url), _) => {
                check_url(url.reveal())?;
                RedisAddress::Url(url)
            }
            (None, Some(host)) => {
                let tls = env.flag("HOKUSAI_REDIS_TLS")?.unwrap_or(has_token);
                RedisAddress::Host { host, port: env.number("REDIS_PORT", 6379)?, tls }
            }
            (None, None) if password.is_some() => {
                return Err(missing("REDIS_URL", "a Redis password or token is set, so name the server by REDIS_URL or REDIS_HOST"));
            }
            (None, None) => return Ok(None),
        };
        let ca_file = env.text("HOKUSAI_REDIS_CA_FILE").map(PathBuf::from);
        Ok(Some(Self { address, password, verify_certificate: verify_certificate(env)?, ca_file }))
    }
}

fn check_url(url: &str) -> Result<(), ConfigError> {
    const SCHEMES: [&str; 6] = ["redis", "rediss", "unix", "redis+unix", "valkey", "valkeys"];
    let scheme = url.split(':').next().unwrap_or_default();
    if SCHEMES.contains(&scheme) {
        return Ok(());
    }
    Err(wrong("REDIS_URL", "must begin with redis://, rediss:// (TLS) or unix://"))
}

fn verify_certificate(env: &Env<'_>) -> Result<bool, ConfigError> {
    match env.text("REDIS_SSL_CERT_REQS").as_deref() {
        None | Some("required" | "optional") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => Err(wrong("REDIS_SSL_CERT_REQS", format!("`{other}` is none of required, optional, none"))),
    }
}
