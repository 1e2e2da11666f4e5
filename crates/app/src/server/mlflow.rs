//! What the server does for MLflow's users in the background: tags that show what became of each version, and a sweep for
//! versions that ask to be registered.

use std::time::Duration;

use hokusai_db::Database;
use hokusai_registry::{Mlflow, Registrar, Tagger, TaggerConfig, mlflow::Intake};

use crate::{config::Secret, http::MlflowHook, tasks::Tasks};

/// MLflow, and what is done with it.
pub(crate) struct MlflowParts {
    pub(crate) mlflow: Mlflow,
    pub(crate) webhook_secret: Option<Secret>,
    /// The time between two sweeps, if there are to be any.
    pub(crate) sweep: Option<Duration>,
}

/// Starts both; answers what receives the webhooks.
pub(super) fn start(tasks: &mut Tasks, db: &Database, registrar: &Registrar, parts: MlflowParts) -> MlflowHook {
    let client = parts.mlflow.client();
    let tagger = Tagger::new(db.clone(), client.clone(), TaggerConfig::default());
    let intake = Intake::new(db.clone(), registrar.clone(), client.clone());
    let shutdown = tasks.shutdown();
    tasks.start("MLflow tagger", async move {
        tagger.run(shutdown).await;
        Ok(())
    });
    if let Some(interval) = parts.sweep {
        let (intake, shutdown) = (intake.clone(), tasks.shutdown());
        tasks.start("MLflow sweep", async move {
            intake.run(interval, shutdown).await;
            Ok(())
        });
    }
    MlflowHook { secret: parts.webhook_secret, intake }
}
