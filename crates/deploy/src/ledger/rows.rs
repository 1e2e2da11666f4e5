//! Deployments as rows: reading them, and writing one back.

use std::str::FromStr;

use alloy::primitives::{Address, B256, U256};
use hokusai_db::{Database, Tx};
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use super::{Deployment, Ledger, Wish};
use crate::{deployment::DeploymentState, error::Error, token::TokenRequest};

pub(crate) const COLUMNS: &str = "id, chain_id, registry, request, state, token_address, transaction_hash, block_number, gas_used, \
     fee_wei, outcome, reason, created_at, updated_at, settled_at, alone, item, tries, permanent, wish, account, nonce";

/// A deployment with what only the sender needs of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeploymentRow {
    pub(crate) deployment: Deployment,
    /// Its batch failed as a whole: it goes alone.
    pub(crate) alone: bool,
    /// Its place in the slot's call.
    pub(crate) item: Option<usize>,
    /// How often it failed without a reason that was understood.
    pub(crate) tries: u32,
    /// It was refused, and the same content would be refused again.
    pub(crate) permanent: bool,
    /// What a person asked for.
    pub(crate) wish: Option<Wish>,
    /// The slot it rides on.
    pub(crate) slot: Option<(Address, u64)>,
}

/// The slot a deployment rides on, and its place there.
#[derive(Debug, Clone)]
pub(crate) struct Ride<'a> {
    pub(crate) account: &'a str,
    pub(crate) nonce: u64,
    pub(crate) item: usize,
}

/// Which deployments to list. Every part that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those in this state.
    pub state: Option<DeploymentState>,
    /// Only those of this symbol, whatever its case.
    pub symbol: Option<String>,
    /// Only those that this message asked for, first or again.
    pub message_id: Option<String>,
    /// Only those that a transaction with this hash was signed for, replaced ones included.
    pub transaction: Option<String>,
    /// Only those after this id in the list.
    pub after: Option<String>,
    /// At most so many; 100 if not set.
    pub limit: Option<u32>,
}

const DEFAULT_LIMIT: u32 = 100;
const BOARDED_AT_ONCE: usize = 200;

/// The reading side of a ledger, for whoever knows neither chain nor registry.
#[derive(Debug, Clone)]
pub struct Deployments {
    pub(super) db: Database,
}

impl Deployments {
    /// The deployments in this database.
    pub fn new(db: Database) -> Self {
        Self { db }
    }

    /// One by its id.
    pub async fn get(&self, id: &str) -> Result<Option<Deployment>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM deploy_deployments WHERE id = $1");
        let row = sqlx::query(AssertSqlSafe(sql)).bind(id.to_owned()).fetch_optional(self.db.reader()).await?;
        row.map(|row| Ok(read(&row)?.deployment)).transpose()
    }

    /// Those that match, oldest first.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Deployment>, Error> {
        let mut conditions = Vec::new();
        let mut values = Vec::new();
        let mut demand = |condition: &str, value: String| {
            values.push(value);
            conditions.push(condition.replace('?', &format!("${}", values.len())));
        };
        if let Some(state) = filter.state {
            demand("state = ?", state.as_str().to_owned());
        }
        if let Some(symbol) = &filter.symbol {
            demand("symbol_key = ?", symbol.to_ascii_lowercase());
        }
        if let Some(message) = &filter.message_id {
            demand("id IN (SELECT deployment_id FROM deploy_messages WHERE message_id = ?)", message.clone());
        }
        if let Some(hash) = &filter.transaction {
            let slot = "a.chain_id = deploy_deployments.chain_id AND a.account = deploy_deployments.account AND a.nonce = deploy_deployments.nonce";
            demand(&format!("EXISTS (SELECT 1 FROM deploy_attempts a WHERE {slot} AND a.hash = ?)"), hash.to_ascii_lowercase());
        }
        if let Some(after) = &filter.after {
            demand("id > ?", after.clone());
        }
        let condition = if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
        // Ids are version 7 UUIDs: their order is the order of planning.
        let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
        let sql = format!("SELECT {COLUMNS} FROM deploy_deployments {condition} ORDER BY id LIMIT {limit}");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in values {
            query = query.bind(value);
        }
        let rows = query.fetch_all(self.db.reader()).await?;
        rows.iter().map(|row| Ok(read(row)?.deployment)).collect()
    }

    /// Those of `ids` that came to their end: what a process that waits for them asks, since the sender that settles them
    /// may be another's.
    pub async fn settled(&self, ids: &[String]) -> Result<Vec<Deployment>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ended = [DeploymentState::Final, DeploymentState::Refused].map(|state| format!("'{state}'")).join(", ");
        let ids_list = hokusai_db::placeholders(1, ids.len());
        let sql = format!("SELECT {COLUMNS} FROM deploy_deployments WHERE state IN ({ended}) AND id IN {ids_list}");
        let query = ids.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, id| query.bind(id.clone()));
        let rows = query.fetch_all(self.db.reader()).await?;
        rows.iter().map(|row| Ok(read(row)?.deployment)).collect()
    }

    /// The ids of all messages that asked for a deployment.
    pub async fn messages(&self, id: &str) -> Result<Vec<String>, Error> {
        let sql = "SELECT message_id FROM deploy_messages WHERE deployment_id = $1 ORDER BY message_id";
        Ok(sqlx::query_scalar(sql).bind(id.to_owned()).fetch_all(self.db.reader()).await?)
    }

    /// How many deployments are in each state.
    pub async fn counts(&self) -> Result<Vec<(DeploymentState, u64)>, Error> {
        let rows =
            sqlx::query("SELECT state, COUNT(*) AS deployments FROM deploy_deployments GROUP BY state").fetch_all(self.db.reader()).await?;
        rows.iter().map(|row| Ok((parsed(row, "state")?, natural(row.try_get("deployments")?)))).collect()
    }
}

