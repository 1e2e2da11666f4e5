//! Random interleavings on the real backends, held against a small model: after every step both hold the same entries in the
//! same states and have given the same answers.
//!
//! The steps are those of several takers and a reaper: a taker that crashes is one whose entries nobody settles, and one that
//! comes too late is a move of bytes that are elsewhere by now, so moves are drawn from everything that was ever in the queue.
//! Time is taken out of it: a lease either ends now or in an hour, and so does a delay.
//!
//! `HOKUSAI_PROPERTY_CASES` says how many sequences each backend is given; a failure is shrunk to the shortest one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use hokusai_db::Database;
use hokusai_queue::{
    Cursor, LeaseTerms, Move, Queue, RedisQueue, RedisSettings, RelayBatch, Relayed, Settled, SqlQueue, State, attempts, dead_letter,
    reaper::{self, ReaperConfig},
};
use hokusai_testbed::Redis;
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    test_runner::{Config, TestRunner},
};

use crate::bench;

const HOUR: Duration = Duration::from_secs(3600);
const STEPS: usize = 60;
const MAX_EXPIRIES: u32 = 2;

/// Which entry: a number that is taken modulo how many there are to choose from.
type Pick = usize;

#[derive(Debug, Clone)]
enum Step {
    Push {
        count: usize,
    },
    /// The same message again, after it has left the queue.
    PushAgain {
        which: Pick,
    },
    Relay {
        stale: bool,
        count: usize,
    },
    Take {
        max: usize,
        acks: Vec<Pick>,
    },
    Move {
        kind: Kind,
        of: Of,
        which: Pick,
    },
    /// The lease of something in processing ends now.
    Lapse {
        which: Pick,
    },
    Reap,
    /// A pass whose leases end at once: whatever is in processing without one is as good as abandoned.
    ReapImpatiently,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Ack,
    Extend,
    RetryNow,
    RetrySoon,
    RetryLater,
    Release,
    DeadLetter,
    Expire,
    Redrive,
    Withdraw,
    Discard,
}

/// Where the entry of a move is chosen from.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// Where the move starts.
    There,
    /// Everything that ever was.
    Ever,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        4 => Just(Kind::Ack),
        2 => Just(Kind::Extend),
        2 => Just(Kind::RetryNow),
        2 => Just(Kind::RetrySoon),
        1 => Just(Kind::RetryLater),
        2 => Just(Kind::Release),
        2 => Just(Kind::DeadLetter),
        1 => Just(Kind::Expire),
        2 => Just(Kind::Redrive),
        1 => Just(Kind::Withdraw),
        1 => Just(Kind::Discard),
    ];
    let of = prop_oneof![4 => Just(Of::There), 1 => Just(Of::Ever)];
    let pick = any::<Pick>;
    let step = prop_oneof![
        4 => (1..5_usize).prop_map(|count| Step::Push { count }),
        1 => pick().prop_map(|which| Step::PushAgain { which }),
        2 => (any::<bool>(), 0..3_usize).prop_map(|(stale, count)| Step::Relay { stale, count }),
        6 => (0..6_usize, vec(pick(), 0..3)).prop_map(|(max, acks)| Step::Take { max, acks }),
        10 => (kind, of, pick()).prop_map(|(kind, of, which)| Step::Move { kind, of, which }),
        2 => pick().prop_map(|which| Step::Lapse { which }),
        3 => Just(Step::Reap),
        1 => Just(Step::ReapImpatiently),
    ];
    vec(step, 1..STEPS)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    Running,
    Over,
}

/// What the queue should hold.
#[derive(Debug, Default)]
struct Model {
    main: BTreeSet<Bytes>,
    processing: BTreeSet<Bytes>,
    soon: BTreeSet<Bytes>,
    later: BTreeSet<Bytes>,
    dlq: BTreeSet<Bytes>,
    leases: BTreeMap<Bytes, Lease>,
    /// Redis keeps the lease of what was acknowledged on the hot path.
    leases_outlive_acks: bool,
    cursor: Option<i64>,
    ever: BTreeSet<Bytes>,
    made: usize,
}

impl Model {
    fn place(&mut self, state: State) -> &mut BTreeSet<Bytes> {
        match state {
            State::Main => &mut self.main,
            State::Processing => &mut self.processing,
            State::Delayed => &mut self.later,
            State::Dlq => &mut self.dlq,
        }
    }

    fn holds(&self, entry: &Bytes) -> bool {
        [&self.main, &self.processing, &self.soon, &self.later, &self.dlq].into_iter().any(|place| place.contains(entry))
    }

