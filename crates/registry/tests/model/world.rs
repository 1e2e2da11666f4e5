//! Everybody's steps. An action is one step of one actor: one command or script on Redis, one transaction on SQL, or a
//! fault; between any two of them anything else may happen.

use stateright::{Model, Property};

use crate::{
    Rules, Scope, healing,
    lane::{Lane, Step},
    redis::{Entry, MESSAGES, Redis, Time},
    sql::{Row, Sql},
};

/// Our consumer: what it has in hand, and what it is about to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Ours {
    #[default]
    Free,
    /// Took it from a Redis that has lost everything, and has yet to meet the queue again (`RedisQueue::sweep`).
    Meeting(Entry),
    /// The handler runs.
    Handling(Entry),
    /// The handler is done, and said so in SQL; the ack is to be sent, or to be repeated after an answer that was lost.
    Handled(Entry),
    /// A move whose answer was lost, to be repeated (`consumer::settlement::persist`).
    Again(Entry, Settle),
    /// Removed by the first of two commands (a mutant).
    Half(Entry),
}

/// How a delivery ends, other than well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Settle {
    /// `Move::Retry`, or `Move::DeadLetter` when the retries are used up (`Desk::retry`).
    Retry,
    /// `Move::DeadLetter`.
    Bury,
    /// `Move::Release`.
    Release,
}

/// The foreign consumer of `brief/`, whose retry and dead-letter are two commands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Foreign {
    #[default]
    Free,
    Handling(Entry),
    /// Between `LREM` and `LPUSH`. Whether the first removed anything it does not look at; the properties do.
    Between { entry: Entry, removed: bool },
}