pub(super) async fn by_version(tx: &mut Tx, ledger: &Ledger, request: &TokenRequest) -> Result<DeploymentRow, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM deploy_deployments WHERE chain_id = $1 AND registry = $2 AND symbol_key = $3 AND model_name = $4 \
         AND model_version = $5"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(integer(ledger.chain_id))
        .bind(ledger.registry.to_string())
        .bind(request.symbol.to_ascii_lowercase())
        .bind(request.model_name.clone())
        .bind(request.model_version.clone())
        .fetch_one(&mut **tx)
        .await?;
    read(&row)
}

pub(super) async fn by_id(tx: &mut Tx, id: &str) -> Result<Option<DeploymentRow>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM deploy_deployments WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id.to_owned()).fetch_optional(&mut **tx).await?;
    row.as_ref().map(read).transpose()
}

/// The deployments that ride on a slot, in the order of the call.
pub(super) async fn riders(connection: &mut AnyConnection, chain_id: u64, account: &str, nonce: u64) -> Result<Vec<DeploymentRow>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM deploy_deployments WHERE chain_id = $1 AND account = $2 AND nonce = $3 ORDER BY item");
    let rows =
        sqlx::query(AssertSqlSafe(sql)).bind(integer(chain_id)).bind(account.to_owned()).bind(integer(nonce)).fetch_all(connection).await?;
    rows.iter().map(read).collect()
}

