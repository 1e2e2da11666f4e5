//! Whether this server is well: `/health` for people and load balancers, `/live` and `/ready` for orchestrators.
//!
//! What each status means. A queue that somebody has paused is `degraded`: what it holds waits for them. Without the database nothing can be accepted: `unhealthy`, 503. Without the queue, or with a
//! relay that lags, registrations are accepted, kept and published later: `degraded`, 200, so that a load balancer does
//! not turn them away. Every check is bounded in time and they run side by side: a hung Redis costs the answer
//! [`CHECK_TIME`] and no more. Nothing here repeats an error's text, which may name addresses.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use hokusai_queue::{Pause, Stats};
use hokusai_registry::{LaneState, LaneStatus, RelayStatus};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, Carrier,
    problem::{self, Document, Problem},
    search::Search,
};

/// How long a check may take before the service counts as not answering.
const CHECK_TIME: Duration = Duration::from_secs(2);
/// A relay more events behind than this is worth telling: seconds of work for it.
const LAG_TOLERATED: i64 = 10_000;

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    Healthy,
    Degraded,
    Unhealthy,
    /// Not part of this installation, as Redis is not when the queue lives in the database.
    NotConfigured,
}

/// `/health`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: Condition,
    service: &'static str,
    version: &'static str,
    services: Services,
}

/// Each service by itself; the details only with `?detailed=true`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Services {
    redis: Condition,
    message_queue: Condition,
    database: Condition,
    relay: Condition,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_queue_details: Option<QueueDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    database_details: Option<DatabaseDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_details: Option<RelayDetails>,
}

/// The default queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueDetails {
    status: Condition,
    /// What carries it: `redis` or `local`.
    #[serde(rename = "type")]
    carrier: &'static str,
    queue_name: String,
    /// How long counting took; null if it failed.
    latency_ms: Option<f64>,
    /// Null if they could not be counted.
    queue_depths: Option<Depths>,
    /// Our consumers take nothing from it, by somebody's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<Paused>,
    /// What is wrong and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

/// How many messages there are in each state.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Depths {
    /// Waiting.
    main: u64,
    /// Taken by a consumer.
    processing: u64,
    /// Given up; they wait for a person.
    dlq: u64,
    /// Waiting for their next attempt.
    delayed: u64,
}

/// A pause that somebody has ordered. Foreign consumers do not know of it and go on.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Paused {
    /// Who ordered it.
    by: String,
    /// Why, in their words.
    reason: String,
    /// When.
    at: String,
}

impl From<Pause> for Paused {
    fn from(Pause { by, reason, at }: Pause) -> Self {
        Self { by, reason, at: at.to_string() }
    }
}

impl From<Stats> for Depths {
    fn from(Stats { main, processing, delayed, dlq }: Stats) -> Self {
        Self { main, processing, dlq, delayed }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatabaseDetails {
    status: Condition,
    latency_ms: Option<f64>,
}

/// The relay, which moves committed events into the queues.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RelayDetails {
    status: Condition,
    /// Events that have not reached a queue, in the queue that lags most.
    lag: i64,
    queues: Vec<LaneDetails>,
}

/// The relay's way to one queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LaneDetails {
    queue: String,
    /// `running`, `outage` (it tries again) or `stopped` (until somebody decides).
    state: &'static str,
    /// Events that have not reached it.
    lag: i64,
    /// Since when there is an outage.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Why it is stopped, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<LaneStatus> for LaneDetails {
    fn from(lane: LaneStatus) -> Self {
        let (state, since, reason) = match lane.state {
            LaneState::Running => ("running", None, None),
            LaneState::Outage { since, .. } => ("outage", Some(since), None),
            LaneState::Stopped { reason } => ("stopped", None, Some(reason)),
        };
        Self { queue: lane.queue, state, lag: lane.lag, since, reason }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Detail {
    /// Adds depths, latencies and lag.
    #[serde(default)]
    detailed: bool,
}

/// How the server and what it depends on are.
#[utoipa::path(get, path = "/health", operation_id = "getHealth", tag = "operation", params(Detail), responses(
    (status = 200, description = "Healthy, or degraded: registrations are accepted, and published when the queue is back.", body = Health),
    (status = 400, description = "A parameter cannot be read.", body = Document, content_type = problem::CONTENT_TYPE),
    (status = 503, description = "Unhealthy: the database does not answer, so nothing can be registered.", body = Health),
))]
pub(crate) async fn health(State(api): State<Api>, Search(Detail { detailed }): Search<Detail>) -> impl IntoResponse {
    let (queue, database) = tokio::join!(check_queue(&api), check_database(&api));
    let relay = check_relay(&api);
    let status = overall(database.status, [queue.status, relay.status]);
    // A pause says nothing about Redis.
    let redis = match (api.queues.carrier, queue.status) {
        (Carrier::Local, _) => Condition::NotConfigured,
        (Carrier::Redis, Condition::Degraded) => Condition::Healthy,
        (Carrier::Redis, status) => status,
    };
    let services = Services {
        redis,
        message_queue: queue.status,
        database: database.status,
        relay: relay.status,
        message_queue_details: detailed.then_some(queue),
        database_details: detailed.then_some(database),
        relay_details: detailed.then_some(relay),
    };
    let code = if status == Condition::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(Health { status, service: "hokusai", version: api.version.version, services }))
}

