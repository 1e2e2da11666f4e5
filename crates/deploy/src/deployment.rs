//! The state machine of a deployment, as pure functions: no clock, no chain, no database.
//!
//! Two things have a state. A *deployment* is one model version that is to stand on its token. A *slot* is one nonce of
//! the sending account: the transaction that uses it, with all the attempts (signed bytes of the same nonce) made for it.
//! Up to 150 deployments ride on one slot; while they ride, their state is the slot's.
//!
//! Invariants:
//!
//! - [`step`] is total: every state answers every observation. The table in `deployment/tests.rs` writes each answer out,
//!   and `docs/deployment-states.md` draws them.
//! - A slot ends in three ways only, each at final depth: [`SlotState::Final`], [`SlotState::Reverted`] and
//!   [`SlotState::Lost`]. Nothing else gives a signed nonce up.
//! - An outage changes no state.

use std::{fmt, str::FromStr};

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeploymentState {
    /// Recorded, and riding on no transaction.
    Planned,
    /// In a transaction whose signed bytes are stored; not known to have been sent.
    Signed,
    /// Sent, or perhaps sent.
    Broadcast,
    /// In a block that may still be reorganised away.
    Included,
    /// On the chain at final depth.
    Final,
    /// It will not be deployed; the reason is recorded.
    Refused,
}

impl DeploymentState {
    /// All of them, in the order a deployment goes through them.
    pub const ALL: [Self; 6] = [Self::Planned, Self::Signed, Self::Broadcast, Self::Included, Self::Final, Self::Refused];

    /// The name used in the ledger and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Signed => "signed",
            Self::Broadcast => "broadcast",
            Self::Included => "included",
            Self::Final => "final",
            Self::Refused => "refused",
        }
    }

    /// Whether its message can be settled.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Final | Self::Refused)
    }
}

impl fmt::Display for DeploymentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no state; the states are planned, signed, broadcast, included, final and refused")]
pub struct UnknownState(String);

impl FromStr for DeploymentState {
    type Err = UnknownState;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|state| state.as_str() == name).ok_or_else(|| UnknownState(name.to_owned()))
    }
}

/// Where a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotState {
    /// The first attempt is stored and has not been sent, as far as is known.
    Signed,
    /// An attempt was sent, or perhaps sent.
    Broadcast,
    /// An attempt stands in a block that is not final yet.
    Included,
    /// An attempt succeeded, at final depth.
    Final,
    /// An attempt failed on the chain, at final depth. The nonce is used.
    Reverted,
    /// The nonce was used, at final depth, by a transaction the ledger does not hold.
    Lost,
}

impl SlotState {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Signed, Self::Broadcast, Self::Included, Self::Final, Self::Reverted, Self::Lost];

    /// The name used in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Broadcast => "broadcast",
            Self::Included => "included",
            Self::Final => "final",
            Self::Reverted => "reverted",
            Self::Lost => "lost",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether the sender still has to watch it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Signed | Self::Broadcast | Self::Included)
    }

    /// The state of the deployments that ride on a slot in this state. What they become when it ends otherwise than
    /// well is decided one by one; until that is written they are planned again.
    pub fn of_riders(self) -> DeploymentState {
        match self {
            Self::Signed => DeploymentState::Signed,
            Self::Broadcast => DeploymentState::Broadcast,
            Self::Included => DeploymentState::Included,
            Self::Final => DeploymentState::Final,
            Self::Reverted | Self::Lost => DeploymentState::Planned,
        }
    }
}

/// What was just learnt about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Observation {
    /// The node took the bytes, or has them already.
    Accepted,
    /// The bytes were handed over and no answer came.
    MaybeSent,
    /// The node says the nonce is used: by one of our attempts, or by somebody else with our key.
    NonceTooLow,
    /// The node finds the fee too low, alone or as a replacement.
    Underpriced,
    /// The account cannot pay.
    Unfunded,
    /// The node will not take these bytes, for a reason only a person can mend.
    Unsendable,
    /// No attempt has a receipt and the nonce is free. `known`: the node still holds an attempt.
    Pending {
        /// Whether the node still holds an attempt.
        known: bool,
    },
    /// An attempt stands in a block of the chain.
    Mined {
        /// Whether the call succeeded.
        success: bool,
        /// Whether the block is at final depth.
        deep: bool,
        /// Whether it is another block than the recorded one.
        moved: bool,
    },
    /// The nonce is used and no attempt has a receipt. `deep`: so it is at final depth too.
    Taken {
        /// Whether it is used at final depth too.
        deep: bool,
    },
    /// The node has not reached the recorded block: nothing can be said.
    Behind,
    /// All deployments riding on the slot are on the chain already, at final depth, by other means.
    Purposeless,
    /// The node did not answer.
    Away,
}

