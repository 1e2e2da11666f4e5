//! Counts what a worker does to the outside, and kills it at one point of that.
//!
//! Points are not listed anywhere: they are what passes. A point is a name (a JSON-RPC method asked or answered; a commit of the
//! ledger's tables asked or answered) and how many of that name came before it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{Notify, watch};

/// One moment of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) what: String,
    pub(crate) number: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.number + 1)
    }
}

/// Where to kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    Nowhere,
    Point(Point),
    /// At the n-th point of all.
    Nth(usize),
}

#[derive(Debug)]
struct Passing {
    at: At,
    counts: BTreeMap<String, usize>,
    log: Vec<Point>,
    is_dead: bool,
}

/// Between a worker and everything it talks to.
#[derive(Debug)]
pub(crate) struct Trap {
    passing: parking_lot::Mutex<Passing>,
    victim: watch::Sender<Option<i32>>,
    sprung: Notify,
    kills: AtomicU64,
}

impl Trap {
    pub(crate) fn new() -> Self {
        let passing = Passing { at: At::Nowhere, counts: BTreeMap::new(), log: Vec::new(), is_dead: false };
        Self {
            passing: parking_lot::Mutex::new(passing),
            victim: watch::Sender::new(None),
            sprung: Notify::new(),
            kills: AtomicU64::new(0),
        }
    }

    /// A new run begins, of a worker that is yet to be started.
    pub(crate) fn set(&self, at: At) {
        self.victim.send_replace(None);
        *self.passing.lock() = Passing { at, counts: BTreeMap::new(), log: Vec::new(), is_dead: false };
    }

    pub(crate) fn aim(&self, pid: u32) {
        self.victim.send_replace(i32::try_from(pid).ok());
    }

    /// Resolves when the worker has been killed.
    pub(crate) async fn sprung(&self) {
        self.sprung.notified().await;
    }

    pub(crate) fn log(&self) -> Vec<Point> {
        self.passing.lock().log.clone()
    }

    pub(crate) fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }

    /// Whether the worker is still alive after this point. What a dead one asked for does not happen, and nobody answers it.
    pub(crate) async fn pass(&self, what: &str) -> bool {
        {
            let mut passing = self.passing.lock();
            if passing.is_dead {
                return false;
            }
            let count = passing.counts.entry(what.to_owned()).or_default();
            let point = Point { what: what.to_owned(), number: *count };
            *count += 1;
            let here = match &passing.at {
                At::Nowhere => false,
                At::Point(at) => *at == point,
                At::Nth(number) => *number == passing.log.len(),
            };
            passing.log.push(point);
            if !here {
                return true;
            }
            passing.is_dead = true;
        }
        let mut victim = self.victim.subscribe();
        if let Ok(Some(pid)) = victim.wait_for(Option::is_some).await.map(|pid| *pid) {
            kill_process(Pid::from_raw(pid).expect("a process id is not 0"), Signal::KILL).expect("the worker can be killed");
            self.kills.fetch_add(1, Ordering::Relaxed);
        }
        self.sprung.notify_one();
        false
    }
}
