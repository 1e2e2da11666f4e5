//! Why something failed, by what the caller does next.

use hokusai_event::Invalid;
use hokusai_registry::{MlflowError, RegisterError};

use crate::{client::Refused, config::ConfigError};

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Set a variable, or set it otherwise.
    Configuration,
    /// Correct what was asked.
    Invalid,
    /// Look at what was registered before.
    Conflict,
    /// Ask for something that exists.
    NotFound,
    /// Try again later.
    Unavailable,
    /// Read the message.
    Other,
}

/// A failure with its whole story.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the caller does next.
    pub kind: Kind,
    /// What is wrong, where, what to do.
    pub message: String,
    /// The registration that an attempt conflicts with, if it does.
    pub registration_id: Option<String>,
}

impl Failure {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), registration_id: None }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let kind = error.chain().find_map(classify).unwrap_or(Kind::Other);
        let registration_id = error.chain().find_map(|cause| match cause.downcast_ref() {
            Some(RegisterError::Conflict { first, .. }) => Some(first.clone()),
            _ => cause.downcast_ref::<Refused>().and_then(|refused| refused.registration_id.clone()),
        });
        Self { kind, message: format!("{error:#}"), registration_id }
    }
}

impl From<hokusai_queue::Error> for Failure {
    fn from(error: hokusai_queue::Error) -> Self {
        anyhow::Error::from(error).into()
    }
}

fn classify(cause: &(dyn std::error::Error + 'static)) -> Option<Kind> {
    if cause.is::<ConfigError>() || cause.is::<hokusai_queue::ConfigError>() {
        return Some(Kind::Configuration);
    }
    if cause.is::<Invalid>() {
        return Some(Kind::Invalid);
    }
    if cause.is::<reqwest::Error>() {
        return Some(Kind::Unavailable);
    }
    if let Some(error) = cause.downcast_ref::<RegisterError>() {
        return Some(of_registering(error));
    }
    if let Some(error) = cause.downcast_ref::<hokusai_queue::Error>() {
        return Some(if error.is_outage() { Kind::Unavailable } else { Kind::Configuration });
    }
    if let Some(error) = cause.downcast_ref::<hokusai_db::Error>() {
        return error.is_transient().then_some(Kind::Unavailable);
    }
    if let Some(error) = cause.downcast_ref::<hokusai_deploy::Error>() {
        return error.outage().map(|_| Kind::Unavailable);
    }
    cause.downcast_ref::<Refused>().map(|refused| match refused.status {
        400 | 413 | 415 | 422 => Kind::Invalid,
        401 | 403 => Kind::Configuration,
        404 => Kind::NotFound,
        409 => Kind::Conflict,
        502.. => Kind::Unavailable,
        _ => Kind::Other,
    })
}

fn of_registering(error: &RegisterError) -> Kind {
    match error {
        RegisterError::Invalid(_) => Kind::Invalid,
        RegisterError::Conflict { .. } => Kind::Conflict,
        RegisterError::Unavailable(_) | RegisterError::Stopped => Kind::Unavailable,
        RegisterError::Mlflow(error) => match **error {
            MlflowError::NotFound { .. } => Kind::Invalid,
            MlflowError::Unavailable { .. } => Kind::Unavailable,
            MlflowError::Settings { .. } => Kind::Configuration,
            _ => Kind::Other,
        },
        _ => Kind::Other,
    }
}
