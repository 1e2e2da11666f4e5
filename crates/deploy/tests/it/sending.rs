//! Ledger and sender together: on anvil and on the embedded chain, on SQLite and on PostgreSQL.

mod cuts;
mod ground;
mod improvements;
mod keys;
mod kms;
mod nodes;
mod outages;
mod planning;
mod pruning;
mod refusals;
mod reorgs;
mod reverts;
mod together;
mod views;
mod wishes;
