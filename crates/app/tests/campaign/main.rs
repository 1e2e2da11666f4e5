//! The fault campaign: real processes of ours and of foreigners on one queue, killed and cut off at random moments, round after
//! round, and an independent ledger that says what became of every message.
//!
//! ```text
//! cargo test -p hokusai --test campaign -- --seed 1 --rounds 1000 [--seconds 600] [--lanes 4] [--only FAULT]
//! ```
//!
//! A round is given by its seed, which is printed when it fails: `--seed N --rounds 1 --only FAULT` runs it again. Without
//! arguments a few rounds run, as in CI; `HOKUSAI_CAMPAIGN_ROUNDS` and `HOKUSAI_CAMPAIGN_SEED` say otherwise.
//!
//! What must hold in every round: nothing lost, nothing stuck, nothing that nobody sent. What may be lost is named and
//! counted: messages inside a foreign client's own two commands, and, where Redis itself loses what it acknowledged, messages
//! that no outbox holds. Columns: `again` finished once more, `burnt` attempts that no handler failed, `dead` letters of messages
//! that no handler refused, `alien` what nobody sent, `broken` rounds that did not end or repeated without a reason. Delivery is at least once: repetitions are counted, and allowed where the fault explains them.

#[path = "../it/program.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod program;
#[path = "../it/services.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod services;

mod fault;
mod foreign;
mod ledger;
mod round;

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fault::Fault;
use ledger::Outcome;

const NAME: &str = "campaign";
const USUAL_ROUNDS: u64 = 5;

struct Arguments {
    seed: u64,
    rounds: u64,
    lanes: u64,
    limit: Option<Duration>,
    only: Option<Fault>,
    /// Whether a test runner's filter means this.
    is_meant: bool,
}

impl Arguments {
    /// `Err` says how to ask.
    fn read(words: &[String]) -> Result<Self, String> {
        let number =
            |name: &str, default| std::env::var(name).map_or(Ok(default), |text| text.parse().map_err(|_| format!("{name}: `{text}`")));
        let mut read = Self {
            seed: number("HOKUSAI_CAMPAIGN_SEED", 1)?,
            rounds: number("HOKUSAI_CAMPAIGN_ROUNDS", USUAL_ROUNDS)?,
            lanes: 4,
            limit: None,
            only: None,
            is_meant: true,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--seed" => read.seed = value()?.parse().map_err(|_| "--seed: a number")?,
                "--rounds" => read.rounds = value()?.parse().map_err(|_| "--rounds: a number")?,
                "--lanes" => read.lanes = value()?.parse().map_err(|_| "--lanes: a number")?,
                "--seconds" => read.limit = Some(Duration::from_secs(value()?.parse().map_err(|_| "--seconds: a number")?)),
                "--only" => {
                    let name = value()?;
                    let known = || Fault::ALL.map(Fault::name).join(", ");
                    read.only = Some(Fault::named(name).ok_or_else(|| format!("--only: one of {}", known()))?);
                }
                // What test runners say to every test binary.
                "--test-threads" | "--skip" | "--format" | "--color" | "-Z" => drop(value()?),
                flag if flag.starts_with('-') => {}
                filter => read.is_meant &= NAME.contains(filter),
            }
        }
        Ok(read)
    }

    fn fault(&self, seed: u64) -> Fault {
        self.only.unwrap_or(Fault::ALL[usize::try_from(seed).unwrap_or(0) % Fault::ALL.len()])
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == foreign::FLAG) {
        foreign::main(&words[1..]);
        return ExitCode::SUCCESS;
    }
    if words.iter().any(|word| word == "--list") {
        // As test runners ask for it; none is ignored.
        if !words.iter().any(|word| word == "--ignored") {
            println!("{NAME}: test");
        }
        return ExitCode::SUCCESS;
    }
    match Arguments::read(&words) {
        Ok(arguments) if !arguments.is_meant => ExitCode::SUCCESS,
        Ok(arguments) => campaign(&arguments),
        Err(problem) => {
            eprintln!("campaign: {problem}\nusage: --seed N --rounds N [--lanes N] [--seconds N] [--only FAULT]");
            ExitCode::from(2)
        }
    }
}

/// All rounds, several at a time.
fn campaign(arguments: &Arguments) -> ExitCode {
    let (next, started) = (AtomicU64::new(0), Instant::now());
    let table = Mutex::new(BTreeMap::<Fault, Outcome>::new());
    thread::scope(|scope| {
        for _ in 0..arguments.lanes {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.rounds || arguments.limit.is_some_and(|limit| started.elapsed() > limit) {
                        return;
                    }
                    let seed = arguments.seed.wrapping_add(number);
                    let fault = arguments.fault(seed);
                    let outcome = run(fault, seed);
                    table.lock().unwrap().entry(fault).or_default().add(&outcome);
                }
            });
        }
    });
    let table = table.into_inner().unwrap();
    print(&table, started.elapsed());
    if table.values().all(Outcome::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One round; a panic in it is a failure of that round.
fn run(fault: Fault, seed: u64) -> Outcome {
    let round = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(round::run(fault, seed))
    });
    let outcome = round.join().unwrap_or_else(|_| Outcome { rounds: 1, broken: 1, ..Outcome::default() });
    if !outcome.is_good() {
        eprintln!("round {seed} ({}) failed: {outcome:?}", fault.name());
    } else {
        eprintln!("round {seed} ({}) held", fault.name());
    }
    outcome
}

fn print(table: &BTreeMap<Fault, Outcome>, took: Duration) {
    let mut all = Outcome::default();
    let mut out = std::io::stdout().lock();
    let heads = ["rounds", "sent", "ended", "again", "burnt", "dead", "in gap", "by Redis", "lost", "stuck", "alien", "broken"];
    let _ = writeln!(out, "{:<24}{}  repetitions", "fault", heads.map(|head| format!("{head:>9}")).concat());
    let mut line = |name: &str, outcome: &Outcome, explained: &str| {
        let _ = writeln!(out, "{name:<24}{}  {explained}", outcome.numbers().map(|number| format!("{number:>9}")).concat());
    };
    for (fault, outcome) in table {
        line(fault.name(), outcome, fault.repetitions().unwrap_or("none allowed"));
        all.add(outcome);
    }
    line("all", &all, "");
    let _ = writeln!(out, "{} rounds in {:.0} s", all.rounds, took.as_secs_f64());
}
