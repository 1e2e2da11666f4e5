//! A registry whose tokens start with a supply, and what a person sees of a deployment on it.

use hokusai_testbed::{ANVIL_KEYS, Anvil, Redis};

use crate::{
    program::Place,
    services::{Lists, QUEUE, cast},
};

const OWNER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
const HOLDER: &str = "0x90F79bf6EB2c4f870365E785982E1f101E93b906";
const SUPPLY: &str = "1000000000000000000000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_start_with_the_supply_that_the_registry_was_given() {
    let (anvil, redis) = tokio::join!(Anvil::start(&[]), Redis::start());
    let place = Place::new().with("WEB3_PROVIDER_URL", anvil.url()).with("DEPLOYER_PRIVATE_KEY", ANVIL_KEYS[0]);
    let place = place.with("REDIS_URL", redis.url());
    let deploy = ["contracts", "deploy", "--owner", OWNER, "--controller", OWNER, "--json"];
    let with = |more: &[&'static str]| place.run(&[&deploy[..], more].concat());
    with(&["--initial-supply", SUPPLY]).failed(2);
    with(&["--initial-supply-recipient", HOLDER]).failed(2);
    let registry = with(&["--initial-supply", SUPPLY, "--initial-supply-recipient", HOLDER]).json()["address"].clone();
    let place = place.with("HOKUSAI_REGISTRY_ADDRESS", registry.as_str().unwrap());

    let example = place.run(&["message", "example", "model_ready_to_deploy"]).ok();
    let mut lists = Lists::of(&redis);
    lists.push(QUEUE, example);
    let mut worker = place.start(&["worker"]);
    worker.until("emptied the queue", async |_| (lists.depths(QUEUE) == [0; 4]).then_some(())).await;
    worker.stop("TERM").await;
    let deployments = place.run(&["deployment", "list", "--json"]).json();
    let token = deployments[0]["token_address"].as_str().unwrap();
    let balance = cast(&place, &["call", "--rpc-url", &anvil.url(), token, "balanceOf(address)(uint256)", HOLDER]);
    assert_eq!(balance.split_whitespace().next(), Some(SUPPLY));

    let final_one = deployments[0]["id"].as_str().unwrap();
    let complaint = place.run(&["deployment", "retry", final_one]).failed(1);
    assert!(complaint.contains("is final"), "{complaint}");
}
