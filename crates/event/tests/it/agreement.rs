//! The table, the parser, the Rust types and the JSON Schema say the same.

use boon::{Compiler, SchemaIndex, Schemas};
use hokusai_event::{ENVELOPE_FIELDS, MessageType, Need, check_message, example, schema};
use serde_json::{Value, json};

use crate::put;

struct Judge {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Judge {
    fn of(message_type: MessageType) -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("schema.json", schema(message_type)).unwrap();
        let index = compiler.compile("schema.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn accepts(&self, message: &Value) -> bool {
        self.schemas.validate(message, self.index).is_ok()
    }
}

#[track_caller]
fn agree(judge: &Judge, message: &Value, what: &str) -> bool {
    let parsed = check_message(message.to_string().as_bytes());
    let accepted = judge.accepts(message);
    assert_eq!(parsed.is_ok(), accepted, "{what}: the parser says {parsed:?}");
    accepted
}

/// Texts on both sides of every rule, except the rules that a schema cannot state.
const TEXTS: &str = r#"[
    "", " ", "\u00a0", "\u1680", "\u2000\u200a", "\u202f", "\u205f", "\ufeff", "\u3000", "\u200b", "x", " x ", "x\ny", "\u007f", "\u0085x",
    "a\u2028b", "a\u0000", "ünïcode 模型 🙂", "Aa-09", "a_b", "a/b", "0", "00", "7", "-7", "1.5", "1", "1.0", "1.12", "1.", "1.x", "2.0", "10",
    "higher_is_better", "lower_is_better", "HIGHER_IS_BETTER",
    "2025-01-27T15:30:00Z", "2025-01-27t15:30:00z", "2025-01-27 15:30:00", "2025-01-27T15:30", "2025-01-27T15:30Z", "2025-01-27",
    "2025-01-27T15:30:00.1", "2025-01-27T15:30:00.123456789Z", "2025-01-27T15:30:00.1234567890Z", "2025-01-27T15:30:00.Z",
    "2025-01-27T15:30:00+05", "2025-01-27T15:30:00+0530", "2025-01-27T15:30:00-05:30", "2025-01-27T15:30:00+24:00",
    "2025-01-27T15:30:00+05:60", "2025-01-27T24:00:00Z", "2025-01-27T23:60:00Z", "2025-01-27T23:59:60Z", "2025-01-27T23:59:61Z",
    "2025-13-01T00:00:00Z", "2025-00-01T00:00:00Z", "2025-01-32T00:00:00Z", "2025-1-2T00:00:00Z", "20250127T153000Z",
    "2025-01-27T15:30:00Z ", "+002025-01-27T15:30:00Z", "2025-01-27T15:30:00,5Z", "2025-01-27T15:30:00+05:", "2025-01-27T15:30:00Zulu",
    "0x", "0x12", "1234567890123456789012345678901234567890", "0x1234567890123456789012345678901234567890",
    "0X1234567890123456789012345678901234567890", "0x123456789012345678901234567890123456789g",
    "0xABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCD", "0xabcdefabcdefabcdefabcdefabcdefabcdefabcd"
]"#;

/// The same for everything that is not text.
const OTHERS: &str = r#"[
    null, true, 0, 1, 1.0, 1.5, -1, -0.0, 1e300, 4294967295, 4294967296, 9007199254740991, 9007199254740992, 18446744073709551615,
    [], ["a"], {}, {"a": "b"}, {"a": 1}, {"a": null}, {"": "x"}, {"a\nb": "x"}, {"a": "x\ny"}
]"#;

fn values() -> Vec<Value> {
    let listed: [Vec<Value>; 2] = [TEXTS, OTHERS].map(|list| serde_json::from_str(list).unwrap());
    let mut values = listed.concat();
    let lengths = [64, 65, 66, 78, 79, 128, 129, 250, 251, 256, 257, 500, 501, 512, 513, 4_000, 4_001];
    values.extend(lengths.map(|length| "9".repeat(length).into()));
    values.extend(lengths.map(|length| "é".repeat(length).into()));
    values.extend([63, 64, 65].map(|length| format!("0x{}", "a".repeat(length)).into()));
    values.extend([250, 251].map(|length| json!({"x".repeat(length): ""})));
    values.extend([100_000, 100_001].map(|length| json!({"a": "x".repeat(length)})));
    values
}

#[test]
fn parser_and_schema_agree_on_every_value_of_every_field() {
    let values = values();
    for message_type in MessageType::ALL {
        let judge = Judge::of(message_type);
        assert!(agree(&judge, &example(message_type), "the example"));
        let envelope = ENVELOPE_FIELDS.iter().map(|field| ("", field));
        let payload = message_type.fields().iter().map(|field| ("/payload", field));
        for (pointer, field) in envelope.chain(payload) {
            let mut accepted = 0;
            for value in values.iter().cloned().map(Some).chain([None]) {
                let what = format!("{message_type} {pointer}/{} = {value:?}", field.name);
                let mut message = example(message_type);
                put(message.pointer_mut(pointer).unwrap(), field.name, value);
                accepted += u32::from(agree(&judge, &message, &what));
            }
            let exempt = ["message_type", "payload"].contains(&field.name);
            assert!(exempt || accepted > 0, "{message_type} {}: the test has no value that fits", field.name);
        }
    }
}

#[test]
fn a_field_may_be_missing_exactly_if_the_table_says_so() {
    for message_type in MessageType::ALL {
        for field in message_type.fields() {
            let mut message = example(message_type);
            put(&mut message["payload"], field.name, None);
            if field.name == "current_value" {
                put(&mut message["payload"], "performance_data", None);
            }
            let required = field.need == Need::Required;
            match check_message(message.to_string().as_bytes()) {
                Ok(_) => assert!(!required, "{message_type} {} may not be missing", field.name),
                Err(problems) => {
                    assert!(required, "{message_type} {}: {problems:?}", field.name);
                    assert_eq!(problems.len(), 1);
                    assert_eq!(problems[0].to_string(), format!("payload.{}: is missing", field.name));
                }
            }
        }
    }
}

#[test]
fn we_emit_every_required_and_always_emitted_field_and_the_correlation_id() {
    for message_type in MessageType::ALL {
        let message = example(message_type);
        for field in ENVELOPE_FIELDS.iter().filter(|field| field.need != Need::Optional) {
            assert!(message.get(field.name).is_some(), "{message_type} {}", field.name);
        }
        for field in message_type.fields().iter().filter(|field| field.need != Need::Optional) {
            assert!(message["payload"].get(field.name).is_some(), "{message_type} {}", field.name);
        }
        assert_eq!(message["correlation_id"], message["payload"]["correlation_id"]);
        let named = |key: &String| message_type.fields().iter().any(|field| field.name == key);
        assert!(message["payload"].as_object().unwrap().keys().all(named), "an example has no fields beyond the table");
    }
}

#[test]
fn performance_data_may_supply_the_current_value_in_schema_and_parser() {
    let judge = Judge::of(MessageType::ModelReadyToDeploy);
    let mut message = example(MessageType::ModelReadyToDeploy);
    put(&mut message["payload"], "current_value", None);
    assert!(agree(&judge, &message, "current_value in performance_data"));
    put(&mut message["payload"], "performance_data", None);
    assert!(!agree(&judge, &message, "current_value nowhere"));
}
