//! Signing attempts, storing them, and handing their bytes to the node.

use alloy::{
    consensus::{Transaction as _, TxEip1559, TxEnvelope},
    eips::Decodable2718,
    primitives::{B256, Bytes, TxKind, U256},
};

use super::{Sender, fees::Offer};
use crate::{
    chain::ChainView,
    deployment::{Effect, Heard, Observation, Outage, SlotState, step},
    error::Error,
    ledger::{
        now_ms,
        slots::{Attempt, Purpose, Slot, Standing},
    },
    rpc_error::RpcError,
    signer::sign,
};

/// The gas of a transaction that does nothing.
const PLAIN_GAS: u64 = 21_000;

/// What a transaction does.
pub(super) struct Call {
    pub(super) purpose: Purpose,
    pub(super) to: TxKind,
    pub(super) input: Bytes,
    pub(super) gas_limit: u64,
}

impl Sender {
    /// Sends the latest attempt; one that the node finds too cheap before it was ever taken is made dearer at once. Whether the
    /// state moved.
    pub(super) async fn send(&mut self, slot: Slot, view: &ChainView) -> Result<bool, Error> {
        let before = slot.state;
        let (slot, effect) = self.hand_over(slot).await?;
        let ours = slot.account == self.account();
        match effect {
            Effect::Bump if ours => self.replace(slot, view).await,
            Effect::Reprice if ours => self.follow_prices(slot, view).await,
            Effect::Cancel if ours => {
                tracing::warn!(nonce = slot.nonce, hash = %slot.latest().hash, "the node has refused the transaction for long; cancelling it");
                self.sign_replacement(slot, Purpose::Cancel, view).await
            }
            _ => Ok(slot.state != before),
        }
    }

    /// Hands the latest attempt's bytes to the node, and writes down what it said.
    async fn hand_over(&mut self, mut slot: Slot) -> Result<(Slot, Effect), Error> {
        let Answer { observation, declined, words } = Answer::read(self.node.send(&slot.latest().raw).await);
        tracing::debug!(nonce = slot.nonce, hash = %slot.latest().hash, ?observation, "sent");
        let now_ms = now_ms();
        let heard = self.watched(&slot).map_or(Heard::Nothing, |watched| {
            watched.heard = said(watched.heard, observation, declined, now_ms);
            watched.heard
        });
        let next = step(&slot.facts(None, heard), observation, &self.config.patience, now_ms);
        if next.state != SlotState::Signed {
            let standing = Standing { state: next.state, inclusion: slot.inclusion };
            self.ledger.move_slot(self.fence_of(slot.account)?, &slot, standing, true, now_ms).await?;
            if slot.state != next.state {
                slot.since_ms = now_ms;
            }
            slot.state = next.state;
            slot.attempts.last_mut().expect("a slot has an attempt").sent_at_ms = Some(now_ms);
        }
        self.remember(slot.clone());
        match (next.effect, words) {
            (Effect::Pause(outage), Some(detail)) => Err(Error::Outage { outage, detail }),
            (effect, _) => Ok((slot, effect)),
        }
    }

    /// Replaces a transaction that does not get into a block: by the same call, or by nothing if nobody needs the call any
    /// more.
    pub(super) async fn replace(&mut self, slot: Slot, view: &ChainView) -> Result<bool, Error> {
        let needed = slot.latest().purpose == Purpose::Register
            && !self.ledger.riders(slot.account, slot.nonce).await?.is_empty()
            && !self.is_purposeless(&slot, view).await?;
        let purpose = if needed { Purpose::Register } else { Purpose::Cancel };
        self.sign_replacement(slot, purpose, view).await
    }

    /// Replaces a transaction that was replaced before and is still too cheap, if prices have risen since.
    pub(super) async fn follow_prices(&mut self, slot: Slot, view: &ChainView) -> Result<bool, Error> {
        let latest = slot.latest();
        let offered = Offer { max_fee_wei: latest.max_fee_wei, tip_wei: latest.tip_wei };
        match self.offer(view).await? {
            Some(today) if today.is_above(offered) => self.replace(slot, view).await,
            _ => Ok(false),
        }
    }

    pub(super) async fn sign_replacement(&mut self, mut slot: Slot, purpose: Purpose, view: &ChainView) -> Result<bool, Error> {
        let old = slot.latest().clone();
        let call = match purpose {
            Purpose::Register => first_call(&slot)?,
            Purpose::Cancel => self.call_nothing().await?,
        };
        let today = self.offer(view).await?;
        let raised = self.config.fees.for_gas(call.gas_limit).raise(Offer { max_fee_wei: old.max_fee_wei, tip_wei: old.tip_wei }, today);
        // No node is known to hold what was never taken, so that its cancellation need not be dearer.
        let fresh = today.filter(|_| purpose == Purpose::Cancel && slot.state == SlotState::Signed);
        let Some(offer) = raised.or(fresh) else {
            return Err(self.at_the_cap(slot).await?);
        };
        let attempt = self.sign_attempt(slot.nonce, old.number + 1, call, offer).await?;
        tracing::info!(nonce = slot.nonce, old = %old.hash, new = %attempt.hash, ?purpose, "replacing a transaction");
        self.ledger.add_attempt(self.fence()?, slot.nonce, &attempt, attempt.signed_at_ms).await?;
        slot.attempts.push(attempt);
        self.remember(slot.clone());
        if let Some(watched) = self.watched(&slot) {
            watched.heard = Heard::Nothing;
        }
        // A node that finds even this too low is not fought with: it is asked again when patience has run out once more.
        self.hand_over(slot).await?;
        Ok(true)
    }

