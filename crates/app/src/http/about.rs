//! What the interface says about itself: `/version`, `/schemas/{type}.json`, `/openapi.json`.

use std::str::FromStr as _;

use axum::{
    Extension, Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hokusai_event::MessageType;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Api,
    problem::{self, Document, Problem},
    register,
    search::Segment,
};

/// Which program this is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Version {
    #[schema(example = "0.1.0")]
    pub(crate) version: &'static str,
    /// The commit it was built from, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<&'static str>,
}

/// The version of the server.
#[utoipa::path(get, path = "/version", operation_id = "getVersion", tag = "operation", responses((status = 200, description = "The version.", body = Version)))]
pub(crate) async fn version(State(api): State<Api>) -> Json<Version> {
    Json(api.version)
}

/// The JSON Schema of a message type: the whole envelope, as it travels through a queue.
#[utoipa::path(get, path = "/schemas/{type}", operation_id = "getMessageSchema", tag = "messages",
    params(("type" = String, Path, description = "The message type followed by `.json`.", example = "model_ready_to_deploy.json")),
    responses(
        (status = 200, description = "The schema.", body = serde_json::Value, content_type = "application/schema+json"),
        (status = 404, description = "There is no such message type.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn schema(Segment(file): Segment) -> Result<Response, Problem> {
    let kind = file.strip_suffix(".json").and_then(|name| MessageType::from_str(name).ok()).ok_or_else(|| {
        let known = MessageType::ALL.map(|kind| format!("{kind}.json")).join(", ");
        Problem::unknown(format!("There is no schema `{file}`; there are: {known}."))
    })?;
    let schema = serde_json::to_vec_pretty(&hokusai_event::schema(kind)).map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/schema+json")], schema).into_response())
}

/// The document of the handlers, completed by what their attributes cannot say: the request's schema, which comes from
/// the table that requests are checked by, and that whatever else goes wrong is a problem document too.
pub(super) fn document(openapi: &utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(openapi).expect("a document of strings serialises");
    document["components"]["schemas"]["RegisterRequest"] = register::request_schema();
    let items = document["paths"].as_object_mut().into_iter().flatten();
    for operation in items.flat_map(|(_, item)| item.as_object_mut().into_iter().flatten().map(|(_, operation)| operation)) {
        operation["responses"]["default"] = json!({
            "description": "Any other failure: an internal one, or one of the request itself.",
            "content": { problem::CONTENT_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } },
        });
    }
    document
}

/// The OpenAPI document, written once.
#[derive(Debug, Clone)]
pub(crate) struct OpenApiBytes(pub(crate) Bytes);

/// This interface, described for programs.
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenApi", tag = "operation",
    responses((status = 200, description = "An OpenAPI 3.1 document.", body = serde_json::Value)))]
pub(crate) async fn openapi(Extension(OpenApiBytes(document)): Extension<OpenApiBytes>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}
