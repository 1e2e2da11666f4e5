//! What a deployment's change means to its registration, written in the ledger's own transaction.

use std::sync::Arc;

use async_trait::async_trait;
use hokusai_db::Tx;
use hokusai_deploy::{Change, Deployment, DeploymentState, Journal, JournalError, token::TokenRequest};
use hokusai_event::{Address, Event, MetricDirection, MetricImproved, ModelDeployed, Timestamp, TokenSymbol};
use hokusai_registry::{NewEvent, Nudge, Status, apply_deployed, note_step, note_undone, outbox};
use serde_json::json;

use super::held::Held;

#[derive(Debug)]
pub(super) struct RegistryJournal {
    queue: String,
    max_retries: u32,
    nudge: Nudge,
    held: Arc<Held>,
}

impl RegistryJournal {
    pub(super) fn new(queue: &str, max_retries: u32, nudge: Nudge, held: Arc<Held>) -> Self {
        Self { queue: queue.to_owned(), max_retries, nudge, held }
    }

    async fn record_final(&self, tx: &mut Tx, deployment: &Deployment, improved_on: Option<f64>) -> Result<(), JournalError> {
        let at = settled_at(deployment);
        outbox::finish(tx, &self.queue, &deployment.request.message_id, at).await?;
        tell(tx, deployment, &deployment.request, at, self.max_retries).await?;
        if let Some(previous_value) = improved_on {
            self.tell_improvement(tx, deployment, previous_value, at).await?;
        }
        Ok(())
    }

    async fn tell_improvement(&self, tx: &mut Tx, deployment: &Deployment, previous: f64, at: jiff::Timestamp) -> Result<(), JournalError> {
        let TokenRequest { registration_id, correlation_id, .. } = deployment.request.clone();
        let event = metric_improved(deployment, previous, at)
            .and_then(|improved| NewEvent::new(&Event::MetricImproved(improved), registration_id, correlation_id, at, self.max_retries));
        match event {
            Ok(event) => outbox::append(tx, &[event]).await?,
            Err(invalid) => tracing::error!(deployment_id = deployment.id, %invalid, "metric_improved cannot be told"),
        }
        Ok(())
    }
}

/// Tells the registration and the world that `request` is fulfilled by a deployment. A fact that no event can carry is
/// logged and passed over: it must not keep the token from counting as deployed, and nothing could mend it.
pub(super) async fn tell(
    tx: &mut Tx,
    deployment: &Deployment,
    request: &TokenRequest,
    at: jiff::Timestamp,
    max_retries: u32,
) -> Result<(), hokusai_db::Error> {
    let told = model_deployed(deployment, request, at).and_then(|deployed| {
        let (registration_id, correlation_id) = (request.registration_id.clone(), request.correlation_id.clone());
        let event = NewEvent::new(&Event::ModelDeployed(deployed.clone()), registration_id, correlation_id, at, max_retries)?;
        Ok((deployed, event))
    });
    match told {
        Ok((deployed, event)) => {
            apply_deployed(tx, &deployed, at).await?;
            outbox::append(tx, &[event]).await
        }
        Err(invalid) => {
            tracing::error!(message_id = request.message_id, deployment_id = deployment.id, %invalid, "model_deployed cannot be told");
            Ok(())
        }
    }
}

#[async_trait]
impl Journal for RegistryJournal {
    async fn record(&self, tx: &mut Tx, changes: &[Change]) -> Result<(), JournalError> {
        for Change { deployment, from, improved_on } in changes {
            if *from == Some(DeploymentState::Final) && deployment.state != DeploymentState::Final {
                let detail = json!({ "reason": "a reorganisation went deeper than finality" });
                note_undone(tx, &deployment.request.message_id, &detail).await?;
            }
            let status = match deployment.state {
                DeploymentState::Final => {
                    self.record_final(tx, deployment, *improved_on).await?;
                    continue;
                }
                DeploymentState::Refused => Status::Refused,
                _ => Status::Deploying,
            };
            let detail = json!({
                "transaction_hash": deployment.transaction_hash,
                "block_number": deployment.block_number,
                "reason": deployment.reason,
            });
            note_step(tx, &deployment.request.message_id, Some(status), deployment.state.as_str(), &detail).await?;
        }
        Ok(())
    }

