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
    insta::assert_snapshot!(server.get(&format!("/api/v1/registrations/{id}")).await.shown(), @"");
}

#[tokio::test]
async fn what_is_not_known() {
    let server = Server::start().await;
    insta::assert_snapshot!(server.get("/api/v1/registrations/0199b2f0").await.shown(), @"");
    insta::assert_snapshot!(server.get("/api/v1/tokens/none").await.shown(), @"");
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
    let count = async |query: &str| server.get(&format!("/api/v1/registrations?{query}")).await.json()["registrations"].as_array().unwrap().len();
    assert_eq!(count("status=queued").await, 2);
    assert_eq!(count("status=rejected").await, 1);
    assert_eq!(count("token=OTHER").await, 1);
    assert_eq!(count("model=other+token").await, 1);
    assert_eq!(count("model=other+token&status=rejected").await, 0);
}

#[tokio::test]
async fn a_filter_that_cannot_be_read() {
    let server = Server::start().await;
    insta::assert_snapshot!(server.get("/api/v1/registrations?status=done").await.shown(), @"");
    for query in ["limit=0", "limit=201", "limit=-1", "statsu=queued", "token=a%00b", "status=queued&status=queued"] {
        let answer = server.get(&format!("/api/v1/registrations?{query}")).await;
        assert_eq!((answer.status, answer.text("type").as_str()), (StatusCode::BAD_REQUEST, "urn:hokusai:problem:bad-parameter"), "{query}");
    }
}

#[tokio::test]
async fn a_token_and_its_versions() {
    let server = Server::start().await;
    server.register(&with(json!({ "token_id": "MSG-ai" }))).await;
    insta::assert_snapshot!(server.get("/api/v1/tokens/msg-AI").await.shown(), @"");
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
    insta::assert_snapshot!(first.shown(), @"");
    assert_eq!(server.post(&path, claimed()).await.json(), first.json());
}

#[tokio::test]
async fn a_claim_that_the_chain_does_not_confirm_changes_nothing() {
    let (server, path) = with_chain(|_| Err(Denial::Otherwise(Invalid::new("transaction_hash", "reverted")))).await;
    insta::assert_snapshot!(server.post(&path, claimed()).await.shown(), @"");
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
    insta::assert_snapshot!(answer.shown(), @"");
}

#[tokio::test]
async fn a_claim_that_is_none() {
    let (server, path) = with_chain(deployed).await;
    let body = json!({ "token_address": "0x12" }).to_string();
    insta::assert_snapshot!(server.post(&path, body).await.shown(), @"");
    let worse = server.register(&with(json!({ "model_name": "worse", "current_value": 0.01 }))).await.text("registration_id");
    insta::assert_snapshot!(server.post(&format!("/api/v1/registrations/{worse}/deployed"), claimed()).await.shown(), @"");
    assert_eq!(server.post("/api/v1/registrations/none/deployed", claimed()).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_a_chain_the_missing_variable_is_named() {
    let server = Server::start().await;
    let id = server.register(&good()).await.text("registration_id");
    insta::assert_snapshot!(server.post(&format!("/api/v1/registrations/{id}/deployed"), claimed()).await.shown(), @"");
}
