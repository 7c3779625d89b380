//! The Management Interface of OpenSIPS as messages: requests, answers, events and their text.
//!
//! Pure: no socket, no clock. The connector (`stack::opensips`) and the simulated stack
//! (`stack::simulated`) meet here, and nowhere else. The text is JSON-RPC 2.0 with the
//! oddities measured on OpenSIPS 3.6.8 and 4.0.1:
//!
//! * ids are 32 bit: a number above 2^31 - 1 comes back as 2147483647, so we count below it;
//! * some failures are plain text without an id: `400 Parse_error`, and `500 Internal error`
//!   for a reply that does not fit a datagram;
//! * a batch, or a request without `method`, kills 4.0.1: [`MiRequest`] can say neither.

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The highest request id OpenSIPS echoes truthfully (measured: larger ones are clamped to it).
pub const MAX_ID: u32 = 0x7fff_ffff;

/// Named values in the order they are written.
pub type Members = Vec<(Cow<'static, str>, Value)>;

/// The `params` of a request or an event.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum MiParams {
    /// No `params` member.
    #[default]
    None,
    /// An object. The order is kept on the wire; OpenSIPS does not care.
    Named(Members),
    /// An array. `dlg_list*`, `t_uac_dlg`, `t_reply` and `dlg_send_sequential` refuse it.
    Positional(Vec<Value>),
}

impl MiParams {
    /// The named parameter `name`; the last one, should there be several.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            MiParams::Named(members) => members.iter().rfind(|(n, _)| n == name).map(|(_, v)| v),
            MiParams::None | MiParams::Positional(_) => None,
        }
    }

    /// The named parameter `name`, if it is a string.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    fn push(&mut self, name: &'static str, value: Value) {
        if !matches!(self, MiParams::Named(_)) {
            *self = MiParams::Named(Vec::with_capacity(6));
        }
        if let MiParams::Named(members) = self {
            members.push((Cow::Borrowed(name), value));
        }
    }

    fn from_json(value: Option<Value>) -> Option<MiParams> {
        match value {
            None => Some(MiParams::None),
            Some(Value::Object(map)) => {
                Some(MiParams::Named(map.into_iter().map(|(n, v)| (Cow::Owned(n), v)).collect()))
            }
            Some(Value::Array(list)) => Some(MiParams::Positional(list)),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => None,
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            MiParams::None => {}
            MiParams::Named(members) => {
                out.push_str(",\"params\":");
                write_members(members, out);
            }
            MiParams::Positional(list) => {
                out.push_str(",\"params\":[");
                for (i, value) in list.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_value(value, out);
                }
                out.push(']');
            }
        }
    }
}

/// One request. It has no id: ids belong to the transport that sends it.
#[derive(Debug, Clone, PartialEq)]
pub struct MiRequest {
    /// The command. The old names (`dlg_list`) work on every version; see
    /// [`crate::stack::opensips`].
    pub method: Cow<'static, str>,
    /// Its parameters.
    pub params: MiParams,
}

impl MiRequest {
    /// A request without parameters.
    pub fn new(method: &'static str) -> MiRequest {
        MiRequest { method: Cow::Borrowed(method), params: MiParams::None }
    }

    /// Adds a named text parameter.
    #[must_use]
    pub fn text(mut self, name: &'static str, value: impl Into<String>) -> MiRequest {
        self.params.push(name, Value::String(value.into()));
        self
    }

    /// Adds a named whole number.
    #[must_use]
    pub fn number(mut self, name: &'static str, value: i64) -> MiRequest {
        self.params.push(name, Value::from(value));
        self
    }

    /// Adds a named list of texts (`DID` of `dlg_push_var`, `params` of `raise_event`).
    #[must_use]
    pub fn list<I>(mut self, name: &'static str, values: I) -> MiRequest
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let list = values.into_iter().map(|v| Value::String(v.into())).collect();
        self.params.push(name, Value::Array(list));
        self
    }

    /// Appends the request's JSON text to `out`. `id` must not exceed [`MAX_ID`]; a larger one
    /// is written as `MAX_ID`, as OpenSIPS would echo it.
    pub fn encode(&self, id: u32, out: &mut String) {
        out.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
        write_value(&Value::from(id.min(MAX_ID)), out);
        out.push_str(",\"method\":");
        write_text(&self.method, out);
        self.params.write(out);
        out.push('}');
    }

    /// Reads the members of a request object: `method` (a string) and `params` (object, array or
    /// absent). `None` for anything else. The id and `jsonrpc` are the caller's business.
    pub fn from_members(method: Option<Value>, params: Option<Value>) -> Option<MiRequest> {
        match method {
            Some(Value::String(method)) => {
                Some(MiRequest { method: Cow::Owned(method), params: MiParams::from_json(params)? })
            }
            Some(
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_),
            )
            | None => None,
        }
    }
}

