//! What the failure of one deployment's call means for that deployment. Pure.
//!
//! Invariant: it is refused only for a reason that the registry gave, or when it reverted again and again with data that
//! nobody here can read. Whatever may pass by itself (gas that ran out, a node that keeps the reason to itself, a state that
//! is gone) is tried again, at growing intervals, and never refused.

use std::time::Duration;

use super::SenderConfig;
use crate::{
    ledger::{
        DeploymentRow,
        fates::{Fate, Setback},
    },
    token::Revert,
};

/// How often a revert that is not understood is met before it is believed to be for good.
const TRIES: u32 = 5;
/// Asking a node costs nothing: it is asked again at least this often.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Where the call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    /// In an estimate or before it was sent; it cost nothing.
    Node,
    /// On the chain; it cost its gas.
    Chain,
}

/// The fate of a deployment whose call, made for it alone, failed. `words` say what was seen. A paused registry and a missing
/// role concern all, and are the caller's affair.
pub(super) fn lone_failure(
    row: &DeploymentRow,
    revert: Option<&Revert>,
    words: String,
    scene: Scene,
    config: &SenderConfig,
    now_ms: i64,
) -> Fate {
    match revert {
        Some(Revert::Refused { .. }) => Fate::Refused { reason: words, permanent: true },
        Some(Revert::Unexplained { data }) if !data.is_empty() && row.tries + 1 >= TRIES => {
            Fate::Refused { reason: words, permanent: false }
        }
        _ => Fate::Planned { alone: true, setback: Some(setback(row, words, scene, config, now_ms)) },
    }
}

/// A wait that doubles with each failure.
pub(super) fn setback(row: &DeploymentRow, reason: String, scene: Scene, config: &SenderConfig, now_ms: i64) -> Setback {
    let most = match scene {
        Scene::Node => config.hold_back_max.min(ASK_EVERY),
        Scene::Chain => config.hold_back_max,
    };
    let wait = config.hold_back_min.saturating_mul(1 << row.tries.min(20)).min(most);
    Setback { reason, until_ms: now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)) }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bytes};

    use super::*;
    use crate::{chain::Finality, deployment::DeploymentState, ledger::Deployment, token::TokenRequest};

    fn row(tries: u32) -> DeploymentRow {
        let request = TokenRequest {
            symbol: "S".into(),
            model_name: "m".into(),
            model_version: "1".into(),
            model_id: "m/1/S".into(),
            mlflow_run_id: String::new(),
            metric_name: "accuracy".into(),
            baseline_value: 0.1,
            current_value: 0.2,
            lower_is_better: false,
            contributor: None,
            message_id: "message".into(),
            correlation_id: "correlation".into(),
            registration_id: None,
        };
        let deployment = Deployment {
            id: "id".into(),
            chain_id: 1,
            registry: Address::ZERO,
            request,
            state: DeploymentState::Planned,
            token_address: Address::ZERO,
            transaction_hash: None,
            block_number: None,
            gas_used: None,
            fee_wei: None,
            outcome: None,
            reason: None,
            created_at_ms: 0,
            updated_at_ms: 0,
            settled_at_ms: None,
        };
        DeploymentRow { deployment, alone: true, item: None, tries, permanent: false, wish: None, slot: None }
    }

    /// `Some(permanent)` if it is refused, `None` if it is tried again.
    fn check(tries: u32, revert: Option<Revert>, expected: Option<bool>) {
        for scene in [Scene::Node, Scene::Chain] {
            let fate = lone_failure(&row(tries), revert.as_ref(), "words".into(), scene, &SenderConfig::new(Finality::Finalized), 0);
            let refused = match fate {
                Fate::Refused { permanent, .. } => Some(permanent),
                Fate::Planned { alone: true, setback: Some(_) } => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(refused, expected, "{revert:?} after {tries} tries");
        }
    }

    #[test]
    fn only_what_was_explained_or_met_again_and_again_is_refused() {
        check(0, Some(Revert::Refused { reason: "why".into() }), Some(true));
        let unread = || Some(Revert::Unexplained { data: Bytes::from_static(&[1, 2, 3, 4]) });
        check(0, unread(), None);
        check(TRIES - 2, unread(), None);
        check(TRIES - 1, unread(), Some(false));
        check(100, Some(Revert::Unexplained { data: Bytes::new() }), None);
        check(100, None, None);
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        let config = SenderConfig::new(Finality::Finalized);
        let wait = |tries, scene| setback(&row(tries), String::new(), scene, &config, 0).until_ms;
        assert_eq!((wait(0, Scene::Chain), wait(1, Scene::Chain), wait(2, Scene::Node)), (2000, 4000, 8000));
        assert_eq!((wait(u32::MAX, Scene::Chain), wait(u32::MAX, Scene::Node)), (3_600_000, 60_000));
    }
}