impl Observation {
    /// Every one of them, for the table test and the diagram.
    pub fn all() -> Vec<Self> {
        let both = [false, true];
        let mut all = vec![
            Self::Accepted,
            Self::MaybeSent,
            Self::NonceTooLow,
            Self::Underpriced,
            Self::Unfunded,
            Self::Unsendable,
            Self::Behind,
            Self::Purposeless,
            Self::Away,
        ];
        all.extend(both.map(|known| Self::Pending { known }));
        all.extend(both.map(|deep| Self::Taken { deep }));
        for success in both {
            for deep in both {
                all.extend(both.map(|moved| Self::Mined { success, deep, moved }));
            }
        }
        all
    }
}

/// What the sender does next about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing: look again later.
    Wait,
    /// Send the bytes of the latest attempt, unchanged.
    Send,
    /// Sign the same call again for the same nonce with a higher fee; store it; send it.
    Bump,
    /// The same, if the chain asks for more today than the latest attempt offers; otherwise nothing.
    Reprice,
    /// Sign a transaction that does nothing for the same nonce with a higher fee; store it; send it.
    Cancel,
    /// Read what became of each deployment and write it down.
    Settle,
    /// Plan the deployments anew: their nonce is gone.
    Release,
    /// The whole call failed: plan its deployments anew, each alone; one that was alone and refused with a reason is refused.
    Split,
    /// Report an outage and try again later.
    Pause(Outage),
}

/// Why nothing moves. None of these burns anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outage {
    /// The node does not answer, or refuses to serve.
    NodeAway,
    /// The database does not answer.
    DatabaseAway,
    /// The deployer's account cannot pay for the next transaction.
    OutOfFunds,
    /// The chain asks for more than the fee cap.
    FeeAboveCap,
    /// The hour's spending limit is reached.
    SpendingLimit,
    /// The deployer does not hold the deployer role of the registry.
    NotPermitted,
    /// The registry's owner has paused it.
    RegistryPaused,
    /// The deployer key cannot sign at the moment.
    KeyAway,
    /// The node refuses our bytes for a reason only a person can mend.
    NodeRefuses,
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeAway => "the node does not answer",
            Self::DatabaseAway => "the database does not answer",
            Self::OutOfFunds => "the deployer's account cannot pay for the next transaction",
            Self::FeeAboveCap => "the chain asks for more than the fee cap",
            Self::SpendingLimit => "the hour's spending limit is reached",
            Self::NotPermitted => "the deployer does not hold the registry's deployer role",
            Self::RegistryPaused => "the registry is paused",
            Self::KeyAway => "the deployer key cannot sign",
            Self::NodeRefuses => "the node refuses the transaction",
        })
    }
}

/// When patience with a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A sent attempt that is in no block after this long is replaced by a dearer one.
    pub stuck_after_ms: i64,
    /// An attempt that the node forgot is sent again after this long.
    pub resend_after_ms: i64,
    /// A nonce that somebody else seems to have used, at final depth, is believed lost after it has looked so for this long.
    pub lost_after_ms: i64,
    /// Bytes that the node has refused for this long, without a break, are given up: their nonce is used by a cancellation,
    /// and their deployments are planned anew.
    pub refused_after_ms: i64,
}

/// What the node last said to the latest attempt, as far as this sender has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing yet: the attempt is new, or the sender is.
    Nothing,
    /// It took the bytes, or perhaps did.
    Taken,
    /// It will not take them, whatever fee they offer: no money, an earlier nonce missing, or a rule of its own.
    Declined {
        /// Since when, without a break.
        since_ms: i64,
    },
}

/// A slot as far as [`step`] needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotFacts {
    /// Where it stands.
    pub state: SlotState,
    /// Since when it stands there.
    pub since_ms: i64,
    /// When the latest attempt was signed.
    pub signed_at_ms: i64,
    /// When bytes of it were last sent, if ever.
    pub sent_at_ms: Option<i64>,
    /// Since when, without a break, the nonce has looked used by somebody else.
    pub taken_since_ms: Option<i64>,
    /// What the node last said to the latest attempt.
    pub heard: Heard,
    /// Whether the latest attempt replaced an earlier one.
    pub bumped: bool,
    /// Whether the latest attempt is a cancellation.
    pub cancelled: bool,
}

