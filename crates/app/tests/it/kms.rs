//! A worker whose key is in KMS.

use hokusai_testbed::{ANVIL_KEYS, Kms, Mood, Redis};
use serde_json::json;

use crate::{
    program::Place,
    services::{Chain, Lists, QUEUE},
};

const DEPLOYER: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

fn message(number: u64) -> String {
    let payload = json!({
        "model_id": format!("m/{number}/KMS-{number}"), "token_symbol": format!("KMS-{number}"), "metric_name": "accuracy",
        "baseline_value": 0.5, "current_value": 0.6, "model_name": "m", "model_version": number.to_string(), "mlflow_run_id": "r",
    });
    json!({ "message_id": format!("message {number}"), "message_type": "model_ready_to_deploy", "timestamp": "2026-01-01T00:00:00Z",
        "payload": payload, "retry_count": 0, "max_retries": 0 })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_signs_with_kms_and_waits_while_it_refuses() {
    let (chain, redis, kms) = tokio::join!(Chain::start(&[]), Redis::start(), Kms::start(ANVIL_KEYS[0]));
    let place = || {
        let place = chain.known_to(Place::new().with("REDIS_URL", redis.url())).without("DEPLOYER_PRIVATE_KEY");
        let place = place.with("AWS_ENDPOINT_URL_KMS", kms.url()).with("AWS_REGION", "eu-central-1");
        let place = place.with("AWS_ACCESS_KEY_ID", "id").with("AWS_SECRET_ACCESS_KEY", "hush");
        place.with("HOKUSAI_DEPLOYER_KMS_KEY_ID", Kms::KEY_ID)
    };
    let unpinned = place().run(&["worker"]).failed(1);
    assert!(unpinned.contains("HOKUSAI_DEPLOYER_ADDRESS") && unpinned.contains(DEPLOYER), "{unpinned}");
    let other = place().with("HOKUSAI_DEPLOYER_ADDRESS", "0x70997970C51812dc3A010C7d01b50e0d17dc79C8").run(&["worker"]).failed(1);
    assert!(other.contains("the pinned one is 0x70997970C51812dc3A010C7d01b50e0d17dc79C8"), "{other}");
    let both = place().with("DEPLOYER_PRIVATE_KEY", ANVIL_KEYS[0]).run(&["worker"]).failed(1);
    assert!(both.contains("second key"), "{both}");

    let place = place().with("HOKUSAI_DEPLOYER_ADDRESS", DEPLOYER).with("QUEUE_POLL_INTERVAL", "0.2");
    let mut lists = Lists::of(&redis);
    let mut worker = place.start(&["worker"]);
    lists.push(QUEUE, message(1));
    worker.until("deployed with KMS", async |log| log.contains("Successfully deployed token").then_some(())).await;

    kms.be(Mood::Disabled);
    lists.push(QUEUE, message(2));
    worker.prints("DisabledException").await;
    assert_eq!(lists.depths(QUEUE)[2..], [0, 0], "an outage burns no attempt, and there is only one");
    kms.be(Mood::Throttling(1));
    worker.until("emptied the queue", async |_| (lists.depths(QUEUE) == [0; 4]).then_some(())).await;
    let history = chain.history().await;
    history.assert_exactly_once();
    assert_eq!(history.versions.len(), 2);
    assert!(!worker.log().contains("hush"));
    worker.stop("TERM").await;
}
