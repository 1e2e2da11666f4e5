//! Multi-row statements: few round trips, few distinct statement texts.
//!
//! Every text met is a prepared statement that the connection keeps, a hundred at most, and preparing costs more than running. So
//! a statement has room for one of a few numbers of rows, and what is left over is filled with NULLs that it passes over.
//!
//! On SQLite a parameter with a name costs a walk over all of them, each time it is bound: there they have none. A statement
//! there costs two switches between threads, whatever it does, so that several are sent as one ([`together`]).

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
        let room = room(rows.len().min(LIST));
        self.fill(sqlx::query(AssertSqlSafe(self.sql(tx, room))), room, rows, bind)
    }

    /// The statement for `room` rows, one of [`ROOMS`].
    pub(crate) fn of<'r, T>(
        &'static self,
        room: usize,
        rows: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator> + Send + 'r,
        bind: impl Fn(AnyQuery, T) -> AnyQuery + Send + 'r,
    ) -> Filled<'r> {
        Filled { insert: self, room, fill: Box::new(move |query| self.fill(query, room, &mut rows.into_iter(), bind)) }
    }

    fn sql(&self, tx: &Tx, room: usize) -> String {
        let Self { into, columns, tail } = self;
        let places = parameters(tx, room, columns.len());
        format!("INSERT INTO {into} SELECT * FROM (VALUES {places}) AS rows WHERE column1 IS NOT NULL {tail}")
    }

    /// Binds as many of `rows` as there is room for, and NULLs for what is left over.
    fn fill<T>(
        &self,
        query: AnyQuery,
        room: usize,
        rows: &mut impl ExactSizeIterator<Item = T>,
        bind: impl Fn(AnyQuery, T) -> AnyQuery,
    ) -> AnyQuery {
        let left_over = room - rows.len().min(room);
        let query = rows.take(room).fold(query, bind);
        self.columns.iter().cycle().take(left_over * self.columns.len()).fold(query, |query, column| match column {
            Column::Text => query.bind(None::<String>),
            Column::Bytes => query.bind(None::<Vec<u8>>),
            Column::Number => query.bind(None::<i64>),
        })
    }
}

/// One of several statements that are run [`together`].
pub(crate) struct Filled<'r> {
    insert: &'static Insert,
    room: usize,
    fill: Box<dyn FnOnce(AnyQuery) -> AnyQuery + Send + 'r>,
}

/// Runs `inserts` in their order, on SQLite as one statement text.
pub(crate) async fn together(tx: &mut Tx, inserts: Vec<Filled<'_>>) -> Result<(), Error> {
    if on_sqlite(tx) {
        let sql: Vec<String> = inserts.iter().map(|filled| filled.insert.sql(tx, filled.room)).collect();
        let query = sqlx::query(AssertSqlSafe(sql.join(";\n")));
        inserts.into_iter().fold(query, |query, filled| (filled.fill)(query)).execute(&mut **tx).await?;
        return Ok(());
    }
    for Filled { insert, room, fill } in inserts {
        fill(sqlx::query(AssertSqlSafe(insert.sql(tx, room)))).execute(&mut **tx).await?;
    }
    Ok(())
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

/// The smallest of [`ROOMS`] for so many rows.
pub(crate) fn room(rows: usize) -> usize {
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

/// Whether the database is SQLite, where writers take turns.
pub(crate) fn on_sqlite(tx: &Tx) -> bool {
    tx.backend_name() == "SQLite"
}
