//! The whole table: every state against every observation, and what time changes.

use super::*;

const PATIENCE: Patience = Patience { stuck_after_ms: 1000, resend_after_ms: 100, lost_after_ms: 500 };

/// How long ago the latest attempt was signed and sent.
#[derive(Clone, Copy)]
enum Age {
    Fresh,
    Forgotten,
    Stuck,
}

fn facts(state: SlotState, age: Age) -> SlotFacts {
    match age {
        Age::Fresh => SlotFacts { state, since_ms: 0, signed_at_ms: 0, sent_at_ms: Some(0), taken_since_ms: Some(-500) },
        Age::Forgotten => SlotFacts { state, since_ms: 0, signed_at_ms: 0, sent_at_ms: Some(-100), taken_since_ms: Some(-500) },
        Age::Stuck => SlotFacts { state, since_ms: -1000, signed_at_ms: -1000, sent_at_ms: Some(-1000), taken_since_ms: Some(-500) },
    }
}

fn check(state: SlotState, observation: Observation, age: Age, expected: (SlotState, Effect)) {
    let Step { state: next, effect } = step(&facts(state, age), observation, &PATIENCE, 0);
    assert_eq!((next, effect), expected, "{state:?} after {observation:?}");
}

/// Every kind of observation with its name in `docs/deployment-states.md`, in the columns' order of [`TABLE`].
const OBSERVATIONS: [Observation; 19] = [
    Observation::Accepted,
    Observation::MaybeSent,
    Observation::NonceTooLow,
    Observation::Underpriced,
    Observation::Unfunded,
    Observation::Unsendable,
    Observation::Behind,
    Observation::Purposeless,
    Observation::Away,
    Observation::Pending { known: false },
    Observation::Pending { known: true },
    Observation::Taken { deep: false },
    Observation::Taken { deep: true },
    Observation::Mined { success: true, deep: false, moved: true },
    Observation::Mined { success: true, deep: true, moved: true },
    Observation::Mined { success: false, deep: false, moved: true },
    Observation::Mined { success: false, deep: true, moved: true },
    Observation::Mined { success: true, deep: false, moved: false },
    Observation::Mined { success: false, deep: true, moved: false },
];

/// Next state (S, B, I, F, R, L) and effect (`-` wait, `send`, `bump`, `cancel`, `settle`, `release`, `split`, and the outages
/// `funds`, `node`, `refuses`) of a slot whose attempt was sent a moment ago.
#[rustfmt::skip]
const TABLE: [(SlotState, [&str; 19]); 6] = [
    (SlotState::Signed, [
        "B -", "B -", "B -", "S bump", "S funds", "S refuses", "S -", "S cancel", "S node",
        "S send", "B -", "S -", "L release",
        "I -", "F settle", "I -", "R split", "I -", "R split",
    ]),
    (SlotState::Broadcast, [
        "B -", "B -", "B -", "B -", "B funds", "B refuses", "B -", "B cancel", "B node",
        "B -", "B -", "B -", "L release",
        "I -", "F settle", "I -", "R split", "I -", "R split",
    ]),
    (SlotState::Included, [
        "I -", "I -", "I -", "I -", "I -", "I -", "I -", "I -", "I node",
        "B send", "B send", "I -", "L release",
        "I -", "F settle", "I -", "R split", "I -", "R split",
    ]),
    (SlotState::Final, [
        "F -", "F -", "F -", "F -", "F -", "F -", "F -", "F -", "F -",
        "B send", "B send", "F -", "L release",
        "I -", "F settle", "I -", "R split", "F -", "F -",
    ]),
    (SlotState::Reverted, [
        "R -", "R -", "R -", "R -", "R -", "R -", "R -", "R -", "R -",
        "B send", "B send", "R -", "R -",
        "I -", "F settle", "I -", "R split", "R -", "R -",
    ]),
    (SlotState::Lost, [
        "L -", "L -", "L -", "L -", "L -", "L -", "L -", "L -", "L -",
        "L -", "L -", "L -", "L -",
        "L -", "L -", "L -", "L -", "L -", "L -",
    ]),
];

fn expected(cell: &str) -> (SlotState, Effect) {
    let (state, effect) = cell.split_once(' ').expect("state and effect");
    let state = SlotState::ALL.into_iter().find(|known| known.as_str().to_uppercase().starts_with(state)).expect("a state");
    let effect = match effect {
        "-" => Effect::Wait,
        "send" => Effect::Send,
        "bump" => Effect::Bump,
        "cancel" => Effect::Cancel,
        "settle" => Effect::Settle,
        "release" => Effect::Release,
        "split" => Effect::Split,
        "funds" => Effect::Pause(Outage::OutOfFunds),
        "node" => Effect::Pause(Outage::NodeAway),
        "refuses" => Effect::Pause(Outage::NodeRefuses),
        other => panic!("no effect: {other}"),
    };
    (state, effect)
}

