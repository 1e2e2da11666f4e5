//! Health, version, schemas, and the OpenAPI document.

use std::{collections::BTreeSet, time::Duration};

use hokusai_event::MessageType;
use hokusai_registry::{Nudge, Relay, RelayConfig};
use hokusai_testbed::Redis;

use super::*;

fn redis_settings(redis: &Redis) -> RedisSettings {
    RedisSettings::from_url(&redis.url()).unwrap()
}

#[tokio::test]
async fn health_on_a_local_queue() {
    let server = Server::start().await;
    insta::assert_snapshot!(server.get("/health").await.shown(), @r#"
    200 application/json
    {
      "status": "healthy",
      "service": "hokusai",
      "version": "1.2.3",
      "services": {
        "redis": "not_configured",
        "message_queue": "healthy",
        "database": "healthy",
        "relay": "not_configured"
      }
    }
    "#);
}

#[tokio::test]
async fn health_in_detail_on_redis() {
    let redis = Redis::start().await;
    let server = Server::start_with(|api| {
        api.queues.carrier = Carrier::Redis;
        api.queues.opener = Arc::new(OnRedis(redis_settings(&redis)));
        api.relay = Some(hokusai_registry::RelayStatus::default());
    })
    .await;
    server.queue().await.push(&["{}".into(), "[]".into()]).await.unwrap();
    insta::assert_snapshot!(server.get("/health?detailed=true").await.shown(), @r#"
    200 application/json
    {
      "status": "healthy",
      "service": "hokusai",
      "version": "1.2.3",
      "services": {
        "redis": "healthy",
        "message_queue": "healthy",
        "database": "healthy",
        "relay": "healthy",
        "message_queue_details": {
          "status": "healthy",
          "type": "redis",
          "queue_name": "hokusai:model_ready_queue",
          "latency_ms": "[ms]",
          "queue_depths": {
            "main": 2,
            "processing": 0,
            "dlq": 0,
            "delayed": 0
          }
        },
        "database_details": {
          "status": "healthy",
          "latency_ms": "[ms]"
        },
        "relay_details": {
          "status": "healthy",
          "lag": 0,
          "queues": []
        }
      }
    }
    "#);
}

#[tokio::test]
async fn health_with_a_dead_redis_is_degraded_and_says_so_soon() {
    let mut redis = Redis::start().await;
    let settings = redis_settings(&redis);
    redis.kill().await;
    let server = Server::start_with(|api| {
        api.queues.carrier = Carrier::Redis;
        api.queues.opener = Arc::new(OnRedis(settings));
    })
    .await;
    let started = std::time::Instant::now();
    let answer = server.get("/health?detailed=true").await;
    assert!(started.elapsed().as_secs() < 4, "{:?}", started.elapsed());
    insta::assert_snapshot!(answer.shown(), @r#"
    200 application/json
    {
      "status": "degraded",
      "service": "hokusai",
      "version": "1.2.3",
      "services": {
        "redis": "unhealthy",
        "message_queue": "unhealthy",
        "database": "healthy",
        "relay": "not_configured",
        "message_queue_details": {
          "status": "unhealthy",
          "type": "redis",
          "queue_name": "hokusai:model_ready_queue",
          "latency_ms": null,
          "queue_depths": null,
          "error": "The queue is not reachable: check that it runs, its address, and the network between."
        },
        "database_details": {
          "status": "healthy",
          "latency_ms": "[ms]"
        },
        "relay_details": {
          "status": "not_configured",
          "lag": 0,
          "queues": []
        }
      }
    }
    "#);

    // Registrations are accepted all the same.
    assert_eq!(server.register(&good()).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn health_with_a_redis_that_hangs_is_answered_all_the_same() {
    let redis = Redis::start().await;
    let server = Server::start_with(|api| {
        api.queues.carrier = Carrier::Redis;
        api.queues.opener = Arc::new(OnRedis(redis_settings(&redis)));
    })
    .await;
    redis.process().signal("STOP");
    let started = std::time::Instant::now();
    let health = server.get("/health").await.json();
    assert!(started.elapsed().as_secs() < 4, "{:?}", started.elapsed());
    assert_eq!((&health["status"], &health["services"]["redis"]), (&json!("degraded"), &json!("unhealthy")));
}

#[tokio::test]
async fn health_tells_of_a_relay_that_cannot_publish() {
    let mut redis = Redis::start().await;
    let settings = redis_settings(&redis);
    redis.kill().await;
    let mut running = None;
    let server = Server::start_with(|api| {
        let relay = Relay::new(api.database.clone(), Arc::new(OnRedis(settings)), Nudge::new(), RelayConfig::default());
        api.relay = Some(relay.status());
        running = Some(relay);
    })
    .await;
    let stop = CancellationToken::new();
    let _stopped_at_the_end = stop.clone().drop_guard();
    tokio::spawn(running.unwrap().run(stop));
    server.register(&good()).await;
    let health = hokusai_testbed::eventually("the relay reports an outage", Duration::from_secs(10), async || {
        let health = server.get("/health?detailed=true").await.json();
        (health["services"]["relay"] == "degraded").then_some(health)
    })
    .await;
    let mut details = health["services"]["relay_details"].clone();
    mask(&mut details);
    assert_eq!((&health["status"], &details["queues"][0]["state"]), (&json!("degraded"), &json!("outage")));
    assert_eq!((&details["queues"][0]["queue"], &details["queues"][0]["since"]), (&json!(QUEUE), &json!("[time]")));
}

#[tokio::test]
async fn health_without_a_database_is_unhealthy() {
    let server = Server::start().await;
    server.api.database.close().await;
    insta::assert_snapshot!(server.get("/health").await.shown(), @r#"
    503 application/json
    {
      "status": "unhealthy",
      "service": "hokusai",
      "version": "1.2.3",
      "services": {
        "redis": "not_configured",
        "message_queue": "unhealthy",
        "database": "unhealthy",
        "relay": "not_configured"
      }
    }
    "#);
    insta::assert_snapshot!(server.get("/ready").await.shown(), @r#"
    503 application/problem+json
    {
      "type": "urn:hokusai:problem:unavailable",
      "title": "A service needed for this does not answer",
      "status": 503,
      "detail": "The database does not answer.",
      "instance": "/ready",
      "request_id": "[uuid]"
    }
    "#);
    insta::assert_snapshot!(server.get("/live").await.shown(), @r#"
    200 application/json
    {
      "status": "live"
    }
    "#);
}

#[tokio::test]
async fn health_refuses_what_it_cannot_read() {
    let server = Server::start().await;
    insta::assert_snapshot!(server.get("/health?detailed=maybe").await.shown(), @r#"
    400 application/problem+json
    {
      "type": "urn:hokusai:problem:bad-parameter",
      "title": "A parameter or header is not acceptable",
      "status": 400,
      "detail": "`detailed` is not acceptable; see `errors`.",
      "instance": "/health",
      "request_id": "[uuid]",
      "errors": [
        {
          "field": "detailed",
          "problem": "provided string was not `true` or `false`"
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn ready_and_version() {
    let server = Server::start().await;
    insta::assert_snapshot!(server.get("/ready").await.shown(), @r#"
    200 application/json
    {
      "status": "ready"
    }
    "#);
    insta::assert_snapshot!(server.get("/version").await.shown(), @r#"
    200 application/json
    {
      "version": "1.2.3"
    }
    "#);
}

#[tokio::test]
async fn every_message_type_has_its_schema() {
    let server = Server::start().await;
    for kind in MessageType::ALL {
        let answer = server.get(&format!("/schemas/{kind}.json")).await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, Some("application/schema+json")));
        assert_eq!(answer.json(), hokusai_event::schema(kind));
    }
    insta::assert_snapshot!(server.get("/schemas/model_ready.json").await.shown(), @r#"
    404 application/problem+json
    {
      "type": "urn:hokusai:problem:unknown",
      "title": "There is nothing by that name",
      "status": 404,
      "detail": "There is no schema `model_ready.json`; there are: model_ready_to_deploy.json, model_registered.json, model_validation_failed.json, model_deployed.json, metric_improved.json.",
      "instance": "/schemas/model_ready.json",
      "request_id": "[uuid]"
    }
    "#);
    assert_eq!(server.get("/schemas/model_ready_to_deploy").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_openapi_document_lists_every_route() {
    let server = Server::start().await;
    let document = server.get("/openapi.json").await.json();
    assert_eq!((document["openapi"].as_str(), document["info"]["version"].as_str()), (Some("3.1.0"), Some("1.2.3")));
    let paths = document["paths"].as_object().unwrap();
    let routes: Vec<String> =
        paths.iter().flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))).collect();
    insta::assert_snapshot!(routes.join("\n"), @r#"
    get /api/v1/events
    post /api/v1/models/register
    get /api/v1/queues
    post /api/v1/queues/{name}/dlq/discard
    post /api/v1/queues/{name}/dlq/redrive
    get /api/v1/queues/{name}/messages
    get /api/v1/registrations
    get /api/v1/registrations/{id}
    post /api/v1/registrations/{id}/deployed
    get /api/v1/tokens/{symbol}
    get /health
    post /integrations/mlflow
    get /live
    get /openapi.json
    get /ready
    get /schemas/{type}
    get /version
    "#);
}

/// Every reference leads somewhere, every operation has a unique id and a summary, and every error is a problem document.
#[tokio::test]
async fn the_openapi_document_is_sound() {
    let server = Server::start().await;
    let document = server.get("/openapi.json").await.json();
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    for reference in &references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}: operationId is not unique");
            assert!(operation["summary"].is_string(), "{what} has no summary");
            check_path_parameters(path, operation);
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status == "default" || (status.starts_with(['4', '5']) && path != "/health") {
                    let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/Problem", "{what} {status}");
                }
            }
        }
    }
    let request = &document["components"]["schemas"]["RegisterRequest"];
    let fields: Vec<&str> = hokusai_registry::RegisterRequest::FIELDS.iter().map(|field| field.name).collect();
    assert_eq!(request["properties"].as_object().unwrap().keys().collect::<Vec<_>>(), fields);
    assert_eq!(server.register(&request["examples"][0]).await.status, StatusCode::CREATED);
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str).map(ToOwned::to_owned));
            object.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

fn check_path_parameters(path: &str, operation: &Value) {
    let declared: BTreeSet<&str> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|each| each["in"] == "path")
        .filter_map(|each| each["name"].as_str())
        .collect();
    let used: BTreeSet<&str> = path.split('{').skip(1).filter_map(|part| part.split('}').next()).collect();
    assert_eq!(declared, used, "{path}");
}
