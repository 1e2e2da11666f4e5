//! The end of a slot: what became of each of its riders.
//!
//! Gas and fee of a transaction are shared evenly among the items of its call, whatever each did; what the division
//! leaves over is on the first. The shares of a transaction add up to what was paid.

use alloy::{
    primitives::{Bytes, Log, U256},
    sol_types::SolCall,
};

use super::{
    Sender,
    attend::{Seen, first_call},
};
use crate::{
    deployment::SlotState,
    error::Error,
    ledger::{
        Deployment, DeploymentRow, now_ms,
        slots::{Fate, Inclusion, Purpose, Slot, Standing},
    },
    rpc::{At, Receipt},
    rpc_error::RpcError,
    token::{Misread, Outcome, Revert, contract::IModelTokenRegistry::versionNumbersCall, read_outcomes, read_revert},
};

impl Sender {
    /// Ends a slot whose transaction succeeded at final depth.
    pub(super) async fn settle(&mut self, slot: Slot, seen: Seen, state: SlotState) -> Result<bool, Error> {
        let Some(receipt) = seen.receipt else {
            return Ok(false);
        };
        let riders = self.ledger.riders(self.account(), slot.nonce).await?;
        let fates = if purpose_of(&slot, &receipt) == Purpose::Cancel {
            // Cancelled because they are on the chain by other means: planned again, they will be found there.
            all_planned(riders, false)
        } else {
            let requests: Vec<_> = riders.iter().map(|rider| rider.deployment.request.clone()).collect();
            let logs: Vec<Log> = receipt.logs.iter().map(|log| log.inner.clone()).collect();
            match read_outcomes(self.ledger.registry, &requests, &logs) {
                Ok(outcomes) => fates(riders, outcomes, &receipt),
                Err(misread) => self.fates_by_asking(riders, &misread, &receipt).await?,
            }
        };
        self.end(slot, state, Some(&receipt), fates).await
    }

    /// Ends a slot whose nonce somebody else used.
    pub(super) async fn release(&mut self, slot: Slot, state: SlotState) -> Result<bool, Error> {
        tracing::warn!(
            nonce = slot.nonce,
            "the nonce was used by a transaction that is not ours: does somebody else use the deployer key?"
        );
        let riders = self.ledger.riders(self.account(), slot.nonce).await?;
        self.end(slot, state, None, all_planned(riders, false)).await
    }

    /// Ends a slot whose transaction failed at final depth.
    pub(super) async fn split(&mut self, slot: Slot, seen: Seen, state: SlotState) -> Result<bool, Error> {
        let Some(receipt) = seen.receipt else {
            return Ok(false);
        };
        let riders = self.ledger.riders(self.account(), slot.nonce).await?;
        let fates = match <[DeploymentRow; 1]>::try_from(riders) {
            Ok([rider]) => {
                let fate = self.fate_of_reverted(&slot, &receipt).await?;
                vec![(rider, fate)]
            }
            Err(riders) => all_planned(riders, true),
        };
        self.end(slot, state, Some(&receipt), fates).await
    }

    async fn end(
        &mut self,
        slot: Slot,
        state: SlotState,
        receipt: Option<&Receipt>,
        fates: Vec<(DeploymentRow, Fate)>,
    ) -> Result<bool, Error> {
        let inclusion = receipt.map(|receipt| Inclusion {
            hash: receipt.transaction_hash,
            block_number: receipt.block_number,
            block_hash: receipt.block_hash,
        });
        self.ledger.end_slot(self.fence()?, &slot, Standing { state, inclusion }, fates, now_ms()).await?;
        self.remember(Slot { state, inclusion, ..slot });
        Ok(true)
    }

    /// Why a transaction that carried one deployment failed: the same call is made again on the state before its block. Nodes
    /// forget old states; then on the newest.
    async fn fate_of_reverted(&self, slot: &Slot, receipt: &Receipt) -> Result<Fate, Error> {
        let call = first_call(slot)?;
        let before = At::Number(receipt.block_number.saturating_sub(1));
        let hash = receipt.transaction_hash;
        let mut answer = self.node.call(self.account(), self.ledger.registry, &call.input, before).await;
        if !matches!(answer, Err(RpcError::Reverted { .. })) {
            answer = self.node.call(self.account(), self.ledger.registry, &call.input, At::Latest).await;
        }
        let reason = match answer {
            Err(RpcError::Reverted { data, message }) => match data.map(|data| read_revert(&data)) {
                // Neither is the request's fault; before it is signed again, the chain is asked whether it would pass.
                Some(Revert::Paused | Revert::NotDeployer { .. }) => return Ok(Fate::Planned { alone: true }),
                Some(revert @ Revert::Refused { .. }) => format!("transaction {hash} failed: {revert}"),
                _ => format!("transaction {hash} failed: {message}"),
            },
            Err(error) if error.is_away() => return Err(error.into()),
            _ => format!(
                "transaction {hash} failed and does not explain itself; it used {} of {} gas",
                receipt.gas_used,
                slot.latest().gas_limit
            ),
        };
        Ok(Fate::Refused(reason))
    }

