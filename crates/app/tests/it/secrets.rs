//! What is secret is in no output, however much is logged and whatever goes wrong.

use hokusai_testbed::{ANVIL_KEYS, Redis, free_port};

use crate::{
    program::Place,
    services::{Api, Chain, Lists, QUEUE, request},
};

#[tokio::test]
async fn logs_hold_no_secret_at_any_level() {
    let (chain, redis) = tokio::join!(Chain::start(&[]), Redis::start_with(&["--requirepass", "hush-redis", "--save", ""]));
    let url = redis.url();
    let mut lists = Lists::at(&url.replace("redis://", "redis://:hush-redis@"));
    let api = Api::at(free_port());
    let node = chain.anvil.url().replace("http://", "http://user:hush-node@") + "/?key=hush-key";
    let loud = || Place::new().with("LOG_LEVEL", "trace").with("REDIS_PASSWORD", "hush-redis");
    let server_place = loud().with("REDIS_URL", &url).with("HOKUSAI_LISTEN", api.listen());
    let worker_place =
        chain.known_to(loud()).with("REDIS_URL", url.replace("redis://", "redis://:hush-redis@")).with("WEB3_PROVIDER_URL", node);
    let mut server = server_place.start(&["serve"]);
    server.answers(&api.url).await;
    let mut worker = worker_place.start(&["worker"]);
    api.register(&request("quiet", 1, "QUIET")).await;
    worker.until("deployed it", async |_| (chain.history().await.versions.len() == 1).then_some(())).await;
    worker.until("acknowledged it", async |_| (lists.depths(QUEUE) == [0; 4]).then_some(())).await;
    for log in [worker.stop("TERM").await, server.stop("TERM").await] {
        assert!(log.contains("Using authenticated Redis connection to"), "{log}");
        let told: Vec<_> = log.lines().filter(|line| line.contains("hush")).take(3).collect();
        assert!(told.is_empty(), "{told:#?}");
    }
}

#[tokio::test]
async fn complaints_hold_no_secret() {
    let redis = Redis::start_with(&["--requirepass", "right", "--save", ""]).await;
    let wrong = redis.url().replace("redis://", "redis://:hush-wrong@");
    let cut_key = &ANVIL_KEYS[0][..60];
    let mistakes = [
        ("REDIS_URL", wrong.as_str(), &["queue", "stats"][..]),
        ("REDIS_URL", "redis://:hush@ space:6379", &["queue", "stats"]),
        ("DATABASE_URL", "postgres://me:hush-db@127.0.0.1:1/x", &["migrate"]),
        ("DATABASE_URL", "postgres://me:hush-db@", &["migrate"]),
        ("HOKUSAI_API_URL", "http://me:hush-api@127.0.0.1:1", &["registration", "list"]),
        ("MLFLOW_TRACKING_URI", "ftp://me:hush@x", &["registration", "list"]),
    ];
    for (name, value, command) in mistakes {
        let complaint = Place::new().with(name, value).run(command).failed(1);
        assert!(!complaint.contains("hush"), "{name}: {complaint}");
    }
    for key in [cut_key, &format!("{}zz", ANVIL_KEYS[0])] {
        let place = Place::new()
            .with("WEB3_PROVIDER_URL", "http://me:hush-node@127.0.0.1:1/hush")
            .with("HOKUSAI_REGISTRY_ADDRESS", "0x5FbDB2315678afecb367f032d93F642f64180aa3")
            .with("DEPLOYER_PRIVATE_KEY", key);
        let complaint = place.run(&["worker"]).failed(1);
        assert!(complaint.contains("DEPLOYER_PRIVATE_KEY") && !complaint.contains(&cut_key[..20]), "{complaint}");
    }
}
