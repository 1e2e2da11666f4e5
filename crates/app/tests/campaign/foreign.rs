//! Clients as the brief has them, as processes of their own: this very program under another name, because starting hundreds
//! of Pythons would be most of the campaign. `tests/python/foreign.py` is the same in redis-py.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use redis::{Connection, RedisResult};
use serde_json::{Value, json};

use crate::services::QUEUE;

/// Says that a foreign client is wanted.
pub(crate) const FLAG: &str = "--as-foreign";
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_RETRIES: u64 = 3;
/// Between removing and pushing, so that a kill can meet it.
const GAP: Duration = Duration::from_millis(3);
/// What handling a message takes: a consumer that holds nothing is killed in vain.
const WORK: Duration = Duration::from_millis(80);
/// Between two messages of a producer.
const PACE: Duration = Duration::from_millis(30);

/// A foreign process. Killed when dropped.
pub(crate) struct Foreign {
    child: Child,
    pub(crate) ledger: PathBuf,
}

impl Foreign {
    pub(crate) fn consumer(url: &str, place: &Path, number: usize) -> Self {
        Self::start(&["consume".into(), url.into()], place.join(format!("consumer.{number}")))
    }

    pub(crate) fn producer(url: &str, place: &Path, number: usize, messages: std::ops::Range<u64>) -> Self {
        let words = ["produce".into(), url.into(), messages.start.to_string(), messages.end.to_string()];
        Self::start(&words, place.join(format!("producer.{number}")))
    }

    fn start(words: &[String], ledger: PathBuf) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(std::env::current_exe().unwrap()).arg(FLAG).arg(&ledger).args(words);
        Self { child: command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap(), ledger }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The process itself.
pub(crate) fn main(words: &[String]) {
    let [ledger, role, url, numbers @ ..] = words else { panic!("a ledger, a role and a URL") };
    let file = OpenOptions::new().append(true).create(true).open(ledger).unwrap();
    let mut client = Client { url: url.clone(), connection: None, ledger: file };
    match (role.as_str(), numbers) {
        ("produce", [first, end]) => client.produce(first.parse().unwrap()..end.parse().unwrap()),
        _ => client.consume(),
    }
}

struct Client {
    url: String,
    connection: Option<Connection>,
    ledger: File,
}

impl Client {
    /// Synced, so that it is known what was done when the next thing begins.
    fn note(&mut self, event: &str, id: &str) {
        writeln!(self.ledger, "{event} {id}").unwrap();
        self.ledger.sync_data().unwrap();
    }

    /// One command; after an error the next one connects again, as redis-py does.
    fn ask<T: redis::FromRedisValue>(&mut self, words: &[&[u8]]) -> RedisResult<T> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = redis::Client::open(self.url.as_str())?.get_connection_with_timeout(PATIENCE)?;
                connection.set_read_timeout(Some(PATIENCE))?;
                connection
            }
        };
        let connection = self.connection.insert(connection);
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let answer = command.query(connection);
        if answer.is_err() {
            self.connection = None;
            sleep(Duration::from_millis(20));
        }
        answer
    }

    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let id = format!("foreign-{number}");
            self.note("pushing", &id);
            if self.ask::<u64>(&[b"LPUSH", QUEUE.as_bytes(), message(&id, number).to_string().as_bytes()]).is_ok() {
                self.note("pushed", &id);
            }
            sleep(PACE);
        }
    }

    fn consume(&mut self) {
        let processing = format!("{QUEUE}:processing");
        loop {
            let taken = self.ask::<Option<Vec<u8>>>(&[b"BRPOPLPUSH", QUEUE.as_bytes(), processing.as_bytes(), b"1"]);
            if let Ok(Some(entry)) = taken {
                // What fails here is left where it is, or lost in the gap: the guide's consumer logs it and goes on.
                let _ = self.process(&processing, &entry);
            }
        }
    }

    fn process(&mut self, processing: &str, entry: &[u8]) -> RedisResult<()> {
        let Ok(mut envelope) = serde_json::from_slice::<Value>(entry) else { return Ok(()) };
        let id = envelope["message_id"].as_str().unwrap_or_default().to_owned();
        let symbol = envelope["payload"]["token_symbol"].as_str().unwrap_or_default();
        let tried = envelope["retry_count"].as_u64().unwrap_or(0);
        let fails = symbol.starts_with("REJECT") || (symbol.starts_with("FAIL") && tried == 0);
        sleep(WORK);
        if !fails {
            self.note("handled", &id);
            return self.ask::<i64>(&[b"LREM", processing.as_bytes(), b"1", entry]).map(drop);
        }
        let (target, with) = if tried < MAX_RETRIES {
            envelope["retry_count"] = json!(tried + 1);
            (QUEUE.to_owned(), envelope)
        } else {
            let letter = json!({"original_message": String::from_utf8_lossy(entry), "error": "Handler returned False", "queue": QUEUE});
            (format!("{QUEUE}:dlq"), letter)
        };
        self.note("removing", &id);
        self.ask::<i64>(&[b"LREM", processing.as_bytes(), b"1", entry])?;
        sleep(GAP);
        self.ask::<i64>(&[b"LPUSH", target.as_bytes(), with.to_string().as_bytes()])?;
        self.note("pushed", &id);
        Ok(())
    }
}

/// Of ten messages one is failed once, and one refused.
pub(crate) fn kind(number: u64) -> &'static str {
    match number % 10 {
        3 => "FAIL",
        7 => "REJECT",
        _ => "OK",
    }
}

pub(crate) fn message(id: &str, number: u64) -> Value {
    json!({
        "message_id": id, "message_type": "model_ready_to_deploy", "timestamp": "2025-01-27T15:30:00.123456",
        "payload": {
            "model_id": "campaign/1/any", "token_symbol": format!("{}-{number}", kind(number)), "model_name": "campaign",
            "model_version": "1", "mlflow_run_id": "run", "metric_name": "accuracy", "baseline_value": 0.75, "current_value": 0.82,
        },
    })
}
