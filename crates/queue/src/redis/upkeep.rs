//! The upkeep of a queue on Redis: the pause lives in a field of `Q:reaper`; the rest is read by scripts.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Value, cmd};

use super::{RedisQueue, bytes_of, scripts};
use crate::{
    Error,
    upkeep::{Custody, ELSEWHERE, ENTERED, FRONT, Lease, Look, Mark, Pause, Upkeep},
};

/// The field of `Q:reaper` that holds the pause.
const PAUSED: &str = "paused";

#[async_trait]
impl Upkeep for RedisQueue {
    async fn set_pause(&self, pause: Option<&Pause>) -> Result<(), Error> {
        let change = match pause {
            Some(pause) => {
                let mut set = cmd("HSET");
                set.arg(&self.keys.reaper).arg(PAUSED).arg(pause.to_text());
                set
            }
            None => {
                let mut clear = cmd("HDEL");
                clear.arg(&self.keys.reaper).arg(PAUSED);
                clear
            }
        };
        self.ask(change).await.map(drop)
    }

    async fn pause(&self) -> Result<Option<Pause>, Error> {
        let mut get = cmd("HGET");
        get.arg(&self.keys.reaper).arg(PAUSED);
        let text = bytes_of(self.ask(get).await?);
        Ok(text.map(|text| Pause::from_text(&String::from_utf8_lossy(&text))))
    }

    async fn custody(&self) -> Result<Custody, Error> {
        let call = scripts::call(&scripts::CUSTODY, &[&self.keys.processing, &self.keys.leases]);
        let [now, processing, leases] = self.parts(self.ask(call).await?)?;
        let leases = self.entries(leases)?;
        let mut leases: HashMap<Bytes, Lease> = leases.chunks_exact(2).map(|pair| (pair[0].clone(), lease(&pair[1]))).collect();
        let mut custody = Custody { now_ms: self.number(&Ok(now))?, ..Custody::default() };
        let mut processing = self.entries(processing)?;
        processing.reverse();
        custody.held = processing.iter().map(|entry| (entry.clone(), leases.get(entry).copied().unwrap_or(Lease::None))).collect();
        for entry in processing {
            leases.remove(&entry);
        }
        custody.stale = leases.into_keys().collect();
        Ok(custody)
    }

    async fn look(&self, source: &str, mark: Option<&Mark>) -> Result<Look, Error> {
        let keys = &self.keys;
        let mut call = scripts::call(&scripts::LOOK, &[&keys.main, &keys.processing, &keys.delayed, &keys.dlq, &keys.cursor]);
        let newest: &[u8] = if let Some(Mark::Newest(newest)) = mark { newest } else { b"" };
        call.arg(source).arg(newest).arg(FRONT).arg(ENTERED).arg(ELSEWHERE);
        let [cursor, newest, whole, known, given, front, entered, processing, delayed, dlq] = self.parts(self.ask(call).await?)?;
        let mut elsewhere = self.entries(processing)?;
        elsewhere.extend(self.entries(delayed)?);
        elsewhere.extend(self.entries(dlq)?);
        let oldest_first = |entries: Value| {
            let mut entries = self.entries(entries)?;
            entries.reverse();
            Ok::<_, Error>(entries)
        };
        Ok(Look {
            cursor: super::cursor_of(cursor),
            elsewhere: (given == Value::Int(1)).then_some(elsewhere),
            front: oldest_first(front)?,
            entered: if known == Value::Int(1) { Some(oldest_first(entered)?) } else { None },
            whole: whole == Value::Int(1),
            mark: bytes_of(newest).map_or(Mark::Empty, Mark::Newest),
        })
    }
}

impl RedisQueue {
    /// An answer that is an array of so many parts.
    fn parts<const N: usize>(&self, answer: Value) -> Result<[Value; N], Error> {
        match answer {
            Value::Array(items) => items.try_into().map_err(|items| self.link.unexpected(&Value::Array(items))),
            other => Err(self.link.unexpected(&other)),
        }
    }
}

fn lease(score: &[u8]) -> Lease {
    let score: f64 = std::str::from_utf8(score).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, reason = "times in milliseconds are far below the limits of both types")]
    if score.is_infinite() { Lease::Endless } else { Lease::Until(score as i64) }
}
