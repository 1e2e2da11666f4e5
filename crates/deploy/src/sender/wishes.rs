//! Obeying what a person asked for through the ledger (`ledger/wishes.rs`).

use std::collections::BTreeSet;

use super::Sender;
use crate::{
    chain::ChainView,
    deployment::{DeploymentState, SlotState},
    error::Error,
    ledger::{DeploymentRow, Wish, fates::Fate, now_ms, slots::Purpose},
};

impl Sender {
    /// Plans again what is to be tried again, and refuses what was cancelled before it was signed. The wishes that are left,
    /// which need a look at the chain.
    pub(super) async fn heed_wishes(&mut self) -> Result<Vec<DeploymentRow>, Error> {
        let wishes = self.ledger.wishes().await?;
        let (again, wishes): (Vec<_>, Vec<_>) = wishes.into_iter().partition(|row| row.deployment.state == DeploymentState::Refused);
        for row in again {
            tracing::info!(deployment = row.deployment.id, "a retry was asked for");
            self.ledger.retry(&row.deployment.id).await?;
        }
        let (planned, riding): (Vec<_>, Vec<_>) = wishes.into_iter().partition(|row| row.deployment.state == DeploymentState::Planned);
        let refused = Fate::Refused { reason: "cancelled by hand before anything was signed".to_owned(), permanent: false };
        let fates = planned.into_iter().map(|row| (row, refused.clone())).collect();
        self.ledger.settle_waiting(self.fence()?, fates, now_ms()).await?;
        Ok(riding)
    }

    /// Bumps or cancels the transactions that still wait for a block. Whether anything was signed.
    pub(super) async fn obey(&mut self, wishes: Vec<DeploymentRow>, view: &ChainView) -> Result<bool, Error> {
        let slots: BTreeSet<_> = wishes.iter().filter_map(|row| Some((row.slot?, row.wish? == Wish::Cancel))).collect();
        let mut signed = false;
        // A cancellation comes after a bump in this order, and has the last word.
        for (key, cancel) in slots {
            let Some(slot) = self.own().find(|slot| slot.key() == key && slot.state != SlotState::Included).cloned() else {
                continue;
            };
            if !cancel {
                tracing::info!(nonce = slot.nonce, "a bump was asked for");
                self.ledger.forget_bump(self.fence()?, slot.account, slot.nonce, now_ms()).await?;
                signed |= self.replace(slot, view).await?;
            } else if slot.latest().purpose == Purpose::Register {
                tracing::info!(nonce = slot.nonce, "a cancellation was asked for");
                signed |= self.sign_replacement(slot, Purpose::Cancel, view).await?;
            }
        }
        Ok(signed)
    }
}
