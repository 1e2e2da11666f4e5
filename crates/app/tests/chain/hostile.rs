//! Three workers on one key, two of them on one ledger and one on another, behind nodes that lie, on a chain that reorganises.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use hokusai_db::Database;
use hokusai_testbed::{Postgres, Redis};
use serde_json::json;

use crate::{
    Arguments,
    fault::{Fault, HostileNode, Weather},
    lane::{Count, Wanted, compare, nonces, print, short, told},
    program::{Place, Role},
    rpc::{RpcProxy, Upstream},
    services::{Chain, Lists},
};

/// A block counts as final when it and those on top of it are this many.
const CONFIRMATIONS: u64 = 3;
/// Waves of messages, while the weather is bad.
const WAVES: u64 = 5;
/// A final that a deep reorganisation took is looked at again within a minute.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug, Default)]
struct Total {
    rounds: u64,
    failures: u64,
    faults: BTreeMap<Fault, u64>,
    count: Count,
}

/// Rounds, several at a time.
pub(crate) async fn campaign(arguments: Arguments) -> bool {
    let started = Instant::now();
    let rounds = arguments.rounds.unwrap_or(10);
    let (redis, postgres) = tokio::join!(Redis::start(), Postgres::start());
    let next = std::sync::atomic::AtomicU64::new(0);
    let total = parking_lot::Mutex::new(Total::default());
    // A round is three workers.
    let lanes = arguments.lanes.min(4).min(usize::try_from(rounds).unwrap_or(1));
    futures_util::future::join_all((0..lanes).map(async |_| {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= rounds {
                return;
            }
            let seed = arguments.seed.wrapping_add(number);
            let (count, faults) = round(seed, &redis, &postgres).await;
            let mut total = total.lock();
            total.rounds += 1;
            if let Some(problem) = &count.1 {
                total.failures += 1;
                told(&format!("seed {seed}: {problem}"), &count.0);
            }
            total.count.add(&count.0);
            for (fault, times) in faults {
                *total.faults.entry(fault).or_default() += times;
            }
        }
    }))
    .await;
    let total = total.into_inner();
    report(&total, arguments.seed, started.elapsed());
    total.failures == 0 && total.count.is_good()
}

fn report(total: &Total, seed: u64, took: Duration) {
    println!("a hostile node, {} rounds from seed {seed}", total.rounds);
    let faults: Vec<Vec<String>> = total.faults.iter().map(|(fault, times)| vec![fault.name().to_owned(), times.to_string()]).collect();
    print(&["fault", "times"], &faults);
    let Count { messages, tokens, versions, duplicates, lost, dead_letters, holes } = total.count;
    let numbers = [messages, tokens, versions, duplicates, lost, dead_letters, holes].map(|number| number.to_string());
    let heads = ["", "messages", "tokens", "versions", "duplicates", "lost", "dead", "holes"];
    print(&heads, &[[vec!["all".to_owned()], numbers.to_vec()].concat()]);
    println!("{:.0} s\n", took.as_secs_f64());
}

/// A ledger, its queue, and the workers on them.
struct Side {
    queue: String,
    workers: Vec<Role>,
    _places: Vec<(Place, RpcProxy)>,
}

impl Side {
    async fn start(name: &str, workers: u64, seed: u64, place: impl Fn() -> Place, node: &Upstream, weather: &Arc<Weather>) -> Self {
        let queue = format!("hostile-{seed}-{name}");
        let mut side = Self { queue: queue.clone(), workers: Vec::new(), _places: Vec::new() };
        for number in 0..workers {
            let wire = HostileNode::new(seed.wrapping_mul(31).wrapping_add(number + name.len() as u64 * 7), Arc::clone(weather));
            let rpc = RpcProxy::new(node.clone(), Arc::new(wire)).await;
            let place = place().with("WEB3_PROVIDER_URL", rpc.url()).with("MESSAGE_QUEUE_NAME", &queue);
            let place = place.with("HOKUSAI_CONFIRMATIONS", CONFIRMATIONS.to_string()).with("QUEUE_POLL_INTERVAL", "1");
            side.workers.push(place.start(&["worker"]));
            side._places.push((place, rpc));
        }
        side
    }
}