/// What a command said. Many SIP failures are a [`MiAnswer::Result`]: `t_uac_dlg` answers
/// `{"Status":"486 Busy Here"}`, `dlg_send_sequential` `{"Code":603,"Reason":"Decline"}`.
#[derive(Debug, Clone, PartialEq)]
pub enum MiAnswer {
    /// The `result` member.
    Result(Value),
    /// The `error` member.
    Error {
        /// A JSON-RPC code (-32601 unknown command, -32602 bad parameters) or a SIP-like one.
        code: i64,
        /// Its text, e.g. `Dialog not found`.
        message: String,
        /// More about it; only some errors have it.
        data: Option<String>,
    },
}

impl MiAnswer {
    /// An error without `data`.
    pub fn error(code: i64, message: impl Into<String>) -> MiAnswer {
        MiAnswer::Error { code, message: message.into(), data: None }
    }

    /// The `result`, if the command gave one.
    pub fn result(&self) -> Option<&Value> {
        match self {
            MiAnswer::Result(value) => Some(value),
            MiAnswer::Error { .. } => None,
        }
    }

    /// Appends the reply's JSON text to `out`. `id` is the request's, echoed.
    pub fn encode(&self, id: &Value, out: &mut String) {
        out.push_str("{\"jsonrpc\":\"2.0\",");
        match self {
            MiAnswer::Result(value) => {
                out.push_str("\"result\":");
                write_value(value, out);
            }
            MiAnswer::Error { code, message, data } => {
                out.push_str("\"error\":{\"code\":");
                write_value(&Value::from(*code), out);
                out.push_str(",\"message\":");
                write_text(message, out);
                if let Some(data) = data {
                    out.push_str(",\"data\":");
                    write_text(data, out);
                }
                out.push('}');
            }
        }
        out.push_str(",\"id\":");
        write_value(id, out);
        out.push('}');
    }
}

/// One reply datagram or body, read.
#[derive(Debug, Clone, PartialEq)]
pub enum MiReply {
    /// The answer to the request with this id. `None`: the reply has no usable id of ours (null,
    /// a string, or out of range), so it answers nobody.
    Answer {
        /// The id, if it can be one of ours.
        id: Option<u32>,
        /// What was said.
        answer: MiAnswer,
    },
    /// Plain text such as `400 Parse_error` or `500 Internal error`: no id, so it can only be
    /// given to a request that was alone on its socket.
    Plain(PlainReply),
    /// Neither of the two.
    Garbled,
}

/// A reply that is not JSON: a code and a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainReply {
    /// 400 (the request could not be parsed) or 500 (the reply does not fit, or the id is bad).
    pub code: u16,
    /// `Parse_error`, `Internal error`.
    pub reason: String,
}

impl MiReply {
    /// Reads one reply. Never fails: what can't be read is [`MiReply::Garbled`].
    pub fn decode(text: &[u8]) -> MiReply {
        match read_json::<Value>(text) {
            Ok(Value::Object(mut map)) => {
                let id = map
                    .get("id")
                    .and_then(Value::as_u64)
                    .and_then(|n| u32::try_from(n).ok())
                    .filter(|n| *n <= MAX_ID);
                match (map.remove("result"), map.remove("error")) {
                    (Some(result), None) => {
                        MiReply::Answer { id, answer: MiAnswer::Result(result) }
                    }
                    (None, Some(error)) => match read_error(error) {
                        Some(answer) => MiReply::Answer { id, answer },
                        None => MiReply::Garbled,
                    },
                    (Some(_), Some(_)) | (None, None) => MiReply::Garbled,
                }
            }
            Ok(
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_),
            ) => MiReply::Garbled,
            Err(_) => read_plain(text).map_or(MiReply::Garbled, MiReply::Plain),
        }
    }
}

/// Reads JSON. A stack passes on the bytes of its phones, so one with an old character set would
/// make a whole list unreadable: what is no UTF-8 is replaced.
fn read_json<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    match std::str::from_utf8(text) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_str(&String::from_utf8_lossy(text)),
    }
}

