//! `_native.Deployer`.

use std::{collections::HashMap, sync::Arc};

use hokusai::embed;
use pyo3::prelude::*;

use crate::{failure::raised, kept::Kept, run};

/// Deploying through the ledger.
#[pyclass(module = "hokusai._native", frozen)]
pub(crate) struct Deployer {
    kept: Kept<embed::Deployer>,
}

impl Deployer {
    fn opened(&self, py: Python<'_>) -> PyResult<Arc<embed::Deployer>> {
        self.kept.get(py, embed::Deployer::open(&self.kept.settings))
    }
}

#[pymethods]
impl Deployer {
    #[new]
    fn new(overrides: HashMap<String, String>) -> Self {
        Self { kept: Kept::new(overrides) }
    }

    /// Checks now what would otherwise be checked with the first message.
    fn open(&self, py: Python<'_>) -> PyResult<()> {
        self.opened(py).map(drop)
    }

    fn deploy(&self, py: Python<'_>, message: &str) -> PyResult<String> {
        let deployer = self.opened(py)?;
        run::wait(py, deployer.deploy(message.as_bytes()))?.map_err(raised)
    }
}
