//! Ledger and sender together: on anvil and on the embedded chain, on SQLite and on PostgreSQL.

mod cuts;
mod ground;
mod nodes;
mod outages;
mod planning;
mod reorgs;
mod together;
