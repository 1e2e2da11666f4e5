//! What must hold of the account's money before anything new is signed. What was signed already is seen through regardless.

use alloy::primitives::U256;

use super::{Sender, fees::Offer};
use crate::{
    deployment::{Outage, SlotState},
    error::Error,
    ledger::now_ms,
};

const HOUR_MS: i64 = 3_600_000;

impl Sender {
    /// Whether there is money for one more transaction now. There is not while those that wait for a block keep it; they will not
    /// need most of it.
    pub(super) async fn has_money(&mut self, gas_limit: u64, offer: Offer) -> Result<bool, Error> {
        let cost = U256::from(gas_limit) * U256::from(offer.max_fee_wei);
        if !self.has_funds(cost).await? {
            return Ok(false);
        }
        self.check_spending(cost).await?;
        Ok(true)
    }

    /// Nodes take a transaction only if the account can pay its limit at its full price, beside those that wait already.
    async fn has_funds(&mut self, cost: U256) -> Result<bool, Error> {
        let waiting = self.own().filter(|slot| slot.state != SlotState::Included);
        let reserved: U256 = waiting.map(|slot| U256::from(slot.latest().gas_limit) * U256::from(slot.latest().max_fee_wei)).sum();
        let needed = reserved + cost + self.config.min_balance_wei;
        let balance = self.node.balance(self.account()).await?;
        let low = self.config.low_balance_wei.is_some_and(|low| balance < low);
        if low && !self.warned_of_balance {
            tracing::warn!(account = %self.account(), balance_wei = %balance, "the deployer's balance is low");
        }
        self.warned_of_balance = low;
        if balance >= needed || balance >= needed - reserved {
            return Ok(balance >= needed);
        }
        let detail = format!("{} has {balance} wei and needs {needed}; send it at least {} wei", self.account(), needed - balance);
        Err(Error::Outage { outage: Outage::OutOfFunds, detail })
    }

    async fn check_spending(&self, cost: U256) -> Result<(), Error> {
        let Some(limit) = self.config.max_spend_wei_per_hour else {
            return Ok(());
        };
        let spent = self.ledger.spent_since(self.account(), now_ms() - HOUR_MS).await?;
        if spent + cost <= limit {
            return Ok(());
        }
        let detail = format!(
            "{spent} wei went, or may go, into transactions of the last hour, the next may cost {cost}, and the limit is {limit}; it goes on \
             when the hour has passed, or with a higher limit"
        );
        Err(Error::Outage { outage: Outage::SpendingLimit, detail })
    }
}