fn read_error(error: Value) -> Option<MiAnswer> {
    let code = error.get("code")?.as_i64()?;
    let message = error.get("message")?.as_str()?.to_owned();
    let data = error.get("data").map(|d| match d {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    Some(MiAnswer::Error { code, message, data })
}

fn read_plain(text: &[u8]) -> Option<PlainReply> {
    let text = String::from_utf8_lossy(text);
    let (code, reason) = text.trim_end().split_once(' ')?;
    if code.len() != 3 {
        return None;
    }
    Some(PlainReply { code: code.parse().ok()?, reason: reason.to_owned() })
}

/// One event as OpenSIPS writes it: a JSON-RPC notification.
#[derive(Debug, Clone, PartialEq)]
pub struct MiEvent {
    /// `E_DLG_STATE_CHANGED`, `E_CALL_TRANSFER`, `E_CALL_HOLD`, `E_CALLPLANE`, ... A TCP
    /// subscription with a path replaces it.
    pub name: Cow<'static, str>,
    /// Its parameters; an array only from `raise_event`.
    pub params: MiParams,
}

impl MiEvent {
    /// Appends the event's JSON text to `out`.
    pub fn encode(&self, out: &mut String) {
        out.push_str("{\"jsonrpc\":\"2.0\",\"method\":");
        write_text(&self.name, out);
        self.params.write(out);
        out.push('}');
    }

    /// Reads one event. `None` if it is no JSON-RPC notification (or request: `reliable_mode`
    /// adds an id).
    pub fn decode(text: &[u8]) -> Option<MiEvent> {
        read_json(text).ok()
    }
}

/// Why a call brought no [`MiAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MiFailure {
    /// The request provably never left us, or nobody was there to take it: nothing was done.
    #[error("not sent: {reason}")]
    NotSent {
        /// A fixed word for logs, e.g. `refused`, `no address`.
        reason: &'static str,
    },
    /// It never left us: our own socket had no room just then. That says nothing of the stack.
    #[error("not sent: no room")]
    NoRoom,
    /// It never left us: it is longer than what the way there carries. That says nothing of the
    /// stack.
    #[error("not sent: too long")]
    TooLong,
    /// Sent, and nothing came back in time. Whether it was done is unknown.
    #[error("no answer in time")]
    Silent,
    /// Answered in plain text. `500 Internal error` means: done, but the answer does not fit a
    /// datagram.
    #[error("plain answer {} {}", .0.code, .0.reason)]
    Plain(PlainReply),
    /// Something came back that can't be read. Whether it was done is unknown.
    #[error("unreadable answer")]
    Garbled,
}

/// A way to a Management Interface: UDP, HTTP, or a simulated stack in the same process.
pub trait Mi: Send + Sync + 'static {
    /// Asks and waits at most `timeout`. Dropping the future gives up waiting; a request that
    /// was sent stays sent. Never repeats a request: MI has no idempotency.
    ///
    /// # Errors
    /// [`MiFailure`] says whether the request can have been executed.
    fn call(
        &self,
        request: MiRequest,
        timeout: Duration,
    ) -> impl Future<Output = Result<MiAnswer, MiFailure>> + Send;
}

fn write_members(members: &Members, out: &mut String) {
    out.push('{');
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_text(name, out);
        out.push(':');
        write_value(value, out);
    }
    out.push('}');
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => write_text(text, out),
        Value::Null => out.push_str("null"),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            use std::fmt::Write as _;
            // Writing to a String can't fail.
            let _ = match value.as_u64() {
                Some(number) => write!(out, "{number}"),
                None => write!(out, "{value}"),
            };
        }
    }
}