#[test]
fn every_state_answers_every_observation() {
    for (state, cells) in TABLE {
        for (observation, cell) in OBSERVATIONS.into_iter().zip(cells) {
            check(state, observation, Age::Fresh, expected(cell));
        }
    }
    // The columns leave out only observations that differ from a listed one in what open slots do not look at.
    for observation in Observation::all() {
        for state in SlotState::ALL {
            let Step { state: next, .. } = step(&facts(state, Age::Fresh), observation, &PATIENCE, 0);
            assert!(next.is_open() || !state.is_open() || matches!(observation, Observation::Mined { .. } | Observation::Taken { .. }));
        }
    }
    assert_eq!(SlotState::ALL.len(), TABLE.len());
}

/// One look that says so is not enough.
#[test]
fn a_nonce_is_lost_only_when_it_has_looked_so_for_a_while() {
    for state in [SlotState::Signed, SlotState::Broadcast, SlotState::Included, SlotState::Final] {
        for taken_since_ms in [None, Some(0), Some(-499)] {
            let slot = SlotFacts { taken_since_ms, ..facts(state, Age::Fresh) };
            assert_eq!(step(&slot, Observation::Taken { deep: true }, &PATIENCE, 0), Step { state, effect: Effect::Wait });
        }
    }
}

#[test]
fn what_a_node_forgot_is_sent_again_after_a_while() {
    use SlotState::{Broadcast, Included};
    let forgotten = Observation::Pending { known: false };
    check(Broadcast, forgotten, Age::Forgotten, (Broadcast, Effect::Send));
    check(Broadcast, Observation::Pending { known: true }, Age::Forgotten, (Broadcast, Effect::Wait));
    check(Included, Observation::Behind, Age::Forgotten, (Included, Effect::Send));
    let never_sent = SlotFacts { state: Broadcast, since_ms: 0, signed_at_ms: 0, sent_at_ms: None, taken_since_ms: Some(-500) };
    assert_eq!(step(&never_sent, forgotten, &PATIENCE, 0).effect, Effect::Send);
}

#[test]
fn what_is_stuck_is_bumped() {
    use SlotState::Broadcast;
    for observation in [Observation::Pending { known: true }, Observation::Pending { known: false }, Observation::Underpriced] {
        check(Broadcast, observation, Age::Stuck, (Broadcast, Effect::Bump));
    }
    check(Broadcast, Observation::Accepted, Age::Stuck, (Broadcast, Effect::Wait));
    let just_reorganised = SlotFacts { since_ms: -1, ..facts(Broadcast, Age::Stuck) };
    assert_eq!(step(&just_reorganised, Observation::Pending { known: true }, &PATIENCE, 0).effect, Effect::Wait);
}

#[test]
fn an_outage_changes_no_state() {
    for state in SlotState::ALL {
        for observation in Observation::all() {
            for age in [Age::Fresh, Age::Forgotten, Age::Stuck] {
                let next = step(&facts(state, age), observation, &PATIENCE, 0);
                if let Effect::Pause(_) = next.effect {
                    assert_eq!(next.state, state, "{observation:?}");
                }
            }
        }
    }
}

#[test]
fn a_nonce_is_given_up_at_final_depth_only() {
    for state in SlotState::ALL.into_iter().filter(|state| state.is_open()) {
        for observation in Observation::all() {
            let next = step(&facts(state, Age::Stuck), observation, &PATIENCE, 0).state;
            let deep = matches!(observation, Observation::Mined { deep: true, .. } | Observation::Taken { deep: true });
            assert_eq!(next.is_open(), !deep, "{state:?} after {observation:?}");
        }
    }
}

#[test]
fn already_there_counts_at_final_depth_only() {
    assert_eq!(admit(Sight::Absent), Admission::Sign);
    assert_eq!(admit(Sight::Shallow), Admission::Wait);
    assert_eq!(admit(Sight::Deep), Admission::Finish);
}

#[test]
fn states_have_one_name_each() {
    for state in DeploymentState::ALL {
        assert_eq!(state.as_str().parse(), Ok(state));
    }
    for state in SlotState::ALL {
        assert_eq!(SlotState::parse(state.as_str()), Some(state));
    }
    assert!("deployed".parse::<DeploymentState>().is_err());
}
