//! Writing the new registrations of a batch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hokusai_db::{Error, Tx};
use serde::Serialize;

use super::{New, decide::Spent};
use crate::{
    bulk::{
        self, AnyQuery,
        Column::{Bytes, Number, Text},
        Filled, Insert,
    },
    document::{Document, Status},
    draft::Finished,
    outbox::{self, NewEvent},
    register::Prepared,
    request::Version,
};

const RAISED_VERSIONS: Insert = Insert {
    into: "models (name, last_version)",
    columns: &[Text, Number],
    tail: "ON CONFLICT (name) DO UPDATE SET last_version =
        CASE WHEN excluded.last_version > models.last_version THEN excluded.last_version ELSE models.last_version END",
};
const NEXT_VERSIONS: Insert = Insert {
    into: "models (name, last_version)",
    columns: &[Text, Number],
    tail: "ON CONFLICT (name) DO UPDATE SET last_version = models.last_version + excluded.last_version RETURNING name, last_version",
};
const REGISTRATIONS: Insert = Insert {
    into: "registrations (id, model_name, model_version, token_key, status, document, created_ms, updated_ms)",
    columns: &[Text, Text, Text, Text, Text, Text, Number, Number],
    tail: "",
};
const INTENTS: Insert = Insert {
    into: "intents (source_key, token_key, model_name, run_id, artifact_path, model_version, registration_id, digest, created_ms)",
    columns: &[Bytes, Text, Text, Text, Text, Text, Text, Bytes, Number],
    tail: "ON CONFLICT (source_key, token_key) DO UPDATE SET
        model_version = excluded.model_version, registration_id = excluded.registration_id, digest = excluded.digest",
};
const HISTORY: Insert = Insert {
    into: "registration_history (registration_id, number, at_ms, step, detail)",
    columns: &[Text, Number, Number, Text, Text],
    tail: "",
};
const KEYS: Insert =
    Insert { into: "idempotency_keys (key, digest, registration_id, created_ms)", columns: &[Text, Bytes, Text, Number], tail: "" };

/// Events of a registration, at most.
const EVENTS: usize = 2;

/// A registration as it is written.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) item: usize,
    pub(super) version: String,
    source_key: Vec<u8>,
    supersedes: Option<String>,
}

impl Row {
    fn document<'i>(&self, items: &'i [Arc<Prepared>]) -> &'i Document {
        &items[self.item].draft.document
    }
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
    RAISED_VERSIONS.run(tx, named, |query, (name, version)| query.bind(name.to_owned()).bind(version)).await.map(drop)
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
    let bind = |query: AnyQuery, (name, origins): (&&str, &Vec<Vec<u8>>)| query.bind((*name).to_owned()).bind(count(origins));
    let last: Vec<(String, i64)> = NEXT_VERSIONS.returning(tx, &wanted, bind).await?;
    let mut numbers: HashMap<Vec<u8>, i64> = HashMap::new();
    for (name, last) in last {
        let origins = wanted.remove(name.as_str()).unwrap_or_default();
        let first = last - count(&origins) + 1;
        numbers.extend(origins.into_iter().zip(first..));
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
pub(super) async fn insert(tx: &mut Tx, items: &[Arc<Prepared>], new: Vec<New>, at_ms: i64) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::with_capacity(new.len());
    let (mut documents, mut events) = (Vec::with_capacity(new.len()), Vec::with_capacity(2 * new.len()));
    for New { item, source_key, version, supersedes } in new {
        let finished: Finished = items[item].draft.finish(version.unwrap_or_default());
        rows.push(Row { item, version: finished.version, source_key, supersedes });
        documents.push(finished.json);
        events.push(finished.events);
    }
    let mut position = None;
    if bulk::on_sqlite(tx) && !events.is_empty() {
        position = Some(outbox::reserve(tx, events.iter().map(Vec::len).sum()).await?);
    }
    let (mut documents, mut events) = (documents.into_iter(), events.into_iter());
    for chunk in rows.chunks(bulk::LIST) {
        let room = bulk::room(chunk.len());
        let documents: Vec<String> = documents.by_ref().take(chunk.len()).collect();
        let events: Vec<NewEvent> = events.by_ref().take(chunk.len()).flatten().collect();
        let first = position;
        position = position.map(|position| position + i64::try_from(events.len()).expect("a batch is small"));
        let inserts = vec![
            registrations(items, chunk, room, documents, at_ms),
            intents(items, chunk, room, at_ms),
            history(items, chunk, room, at_ms),
            outbox::append_of(EVENTS * room, first, events),
        ];
        bulk::together(tx, inserts).await?;
    }
    // After the inserts: one may supersede another of the same batch.
    for row in rows.iter().filter(|row| row.supersedes.is_some()) {
        supersede(tx, row, &row.document(items).registration_id, at_ms).await?;
    }
    Ok(rows)
}

