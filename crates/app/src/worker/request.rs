//! What a message asks of the chain. Pure.

use alloy::primitives::Address;
use hokusai_deploy::token::TokenRequest;
use hokusai_event::{Envelope, Event, Invalid, MetricDirection, ModelReadyToDeploy, check_message};

/// Well below the 2,704 bytes that an index of PostgreSQL can hold.
const ID_MAX_BYTES: usize = 1024;

/// A message that can never be deployed, by kind and reason as its dead-letter entry tells them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {reason}")]
pub(crate) struct Unusable {
    pub(crate) kind: &'static str,
    pub(crate) reason: String,
}

/// Reads an entry of the queue as a request for a token.
pub(super) fn read(entry: &[u8]) -> Result<TokenRequest, Unusable> {
    let (envelope, event) = check_message(entry).map_err(|problems| Unusable { kind: "invalid_message", reason: list(&problems) })?;
    check_id("message_id", &envelope.message_id)?;
    check_id("correlation_id", envelope.correlation())?;
    match event {
        Event::ModelReadyToDeploy(ready) => Ok(token_request(&envelope, ready)),
        other => Err(Unusable {
            kind: "unexpected_type",
            reason: format!("message_type: this queue is for model_ready_to_deploy, this is {}", other.message_type()),
        }),
    }
}

/// The wire allows any text as an id. The ledger's tables and indexes do not: PostgreSQL keeps no NUL, and no long keys.
fn check_id(field: &str, id: &str) -> Result<(), Unusable> {
    let reason = if id.contains('\0') {
        format!("{field}: must not contain NUL")
    } else if id.len() > ID_MAX_BYTES {
        format!("{field}: must be at most {ID_MAX_BYTES} bytes long, is {}", id.len())
    } else {
        return Ok(());
    };
    Err(Unusable { kind: "invalid_message", reason })
}

fn token_request(envelope: &Envelope, ready: ModelReadyToDeploy) -> TokenRequest {
    TokenRequest {
        symbol: ready.token_symbol.as_str().to_owned(),
        lower_is_better: ready.metric_direction.unwrap_or_default() == MetricDirection::LowerIsBetter,
        contributor: ready.contributor_address.map(|address| Address::from(address.bytes())),
        model_name: ready.model_name,
        model_version: ready.model_version,
        model_id: ready.model_id,
        mlflow_run_id: ready.mlflow_run_id,
        metric_name: ready.metric_name,
        baseline_value: ready.baseline_value,
        current_value: ready.current_value,
        message_id: envelope.message_id.clone(),
        correlation_id: envelope.correlation().to_owned(),
        registration_id: ready.registration_id,
    }
}

fn list(problems: &[Invalid]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use hokusai_event::{MessageType, example};

    use super::*;

    #[test]
    fn a_message_becomes_a_request() {
        let message = example(MessageType::ModelReadyToDeploy);
        let request = read(message.to_string().as_bytes()).unwrap();
        assert_eq!(request.symbol, message["payload"]["token_symbol"].as_str().unwrap());
        assert_eq!(request.message_id, message["message_id"].as_str().unwrap());
        assert_eq!(request.baseline_value, message["payload"]["baseline_value"].as_f64().unwrap());
        assert!(!request.lower_is_better);
        assert_eq!(request.check(), Ok(()));
    }

    #[test]
    fn what_cannot_be_deployed_says_why() {
        let mut message = example(MessageType::ModelReadyToDeploy);
        message["payload"]["token_symbol"] = "no spaces".into();
        let unusable = read(message.to_string().as_bytes()).unwrap_err();
        assert_eq!(unusable.kind, "invalid_message");
        assert!(unusable.reason.starts_with("payload.token_symbol: "), "{}", unusable.reason);

        let other = example(MessageType::ModelRegistered);
        assert_eq!(read(other.to_string().as_bytes()).unwrap_err().kind, "unexpected_type");
        assert_eq!(read(b"\xff").unwrap_err().kind, "invalid_message");

        for (field, id) in [("message_id", "a\0b".to_owned()), ("message_id", "x".repeat(1025)), ("correlation_id", "\0".to_owned())] {
            let mut message = example(MessageType::ModelReadyToDeploy);
            message[field] = id.into();
            let unusable = read(message.to_string().as_bytes()).unwrap_err();
            assert!(unusable.reason.starts_with(&format!("{field}: ")), "{}", unusable.reason);
        }
    }
}
