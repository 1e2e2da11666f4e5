//! A registration written out before its version is known.
//!
//! Writing JSON is most of the work of registering, and the committer is one task; so the document and the events are written
//! by whoever registers, with a placeholder in the version's place, and the committer only puts the version in. The
//! placeholder is a random UUID: no text that anybody sent can hold it.

use hokusai_event::{Event, Invalid, MessageType, Verdict, model_id};
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    document::{Decision, Document},
    outbox::{NewEvent, new_id},
    register::Receipt,
    request::{Origin, RegisterRequest, Values, Version},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Without the version, and the id that it is part of.
    pub(crate) document: Document,
    json: Gapped,
    events: Vec<(NewEvent, Gapped)>,
}

/// A draft's texts with the version in them.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) version: String,
    pub(crate) json: String,
    pub(crate) events: Vec<NewEvent>,
}

/// A text with gaps for the version.
#[derive(Debug)]
struct Gapped(Vec<String>);

impl Gapped {
    fn new(text: &str, placeholder: &str) -> Self {
        Self(text.split(placeholder).map(str::to_owned).collect())
    }

    fn filled(&self, with: &str) -> String {
        self.0.join(with)
    }
}

impl Draft {
    pub(crate) fn new(
        request: &RegisterRequest,
        origin: &Origin,
        judged: &(Values, Verdict),
        correlation_id: String,
        max_retries: u32,
    ) -> Result<Self, Invalid> {
        let placeholder = Uuid::new_v4().to_string();
        let mut document = document(request, origin, judged, correlation_id, &placeholder);
        let at = document.created_at.at();
        let event = |event: Event| {
            let id = document.registration_id.clone();
            let mut event = NewEvent::wrap(event, Some(id), &document.correlation_id, at, max_retries).map_err(said_of_the_request)?;
            // Our own bytes, written as UTF-8 a moment ago.
            let envelope = Gapped::new(&String::from_utf8_lossy(&std::mem::take(&mut event.envelope)), &placeholder);
            Ok::<_, Invalid>((event, envelope))
        };
        let events = match document.verdict {
            Decision::Accepted => vec![event(document.registered())?, event(document.ready())?],
            Decision::Rejected => vec![event(document.failed())?],
        };
        let ready = events.iter().find(|(event, _)| event.message_type == MessageType::ModelReadyToDeploy);
        document.message_id = ready.map(|(ready, _)| ready.message_id.clone());
        let json = serde_json::to_string(&document).map_err(|error| Invalid::whole(format!("cannot be written as JSON: {error}")))?;
        let json = Gapped::new(&json, &placeholder);
        (document.model_id, document.model_version) = (String::new(), String::new());
        Ok(Self { document, json, events })
    }

    pub(crate) fn is_rejected(&self) -> bool {
        self.document.verdict == Decision::Rejected
    }

    /// Puts the version in.
    pub(crate) fn finish(&self, version: String) -> Finished {
        // A version is digits or what MLflow calls one; written as JSON it may need escaping.
        let escaped = serde_json::Value::from(version.as_str()).to_string();
        let escaped = &escaped[1..escaped.len() - 1];
        let finish = |(event, envelope): &(NewEvent, Gapped)| NewEvent { envelope: envelope.filled(escaped).into(), ..event.clone() };
        Finished { version, json: self.json.filled(escaped), events: self.events.iter().map(finish).collect() }
    }

    /// The answer to whoever asked for it.
    pub(crate) fn receipt(&self, version: &str, replayed: bool) -> Receipt {
        let Document { model_name, token_id, .. } = &self.document;
        Receipt {
            model_id: model_id(model_name, version, token_id.as_str()),
            model_version: version.to_owned(),
            ..Receipt::of(&self.document, replayed)
        }
    }
}

fn document(
    request: &RegisterRequest,
    origin: &Origin,
    (values, verdict): &(Values, Verdict),
    correlation_id: String,
    version: &str,
) -> Document {
    Document {
        registration_id: new_id(),
        model_id: model_id(&request.model_name, version, request.token_id.as_str()),
        model_name: request.model_name.clone(),
        model_version: version.to_owned(),
        token_id: request.token_id.clone(),
        mlflow_run_id: origin.run_id.clone(),
        model_uri: request.model_uri.clone(),
        metric_name: request.metric_name.clone(),
        baseline_value: values.baseline,
        current_value: values.current,
        metric_direction: request.metric_direction,
        improvement_percentage: verdict.improvement_percentage,
        verdict: if verdict.meets_baseline { Decision::Accepted } else { Decision::Rejected },
        reason: verdict.reason.clone(),
        contributor_address: request.contributor_address.clone(),
        experiment_name: request.experiment_name.clone(),
        tags: request.tags.clone(),
        performance_data: request.performance_data.clone(),
        baseline: request.baseline.as_ref().map(|baseline| baseline.text.clone()),
        in_mlflow: matches!(origin.version, Version::Given(_)),
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
