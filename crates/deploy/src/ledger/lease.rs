//! The lease by which one sender is active per chain and account.
//!
//! Each grant raises the fence number. A sender's write begins by extending its own lease under its own fence; if another
//! sender was granted the lease since, that touches no row, and the write does not happen. Times are this host's: clocks
//! that disagree can make two senders believe in themselves, but only one of them can write.

use alloy::primitives::Address;
use hokusai_db::Tx;
use sqlx::Row;

use super::{Ledger, rows};
use crate::error::Error;

/// The right to write, as granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) account: Address,
    pub(crate) holder: String,
    pub(crate) number: i64,
    pub(crate) lease_ms: i64,
}

/// The answer to a request for the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Grant {
    Ours(Fence),
    HeldBy { holder: String, expires_at_ms: i64 },
}

impl Ledger {
    /// Takes the lease if it is free, has run out, or is this holder's own.
    pub(crate) async fn acquire(&self, account: Address, holder: &str, lease_ms: i64, now_ms: i64) -> Result<Grant, Error> {
        let mut tx = self.db.write().await?;
        sqlx::query(
            "INSERT INTO deploy_leases (chain_id, account, holder, fence, expires_at) VALUES ($1, $2, '', 0, 0) ON CONFLICT DO NOTHING",
        )
        .bind(rows::integer(self.chain_id))
        .bind(account.to_string())
        .execute(&mut *tx)
        .await?;
        let taken = sqlx::query(
            "UPDATE deploy_leases SET holder = $1, fence = fence + 1, expires_at = $2 \
             WHERE chain_id = $3 AND account = $4 AND (expires_at <= $5 OR holder = $1)",
        )
        .bind(holder.to_owned())
        .bind(now_ms + lease_ms)
        .bind(rows::integer(self.chain_id))
        .bind(account.to_string())
        .bind(now_ms)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        let row = sqlx::query("SELECT holder, fence, expires_at FROM deploy_leases WHERE chain_id = $1 AND account = $2")
            .bind(rows::integer(self.chain_id))
            .bind(account.to_string())
            .fetch_one(&mut *tx)
            .await?;
        let grant = if taken == 1 {
            Grant::Ours(Fence { account, holder: holder.to_owned(), number: row.try_get("fence")?, lease_ms })
        } else {
            Grant::HeldBy { holder: row.try_get("holder")?, expires_at_ms: row.try_get("expires_at")? }
        };
        self.commit(tx, "acquire", Vec::new()).await?;
        Ok(grant)
    }

    /// Begins a write that happens only while the lease is ours, and extends the lease with it.
    pub(crate) async fn fenced(&self, fence: &Fence, now_ms: i64) -> Result<Tx, Error> {
        let mut tx = self.db.write().await?;
        if self.touch(&mut tx, fence, now_ms + fence.lease_ms).await? {
            Ok(tx)
        } else {
            Err(Error::LeaseLost { chain_id: self.chain_id, account: fence.account })
        }
    }

    /// Extends the lease.
    pub(crate) async fn renew(&self, fence: &Fence, now_ms: i64) -> Result<(), Error> {
        let tx = self.fenced(fence, now_ms).await?;
        self.commit(tx, "renew", Vec::new()).await
    }

    /// Gives up whatever this holder has been granted, also if it was stopped before it heard of it, so that the next sender
    /// need not wait for its end.
    pub(crate) async fn give_up_all(&self, holder: &str) -> Result<(), Error> {
        let mut tx = self.db.write().await?;
        let sql = "UPDATE deploy_leases SET expires_at = 0 WHERE chain_id = $1 AND holder = $2";
        sqlx::query(sql).bind(rows::integer(self.chain_id)).bind(holder.to_owned()).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Gives one lease up.
    pub(crate) async fn give_up(&self, fence: &Fence) -> Result<(), Error> {
        let mut tx = self.db.write().await?;
        self.touch(&mut tx, fence, 0).await?;
        Ok(tx.commit().await?)
    }

    async fn touch(&self, tx: &mut Tx, fence: &Fence, expires_at_ms: i64) -> Result<bool, Error> {
        let touched =
            sqlx::query("UPDATE deploy_leases SET expires_at = $1 WHERE chain_id = $2 AND account = $3 AND holder = $4 AND fence = $5")
                .bind(expires_at_ms)
                .bind(rows::integer(self.chain_id))
                .bind(fence.account.to_string())
                .bind(fence.holder.clone())
                .bind(fence.number)
                .execute(&mut **tx)
                .await?
                .rows_affected();
        Ok(touched == 1)
    }
}
