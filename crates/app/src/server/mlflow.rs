//! What the server does for MLflow's users in the background.

use hokusai_db::Database;
use hokusai_registry::{MlflowClient, Tagger, TaggerConfig};

use crate::tasks::Tasks;

/// Shows in MLflow what becomes of its model versions.
pub(super) fn start_tagger(tasks: &mut Tasks, db: Database, client: MlflowClient) {
    let tagger = Tagger::new(db, client, TaggerConfig::default());
    let shutdown = tasks.shutdown();
    tasks.start("MLflow tagger", async move {
        tagger.run(shutdown).await;
        Ok(())
    });
}
