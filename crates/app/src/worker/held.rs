//! Messages that wait for their deployment.
//!
//! Data: for each deployment the entries that asked for it; redeliveries and second messages attach to the same one.
//! A deployment settled by this process is heard of from the journal, after its commit; one settled by another (the active
//! sender of the account may be elsewhere) by asking the ledger.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use hokusai_deploy::{Deployment, DeploymentState, Deployments};
use hokusai_queue::{Holder, Verdict};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// How many deployments are asked about in one query.
const ASKED_AT_ONCE: usize = 500;

#[derive(Debug)]
pub(super) struct Held {
    holder: Holder,
    waiting: Mutex<HashMap<String, HashSet<Bytes>>>,
}

impl Held {
    pub(super) fn new(holder: Holder) -> Self {
        Self { holder, waiting: Mutex::default() }
    }

    /// Remembers that `entry` waits for a deployment.
    pub(super) fn hold(&self, deployment_id: String, entry: Bytes) {
        self.waiting.lock().entry(deployment_id).or_default().insert(entry);
    }

    /// Settles the messages of a deployment that came to its end.
    pub(super) fn settle(&self, deployment: &Deployment) {
        let Some(verdict) = verdict(deployment) else { return };
        let entries = self.waiting.lock().remove(&deployment.id).unwrap_or_default();
        for entry in entries {
            self.holder.settle(entry, verdict.clone());
        }
    }

    /// Looks into the ledger every `interval` for what others settled, until shutdown.
    pub(super) async fn watch(&self, deployments: &Deployments, interval: Duration, shutdown: &CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            let ids: Vec<String> = self.waiting.lock().keys().cloned().collect();
            for ids in ids.chunks(ASKED_AT_ONCE) {
                match deployments.settled(ids).await {
                    Ok(settled) => settled.iter().for_each(|deployment| self.settle(deployment)),
                    Err(error) => tracing::warn!(%error, "the ledger cannot be asked about held messages; asking again"),
                }
            }
        }
    }
}

/// What a deployment's end means for its messages; `None` while it is under way.
pub(super) fn verdict(deployment: &Deployment) -> Option<Verdict> {
    match deployment.state {
        DeploymentState::Final => Some(Verdict::Done),
        DeploymentState::Refused => {
            let error = deployment.reason.clone().unwrap_or_else(|| "refused without a reason".into());
            Some(Verdict::Dead { kind: "refused".into(), error })
        }
        _ => None,
    }
}
