//! Open slots: looking at them, and doing what the state machine says.

use alloy::{
    consensus::{Transaction as _, TxEip1559, TxEnvelope},
    eips::Decodable2718,
    primitives::{Bytes, TxKind, U256},
};

use super::{Sender, fees::Offer};
use crate::{
    chain::ChainView,
    deployment::{Effect, Observation, Outage, Sight, SlotState, Step, step},
    error::Error,
    ledger::{
        now_ms,
        slots::{Attempt, Inclusion, Purpose, Slot, Standing},
    },
    rpc::{At, Receipt},
    rpc_error::RpcError,
    signer::sign,
};

/// What was seen of a slot, with the evidence.
pub(super) struct Seen {
    pub(super) observation: Observation,
    pub(super) receipt: Option<Receipt>,
}

impl From<Observation> for Seen {
    fn from(observation: Observation) -> Self {
        Self { observation, receipt: None }
    }
}

impl Receipt {
    fn inclusion(&self) -> Inclusion {
        Inclusion { hash: self.transaction_hash, block_number: self.block_number, block_hash: self.block_hash }
    }
}

impl Sender {
    /// Attends to every open slot. One that is in trouble does not keep the others from being looked at; the first trouble is
    /// the answer. Whether anything moved.
    pub(super) async fn attend_all(&mut self, view: &ChainView, now_ms: i64) -> Result<bool, Error> {
        let mut moved = false;
        let mut trouble = None;
        for slot in self.open().to_vec() {
            match self.attend(slot, view, now_ms).await {
                Ok(progress) => moved |= progress,
                Err(error) if error.outage().is_some() => {
                    trouble.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        trouble.map_or(Ok(moved), Err)
    }

    /// Looks at one slot and acts. Whether its state moved.
    pub(super) async fn attend(&mut self, slot: Slot, view: &ChainView, now_ms: i64) -> Result<bool, Error> {
        let seen = self.look(&slot, view).await?;
        let taken_since_ms = self.taken_since(slot.nonce, seen.observation, now_ms);
        let next = step(&slot.facts(taken_since_ms), seen.observation, &self.config.patience, now_ms);
        self.act(slot, seen, next, view).await
    }

    async fn look(&self, slot: &Slot, view: &ChainView) -> Result<Seen, Error> {
        for attempt in slot.attempts.iter().rev() {
            if let Some(receipt) = self.node.receipt(attempt.hash).await? {
                let observation = Observation::Mined {
                    success: receipt.success,
                    deep: view.is_deep(receipt.block_number),
                    moved: slot.inclusion != Some(receipt.inclusion()),
                };
                return Ok(Seen { observation, receipt: Some(receipt) });
            }
        }
        if slot.inclusion.is_some_and(|inclusion| view.head.number < inclusion.block_number) {
            return Ok(Observation::Behind.into());
        }
        if self.node.next_nonce(self.account(), At::Latest).await? > slot.nonce {
            return Ok(Observation::Taken { deep: self.taken_deep(slot.nonce, view).await? }.into());
        }
        let mut known = false;
        for attempt in slot.attempts.iter().rev() {
            known = known || self.node.knows(attempt.hash).await?;
        }
        if !known && slot.state == SlotState::Signed && self.is_purposeless(slot, view).await? {
            return Ok(Observation::Purposeless.into());
        }
        Ok(Observation::Pending { known }.into())
    }

    /// Since when, without a break, the nonce has looked used by somebody else. Not in the ledger: after a restart it is
    /// watched from the beginning.
    fn taken_since(&mut self, nonce: u64, observation: Observation, now_ms: i64) -> Option<i64> {
        let taken = &mut self.tenure.as_mut()?.taken;
        if matches!(observation, Observation::Taken { .. }) {
            return Some(*taken.entry(nonce).or_insert(now_ms));
        }
        taken.remove(&nonce);
        None
    }

    /// Whether the nonce is used in the newest final block.
    async fn taken_deep(&self, nonce: u64, view: &ChainView) -> Result<bool, Error> {
        let Some(number) = view.final_number else {
            return Ok(false);
        };
        Ok(self.node.next_nonce(self.account(), At::Number(number)).await? > nonce)
    }

    /// Whether everything the slot was signed for is on the chain by other means.
    async fn is_purposeless(&self, slot: &Slot, view: &ChainView) -> Result<bool, Error> {
        let riders = self.ledger.riders(self.account(), slot.nonce).await?;
        let sights = self.sights(&riders, view).await?;
        Ok(sights.iter().all(|sight| *sight == Sight::Deep))
    }

    async fn act(&mut self, slot: Slot, seen: Seen, next: Step, view: &ChainView) -> Result<bool, Error> {
        match next.effect {
            Effect::Wait => self.keep(slot, &seen, next.state).await.map(|(_, moved)| moved),
            Effect::Send => {
                let (slot, moved) = self.keep(slot, &seen, next.state).await?;
                Ok(self.send(slot, view).await? || moved)
            }
            Effect::Bump => self.replace(slot, view).await,
            Effect::Cancel => self.sign_replacement(slot, Purpose::Cancel, view).await,
            Effect::Settle => self.settle(slot, seen, next.state).await,
            Effect::Release => self.release(slot, next.state).await,
            Effect::Split => self.split(slot, seen, next.state).await,
            Effect::Pause(outage) => {
                self.keep(slot, &seen, next.state).await?;
                Err(Error::Outage { outage, detail: "seen while watching a transaction".to_owned() })
            }
        }
    }

    /// Writes the state down if it is another. The slot as it stands, and whether it moved.
    async fn keep(&mut self, slot: Slot, seen: &Seen, state: SlotState) -> Result<(Slot, bool), Error> {
        let inclusion = kept_inclusion(&slot, seen, state);
        if state == slot.state && inclusion == slot.inclusion {
            return Ok((slot, false));
        }
        let since_ms = now_ms();
        self.ledger.move_slot(self.fence()?, &slot, Standing { state, inclusion }, false, since_ms).await?;
        let slot = Slot { state, inclusion, since_ms, ..slot };
        self.remember(slot.clone());
        Ok((slot, true))
    }

    /// Sends the latest attempt; one that the node finds too cheap before it was ever taken is made dearer at once. Whether the
    /// state moved.
    pub(super) async fn send(&mut self, slot: Slot, view: &ChainView) -> Result<bool, Error> {
        let before = slot.state;
        let (slot, effect) = self.hand_over(slot).await?;
        if effect == Effect::Bump {
            return self.replace(slot, view).await;
        }
        Ok(slot.state != before)
    }

    /// Hands the latest attempt's bytes to the node, and writes down what it said.
    async fn hand_over(&mut self, mut slot: Slot) -> Result<(Slot, Effect), Error> {
        let (observation, trouble) = heard(self.node.send(&slot.latest().raw).await);
        tracing::debug!(nonce = slot.nonce, hash = %slot.latest().hash, ?observation, "sent");
        let now_ms = now_ms();
        let next = step(&slot.facts(None), observation, &self.config.patience, now_ms);
        if next.state != SlotState::Signed {
            let standing = Standing { state: next.state, inclusion: slot.inclusion };
            self.ledger.move_slot(self.fence()?, &slot, standing, true, now_ms).await?;
            if slot.state != next.state {
                slot.since_ms = now_ms;
            }
            slot.state = next.state;
            slot.attempts.last_mut().expect("a slot has an attempt").sent_at_ms = Some(now_ms);
        }
        self.remember(slot.clone());
        match (next.effect, trouble) {
            (Effect::Pause(outage), Some(detail)) => Err(Error::Outage { outage, detail }),
            (effect, _) => Ok((slot, effect)),
        }
    }

    /// Replaces a transaction that does not get into a block: by the same call, or by nothing if the call has lost its purpose.
    async fn replace(&mut self, slot: Slot, view: &ChainView) -> Result<bool, Error> {
        let purpose = match slot.latest().purpose {
            Purpose::Register if !self.is_purposeless(&slot, view).await? => Purpose::Register,
            _ => Purpose::Cancel,
        };
        self.sign_replacement(slot, purpose, view).await
    }

    async fn sign_replacement(&mut self, mut slot: Slot, purpose: Purpose, view: &ChainView) -> Result<bool, Error> {
        let old = slot.latest().clone();
        let today = self.offer(view).await?;
        let Some(offer) = self.config.fees.raise(Offer { max_fee_wei: old.max_fee_wei, tip_wei: old.tip_wei }, today) else {
            let detail = format!(
                "transaction {} (nonce {}) is stuck at {} wei per gas, and an eighth more is above the cap of {}; raise HOKUSAI_MAX_FEE_GWEI",
                old.hash, slot.nonce, old.max_fee_wei, self.config.fees.max_fee_per_gas_wei
            );
            return Err(Error::Outage { outage: Outage::FeeAboveCap, detail });
        };
        let call = match purpose {
            Purpose::Register => first_call(&slot)?,
            Purpose::Cancel => self.call_nothing().await?,
        };
        let attempt = self.sign_attempt(slot.nonce, old.number + 1, call, offer).await?;
        tracing::info!(nonce = slot.nonce, old = %old.hash, new = %attempt.hash, ?purpose, "replacing a transaction");
        self.ledger.add_attempt(self.fence()?, slot.nonce, &attempt, attempt.signed_at_ms).await?;
        slot.attempts.push(attempt);
        self.remember(slot.clone());
        // A node that finds even this too low is not fought with: it is asked again when patience has run out once more.
        self.hand_over(slot).await?;
        Ok(true)
    }

    /// What to offer now; `None` if the chain asks for more than the cap.
    pub(super) async fn offer(&self, view: &ChainView) -> Result<Option<Offer>, Error> {
        let tip = self.node.suggested_tip_wei().await?;
        Ok(self.config.fees.offer(view.head.base_fee_wei.unwrap_or_default(), tip))
    }

    /// A call that does nothing but use a nonce: no value to oneself. Rollups charge the plainest transaction more than the
    /// 21,000 gas of the parent chain.
    pub(super) async fn call_nothing(&self) -> Result<Call, Error> {
        let estimate = self.node.estimate_gas(self.account(), Some(self.account()), &Bytes::new()).await?;
        let gas_limit = if estimate <= PLAIN_GAS { PLAIN_GAS } else { estimate + estimate / 4 };
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

/// The gas of a transaction that does nothing.
const PLAIN_GAS: u64 = 21_000;

/// What a transaction does.
pub(super) struct Call {
    pub(super) purpose: Purpose,
    pub(super) to: TxKind,
    pub(super) input: Bytes,
    pub(super) gas_limit: u64,
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

fn kept_inclusion(slot: &Slot, seen: &Seen, state: SlotState) -> Option<Inclusion> {
    match state {
        SlotState::Signed | SlotState::Broadcast | SlotState::Lost => None,
        SlotState::Included | SlotState::Final | SlotState::Reverted => seen.receipt.as_ref().map(Receipt::inclusion).or(slot.inclusion),
    }
}

/// What the answer to a send says about the slot, and in words if it is trouble.
fn heard(answer: Result<alloy::primitives::B256, RpcError>) -> (Observation, Option<String>) {
    match answer {
        Ok(_) | Err(RpcError::AlreadyKnown) => (Observation::Accepted, None),
        Err(RpcError::NonceTooLow) => (Observation::NonceTooLow, None),
        Err(RpcError::Underpriced { message }) => (Observation::Underpriced, Some(message)),
        Err(RpcError::Unfunded { message }) => (Observation::Unfunded, Some(message)),
        Err(error @ (RpcError::Away { .. } | RpcError::Garbled { .. })) => (Observation::MaybeSent, Some(error.to_string())),
        Err(error) => (Observation::Unsendable, Some(error.to_string())),
    }
}
