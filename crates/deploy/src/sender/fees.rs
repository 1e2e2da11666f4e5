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

impl FeePolicy {
    /// Twice the base fee, which covers six full blocks in a row, and the tip; no more than the cap. `None` if the cap
    /// does not even cover the next block.
    pub(crate) fn offer(&self, base_fee_wei: u128, suggested_tip_wei: Option<u128>) -> Option<Offer> {
        let tip_wei = suggested_tip_wei.unwrap_or(self.default_tip_wei);
        let wanted = base_fee_wei.saturating_mul(2).saturating_add(tip_wei);
        let max_fee_wei = wanted.min(self.max_fee_per_gas_wei);
        (max_fee_wei >= base_fee_wei.saturating_add(tip_wei)).then_some(Offer { max_fee_wei, tip_wei })
    }

    /// The offer that replaces `old`: at least an eighth more of both, and at least what is right today. `None` if
    /// the cap does not allow it.
    pub(super) fn raise(&self, old: Offer, today: Option<Offer>) -> Option<Offer> {
        let floor = Offer { max_fee_wei: raised(old.max_fee_wei), tip_wei: raised(old.tip_wei) };
        let today = today.unwrap_or(floor);
        let max_fee_wei = floor.max_fee_wei.max(today.max_fee_wei);
        let tip_wei = floor.tip_wei.max(today.tip_wei).min(max_fee_wei);
        (max_fee_wei <= self.max_fee_per_gas_wei).then_some(Offer { max_fee_wei, tip_wei })
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
        for wei in 0..1000 {
            assert!(raised(wei) * 1000 >= wei * 1125 && raised(wei) > wei, "{wei}");
        }
    }
}
