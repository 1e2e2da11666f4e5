//! The hook by which others write, in the ledger's own SQL transaction, what a deployment's change means to them.

use async_trait::async_trait;
use hokusai_db::Tx;

use crate::{deployment::DeploymentState, ledger::Deployment};

/// A deployment changed its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The deployment after the change.
    pub deployment: Deployment,
    /// Where it stood before; `None` if it was recorded just now. From [`DeploymentState::Final`] it comes back when a deep
    /// reorganisation took its block away.
    pub from: Option<DeploymentState>,
    /// For one that became final: the best value of its metric on its token before, if its own is better. Of versions that
    /// this ledger deployed or found.
    pub improved_on: Option<f64>,
}

impl Change {
    pub(crate) fn new(deployment: Deployment, from: Option<DeploymentState>) -> Self {
        Self { deployment, from, improved_on: None }
    }
}

/// Told of every change of a deployment's state.
#[async_trait]
pub trait Journal: std::fmt::Debug + Send + Sync {
    /// Writes what follows from the changes into the same transaction. On SQLite it holds the only writer: await nothing
    /// but `tx`. An error rolls the ledger's change back too; the sender comes to it again.
    async fn record(&self, tx: &mut Tx, changes: &[Change]) -> Result<(), JournalError>;

    /// The transaction is committed. It is not called if the commit's reply was lost: whoever waits for a change asks the
    /// ledger after a while.
    fn committed(&self, changes: &[Change]);
}

/// The journal could not record a change.
#[derive(Debug, thiserror::Error)]
#[error("the journal refused the change: {0}")]
pub struct JournalError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl JournalError {
    /// Whether a database was away or busy, so that the same change may be recorded later.
    pub fn is_transient(&self) -> bool {
        self.0.downcast_ref::<hokusai_db::Error>().is_some_and(hokusai_db::Error::is_transient)
    }
}

impl From<hokusai_db::Error> for JournalError {
    fn from(error: hokusai_db::Error) -> Self {
        Self(Box::new(error))
    }
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        hokusai_db::Error::from(error).into()
    }
}

/// A journal that writes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoJournal;

#[async_trait]
impl Journal for NoJournal {
    async fn record(&self, _tx: &mut Tx, _changes: &[Change]) -> Result<(), JournalError> {
        Ok(())
    }

    fn committed(&self, _changes: &[Change]) {}
}
