//! How a registration goes on, and reading it.

use hokusai_event::{Event, MessageType, ModelDeployed, example_event};
use hokusai_registry::{Filter, Receipt, Registrations, Status, apply_deployed, note_step};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::home::{Home, request};

crate::scenarios!(steps_are_recorded_once, a_deployment_is_applied_once, a_deployment_finds_its_registration, lists_are_filtered_and_paged);

async fn note(home: &Home, message_id: &str, status: Option<Status>, step: &str, detail: Value) -> bool {
    let mut tx = home.db.write().await.unwrap();
    let ours = note_step(&mut tx, message_id, status, step, &detail).await.unwrap();
    tx.commit().await.unwrap();
    ours
}

async fn apply(home: &Home, deployed: &ModelDeployed) -> bool {
    let mut tx = home.db.write().await.unwrap();
    let ours = apply_deployed(&mut tx, deployed, Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
    ours
}

fn deployed(receipt: &Receipt) -> ModelDeployed {
    let Event::ModelDeployed(example) = example_event(MessageType::ModelDeployed) else { unreachable!() };
    ModelDeployed {
        message_id: receipt.message_id.clone().unwrap(),
        registration_id: Some(receipt.registration_id.clone()),
        model_id: receipt.model_id.clone(),
        token_symbol: receipt.token_id.clone(),
        model_name: receipt.model_name.clone(),
        model_version: receipt.model_version.clone(),
        ..example
    }
}

async fn steps(home: &Home, id: &str) -> Vec<String> {
    Registrations::new(home.db.clone()).history(id).await.unwrap().into_iter().map(|row| row.step).collect()
}

async fn status(home: &Home, id: &str) -> Status {
    Registrations::new(home.db.clone()).get(id).await.unwrap().unwrap().status
}

async fn steps_are_recorded_once(home: Home) {
    let receipt = home.accept("a").await;
    let message_id = receipt.message_id.unwrap();
    for _ in 0..2 {
        assert!(note(&home, &message_id, Some(Status::Deploying), "planned", json!({ "chain_id": 1 })).await);
    }
    assert!(note(&home, &message_id, None, "broadcast", json!({ "transaction": "0x1" })).await);
    assert!(!note(&home, "somebody else's", Some(Status::Deploying), "planned", json!({})).await);
    assert_eq!(steps(&home, &receipt.registration_id).await, ["queued", "planned", "broadcast"]);
    assert!(note(&home, &message_id, Some(Status::DeadLettered), "dead_lettered", json!({ "error": "x" })).await);
    assert_eq!(status(&home, &receipt.registration_id).await, Status::DeadLettered);
}

async fn a_deployment_is_applied_once(home: Home) {
    let receipt = home.accept("a").await;
    let deployed = deployed(&receipt);
    for _ in 0..2 {
        assert!(apply(&home, &deployed).await);
    }
    assert_eq!(steps(&home, &receipt.registration_id).await, ["queued", "deployed"]);
    // Whatever comes late does not undo it.
    note(&home, receipt.message_id.as_deref().unwrap(), Some(Status::DeadLettered), "dead_lettered", json!({})).await;
    let registrations = Registrations::new(home.db.clone());
    let found = registrations.get(&receipt.registration_id).await.unwrap().unwrap();
    assert_eq!(found.status, Status::Deployed);
    assert_eq!(found.token_address, Some(deployed.token_address.checksummed()));
    assert_eq!((found.transaction_hash, found.block_number), (deployed.transaction_hash, deployed.block_number));
    assert_eq!((found.gas_used, found.fee_wei, found.chain_id), (deployed.gas_used, deployed.fee_wei, Some(deployed.chain_id)));
    let token = registrations.token("A").await.unwrap().unwrap();
    assert_eq!((token.token_id.as_str(), token.token_address, token.registrations.len()), ("a", found.token_address, 1));
    assert_eq!(registrations.token("nothing").await.unwrap(), None);
}

async fn a_deployment_finds_its_registration(home: Home) {
    let receipt = home.accept("a").await;
    let wrong = ModelDeployed { model_version: "9".into(), ..deployed(&receipt) };
    assert!(!apply(&home, &wrong).await);
    // A foreign deployer knows neither id.
    let foreign = ModelDeployed { registration_id: None, message_id: "theirs".into(), ..deployed(&receipt) };
    assert!(apply(&home, &foreign).await);
    assert_eq!(status(&home, &receipt.registration_id).await, Status::Deployed);
}

async fn lists_are_filtered_and_paged(home: Home) {
    for model in 0..7 {
        let value = if model % 2 == 0 { 0.9 } else { 0.1 };
        home.register(request(json!({ "model_name": format!("m{}", model % 3), "token_id": format!("T{model}"), "current_value": value,
            "model_uri": format!("runs:/r{model}/model") })))
            .await
            .unwrap();
    }
    let registrations = Registrations::new(home.db.clone());
    let names = async |filter: Filter| -> Vec<String> {
        registrations.list(&filter).await.unwrap().iter().map(|found| found.document.token_id.as_str().to_owned()).collect()
    };
    assert_eq!(names(Filter { status: Some(Status::Rejected), ..Filter::default() }).await, ["T5", "T3", "T1"]);
    assert_eq!(names(Filter { token: Some("t4".into()), ..Filter::default() }).await, ["T4"]);
    assert_eq!(names(Filter { model: Some("m0".into()), limit: 2, ..Filter::default() }).await, ["T6", "T3"]);
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = registrations.list(&Filter { after: after.clone(), limit: 3, ..Filter::default() }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.document.registration_id.clone());
        seen.extend(page.into_iter().map(|found| found.document.token_id.as_str().to_owned()));
    }
    assert_eq!(seen, ["T6", "T5", "T4", "T3", "T2", "T1", "T0"]);
    assert_eq!(registrations.get("nothing").await.unwrap(), None);
}
