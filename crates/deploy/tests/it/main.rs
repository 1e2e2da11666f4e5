//! Everything in this crate that needs a chain or a database, against real ones.

mod embedded;
mod sending;
mod token;
