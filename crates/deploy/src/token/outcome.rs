//! What became of each request of a transaction, read from its logs; and why a call would revert, read from its error.

use alloy::{
    primitives::{Address, B256, Log},
    sol_types::{SolEventInterface, SolInterface},
};

use super::{
    contract::{
        IModelTokenRegistry::{self, IModelTokenRegistryErrors, IModelTokenRegistryEvents, Refusal, Role},
        ModelTokenRegistry::ModelTokenRegistryErrors,
    },
    request::TokenRequest,
};

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The transaction created the symbol's token, with this version as its first.
    TokenCreated {
        /// The token.
        token: Address,
    },
    /// The transaction recorded the version on the symbol's token.
    VersionRecorded {
        /// The token.
        token: Address,
        /// The version's place on it, counting from one.
        number: u64,
    },
    /// The version had been recorded before, or earlier in the same transaction.
    AlreadyRecorded {
        /// The token.
        token: Address,
    },
    /// The registry refused the record. What [`TokenRequest::check`] lets pass, our registry does not refuse.
    Refused {
        /// Why, in words.
        reason: String,
    },
}

/// The logs of a successful transaction are not those of its requests: another registry, or another transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the transaction's logs do not tell what became of request {item}: {problem}")]
pub struct Misread {
    /// The position of the first request without its outcome.
    pub item: usize,
    /// What was found instead.
    pub problem: String,
}

/// Reads what became of each request from the logs of the successful transaction that carried them, in order.
/// Logs of other contracts are passed over.
pub fn read_outcomes<'a>(
    registry: Address,
    requests: &[TokenRequest],
    logs: impl IntoIterator<Item = &'a Log>,
) -> Result<Vec<Outcome>, Misread> {
    let mut outcomes = Vec::with_capacity(requests.len());
    for log in logs.into_iter().filter(|log| log.address == registry) {
        let item = outcomes.len();
        // Ours emits nothing else while registering; a registry that somebody brought may.
        if let Ok(event) = IModelTokenRegistryEvents::decode_log(log) {
            outcomes.extend(outcome(item, requests.get(item), event.data)?);
        }
    }
    if outcomes.len() == requests.len() {
        return Ok(outcomes);
    }
    Err(Misread { item: outcomes.len(), problem: "there is no event for it".to_owned() })
}

/// The keys of the versions that a transaction with these logs recorded at the registry, in order.
pub fn recorded_versions<'a>(registry: Address, logs: impl IntoIterator<Item = &'a Log>) -> Vec<B256> {
    let ours = logs.into_iter().filter(|log| log.address == registry);
    ours.filter_map(|log| match IModelTokenRegistryEvents::decode_log(log).ok()?.data {
        IModelTokenRegistryEvents::TokenCreated(event) => Some(event.versionKey),
        IModelTokenRegistryEvents::VersionRecorded(event) => Some(event.versionKey),
        _ => None,
    })
    .collect()
}

/// What one event says of the request whose turn it is; `None` if it says nothing of any.
fn outcome(item: usize, request: Option<&TokenRequest>, event: IModelTokenRegistryEvents) -> Result<Option<Outcome>, Misread> {
    let misread = |problem: String| Misread { item, problem };
    let (version_key, outcome) = match event {
        IModelTokenRegistryEvents::TokenCreated(event) => (Some(event.versionKey), Outcome::TokenCreated { token: event.token }),
        IModelTokenRegistryEvents::VersionRecorded(event) => {
            let number = u64::try_from(event.number).map_err(|_| misread(format!("version number {}", event.number)))?;
            (Some(event.versionKey), Outcome::VersionRecorded { token: event.token, number })
        }
        IModelTokenRegistryEvents::AlreadyRecorded(event) => (Some(event.versionKey), Outcome::AlreadyRecorded { token: event.token }),
        IModelTokenRegistryEvents::RecordRefused(event) => (None, Outcome::Refused { reason: describe(event.reason).to_owned() }),
        IModelTokenRegistryEvents::RoleGranted(_) | IModelTokenRegistryEvents::RoleRevoked(_) => return Ok(None),
    };
    let request = request.ok_or_else(|| misread("there are more outcomes than requests".to_owned()))?;
    if version_key.is_some_and(|key| key != request.version_key()) {
        return Err(misread("the event in its place is of another version".to_owned()));
    }
    Ok(Some(outcome))
}

/// Why a call to the registry reverted, by what the caller does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Revert {
    /// The owner paused registration: wait.
    #[error("the registry is paused")]
    Paused,
    /// The account may not register: the owner has to grant it the role.
    #[error("{account} lacks the deployer role on the registry: its owner can grant it")]
    NotDeployer {
        /// The account that called.
        account: Address,
    },
    /// The only record of the call is refused, for good.
    #[error("the registry refuses the record: {reason}")]
    Refused {
        /// Why, in words.
        reason: String,
    },
    /// The registry does not explain itself, as when gas runs out.
    #[error("the registry reverted with {data}")]
    Unexplained {
        /// What it returned.
        data: alloy::primitives::Bytes,
    },
}

/// Reads the data of a reverted call to the registry.
pub fn read_revert(data: &[u8]) -> Revert {
    if let Ok(ModelTokenRegistryErrors::EnforcedPause(_)) = ModelTokenRegistryErrors::abi_decode(data) {
        return Revert::Paused;
    }
    match IModelTokenRegistryErrors::abi_decode(data) {
        Ok(IModelTokenRegistryErrors::MissingRole(IModelTokenRegistry::MissingRole { role: Role::Deployer, account })) => {
            Revert::NotDeployer { account }
        }
        Ok(IModelTokenRegistryErrors::InvalidRecord(error)) => Revert::Refused { reason: describe(error.reason).to_owned() },
        _ => Revert::Unexplained { data: data.to_vec().into() },
    }
}

fn describe(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Symbol => "token_symbol: must be 1 to 64 letters, digits and hyphens",
        Refusal::ModelName => "model_name: must be 1 to 256 bytes",
        Refusal::ModelVersion => "model_version: must be 1 to 256 bytes",
        Refusal::ModelId => "model_id: must be 1 to 1024 bytes",
        Refusal::RunId => "mlflow_run_id: must be at most 256 bytes",
        Refusal::MetricName => "metric_name: must be 1 to 256 bytes",
        Refusal::BelowBaseline => "current_value: the model does not reach its baseline",
        Refusal::None | Refusal::__Invalid => "the registry gives no reason that is known here",
    }
}