impl SlotFacts {
    /// Whether patience with the latest attempt has run out. Not from signing alone: what was reorganised away, or could not
    /// be paid for a while, has only begun to wait.
    fn stuck(&self, patience: &Patience, now_ms: i64) -> bool {
        now_ms - self.signed_at_ms.max(self.since_ms) >= patience.stuck_after_ms
    }

    /// What follows when the node refuses the bytes: wait for a person, but not with the nonce for ever.
    fn refused(&self, patience: &Patience, now_ms: i64) -> Effect {
        match self.heard {
            Heard::Declined { since_ms } if !self.cancelled && now_ms - since_ms >= patience.refused_after_ms => Effect::Cancel,
            _ => Effect::Pause(Outage::NodeRefuses),
        }
    }

    pub(crate) fn forgotten(&self, patience: &Patience, now_ms: i64) -> bool {
        self.sent_at_ms.is_none_or(|sent| now_ms - sent >= patience.resend_after_ms)
    }
}

/// The next state and the next effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The slot's next state.
    pub state: SlotState,
    /// What to do about it.
    pub effect: Effect,
}

/// What to do after `observation` of a slot.
pub fn step(slot: &SlotFacts, observation: Observation, patience: &Patience, now_ms: i64) -> Step {
    // A node answers about nonces and about receipts from different moments, and several nodes behind one address all the
    // more: while a block is being made, our own transaction can look like somebody else's.
    let lasting = slot.taken_since_ms.is_some_and(|since| now_ms - since >= patience.lost_after_ms);
    let observation = match observation {
        Observation::Taken { deep } => Observation::Taken { deep: deep && lasting },
        other => other,
    };
    let (state, effect) = match slot.state {
        SlotState::Signed => unsent(slot, observation, patience, now_ms),
        SlotState::Broadcast => sent(slot, observation, patience, now_ms),
        SlotState::Included => included(slot, observation, patience, now_ms),
        SlotState::Final => finished(slot, observation, patience, now_ms),
        SlotState::Reverted | SlotState::Lost => unridden(slot, observation, patience, now_ms),
    };
    Step { state, effect }
}

fn unsent(slot: &SlotFacts, observation: Observation, patience: &Patience, now_ms: i64) -> (SlotState, Effect) {
    use SlotState::{Broadcast, Lost, Signed};
    match observation {
        // "Maybe sent" is a state like sent: only the chain tells them apart.
        Observation::Accepted | Observation::MaybeSent | Observation::NonceTooLow | Observation::Pending { known: true } => {
            (Broadcast, Effect::Wait)
        }
        // The first offer may have been overtaken by a block; one that was raised already is not raised at every look.
        Observation::Underpriced if !slot.bumped || slot.stuck(patience, now_ms) => (Signed, Effect::Bump),
        Observation::Underpriced => (Signed, Effect::Reprice),
        Observation::Unfunded => (Signed, Effect::Pause(Outage::OutOfFunds)),
        Observation::Unsendable => (Signed, slot.refused(patience, now_ms)),
        Observation::Pending { known: false } => (Signed, Effect::Send),
        Observation::Mined { success, deep, .. } => mined(success, deep),
        Observation::Taken { deep: true } => (Lost, Effect::Release),
        Observation::Taken { deep: false } | Observation::Behind => (Signed, Effect::Wait),
        Observation::Purposeless => (Signed, Effect::Cancel),
        Observation::Away => (Signed, Effect::Pause(Outage::NodeAway)),
    }
}

fn sent(slot: &SlotFacts, observation: Observation, patience: &Patience, now_ms: i64) -> (SlotState, Effect) {
    use SlotState::{Broadcast, Lost};
    let stuck = slot.stuck(patience, now_ms);
    let forgotten = slot.forgotten(patience, now_ms);
    match observation {
        Observation::Pending { known: true } | Observation::Underpriced if stuck => (Broadcast, Effect::Bump),
        // Many nodes do not show what waits in their pools. But no fee helps bytes that the node does not take, and what
        // it makes of them is asked before they are replaced.
        Observation::Pending { known: false } if stuck && slot.heard == Heard::Taken => (Broadcast, Effect::Bump),
        Observation::Pending { known: false } if forgotten => (Broadcast, Effect::Send),
        Observation::Accepted
        | Observation::MaybeSent
        | Observation::NonceTooLow
        | Observation::Underpriced
        | Observation::Pending { .. }
        | Observation::Taken { deep: false }
        | Observation::Behind => (Broadcast, Effect::Wait),
        Observation::Unfunded => (Broadcast, Effect::Pause(Outage::OutOfFunds)),
        Observation::Unsendable => (Broadcast, slot.refused(patience, now_ms)),
        Observation::Mined { success, deep, .. } => mined(success, deep),
        Observation::Taken { deep: true } => (Lost, Effect::Release),
        Observation::Purposeless => (Broadcast, Effect::Cancel),
        Observation::Away => (Broadcast, Effect::Pause(Outage::NodeAway)),
    }
}

