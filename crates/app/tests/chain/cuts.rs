//! A worker is killed at every single point of its run, and the next one finishes: before and after each commit of the ledger, before
//! each question to the node and after its answer. Then the chain is counted.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use hokusai_testbed::{Postgres, Redis};
use parking_lot::Mutex;

use crate::{
    Arguments,
    lane::{Count, Lane, Wanted, print, told},
    trap::{At, Point},
};

/// What a worker finds in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    One,
    Batch,
}

impl Scene {
    const ALL: [Self; 2] = [Self::One, Self::Batch];

    fn name(self) -> &'static str {
        match self {
            Self::One => "one message",
            Self::Batch => "one batch",
        }
    }

    /// Two tokens, one of them with two versions, written in two ways.
    fn wanted(self, name: &str) -> Vec<Wanted> {
        let one = |letter: &str, version| Wanted { symbol: format!("{name}-{letter}"), version };
        match self {
            Self::One => vec![one("A", 1)],
            Self::Batch => vec![one("A", 1), one("B", 1), one("a", 2)],
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    rounds: usize,
    kills: u64,
    /// Points that this time were not passed.
    missed: usize,
    count: Count,
    failures: usize,
}

/// Every point of a recorded run of each scene.
pub(crate) async fn everywhere(arguments: Arguments) -> bool {
    let started = Instant::now();
    let (redis, postgres) = tokio::join!(Redis::start(), Postgres::start());
    let mut rows = Vec::new();
    let mut good = true;
    let mut lanes = start_lanes(arguments.lanes, &redis, &postgres).await;
    for scene in Scene::ALL {
        let points = record(&mut lanes[0], scene).await;
        let todo = Arc::new(Mutex::new(points.iter().cloned().enumerate().collect::<VecDeque<_>>()));
        let tallies = futures_util::future::join_all(lanes.iter_mut().map(|lane| cut_all(lane, scene, Arc::clone(&todo)))).await;
        let tally = total(tallies);
        // A point may be missed because a look at the chain more or less was needed; most must be there again.
        good &= tally.failures == 0 && tally.count.is_good() && tally.missed * 4 < points.len();
        let commits = points.iter().filter(|point| point.what.starts_with("commit")).count();
        rows.push(row(scene.name(), &format!("{} ({commits})", points.len()), &tally));
    }
    println!("cuts: a real worker is killed at every recorded point, a second one finishes");
    print(&heads("points (db)"), &rows);
    println!("{:.0} s\n", started.elapsed().as_secs_f64());
    good
}

async fn start_lanes(lanes: usize, redis: &Redis, postgres: &Postgres) -> Vec<Lane> {
    futures_util::future::join_all((0..lanes).map(|number| Lane::start(number, redis, postgres))).await
}

fn heads(points: &str) -> [&str; 11] {
    ["scene", points, "kills", "missed", "messages", "tokens", "versions", "duplicates", "lost", "dead", "holes"]
}

fn row(name: &str, points: &str, tally: &Tally) -> Vec<String> {
    let Count { messages, tokens, versions, duplicates, lost, dead_letters, holes } = tally.count;
    let numbers = [tally.missed, messages, tokens, versions, duplicates, lost, dead_letters, holes];
    let head = [name.to_owned(), points.to_owned(), tally.kills.to_string()];
    head.into_iter().chain(numbers.iter().map(ToString::to_string)).collect()
}

/// What passes in a run that nobody disturbs.
async fn record(lane: &mut Lane, scene: Scene) -> Vec<Point> {
    lane.push(&scene.wanted(&format!("{scene:?}-recorded")));
    lane.run(At::Nowhere).await.unwrap();
    let points = lane.trap.log();
    let has = |what: &str| points.iter().any(|point| point.what.contains(what));
    for what in ["eth_sendRawTransaction asked", "eth_sendRawTransaction answered", "commit of attempts", "commit of deployments"] {
        assert!(has(what), "the run passed no {what}: {points:?}");
    }
    points
}

async fn cut_all(lane: &mut Lane, scene: Scene, todo: Arc<Mutex<VecDeque<(usize, Point)>>>) -> Tally {
    let mut tally = Tally::default();
    let (kills, before) = (lane.trap.kills(), lane.count().await);
    loop {
        let next = todo.lock().pop_front();
        let Some((number, point)) = next else { break };
        tally.rounds += 1;
        lane.push(&scene.wanted(&format!("{scene:?}-{number}")));
        let outcome = async {
            let cut = lane.run(At::Point(point.clone())).await?;
            if cut {
                lane.run(At::Nowhere).await?;
            }
            Ok::<bool, String>(cut)
        };
        match outcome.await {
            Ok(cut) => tally.missed += usize::from(!cut),
            Err(problem) => {
                tally.failures += 1;
                told(&format!("{} cut at {point}", scene.name()), &problem);
            }
        }
        let count = lane.count().await;
        if !count.is_good() {
            told(&format!("{} cut at {point}", scene.name()), &count);
            break;
        }
    }
    tally.count = lane.count().await.since(&before);
    tally.kills = lane.trap.kills() - kills;
    tally
}

fn total(tallies: Vec<Tally>) -> Tally {
    tallies.into_iter().fold(Tally::default(), |mut all, one| {
        all.rounds += one.rounds;
        all.kills += one.kills;
        all.missed += one.missed;
        all.failures += one.failures;
        all.count.add(&one.count);
        all
    })
}

/// Kills at random points, several before a round is let finish.
pub(crate) async fn at_random(arguments: Arguments) -> bool {
    let started = Instant::now();
    let rounds = arguments.rounds.unwrap_or(1);
    let (redis, postgres) = tokio::join!(Redis::start(), Postgres::start());
    let mut lanes = start_lanes(arguments.lanes.min(usize::try_from(rounds).unwrap_or(1)), &redis, &postgres).await;
    let seeds = Arc::new(Mutex::new((0..rounds).map(|number| arguments.seed.wrapping_add(number)).collect::<VecDeque<_>>()));
    let tallies = futures_util::future::join_all(lanes.iter_mut().map(|lane| rounds_of(lane, Arc::clone(&seeds)))).await;
    let tally = total(tallies);
    println!("cuts at random, {rounds} rounds from seed {}", arguments.seed);
    print(&heads("rounds"), &[row("many messages", &tally.rounds.to_string(), &tally)]);
    println!("{:.0} s\n", started.elapsed().as_secs_f64());
    tally.failures == 0 && tally.count.is_good()
}

async fn rounds_of(lane: &mut Lane, seeds: Arc<Mutex<VecDeque<u64>>>) -> Tally {
    let mut tally = Tally::default();
    loop {
        let next = seeds.lock().pop_front();
        let Some(seed) = next else { break };
        tally.rounds += 1;
        if let Err(problem) = round(lane, seed, &mut tally).await {
            tally.failures += 1;
            told(&format!("seed {seed}"), &problem);
        }
        let count = lane.count().await;
        if !count.is_good() {
            tally.failures += 1;
            told(&format!("seed {seed}"), &count);
            break;
        }
    }
    tally.count = lane.count().await;
    tally.kills = lane.trap.kills();
    tally
}

async fn round(lane: &mut Lane, seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut number = 0;
    let mut some = |random: &mut fastrand::Rng| {
        let wanted = |random: &mut fastrand::Rng, number: &mut u64| {
            *number += 1;
            Wanted { symbol: format!("R{seed}-{}", random.u64(0..=*number / 2)), version: *number }
        };
        (0..random.usize(1..12)).map(|_| wanted(random, &mut number)).collect::<Vec<_>>()
    };
    for _ in 0..random.usize(1..3) {
        lane.push(&some(&mut random));
        // Two at most: a message whose lease ran out four times is taken for poison, and a busy machine lets one run out too.
        let at = At::Nth(random.usize(0..70));
        tally.missed += usize::from(!lane.run(at).await?);
        tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
    }
    lane.run(At::Nowhere).await.map(drop)
}
