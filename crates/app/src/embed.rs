//! For programs that carry hokusai inside themselves: registering, queues and deploying as a library. The Python package is
//! the one that does; what crosses this border is JSON text and plain values.
//!
//! Everything is set by the process's environment, as it is for the commands; [`Settings`] may override single variables.
//! Nothing here runs in the background of its own accord: futures do their work while they are awaited, but for a
//! [`Deployer`], whose sender runs from its opening to its drop.

mod channel;
mod deployer;
mod failure;
mod registry;

use std::collections::HashMap;

pub use self::{
    channel::{Answer, Callback, Channel, Consuming},
    deployer::Deployer,
    failure::{Failure, Kind},
    registry::Registry,
};
use crate::config::Env;

/// Variables that count in place of the environment's.
#[derive(Clone, Default)]
pub struct Settings {
    overrides: HashMap<String, String>,
}

/// Values may be secrets.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.overrides.keys()).finish()
    }
}

impl Settings {
    /// The environment, with these variables in place of its own.
    pub fn new(overrides: HashMap<String, String>) -> Self {
        Self { overrides }
    }

    fn env(&self) -> Env<'static> {
        let overrides = self.overrides.clone();
        crate::environment_under(move |name| overrides.get(name).cloned())
    }
}
