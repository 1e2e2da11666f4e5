//! Open slots: looking at them, and doing what the state machine says.

use super::{Sender, set_aside};
use crate::{
    chain::ChainView,
    deployment::{Effect, Heard, Observation, Outage, Sight, SlotState, Step, step},
    error::Error,
    ledger::{
        now_ms,
        slots::{Inclusion, Purpose, Slot, Standing},
    },
    rpc::{At, Receipt},
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
    /// Attends to every open slot. Whether anything moved.
    pub(super) async fn attend_all(&mut self, view: &ChainView, now_ms: i64, trouble: &mut Option<Error>) -> Result<bool, Error> {
        let mut moved = false;
        for slot in self.open().to_vec() {
            let key = slot.key();
            let outcome = self.attend(slot, view, now_ms).await;
            match outcome {
                // What another key's transactions lack does not keep ours waiting.
                Err(error)
                    if key.0 != self.account() && !matches!(error.outage(), None | Some(Outage::NodeAway | Outage::DatabaseAway)) =>
                {
                    tracing::warn!(account = %key.0, nonce = key.1, %error, "a transaction of another key is in trouble");
                }
                outcome => moved |= set_aside(outcome, trouble)?,
            }
        }
        Ok(moved)
    }

    /// Looks at one slot and acts. Whether its state moved.
    pub(super) async fn attend(&mut self, slot: Slot, view: &ChainView, now_ms: i64) -> Result<bool, Error> {
        let seen = self.look(&slot, view).await?;
        let (taken_since_ms, heard) = self.notice(&slot, seen.observation, now_ms);
        let next = step(&slot.facts(taken_since_ms, heard), seen.observation, &self.config.patience, now_ms);
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
        if let Some(inclusion) = slot.inclusion
            && self.stands(inclusion, view).await?
        {
            return Ok(Observation::Behind.into());
        }
        // As of the block that is looked at: what "latest" means differs between the nodes behind one address.
        if self.node.next_nonce(slot.account, At::Number(view.head.number)).await? > slot.nonce {
            return Ok(Observation::Taken { deep: self.taken_deep(slot, view).await? }.into());
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

    /// Whether nothing speaks against the recorded block, although the node shows no receipt from it: the node has not
    /// reached it, or has it and has not indexed it.
    async fn stands(&self, inclusion: Inclusion, view: &ChainView) -> Result<bool, Error> {
        if view.head.number < inclusion.block_number {
            return Ok(true);
        }
        let block = self.node.block(At::Number(inclusion.block_number)).await?;
        Ok(block.is_some_and(|block| block.hash == inclusion.block_hash))
    }

    /// Remembers what several looks have in common: since when the nonce has looked used by somebody else, and what the
    /// node last said.
    fn notice(&mut self, slot: &Slot, observation: Observation, now_ms: i64) -> (Option<i64>, Heard) {
        let Some(watched) = self.watched(slot) else {
            return (None, Heard::Nothing);
        };
        watched.taken_since_ms = matches!(observation, Observation::Taken { .. }).then(|| watched.taken_since_ms.unwrap_or(now_ms));
        (watched.taken_since_ms, watched.heard)
    }

    /// Whether the nonce is used in the newest final block.
    async fn taken_deep(&self, slot: &Slot, view: &ChainView) -> Result<bool, Error> {
        let Some(number) = view.final_number else {
            return Ok(false);
        };
        Ok(self.node.next_nonce(slot.account, At::Number(number)).await? > slot.nonce)
    }

    /// Whether everything the slot was signed for is on the chain by other means. What was signed for nothing, or to cancel,
    /// has no such purpose to lose.
    pub(super) async fn is_purposeless(&self, slot: &Slot, view: &ChainView) -> Result<bool, Error> {
        if slot.latest().purpose == Purpose::Cancel {
            return Ok(false);
        }
        let riders = self.ledger.riders(slot.account, slot.nonce).await?;
        let sights = self.sights(&riders, view).await?;
        Ok(!sights.is_empty() && sights.iter().all(|sight| *sight == Sight::Deep))
    }

    async fn act(&mut self, slot: Slot, seen: Seen, next: Step, view: &ChainView) -> Result<bool, Error> {
        match self.possible(&slot, next.effect) {
            Effect::Wait => self.keep(slot, &seen, next.state).await.map(|(_, moved)| moved),
            Effect::Send => {
                let (slot, moved) = self.keep(slot, &seen, next.state).await?;
                Ok(self.send(slot, view).await? || moved)
            }
            Effect::Bump => self.replace(slot, view).await,
            Effect::Reprice => self.follow_prices(slot, view).await,
            Effect::Cancel => self.sign_replacement(slot, Purpose::Cancel, view).await,
            Effect::Settle => self.settle(slot, seen, next.state, view).await,
            Effect::Release => self.release(slot, next.state).await,
            Effect::Split => self.split(slot, seen, next.state).await,
            Effect::Pause(outage) => {
                self.keep(slot, &seen, next.state).await?;
                Err(Error::Outage { outage, detail: "seen while watching a transaction".to_owned() })
            }
        }
    }

    /// What can be done of it: for an account whose key is not ours nothing is signed.
    fn possible(&self, slot: &Slot, effect: Effect) -> Effect {
        let signs = matches!(effect, Effect::Bump | Effect::Reprice | Effect::Cancel);
        if !signs || slot.account == self.account() {
            return effect;
        }
        if slot.facts(None, Heard::Nothing).forgotten(&self.config.patience, now_ms()) { Effect::Send } else { Effect::Wait }
    }

    /// Writes the state down if it is another. The slot as it stands, and whether it moved.
    async fn keep(&mut self, slot: Slot, seen: &Seen, state: SlotState) -> Result<(Slot, bool), Error> {
        let inclusion = kept_inclusion(&slot, seen, state);
        if state == slot.state && inclusion == slot.inclusion {
            return Ok((slot, false));
        }
        let since_ms = now_ms();
        self.ledger.move_slot(self.fence_of(slot.account)?, &slot, Standing { state, inclusion }, false, since_ms).await?;
        let slot = Slot { state, inclusion, since_ms, ..slot };
        self.remember(slot.clone());
        Ok((slot, true))
    }
}

fn kept_inclusion(slot: &Slot, seen: &Seen, state: SlotState) -> Option<Inclusion> {
    match state {
        SlotState::Signed | SlotState::Broadcast | SlotState::Lost => None,
        SlotState::Included | SlotState::Final | SlotState::Reverted => seen.receipt.as_ref().map(Receipt::inclusion).or(slot.inclusion),
    }
}
