//! What must hold in every state that can be reached.

use stateright::Property;

use crate::{
    healing,
    redis::MESSAGES,
    sql::Row,
    world::{Foreign, State, World},
};

pub(crate) const LOST: &str = "no message is lost, except in the foreign gap";
pub(crate) const STUCK: &str = "none is stuck: what is not handled ends in the dead-letter queue, or is handled, once the faults end";
pub(crate) const POISON: &str = "a message that kills whoever takes it ends in the dead-letter queue";
pub(crate) const ONCE: &str = "published once and in order while Redis keeps its writes";
pub(crate) const STOP: &str = "no foreign cursor is taken for our own";
pub(crate) const STOPPED: &str = "the relay stops only because a database was restored";
pub(crate) const FENCED: &str = "who lost an entry to the reaper changes nothing any more";

pub(crate) fn all() -> Vec<Property<World>> {
    vec![
        Property::always(LOST, |_, state| (0..MESSAGES).all(|message| is_safe(state, message))),
        Property::always(STUCK, |world, state| healing::ends(world, state, healing::Weather::Fair)),
        Property::always(POISON, |world, state| healing::ends(world, state, healing::Weather::Poison)),
        Property::always(ONCE, |_, state| state.history.redis_lost || !(state.history.published_twice || state.history.out_of_order)),
        Property::always(STOP, |_, state| !state.history.foreign_taken),
        Property::always(STOPPED, |_, state| !state.sql.stopped || state.history.restored),
        Property::always(FENCED, |_, state| !state.history.fence_broken),
    ]
}

/// A committed event is handled, or in the queue, or between a foreign consumer's two commands, or will be published.
fn is_safe(state: &State, message: usize) -> bool {
    let State { sql, redis, history, foreign, ours, .. } = state;
    let carried = matches!(foreign, Foreign::Between { entry, .. } if entry.message() == message);
    // Without the mutant nobody but the foreign consumer is ever between two commands.
    let half_done = matches!(ours, crate::world::Ours::Half(entry) if entry.message() == message);
    let to_be_published = match sql.outbox[message] {
        Row::Waiting => true,
        Row::At(position) => sql.stopped || position > sql.position.min(redis.cursor[usize::from(sql.source)].position),
        Row::Absent | Row::Open(_) => return true,
    };
    to_be_published || carried || half_done || redis.holds(message) || history.handled[message] || history.gap[message]
}
