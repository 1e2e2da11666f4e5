//! Registering models: read a request, judge it, number its version, and commit the registration together with its
//! events; then relay the events to every queue that subscribed to them.
//!
//! - [`RegisterRequest`] reads a request strictly; [`registrar`] makes the [`Registrar`] that answers it and the
//!   [`Committer`] that commits what waits, many registrations in one transaction.
//! - [`outbox`] holds events with their exact bytes, [`Subscriptions`] says which type goes where, [`relay`] moves them.
//! - [`Registrations`] reads what was registered and how far it has come; [`note_step`] and [`apply_deployed`] move it on, in
//!   the transaction of whoever does.
//!
//! Invariants:
//!
//! - Whatever was answered with success is in one committed transaction, events included.
//! - An event's bytes are built once; what is published again is identical.
//! - Nothing here reads the environment, retries MLflow silently, or knows queues other than by the [`hokusai_queue::Queue`] contract.
#![warn(missing_docs)]

pub mod audit;
mod batch;
mod bulk;
mod document;
mod draft;
pub mod mlflow;
mod model_uri;
mod nudge;
pub mod outbox;
mod progress;
mod register;
mod registrations;
pub mod relay;
pub mod republish;
mod request;
mod schema;
pub mod subscriptions;
pub mod sweep;
mod whereabouts;

pub use audit::{CustodyAudit, QueueAudit, Unconfirmed, audit};
pub use document::{Decision, Document, Status};
pub use mlflow::{Mlflow, MlflowClient, MlflowError, MlflowSettings, MlflowTls, Tagger, TaggerConfig};
pub use model_uri::{BaselineUri, MODEL_URI_MAX_CHARS, ModelUri};
pub use nudge::Nudge;
pub use outbox::NewEvent;
pub use progress::{apply_deployed, note_step, note_undone};
pub use register::{
    CORRELATION_ID_MAX_CHARS, Committer, Conflicting, IDEMPOTENCY_KEY_MAX_CHARS, Receipt, RegisterError, Registrar, RegistrarOptions,
    registrar,
};
pub use registrations::{Filter, HistoryRow, PAGE_MAX, Registration, Registrations, TokenView};
pub use relay::{LaneState, LaneStatus, QueueOpener, Relay, RelayConfig, RelayError, RelayStatus};
pub use republish::{ChainRecord, OnChain, Reconciled, Reconciler, ReconcilerConfig};
pub use request::{MAX_REQUEST_BYTES, Origin, RegisterRequest, Values, Version};
pub use schema::MIGRATIONS;
pub use subscriptions::{Backlog, Start, SubscribeError, Subscription, Subscriptions, Wanted};
pub use sweep::{Sweep, SweepConfig, Swept};
pub use whereabouts::{Whereabouts, whereabouts};
