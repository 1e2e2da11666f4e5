//! `hokusai demo`.

use std::{collections::BTreeSet, process::Stdio};

use serde_json::Value;

use crate::program::Place;

/// An environment with nothing in it but where programs are.
fn nowhere() -> Place {
    Place::new().without("HOKUSAI_DATA_DIR")
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn demo_tells_programs_what_happened() {
    let report = nowhere().run(&["demo", "--json"]).json();
    assert_eq!(keys(&report), ["registrations", "queue"]);
    assert_eq!(report["queue"], serde_json::json!({"main": 0, "processing": 0, "delayed": 0, "dlq": 0}));
    let registrations = report["registrations"].as_array().unwrap();
    for one in registrations {
        assert_eq!(
            keys(one),
            [
                "model_id",
                "status",
                "token_symbol",
                "token_address",
                "transaction_hash",
                "block_number",
                "gas_used",
                "fee_wei",
                "elapsed_ms",
                "reason"
            ]
        );
        let deployed = one["status"] == "deployed";
        assert!(deployed || one["status"] == "rejected", "{one}");
        assert_eq!(one["token_address"].as_str().is_some_and(|address| address.len() == 42), deployed, "{one}");
        assert_eq!(one["transaction_hash"].as_str().is_some_and(|hash| hash.len() == 66), deployed, "{one}");
        for (field, is_set) in [("block_number", one["block_number"].is_u64()), ("gas_used", one["gas_used"].is_u64())] {
            assert_eq!(is_set, deployed, "{field} of {one}");
        }
        assert_eq!(one["fee_wei"].as_str().is_some_and(|wei| wei.parse::<u128>().unwrap() > 0), deployed, "{one}");
        assert!(one["elapsed_ms"].is_u64() && !one["reason"].as_str().unwrap().is_empty(), "{one}");
    }
}

#[test]
fn demo_shows_each_kind_of_outcome() {
    let report = nowhere().run(&["demo", "--json"]).json();
    let registrations = report["registrations"].as_array().unwrap();
    let of = |model: &str| registrations.iter().filter(|one| one["model_id"].as_str().unwrap().starts_with(model)).collect::<Vec<_>>();
    let reason = |one: &Value| one["reason"].as_str().unwrap().to_owned();

    let tie = of("price-net/");
    assert_eq!(tie[0]["status"], "deployed");
    assert!(reason(tie[0]).contains("equals"), "{}", reason(tie[0]));
    let short = of("spam-filter/");
    assert_eq!(short[0]["status"], "rejected");
    assert!(reason(short[0]).contains("0.951") && reason(short[0]).contains("0.97"), "{}", reason(short[0]));
    let less = of("demand-forecast/");
    assert_eq!(less[0]["status"], "deployed");
    assert!(reason(less[0]).contains("lower is better"), "{}", reason(less[0]));

    let twice = of("lead-scorer/");
    assert_eq!(twice.len(), 2);
    assert_eq!((&twice[0]["model_id"], &twice[0]["transaction_hash"]), (&twice[1]["model_id"], &twice[1]["transaction_hash"]));
    let versions = of("reply-writer/");
    assert_eq!(versions[0]["token_address"], versions[1]["token_address"]);
    let ids: BTreeSet<_> = versions.iter().map(|one| one["model_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");

    let tokens: BTreeSet<_> = registrations.iter().filter_map(|one| one["token_address"].as_str()).collect();
    assert_eq!(tokens.len(), 5);
}

#[test]
fn demo_tells_people_in_a_table() {
    let run = nowhere().run(&["demo"]);
    assert_eq!(run.stderr, "", "a progress bar or a log line went into the pipe");
    let out = run.ok();
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("model ") && lines[0].contains("transaction"), "{out}");
    assert_eq!(lines.iter().filter(|line| line.contains(" deployed ")).count(), 7, "{out}");
    assert_eq!(lines.iter().filter(|line| line.contains(" rejected ")).count(), 1, "{out}");
    assert!(
        out.trim_end().ends_with("5 tokens. Queue: main 0, processing 0, delayed 0, dead letter 0. Everything went as it should."),
        "{out}"
    );
    assert!(!out.contains('\u{1b}') && !out.contains('\r'), "{out:?}");
}

/// It takes no notice of the environment, reaches for no service and leaves nothing behind.
#[test]
fn demo_touches_nothing() {
    let place =
        nowhere().with("HOME", "/nonexistent").with("REDIS_URL", "redis://127.0.0.1:1/0").with("DATABASE_URL", "postgres://127.0.0.1:1/x");
    place.run(&["demo"]).ok();
    let temporary = place.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let place = place.with("TMPDIR", temporary.display().to_string());
    place.run(&["demo"]).ok();
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

/// `hokusai demo | head -1`: a reader that goes away is no failure.
#[test]
fn demo_does_not_mind_a_closed_pipe() {
    let place = nowhere();
    let mut child = place.command(&["demo"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{}", String::from_utf8_lossy(&output.stderr));
}
