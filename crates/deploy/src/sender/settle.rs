//! The end of a slot: what became of each of its riders.
//!
//! Gas and fee of a transaction are shared evenly among the items of its call, whatever each did; what the division
//! leaves over is on the first. The shares of a transaction add up to what was paid.

use std::collections::BTreeSet;

use alloy::{
    primitives::{Address, Bytes, Log, U256},
    sol_types::SolCall,
};

use super::{
    Sender,
    attend::Seen,
    send::first_call,
    verdict::{Scene, lone_failure, setback},
};
use crate::{
    chain::ChainView,
    deployment::SlotState,
    error::Error,
    ledger::{
        Deployment, DeploymentRow, Wish,
        fates::Fate,
        now_ms,
        slots::{Inclusion, Purpose, Slot, Standing},
    },
    rpc::{At, Receipt},
    rpc_error::RpcError,
    token::{
        Misread, Outcome, Revert,
        contract::IModelTokenRegistry::{tokenOfCall, versionNumbersCall},
        read_outcomes, read_revert,
    },
};

/// What the call of a failed transaction does when it is made again.
enum Replay {
    Reverts { revert: Option<Revert>, message: String },
    Passes,
}

impl Sender {
    /// Ends a slot whose transaction succeeded at final depth.
    pub(super) async fn settle(&mut self, slot: Slot, seen: Seen, state: SlotState, view: &ChainView) -> Result<bool, Error> {
        let Some(receipt) = seen.receipt else {
            return Ok(false);
        };
        let riders = self.ledger.riders(slot.account, slot.nonce).await?;
        let fates = if purpose_of(&slot, &receipt) == Purpose::Cancel {
            self.fates_of_cancelled(riders, &receipt)
        } else {
            // The registry of the call, which need not be the one that is configured now.
            let registry = riders.first().map_or(self.ledger.registry, |rider| rider.deployment.registry);
            let requests: Vec<_> = riders.iter().map(|rider| rider.deployment.request.clone()).collect();
            let logs: Vec<Log> = receipt.logs.iter().map(|log| log.inner.clone()).collect();
            match read_outcomes(registry, &requests, &logs) {
                Ok(outcomes) => fates(riders, outcomes, &receipt),
                Err(misread) => self.fates_by_asking(riders, &misread, &receipt, view).await?,
            }
        };
        self.end(slot, state, Some(&receipt), fates).await
    }

    /// Cancelled because a person wished it; because they are on the chain by other means, and will be found there; or because
    /// the node refused the transaction, which may have been for its size.
    fn fates_of_cancelled(&self, riders: Vec<DeploymentRow>, receipt: &Receipt) -> Vec<(DeploymentRow, Fate)> {
        let hash = receipt.transaction_hash;
        let by_hand = |rider: &DeploymentRow| rider.wish == Some(Wish::Cancel);
        if riders.iter().any(by_hand) {
            let refused = Fate::Refused { reason: format!("cancelled by hand; {hash} used its nonce"), permanent: false };
            let with_fate = |rider: DeploymentRow| {
                let fate = if by_hand(&rider) { refused.clone() } else { Fate::PLANNED };
                (rider, fate)
            };
            return riders.into_iter().map(with_fate).collect();
        }
        match <[DeploymentRow; 1]>::try_from(riders) {
            Ok([rider]) => {
                let setback = setback(&rider, format!("its transaction was cancelled by {hash}"), Scene::Chain, &self.config, now_ms());
                vec![(rider, Fate::Planned { alone: true, setback: Some(setback) })]
            }
            Err(riders) => all(riders, &Fate::Planned { alone: true, setback: None }),
        }
    }

    /// Ends a slot whose nonce somebody else used.
    pub(super) async fn release(&mut self, slot: Slot, state: SlotState) -> Result<bool, Error> {
        tracing::warn!(
            nonce = slot.nonce,
            "the nonce was used by a transaction that is not ours: does somebody else use the deployer key?"
        );
        let riders = self.ledger.riders(slot.account, slot.nonce).await?;
        self.end(slot, state, None, all(riders, &Fate::PLANNED)).await
    }

