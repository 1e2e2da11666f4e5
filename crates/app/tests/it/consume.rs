//! `hokusai consume --exec`: a consumer in any language.

use std::{collections::BTreeSet, fs, time::Duration};

use hokusai_testbed::eventually;
use serde_json::{Value, json};

use crate::program::Place;

/// A place whose retries come at once, with messages `m0`, `m1`, … in its queue.
fn place_with(count: usize) -> Place {
    let place = Place::new().with("MESSAGE_RETRY_BASE_DELAY", "0.01").with("PROCESSING_TIMEOUT", "5");
    if count > 0 {
        publish(&place, 0..count);
    }
    place
}

fn publish(place: &Place, numbers: std::ops::Range<usize>) {
    let example = place.run(&["message", "example", "model_ready_to_deploy"]).json();
    let messages = numbers.map(|number| {
        let mut message = example.clone();
        message["message_id"] = json!(format!("m{number}"));
        format!("{message}\n")
    });
    place.run_with(&["publish"], messages.collect::<String>()).ok();
}

fn stats(place: &Place) -> [u64; 4] {
    let stats = place.run(&["queue", "stats", "--json"]).json();
    ["main", "processing", "delayed", "dlq"].map(|state| stats[state].as_u64().unwrap())
}

fn dead_letters(place: &Place) -> Vec<Value> {
    place.run(&["queue", "peek", "--state", "dlq", "--json"]).json().as_array().unwrap().clone()
}