fn registrations<'r>(items: &'r [Arc<Prepared>], rows: &'r [Row], room: usize, documents: Vec<String>, at_ms: i64) -> Filled<'r> {
    REGISTRATIONS.of(room, rows.iter().zip(documents), move |query: AnyQuery, (row, json): (&Row, String)| {
        let document = row.document(items);
        query
            .bind(document.registration_id.clone())
            .bind(document.model_name.clone())
            .bind(row.version.clone())
            .bind(items[row.item].token_key.clone())
            .bind(document.first_status().as_str())
            .bind(json)
            .bind(document.created_at.at().as_millisecond())
            .bind(at_ms)
    })
}

/// The identity's row. Of several registrations of one identity in a batch the last holds it.
fn intents<'r>(items: &'r [Arc<Prepared>], rows: &'r [Row], room: usize, at_ms: i64) -> Filled<'r> {
    let mut last: BTreeMap<(&[u8], &str), &Row> = BTreeMap::new();
    for row in rows {
        last.insert((&row.source_key, &items[row.item].token_key), row);
    }
    INTENTS.of(room, last.into_values(), move |query: AnyQuery, row: &Row| {
        let item = &items[row.item];
        query
            .bind(row.source_key.clone())
            .bind(item.token_key.clone())
            .bind(item.request.model_name.clone())
            .bind(item.origin.run_id.clone())
            .bind(item.origin.artifact_path.clone())
            .bind(row.version.clone())
            .bind(item.draft.document.registration_id.clone())
            .bind(item.content.clone())
            .bind(at_ms)
    })
}

/// What the first line of a registration's history says.
#[derive(Serialize)]
struct Beginning<'d> {
    reason: &'d str,
    correlation_id: &'d str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supersedes: Option<&'d str>,
}

fn history<'r>(items: &'r [Arc<Prepared>], rows: &'r [Row], room: usize, at_ms: i64) -> Filled<'r> {
    HISTORY.of(room, rows, move |query: AnyQuery, row: &Row| {
        let document = row.document(items);
        let detail = Beginning {
            reason: &document.reason,
            correlation_id: &document.correlation_id,
            message_id: document.message_id.as_deref(),
            supersedes: row.supersedes.as_deref(),
        };
        let detail = serde_json::to_string(&detail).expect("text is JSON");
        query.bind(document.registration_id.clone()).bind(1_i64).bind(at_ms).bind(document.first_status().as_str()).bind(detail)
    })
}

async fn supersede(tx: &mut Tx, row: &Row, new: &str, at_ms: i64) -> Result<(), Error> {
    let old = row.supersedes.as_deref().unwrap_or_default();
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
    let bind = |query: AnyQuery, spent: &Spent| {
        query.bind(spent.key.key.clone()).bind(spent.key.digest.clone()).bind(spent.registration_id.clone()).bind(at_ms)
    };
    KEYS.run(tx, spent, bind).await
}
