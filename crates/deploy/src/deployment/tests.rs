//! The whole table: every state against every observation, and what time changes.

use super::*;

const PATIENCE: Patience = Patience { stuck_after_ms: 1000, resend_after_ms: 100, lost_after_ms: 500, refused_after_ms: 2000 };

/// How long ago the latest attempt was signed and sent.
#[derive(Clone, Copy)]
enum Age {
    Fresh,
    Forgotten,
    Stuck,
}

fn facts(state: SlotState, age: Age) -> SlotFacts {
    let (since_ms, sent_at_ms) = match age {
        Age::Fresh => (0, 0),
        Age::Forgotten => (0, -100),
        Age::Stuck => (-1000, -1000),
    };
    SlotFacts {
        state,
        since_ms,
        signed_at_ms: since_ms,
        sent_at_ms: Some(sent_at_ms),
        taken_since_ms: Some(-500),
        heard: Heard::Taken,
        bumped: false,
        cancelled: false,
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
        "B send", "B send", "L -", "L -",
        "I -", "F settle", "I -", "R split", "L -", "L -",
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
    for state in [Included, SlotState::Final, SlotState::Reverted] {
        check(state, Observation::Behind, Age::Forgotten, (state, Effect::Send));
    }
    let never_sent = SlotFacts { sent_at_ms: None, ..facts(Broadcast, Age::Fresh) };
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

/// No fee helps what the node does not take; and a sender that has just begun asks before it pays more.
#[test]
fn what_the_node_does_not_take_is_sent_again_and_not_bumped() {
    for heard in [Heard::Declined { since_ms: -500 }, Heard::Nothing] {
        let slot = SlotFacts { heard, ..facts(SlotState::Broadcast, Age::Stuck) };
        assert_eq!(step(&slot, Observation::Pending { known: false }, &PATIENCE, 0).effect, Effect::Send);
        assert_eq!(step(&slot, Observation::Pending { known: true }, &PATIENCE, 0).effect, Effect::Bump);
    }
}

#[test]
fn a_replacement_that_is_too_cheap_is_replaced_when_prices_rise_or_patience_ends() {
    let bumped = |age| SlotFacts { bumped: true, ..facts(SlotState::Signed, age) };
    assert_eq!(step(&bumped(Age::Fresh), Observation::Underpriced, &PATIENCE, 0).effect, Effect::Reprice);
    assert_eq!(step(&bumped(Age::Stuck), Observation::Underpriced, &PATIENCE, 0).effect, Effect::Bump);
}

#[test]
fn bytes_refused_for_long_are_cancelled_once() {
    for state in [SlotState::Signed, SlotState::Broadcast] {
        let slot = |since_ms, cancelled| SlotFacts { heard: Heard::Declined { since_ms }, cancelled, ..facts(state, Age::Stuck) };
        let effect = |slot: SlotFacts| step(&slot, Observation::Unsendable, &PATIENCE, 0).effect;
        assert_eq!(effect(slot(-1999, false)), Effect::Pause(Outage::NodeRefuses));
        assert_eq!(effect(slot(-2000, false)), Effect::Cancel);
        assert_eq!(effect(slot(-2000, true)), Effect::Pause(Outage::NodeRefuses));
        assert_eq!(step(&slot(-2000, false), Observation::Unfunded, &PATIENCE, 0).effect, Effect::Pause(Outage::OutOfFunds));
    }
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