fn included(slot: &SlotFacts, observation: Observation, patience: &Patience, now_ms: i64) -> (SlotState, Effect) {
    use SlotState::{Broadcast, Included, Lost};
    match observation {
        // A node that lags ignores the bytes; a chain that was cut shorter, and waits for transactions, needs them.
        Observation::Behind if slot.forgotten(patience, now_ms) => (Included, Effect::Send),
        Observation::Mined { success, deep, .. } => mined(success, deep),
        // Reorganised away. Whether the node kept the transaction or not, the same bytes are wanted in the next block.
        Observation::Pending { .. } => (Broadcast, Effect::Send),
        Observation::Taken { deep: true } => (Lost, Effect::Release),
        Observation::Away => (Included, Effect::Pause(Outage::NodeAway)),
        Observation::Accepted
        | Observation::MaybeSent
        | Observation::NonceTooLow
        | Observation::Underpriced
        | Observation::Unfunded
        | Observation::Unsendable
        | Observation::Taken { deep: false }
        | Observation::Behind
        | Observation::Purposeless => (Included, Effect::Wait),
    }
}

/// A final slot is looked at again for a while, because finality by confirmations is a wager.
fn finished(slot: &SlotFacts, observation: Observation, patience: &Patience, now_ms: i64) -> (SlotState, Effect) {
    use SlotState::{Broadcast, Final, Lost};
    match observation {
        // As for what is included: a chain that was put back may wait for just these bytes.
        Observation::Behind if slot.forgotten(patience, now_ms) => (Final, Effect::Send),
        Observation::Mined { success, deep, moved: true } => mined(success, deep),
        Observation::Pending { .. } => (Broadcast, Effect::Send),
        Observation::Taken { deep: true } => (Lost, Effect::Release),
        // The same block: a node that lags or disagrees about depth takes nothing back.
        Observation::Mined { moved: false, .. }
        | Observation::Accepted
        | Observation::MaybeSent
        | Observation::NonceTooLow
        | Observation::Underpriced
        | Observation::Unfunded
        | Observation::Unsendable
        | Observation::Taken { deep: false }
        | Observation::Behind
        | Observation::Purposeless
        | Observation::Away => (Final, Effect::Wait),
    }
}

/// Nobody rides on a reverted or lost slot any more; if a deep reorg gives its nonce back, the nonce must be used again, or
/// everything after it waits for ever.
fn unridden(slot: &SlotFacts, observation: Observation, patience: &Patience, now_ms: i64) -> (SlotState, Effect) {
    match observation {
        Observation::Pending { .. } => (SlotState::Broadcast, Effect::Send),
        Observation::Mined { success, deep, moved: true } => mined(success, deep),
        Observation::Behind if slot.forgotten(patience, now_ms) => (slot.state, Effect::Send),
        _ => (slot.state, Effect::Wait),
    }
}

fn mined(success: bool, deep: bool) -> (SlotState, Effect) {
    match (deep, success) {
        (false, _) => (SlotState::Included, Effect::Wait),
        (true, true) => (SlotState::Final, Effect::Settle),
        (true, false) => (SlotState::Reverted, Effect::Split),
    }
}

/// How the chain answers, before anything is signed, whether a planned deployment is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sight {
    /// It is not.
    Absent,
    /// It is, in a block that may still be reorganised away.
    Shallow,
    /// It is, at final depth.
    Deep,
}

/// What follows for a planned deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Take it into the next transaction.
    Sign,
    /// Leave it planned and ask again.
    Wait,
    /// It is final.
    Finish,
}

/// What follows for a planned deployment. "Already there" counts at final depth only: signing again would be harmless and
/// waste money, and believing a shallow sight could lose the token to a reorg.
pub fn admit(sight: Sight) -> Admission {
    match sight {
        Sight::Absent => Admission::Sign,
        Sight::Shallow => Admission::Wait,
        Sight::Deep => Admission::Finish,
    }
}

#[cfg(test)]
mod tests;
