//! Log lines on their way to Python's `logging`: the logger is the target with dots (`hokusai.worker`), fields follow the text.
//!
//! Lines are written by whichever thread has something to say, which attaches itself to the interpreter for it; only what is
//! information or worse comes this far.

use std::{fmt::Write as _, sync::Once};

use pyo3::prelude::*;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, filter::Targets, layer::Context, prelude::*};

static STARTED: Once = Once::new();

/// From now on lines go to `logging`, unless this process already logs otherwise (it runs a command).
pub(crate) fn start() {
    STARTED.call_once(|| {
        let ours = Targets::new().with_default(Level::WARN).with_target("hokusai", Level::INFO);
        let ours = ["db", "queue", "registry", "deploy", "native"]
            .iter()
            .fold(ours, |ours, room| ours.with_target(format!("hokusai_{room}"), Level::INFO));
        let _ = tracing_subscriber::registry().with(ToPython.with_filter(ours)).try_init();
    });
}

struct ToPython;

impl<S: Subscriber> Layer<S> for ToPython {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            _ => 10,
        };
        let logger = event.metadata().target().replace("::", ".").replacen('_', ".", 1);
        // While the interpreter shuts down there is nobody to tell.
        let _ = Python::try_attach(|py| log(py, &logger, level, &line));
    }
}

/// A handler that raises must not take down what was logging.
fn log(py: Python<'_>, logger: &str, level: u8, line: &Line) {
    let text = format!("{}{}", line.message, line.fields);
    let told =
        py.import("logging").and_then(|logging| logging.call_method1("getLogger", (logger,))?.call_method1("log", (level, "%s", text)));
    if let Err(error) = told {
        error.write_unraisable(py, None);
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing into text cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
