//! The history of all registrations as one sequence, for the stream of events.
//!
//! Reads the registry's `registration_history` in the order of (`at_ms`, `registration_id`, `number`).

use hokusai_db::{Database, Error};
use hokusai_registry::Status;
use serde::Deserialize;
use serde_json::Value;

/// A place in the sequence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) at_ms: i64,
    pub(crate) registration_id: String,
    pub(crate) number: i64,
}

/// Something that happened to a registration.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) place: Place,
    /// How far the registration is now.
    pub(crate) status: Status,
    pub(crate) model_id: String,
    pub(crate) token_id: String,
    pub(crate) step: String,
    pub(crate) detail: Value,
}

type Row = (i64, String, i64, String, String, String, String);

/// At most `limit` changes behind `after`, in order.
pub(crate) async fn changes(db: &Database, after: &Place, limit: u32) -> Result<Vec<Change>, Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT h.at_ms, h.registration_id, h.number, h.step, h.detail, r.status, r.document
         FROM registration_history h JOIN registrations r ON r.id = h.registration_id
         WHERE h.at_ms >= $1 AND (h.at_ms > $1 OR h.registration_id > $2 OR (h.registration_id = $2 AND h.number > $3))
         ORDER BY h.at_ms, h.registration_id, h.number LIMIT $4",
    )
    .bind(after.at_ms)
    .bind(after.registration_id.as_str())
    .bind(after.number)
    .bind(i64::from(limit))
    .fetch_all(db.reader())
    .await?;
    rows.into_iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(Error::from)
}

fn read((at_ms, registration_id, number, step, detail, status, document): Row) -> Result<Change, sqlx::Error> {
    #[derive(Deserialize)]
    struct Named {
        model_id: String,
        token_id: String,
    }
    let Named { model_id, token_id } = serde_json::from_str(&document).map_err(decoding)?;
    Ok(Change {
        place: Place { at_ms, registration_id, number },
        status: status.parse().map_err(|problem: String| sqlx::Error::Decode(problem.into()))?,
        model_id,
        token_id,
        step,
        detail: serde_json::from_str(&detail).map_err(decoding)?,
    })
}

fn decoding(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
