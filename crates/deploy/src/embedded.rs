//! The embedded chain: a whole EVM chain inside this process, for `demo` and `dev`.
//!
//! It speaks the Ethereum JSON-RPC that alloy, ethers, web3.py and `cast` need ([`EmbeddedChain::request`],
//! [`EmbeddedChain::respond`]), so everything above it is the same code as over HTTP ([`EmbeddedTransport`]). A
//! transaction is executed and in a block as soon as it is accepted; those that wait together share a block. There is no
//! background task: the caller who sends does the work.
//!
//! Data: blocks and the state at every height in memory (`block`, `state`), what waits for a nonce or a fee in the `pool`, and,
//! with a store, the block `log` on disk.
//!
//! Invariants:
//!
//! - With a store, a block is on disk before anything of it (receipt, nonce, balance) is visible to anyone. Opening replays the
//!   log and checks every block hash; what was visible once is there again after a crash.
//! - One block at a time is built, under `sealing`; nobody who only reads waits for it.
//! - `latest`, `safe`, `finalized` and `pending` are the same block: there are no reorganisations, a block is final at once.
//!   The pool is not on disk: a transaction that still waits when the process ends is forgotten, as on any node.
//!
//! **When not to use it.** Its accounts' keys are public ([`DEV_KEYS`]), it has one node and no consensus, and its state root
//! is not a Merkle root (no `eth_getProof`). It proves nothing to anyone but its own user; for everything but trying
//! out and developing, use a node. Two processes must not serve the same store.
//!
//! Unlike the main network, blocks made within a second have the same timestamp: their time is the true one.

mod block;
mod execute;
mod log;
mod pool;
mod queries;
mod rpc;
mod simulate;
mod state;
mod transport;

use std::sync::Arc;

use alloy::{
    consensus::Transaction as _,
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use hokusai_db::Database;
pub use log::MIGRATIONS;
use parking_lot::{Mutex, RwLock};
pub use rpc::JsonRpcError;
pub use transport::EmbeddedTransport;

use block::{Chain, SignedTx};
use execute::{BlockBuilder, Candidate};
use log::{BlockLog, Recorded};
use pool::{Pool, Refusal, Runnable};
use state::Snapshot;

/// The private keys of the first accounts of the mnemonic "test test test test test test test test test test test junk",
/// the one anvil and hardhat use. Everybody knows them: whatever is sent to these accounts on a public chain is gone within
/// seconds. [`EmbeddedConfig::default`] gives each of them ether.
pub const DEV_KEYS: [&str; 10] = [
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    "0x92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
    "0x4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
    "0xdbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
    "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
];

/// The chain id of development chains.
pub const DEV_CHAIN_ID: u64 = 31_337;

/// What the genesis block is made of. A store belongs to the settings it was made with.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The chain id transactions must be signed for.
    pub chain_id: u64,
    /// Who has how much, in wei, to begin with.
    pub prefunded: Vec<(Address, U256)>,
    /// How much gas a block may use; a single transaction is also bound by EIP-7825.
    pub block_gas_limit: u64,
    /// The base fee of the genesis block; from there it moves as the protocol says.
    pub base_fee_wei: u64,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        let ten_thousand_ether = U256::from(10_000_000_000_000_000_000_000_u128);
        let address = |key: &str| key.parse::<PrivateKeySigner>().expect("the constants are keys").address();
        Self {
            chain_id: DEV_CHAIN_ID,
            prefunded: DEV_KEYS.iter().map(|key| (address(key), ten_thousand_ether)).collect(),
            block_gas_limit: 30_000_000,
            base_fee_wei: 1_000_000_000,
        }
    }
}

