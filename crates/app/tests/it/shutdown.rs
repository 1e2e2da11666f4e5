//! SIGTERM under load: what was answered stays, what was taken is finished or put back, and both end cleanly.

use std::{collections::BTreeMap, time::Duration};

use hokusai_testbed::{Postgres, Redis, free_port};
use serde_json::Value;

use crate::{
    program::Place,
    services::{Api, Chain, Lists, QUEUE, request},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_loses_nothing() {
    let (chain, redis, postgres) = tokio::join!(Chain::start(&["--block-time", "1"]), Redis::start(), Postgres::start());
    let database = postgres.database().await;
    let api = Api::at(free_port());
    // A timeout that the test never reaches: nothing may depend on the reaper after a clean stop.
    let place = || Place::new().with("DATABASE_URL", &database).with("REDIS_URL", redis.url()).with("PROCESSING_TIMEOUT", "300");
    let server_place = place().with("HOKUSAI_LISTEN", api.listen());
    let worker_place = chain.known_to(place().with("HOKUSAI_CONCURRENCY", "8"));
    let mut lists = Lists::of(&redis);

    let mut answered: BTreeMap<String, Value> = BTreeMap::new();
    let mut run = 0;
    for _ in 0..2 {
        let mut server = server_place.start(&["serve"]);
        server.answers(&api.url).await;
        let mut worker = worker_place.start(&["worker"]);
        worker.prints("Starting Hokusai token deployment service").await;
        let clients = (0..8).map(|client| {
            let api = api.clone();
            let first = run + client;
            tokio::spawn(async move { register_until_refused(&api, first).await })
        });
        let clients: Vec<_> = clients.collect();
        worker.until("has messages in hand", async |_| (lists.depths(QUEUE)[1] > 0).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1500))).await;
        tokio::join!(server.stop("TERM"), worker.stop("TERM"));
        for client in clients {
            for answer in client.await.unwrap() {
                answered.insert(answer["registration_id"].as_str().unwrap().to_owned(), answer);
            }
        }
        run += 1_000_000;
        assert_eq!(lists.depths(QUEUE)[1], 0, "a stopped worker left messages in processing");
    }
    assert!(answered.len() > 20, "there was no load");

    let mut server = server_place.start(&["serve"]);
    server.answers(&api.url).await;
    let mut worker = worker_place.start(&["worker"]);
    let all = api.settled(&mut worker, &mut lists).await;
    for (id, answer) in &answered {
        assert_eq!(all[id]["model_id"], answer["model_id"], "an answered registration is lost");
    }
    let history = chain.history().await;
    history.assert_exactly_once();
    assert_eq!(history.versions.len(), all.len());
    worker.until("acknowledged all", async |_| (lists.depths(QUEUE) == [0; 4]).then_some(())).await;
    tokio::join!(server.stop("TERM"), worker.stop("TERM"));
}

/// One client: registers one model after another until the server is gone. At most so many that they can be deployed in
/// the time of a test.
async fn register_until_refused(api: &Api, first: u64) -> Vec<Value> {
    let mut answers = Vec::new();
    for number in 0..60 {
        let run = first + 8 * number;
        let Some(answer) = api.try_register(&request(&format!("model {}", run % 5), run, &format!("DOWN-{}", run % 40))).await else {
            break;
        };
        answers.push(answer);
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    answers
}
