//! Everybody's steps. An action is one step of one actor: one command or script on Redis, one transaction on SQL, or a
//! fault; between any two of them anything else may happen.

use stateright::{Model, Property};

use crate::{
    Rules, Scope,
    consumers::{Foreign, Ours, Settle, consume_there},
    healing,
    lane::{Lane, Step},
    redis::{Entry, MESSAGES, Redis, Time},
    sql::{Row, Sql},
};

/// What the properties need to remember.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct History {
    /// Ids are not used twice, also by a database that was restored.
    pub(crate) used: [bool; MESSAGES],
    /// A handler, ours or the foreign one, was done with it.
    pub(crate) handled: [bool; MESSAGES],
    /// Lost in the named gap.
    pub(crate) gap: [bool; MESSAGES],
    pub(crate) published: [bool; MESSAGES],
    pub(crate) published_twice: bool,
    /// A message was published before one of a lower position.
    pub(crate) out_of_order: bool,
    pub(crate) redis_lost: bool,
    pub(crate) restored: bool,
    /// A push or a reading of a refusal took a foreign cursor for this database's own.
    pub(crate) foreign_taken: bool,
    /// The foreign consumer pushed to a queue that had lost everything, before anybody met it.
    pub(crate) pushed_unmet: bool,
    /// Identical entries may exist rightfully: after a rewind, or a foreign push of what the reaper had taken away.
    pub(crate) twins: bool,
    /// The entry in our hand was taken away by the reaper, and is somebody else's by now.
    pub(crate) taken_away: bool,
    /// A move of ours was made although the entry had been taken away.
    pub(crate) fence_broken: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) sql: Sql,
    pub(crate) redis: Redis,
    pub(crate) lanes: [Lane; 2],
    pub(crate) ours: Ours,
    pub(crate) foreign: Foreign,
    pub(crate) history: History,
    pub(crate) backup: Option<Sql>,
    /// What Redis would come back with, and which messages it caught between the two commands of the foreign consumer.
    pub(crate) saved: Option<(Redis, [bool; MESSAGES])>,
    pub(crate) faults_left: u8,
}

/// What is lost on the way back, if anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Heard,
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Begin { message: usize },
    Commit { message: usize },
    RelayReads { lane: usize },
    RelayPlans { lane: usize },
    RelayPushes { lane: usize, reply: Reply },
    RelayLearns { lane: usize },
    RelayCrashes { lane: usize },
    WeTake(Entry),
    WeMeet,
    WeFinish,
    WeAck(Reply),
    WeSettle(Settle, Reply),
    WePushTheSecondHalf,
    WeExtend,
    WeCrash,
    TheyTake(Entry),
    TheyAck,
    TheyRemove,
    TheyPush,
    TheyCrash,
    ReaperMeets,
    ReaperRenews,
    ReaperPromotes,
    ReaperLeases,
    ReaperExpires(Entry),
    ReaperPurges,
    Tick,
    RedisSaves,
    RedisRewinds,
    RedisLosesAll,
    SqlIsBackedUp,
    SqlIsRestored,
}

/// The model: which actors and faults there are, and by which rules they work.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scope: Scope,
    pub(crate) rules: Rules,
    pub(crate) healed: healing::Known,
}

impl World {
    pub(crate) fn new(scope: Scope, rules: Rules) -> Self {
        Self { scope, rules, healed: healing::Known::default() }
    }

