//! The durable ledger: every deployment that was asked for, every nonce that was used, every byte that was signed.
//!
//! Three kinds of row matter. A *deployment* is unique by (chain, registry, lower-cased symbol, model name, model version):
//! a request that comes again attaches to its row. A *slot* is one nonce of an account with its *attempts*, stored before
//! they are sent (`ledger/slots.rs`). The *lease* says which sender may write (`ledger/lease.rs`).
//!
//! Invariants:
//!
//! - The sender sends no bytes that are not stored here, and every write of a sender is conditional on its fence.
//! - Every change of a deployment's state is told to the [`Journal`] in the same transaction.
//! - The network is never awaited inside a transaction.

mod bests;
pub(crate) mod fates;
mod lease;
mod prune;
mod rows;
mod schema;
pub(crate) mod slots;
mod spending;
mod wishes;

use std::sync::Arc;

use alloy::primitives::{Address, B256, U256};
use hokusai_db::{Database, Tx, placeholders};
use sqlx::AssertSqlSafe;
use tokio::sync::Notify;

pub(crate) use self::{
    lease::{Fence, Grant},
    rows::DeploymentRow,
};
pub use self::{
    prune::Pruned,
    rows::{Deployments, Filter},
    schema::MIGRATIONS,
    wishes::{Asked, Wish},
};
use crate::{
    deployment::DeploymentState,
    error::Error,
    journal::{Change, Journal},
    token::{TokenRequest, token_address},
};

/// Rows of one insert: fifteen columns each stay far below the parameter limits of both databases.
const ROWS_PER_INSERT: usize = 100;
/// How often a transaction that PostgreSQL asked to run again is run again.
const RUNS: usize = 4;

/// One deployment as the ledger has it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Deployment {
    /// Its own id.
    pub id: String,
    /// The chain.
    pub chain_id: u64,
    /// The registry contract.
    pub registry: Address,
    /// What was asked for, by the first message that asked.
    pub request: TokenRequest,
    /// Where it stands.
    pub state: DeploymentState,
    /// The token's address, known from the beginning; whether there is a token there, [`state`](Self::state) tells.
    pub token_address: Address,
    /// The transaction that is signed, sent or included.
    pub transaction_hash: Option<B256>,
    /// The block it stands in.
    pub block_number: Option<u64>,
    /// Its share of the transaction's gas: the gas over the number of items, the remainder on the first.
    pub gas_used: Option<u64>,
    /// Its share of the fee, in wei, divided likewise.
    pub fee_wei: Option<U256>,
    /// What the contract did: `token_created`, `version_recorded` or `already_recorded`.
    pub outcome: Option<String>,
    /// Why it was refused; while it is planned, why it waits for another try.
    pub reason: Option<String>,
    /// When it was planned, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// When it last changed.
    pub updated_at_ms: i64,
    /// When it became final or was refused.
    pub settled_at_ms: Option<i64>,
}

impl Deployment {
    /// From planned to settled.
    pub fn elapsed_ms(&self) -> Option<i64> {
        self.settled_at_ms.map(|settled| settled - self.created_at_ms)
    }
}

/// The ledger of one registry on one chain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(crate) db: Database,
    pub(crate) chain_id: u64,
    pub(crate) registry: Address,
    journal: Arc<dyn Journal>,
    nudge: Arc<Notify>,
    probe: Option<Arc<dyn Probe>>,
}

/// Told before and after each of a sender's commits. Tests stop the world there; without one it costs nothing.
#[async_trait::async_trait]
#[doc(hidden)]
pub trait Probe: std::fmt::Debug + Send + Sync {
    async fn at(&self, point: &'static str);
}

impl Ledger {
    /// The ledger in `db`, whose [`MIGRATIONS`] have been applied.
    pub fn new(db: Database, chain_id: u64, registry: Address, journal: Arc<dyn Journal>) -> Self {
        Self { db, chain_id, registry, journal, nudge: Arc::default(), probe: None }
    }

    #[doc(hidden)]
    #[must_use]
    pub fn with_probe(self, probe: Arc<dyn Probe>) -> Self {
        Self { probe: Some(probe), ..self }
    }

    /// Records requests, each once, and answers with their rows, in the order asked. One that is there already is
    /// answered as it stands; one that can never succeed is recorded as refused; one that was refused and comes again is
    /// planned again, unless it is the content that was refused and it is the same. The sender hears of new ones at once.
    ///
    /// A deployment may change between the commit and the answer: whoever waits for [`Journal::committed`] begins to listen
    /// before calling this.
    pub async fn plan(&self, requests: &[TokenRequest]) -> Result<Vec<Deployment>, Error> {
        let now_ms = now_ms();
        let mut runs = 0;
        let (deployments, changes) = loop {
            runs += 1;
            match self.try_plan(requests, now_ms).await {
                Err(Error::Database(hokusai_db::Error::Again(_))) if runs < RUNS => {}
                other => break other?,
            }
        };
        self.tell(&changes);
        Ok(deployments)
    }

