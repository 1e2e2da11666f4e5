//! Handles one message: check it, plan its deployment, hold it until that is done.

use std::sync::Arc;

use async_trait::async_trait;
use hokusai_db::Database;
use hokusai_deploy::{Deployment, DeploymentState, Ledger, SenderStatus, token::TokenRequest};
use hokusai_queue::{Delivery, Handler, Verdict};
use hokusai_registry::outbox;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    held::{Held, verdict},
    request::{self, Unusable},
};

#[derive(Debug)]
pub(super) struct DeployHandler {
    ledger: Ledger,
    db: Database,
    queue: String,
    held: Arc<Held>,
    sender: watch::Receiver<SenderStatus>,
}

impl DeployHandler {
    pub(super) fn new(ledger: Ledger, db: Database, queue: &str, held: Arc<Held>, sender: watch::Receiver<SenderStatus>) -> Self {
        Self { ledger, db, queue: queue.to_owned(), held, sender }
    }

    /// What keeps the sender from sending, if anything does. More messages would only be held; others may take them.
    fn outage(&self) -> Option<String> {
        match &*self.sender.borrow() {
            SenderStatus::Outage { outage, detail, .. } => Some(format!("{outage}: {detail}")),
            _ => None,
        }
    }

    async fn plan(&self, delivery: &Delivery, request: TokenRequest) -> Result<Verdict, hokusai_deploy::Error> {
        let message_id = request.message_id.clone();
        let planned = self.ledger.plan(std::slice::from_ref(&request)).await?;
        let Some(deployment) = planned.into_iter().next() else {
            return Ok(Verdict::Retry { error: "the ledger answered nothing; this is a defect".into() });
        };
        match verdict(&deployment) {
            None => {
                self.held.hold(deployment.id, delivery.entry.clone());
                Ok(Verdict::Held)
            }
            Some(verdict) => {
                if deployment.state == DeploymentState::Final {
                    self.finish(&deployment, &message_id).await?;
                }
                Ok(verdict)
            }
        }
    }

    /// The deployment was done before this message came: a redelivery, or a second message for the same version.
    async fn finish(&self, deployment: &Deployment, message_id: &str) -> Result<(), hokusai_db::Error> {
        let mut tx = self.db.write().await?;
        outbox::finish(&mut tx, &self.queue, message_id, Timestamp::now()).await?;
        tx.commit().await?;
        tracing::info!(message_id, deployment_id = deployment.id, "Message asks for what is already deployed");
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
            Err(error) if error.outage().is_some() => Verdict::Outage { error: error.to_string() },
            Err(error) => Verdict::Retry { error: error.to_string() },
        }
    }

    async fn dead_lettered(&self, entry: &[u8], kind: &str, error: &str) {
        let message_id = hokusai_event::Envelope::parse(entry).map(|envelope| envelope.message_id).ok();
        tracing::error!(message_id, kind, "Moved message to DLQ due to: {error}");
    }
}