    /// Whether a message is in the queue, whatever its counters say by now, a dead letter of it included.
    fn holds_any_of(&self, message: &Bytes) -> bool {
        let number = |entry: &Bytes| {
            let text = String::from_utf8_lossy(entry).into_owned();
            text.split_once("\": ").map(|(_, rest)| rest.split('}').next().unwrap_or_default().to_owned())
        };
        let sought = number(message);
        let places = [&self.main, &self.processing, &self.soon, &self.later, &self.dlq];
        places.into_iter().flatten().any(|entry| number(entry) == sought)
    }

    fn make(&mut self, count: usize) -> Vec<Bytes> {
        let made = (self.made..self.made + count).map(|id| Bytes::from(bench::message(id))).collect();
        self.made += count;
        made
    }

    fn enter(&mut self, entries: &[Bytes]) {
        self.main.extend(entries.iter().cloned());
        self.ever.extend(entries.iter().cloned());
    }

    /// One entry leaves processing, or stays where it is and its mover is told.
    fn leave(&mut self, entry: &Bytes, hot: bool) -> Settled {
        if !self.processing.remove(entry) {
            return Settled::NotYours;
        }
        if !(hot && self.leases_outlive_acks) {
            self.leases.remove(entry);
        }
        Settled::Done
    }

    fn shift(&mut self, entry: &Bytes, with: &Bytes, to: State) -> Settled {
        let settled = self.leave(entry, false);
        if settled == Settled::Done {
            self.place(to).insert(with.clone());
            self.ever.insert(with.clone());
        }
        settled
    }

    fn swap(&mut self, entry: &Bytes, from: State, with: Option<&Bytes>, to: State) -> Settled {
        if !self.place(from).remove(entry) {
            return Settled::NotYours;
        }
        if let Some(with) = with {
            self.place(to).insert(with.clone());
            self.ever.insert(with.clone());
        }
        Settled::Done
    }

    fn apply(&mut self, change: &Move) -> Settled {
        match change {
            Move::Ack { entry } => self.leave(entry, false),
            Move::Extend { entry, lease } => {
                let lease = if lease.is_zero() { Lease::Over } else { Lease::Running };
                if !self.processing.contains(entry) {
                    self.leases.remove(entry);
                    return Settled::NotYours;
                }
                self.leases.insert(entry.clone(), lease);
                Settled::Done
            }
            Move::Retry { entry, with, after } if after.is_zero() => self.shift(entry, with, State::Main),
            Move::Retry { entry, with, after } => {
                let settled = self.shift(entry, with, State::Delayed);
                if settled == Settled::Done && *after < HOUR {
                    self.later.remove(with);
                    self.soon.insert(with.clone());
                }
                settled
            }
            Move::Release { entry } => self.shift(entry, entry, State::Main),
            Move::DeadLetter { entry, with } => self.shift(entry, with, State::Dlq),
            Move::Expire { entry, with, to } => match self.leases.get(entry) {
                Some(Lease::Over) => {
                    let settled = self.shift(entry, with, *to);
                    self.leases.remove(entry);
                    settled
                }
                _ => Settled::NotYours,
            },
            Move::Redrive { entry, with } => self.swap(entry, State::Dlq, Some(with), State::Main),
            Move::Withdraw { entry, with } => self.swap(entry, State::Main, Some(with), State::Dlq),
            Move::Discard { entry } => self.swap(entry, State::Dlq, None, State::Dlq),
        }
    }

    /// A reaper's pass.
    fn reap(&mut self, impatient: bool) {
        self.main.append(&mut self.soon);
        let given = if impatient { Lease::Over } else { Lease::Running };
        for entry in &self.processing {
            self.leases.entry(entry.clone()).or_insert(given);
        }
        let over: Vec<Bytes> = self.leases.iter().filter(|(_, lease)| **lease == Lease::Over).map(|(entry, _)| entry.clone()).collect();
        for entry in over {
            self.leases.remove(&entry);
            if !self.processing.remove(&entry) {
                continue;
            }
            if attempts::read(&entry).unwrap().expiries + 1 >= MAX_EXPIRIES {
                // Its dead letter bears the time: it is learnt from the queue.
                continue;
            }
            let with = attempts::after_expiry(&entry).unwrap();
            self.ever.insert(with.clone());
            self.main.insert(with);
        }
    }
}

fn pick(from: &BTreeSet<Bytes>, which: Pick) -> Option<Bytes> {
    (!from.is_empty()).then(|| from.iter().nth(which % from.len()).cloned()).flatten()
}

/// One sequence on one queue.
struct Trial<'a> {
    queues: [&'a dyn Queue; 2],
    model: Model,
    steps: usize,
}

