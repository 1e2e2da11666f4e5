//! Registering models and following them: over HTTP with `HOKUSAI_API_URL`, else in the database.

use serde::Serialize;

use super::{Failure, Kind, Settings};
use crate::{
    cli::Source,
    client::Ids,
    http::wire::{RegistrationDetail, Search},
};

/// Where registrations are; see the module's description.
pub struct Registry {
    source: Source,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// Opens it: with `HOKUSAI_API_URL` nothing is asked yet, else the database is opened and its tables are brought up to date.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn open(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { source: Source::open(&settings.env()).await? })
    }

    /// Registers a model; `request` is the JSON of `POST /api/v1/models/register`, the answer is its answer.
    ///
    /// # Errors
    ///
    /// [`Failure`]; a model below its baseline is none.
    pub async fn register(&self, request: Vec<u8>, idempotency_key: Option<&str>, correlation_id: Option<&str>) -> Result<String, Failure> {
        let registered = self.source.register(request, Ids { idempotency_key, correlation_id }).await?;
        json(&registered)
    }

    /// One registration with its history, as `GET /api/v1/registrations/{id}` answers.
    ///
    /// # Errors
    ///
    /// [`Failure`]; [`Kind::NotFound`] if there is none by that id.
    pub async fn get(&self, id: &str) -> Result<String, Failure> {
        let found: Option<RegistrationDetail> = self.source.find(id).await?;
        json(&found.ok_or_else(|| Failure::new(Kind::NotFound, format!("there is no registration {id}")))?)
    }

    /// One page of registrations; `search` is a JSON object of the query parameters of `GET /api/v1/registrations`.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn list(&self, search: &str) -> Result<String, Failure> {
        let search: Search = serde_json::from_str(search).map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
        json(&self.source.list(search).await?)
    }

    /// How many messages wait for a deployer and how many are in one's hands.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn waiting(&self) -> Result<(u64, u64), Failure> {
        Ok(self.source.waiting().await?)
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(Kind::Other, error.to_string()))
}
