//! Registering: answers, events, sameness and conflicts, many at once.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use hokusai_db::Backend;
use hokusai_event::{Event, check_message};
use hokusai_registry::{Conflicting, Decision, Filter, Receipt, RegisterError, RegisterRequest, Registrations, Status};
use hokusai_testbed::eventually;
use serde_json::json;

use crate::home::{Home, request};

crate::scenarios!(
    an_accepted_model_has_its_events,
    a_rejected_model_says_why,
    the_same_again_is_answered_the_same,
    other_content_is_a_conflict,
    a_rejected_registration_is_superseded,
    idempotency_keys_hold,
    versions_are_numbered,
    named_versions_are_kept,
    many_at_once_converge,
    processes_take_turns,
    waiting_requests_share_a_commit,
    one_bad_row_fails_alone,
    a_lost_caller_loses_nothing,
);

async fn envelopes(home: &Home) -> Vec<Event> {
    let rows: Vec<(Vec<u8>,)> =
        sqlx::query_as("SELECT envelope FROM outbox ORDER BY created_ms, message_id").fetch_all(home.db.reader()).await.unwrap();
    rows.iter().map(|(bytes,)| check_message(bytes).unwrap().1).collect()
}

fn conflict(result: Result<Receipt, RegisterError>, first: &str, what: Conflicting) {
    match result {
        Err(RegisterError::Conflict { first: named, what: found }) => assert_eq!((named.as_str(), found), (first, what)),
        other => panic!("{other:?}"),
    }
}