/// A JSON string. Only what JSON demands is escaped, as OpenSIPS does.
fn write_text(text: &str, out: &mut String) {
    use std::fmt::Write as _;
    out.push('"');
    // Looked at as a whole: nearly no text has anything to escape.
    let escapes = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    if !text.bytes().fold(false, |any, byte| any | escapes(byte)) {
        out.push_str(text);
        out.push('"');
        return;
    }
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            0x20..=0xff => continue,
        };
        out.push_str(text.get(from..at).unwrap_or_default());
        if escape.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escape);
        }
        from = at + 1;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(request: &MiRequest, id: u32) -> String {
        let mut out = String::new();
        request.encode(id, &mut out);
        out
    }

    #[test]
    fn a_request_is_written_in_the_order_given() {
        let request = MiRequest::new("dlg_send_sequential")
            .text("callid", "a\"b\\c\r\n\u{1}ü")
            .number("index", -1)
            .list("DID", ["d9c.dd9205d6"]);
        assert_eq!(
            text(&request, 7),
            "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"dlg_send_sequential\",\"params\":{\
             \"callid\":\"a\\\"b\\\\c\\r\\n\\u0001ü\",\"index\":-1,\"DID\":[\"d9c.dd9205d6\"]}}"
        );
        let back: Value = serde_json::from_str(&text(&request, 7)).unwrap();
        assert_eq!(back["params"]["callid"], json!("a\"b\\c\r\n\u{1}ü"));
        assert_eq!(
            text(&MiRequest::new("uptime"), u32::MAX),
            "{\"jsonrpc\":\"2.0\",\"id\":2147483647,\"method\":\"uptime\"}"
        );
    }

    #[test]
    fn replies_of_every_kind_are_told_apart() {
        let answer = |text: &str| MiReply::decode(text.as_bytes());
        assert_eq!(
            answer("{\"jsonrpc\":\"2.0\",\"result\":\"OK\",\"id\":3}"),
            MiReply::Answer { id: Some(3), answer: MiAnswer::Result(json!("OK")) }
        );
        assert_eq!(
            answer(
                "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32602,\"message\":\"Invalid params\",\"data\":\"x\"},\"id\":4}"
            ),
            MiReply::Answer {
                id: Some(4),
                answer: MiAnswer::Error {
                    code: -32602,
                    message: "Invalid params".into(),
                    data: Some("x".into())
                }
            }
        );
        for (id, want) in [
            ("null", None),
            ("\"a\"", None),
            ("2147483648", None),
            ("-1", None),
            ("2147483647", Some(MAX_ID)),
        ] {
            let got = answer(&format!("{{\"jsonrpc\":\"2.0\",\"result\":1,\"id\":{id}}}"));
            assert_eq!(
                got,
                MiReply::Answer { id: want, answer: MiAnswer::Result(json!(1)) },
                "{id}"
            );
        }
        assert_eq!(
            answer("500 Internal error"),
            MiReply::Plain(PlainReply { code: 500, reason: "Internal error".into() })
        );
        assert_eq!(
            answer("400 Parse_error"),
            MiReply::Plain(PlainReply { code: 400, reason: "Parse_error".into() })
        );
        for bad in [
            "",
            "x",
            "[]",
            "12",
            "{}",
            "{\"result\":1,\"error\":{}}",
            "{\"error\":{\"code\":\"x\"}}",
            "5000 x",
            "-50 x",
        ] {
            assert_eq!(answer(bad), MiReply::Garbled, "{bad}");
        }
        assert_eq!(MiReply::decode(b"\xff\xfe"), MiReply::Garbled);
    }

    /// One phone with an old character set must not hide the calls of all others.
    #[test]
    fn what_a_phone_wrote_in_latin_1_is_read_all_the_same() {
        let list = b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"Status\":\"486 Occup\xe9\"}}";
        let MiReply::Answer { id: Some(7), answer } = MiReply::decode(list) else { panic!() };
        assert_eq!(answer.result().unwrap()["Status"], "486 Occup\u{fffd}");
        let event =
            b"{\"jsonrpc\":\"2.0\",\"method\":\"E_X\",\"params\":{\"reason\":\"Occup\xe9\"}}";
        assert_eq!(MiEvent::decode(event).unwrap().name, "E_X");
        let MiReply::Plain(plain) = MiReply::decode(b"500 Internal \xe9rror\n") else { panic!() };
        assert_eq!((plain.code, plain.reason.as_str()), (500, "Internal \u{fffd}rror"));
    }

    #[test]
    fn an_answer_survives_the_wire() {
        for answer in [
            MiAnswer::Result(json!({"Dialogs": []})),
            MiAnswer::error(404, "Dialog not found"),
            MiAnswer::Error {
                code: -32602,
                message: "Invalid params".into(),
                data: Some("Bad \"type\"".into()),
            },
        ] {
            let mut out = String::new();
            answer.encode(&json!(9), &mut out);
            assert_eq!(MiReply::decode(out.as_bytes()), MiReply::Answer { id: Some(9), answer });
        }
    }

    #[test]
    fn an_event_survives_the_wire() {
        let text = "{\"jsonrpc\":\"2.0\",\"method\":\"E_DLG_STATE_CHANGED\",\"params\":{\"callid\":\"x\",\"to_tag\":null,\"new_state\":2}}";
        let event = MiEvent::decode(text.as_bytes()).unwrap();
        assert_eq!(event.name, "E_DLG_STATE_CHANGED");
        assert_eq!(event.params.text("callid"), Some("x"));
        assert_eq!(event.params.get("to_tag"), Some(&Value::Null));
        let mut out = String::new();
        event.encode(&mut out);
        assert_eq!(MiEvent::decode(out.as_bytes()), Some(event));
        assert_eq!(MiEvent::decode(b"{\"jsonrpc\":\"2.0\",\"method\":7}"), None);
        assert_eq!(MiEvent::decode(b"[]"), None);
        assert_eq!(MiEvent::decode(b"{\"method\":\"E\",\"params\":\"x\"}"), None);
    }
}
