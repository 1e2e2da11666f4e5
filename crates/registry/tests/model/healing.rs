//! What becomes of a state when the faults end: one relay, our consumer and the reaper go on, everybody else is gone.
//!
//! The run is one fixed schedule, so that "ends well" is one answer for each state. States that agree in what the run
//! looks at share their answer.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::{
    consumers::{Foreign, Ours},
    lane::{Lane, Step},
    redis::{Entry, MESSAGES, Time},
    world::{Action, History, Reply, State, World},
};

/// More than any run needs; one that goes on for longer goes on for ever.
const ROUNDS: usize = 60;

/// How our consumer fares.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Weather {
    /// Handlers succeed.
    Fair,
    /// Whoever takes a message dies of it.
    Poison,
}

/// The states known to end well.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashSet<(Weather, State)>>);

/// Whether every committed message is handled or dead-lettered in the end (or was lost in the foreign gap).
pub(crate) fn ends(world: &World, state: &State, weather: Weather) -> bool {
    (0..world.scope.lanes).all(|lane| ends_with(world, alone(state, lane, weather), weather))
}

fn ends_with(world: &World, start: State, weather: Weather) -> bool {
    let known = |known: &Known| known.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(weather, start.clone()));
    if known(&world.healed) {
        return true;
    }
    let well = run(world, start.clone(), weather);
    if well {
        world.healed.0.lock().unwrap_or_else(PoisonError::into_inner).insert((weather, start));
    }
    well
}

/// The state without those who do not take part.
fn alone(state: &State, lane: usize, weather: Weather) -> State {
    let mut state = state.clone();
    if let Foreign::Between { entry, removed: true } = state.foreign {
        state.history.gap[entry.message()] = true;
    }
    state.foreign = Foreign::Free;
    state.lanes = [state.lanes[lane], Lane::default()];
    state.faults_left = 0;
    (state.saved, state.backup) = (None, None);
    state.history = History { handled: state.history.handled, gap: state.history.gap, ..History::default() };
    if weather == Weather::Poison {
        state.ours = Ours::Free;
    }
    state
}

fn run(world: &World, mut state: State, weather: Weather) -> bool {
    for _ in 0..ROUNDS {
        let before = state.clone();
        relay(world, &mut state);
        consume(world, &mut state, weather);
        reap(world, &mut state);
        world.step(&mut state, Action::Tick);
        if state == before {
            break;
        }
    }
    let redis = &state.redis;
    let quiet = redis.main.is_empty() && redis.processing.is_empty() && redis.delayed.is_empty();
    quiet && (0..MESSAGES).all(|message| !state.sql.is_committed(message) || state.is_over(message))
}

/// Passes until one changes nothing. A stopped lane is let go on as its reason says: with a new source id.
fn relay(world: &World, state: &mut State) {
    let lane = 0;
    for _ in 0..ROUNDS {
        let before = state.clone();
        if state.sql.stopped {
            state.sql.renew_source();
            state.lanes[lane] = Lane::default();
        }
        loop {
            let action = match state.lanes[lane].step {
                Step::Idle => Action::RelayReads { lane },
                Step::Read(_) => Action::RelayPlans { lane },
                Step::Pushing { .. } => Action::RelayPushes { lane, reply: Reply::Heard },
                Step::Refused { .. } => Action::RelayLearns { lane },
            };
            world.step(state, action);
            if state.lanes[lane].step == Step::Idle {
                break;
            }
        }
        if *state == before {
            break;
        }
    }
}

fn consume(world: &World, state: &mut State, weather: Weather) {
    loop {
        let action = match state.ours {
            Ours::Free if !state.redis.met => Action::ReaperMeets,
            Ours::Free => match state.redis.main.first() {
                Some(entry) => Action::WeTake(entry),
                None => return,
            },
            _ if weather == Weather::Poison => Action::WeCrash,
            Ours::Meeting(_) => Action::WeMeet,
            Ours::Handling(_) => Action::WeFinish,
            Ours::Handled(_) => Action::WeAck(Reply::Heard),
            Ours::Again(_, how) => Action::WeSettle(how, Reply::Heard),
            Ours::Half(_) => Action::WePushTheSecondHalf,
        };
        world.step(state, action);
    }
}

/// A pass.
fn reap(world: &World, state: &mut State) {
    world.step(state, Action::ReaperMeets);
    if world.scope.orphans_told {
        state.redis.adopt_orphans();
    }
    world.step(state, Action::ReaperPromotes);
    if !world.rules.unleased_ignored {
        world.step(state, Action::ReaperLeases);
    }
    world.step(state, Action::ReaperPurges);
    for entry in Entry::all() {
        if state.redis.leases.get(entry) == Some(Time::Over) {
            world.step(state, Action::ReaperExpires(entry));
        }
    }
}
