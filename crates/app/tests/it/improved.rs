//! A version that is better than all before it on its token is told to whoever subscribed to that.

use hokusai_testbed::{Postgres, Redis, free_port};
use serde_json::json;

use crate::{
    program::Place,
    services::{Api, Chain, Lists, request},
};

async fn check(place: Place) {
    let (chain, redis) = tokio::join!(Chain::start(&[]), Redis::start());
    let api = Api::at(free_port());
    let place = place.with("REDIS_URL", redis.url()).with("HOKUSAI_LISTEN", api.listen());
    let place = chain.known_to(place.with("HOKUSAI_SUBSCRIPTIONS", "improved=metric_improved;deployed=model_deployed"));
    let mut server = place.start(&["serve"]);
    server.answers(&api.url).await;
    let mut worker = place.start(&["worker"]);
    let mut lists = Lists::of(&redis);
    let mut registrations = Vec::new();
    for (run, current_value) in [0.80, 0.82, 0.81].into_iter().enumerate() {
        let mut model = request("better", run as u64, "BETTER");
        model["current_value"] = json!(current_value);
        registrations.push(api.register(&model).await["registration_id"].clone());
        let deployed = api.settled(&mut worker, &mut lists).await;
        assert_eq!(deployed.len(), run + 1);
    }
    worker.until("told all", async |_| (lists.depths("deployed")[0] == 3).then_some(())).await;
    let told: Vec<String> = lists.query("LRANGE", &[b"improved", b"0", b"-1"]);
    assert_eq!(told.len(), 1, "{told:?}");
    let told: serde_json::Value = serde_json::from_str(&told[0]).unwrap();
    assert_eq!(told["message_type"], "metric_improved");
    let payload = &told["payload"];
    assert_eq!((&payload["previous_value"], &payload["current_value"]), (&json!(0.80), &json!(0.82)), "{payload}");
    assert_eq!((&payload["improvement_percentage"], &payload["registration_id"]), (&json!(2.5), &registrations[1]), "{payload}");
    assert_eq!((&payload["model_version"], &payload["token_symbol"]), (&json!("2"), &json!("BETTER")), "{payload}");
    let token = api.registrations().await.unwrap()[registrations[1].as_str().unwrap()]["deployment"]["token_address"].clone();
    assert!(token.is_string() && payload["token_address"] == token, "{payload}");
    worker.stop("TERM").await;
    server.stop("TERM").await;
}

#[tokio::test]
async fn a_better_version_is_told_from_sqlite() {
    check(Place::new()).await;
}

#[tokio::test]
async fn a_better_version_is_told_from_postgresql() {
    let database = Postgres::start().await.database().await;
    check(Place::new().with("DATABASE_URL", database)).await;
}
