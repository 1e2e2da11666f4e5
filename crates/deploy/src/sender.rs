//! The sender: makes planned deployments true.
//!
//! One loop, one turn at a time: hold the lease, look at the chain, attend to the open slots (`sender/attend.rs`), look
//! again at recent finals (`sender/recheck.rs`), and take what waits into a new transaction (`sender/admit.rs`). What to do
//! about a slot is decided by [`crate::deployment::step`]; what became of deployments is worked out in `sender/settle.rs`.
//!
//! Invariants:
//!
//! - Bytes are stored before they are sent, and recovery sends the same bytes.
//! - The ledger owns the nonce. Every signed nonce is used: by its call, by a dearer attempt of it, or by a cancellation.
//! - The sender may be dropped at any await; a sender on the same ledger continues. Shutting down is exactly that.
//! - An outage changes nothing in the ledger. It shows in [`Sender::status`].

mod admit;
mod attend;
mod fees;
mod recheck;
mod settle;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy::primitives::Address;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::fees::FeePolicy;
use self::recheck::Recheck;
use crate::{
    chain::{ChainView, Finality},
    deployment::{Outage, Patience, SlotState},
    error::Error,
    ledger::{Fence, Grant, Ledger, now_ms, slots::Slot},
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
    /// How long a request waits for others to share its transaction.
    pub batch_window: Duration,
    /// How often the ledger is asked for requests that another process planned.
    pub idle_poll: Duration,
    /// The first pause between two looks at the chain; it grows while nothing happens.
    pub chain_poll_min: Duration,
    /// The longest pause between two looks at the chain.
    pub chain_poll_max: Duration,
    /// How many transactions may wait for inclusion at the same time.
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
            max_in_flight: 4,
            fees: FeePolicy::default(),
            patience: Patience { stuck_after_ms: 60_000, resend_after_ms: 3_000, lost_after_ms: 5_000 },
            recheck_window: Duration::from_secs(3600),
            recheck_every: Duration::from_secs(60),
            outage_pause_max: Duration::from_secs(5),
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
}

/// What a sender knows while it holds the lease. Only it writes, so what it remembers is what the ledger holds; after any
/// error it is read again.
#[derive(Debug)]
struct Tenure {
    fence: Fence,
    renewed_at_ms: i64,
    open: Vec<Slot>,
    recheck: Recheck,
    holes_at_ms: i64,
    /// Nonces that look used by somebody else, and since when.
    taken: BTreeMap<u64, i64>,
}

impl Sender {
    /// A sender for the ledger's registry. [`check_chain`](crate::check_chain) has been passed.
    pub fn new(ledger: Ledger, node: Node, signer: Arc<dyn Signer>, config: SenderConfig) -> Self {
        let (status, _) = watch::channel(SenderStatus::Starting);
        let holder = format!("{}/{}", std::process::id(), uuid::Uuid::new_v4());
        let (chain_pause, outage_pause) = (config.chain_poll_min, config.chain_poll_min);
        Self { ledger, node, signer, config, holder, status, tenure: None, chain_pause, outage_pause }
    }

    /// What it is doing.
    pub fn status(&self) -> watch::Receiver<SenderStatus> {
        self.status.subscribe()
    }

    /// Works until `shutdown`, which may interrupt it anywhere.
    ///
    /// # Errors
    ///
    /// Only what waiting will not mend: a ledger that cannot be read or refuses a write, a journal that refuses a change.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let outcome = shutdown.run_until_cancelled(self.work()).await.unwrap_or(Ok(()));
        if let Some(tenure) = self.tenure.take()
            && let Err(error) = self.ledger.give_up(&tenure.fence).await
        {
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
        let waiting = self.ledger.waiting(admit::LOOK_AHEAD).await?;
        let in_flight = self.open().len();
        let recheck = self.tenure.as_ref().is_some_and(|tenure| tenure.recheck.is_due(now_ms));
        if in_flight == 0 && waiting.is_empty() && !recheck {
            self.status.send_if_modified(|status| replace_if_other(status, SenderStatus::Idle));
            return Ok(Rest::Idle);
        }
        let view = ChainView::look(&self.node, self.config.finality).await?;
        let mut moved = self.attend_all(&view, now_ms).await?;
        if recheck {
            moved |= self.recheck(&view, now_ms).await?;
        }
        moved |= self.look_for_holes(&view, now_ms).await?;
        let admitted = self.admit(waiting, &view, now_ms).await?;
        self.report_work(&admitted);
        Ok(match admitted.rest {
            Some(window) if !moved => Rest::For(window),
            _ if moved || admitted.moved => Rest::Soon,
            _ if self.open().is_empty() && admitted.waiting == 0 => Rest::Idle,
            _ => Rest::Longer,
        })
    }

