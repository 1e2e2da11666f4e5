//! One row, and as many as are waiting, on SQLite.

use std::sync::{
    Mutex,
    mpsc::{self, Receiver, Sender},
};

use anyhow::{Context, Result};
use rusqlite::Connection;

use crate::{GROUP, Row, Waiting, push::Push};

const INSERT: &str = "INSERT INTO registration (id, token, body) VALUES (?1, ?2, ?3)";

fn open(file: &str) -> Result<Connection> {
    let connection = Connection::open(file).with_context(|| format!("SQLite file {file}"))?;
    connection.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         CREATE TABLE IF NOT EXISTS registration (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, token TEXT NOT NULL, body BLOB NOT NULL);",
    )?;
    Ok(connection)
}

/// A commit per request; SQLite has one writer, so they queue at a mutex.
pub(crate) struct Each(Mutex<Connection>);

impl Each {
    pub(crate) fn open(file: &str) -> Result<Self> {
        Ok(Self(Mutex::new(open(file)?)))
    }

    pub(crate) fn insert(&self, row: &Row) -> Result<()> {
        let connection = self.0.lock().expect("no insert panics");
        connection.prepare_cached(INSERT)?.execute((&row.id, &row.token, &row.body[..]))?;
        Ok(())
    }
}

/// A thread that commits whatever waits: the first request that comes, and all that came while the commit before was on its way.
pub(crate) fn group(file: &str, push: Option<Push>) -> Result<Sender<Waiting>> {
    let connection = open(file)?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        if let Err(error) = write_groups(connection, &receiver, push) {
            eprintln!("the writer stops: {error:#}");
        }
    });
    Ok(sender)
}

fn write_groups(mut connection: Connection, receiver: &Receiver<Waiting>, push: Option<Push>) -> Result<()> {
    while let Ok(first) = receiver.recv() {
        let mut group = vec![first];
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            let mut written = 0;
            while let Some(Waiting { row, .. }) = group.get(written) {
                insert.execute((&row.id, &row.token, &row.body[..]))?;
                written += 1;
                if written < GROUP {
                    group.extend(receiver.try_recv());
                }
            }
        }
        transaction.commit()?;
        let rows = group.into_iter().map(Waiting::answer).collect();
        if let Some(push) = &push {
            push.push(rows)?;
        }
    }
    Ok(())
}
