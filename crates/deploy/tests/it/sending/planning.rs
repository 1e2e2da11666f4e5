//! The ledger alone: what is planned, what attaches, what is refused.

use hokusai_deploy::{DeploymentState, Filter, token::TokenRequest};

use super::ground::{Ground, Store, config, request, until_settled};

async fn check_planning(store: Store) {
    let ground = Ground::embedded(store).await;
    let ledger = ground.ledger();
    let first = ledger.plan(&[request("PLAN", "1")]).await.unwrap().remove(0);
    assert_eq!(first.state, DeploymentState::Planned);

    // The same again, in another case, from another message, twice in one call.
    let again = TokenRequest { message_id: "another message".to_owned(), ..request("plan", "1") };
    let answers = ledger.plan(&[again.clone(), request("PLAN", "2"), again]).await.unwrap();
    assert_eq!((&answers[0].id, &answers[2].id), (&first.id, &first.id));
    assert_ne!(answers[1].id, first.id);
    assert_eq!(answers[0].request.message_id, "message PLAN 1", "the first message stays the one on record");
    let mut messages = ledger.deployments().messages(&first.id).await.unwrap();
    messages.sort();
    assert_eq!(messages, ["another message", "message PLAN 1"]);

    // What can never be true is refused at once, and planned when it comes again mended.
    let poor = TokenRequest { current_value: 0.1, ..request("POOR", "1") };
    let refused = ledger.plan(std::slice::from_ref(&poor)).await.unwrap().remove(0);
    assert_eq!(refused.state, DeploymentState::Refused);
    assert!(refused.reason.as_deref().unwrap().contains("baseline"), "{refused:?}");
    assert_eq!(ledger.plan(&[poor]).await.unwrap().remove(0).state, DeploymentState::Refused);
    let mended = ledger.plan(&[request("POOR", "1")]).await.unwrap().remove(0);
    assert_eq!((mended.state, &mended.id, mended.reason), (DeploymentState::Planned, &refused.id, None));

    let list = async |filter: Filter| ledger.list(&filter).await.unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(list(Filter { symbol: Some("Plan".into()), ..Filter::default() }).await, [first.id.clone(), answers[1].id.clone()]);
    assert_eq!(list(Filter { message_id: Some("another message".into()), ..Filter::default() }).await, std::slice::from_ref(&first.id));
    assert_eq!(list(Filter { state: Some(DeploymentState::Refused), ..Filter::default() }).await, Vec::<String>::new());
    let rest = list(Filter { after: Some(first.id.clone()), limit: Some(1), ..Filter::default() }).await;
    assert_eq!(rest, [answers[1].id.clone()]);
    assert_eq!(ledger.deployments().counts().await.unwrap(), [(DeploymentState::Planned, 3)]);
}

#[tokio::test]
async fn planning_is_idempotent_on_sqlite() {
    check_planning(Store::Sqlite).await;
}

#[tokio::test]
async fn planning_is_idempotent_on_postgres() {
    check_planning(Store::Postgres).await;
}

/// Planners that meet must neither fail nor make two rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planners_in_a_crowd_agree() {
    let ground = Ground::embedded(Store::Postgres).await;
    let requests: Vec<_> = (0..30).map(|number| request(&format!("CROWD-{number}"), "1")).collect();
    let crowd = (0..8).map(|planner| {
        let (ledger, mut requests) = (ground.ledger(), requests.clone());
        requests.rotate_left(planner * 3);
        tokio::spawn(async move {
            let mut answers = ledger.plan(&requests).await.unwrap();
            answers.sort_by(|one, other| one.request.symbol.cmp(&other.request.symbol));
            answers.into_iter().map(|answer| answer.id).collect::<Vec<_>>()
        })
    });
    let mut answers = Vec::new();
    for planner in crowd.collect::<Vec<_>>() {
        answers.push(planner.await.unwrap());
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
}

/// What another process plans is found without a nudge.
#[tokio::test]
async fn requests_planned_elsewhere_are_found() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let _running = ground.start(&ground.ledger(), config());
    let elsewhere = ground.ledger();
    let planned = elsewhere.plan(&[request("ELSEWHERE", "1")]).await.unwrap();
    until_settled(&elsewhere, &planned).await;
}

/// As the sender would have left it.
async fn let_be_refused(ground: &Ground, permanent: bool) {
    let mut tx = ground.db.write().await.unwrap();
    sqlx::query("UPDATE deploy_deployments SET state = 'refused', reason = 'because', permanent = $1")
        .bind(i64::from(permanent))
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// A redriven message asks for the same content once more.
#[tokio::test]
async fn what_its_content_did_not_earn_is_planned_again() {
    let ground = Ground::embedded(Store::Sqlite).await;
    let ledger = ground.ledger();
    let plan = async || ledger.plan(&[request("AGAIN", "1")]).await.unwrap().remove(0);
    let first = plan().await;
    let_be_refused(&ground, true).await;
    assert_eq!(plan().await.state, DeploymentState::Refused, "the contract refused this content");
    let_be_refused(&ground, false).await;
    let again = plan().await;
    assert_eq!((again.id.as_str(), again.state, again.reason), (first.id.as_str(), DeploymentState::Planned, None));

    // By hand, whatever it was refused for; what cannot pass stays refused.
    let_be_refused(&ground, true).await;
    assert_eq!(ledger.retry(&first.id).await.unwrap().unwrap().state, DeploymentState::Planned);
    assert_eq!(ledger.retry(&first.id).await.unwrap().unwrap().state, DeploymentState::Planned, "nothing to do");
    assert_eq!(ledger.retry("nobody").await.unwrap(), None);
    let unfit = ledger.plan(&[TokenRequest { current_value: 0.1, ..request("UNFIT", "1") }]).await.unwrap().remove(0);
    assert_eq!(ledger.retry(&unfit.id).await.unwrap().unwrap().state, DeploymentState::Refused);
    let _running = ground.start(&ledger, config());
    assert_eq!(until_settled(&ledger, &[first]).await[0].state, DeploymentState::Final);
}
