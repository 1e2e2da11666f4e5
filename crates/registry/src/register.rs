//! Registering: a request in, a receipt out, after its registration and its events are committed together.
//!
//! ```text
//! Registrar::register ──▶ judge ──▶ (intent, MLflow) ──▶ waiting ──▶ Committer: one transaction for all that wait
//!        ▲                                                                 │
//!        └──────────────────────── receipt, after the commit ──────────────┘
//! ```
//!
//! Invariants:
//!
//! - A receipt is answered only after the transaction that holds it is committed; whoever stops waiting changes nothing.
//! - One registration for each identity and content, however often, from however many processes, it is asked for.
//! - One request that is wrong or conflicts does no harm to those that share its transaction.

use std::sync::Arc;

use hokusai_db::Database;
use hokusai_event::{Invalid, TokenSymbol, check_text, judge};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    batch,
    document::{Decision, Document, Status},
    draft::Draft,
    mlflow::{Mlflow, MlflowError},
    nudge::Nudge,
    outbox::new_id,
    request::{Origin, RegisterRequest, Values, source_key},
};

/// The longest `Idempotency-Key`, in characters.
pub const IDEMPOTENCY_KEY_MAX_CHARS: usize = 255;
/// The longest correlation id taken over from a caller, in characters.
pub const CORRELATION_ID_MAX_CHARS: usize = 255;

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Receipt {
    /// The registration.
    pub registration_id: String,
    /// `<model name>/<version>/<token>`.
    pub model_id: String,
    /// The registered model's name.
    pub model_name: String,
    /// The version it was registered as.
    pub model_version: String,
    /// The token's symbol.
    pub token_id: TokenSymbol,
    /// The run that made the model.
    pub mlflow_run_id: String,
    /// Where the registration began: `queued` or `rejected`.
    pub status: Status,
    /// Whether `model_ready_to_deploy` is on its way.
    pub event_emitted: bool,
    /// That message's id.
    pub message_id: Option<String>,
    /// Ties together everything that comes of this request.
    pub correlation_id: String,
    /// The baseline verdict.
    pub verdict: Decision,
    /// Percent of the absolute baseline, positive for better.
    pub improvement_percentage: Option<f64>,
    /// The comparison in a sentence.
    pub reason: Option<String>,
    /// Whether this is the answer to an earlier request that said the same.
    pub replayed: bool,
}

impl Receipt {
    pub(crate) fn of(document: &Document, replayed: bool) -> Self {
        Self {
            registration_id: document.registration_id.clone(),
            model_id: document.model_id.clone(),
            model_name: document.model_name.clone(),
            model_version: document.model_version.clone(),
            token_id: document.token_id.clone(),
            mlflow_run_id: document.mlflow_run_id.clone(),
            status: document.first_status(),
            event_emitted: document.message_id.is_some(),
            message_id: document.message_id.clone(),
            correlation_id: document.correlation_id.clone(),
            verdict: document.verdict,
            improvement_percentage: document.improvement_percentage,
            reason: Some(document.reason.clone()),
            replayed,
        }
    }
}

/// What a request has in common with an earlier one that said something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflicting {
    /// Its `Idempotency-Key`.
    Key,
    /// Its model, run, artifact path and token.
    Identity,
    /// The model version it names, which came of another run.
    Version,
}

impl std::fmt::Display for Conflicting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "this Idempotency-Key was used for another request",
            Self::Identity => "this model, run, artifact path and token were registered with other content",
            Self::Version => "this model version was registered from another run",
        })
    }
}

/// Why a model was not registered.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The request is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// An earlier registration says something else. A rejected one can be superseded, any other stands.
    #[error("{what}: see registration {first}")]
    Conflict {
        /// The earlier registration.
        first: String,
        /// What the two have in common.
        what: Conflicting,
    },
    /// The database is away. The registration may have been made: send the same request again.
    #[error("{0}; the same request can be sent again")]
    Unavailable(#[source] Arc<hokusai_db::Error>),
    /// The database refused the registration: a defect of ours.
    #[error(transparent)]
    Rejected(Arc<hokusai_db::Error>),
    /// The registry is shutting down. Nothing was registered.
    #[error("the registry is shutting down; send the same request again")]
    Stopped,
    /// MLflow is away, refused, or does not know the model.
    #[error(transparent)]
    Mlflow(Arc<MlflowError>),
}

impl From<MlflowError> for RegisterError {
    fn from(error: MlflowError) -> Self {
        Self::Mlflow(Arc::new(error))
    }
}

impl From<hokusai_db::Error> for RegisterError {
    fn from(error: hokusai_db::Error) -> Self {
        Arc::new(error).into()
    }
}

impl From<Arc<hokusai_db::Error>> for RegisterError {
    fn from(error: Arc<hokusai_db::Error>) -> Self {
        if error.is_transient() { Self::Unavailable(error) } else { Self::Rejected(error) }
    }
}

