//! What must hold in every state that can be reached.

use stateright::Property;

use crate::{
    consumers::{Foreign, Ours},
    healing,
    redis::MESSAGES,
    sql::Row,
    world::{State, World},
};

pub(crate) const LOST: &str = "no message is lost, except in the foreign gap";
pub(crate) const STUCK: &str = "none is stuck: what is not handled ends in the dead-letter queue, or is handled, once the faults end";
pub(crate) const POISON: &str = "a message that kills whoever takes it ends in the dead-letter queue";
pub(crate) const ONCE: &str = "published once and in order while Redis keeps its writes";
pub(crate) const STOP: &str = "no foreign cursor is taken for our own";
pub(crate) const STOPPED: &str = "the relay stops only after a database was restored";
pub(crate) const FENCED: &str = "who lost an entry to the reaper changes nothing any more";

pub(crate) fn all() -> Vec<Property<World>> {
    vec![
        Property::always(LOST, |world, state| (0..MESSAGES).all(|message| is_safe(world, state, message))),
        Property::always(STUCK, |world, state| needs_a_word(world, state) || healing::ends(world, state, healing::Weather::Fair)),
        Property::always(POISON, |world, state| needs_a_word(world, state) || healing::ends(world, state, healing::Weather::Poison)),
        Property::always(ONCE, |_, State { history, .. }| history.redis_lost || !(history.published_twice || history.out_of_order)),
        Property::always(STOP, |_, State { history, .. }| !history.foreign_taken),
        Property::always(STOPPED, |_, State { sql, history, .. }| !sql.stopped || history.restored),
        Property::always(FENCED, |_, State { history, .. }| !history.fence_broken),
    ]
}

/// Nobody says that orphans may be reaped, and there may be one: see `found`.
fn needs_a_word(world: &World, state: &State) -> bool {
    state.history.pushed_unmet && !world.scope.orphans_told
}

/// A committed event is handled, or in the queue, or between a foreign consumer's two commands, or will be published.
fn is_safe(world: &World, state: &State, message: usize) -> bool {
    let State { sql, redis, history, foreign, ours, .. } = state;
    let carried = matches!(foreign, Foreign::Between { entry, .. } if entry.message() == message);
    // Without the mutant nobody but the foreign consumer is ever between two commands.
    let half_done = matches!(ours, Ours::Half(entry) if entry.message() == message);
    let to_be_published = match sql.outbox[message] {
        Row::Waiting => true,
        Row::At(position) => {
            let cursor = redis.cursor[usize::from(sql.source)];
            // A cursor that names its event will be found to be foreign.
            let foreign = !world.rules.bare_positions && cursor != sql.cursor_at(cursor.position);
            sql.stopped || foreign || position > cursor.position
        }
        Row::Absent | Row::Open(_) => return true,
    };
    to_be_published || carried || half_done || redis.holds(message) || history.handled[message] || history.gap[message]
}
