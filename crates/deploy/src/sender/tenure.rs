//! The time in which a sender holds the lease of its account, and what it knows then.
//!
//! Invariant: only the holder writes about an account's slots, so what it remembers is what the ledger holds. After any error
//! it is read again.

use std::{collections::BTreeMap, time::Duration};

use alloy::primitives::Address;

use super::{Rest, Sender, SenderStatus, recheck::Recheck};
use crate::{
    deployment::Heard,
    error::Error,
    ledger::{Fence, Grant, slots::Slot},
    rpc::At,
    rpc_error::RpcError,
};

/// What a sender knows while it holds the lease. Only it writes, so what it remembers is what the ledger holds; after any
/// error it is read again.
#[derive(Debug)]
pub(super) struct Tenure {
    pub(super) fence: Fence,
    /// Leases of accounts whose key is not ours and that left slots open.
    pub(super) others: Vec<Fence>,
    pub(super) renewed_at_ms: i64,
    /// Of all these accounts.
    pub(super) open: Vec<Slot>,
    pub(super) recheck: Recheck,
    pub(super) holes_at_ms: i64,
    /// How many deployments waited at the last look, and since when they are as many.
    pub(super) gathered: (usize, i64),
    pub(super) watched: BTreeMap<(Address, u64), Watched>,
}

/// What a sender notices about a slot over several looks. It is not in the ledger: after a restart it begins anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    /// Since when, without a break, the nonce has looked used by somebody else.
    pub(super) taken_since_ms: Option<i64>,
    /// What the node last said to the latest attempt.
    pub(super) heard: Heard,
}

impl Default for Watched {
    fn default() -> Self {
        Self { taken_since_ms: None, heard: Heard::Nothing }
    }
}

impl Sender {
    /// Takes the lease or renews it; `Some` if another sender has it.
    pub(super) async fn hold_lease(&mut self, now_ms: i64) -> Result<Option<Rest>, Error> {
        if self.tenure.is_some() {
            self.renew(now_ms).await?;
            return Ok(None);
        }
        match self.ledger.acquire(self.account(), &self.holder, self.lease_ms(), now_ms).await? {
            Grant::Ours(fence) => {
                self.begin(fence, now_ms).await?;
                Ok(None)
            }
            Grant::HeldBy { holder, expires_at_ms } => {
                self.report(SenderStatus::Standby { holder, until_ms: expires_at_ms });
                let left = u64::try_from(expires_at_ms - now_ms).unwrap_or(0);
                Ok(Some(Rest::For(Duration::from_millis(left.max(1)).min(self.config.idle_poll))))
            }
        }
    }

    pub(super) async fn begin(&mut self, fence: Fence, now_ms: i64) -> Result<(), Error> {
        let account = fence.account;
        tracing::info!(%account, fence = fence.number, "holding the deployer account");
        // At once, so that the lease is given up whenever this ends.
        self.tenure = Some(Tenure {
            fence,
            others: Vec::new(),
            renewed_at_ms: now_ms,
            open: Vec::new(),
            recheck: Recheck::due(),
            holes_at_ms: now_ms,
            gathered: (0, now_ms),
            watched: BTreeMap::new(),
        });
        let open = self.ledger.open_slots(account).await?;
        if let Some(tenure) = &mut self.tenure {
            tenure.open = open;
        }
        for (registry, deployments) in self.ledger.planned_elsewhere().await? {
            tracing::warn!(
                registry,
                deployments,
                "planned deployments are for a registry that is not the configured one; they wait for it"
            );
        }
        Ok(())
    }

