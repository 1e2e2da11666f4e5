//! Multi-row statements: few round trips, few distinct statement texts.
//!
//! SQLite looks a `$n` parameter up by walking the list of all of them, so that a statement's cost grows with the square of
//! its parameters: rows go in chunks. The last chunk has any size up to the full one, and every size met is a
//! prepared statement that the connection keeps.

use hokusai_db::{Error, Tx, placeholders};
use sqlx::{Any, AssertSqlSafe, any::AnyArguments, query::Query};

/// Parameters of one statement, at most.
const PARAMETERS: usize = 160;

/// Entries of one `IN` list, at most.
pub(crate) const LIST: usize = 64;

type AnyQuery = Query<'static, Any, AnyArguments>;

/// Runs `head` + `($1, …), …` + `tail` over `rows`, in chunks, and answers how many rows were affected.
pub(crate) async fn insert<T>(
    tx: &mut Tx,
    head: &str,
    columns: usize,
    tail: &str,
    rows: &[T],
    bind: impl Fn(AnyQuery, &T) -> AnyQuery,
) -> Result<u64, Error> {
    let mut affected = 0;
    for chunk in rows.chunks(PARAMETERS / columns) {
        let sql = format!("{head} {} {tail}", placeholders(chunk.len(), columns));
        let query = chunk.iter().fold(sqlx::query(AssertSqlSafe(sql)), &bind);
        affected += query.execute(&mut **tx).await?.rows_affected();
    }
    Ok(affected)
}

/// `($1,$2,…)` for `IN`, to be bound to [`padded`] entries.
pub(crate) fn list(count: usize) -> String {
    placeholders(1, count.next_power_of_two())
}

/// The entries of an `IN` list, the last one repeated so often that few lengths occur, and so few statements.
pub(crate) fn padded<T>(entries: &[T]) -> impl Iterator<Item = &T> {
    let missing = entries.len().next_power_of_two() - entries.len();
    entries.iter().chain(entries.last().into_iter().cycle().take(missing))
}
