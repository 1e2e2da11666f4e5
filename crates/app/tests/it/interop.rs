//! redis-py and pydantic as the brief has them (`tests/python/foreign.py`), beside ours on the same queue, with SIGKILLs on
//! both sides.
//!
//! Every process keeps a ledger of its own. What is lost inside a foreign client's own two commands (it removes, then
//! pushes) is told apart by it, and counted; nothing else may be lost, and nothing stuck.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use hokusai_testbed::{Redis, eventually, free_port};
use serde_json::{Value, json};

use crate::{
    program::{PATIENCE, Place, Role},
    services::{Api, Lists, QUEUE, request},
};

const REGISTERED: u64 = 40;
const PRODUCED: u64 = 80;
/// Between two registrations, so that there is something to do while processes die.
const PACE: Duration = Duration::from_millis(70);
const KILLS: usize = 12;
const BETWEEN_KILLS: Duration = Duration::from_millis(350);

/// Fails what is called FAIL once and refuses what is called REJECT, as the foreign consumer does. What it finished, and
/// nothing else, is left in a file that begins with `done.`.
const HANDLE: &str = r#"f=$(mktemp ours.XXXXXXXX); cat >"$f"
grep -q '"REJECT-' "$f" && exit 65
grep -q '"FAIL-' "$f" && ! grep -q '"retry_count": *[1-9]' "$f" && exit 1
mv "$f" "done.$f""#;

/// As above, of everything.
const ACCEPT: &str = r#"f=$(mktemp ours.XXXXXXXX); cat >"$f"; mv "$f" "done.$f""#;

/// A process of `foreign.py`. Killed when dropped.
struct Foreign {
    child: Child,
    ledger: PathBuf,
}

