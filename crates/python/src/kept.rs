//! Something that is opened once in each process, when it is first used.

use std::{collections::HashMap, future::Future, sync::Arc};

use hokusai::embed::{Failure, Settings};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::{failure::raised, logs, run};

/// Keeps a `T`.
pub(crate) struct Kept<T> {
    pub(crate) settings: Settings,
    opened: Mutex<Option<(u32, Arc<T>)>>,
}

impl<T: Send + Sync> Kept<T> {
    pub(crate) fn new(overrides: HashMap<String, String>) -> Self {
        Self { settings: Settings::new(overrides), opened: Mutex::new(None) }
    }

    /// This process's own, opened by `open` if need be.
    pub(crate) fn get(&self, py: Python<'_>, open: impl Future<Output = Result<T, Failure>> + Send) -> PyResult<Arc<T>> {
        logs::start();
        let process = std::process::id();
        if let Some((owner, opened)) = &*self.opened.lock()
            && *owner == process
        {
            return Ok(Arc::clone(opened));
        }
        // Two threads may open at once; the first to be done is kept, the other closes its own again.
        let opened = Arc::new(run::wait(py, open)?.map_err(raised)?);
        let mut known = self.opened.lock();
        match known.take() {
            Some((owner, kept)) if owner == process => {
                *known = Some((owner, Arc::clone(&kept)));
                Ok(kept)
            }
            of_the_parent => {
                // Closing would talk over the parent's connections.
                std::mem::forget(of_the_parent);
                *known = Some((process, Arc::clone(&opened)));
                Ok(opened)
            }
        }
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if let Some((owner, opened)) = self.opened.get_mut().take() {
            if owner != std::process::id() {
                std::mem::forget(opened);
            } else if let Ok(runtime) = run::runtime() {
                // Connections say goodbye on their runtime.
                let _inside = runtime.enter();
                drop(opened);
            }
        }
    }
}
