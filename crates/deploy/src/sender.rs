//! The sender: makes planned deployments true.
//!
//! One loop, one turn at a time: hold the lease, look at the chain, attend to the open slots (`sender/attend.rs`), look
//! again at recent finals (`sender/recheck.rs`), and take what waits into a new transaction (`sender/admit.rs`). What to do
//! about a slot is decided by [`crate::deployment::step`]; bytes are signed and handed over in `sender/send.rs`; what became
//! of deployments is worked out in `sender/settle.rs`, and what a failure means for one in `sender/verdict.rs`.
//!
//! Invariants:
//!
//! - Bytes are stored before they are sent, and recovery sends the same bytes.
//! - The ledger owns the nonce. Every signed nonce is used: by its call, by a dearer attempt of it, or by a cancellation.
//! - The sender may be dropped at any await; a sender on the same ledger continues. Shutting down is exactly that.
//! - What another key signed is watched, sent again and settled under a lease of its account; nothing is signed for it.
//! - An outage changes nothing in the ledger. It shows in [`Sender::status`].

mod admit;
mod attend;
mod fees;
mod money;
mod recheck;
mod send;
mod settle;
mod tenure;
mod verdict;
mod wishes;

use std::{sync::Arc, time::Duration};

use alloy::primitives::{Address, U256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::fees::FeePolicy;
use self::tenure::Tenure;
use crate::{
    chain::{ChainView, Finality},
    deployment::{Outage, Patience, SlotState},
    error::Error,
    ledger::{DeploymentRow, Ledger, now_ms},
    rpc::Node,
    signer::Signer,
};

/// How the sender behaves.
#[derive(Debug, Clone)]
pub struct SenderConfig {
    /// When a block is final.
    pub finality: Finality,
    /// How long the lease of the account lasts without renewal; another sender waits that long after a crash.
    pub lease: Duration,
    /// How long a request waits for others to share its transaction; up to ten times as long while others keep coming.
    pub batch_window: Duration,
    /// How often the ledger is asked for requests that another process planned.
    pub idle_poll: Duration,
    /// The first pause between two looks at the chain; it grows while nothing happens.
    pub chain_poll_min: Duration,
    /// The longest pause between two looks at the chain.
    pub chain_poll_max: Duration,
    /// How many transactions may wait for inclusion at the same time. Full ones should fill a block, or this and not the chain
    /// is what bounds a crowd.
    pub max_in_flight: usize,
    /// What may be paid.
    pub fees: FeePolicy,
    /// When patience with a transaction ends.
    pub patience: Patience,
    /// Finals that are younger are looked at again, in case a deeper reorganisation took them.
    pub recheck_window: Duration,
    /// How often they are looked at.
    pub recheck_every: Duration,
    /// The longest pause between two tries during an outage.
    pub outage_pause_max: Duration,
    /// How long a request that failed without a reason waits for its next try; each failure doubles it.
    pub hold_back_min: Duration,
    /// The longest such wait. A try that reverts on the chain costs its gas.
    pub hold_back_max: Duration,
    /// What may be spent within an hour: nothing new is signed above it. What is not settled counts with all it may cost.
    pub max_spend_wei_per_hour: Option<U256>,
    /// Below this balance the log warns.
    pub low_balance_wei: Option<U256>,
    /// Nothing new is signed that may take the balance below this.
    pub min_balance_wei: U256,
}

impl SenderConfig {
    /// The defaults, for a chain of this finality.
    pub fn new(finality: Finality) -> Self {
        Self {
            finality,
            lease: Duration::from_secs(30),
            batch_window: Duration::from_millis(25),
            idle_poll: Duration::from_millis(500),
            chain_poll_min: Duration::from_millis(20),
            chain_poll_max: Duration::from_secs(3),
            max_in_flight: 8,
            fees: FeePolicy::default(),
            patience: Patience { stuck_after_ms: 60_000, resend_after_ms: 3_000, lost_after_ms: 5_000, refused_after_ms: 120_000 },
            recheck_window: Duration::from_secs(3600),
            recheck_every: Duration::from_secs(60),
            outage_pause_max: Duration::from_secs(5),
            hold_back_min: Duration::from_secs(2),
            hold_back_max: Duration::from_secs(3600),
            max_spend_wei_per_hour: None,
            low_balance_wei: None,
            min_balance_wei: U256::ZERO,
        }
    }
}

/// What the sender is doing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SenderStatus {
    /// It has not looked at anything yet.
    Starting,
    /// Another sender holds the account.
    Standby {
        /// Who.
        holder: String,
        /// Until when, in milliseconds since the epoch, unless it renews.
        until_ms: i64,
    },
    /// There is nothing to do.
    Idle,
    /// Deployments are under way.
    Working {
        /// How many deployments wait to be taken into a transaction.
        waiting: usize,
        /// How many transactions are not final yet.
        in_flight: usize,
    },
    /// Nothing moves, for a reason outside. Nothing is lost; it is tried again.
    Outage {
        /// Which.
        outage: Outage,
        /// What was seen.
        detail: String,
        /// Since when, in milliseconds since the epoch.
        since_ms: i64,
    },
    /// It has ended.
    Stopped,
}