/// What the properties need to remember.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct History {
    /// Ids are not used twice, also by a database that was restored.
    used: [bool; MESSAGES],
    /// A handler, ours or the foreign one, was done with it.
    pub(crate) handled: [bool; MESSAGES],
    /// Lost in the named gap.
    pub(crate) gap: [bool; MESSAGES],
    published: [bool; MESSAGES],
    pub(crate) published_twice: bool,
    /// A message was published before one of a lower position.
    pub(crate) out_of_order: bool,
    pub(crate) redis_lost: bool,
    pub(crate) restored: bool,
    /// A push or a reading of a refusal took a foreign cursor for this database's own.
    pub(crate) foreign_taken: bool,
    /// Identical entries may exist rightfully: after a rewind, or a foreign push of what the reaper had taken away.
    twins: bool,
    /// The entry in our hand was taken away by the reaper, and is somebody else's by now.
    taken_away: bool,
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
    pub(crate) saved: Option<Redis>,
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

    /// The state after an action that is possible in it.
    pub(crate) fn step(&self, last: &State, action: Action) -> State {
        let mut state = last.clone();
        if action.is_fault() {
            state.faults_left -= 1;
        }
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
                if state.lanes[lane].read(&state.sql) && self.scope.lanes == 1 {
                    state.lanes[lane].plan(&mut state.sql, &self.rules);
                }
            }
            Action::RelayPlans { lane } => state.lanes[lane].plan(&mut state.sql, &self.rules),
            Action::RelayPushes { lane, reply } => self.push(&mut state, lane, reply == Reply::Heard),
            Action::RelayLearns { lane } => state.history.foreign_taken |= state.lanes[lane].learn(&mut state.sql, &self.rules),
            Action::RelayCrashes { lane } => state.lanes[lane] = Lane::default(),
            Action::WeTake(_) | Action::WeMeet | Action::WeFinish | Action::WeAck(_) | Action::WeSettle(..) => self.consume(&mut state, action),
            Action::WePushTheSecondHalf | Action::WeExtend | Action::WeCrash => self.consume(&mut state, action),
            Action::TheyTake(_) | Action::TheyAck | Action::TheyRemove | Action::TheyPush | Action::TheyCrash => consume_there(&mut state, action),
            Action::ReaperMeets => state.redis.meet(None),
            Action::ReaperRenews => state.redis.renew(),
            Action::ReaperPromotes => state.redis.promote(),
            Action::ReaperLeases => state.redis.lease(),
            Action::ReaperExpires(entry) => self.expire(&mut state, entry),
            Action::ReaperPurges => state.redis.purge(),
            Action::Tick => state.redis.tick(),
            Action::RedisSaves => state.saved = Some(state.redis),
            Action::RedisRewinds | Action::RedisLosesAll => {
                let saved = state.saved.take().filter(|_| action == Action::RedisRewinds);
                state.redis = saved.unwrap_or_default();
                state.history.redis_lost = true;
                state.history.twins = true;
            }
            Action::SqlIsBackedUp => state.backup = Some(state.sql),
            Action::SqlIsRestored => {
                state.sql = state.backup.take().unwrap_or_default();
                state.history.restored = true;
            }
        }
        state.settle_down(&self.scope);
        state
    }

    fn push(&self, state: &mut State, lane: usize, reply: bool) {
        let pushed = state.lanes[lane].push(&mut state.redis, &self.rules, reply);
        state.history.foreign_taken |= pushed.foreign;
        for message in (0..MESSAGES).filter(|message| pushed.published[*message]) {
            let before = |other: usize| matches!((state.sql.outbox[other], state.sql.outbox[message]), (Row::At(a), Row::At(b)) if a < b);
            let passed_over = (0..MESSAGES).any(|other| before(other) && !state.history.published[other] && !pushed.published[other]);
            state.history.out_of_order |= passed_over && !state.sql.finished.contains(&true);
            state.history.published_twice |= state.history.published[message];
            state.history.published[message] = true;
        }
    }

    fn consume(&self, state: &mut State, action: Action) {
        let redis = &mut state.redis;
        match (action, state.ours) {
            (Action::WeTake(entry), _) => {
                redis.lmove(entry);
                state.hold(if redis.met { Ours::Handling(entry) } else { Ours::Meeting(entry) });
            }
            (Action::WeMeet, Ours::Meeting(entry)) => {
                redis.meet(Some(entry));
                state.ours = Ours::Handling(entry);
            }
            // The handler's transaction, with `outbox::finish` in it.
            (Action::WeFinish, Ours::Handling(entry)) => {
                state.sql.finished[entry.message()] = true;
                state.history.handled[entry.message()] = true;
                state.ours = Ours::Handled(entry);
            }
            (Action::WeAck(reply), Ours::Handled(entry)) => {
                // The mutant takes away what lies there longest, whatever it is.
                let there = if self.rules.ack_unchecked { redis.processing.first() } else { Some(entry) };
                let made = there.is_some_and(|there| redis.lrem(there));
                state.made(made);
                if reply == Reply::Heard {
                    state.hold(Ours::Free);
                }
            }
            (Action::WeSettle(how, reply), Ours::Handling(entry) | Ours::Again(entry, _)) => self.settle(state, entry, how, reply),
            (Action::WePushTheSecondHalf, Ours::Half(entry)) => {
                if let Some(with) = entry.after_failure() {
                    redis.zadd_delayed(with);
                }
                state.hold(Ours::Free);
            }
            (Action::WeExtend, Ours::Handling(entry)) => drop(redis.extend(entry)),
            (Action::WeCrash, _) => state.hold(Ours::Free),
            _ => {}
        }
    }

    fn settle(&self, state: &mut State, entry: Entry, how: Settle, reply: Reply) {
        let redis = &mut state.redis;
        let mut next = if reply == Reply::Heard { Ours::Free } else { Ours::Again(entry, how) };
        let made = match (how, entry.after_failure()) {
            (Settle::Retry, Some(_)) if self.rules.retry_in_two => {
                let removed = redis.lrem(entry);
                next = if removed { Ours::Half(entry) } else { Ours::Free };
                removed
            }
            (Settle::Retry, Some(with)) => redis.retry(entry, with),
            (Settle::Retry, None) | (Settle::Bury, _) => redis.dead_letter(entry),
            (Settle::Release, _) => redis.release(entry),
        };
        state.made(made);
        state.ours = next;
        if next == Ours::Free {
            state.hold(next);
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

    fn our_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let faulty = state.faults_left > 0 && self.scope.crashes;
        match state.ours {
            // A consumer meets the queue before its first take; that is the reaper's step as well.
            Ours::Free if state.redis.met || state.history.redis_lost => take(state, Action::WeTake, actions),
            Ours::Free => {}
            Ours::Meeting(_) => actions.push(Action::WeMeet),
            Ours::Handling(entry) => {
                actions.push(Action::WeFinish);
                for how in [Settle::Retry, Settle::Bury, Settle::Release] {
                    actions.push(Action::WeSettle(how, Reply::Heard));
                    if faulty && !self.rules.retry_in_two {
                        actions.push(Action::WeSettle(how, Reply::Lost));
                    }
                }
                if state.redis.leases.get(entry) != Some(Time::Running) {
                    actions.push(Action::WeExtend);
                }
            }
            Ours::Handled(_) => {
                actions.push(Action::WeAck(Reply::Heard));
                if faulty {
                    actions.push(Action::WeAck(Reply::Lost));
                }
            }
            Ours::Again(_, how) => actions.push(Action::WeSettle(how, Reply::Heard)),
            Ours::Half(_) => actions.push(Action::WePushTheSecondHalf),
        }
        if faulty && state.ours != Ours::Free {
            actions.push(Action::WeCrash);
        }
    }

    fn their_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.foreign {
            Foreign::Free => take(state, Action::TheyTake, actions),
            Foreign::Handling(_) => actions.extend([Action::TheyAck, Action::TheyRemove]),
            Foreign::Between { .. } => actions.push(Action::TheyPush),
        }
        if state.foreign != Foreign::Free && state.faults_left > 0 && self.scope.crashes {
            actions.push(Action::TheyCrash);
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
        actions.extend(over.map(Action::ReaperExpires));
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

fn take(state: &State, action: fn(Entry) -> Action, actions: &mut Vec<Action>) {
    actions.extend(Entry::all().filter(|entry| state.redis.main.has(*entry)).map(action));
}

fn consume_there(state: &mut State, action: Action) {
    let redis = &mut state.redis;
    match (action, state.foreign) {
        (Action::TheyTake(entry), _) => {
            redis.lmove(entry);
            state.foreign = Foreign::Handling(entry);
        }
        (Action::TheyAck, Foreign::Handling(entry)) => {
            redis.lrem(entry);
            state.history.handled[entry.message()] = true;
            state.foreign = Foreign::Free;
        }
        (Action::TheyRemove, Foreign::Handling(entry)) => {
            let removed = redis.lrem(entry);
            state.foreign = Foreign::Between { entry, removed };
        }
        (Action::TheyPush, Foreign::Between { entry, removed }) => {
            match entry.after_foreign_failure() {
                Some(with) => redis.lpush(with),
                None => redis.dlq[entry.message()] = true,
            }
            state.history.twins |= !removed;
            state.foreign = Foreign::Free;
        }
        (Action::TheyCrash, foreign) => {
            if let Foreign::Between { entry, removed: true } = foreign {
                state.history.gap[entry.message()] = true;
            }
            state.foreign = Foreign::Free;
        }
        _ => {}
    }
}

impl Ours {
    pub(crate) fn entry(self) -> Option<Entry> {
        match self {
            Self::Free => None,
            Self::Meeting(entry) | Self::Handling(entry) | Self::Handled(entry) | Self::Again(entry, _) | Self::Half(entry) => Some(entry),
        }
    }
}

impl Action {
    fn is_fault(self) -> bool {
        match self {
            Self::RelayPushes { reply, .. } | Self::WeAck(reply) | Self::WeSettle(_, reply) => reply == Reply::Lost,
            Self::RelayCrashes { .. } | Self::WeCrash | Self::TheyCrash => true,
            Self::RedisRewinds | Self::RedisLosesAll | Self::SqlIsRestored => true,
            _ => false,
        }
    }
}

impl State {
    fn hold(&mut self, ours: Ours) {
        self.ours = ours;
        self.history.taken_away = false;
    }

    /// Notes that a move of ours was answered with [`Done`](hokusai_queue::Settled::Done).
    fn made(&mut self, made: bool) {
        self.history.fence_broken |= made && self.history.taken_away && !self.history.twins;
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
                Row::Absent if self.rules.position_at_insert => actions.push(Action::Begin { message }),
                Row::Absent | Row::Open(_) => actions.push(Action::Commit { message }),
                Row::Waiting | Row::At(_) => {}
            }
        }
        self.relay_actions(state, actions);
        self.our_actions(state, actions);
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
        Some(self.step(last, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties::all()
    }
}
