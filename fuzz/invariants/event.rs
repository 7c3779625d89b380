//! What holds for every datagram that arrives where an event is expected.

use callplane::stack::mi::{MiEvent, MiParams};
use serde_json::Value;

/// Panics if a promise is broken; else tells whether the bytes are an event.
pub fn check(data: &[u8]) -> bool {
    let Some(event) = MiEvent::decode(data) else { return false };
    let json: Value = serde_json::from_slice(data).expect("an event is JSON");
    assert_eq!(json.get("method").and_then(Value::as_str), Some(event.name.as_ref()));
    let values: Vec<&Value> = match &event.params {
        MiParams::None => Vec::new(),
        MiParams::Named(members) => members.iter().map(|(_, value)| value).collect(),
        MiParams::Positional(list) => list.iter().collect(),
    };
    if values.into_iter().any(has_float) {
        return true;
    }
    let mut text = String::new();
    event.encode(&mut text);
    assert_eq!(MiEvent::decode(text.as_bytes()).as_ref(), Some(&event), "{text}");
    true
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(has_float),
        Value::Object(map) => map.values().any(has_float),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}