fn overall(database: Condition, others: [Condition; 2]) -> Condition {
    if database == Condition::Unhealthy {
        Condition::Unhealthy
    } else if others.iter().any(|condition| matches!(condition, Condition::Degraded | Condition::Unhealthy)) {
        Condition::Degraded
    } else {
        Condition::Healthy
    }
}

async fn check_queue(api: &Api) -> QueueDetails {
    let name = &api.queues.default;
    let started = Instant::now();
    let look = look(api, name).await;
    QueueDetails {
        status: look.condition(),
        carrier: api.queues.carrier.as_str(),
        queue_name: name.clone(),
        latency_ms: look.depths.is_ok().then(|| elapsed_ms(started)),
        queue_depths: look.depths.ok(),
        paused: look.paused,
        error: look.depths.err(),
    }
}

/// What can be told of a queue.
pub(crate) struct QueueLook {
    /// Or what is wrong with it.
    pub(crate) depths: Result<Depths, &'static str>,
    pub(crate) paused: Option<Paused>,
}

impl QueueLook {
    pub(crate) fn condition(&self) -> Condition {
        match (&self.depths, &self.paused) {
            (Err(_), _) => Condition::Unhealthy,
            (Ok(_), Some(_)) => Condition::Degraded,
            (Ok(_), None) => Condition::Healthy,
        }
    }
}

/// A queue's depths and the pause in force, in at most [`CHECK_TIME`].
pub(crate) async fn look(api: &Api, name: &str) -> QueueLook {
    let looked = in_time(async {
        let queue = api.queues.open(name).await?;
        let pause = async {
            match queue.upkeep() {
                Some(upkeep) => upkeep.pause().await,
                None => Ok(None),
            }
        };
        tokio::try_join!(queue.stats(), pause)
    });
    match looked.await {
        None => QueueLook { depths: Err("The queue did not answer in time."), paused: None },
        Some(Ok((stats, pause))) => QueueLook { depths: Ok(stats.into()), paused: pause.map(Paused::from) },
        Some(Err(error)) => {
            tracing::warn!(queue = name, error = &error as &dyn std::error::Error, "a queue is not well");
            QueueLook { depths: Err(advice(&error)), paused: None }
        }
    }
}

/// What an operator should do, without the addresses that the error itself may name.
pub(crate) fn advice(error: &hokusai_queue::Error) -> &'static str {
    use hokusai_queue::Error as E;
    match error {
        E::Unavailable { .. } => "The queue is not reachable: check that it runs, its address, and the network between.",
        E::Denied { .. } => "The queue refuses access: check REDIS_AUTH_TOKEN or REDIS_PASSWORD, and the user's permissions.",
        _ => "The queue cannot be used as configured; see the server's log.",
    }
}

async fn check_database(api: &Api) -> DatabaseDetails {
    let started = Instant::now();
    let well = database_answers(api).await;
    DatabaseDetails { status: if well { Condition::Healthy } else { Condition::Unhealthy }, latency_ms: well.then(|| elapsed_ms(started)) }
}

async fn database_answers(api: &Api) -> bool {
    let asked = in_time(sqlx::query("SELECT 1").execute(api.database.reader())).await;
    if let Some(Err(error)) = &asked {
        tracing::warn!(error = error as &dyn std::error::Error, "the database is not well");
    }
    matches!(asked, Some(Ok(_)))
}

/// The relay reports to memory, so asking it takes no time. Where it does not run, `worker` or another server does.
fn check_relay(api: &Api) -> RelayDetails {
    let lanes = api.relay.as_ref().map(RelayStatus::lanes);
    let queues: Vec<LaneDetails> = lanes.iter().flatten().cloned().map(LaneDetails::from).collect();
    let lag = queues.iter().map(|lane| lane.lag).max().unwrap_or(0);
    let well = queues.iter().all(|lane| lane.state == "running") && lag <= LAG_TOLERATED;
    let status = match (lanes.is_some(), well) {
        (false, _) => Condition::NotConfigured,
        (true, true) => Condition::Healthy,
        (true, false) => Condition::Degraded,
    };
    RelayDetails { status, lag, queues }
}

async fn in_time<T>(check: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(CHECK_TIME, check).await.ok()
}

fn elapsed_ms(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e5).round() / 1e2
}

/// `/live` and `/ready`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Probe {
    #[schema(example = "live")]
    status: &'static str,
}

/// Whether the process answers at all. Asks nothing of others: an outage elsewhere is no reason to be restarted.
#[utoipa::path(get, path = "/live", operation_id = "getLive", tag = "operation", responses((status = 200, description = "It does.", body = Probe)))]
pub(crate) async fn live() -> Json<Probe> {
    Json(Probe { status: "live" })
}

/// Whether requests should be sent here: the database answers.
#[utoipa::path(get, path = "/ready", operation_id = "getReady", tag = "operation", responses(
    (status = 200, description = "They should.", body = Probe),
    (status = 503, description = "The database does not answer.", body = Document, content_type = problem::CONTENT_TYPE),
))]
pub(crate) async fn ready(State(api): State<Api>) -> Result<Json<Probe>, Problem> {
    if database_answers(&api).await {
        return Ok(Json(Probe { status: "ready" }));
    }
    Err(Problem::new(problem::Kind::Unavailable, "The database does not answer.").retry_after(5))
}
