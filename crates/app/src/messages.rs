//! Messages from a file or a pipe: one JSON document, several after one another, an array of them, or NDJSON.

use bytes::Bytes;
use hokusai_event::{Envelope, Event, Invalid, MessageType};
use jiff::Timestamp;
use serde_json::value::RawValue;

/// The documents in `input`, each as its own bytes. The first that cannot be read ends the list with its error, since what
/// comes after it has no certain beginning.
pub(crate) fn split(input: &[u8]) -> Vec<Result<Bytes, Invalid>> {
    if let Ok(array) = serde_json::from_slice::<Vec<Box<RawValue>>>(input) {
        return array.iter().map(|document| Ok(Bytes::copy_from_slice(document.get().as_bytes()))).collect();
    }
    let mut documents = Vec::new();
    for document in serde_json::Deserializer::from_slice(input).into_iter::<Box<RawValue>>() {
        let ended = document.is_err();
        documents.push(match document {
            Ok(document) => Ok(Bytes::copy_from_slice(document.get().as_bytes())),
            Err(error) => Err(Invalid::whole(format!("is not JSON: {error}"))),
        });
        if ended {
            break;
        }
    }
    documents
}

/// A message ready to be published: a whole envelope as it is, a bare payload wrapped in one with ids of its own.
///
/// A document is an envelope if it has a `payload` or a `message_type`; a payload is taken to be of `payload_type`.
pub(crate) fn complete(
    document: &[u8],
    payload_type: MessageType,
    max_retries: u32,
    at: Timestamp,
) -> Result<(String, Bytes), Vec<Invalid>> {
    let object = hokusai_event::parse_object(document).map_err(|invalid| vec![invalid])?;
    if object.contains_key("payload") || object.contains_key("message_type") {
        let (envelope, _) = hokusai_event::check_message(document)?;
        return Ok((envelope.message_id, Bytes::copy_from_slice(document)));
    }
    let event = Event::parse(payload_type, document)?;
    let message_id = uuid::Uuid::new_v4().to_string();
    let correlation_id =
        object.get("correlation_id").and_then(|id| id.as_str()).filter(|id| !id.is_empty()).unwrap_or(&message_id).to_owned();
    let envelope = Envelope::new(message_id.clone(), correlation_id, at, max_retries, &event).map_err(|invalid| vec![invalid])?;
    Ok((message_id, envelope.to_bytes().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(input: &str) -> (usize, usize) {
        let documents = split(input.as_bytes());
        (documents.iter().filter(|document| document.is_ok()).count(), documents.iter().filter(|document| document.is_err()).count())
    }

    #[test]
    fn documents_are_found_however_they_are_laid_out() {
        assert_eq!(count(""), (0, 0));
        assert_eq!(count("  \n"), (0, 0));
        assert_eq!(count("{\n\"a\": 1\n}"), (1, 0));
        assert_eq!(count("{\"a\":1}\n{\"a\":2}\n\n{\"a\":3}"), (3, 0));
        assert_eq!(count("[{\"a\":1}, {\"a\":2}]"), (2, 0));
        assert_eq!(count("{\"a\":1}\nnonsense\n{\"a\":2}"), (1, 1));
        assert_eq!(split(b"\xff").len(), 1);
    }

    #[test]
    fn an_envelope_keeps_its_bytes_and_a_payload_gets_an_envelope() {
        let envelope = hokusai_event::example(MessageType::ModelReadyToDeploy);
        let bytes = envelope.to_string();
        let (id, published) = complete(bytes.as_bytes(), MessageType::ModelReadyToDeploy, 3, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((id.as_str(), &published[..]), (envelope["message_id"].as_str().unwrap(), bytes.as_bytes()));

        let payload = envelope["payload"].to_string();
        let (id, published) = complete(payload.as_bytes(), MessageType::ModelReadyToDeploy, 3, Timestamp::UNIX_EPOCH).unwrap();
        let (read, _) = hokusai_event::check_message(&published).unwrap();
        assert_eq!(read.message_id, id);
        assert_eq!(read.max_retries, Some(3));

        let problems = complete(b"{\"token_symbol\": 1}", MessageType::ModelReadyToDeploy, 3, Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(problems.iter().any(|invalid| invalid.field == "payload.token_symbol"), "{problems:?}");
    }
}
