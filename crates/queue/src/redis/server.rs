//! What about a Redis server's own set-up endangers the queues on it.
//!
//! Everything is asked for as an ordinary user may: by INFO, and by CONFIG where the server allows it, which managed
//! services do not.

use redis::{Value, cmd};

use super::RedisQueue;
use crate::Error;

const OLDEST: (u32, u32) = (6, 2);

/// What INFO says, and whether snapshots are taken if that can be asked.
struct Server {
    info: String,
    snapshots: Option<bool>,
}

impl RedisQueue {
    /// See [`crate::Queue::warnings`].
    pub(super) async fn server_warnings(&self) -> Result<Vec<String>, Error> {
        let mut save = cmd("CONFIG");
        save.arg("GET").arg("save");
        let mut answers = self.send(vec![cmd("INFO"), save]).await?.into_iter();
        let info = match answers.next() {
            Some(Ok(Value::BulkString(text))) => String::from_utf8_lossy(&text).into_owned(),
            Some(Ok(Value::VerbatimString { text, .. })) => text,
            Some(Err(error)) => return Err(self.link.classify(error)),
            _ => return Err(self.link.unexpected(&Value::Nil)),
        };
        let snapshots = match answers.next() {
            Some(Ok(Value::Array(pair))) => pair.last().map(|points| !matches!(points, Value::BulkString(points) if points.is_empty())),
            _ => None,
        };
        Ok(Server { info, snapshots }.warnings())
    }
}

impl Server {
    fn field(&self, name: &str) -> Option<&str> {
        self.info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    fn warnings(&self) -> Vec<String> {
        [self.version(), self.role(), self.eviction(), self.persistence()].into_iter().flatten().collect()
    }

    fn version(&self) -> Option<String> {
        let version = self.field("redis_version")?;
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        let found: (u32, u32) = (numbers.next()?, numbers.next()?);
        (found < OLDEST).then(|| format!("it is Redis {version}, and the queue needs 6.2 or later"))
    }

    fn role(&self) -> Option<String> {
        let replica = self.field("role")? == "slave";
        replica.then(|| "it is a replica and takes no writes; name its primary, or an address that follows a failover".into())
    }

    fn eviction(&self) -> Option<String> {
        let policy = self.field("maxmemory_policy")?;
        let consequence = match policy {
            "noeviction" => return None,
            all if all.starts_with("allkeys") => "when memory runs out it may drop whole queues",
            _ => "when memory runs out it drops keys that expire, so a queue is safe only while nobody gives it an expiry",
        };
        Some(format!("maxmemory-policy is {policy}: {consequence}; set it to noeviction"))
    }

    fn persistence(&self) -> Option<String> {
        if self.field("aof_enabled")? != "0" {
            return None;
        }
        let kept = match self.snapshots {
            Some(true) => "it keeps snapshots only: a crash loses what came after the last one",
            Some(false) => "it keeps nothing on disk: a restart loses every queue",
            None => "it has no append-only file: a crash may lose what came last, or everything",
        };
        Some(format!("{kept}. Events of our own outbox are then published again, messages of other producers are not; set appendonly yes"))
    }
}
