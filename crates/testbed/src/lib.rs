//! Starts the real services that hokusai's tests run against, each on a free port of the loopback interface.
//!
//! Nothing here imitates a service (but for [`Kms`], which nobody can install): a missing program is a panic that says what to
//! install (`scripts/setup` installs them all). Every process is killed when its handle is dropped, and by the kernel if the test process dies first.
#![warn(missing_docs)]

mod anvil;
mod kms;
mod mlflow;
mod postgres;
mod process;
mod proxy;
mod redis;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

pub use anvil::{ANVIL_KEYS, Anvil};
pub use kms::{Kms, Mood};
pub use mlflow::Mlflow;
pub use postgres::Postgres;
pub use process::Process;
pub use proxy::Proxy;
pub use redis::Redis;

/// A TCP port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be bound");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// Asks `probe` again and again until it answers `Some`, and panics with `what` if that takes longer than `within`.
pub async fn eventually<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
