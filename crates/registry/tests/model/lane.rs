//! A relay's lane, step by step as in `relay/lane.rs`: what it believes, what it pushes, what it makes of a refusal.

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

/// `Lane::standing`, as old as the time since: the source id, and where the queue was noted to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Standing {
    source: u8,
    noted: Cursor,
}

/// Where the queue is believed to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Belief {
    source: u8,
    cursor: Cursor,
}

/// Where a lane is in its pass.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub(crate) enum Step {
    #[default]
    Idle,
    Read(Standing),
    /// About to push, or the request is on its way.
    Pushing {
        source: u8,
        push: Push,
        carried: [bool; MESSAGES],
    },
    Refused {
        source: u8,
        push: Push,
        actual: Cursor,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub(crate) struct Lane {
    pub(crate) step: Step,
    belief: Option<Belief>,
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
            self.belief = None;
            return false;
        }
        self.step = Step::Read(Standing { source: sql.source, noted: sql.cursor_at(sql.position) });
        true
    }

    /// `Lane::assign` and `Lane::next`; with nothing to publish `progress::record` and `Lane::verify`.
    pub(crate) fn plan(&mut self, sql: &mut Sql, rules: &Rules) {
        let Step::Read(standing) = std::mem::take(&mut self.step) else { return };
        let Standing { source, noted } = standing;
        let own =
            |cursor: Cursor| rules.bare_positions || rules.memory_trusted || cursor == noted || cursor == sql.cursor_at(cursor.position);
        let believed = self.belief.filter(|belief| belief.source == source && own(belief.cursor));
        let belief = believed.unwrap_or(Belief { source, cursor: noted });
        self.belief = Some(belief);
        if !rules.position_at_insert {
            sql.assign();
        }
        let (from, last) = (belief.cursor.position, sql.last_position());
        let next = if last > from {
            sql.cursor_at(last)
        } else {
            if !sql.stopped && sql.source == source && sql.position < from && sql.cursor_at(from) == belief.cursor {
                sql.position = from;
            }
            belief.cursor
        };
        if next.position > 0 {
            let carried = std::array::from_fn(|message| sql.is_carried(message, from, next.position));
            self.step = Step::Pushing { source, push: Push { expected: belief.cursor, next }, carried };
        }
    }

    /// relay.lua, whose answer may be lost: then the lane is where it would be after a failed call. A queue without this
    /// cursor is met first.
    pub(crate) fn push(&mut self, redis: &mut Redis, rules: &Rules, reply: bool) -> Pushed {
        let mut pushed = Pushed { published: [false; MESSAGES], foreign: false };
        let Step::Pushing { source, push, carried } = std::mem::take(&mut self.step) else { return pushed };
        let cursor = redis.cursor[usize::from(source)];
        let as_expected = if rules.bare_positions { cursor.position == push.expected.position } else { cursor == push.expected };
        if !as_expected && !rules.cursor_unchecked {
            if reply {
                self.step = Step::Refused { source, push, actual: cursor };
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
        if reply {
            self.belief = Some(Belief { source, cursor: push.next });
        }
        pushed
    }

    /// `Lane::refused`. True if it took a cursor for its own that was not.
    pub(crate) fn learn(&mut self, sql: &mut Sql, rules: &Rules) -> bool {
        let Step::Refused { source, push, actual } = std::mem::take(&mut self.step) else { return false };
        let known = actual == sql.cursor_at(actual.position);
        let own = if rules.bare_positions { actual.position <= sql.last_position() } else { known };
        if !own {
            sql.stopped |= sql.source == source;
            return false;
        }
        if actual.position <= push.expected.position && !sql.stopped && sql.source == source {
            // `progress::rewind`.
            sql.position = actual.position;
        }
        self.belief = Some(Belief { source, cursor: actual });
        !known
    }
}
