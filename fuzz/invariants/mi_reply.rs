//! What holds for every datagram that arrives where a management reply is expected.

use callplane::stack::mi::{MAX_ID, MiAnswer, MiReply, PlainReply};
use serde_json::Value;

/// Panics if a promise is broken; else tells whether the bytes are a reply.
pub fn check(data: &[u8]) -> bool {
    // What is no UTF-8 is replaced: phones choose parts of it.
    let text = String::from_utf8_lossy(data);
    match MiReply::decode(data) {
        MiReply::Answer { id, answer } => {
            assert!(id.is_none_or(|id| id <= MAX_ID), "ids are 31 bit");
            assert!(serde_json::from_str::<Value>(&text).is_ok(), "an answer is JSON");
            again(id, &answer);
            true
        }
        MiReply::Plain(PlainReply { code, .. }) => {
            assert!(code <= 999, "a plain reply begins with three digits");
            assert!(serde_json::from_str::<Value>(&text).is_err(), "and is no JSON");
            true
        }
        MiReply::Garbled => false,
    }
}

/// What was understood is written and read back as the same.
fn again(id: Option<u32>, answer: &MiAnswer) {
    if matches!(answer, MiAnswer::Result(value) if has_float(value)) {
        // The last digit of a fraction may change on the way; nothing that we read has one.
        return;
    }
    let mut text = String::new();
    answer.encode(&id.map_or(Value::Null, Value::from), &mut text);
    let read = MiReply::decode(text.as_bytes());
    assert_eq!(read, MiReply::Answer { id, answer: answer.clone() }, "{text}");
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(has_float),
        Value::Object(map) => map.values().any(has_float),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}
