//! The law of the house that a program can check: which crate may know which.

use std::{collections::BTreeMap, process::Command};

/// Every edge there may be. `testbed` is for tests, so it appears in none.
const EDGES: &[(&str, &[&str])] = &[
    ("hokusai", &["hokusai-db", "hokusai-deploy", "hokusai-event", "hokusai-queue", "hokusai-registry"]),
    ("hokusai-db", &[]),
    ("hokusai-deploy", &["hokusai-db"]),
    ("hokusai-event", &[]),
    ("hokusai-python", &["hokusai"]),
    ("hokusai-queue", &["hokusai-db"]),
    ("hokusai-registry", &["hokusai-db", "hokusai-event", "hokusai-queue"]),
    ("hokusai-testbed", &[]),
];

#[test]
fn dependencies_point_one_way() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .unwrap();
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

/// What only one place may do, and where that is. Tests, examples and this page's own text are not looked at.
const ONLY_THERE: &[(&str, &[&str])] = &[
    ("env::var(", &["crates/app/src/lib.rs"]),
    ("env::vars(", &[]),
    ("tokio::spawn(", &[]),
    ("std::process::exit(", &["crates/app/src/cli/output.rs"]),
];

#[test]
fn some_things_happen_in_one_place_only() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut offences = Vec::new();
    for file in sources(&root.join("crates")) {
        let place = file.strip_prefix(root).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let forbidden = ONLY_THERE.iter().filter(|(what, places)| line.contains(what) && !places.contains(&place.as_str()));
            offences.extend(forbidden.map(|(what, _)| format!("{place}: {what}")));
        }
    }
    assert_eq!(offences, [""; 0], "see ARCHITECTURE.md, \"Invariants\"");
}

/// The Rust files of `crates/*/src` that are no tests.
fn sources(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !matches!(name.as_str(), "tests" | "examples" | "benches" | "testbed") {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
    found
}
