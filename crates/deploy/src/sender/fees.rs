//! What to offer for a transaction. Pure arithmetic in wei per gas.

/// What may be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeePolicy {
    /// The most a transaction may offer per gas, tip included (`maxFeePerGas`). Above it nothing is signed.
    pub max_fee_per_gas_wei: u128,
    /// The tip where the node suggests none.
    pub default_tip_wei: u128,
}

const GWEI: u128 = 1_000_000_000;

impl Default for FeePolicy {
    fn default() -> Self {
        Self { max_fee_per_gas_wei: 200 * GWEI, default_tip_wei: GWEI }
    }
}

/// What one attempt offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) max_fee_wei: u128,
    pub(crate) tip_wei: u128,
}

/// Nodes want a replacement to raise both numbers by a tenth (geth) or an eighth (nethermind, erigon); an eighth, rounded
/// up, satisfies all.
const RAISE: (u128, u128) = (9, 8);

/// What one transaction may cost at its limit and its full price, or a node does not take it: geth, and those who follow it,
/// refuse more over RPC (`RPCTxFeeCap` in geth's `eth/ethconfig/config.go`, checked by `checkTxFee` in
/// `internal/ethapi/api.go`). It is a setting of the node, which cannot be asked for it; this is its default, one ether.
const TRANSACTION_FEE_CAP_WEI: u128 = 1_000_000_000 * GWEI;

/// A new transaction stays at half the cap: five bumps fit into the other half.
const FEE_HEADROOM: u128 = 2;

impl Offer {
    /// How much gas a new transaction may have at this price, for nodes to take it and some bumps of it.
    pub(super) fn gas_room(&self) -> u64 {
        u64::try_from(TRANSACTION_FEE_CAP_WEI / FEE_HEADROOM / self.max_fee_wei.max(1)).unwrap_or(u64::MAX)
    }

    pub(super) fn is_above(&self, other: Self) -> bool {
        self.max_fee_wei > other.max_fee_wei || self.tip_wei > other.tip_wei
    }
}

impl FeePolicy {
    /// This policy for a transaction of so much gas: nodes cap what one transaction may cost.
    pub(super) fn for_gas(self, gas_limit: u64) -> Self {
        let max_fee_per_gas_wei = self.max_fee_per_gas_wei.min(TRANSACTION_FEE_CAP_WEI / u128::from(gas_limit.max(1)));
        Self { max_fee_per_gas_wei, ..self }
    }

    /// Twice the base fee, which covers six full blocks in a row, and the tip; no more than the cap. `None` if the cap
    /// does not even cover the next block.
    pub(crate) fn offer(&self, base_fee_wei: u128, suggested_tip_wei: Option<u128>) -> Option<Offer> {
        let tip_wei = suggested_tip_wei.unwrap_or(self.default_tip_wei);
        let wanted = base_fee_wei.saturating_mul(2).saturating_add(tip_wei);
        let max_fee_wei = wanted.min(self.max_fee_per_gas_wei);
        (max_fee_wei >= base_fee_wei.saturating_add(tip_wei)).then_some(Offer { max_fee_wei, tip_wei })
    }

    /// The offer that replaces `old`: at least an eighth more of both, and what is right today as far as the cap allows.
    /// `None` if it does not allow the eighth.
    pub(super) fn raise(&self, old: Offer, today: Option<Offer>) -> Option<Offer> {
        let floor = Offer { max_fee_wei: raised(old.max_fee_wei), tip_wei: raised(old.tip_wei) };
        let today = today.unwrap_or(floor);
        let max_fee_wei = floor.max_fee_wei.max(today.max_fee_wei).min(self.max_fee_per_gas_wei);
        let tip_wei = floor.tip_wei.max(today.tip_wei).min(max_fee_wei);
        (max_fee_wei >= floor.max_fee_wei).then_some(Offer { max_fee_wei, tip_wei })
    }
}

fn raised(wei: u128) -> u128 {
    wei.saturating_mul(RAISE.0).div_ceil(RAISE.1).max(wei.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: FeePolicy = FeePolicy { max_fee_per_gas_wei: 100, default_tip_wei: 2 };

    #[test]
    fn an_offer_covers_twice_the_base_fee_below_the_cap() {
        assert_eq!(POLICY.offer(10, Some(3)), Some(Offer { max_fee_wei: 23, tip_wei: 3 }));
        assert_eq!(POLICY.offer(10, None), Some(Offer { max_fee_wei: 22, tip_wei: 2 }));
        assert_eq!(POLICY.offer(60, Some(3)), Some(Offer { max_fee_wei: 100, tip_wei: 3 }));
        assert_eq!(POLICY.offer(98, Some(3)), None);
        assert_eq!(POLICY.offer(u128::MAX, Some(3)), None);
    }

    #[test]
    fn a_raise_is_at_least_an_eighth_of_both() {
        let old = Offer { max_fee_wei: 80, tip_wei: 0 };
        assert_eq!(POLICY.raise(old, None), Some(Offer { max_fee_wei: 90, tip_wei: 1 }));
        let today = Some(Offer { max_fee_wei: 95, tip_wei: 7 });
        assert_eq!(POLICY.raise(old, today), Some(Offer { max_fee_wei: 95, tip_wei: 7 }));
        assert_eq!(POLICY.raise(Offer { max_fee_wei: 89, tip_wei: 1 }, None), None, "101 is above the cap");
        let above = Some(Offer { max_fee_wei: 150, tip_wei: 7 });
        assert_eq!(POLICY.raise(old, above), Some(Offer { max_fee_wei: 100, tip_wei: 7 }), "as far as the cap allows");
        for wei in 0..1000 {
            assert!(raised(wei) * 1000 >= wei * 1125 && raised(wei) > wei, "{wei}");
        }
    }

    /// What geth would refuse is not signed, and what is signed can be bumped five times before geth refuses it.
    #[test]
    fn a_transaction_costs_less_than_nodes_take() {
        for max_fee_wei in [1, 7 * GWEI, 200 * GWEI, 100_000 * GWEI] {
            let mut offer = Offer { max_fee_wei, tip_wei: 1 };
            let gas = offer.gas_room().min(16_777_216);
            let policy = FeePolicy { max_fee_per_gas_wei: u128::MAX, default_tip_wei: 1 }.for_gas(gas);
            for _ in 0..5 {
                offer = policy.raise(offer, None).expect("there is room for a bump");
                assert!(offer.max_fee_wei * u128::from(gas) <= 1_000_000_000 * GWEI);
            }
        }
        let policy = FeePolicy::default().for_gas(16_777_216);
        assert_eq!(policy.raise(Offer { max_fee_wei: 59 * GWEI, tip_wei: 1 }, None), None, "more than an ether");
    }
}