impl Trial<'_> {
    /// Two handles take turns.
    fn queue(&self) -> &dyn Queue {
        self.queues[self.steps % 2]
    }

    async fn run(mut self, steps: Vec<Step>) {
        // The first pass renews every lease, and a queue that was never used needs none.
        let first = self.model.make(1);
        self.queue().push(&first).await.unwrap();
        self.queue().take(1, Duration::ZERO, &[]).await.unwrap();
        self.queue().take(0, Duration::ZERO, &first).await.unwrap();
        self.reap(false).await;
        for step in steps {
            self.steps += 1;
            let said = format!("{step:?}");
            self.step(step).await;
            self.compare(&said).await;
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Push { count } => {
                let entries = self.model.make(count);
                self.queue().push(&entries).await.unwrap();
                self.model.enter(&entries);
            }
            Step::PushAgain { which } => {
                let messages = self.model.ever.iter().filter(|entry| dead_letter::parse(entry).is_err());
                let gone = messages.filter(|entry| !self.model.holds_any_of(entry)).cloned().collect();
                let Some(entry) = pick(&gone, which) else { return };
                self.queue().push(std::slice::from_ref(&entry)).await.unwrap();
                self.model.enter(&[entry]);
            }
            Step::Relay { stale, count } => self.relay(stale, count).await,
            Step::Take { max, acks } => self.take(max, &acks).await,
            Step::Move { kind, of, which } => {
                if let Some(change) = self.change(kind, of, which) {
                    self.settle(change).await;
                }
            }
            Step::Lapse { which } => {
                if let Some(entry) = pick(&self.model.processing, which) {
                    self.settle(Move::Extend { entry, lease: Duration::ZERO }).await;
                }
            }
            Step::Reap => self.reap(false).await,
            Step::ReapImpatiently => self.reap(true).await,
        }
    }

    async fn relay(&mut self, stale: bool, count: usize) {
        let entries = self.model.make(count);
        let at = self.model.cursor;
        let named = |position| Cursor::new(position, "event");
        let expected = if stale { Some(named(at.unwrap_or(0) + 1000)) } else { at.map(named) };
        let next = at.unwrap_or(0) + 1;
        let batch = RelayBatch { source: "s", expected: expected.as_ref(), next: &named(next), entries: &entries };
        let relayed = self.queue().relay(batch).await.unwrap();
        if stale {
            assert_eq!(relayed, Relayed::Refused { actual: at.map(named) });
        } else {
            assert_eq!(relayed, Relayed::Moved);
            self.model.cursor = Some(next);
            self.model.enter(&entries);
        }
    }

    async fn take(&mut self, max: usize, acks: &[Pick]) {
        let acks: BTreeSet<Bytes> = acks.iter().filter_map(|which| pick(&self.model.ever, *which)).collect();
        let acks: Vec<Bytes> = acks.into_iter().collect();
        let taken = self.queue().take(max, Duration::ZERO, &acks).await.unwrap();
        let expected: Vec<Settled> = acks.iter().map(|entry| self.model.leave(entry, true)).collect();
        assert_eq!(taken.acked, expected);
        assert_eq!(taken.entries.len(), max.min(self.model.main.len()));
        for entry in taken.entries {
            assert!(self.model.main.remove(&entry), "{entry:?} was taken and is not in main");
            assert!(self.model.processing.insert(entry), "taken once");
        }
    }

    fn change(&self, kind: Kind, of: Of, which: Pick) -> Option<Move> {
        let model = &self.model;
        let start = match (of, kind) {
            (Of::Ever, _) => &model.ever,
            (Of::There, Kind::Redrive | Kind::Discard) => &model.dlq,
            (Of::There, Kind::Withdraw) => &model.main,
            (Of::There, _) => &model.processing,
        };
        let entry = pick(start, which)?;
        let letter = || dead_letter::build(&entry, "q", "told", "no", jiff::Timestamp::UNIX_EPOCH);
        // What is dead-lettered or tried again is a message, not a letter.
        let again = || attempts::after_failure(&entry).ok().filter(|with| !model.holds(with));
        Some(match kind {
            Kind::Ack => Move::Ack { entry },
            Kind::Extend => Move::Extend { entry, lease: HOUR },
            Kind::RetryNow => Move::Retry { with: again()?, entry, after: Duration::ZERO },
            Kind::RetrySoon => Move::Retry { with: again()?, entry, after: Duration::from_millis(1) },
            Kind::RetryLater => Move::Retry { with: again()?, entry, after: HOUR },
            Kind::Release => Move::Release { entry },
            Kind::DeadLetter => Move::DeadLetter { with: letter(), entry },
            Kind::Withdraw => Move::Withdraw { with: letter(), entry },
            Kind::Expire => {
                Move::Expire { with: attempts::after_expiry(&entry).ok().filter(|with| !model.holds(with))?, entry, to: State::Main }
            }
            Kind::Redrive => Move::Redrive { with: dead_letter::redrive_bytes(&entry).ok().filter(|with| !model.holds(with))?, entry },
            Kind::Discard => Move::Discard { entry },
        })
    }

    async fn settle(&mut self, change: Move) {
        let settled = self.queue().settle(std::slice::from_ref(&change)).await.unwrap();
        assert_eq!(settled, [self.model.apply(&change)], "{change:?}");
    }

    async fn reap(&mut self, impatient: bool) {
        // What is due in a millisecond is due.
        tokio::time::sleep(Duration::from_millis(if self.model.soon.is_empty() { 0 } else { 3 })).await;
        let first_sight = if impatient { Duration::ZERO } else { HOUR };
        let terms = LeaseTerms { first_sight, outage_after: HOUR, ..LeaseTerms::default() };
        let config = ReaperConfig { terms, max_expiries: MAX_EXPIRIES, ..ReaperConfig::default() };
        let report = reaper::pass(self.queue(), &config).await.unwrap();
        let before = self.model.processing.clone();
        self.model.reap(impatient);
        let dead: BTreeSet<Bytes> = report.dead.into_iter().map(|dead| dead.entry).collect();
        let gone = before.difference(&self.model.processing);
        let expected: BTreeSet<Bytes> = gone.filter(|entry| attempts::read(entry).unwrap().expiries + 1 >= MAX_EXPIRIES).cloned().collect();
        assert_eq!(dead, expected, "dead-lettered by the reaper");
        for letter in self.queue().peek(State::Dlq, 0, 1000).await.unwrap() {
            if expected.contains(&Bytes::from(dead_letter::parse(&letter).unwrap().original.to_vec())) {
                self.model.ever.insert(letter.clone());
                self.model.dlq.insert(letter);
            }
        }
    }

    async fn compare(&mut self, step: &str) {
        for state in State::ALL {
            let held = self.queue().peek(state, 0, 1000).await.unwrap();
            let entries: BTreeSet<Bytes> = held.iter().cloned().collect();
            let mut expected = self.model.place(state).clone();
            if state == State::Delayed {
                expected.extend(self.model.soon.iter().cloned());
            }
            assert_eq!(entries, expected, "{state} after {step}");
            assert_eq!(held.len(), entries.len(), "{state} holds something twice after {step}");
        }
        let stats = self.queue().stats().await.unwrap();
        let counted = [stats.main, stats.processing, stats.delayed, stats.dlq].map(|count| usize::try_from(count).unwrap());
        let Model { main, processing, soon, later, dlq, .. } = &self.model;
        assert_eq!(counted, [main.len(), processing.len(), soon.len() + later.len(), dlq.len()], "counted after {step}");
    }
}

