//! The client of another hokusai server, for `HOKUSAI_API_URL`: what the command line does without database credentials.
//!
//! The key travels as a bearer token and is never printed. A problem document becomes an error that a person can act on.

use std::{fmt, time::Duration};

use anyhow::{Context as _, anyhow};
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
    redirect,
};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use crate::http::wire::{Registered, RegistrationDetail, RegistrationList, Search, Token};

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A little longer than the server takes to give up, so that its reason is heard.
const ANSWER_TIME: Duration = Duration::from_secs(40);
/// The most of an answer that is no problem document shown to the person.
const SHOWN_CHARS: usize = 300;

/// A server's HTTP interface.
#[derive(Clone)]
pub(crate) struct ApiClient {
    base: Url,
    http: reqwest::Client,
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiClient({})", self.name())
    }
}

/// What makes one registration recognisable.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ids<'a> {
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) correlation_id: Option<&'a str>,
}

impl ApiClient {
    /// A client of the server at `base`, which may have a path of its own.
    pub(crate) fn new(base: &Url, key: Option<&str>) -> anyhow::Result<Self> {
        anyhow::ensure!(matches!(base.scheme(), "http" | "https"), "HOKUSAI_API_URL must be an http:// or https:// address");
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let bearer = HeaderValue::from_str(&format!("Bearer {key}"));
            let mut bearer = bearer.map_err(|_| anyhow!("HOKUSAI_API_KEY holds a character that no header may hold"))?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("hokusai/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME)
            .timeout(ANSWER_TIME)
            .redirect(redirect::Policy::none())
            .build()
            .context("the HTTP client could not be set up")?;
        Ok(Self { base: base.clone(), http })
    }

    /// Registers a model; `body` is the JSON of a registration request. Repeating it is harmless.
    pub(crate) async fn register(&self, body: Vec<u8>, ids: Ids<'_>) -> anyhow::Result<Registered> {
        let mut request = self.request(Method::POST, &["api", "v1", "models", "register"])?;
        request = request.header("content-type", "application/json").body(body);
        for (name, value) in [("idempotency-key", ids.idempotency_key), ("x-correlation-id", ids.correlation_id)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        self.answer(request).await
    }

    /// One registration with its history; `None` if the server knows none by that id.
    pub(crate) async fn registration(&self, id: &str) -> anyhow::Result<Option<RegistrationDetail>> {
        self.find(&["api", "v1", "registrations", id]).await
    }

    /// One page of the registrations that match.
    pub(crate) async fn registrations(&self, search: &Search) -> anyhow::Result<RegistrationList> {
        let request = self.request(Method::GET, &["api", "v1", "registrations"])?.query(search);
        self.answer(request).await
    }

    /// Messages in the server's default queue, and in its consumers' hands.
    pub(crate) async fn waiting(&self) -> anyhow::Result<(u64, u64)> {
        let queues: serde_json::Value = self.answer(self.request(Method::GET, &["api", "v1", "queues"])?).await?;
        let queues = queues["queues"].as_array().cloned().unwrap_or_default();
        let default = queues.iter().find(|queue| queue["default"] == true).or(queues.first()).cloned().unwrap_or_default();
        let count = |state: &str| default["depths"][state].as_u64().unwrap_or_default();
        Ok((count("main"), count("processing")))
    }

    /// A token; `None` if the server knows none by that symbol.
    #[cfg_attr(not(test), expect(dead_code, reason = "the command line has no command for a token yet"))]
    pub(crate) async fn token(&self, symbol: &str) -> anyhow::Result<Option<Token>> {
        self.find(&["api", "v1", "tokens", symbol]).await
    }

    fn request(&self, method: Method, path: &[&str]) -> anyhow::Result<RequestBuilder> {
        let mut url = self.base.clone();
        url.path_segments_mut().map_err(|()| anyhow!("HOKUSAI_API_URL cannot have a path added to it"))?.pop_if_empty().extend(path);
        Ok(self.http.request(method, url))
    }

    async fn find<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<Option<T>> {
        let (status, body) = self.send(self.request(Method::GET, path)?).await?;
        // A 404 of the interface itself says that this is another kind of server.
        let unknown = status == StatusCode::NOT_FOUND && Told::read(&body).is_some_and(|told| told.kind == "urn:hokusai:problem:unknown");
        if unknown { Ok(None) } else { self.read(status, &body).map(Some) }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let (status, body) = self.send(request).await?;
        self.read(status, &body)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let sent = async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status(), response.bytes().await?.to_vec()))
        };
        sent.await.map_err(reqwest::Error::without_url).with_context(|| format!("{} did not answer", self.name()))
    }

    fn read<T: DeserializeOwned>(&self, status: StatusCode, body: &[u8]) -> anyhow::Result<T> {
        if status.is_success() {
            return serde_json::from_slice(body).with_context(|| format!("{} answered something else than was asked", self.name()));
        }
        match Told::read(body) {
            Some(told) => {
                let text = told.sentence(status, &self.name());
                Err(Refused { status: status.as_u16(), text, registration_id: told.registration_id }.into())
            }
            None => {
                let text: String = String::from_utf8_lossy(body).chars().filter(|char| !char.is_control()).take(SHOWN_CHARS).collect();
                let text = format!("{} answered {status}: {text}", self.name());
                Err(Refused { status: status.as_u16(), text, registration_id: None }.into())
            }
        }
    }

    /// The server, for messages: without user, password or query.
    fn name(&self) -> String {
        let origin = self.base.origin().ascii_serialization();
        format!("{origin}{}", self.base.path().trim_end_matches('/'))
    }
}

/// The server said no.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refused {
    pub(crate) status: u16,
    text: String,
    /// On a conflict: the registration that came first.
    pub(crate) registration_id: Option<String>,
}

/// A problem document, as far as a person is told of it.
#[derive(Debug, Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    detail: String,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default)]
    registration_id: Option<String>,
    #[serde(default)]
    errors: Vec<crate::http::wire::FieldError>,
}

impl Told {
    fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    fn sentence(&self, status: StatusCode, server: &str) -> String {
        let mut text = format!("{}: {}", self.title, self.detail);
        for error in &self.errors {
            let field = if error.field.is_empty() { "the body" } else { &error.field };
            text.push_str(&format!("\n  {field}: {}", error.problem));
        }
        if let Some(first) = &self.registration_id {
            text.push_str(&format!("\n  the first registration: {first}"));
        }
        let request = self.request_id.as_deref().map(|id| format!(", request {id}")).unwrap_or_default();
        text.push_str(&format!("\n  ({} from {server}{request})", status.as_u16()));
        text
    }
}

#[cfg(test)]
mod tests;
