//! The best value of each metric on each token, so that a version which improves on it can be told from one that does not.
//!
//! Kept apart from the deployments, because those are pruned; worked out from them where it is not written down yet. Versions that
//! this ledger never saw do not count.
//!
//! Invariant: it changes in the transaction in which a deployment becomes final, or ceases to be.

use std::collections::{BTreeMap, BTreeSet};

use hokusai_db::{Tx, placeholders};
use sqlx::{AssertSqlSafe, Row};

use super::{
    Deployment,
    rows::{self, COLUMNS, integer},
};
use crate::{deployment::DeploymentState, error::Error, journal::Change, token::TokenRequest};

/// What is compared with what: registry, symbol, metric and its direction.
type Key = (String, String, String, bool);

fn key(deployment: &Deployment) -> Key {
    let TokenRequest { symbol, metric_name, lower_is_better, .. } = &deployment.request;
    (deployment.registry.to_string(), symbol.to_ascii_lowercase(), metric_name.clone(), *lower_is_better)
}

/// Whose value it is.
#[derive(Debug, Clone)]
struct Best {
    value: f64,
    deployment_id: String,
}

impl Best {
    fn of(deployment: &Deployment) -> Self {
        Self { value: deployment.request.current_value, deployment_id: deployment.id.clone() }
    }

    fn is_beaten_by(&self, request: &TokenRequest) -> bool {
        if request.lower_is_better { request.current_value < self.value } else { request.current_value > self.value }
    }
}

/// Fills in [`Change::improved_on`] of what became final, in the order of the changes, and writes the new bests down. What is not
/// final any more is forgotten.
pub(super) async fn compare(tx: &mut Tx, chain_id: u64, changes: &mut [Change]) -> Result<(), Error> {
    let is_final = |change: &Change| change.deployment.state == DeploymentState::Final;
    for undone in changes.iter().filter(|change| change.from == Some(DeploymentState::Final) && !is_final(change)) {
        let sql = "DELETE FROM deploy_bests WHERE deployment_id = $1";
        sqlx::query(sql).bind(undone.deployment.id.clone()).execute(&mut **tx).await?;
    }
    let fresh: Vec<&mut Change> =
        changes.iter_mut().filter(|change| is_final(change) && change.from != Some(DeploymentState::Final)).collect();
    if fresh.is_empty() {
        return Ok(());
    }
    let mut bests = known(tx, chain_id, &fresh).await?;
    let mut beaten = BTreeSet::new();
    for change in fresh {
        let key = key(&change.deployment);
        let before = bests.get(&key);
        if before.is_none_or(|best| best.is_beaten_by(&change.deployment.request)) {
            change.improved_on = before.map(|best| best.value);
            bests.insert(key.clone(), Best::of(&change.deployment));
            beaten.insert(key);
        }
    }
    bests.retain(|key, _| beaten.contains(key));
    write(tx, chain_id, &bests).await
}

/// The bests of these deployments' tokens before them.
async fn known(tx: &mut Tx, chain_id: u64, fresh: &[&mut Change]) -> Result<BTreeMap<Key, Best>, Error> {
    let symbols: BTreeSet<String> = fresh.iter().map(|change| key(&change.deployment).1).collect();
    let sql = format!(
        "SELECT registry, symbol_key, metric_name, lower_is_better, value, deployment_id FROM deploy_bests \
         WHERE symbol_key IN {} AND chain_id = {}",
        placeholders(1, symbols.len()),
        integer(chain_id)
    );
    let query = symbols.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, symbol| query.bind(symbol.clone()));
    let mut bests = BTreeMap::new();
    for row in query.fetch_all(&mut **tx).await? {
        let lower_is_better = row.try_get::<i64, _>("lower_is_better")? != 0;
        let key = (row.try_get("registry")?, row.try_get("symbol_key")?, row.try_get("metric_name")?, lower_is_better);
        bests.insert(key, Best { value: row.try_get("value")?, deployment_id: row.try_get("deployment_id")? });
    }
    let unwritten: BTreeSet<Key> = fresh.iter().map(|change| key(&change.deployment)).filter(|key| !bests.contains_key(key)).collect();
    if !unwritten.is_empty() {
        let ids: BTreeSet<&str> = fresh.iter().map(|change| change.deployment.id.as_str()).collect();
        for deployment in finals(tx, chain_id, &unwritten).await?.iter().filter(|deployment| !ids.contains(deployment.id.as_str())) {
            let key = key(deployment);
            if unwritten.contains(&key) && bests.get(&key).is_none_or(|best| best.is_beaten_by(&deployment.request)) {
                bests.insert(key, Best::of(deployment));
            }
        }
    }
    Ok(bests)
}

/// The final deployments of these keys' symbols.
async fn finals(tx: &mut Tx, chain_id: u64, keys: &BTreeSet<Key>) -> Result<Vec<Deployment>, Error> {
    let symbols: BTreeSet<&String> = keys.iter().map(|key| &key.1).collect();
    let sql = format!(
        "SELECT {COLUMNS} FROM deploy_deployments WHERE symbol_key IN {} AND chain_id = {} AND state = 'final'",
        placeholders(1, symbols.len()),
        integer(chain_id)
    );
    let query = symbols.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, symbol| query.bind(symbol.clone()));
    query.fetch_all(&mut **tx).await?.iter().map(|row| Ok(rows::read(row)?.deployment)).collect()
}

async fn write(tx: &mut Tx, chain_id: u64, bests: &BTreeMap<Key, Best>) -> Result<(), Error> {
    if bests.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO deploy_bests (chain_id, registry, symbol_key, metric_name, lower_is_better, value, deployment_id) VALUES {} \
         ON CONFLICT (chain_id, registry, symbol_key, metric_name, lower_is_better) \
         DO UPDATE SET value = excluded.value, deployment_id = excluded.deployment_id",
        placeholders(bests.len(), 7)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for ((registry, symbol_key, metric_name, lower_is_better), best) in bests {
        query = query.bind(integer(chain_id)).bind(registry.clone()).bind(symbol_key.clone()).bind(metric_name.clone());
        query = query.bind(i64::from(*lower_is_better)).bind(best.value).bind(best.deployment_id.clone());
    }
    query.execute(&mut **tx).await?;
    Ok(())
}
