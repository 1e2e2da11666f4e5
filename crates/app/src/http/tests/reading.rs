//! Registrations, tokens, and what foreign deployers report.

use hokusai_event::{Address, Invalid};

use super::{
    super::{ChainCheck, Claim, Denial, OnChain},
    *,
};

const TOKEN: &str = "0x52908400098527886E0F7030069857D2E4169EE7";
const TRANSACTION: &str = "0x9fc76417374aa880d4449a1f7f31ec597f00b1f6f3dd2d66f4c9c6c445836d8b";

#[tokio::test]
async fn one_registration_with_its_history() {
    let server = Server::start().await;
    let id = server.register(&good()).await.text("registration_id");
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
      "metric_name": "reply_rate",
      "baseline_value": 0.1,
      "current_value": 0.15,
      "metric_direction": "higher_is_better",
      "improvement_percentage": 50.0,
      "verdict": "accepted",
      "reason": "current value 0.15 beats baseline 0.1 (higher is better, +50.00 %)",
      "contributor_address": null,
      "experiment_name": null,
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
            "reason": "current value 0.15 beats baseline 0.1 (higher is better, +50.00 %)",
            "correlation_id": "[uuid]",
            "message_id": "[uuid]"
          }
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn what_is_not_known() {
    let server = Server::start().await;
    insta::assert_snapshot!(server.get("/api/v1/registrations/0199b2f0").await.shown(), @r#"
    404 application/problem+json
    {
      "type": "urn:hokusai:problem:unknown",
      "title": "There is nothing by that name",
      "status": 404,
      "detail": "There is no registration of this id.",
      "instance": "/api/v1/registrations/0199b2f0",
      "request_id": "[uuid]"
    }
    "#);
    insta::assert_snapshot!(server.get("/api/v1/tokens/none").await.shown(), @r#"
    404 application/problem+json
    {
      "type": "urn:hokusai:problem:unknown",
      "title": "There is nothing by that name",
      "status": 404,
      "detail": "Nothing was registered for a token of this symbol.",
      "instance": "/api/v1/tokens/none",
      "request_id": "[uuid]"
    }
    "#);
    for path in ["/api/v1/registrations/%00", "/api/v1/registrations/a%2Fb", "/api/v1/tokens/%F0%9F%90%B3", "/api/v1/tokens/'%20OR%201=1"] {
        assert_eq!(server.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(server.get("/api/v1/tokens/%FF").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let server = Server::start().await;
    for number in 0..5 {
        server.register(&with(json!({ "model_name": format!("model {number}") }))).await;
    }
    let mut names = Vec::new();
    let mut path = "/api/v1/registrations?limit=2".to_owned();
    loop {
        let page = server.get(&path).await.json();
        names.extend(page["registrations"].as_array().unwrap().iter().map(|each| each["model_name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/registrations?limit=2&after={next}");
    }
    assert_eq!(names, ["model 4", "model 3", "model 2", "model 1", "model 0"]);
}

#[tokio::test]
async fn a_list_is_filtered() {
    let server = Server::start().await;
    server.register(&good()).await;
    server.register(&with(json!({ "model_name": "worse", "current_value": 0.01 }))).await;
    server.register(&with(json!({ "model_name": "other token", "token_id": "Other" }))).await;
    let count =
        async |query: &str| server.get(&format!("/api/v1/registrations?{query}")).await.json()["registrations"].as_array().unwrap().len();
    assert_eq!(count("status=queued").await, 2);
    assert_eq!(count("status=rejected").await, 1);
    assert_eq!(count("token=OTHER").await, 1);
    assert_eq!(count("model=other+token").await, 1);
    assert_eq!(count("model=other+token&status=rejected").await, 0);
}

#[tokio::test]
async fn a_filter_that_cannot_be_read() {
    let server = Server::start().await;
    insta::assert_snapshot!(server.get("/api/v1/registrations?status=done").await.shown(), @r#"
    400 application/problem+json
    {
      "type": "urn:hokusai:problem:bad-parameter",
      "title": "A parameter or header is not acceptable",
      "status": 400,
      "detail": "`status` is not acceptable; see `errors`.",
      "instance": "/api/v1/registrations",
      "request_id": "[uuid]",
      "errors": [
        {
          "field": "status",
          "problem": "unknown variant `done`, expected one of `queued`, `deploying`, `deployed`, `rejected`, `refused`, `dead_lettered`"
        }
      ]
    }
    "#);
    for query in ["limit=0", "limit=201", "limit=-1", "statsu=queued", "token=a%00b", "status=queued&status=queued"] {
        let answer = server.get(&format!("/api/v1/registrations?{query}")).await;
        assert_eq!(
            (answer.status, answer.text("type").as_str()),
            (StatusCode::BAD_REQUEST, "urn:hokusai:problem:bad-parameter"),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_token_and_its_versions() {
    let server = Server::start().await;
    server.register(&with(json!({ "token_id": "MSG-ai" }))).await;
    insta::assert_snapshot!(server.get("/api/v1/tokens/msg-AI").await.shown(), @r#"
    200 application/json
    {
      "token_id": "MSG-ai",
      "token_address": null,
      "registrations": [
        {
          "registration_id": "[uuid]",
          "status": "queued",
          "model_id": "chat-model/1/MSG-ai",
          "model_name": "chat-model",
          "model_version": "1",
          "token_id": "MSG-ai",
          "mlflow_run_id": "0123456789abcdef0123456789abcdef",
          "model_uri": "runs:/0123456789abcdef0123456789abcdef/model",
          "metric_name": "reply_rate",
          "baseline_value": 0.1,
          "current_value": 0.15,
          "metric_direction": "higher_is_better",
          "improvement_percentage": 50.0,
          "verdict": "accepted",
          "reason": "current value 0.15 beats baseline 0.1 (higher is better, +50.00 %)",
          "contributor_address": null,
          "experiment_name": null,
          "message_id": "[uuid]",
          "correlation_id": "[uuid]",
          "superseded_by": null,
          "deployment": null,
          "created_at": "[time]",
          "updated_at": "[time]"
        }
      ]
    }
    "#);
}

/// A chain that shows one thing whatever is claimed; the real one is asked in the process tests.
#[derive(Debug)]
struct Shows(fn(&Claim) -> Result<OnChain, Denial>);

#[async_trait]
impl ChainCheck for Shows {
    async fn verify(&self, claim: &Claim) -> Result<OnChain, Denial> {
        (self.0)(claim)
    }
}

fn deployed(claim: &Claim) -> Result<OnChain, Denial> {
    assert_eq!((claim.symbol.as_str(), claim.model_name.as_str(), claim.model_version.as_str()), ("msg-ai", "chat-model", "1"));
    Ok(OnChain {
        chain_id: 31_337,
        registry_address: Address::parse("0x5FbDB2315678afecb367f032d93F642f64180aa3").unwrap(),
        token_address: claim.token_address.clone(),
        transaction_hash: Some(claim.transaction_hash.clone()),
        block_number: Some(12),
        gas_used: Some(106_000),
        fee_wei: Some("106000000000000".into()),
        deployed_at: "2025-01-27T15:30:00Z".parse().unwrap(),
    })
}

async fn with_chain(shows: fn(&Claim) -> Result<OnChain, Denial>) -> (Server, String) {
    let server = Server::start_with(|api| api.chain = Some(Arc::new(Shows(shows)))).await;
    let id = server.register(&good()).await.text("registration_id");
    (server, format!("/api/v1/registrations/{id}/deployed"))
}

fn claimed() -> String {
    json!({ "token_address": TOKEN, "transaction_hash": TRANSACTION }).to_string()
}

#[tokio::test]
async fn a_foreign_deployment_is_recorded_as_the_chain_shows_it() {
    let (server, path) = with_chain(deployed).await;
    let first = server.post(&path, claimed()).await;
    let shown = first.shown();
    let (registration, history) = shown.split_once("\"history\"").unwrap();
    insta::assert_snapshot!(registration, @r#"
    200 application/json
    {
      "registration_id": "[uuid]",
      "status": "deployed",
      "model_id": "chat-model/1/msg-ai",
      "model_name": "chat-model",
      "model_version": "1",
      "token_id": "msg-ai",
      "mlflow_run_id": "0123456789abcdef0123456789abcdef",
      "model_uri": "runs:/0123456789abcdef0123456789abcdef/model",
      "metric_name": "reply_rate",
      "baseline_value": 0.1,
      "current_value": 0.15,
      "metric_direction": "higher_is_better",
      "improvement_percentage": 50.0,
      "verdict": "accepted",
      "reason": "current value 0.15 beats baseline 0.1 (higher is better, +50.00 %)",
      "contributor_address": null,
      "experiment_name": null,
      "message_id": "[uuid]",
      "correlation_id": "[uuid]",
      "superseded_by": null,
      "deployment": {
        "chain_id": 31337,
        "token_address": "0x52908400098527886E0F7030069857D2E4169EE7",
        "transaction_hash": "0x9fc76417374aa880d4449a1f7f31ec597f00b1f6f3dd2d66f4c9c6c445836d8b",
        "block_number": 12,
        "gas_used": 106000,
        "fee_wei": "106000000000000",
        "deployed_at": "[time]"
      },
      "created_at": "[time]",
      "updated_at": "[time]",
    "#);
    assert!(history.contains("\"step\": \"deployed\"") && history.contains("\"gas_used\": 106000"), "{history}");
    assert_eq!(server.post(&path, claimed()).await.json(), first.json());
}

#[tokio::test]
async fn a_claim_that_the_chain_does_not_confirm_changes_nothing() {
    let (server, path) = with_chain(|_| Err(Denial::Otherwise(Invalid::new("transaction_hash", "reverted")))).await;
    insta::assert_snapshot!(server.post(&path, claimed()).await.shown(), @r#"
    422 application/problem+json
    {
      "type": "urn:hokusai:problem:not-on-chain",
      "title": "The chain does not show this",
      "status": 422,
      "detail": "Nothing was recorded: see `errors`.",
      "instance": "/api/v1/registrations/[uuid]/deployed",
      "request_id": "[uuid]",
      "errors": [
        {
          "field": "transaction_hash",
          "problem": "reverted"
        }
      ]
    }
    "#);
    let status = server.get(path.trim_end_matches("/deployed")).await.text("status");
    assert_eq!(status, "queued");
}

#[tokio::test]
async fn a_claim_that_is_too_early_or_cannot_be_checked() {
    let (server, path) = with_chain(|_| Err(Denial::NotFinal)).await;
    let answer = server.post(&path, claimed()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::CONFLICT, Some("15")));
    let (server, path) = with_chain(|_| Err(Denial::Unavailable("http://user:secret@node refused".into()))).await;
    let answer = server.post(&path, claimed()).await;
    insta::assert_snapshot!(answer.shown(), @r#"
    503 application/problem+json
    {
      "type": "urn:hokusai:problem:unavailable",
      "title": "A service needed for this does not answer",
      "status": 503,
      "detail": "The chain does not answer. Send the same request again.",
      "instance": "/api/v1/registrations/[uuid]/deployed",
      "request_id": "[uuid]"
    }
    "#);
}

#[tokio::test]
async fn a_claim_that_is_none() {
    let (server, path) = with_chain(deployed).await;
    let body = json!({ "token_address": "0x12" }).to_string();
    insta::assert_snapshot!(server.post(&path, body).await.shown(), @r#"
    422 application/problem+json
    {
      "type": "urn:hokusai:problem:invalid",
      "title": "A field is not acceptable",
      "status": 422,
      "detail": "What the body says is not acceptable; see `errors`.",
      "instance": "/api/v1/registrations/[uuid]/deployed",
      "request_id": "[uuid]",
      "errors": [
        {
          "field": "token_address",
          "problem": "must be an address, 0x and 40 hex digits, is \"0x12\""
        },
        {
          "field": "transaction_hash",
          "problem": "is missing"
        }
      ]
    }
    "#);
    let worse = server.register(&with(json!({ "model_name": "worse", "current_value": 0.01 }))).await.text("registration_id");
    insta::assert_snapshot!(server.post(&format!("/api/v1/registrations/{worse}/deployed"), claimed()).await.shown(), @r#"
    409 application/problem+json
    {
      "type": "urn:hokusai:problem:conflict",
      "title": "The request contradicts an earlier one",
      "status": 409,
      "detail": "The registration was rejected, so there is nothing to deploy.",
      "instance": "/api/v1/registrations/[uuid]/deployed",
      "request_id": "[uuid]",
      "registration_id": "[uuid]"
    }
    "#);
    assert_eq!(server.post("/api/v1/registrations/none/deployed", claimed()).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_a_chain_the_missing_variable_is_named() {
    let server = Server::start().await;
    let id = server.register(&good()).await.text("registration_id");
    insta::assert_snapshot!(server.post(&format!("/api/v1/registrations/{id}/deployed"), claimed()).await.shown(), @r#"
    501 application/problem+json
    {
      "type": "urn:hokusai:problem:not-configured",
      "title": "The server is not configured for this",
      "status": 501,
      "detail": "WEB3_PROVIDER_URL is not set for this server, so it cannot look the deployment up on the chain.",
      "instance": "/api/v1/registrations/[uuid]/deployed",
      "request_id": "[uuid]"
    }
    "#);
}
