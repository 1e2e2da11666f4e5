//! Reading registrations.

use hokusai_db::{Database, Error};
use hokusai_event::{Address, Timestamp, TokenSymbol};
use serde::Serialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, FromRow, any::AnyRow};

use crate::document::{Document, Status};

/// The most that one page holds.
pub const PAGE_MAX: u32 = 500;

const COLUMNS: &str = "id, status, document, deployment, superseded_by, updated_ms";

/// A registration and how far it has come.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Registration {
    /// What was fixed when it was registered.
    #[serde(flatten)]
    pub document: Document,
    /// Where it stands.
    pub status: Status,
    /// The token's contract, once it is deployed.
    pub token_address: Option<String>,
    /// The transaction that recorded the version.
    pub transaction_hash: Option<String>,
    /// That transaction's block.
    pub block_number: Option<u64>,
    /// The gas used.
    pub gas_used: Option<u64>,
    /// The fee paid, in wei.
    pub fee_wei: Option<String>,
    /// The chain.
    pub chain_id: Option<u64>,
    /// When it was found final.
    pub deployed_at: Option<String>,
    /// The registration that took its place, if it was rejected and one did.
    pub superseded_by: Option<String>,
    /// When anything about it changed last.
    pub updated_at: Timestamp,
}

/// One line of a registration's history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryRow {
    /// Its place, from 1.
    pub number: i64,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub step: String,
    /// The particulars.
    pub detail: Value,
}

/// A token and the model versions registered for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenView {
    /// The symbol as it was first written.
    pub token_id: TokenSymbol,
    /// Its contract, once it is deployed.
    pub token_address: Option<String>,
    /// Its registrations, the newest first, superseded ones left out; at most [`PAGE_MAX`].
    pub registrations: Vec<Registration>,
}

/// Which registrations to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those of this status.
    pub status: Option<Status>,
    /// Only those of this token, in any case.
    pub token: Option<String>,
    /// Only those of this model, exactly.
    pub model: Option<String>,
    /// Only those older than this registration: the last one of the page before.
    pub after: Option<String>,
    /// At most so many; [`PAGE_MAX`] if 0 or more than that.
    pub limit: u32,
}

/// The registrations of a database.
#[derive(Debug, Clone)]
pub struct Registrations {
    db: Database,
}

impl Registrations {
    /// Those kept in `db`.
    pub fn new(db: Database) -> Self {
        Self { db }
    }

