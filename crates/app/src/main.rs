//! `hokusai`: carries a machine-learning model to its token, exactly once.
mod config;

fn main() {}