    /// What cannot be made dearer must at least be where it can be taken: the node may have forgotten it.
    async fn at_the_cap(&mut self, slot: Slot) -> Result<Error, Error> {
        let latest = slot.latest();
        let detail = format!(
            "transaction {} (nonce {}) is in no block at {} wei per gas, and an eighth more is above the cap of {} (or above what nodes let \
             one transaction cost); wait, or raise HOKUSAI_MAX_FEE_GWEI",
            latest.hash, slot.nonce, latest.max_fee_wei, self.config.fees.max_fee_per_gas_wei
        );
        if slot.facts(None, Heard::Nothing).forgotten(&self.config.patience, now_ms()) {
            self.hand_over(slot).await?;
        }
        Ok(Error::Outage { outage: Outage::FeeAboveCap, detail })
    }

    /// What to offer now; `None` if the chain asks for more than the cap.
    pub(super) async fn offer(&self, view: &ChainView) -> Result<Option<Offer>, Error> {
        let tip = self.node.suggested_tip_wei().await?;
        Ok(self.config.fees.offer(view.head.base_fee_wei.unwrap_or_default(), tip))
    }

    /// What to offer now, or why nothing can be offered.
    pub(super) async fn affordable_offer(&self, view: &ChainView) -> Result<Offer, Error> {
        let (fees, base_fee_wei) = (self.config.fees, view.head.base_fee_wei.unwrap_or_default());
        let suggested = self.node.suggested_tip_wei().await?;
        fees.offer(base_fee_wei, suggested).ok_or_else(|| {
            let (cap, tip_wei) = (fees.max_fee_per_gas_wei, suggested.unwrap_or(fees.default_tip_wei));
            let detail = if base_fee_wei > cap {
                format!("the base fee is {base_fee_wei} wei per gas, the cap is {cap}; wait, or raise HOKUSAI_MAX_FEE_GWEI")
            } else {
                format!(
                    "the base fee is {base_fee_wei} wei per gas, which the cap of {cap} allows, but not with the tip of {tip_wei} that is asked for; \
                     raise HOKUSAI_MAX_FEE_GWEI"
                )
            };
            Error::Outage { outage: Outage::FeeAboveCap, detail }
        })
    }

    /// A call that does nothing but use a nonce: no value to oneself. Rollups charge the plainest transaction more than the
    /// 21,000 gas of the parent chain.
    pub(super) async fn call_nothing(&self) -> Result<Call, Error> {
        let estimate = self.node.estimate_gas(self.account(), Some(self.account()), &Bytes::new()).await?;
        let gas_limit = if estimate <= PLAIN_GAS { PLAIN_GAS } else { estimate.saturating_add(estimate / 4) };
        Ok(Call { purpose: Purpose::Cancel, to: TxKind::Call(self.account()), input: Bytes::new(), gas_limit })
    }

    pub(super) async fn sign_attempt(&self, nonce: u64, number: u32, call: Call, offer: Offer) -> Result<Attempt, Error> {
        let Call { purpose, to, input, gas_limit } = call;
        let transaction = TxEip1559 {
            chain_id: self.ledger.chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: offer.max_fee_wei,
            max_priority_fee_per_gas: offer.tip_wei,
            to,
            value: U256::ZERO,
            input,
            ..TxEip1559::default()
        };
        let signed = sign(&*self.signer, transaction).await?;
        Ok(Attempt {
            number,
            purpose,
            hash: signed.hash,
            raw: signed.raw,
            gas_limit,
            max_fee_wei: offer.max_fee_wei,
            tip_wei: offer.tip_wei,
            signed_at_ms: now_ms(),
            sent_at_ms: None,
        })
    }
}

/// The call that the slot's stored bytes make.
pub(super) fn first_call(slot: &Slot) -> Result<Call, Error> {
    let attempt = slot.attempts.iter().find(|attempt| attempt.purpose == Purpose::Register).unwrap_or_else(|| slot.latest());
    let envelope = TxEnvelope::decode_2718(&mut attempt.raw.as_slice()).map_err(|error| Error::Unreadable {
        table: "attempts",
        row: attempt.hash.to_string(),
        problem: error.to_string(),
    })?;
    Ok(Call { purpose: attempt.purpose, to: envelope.kind(), input: envelope.input().clone(), gas_limit: attempt.gas_limit })
}

/// What the answer to a send says about the slot.
struct Answer {
    observation: Observation,
    /// It will not take them, whatever they offer.
    declined: bool,
    /// In words, if it is trouble.
    words: Option<String>,
}

impl Answer {
    fn read(answer: Result<B256, RpcError>) -> Self {
        let (observation, declined, words) = match answer {
            Ok(_) | Err(RpcError::AlreadyKnown) => (Observation::Accepted, false, None),
            Err(RpcError::NonceTooLow) => (Observation::NonceTooLow, false, None),
            // An earlier nonce of ours is on its way, or a hole is about to be filled.
            Err(RpcError::NonceTooHigh { message }) => (Observation::MaybeSent, true, Some(message)),
            Err(RpcError::Underpriced { message }) => (Observation::Underpriced, false, Some(message)),
            Err(RpcError::Unfunded { message }) => (Observation::Unfunded, true, Some(message)),
            Err(error @ (RpcError::Away { .. } | RpcError::Garbled { .. })) => (Observation::MaybeSent, false, Some(error.to_string())),
            Err(error) => (Observation::Unsendable, true, Some(error.to_string())),
        };
        Self { observation, declined, words }
    }
}

/// What is remembered of an answer, after what was remembered before. Only a refusal for the node's own reasons lasts.
fn said(before: Heard, observation: Observation, declined: bool, now_ms: i64) -> Heard {
    match (before, declined) {
        (_, false) => Heard::Taken,
        (Heard::Declined { since_ms }, true) if observation == Observation::Unsendable => Heard::Declined { since_ms },
        (_, true) => Heard::Declined { since_ms: now_ms },
    }
}
