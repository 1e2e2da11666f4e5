//! What can go wrong with a database, by what the caller does next.

/// A database error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database is away or too busy: nothing is known to be wrong with the request, try again later. A commit that
    /// ended so may have happened.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Another transaction was in the way (a deadlock, a serialisation failure): run the whole transaction again.
    #[error("the transaction has to be run again: {0}")]
    Again(#[source] sqlx::Error),
    /// A uniqueness rule of the tables was broken: the row is there already.
    #[error("the row exists already: {0}")]
    Exists(#[source] sqlx::Error),
    /// The database refused the request; repeating it will not help.
    #[error("the database refused the request: {0}")]
    Rejected(#[source] sqlx::Error),
    /// `DATABASE_URL` cannot be used.
    #[error("DATABASE_URL: {0}")]
    Url(String),
    /// A migration failed; those before it are applied.
    #[error("migration {room}/{number} failed: {source}")]
    Migration {
        /// Whose tables.
        room: &'static str,
        /// Which step.
        number: i64,
        /// Why.
        source: sqlx::Error,
    },
    /// The tables were made by a newer version of the program.
    #[error("the tables of `{room}` are at step {found}, this program knows {known}: it is older than the database; upgrade it")]
    Newer {
        /// Whose tables.
        room: String,
        /// The step the database is at.
        found: i64,
        /// The last step this program has.
        known: i64,
    },
}

impl Error {
    /// Whether the same request may succeed later, unchanged.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Again(_))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Self::Unavailable(error),
            sqlx::Error::Database(database) if database.is_unique_violation() => Self::Exists(error),
            sqlx::Error::Database(database) => match database.code().as_deref() {
                Some(code) if is_again(code) => Self::Again(error),
                Some(code) if is_unavailable(code) => Self::Unavailable(error),
                _ => Self::Rejected(error),
            },
            _ => Self::Rejected(error),
        }
    }
}

/// PostgreSQL's serialisation_failure and deadlock_detected.
fn is_again(code: &str) -> bool {
    matches!(code, "40001" | "40P01")
}

/// PostgreSQL's classes 08 (connection), 28 (credentials, while they are being rotated), 53 (resources), 57 (an operator:
/// shutting down, starting up, cancelled) and 58 (its system), and what a connection to a demoted primary (25006) or a
/// lock that could not be had (55P03) answers; SQLite's BUSY, LOCKED, IOERR, FULL and CANTOPEN with their extended forms,
/// which keep the primary code in the low byte.
fn is_unavailable(code: &str) -> bool {
    if code.len() == 5 {
        return ["08", "28", "53", "57", "58"].iter().any(|class| code.starts_with(class)) || matches!(code, "25006" | "55P03");
    }
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13 | 14))
}
