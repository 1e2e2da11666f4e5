//! What each request of a batch is: new, the same as an earlier one, or in conflict with one.

use std::{collections::HashMap, sync::Arc};

use hokusai_db::{Error, Tx};
use sqlx::AssertSqlSafe;

use super::{Holder, New, parse_document, read_document};
use crate::{
    bulk,
    document::{Document, Status},
    register::{Conflicting, IdempotencyKey, Prepared, RegisterError},
    request::Version,
};

/// The verdict on one item.
#[derive(Debug)]
pub(super) enum Decided {
    Refused(RegisterError),
    Known(Arc<Document>),
    New { index: usize, replayed: bool },
}

/// Who holds an identity, and with which content.
#[derive(Debug, Clone)]
struct Held {
    holder: Holder,
    registration_id: String,
    content: Vec<u8>,
    rejected: bool,
}

/// What an `Idempotency-Key` was spent on.
#[derive(Debug, Clone)]
pub(super) struct Spent {
    pub(super) key: IdempotencyKey,
    pub(super) registration_id: String,
    pub(super) holder: Holder,
    /// Whether this batch has to write it down.
    pub(super) fresh: bool,
}

/// The state of deciding: what the tables said, and what was decided on top of it.
#[derive(Debug, Default)]
pub(super) struct Deciding {
    pub(super) decided: Vec<Decided>,
    pub(super) new: Vec<New>,
    pub(super) keys: HashMap<String, Spent>,
    held: HashMap<(Vec<u8>, String), Held>,
    /// The version of each origin; `None` if it gets its number at the end.
    versions: HashMap<Vec<u8>, Option<String>>,
    /// Versions that are named, by model, and the origins and runs they have.
    named: HashMap<(String, String), (Vec<u8>, String)>,
}

impl Deciding {
    pub(super) async fn read(tx: &mut Tx, items: &[Arc<Prepared>]) -> Result<Self, Error> {
        let mut deciding = Self::default();
        deciding.read_keys(tx, items).await?;
        deciding.read_intents(tx, items).await?;
        Ok(deciding)
    }

    async fn read_keys(&mut self, tx: &mut Tx, items: &[Arc<Prepared>]) -> Result<(), Error> {
        let keys: Vec<&IdempotencyKey> = items.iter().filter_map(|item| item.idempotency.as_ref()).collect();
        for chunk in keys.chunks(bulk::LIST) {
            let sql = format!(
                "SELECT k.key, k.digest, r.id, r.document FROM idempotency_keys k JOIN registrations r ON r.id = k.registration_id
                 WHERE k.key IN {}",
                bulk::list(tx, chunk.len())
            );
            let query = bulk::padded(chunk).fold(sqlx::query_as(AssertSqlSafe(sql)), |query, key| query.bind(key.key.clone()));
            let rows: Vec<(String, Vec<u8>, String, String)> = query.fetch_all(&mut **tx).await?;
            for (key, digest, registration_id, document) in rows {
                let holder = Holder::Known(parse_document(&document)?.into());
                let spent = Spent { key: IdempotencyKey { key: key.clone(), digest }, registration_id, holder, fresh: false };
                self.keys.insert(key, spent);
            }
        }
        Ok(())
    }

    async fn read_intents(&mut self, tx: &mut Tx, items: &[Arc<Prepared>]) -> Result<(), Error> {
        type Row = (Vec<u8>, String, Option<String>, Option<Vec<u8>>, Option<String>, Option<String>, Option<String>);
        for chunk in items.chunks(bulk::LIST) {
            let sql = format!(
                "SELECT i.source_key, i.token_key, i.model_version, i.digest, r.id, r.status, r.document
                 FROM intents i LEFT JOIN registrations r ON r.id = i.registration_id WHERE i.source_key IN {}",
                bulk::list(tx, chunk.len())
            );
            let query = bulk::padded(chunk).fold(sqlx::query_as(AssertSqlSafe(sql)), |query, item| query.bind(item.source_key.clone()));
            let rows: Vec<Row> = query.fetch_all(&mut **tx).await?;
            for (source_key, token_key, version, content, id, status, document) in rows {
                if let Some(version) = version {
                    self.versions.insert(source_key.clone(), Some(version));
                }
                if let (Some(content), Some(registration_id), Some(status), Some(document)) = (content, id, status, document) {
                    let holder = Holder::Known(parse_document(&document)?.into());
                    let rejected = status == Status::Rejected.as_str();
                    self.held.insert((source_key, token_key), Held { holder, registration_id, content, rejected });
                }
            }
        }
        Ok(())
    }

    pub(super) async fn decide(&mut self, tx: &mut Tx, index: usize, item: &Prepared) -> Result<(), Error> {
        let decided = self.verdict(tx, index, item).await?;
        self.decided.push(decided);
        Ok(())
    }

