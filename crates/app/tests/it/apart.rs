//! Server and worker with a database each: the server learns what was deployed from the `model_deployed` queue.

use hokusai_testbed::{Postgres, Redis, free_port};

use crate::{
    program::{Place, Role},
    services::{Api, Chain, DEPLOYED_QUEUE, Lists, QUEUE, request},
};

const MODELS: u64 = 10;

struct Apart {
    chain: Chain,
    redis: Redis,
    api: Api,
    server: Place,
    worker: Place,
}

impl Apart {
    /// A block every second, so that there is a time in which the worker is at it.
    async fn new(server: Place) -> Self {
        let (chain, redis) = tokio::join!(Chain::start(&["--block-time", "1"]), Redis::start());
        let api = Api::at(free_port());
        let server = server.with("HOKUSAI_LISTEN", api.listen());
        let on_redis = |place: Place| place.with("REDIS_URL", redis.url()).with("PROCESSING_TIMEOUT", "5");
        let (server, worker) = (on_redis(server), chain.known_to(on_redis(Place::new())));
        Self { chain, redis, api, server, worker }
    }

    async fn start_server(&self) -> Role {
        let mut server = self.server.start(&["serve"]);
        server.answers(&self.api.url).await;
        server
    }

    /// Registers models, kills the server while the worker deploys them, and starts it again when all are on the chain.
    async fn converges(self) {
        let mut lists = Lists::of(&self.redis);
        let server = self.start_server().await;
        let mut worker = self.worker.start(&["worker"]);
        for number in 0..MODELS {
            let registered = self.api.register(&request("apart", number, &format!("APART-{}", number / 2))).await;
            assert_eq!(registered["status"], "queued");
        }
        let took = |log: &str| log.matches("Processing message").count() as u64;
        worker.until("took everything", async |log| (took(log) >= MODELS).then_some(())).await;
        server.kill();
        worker.until("put all on the chain", async |_| (self.chain.history().await.versions.len() as u64 == MODELS).then_some(())).await;
        let mut server = self.start_server().await;
        let all = self.api.settled(&mut server, &mut lists).await;
        assert_eq!(all.len() as u64, MODELS);
        for one in all.values() {
            let deployment = &one["deployment"];
            assert!(deployment["transaction_hash"].is_string() && deployment["gas_used"].is_u64(), "{one}");
            assert_eq!(deployment["chain_id"], 31337);
        }
        for queue in [QUEUE, DEPLOYED_QUEUE] {
            server.until("emptied the queues", async |_| (lists.depths(queue) == [0; 4]).then_some(())).await;
        }
        let history = self.chain.history().await;
        history.assert_exactly_once();
        assert_eq!((history.tokens.len() as u64, history.versions.len() as u64), (MODELS / 2, MODELS));
        worker.stop("TERM").await;
        server.stop("TERM").await;
    }
}

#[tokio::test]
async fn server_on_postgresql_worker_on_sqlite() {
    let database = Postgres::start().await.database().await;
    Apart::new(Place::new().with("DATABASE_URL", database)).await.converges().await;
}

#[tokio::test]
async fn each_on_an_sqlite_of_its_own() {
    Apart::new(Place::new()).await.converges().await;
}
