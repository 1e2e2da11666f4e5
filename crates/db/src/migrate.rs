//! Migrations: numbered SQL steps per room, each applied once, under a lock.
//!
//! sqlx's own migrator is not used because it takes no lock on SQLite (two processes starting together both run the
//! first step, and one of them fails) and keeps one list for the whole database, where each room here has its own.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Executor, Row};

use crate::{Backend, Database, Error, Tx};

/// The key of the PostgreSQL advisory lock held while migrating: "hokusai" in ASCII.
const LOCK_KEY: i64 = 0x0068_6f6b_7573_6169;

/// One step. It may hold several statements; `BYTEA` is written as `BLOB` on SQLite.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Whose tables: the crate's short name.
    pub room: &'static str,
    /// Its place in the room's order, from 1, without gaps.
    pub number: i64,
    /// The statements.
    pub sql: &'static str,
    /// Those for SQLite, if they are others.
    pub sqlite: Option<&'static str>,
}

pub(crate) async fn run(db: &Database, migrations: &[Migration]) -> Result<(), Error> {
    let mut tx = db.write().await?;
    if db.backend() == Backend::Postgres {
        // Held to the end of the transaction. SQLite's BEGIN IMMEDIATE is itself the lock.
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK_KEY).fetch_optional(&mut *tx).await.map(drop)?;
    }
    tx.execute("CREATE TABLE IF NOT EXISTS hokusai_migrations (room TEXT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (room, number))")
        .await?;
    let applied = applied(&mut tx).await?;
    refuse_newer(&applied, migrations)?;
    for migration in migrations {
        if migration.number > applied.get(migration.room).copied().unwrap_or(0) {
            apply(db.backend(), &mut tx, migration).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

async fn applied(tx: &mut Tx) -> Result<HashMap<String, i64>, Error> {
    let rows = sqlx::query("SELECT room, MAX(number) AS number FROM hokusai_migrations GROUP BY room").fetch_all(&mut **tx).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn refuse_newer(applied: &HashMap<String, i64>, migrations: &[Migration]) -> Result<(), Error> {
    for migration in migrations {
        let known = migrations.iter().filter(|other| other.room == migration.room).map(|other| other.number).max().unwrap_or(0);
        if let Some(&found) = applied.get(migration.room).filter(|&&found| found > known) {
            return Err(Error::Newer { room: migration.room.into(), found, known });
        }
    }
    Ok(())
}

async fn apply(backend: Backend, tx: &mut Tx, migration: &Migration) -> Result<(), Error> {
    let named = |source| Error::Migration { room: migration.room, number: migration.number, source };
    let sql = match backend {
        Backend::Sqlite => migration.sqlite.unwrap_or(migration.sql).replace("BYTEA", "BLOB"),
        Backend::Postgres => migration.sql.to_owned(),
    };
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **tx).await.map_err(named)?;
    sqlx::query("INSERT INTO hokusai_migrations (room, number) VALUES ($1, $2)")
        .bind(migration.room)
        .bind(migration.number)
        .execute(&mut **tx)
        .await
        .map_err(named)?;
    Ok(())
}
