//! JSON Schema (draft 2020-12), made from the same tables that the parser obeys.
//!
//! Three rules are beyond it and are left to the parser: EIP-55 checksums, dates that a calendar does not have, and a missing
//! `current_value` being under the metric's own name in `performance_data`.

use serde_json::{Map, Value, json};

use crate::baseline::MetricDirection;
use crate::envelope::ENVELOPE_FIELDS;
use crate::event::MessageType;
use crate::example::example;
use crate::field::{Field, Kind, Need, TAG_NAME_MAX_CHARS, TAG_VALUE_MAX_CHARS};
use crate::identity::TokenSymbol;
use crate::timestamp;

/// Control characters and line separators, as a character class's inside.
const UNPRINTABLE: &str = r"\u0000-\u001f\u007f-\u009f\u2028\u2029";

/// What is printable and yet blank, spelt out because validators disagree about `\s`.
const BLANK: &str = r" \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\ufeff";

/// The schema of a whole message of this type, payload included.
pub fn schema(message_type: MessageType) -> Value {
    let mut envelope = object(ENVELOPE_FIELDS);
    let mut payload = object(message_type.fields());
    payload["description"] = format!("The payload of `{message_type}`. Other keys are allowed and kept.").into();
    if message_type == MessageType::ModelReadyToDeploy {
        let_performance_data_supply_current_value(&mut payload);
    }
    envelope["properties"]["payload"] = payload;
    envelope["properties"]["message_type"]["const"] = message_type.as_str().into();
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": message_type.as_str(),
        "description": "A message with its envelope. Other keys are allowed and kept.",
    });
    if let (Value::Object(schema), Value::Object(envelope)) = (&mut schema, envelope) {
        schema.extend(envelope);
        schema.insert("examples".to_owned(), json!([example(message_type)]));
    }
    schema
}

/// The schema of one field's value.
pub fn field_schema(field: &Field) -> Value {
    let mut schema = of_kind(field.kind);
    if field.need != Need::Required {
        schema["type"] = json!([schema["type"], "null"]);
        if let Some(choices) = schema.get_mut("enum").and_then(Value::as_array_mut) {
            choices.push(Value::Null);
        }
    }
    schema["description"] = field.about.into();
    schema
}

fn object(table: &[Field]) -> Value {
    let properties: Map<String, Value> = table.iter().map(|field| (field.name.to_owned(), field_schema(field))).collect();
    let required: Vec<&str> = table.iter().filter(|field| field.need == Need::Required).map(|field| field.name).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn let_performance_data_supply_current_value(payload: &mut Value) {
    if let Some(required) = payload["required"].as_array_mut() {
        required.retain(|name| name != "current_value");
    }
    payload["properties"]["current_value"]["type"] = json!(["number", "null"]);
    payload["anyOf"] = json!([
        {"required": ["current_value"], "properties": {"current_value": {"type": "number"}}},
        {"required": ["performance_data"], "properties": {"performance_data": {"type": "object"}}},
    ]);
}

fn of_kind(kind: Kind) -> Value {
    match kind {
        Kind::AnyText { min } => json!({"type": "string", "minLength": min}),
        Kind::Text { max } => text(max),
        Kind::Symbol => json!({"type": "string", "pattern": format!("^[A-Za-z0-9-]{{1,{}}}$", TokenSymbol::MAX_CHARS)}),
        // The bounds keep out what a reader would turn into infinity.
        Kind::Number => json!({"type": "number", "minimum": f64::MIN, "maximum": f64::MAX}),
        Kind::Whole { max } => json!({"type": "integer", "minimum": 0, "maximum": max}),
        Kind::Direction => json!({"type": "string", "enum": MetricDirection::ALL}),
        Kind::Timestamp => json!({"type": "string", "pattern": timestamp::PATTERN}),
        Kind::Version => json!({"type": "string", "pattern": "^1(\\.[0-9]{1,9})?$"}),
        Kind::Address => json!({"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}),
        Kind::Hash => json!({"type": "string", "pattern": "^0x[0-9a-fA-F]{64}$"}),
        Kind::Wei => json!({"type": "string", "pattern": "^(0|[1-9][0-9]{0,77})$"}),
        Kind::Tags => json!({
            "type": "object",
            "propertyNames": text(TAG_NAME_MAX_CHARS),
            "additionalProperties": {"type": "string", "maxLength": TAG_VALUE_MAX_CHARS},
        }),
        Kind::Object => json!({"type": "object"}),
    }
}

/// Printable text with at least one character that is not blank.
fn text(max: usize) -> Value {
    let pattern = format!(r"^[^{UNPRINTABLE}]*[^{BLANK}{UNPRINTABLE}][^{UNPRINTABLE}]*$");
    json!({"type": "string", "maxLength": max, "pattern": pattern})
}
