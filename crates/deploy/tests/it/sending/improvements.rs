//! A version that is better than all before it on its token is told from one that is not.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hokusai_db::Tx;
use hokusai_deploy::{Change, DeploymentState, Journal, JournalError, Ledger, SenderConfig, token::TokenRequest};
use parking_lot::Mutex;
use serde_json::json;

use super::ground::{Ground, Store, config, request, until_settled, until_state};

/// What each final version improved on, as the journal was told within the ledger's transaction.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(String, Option<f64>)>>);

#[async_trait]
impl Journal for Told {
    async fn record(&self, _tx: &mut Tx, changes: &[Change]) -> Result<(), JournalError> {
        let finals = changes.iter().filter(|change| change.deployment.state == DeploymentState::Final);
        self.0.lock().extend(finals.map(|change| (change.deployment.request.model_version.clone(), change.improved_on)));
        Ok(())
    }

    fn committed(&self, _changes: &[Change]) {}
}

fn version(symbol: &str, version: &str, current_value: f64) -> TokenRequest {
    TokenRequest { baseline_value: 0.1, current_value, ..request(symbol, version) }
}

fn loss(version: &str, current_value: f64) -> TokenRequest {
    let worst = request("LOSS", version);
    TokenRequest { baseline_value: 9.0, current_value, lower_is_better: true, metric_name: "loss".to_owned(), ..worst }
}

async fn check(ledger: &Ledger, told: &Told, requests: &[TokenRequest], expected: &[(&str, Option<f64>)]) {
    told.0.lock().clear();
    until_settled(ledger, &ledger.plan(requests).await.unwrap()).await;
    let told: Vec<_> = told.0.lock().clone();
    let told: Vec<_> = told.iter().map(|(version, value)| (version.as_str(), *value)).collect();
    assert_eq!(told, expected);
}

async fn check_improvements(ground: &Ground) {
    let told = Arc::new(Told::default());
    let ledger = ground.ledger_with(told.clone());
    // All of a plan go into one transaction.
    let _running = ground.start(&ledger, SenderConfig { batch_window: Duration::from_millis(20), ..config() });
    let first = [version("BEST", "1", 0.8), version("best", "2", 0.91), version("Best", "3", 0.85)];
    check(&ledger, &told, &first, &[("1", None), ("2", Some(0.8)), ("3", None)]).await;
    check(&ledger, &told, &[version("BEST", "4", 0.91)], &[("4", None)]).await;
    check(&ledger, &told, &[version("BEST", "5", 0.95)], &[("5", Some(0.91))]).await;
    let other_metric = TokenRequest { metric_name: "f1".to_owned(), ..version("BEST", "6", 0.99) };
    check(&ledger, &told, &[other_metric], &[("6", None)]).await;
    check(&ledger, &told, &[version("OTHER", "1", 0.99)], &[("1", None)]).await;
    check(&ledger, &told, &[loss("1", 0.5), loss("2", 0.6), loss("3", 0.4)], &[("1", None), ("2", None), ("3", Some(0.5))]).await;

    // A ledger from before the table.
    let mut tx = ground.db.write().await.unwrap();
    sqlx::query("DELETE FROM deploy_bests").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    check(&ledger, &told, &[version("BEST", "7", 0.94)], &[("7", None)]).await;
    check(&ledger, &told, &[version("BEST", "8", 0.96)], &[("8", Some(0.95))]).await;
}

#[tokio::test]
async fn an_improvement_is_told_with_what_it_improves_on_on_sqlite() {
    check_improvements(&Ground::embedded(Store::Sqlite).await).await;
}

#[tokio::test]
async fn an_improvement_is_told_with_what_it_improves_on_on_postgres() {
    check_improvements(&Ground::embedded(Store::Postgres).await).await;
}

/// What a reorganisation took is no best any more, and improves again when it comes back.
#[tokio::test]
async fn what_was_undone_is_compared_again() {
    let ground = Ground::anvil(Store::Sqlite).await;
    let told = Arc::new(Told::default());
    let ledger = ground.ledger_with(told.clone());
    let _running = ground.start(&ledger, SenderConfig { recheck_every: Duration::from_millis(20), ..config() });
    check(&ledger, &told, &[version("UNDONE", "1", 0.8)], &[("1", None)]).await;
    let planned = ledger.plan(&[version("UNDONE", "2", 0.9)]).await.unwrap();
    until_settled(&ledger, &planned).await;
    ground.rpc("evm_setAutomine", json!([false])).await;
    ground.rpc("anvil_reorg", json!([1, []])).await;
    until_state(&ledger, &planned[0], DeploymentState::Broadcast).await;
    ground.rpc("evm_setAutomine", json!([true])).await;
    ground.mine().await;
    until_settled(&ledger, &planned).await;
    let improved = ("2".to_owned(), Some(0.8));
    assert_eq!(*told.0.lock(), [("1".to_owned(), None), improved.clone(), improved]);
}