/// Why the chain cannot be opened, or a block cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed; see there whether trying again helps.
    #[error("the embedded chain's store: {0}")]
    Store(#[from] hokusai_db::Error),
    /// The store holds a chain made with other settings.
    #[error(
        "{place} holds an embedded chain with genesis {recorded}, these settings make {expected}: use the settings it was made with, or \
         another database"
    )]
    OtherChain {
        /// Which database.
        place: String,
        /// The genesis hash there.
        recorded: B256,
        /// The genesis hash of the settings.
        expected: B256,
    },
    /// Executing a recorded block again gave something else.
    #[error(
        "block {block} in {place} was recorded as {recorded} but replays as {replayed}: it was written by another version of the program or \
         altered; open it with the version that wrote it, or start over with an empty database"
    )]
    Diverged {
        /// Which database.
        place: String,
        /// Which block.
        block: u64,
        /// The hash on disk.
        recorded: B256,
        /// The hash of what executing it gives; zero if a transaction of it cannot run at all.
        replayed: B256,
    },
    /// A recorded block cannot be read.
    #[error("block {block} in {place} cannot be read ({problem}): the database is damaged; restore it, or start over with an empty one")]
    Damaged {
        /// Which database.
        place: String,
        /// Which block.
        block: u64,
        /// What is wrong.
        problem: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Executing a block failed in a way that is a defect of this program.
    #[error("executing a block failed: {0}")]
    Defect(#[source] tokio::task::JoinError),
}

/// A chain in this process. See the [module](self) for what it promises and when not to use it.
#[derive(Debug)]
pub struct EmbeddedChain {
    core: Arc<Core>,
    log: Option<BlockLog>,
    sealing: tokio::sync::Mutex<Sealing>,
}

/// What only the one who builds a block needs to know.
#[derive(Debug)]
struct Sealing {
    /// Whether the log may hold blocks that memory does not: a commit that failed or was abandoned may have happened.
    in_doubt: bool,
}

/// Everything in memory. Locks are taken pool first, then chain.
#[derive(Debug)]
struct Core {
    config: EmbeddedConfig,
    chain: Arc<RwLock<Chain>>,
    pool: Mutex<Pool>,
}

impl EmbeddedChain {
    /// Opens the chain kept in `store`, or a new one in memory that ends with the process.
    ///
    /// # Errors
    ///
    /// When the store fails, belongs to other settings, or does not replay to what was recorded.
    pub async fn open(store: Option<Database>, config: EmbeddedConfig) -> Result<Arc<Self>, Error> {
        let chain = Arc::new(RwLock::new(Chain::genesis(&config)));
        let log = match store {
            Some(db) => Some(BlockLog::open(db).await?),
            None => None,
        };
        let core = Arc::new(Core { config, chain, pool: Mutex::default() });
        let this = Self { core, log, sealing: tokio::sync::Mutex::new(Sealing { in_doubt: false }) };
        if let Some(log) = &this.log {
            this.core.settle_genesis(log).await?;
            this.core.catch_up(log).await?;
            tracing::info!(store = log.place(), height = this.core.chain.read().height(), "embedded chain opened");
        }
        Ok(Arc::new(this))
    }

    /// The chain id its transactions are signed for.
    pub fn chain_id(&self) -> u64 {
        self.core.config.chain_id
    }

    /// Takes a transaction and returns when it is in a block, or waits in the pool because it must.
    async fn send(&self, tx: SignedTx) -> Result<B256, rpc::SendError> {
        let hash = *tx.tx_hash();
        pool::check(&tx, self.core.config.chain_id, self.core.config.block_gas_limit)?;
        let admitted = self.core.admit(tx);
        if matches!(admitted, Ok(()) | Err(Refusal::AlreadyKnown)) {
            self.seal().await?;
        }
        admitted?;
        Ok(hash)
    }

    /// Builds blocks until nothing is left that could be in one. Safe to abandon at any await: what is then uncertain
    /// is settled by the next call.
    async fn seal(&self) -> Result<(), Error> {
        let mut sealing = self.sealing.lock().await;
        loop {
            if let (Some(log), true) = (&self.log, sealing.in_doubt) {
                self.core.catch_up(log).await?;
                sealing.in_doubt = false;
            }
            if self.core.runnable().is_empty() {
                return Ok(());
            }
            let core = self.core.clone();
            let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
            let built = tokio::task::spawn_blocking(move || core.build(now)).await.map_err(Error::Defect)?;
            let Some(candidate) = built else { return Ok(()) };
            if let Some(log) = &self.log {
                sealing.in_doubt = true;
                match log.append(&candidate.block).await {
                    Ok(()) => sealing.in_doubt = false,
                    // Someone else wrote a block of this number: take theirs first.
                    Err(hokusai_db::Error::Exists(_)) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            self.core.commit(candidate);
        }
    }

    /// For a caller who asks what became of a transaction: one whose sender was dropped before its block was built must
    /// not wait for the next sender. Failing to build it is not this caller's failure.
    async fn finish_sending(&self) {
        if self.core.runnable().is_empty() {
            return;
        }
        if let Err(error) = self.seal().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the embedded chain could not build a block");
        }
    }
}

impl Core {
    fn snapshot(&self, height: u64) -> Snapshot {
        Snapshot { chain: self.chain.clone(), height }
    }

    fn admit(&self, tx: SignedTx) -> Result<(), Refusal> {
        let mut pool = self.pool.lock();
        let account = self.chain.read().account(tx.signer());
        pool.admit(tx, account)
    }

    fn runnable(&self) -> Runnable {
        let pool = self.pool.lock();
        let chain = self.chain.read();
        pool.runnable(chain.head().next_base_fee(), |sender| chain.account(sender))
    }

    /// The next block from what waits; none if nothing of it can run.
    fn build(&self, now: u64) -> Option<Candidate> {
        let (height, timestamp) = {
            let chain = self.chain.read();
            (chain.height(), now.max(chain.head().header.timestamp))
        };
        let mut builder = BlockBuilder::after(self.snapshot(height), self.config.chain_id, timestamp);
        let mut waiting = self.runnable();
        while let Some((tx, run)) = waiting.next() {
            if tx.gas_limit() > builder.gas_left() {
                waiting.skip(run);
                continue;
            }
            if let Err(error) = builder.include(tx.clone()) {
                waiting.skip(run);
                if !execute::may_run_later(&error) {
                    tracing::warn!(transaction = %tx.tx_hash(), %error, "dropped a transaction that cannot run");
                    self.pool.lock().drop_one(&tx);
                }
            }
        }
        (!builder.is_empty()).then(|| builder.finish())
    }

    /// Makes a block part of the chain, visible to all.
    fn commit(&self, candidate: Candidate) {
        let block = Arc::new(candidate.block);
        tracing::debug!(block = block.header.number, transactions = block.transactions.len(), gas = block.header.gas_used, "block");
        let mut pool = self.pool.lock();
        let mut chain = self.chain.write();
        chain.push(block.clone(), candidate.changes);
        for tx in &block.transactions {
            let next = chain.account(tx.signer()).map_or(0, |account| account.nonce);
            pool.prune(tx.signer(), next);
        }
    }

    async fn settle_genesis(&self, log: &BlockLog) -> Result<(), Error> {
        let genesis = self.chain.read().head().clone();
        let recorded = match log.first_hash().await? {
            Some(recorded) => recorded,
            None => match log.append(&genesis).await {
                Ok(()) => genesis.hash,
                Err(hokusai_db::Error::Exists(_)) => log.first_hash().await?.unwrap_or_default(),
                Err(error) => return Err(error.into()),
            },
        };
        if recorded != genesis.hash {
            return Err(Error::OtherChain { place: log.place().into(), recorded, expected: genesis.hash });
        }
        Ok(())
    }

    /// Executes the blocks of the log that memory does not hold.
    async fn catch_up(self: &Arc<Self>, log: &BlockLog) -> Result<(), Error> {
        loop {
            let next = self.chain.read().height() + 1;
            let page = log.page(next).await?;
            if page.is_empty() {
                return Ok(());
            }
            let core = self.clone();
            let replayed = tokio::task::spawn_blocking(move || page.into_iter().try_for_each(|recorded| core.replay(recorded)));
            replayed.await.map_err(Error::Defect)?.map_err(|(block, recorded, replayed)| Error::Diverged {
                place: log.place().into(),
                block,
                recorded,
                replayed,
            })?;
        }
    }

    /// Executes a recorded block and commits it if it comes out as recorded; otherwise its number, the recorded hash and
    /// the one that came out.
    fn replay(&self, recorded: Recorded) -> Result<(), (u64, B256, B256)> {
        let number = recorded.header.number;
        let diverged = |replayed| (number, recorded.hash, replayed);
        let mut builder = BlockBuilder::after(self.snapshot(number - 1), self.config.chain_id, recorded.header.timestamp);
        for tx in recorded.transactions {
            builder.include(tx).map_err(|_| diverged(B256::ZERO))?;
        }
        let candidate = builder.finish();
        if candidate.block.hash != recorded.hash {
            return Err(diverged(candidate.block.hash));
        }
        self.commit(candidate);
        Ok(())
    }
}