    /// Plans a refused deployment again, whatever it was refused for, as long as its request passes
    /// [`TokenRequest::check`]. How it stands then; `None` if this ledger has no deployment of that id.
    pub async fn retry(&self, id: &str) -> Result<Option<Deployment>, Error> {
        let mut tx = self.db.write().await?;
        let Some(row) = rows::by_id(&mut tx, id).await? else {
            return Ok(None);
        };
        let stored = row.deployment;
        if stored.chain_id != self.chain_id || stored.registry != self.registry {
            return Ok(None);
        }
        if stored.state != DeploymentState::Refused || stored.request.check().is_err() {
            return Ok(Some(stored));
        }
        let mut changes = Vec::new();
        let request = stored.request.clone();
        let planned = self.replan(&mut tx, stored, &request, now_ms(), &mut changes).await?;
        if !changes.is_empty() {
            self.journal.record(&mut tx, &changes).await?;
        }
        tx.commit().await?;
        self.tell(&changes);
        Ok(Some(planned))
    }

    /// Tells the journal, and the sender if there is something for it.
    fn tell(&self, changes: &[Change]) {
        self.announce(changes);
        if changes.iter().any(|change| change.deployment.state == DeploymentState::Planned) {
            self.nudge.notify_one();
        }
    }

    async fn try_plan(&self, requests: &[TokenRequest], now_ms: i64) -> Result<(Vec<Deployment>, Vec<Change>), Error> {
        let mut fresh: Vec<Deployment> = requests.iter().map(|request| self.draft(request, now_ms)).collect();
        // In one order everywhere, so that two planners cannot wait for each other's rows.
        fresh.sort_by_cached_key(|deployment| deployment.request.version_key());
        let mut tx = self.db.write().await?;
        let mut changes = Vec::new();
        for rows in fresh.chunks(ROWS_PER_INSERT) {
            let inserted = insert(&mut tx, rows).await?;
            changes.extend(rows.iter().filter(|row| inserted.contains(&row.id)).map(|row| Change::new(row.clone(), None)));
        }
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let known = changes.iter().find(|change| same_version(&change.deployment.request, request));
            let deployment = match known {
                Some(change) => change.deployment.clone(),
                None => {
                    let stored = rows::by_version(&mut tx, self, request).await?;
                    self.reconsider(&mut tx, stored, request, now_ms, &mut changes).await?
                }
            };
            answers.push(deployment);
        }
        attach(&mut tx, requests, &answers).await?;
        if !changes.is_empty() {
            self.journal.record(&mut tx, &changes).await?;
        }
        tx.commit().await?;
        Ok((answers, changes))
    }

    fn draft(&self, request: &TokenRequest, now_ms: i64) -> Deployment {
        let refusal = request.check().err().map(|unfit| unfit.to_string());
        Deployment {
            id: uuid::Uuid::now_v7().to_string(),
            chain_id: self.chain_id,
            registry: self.registry,
            state: if refusal.is_some() { DeploymentState::Refused } else { DeploymentState::Planned },
            token_address: token_address(self.registry, &request.symbol),
            request: request.clone(),
            transaction_hash: None,
            block_number: None,
            gas_used: None,
            fee_wei: None,
            outcome: None,
            settled_at_ms: refusal.as_ref().map(|_| now_ms),
            reason: refusal,
            created_at_ms: now_ms,
            updated_at_ms: now_ms,
        }
    }

    /// A refused deployment that is asked for again is planned again: if what was refused has been mended, or if it was not
    /// its content that was refused.
    async fn reconsider(
        &self,
        tx: &mut Tx,
        row: DeploymentRow,
        request: &TokenRequest,
        now_ms: i64,
        changes: &mut Vec<Change>,
    ) -> Result<Deployment, Error> {
        let stored = row.deployment;
        let hopeless = row.permanent || request.check().is_err();
        if stored.state != DeploymentState::Refused || (hopeless && same_content(&stored.request, request)) {
            return Ok(stored);
        }
        self.replan(tx, stored, request, now_ms, changes).await
    }

    async fn replan(
        &self,
        tx: &mut Tx,
        stored: Deployment,
        request: &TokenRequest,
        now_ms: i64,
        changes: &mut Vec<Change>,
    ) -> Result<Deployment, Error> {
        let fresh = Deployment { id: stored.id, ..self.draft(request, now_ms) };
        if !rows::replan(tx, &fresh).await? {
            return Ok(rows::by_version(tx, self, request).await?.deployment);
        }
        changes.push(Change::new(fresh.clone(), Some(DeploymentState::Refused)));
        Ok(fresh)
    }

    /// One deployment by its id.
    pub async fn get(&self, id: &str) -> Result<Option<Deployment>, Error> {
        self.deployments().get(id).await
    }

