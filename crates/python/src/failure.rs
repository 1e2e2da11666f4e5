//! Failures as exceptions. The classes are Python's own (`hokusai/errors.py`), so that they look and pickle like any other.

use hokusai::embed::{Failure, Kind};
use pyo3::prelude::*;

/// The exception for a failure.
pub(crate) fn raised(failure: Failure) -> PyErr {
    Python::attach(|py| exception(py, &failure).unwrap_or_else(|error| error))
}

fn exception(py: Python<'_>, failure: &Failure) -> PyResult<PyErr> {
    let class = match failure.kind {
        Kind::Configuration => "ConfigurationError",
        Kind::Invalid => "InvalidRequest",
        Kind::Conflict => "Conflict",
        Kind::NotFound => "NotFound",
        Kind::Unavailable => "Unavailable",
        _ => "HokusaiError",
    };
    let made = py.import("hokusai.errors")?.getattr(class)?.call1((failure.message.as_str(),))?;
    if let Some(id) = &failure.registration_id {
        made.setattr("registration_id", id)?;
    }
    Ok(PyErr::from_value(made))
}
