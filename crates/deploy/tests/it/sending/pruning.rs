//! What ended long ago is forgotten, and nothing else; a retry by hand.

use hokusai_deploy::{DeploymentState, Filter, Ledger, Pruned, Wish};
use hokusai_testbed::eventually;

use super::ground::{Ground, Store, WITHIN, config, request, until_settled};

async fn age(ground: &Ground, sql: &'static str) {
    let mut tx = ground.db.write().await.unwrap();
    sqlx::query(sql).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn count(ground: &Ground, table: &str) -> i64 {
    let sql = format!("SELECT COUNT(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(ground.db.reader()).await.unwrap()
}

async fn check_pruning(ground: &Ground) {
    let ledger = ground.ledger();
    let running = ground.start(&ledger, config());
    let old = [request("OLD", "1"), request("OLD", "2"), request("BAD_SYMBOL", "1")];
    until_settled(&ledger, &ledger.plan(&old).await.unwrap()).await;
    until_settled(&ledger, &ledger.plan(&[request("SHARED", "1")]).await.unwrap()).await;
    running.stop().await;
    let open = ledger.plan(&[request("OPEN", "1")]).await.unwrap();
    age(ground, "UPDATE deploy_deployments SET created_at = 1000, settled_at = CASE WHEN settled_at IS NULL THEN NULL ELSE 2000 END").await;
    age(ground, "UPDATE deploy_slots SET updated_at = 2000").await;
    age(ground, "UPDATE deploy_deployments SET settled_at = 5000 WHERE symbol_key = 'shared'").await;

    assert_eq!(ledger.prune(2000, 10).await.unwrap(), Pruned::default(), "not before they ended");
    assert_eq!(ledger.prune(3000, 2).await.unwrap().deployments, 2);
    assert_eq!(ledger.prune(3000, 2).await.unwrap().deployments, 1);
    assert_eq!(ledger.prune(3000, 2).await.unwrap(), Pruned::default());
    let left: Vec<String> = ledger.list(&Filter::default()).await.unwrap().into_iter().map(|left| left.request.symbol).collect();
    assert_eq!(left, ["SHARED", "OPEN"]);
    assert_eq!((count(ground, "deploy_slots").await, count(ground, "deploy_attempts").await), (1, 1), "a slot stays with its rider");
    assert_eq!(count(ground, "deploy_messages").await, 2);

    // What was forgotten is found on the chain, and costs nothing; what was under way goes on.
    let sent = ground.faults.sent();
    let _running = ground.start(&ledger, config());
    assert_eq!(until_settled(&ledger, &open).await[0].state, DeploymentState::Final);
    let again = until_settled(&ledger, &ledger.plan(&[request("OLD", "1"), request("old", "2")]).await.unwrap()).await;
    assert!(again.iter().all(|found| found.outcome.as_deref() == Some("already_recorded")), "{again:?}");
    assert_eq!(ground.faults.sent(), sent + 1);
    assert_eq!((ground.tokens().await, ground.versions().await), (3, 4));
}

#[tokio::test]
async fn what_ended_long_ago_is_forgotten_on_sqlite() {
    check_pruning(&Ground::embedded(Store::Sqlite).await).await;
}

#[tokio::test]
async fn what_ended_long_ago_is_forgotten_on_postgres() {
    check_pruning(&Ground::embedded(Store::Postgres).await).await;
}

/// Refused for its content, as the ledger believes: only a person can have it tried again.
#[tokio::test]
async fn a_refused_one_is_tried_again_when_asked_for() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let planned = ledger.plan(&[request("AGAIN", "1"), request("BAD_SYMBOL", "1")]).await.unwrap();
    age(&ground, "UPDATE deploy_deployments SET state = 'refused', permanent = 1, settled_at = 1, reason = 'a registry of before' WHERE symbol_key = 'again'")
        .await;
    assert_eq!(ledger.plan(&[request("AGAIN", "1")]).await.unwrap()[0].state, DeploymentState::Refused);
    let wish = async |ledger: &Ledger, at: usize| ledger.deployments().wish(&planned[at].id, Wish::Retry).await.unwrap().unwrap();
    assert!(!wish(&ledger, 1).await.noted, "it would be refused again");
    assert!(wish(&ledger, 0).await.noted);
    let _running = ground.start(&ledger, config());
    eventually("it is deployed", WITHIN, async || {
        let found = ledger.get(&planned[0].id).await.unwrap().unwrap();
        (found.state == DeploymentState::Final).then_some(())
    })
    .await;
    assert!(!wish(&ledger, 0).await.noted, "nothing is left to retry");
    assert_eq!((ground.tokens().await, ground.versions().await), (1, 1));
}