    fn committed(&self, changes: &[Change]) {
        for Change { deployment, .. } in changes {
            log(deployment);
            self.held.settle(deployment);
        }
        if changes.iter().any(|change| change.deployment.state == DeploymentState::Final) {
            self.nudge.nudge();
        }
    }
}

fn log(deployment: &Deployment) {
    let request = &deployment.request;
    let ids = (&request.message_id, &request.correlation_id);
    match deployment.state {
        DeploymentState::Planned => {
            tracing::info!(message_id = ids.0, correlation_id = ids.1, "Deploying token for model {}", request.model_id);
        }
        DeploymentState::Final => {
            let transaction = deployment.transaction_hash.map(|hash| hash.to_string());
            tracing::info!(
                message_id = ids.0,
                correlation_id = ids.1,
                transaction_hash = transaction,
                gas_used = deployment.gas_used,
                "Successfully deployed token at {}",
                deployment.token_address
            );
        }
        DeploymentState::Refused => {
            let reason = deployment.reason.as_deref().unwrap_or_default();
            tracing::error!(message_id = ids.0, correlation_id = ids.1, "Token deployment failed: {reason}");
        }
        _ => tracing::debug!(message_id = ids.0, correlation_id = ids.1, state = %deployment.state, "Deployment moved on"),
    }
}

/// When a deployment came to its end.
pub(super) fn settled_at(deployment: &Deployment) -> jiff::Timestamp {
    let ms = deployment.settled_at_ms.unwrap_or(deployment.updated_at_ms);
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

fn model_deployed(deployment: &Deployment, request: &TokenRequest, at: jiff::Timestamp) -> Result<ModelDeployed, hokusai_event::Invalid> {
    Ok(ModelDeployed {
        model_id: request.model_id.clone(),
        token_symbol: TokenSymbol::parse(&request.symbol)?,
        model_name: request.model_name.clone(),
        model_version: request.model_version.clone(),
        mlflow_run_id: request.mlflow_run_id.clone(),
        message_id: request.message_id.clone(),
        chain_id: deployment.chain_id,
        registry_address: Address::parse(&deployment.registry.to_string())?,
        token_address: Address::parse(&deployment.token_address.to_string())?,
        deployed_at: Timestamp::new(at),
        timestamp: None,
        message_version: None,
        registration_id: request.registration_id.clone(),
        transaction_hash: deployment.transaction_hash.map(|hash| hash.to_string()),
        block_number: deployment.block_number,
        gas_used: deployment.gas_used,
        fee_wei: deployment.fee_wei.map(|fee| fee.to_string()),
        elapsed_ms: deployment.elapsed_ms().and_then(|elapsed| u64::try_from(elapsed).ok()),
        correlation_id: Some(request.correlation_id.clone()),
        unknown: serde_json::Map::new(),
    })
}

fn metric_improved(deployment: &Deployment, previous_value: f64, at: jiff::Timestamp) -> Result<MetricImproved, hokusai_event::Invalid> {
    let request = &deployment.request;
    Ok(MetricImproved {
        model_id: request.model_id.clone(),
        token_symbol: TokenSymbol::parse(&request.symbol)?,
        model_name: request.model_name.clone(),
        model_version: request.model_version.clone(),
        mlflow_run_id: request.mlflow_run_id.clone(),
        metric_name: request.metric_name.clone(),
        previous_value,
        current_value: request.current_value,
        timestamp: Some(Timestamp::new(at)),
        message_version: None,
        registration_id: request.registration_id.clone(),
        improvement_percentage: None,
        metric_direction: Some(if request.lower_is_better { MetricDirection::LowerIsBetter } else { MetricDirection::HigherIsBetter }),
        token_address: Some(Address::parse(&deployment.token_address.to_string())?),
        correlation_id: Some(request.correlation_id.clone()),
        unknown: serde_json::Map::new(),
    })
}
