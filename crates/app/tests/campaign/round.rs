//! One round: everybody works, something goes wrong, then all is drained and counted.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use hokusai_testbed::{eventually, free_port};
use serde_json::Value;

use crate::{
    fault::{Fault, Servers},
    foreign::{Foreign, kind, message},
    ledger::{Ends, Outcome, Sent, notes},
    program::{PATIENCE, Place, Role},
    services::{Api, Lists, QUEUE, request},
};

const REGISTERED: u64 = 16;
const PUBLISHED: u64 = 12;
const PRODUCED: u64 = 30;
/// Faults in a round, and the longest pause before one.
const TIMES: u64 = 4;
const PAUSE_MS: u64 = 400;
/// A round whose messages are not accounted for by then has failed.
const DRAIN: Duration = Duration::from_secs(60);

/// Takes its time, fails what is called FAIL once and refuses what is called REJECT. What it finished is left in a file
/// `done.…`.
const HANDLE: &str = r#"f=$(mktemp ours.XXXXXXXX); cat >"$f"; sleep 0.$(($$ % 3))1
grep -q '"REJECT-' "$f" && exit 65
grep -q '"FAIL-' "$f" && ! grep -q '"retry_count": *[1-9]' "$f" && exit 1
mv "$f" "done.$f""#;

/// The processes of a round.
struct World {
    fault: Fault,
    api: Api,
    place: Arc<Place>,
    url: String,
    server: Option<Role>,
    ours: Vec<Role>,
    consumers: Vec<Foreign>,
    producer: Option<Foreign>,
    /// Where the notes of every producer are.
    produced: Vec<PathBuf>,
    started: usize,
}

impl World {
    async fn start(fault: Fault, servers: &Servers) -> Self {
        let (api, url) = (Api::at(free_port()), servers.address.redis_url());
        let place = Place::new().with("REDIS_URL", &url).with("PROCESSING_TIMEOUT", fault.processing_timeout());
        let place = Arc::new(place.with("MESSAGE_RETRY_BASE_DELAY", "0.05").with("HOKUSAI_LISTEN", api.listen()));
        let mut server = place.start(&["serve"]);
        server.answers(&api.url).await;
        meet(servers).await;
        let (ours, consumers) = (vec![consume(&place), consume(&place)], Vec::new());
        let mut world =
            Self { fault, api, place, url, server: Some(server), ours, consumers, producer: None, produced: Vec::new(), started: 0 };
        world.consumers = (0..2).map(|_| world.foreign_consumer()).collect();
        world.produce(0..PRODUCED);
        world
    }

    fn foreign_consumer(&mut self) -> Foreign {
        self.started += 1;
        Foreign::consumer(&self.url, self.place.path(), self.started)
    }

    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        self.started += 1;
        let producer = Foreign::producer(&self.url, self.place.path(), self.started, numbers);
        self.produced.push(producer.ledger.clone());
        self.producer = Some(producer);
    }

    /// SIGKILL to one of those that the fault means, and another in its place.
    fn kill_one(&mut self, random: &mut fastrand::Rng) {
        let (ours, foreign) = (self.fault.kills_ours(), self.fault.kills_foreign());
        match random.u8(0..6) {
            0 if ours => {
                drop(self.server.take().map(Role::kill));
                self.server = Some(self.place.start(&["serve"]));
            }
            which @ 1..=2 if ours => {
                let next = consume(&self.place);
                std::mem::replace(&mut self.ours[usize::from(which - 1)], next).kill();
            }
            which @ 3..=4 if foreign => {
                self.consumers[usize::from(which - 3)].kill();
                self.consumers[usize::from(which - 3)] = self.foreign_consumer();
            }
            5 if foreign => {
                drop(self.producer.take());
                let begun = self.noted("pushing").len() as u64;
                self.produce(begun..PRODUCED);
            }
            _ if ours || foreign => self.kill_one(random),
            _ => {}
        }
    }

    fn noted(&self, event: &str) -> BTreeSet<String> {
        let all = self.produced.iter().flat_map(|ledger| notes(ledger));
        all.filter(|(noted, _)| noted == event).map(|(_, id)| id).collect()
    }
}

/// Waits until the server has met the queue: what a foreign consumer leaves behind before that is an orphan, and stays.
async fn meet(servers: &Servers) {
    let mut lists = Lists::of(&servers.primary);
    let met = async || (lists.query::<u64>("EXISTS", &[format!("{QUEUE}:reaper").as_bytes()]) == 1).then_some(());
    eventually("the queue is met", PATIENCE, met).await;
    if servers.has_replica() {
        let copies: u64 = lists.query("WAIT", &[b"1", b"20000"]);
        assert_eq!(copies, 1, "the replica knows of it");
    }
}

fn consume(place: &Place) -> Role {
    place.start(&["consume", "--concurrency", "4", "--exec", HANDLE])
}

