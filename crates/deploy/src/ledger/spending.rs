//! What an account spent, as far as the ledger knows.

use std::collections::BTreeMap;

use alloy::primitives::{Address, U256};
use sqlx::Row;

use super::{
    Ledger,
    rows::{integer, natural, parsed},
};
use crate::error::Error;

impl Ledger {
    /// What went into the slots opened since. A slot that is final costs what its riders paid; any other, all that its latest
    /// attempt may cost.
    pub(crate) async fn spent_since(&self, account: Address, since_ms: i64) -> Result<U256, Error> {
        let mut costs = self.most_since(account, since_ms).await?;
        let sql = "SELECT d.nonce, d.fee_wei FROM deploy_deployments d JOIN deploy_slots s ON s.chain_id = d.chain_id \
                   AND s.account = d.account AND s.nonce = d.nonce WHERE s.chain_id = $1 AND s.account = $2 AND s.created_at >= $3 \
                   AND d.state = 'final' AND d.fee_wei IS NOT NULL";
        let rows =
            sqlx::query(sql).bind(integer(self.chain_id)).bind(account.to_string()).bind(since_ms).fetch_all(self.db.reader()).await?;
        let mut paid = BTreeMap::<u64, U256>::new();
        for row in &rows {
            *paid.entry(natural(row.try_get("nonce")?)).or_default() += parsed::<U256>(row, "fee_wei")?;
        }
        costs.extend(paid);
        Ok(costs.into_values().sum())
    }

    /// The most that each slot opened since may cost.
    async fn most_since(&self, account: Address, since_ms: i64) -> Result<BTreeMap<u64, U256>, Error> {
        let sql = "SELECT a.nonce, a.gas_limit, a.max_fee_wei FROM deploy_attempts a JOIN deploy_slots s ON s.chain_id = a.chain_id \
                   AND s.account = a.account AND s.nonce = a.nonce WHERE s.chain_id = $1 AND s.account = $2 AND s.created_at >= $3 \
                   AND s.state <> 'lost' ORDER BY a.nonce, a.number";
        let rows =
            sqlx::query(sql).bind(integer(self.chain_id)).bind(account.to_string()).bind(since_ms).fetch_all(self.db.reader()).await?;
        let cost = |row: &sqlx::any::AnyRow| {
            let gas_limit = natural(row.try_get("gas_limit")?);
            Ok((natural(row.try_get("nonce")?), U256::from(gas_limit) * parsed::<U256>(row, "max_fee_wei")?))
        };
        rows.iter().map(cost).collect()
    }
}
