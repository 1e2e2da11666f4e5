//! What can go wrong with a queue, by what the caller does next. Messages name the queue's address, never its password.

use std::error::Error as StdError;

/// A queue error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend is away or overloaded: try again later. What was asked may have happened.
    #[error("the queue at {address} is not available: {source}")]
    Unavailable {
        /// Where, without secrets.
        address: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The backend refuses these credentials, or the user may not run a command the queue needs.
    #[error("the queue at {address} denies access: {source}; check the user, the password and its permissions")]
    Denied {
        /// Where, without secrets.
        address: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The backend answers but cannot carry this queue as it is set up.
    #[error("the queue at {address} cannot be used as configured: {source}; {advice}")]
    Misconfigured {
        /// Where, without secrets.
        address: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
        /// What to do.
        advice: &'static str,
    },
    /// The backend refused the request itself; repeating it will not help.
    #[error("the queue at {address} refused the request: {source}")]
    Rejected {
        /// Where, without secrets.
        address: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Error {
    /// Whether the same request may succeed later, unchanged.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// A setting that cannot be used, alone or beside another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// Which.
    pub setting: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }
}
