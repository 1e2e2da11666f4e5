//! What a person asks of a deployment through another process: written down here, and obeyed by the sender at its next turn.
//!
//! Invariant: a wish changes no state. Only the sender, under its fence, does.

use alloy::primitives::Address;
use sqlx::AssertSqlSafe;

use super::{
    Deployment, Deployments, Fence, Ledger,
    rows::{self, COLUMNS, DeploymentRow, integer},
};
use crate::error::Error;

/// What can be asked of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Replace its transaction by a dearer one now, rather than when patience has run out.
    Bump,
    /// Do not deploy it: a planned one is refused; for one that was signed, its nonce is used by a cancellation. The others in
    /// its transaction are planned anew. If the transaction is included all the same, it is final: what was sent can win.
    Cancel,
    /// Plan a refused one again, whatever it was refused for. A redriven message does that by itself unless it was its content
    /// that was refused.
    Retry,
}

impl Wish {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bump => "bump",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Bump, Self::Cancel, Self::Retry].into_iter().find(|wish| wish.as_str() == name)
    }

    /// The states in which it can be obeyed.
    fn states(self) -> &'static str {
        match self {
            Self::Bump => "'signed', 'broadcast'",
            Self::Cancel => "'planned', 'signed', 'broadcast'",
            Self::Retry => "'refused'",
        }
    }
}

/// The answer to a wish.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Asked {
    /// The deployment as it stands.
    pub deployment: Deployment,
    /// Whether the wish is written down. It is not where there is nothing to do any more: the state says why.
    pub noted: bool,
}

impl Deployments {
    /// Writes a wish down for the sender of the deployment's account; `None` if there is no such deployment. The last wish
    /// counts. A retry of what does not even pass [`TokenRequest::check`](crate::token::TokenRequest::check) is not noted.
    pub async fn wish(&self, id: &str, wish: Wish) -> Result<Option<Asked>, Error> {
        let mut tx = self.db.write().await?;
        if let Some(row) = rows::by_id(&mut tx, id).await?
            && wish == Wish::Retry
            && row.deployment.request.check().is_err()
        {
            return Ok(Some(Asked { deployment: row.deployment, noted: false }));
        }
        let sql = format!("UPDATE deploy_deployments SET wish = $1 WHERE id = $2 AND state IN ({})", wish.states());
        let noted = sqlx::query(AssertSqlSafe(sql)).bind(wish.as_str()).bind(id.to_owned()).execute(&mut *tx).await?.rows_affected() == 1;
        let row = rows::by_id(&mut tx, id).await?;
        tx.commit().await?;
        Ok(row.map(|row| Asked { deployment: row.deployment, noted }))
    }
}

impl Ledger {
    /// The deployments of which something is asked that can be done.
    pub(crate) async fn wishes(&self) -> Result<Vec<DeploymentRow>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM deploy_deployments WHERE wish IS NOT NULL AND chain_id = $1 AND (state IN ('signed', 'broadcast') \
             OR (registry = $2 AND ((state = 'planned' AND wish = 'cancel') OR (state = 'refused' AND wish = 'retry')))) ORDER BY id LIMIT 100"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(integer(self.chain_id)).bind(self.registry.to_string());
        query.fetch_all(self.db.reader()).await?.iter().map(rows::read).collect()
    }

    /// Forgets the wish for a bump of all who ride on a slot: one bump is for all of them.
    pub(crate) async fn forget_bump(&self, fence: &Fence, account: Address, nonce: u64, now_ms: i64) -> Result<(), Error> {
        let mut tx = self.fenced(fence, now_ms).await?;
        sqlx::query("UPDATE deploy_deployments SET wish = NULL WHERE wish = 'bump' AND chain_id = $1 AND account = $2 AND nonce = $3")
            .bind(integer(self.chain_id))
            .bind(account.to_string())
            .bind(integer(nonce))
            .execute(&mut *tx)
            .await?;
        self.commit(tx, "bump asked", Vec::new()).await
    }
}
