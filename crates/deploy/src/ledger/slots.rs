//! Slots, attempts and their riders, as the sender writes them. Every write is fenced.

use alloy::primitives::{Address, B256};
use hokusai_db::Tx;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use super::{
    Deployment, Fence, Ledger,
    fates::{Fate, meet},
    rows::{self, COLUMNS, DeploymentRow, Ride, integer, natural, parsed, parsed_or_null, unreadable},
};
use crate::{
    deployment::{DeploymentState, Heard, SlotFacts, SlotState},
    error::Error,
    journal::Change,
};

/// What an attempt does with its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It registers the riders.
    Register,
    /// It uses the nonce and does nothing else.
    Cancel,
}

/// A nonce with everything that was signed for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slot {
    pub(crate) account: Address,
    pub(crate) nonce: u64,
    pub(crate) state: SlotState,
    /// Since when it stands there.
    pub(crate) since_ms: i64,
    pub(crate) inclusion: Option<Inclusion>,
    /// Oldest first; there is at least one.
    pub(crate) attempts: Vec<Attempt>,
}

/// Which attempt stands in which block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inclusion {
    pub(crate) hash: B256,
    pub(crate) block_number: u64,
    pub(crate) block_hash: B256,
}

/// Where a slot comes to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: SlotState,
    pub(crate) inclusion: Option<Inclusion>,
}

/// Signed bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    pub(crate) purpose: Purpose,
    pub(crate) hash: B256,
    pub(crate) raw: Vec<u8>,
    pub(crate) gas_limit: u64,
    pub(crate) max_fee_wei: u128,
    pub(crate) tip_wei: u128,
    pub(crate) signed_at_ms: i64,
    pub(crate) sent_at_ms: Option<i64>,
}

impl Slot {
    pub(crate) fn latest(&self) -> &Attempt {
        self.attempts.last().expect("a slot is stored together with its first attempt")
    }

    pub(crate) fn key(&self) -> (Address, u64) {
        (self.account, self.nonce)
    }

    pub(crate) fn facts(&self, taken_since_ms: Option<i64>, heard: Heard) -> SlotFacts {
        let Attempt { number, purpose, signed_at_ms, sent_at_ms, .. } = *self.latest();
        SlotFacts {
            state: self.state,
            since_ms: self.since_ms,
            signed_at_ms,
            sent_at_ms,
            taken_since_ms,
            heard,
            bumped: number > 1,
            cancelled: purpose == Purpose::Cancel,
        }
    }
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Cancel => "cancel",
        }
    }
}

