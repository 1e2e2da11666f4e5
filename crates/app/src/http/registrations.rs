//! Reading registrations and tokens.

use axum::{Json, extract::State};
use hokusai_registry::{Filter, Registration};

use super::{
    Api,
    problem::{self, Document, Problem},
    search::{self, Segment},
    wire::{RegistrationDetail, RegistrationList, RegistrationView, Search, Step, Token},
};

const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 200;
/// Longer than any name, symbol or id is; bounds what is compared.
const MAX_FILTER_BYTES: usize = 2_048;

/// Lists registrations, the newest first.
#[utoipa::path(get, path = "/api/v1/registrations", operation_id = "listRegistrations", tag = "registrations", params(Search), responses(
    (status = 200, description = "One page.", body = RegistrationList),
    (status = 400, description = "A parameter is wrong.", body = Document, content_type = problem::CONTENT_TYPE),
    (status = 503, description = "The database does not answer.", body = Document, content_type = problem::CONTENT_TYPE),
))]
pub(crate) async fn list(
    State(api): State<Api>,
    search::Search(search): search::Search<Search>,
) -> Result<Json<RegistrationList>, Problem> {
    let limit = search.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::parameter("limit", format!("must be 1 to {MAX_PAGE}")));
    }
    for (name, value) in [("token", &search.token), ("model", &search.model), ("after", &search.after)] {
        if value.as_ref().is_some_and(|value| !is_name(value)) {
            return Err(Problem::parameter(name, format!("must be text of at most {MAX_FILTER_BYTES} bytes, without NUL")));
        }
    }
    // One more than asked for says whether there is a next page.
    let filter =
        Filter { status: search.status.map(Into::into), token: search.token, model: search.model, after: search.after, limit: limit + 1 };
    let mut found = api.registrations.list(&filter).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| more).map(|last| last.document.registration_id.clone());
    Ok(Json(RegistrationList { registrations: found.into_iter().map(RegistrationView::from).collect(), next }))
}

/// One registration with its history.
#[utoipa::path(get, path = "/api/v1/registrations/{id}", operation_id = "getRegistration", tag = "registrations",
    params(("id" = String, Path, description = "The registration.")),
    responses(
        (status = 200, description = "The registration.", body = RegistrationDetail),
        (status = 404, description = "There is no such registration.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 503, description = "The database does not answer.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn show(State(api): State<Api>, Segment(id): Segment) -> Result<Json<RegistrationDetail>, Problem> {
    detail(&api, &id).await.map(Json)
}

/// A token and the model versions registered for it.
#[utoipa::path(get, path = "/api/v1/tokens/{symbol}", operation_id = "getToken", tag = "registrations",
    params(("symbol" = String, Path, description = "The token's symbol; case does not matter.", example = "msg-ai")),
    responses(
        (status = 200, description = "The token.", body = Token),
        (status = 404, description = "Nothing was registered for it.", body = Document, content_type = problem::CONTENT_TYPE),
        (status = 503, description = "The database does not answer.", body = Document, content_type = problem::CONTENT_TYPE),
    ))]
pub(crate) async fn token(State(api): State<Api>, Segment(symbol): Segment) -> Result<Json<Token>, Problem> {
    let known = if is_name(&symbol) { api.registrations.token(&symbol).await? } else { None };
    known.map(|token| Json(token.into())).ok_or_else(|| Problem::unknown("Nothing was registered for a token of this symbol."))
}

/// What a database can be asked for: PostgreSQL refuses NUL.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_FILTER_BYTES && !text.contains('\0')
}

pub(super) async fn find(api: &Api, id: &str) -> Result<Registration, Problem> {
    let known = if is_name(id) { api.registrations.get(id).await? } else { None };
    known.ok_or_else(|| Problem::unknown("There is no registration of this id."))
}

pub(super) async fn detail(api: &Api, id: &str) -> Result<RegistrationDetail, Problem> {
    let registration = find(api, id).await?;
    let history = api.registrations.history(id).await?;
    Ok(RegistrationDetail { registration: registration.into(), history: history.into_iter().map(Step::from).collect() })
}