    /// Deployments of this database, oldest first.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Deployment>, Error> {
        self.deployments().list(filter).await
    }

    /// The reading side.
    pub fn deployments(&self) -> Deployments {
        Deployments::new(self.db.clone())
    }

    /// Waits until something was planned through this ledger or a clone of it.
    pub(crate) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// Holds the ledger to one chain: the first genesis it hears of a chain id is the one it knows, and is answered.
    pub(crate) async fn pin_genesis(&self, found: B256) -> Result<B256, Error> {
        let question = "SELECT genesis FROM deploy_chains WHERE chain_id = $1";
        let pinned: Option<String> =
            sqlx::query_scalar(question).bind(rows::integer(self.chain_id)).fetch_optional(self.db.reader()).await?;
        if let Some(pinned) = pinned {
            return pinned.parse().map_err(|error| rows::unreadable("chains", &self.chain_id.to_string(), &error));
        }
        let mut tx = self.db.write().await?;
        let pin = "INSERT INTO deploy_chains (chain_id, genesis) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(pin).bind(rows::integer(self.chain_id)).bind(found.to_string()).execute(&mut *tx).await?;
        let pinned: String = sqlx::query_scalar(question).bind(rows::integer(self.chain_id)).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        pinned.parse().map_err(|error| rows::unreadable("chains", &self.chain_id.to_string(), &error))
    }

    /// Has the journal record the changes, commits, and announces them.
    pub(crate) async fn commit(&self, mut tx: Tx, point: &'static str, mut changes: Vec<Change>) -> Result<(), Error> {
        if !changes.is_empty() {
            bests::compare(&mut tx, self.chain_id, &mut changes).await?;
            self.journal.record(&mut tx, &changes).await?;
        }
        self.probed(point).await;
        tx.commit().await?;
        self.announce(&changes);
        self.probed(point).await;
        Ok(())
    }

    async fn probed(&self, point: &'static str) {
        if let Some(probe) = &self.probe {
            probe.at(point).await;
        }
    }

    fn announce(&self, changes: &[Change]) {
        if !changes.is_empty() {
            self.journal.committed(changes);
        }
    }
}

fn same_version(one: &TokenRequest, other: &TokenRequest) -> bool {
    one.symbol.eq_ignore_ascii_case(&other.symbol) && one.model_name == other.model_name && one.model_version == other.model_version
}

/// Whether two requests ask for the same, whoever carried them.
fn same_content(one: &TokenRequest, other: &TokenRequest) -> bool {
    let anonymous = TokenRequest {
        message_id: one.message_id.clone(),
        correlation_id: one.correlation_id.clone(),
        registration_id: one.registration_id.clone(),
        ..other.clone()
    };
    *one == anonymous
}

/// Inserts what is not there; answers the ids of the rows it inserted.
async fn insert(tx: &mut Tx, rows: &[Deployment]) -> Result<Vec<String>, Error> {
    let sql = format!(
        "INSERT INTO deploy_deployments (id, chain_id, registry, symbol_key, model_name, model_version, message_id, request, state, \
         token_address, reason, created_at, updated_at, settled_at) VALUES {} \
         ON CONFLICT (chain_id, registry, symbol_key, model_name, model_version) DO NOTHING RETURNING id",
        placeholders(rows.len(), 14)
    );
    let mut query = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql));
    for row in rows {
        query = query
            .bind(row.id.clone())
            .bind(rows::integer(row.chain_id))
            .bind(row.registry.to_string())
            .bind(row.request.symbol.to_ascii_lowercase())
            .bind(row.request.model_name.clone())
            .bind(row.request.model_version.clone())
            .bind(row.request.message_id.clone())
            .bind(rows::json(&row.request))
            .bind(row.state.as_str())
            .bind(row.token_address.to_string())
            .bind(row.reason.clone())
            .bind(row.created_at_ms)
            .bind(row.updated_at_ms)
            .bind(row.settled_at_ms);
    }
    Ok(query.fetch_all(&mut **tx).await?)
}

/// Notes which messages wait for which deployment.
async fn attach(tx: &mut Tx, requests: &[TokenRequest], answers: &[Deployment]) -> Result<(), Error> {
    let mut pairs: Vec<(&str, &str)> =
        requests.iter().zip(answers).map(|(request, answer)| (request.message_id.as_str(), answer.id.as_str())).collect();
    pairs.sort_unstable();
    pairs.dedup();
    for pairs in pairs.chunks(ROWS_PER_INSERT) {
        let sql = format!(
            "INSERT INTO deploy_messages (message_id, deployment_id) VALUES {} ON CONFLICT DO NOTHING",
            placeholders(pairs.len(), 2)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (message, deployment) in pairs {
            query = query.bind((*message).to_owned()).bind((*deployment).to_owned());
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// The wall clock, read at the edges only.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
