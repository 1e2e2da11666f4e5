//! The runtime, and waiting for what runs on it.

use std::{future::Future, pin::pin, time::Duration};

use parking_lot::Mutex;
use pyo3::{exceptions::PyRuntimeError, prelude::*};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// How often it is looked for a signal.
const LOOK: Duration = Duration::from_millis(50);
/// Threads for the work itself; Python's callbacks have their own.
const WORKERS: usize = 2;
/// Callbacks at once, in all.
const BLOCKING: usize = 512;

/// The runtime of a process, and which process that is.
static RUNTIME: Mutex<Option<(u32, &'static Runtime)>> = Mutex::new(None);

/// This process's runtime. A fork takes no threads along, so a child makes its own; the parent's is left as it is, since
/// ending it would wait for threads that are not there.
pub(crate) fn runtime() -> PyResult<&'static Runtime> {
    let process = std::process::id();
    let mut known = RUNTIME.lock();
    if let Some((owner, runtime)) = *known
        && owner == process
    {
        return Ok(runtime);
    }
    let mut builder = Builder::new_multi_thread();
    let built = builder.worker_threads(WORKERS).max_blocking_threads(BLOCKING).thread_name("hokusai").enable_all().build();
    let runtime: &'static Runtime = Box::leak(Box::new(built.map_err(|error| PyRuntimeError::new_err(error.to_string()))?));
    *known = Some((process, runtime));
    Ok(runtime)
}

/// Waits for `work` with the interpreter released. A signal's handler runs meanwhile; if it raises, `work` is dropped.
pub(crate) fn wait<F>(py: Python<'_>, work: F) -> PyResult<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    wait_or(py, work, Err)
}

/// As [`wait`]; `raised` says whether what a signal's handler raised ends the waiting.
pub(crate) fn wait_or<F>(py: Python<'_>, work: F, mut raised: impl FnMut(PyErr) -> PyResult<()>) -> PyResult<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let runtime = runtime()?;
    let mut work = pin!(work);
    loop {
        if let Ok(done) = py.detach(|| runtime.block_on(async { timeout(LOOK, work.as_mut()).await })) {
            return Ok(done);
        }
        if let Err(error) = py.check_signals() {
            raised(error)?;
        }
    }
}
