//! Writing the new registrations of a batch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hokusai_db::{Error, Tx};
use sqlx::AssertSqlSafe;

use super::{New, decide::Spent};
use crate::{
    bulk,
    document::Status,
    draft::Finished,
    outbox::{self, NewEvent},
    register::Prepared,
    request::Version,
};

/// A registration as it is written.
pub(super) struct Row {
    item: usize,
    source_key: Vec<u8>,
    supersedes: Option<String>,
    pub(super) finished: Finished,
}

/// Gives every new registration its version.
pub(super) async fn number(tx: &mut Tx, items: &[Arc<Prepared>], new: &mut [New]) -> Result<(), Error> {
    raise_versions(tx, items, new).await?;
    number_versions(tx, items, new).await
}

/// A version that a request names is never given out again.
async fn raise_versions(tx: &mut Tx, items: &[Arc<Prepared>], new: &[New]) -> Result<(), Error> {
    let mut named: BTreeMap<&str, i64> = BTreeMap::new();
    for new in new {
        let item = &items[new.item];
        if let Version::Fixed(version) = item.origin.version {
            let highest = named.entry(&item.request.model_name).or_default();
            *highest = (*highest).max(i64::from(version));
        }
    }
    let rows: Vec<(String, i64)> = named.into_iter().map(|(name, version)| (name.to_owned(), version)).collect();
    let keep_highest = "ON CONFLICT (name) DO UPDATE SET last_version =
        CASE WHEN excluded.last_version > models.last_version THEN excluded.last_version ELSE models.last_version END";
    bulk::insert(tx, "INSERT INTO models (name, last_version) VALUES", 2, keep_highest, &rows, |query, (name, version)| {
        query.bind(name.clone()).bind(*version)
    })
    .await
    .map(drop)
}

/// Gives each origin without a version the next number of its model.
async fn number_versions(tx: &mut Tx, items: &[Arc<Prepared>], new: &mut [New]) -> Result<(), Error> {
    let mut wanted: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
    for new in new.iter().filter(|new| new.version.is_none()) {
        let origins = wanted.entry(&items[new.item].request.model_name).or_default();
        if !origins.contains(&new.source_key) {
            origins.push(new.source_key.clone());
        }
    }
    let wanted: Vec<(&str, Vec<Vec<u8>>)> = wanted.into_iter().collect();
    let mut numbers: HashMap<Vec<u8>, i64> = HashMap::new();
    for chunk in wanted.chunks(bulk::LIST) {
        let sql = format!(
            "INSERT INTO models (name, last_version) VALUES {}
             ON CONFLICT (name) DO UPDATE SET last_version = models.last_version + excluded.last_version RETURNING name, last_version",
            hokusai_db::placeholders(chunk.len(), 2)
        );
        let query = chunk
            .iter()
            .fold(sqlx::query_as(AssertSqlSafe(sql)), |query, (name, origins)| query.bind((*name).to_owned()).bind(count(origins)));
        let last: Vec<(String, i64)> = query.fetch_all(&mut **tx).await?;
        let last: HashMap<String, i64> = last.into_iter().collect();
        for (name, origins) in chunk {
            let first = last.get(*name).copied().unwrap_or_default() - count(origins) + 1;
            numbers.extend(origins.iter().cloned().zip(first..));
        }
    }
    for new in new.iter_mut().filter(|new| new.version.is_none()) {
        new.version = numbers.get(&new.source_key).map(ToString::to_string);
    }
    Ok(())
}

fn count<T>(items: &[T]) -> i64 {
    i64::try_from(items.len()).expect("a batch is small")
}

/// Writes the new registrations, their history and their events.
pub(super) async fn insert(tx: &mut Tx, items: &[Arc<Prepared>], new: &[New], at_ms: i64) -> Result<Vec<Row>, Error> {
    let finish = |new: &New| Row {
        item: new.item,
        source_key: new.source_key.clone(),
        supersedes: new.supersedes.clone(),
        finished: items[new.item].draft.finish(new.version.as_deref().unwrap_or_default()),
    };
    let rows: Vec<Row> = new.iter().map(finish).collect();
    insert_registrations(tx, items, &rows, at_ms).await?;
    // After the inserts: one may supersede another of the same batch.
    for row in rows.iter().filter(|row| row.supersedes.is_some()) {
        supersede(tx, row, at_ms).await?;
    }
    insert_intents(tx, items, &rows, at_ms).await?;
    insert_history(tx, &rows, at_ms).await?;
    let events: Vec<&NewEvent> = rows.iter().flat_map(|row| &row.finished.events).collect();
    outbox::append_all(tx, &events).await?;
    Ok(rows)
}

