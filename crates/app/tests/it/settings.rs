//! Configuration as a process meets it: what is missing is named, what is secret stays so, and nothing is begun with
//! settings that cannot work.

use std::thread;

use hokusai_testbed::{ANVIL_KEYS, Anvil, Postgres, Redis, free_port};
use serde_json::{Value, json};

use crate::{
    program::Place,
    services::{Api, Chain, Lists, QUEUE, request},
};

#[test]
fn config_masks_secrets() {
    let place = Place::new()
        .with("REDIS_URL", "rediss://user:hush-redis@cache.example.com:6380/0")
        .with("REDIS_PASSWORD", "hush-password")
        .with("REDIS_AUTH_TOKEN", "hush-token")
        .with("DATABASE_URL", "postgres://hokusai:hush-db@db.example.com/hokusai")
        .with("WEB3_PROVIDER_URL", "https://rpc.example.com/v2/hush-path,https://u:hush-user@two.example.com?key=hush-query")
        .with("MLFLOW_TRACKING_URI", "https://u:hush-mlflow@mlflow.example.com")
        .with("MLFLOW_TRACKING_PASSWORD", "hush-mlflow")
        .with("MLFLOW_TRACKING_TOKEN", "hush-mlflow")
        .with("HOKUSAI_API_KEY", "hush-api")
        .with("DEPLOYER_PRIVATE_KEY", ANVIL_KEYS[0]);
    let table = place.run(&["config"]).ok();
    let json = place.run(&["config", "--json"]).ok();
    for text in [&table, &json] {
        assert!(!text.contains("hush"), "{text}");
        for visible in ["cache.example.com:6380", "db.example.com/hokusai", "rpc.example.com", "two.example.com"] {
            assert!(text.contains(visible), "{visible} is no secret: {text}");
        }
    }
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["DEPLOYER_PRIVATE_KEY"], &json["REDIS_PASSWORD"]), (&json!("***"), &json!("***")));
    assert_eq!(json["HOKUSAI_LISTEN"], Value::Null);
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    let place = Place::new();
    assert_eq!(place.run(&["--version"]).ok().split_whitespace().next(), Some("hokusai"));
    assert!(place.run(&["--help"]).ok().contains("demo"));
    place.run(&[]).failed(2);
    place.run(&["conjure"]).failed(2);
    place.run(&["queue", "stats", "--no-such-option"]).failed(2);
    let complaint = place.run(&["registration", "show", "nothing"]).failed(1);
    assert!(complaint.starts_with("hokusai: "), "{complaint}");
}

/// Every variable that a worker needs is named when it is missing, and the queue is not touched meanwhile.
#[tokio::test]
async fn a_worker_without_settings_takes_nothing() {
    let redis = Redis::start().await;
    let mut lists = Lists::of(&redis);
    lists.push(QUEUE, "{}");
    let whole = || {
        Place::new()
            .with("REDIS_URL", redis.url())
            .with("WEB3_PROVIDER_URL", "http://127.0.0.1:1")
            .with("DEPLOYER_PRIVATE_KEY", ANVIL_KEYS[0])
            .with("HOKUSAI_REGISTRY_ADDRESS", "0x5FbDB2315678afecb367f032d93F642f64180aa3")
    };
    for name in ["WEB3_PROVIDER_URL", "DEPLOYER_PRIVATE_KEY", "HOKUSAI_REGISTRY_ADDRESS"] {
        let complaint = whole().without(name).run(&["worker"]).failed(1);
        assert!(complaint.contains(&format!("{name}: is not set")), "{complaint}");
        let complaint = whole().with(name, "").run(&["worker"]).failed(1);
        assert!(complaint.contains(&format!("{name}: is not set")), "{complaint}");
    }
    let complaint = Place::new().with("REDIS_URL", redis.url()).run(&["worker"]).failed(1);
    for name in ["WEB3_PROVIDER_URL", "DEPLOYER_PRIVATE_KEY", "HOKUSAI_REGISTRY_ADDRESS"] {
        assert!(complaint.contains(&format!("{name}: is not set")), "all that is missing is told at once: {complaint}");
    }
    for (name, value) in [
        ("WEB3_PROVIDER_URL", "ftp://somewhere"),
        ("DEPLOYER_PRIVATE_KEY", "0x1234"),
        ("HOKUSAI_REGISTRY_ADDRESS", "0x5FbDB2315678afecb367f032d93F642f64180aA3"),
        ("REDIS_URL", "http://127.0.0.1"),
        ("PROCESSING_TIMEOUT", "soon"),
        ("HOKUSAI_HANDLER_TIMEOUT", "1000"),
        ("HOKUSAI_CONFIRMATIONS", "plenty"),
        ("HOKUSAI_CHAIN_ID", "main"),
        ("HOKUSAI_MAX_FEE_GWEI", "-1"),
        ("MESSAGE_QUEUE_TYPE", "carrier-pigeon"),
        ("HOKUSAI_CONCURRENCY", "0"),
        ("LOG_LEVEL", "=="),
        ("HOKUSAI_LOG_FORMAT", "xml"),
        ("DATABASE_URL", "mysql://somewhere"),
    ] {
        let complaint = whole().with(name, value).run(&["worker"]).failed(1);
        let named = complaint.contains(name) || name == "DATABASE_URL" && complaint.contains("database");
        assert!(named, "{name}={value}: {complaint}");
    }
    assert_eq!(lists.depths(QUEUE), [1, 0, 0, 0]);
}

