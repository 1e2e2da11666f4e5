//! What holds for every input.

use hokusai_event::{ENVELOPE_FIELDS, Envelope, Event, MessageType, check_message, example};
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            hash_map(any::<String>(), inner, 0..6).prop_map(|object| Value::Object(object.into_iter().collect())),
        ]
    })
}

fn unknown_keys() -> impl Strategy<Value = Vec<(String, Value)>> {
    let known = |key: &str| ENVELOPE_FIELDS.iter().any(|field| field.name == key);
    let keys = any::<String>().prop_filter("an unknown key", move |key| !known(key));
    hash_map(keys, any_json(), 0..5).prop_map(|keys| keys.into_iter().collect())
}

/// An object with any spacing between its tokens.
fn any_payload() -> impl Strategy<Value = String> {
    (hash_map(any::<String>(), any_json(), 0..6), any::<bool>()).prop_map(|(object, pretty)| {
        let object = Value::Object(object.into_iter().collect());
        if pretty { format!("{object:#}") } else { object.to_string() }
    })
}

proptest! {
    #[test]
    fn any_message_survives_parse_and_print(
        id in ".{1,20}", kind in ".{1,20}", payload in any_payload(), unknown in unknown_keys(), retries in any::<u32>(),
        most in any::<Option<u32>>(), position in any::<Index>(),
    ) {
        let mut members = vec![
            format!("\"message_id\":{}", json!(id)), format!("\"message_type\": {}", json!(kind)), format!("\"payload\" :{payload}"),
            "\"timestamp\":\"2025-01-27T15:30:00\"".to_owned(), format!("\"retry_count\":{retries}"), format!("\"max_retries\":{}", json!(most)),
        ];
        let written: Vec<String> = unknown.iter().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
        let position = position.index(members.len());
        members.splice(position..position, written);
        let text = format!("{{{}}}", members.join(","));

        let envelope = Envelope::parse(text.as_bytes()).map_err(|invalid| TestCaseError::fail(format!("{invalid}: {text}")))?;
        prop_assert_eq!((&envelope.message_id, &envelope.message_type), (&id, &kind));
        prop_assert_eq!((envelope.retry_count, envelope.max_retries), (retries, most));
        let printed = envelope.to_bytes();
        let again = Envelope::parse(&printed).unwrap();
        prop_assert_eq!(again.payload.get(), payload.as_str());
        let kept: Vec<(String, String)> = again.unknown.iter().map(|(key, raw)| (key.clone(), raw.get().to_owned())).collect();
        let sent: Vec<(String, String)> = unknown.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
        prop_assert_eq!(kept, sent);
        prop_assert_eq!(again.to_bytes(), printed);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(check_message(&bytes).is_err());
        for kind in MessageType::ALL {
            prop_assert!(Event::parse(kind, &bytes).is_err());
        }
    }

    #[test]
    fn json_like_text_never_panics(text in r#"[\[\]{}:,"\\ 0-9eE.\-+untfalsr]{0,200}"#) {
        let _ = check_message(text.as_bytes());
        let _ = Event::parse(MessageType::ModelDeployed, text.as_bytes());
    }

    /// What a mutation leaves acceptable can be printed and is accepted again.
    #[test]
    fn mutated_messages_never_panic(
        kind in select(MessageType::ALL.to_vec()), cuts in vec((any::<Index>(), 0_usize..8, vec(any::<u8>(), 0..8)), 1..4),
    ) {
        let mut bytes = example(kind).to_string().into_bytes();
        for (at, length, with) in cuts {
            let start = at.index(bytes.len());
            let end = (start + length).min(bytes.len());
            bytes.splice(start..end, with);
        }
        if let Ok((envelope, event)) = check_message(&bytes) {
            let (_, again) = check_message(&envelope.to_bytes()).unwrap();
            prop_assert_eq!(again, event);
        }
    }

    #[test]
    fn any_value_in_any_field_is_accepted_or_named(kind in select(MessageType::ALL.to_vec()), field in any::<Index>(), value in any_json()) {
        let name = kind.fields()[field.index(kind.fields().len())].name;
        let mut message = example(kind);
        message["payload"][name] = value;
        match check_message(message.to_string().as_bytes()) {
            Ok((envelope, event)) => {
                let at = envelope.timestamp.at();
                let emitted = Envelope::new("id".into(), "c".into(), at, 3, &event);
                prop_assert!(emitted.is_ok(), "what is accepted can be emitted: {:?}", emitted);
            }
            Err(problems) => prop_assert!(problems.iter().all(|invalid| invalid.field.starts_with(&format!("payload.{name}"))), "{problems:?}"),
        }
    }
}
