//! The block log: what must survive of the embedded chain.
//!
//! Data: one row per block: its number, its hash, its header as RLP, and its raw signed transactions as an RLP list.
//! State and receipts are not stored; they are made again by executing the log, and the hash says whether that gave the
//! same. Invariant: a row is inserted once, in a transaction of its own, and never changed; the primary key refuses a
//! second block of the same number, whoever writes it.

use alloy::{
    consensus::{Header, TxEnvelope, transaction::SignerRecoverable as _},
    eips::eip2718::{Decodable2718 as _, Encodable2718 as _},
    primitives::{B256, Bytes},
    rlp::{self, Decodable as _},
};
use hokusai_db::{Database, Migration};
use sqlx::Row as _;
use std::sync::Arc;

use super::{
    Error,
    block::{SealedBlock, SignedTx},
};

/// The table of the block log.
pub const MIGRATIONS: &[Migration] = &[Migration {
    room: "embedded",
    sqlite: None,
    number: 1,
    sql: "CREATE TABLE embedded_blocks (
              number BIGINT NOT NULL PRIMARY KEY,
              hash TEXT NOT NULL,
              header BYTEA NOT NULL,
              transactions BYTEA NOT NULL
          )",
}];

/// How many blocks are read from disk at once.
const PAGE: i64 = 256;

#[derive(Debug)]
pub(super) struct BlockLog {
    db: Database,
}

/// A block as it was recorded.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) hash: B256,
    pub(super) header: Header,
    pub(super) transactions: Vec<SignedTx>,
}

impl BlockLog {
    pub(super) async fn open(db: Database) -> Result<Self, Error> {
        db.migrate(MIGRATIONS).await?;
        Ok(Self { db })
    }

    pub(super) fn place(&self) -> &str {
        self.db.display_url()
    }

    /// Returns once the block is on disk. An error may still mean that it is.
    pub(super) async fn append(&self, block: &SealedBlock) -> Result<(), hokusai_db::Error> {
        let raw: Vec<Bytes> = block.transactions.iter().map(|tx| tx.inner().encoded_2718().into()).collect();
        let mut tx = self.db.write().await?;
        sqlx::query("INSERT INTO embedded_blocks (number, hash, header, transactions) VALUES ($1, $2, $3, $4)")
            .bind(block.header.number.cast_signed())
            .bind(block.hash.to_string())
            .bind(rlp::encode(&block.header))
            .bind(rlp::encode(&raw))
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// The hash of the recorded genesis block.
    pub(super) async fn first_hash(&self) -> Result<Option<B256>, Error> {
        let row = sqlx::query("SELECT hash FROM embedded_blocks WHERE number = 0").fetch_optional(self.db.reader()).await;
        let Some(row) = row.map_err(hokusai_db::Error::from)? else { return Ok(None) };
        let hash: String = row.try_get(0).map_err(hokusai_db::Error::from)?;
        hash.parse().map(Some).map_err(|problem| Error::Damaged { place: self.place().into(), block: 0, problem: Box::new(problem) })
    }

    /// The next page of recorded blocks from `number` on; empty after the last.
    pub(super) async fn page(&self, number: u64) -> Result<Vec<Recorded>, Error> {
        let rows =
            sqlx::query("SELECT number, hash, header, transactions FROM embedded_blocks WHERE number >= $1 ORDER BY number LIMIT $2")
                .bind(number.cast_signed())
                .bind(PAGE)
                .fetch_all(self.db.reader())
                .await
                .map_err(hokusai_db::Error::from)?;
        rows.iter()
            .zip(number..)
            .map(|(row, expected)| {
                read(row, expected).map_err(|problem| Error::Damaged { place: self.place().into(), block: expected, problem })
            })
            .collect()
    }
}

fn read(row: &sqlx::any::AnyRow, expected: u64) -> Result<Recorded, Box<dyn std::error::Error + Send + Sync>> {
    let number: i64 = row.try_get(0)?;
    let header: Vec<u8> = row.try_get(2)?;
    let raw: Vec<u8> = row.try_get(3)?;
    let header = Header::decode(&mut header.as_slice())?;
    if number.cast_unsigned() != expected || header.number != expected {
        return Err(format!("found block {number} (its header says {}) in its place", header.number).into());
    }
    let transactions = Vec::<Bytes>::decode(&mut raw.as_slice())?
        .iter()
        .map(|raw| {
            let tx = TxEnvelope::decode_2718_exact(raw)?;
            Ok(Arc::new(tx.try_into_recovered().map_err(|_| "a signature does not verify")?))
        })
        .collect::<Result<_, Box<dyn std::error::Error + Send + Sync>>>()?;
    Ok(Recorded { hash: row.try_get::<String, _>(1)?.parse()?, header, transactions })
}
