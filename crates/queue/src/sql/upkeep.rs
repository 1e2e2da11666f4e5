//! The upkeep of a queue in SQL.

use async_trait::async_trait;
use bytes::Bytes;
use hokusai_db::Error as DbError;
use sqlx::{AssertSqlSafe, Row};

use super::{SqlQueue, as_i64};
use crate::{
    Error, State,
    upkeep::{Custody, ELSEWHERE, ENTERED, FRONT, Lease, Look, Mark, Pause, Upkeep},
};

#[async_trait]
impl Upkeep for SqlQueue {
    async fn set_pause(&self, pause: Option<&Pause>) -> Result<(), Error> {
        self.transact(|| self.try_set_pause(pause)).await
    }

    async fn pause(&self) -> Result<Option<Pause>, Error> {
        let query = sqlx::query_scalar("SELECT pause FROM queue_heads WHERE queue = $1").bind(&self.name);
        let text: Option<Option<String>> = query.fetch_optional(self.db.reader()).await.map_err(|error| self.error(error))?;
        Ok(text.flatten().map(|text| Pause::from_text(&text)))
    }

    async fn custody(&self) -> Result<Custody, Error> {
        self.try_custody().await.map_err(|error| self.error(error))
    }

    async fn look(&self, source: &str, mark: Option<&Mark>) -> Result<Look, Error> {
        self.try_look(source, mark).await.map_err(|error| self.error(error))
    }
}

impl SqlQueue {
    async fn try_set_pause(&self, pause: Option<&Pause>) -> Result<(), DbError> {
        let mut tx = self.db.write().await?;
        self.positions(&mut tx, 0).await?;
        let query = sqlx::query("UPDATE queue_heads SET pause = $2 WHERE queue = $1").bind(&self.name);
        query.bind(pause.map(Pause::to_text)).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    async fn try_custody(&self) -> Result<Custody, DbError> {
        let now_ms: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT {}", self.now()))).fetch_one(self.db.reader()).await?;
        let query = sqlx::query("SELECT entry, at FROM queue_entries WHERE queue = $1 AND state = $2 ORDER BY position");
        let rows = query.bind(&self.name).bind(State::Processing.as_str()).fetch_all(self.db.reader()).await?;
        let mut held = Vec::with_capacity(rows.len());
        for row in rows {
            let lease = row.try_get::<Option<i64>, _>(1)?.map_or(Lease::None, Lease::Until);
            held.push((Bytes::from(row.try_get::<Vec<u8>, _>(0)?), lease));
        }
        Ok(Custody { now_ms, held, stale: vec![] })
    }

    /// Cursor and mark are read before the entries, which is the careful order: what is pushed in between is found again by
    /// the next look. The entries are read by one statement, so at one moment.
    async fn try_look(&self, source: &str, mark: Option<&Mark>) -> Result<Look, DbError> {
        let query =
            "SELECT highest, (SELECT c.cursor FROM queue_cursors c WHERE c.queue = $1 AND c.source = $2) FROM queue_heads WHERE queue = $1";
        let heads: Option<(i64, Option<String>)> =
            sqlx::query_as(query).bind(&self.name).bind(source).fetch_optional(self.db.reader()).await?;
        let (highest, cursor) = heads.unwrap_or((0, None));
        let since = match mark {
            Some(Mark::Position(position)) => Some(*position),
            _ => None,
        };
        let part = |what: &str, condition: &str, limit: usize| {
            format!(
                "SELECT '{what}' AS part, entry FROM (SELECT entry FROM queue_entries WHERE queue = $1 AND {condition} \
                 ORDER BY position LIMIT {limit}) AS {what}"
            )
        };
        let sql = [
            part("front", "state = 'main'", FRONT + 1),
            part("entered", "state = 'main' AND position > $2", ENTERED + 1),
            part("elsewhere", "state IN ('processing', 'delayed', 'dlq')", ELSEWHERE + 1),
        ]
        .join(" UNION ALL ");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.name).bind(since.unwrap_or(i64::MAX));
        let (mut front, mut entered, mut elsewhere) = (vec![], vec![], vec![]);
        for row in query.fetch_all(self.db.reader()).await? {
            let entry = Bytes::from(row.try_get::<Vec<u8>, _>(1)?);
            match row.try_get::<String, _>(0)?.as_str() {
                "front" => front.push(entry),
                "entered" => entered.push(entry),
                _ => elsewhere.push(entry),
            }
        }
        let whole = front.len() <= FRONT;
        front.truncate(FRONT);
        let known = whole || (since.is_some() && as_i64(entered.len()) <= as_i64(ENTERED));
        Ok(Look {
            cursor: cursor.map(Into::into),
            elsewhere: (elsewhere.len() <= ELSEWHERE).then_some(elsewhere),
            front,
            entered: known.then_some(entered),
            whole,
            mark: Mark::Position(highest),
        })
    }
}