    /// Makes a step that is possible in this state.
    pub(crate) fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Begin { message } => {
                state.sql.outbox[message] = Row::Open(state.sql.next_in_sequence());
                state.history.used[message] = true;
            }
            Action::Commit { message } => {
                let row = &mut state.sql.outbox[message];
                *row = if let Row::Open(position) = *row { Row::At(position) } else { Row::Waiting };
                state.history.used[message] = true;
            }
            Action::RelayReads { lane } => {
                // Nobody but another relay changes what was read before the plan is made.
                if state.lanes[lane].read(&state.sql) && self.scope.lanes == 1 {
                    state.lanes[lane].plan(&mut state.sql, &self.rules);
                }
            }
            Action::RelayPlans { lane } => state.lanes[lane].plan(&mut state.sql, &self.rules),
            Action::RelayPushes { lane, reply } => self.push(state, lane, reply == Reply::Heard),
            Action::RelayLearns { lane } => state.history.foreign_taken |= state.lanes[lane].learn(&mut state.sql, &self.rules),
            Action::RelayCrashes { lane } => state.lanes[lane] = Lane::default(),
            Action::WeTake(_)
            | Action::WeMeet
            | Action::WeFinish
            | Action::WeAck(_)
            | Action::WeSettle(..)
            | Action::WePushTheSecondHalf
            | Action::WeExtend
            | Action::WeCrash => self.consume(state, action),
            Action::TheyTake(_) | Action::TheyAck | Action::TheyRemove | Action::TheyPush | Action::TheyCrash => {
                consume_there(state, action)
            }
            Action::ReaperMeets => state.redis.meet(None),
            Action::ReaperRenews => state.redis.renew(),
            Action::ReaperPromotes => state.redis.promote(),
            Action::ReaperLeases => state.redis.lease(),
            Action::ReaperExpires(entry) => self.expire(state, entry),
            Action::ReaperPurges => state.redis.purge(),
            Action::Tick => state.redis.tick(),
            Action::RedisSaves | Action::RedisRewinds | Action::RedisLosesAll | Action::SqlIsBackedUp | Action::SqlIsRestored => {
                state.lose(action);
            }
        }
    }

    fn push(&self, state: &mut State, lane: usize, reply: bool) {
        let pushed = state.lanes[lane].push(&mut state.redis, &self.rules, reply);
        state.history.foreign_taken |= pushed.foreign;
        for message in (0..MESSAGES).filter(|message| pushed.published[*message]) {
            let before = |other: usize| matches!((state.sql.outbox[other], state.sql.outbox[message]), (Row::At(a), Row::At(b)) if a < b);
            let known = |other: usize| state.history.published[other] || pushed.published[other] || state.sql.finished[other];
            state.history.out_of_order |= (0..MESSAGES).any(|other| before(other) && !known(other));
            state.history.published_twice |= state.history.published[message];
            state.history.published[message] = true;
        }
    }

    fn expire(&self, state: &mut State, entry: Entry) {
        let with = if self.rules.same_bytes { Some(entry) } else { entry.after_expiry() };
        if state.redis.expire(entry, with) && state.ours.entry() == Some(entry) && !state.redis.processing.has(entry) {
            state.history.taken_away = true;
        }
    }

    fn relay_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for lane in 0..self.scope.lanes {
            match state.lanes[lane].step {
                Step::Idle if state.sql.stopped => {}
                Step::Idle => actions.push(Action::RelayReads { lane }),
                Step::Read(_) => actions.push(Action::RelayPlans { lane }),
                Step::Pushing { .. } => actions.push(Action::RelayPushes { lane, reply: Reply::Heard }),
                Step::Refused { .. } => actions.push(Action::RelayLearns { lane }),
            }
            if state.faults_left > 0 && self.scope.crashes {
                if matches!(state.lanes[lane].step, Step::Pushing { .. }) {
                    actions.push(Action::RelayPushes { lane, reply: Reply::Lost });
                }
                if state.lanes[lane] != Lane::default() {
                    actions.push(Action::RelayCrashes { lane });
                }
            }
        }
    }

    fn reaper_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let redis = &state.redis;
        if !redis.met {
            // Every pass begins with it.
            actions.push(Action::ReaperMeets);
            return;
        }
        if redis.leases.any(Time::Over) {
            actions.extend([Action::ReaperRenews, Action::ReaperPurges]);
        }
        if redis.delayed.any(Time::Over) {
            actions.push(Action::ReaperPromotes);
        }
        if !self.rules.unleased_ignored && Entry::all().any(|entry| redis.processing.has(entry) && redis.leases.get(entry).is_none()) {
            actions.push(Action::ReaperLeases);
        }
        let over = Entry::all().filter(|entry| redis.leases.get(*entry) == Some(Time::Over) && redis.processing.has(*entry));
        let stalls = state.faults_left > 0 && self.scope.crashes;
        actions.extend(over.filter(|entry| stalls || !state.is_held(*entry)).map(Action::ReaperExpires));
    }

    fn loss_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.faults_left == 0 {
            return;
        }
        if self.scope.rewinds && !state.history.redis_lost {
            match state.saved {
                None => actions.push(Action::RedisSaves),
                Some(_) => actions.push(Action::RedisRewinds),
            }
            actions.push(Action::RedisLosesAll);
        }
        if self.scope.restores && !state.history.restored {
            match state.backup {
                None => actions.push(Action::SqlIsBackedUp),
                Some(_) => actions.push(Action::SqlIsRestored),
            }
        }
    }
}

