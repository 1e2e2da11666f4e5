//! A registration written out before its version is known.
//!
//! Writing JSON is most of the work of registering, and the committer is one task; so the document and the events are written
//! by whoever registers, with a placeholder in the version's place, and the committer only puts the version in. The
//! placeholder is a random UUID: no text that anybody sent can hold it.

use std::sync::Arc;

use hokusai_event::{Event, Invalid, Verdict, model_id};
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    document::{Decision, Document},
    outbox::{NewEvent, new_id},
    request::{Origin, RegisterRequest},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Draft {
    document: Document,
    json: String,
    events: Vec<NewEvent>,
    placeholder: String,
}

/// A draft with its version.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) document: Arc<Document>,
    pub(crate) json: String,
    pub(crate) events: Vec<NewEvent>,
}

impl Draft {
    pub(crate) fn new(
        request: &RegisterRequest,
        origin: &Origin,
        verdict: &Verdict,
        correlation_id: String,
        max_retries: u32,
    ) -> Result<Self, Invalid> {
        let placeholder = Uuid::new_v4().to_string();
        let mut document = document(request, origin, verdict, correlation_id, &placeholder);
        let at = document.created_at.at();
        let event = |event: &Event| {
            let (id, correlation_id) = (document.registration_id.clone(), document.correlation_id.clone());
            NewEvent::new(event, Some(id), correlation_id, at, max_retries).map_err(said_of_the_request)
        };
        let events = match document.verdict {
            Decision::Accepted => vec![event(&document.registered())?, event(&document.ready())?],
            Decision::Rejected => vec![event(&document.failed())?],
        };
        if document.verdict == Decision::Accepted {
            document.message_id = events.last().map(|ready| ready.message_id.clone());
        }
        let json = serde_json::to_string(&document).map_err(|error| Invalid::whole(format!("cannot be written as JSON: {error}")))?;
        Ok(Self { document, json, events, placeholder })
    }

    pub(crate) fn registration_id(&self) -> &str {
        &self.document.registration_id
    }

    pub(crate) fn is_rejected(&self) -> bool {
        self.document.verdict == Decision::Rejected
    }

    /// Puts the version in.
    pub(crate) fn finish(&self, version: &str) -> Finished {
        let mut document = self.document.clone();
        document.model_id = model_id(&document.model_name, version, document.token_id.as_str());
        version.clone_into(&mut document.model_version);
        // A version is digits or what MLflow calls one; written as JSON it may need escaping.
        let version = serde_json::Value::from(version).to_string();
        let version = &version[1..version.len() - 1];
        let events = self.events.iter().map(|event| {
            // Our own bytes, written as UTF-8 a moment ago.
            let envelope = String::from_utf8_lossy(&event.envelope).replace(&self.placeholder, version);
            NewEvent { envelope: envelope.into(), ..event.clone() }
        });
        Finished { document: document.into(), json: self.json.replace(&self.placeholder, version), events: events.collect() }
    }
}

fn document(request: &RegisterRequest, origin: &Origin, verdict: &Verdict, correlation_id: String, version: &str) -> Document {
    Document {
        registration_id: new_id(),
        model_id: model_id(&request.model_name, version, request.token_id.as_str()),
        model_name: request.model_name.clone(),
        model_version: version.to_owned(),
        token_id: request.token_id.clone(),
        mlflow_run_id: origin.run_id.clone(),
        model_uri: request.model_uri.clone(),
        metric_name: request.metric_name.clone(),
        baseline_value: request.baseline_value,
        current_value: request.current_value,
        metric_direction: request.metric_direction,
        improvement_percentage: verdict.improvement_percentage,
        verdict: if verdict.meets_baseline { Decision::Accepted } else { Decision::Rejected },
        reason: verdict.reason.clone(),
        contributor_address: request.contributor_address.clone(),
        experiment_name: request.experiment_name.clone(),
        tags: request.tags.clone(),
        performance_data: request.performance_data.clone(),
        message_id: None,
        correlation_id,
        created_at: Timestamp::now().into(),
    }
}

/// What is wrong with an event is wrong with the request it was made of.
fn said_of_the_request(invalid: Invalid) -> Invalid {
    let field = invalid.field.strip_prefix("payload.").unwrap_or(&invalid.field).to_owned();
    Invalid { field, ..invalid }
}
