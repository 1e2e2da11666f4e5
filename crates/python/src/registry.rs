//! `_native.Registry`.

use std::{collections::HashMap, sync::Arc};

use hokusai::embed;
use pyo3::prelude::*;

use crate::{failure::raised, kept::Kept, run};

/// Registering, over HTTP or in the database.
#[pyclass(module = "hokusai._native", frozen)]
pub(crate) struct Registry {
    kept: Kept<embed::Registry>,
}

impl Registry {
    fn open(&self, py: Python<'_>) -> PyResult<Arc<embed::Registry>> {
        self.kept.get(py, embed::Registry::open(&self.kept.settings))
    }
}

#[pymethods]
impl Registry {
    #[new]
    fn new(overrides: HashMap<String, String>) -> Self {
        Self { kept: Kept::new(overrides) }
    }

    #[pyo3(signature = (request, idempotency_key=None, correlation_id=None))]
    fn register(
        &self,
        py: Python<'_>,
        request: String,
        idempotency_key: Option<String>,
        correlation_id: Option<String>,
    ) -> PyResult<String> {
        let registry = self.open(py)?;
        let work = registry.register(request.into_bytes(), idempotency_key.as_deref(), correlation_id.as_deref());
        run::wait(py, work)?.map_err(raised)
    }

    fn get(&self, py: Python<'_>, registration_id: &str) -> PyResult<String> {
        let registry = self.open(py)?;
        run::wait(py, registry.get(registration_id))?.map_err(raised)
    }

    fn list(&self, py: Python<'_>, search: &str) -> PyResult<String> {
        let registry = self.open(py)?;
        run::wait(py, registry.list(search))?.map_err(raised)
    }

    fn waiting(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let registry = self.open(py)?;
        run::wait(py, registry.waiting())?.map_err(raised)
    }
}