/// How long to rest after a turn.
enum Rest {
    /// Nothing to do until somebody plans something.
    Idle,
    /// Something happened: look again soon.
    Soon,
    /// Nothing happened: look again later than last time.
    Longer,
    /// Exactly so long.
    For(Duration),
}

/// The active part of this room: one per chain and account does the work, others stand by.
#[derive(Debug)]
pub struct Sender {
    ledger: Ledger,
    node: Node,
    signer: Arc<dyn Signer>,
    config: SenderConfig,
    holder: String,
    status: watch::Sender<SenderStatus>,
    tenure: Option<Tenure>,
    chain_pause: Duration,
    outage_pause: Duration,
    /// The chain is the one the ledger is about, as far as the node tells.
    chain_is_known: bool,
    /// The log has been told that the balance is low.
    warned_of_balance: bool,
    /// What the registry's first supply adds to the gas of a token, once it was asked. It is fixed for ever.
    supply_gas: Option<u64>,
}

impl Sender {
    /// A sender for the ledger's registry. [`check_chain`](crate::check_chain) has been passed.
    pub fn new(ledger: Ledger, node: Node, signer: Arc<dyn Signer>, config: SenderConfig) -> Self {
        let (status, _) = watch::channel(SenderStatus::Starting);
        let holder = format!("{}/{}", std::process::id(), uuid::Uuid::new_v4());
        let (chain_pause, outage_pause) = (config.chain_poll_min, config.chain_poll_min);
        Self {
            ledger,
            node,
            signer,
            config,
            holder,
            status,
            tenure: None,
            chain_pause,
            outage_pause,
            chain_is_known: false,
            warned_of_balance: false,
            supply_gas: None,
        }
    }

    /// What it is doing.
    pub fn status(&self) -> watch::Receiver<SenderStatus> {
        self.status.subscribe()
    }

