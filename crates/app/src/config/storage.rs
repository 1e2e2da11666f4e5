//! Where things are kept.

use std::{path::PathBuf, time::Duration};

use super::env::{ConfigError, Env, Secret, missing, wrong};

/// The data directory; not created here.
pub(crate) fn data_dir(env: &Env<'_>) -> Result<PathBuf, ConfigError> {
    if let Some(dir) = env.text("HOKUSAI_DATA_DIR") {
        return Ok(dir.into());
    }
    if let Some(data) = env.text("XDG_DATA_HOME") {
        return Ok(PathBuf::from(data).join("hokusai"));
    }
    let home = env
        .text("HOME")
        .ok_or_else(|| missing("HOKUSAI_DATA_DIR", "name a directory for the data (there is no HOME to derive one from)"))?;
    Ok(PathBuf::from(home).join(".local/share/hokusai"))
}

/// `DATABASE_URL`, or an SQLite file in the data directory, which is created for it.
pub(crate) fn database_url(env: &Env<'_>) -> Result<String, ConfigError> {
    if let Some(url) = env.text("DATABASE_URL") {
        return Ok(url);
    }
    let dir = data_dir(env)?;
    std::fs::create_dir_all(&dir).map_err(|error| wrong("HOKUSAI_DATA_DIR", format!("{} cannot be created: {error}", dir.display())))?;
    Ok(format!("sqlite:{}", dir.join("hokusai.db").display()))
}

/// How to reach MLflow, by its own standard variables.
#[derive(Debug, Clone)]
pub(crate) struct MlflowConfig {
    pub(crate) tracking_uri: url::Url,
    pub(crate) username: Option<Secret>,
    pub(crate) password: Option<Secret>,
    pub(crate) token: Option<Secret>,
    pub(crate) timeout: Duration,
    pub(crate) insecure_tls: bool,
    /// PEM files.
    pub(crate) authorities: Option<PathBuf>,
    pub(crate) client_certificate: Option<PathBuf>,
}

/// The MLflow server, if one is named.
pub(crate) fn mlflow(env: &Env<'_>) -> Result<Option<MlflowConfig>, ConfigError> {
    let Some(address) = env.text("MLFLOW_TRACKING_URI") else { return Ok(None) };
    if env.flag("MLFLOW_TRACKING_AWS_SIGV4")? == Some(true) {
        return Err(wrong("MLFLOW_TRACKING_AWS_SIGV4", "is not supported: put a signing proxy in front, or use MLFLOW_TRACKING_TOKEN"));
    }
    let tracking_uri = url::Url::parse(&address).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let tracking_uri = tracking_uri.ok_or_else(|| {
        wrong("MLFLOW_TRACKING_URI", "must be the http:// or https:// address of an MLflow server (files and databases cannot be shared)")
    })?;
    Ok(Some(MlflowConfig {
        tracking_uri,
        username: env.secret("MLFLOW_TRACKING_USERNAME"),
        password: env.secret("MLFLOW_TRACKING_PASSWORD"),
        token: env.secret("MLFLOW_TRACKING_TOKEN"),
        timeout: env.seconds("MLFLOW_HTTP_REQUEST_TIMEOUT", Duration::from_secs(10))?,
        insecure_tls: env.flag("MLFLOW_TRACKING_INSECURE_TLS")?.unwrap_or(false),
        authorities: env.text("MLFLOW_TRACKING_SERVER_CERT_PATH").map(PathBuf::from),
        client_certificate: env.text("MLFLOW_TRACKING_CLIENT_CERT_PATH").map(PathBuf::from),
    }))
}

/// What MLflow's webhooks are signed with, if they are received.
pub(crate) fn webhook_secret(env: &Env<'_>) -> Result<Option<Secret>, ConfigError> {
    const NAME: &str = "HOKUSAI_MLFLOW_WEBHOOK_SECRET";
    match env.secret(NAME) {
        Some(secret) if secret.reveal().chars().count() < 16 => {
            Err(wrong(NAME, "must have at least 16 characters; `openssl rand -hex 32` makes one"))
        }
        secret => Ok(secret),
    }
}

/// The time between two sweeps for tagged model versions; `None` for no sweeps.
pub(crate) fn mlflow_sweep(env: &Env<'_>) -> Result<Option<Duration>, ConfigError> {
    let interval = env.seconds("HOKUSAI_MLFLOW_SWEEP", Duration::from_secs(60))?;
    Ok(Some(interval).filter(|interval| !interval.is_zero()))
}