    /// A development chain that was started anew has the id of the one before, and nothing else of it.
    pub(super) async fn check_genesis(&mut self) -> Result<(), Error> {
        if self.chain_is_known {
            return Ok(());
        }
        let found = match self.node.block(At::Number(0)).await {
            Ok(Some(genesis)) => genesis.hash,
            Ok(None) | Err(RpcError::Refused { .. } | RpcError::Unsupported { .. }) => {
                tracing::warn!("the node does not show the chain's first block, so it is not known to be the chain of the ledger");
                self.chain_is_known = true;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let (chain_id, pinned) = (self.ledger.chain_id, self.ledger.pin_genesis(found).await?);
        if pinned != found {
            return Err(Error::OtherGenesis { chain_id, pinned, found });
        }
        self.chain_is_known = true;
        Ok(())
    }

    pub(super) async fn renew(&mut self, now_ms: i64) -> Result<(), Error> {
        let lease_ms = self.lease_ms();
        let Some(tenure) = &mut self.tenure else { return Ok(()) };
        if now_ms.saturating_sub(tenure.renewed_at_ms) < lease_ms / 3 {
            return Ok(());
        }
        self.ledger.renew(&tenure.fence, now_ms).await?;
        let mut open = self.ledger.open_slots(tenure.fence.account).await?;
        let mut kept = Vec::new();
        for fence in std::mem::take(&mut tenure.others) {
            match self.ledger.renew(&fence, now_ms).await {
                Err(Error::LeaseLost { .. }) => continue,
                renewed => renewed?,
            }
            let left = self.ledger.open_slots(fence.account).await?;
            if left.is_empty() {
                self.ledger.give_up(&fence).await?;
                continue;
            }
            open.extend(left);
            kept.push(fence);
        }
        (tenure.others, tenure.open, tenure.renewed_at_ms) = (kept, open, now_ms);
        Ok(())
    }

    /// Takes over what other keys left open on this chain, as far as no sender with those keys is at work.
    pub(super) async fn adopt(&mut self, now_ms: i64) -> Result<(), Error> {
        let (ours, lease_ms) = (self.account(), self.lease_ms());
        let accounts = self.ledger.other_accounts(ours).await?;
        let Some(tenure) = &mut self.tenure else { return Ok(()) };
        for account in accounts {
            if tenure.others.iter().any(|fence| fence.account == account) {
                continue;
            }
            if let Grant::Ours(fence) = self.ledger.acquire(account, &self.holder, lease_ms, now_ms).await? {
                let open = self.ledger.open_slots(account).await?;
                tracing::warn!(%account, slots = open.len(), "another key left transactions unfinished; they are watched and sent again as they are");
                tenure.others.push(fence);
                tenure.open.extend(open);
            }
        }
        Ok(())
    }

    pub(super) fn lease_ms(&self) -> i64 {
        i64::try_from(self.config.lease.as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn fence(&self) -> Result<&Fence, Error> {
        self.fence_of(self.account())
    }

    /// The right to write about an account's slots.
    pub(super) fn fence_of(&self, account: Address) -> Result<&Fence, Error> {
        let lost = Error::LeaseLost { chain_id: self.ledger.chain_id, account };
        let tenure = self.tenure.as_ref();
        let fence = tenure.and_then(|tenure| tenure.others.iter().chain([&tenure.fence]).find(|fence| fence.account == account));
        fence.ok_or(lost)
    }

    /// Every slot that is watched.
    pub(super) fn open(&self) -> &[Slot] {
        self.tenure.as_ref().map_or(&[], |tenure| &tenure.open)
    }

    /// The open slots of the account whose key is ours.
    pub(super) fn own(&self) -> impl Iterator<Item = &Slot> {
        let account = self.account();
        self.open().iter().filter(move |slot| slot.account == account)
    }

    /// Remembers a slot as it stands now: among the open ones, or not.
    pub(super) fn remember(&mut self, slot: Slot) {
        if let Some(tenure) = &mut self.tenure {
            let key = slot.key();
            tenure.open.retain(|other| other.key() != key);
            if slot.state.is_open() {
                let at = tenure.open.partition_point(|other| other.key() < key);
                tenure.open.insert(at, slot);
            } else {
                tenure.watched.remove(&key);
            }
        }
    }

    /// What is noticed about a slot.
    pub(super) fn watched(&mut self, slot: &Slot) -> Option<&mut Watched> {
        self.tenure.as_mut().map(|tenure| tenure.watched.entry(slot.key()).or_default())
    }
}