async fn round(seed: u64, redis: &Redis, postgres: &Postgres) -> ((Count, Option<String>), BTreeMap<Fault, u64>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (chain, database) = tokio::join!(Chain::start(&[]), postgres.database());
    let (node, weather) = (Upstream::new(chain.anvil.url()), Arc::new(Weather::default()));
    // Deep enough that no reorganisation takes the registry itself.
    node.ask("anvil_mine", json!(["0x20"])).await;
    node.ask("evm_setAutomine", json!([false])).await;
    let own = || chain.known_to(Place::new().with("REDIS_URL", redis.url()));
    let two = Side::start("two", 2, seed, || own().with("DATABASE_URL", &database), &node, &weather).await;
    let one = Side::start("lone", 1, seed, own, &node, &weather).await;
    let db = Database::open(&database).await.unwrap();
    let mut lists = Lists::of(redis);
    // Every eighth round goes deeper than finality.
    let deepest = if seed % 8 == 7 { CONFIRMATIONS + 3 } else { CONFIRMATIONS - 1 };
    let mut wanted = Vec::new();
    let waves = send(seed, &mut random, &mut lists, [&two.queue, &one.queue], &mut wanted);
    let storm_seed = seed.wrapping_mul(7919);
    let ended = async {
        waves.await;
        weather.is_calm.store(true, Ordering::SeqCst);
    };
    let blocks = storm(storm_seed, &node, &db, &weather, deepest);
    tokio::pin!(blocks);
    tokio::select! {
        () = ended => {}
        () = &mut blocks => {}
    }
    let queues = [two.queue.clone(), one.queue.clone()];
    let settled = settle(&chain, &node, &mut lists, &queues, &wanted);
    let outcome = tokio::select! {
        outcome = settled => outcome,
        () = &mut blocks => unreachable!("blocks are made for ever"),
    };
    let logs: Vec<String> = two.workers.into_iter().chain(one.workers).map(Role::kill).collect();
    if let Some(problem) = &outcome.1 {
        let last = |log: &String| log.lines().rev().take(8).collect::<Vec<_>>().join("\n");
        eprintln!("seed {seed}: {problem}\n{}", logs.iter().map(last).collect::<Vec<_>>().join("\n--\n"));
    }
    (outcome, weather.faults())
}

/// The two sides are asked for much the same.
async fn send(seed: u64, random: &mut fastrand::Rng, lists: &mut Lists, queues: [&String; 2], wanted: &mut Vec<Wanted>) {
    for wave in 0..WAVES {
        for number in 0..random.u64(2..14) {
            let one = Wanted { symbol: format!("H{seed}-{wave}-{}", number / 2), version: number };
            let who = random.u8(0..4);
            for (side, queue) in queues.into_iter().enumerate() {
                if who >= 2 || usize::from(who) == side {
                    lists.push(queue, one.message(&format!("{} {number} {side}", one.symbol)));
                }
            }
            wanted.push(one);
        }
        tokio::time::sleep(Duration::from_millis(random.u64(500..2500))).await;
    }
}

/// Blocks at odd times, for ever; and while the weather is bad, what happens to a node and a ledger as a whole.
async fn storm(seed: u64, node: &Upstream, db: &Database, weather: &Weather, deepest: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        tokio::time::sleep(Duration::from_millis(random.u64(40..300))).await;
        node.ask("evm_mine", json!([])).await;
        if weather.is_calm.load(Ordering::SeqCst) {
            continue;
        }
        match random.u8(0..12) {
            0 => {
                node.ask("anvil_dropAllTransactions", json!([])).await;
                weather.note(Fault::ForgottenMempool, 1);
            }
            1 | 2 => {
                let depth = random.u64(1..=deepest);
                let answer = node.ask("anvil_reorg", json!([depth, []])).await;
                assert!(answer.is_null(), "{}", short(&answer));
                weather.note(Fault::Reorg, depth);
            }
            3 => {
                let sql = "UPDATE deploy_leases SET expires_at = 0";
                // Not there before the first worker is.
                if sqlx::query(sql).execute(db.reader()).await.is_ok() {
                    weather.note(Fault::LeaseExpired, 1);
                }
            }
            _ => {}
        }
    }
}

/// Waits until nothing waits and the count is as it must be. The count, and what is wrong if that takes too long.
async fn settle(chain: &Chain, node: &Upstream, lists: &mut Lists, queues: &[String; 2], wanted: &[Wanted]) -> (Count, Option<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let depths: Vec<[u64; 4]> = queues.iter().map(|queue| lists.depths(queue)).collect();
        let open: u64 = depths.iter().map(|[main, processing, delayed, _]| main + processing + delayed).sum();
        let dead: u64 = depths.iter().map(|depths| depths[3]).sum();
        let (_, holes) = nonces(node).await;
        let count = Count {
            messages: wanted.len(),
            dead_letters: usize::try_from(dead).unwrap(),
            holes: usize::try_from(holes).unwrap(),
            ..compare(&chain.history().await, wanted)
        };
        if open == 0 && count.is_good() {
            return (count, None);
        }
        if Instant::now() > deadline {
            return (count, Some(format!("not settled: {depths:?}")));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