    async fn verdict(&mut self, tx: &mut Tx, index: usize, item: &Prepared) -> Result<Decided, Error> {
        if let Some(spent) = item.idempotency.as_ref().and_then(|key| self.keys.get(&key.key)) {
            let same = item.idempotency.as_ref().is_some_and(|key| key.digest == spent.key.digest);
            let refused = RegisterError::Conflict { first: spent.registration_id.clone(), what: Conflicting::Key };
            return Ok(if same { replay(&spent.holder) } else { Decided::Refused(refused) });
        }
        let source_key = match self.origin(tx, item).await? {
            Ok(source_key) => source_key,
            Err(refused) => return Ok(Decided::Refused(refused)),
        };
        let identity = (source_key.clone(), item.token_key.clone());
        let held = self.held.get(&identity).cloned();
        match held {
            Some(held) if held.content == item.content => {
                self.spend(item, &held.registration_id, &held.holder);
                Ok(replay(&held.holder))
            }
            Some(held) if !held.rejected => {
                let refused = RegisterError::Conflict { first: held.registration_id, what: Conflicting::Identity };
                Ok(Decided::Refused(refused))
            }
            superseded => Ok(self.add(index, item, identity, superseded.map(|held| held.registration_id))),
        }
    }

    fn add(&mut self, index: usize, item: &Prepared, identity: (Vec<u8>, String), supersedes: Option<String>) -> Decided {
        let id = item.draft.document.registration_id.clone();
        let position = self.new.len();
        let version = self.versions.entry(identity.0.clone()).or_insert_with(|| match &item.origin.version {
            Version::Next => None,
            Version::Fixed(version) => Some(version.to_string()),
            Version::Given(version) => Some(version.clone()),
        });
        self.new.push(New { item: index, source_key: identity.0.clone(), version: version.clone(), supersedes });
        let holder = Holder::New(position);
        self.spend(item, &id, &holder);
        let rejected = item.draft.is_rejected();
        self.held.insert(identity, Held { holder, registration_id: id, content: item.content.clone(), rejected });
        Decided::New { index: position, replayed: false }
    }

    fn spend(&mut self, item: &Prepared, registration_id: &str, holder: &Holder) {
        if let Some(key) = &item.idempotency {
            let spent = Spent { key: key.clone(), registration_id: registration_id.to_owned(), holder: holder.clone(), fresh: true };
            self.keys.insert(key.key.clone(), spent);
        }
    }

    /// The key of the item's origin. A version that the request or MLflow names may be known under another location of the same
    /// run; one that came of another run is a conflict.
    async fn origin(&mut self, tx: &mut Tx, item: &Prepared) -> Result<Result<Vec<u8>, RegisterError>, Error> {
        let version = match &item.origin.version {
            Version::Next => return Ok(Ok(item.source_key.clone())),
            Version::Fixed(version) => version.to_string(),
            Version::Given(version) => version.clone(),
        };
        let named = (item.request.model_name.clone(), version);
        if let Some((source_key, run_id)) = self.named.get(&named) {
            let refused = || RegisterError::Conflict { first: self.holder_of(source_key), what: Conflicting::Version };
            return Ok(if *run_id == item.origin.run_id { Ok(source_key.clone()) } else { Err(refused()) });
        }
        let row: Option<(Vec<u8>, String)> = sqlx::query_as(
            "SELECT i.source_key, r.id FROM registrations r JOIN intents i ON i.registration_id = r.id
             WHERE r.model_name = $1 AND r.model_version = $2 ORDER BY r.id LIMIT 1",
        )
        .bind(named.0.as_str())
        .bind(named.1.as_str())
        .fetch_optional(&mut **tx)
        .await?;
        let Some((source_key, first)) = row else {
            self.named.insert(named, (item.source_key.clone(), item.origin.run_id.clone()));
            return Ok(Ok(item.source_key.clone()));
        };
        let document = read_document(tx, &first).await?;
        if document.mlflow_run_id != item.origin.run_id {
            return Ok(Err(RegisterError::Conflict { first, what: Conflicting::Version }));
        }
        self.read_origin(tx, &source_key).await?;
        Ok(Ok(source_key))
    }

    /// Reads the intents of an origin that no item's own key led to.
    async fn read_origin(&mut self, tx: &mut Tx, source_key: &[u8]) -> Result<(), Error> {
        type Row = (String, Option<String>, Vec<u8>, String, String, String);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT i.token_key, i.model_version, i.digest, r.id, r.status, r.document
             FROM intents i JOIN registrations r ON r.id = i.registration_id WHERE i.source_key = $1",
        )
        .bind(source_key)
        .fetch_all(&mut **tx)
        .await?;
        for (token_key, version, content, registration_id, status, document) in rows {
            self.versions.entry(source_key.to_vec()).or_insert(version);
            let identity = (source_key.to_vec(), token_key);
            let holder = Holder::Known(parse_document(&document)?.into());
            let rejected = status == Status::Rejected.as_str();
            self.held.entry(identity).or_insert(Held { holder, registration_id, content, rejected });
        }
        Ok(())
    }

    fn holder_of(&self, source_key: &[u8]) -> String {
        let held = self.held.iter().find(|((key, _), _)| key == source_key);
        held.map(|(_, held)| held.registration_id.clone()).unwrap_or_default()
    }
}

fn replay(holder: &Holder) -> Decided {
    match holder {
        Holder::Known(document) => Decided::Known(document.clone()),
        Holder::New(index) => Decided::New { index: *index, replayed: true },
    }
}
