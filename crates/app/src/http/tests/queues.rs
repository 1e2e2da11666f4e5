//! Looking into queues, and repairing dead letters.

use std::time::Duration;

use bytes::Bytes;
use hokusai_queue::{Move, dead_letter};

use super::*;

const MESSAGES: &str = "/api/v1/queues/hokusai:model_ready_queue/messages";

/// Puts entries, and what waits already, into the dead-letter queue as a consumer would.
async fn give_up(server: &Server, messages: &[&str]) -> Vec<Bytes> {
    let queue = server.queue().await;
    let entries: Vec<Bytes> = messages.iter().map(|message| Bytes::copy_from_slice(message.as_bytes())).collect();
    queue.push(&entries).await.unwrap();
    let taken = queue.take(100, Duration::ZERO, &[]).await.unwrap().entries;
    let at = "2025-01-27T15:30:00Z".parse().unwrap();
    let letters: Vec<Bytes> = taken.iter().map(|entry| dead_letter::build(entry, QUEUE, "permanent", "no such token", at)).collect();
    let moves: Vec<Move> = taken.into_iter().zip(&letters).map(|(entry, with)| Move::DeadLetter { entry, with: with.clone() }).collect();
    queue.settle(&moves).await.unwrap();
    letters
}

#[tokio::test]
async fn the_queues_and_what_is_sent_to_them() {
    let server = Server::start_with(|api| api.queues.others.push("model_events".into())).await;
    server.queue().await.push(&["{}".into()]).await.unwrap();
    insta::assert_snapshot!(server.get("/api/v1/queues").await.shown(), @r#"
    200 application/json
    {
      "queues": [
        {
          "name": "hokusai:model_ready_queue",
          "default": true,
          "status": "healthy",
          "depths": {
            "main": 1,
            "processing": 0,
            "dlq": 0,
            "delayed": 0
          },
          "message_types": [
            "model_ready_to_deploy"
          ]
        },
        {
          "name": "model_events",
          "default": false,
          "status": "healthy",
          "depths": {
            "main": 0,
            "processing": 0,
            "dlq": 0,
            "delayed": 0
          },
          "message_types": []
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn entries_are_json_where_they_are_and_base64_where_not() {
    let server = Server::start().await;
    let entries =
        [Bytes::from_static(b"{\"b\": 1.50, \"a\": \"\xc3\xa9\"}"), Bytes::from_static(b"{broken"), Bytes::from_static(b"\xff\x00")];
    server.queue().await.push(&entries).await.unwrap();
    insta::assert_snapshot!(server.get(MESSAGES).await.shown(), @r#"
    200 application/json
    {
      "queue": "hokusai:model_ready_queue",
      "state": "main",
      "offset": 0,
      "entries": [
        {
          "id": "df6a2db93028918baf0010db930f7c1b4ff79638ae5e65b488d6e4ef1c5d3c9c",
          "bytes": 22,
          "json": {
            "b": 1.5,
            "a": "é"
          }
        },
        {
          "id": "be302461cda285db3ed2d45fb767b23e08ca8808b35a638009937df22b332d73",
          "bytes": 7,
          "base64": "e2Jyb2tlbg=="
        },
        {
          "id": "ea5dbf9596d187e9500f23e9a680109475341cf4e81f7e043f7d97152c10772f",
          "bytes": 2,
          "base64": "/wA="
        }
      ]
    }
    "#);
    let page = server.get(&format!("{MESSAGES}?offset=1&limit=1")).await.json();
    assert_eq!((&page["entries"][0]["base64"], &page["next_offset"]), (&json!("e2Jyb2tlbg=="), &json!(2)));
    assert!(String::from_utf8(server.get(MESSAGES).await.bytes).unwrap().contains("1.50"), "entries are shown as written");
}

#[tokio::test]
async fn what_cannot_be_looked_into() {
    let server = Server::start().await;
    insta::assert_snapshot!(server.get("/api/v1/queues/elsewhere/messages").await.shown(), @r#"
    404 application/problem+json
    {
      "type": "urn:hokusai:problem:unknown",
      "title": "There is nothing by that name",
      "status": 404,
      "detail": "There is no queue `elsewhere`; GET /api/v1/queues lists the queues.",
      "instance": "/api/v1/queues/elsewhere/messages",
      "request_id": "[uuid]"
    }
    "#);
    for query in ["state=gone", "limit=0", "limit=201", "limit=x", "offset=-1", "ofset=1"] {
        let answer = server.get(&format!("{MESSAGES}?{query}")).await;
        let (name, _) = query.split_once('=').unwrap();
        assert_eq!((answer.status, &answer.json()["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!(name)), "{query}");
    }
}

#[tokio::test]
async fn a_redriven_entry_is_delivered_again_with_its_counters_reset() {
    let server = Server::start().await;
    give_up(&server, &[r#"{"message_id":"1","payload":{},"retry_count":3}"#, "junk"]).await;
    let letters = server.get(&format!("{MESSAGES}?state=dlq")).await.json();
    let id = letters["entries"][0]["id"].clone();
    let body = json!({ "ids": [id, "0000"] });
    let answer = server.post("/api/v1/queues/hokusai:model_ready_queue/dlq/redrive", body.to_string()).await;
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::OK, json!({ "done": [id], "gone": ["0000"], "not_a_message": [], "already_deployed": [] }))
    );
    let main = server.get(MESSAGES).await.json();
    assert_eq!(main["entries"][0]["json"], json!({ "message_id": "1", "payload": {}, "retry_count": 0 }));
    assert_eq!(server.queue().await.stats().await.unwrap().dlq, 1);
}

#[tokio::test]
async fn a_discarded_entry_is_gone() {
    let server = Server::start().await;
    give_up(&server, &["junk"]).await;
    let id = server.get(&format!("{MESSAGES}?state=dlq")).await.json()["entries"][0]["id"].clone();
    let discard = || server.post("/api/v1/queues/hokusai:model_ready_queue/dlq/discard", json!({ "ids": [id] }).to_string());
    assert_eq!(discard().await.json(), json!({ "done": [id], "gone": [], "not_a_message": [], "already_deployed": [] }));
    assert_eq!(discard().await.json(), json!({ "done": [], "gone": [id], "not_a_message": [], "already_deployed": [] }));
    assert_eq!(server.queue().await.stats().await.unwrap(), hokusai_queue::Stats::default());
}

/// The ids of the dead letters, the longest there first.
async fn dead(server: &Server) -> Vec<Value> {
    let letters = server.get(&format!("{MESSAGES}?state=dlq")).await.json();
    letters["entries"].as_array().unwrap().iter().map(|entry| entry["id"].clone()).collect()
}

#[tokio::test]
async fn repairs_are_told_to_the_registrations() {
    let server = Server::start().await;
    let registered = server.register(&good()).await;
    let message = json!({ "message_id": registered.text("message_id"), "message_type": "model_ready_to_deploy",
        "timestamp": "2026-01-27T15:30:00Z", "payload": {} });
    give_up(&server, &[&message.to_string()]).await;
    let body = json!({ "ids": dead(&server).await, "by": "ada" });
    let answer = server.post("/api/v1/queues/hokusai:model_ready_queue/dlq/redrive", body.to_string()).await.json();
    assert_eq!(answer["done"].as_array().unwrap().len(), 1, "{answer}");
    give_up(&server, &[]).await;
    let body = json!({ "ids": dead(&server).await, "reason": "a mistake" });
    let answer = server.post("/api/v1/queues/hokusai:model_ready_queue/dlq/discard", body.to_string()).await.json();
    assert_eq!(answer["done"].as_array().unwrap().len(), 1, "{answer}");
    let shown = server.get(&format!("/api/v1/registrations/{}", registered.text("registration_id"))).await.json();
    let steps = shown["history"].as_array().unwrap();
    let told: Vec<_> = steps.iter().rev().take(2).map(|step| (&step["step"], &step["detail"])).collect();
    let detail = json!({ "queue": QUEUE, "by": "the HTTP API", "reason": "a mistake" });
    assert_eq!(told[0], (&json!("discarded"), &detail));
    assert_eq!(told[1], (&json!("redriven"), &json!({ "queue": QUEUE, "by": "ada", "force": false })));
}

#[tokio::test]
async fn what_is_deployed_is_redriven_only_by_force() {
    let server = Server::start().await;
    let registered = server.register(&good()).await;
    let id = registered.text("registration_id");
    let mut tx = server.api.database.write().await.unwrap();
    sqlx::query("UPDATE registrations SET status = 'deployed' WHERE id = $1").bind(&id).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let (message,): (Vec<u8>,) = sqlx::query_as("SELECT envelope FROM outbox WHERE message_id = $1")
        .bind(registered.text("message_id"))
        .fetch_one(server.api.database.reader())
        .await
        .unwrap();
    give_up(&server, &[std::str::from_utf8(&message).unwrap()]).await;
    let ids = dead(&server).await;
    let redrive = |force: bool| {
        server.post("/api/v1/queues/hokusai:model_ready_queue/dlq/redrive", json!({ "ids": ids, "force": force }).to_string())
    };
    assert_eq!(redrive(false).await.json(), json!({ "done": [], "gone": [], "not_a_message": [], "already_deployed": ids }));
    assert_eq!(redrive(true).await.json()["done"], json!(ids));
}

#[tokio::test]
async fn a_pause_is_shown() {
    let server = Server::start().await;
    let queue = server.queue().await;
    let pause = hokusai_queue::Pause { by: "ada".into(), reason: "gas is dear".into(), at: "2026-01-27T15:30:00Z".parse().unwrap() };
    queue.upkeep().unwrap().set_pause(Some(&pause)).await.unwrap();
    let paused = json!({ "by": "ada", "reason": "gas is dear", "at": "2026-01-27T15:30:00Z" });
    let shown = server.get("/api/v1/queues").await.json();
    assert_eq!((&shown["queues"][0]["status"], &shown["queues"][0]["paused"]), (&json!("degraded"), &paused));
    let health = server.get("/health?detailed=true").await;
    let services = &health.json()["services"];
    assert_eq!(
        (health.status, &services["message_queue"], &services["message_queue_details"]["paused"]),
        (StatusCode::OK, &json!("degraded"), &paused)
    );
    queue.upkeep().unwrap().set_pause(None).await.unwrap();
    assert_eq!(server.get("/health").await.json()["status"], "healthy");
}

#[tokio::test]
async fn a_repair_names_its_entries() {
    let server = Server::start().await;
    let mut lines = Vec::new();
    for body in
        ["", "{}", "{\"ids\":[]}", "{\"ids\":\"all\"}", "{\"ids\":[1]}", "{\"ids\":[\"a\"],\"all\":true}", "[\"a\"]", "{\"ids\":[\"a\"]} x"]
    {
        let answer = server.post("/api/v1/queues/hokusai:model_ready_queue/dlq/discard", body).await;
        let error = answer.json()["errors"][0].clone();
        lines.push(format!(
            "{body} → {} {}: {}",
            answer.status.as_u16(),
            error["field"].as_str().unwrap(),
            error["problem"].as_str().unwrap()
        ));
    }
    insta::assert_snapshot!(lines.join("\n"), @r#"
     → 400 : EOF while parsing a value at line 1 column 0
    {} → 422 ids: must hold 1 to 200 ids
    {"ids":[]} → 422 ids: must hold 1 to 200 ids
    {"ids":"all"} → 422 ids: invalid type: string "all", expected a sequence at line 1 column 12
    {"ids":[1]} → 422 ids[0]: invalid type: integer `1`, expected a string at line 1 column 9
    {"ids":["a"],"all":true} → 422 all: unknown field `all`, expected one of `ids`, `by`, `reason`, `force` at line 1 column 18
    ["a"] → 422 [0]: invalid type: string "a", expected a sequence at line 1 column 4
    {"ids":["a"]} x → 400 : trailing characters at line 1 column 15
    "#);
}