    /// A registry of another make may log differently. What it says it has recorded is final; what it has not, although the
    /// transaction succeeded, would not be recorded by another one either.
    async fn fates_by_asking(
        &self,
        riders: Vec<DeploymentRow>,
        misread: &Misread,
        receipt: &Receipt,
    ) -> Result<Vec<(DeploymentRow, Fate)>, Error> {
        let numbers = self.version_numbers(&riders, At::Latest).await?;
        let items = riders.len();
        let fate = |item: usize, rider: DeploymentRow, recorded: bool| {
            let fate = if recorded {
                Fate::Final(finished(&rider.deployment, "version_recorded", rider.deployment.token_address, receipt, items, item))
            } else {
                Fate::Refused(format!("transaction {} succeeded without recording it: {misread}", receipt.transaction_hash))
            };
            (rider, fate)
        };
        Ok(riders.into_iter().zip(numbers).enumerate().map(|(item, (rider, recorded))| fate(item, rider, recorded)).collect())
    }

    /// Whether each version is recorded as of a final block; none is where the registry was not there yet.
    pub(super) async fn recorded_deep(&self, rows: &[DeploymentRow], number: u64) -> Result<Vec<bool>, Error> {
        match self.version_numbers(rows, At::Number(number)).await {
            Err(Error::Rpc(RpcError::Garbled { .. })) => Ok(vec![false; rows.len()]),
            other => other,
        }
    }

    /// Whether each version is recorded as of a block.
    pub(super) async fn version_numbers(&self, rows: &[DeploymentRow], at: At) -> Result<Vec<bool>, Error> {
        let versions = rows.iter().map(|row| row.deployment.request.version_id()).collect();
        let question = Bytes::from(versionNumbersCall { versions }.abi_encode());
        let answer = self.node.call(self.account(), self.ledger.registry, &question, at).await?;
        let numbers = versionNumbersCall::abi_decode_returns(&answer).ok().filter(|numbers| numbers.len() == rows.len());
        let numbers = numbers.ok_or_else(|| RpcError::Garbled {
            method: "eth_call",
            problem: format!("the registry {} does not answer versionNumbers", self.ledger.registry),
        })?;
        Ok(numbers.iter().map(|number| !number.is_zero()).collect())
    }
}

fn purpose_of(slot: &Slot, receipt: &Receipt) -> Purpose {
    let included = slot.attempts.iter().find(|attempt| attempt.hash == receipt.transaction_hash);
    included.map_or(Purpose::Register, |attempt| attempt.purpose)
}

fn all_planned(riders: Vec<DeploymentRow>, alone: bool) -> Vec<(DeploymentRow, Fate)> {
    riders.into_iter().map(|rider| (rider, Fate::Planned { alone })).collect()
}

fn fates(riders: Vec<DeploymentRow>, outcomes: Vec<Outcome>, receipt: &Receipt) -> Vec<(DeploymentRow, Fate)> {
    let items = riders.len();
    let fate = |item: usize, rider: &Deployment, outcome: Outcome| match outcome {
        Outcome::TokenCreated { token } => Fate::Final(finished(rider, "token_created", token, receipt, items, item)),
        Outcome::VersionRecorded { token, .. } => Fate::Final(finished(rider, "version_recorded", token, receipt, items, item)),
        Outcome::AlreadyRecorded { token } => Fate::Final(finished(rider, "already_recorded", token, receipt, items, item)),
        Outcome::Refused { reason } => Fate::Refused(reason),
    };
    riders
        .into_iter()
        .zip(outcomes)
        .enumerate()
        .map(|(item, (rider, outcome))| {
            let fate = fate(item, &rider.deployment, outcome);
            (rider, fate)
        })
        .collect()
}

fn finished(
    deployment: &Deployment,
    outcome: &str,
    token: alloy::primitives::Address,
    receipt: &Receipt,
    items: usize,
    item: usize,
) -> Box<Deployment> {
    Box::new(Deployment {
        token_address: token,
        transaction_hash: Some(receipt.transaction_hash),
        block_number: Some(receipt.block_number),
        gas_used: Some(share(U256::from(receipt.gas_used), items, item).to()),
        fee_wei: Some(share(receipt.fee_wei, items, item)),
        outcome: Some(outcome.to_owned()),
        reason: None,
        ..deployment.clone()
    })
}

/// One item's share of a whole: even, the remainder on the first.
fn share(whole: U256, items: usize, item: usize) -> U256 {
    let items = U256::from(items.max(1));
    let remainder = if item == 0 { whole % items } else { U256::ZERO };
    whole / items + remainder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole() {
        for items in 1..20_usize {
            let whole = U256::from(1_000_003);
            let sum = (0..items).map(|item| share(whole, items, item)).sum::<U256>();
            assert_eq!(sum, whole, "{items}");
            assert!(share(whole, items, 0) >= share(whole, items, items - 1));
        }
    }
}