    /// Ends a slot whose transaction failed at final depth.
    pub(super) async fn split(&mut self, slot: Slot, seen: Seen, state: SlotState) -> Result<bool, Error> {
        let Some(receipt) = seen.receipt else {
            return Ok(false);
        };
        let riders = self.ledger.riders(slot.account, slot.nonce).await?;
        let fates = if riders.is_empty() || purpose_of(&slot, &receipt) == Purpose::Cancel {
            all(riders, &Fate::PLANNED)
        } else {
            let replay = self.replay(&slot, &receipt).await?;
            self.fates_of_reverted(riders, replay, &slot, &receipt)
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
        self.ledger.end_slot(self.fence_of(slot.account)?, &slot, Standing { state, inclusion }, fates, now_ms()).await?;
        self.remember(Slot { state, inclusion, ..slot });
        Ok(true)
    }

    /// Why a transaction failed: the same call is made again on the state before its block, on the state after it, and on the
    /// newest, until it fails. Nodes forget old states, and what failed may have changed within the block.
    async fn replay(&self, slot: &Slot, receipt: &Receipt) -> Result<Replay, Error> {
        let call = first_call(slot)?;
        let registry = call.to.to().copied().unwrap_or(self.ledger.registry);
        let block = receipt.block_number;
        let mut last = Ok(());
        for at in [At::Number(block.saturating_sub(1)), At::Number(block), At::Latest] {
            match self.node.call(slot.account, registry, &call.input, at).await {
                Err(RpcError::Reverted { data, message }) => {
                    return Ok(Replay::Reverts { revert: data.map(|data| read_revert(&data)), message });
                }
                other => last = other.map(drop),
            }
        }
        last?;
        Ok(Replay::Passes)
    }

    fn fates_of_reverted(&self, riders: Vec<DeploymentRow>, replay: Replay, slot: &Slot, receipt: &Receipt) -> Vec<(DeploymentRow, Fate)> {
        let (revert, why) = match replay {
            // Neither is a request's fault; before anything is signed again, the chain is asked whether it would pass.
            Replay::Reverts { revert: Some(Revert::Paused | Revert::NotDeployer { .. }), .. } => return all(riders, &Fate::PLANNED),
            Replay::Reverts { revert: Some(revert @ Revert::Refused { .. }), .. } => (Some(revert.clone()), revert.to_string()),
            Replay::Reverts { revert, message } => (revert, message),
            Replay::Passes => (None, "it would pass now".to_owned()),
        };
        match <[DeploymentRow; 1]>::try_from(riders) {
            Ok([rider]) => {
                let gas = format!("it used {} of {} gas", receipt.gas_used, slot.latest().gas_limit);
                let words = format!("transaction {} failed: {why} ({gas})", receipt.transaction_hash);
                let fate = lone_failure(&rider, revert.as_ref(), words, Scene::Chain, &self.config, now_ms());
                vec![(rider, fate)]
            }
            Err(riders) => all(riders, &Fate::Planned { alone: true, setback: None }),
        }
    }

    /// A registry of another make may log differently. What it says it has recorded is final; what it has not, although the
    /// transaction succeeded, would not be recorded by another one either.
    async fn fates_by_asking(
        &self,
        riders: Vec<DeploymentRow>,
        misread: &Misread,
        receipt: &Receipt,
        view: &ChainView,
    ) -> Result<Vec<(DeploymentRow, Fate)>, Error> {
        // The block that was looked at is the receipt's or a later one; a node that has not got it says so.
        let at = At::Number(view.head.number.max(receipt.block_number));
        let numbers = self.version_numbers(&riders, at).await?;
        let items = riders.len();
        let mut fates = Vec::with_capacity(items);
        for (item, (rider, recorded)) in riders.into_iter().zip(numbers).enumerate() {
            let fate = if recorded {
                let token = self.token_of(&rider.deployment, at).await?;
                Fate::Final(finished(&rider.deployment, "version_recorded", token, receipt, items, item))
            } else {
                let reason = format!("transaction {} succeeded without recording it: {misread}", receipt.transaction_hash);
                Fate::Refused { reason, permanent: false }
            };
            fates.push((rider, fate));
        }
        Ok(fates)
    }

    /// The address of a deployment's token, as its registry has it.
    pub(super) async fn token_of(&self, deployment: &Deployment, at: At) -> Result<Address, Error> {
        let question = tokenOfCall { symbol: deployment.request.symbol.clone() }.abi_encode().into();
        let answer = self.node.call(self.account(), deployment.registry, &question, at).await?;
        let token = tokenOfCall::abi_decode_returns(&answer).ok().filter(|token| !token.is_zero());
        Ok(token.unwrap_or(deployment.token_address))
    }

    /// Whether each version is recorded as of a final block; none is where the registry was not there yet.
    pub(super) async fn recorded_deep(&self, rows: &[DeploymentRow], number: u64) -> Result<Vec<bool>, Error> {
        match self.version_numbers(rows, At::Number(number)).await {
            Err(Error::Rpc(RpcError::Garbled { .. })) => Ok(vec![false; rows.len()]),
            other => other,
        }
    }

    /// Whether each version is recorded in its registry as of a block.
    pub(super) async fn version_numbers(&self, rows: &[DeploymentRow], at: At) -> Result<Vec<bool>, Error> {
        let mut recorded = vec![false; rows.len()];
        let registries: BTreeSet<Address> = rows.iter().map(|row| row.deployment.registry).collect();
        for registry in registries {
            let places: Vec<usize> = (0..rows.len()).filter(|place| rows[*place].deployment.registry == registry).collect();
            let versions = places.iter().map(|place| rows[*place].deployment.request.version_id()).collect();
            let question = Bytes::from(versionNumbersCall { versions }.abi_encode());
            let answer = self.node.call(self.account(), registry, &question, at).await?;
            let numbers = versionNumbersCall::abi_decode_returns(&answer).ok().filter(|numbers| numbers.len() == places.len());
            let numbers = numbers.ok_or_else(|| RpcError::Garbled {
                method: "eth_call",
                problem: format!("the registry {registry} does not answer versionNumbers"),
            })?;
            for (place, number) in places.into_iter().zip(numbers) {
                recorded[place] = !number.is_zero();
            }
        }
        Ok(recorded)
    }
}

fn purpose_of(slot: &Slot, receipt: &Receipt) -> Purpose {
    let included = slot.attempts.iter().find(|attempt| attempt.hash == receipt.transaction_hash);
    included.map_or(Purpose::Register, |attempt| attempt.purpose)
}

fn all(riders: Vec<DeploymentRow>, fate: &Fate) -> Vec<(DeploymentRow, Fate)> {
    riders.into_iter().map(|rider| (rider, fate.clone())).collect()
}

fn fates(riders: Vec<DeploymentRow>, outcomes: Vec<Outcome>, receipt: &Receipt) -> Vec<(DeploymentRow, Fate)> {
    let items = riders.len();
    let fate = |item: usize, rider: &Deployment, outcome: Outcome| match outcome {
        Outcome::TokenCreated { token } => Fate::Final(finished(rider, "token_created", token, receipt, items, item)),
        Outcome::VersionRecorded { token, .. } => Fate::Final(finished(rider, "version_recorded", token, receipt, items, item)),
        Outcome::AlreadyRecorded { token } => Fate::Final(finished(rider, "already_recorded", token, receipt, items, item)),
        Outcome::Refused { reason } => Fate::Refused { reason, permanent: true },
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

fn finished(deployment: &Deployment, outcome: &str, token: Address, receipt: &Receipt, items: usize, item: usize) -> Box<Deployment> {
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
