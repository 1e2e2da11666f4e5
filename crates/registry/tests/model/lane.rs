//! A relay's lane, step by step as in `relay/lane.rs`: what it read, what it pushes, what it makes of a refusal.

use crate::{
    Rules,
    redis::{Cursor, MESSAGES, Redis},
    sql::Sql,
};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Push {
    pub(crate) expected: Cursor,
    pub(crate) next: Cursor,
}

/// `Lane::standing`, as old as the time since.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Standing {
    source: u8,
    position: u8,
    attempted: u8,
    last_position: u8,
    waiting: bool,
}

/// Where a lane is in its pass.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub(crate) enum Step {
    #[default]
    Idle,
    Read(Standing),
    /// About to push, or the request is on its way. `attempted` is 0 for `Lane::verify`.
    Pushing {
        source: u8,
        push: Push,
        attempted: u8,
        carried: [bool; MESSAGES],
    },
    Refused {
        push: Push,
        attempted: u8,
        actual: Cursor,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub(crate) struct Lane {
    pub(crate) step: Step,
    arrived: Option<Push>,
}

/// What the script answered, and what the properties want to know of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pushed {
    pub(crate) published: [bool; MESSAGES],
    /// The cursor it moved was not one that its database had left there.
    pub(crate) foreign: bool,
}

impl Lane {
    /// `Lane::standing`. False if there is nothing to be done by a stopped lane.
    pub(crate) fn read(&mut self, sql: &Sql) -> bool {
        if sql.stopped {
            return false;
        }
        let Sql { source, position, attempted, .. } = *sql;
        self.step = Step::Read(Standing { source, position, attempted, last_position: sql.last_position(), waiting: sql.is_waiting() });
        true
    }

    /// `Lane::plan`, and the reading of the entries, which never change.
    pub(crate) fn plan(&mut self, sql: &mut Sql, rules: &Rules) {
        let Step::Read(standing) = std::mem::take(&mut self.step) else { return };
        let ours = |push: &Push| {
            let named = |at: u8, cursor: Cursor| at == cursor.position && (rules.bare_positions || sql.cursor_at(at) == cursor);
            named(standing.position, push.expected) && (rules.attempt_unrecorded || named(standing.attempted, push.next))
        };
        let arrived = self.arrived.take().filter(ours);
        if standing.attempted > 0 && arrived.is_none() {
            return self.prepare(sql, &standing, standing.position, standing.attempted, standing.attempted);
        }
        let from = arrived.map_or(standing.position, |push| push.next.position);
        let more = standing.waiting || standing.last_position > from;
        if !more && arrived.is_none() {
            if standing.position > 0 {
                // `Lane::verify`.
                self.prepare(sql, &standing, standing.position, standing.position, 0);
            }
            return;
        }
        if more && !rules.position_at_insert {
            sql.assign();
        }
        let last_position = if more { sql.last_position() } else { standing.last_position };
        let next = if last_position > from { last_position } else { 0 };
        // `Lane::record`.
        let recorded = !sql.stopped && sql.position == standing.position && sql.attempted == standing.attempted;
        if recorded {
            sql.position = from;
            sql.attempted = if rules.attempt_unrecorded { 0 } else { next };
        }
        if recorded && next > 0 {
            self.prepare(sql, &standing, from, next, sql.attempted);
        }
    }

    fn prepare(&mut self, sql: &Sql, standing: &Standing, from: u8, to: u8, attempted: u8) {
        let push = Push { expected: sql.cursor_at(from), next: sql.cursor_at(to) };
        let carried = std::array::from_fn(|message| sql.is_carried(message, from, to));
        self.step = Step::Pushing { source: standing.source, push, attempted, carried };
    }

    /// relay.lua, whose answer may be lost: then the lane is where it would be after a failed call. A queue without this
    /// cursor is met first.
    pub(crate) fn push(&mut self, redis: &mut Redis, rules: &Rules, reply: bool) -> Pushed {
        let mut pushed = Pushed { published: [false; MESSAGES], foreign: false };
        let Step::Pushing { source, push, attempted, carried } = std::mem::take(&mut self.step) else { return pushed };
        let cursor = redis.cursor[usize::from(source)];
        let as_expected = if rules.bare_positions { cursor.position == push.expected.position } else { cursor == push.expected };
        if !as_expected && !rules.cursor_unchecked {
            if reply {
                self.step = Step::Refused { push, attempted, actual: cursor };
            }
            return pushed;
        }
        if cursor.position == 0 && !rules.published_unmet {
            redis.meet(None);
        }
        pushed.foreign = as_expected && cursor != push.expected;
        redis.cursor[usize::from(source)] = push.next;
        for message in (0..MESSAGES).filter(|message| carried[*message]) {
            redis.lpush(crate::redis::Entry::new(message));
            pushed.published[message] = true;
        }
        if reply && push.next != push.expected {
            self.arrived = Some(push);
        }
        pushed
    }

    /// `Lane::refused`, whose guarded updates make its reading and its writing one step. True if it took a cursor for its
    /// own that was not.
    pub(crate) fn learn(&mut self, sql: &mut Sql, rules: &Rules) -> bool {
        let Step::Refused { push, attempted, actual } = std::mem::take(&mut self.step) else { return false };
        let same = rules.bare_positions || sql.cursor_at(sql.position) == push.expected;
        if sql.stopped || !same || sql.position != push.expected.position || sql.attempted != attempted {
            return false;
        }
        // `Refusal::of`.
        let known = actual == sql.cursor_at(actual.position);
        let is_next = actual.position > 0 && actual.position == push.next.position;
        let stops = if rules.bare_positions {
            !is_next && actual.position > 0 && (push.expected.position == 0 || actual.position > push.expected.position)
        } else {
            !known
        };
        if stops {
            sql.stopped = true;
            return false;
        }
        if is_next {
            self.arrived = Some(push);
            return !known;
        }
        sql.position = actual.position;
        sql.attempted = 0;
        !known
    }
}
