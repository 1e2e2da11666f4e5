//! One transaction for many registrations.
//!
//! It reads what is known of all of them, decides each in the order of arrival, as if the earlier ones had been
//! committed already, numbers the new versions, and writes the new rows table by table. On PostgreSQL an advisory lock makes the
//! registering processes take turns, as SQLite's single writer does by itself: what was read stays true until the commit.

mod decide;
mod write;

use std::sync::Arc;

use hokusai_db::{Backend, Database, Error, Tx};
use jiff::Timestamp;

use self::{
    decide::{Decided, Deciding},
    write::Row,
};
use crate::{
    document::Document,
    register::{Prepared, Receipt, RegisterError},
};

/// "register" in ASCII.
const LOCK_KEY: i64 = 0x7265_6769_7374_6572;
/// Takes the lock, and has everything looked up by key, as it can be. A table that has grown since it was last analysed looks small
/// to PostgreSQL's planner, which would read all of it for each batch, or start workers to read it by.
const AS_LOOKUPS: &str = "SELECT pg_advisory_xact_lock($1), set_config('enable_seqscan', 'off', true),
    set_config('max_parallel_workers_per_gather', '0', true)";
/// How often a transaction is run again that met another one.
const ATTEMPTS: u32 = 5;

type Answer = Result<Receipt, RegisterError>;

/// Registers all of `items` and answers each. If the database refuses them together, each is tried alone.
pub(crate) async fn register(db: &Database, items: &[Arc<Prepared>]) -> Vec<Answer> {
    match attempt(db, items).await {
        Ok(answers) => answers,
        Err(error) if error.is_transient() || items.len() == 1 => {
            let error = Arc::new(error);
            items.iter().map(|_| Err(error.clone().into())).collect()
        }
        Err(error) => {
            tracing::warn!(%error, items = items.len(), "a batch of registrations was refused; each is tried alone");
            let mut answers = Vec::with_capacity(items.len());
            for item in items {
                match attempt(db, std::slice::from_ref(item)).await {
                    Ok(mut answer) => answers.append(&mut answer),
                    Err(error) => answers.push(Err(error.into())),
                }
            }
            answers
        }
    }
}

/// One transaction, run again if it met another.
async fn attempt(db: &Database, items: &[Arc<Prepared>]) -> Result<Vec<Answer>, Error> {
    let mut attempts = 1;
    loop {
        match transaction(db, items).await {
            Err(Error::Again(_) | Error::Exists(_)) if attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}

async fn transaction(db: &Database, items: &[Arc<Prepared>]) -> Result<Vec<Answer>, Error> {
    let mut tx = db.write().await?;
    if db.backend() == Backend::Postgres {
        sqlx::query(AS_LOOKUPS).bind(LOCK_KEY).fetch_optional(&mut *tx).await?;
    }
    let mut deciding = Deciding::read(&mut tx, items).await?;
    for (index, item) in items.iter().enumerate() {
        deciding.decide(&mut tx, index, item).await?;
    }
    let Deciding { decided, mut new, keys, .. } = deciding;
    let at_ms = Timestamp::now().as_millisecond();
    write::number(&mut tx, items, &mut new).await?;
    let rows = write::insert(&mut tx, items, new, at_ms).await?;
    let spent = write::keys(&mut tx, &keys, at_ms).await?;
    if !rows.is_empty() || spent > 0 {
        tx.commit().await?;
    }
    let answer = |decided| match decided {
        Decided::Refused(error) => Err(error),
        Decided::Known(document) => Ok(Receipt::of(&document, true)),
        Decided::New { index, replayed } => {
            let Row { item, version, .. } = &rows[index];
            Ok(items[*item].draft.receipt(version, replayed))
        }
    };
    Ok(decided.into_iter().map(answer).collect())
}

/// Where a registration's document is found.
#[derive(Debug, Clone)]
enum Holder {
    /// It was committed before.
    Known(Arc<Document>),
    /// It is the new row of this index.
    New(usize),
}

/// A registration to be written.
#[derive(Debug)]
struct New {
    /// Which of the items.
    item: usize,
    source_key: Vec<u8>,
    version: Option<String>,
    supersedes: Option<String>,
}

async fn read_document(tx: &mut Tx, id: &str) -> Result<Document, Error> {
    let (document,): (String,) = sqlx::query_as("SELECT document FROM registrations WHERE id = $1").bind(id).fetch_one(&mut **tx).await?;
    parse_document(&document)
}

fn parse_document(text: &str) -> Result<Document, Error> {
    serde_json::from_str(text).map_err(|error| Error::from(sqlx::Error::Decode(Box::new(error))))
}
