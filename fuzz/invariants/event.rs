//! What holds for every datagram that arrives where an event is expected.

use callplane::core::stack_event::{StackEvent, TransferState};
use callplane::stack::mi::{MiEvent, MiParams};
use callplane::stack::opensips::event::{Meaning, meaning};
use callplane::stack::opensips::stream::Objects;
use serde_json::Value;

/// Panics if a promise is broken; else tells whether the bytes are an event.
pub fn check(data: &[u8]) -> bool {
    stream_is_cut_alike(data);
    let Some(event) = MiEvent::decode(data) else { return false };
    // What is no UTF-8 is replaced: phones choose parts of it.
    let text = String::from_utf8_lossy(data);
    let json: Value = match serde_json::from_str(&text) {
        Ok(json) => json,
        // To `Value` this member is none of the text's: serde_json means something of its own by it.
        Err(_) if text.contains("$serde_json::private::") => return true,
        Err(error) => panic!("an event is JSON: {error}"),
    };
    assert_eq!(json.get("method").and_then(Value::as_str), Some(event.name.as_ref()));
    let values: Vec<&Value> = match &event.params {
        MiParams::None => Vec::new(),
        MiParams::Named(members) => members.iter().map(|(_, value)| value).collect(),
        MiParams::Positional(list) => list.iter().collect(),
    };
    if let Meaning::Fact(fact) = meaning(&event) {
        is_bounded(&fact);
    }
    if values.into_iter().any(has_float) {
        return true;
    }
    let mut text = String::new();
    event.encode(&mut text);
    assert_eq!(MiEvent::decode(text.as_bytes()).as_ref(), Some(&event), "{text}");
    true
}

/// The same objects come out of a stream however it is read.
fn stream_is_cut_alike(data: &[u8]) {
    let cut = |size: usize| {
        let (mut objects, mut out) = (Objects::default(), Vec::new());
        for piece in data.chunks(size) {
            if objects.push(piece, |object| out.push(object.to_vec())).is_err() {
                return None;
            }
        }
        Some(out)
    };
    let whole = cut(data.len().max(1));
    if data.len() < 4096 {
        assert_eq!(cut(1), whole);
    }
    assert_eq!(cut(7), whole);
    for object in whole.iter().flatten() {
        assert!(object.starts_with(b"{") && object.ends_with(b"}"));
    }
}

/// No text of a phone's making is carried on without end.
fn is_bounded(fact: &StackEvent) {
    let (destination, state) = match fact {
        StackEvent::Transfer { destination, state, .. }
        | StackEvent::Referral { destination, state, .. } => (destination, state),
        StackEvent::Dialog { .. } | StackEvent::Hold { .. } | StackEvent::Restarted { .. } => {
            return;
        }
    };
    assert!(destination.as_ref().is_none_or(|text| text.len() <= 256));
    match state {
        TransferState::Start | TransferState::Ok => {}
        TransferState::Progress(status)
        | TransferState::Fail(status)
        | TransferState::Notified(status) => {
            assert!((100..700).contains(&status.code));
            assert!(status.reason.len() <= 256 && !status.reason.contains(['\r', '\n']));
        }
    }
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(has_float),
        Value::Object(map) => map.values().any(has_float),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}
