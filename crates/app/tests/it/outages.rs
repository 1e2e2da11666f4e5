//! Redis, PostgreSQL or the chain goes away for a while: nothing ends, nothing burns an attempt, and all goes on.

use std::time::Duration;

use hokusai_testbed::{Postgres, Redis, free_port};
use serde_json::Value;

use crate::{
    program::{Place, Role},
    services::{Api, Chain, Lists, QUEUE, request},
};

struct Load {
    api: Api,
    sent: Vec<Value>,
}

impl Load {
    /// Registers ten models, each again until it is answered.
    async fn ten(&mut self, server: &mut Role) {
        for _ in 0..10 {
            let number = self.sent.len() as u64;
            let model = request(&format!("model {}", number % 3), number, &format!("OUT-{}", number / 2));
            self.sent.push(server.until("answered", async |_| self.api.try_register(&model).await).await);
        }
    }
}

#[tokio::test]
async fn every_service_may_go_away_for_a_while() {
    let persistent = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""];
    let (chain, mut redis, postgres) = tokio::join!(Chain::start(&[]), Redis::start_with(&persistent), Postgres::start());
    let database = postgres.database().await;
    let api = Api::at(free_port());
    let place = || Place::new().with("DATABASE_URL", &database).with("REDIS_URL", redis.url()).with("PROCESSING_TIMEOUT", "5");
    let (server_place, worker_place) = (place().with("HOKUSAI_LISTEN", api.listen()), chain.known_to(place()));
    let mut server = server_place.start(&["serve"]);
    server.answers(&api.url).await;
    let mut worker = worker_place.start(&["worker"]);
    let mut load = Load { api: api.clone(), sent: Vec::new() };

    load.ten(&mut server).await;
    redis.kill().await;
    load.ten(&mut server).await;
    redis.restart().await;
    load.ten(&mut server).await;
    postgres.disconnect_all(&database);
    load.ten(&mut server).await;
    chain.anvil.process().signal("STOP");
    load.ten(&mut server).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    chain.anvil.process().signal("CONT");

    let mut lists = Lists::of(&redis);
    let all = api.settled(&mut worker, &mut lists).await;
    for answer in &load.sent {
        assert_eq!(all[answer["registration_id"].as_str().unwrap()]["status"], "deployed");
    }
    worker.until("emptied the queue", async |_| (lists.depths(QUEUE) == [0; 4]).then_some(())).await;
    let history = chain.history().await;
    history.assert_exactly_once();
    assert_eq!((history.versions.len(), all.len()), (load.sent.len(), load.sent.len()));
    worker.stop("TERM").await;
    server.stop("TERM").await;
}

/// A node that is not there when the worker starts is waited for, with nothing taken.
#[tokio::test]
async fn a_worker_waits_for_its_node() {
    let (chain, redis) = tokio::join!(Chain::start(&[]), Redis::start());
    let mut lists = Lists::of(&redis);
    lists.push(QUEUE, "{}");
    chain.anvil.process().signal("STOP");
    let place = chain.known_to(Place::new().with("REDIS_URL", redis.url()));
    let mut worker = place.start(&["worker"]);
    worker.prints("Using Redis connection").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lists.depths(QUEUE), [1, 0, 0, 0]);
    chain.anvil.process().signal("CONT");
    worker.until("dead-lettered it", async |_| (lists.depths(QUEUE) == [0, 0, 0, 1]).then_some(())).await;
    worker.stop("TERM").await;

    // Told to stop while it waits, it does.
    let place = place.with("WEB3_PROVIDER_URL", format!("http://127.0.0.1:{}", free_port()));
    let mut worker = place.start(&["worker"]);
    worker.prints("cannot be asked").await;
    worker.stop("TERM").await;
}