    /// One by its id.
    ///
    /// # Errors
    ///
    /// As the database says.
    pub async fn get(&self, id: &str) -> Result<Option<Registration>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM registrations WHERE id = $1");
        Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(id).fetch_optional(self.db.reader()).await?)
    }

    /// The one whose `model_ready_to_deploy` message has this id.
    ///
    /// # Errors
    ///
    /// As the database says.
    pub async fn by_message(&self, message_id: &str) -> Result<Option<Registration>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM registrations WHERE id = (SELECT registration_id FROM outbox WHERE message_id = $1)");
        Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(message_id).fetch_optional(self.db.reader()).await?)
    }

    /// Those that somebody may mean by `what`, the newest first, at most `limit`: a registration's id, its message's, a token's
    /// symbol or address, a model's name or id, a transaction's hash, and if it is none of these, a correlation id. The last
    /// one has no index: every registration is read.
    ///
    /// # Errors
    ///
    /// As the database says.
    pub async fn find(&self, what: &str, limit: u32) -> Result<Vec<Registration>, Error> {
        let address = Address::parse(what).map_or_else(|_| what.to_owned(), |address| address.checksummed());
        let conditions = [
            ("id = $1", what.to_owned()),
            ("id = (SELECT registration_id FROM outbox WHERE message_id = $1)", what.to_owned()),
            ("token_key = $1", what.to_ascii_lowercase()),
            ("model_name = $1", what.to_owned()),
            ("token_address = $1", address),
            ("transaction_hash = $1", what.to_ascii_lowercase()),
        ];
        for (condition, value) in conditions {
            let found = self.matching(condition, vec![value], limit).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        if let [name, version, token] = what.rsplitn(3, '/').collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>()[..] {
            let values = vec![name.to_owned(), version.to_owned(), token.to_ascii_lowercase()];
            let found = self.matching("model_name = $1 AND model_version = $2 AND token_key = $3", values, limit).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let correlation = serde_json::json!({ "correlation_id": what }).to_string();
        let pattern = correlation[1..correlation.len() - 1].replace('!', "!!").replace('%', "!%").replace('_', "!_");
        self.matching("document LIKE $1 ESCAPE '!'", vec![format!("%{pattern}%")], limit).await
    }

    async fn matching(&self, condition: &'static str, values: Vec<String>, limit: u32) -> Result<Vec<Registration>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM registrations WHERE {condition} ORDER BY id DESC LIMIT {}", limit.min(PAGE_MAX));
        let query = values.into_iter().fold(sqlx::query_as(AssertSqlSafe(sql)), |query, value| query.bind(value));
        Ok(query.fetch_all(self.db.reader()).await?)
    }

    /// Those that `filter` lets through, the newest first.
    ///
    /// # Errors
    ///
    /// As the database says.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Registration>, Error> {
        let values = [
            ("status =", filter.status.map(|status| status.to_string())),
            ("token_key =", filter.token.as_deref().map(str::to_ascii_lowercase)),
            ("model_name =", filter.model.clone()),
            ("id <", filter.after.clone()),
        ];
        let given: Vec<(&str, String)> = values.into_iter().filter_map(|(condition, value)| Some((condition, value?))).collect();
        let conditions: Vec<String> =
            given.iter().enumerate().map(|(index, (condition, _))| format!("{condition} ${}", index + 1)).collect();
        let condition = if conditions.is_empty() { "1 = 1".to_owned() } else { conditions.join(" AND ") };
        let limit = if filter.limit == 0 { PAGE_MAX } else { filter.limit.min(PAGE_MAX) };
        let sql = format!("SELECT {COLUMNS} FROM registrations WHERE {condition} ORDER BY id DESC LIMIT {limit}");
        let query = given.into_iter().fold(sqlx::query_as(AssertSqlSafe(sql)), |query, (_, value)| query.bind(value));
        Ok(query.fetch_all(self.db.reader()).await?)
    }

    /// What happened to one, oldest first.
    ///
    /// # Errors
    ///
    /// As the database says.
    pub async fn history(&self, id: &str) -> Result<Vec<HistoryRow>, Error> {
        let rows: Vec<(i64, i64, String, String)> =
            sqlx::query_as("SELECT number, at_ms, step, detail FROM registration_history WHERE registration_id = $1 ORDER BY number")
                .bind(id)
                .fetch_all(self.db.reader())
                .await?;
        rows.into_iter()
            .map(|(number, at_ms, step, detail)| {
                Ok(HistoryRow { number, at: timestamp(at_ms)?, step, detail: serde_json::from_str(&detail).map_err(decoding)? })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(Error::from)
    }

    /// A token by its symbol, in any case; `None` if nothing was registered for it.
    ///
    /// # Errors
    ///
    /// As the database says.
    pub async fn token(&self, symbol: &str) -> Result<Option<TokenView>, Error> {
        let sql =
            format!("SELECT {COLUMNS} FROM registrations WHERE token_key = $1 AND superseded_by IS NULL ORDER BY id DESC LIMIT {PAGE_MAX}");
        let key = symbol.to_ascii_lowercase();
        let registrations: Vec<Registration> = sqlx::query_as(AssertSqlSafe(sql)).bind(key.as_str()).fetch_all(self.db.reader()).await?;
        let first = format!("SELECT {COLUMNS} FROM registrations WHERE token_key = $1 ORDER BY id LIMIT 1");
        let first: Option<Registration> = sqlx::query_as(AssertSqlSafe(first)).bind(key).fetch_optional(self.db.reader()).await?;
        Ok(first.map(|first| TokenView {
            token_id: first.document.token_id,
            token_address: registrations.iter().find_map(|registration| registration.token_address.clone()),
            registrations,
        }))
    }
}

impl FromRow<'_, AnyRow> for Registration {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let (_, status, document, deployment, superseded_by, updated_ms) =
            <(String, String, String, Option<String>, Option<String>, i64)>::from_row(row)?;
        let deployment: Value = deployment.map_or(Ok(Value::Null), |text| serde_json::from_str(&text)).map_err(decoding)?;
        let text = |name: &str| deployment.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| deployment.get(name).and_then(Value::as_u64);
        Ok(Self {
            document: serde_json::from_str(&document).map_err(decoding)?,
            status: status.parse().map_err(|problem: String| sqlx::Error::Decode(problem.into()))?,
            token_address: text("token_address"),
            transaction_hash: text("transaction_hash"),
            block_number: number("block_number"),
            gas_used: number("gas_used"),
            fee_wei: text("fee_wei"),
            chain_id: number("chain_id"),
            deployed_at: text("deployed_at"),
            superseded_by,
            updated_at: timestamp(updated_ms)?,
        })
    }
}

fn timestamp(at_ms: i64) -> Result<Timestamp, sqlx::Error> {
    jiff::Timestamp::from_millisecond(at_ms).map(Timestamp::new).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn decoding(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
