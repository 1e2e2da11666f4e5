//! The connections to one Redis, and the meaning of its errors.
//!
//! One connection carries every command that answers at once. A command that blocks stalls whatever follows it on the
//! same connection, so each gets one of its own, kept for the next. A connection on which anything went wrong is
//! dropped, a response that did not come in time included, and the next command makes a new one: that is how a link
//! that died in silence heals, and how a failover is followed to the new primary.

use std::{error::Error as StdError, fmt, io, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio::sync::Mutex;

use crate::{ConfigError, Error, redis::RedisSettings};

const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a command may take to answer. A blocking one may take as much longer as it was told to block.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Blocking connections kept for the next blocking command.
const IDLE_CONNECTIONS: usize = 8;

pub(super) struct Link {
    client: Client,
    address: String,
    shared: Mutex<Shared>,
    idle: Mutex<Vec<MultiplexedConnection>>,
}

#[derive(Default)]
struct Shared {
    /// Counts connections made, so that an error discards the connection it happened on and not its successor.
    generation: u64,
    connection: Option<MultiplexedConnection>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.address).finish()
    }
}

impl Link {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, Error> {
        let address = settings.to_string();
        let client = settings.client().map_err(|error| ConfigError::new("REDIS_URL", error.to_string()))?;
        Ok(Self { client, address, shared: Mutex::default(), idle: Mutex::default() })
    }

    /// Sends the commands in one go. A command's own error is its own answer.
    pub(super) async fn send(&self, commands: &Pipeline) -> Result<Vec<RedisResult<Value>>, Error> {
        let answers = self.exchange(commands).await.map_err(|error| self.classify(error))?;
        Ok(answers.into_iter().map(Value::extract_error).collect())
    }

    /// The same with the answers as they came, in which an error is a value.
    pub(super) async fn exchange(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let (generation, mut connection) = self.connection().await?;
        let answers = connection.send_packed_commands(commands, 0, commands.len()).await;
        if answers.as_ref().map_or(true, |answers| answers.iter().any(is_refusal)) {
            self.discard(generation).await;
        }
        answers
    }

    /// Sends commands, then others of which one may block for up to `wait`; all leave together, on a connection of their own.
    pub(super) async fn block(
        &self,
        first: &Pipeline,
        blocking: &Pipeline,
        wait: Duration,
    ) -> (RedisResult<Vec<Value>>, RedisResult<Vec<Value>>) {
        let idle = self.idle.lock().await.pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => connection,
                Err(error) => return (Err(error.clone()), Err(error)),
            },
        };
        connection.set_response_timeout(wait + RESPONSE_TIMEOUT);
        let mut ahead = connection.clone();
        let at_once = async { if first.is_empty() { Ok(vec![]) } else { ahead.send_packed_commands(first, 0, first.len()).await } };
        let answers = futures_util::join!(at_once, connection.send_packed_commands(blocking, 0, blocking.len()));
        let mut idle = self.idle.lock().await;
        if [&answers.0, &answers.1].iter().any(|answers| answers.as_ref().map_or(true, |answers| answers.iter().any(is_error))) {
            // What ended this one has most likely ended the others.
            idle.clear();
        } else if idle.len() < IDLE_CONNECTIONS {
            idle.push(connection);
        }
        answers
    }

    async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = &shared.connection {
            return Ok((shared.generation, connection.clone()));
        }
        let connection = self.connect().await?;
        shared.generation += 1;
        shared.connection = Some(connection.clone());
        Ok((shared.generation, connection))
    }

    async fn discard(&self, generation: u64) {
        let mut shared = self.shared.lock().await;
        if shared.generation == generation {
            shared.connection = None;
        }
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECTION_TIMEOUT)).set_response_timeout(Some(RESPONSE_TIMEOUT));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    pub(super) fn classify(&self, error: RedisError) -> Error {
        let address = self.address.clone();
        match kind_of(&error) {
            Class::Outage => Error::Unavailable { address, source: error.into() },
            Class::Denied => Error::Denied { address, source: error.into() },
            Class::Misconfigured(advice) => Error::Misconfigured { address, source: error.into(), advice },
            Class::Defect => Error::Rejected { address, source: error.into() },
        }
    }

    /// An answer of a shape that the command cannot have.
    pub(super) fn unexpected(&self, answer: &Value) -> Error {
        let kind = match answer {
            Value::Nil => "nil",
            Value::Int(_) => "a number",
            Value::BulkString(_) | Value::SimpleString(_) => "a string",
            Value::Array(_) => "an array",
            _ => "something else",
        };
        let error = RedisError::from((ErrorKind::UnexpectedReturnType, "an answer of the wrong type", kind.to_owned()));
        Error::Rejected { address: self.address.clone(), source: error.into() }
    }
}