async fn insert_registrations(tx: &mut Tx, items: &[Arc<Prepared>], rows: &[Row], at_ms: i64) -> Result<(), Error> {
    let head = "INSERT INTO registrations (id, model_name, model_version, token_key, status, document, created_ms, updated_ms) VALUES";
    bulk::insert(tx, head, 8, "", rows, |query, row| {
        let document = &row.finished.document;
        query
            .bind(document.registration_id.clone())
            .bind(document.model_name.clone())
            .bind(document.model_version.clone())
            .bind(items[row.item].token_key.clone())
            .bind(document.first_status().as_str())
            .bind(row.finished.json.clone())
            .bind(document.created_at.at().as_millisecond())
            .bind(at_ms)
    })
    .await
    .map(drop)
}

/// The identity's row. Of several registrations of one identity in a batch the last holds it.
async fn insert_intents(tx: &mut Tx, items: &[Arc<Prepared>], rows: &[Row], at_ms: i64) -> Result<(), Error> {
    let mut last: BTreeMap<(&[u8], &str), &Row> = BTreeMap::new();
    for row in rows {
        last.insert((&row.source_key, &items[row.item].token_key), row);
    }
    let rows: Vec<&Row> = last.into_values().collect();
    let head = "INSERT INTO intents
        (source_key, token_key, model_name, run_id, artifact_path, model_version, registration_id, digest, created_ms) VALUES";
    let tail = "ON CONFLICT (source_key, token_key) DO UPDATE SET
        model_version = excluded.model_version, registration_id = excluded.registration_id, digest = excluded.digest";
    bulk::insert(tx, head, 9, tail, &rows, |query, row| {
        let item = &items[row.item];
        query
            .bind(row.source_key.clone())
            .bind(item.token_key.clone())
            .bind(item.request.model_name.clone())
            .bind(item.origin.run_id.clone())
            .bind(item.origin.artifact_path.clone())
            .bind(row.finished.document.model_version.clone())
            .bind(row.finished.document.registration_id.clone())
            .bind(item.content.clone())
            .bind(at_ms)
    })
    .await
    .map(drop)
}

async fn insert_history(tx: &mut Tx, rows: &[Row], at_ms: i64) -> Result<(), Error> {
    let head = "INSERT INTO registration_history (registration_id, number, at_ms, step, detail) VALUES";
    bulk::insert(tx, head, 5, "", rows, |query, row| {
        let document = &row.finished.document;
        let mut detail = serde_json::json!({ "reason": document.reason, "correlation_id": document.correlation_id });
        if let Some(message_id) = &document.message_id {
            detail["message_id"] = message_id.as_str().into();
        }
        if let Some(superseded) = &row.supersedes {
            detail["supersedes"] = superseded.as_str().into();
        }
        query.bind(document.registration_id.clone()).bind(1_i64).bind(at_ms).bind(document.first_status().as_str()).bind(detail.to_string())
    })
    .await
    .map(drop)
}

async fn supersede(tx: &mut Tx, row: &Row, at_ms: i64) -> Result<(), Error> {
    let (old, new) = (row.supersedes.as_deref().unwrap_or_default(), row.finished.document.registration_id.as_str());
    sqlx::query("UPDATE registrations SET superseded_by = $1, updated_ms = $2 WHERE id = $3 AND status = $4")
        .bind(new)
        .bind(at_ms)
        .bind(old)
        .bind(Status::Rejected.as_str())
        .execute(&mut **tx)
        .await?;
    crate::progress::append_history(tx, old, at_ms, "superseded", &serde_json::json!({ "superseded_by": new })).await
}

/// Writes down the keys that this batch spent, and answers how many.
pub(super) async fn keys(tx: &mut Tx, keys: &HashMap<String, Spent>, at_ms: i64) -> Result<u64, Error> {
    let spent: Vec<&Spent> = keys.values().filter(|spent| spent.fresh).collect();
    let head = "INSERT INTO idempotency_keys (key, digest, registration_id, created_ms) VALUES";
    bulk::insert(tx, head, 4, "", &spent, |query, spent| {
        query.bind(spent.key.key.clone()).bind(spent.key.digest.clone()).bind(spent.registration_id.clone()).bind(at_ms)
    })
    .await
}
