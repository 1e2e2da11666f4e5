//! Recent finals, looked at again: finality by confirmations is a wager, and a deeper reorganisation plans anew.
//!
//! How far back is `recheck_window`; what became final before it is believed for good.

use super::Sender;
use crate::{
    chain::ChainView,
    deployment::SlotState,
    error::Error,
    ledger::{now_ms, slots::Fate},
    rpc::At,
};

/// How many slots are looked at in one turn, so that a long history does not keep new work waiting.
const SLOTS_PER_TURN: u32 = 20;

/// How far the present round has come, and when the next one begins.
#[derive(Debug)]
pub(super) struct Recheck {
    next_at_ms: i64,
    /// Slots below this nonce have been looked at in this round.
    from_nonce: u64,
}

impl Recheck {
    /// A round that begins now.
    pub(super) fn due() -> Self {
        Self { next_at_ms: i64::MIN, from_nonce: 0 }
    }

    pub(super) fn is_due(&self, now_ms: i64) -> bool {
        now_ms >= self.next_at_ms
    }
}

impl Sender {
    /// Looks at the next slots of the round. Whether anything was found changed.
    pub(super) async fn recheck(&mut self, view: &ChainView, now_ms: i64) -> Result<bool, Error> {
        let since_ms = now_ms.saturating_sub(i64::try_from(self.config.recheck_window.as_millis()).unwrap_or(i64::MAX)).max(0);
        let mut moved = false;
        let from_nonce = self.tenure.as_ref().map_or(0, |tenure| tenure.recheck.from_nonce);
        let slots = self.ledger.settled_slots(self.account(), since_ms, from_nonce, SLOTS_PER_TURN).await?;
        let more = slots.len() == SLOTS_PER_TURN as usize;
        let next_nonce = slots.last().map_or(0, |slot| slot.nonce + 1);
        for slot in slots {
            let (nonce, before) = (slot.nonce, slot.state);
            moved |= self.attend(slot, view, now_ms).await?;
            let reopened = self.open().iter().any(|slot| slot.nonce == nonce);
            if reopened && before == SlotState::Final {
                tracing::warn!(nonce, "a reorganisation deeper than the confirmations took a final transaction; it is sent again");
            }
        }
        let mut recheck = Recheck { next_at_ms: i64::MIN, from_nonce: next_nonce };
        if !more {
            moved |= self.recheck_found(since_ms, view).await?;
            let every_ms = i64::try_from(self.config.recheck_every.as_millis()).unwrap_or(i64::MAX);
            recheck = Recheck { next_at_ms: now_ms.saturating_add(every_ms), from_nonce: 0 };
        }
        if let Some(tenure) = &mut self.tenure {
            tenure.recheck = recheck;
        }
        Ok(moved || more)
    }

    /// Deployments that were found on the chain have no transaction of ours to look at: the registry is asked.
    async fn recheck_found(&mut self, since_ms: i64, view: &ChainView) -> Result<bool, Error> {
        let rows = self.ledger.found_since(since_ms).await?;
        if rows.is_empty() {
            return Ok(false);
        }
        let recorded = self.version_numbers(&rows, At::Number(view.head.number)).await?;
        let gone: Vec<_> = rows
            .into_iter()
            .zip(recorded)
            // A node behind the block in which it was found says nothing.
            .filter(|(row, recorded)| !recorded && row.deployment.block_number.is_none_or(|seen| view.head.number >= seen))
            .map(|(row, _)| (row, Fate::Planned { alone: false }))
            .collect();
        let moved = !gone.is_empty();
        self.ledger.settle_waiting(self.fence()?, gone, now_ms()).await?;
        Ok(moved)
    }
}
