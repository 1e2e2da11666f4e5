//! The HTTP interface: JSON in and out, problem documents for errors, and an OpenAPI document made from the handlers.
//!
//! Each file holds the routes of one subject; [`router`] joins them and wraps them in what every request gets (`frame.rs`).
//! No rule of the domain lives here: handlers parse, ask the libraries, and present.
//!
//! Invariants:
//!
//! - Everything a client sends is bounded before it is looked at: head, ids, body, time.
//! - Only known queues are opened: a name from an address never reaches Redis unchecked.
//! - A registration is answered after it is committed, and what is read is read from the database at that moment.

mod about;
mod body;
mod deployed;
mod events;
mod frame;
mod health;
mod history;
mod mlflow;
mod problem;
mod queues;
mod register;
mod registrations;
mod search;
mod serve;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use std::{fmt, sync::Arc, time::Duration};

use axum::{Extension, Router, extract::DefaultBodyLimit, middleware};
use hokusai_db::Database;
use hokusai_queue::Queue;
use hokusai_registry::{QueueOpener, Registrar, Registrations, RelayStatus, Subscriptions};
use tower::ServiceBuilder;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use about::Version;
pub(crate) use deployed::{ChainCheck, Claim, Denial, OnChain};
pub(crate) use health::advice;
pub(crate) use mlflow::MlflowHook;
pub(crate) use serve::serve;

/// How long a request may take before it is answered without a result.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the handlers work with; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) registrar: Registrar,
    pub(crate) registrations: Registrations,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) database: Database,
    pub(crate) queues: Queues,
    /// What the relay of this process reports, if it runs one.
    pub(crate) relay: Option<RelayStatus>,
    /// Looks claims of foreign deployers up on the chain; without a chain there is none.
    pub(crate) chain: Option<Arc<dyn ChainCheck>>,
    /// Receives MLflow's webhooks, if this server works with an MLflow.
    pub(crate) mlflow: Option<MlflowHook>,
    pub(crate) version: Version,
}

/// What carries the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Redis,
    Local,
}

impl Carrier {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Local => "local",
        }
    }
}

/// The queues of this installation.
#[derive(Clone)]
pub(crate) struct Queues {
    pub(crate) carrier: Carrier,
    /// Where `model_ready_to_deploy` goes: the one that `/health` tells of.
    pub(crate) default: String,
    /// Others that are known without being subscribed to anything.
    pub(crate) others: Vec<String>,
    pub(crate) opener: Arc<dyn QueueOpener>,
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").field("carrier", &self.carrier).field("default", &self.default).finish_non_exhaustive()
    }
}

impl Queues {
    async fn open(&self, name: &str) -> Result<Arc<dyn Queue>, hokusai_queue::Error> {
        self.opener.open(name).await
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hokusai",
        description = "Carries a machine-learning model that beat its baseline to its token on an EVM chain, exactly once.\n\n\
            Errors are RFC 9457 problem documents. Every answer has an `X-Request-Id`, the client's own if it sent one."
    ),
    tags(
        (name = "registrations", description = "Models, and how far each is on the way to its token"),
        (name = "queues", description = "What waits where, and repairing it"),
        (name = "messages", description = "What travels through the queues"),
        (name = "operation", description = "Whether and what the server is"),
    )
)]
struct Described;

/// All routes, described.
fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(register::register))
        .routes(routes!(registrations::list))
        .routes(routes!(registrations::show))
        .routes(routes!(deployed::report))
        .routes(routes!(registrations::token))
        .routes(routes!(mlflow::receive))
        .routes(routes!(queues::list))
        .routes(routes!(queues::messages))
        .routes(routes!(queues::redrive))
        .routes(routes!(queues::discard))
        .routes(routes!(events::events))
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(about::version))
        .routes(routes!(about::schema))
        .routes(routes!(about::openapi))
}

/// The routes, ready to be served.
pub(crate) fn router(api: Api) -> Router {
    with_patience(api, PATIENCE)
}

fn with_patience(api: Api, patience: Duration) -> Router {
    let (routes, mut openapi) = described().split_for_parts();
    openapi.info.version = api.version.version.to_owned();
    let document = about::document(&openapi);
    // One layer made of four: each `layer` of a router puts a box around every route, to be cloned for every request.
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(frame::Patience(patience), frame::frame))
        .layer(DefaultBodyLimit::max(body::MAX_BYTES))
        .layer(Extension(events::Streams::default()))
        .layer(Extension(about::OpenApiBytes(document.to_string().into())));
    routes.layer(layers).with_state(api)
}