/// Runs the cases, each on a queue of its own.
fn check(
    default_cases: u32,
    leases_outlive_acks: bool,
    open: impl AsyncFn(&str) -> [Box<dyn Queue>; 2],
    runtime: &tokio::runtime::Runtime,
) {
    let cases = std::env::var("HOKUSAI_PROPERTY_CASES").map_or(default_cases, |text| text.parse().unwrap());
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 2000, failure_persistence: None, ..Config::default() });
    let number = std::cell::Cell::new(0);
    let outcome = runner.run(&steps(), |steps| {
        number.set(number.get() + 1);
        runtime.block_on(async {
            let queues = open(&format!("q{}", number.get())).await;
            let model = Model { leases_outlive_acks, ..Model::default() };
            let [first, second] = &queues;
            Trial { queues: [&**first, &**second], model, steps: 0 }.run(steps).await;
        });
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn on_redis(start: impl Future<Output = Redis>) {
    let runtime = runtime();
    let redis = runtime.block_on(start);
    let settings = RedisSettings::from_url(&redis.url()).unwrap();
    let open = async |name: &str| -> [Box<dyn Queue>; 2] { [(); 2].map(|()| Box::new(RedisQueue::lazy(&settings, name).unwrap()) as _) };
    check(48, true, open, &runtime);
}

#[test]
fn redis_does_what_the_model_does() {
    on_redis(Redis::start());
}

#[test]
fn valkey_does_what_the_model_does() {
    on_redis(Redis::valkey());
}

#[test]
fn sqlite_does_what_the_model_does() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let db = runtime.block_on(async {
        let db = Database::open(&format!("sqlite:{}", dir.path().join("queue.db").display())).await.unwrap();
        db.migrate(hokusai_queue::MIGRATIONS).await.unwrap();
        db
    });
    check(16, false, async |name: &str| [(); 2].map(|()| Box::new(SqlQueue::new(db.clone(), name)) as _), &runtime);
}

#[test]
fn postgres_does_what_the_model_does() {
    let runtime = runtime();
    let db = runtime.block_on(bench::postgres());
    check(24, false, async |name: &str| [(); 2].map(|()| Box::new(SqlQueue::new(db.clone(), name)) as _), &runtime);
}
