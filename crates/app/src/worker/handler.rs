//! Handles one message: check it, plan its deployment, hold it until that is done.

use std::sync::Arc;

use async_trait::async_trait;
use hokusai_db::Database;
use hokusai_deploy::{Deployment, DeploymentState, Ledger, SenderStatus, token::TokenRequest};
use hokusai_queue::{Delivery, Handler, Verdict};
use hokusai_registry::{Nudge, outbox};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    held::{Held, verdict},
    journal,
    planner::{Planner, Trouble},
    request::{self, Unusable},
};

#[derive(Debug)]
pub(super) struct DeployHandler {
    planner: Planner,
    db: Database,
    queue: String,
    held: Arc<Held>,
    sender: watch::Receiver<SenderStatus>,
    nudge: Nudge,
    max_retries: u32,
}

/// What a handler works with.
pub(super) struct HandlerParts<'a> {
    pub(super) ledger: Ledger,
    pub(super) db: Database,
    pub(super) queue: &'a str,
    pub(super) held: Arc<Held>,
    pub(super) sender: watch::Receiver<SenderStatus>,
    pub(super) nudge: Nudge,
    pub(super) max_retries: u32,
}

impl DeployHandler {
    pub(super) fn new(parts: HandlerParts<'_>) -> Self {
        let HandlerParts { ledger, db, queue, held, sender, nudge, max_retries } = parts;
        Self { planner: Planner::new(ledger), db, queue: queue.to_owned(), held, sender, nudge, max_retries }
    }

    /// What keeps the sender from sending, if anything does. More messages would only be held; others may take them.
    fn outage(&self) -> Option<String> {
        match &*self.sender.borrow() {
            SenderStatus::Outage { outage, detail, .. } => Some(format!("{outage}: {detail}")),
            _ => None,
        }
    }

    async fn plan(&self, delivery: &Delivery, request: TokenRequest) -> Result<Verdict, Trouble> {
        let deployment = self.planner.plan(request.clone()).await?;
        match verdict(&deployment) {
            None => {
                self.held.hold(deployment.id, delivery.entry.clone());
                Ok(Verdict::Held)
            }
            Some(verdict) => {
                if deployment.state == DeploymentState::Final {
                    self.finish(&deployment, &request).await.map_err(|error| Trouble::from(&error.into()))?;
                }
                Ok(verdict)
            }
        }
    }

    /// The deployment was done before this message came: a redelivery, which changes nothing, or another message for the
    /// same version, whose registration is told.
    async fn finish(&self, deployment: &Deployment, request: &TokenRequest) -> Result<(), hokusai_db::Error> {
        let mut tx = self.db.write().await?;
        if outbox::finish(&mut tx, &self.queue, &request.message_id, Timestamp::now()).await? {
            journal::tell(&mut tx, deployment, request, journal::settled_at(deployment), self.max_retries).await?;
        }
        tx.commit().await?;
        self.nudge.nudge();
        tracing::info!(message_id = request.message_id, deployment_id = deployment.id, "Message asks for what is already deployed");
        Ok(())
    }
}

#[async_trait]
impl Handler for DeployHandler {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        let request = match request::read(&delivery.entry) {
            Ok(request) => request,
            Err(Unusable { kind, reason }) => return Verdict::Dead { kind: kind.into(), error: reason },
        };
        if let Some(error) = self.outage() {
            return Verdict::Outage { error };
        }
        tracing::info!(
            message_id = request.message_id,
            correlation_id = request.correlation_id,
            attempt = delivery.attempts.retry_count + 1,
            "Processing message {}: Model {} ready for token {}",
            request.message_id,
            request.model_id,
            request.symbol,
        );
        match self.plan(delivery, request).await {
            Ok(verdict) => verdict,
            Err(Trouble { is_outage: true, words }) => Verdict::Outage { error: words },
            Err(Trouble { words, .. }) => Verdict::Retry { error: words },
        }
    }

    async fn dead_lettered(&self, entry: &[u8], kind: &str, error: &str) {
        let message_id = hokusai_event::Envelope::parse(entry).map(|envelope| envelope.message_id).ok();
        tracing::error!(message_id, kind, "Moved message to DLQ due to: {error}");
    }
}