    /// While anything waits for inclusion, now and then.
    async fn look_for_holes(&mut self, view: &ChainView, now_ms: i64) -> Result<bool, Error> {
        let waits = self.open().iter().any(|slot| slot.state != SlotState::Included);
        let due = |tenure: &mut Tenure| {
            let due = now_ms >= tenure.holes_at_ms;
            if due {
                tenure.holes_at_ms = now_ms + self.config.patience.resend_after_ms;
            }
            due
        };
        if waits && self.tenure.as_mut().is_some_and(due) {
            return self.fill_holes(view).await;
        }
        Ok(false)
    }

    fn report_work(&self, admitted: &admit::Admitted) {
        let in_flight = self.open().len();
        let status = match (admitted.waiting, in_flight) {
            (0, 0) => SenderStatus::Idle,
            (waiting, in_flight) => SenderStatus::Working { waiting, in_flight },
        };
        self.status.send_if_modified(|before| replace_if_other(before, status));
    }

    /// Takes the lease or renews it; `Some` if another sender has it.
    async fn hold_lease(&mut self, now_ms: i64) -> Result<Option<Rest>, Error> {
        let lease_ms = i64::try_from(self.config.lease.as_millis()).unwrap_or(i64::MAX);
        if let Some(tenure) = &mut self.tenure {
            if now_ms.saturating_sub(tenure.renewed_at_ms) < lease_ms / 3 {
                return Ok(None);
            }
            self.ledger.renew(&tenure.fence, now_ms).await?;
            tenure.open = self.ledger.open_slots(tenure.fence.account).await?;
            tenure.renewed_at_ms = now_ms;
            return Ok(None);
        }
        match self.ledger.acquire(self.account(), &self.holder, lease_ms, now_ms).await? {
            Grant::Ours(fence) => {
                let open = self.ledger.open_slots(fence.account).await?;
                self.warn_of_other_accounts().await?;
                tracing::info!(account = %fence.account, fence = fence.number, open = open.len(), "holding the deployer account");
                self.tenure = Some(Tenure {
                    fence,
                    renewed_at_ms: now_ms,
                    open,
                    recheck: Recheck::due(),
                    holes_at_ms: now_ms,
                    taken: BTreeMap::new(),
                });
                Ok(None)
            }
            Grant::HeldBy { holder, expires_at_ms } => {
                let status = SenderStatus::Standby { holder, until_ms: expires_at_ms };
                self.status.send_if_modified(|before| replace_if_other(before, status));
                let left = u64::try_from(expires_at_ms - now_ms).unwrap_or(0);
                Ok(Some(Rest::For(Duration::from_millis(left.max(1)).min(self.config.idle_poll))))
            }
        }
    }

    /// What another key signed can only be finished with that key: its nonces are not ours.
    async fn warn_of_other_accounts(&self) -> Result<(), Error> {
        for (account, slots) in self.ledger.open_slots_of_others(self.account()).await? {
            tracing::warn!(account, slots, "transactions of another deployer account are unfinished; start a worker with its key");
        }
        Ok(())
    }

    fn account(&self) -> Address {
        self.signer.address()
    }

    fn fence(&self) -> Result<&Fence, Error> {
        let lost = Error::LeaseLost { chain_id: self.ledger.chain_id, account: self.account() };
        self.tenure.as_ref().map(|tenure| &tenure.fence).ok_or(lost)
    }

    fn open(&self) -> &[Slot] {
        self.tenure.as_ref().map_or(&[], |tenure| &tenure.open)
    }

    /// Remembers a slot as it stands now: among the open ones, or not.
    fn remember(&mut self, slot: Slot) {
        if let Some(tenure) = &mut self.tenure {
            tenure.open.retain(|other| other.nonce != slot.nonce);
            if slot.state.is_open() {
                let at = tenure.open.partition_point(|other| other.nonce < slot.nonce);
                tenure.open.insert(at, slot);
            }
        }
    }
}

fn replace_if_other(status: &mut SenderStatus, new: SenderStatus) -> bool {
    let other = *status != new;
    *status = new;
    other
}