/// What the command wrote, line by line.
fn seen(place: &Place) -> Vec<Value> {
    let text = fs::read_to_string(place.path().join("seen")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_envelope_comes_on_standard_input() {
    let place = place_with(3);
    let peeked = place.run(&["queue", "peek", "--json"]).json();
    place.run(&["consume", "--exec", "cat >> seen; echo >> seen", "--concurrency", "1", "--max", "3"]).ok();
    assert_eq!(json!(seen(&place)), peeked);
    assert_eq!(stats(&place), [0; 4]);
}

#[test]
fn max_leaves_the_rest_untouched() {
    let place = place_with(5);
    let before = place.run(&["queue", "peek", "--json"]).json();
    place.run(&["consume", "--exec", "cat >/dev/null", "--max", "2"]).ok();
    assert_eq!(stats(&place), [3, 0, 0, 0]);
    let left = place.run(&["queue", "peek", "--json"]).json();
    let left: BTreeSet<_> = left.as_array().unwrap().iter().map(ToString::to_string).collect();
    let before: BTreeSet<_> = before.as_array().unwrap().iter().map(ToString::to_string).collect();
    assert!(left.is_subset(&before), "what was not handled is as it was");
}

#[test]
fn exit_code_65_dead_letters_at_once() {
    let place = place_with(1);
    place.run(&["consume", "--exec", "echo 'no such model' >&2; exit 65", "--max", "1"]).ok();
    assert_eq!(stats(&place), [0, 0, 0, 1]);
    let letter = &dead_letters(&place)[0];
    let original: Value = serde_json::from_str(letter["original_message"].as_str().unwrap()).unwrap();
    assert_eq!((&original["message_id"], &original["retry_count"]), (&json!("m0"), &json!(0)));
    assert!(letter["error"].as_str().unwrap().contains("no such model"), "{letter}");
    assert_eq!((&letter["error_kind"], &letter["attempts"]), (&json!("rejected"), &json!(1)));
    assert_eq!(letter["queue"], "hokusai:model_ready_queue");
}

/// Three retries are four deliveries; a command killed by a signal failed like any other.
#[tokio::test]
async fn other_exit_codes_are_failed_attempts() {
    for (ending, told) in [("exit 7", "exit code 7"), ("kill -9 $$", "signal: 9")] {
        let place = place_with(1);
        let mut consumer = place.start(&["consume", "--exec", &format!("cat >> seen; echo >> seen; {ending}")]);
        let dead = async |_: &str| (!dead_letters(&place).is_empty()).then(|| dead_letters(&place));
        let letters = consumer.until("dead-lettered", dead).await;
        consumer.stop("TERM").await;
        let counts: Vec<_> = seen(&place).iter().map(|envelope| envelope["retry_count"].as_u64().unwrap()).collect();
        assert_eq!(counts, [0, 1, 2, 3]);
        assert!(letters[0]["error"].as_str().unwrap().contains(told), "{}", letters[0]);
        assert_eq!(letters[0]["attempts"], 4);
        assert_eq!(stats(&place), [0, 0, 0, 1]);
    }
}

#[test]
fn concurrency_runs_that_many_at_once() {
    // Each command waits until three of them are there; one at a time, the first would wait in vain.
    let meet = "touch here-$$; for i in $(seq 500); do [ $(ls here-* | wc -l) -ge 3 ] && exit 0; sleep 0.02; done; exit 65";
    let place = place_with(3);
    place.run(&["consume", "--exec", meet, "--concurrency", "3", "--max", "3"]).ok();
    assert_eq!(stats(&place), [0; 4]);
}

/// SIGTERM lets the running command finish, takes nothing more, and puts back what was not begun.
#[tokio::test]
async fn sigterm_finishes_what_runs() {
    for max in [&[][..], &["--max", "50"]] {
        let place = place_with(4);
        let command = "touch running; while [ ! -e finish ]; do sleep 0.02; done; cat >> seen; echo >> seen";
        let mut consumer = place.start(&[&["consume", "--concurrency", "1", "--exec", command], max].concat());
        consumer.until("ran the command", async |_| place.path().join("running").exists().then_some(())).await;
        consumer.signal("TERM");
        consumer.until("put back what was not begun", async |_| (stats(&place)[0] == 3).then_some(())).await;
        fs::write(place.path().join("finish"), "").unwrap();
        let (status, log) = consumer.ends().await;
        assert!(status.success(), "{log}");
        assert_eq!((seen(&place).len(), stats(&place)), (1, [3, 0, 0, 0]), "{log}");
    }
}

/// A consumer that is killed loses nothing: its messages come back to the next one.
#[tokio::test]
async fn a_killed_consumer_loses_nothing() {
    let place = place_with(20);
    // Each writes a file of its own: lines of processes that run at once would mix.
    let slow = "cat > $(mktemp seen-XXXXXX); sleep 0.05";
    let mut consumer = place.start(&["consume", "--concurrency", "4", "--exec", slow]);
    consumer.until("handled some", async |_| (seen_ids(&place).len() >= 5).then_some(())).await;
    consumer.kill();
    let mut consumer = place.start(&["consume", "--concurrency", "4", "--exec", slow]);
    consumer.until("handled all", async |_| (stats(&place) == [0; 4]).then_some(())).await;
    assert_eq!(seen_ids(&place).len(), 20);
    consumer.stop("INT").await;
}

/// A file may be cut short where its writer was killed.
fn seen_ids(place: &Place) -> BTreeSet<String> {
    let files = fs::read_dir(place.path()).unwrap().map(|file| file.unwrap().path());
    let seen = files.filter(|file| file.file_name().unwrap().to_string_lossy().starts_with("seen-"));
    let envelopes = seen.filter_map(|file| serde_json::from_slice::<Value>(&fs::read(file).unwrap()).ok());
    envelopes.map(|envelope| envelope["message_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_message_that_arrives_later_is_taken_at_once() {
    let place = place_with(0).with("QUEUE_POLL_INTERVAL", "30");
    let consumer = place.start(&["consume", "--exec", "cat >> seen; echo >> seen"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    publish(&place, 0..1);
    // Far less than the poll interval, however busy the machine.
    eventually("it is taken", Duration::from_secs(15), async || (!seen(&place).is_empty()).then_some(())).await;
    consumer.stop("TERM").await;
}

#[test]
fn usage_is_explained() {
    let place = Place::new();
    place.run(&["consume"]).failed(2);
    place.run(&["consume", "--exec", "true", "--max", "many"]).failed(2);
    let complaint = place.run(&["consume", "--exec", "true", "--concurrency", "0"]).failed(1);
    assert!(complaint.contains("concurrency"), "{complaint}");
}
