//! Reading variables: a passed lookup, typed getters, errors that name the variable and never its secret.

use std::{fmt, str::FromStr, time::Duration};

use zeroize::Zeroize;

use super::variables::{VARIABLES, Variable};

/// A variable that is missing or cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{variable}: {problem}")]
pub(crate) struct ConfigError {
    pub(crate) variable: &'static str,
    pub(crate) problem: String,
}

/// A value that no log, error or debug print shows; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Pass it on at once; do not store it elsewhere.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

type Lookup<'a> = dyn Fn(&str) -> Option<String> + Send + Sync + 'a;

/// The environment of this run.
pub(crate) struct Env<'a> {
    lookup: Box<Lookup<'a>>,
}

impl fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

impl<'a> Env<'a> {
    /// Reads through `lookup`. The variables of the process are `|name| std::env::var(name).ok()`.
    pub(crate) fn new(lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'a) -> Self {
        Self { lookup: Box::new(lookup) }
    }

    /// The variable's value; empty counts as unset, as in the shells and compose files that hand over `NAME=`.
    ///
    /// # Panics
    ///
    /// If the variable is not in [`VARIABLES`]: what is read must be documented.
    pub(crate) fn text(&self, name: &'static str) -> Option<String> {
        assert!(variable(name).is_some(), "{name} is missing in VARIABLES");
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(crate) fn secret(&self, name: &'static str) -> Option<Secret> {
        self.text(name).map(Secret::new)
    }

    /// The value, or an error that says what needs it.
    pub(crate) fn required(&self, name: &'static str, needed_for: &str) -> Result<String, ConfigError> {
        self.text(name).ok_or_else(|| missing(name, needed_for))
    }

    pub(crate) fn number<T: FromStr>(&self, name: &'static str, default: T) -> Result<T, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(default) };
        text.parse().map_err(|_| wrong(name, format!("`{text}` is not a number it can hold")))
    }

    /// A length of time in seconds, fractions allowed.
    pub(crate) fn seconds(&self, name: &'static str, default: Duration) -> Result<Duration, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let seconds: f64 = text.parse().map_err(|_| wrong(name, format!("`{text}` is not a number of seconds")))?;
        Duration::try_from_secs_f64(seconds).map_err(|_| wrong(name, format!("`{text}` is not a length of time")))
    }

    pub(crate) fn flag(&self, name: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(Some(true)),
            "0" | "false" | "no" | "off" => Ok(Some(false)),
            _ => Err(wrong(name, format!("`{text}` is neither true nor false"))),
        }
    }

    /// The value as a person may see it: secrets masked, passwords and keys in addresses too.
    pub(crate) fn shown(&self, variable: &Variable) -> Option<String> {
        let value = self.text(variable.name)?;
        Some(match variable.secret {
            super::variables::Secrecy::Open => value,
            super::variables::Secrecy::Secret => "***".into(),
            super::variables::Secrecy::Address => value.split(',').map(mask_address).collect::<Vec<_>>().join(","),
        })
    }
}

pub(crate) fn variable(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

pub(crate) fn missing(variable: &'static str, needed_for: &str) -> ConfigError {
    ConfigError { variable, problem: format!("is not set; {needed_for}") }
}

pub(crate) fn wrong(variable: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError { variable, problem: problem.into() }
}

/// Host and database of an address stay visible; user, password, path of a provider (which often is the key) and query do not.
pub(crate) fn mask_address(address: &str) -> String {
    let address = address.trim();
    let Ok(mut url) = url::Url::parse(address) else { return "***".into() };
    if url.scheme() == "sqlite" || url.scheme() == "unix" {
        return address.split('?').next().unwrap_or_default().to_owned();
    }
    if url.cannot_be_a_base() {
        return format!("{}:***", url.scheme());
    }
    // These fail only for addresses that have no host to hold them.
    if !url.username().is_empty() || url.password().is_some() {
        let _ = url.set_username("");
        let _ = url.set_password(Some("***"));
    }
    if url.query().is_some() {
        url.set_query(Some("***"));
    }
    if url.scheme().starts_with("http") && url.path().len() > 1 {
        url.set_path("/***");
    }
    url.into()
}
