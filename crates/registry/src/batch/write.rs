//! Writing the new registrations of a batch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hokusai_db::{Error, Tx};
use hokusai_event::{Event, Invalid, model_id};
use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::{Holder, New, decide::Spent};
use crate::{
    bulk,
    document::{Decision, Document, Status},
    outbox::{self, NewEvent},
    register::{Prepared, RegisterError},
    request::Version,
};

/// A registration as it is written. An error belongs to its item alone.
pub(super) type Row = Result<Written, RegisterError>;

pub(super) struct Written {
    item: usize,
    source_key: Vec<u8>,
    supersedes: Option<String>,
    pub(super) document: Arc<Document>,
    json: String,
    events: Vec<NewEvent>,
}

/// Numbers the versions and builds documents and events.
pub(super) async fn prepare(tx: &mut Tx, items: &[Prepared], new: &mut [New], max_retries: u32, at: Timestamp) -> Result<Vec<Row>, Error> {
    raise_versions(tx, items, new).await?;
    number_versions(tx, items, new).await?;
    Ok(new.iter().map(|new| build(&items[new.item], new, max_retries, at)).collect())
}

/// A version that a request names is never given out again.
async fn raise_versions(tx: &mut Tx, items: &[Prepared], new: &[New]) -> Result<(), Error> {
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
async fn number_versions(tx: &mut Tx, items: &[Prepared], new: &mut [New]) -> Result<(), Error> {
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

fn build(item: &Prepared, new: &New, max_retries: u32, at: Timestamp) -> Row {
    let request = &item.request;
    let version = new.version.clone().unwrap_or_default();
    let accepted = item.verdict.meets_baseline;
    let mut document = Document {
        registration_id: new.id.clone(),
        model_id: model_id(&request.model_name, &version, request.token_id.as_str()),
        model_name: request.model_name.clone(),
        model_version: version,
        token_id: request.token_id.clone(),
        mlflow_run_id: item.origin.run_id.clone(),
        model_uri: request.model_uri.clone(),
        metric_name: request.metric_name.clone(),
        baseline_value: request.baseline_value,
        current_value: request.current_value,
        metric_direction: request.metric_direction,
        improvement_percentage: item.verdict.improvement_percentage,
        verdict: if accepted { Decision::Accepted } else { Decision::Rejected },
        reason: item.verdict.reason.clone(),
        contributor_address: request.contributor_address.clone(),
        experiment_name: request.experiment_name.clone(),
        tags: request.tags.clone(),
        performance_data: request.performance_data.clone(),
        message_id: None,
        correlation_id: item.correlation_id.clone(),
        created_at: at.into(),
    };
    let event = |event: &Event| {
        NewEvent::new(event, Some(new.id.clone()), item.correlation_id.clone(), at, max_retries).map_err(said_of_the_request)
    };
    let events = if accepted {
        let (registered, ready) = (event(&document.registered())?, event(&document.ready())?);
        document.message_id = Some(ready.message_id.clone());
        vec![registered, ready]
    } else {
        vec![event(&document.failed())?]
    };
    let json = serde_json::to_string(&document).map_err(|error| Invalid::whole(format!("cannot be written as JSON: {error}")))?;
    let (source_key, supersedes) = (new.source_key.clone(), new.supersedes.clone());
    Ok(Written { item: new.item, source_key, supersedes, document: document.into(), json, events })
}

/// What is wrong with an event is wrong with the request it was made of.
fn said_of_the_request(invalid: Invalid) -> Invalid {
    let field = invalid.field.strip_prefix("payload.").unwrap_or(&invalid.field).to_owned();
    Invalid { field, ..invalid }
}

pub(super) async fn insert(tx: &mut Tx, items: &[Prepared], rows: &[Row]) -> Result<(), Error> {
    let rows: Vec<&Written> = rows.iter().filter_map(|row| row.as_ref().ok()).collect();
    // Before the new ones are written: one may supersede another of the same batch.
    insert_registrations(tx, &rows).await?;
    for row in rows.iter().filter(|row| row.supersedes.is_some()) {
        supersede(tx, row).await?;
    }
    insert_intents(tx, items, &rows).await?;
    insert_history(tx, &rows).await?;
    let events: Vec<&NewEvent> = rows.iter().flat_map(|row| &row.events).collect();
    outbox::append_all(tx, &events).await
}

async fn insert_registrations(tx: &mut Tx, rows: &[&Written]) -> Result<(), Error> {
    let head = "INSERT INTO registrations (id, model_name, model_version, token_key, status, document, created_ms, updated_ms) VALUES";
    bulk::insert(tx, head, 8, "", rows, |query, row| {
        let document = &row.document;
        let created_ms = document.created_at.at().as_millisecond();
        query
            .bind(document.registration_id.clone())
            .bind(document.model_name.clone())
            .bind(document.model_version.clone())
            .bind(document.token_id.key())
            .bind(document.first_status().as_str())
            .bind(row.json.clone())
            .bind(created_ms)
            .bind(created_ms)
    })
    .await
    .map(drop)
}

/// The identity's row. Of several registrations of one identity in a batch the last holds it.
async fn insert_intents(tx: &mut Tx, items: &[Prepared], rows: &[&Written]) -> Result<(), Error> {
    let mut last: BTreeMap<(&[u8], &str), &Written> = BTreeMap::new();
    for row in rows {
        last.insert((&row.source_key, &items[row.item].token_key), row);
    }
    let rows: Vec<&Written> = last.into_values().collect();
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
            .bind(row.document.model_version.clone())
            .bind(row.document.registration_id.clone())
            .bind(item.content.clone())
            .bind(row.document.created_at.at().as_millisecond())
    })
    .await
    .map(drop)
}

async fn insert_history(tx: &mut Tx, rows: &[&Written]) -> Result<(), Error> {
    let head = "INSERT INTO registration_history (registration_id, number, at_ms, step, detail) VALUES";
    bulk::insert(tx, head, 5, "", rows, |query, row| {
        let document = &row.document;
        let mut detail = serde_json::json!({ "reason": document.reason, "correlation_id": document.correlation_id });
        if let Some(message_id) = &document.message_id {
            detail["message_id"] = message_id.as_str().into();
        }
        if let Some(superseded) = &row.supersedes {
            detail["supersedes"] = superseded.as_str().into();
        }
        query
            .bind(document.registration_id.clone())
            .bind(1_i64)
            .bind(document.created_at.at().as_millisecond())
            .bind(document.first_status().as_str())
            .bind(detail.to_string())
    })
    .await
    .map(drop)
}

async fn supersede(tx: &mut Tx, row: &Written) -> Result<(), Error> {
    let (old, new) = (row.supersedes.as_deref().unwrap_or_default(), row.document.registration_id.as_str());
    let at_ms = row.document.created_at.at().as_millisecond();
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
pub(super) async fn keys(
    tx: &mut Tx,
    keys: &HashMap<String, Spent>,
    documents: &[Result<Arc<Document>, RegisterError>],
    at: Timestamp,
) -> Result<u64, Error> {
    let written = |spent: &&Spent| match &spent.holder {
        Holder::Known(_) => spent.fresh,
        Holder::New(index) => documents[*index].is_ok(),
    };
    let spent: Vec<&Spent> = keys.values().filter(written).collect();
    let head = "INSERT INTO idempotency_keys (key, digest, registration_id, created_ms) VALUES";
    bulk::insert(tx, head, 4, "", &spent, |query, spent| {
        query.bind(spent.key.key.clone()).bind(spent.key.digest.clone()).bind(spent.registration_id.clone()).bind(at.as_millisecond())
    })
    .await
}