impl State {
    /// Whether an action uses up one of the faults. A holder that outlives its lease has stalled.
    fn is_fault(&self, action: Action) -> bool {
        match action {
            Action::RelayPushes { reply, .. } | Action::WeAck(reply) | Action::WeSettle(_, reply) => reply == Reply::Lost,
            Action::RelayCrashes { .. }
            | Action::WeCrash
            | Action::TheyCrash
            | Action::RedisRewinds
            | Action::RedisLosesAll
            | Action::SqlIsRestored => true,
            Action::ReaperExpires(entry) => self.is_held(entry),
            _ => false,
        }
    }

    fn is_held(&self, entry: Entry) -> bool {
        self.ours.entry() == Some(entry) || matches!(self.foreign, Foreign::Handling(held) if held == entry)
    }

    /// Whether a message is at its end.
    pub(crate) fn is_over(&self, message: usize) -> bool {
        self.history.handled[message] || self.history.gap[message] || self.redis.dlq[message]
    }

    /// Whether the foreign consumer has removed it and not yet pushed it.
    fn is_between(&self, message: usize) -> bool {
        matches!(self.foreign, Foreign::Between { entry, removed: true } if entry.message() == message)
    }

    /// What is stored goes back to what it was, or is kept for that.
    fn lose(&mut self, action: Action) {
        match action {
            Action::RedisSaves => self.saved = Some((self.redis, std::array::from_fn(|message| self.is_between(message)))),
            Action::RedisRewinds | Action::RedisLosesAll => {
                let saved = self.saved.take().filter(|_| action == Action::RedisRewinds);
                let (redis, between) = saved.unwrap_or_default();
                self.redis = redis;
                self.history.gap = std::array::from_fn(|message| self.history.gap[message] || between[message]);
                self.history.redis_lost = true;
                self.history.twins = true;
            }
            Action::SqlIsBackedUp => self.backup = Some(self.sql),
            Action::SqlIsRestored => {
                self.sql = self.backup.take().unwrap_or_default();
                self.history.restored = true;
                // Whoever restores a database ends what works on it; a request may still be on its way.
                for lane in self.lanes.iter_mut().filter(|lane| !matches!(lane.step, Step::Pushing { .. })) {
                    *lane = Lane::default();
                }
            }
            _ => {}
        }
    }

    /// Makes equal what differs only in names or in what nobody can tell any more.
    fn settle_down(&mut self, scope: &Scope) {
        if scope.lanes == 2 {
            self.lanes.sort_unstable();
        }
        if self.faults_left == 0 {
            (self.saved, self.backup) = (None, None);
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            sql: Sql::default(),
            redis: Redis { met: true, ..Redis::default() },
            lanes: [Lane::default(); 2],
            ours: Ours::Free,
            foreign: Foreign::Free,
            history: History::default(),
            backup: None,
            saved: None,
            faults_left: self.scope.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for message in 0..self.scope.messages {
            match state.sql.outbox[message] {
                // Ids are taken in order; a mutant's transactions commit in any.
                Row::Absent if state.history.used[message] || (message > 0 && !state.history.used[message - 1]) => {}
                Row::Absent if self.rules.one_writer && state.sql.has_open() => {}
                Row::Absent if self.rules.position_at_insert => actions.push(Action::Begin { message }),
                Row::Absent | Row::Open(_) => actions.push(Action::Commit { message }),
                Row::Waiting | Row::At(_) => {}
            }
        }
        self.relay_actions(state, actions);
        if self.scope.ours {
            self.our_actions(state, actions);
        }
        if self.scope.foreign {
            self.their_actions(state, actions);
        }
        self.reaper_actions(state, actions);
        if state.redis.leases.any(Time::Running) || state.redis.delayed.any(Time::Running) {
            actions.push(Action::Tick);
        }
        self.loss_actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        if last.is_fault(action) {
            state.faults_left -= 1;
        }
        self.step(&mut state, action);
        state.settle_down(&self.scope);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties::all()
    }
}