    /// Works until `shutdown`, which may interrupt it anywhere.
    ///
    /// # Errors
    ///
    /// Only what waiting will not mend: a ledger that cannot be read, refuses a write, or is about another chain; a journal
    /// that refuses a change.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let outcome = shutdown.run_until_cancelled(self.work()).await.unwrap_or(Ok(()));
        if let Err(error) = self.ledger.give_up_all(&self.holder).await {
            tracing::debug!(%error, "the lease could not be given up; it runs out by itself");
        }
        self.status.send_replace(SenderStatus::Stopped);
        outcome
    }

    async fn work(&mut self) -> Result<(), Error> {
        loop {
            let rest = match self.turn(now_ms()).await {
                Ok(rest) => {
                    self.outage_pause = self.config.chain_poll_min;
                    rest
                }
                Err(error) => self.after_error(error)?,
            };
            self.rest(rest).await;
        }
    }

    async fn rest(&mut self, rest: Rest) {
        let pause = match rest {
            Rest::Idle => self.config.idle_poll,
            Rest::Soon => self.config.chain_poll_min,
            Rest::Longer => (self.chain_pause * 3 / 2).min(self.config.chain_poll_max),
            Rest::For(pause) => {
                tokio::time::sleep(pause).await;
                return;
            }
        };
        self.chain_pause = if matches!(rest, Rest::Longer) { pause } else { self.config.chain_poll_min };
        tokio::select! {
            () = self.ledger.nudged() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Drops what it remembers, and says whether and when to go on.
    fn after_error(&mut self, error: Error) -> Result<Rest, Error> {
        if matches!(error, Error::LeaseLost { .. }) {
            tracing::warn!(%error, "standing by");
            self.tenure = None;
            return Ok(Rest::For(self.config.idle_poll));
        }
        let Some(outage) = error.outage() else {
            return Err(error);
        };
        if let Some(tenure) = &mut self.tenure {
            tenure.renewed_at_ms = i64::MIN;
        }
        self.report_outage(outage, error.to_string());
        self.outage_pause = (self.outage_pause * 2).min(self.config.outage_pause_max);
        Ok(Rest::For(self.outage_pause))
    }

    fn report_outage(&self, outage: Outage, detail: String) {
        let before = self.status.borrow().clone();
        let since_ms = match before {
            SenderStatus::Outage { outage: same, since_ms, .. } if same == outage => since_ms,
            _ => {
                tracing::warn!(%outage, detail, "the sender is waiting");
                now_ms()
            }
        };
        self.status.send_replace(SenderStatus::Outage { outage, detail, since_ms });
    }

    async fn turn(&mut self, now_ms: i64) -> Result<Rest, Error> {
        if let Some(rest) = self.hold_lease(now_ms).await? {
            return Ok(rest);
        }
        self.check_genesis().await?;
        let recheck = self.tenure.as_ref().is_some_and(|tenure| tenure.recheck.is_due(now_ms));
        if recheck {
            self.adopt(now_ms).await?;
        }
        let wishes = self.heed_wishes().await?;
        let waiting = self.ledger.waiting(admit::LOOK_AHEAD, now_ms).await?;
        if self.open().is_empty() && waiting.is_empty() && !recheck {
            self.report_rest(now_ms).await?;
            return Ok(Rest::Idle);
        }
        let view = ChainView::look(&self.node, self.config.finality).await?;
        let mut moved = self.watch_all(&view, wishes, recheck, now_ms).await?;
        let admitted = self.admit(waiting, &view, now_ms).await?;
        moved |= admitted.moved;
        self.report_work(&admitted, now_ms).await?;
        Ok(match admitted.rest {
            Some(window) if !moved => Rest::For(window),
            _ if moved => Rest::Soon,
            _ if self.open().is_empty() && admitted.waiting == 0 => Rest::Idle,
            _ => Rest::Longer,
        })
    }

    /// Attends to everything that was signed. What is in trouble does not keep the rest from being looked at, which may be
    /// its cure; the first trouble is the answer in the end. Whether anything moved.
    async fn watch_all(&mut self, view: &ChainView, wishes: Vec<DeploymentRow>, recheck: bool, now_ms: i64) -> Result<bool, Error> {
        let mut trouble = None;
        let mut moved = self.attend_all(view, now_ms, &mut trouble).await?;
        moved |= set_aside(self.obey(wishes, view).await, &mut trouble)?;
        if recheck {
            moved |= set_aside(self.recheck(view, now_ms).await, &mut trouble)?;
        }
        moved |= set_aside(self.look_for_holes(view, now_ms).await, &mut trouble)?;
        trouble.map_or(Ok(moved), Err)
    }

    /// While anything waits for inclusion, now and then.
    async fn look_for_holes(&mut self, view: &ChainView, now_ms: i64) -> Result<bool, Error> {
        let waits = self.own().any(|slot| slot.state != SlotState::Included);
        let due = |tenure: &mut Tenure| {
            let due = now_ms >= tenure.holes_at_ms;
            if due {
                tenure.holes_at_ms = now_ms + self.config.patience.resend_after_ms;
            }
            due
        };
        if waits && self.tenure.as_mut().is_some_and(due) {
            return Ok(self.fill_holes(view).await?.filled);
        }
        Ok(false)
    }

    async fn report_work(&self, admitted: &admit::Admitted, now_ms: i64) -> Result<(), Error> {
        match (admitted.waiting, self.open().len()) {
            (0, 0) => self.report_rest(now_ms).await?,
            (waiting, in_flight) => self.report(SenderStatus::Working { waiting, in_flight }),
        }
        Ok(())
    }

    /// There is nothing to do now: because there is nothing, or because what there is waits for another try.
    async fn report_rest(&self, now_ms: i64) -> Result<(), Error> {
        match self.ledger.held_back(now_ms).await? {
            Some(deployment) => {
                let reason = deployment.reason.unwrap_or_default();
                self.report_outage(Outage::NodeRefuses, format!("deployment {} waits for another try: {reason}", deployment.id));
            }
            None => self.report(SenderStatus::Idle),
        }
        Ok(())
    }

    fn report(&self, status: SenderStatus) {
        self.status.send_if_modified(|before| {
            let other = *before != status;
            *before = status;
            other
        });
    }

    fn account(&self) -> Address {
        self.signer.address()
    }
}

/// Keeps an outage for later; anything else that went wrong is an error now.
fn set_aside(outcome: Result<bool, Error>, trouble: &mut Option<Error>) -> Result<bool, Error> {
    match outcome {
        Err(error) if error.outage().is_some() => {
            trouble.get_or_insert(error);
            Ok(false)
        }
        other => other,
    }
}
