//! Real workers that deploy through a chain and a ledger that fail them, and a count on the chain afterwards.
//!
//! ```text
//! cargo test -p hokusai --test chain -- cuts                          every recorded point of a run, before and after, SIGKILL
//! cargo test -p hokusai --test chain -- cuts --seed 1 --rounds 200    kills at random points, again and again, many messages
//! cargo test -p hokusai --test chain -- hostile --seed 1 --rounds 50  a node that lies, loses, forgets and reorganises
//! ```
//!
//! Without arguments, as in CI, all cuts of one message and of one batch are made, and a few rounds of the others. `--lanes N` says how
//! many go on at once. A round is given by its seed, which is printed when it fails.
//!
//! What must hold in the end, by the chain's own events: one token for each symbol, each version recorded once; no hole in the
//! nonces; every message acknowledged (none of them deserves the dead-letter queue).

#[path = "../it/program.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod program;
#[path = "../it/services.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod services;

mod cuts;
mod fault;
mod hostile;
mod lane;
mod postgres;
mod rpc;
mod trap;

use std::process::ExitCode;

const NAME: &str = "chain";
const USAGE: &str = "usage: [cuts [--seed N --rounds N] | hostile [--seed N] [--rounds N]] [--lanes N]";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments {
    pub(crate) seed: u64,
    pub(crate) rounds: Option<u64>,
    pub(crate) lanes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Usual,
    Cuts,
    Hostile,
    /// A test runner means something else.
    Nothing,
}

fn read(words: &[String]) -> Result<(What, Arguments), String> {
    let mut arguments = Arguments { seed: 1, rounds: None, lanes: 8 };
    let mut what = What::Usual;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| format!("{word} needs a number"));
        match word.as_str() {
            "cuts" => what = What::Cuts,
            "hostile" => what = What::Hostile,
            "--seed" => arguments.seed = number()?,
            "--rounds" => arguments.rounds = Some(number()?),
            "--lanes" => arguments.lanes = usize::try_from(number()?.max(1)).map_err(|_| "--lanes: too many")?,
            // What test runners say to every test binary.
            "--test-threads" | "--skip" | "--format" | "--color" | "-Z" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            filter if NAME.contains(filter) => {}
            _ => what = What::Nothing,
        }
    }
    Ok((what, arguments))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        // As test runners ask for it; none is ignored.
        if !words.iter().any(|word| word == "--ignored") {
            println!("{NAME}: test");
        }
        return ExitCode::SUCCESS;
    }
    let (what, arguments) = match read(&words) {
        Ok(read) => read,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let held = runtime.block_on(async {
        match what {
            What::Nothing => true,
            What::Cuts if arguments.rounds.is_some() => cuts::at_random(arguments).await,
            What::Cuts => cuts::everywhere(arguments).await,
            What::Hostile => hostile::campaign(arguments).await,
            What::Usual => {
                let few = |rounds| Arguments { rounds: Some(rounds), ..arguments };
                cuts::everywhere(arguments).await && cuts::at_random(few(8)).await && hostile::campaign(few(2)).await
            }
        }
    });
    runtime.shutdown_background();
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