/// Registers and publishes, each until it is told that it is done.
async fn send(api: Api, place: &Place) -> Sent {
    let mut sent = Sent::default();
    for number in 0..REGISTERED {
        let registration = request(&format!("model {number}"), number, &format!("{}-R{number}", kind(number)));
        let answer = eventually("a registration is answered", PATIENCE, async || api.try_register(&registration).await).await;
        sent.registered.insert(answer["message_id"].as_str().unwrap().to_owned());
        if number % 4 == 0 && number * 3 / 4 < PUBLISHED {
            sent.pushed.extend(publish(place, number * 3 / 4..number * 3 / 4 + 3).await);
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    sent
}

async fn publish(place: &Place, numbers: std::ops::Range<u64>) -> Vec<String> {
    let id = |number: u64| format!("published-{number}");
    let input: String = numbers.clone().map(|number| format!("{}\n", message(&id(number), number))).collect();
    let file = place.path().join(format!("publish-{}", numbers.start));
    std::fs::write(&file, input).unwrap();
    let file = file.to_string_lossy().into_owned();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut command = place.command(&["publish", &file]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let status = eventually("publish ends", PATIENCE, async || child.try_wait().unwrap()).await;
        if status.success() {
            return numbers.map(id).collect();
        }
        assert!(Instant::now() < deadline, "publish never succeeded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything goes wrong that shall, at random moments.
async fn trouble(world: &mut World, servers: &mut Servers, random: &mut fastrand::Rng) {
    let times = match world.fault {
        Fault::Silence | Fault::PromotionOrderly | Fault::PromotionAbrupt => 1,
        Fault::ReplyCut | Fault::Everything => TIMES * 2,
        _ => TIMES,
    };
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(random.u64(20..PAUSE_MS * TIMES / times.max(TIMES)))).await;
        let fault = world.fault;
        if fault != Fault::Everything || random.bool() {
            servers.suffer(fault, random).await;
        }
        if fault != Fault::Everything || random.bool() {
            world.kill_one(random);
        }
    }
}

/// Runs a round.
pub(crate) async fn run(fault: Fault, seed: u64) -> Outcome {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut servers = Servers::start(fault).await;
    let mut world = World::start(fault, &servers).await;
    let place = Arc::clone(&world.place);
    let (mut sent, ()) = tokio::join!(send(world.api.clone(), &place), trouble(&mut world, &mut servers, &mut random));
    let producer = world.producer.as_mut().unwrap();
    eventually("the foreign producer ends", PATIENCE, async || producer.has_ended().then_some(())).await;
    let pushed = world.noted("pushed");
    sent.unsure = world.noted("pushing").difference(&pushed).cloned().collect();
    sent.pushed.extend(pushed);
    drain(&world, &servers, &sent).await
}

/// Waits until nothing waits and everything is accounted for, and counts; what is not by then is lost or stuck.
async fn drain(world: &World, servers: &Servers, sent: &Sent) -> Outcome {
    let deadline = Instant::now() + DRAIN;
    let mut calm = 0;
    loop {
        let mut lists = Lists::of(&servers.primary);
        let [main, processing, delayed, _] = lists.depths(QUEUE);
        let letters = lists.dead_letters(QUEUE);
        let ends = Ends::read(world.place.path(), &letters);
        let stuck = main + processing + delayed;
        let missing: Vec<&String> = ends.missing(sent, world.fault).collect();
        calm = if stuck == 0 && missing.is_empty() { calm + 1 } else { 0 };
        let late = Instant::now() > deadline;
        // Twice: what a foreign consumer is about to push again is nowhere for a moment.
        if calm >= 2 || late {
            let outcome = conclude(world, &letters, &ends, sent, stuck, &missing);
            if !outcome.is_good() {
                eprintln!("{}", held(&mut lists));
            }
            return outcome;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

fn conclude(world: &World, letters: &[Value], ends: &Ends, sent: &Sent, stuck: u64, missing: &[&String]) -> Outcome {
    let outcome = ends.outcome(sent, world.fault, stuck, letters);
    if !outcome.is_good() {
        eprintln!("{stuck} stuck; missing: {missing:?}; see {}", keep(world.place.path()).display());
    }
    outcome
}

/// What the queue still holds, for whoever looks into a failure.
fn held(lists: &mut Lists) -> String {
    let mut lines = Vec::new();
    for (state, command) in [("", "LRANGE"), (":processing", "LRANGE"), (":delayed", "ZRANGE"), (":leases", "ZRANGE")] {
        let key = format!("{QUEUE}{state}");
        let mut words: Vec<&[u8]> = vec![key.as_bytes(), b"0", b"-1"];
        words.extend((command == "ZRANGE").then_some(&b"WITHSCORES"[..]));
        let entries: Vec<Vec<u8>> = lists.query(command, &words);
        lines.extend(entries.iter().map(|entry| format!("{key} {}", String::from_utf8_lossy(entry))));
    }
    let now: Vec<String> = lists.query("TIME", &[]);
    lines.push(format!("at {}", now.join(".")));
    lines.join("\n")
}

/// Leaves a copy of the logs and notes for whoever looks into a failure.
fn keep(place: &Path) -> PathBuf {
    let kept = tempfile::Builder::new().prefix("hokusai-campaign").tempdir().unwrap().keep();
    let copied = std::process::Command::new("cp").arg("-a").arg(place).arg(&kept).status();
    assert!(copied.is_ok_and(|status| status.success()));
    kept
}
