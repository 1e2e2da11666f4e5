//! Consumes `model_deployed`: how a server learns of tokens that a worker with a database of its own deployed.
//!
//! Where worker and server share a database the registration is up to date already, and nothing changes.

use async_trait::async_trait;
use hokusai_db::Database;
use hokusai_event::{Event, ModelDeployed, check_message};
use hokusai_queue::{Delivery, Handler, Verdict};
use hokusai_registry::{apply_deployed, outbox};
use jiff::Timestamp;

#[derive(Debug)]
pub(super) struct DeployedHandler {
    db: Database,
    queue: String,
}

impl DeployedHandler {
    pub(super) fn new(db: Database, queue: &str) -> Self {
        Self { db, queue: queue.to_owned() }
    }

    /// The message is finished in the same transaction, should it come from this database's own outbox.
    async fn apply(&self, message_id: &str, deployed: &ModelDeployed) -> Result<bool, hokusai_db::Error> {
        let mut tx = self.db.write().await?;
        let changed = apply_deployed(&mut tx, deployed, deployed.deployed_at.at()).await?;
        outbox::finish(&mut tx, &self.queue, message_id, Timestamp::now()).await?;
        tx.commit().await?;
        Ok(changed)
    }
}

#[async_trait]
impl Handler for DeployedHandler {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        let (message_id, deployed) = match check_message(&delivery.entry) {
            Ok((envelope, Event::ModelDeployed(deployed))) => (envelope.message_id, deployed),
            Ok((envelope, _)) => {
                let error = format!("message_type: this queue is for model_deployed, this is {}", envelope.message_type);
                return Verdict::Dead { kind: "unexpected_type".into(), error };
            }
            Err(problems) => {
                let error = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                return Verdict::Dead { kind: "invalid_message".into(), error };
            }
        };
        match self.apply(&message_id, &deployed).await {
            Ok(changed) => {
                tracing::info!(
                    message_id = deployed.message_id,
                    registration_id = deployed.registration_id,
                    changed,
                    "Token {} of {} is deployed",
                    deployed.token_address.as_str(),
                    deployed.model_id
                );
                Verdict::Done
            }
            Err(error) if error.is_transient() => Verdict::Outage { error: error.to_string() },
            Err(error) => Verdict::Retry { error: error.to_string() },
        }
    }
}
