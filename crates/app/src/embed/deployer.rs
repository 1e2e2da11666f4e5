//! Deploying one message's token at a time, through the ledger.

use serde_json::json;

use super::{Failure, Kind, Settings, registry::json as text};
use crate::{
    tasks::Tasks,
    worker::{Direct, Unusable},
};

/// Deploys through the ledger in `DATABASE_URL`. Its sender runs from the opening until it is dropped; any number of them
/// share a ledger, one sends and the others wait for it.
#[derive(Debug)]
pub struct Deployer {
    direct: Direct,
    /// Stops the sender when dropped.
    _tasks: Tasks,
}

impl Deployer {
    /// Opens ledger and chain, and checks the chain, the registry contract and the deployer.
    ///
    /// # Errors
    ///
    /// [`Failure`], naming every variable that is missing.
    pub async fn open(settings: &Settings) -> Result<Self, Failure> {
        let mut tasks = Tasks::default();
        let direct = Direct::open(&settings.env(), &mut tasks).await?;
        Ok(Self { direct, _tasks: tasks })
    }

    /// Plans the deployment that a message (an envelope of `model_ready_to_deploy`) asks for, and waits until it is final.
    /// Doing it again, here or elsewhere, attaches to the same deployment. Answers the token's address and transaction.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] if the message is wrong or the deployment was refused; [`Kind::Unavailable`] if the ledger is away.
    pub async fn deploy(&self, message: &[u8]) -> Result<String, Failure> {
        let deployment = self.direct.deploy(message).await.map_err(|error| match error.downcast::<Unusable>() {
            Ok(Unusable { kind, reason }) => Failure::new(Kind::Invalid, format!("{kind}: {reason}")),
            Err(error) => error.into(),
        })?;
        text(&json!({
            "token_address": deployment.token_address.to_string(),
            "transaction_hash": deployment.transaction_hash.map(|hash| hash.to_string()),
            "block_number": deployment.block_number,
            "gas_used": deployment.gas_used,
            "fee_wei": deployment.fee_wei.map(|fee| fee.to_string()),
        }))
    }
}
