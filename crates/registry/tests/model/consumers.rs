//! The two consumers: ours, and the foreign one of `brief/`.

use crate::{
    redis::{Entry, Time},
    world::{Action, Reply, State, World},
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
    Between {
        entry: Entry,
        removed: bool,
    },
}

impl World {
    pub(crate) fn consume(&self, state: &mut State, action: Action) {
        let redis = &mut state.redis;
        match (action, state.ours) {
            (Action::WeTake(entry), _) => {
                redis.lmove(entry);
                let met = redis.met;
                state.hold(if met { Ours::Handling(entry) } else { Ours::Meeting(entry) });
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

    pub(crate) fn our_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let faulty = state.faults_left > 0 && self.scope.crashes;
        match state.ours {
            // A consumer meets the queue before its first take; that is the reaper's step as well.
            Ours::Free if state.redis.met || state.history.redis_lost => take(state, Action::WeTake, actions),
            Ours::Free => {}
            Ours::Meeting(_) => actions.push(Action::WeMeet),
            Ours::Handling(entry) => {
                actions.push(Action::WeFinish);
                let all = [Settle::Retry, Settle::Bury, Settle::Release];
                for how in all {
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

    pub(crate) fn their_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.foreign {
            Foreign::Free => take(state, Action::TheyTake, actions),
            Foreign::Handling(_) => actions.extend([Action::TheyAck, Action::TheyRemove]),
            Foreign::Between { .. } => actions.push(Action::TheyPush),
        }
        if state.foreign != Foreign::Free && state.faults_left > 0 && self.scope.crashes {
            actions.push(Action::TheyCrash);
        }
    }
}

fn take(state: &State, action: fn(Entry) -> Action, actions: &mut Vec<Action>) {
    actions.extend(Entry::all().filter(|entry| state.redis.main.has(*entry)).map(action));
}

pub(crate) fn consume_there(state: &mut State, action: Action) {
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
            state.history.pushed_unmet |= !state.redis.met;
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

impl State {
    pub(crate) fn hold(&mut self, ours: Ours) {
        self.ours = ours;
        self.history.taken_away = false;
    }

    /// Notes that a move of ours was answered with [`Done`](hokusai_queue::Settled::Done).
    fn made(&mut self, made: bool) {
        self.history.fence_broken |= made && self.history.taken_away && !self.history.twins;
    }
}
