//! A node as bad as nodes get, as seen by one worker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::rpc::{Reply, Upstream, Wire};

/// What goes wrong with a request, or with the node as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The node carried it out, and the answer is lost.
    LostReply,
    Late,
    /// The request arrives twice, and the second answer is the one that is seen.
    Twice,
    Error,
    Garbage,
    RateLimit,
    /// The count of an account's transactions is that of a while ago.
    StaleNonce,
    /// The balance is nothing, or far too much.
    FalseBalance,
    ForgottenMempool,
    Reorg,
    LeaseExpired,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LostReply => "reply lost",
            Self::Late => "late",
            Self::Twice => "twice",
            Self::Error => "error",
            Self::Garbage => "no JSON",
            Self::RateLimit => "429",
            Self::StaleNonce => "stale nonce",
            Self::FalseBalance => "false balance",
            Self::ForgottenMempool => "mempool forgotten",
            Self::Reorg => "blocks reorganised",
            Self::LeaseExpired => "lease expired",
        }
    }

    /// What may happen to a request of this method.
    fn for_method(method: &str) -> &'static [Self] {
        match method {
            "eth_getTransactionCount" => &[Self::StaleNonce, Self::Late, Self::Error],
            "eth_getBalance" => &[Self::FalseBalance, Self::Error],
            "eth_sendRawTransaction" => &[Self::LostReply, Self::Twice, Self::Late, Self::Error, Self::RateLimit],
            _ => &[Self::LostReply, Self::Late, Self::Error, Self::Garbage, Self::RateLimit],
        }
    }

    /// In how many of a thousand requests of a method something happens.
    fn per_mille(method: &str) -> u32 {
        match method {
            "eth_sendRawTransaction" | "eth_getBalance" => 400,
            "eth_getTransactionCount" => 150,
            _ => 25,
        }
    }
}

/// How often each fault happened, and whether any more shall.
#[derive(Debug, Default)]
pub(crate) struct Weather {
    pub(crate) is_calm: AtomicBool,
    faults: Mutex<BTreeMap<Fault, u64>>,
}

impl Weather {
    pub(crate) fn note(&self, fault: Fault, times: u64) {
        *self.faults.lock().entry(fault).or_default() += times;
    }

    pub(crate) fn faults(&self) -> BTreeMap<Fault, u64> {
        self.faults.lock().clone()
    }
}

/// One worker's way to the node.
pub(crate) struct HostileNode {
    weather: Arc<Weather>,
    random: Mutex<fastrand::Rng>,
    limited_until: Mutex<Instant>,
}

impl HostileNode {
    pub(crate) fn new(seed: u64, weather: Arc<Weather>) -> Self {
        Self { weather, random: Mutex::new(fastrand::Rng::with_seed(seed)), limited_until: Mutex::new(Instant::now()) }
    }

    fn draw(&self, method: &str) -> Option<Fault> {
        if self.weather.is_calm.load(Ordering::SeqCst) {
            return None;
        }
        if Instant::now() < *self.limited_until.lock() {
            return Some(Fault::RateLimit);
        }
        let mut random = self.random.lock();
        let happens = random.u32(0..1000) < Fault::per_mille(method);
        happens.then(|| *random.choice(Fault::for_method(method)).expect("every method has a fault"))
    }

    fn number(&self, range: std::ops::Range<u64>) -> u64 {
        self.random.lock().u64(range)
    }

    fn error(&self, request: &Value) -> Value {
        let errors = [
            (-32603, "Internal error"),
            (-32000, "header not found"),
            (-32000, "execution aborted (timeout = 5s)"),
            (-32005, "daily request count exceeded, request rate limited"),
            (-32000, "the method is currently not available"),
        ];
        let (code, message) = errors[usize::try_from(self.number(0..errors.len() as u64)).unwrap()];
        json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": code, "message": message } })
    }

    /// As it was a few transactions ago.
    fn stale(&self, mut answer: Value) -> Value {
        let count = answer["result"].as_str().and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        if let Some(count) = count {
            answer["result"] = json!(format!("{:#x}", count.saturating_sub(self.number(1..4))));
        }
        answer
    }

    fn false_balance(&self, request: &Value) -> Value {
        let balance = if self.number(0..2) == 0 { "0x0" } else { "0xffffffffffffffffffffffffffff" };
        json!({ "jsonrpc": "2.0", "id": request["id"], "result": balance })
    }

    async fn suffer(&self, fault: Fault, request: &Value, node: &Upstream) -> Reply {
        match fault {
            Fault::LostReply => {
                node.pass_on(request).await;
                return Reply::Status(502);
            }
            Fault::Late => tokio::time::sleep(Duration::from_millis(self.number(20..400))).await,
            Fault::Twice => drop(node.pass_on(request).await),
            Fault::Error => return Reply::Json(self.error(request)),
            Fault::Garbage => return Reply::Garbage,
            Fault::RateLimit => {
                let pause = Duration::from_millis(self.number(50..300));
                let mut until = self.limited_until.lock();
                if Instant::now() >= *until {
                    *until = Instant::now() + pause;
                }
                return Reply::Status(429);
            }
            Fault::StaleNonce => return node.pass_on(request).await.map_or(Reply::Status(502), |answer| Reply::Json(self.stale(answer))),
            Fault::FalseBalance => return Reply::Json(self.false_balance(request)),
            Fault::ForgottenMempool | Fault::Reorg | Fault::LeaseExpired => {}
        }
        node.pass_on(request).await.map_or(Reply::Status(502), Reply::Json)
    }
}

#[async_trait]
impl Wire for HostileNode {
    async fn carry(&self, method: &str, request: Value, node: &Upstream) -> Reply {
        match self.draw(method) {
            None => node.pass_on(&request).await.map_or(Reply::Status(502), Reply::Json),
            Some(fault) => {
                self.weather.note(fault, 1);
                self.suffer(fault, &request, node).await
            }
        }
    }
}
