//! `_native.Channel`: one queue.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hokusai::embed::{self, Answer, Callback, Consuming};
use pyo3::{exceptions::PyValueError, prelude::*};
use tokio_util::sync::CancellationToken;

use crate::{failure::raised, kept::Kept, run};

/// Ends a `consume` from elsewhere.
#[pyclass(module = "hokusai._native", frozen)]
pub(crate) struct Stop(CancellationToken);

#[pymethods]
impl Stop {
    #[new]
    fn new() -> Self {
        Self(CancellationToken::new())
    }

    fn set(&self) {
        self.0.cancel();
    }

    fn is_set(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// One queue by the configuration.
#[pyclass(module = "hokusai._native", frozen)]
pub(crate) struct Channel {
    kept: Kept<embed::Channel>,
    name: Option<String>,
}

impl Channel {
    fn open(&self, py: Python<'_>) -> PyResult<Arc<embed::Channel>> {
        self.kept.get(py, embed::Channel::open(&self.kept.settings, self.name.as_deref()))
    }
}

#[pymethods]
impl Channel {
    #[new]
    #[pyo3(signature = (overrides, name=None))]
    fn new(overrides: HashMap<String, String>, name: Option<String>) -> Self {
        Self { kept: Kept::new(overrides), name }
    }

    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.open(py)?.name().to_owned())
    }

    fn publish(&self, py: Python<'_>, document: &str) -> PyResult<String> {
        let channel = self.open(py)?;
        run::wait(py, channel.publish(document.as_bytes()))?.map_err(raised)
    }

    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        let channel = self.open(py)?;
        run::wait(py, channel.stats())?.map_err(raised)
    }

    /// `callback(envelope: bytes) -> tuple[str, str]`: `done`, `failed` or `never`, and why.
    #[pyo3(signature = (callback, stop, concurrency=1, wait=None, timeout=None, limit=None, idle=None, ready_only=true))]
    #[expect(clippy::too_many_arguments, reason = "they are named where they are given")]
    fn consume(
        &self,
        py: Python<'_>,
        callback: Py<PyAny>,
        stop: &Bound<'_, Stop>,
        concurrency: usize,
        wait: Option<f64>,
        timeout: Option<f64>,
        limit: Option<u64>,
        idle: Option<f64>,
        ready_only: bool,
    ) -> PyResult<u64> {
        let how = Consuming {
            concurrency,
            wait: seconds("poll_interval", wait)?,
            timeout: seconds("processing_timeout", timeout)?,
            limit,
            idle: seconds("timeout", idle)?,
            ready_only,
        };
        let channel = self.open(py)?;
        let stop = stop.get().0.clone();
        let work = channel.consume(python(callback), &how, &stop);
        // What is in hand is finished even if a signal's handler raises; the second time it is not waited for.
        let mut first = None;
        let consumed = run::wait_or(py, work, |error| {
            stop.cancel();
            match first.replace(error) {
                None => Ok(()),
                Some(_) => Err(first.take().unwrap_or_else(|| PyValueError::new_err("interrupted"))),
            }
        })?;
        match first {
            Some(error) => Err(error),
            None => consumed.map_err(raised),
        }
    }
}

fn seconds(name: &str, given: Option<f64>) -> PyResult<Option<Duration>> {
    let read = |seconds| {
        Duration::try_from_secs_f64(seconds).map_err(|_| PyValueError::new_err(format!("{name} is not a length of time: {seconds}")))
    };
    given.map(read).transpose()
}

/// A Python callable as a callback.
fn python(callable: Py<PyAny>) -> Callback {
    Arc::new(move |entry| {
        let called = Python::try_attach(|py| {
            let answer = callable.call1(py, (entry,))?;
            answer.extract::<(String, String)>(py)
        });
        match called {
            Some(Ok((kind, _))) if kind == "done" => Answer::Done,
            Some(Ok((kind, why))) if kind == "never" => Answer::Never(why),
            Some(Ok((_, why))) => Answer::Failed(why),
            Some(Err(error)) => Answer::Failed(error.to_string()),
            None => Answer::Failed("the Python interpreter is shutting down".into()),
        }
    })
}