impl Ledger {
    /// Planned deployments whose turn it is, the oldest first.
    pub(crate) async fn waiting(&self, limit: usize, now_ms: i64) -> Result<Vec<DeploymentRow>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM deploy_deployments WHERE state = 'planned' AND chain_id = $1 AND registry = $2 AND not_before <= $3 \
             ORDER BY created_at, id LIMIT {limit}"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(integer(self.chain_id))
            .bind(self.registry.to_string())
            .bind(now_ms)
            .fetch_all(self.db.reader())
            .await?;
        rows.iter().map(rows::read).collect()
    }

    /// A planned deployment that waits for another try: the one that has waited longest.
    pub(crate) async fn held_back(&self, now_ms: i64) -> Result<Option<Deployment>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM deploy_deployments WHERE state = 'planned' AND chain_id = $1 AND registry = $2 AND not_before > $3 \
             ORDER BY created_at, id LIMIT 1"
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(integer(self.chain_id))
            .bind(self.registry.to_string())
            .bind(now_ms)
            .fetch_optional(self.db.reader())
            .await?;
        row.map(|row| Ok(rows::read(&row)?.deployment)).transpose()
    }

    /// How many planned deployments are for other registries of this chain.
    pub(crate) async fn planned_elsewhere(&self) -> Result<Vec<(String, i64)>, Error> {
        let sql = "SELECT registry, COUNT(*) FROM deploy_deployments WHERE state = 'planned' AND chain_id = $1 AND registry <> $2 GROUP BY registry";
        let rows = sqlx::query_as(sql).bind(integer(self.chain_id)).bind(self.registry.to_string());
        Ok(rows.fetch_all(self.db.reader()).await?)
    }

    /// Final deployments without a slot that became final since, by their ids: found on the chain rather than sent.
    pub(crate) async fn found_since(&self, since_ms: i64, after: &str, limit: usize) -> Result<Vec<DeploymentRow>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM deploy_deployments WHERE state = 'final' AND nonce IS NULL AND chain_id = $1 AND settled_at >= $2 \
             AND id > $3 ORDER BY id LIMIT {limit}"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(integer(self.chain_id))
            .bind(since_ms)
            .bind(after.to_owned())
            .fetch_all(self.db.reader())
            .await?;
        rows.iter().map(rows::read).collect()
    }

    /// The slots of an account that are not settled, in the order of their nonces.
    pub(crate) async fn open_slots(&self, account: Address) -> Result<Vec<Slot>, Error> {
        self.slots(account, "state IN ('signed', 'broadcast', 'included') ORDER BY nonce", 0, 0).await
    }

    /// The other accounts that have slots open on this chain.
    pub(crate) async fn other_accounts(&self, account: Address) -> Result<Vec<Address>, Error> {
        let sql = "SELECT DISTINCT account FROM deploy_slots WHERE chain_id = $1 AND account <> $2 \
                   AND state IN ('signed', 'broadcast', 'included') ORDER BY account";
        let rows = sqlx::query(sql).bind(integer(self.chain_id)).bind(account.to_string()).fetch_all(self.db.reader()).await?;
        rows.iter().map(|row| parsed(row, "account")).collect()
    }

    /// The slots of an account from a nonce on that were settled since, in the order of their nonces.
    pub(crate) async fn settled_slots(&self, account: Address, since_ms: i64, from: u64, limit: u32) -> Result<Vec<Slot>, Error> {
        self.slots(account, &format!("state IN ('final', 'reverted') ORDER BY nonce LIMIT {limit}"), since_ms, from).await
    }

    /// The slots of an account from a nonce on that came to their end in whatever way, in the order of their nonces.
    pub(crate) async fn ended_slots(&self, account: Address, from: u64, limit: u32) -> Result<Vec<Slot>, Error> {
        self.slots(account, &format!("state IN ('final', 'reverted', 'lost') ORDER BY nonce LIMIT {limit}"), 0, from).await
    }

    async fn slots(&self, account: Address, condition: &str, since_ms: i64, from: u64) -> Result<Vec<Slot>, Error> {
        let sql = format!(
            "SELECT nonce, state, included_hash, block_number, block_hash, updated_at FROM deploy_slots \
             WHERE chain_id = $1 AND account = $2 AND updated_at >= $3 AND nonce >= $4 AND {condition}"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(integer(self.chain_id))
            .bind(account.to_string())
            .bind(since_ms)
            .bind(integer(from))
            .fetch_all(self.db.reader())
            .await?;
        let mut slots = Vec::with_capacity(rows.len());
        for row in &rows {
            let nonce = natural(row.try_get("nonce")?);
            slots.push(read_slot(row, account, nonce, self.attempts(account, nonce).await?)?);
        }
        Ok(slots)
    }

    async fn attempts(&self, account: Address, nonce: u64) -> Result<Vec<Attempt>, Error> {
        let rows = sqlx::query("SELECT * FROM deploy_attempts WHERE chain_id = $1 AND account = $2 AND nonce = $3 ORDER BY number")
            .bind(integer(self.chain_id))
            .bind(account.to_string())
            .bind(integer(nonce))
            .fetch_all(self.db.reader())
            .await?;
        rows.iter().map(read_attempt).collect()
    }

    /// The nonces that the ledger holds from `from` on.
    pub(crate) async fn nonces_from(&self, account: Address, from: u64) -> Result<Vec<u64>, Error> {
        let nonces: Vec<i64> =
            sqlx::query_scalar("SELECT nonce FROM deploy_slots WHERE chain_id = $1 AND account = $2 AND nonce >= $3 ORDER BY nonce")
                .bind(integer(self.chain_id))
                .bind(account.to_string())
                .bind(integer(from))
                .fetch_all(self.db.reader())
                .await?;
        Ok(nonces.into_iter().map(natural).collect())
    }

    /// The deployments that ride on a slot, in the order of the call.
    pub(crate) async fn riders(&self, account: Address, nonce: u64) -> Result<Vec<DeploymentRow>, Error> {
        let mut connection = self.db.reader().acquire().await?;
        rows::riders(&mut connection, self.chain_id, &account.to_string(), nonce).await
    }

    /// Stores a new slot with its first attempt, and puts the deployments on it. Only a sender moves planned deployments, and
    /// only one at a time: what it read as planned still is.
    pub(crate) async fn open_slot(
        &self,
        fence: &Fence,
        nonce: u64,
        attempt: &Attempt,
        riders: &[Deployment],
        now_ms: i64,
    ) -> Result<Slot, Error> {
        let mut tx = self.fenced(fence, now_ms).await?;
        let account = fence.account.to_string();
        sqlx::query(
            "INSERT INTO deploy_slots (chain_id, account, nonce, registry, state, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, 'signed', $5, $5)",
        )
        .bind(integer(self.chain_id))
        .bind(account.clone())
        .bind(integer(nonce))
        .bind(self.registry.to_string())
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        self.insert_attempt(&mut tx, &account, nonce, attempt).await?;
        rows::board(&mut tx, riders, &attempt.hash, (&account, nonce), now_ms).await?;
        let boarded = |rider: &Deployment| Deployment {
            state: DeploymentState::Signed,
            transaction_hash: Some(attempt.hash),
            reason: None,
            updated_at_ms: now_ms,
            ..rider.clone()
        };
        let changes = riders.iter().map(|rider| Change::new(boarded(rider), Some(rider.state))).collect();
        self.commit(tx, "sign", changes).await?;
        Ok(Slot {
            account: fence.account,
            nonce,
            state: SlotState::Signed,
            since_ms: now_ms,
            inclusion: None,
            attempts: vec![attempt.clone()],
        })
    }

    /// Stores a further attempt of a slot.
    pub(crate) async fn add_attempt(&self, fence: &Fence, nonce: u64, attempt: &Attempt, now_ms: i64) -> Result<(), Error> {
        let mut tx = self.fenced(fence, now_ms).await?;
        self.insert_attempt(&mut tx, &fence.account.to_string(), nonce, attempt).await?;
        self.commit(tx, "bump", Vec::new()).await
    }

    async fn insert_attempt(&self, tx: &mut Tx, account: &str, nonce: u64, attempt: &Attempt) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO deploy_attempts (chain_id, account, nonce, number, purpose, hash, raw, gas_limit, max_fee_wei, tip_wei, signed_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(integer(self.chain_id))
        .bind(account.to_owned())
        .bind(integer(nonce))
        .bind(i64::from(attempt.number))
        .bind(attempt.purpose.as_str())
        .bind(attempt.hash.to_string())
        .bind(attempt.raw.clone())
        .bind(integer(attempt.gas_limit))
        .bind(attempt.max_fee_wei.to_string())
        .bind(attempt.tip_wei.to_string())
        .bind(attempt.signed_at_ms)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Moves a slot and its riders to a state in which the riders stay. `sent` notes that the latest attempt was handed over.
    pub(crate) async fn move_slot(&self, fence: &Fence, slot: &Slot, to: Standing, sent: bool, now_ms: i64) -> Result<(), Error> {
        let Standing { state, inclusion } = to;
        let mut tx = self.fenced(fence, now_ms).await?;
        let account = fence.account.to_string();
        if sent {
            sqlx::query("UPDATE deploy_attempts SET sent_at = $1 WHERE chain_id = $2 AND account = $3 AND nonce = $4 AND number = $5")
                .bind(now_ms)
                .bind(integer(self.chain_id))
                .bind(account.clone())
                .bind(integer(slot.nonce))
                .bind(i64::from(slot.latest().number))
                .execute(&mut *tx)
                .await?;
        }
        let mut changes = Vec::new();
        if state != slot.state || inclusion != slot.inclusion {
            self.write_slot(&mut tx, &account, slot.nonce, to, now_ms).await?;
            let hash = inclusion.map_or(slot.latest().hash, |inclusion| inclusion.hash);
            let block_number = inclusion.map(|inclusion| inclusion.block_number);
            let riders = rows::riders(&mut tx, self.chain_id, &account, slot.nonce).await?;
            rows::carry(&mut tx, self.chain_id, (&account, slot.nonce), state.of_riders(), (&hash, block_number), now_ms).await?;
            for rider in riders {
                let moved = Deployment {
                    state: state.of_riders(),
                    transaction_hash: Some(hash),
                    block_number,
                    settled_at_ms: None,
                    gas_used: None,
                    fee_wei: None,
                    outcome: None,
                    updated_at_ms: now_ms,
                    ..rider.deployment.clone()
                };
                if moved.state != rider.deployment.state {
                    changes.push(Change::new(moved, Some(rider.deployment.state)));
                }
            }
        }
        self.commit(tx, state.as_str(), changes).await
    }

    /// Ends a slot, and gives each of its riders its fate. Final riders stay on it; the others leave.
    pub(crate) async fn end_slot(
        &self,
        fence: &Fence,
        slot: &Slot,
        to: Standing,
        fates: Vec<(DeploymentRow, Fate)>,
        now_ms: i64,
    ) -> Result<(), Error> {
        let mut tx = self.fenced(fence, now_ms).await?;
        let account = fence.account.to_string();
        self.write_slot(&mut tx, &account, slot.nonce, to, now_ms).await?;
        let mut changes = Vec::with_capacity(fates.len());
        for (rider, fate) in fates {
            let stays = matches!(fate, Fate::Final(_));
            let ride = Ride { account: &account, nonce: slot.nonce, item: rider.item.unwrap_or_default() };
            changes.extend(meet(&mut tx, rider, fate, stays.then_some(&ride), now_ms).await?);
        }
        self.commit(tx, to.state.as_str(), changes).await
    }

    /// Gives deployments that ride on no slot their fates.
    pub(crate) async fn settle_waiting(&self, fence: &Fence, fates: Vec<(DeploymentRow, Fate)>, now_ms: i64) -> Result<(), Error> {
        if fates.is_empty() {
            return Ok(());
        }
        let mut tx = self.fenced(fence, now_ms).await?;
        let mut changes = Vec::with_capacity(fates.len());
        for (row, fate) in fates {
            changes.extend(meet(&mut tx, row, fate, None, now_ms).await?);
        }
        self.commit(tx, "settle", changes).await
    }

    async fn write_slot(&self, tx: &mut Tx, account: &str, nonce: u64, to: Standing, now_ms: i64) -> Result<(), Error> {
        let Standing { state, inclusion } = to;
        sqlx::query(
            "UPDATE deploy_slots SET state = $1, included_hash = $2, block_number = $3, block_hash = $4, updated_at = $5 \
             WHERE chain_id = $6 AND account = $7 AND nonce = $8",
        )
        .bind(state.as_str())
        .bind(inclusion.map(|inclusion| inclusion.hash.to_string()))
        .bind(inclusion.map(|inclusion| integer(inclusion.block_number)))
        .bind(inclusion.map(|inclusion| inclusion.block_hash.to_string()))
        .bind(now_ms)
        .bind(integer(self.chain_id))
        .bind(account.to_owned())
        .bind(integer(nonce))
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

fn read_slot(row: &AnyRow, account: Address, nonce: u64, attempts: Vec<Attempt>) -> Result<Slot, Error> {
    let state: String = row.try_get("state")?;
    let state = SlotState::parse(&state).ok_or_else(|| unreadable("slots", &nonce.to_string(), &state))?;
    if attempts.is_empty() {
        return Err(unreadable("slots", &nonce.to_string(), &"it has no attempt"));
    }
    let inclusion = match (parsed_or_null(row, "included_hash")?, parsed_or_null(row, "block_hash")?) {
        (Some(hash), Some(block_hash)) => {
            let block_number = row.try_get::<Option<i64>, _>("block_number")?.map(natural).unwrap_or_default();
            Some(Inclusion { hash, block_number, block_hash })
        }
        _ => None,
    };
    Ok(Slot { account, nonce, state, since_ms: row.try_get("updated_at")?, inclusion, attempts })
}

fn read_attempt(row: &AnyRow) -> Result<Attempt, Error> {
    let purpose: String = row.try_get("purpose")?;
    Ok(Attempt {
        number: u32::try_from(row.try_get::<i64, _>("number")?).unwrap_or(u32::MAX),
        purpose: if purpose == "cancel" { Purpose::Cancel } else { Purpose::Register },
        hash: parsed(row, "hash")?,
        raw: row.try_get("raw")?,
        gas_limit: natural(row.try_get("gas_limit")?),
        max_fee_wei: parsed(row, "max_fee_wei")?,
        tip_wei: parsed(row, "tip_wei")?,
        signed_at_ms: row.try_get("signed_at")?,
        sent_at_ms: row.try_get("sent_at")?,
    })
}