async fn an_accepted_model_has_its_events(home: Home) {
    let asked = request(json!({ "tags": { "team": "a" }, "performance_data": { "p95_ms": 12 }, "experiment_name": "e",
        "contributor_address": "0x1234567890123456789012345678901234567890" }));
    let receipt = home.registrar.register(asked, None, Some("corr-1".into())).await.unwrap();
    assert_eq!(receipt.model_id, "msg model/1/msg-ai");
    assert_eq!((receipt.status, receipt.verdict, receipt.event_emitted), (Status::Queued, Decision::Accepted, true));
    assert_eq!((receipt.improvement_percentage, receipt.correlation_id.as_str()), (Some(9.33), "corr-1"));
    assert!(!receipt.replayed);

    let events = envelopes(&home).await;
    let [Event::ModelRegistered(registered), Event::ModelReadyToDeploy(ready)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(registered.registration_id, receipt.registration_id);
    assert_eq!(ready.registration_id.as_ref(), Some(&receipt.registration_id));
    assert_eq!((ready.model_id.as_str(), ready.mlflow_run_id.as_str()), ("msg model/1/msg-ai", "abc123"));
    assert_eq!(ready.performance_data.as_ref().unwrap()["reply_rate"], 0.82);
    assert_eq!(ready.tags.as_ref().unwrap()["team"], "a");

    let found = Registrations::new(home.db.clone()).get(&receipt.registration_id).await.unwrap().unwrap();
    assert_eq!((found.status, found.document.message_id), (Status::Queued, receipt.message_id));
}

async fn a_rejected_model_says_why(home: Home) {
    let receipt = home.register(request(json!({ "current_value": 0.7 }))).await.unwrap();
    assert_eq!((receipt.status, receipt.verdict, receipt.event_emitted), (Status::Rejected, Decision::Rejected, false));
    assert_eq!(receipt.message_id, None);
    assert!(receipt.reason.unwrap().contains("worse"));
    let events = envelopes(&home).await;
    let [Event::ModelValidationFailed(failed)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(failed.registration_id, receipt.registration_id);
}

async fn the_same_again_is_answered_the_same(home: Home) {
    let first = home.register(request(json!({}))).await.unwrap();
    let again = home.register(request(json!({ "token_id": "MSG-AI", "metric_direction": "higher_is_better" }))).await.unwrap();
    assert_eq!(again, Receipt { replayed: true, ..first.clone() });
    let (process, _running) = home.other_process().await;
    let elsewhere = process.register(request(json!({})), None, None).await.unwrap();
    assert_eq!(elsewhere, Receipt { replayed: true, ..first });
    assert_eq!((home.count("registrations").await, home.count("outbox").await), (1, 2));
}

async fn other_content_is_a_conflict(home: Home) {
    let first = home.register(request(json!({}))).await.unwrap();
    conflict(home.register(request(json!({ "current_value": 0.9 }))).await, &first.registration_id, Conflicting::Identity);
    // Another token of the same model version is another registration.
    let other = home.register(request(json!({ "token_id": "other", "current_value": 0.9 }))).await.unwrap();
    assert_eq!(other.model_id, "msg model/1/other");
    assert_eq!(home.count("registrations").await, 2);
}

async fn a_rejected_registration_is_superseded(home: Home) {
    let worse = |value: f64| request(json!({ "current_value": value }));
    let first = home.register(worse(0.5)).await.unwrap();
    let second = home.register(worse(0.6)).await.unwrap();
    let third = home.register(worse(0.9)).await.unwrap();
    assert_eq!((first.status, second.status, third.status), (Status::Rejected, Status::Rejected, Status::Queued));
    assert_eq!(third.model_version, first.model_version);
    conflict(home.register(worse(0.5)).await, &third.registration_id, Conflicting::Identity);
    assert!(home.register(worse(0.9)).await.unwrap().replayed);

    let registrations = Registrations::new(home.db.clone());
    let old = registrations.get(&first.registration_id).await.unwrap().unwrap();
    assert_eq!((old.status, old.superseded_by), (Status::Rejected, Some(second.registration_id.clone())));
    let steps: Vec<String> = registrations.history(&first.registration_id).await.unwrap().into_iter().map(|row| row.step).collect();
    assert_eq!(steps, ["rejected", "superseded"]);
    let history = registrations.history(&third.registration_id).await.unwrap();
    assert_eq!(history[0].detail["supersedes"], second.registration_id);
}

async fn idempotency_keys_hold(home: Home) {
    let keyed = async |change, key: &str| home.registrar.register(request(change), Some(key.into()), None).await;
    let first = keyed(json!({ "current_value": 0.5 }), "k1").await.unwrap();
    conflict(keyed(json!({ "current_value": 0.9 }), "k1").await, &first.registration_id, Conflicting::Key);
    conflict(keyed(json!({ "token_id": "other", "current_value": 0.5 }), "k1").await, &first.registration_id, Conflicting::Key);
    let second = keyed(json!({ "current_value": 0.9 }), "k2").await.unwrap();
    // The key's first answer stands, although another registration took the place of what it made.
    assert_eq!(keyed(json!({ "current_value": 0.5 }), "k1").await.unwrap(), Receipt { replayed: true, ..first });
    // A key that repeats what is known is spent as well.
    assert_eq!(keyed(json!({ "current_value": 0.9 }), "k3").await.unwrap(), Receipt { replayed: true, ..second.clone() });
    conflict(keyed(json!({ "model_name": "other" }), "k3").await, &second.registration_id, Conflicting::Key);
    assert!(matches!(keyed(json!({}), " ").await, Err(RegisterError::Invalid(_))));
    assert_eq!(home.count("idempotency_keys").await, 3);
}

async fn versions_are_numbered(home: Home) {
    let version = async |name: &str, run: &str, token: &str| {
        let change = json!({ "model_name": name, "model_uri": format!("runs:/{run}/model"), "token_id": token });
        home.register(request(change)).await.unwrap().model_version
    };
    assert_eq!(version("a", "r1", "t").await, "1");
    assert_eq!(version("a", "r2", "t").await, "2");
    assert_eq!(version("b", "r1", "t").await, "1");
    assert_eq!(version("a", "r1", "u").await, "1");
    assert_eq!(version("a", "r3", "t").await, "3");
}

async fn named_versions_are_kept(home: Home) {
    let named = |version: u32, run: &str| json!({ "model_uri": format!("models:/msg model/{version}"), "mlflow_run_id": run });
    let run = |run: &str| json!({ "model_uri": format!("runs:/{run}/model") });
    let first = home.register(request(named(7, "r7"))).await.unwrap();
    assert_eq!(first.model_version, "7");
    assert_eq!(home.register(request(run("r8"))).await.unwrap().model_version, "8");
    assert!(home.register(request(named(7, "r7"))).await.unwrap().replayed);
    conflict(home.register(request(named(7, "r9"))).await, &first.registration_id, Conflicting::Version);
    // The version that a run was given and the run itself are the same model.
    assert!(home.register(request(named(8, "r8"))).await.unwrap().replayed);
    assert_eq!(home.register(request(named(3, "r3"))).await.unwrap().model_version, "3");
    assert_eq!(home.register(request(run("r10"))).await.unwrap().model_version, "9");
}

/// 50 models, each asked for by four callers, two of whom say something else.
async fn many_at_once_converge(home: Home) {
    let asked: Vec<RegisterRequest> = (0..200)
        .map(|task| {
            let (model, other) = (task % 50, task / 50 == 3);
            let value = if other { 0.99 } else { 0.82 };
            request(json!({ "model_name": format!("m{model}"), "token_id": format!("t{model}"), "current_value": value }))
        })
        .collect();
    let results = futures_util::future::join_all(asked.into_iter().map(|request| {
        let registrar = home.registrar.clone();
        tokio::spawn(async move { registrar.register(request, None, None).await })
    }))
    .await;
    let receipts: Vec<Receipt> = results.iter().filter_map(|result| result.as_ref().unwrap().clone().ok()).collect();
    let ids: BTreeSet<&str> = receipts.iter().map(|receipt| receipt.registration_id.as_str()).collect();
    let conflicts = results.len() - receipts.len();
    assert_eq!((ids.len(), receipts.iter().filter(|receipt| !receipt.replayed).count()), (50, 50));
    // One content wins for each model; the other's callers are told.
    assert!(conflicts >= 50, "{conflicts}");
    for result in results {
        if let Err(error) = result.unwrap() {
            assert!(matches!(error, RegisterError::Conflict { .. }), "{error:?}");
        }
    }
    assert_eq!((home.count("registrations").await, home.count("outbox").await, home.count("registration_history").await), (50, 100, 50));
}

/// Two processes register the same models at the same time: each model once, each run of one model another version.
async fn processes_take_turns(home: Home) {
    let (process, _running) = home.other_process().await;
    let tasks = (0..80).map(|task| {
        let registrar = if task % 2 == 0 { home.registrar.clone() } else { process.clone() };
        let run = task / 2;
        let asked = request(json!({ "model_uri": format!("runs:/r{run}/model"), "token_id": format!("t{}", run % 4) }));
        tokio::spawn(async move { registrar.register(asked, None, None).await.unwrap() })
    });
    let receipts: Vec<Receipt> = futures_util::future::join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let versions: HashSet<&str> = receipts.iter().map(|receipt| receipt.model_version.as_str()).collect();
    assert_eq!((versions.len(), home.count("registrations").await), (40, 40));
    assert_eq!(receipts.iter().filter(|receipt| receipt.replayed).count(), 40);
}

/// Holds back every commit until so many requests wait, and answers them all.
async fn registered_together(home: &Home, asked: Vec<RegisterRequest>) -> Vec<Result<Receipt, RegisterError>> {
    let mut blocker = home.db.write().await.unwrap();
    if home.db.backend() == Backend::Postgres {
        // The registering lock; SQLite's writer is taken already.
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(0x7265_6769_7374_6572_i64).fetch_optional(&mut *blocker).await.unwrap();
    }
    let count = asked.len();
    let tasks: Vec<_> = asked
        .into_iter()
        .map(|request| {
            let registrar = home.registrar.clone();
            tokio::spawn(async move { registrar.register(request, None, None).await })
        })
        .collect();
    // The committer has taken the first few; the rest can only wait.
    eventually("the requests wait", Duration::from_secs(10), async || (home.registrar.waiting() > count / 2).then_some(())).await;
    blocker.rollback().await.unwrap();
    futures_util::future::join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

async fn waiting_requests_share_a_commit(home: Home) {
    let asked = (0..64).map(|model| request(json!({ "model_name": format!("m{model}") }))).collect();
    registered_together(&home, asked).await.into_iter().for_each(|result| drop(result.unwrap()));
    // All of one transaction bear one time.
    let list = Registrations::new(home.db.clone()).list(&Filter::default()).await.unwrap();
    let times: BTreeSet<String> = list.iter().map(|registration| registration.updated_at.to_string()).collect();
    assert!(list.len() == 64 && times.len() <= 4, "{} in {} commits", list.len(), times.len());
}

/// A defect of ours that only one registration meets.
async fn one_bad_row_fails_alone(home: Home) {
    let poison = match home.db.backend() {
        Backend::Postgres => "ALTER TABLE registrations ADD CONSTRAINT healthy CHECK (model_name <> 'm7')",
        Backend::Sqlite => {
            "CREATE TRIGGER healthy BEFORE INSERT ON registrations WHEN NEW.model_name = 'm7' BEGIN SELECT RAISE(ABORT, 'unhealthy'); END"
        }
    };
    let mut tx = home.db.write().await.unwrap();
    sqlx::raw_sql(poison).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let asked = (0..20).map(|model| request(json!({ "model_name": format!("m{model}") }))).collect();
    let results = registered_together(&home, asked).await;
    for (model, result) in results.iter().enumerate() {
        match result {
            Ok(receipt) => assert_eq!(receipt.model_id, format!("m{model}/1/msg-ai")),
            Err(error) => assert!(model == 7 && matches!(error, RegisterError::Rejected(_)), "{model}: {error}"),
        }
    }
    assert_eq!((home.count("registrations").await, home.count("outbox").await), (19, 38));
}

async fn a_lost_caller_loses_nothing(home: Home) {
    let mut call = Box::pin(home.register(request(json!({}))));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    eventually("the registration is committed", Duration::from_secs(10), async || (home.count("registrations").await == 1).then_some(()))
        .await;
}
