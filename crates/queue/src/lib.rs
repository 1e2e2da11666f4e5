//! A queue whose every message ends acknowledged or dead-lettered, whoever took it: on Redis lists, or in SQL.
//!
//! [`Queue`] is the contract and [`RedisQueue`] and [`SqlQueue`] keep it; `tests/it` runs one conformance suite over
//! them all. [`Consumer`] turns a queue into handled deliveries, [`reaper`] brings back what nobody finishes. The
//! structures, the state diagram and the promises are written down in `docs/queue.md`.
//!
//! Invariants:
//!
//! - An entry is opaque bytes. Only [`attempts`] and [`dead_letter`] look inside, and they change no byte but the counters.
//! - Each [`Move`] is atomic: after a crash at any point the entry is in exactly one place.
//! - Delivery is at least once and the order is not promised.
//! - Nothing here spawns a task, reads the environment, or knows what a message means.
#![warn(missing_docs)]

pub mod attempts;
pub mod consumer;
pub mod dead_letter;
mod error;
mod queue;
pub mod reaper;
mod redis;
mod sql;
pub mod upkeep;

pub use attempts::Attempts;
pub use consumer::{Consumer, ConsumerConfig, Delivery, Handler, Holder, Status, Summary, Verdict};
pub use error::{ConfigError, Error};
pub use queue::{Cursor, LeaseTerms, Move, Queue, RelayBatch, Relayed, Settled, State, Stats, Survey, Taken};
pub use redis::{CertificateCheck, RedisQueue, RedisSettings};
pub use sql::{MIGRATIONS, SqlQueue};
pub use upkeep::{Custody, Lease, Look, Mark, Pause, Upkeep};