/// How a registrar works.
#[derive(Debug, Clone)]
pub struct RegistrarOptions {
    /// `max_retries` of the messages it emits.
    pub max_retries: u32,
    /// Told after each commit.
    pub nudge: Nudge,
    /// Who numbers the versions; our own registry if `None`.
    pub mlflow: Option<Mlflow>,
    /// Registrations that share a transaction, at most.
    pub batch: usize,
    /// Registrations that may wait before `register` itself waits.
    pub waiting: usize,
}

impl Default for RegistrarOptions {
    fn default() -> Self {
        Self { max_retries: 3, nudge: Nudge::new(), mlflow: None, batch: 256, waiting: 4_096 }
    }
}

/// A request with everything that can be known of it before the transaction.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) request: RegisterRequest,
    pub(crate) origin: Origin,
    pub(crate) source_key: Vec<u8>,
    pub(crate) token_key: String,
    pub(crate) content: Vec<u8>,
    pub(crate) idempotency: Option<IdempotencyKey>,
    pub(crate) draft: Draft,
}

#[derive(Debug, Clone)]
pub(crate) struct IdempotencyKey {
    pub(crate) key: String,
    /// Of identity and content.
    pub(crate) digest: Vec<u8>,
}

type Answer = Result<Receipt, RegisterError>;

struct Waiting {
    prepared: Arc<Prepared>,
    answer: oneshot::Sender<Answer>,
}

/// A registrar for `db`, and the committer it hands its work to, which the caller runs as a task.
pub fn registrar(db: Database, options: RegistrarOptions) -> (Registrar, Committer) {
    let (sender, receiver) = mpsc::channel(options.waiting);
    let registrar = Registrar { sender, db: db.clone(), mlflow: options.mlflow.clone(), max_retries: options.max_retries };
    (registrar, Committer { db, receiver, options })
}

/// Registers models; cheap to clone.
#[derive(Debug, Clone)]
pub struct Registrar {
    sender: mpsc::Sender<Waiting>,
    db: Database,
    mlflow: Option<Mlflow>,
    max_retries: u32,
}

impl Registrar {
    /// Registers a model. Dropping the future does not undo anything.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]; after [`RegisterError::Unavailable`] the same request may be sent again and converges.
    pub async fn register(&self, request: RegisterRequest, idempotency_key: Option<String>, correlation_id: Option<String>) -> Answer {
        if let Some(key) = &idempotency_key {
            check_text(key, "Idempotency-Key", IDEMPOTENCY_KEY_MAX_CHARS)?;
        }
        if let Some(id) = &correlation_id {
            check_text(id, "correlation_id", CORRELATION_ID_MAX_CHARS)?;
        }
        let (origin, values) = match &self.mlflow {
            Some(mlflow) => mlflow.register(&self.db, &request).await?,
            None => (request.origin()?, request.values()?),
        };
        let verdict = judge(request.metric_direction, values.baseline, values.current)?;
        let draft = Draft::new(&request, &origin, &(values, verdict), correlation_id.unwrap_or_else(new_id), self.max_retries)?;
        let prepared = Arc::new(Prepared::new(request, origin, idempotency_key, draft));
        let (answer, answered) = oneshot::channel();
        self.sender.send(Waiting { prepared, answer }).await.map_err(|_| RegisterError::Stopped)?;
        answered.await.map_err(|_| RegisterError::Stopped)?
    }

    /// How many requests wait for their transaction.
    pub fn waiting(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }
}

impl Prepared {
    fn new(request: RegisterRequest, origin: Origin, key: Option<String>, draft: Draft) -> Self {
        let source_key = source_key(&request.model_name, &origin);
        let token_key = request.token_id.key();
        let values = Values { baseline: draft.document.baseline_value, current: draft.document.current_value };
        let content = request.digest(values).to_vec();
        let idempotency = key.map(|key| {
            let digest = Sha256::new().chain_update(&source_key).chain_update(&content).chain_update(&token_key).finalize().to_vec();
            IdempotencyKey { key, digest }
        });
        Self { request, origin, source_key, token_key, content, idempotency, draft }
    }
}

/// Commits what registrars hand over, all that waits in one transaction.
#[derive(Debug)]
pub struct Committer {
    db: Database,
    receiver: mpsc::Receiver<Waiting>,
    options: RegistrarOptions,
}

impl Committer {
    /// Commits until shutdown, and then what was already handed over. Ends too when every registrar is gone.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut waiting = Vec::with_capacity(self.options.batch);
        loop {
            let received = tokio::select! {
                biased;
                () = shutdown.cancelled(), if !self.receiver.is_closed() => {
                    self.receiver.close();
                    continue;
                }
                received = self.receiver.recv_many(&mut waiting, self.options.batch) => received,
            };
            if received == 0 {
                return;
            }
            self.commit(std::mem::take(&mut waiting)).await;
        }
    }

    async fn commit(&self, waiting: Vec<Waiting>) {
        let (prepared, answers): (Vec<_>, Vec<_>) = waiting.into_iter().map(|waiting| (waiting.prepared, waiting.answer)).unzip();
        let results = batch::register(&self.db, &prepared).await;
        self.options.nudge.nudge();
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever asked may have gone; the registration stands.
            let _ = answer.send(result);
        }
    }
}