/// Writes back everything of a deployment that can change. `ride` is where it rides from now on.
pub(super) async fn store(tx: &mut Tx, deployment: &Deployment, ride: Option<&Ride<'_>>) -> Result<(), Error> {
    let sql = "UPDATE deploy_deployments SET state = $1, request = $2, account = $3, nonce = $4, item = $5, transaction_hash = $6, \
               block_number = $7, gas_used = $8, fee_wei = $9, outcome = $10, reason = $11, created_at = $12, updated_at = $13, \
               settled_at = $14, token_address = $15 WHERE id = $16";
    sqlx::query(sql)
        .bind(deployment.state.as_str())
        .bind(json(&deployment.request))
        .bind(ride.map(|ride| ride.account.to_owned()))
        .bind(ride.map(|ride| integer(ride.nonce)))
        .bind(ride.map(|ride| integer(ride.item as u64)))
        .bind(deployment.transaction_hash.map(|hash| hash.to_string()))
        .bind(deployment.block_number.map(integer))
        .bind(deployment.gas_used.map(integer))
        .bind(deployment.fee_wei.map(|fee| fee.to_string()))
        .bind(deployment.outcome.clone())
        .bind(deployment.reason.clone())
        .bind(deployment.created_at_ms)
        .bind(deployment.updated_at_ms)
        .bind(deployment.settled_at_ms)
        .bind(deployment.token_address.to_string())
        .bind(deployment.id.clone())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Puts deployments on a slot that was signed just now, in the order of its call.
pub(super) async fn board(tx: &mut Tx, riders: &[Deployment], hash: &B256, slot: (&str, u64), now_ms: i64) -> Result<(), Error> {
    // Small enough for the parameter limits of both databases, and the whole of any transaction.
    for (chunk, riders) in riders.chunks(BOARDED_AT_ONCE).enumerate() {
        let item = |at: usize| chunk * BOARDED_AT_ONCE + at;
        let items: String = (0..riders.len()).map(|at| format!(" WHEN ${} THEN {}", at + 5, item(at))).collect();
        let ids: Vec<String> = (0..riders.len()).map(|at| format!("${}", at + 5)).collect();
        let sql = format!(
            "UPDATE deploy_deployments SET state = 'signed', reason = NULL, transaction_hash = $1, account = $2, nonce = $3, updated_at = $4, \
             item = CASE id{items} END WHERE id IN ({})",
            ids.join(", ")
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(hash.to_string()).bind(slot.0.to_owned()).bind(integer(slot.1)).bind(now_ms);
        riders.iter().fold(query, |query, rider| query.bind(rider.id.clone())).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Moves all who ride on a slot to a state in which they stay on it.
pub(super) async fn carry(
    tx: &mut Tx,
    chain_id: u64,
    slot: (&str, u64),
    state: DeploymentState,
    (hash, block_number): (&B256, Option<u64>),
    now_ms: i64,
) -> Result<(), Error> {
    let sql = "UPDATE deploy_deployments SET state = $1, transaction_hash = $2, block_number = $3, updated_at = $4, settled_at = NULL, \
               gas_used = NULL, fee_wei = NULL, outcome = NULL WHERE chain_id = $5 AND account = $6 AND nonce = $7";
    let query = sqlx::query(sql).bind(state.as_str()).bind(hash.to_string()).bind(block_number.map(integer)).bind(now_ms);
    query.bind(integer(chain_id)).bind(slot.0.to_owned()).bind(integer(slot.1)).execute(&mut **tx).await?;
    Ok(())
}

/// Plans a refused deployment again, as `fresh` says. Whether it was: it may have been planned by somebody else meanwhile, and
/// be on its way.
pub(super) async fn replan(tx: &mut Tx, fresh: &Deployment) -> Result<bool, Error> {
    let sql = "UPDATE deploy_deployments SET state = $1, tries = 0, not_before = 0, permanent = 0, wish = NULL WHERE id = $2 AND state = 'refused'";
    let refused = sqlx::query(sql).bind(fresh.state.as_str()).bind(fresh.id.clone()).execute(&mut **tx).await?.rows_affected() == 1;
    if refused {
        store(tx, fresh, None).await?;
    }
    Ok(refused)
}

pub(super) fn read(row: &AnyRow) -> Result<DeploymentRow, Error> {
    let id: String = row.try_get("id")?;
    let request: String = row.try_get("request")?;
    let request = serde_json::from_str(&request).map_err(|error| unreadable("deployments", &id, &error))?;
    let deployment = Deployment {
        chain_id: natural(row.try_get("chain_id")?),
        registry: parsed(row, "registry")?,
        request,
        state: parsed(row, "state")?,
        token_address: parsed(row, "token_address")?,
        transaction_hash: parsed_or_null(row, "transaction_hash")?,
        block_number: row.try_get::<Option<i64>, _>("block_number")?.map(natural),
        gas_used: row.try_get::<Option<i64>, _>("gas_used")?.map(natural),
        fee_wei: parsed_or_null::<U256>(row, "fee_wei")?,
        outcome: row.try_get("outcome")?,
        reason: row.try_get("reason")?,
        created_at_ms: row.try_get("created_at")?,
        updated_at_ms: row.try_get("updated_at")?,
        settled_at_ms: row.try_get("settled_at")?,
        id,
    };
    let item = row.try_get::<Option<i64>, _>("item")?.and_then(|item| usize::try_from(item).ok());
    Ok(DeploymentRow {
        deployment,
        alone: row.try_get::<i64, _>("alone")? != 0,
        item,
        tries: u32::try_from(row.try_get::<i64, _>("tries")?).unwrap_or(u32::MAX),
        permanent: row.try_get::<i64, _>("permanent")? != 0,
        wish: row.try_get::<Option<String>, _>("wish")?.and_then(|wish| Wish::parse(&wish)),
        slot: parsed_or_null(row, "account")?.zip(row.try_get::<Option<i64>, _>("nonce")?.map(natural)),
    })
}

pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(row: &AnyRow, column: &'static str) -> Result<T, Error> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|error: T::Err| unreadable(column, &text, &error))
}

pub(super) fn parsed_or_null<T: FromStr<Err: std::fmt::Display>>(row: &AnyRow, column: &'static str) -> Result<Option<T>, Error> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| text.parse().map_err(|error: T::Err| unreadable(column, &text, &error))).transpose()
}

pub(super) fn unreadable(table: &'static str, row: &str, problem: &dyn std::fmt::Display) -> Error {
    Error::Unreadable { table, row: row.to_owned(), problem: problem.to_string() }
}

/// Chain ids, nonces, block numbers and gas fit 63 bits on every chain there is; a value that does not is kept at the end
/// of the range rather than turned negative.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn natural(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn json(request: &TokenRequest) -> String {
    serde_json::to_string(request).expect("a request of texts and finite numbers is JSON")
}
