//! MI as bytes: reading a datagram or body the way OpenSIPS does, oddities included, and
//! writing replies.

use std::time::Duration;

use serde_json::{Map, Value};

use super::commands::{Asker, Channel};
use super::config::Version;
use super::world::World;
use crate::stack::mi::{MAX_ID, MiAnswer, MiRequest};

/// The largest reply `mi_datagram` can send (its buffer; recorded: 62,594 bytes arrived, 77,032
/// did not).
const MAX_DATAGRAM: usize = 65_457;

impl World {
    /// Takes a datagram or an HTTP body at `now`. Answers carry `ticket`.
    pub fn receive(&mut self, now: Duration, ticket: u64, channel: Channel, bytes: &[u8]) {
        self.advance(now);
        if bytes.is_empty() || self.loses_request() {
            return;
        }
        match first_value(bytes) {
            None if channel == Channel::Http => {
                let asker = Asker { ticket, channel, id: Value::Null, wants_answer: true };
                self.answer(asker, MiAnswer::error(-32700, "Parse error"));
            }
            None => self.answer_plain(ticket, "400 Parse_error"),
            Some(Value::Object(members)) => self.receive_object(ticket, channel, members),
            Some(Value::Array(_))
                if channel == Channel::Datagram && self.config.version == Version::V4_0 =>
            {
                // A batch kills 4.0.1; over HTTP it is refused.
                self.crash();
            }
            Some(
                Value::Array(_)
                | Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_),
            ) => {
                let asker = Asker { ticket, channel, id: Value::Null, wants_answer: true };
                self.answer(asker, invalid_request());
            }
        }
    }

    fn receive_object(&mut self, ticket: u64, channel: Channel, mut members: Map<String, Value>) {
        let wants_answer = members.contains_key("id");
        let id = match members.remove("id") {
            Some(Value::Array(_) | Value::Object(_)) => {
                return self.answer_plain(ticket, "500 Internal error");
            }
            // Ids are 32 bit.
            Some(Value::Number(n)) if n.as_i64().is_none_or(|n| n > i64::from(MAX_ID)) => {
                Value::from(MAX_ID)
            }
            Some(other) => other,
            None => Value::Null,
        };
        let asker = Asker { ticket, channel, id, wants_answer };
        let method = members.remove("method");
        if method.is_none() && channel == Channel::Datagram && self.config.version == Version::V4_0
        {
            return self.crash();
        }
        let versioned = members.get("jsonrpc").and_then(Value::as_str) == Some("2.0");
        match MiRequest::from_members(method, members.remove("params")) {
            Some(request) if versioned => self.execute(asker, &request),
            Some(_) | None => self.answer(asker, invalid_request()),
        }
    }
}

fn invalid_request() -> MiAnswer {
    MiAnswer::error(-32600, "Invalid Request")
}

/// The first JSON value; what follows it is ignored. A NUL in a string is no JSON to OpenSIPS.
fn first_value(bytes: &[u8]) -> Option<Value> {
    if bytes.windows(6).any(|w| w == b"\\u0000") {
        return None;
    }
    serde_json::Deserializer::from_slice(bytes).into_iter::<Value>().next()?.ok()
}

/// The text of a reply, as its channel can carry it.
pub fn reply_text(asker: &Asker, answer: &MiAnswer) -> String {
    let mut text = String::with_capacity(128);
    answer.encode(&asker.id, &mut text);
    match asker.channel {
        Channel::Datagram if text.len() > MAX_DATAGRAM => "500 Internal error".to_owned(),
        Channel::Datagram | Channel::Http | Channel::Process => text,
    }
}
