//! The one error of this crate: which field is wrong, and how.

use serde::Serialize;

/// A field that breaks a rule. `Display` reads as one sentence: `payload.token_symbol: must be …`.
///
/// What it says is safe to show to whoever sent the message: values are quoted only in part and with control
/// characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}: {problem}", if field.is_empty() { "message" } else { field })]
pub struct Invalid {
    /// The path of the field, such as `payload.tags.team`; empty when the message as a whole is wrong.
    pub field: String,
    /// What is wrong and what would be right, as a predicate: "must be …", "is missing".
    pub problem: String,
}

impl Invalid {
    /// A problem with one field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// A problem with the message as a whole.
    pub fn whole(problem: impl Into<String>) -> Self {
        Self::new("", problem)
    }

    /// The same problem, said of `field`.
    #[must_use]
    pub fn at(self, field: &str) -> Self {
        Self { field: field.to_owned(), ..self }
    }
}

/// Enough of `text` to recognise it, in quotes and with control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
