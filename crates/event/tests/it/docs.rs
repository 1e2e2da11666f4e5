//! `docs/messages.md` says what the code does: its tables and examples are made from it. `UPDATE_DOCS=1` writes them anew.

use hokusai_event::{ENVELOPE_FIELDS, Field, Kind, MAX_DEPTH, MAX_MESSAGE_BYTES, MessageType, Need, TokenSymbol, example};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/messages.md");

#[test]
fn the_page_is_what_the_code_says() {
    let page = std::fs::read_to_string(PAGE).expect("docs/messages.md is there");
    let mut fresh = filled(&page, "envelope", &table(ENVELOPE_FIELDS));
    for message_type in MessageType::ALL {
        fresh = filled(&fresh, &format!("{message_type} fields"), &table(message_type.fields()));
        let shown = format!("```json\n{:#}\n```\n", example(message_type));
        fresh = filled(&fresh, &format!("{message_type} example"), &shown);
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &fresh).unwrap();
    } else {
        assert!(page == fresh, "docs/messages.md is out of date; UPDATE_DOCS=1 brings it up to date");
    }
}

#[test]
fn the_page_states_the_bounds() {
    let page = std::fs::read_to_string(PAGE).expect("docs/messages.md is there");
    for bound in [format!("{MAX_MESSAGE_BYTES} bytes"), format!("{MAX_DEPTH} levels")] {
        assert!(page.contains(&bound), "docs/messages.md does not say: {bound}");
    }
}

/// The page with what stands between the markers of `region` replaced.
fn filled(page: &str, region: &str, content: &str) -> String {
    let (start, end) = (format!("<!-- generated: {region} -->\n"), "<!-- end -->");
    let (before, rest) = page.split_once(&start).unwrap_or_else(|| panic!("docs/messages.md has no region {region:?}"));
    let (_, after) = rest.split_once(end).expect("the region ends");
    format!("{before}{start}{content}{end}{after}")
}

fn table(fields: &[Field]) -> String {
    let row = |field: &Field| {
        let need = match field.need {
            Need::Required => "required",
            Need::Emitted => "always emitted",
            Need::Optional => "optional",
        };
        format!("| `{}` | {need} | {} | {} |\n", field.name, described(field.kind), field.about)
    };
    let rows: String = fields.iter().map(row).collect();
    format!("| field | | value | meaning |\n|---|---|---|---|\n{rows}")
}

fn described(kind: Kind) -> String {
    match kind {
        Kind::AnyText { min: 0 } => "any text".to_owned(),
        Kind::AnyText { .. } => "any text, not empty".to_owned(),
        Kind::Text { max } => format!("printable text, at most {max} characters"),
        Kind::Symbol => format!("1 to {} of `A-Z a-z 0-9 -`", TokenSymbol::MAX_CHARS),
        Kind::Number => "finite number".to_owned(),
        Kind::Whole { max } => format!("whole number, 0 to {max}"),
        Kind::Direction => "`higher_is_better` or `lower_is_better`".to_owned(),
        Kind::Timestamp => "time".to_owned(),
        Kind::Version => "`1` or `1.` and a minor version".to_owned(),
        Kind::Address => "address, `0x` and 40 hex digits".to_owned(),
        Kind::Hash => "`0x` and 64 hex digits".to_owned(),
        Kind::Wei => "whole number as text".to_owned(),
        Kind::Tags => "object, text to text".to_owned(),
        Kind::Object => "object".to_owned(),
    }
}
