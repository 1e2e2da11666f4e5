//! Multi-row statements: few round trips, few distinct statement texts.
//!
//! Every text met is a prepared statement that the connection keeps, a hundred at most, and preparing costs more than running. So
//! a statement has room for one of a few numbers of rows, and what is left over is filled with NULLs that it passes over.
//!
//! On SQLite a parameter with a name costs a walk over all of them, each time it is bound: there they have none. What is not bound there
//! is NULL; PostgreSQL must be told, and of which type.

use hokusai_db::{Error, Tx, placeholders};
use sqlx::{
    Any, AssertSqlSafe, FromRow,
    any::{AnyArguments, AnyRow},
    query::Query,
};

/// Rows that a statement may have room for.
const ROOMS: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

/// Entries of one `IN` list, at most.
pub(crate) const LIST: usize = 64;

pub(crate) type AnyQuery = Query<'static, Any, AnyArguments>;

/// What a column holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    Text,
    Bytes,
    Number,
}

/// Where rows go: `INSERT INTO` `into` `SELECT` the rows `tail`. The first column is never NULL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Insert {
    pub(crate) into: &'static str,
    pub(crate) columns: &'static [Column],
    pub(crate) tail: &'static str,
}

impl Insert {
    /// Inserts `rows`, in chunks, and answers how many rows were affected.
    pub(crate) async fn run<T>(
        &self,
        tx: &mut Tx,
        rows: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        bind: impl Fn(AnyQuery, T) -> AnyQuery,
    ) -> Result<u64, Error> {
        let mut rows = rows.into_iter();
        let mut affected = 0;
        while rows.len() > 0 {
            affected += self.chunk(tx, &mut rows, &bind).execute(&mut **tx).await?.rows_affected();
        }
        Ok(affected)
    }

    /// The same for a tail that returns something of each row.
    pub(crate) async fn returning<T, R: for<'r> FromRow<'r, AnyRow>>(
        &self,
        tx: &mut Tx,
        rows: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        bind: impl Fn(AnyQuery, T) -> AnyQuery,
    ) -> Result<Vec<R>, Error> {
        let mut rows = rows.into_iter();
        let mut returned = Vec::with_capacity(rows.len());
        while rows.len() > 0 {
            for row in self.chunk(tx, &mut rows, &bind).fetch_all(&mut **tx).await? {
                returned.push(R::from_row(&row)?);
            }
        }
        Ok(returned)
    }

    /// The statement for as many of `rows` as one may hold.
    fn chunk<T>(&self, tx: &Tx, rows: &mut impl ExactSizeIterator<Item = T>, bind: impl Fn(AnyQuery, T) -> AnyQuery) -> AnyQuery {
        let Self { into, columns, tail } = self;
        let count = rows.len().min(LIST);
        let places = parameters(tx, room(count), columns.len());
        let sql = format!("INSERT INTO {into} SELECT * FROM (VALUES {places}) AS rows WHERE column1 IS NOT NULL {tail}");
        let query = rows.take(count).fold(sqlx::query(AssertSqlSafe(sql)), bind);
        let left_over = if on_sqlite(tx) { 0 } else { room(count) - count };
        columns.iter().cycle().take(left_over * columns.len()).fold(query, |query, column| match column {
            Column::Text => query.bind(None::<String>),
            Column::Bytes => query.bind(None::<Vec<u8>>),
            Column::Number => query.bind(None::<i64>),
        })
    }
}

/// `($1,$2,…)` for `IN`, to be bound to [`padded`] entries.
pub(crate) fn list(tx: &Tx, count: usize) -> String {
    parameters(tx, 1, room(count))
}

/// The entries of an `IN` list, the last one repeated so often that few lengths occur, and so few statements.
pub(crate) fn padded<T>(entries: &[T]) -> impl Iterator<Item = &T> {
    let missing = room(entries.len()) - entries.len();
    entries.iter().chain(entries.last().into_iter().cycle().take(missing))
}

fn room(rows: usize) -> usize {
    ROOMS.into_iter().find(|room| *room >= rows).unwrap_or(rows)
}

fn parameters(tx: &Tx, rows: usize, columns: usize) -> String {
    if on_sqlite(tx) {
        let row = format!(",({})", vec!["?"; columns].join(","));
        row.repeat(rows).split_off(1)
    } else {
        placeholders(rows, columns)
    }
}

fn on_sqlite(tx: &Tx) -> bool {
    tx.backend_name() == "SQLite"
}
