//! Forgetting what ended long ago.
//!
//! What goes: deployments that became final or were refused before a given time, the messages attached to them, and slots that
//! ended before it once nobody rides on them any more. What stays: everything under way, whatever its age; the best values
//! (`ledger/bests.rs`); the leases and the chain.
//!
//! Nothing rests on the rows that go: a message for a version that was forgotten is planned like any other, and found on the chain
//! before anything is signed. It costs a question instead of a look into the ledger.

use super::{Ledger, rows::integer};
use crate::error::Error;

impl Ledger {
    /// Forgets at most `limit` deployments that ended before a time, and as many slots. How many rows of either went: fewer than
    /// `limit` of both means that there is no more. One short write transaction; call it again for more.
    pub async fn prune(&self, before_ms: i64, limit: u32) -> Result<Pruned, Error> {
        let mut tx = self.db.write().await?;
        let sql = format!(
            "UPDATE deploy_deployments SET updated_at = updated_at WHERE state IN ('final', 'refused') AND id IN \
             (SELECT id FROM deploy_deployments WHERE state IN ('final', 'refused') AND created_at < $1 AND settled_at < $1 \
             AND chain_id = $2 AND wish IS NULL ORDER BY created_at LIMIT {limit}) RETURNING id"
        );
        // Written to, so that nobody can plan them again before they are gone.
        let query = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql));
        let ids: Vec<String> = query.bind(before_ms).bind(integer(self.chain_id)).fetch_all(&mut *tx).await?;
        for (table, column) in [("deploy_messages", "deployment_id"), ("deploy_deployments", "id")] {
            for ids in ids.chunks(IDS_AT_ONCE) {
                let list = hokusai_db::placeholders(1, ids.len());
                let query = sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table} WHERE {column} IN {list}")));
                ids.iter().fold(query, |query, id| query.bind(id.clone())).execute(&mut *tx).await?;
            }
        }
        let slots = self.prune_slots(&mut tx, before_ms, limit).await?;
        tx.commit().await?;
        Ok(Pruned { deployments: ids.len(), slots })
    }

    async fn prune_slots(&self, tx: &mut hokusai_db::Tx, before_ms: i64, limit: u32) -> Result<usize, Error> {
        let sql = format!(
            "SELECT s.account, s.nonce FROM deploy_slots s WHERE s.chain_id = $1 AND s.state IN ('final', 'reverted', 'lost') \
             AND s.updated_at < $2 AND NOT EXISTS (SELECT 1 FROM deploy_deployments d WHERE d.chain_id = s.chain_id \
             AND d.account = s.account AND d.nonce = s.nonce) ORDER BY s.account, s.nonce LIMIT {limit}"
        );
        let query = sqlx::query_as::<_, (String, i64)>(sqlx::AssertSqlSafe(sql));
        let slots = query.bind(integer(self.chain_id)).bind(before_ms).fetch_all(&mut **tx).await?;
        for (account, nonce) in &slots {
            for table in ["deploy_attempts", "deploy_slots"] {
                let sql = format!("DELETE FROM {table} WHERE chain_id = $1 AND account = $2 AND nonce = $3");
                let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(integer(self.chain_id));
                query.bind(account.clone()).bind(*nonce).execute(&mut **tx).await?;
            }
        }
        Ok(slots.len())
    }
}

const IDS_AT_ONCE: usize = 500;

/// What was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Deployments, with what was attached to them.
    pub deployments: usize,
    /// Slots, with their attempts.
    pub slots: usize,
}
