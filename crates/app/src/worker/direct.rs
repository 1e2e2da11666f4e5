//! Deploying without a queue: a message is planned, and its deployment waited for.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use hokusai_deploy::{Deployment, DeploymentState, HttpOptions, Ledger, Node, Sender, check_chain};
use hokusai_queue::Consumer;
use hokusai_registry::Nudge;

use super::{
    held::Held,
    journal::RegistryJournal,
    request::{self, Unusable},
};
use crate::{
    assembly::Assembly,
    config::{ChainConfig, Env},
    roles, server,
    tasks::Tasks,
};

/// How often the ledger is asked whether a deployment came to its end.
const POLL: Duration = Duration::from_millis(50);

/// A ledger, and a sender that works on it.
#[derive(Debug)]
pub(crate) struct Direct {
    ledger: Ledger,
}

impl Direct {
    /// Everything that can be missing is found here.
    pub(crate) async fn open(env: &Env<'_>, tasks: &mut Tasks) -> anyhow::Result<Self> {
        let missing = ChainConfig::missing_for_worker(env);
        if let Some(first) = missing.into_iter().next() {
            return Err(first.into());
        }
        let config = ChainConfig::read(env)?;
        let signer = roles::signer(env).await?;
        let registry = roles::parse_registry(&config.registry)?;
        let node = Node::http(&config.providers, &HttpOptions::default()).context("WEB3_PROVIDER_URL")?;
        let facts = check_chain(&node, registry, signer.address(), config.chain_id, config.finality).await?;
        roles::warn_if_not_permitted(&facts, registry, signer.address());
        let assembly = Assembly::open(env).await?;
        let db = assembly.database()?.clone();
        server::subscribe_others(&db, &assembly.queue_config).await?;
        let nudge = Nudge::new();
        server::start_relay(tasks, db.clone(), assembly.queues.clone(), nudge.clone());
        let queue = assembly.queue(None)?;
        let name = queue.name().to_owned();
        // Nothing is taken from it: whoever calls holds the message.
        let held = Arc::new(Held::new(Consumer::new(queue, roles::consumer_config(&assembly.queue_config))?.holder()));
        let journal = Arc::new(RegistryJournal::new(&name, assembly.queue_config.max_retries, nudge, held));
        let ledger = Ledger::new(db, facts.chain_id, registry, journal);
        let sender = roles::sender_config(&config, facts.finality);
        let sender = Sender::new(ledger.clone(), node, signer, sender);
        let shutdown = tasks.shutdown();
        tasks.start("sender", async move { Ok(sender.run(shutdown).await?) });
        Ok(Self { ledger })
    }

    /// Waits until the deployment that `message` asks for is final.
    pub(crate) async fn deploy(&self, message: &[u8]) -> anyhow::Result<Deployment> {
        let request = request::read(message)?;
        let planned = self.ledger.plan(std::slice::from_ref(&request)).await?;
        let mut deployment = planned.into_iter().next().context("the ledger answered nothing; this is a defect")?;
        let deployments = self.ledger.deployments();
        loop {
            match deployment.state {
                DeploymentState::Final => return Ok(deployment),
                DeploymentState::Refused => {
                    let reason = deployment.reason.unwrap_or_else(|| "refused without a reason".into());
                    return Err(Unusable { kind: "refused", reason }.into());
                }
                _ => {}
            }
            tokio::time::sleep(POLL).await;
            if let Some(settled) = deployments.settled(std::slice::from_ref(&deployment.id)).await?.into_iter().next() {
                deployment = settled;
            }
        }
    }
}