#[test]
fn redis_without_an_address_is_an_error() {
    let place = Place::new().with("MESSAGE_QUEUE_TYPE", "redis");
    for args in [&["serve"][..], &["queue", "stats"], &["publish"], &["consume", "--exec", "true"]] {
        let complaint = place.run(args).failed(1);
        assert!(complaint.contains("REDIS_URL") && complaint.contains("REDIS_HOST"), "{complaint}");
    }
    let place = Place::new().with("REDIS_AUTH_TOKEN", "t");
    assert!(place.run(&["queue", "stats"]).failed(1).contains("REDIS_HOST"));
    let place = Place::new().with("REDIS_URL", "redis://127.0.0.1:1/0");
    let complaint = place.run(&["queue", "stats"]).failed(1);
    assert!(complaint.contains("127.0.0.1:1"), "{complaint}");
}

#[test]
fn serve_listens_on_this_machine_only() {
    let complaint = Place::new().with("HOKUSAI_LISTEN", "0.0.0.0:0").run(&["serve"]).failed(1);
    assert!(complaint.contains("HOKUSAI_LISTEN"), "{complaint}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let complaint = Place::new().with("HOKUSAI_LISTEN", &address).run(&["serve"]).failed(1);
    assert!(complaint.contains("HOKUSAI_LISTEN") && complaint.contains(&address), "{complaint}");
}

/// A chain, contract or key that does not fit ends the worker before it takes anything.
#[tokio::test]
async fn a_worker_on_the_wrong_chain_takes_nothing() {
    let chain = Chain::start(&[]).await;
    let redis = Redis::start().await;
    let mut lists = Lists::of(&redis);
    lists.push(QUEUE, "{}");
    let whole = || chain.known_to(Place::new().with("REDIS_URL", redis.url()));

    let complaint = whole().with("HOKUSAI_CHAIN_ID", "1").run(&["worker"]).failed(1);
    assert!(complaint.contains("31337") && complaint.contains("HOKUSAI_CHAIN_ID"), "{complaint}");
    let empty = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    let complaint = whole().with("HOKUSAI_REGISTRY_ADDRESS", empty).run(&["worker"]).failed(1);
    assert!(complaint.contains(empty) && complaint.contains("HOKUSAI_REGISTRY_ADDRESS"), "{complaint}");
    assert_eq!(lists.depths(QUEUE), [1, 0, 0, 0]);

    // Owner and controller must be others than the deployer.
    let deployer = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
    let deploy = |owner: &str, controller: &str| whole().run(&["contracts", "deploy", "--owner", owner, "--controller", controller]);
    for (owner, controller) in [(deployer, empty), (empty, deployer)] {
        let complaint = deploy(owner, controller).failed(1);
        assert!(complaint.contains("deployer"), "{complaint}");
    }
    whole().run(&["contracts", "deploy"]).failed(2);

    // A key whose role was revoked starts all the same, with a warning: what it sent before has to be settled.
    let place = whole().with("DEPLOYER_PRIVATE_KEY", ANVIL_KEYS[1]);
    let mut worker = place.start(&["worker"]);
    worker.prints("role").await;
    worker.stop("TERM").await;
}

#[tokio::test]
async fn a_chain_without_a_default_depth_needs_one_set() {
    let anvil = Anvil::start(&["--chain-id", "987654"]).await;
    let place = Place::new()
        .with("WEB3_PROVIDER_URL", anvil.url())
        .with("DEPLOYER_PRIVATE_KEY", ANVIL_KEYS[0])
        .with("HOKUSAI_REGISTRY_ADDRESS", "0x5FbDB2315678afecb367f032d93F642f64180aa3");
    let complaint = place.run(&["worker"]).failed(1);
    assert!(complaint.contains("HOKUSAI_CONFIRMATIONS") && complaint.contains("987654"), "{complaint}");
}

#[tokio::test]
async fn migrate_may_be_repeated_and_run_by_many() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let migrate = || Place::new().with("DATABASE_URL", &url).run(&["migrate"]).ok();
    let said = thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(migrate)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(said.iter().all(|text| text.contains("up to date")), "{said:?}");
    migrate();

    let place = Place::new();
    let migrate = || place.run(&["migrate"]).ok();
    thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(migrate)).collect();
        runs.into_iter().for_each(|run| drop(run.join().unwrap()));
    });
    assert!(place.path().join("data/hokusai.db").exists());
}

/// A server starts and registers while Redis is away, and relays when Redis comes up.
#[tokio::test]
async fn registrations_wait_for_redis() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let api = Api::at(free_port());
    let place = Place::new().with("REDIS_URL", redis.url()).with("HOKUSAI_LISTEN", api.listen());
    let mut server = place.start(&["serve"]);
    server.answers(&api.url).await;
    let registered = api.register(&request("patient", 1, "PATIENT")).await;
    assert_eq!(registered["status"], "queued");
    let health = api.get("/health?detailed=true").await;
    assert!(health.is_none_or(|health| health["status"] != "healthy"), "a server without its Redis is not healthy");

    redis.restart().await;
    let mut lists = Lists::of(&redis);
    server.until("relayed", async |_| (lists.depths(QUEUE) == [1, 0, 0, 0]).then_some(())).await;
    let entry: Vec<u8> = lists.query("LINDEX", &[QUEUE.as_bytes(), b"0"]);
    let entry: Value = serde_json::from_slice(&entry).unwrap();
    assert_eq!(entry["message_id"], registered["message_id"]);
    server.until("healthy again", async |_| (api.get("/health").await?["status"] == "healthy").then_some(())).await;
    server.stop("TERM").await;
}
