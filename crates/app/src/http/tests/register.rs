//! Registering: what is answered, what is repeated, what contradicts.

use super::*;

#[tokio::test]
async fn a_model_that_beats_its_baseline_is_queued() {
    let server = Server::start().await;
    let answer = server.register(&good()).await;
    insta::assert_snapshot!(answer.shown(), @r#"
    201 application/json
    {
      "registration_id": "[uuid]",
      "model_id": "chat-model/1/msg-ai",
      "model_name": "chat-model",
      "model_version": "1",
      "token_id": "msg-ai",
      "mlflow_run_id": "0123456789abcdef0123456789abcdef",
      "status": "queued",
      "event_emitted": true,
      "message_id": "[uuid]",
      "correlation_id": "[uuid]",
      "verdict": "accepted",
      "improvement_percentage": 50.0,
      "reason": "current value 0.15 beats baseline 0.1 (higher is better, +50.00 %)"
    }
    "#);
    let location = format!("/api/v1/registrations/{}", answer.text("registration_id"));
    assert_eq!(answer.header("location"), Some(location.as_str()));
    assert!(answer.header("x-request-id").is_some());
    assert_eq!(server.get(&location).await.status, 200);
}

#[tokio::test]
async fn a_model_below_its_baseline_is_registered_and_rejected() {
    let server = Server::start().await;
    let answer = server.register(&with(json!({ "current_value": 0.05 }))).await;
    insta::assert_snapshot!(answer.shown(), @r#"
    201 application/json
    {
      "registration_id": "[uuid]",
      "model_id": "chat-model/1/msg-ai",
      "model_name": "chat-model",
      "model_version": "1",
      "token_id": "msg-ai",
      "mlflow_run_id": "0123456789abcdef0123456789abcdef",
      "status": "rejected",
      "event_emitted": false,
      "message_id": null,
      "correlation_id": "[uuid]",
      "verdict": "rejected",
      "improvement_percentage": -50.0,
      "reason": "current value 0.05 is worse than baseline 0.1 (higher is better, -50.00 %)"
    }
    "#);
}

#[tokio::test]
async fn the_optional_fields_are_kept() {
    let server = Server::start().await;
    let body = with(json!({
        "metric_name": "latency", "baseline_value": 100, "current_value": 80, "metric_direction": "lower_is_better",
        "contributor_address": "0x52908400098527886E0F7030069857D2E4169EE7", "experiment_name": "speed", "tags": { "team": "chat" },
        "performance_data": { "latency": 80.0, "p99": 170 }, "mlflow_run_id": RUN,
    }));
    let id = server.register(&body).await.text("registration_id");
    insta::assert_snapshot!(server.get(&format!("/api/v1/registrations/{id}")).await.shown(), @r#"
    200 application/json
    {
      "registration_id": "[uuid]",
      "status": "queued",
      "model_id": "chat-model/1/msg-ai",
      "model_name": "chat-model",
      "model_version": "1",
      "token_id": "msg-ai",
      "mlflow_run_id": "0123456789abcdef0123456789abcdef",
      "model_uri": "runs:/0123456789abcdef0123456789abcdef/model",
      "metric_name": "latency",
      "baseline_value": 100.0,
      "current_value": 80.0,
      "metric_direction": "lower_is_better",
      "improvement_percentage": 20.0,
      "verdict": "accepted",
      "reason": "current value 80 beats baseline 100 (lower is better, +20.00 %)",
      "contributor_address": "0x52908400098527886E0F7030069857D2E4169EE7",
      "experiment_name": "speed",
      "tags": {
        "team": "chat"
      },
      "message_id": "[uuid]",
      "correlation_id": "[uuid]",
      "superseded_by": null,
      "deployment": null,
      "created_at": "[time]",
      "updated_at": "[time]",
      "history": [
        {
          "number": 1,
          "at": "[time]",
          "step": "queued",
          "detail": {
            "reason": "current value 80 beats baseline 100 (lower is better, +20.00 %)",
            "correlation_id": "[uuid]",
            "message_id": "[uuid]"
          }
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn the_same_request_again_answers_the_first() {
    let server = Server::start().await;
    let first = server.register(&good()).await;
    let again = server.register(&good()).await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK));
    assert_eq!(first.json(), again.json());
    assert_eq!(first.header("location"), again.header("location"));
    let list = server.get("/api/v1/registrations").await.json();
    assert_eq!(list["registrations"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn other_content_for_the_same_model_is_a_conflict() {
    let server = Server::start().await;
    let first = server.register(&good()).await.text("registration_id");
    let answer = server.register(&with(json!({ "current_value": 0.9 }))).await;
    insta::assert_snapshot!(answer.shown(), @r#"
    409 application/problem+json
    {
      "type": "urn:hokusai:problem:conflict",
      "title": "The request contradicts an earlier one",
      "status": 409,
      "detail": "Nothing was registered: this model, run, artifact path and token were registered with other content.",
      "instance": "/api/v1/models/register",
      "request_id": "[uuid]",
      "registration_id": "[uuid]"
    }
    "#);
    assert_eq!(answer.text("registration_id"), first);
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_request() {
    let server = Server::start().await;
    let send = |body: Value| {
        let request = Request::post("/api/v1/models/register").header("content-type", "application/json").header("idempotency-key", "k-1");
        server.send(request.body(Body::from(body.to_string())).unwrap())
    };
    let first = send(good()).await;
    let again = send(good()).await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK));
    assert_eq!(first.json(), again.json());
    let other = send(with(json!({ "model_name": "another" }))).await;
    insta::assert_snapshot!(other.shown(), @r#"
    409 application/problem+json
    {
      "type": "urn:hokusai:problem:conflict",
      "title": "The request contradicts an earlier one",
      "status": 409,
      "detail": "Nothing was registered: this Idempotency-Key was used for another request.",
      "instance": "/api/v1/models/register",
      "request_id": "[uuid]",
      "registration_id": "[uuid]"
    }
    "#);
    assert_eq!(other.text("registration_id"), first.text("registration_id"));
}

#[tokio::test]
async fn the_correlation_id_of_the_caller_is_kept() {
    let server = Server::start().await;
    let request = Request::post("/api/v1/models/register")
        .header("content-type", "application/json; charset=utf-8")
        .header("x-correlation-id", "pipeline-7");
    let answer = server.send(request.body(Body::from(good().to_string())).unwrap()).await;
    assert_eq!((answer.status, answer.text("correlation_id").as_str()), (StatusCode::CREATED, "pipeline-7"));
}

#[tokio::test]
async fn a_hundred_at_once_are_all_answered() {
    let server = Server::start().await;
    let bodies: Vec<Value> = (0..100).map(|number| with(json!({ "model_name": format!("model {}", number % 50) }))).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| server.register(body))).await;
    let created = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    let replayed = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!((created, replayed), (50, 50));
}

#[tokio::test]
async fn a_database_that_is_away_is_said_to_be() {
    let server = Server::start().await;
    server.api.database.close().await;
    let answer = server.register(&good()).await;
    insta::assert_snapshot!(answer.shown(), @r#"
    503 application/problem+json
    {
      "type": "urn:hokusai:problem:unavailable",
      "title": "A service needed for this does not answer",
      "status": 503,
      "detail": "The database does not answer. The registration may have been made: send the same request again.",
      "instance": "/api/v1/models/register",
      "request_id": "[uuid]"
    }
    "#);
    assert_eq!(answer.header("retry-after"), Some("5"));
}
