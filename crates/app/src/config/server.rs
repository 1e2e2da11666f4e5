//! Listening, being a client, logging.

use std::net::SocketAddr;

use url::Url;

use super::env::{ConfigError, Env, Secret, wrong};

/// Where the server listens.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) rpc_listen: SocketAddr,
}

impl ServerConfig {
    pub(crate) fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            listen: socket(env, "HOKUSAI_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8001)))?,
            rpc_listen: socket(env, "HOKUSAI_RPC_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8545)))?,
        })
    }

    /// Until API keys can be checked, the API is for this machine only.
    pub(crate) fn require_loopback(&self) -> Result<(), ConfigError> {
        if self.listen.ip().is_loopback() {
            return Ok(());
        }
        Err(wrong(
            "HOKUSAI_LISTEN",
            format!(
                "{} is reachable from other machines and the API has no keys; listen on 127.0.0.1 and put an authenticating proxy in front",
                self.listen
            ),
        ))
    }
}

fn socket(env: &Env<'_>, name: &'static str, default: SocketAddr) -> Result<SocketAddr, ConfigError> {
    let Some(text) = env.text(name) else { return Ok(default) };
    text.parse().map_err(|_| wrong(name, format!("`{text}` is not an address and port such as 127.0.0.1:8001")))
}

/// A server to work through.
#[derive(Debug, Clone)]
pub(crate) struct RemoteApi {
    pub(crate) url: Url,
    pub(crate) key: Option<Secret>,
}

/// The server named by `HOKUSAI_API_URL`, if any.
pub(crate) fn remote_api(env: &Env<'_>) -> Result<Option<RemoteApi>, ConfigError> {
    let Some(text) = env.text("HOKUSAI_API_URL") else { return Ok(None) };
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.ok_or_else(|| wrong("HOKUSAI_API_URL", "must be an http:// or https:// address"))?;
    Ok(Some(RemoteApi { url, key: env.secret("HOKUSAI_API_KEY") }))
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

pub(crate) fn log_format(env: &Env<'_>, on_terminal: bool) -> Result<LogFormat, ConfigError> {
    match env.text("HOKUSAI_LOG_FORMAT").as_deref() {
        None if on_terminal => Ok(LogFormat::Text),
        None | Some("json") => Ok(LogFormat::Json),
        Some("text") => Ok(LogFormat::Text),
        Some(other) => Err(wrong("HOKUSAI_LOG_FORMAT", format!("`{other}` is neither text nor json"))),
    }
}

/// `LOG_LEVEL` as a filter of `tracing`; Python's names are understood.
pub(crate) fn log_level(env: &Env<'_>) -> String {
    let level = env.text("LOG_LEVEL").unwrap_or_else(|| "INFO".into()).to_ascii_lowercase();
    match level.as_str() {
        "warning" => "warn".into(),
        "critical" | "fatal" => "error".into(),
        _ => level,
    }
}
