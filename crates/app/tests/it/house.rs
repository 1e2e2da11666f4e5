//! The law of the house that a program can check: which crate may know which.

use std::{collections::BTreeMap, process::Command};

/// Every edge there may be. `testbed` is for tests, so it appears in none.
const EDGES: &[(&str, &[&str])] = &[
    ("hokusai", &["hokusai-db", "hokusai-deploy", "hokusai-event", "hokusai-queue", "hokusai-registry"]),
    ("hokusai-db", &[]),
    ("hokusai-deploy", &["hokusai-db"]),
    ("hokusai-event", &[]),
    ("hokusai-queue", &["hokusai-db"]),
    ("hokusai-registry", &["hokusai-db", "hokusai-event", "hokusai-queue"]),
    ("hokusai-testbed", &[]),
];

#[test]
fn dependencies_point_one_way() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let output = Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let edges: BTreeMap<&str, Vec<&str>> = metadata["packages"].as_array().unwrap().iter().map(edges).collect();
    let allowed: BTreeMap<&str, Vec<&str>> = EDGES.iter().map(|(from, to)| (*from, to.to_vec())).collect();
    assert_eq!(edges, allowed, "a crate depends on another that it may not know (ARCHITECTURE.md, \"Rooms\")");
}

fn edges(package: &serde_json::Value) -> (&str, Vec<&str>) {
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    let mut ours: Vec<&str> = dependencies
        .filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap())
        .filter(|name| name.starts_with("hokusai"))
        .collect();
    ours.sort_unstable();
    ours.dedup();
    (package["name"].as_str().unwrap(), ours)
}
