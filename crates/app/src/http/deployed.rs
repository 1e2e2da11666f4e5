//! `POST /api/v1/registrations/{id}/deployed`: a deployer that is not our worker says that it is done. The chain is asked
//! whether that is so, and its answer is what is recorded; the deployer's word is only where to look.

use std::fmt;

use async_trait::async_trait;
use axum::{Json, extract::State};
use hokusai_event::{Address, Field, Invalid, Kind as FieldKind, ModelDeployed, Need, Timestamp, TokenSymbol, check_fields, parse_object};
use hokusai_registry::{Registration, Status, apply_deployed};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Api,
    body::{self, JsonBytes},
    problem::{self, Document, Kind, Problem},
    registrations,
    search::Segment,
    wire::RegistrationDetail,
};

/// Looks a claim up on the chain.
#[async_trait]
pub(crate) trait ChainCheck: Send + Sync + fmt::Debug {
    /// What the chain holds for the claimed model version, at final depth.
    async fn verify(&self, claim: &Claim) -> Result<OnChain, Denial>;
}

/// What a deployer says it did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claim {
    pub(crate) symbol: TokenSymbol,
    pub(crate) model_name: String,
    pub(crate) model_version: String,
    pub(crate) token_address: Address,
    pub(crate) transaction_hash: String,
}

/// What the chain says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OnChain {
    pub(crate) chain_id: u64,
    pub(crate) registry_address: Address,
    pub(crate) token_address: Address,
    pub(crate) transaction_hash: Option<String>,
    pub(crate) block_number: Option<u64>,
    pub(crate) gas_used: Option<u64>,
    /// In decimal digits.
    pub(crate) fee_wei: Option<String>,
    pub(crate) deployed_at: jiff::Timestamp,
}

/// Why a claim was not confirmed.
#[derive(Debug)]
pub(crate) enum Denial {
    /// The chain shows something else: which field, and what it shows.
    Otherwise(Invalid),
    /// It is there, but not at final depth yet.
    NotFinal,
    /// The chain does not answer.
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Otherwise(invalid) => Self::new(Kind::NotOnChain, "Nothing was recorded: see `errors`.").naming(vec![invalid]),
            Denial::NotFinal => {
                Self::new(Kind::NotFinal, "The transaction is there but not at final depth yet. Send the same request again.")
                    .retry_after(15)
            }
            Denial::Unavailable(cause) => Self::unavailable("The chain does not answer. Send the same request again.", &*cause),
        }
    }
}

/// Where to look.
#[derive(Debug, ToSchema)]
#[schema(as = DeployedClaim)]
#[expect(dead_code, reason = "describes the body, which is read through the table of its fields")]
pub(crate) struct ClaimSchema {
    /// The token contract.
    #[schema(example = "0x52908400098527886E0F7030069857D2E4169EE7")]
    token_address: String,
    /// The transaction that recorded the model version.
    #[schema(example = "0x9fc76417374aa880d4449a1f7f31ec597f00b1f6f3dd2d66f4c9c6c445836d8b")]
    transaction_hash: String,
}

const FIELDS: &[Field] = &[
    Field { name: "token_address", need: Need::Required, kind: FieldKind::Address, about: "The token contract." },
    Field { name: "transaction_hash", need: Need::Required, kind: FieldKind::Hash, about: "The transaction that recorded the version." },
];

/// Says that a registration's model version is on the chain. It is checked there, and recorded as the chain shows it.
#[utoipa::path(post, path = "/api/v1/registrations/{id}/deployed", operation_id = "reportDeployed", tag = "registrations",
    params(("id" = String, Path, description = "The registration.")),
    request_body = ClaimSchema,
    responses(
        (status = 200, description = "It is; the registration as it is now. Saying it again changes nothing.", body = RegistrationDetail),
        (status = 400, description = "The body is no JSON.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 404, description = "There is no such registration.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 409, description = "The registration was rejected, or the transaction is not at final depth yet (then with `Retry-After`).", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 415, description = "The body is not declared as JSON.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 422, description = "A field is wrong, or the chain shows something else.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 501, description = "This server was given no chain to ask; the variable is named.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 503, description = "The chain or the database does not answer.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn report(
    State(api): State<Api>,
    Segment(id): Segment,
    JsonBytes(bytes): JsonBytes,
) -> Result<Json<RegistrationDetail>, Problem> {
    let Some(chain) = &api.chain else {
        let detail = "WEB3_PROVIDER_URL is not set for this server, so it cannot look the deployment up on the chain.";
        return Err(Problem::new(Kind::NotConfigured, detail));
    };
    let fields = parse_object(&bytes).map_err(|invalid| body::refuse(&bytes, vec![invalid]))?;
    let registration = registrations::find(&api, &id).await?;
    let claim = claim(&registration, fields).map_err(|errors| body::refuse(&bytes, errors))?;
    let Some(message_id) = registration.document.message_id.clone() else {
        return Err(Problem::conflict(id, "The registration was rejected, so there is nothing to deploy."));
    };
    if registration.status != Status::Deployed {
        let on_chain = chain.verify(&claim).await?;
        record(&api, &deployed(&registration, message_id, on_chain)).await?;
    }
    registrations::detail(&api, &id).await.map(Json)
}

fn claim(registration: &Registration, mut fields: Map<String, Value>) -> Result<Claim, Vec<Invalid>> {
    let wrong = check_fields(FIELDS, &mut fields, "");
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Claim {
        symbol: registration.document.token_id.clone(),
        model_name: registration.document.model_name.clone(),
        model_version: registration.document.model_version.clone(),
        token_address: Address::parse(&text("token_address")).map_err(|invalid| vec![invalid.at("token_address")])?,
        transaction_hash: text("transaction_hash").to_ascii_lowercase(),
    })
}

fn deployed(registration: &Registration, message_id: String, on_chain: OnChain) -> ModelDeployed {
    let document = &registration.document;
    ModelDeployed {
        model_id: document.model_id.clone(),
        token_symbol: document.token_id.clone(),
        model_name: document.model_name.clone(),
        model_version: document.model_version.clone(),
        mlflow_run_id: document.mlflow_run_id.clone(),
        message_id,
        chain_id: on_chain.chain_id,
        registry_address: on_chain.registry_address,
        token_address: on_chain.token_address,
        deployed_at: Timestamp::new(on_chain.deployed_at),
        timestamp: Some(Timestamp::new(on_chain.deployed_at)),
        message_version: None,
        registration_id: Some(document.registration_id.clone()),
        transaction_hash: on_chain.transaction_hash,
        block_number: on_chain.block_number,
        gas_used: on_chain.gas_used,
        fee_wei: on_chain.fee_wei,
        elapsed_ms: None,
        correlation_id: Some(document.correlation_id.clone()),
        unknown: Map::new(),
    }
}

async fn record(api: &Api, deployed: &ModelDeployed) -> Result<(), Problem> {
    let mut tx = api.database.write().await?;
    apply_deployed(&mut tx, deployed, jiff::Timestamp::now()).await?;
    tx.commit().await.map_err(hokusai_db::Error::from)?;
    Ok(())
}