fn is_error(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(_))
}

fn is_refusal(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if is_misplaced(&error.clone().into()))
}

/// The server answers, but is not the one to talk to any more. Where a script met the refusal, Redis 6.2 says so inside the
/// script's own error.
fn is_misplaced(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
        || error.detail().is_some_and(|detail| detail.contains("READONLY") || detail.contains("MASTERDOWN"))
}

#[derive(Debug, PartialEq, Eq)]
enum Class {
    Outage,
    Denied,
    Misconfigured(&'static str),
    Defect,
}

const TLS_ADVICE: &str = "check that the address speaks TLS (rediss://) and that its certificate is valid for the host; REDIS_SSL_CERT_REQS decides whether it is checked";
const CLUSTER_ADVICE: &str =
    "in Redis Cluster write the queue's name with a hash tag, as in {hokusai}:model_ready_queue, and address the node that holds it";
const TYPE_ADVICE: &str = "a key of this queue's name holds something else than a queue; choose another MESSAGE_QUEUE_NAME";

fn kind_of(error: &RedisError) -> Class {
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => Class::Denied,
        ErrorKind::InvalidClientConfig | ErrorKind::RESP3NotSupported => Class::Misconfigured("check the address"),
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::CrossSlot) => {
            Class::Misconfigured(CLUSTER_ADVICE)
        }
        ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::ExecAbort) => of_response(error),
        ErrorKind::Extension => of_code(error),
        ErrorKind::Io | ErrorKind::Client if is_tls(error) => Class::Misconfigured(TLS_ADVICE),
        ErrorKind::UnexpectedReturnType => Class::Defect,
        _ => Class::Outage,
    }
}

/// Codes that the client library does not know by name.
fn of_code(error: &RedisError) -> Class {
    match error.code().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" => Class::Denied,
        "WRONGTYPE" => Class::Misconfigured(TYPE_ADVICE),
        // OOM, MISCONF (cannot persist), BUSY (a script runs), LOADING, NOREPLICAS and the like pass.
        _ => Class::Outage,
    }
}

fn of_response(error: &RedisError) -> Class {
    let text = error.to_string();
    if text.contains("unknown command") {
        Class::Misconfigured("the queue needs Redis 6.2 or later, with LMOVE and scripts allowed")
    } else if text.contains("WRONGTYPE") {
        Class::Misconfigured(TYPE_ADVICE)
    } else if text.contains("OOM") || text.contains("MISCONF") || is_misplaced(error) {
        Class::Outage
    } else if ["NOPERM", "permission", "invalid password", "can't run this command"].iter().any(|sign| text.contains(sign)) {
        Class::Denied
    } else {
        Class::Defect
    }
}

/// The client wraps an I/O error in an `Arc`, and an I/O error hides what it wraps from `source`.
fn is_tls(error: &RedisError) -> bool {
    type Shared = Arc<dyn StdError + Send + Sync>;
    let source = error.source().and_then(|source| source.downcast_ref::<Shared>());
    let Some(cause) = source else { return false };
    let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    cause.is::<rustls::Error>() || wrapped.is_some_and(|wrapped| wrapped.is::<rustls::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_s_refusal_is_seen_through_a_script() {
        let nested = "Error running script (call to f_5f2b): @user_script:12: -READONLY You can't write against a read only replica.";
        let error =
            RedisError::from((ErrorKind::Server(ServerErrorKind::ResponseError), "An error was signalled by the server", nested.into()));
        assert!(is_misplaced(&error));
        assert_eq!(kind_of(&error), Class::Outage);
        let other =
            RedisError::from((ErrorKind::Server(ServerErrorKind::ResponseError), "An error was signalled by the server", "syntax".into()));
        assert!(!is_misplaced(&other));
    }
}
