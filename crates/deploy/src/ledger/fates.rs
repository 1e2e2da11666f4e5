//! What becomes of deployments that leave a slot, or never were on one.

use hokusai_db::Tx;

use super::{
    Deployment,
    rows::{self, DeploymentRow, Ride},
};
use crate::{deployment::DeploymentState, error::Error, journal::Change};

/// How a rider leaves its slot, or stays on it.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// Final, with what became of it filled in.
    Final(Box<Deployment>),
    /// Planned anew.
    Planned {
        /// By itself from now on.
        alone: bool,
        /// It did not go well, for a reason that was not understood: it waits before the next try.
        setback: Option<Setback>,
    },
    /// It is not to be.
    Refused {
        /// Why.
        reason: String,
        /// Whether the same content would be refused again.
        permanent: bool,
    },
}

/// What is known of a failure that explains nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setback {
    pub(crate) reason: String,
    /// When to try again.
    pub(crate) until_ms: i64,
}

impl Fate {
    /// Planned anew, through no fault of its own.
    pub(crate) const PLANNED: Self = Self::Planned { alone: false, setback: None };
}

/// Writes down what became of a deployment. The change, if its state is another, or it is final in another way.
pub(super) async fn meet(
    tx: &mut Tx,
    row: DeploymentRow,
    fate: Fate,
    ride: Option<&Ride<'_>>,
    now_ms: i64,
) -> Result<Option<Change>, Error> {
    let from = row.deployment.state;
    let base = Deployment { updated_at_ms: now_ms, settled_at_ms: Some(now_ms), ..row.deployment };
    let met = match fate {
        Fate::Final(outcome) => {
            // A final that moved to another block stays settled since when it was first.
            let settled_at_ms = if from == DeploymentState::Final { outcome.settled_at_ms } else { Some(now_ms) };
            Deployment { state: DeploymentState::Final, updated_at_ms: now_ms, settled_at_ms, ..*outcome }
        }
        Fate::Refused { reason, permanent } => {
            let sql = "UPDATE deploy_deployments SET permanent = $1, wish = NULL WHERE id = $2";
            sqlx::query(sql).bind(i64::from(permanent)).bind(base.id.clone()).execute(&mut **tx).await?;
            Deployment { state: DeploymentState::Refused, reason: Some(reason), ..base }
        }
        Fate::Planned { alone, setback } => {
            note_setback(tx, &base.id, alone, setback.as_ref()).await?;
            Deployment {
                state: DeploymentState::Planned,
                transaction_hash: None,
                block_number: None,
                gas_used: None,
                fee_wei: None,
                outcome: None,
                reason: setback.map(|setback| setback.reason),
                settled_at_ms: None,
                ..base
            }
        }
    };
    rows::store(tx, &met, ride).await?;
    let state = met.state;
    Ok((state != from || state == DeploymentState::Final).then_some(Change::new(met, Some(from))))
}

async fn note_setback(tx: &mut Tx, id: &str, alone: bool, setback: Option<&Setback>) -> Result<(), Error> {
    if alone {
        sqlx::query("UPDATE deploy_deployments SET alone = 1 WHERE id = $1").bind(id.to_owned()).execute(&mut **tx).await?;
    }
    if let Some(setback) = setback {
        let sql = "UPDATE deploy_deployments SET tries = tries + 1, not_before = $1 WHERE id = $2";
        sqlx::query(sql).bind(setback.until_ms).bind(id.to_owned()).execute(&mut **tx).await?;
    }
    Ok(())
}
