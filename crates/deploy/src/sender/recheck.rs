//! Recent finals, looked at again: finality by confirmations is a wager, and a deeper reorganisation plans anew.
//!
//! How far back is `recheck_window`; what became final before it is believed, unless the chain gives its nonce back.

use super::Sender;
use crate::{
    chain::ChainView,
    deployment::SlotState,
    error::Error,
    ledger::{fates::Fate, now_ms, slots::Slot},
    rpc::At,
};

/// How many slots, and how many deployments that were found, are looked at in one turn, so that a long history does not keep
/// new work waiting.
const SLOTS_PER_TURN: u32 = 20;
const FOUND_PER_TURN: usize = 100;

/// How far the present round has come, and when the next one begins.
#[derive(Debug, Clone)]
pub(super) struct Recheck {
    next_at_ms: i64,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// Slots that the chain seems to have given back, whatever their age, from this nonce on.
    GivenBack(u64),
    /// Recent slots from this nonce on.
    Slots(u64),
    /// Deployments that were found rather than sent, after this id.
    Found(String),
}

impl Recheck {
    /// A round that begins now.
    pub(super) fn due() -> Self {
        Self { next_at_ms: i64::MIN, place: Place::Slots(0) }
    }

    /// A round that begins now, with what ended from `nonce` on: the chain counts it as unused.
    pub(super) fn given_back(nonce: u64) -> Self {
        Self { next_at_ms: i64::MIN, place: Place::GivenBack(nonce) }
    }

    pub(super) fn is_due(&self, now_ms: i64) -> bool {
        now_ms >= self.next_at_ms
    }
}

impl Sender {
    /// Looks at the next part of the round. Whether anything was found changed, or more is to be looked at.
    pub(super) async fn recheck(&mut self, view: &ChainView, now_ms: i64) -> Result<bool, Error> {
        let Some(place) = self.tenure.as_ref().map(|tenure| tenure.recheck.place.clone()) else {
            return Ok(false);
        };
        let (mut moved, mut next) = self.recheck_at(place, view, now_ms).await?;
        if let Some(Place::Found(after)) = &next
            && after.is_empty()
        {
            let (found_moved, found_next) = self.recheck_at(Place::Found(String::new()), view, now_ms).await?;
            (moved, next) = (moved || found_moved, found_next);
        }
        let every_ms = i64::try_from(self.config.recheck_every.as_millis()).unwrap_or(i64::MAX);
        let more = next.is_some();
        if let Some(tenure) = &mut self.tenure {
            tenure.recheck = match next {
                Some(place) => Recheck { next_at_ms: i64::MIN, place },
                None => Recheck { next_at_ms: now_ms.saturating_add(every_ms), place: Place::Slots(0) },
            };
        }
        Ok(moved || more)
    }

    async fn recheck_at(&mut self, place: Place, view: &ChainView, now_ms: i64) -> Result<(bool, Option<Place>), Error> {
        let since_ms = now_ms.saturating_sub(i64::try_from(self.config.recheck_window.as_millis()).unwrap_or(i64::MAX)).max(0);
        match place {
            Place::GivenBack(from) => {
                let slots = self.ledger.ended_slots(self.account(), from, SLOTS_PER_TURN).await?;
                let next = next_nonce(&slots).map_or(Place::Slots(0), Place::GivenBack);
                Ok((self.recheck_slots(slots, view, now_ms).await?, Some(next)))
            }
            Place::Slots(from) => {
                let slots = self.ledger.settled_slots(self.account(), since_ms, from, SLOTS_PER_TURN).await?;
                let next = next_nonce(&slots).map_or(Place::Found(String::new()), Place::Slots);
                Ok((self.recheck_slots(slots, view, now_ms).await?, Some(next)))
            }
            Place::Found(after) => self.recheck_found(since_ms, &after, view).await,
        }
    }

    async fn recheck_slots(&mut self, slots: Vec<Slot>, view: &ChainView, now_ms: i64) -> Result<bool, Error> {
        let mut moved = false;
        for slot in slots {
            let (nonce, before) = (slot.nonce, slot.state);
            moved |= self.attend(slot, view, now_ms).await?;
            let reopened = self.own().any(|slot| slot.nonce == nonce);
            if reopened && before == SlotState::Final {
                tracing::warn!(nonce, "a reorganisation deeper than the confirmations took a final transaction; it is sent again");
            }
        }
        Ok(moved)
    }

    /// Deployments that were found on the chain have no transaction of ours to look at: the registry is asked.
    async fn recheck_found(&mut self, since_ms: i64, after: &str, view: &ChainView) -> Result<(bool, Option<Place>), Error> {
        let rows = self.ledger.found_since(since_ms, after, FOUND_PER_TURN).await?;
        let more = rows.len() == FOUND_PER_TURN;
        let next = rows.last().filter(|_| more).map(|row| Place::Found(row.deployment.id.clone()));
        let recorded = self.version_numbers(&rows, At::Number(view.head.number)).await?;
        let gone: Vec<_> = rows
            .into_iter()
            .zip(recorded)
            // A node behind the block in which it was found says nothing.
            .filter(|(row, recorded)| !recorded && row.deployment.block_number.is_none_or(|seen| view.head.number >= seen))
            .map(|(row, _)| (row, Fate::PLANNED))
            .collect();
        let moved = !gone.is_empty();
        self.ledger.settle_waiting(self.fence()?, gone, now_ms()).await?;
        Ok((moved, next))
    }
}

/// Where to go on after these slots; `None` if they were the last.
fn next_nonce(slots: &[Slot]) -> Option<u64> {
    let full = slots.len() == SLOTS_PER_TURN as usize;
    slots.last().filter(|_| full).map(|slot| slot.nonce + 1)
}