impl Foreign {
    fn start(place: &Place, redis: &Redis, number: usize, role: &str, numbers: &[String]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../../.scratch/interop/venv/bin/python");
        assert!(python.exists(), "redis-py is not installed: run scripts/setup");
        let ledger = place.path().join(format!("ledger-{number}"));
        let log = fs::File::create(place.path().join(format!("foreign-{number}.log"))).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(python).arg(root.join("tests/python/foreign.py"));
        command.args([role, &redis.url()]).arg(&ledger).args(numbers);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, ledger }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills it between its two commands, if it comes there soon.
    fn kill_in_its_gap(&mut self) {
        let soon = Instant::now() + Duration::from_millis(200);
        while self.gap().is_empty() && Instant::now() < soon {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill();
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some_and(|status| {
            assert!(status.success(), "{} ended with {status}", self.ledger.display());
            true
        })
    }

    /// What it noted, event and message; a killed process may have begun a last line.
    fn notes(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(&self.ledger).unwrap_or_default();
        let notes = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        notes.map(|note| (note["event"].as_str().unwrap().to_owned(), note["id"].as_str().unwrap().to_owned())).collect()
    }

    fn noted(&self, event: &str) -> BTreeSet<String> {
        self.notes().into_iter().filter(|(noted, _)| noted == event).map(|(_, id)| id).collect()
    }

    /// The messages that were in its hands only, between its two commands, when it was killed.
    fn gap(&self) -> BTreeSet<String> {
        let mut open = BTreeSet::new();
        for (event, id) in self.notes() {
            match event.as_str() {
                "removing" => drop(open.insert(id)),
                "pushed" => drop(open.remove(&id)),
                _ => {}
            }
        }
        open
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Our producers: registrations over HTTP, and messages by hand.
#[derive(Clone)]
struct Sender {
    api: Api,
    place: Arc<Place>,
}

impl Sender {
    /// Every message id that was answered for.
    async fn send(self) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for number in 0..REGISTERED {
            let registration = request(&format!("market {number}"), number, &format!("{}-R{number}", kind(number)));
            let answer = eventually("an answer", PATIENCE, async || self.api.try_register(&registration).await).await;
            ids.insert(answer["message_id"].as_str().unwrap().to_owned());
            if number % 4 == 0 {
                ids.extend(self.publish(number..number + 4).await);
            }
            tokio::time::sleep(PACE).await;
        }
        ids
    }

    async fn publish(&self, numbers: std::ops::Range<u64>) -> Vec<String> {
        let input = numbers.clone().map(|number| format!("{}\n", message(number))).collect::<String>();
        let place = Arc::clone(&self.place);
        tokio::task::spawn_blocking(move || place.run_with(&["publish"], input).ok()).await.unwrap();
        numbers.map(|number| format!("published-{number}")).collect()
    }
}

fn message(number: u64) -> Value {
    json!({
        "message_id": format!("published-{number}"), "message_type": "model_ready_to_deploy", "timestamp": "2025-01-27T15:30:00Z",
        "correlation_id": "ours", "payload": {
            "model_id": "market/1/any", "token_symbol": format!("{}-P{number}", kind(number)), "model_name": "market",
            "model_version": "1", "mlflow_run_id": "run", "metric_name": "accuracy", "baseline_value": 0.75, "current_value": 0.82,
        },
    })
}

/// Both sides on one queue.
struct Market {
    redis: Redis,
    place: Arc<Place>,
    api: Api,
    server: Option<Role>,
    ours: Vec<Role>,
    consumers: Vec<Foreign>,
    producer: Foreign,
    /// Foreign processes that were killed.
    past: Vec<Foreign>,
    started: usize,
    produced: u64,
}

impl Market {
    async fn open() -> Self {
        let redis = Redis::start().await;
        let api = Api::at(free_port());
        let place = Place::new().with("REDIS_URL", redis.url()).with("PROCESSING_TIMEOUT", "2");
        let place = Arc::new(place.with("MESSAGE_RETRY_BASE_DELAY", "0.05").with("HOKUSAI_LISTEN", api.listen()));
        let mut server = place.start(&["serve"]);
        server.answers(&api.url).await;
        server.prints("keeps nothing on disk").await;
        let ours = (0..2).map(|_| consume(&place, HANDLE)).collect();
        let consumers = (0..2).map(|number| Foreign::start(&place, &redis, number, "consume", &[])).collect();
        let producer = Foreign::start(&place, &redis, 2, "produce", &["0".into(), PRODUCED.to_string()]);
        Self { redis, place, api, server: Some(server), ours, consumers, producer, past: Vec::new(), started: 3, produced: 0 }
    }

    fn foreign(&mut self, role: &str, numbers: &[String]) -> Foreign {
        self.started += 1;
        Foreign::start(&self.place, &self.redis, self.started, role, numbers)
    }

    /// Kills one process and starts another in its place.
    fn kill_one(&mut self, which: usize) {
        match which % 5 {
            0 => {
                self.server.take().map(Role::kill);
                self.server = Some(self.place.start(&["serve"]));
            }
            1 | 2 => {
                let next = consume(&self.place, HANDLE);
                std::mem::replace(&mut self.ours[which % 2], next).kill();
            }
            3 => {
                let next = self.foreign("consume", &[]);
                let mut killed = std::mem::replace(&mut self.consumers[which / 5], next);
                killed.kill_in_its_gap();
                self.past.push(killed);
            }
            _ => self.kill_producer(),
        }
    }

    /// The next one goes on behind what the killed one was about to push, as a service does that does not ask.
    fn kill_producer(&mut self) {
        self.producer.kill();
        self.produced += self.producer.noted("pushing").len() as u64;
        let numbers = [self.produced.to_string(), (PRODUCED - self.produced).to_string()];
        let next = self.foreign("produce", &numbers);
        self.past.push(std::mem::replace(&mut self.producer, next));
    }

    /// Waits until nothing waits and nothing is held.
    async fn drained(&mut self) {
        let mut lists = Lists::of(&self.redis);
        let rest = |lists: &mut Lists| match lists.depths(QUEUE) {
            [0, 0, 0, _] => Ok(()),
            depths => Err(format!("main, processing, delayed, dlq: {depths:?}")),
        };
        let at_rest = async |_: &str| {
            rest(&mut lists)?;
            // What a foreign consumer is about to push again is in none of the lists for a moment.
            tokio::time::sleep(Duration::from_millis(200)).await;
            rest(&mut lists)
        };
        self.server.as_mut().unwrap().until_or("saw the queue emptied", at_rest).await;
    }

    fn foreigners(&self) -> impl Iterator<Item = &Foreign> {
        self.past.iter().chain(&self.consumers).chain([&self.producer])
    }

    fn noted(&self, event: &str) -> BTreeSet<String> {
        self.foreigners().flat_map(|one| one.noted(event)).collect()
    }

    /// What the foreign producers have pushed, and what they were killed upon.
    fn produced(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let about = self.noted("pushing");
        let pushed: BTreeSet<String> = self.noted("pushed").intersection(&about).cloned().collect();
        let unsure = about.difference(&pushed).cloned().collect();
        (pushed, unsure)
    }

    /// How often somebody finished each.
    fn done(&self) -> BTreeMap<String, usize> {
        let mut done = BTreeMap::new();
        for id in done_by_ours(&self.place).into_iter().chain(self.foreigners().flat_map(|one| one.noted("handled"))) {
            *done.entry(id).or_default() += 1;
        }
        done
    }

    fn letters(&self) -> Vec<Value> {
        Lists::of(&self.redis).dead_letters(QUEUE)
    }

    /// Puts the first dead letters back by our API.
    async fn redrive(&self, count: usize) {
        let url = format!("{}/api/v1/queues/{}", self.api.url, QUEUE.replace(':', "%3A"));
        let listed = format!("/api/v1/queues/{}/messages?state=dlq&limit={count}", QUEUE.replace(':', "%3A"));
        let listed = self.api.get(&listed).await.unwrap();
        let ids: Vec<&Value> = listed["entries"].as_array().unwrap().iter().map(|entry| &entry["id"]).collect();
        let answer = reqwest::Client::new().post(format!("{url}/dlq/redrive")).json(&json!({"ids": ids})).send().await.unwrap();
        let outcome: Value = answer.json().await.unwrap();
        assert_eq!(outcome["done"].as_array().map(Vec::len), Some(count), "{outcome}");
    }
}

fn kind(number: u64) -> &'static str {
    match number % 10 {
        3 => "FAIL",
        7 => "REJECT",
        _ => "OK",
    }
}

fn consume(place: &Place, command: &str) -> Role {
    place.start(&["consume", "--concurrency", "4", "--exec", command])
}

fn done_by_ours(place: &Place) -> Vec<String> {
    let files = fs::read_dir(place.path()).unwrap().map(|file| file.unwrap().path());
    let done = files.filter(|file| file.file_name().unwrap().to_string_lossy().starts_with("done."));
    done.map(|file| id_of(&serde_json::from_slice(&fs::read(&file).unwrap()).unwrap())).collect()
}

fn id_of(envelope: &Value) -> String {
    envelope["message_id"].as_str().unwrap().to_owned()
}

fn original(letter: &Value) -> Value {
    serde_json::from_str(letter["original_message"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_processes_and_ours_lose_nothing_of_each_other() {
    let mut market = Market::open().await;
    let sender = Sender { api: market.api.clone(), place: Arc::clone(&market.place) };
    let killing = async {
        for number in 0..KILLS {
            tokio::time::sleep(BETWEEN_KILLS).await;
            market.kill_one(number % 10);
        }
    };
    let (mut sent, ()) = tokio::join!(sender.send(), killing);
    eventually("the foreign producer ends", PATIENCE, async || market.producer.has_ended().then_some(())).await;
    market.drained().await;
    let (pushed, unsure) = market.produced();
    sent.extend(pushed);
    check_ends(&market, &sent, &unsure);
    understand_each_other(market).await;
}

/// Everything that was sent has come to an end, and to one that somebody's ledger or the dead-letter queue shows.
fn check_ends(market: &Market, sent: &BTreeSet<String>, unsure: &BTreeSet<String>) {
    let (done, gap) = (market.done(), market.foreigners().flat_map(Foreign::gap).collect::<BTreeSet<_>>());
    let dead: BTreeSet<String> = market.letters().iter().map(|letter| id_of(&original(letter))).collect();
    let ended = |id: &&String| done.contains_key(*id) || dead.contains(*id);
    let (in_the_gap, lost): (Vec<&String>, Vec<&String>) = sent.iter().filter(|id| !ended(id)).partition(|id| gap.contains(*id));
    println!("{} taken by foreign consumers, {} finished by them", market.noted("took").len(), market.noted("handled").len());
    println!(
        "{} sent, {} more perhaps; {} finished, {} times more than once; {} dead; {} lost in a foreign client's gap, {} otherwise",
        sent.len(),
        unsure.len(),
        done.len(),
        done.values().map(|count| count - 1).sum::<usize>(),
        dead.len(),
        in_the_gap.len(),
        lost.len(),
    );
    assert!(lost.is_empty(), "{lost:?}");
    let strangers: Vec<&String> = done.keys().chain(&dead).filter(|id| !sent.contains(*id) && !unsure.contains(*id)).collect();
    assert!(strangers.is_empty(), "nobody sent {strangers:?}");
}

/// Retries and dead letters of either side are the other's daily bread.
async fn understand_each_other(mut market: Market) {
    let by_ours = market.letters().len();
    assert!(by_ours > 0, "what is called REJECT is dead-lettered at once by ours");
    market.ours.drain(..).for_each(|role| drop(role.kill()));
    market.drained().await;

    // The foreign side alone: ours are refused after three retries of theirs, and so is what has no time in its payload.
    let sender = Sender { api: market.api.clone(), place: Arc::clone(&market.place) };
    let mut refused = sender.publish(1007..1008).await;
    let mut producer = market.foreign("produce", &["2000".into(), "2".into()]);
    eventually("the foreign producer ends", PATIENCE, async || producer.has_ended().then_some(())).await;
    refused.extend(["foreign-2000".into(), "foreign-2001".into()]);
    let mut lists = Lists::of(&market.redis);
    let buried = async |_: &str| {
        let letters = lists.dead_letters(QUEUE);
        let found = |id: &String| letters.iter().any(|letter| id_of(&original(letter)) == *id);
        refused.iter().all(found).then_some(letters)
    };
    let letters = market.server.as_mut().unwrap().until("saw the foreign side give up", buried).await;
    for letter in letters.iter().filter(|letter| refused.contains(&id_of(&original(letter)))) {
        assert_eq!((&original(letter)["retry_count"], letter.get("error_kind")), (&json!(3), None), "{letter}");
    }

    // Half of all is redriven by ours, half by the loop of the guide, and ours finishes what the foreign side gave up.
    market.consumers.iter_mut().for_each(Foreign::kill);
    market.redrive(letters.len() / 2).await;
    let mut redriving = market.foreign("redrive", &["1000".into()]);
    eventually("the guide's loop ends", PATIENCE, async || redriving.has_ended().then_some(())).await;
    let consumer = consume(&market.place, ACCEPT);
    market.drained().await;
    assert_eq!(market.letters().len(), 0);
    let done = done_by_ours(&market.place);
    for letter in &letters {
        assert!(done.contains(&id_of(&original(letter))), "{letter}");
    }
    consumer.stop("TERM").await;
    market.server.take().unwrap().stop("TERM").await;
}
