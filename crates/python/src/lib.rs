//! The native half of the Python package `hokusai`: the calls of `hokusai::embed`, with the interpreter released while they
//! work. What Python's users see is in `python/hokusai`; what crosses between the two is JSON text and plain values.
//!
//! - `run` waits: it releases the interpreter, and looks at signals twenty times a second, so that Ctrl-C works.
//! - `kept` keeps what was opened, for each process its own: after a fork connections and threads of the parent are not used.
//! - `logs` hands log lines to Python's `logging`.

mod channel;
mod deployer;
mod failure;
mod kept;
mod logs;
mod registry;
mod run;

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs one command line of the program `hokusai`, the program's name first, and answers its exit code.
#[pyfunction]
fn command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| hokusai::command(arguments))
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(command, module)?)?;
    module.add_class::<registry::Registry>()?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<channel::Stop>()?;
    module.add_class::<deployer::Deployer>()
}
