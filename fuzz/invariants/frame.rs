//! What holds for every text frame of a client: a whole session answers it, and what comes out is
//! JSON-RPC 2.0.

use std::collections::BTreeMap;
use std::sync::Arc;

use callplane::client::commands::{Begun, Page};
use callplane::client::outbox::Outbox;
use callplane::client::session::{Answer, Ask, Limits, Session, Turn};
use callplane::core::failure::Outcome;
use callplane::core::ids::{Epoch, Nonce, SessionId, TenantId};
use callplane::core::notice::{Notice, Remarks};
use callplane::core::record::{Begin, Entry, Position};
use callplane::rpc::error::Kind;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

const LIMITS: Limits = Limits { batch: 8, commands: 4 };

/// Panics if a promise is broken; else tells whether any request in the frame was well formed.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let mut conversation = Conversation::new();
    conversation.say(text);
    let told = conversation.told();
    let responses = responses(&told);
    for response in &responses {
        check_response(response);
    }
    check_answered(text, &responses);
    // Whatever it was: the next one is served, unless the session waits for its place.
    conversation.say(r#"{"jsonrpc":"2.0","id":"after","method":"Echo"}"#);
    let after = conversation.told();
    assert_eq!(after.len(), 3, "Echo is a response and two events: {after:?}");
    responses.iter().any(|response| response.result.is_some()) || told.len() > responses.len()
}

/// Every response that was written, those inside arrays too.
fn responses(messages: &[String]) -> Vec<Message<'_>> {
    let mut responses = Vec::new();
    for text in messages {
        if text.starts_with('[') {
            let batch: Vec<Message<'_>> = serde_json::from_str(text).expect("an array is JSON");
            assert!(!batch.is_empty(), "an empty array is never written");
            for message in batch {
                assert!(message.method.is_none(), "an array has responses only: {text}");
                responses.push(message);
            }
            continue;
        }
        let message: Message<'_> =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        if message.method.is_some() {
            check_notification(&message, text);
        } else {
            responses.push(message);
        }
    }
    responses
}

fn check_notification(message: &Message<'_>, text: &str) {
    assert_eq!(message.jsonrpc, "2.0");
    assert!(message.id.is_none() && message.result.is_none() && message.error.is_none(), "{text}");
    let params: Params = serde_json::from_str(message.params.map_or("{}", RawValue::get))
        .unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(!params.cmd_id.is_empty() && !params.event.is_empty(), "{text}");
}

fn check_response(response: &Message<'_>) {
    assert_eq!(response.jsonrpc, "2.0");
    assert!(response.id.is_some(), "a response has an id");
    assert!(response.params.is_none());
    assert!(response.result.is_some() != response.error.is_some(), "one of the two: {response:?}");
    if let Some(raw) = response.error {
        let error: Error = serde_json::from_str(raw.get()).expect("an error object");
        let row = Kind::ALL.into_iter().map(Kind::row).find(|row| row.code == error.code);
        let row = row.unwrap_or_else(|| panic!("{} stands in no table", error.code));
        assert_eq!((row.message, row.word), (error.message.as_str(), error.data.kind.as_str()));
    }
}

/// Section 4 of the specification, seen without our parser: what has a good id is answered under
/// it, once; what is no JSON is answered once under `null`.
fn check_answered(text: &str, responses: &[Message<'_>]) {
    let ids = || -> Vec<Value> {
        responses
            .iter()
            .filter_map(|response| serde_json::from_str(response.id?.get()).ok())
            .collect()
    };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(request)) => match request.get("id") {
            Some(id) if is_good(id) && id_text(text).len() <= 256 => {
                assert_eq!(ids(), std::slice::from_ref(id), "{text}")
            }
            _ => assert!(responses.len() <= 1, "{text}"),
        },
        Ok(Value::Array(batch)) if (1..=LIMITS.batch).contains(&batch.len()) => {
            let ids = ids();
            for id in batch.iter().filter_map(|request| request.get("id")) {
                if matches!(id, Value::Number(n) if n.is_i64()) {
                    let asked =
                        batch.iter().filter(|request| request.get("id") == Some(id)).count();
                    let answered = ids.iter().filter(|answered| *answered == id).count();
                    assert_eq!(asked, answered, "{text}");
                }
            }
        }
        Ok(_) => assert_eq!(ids(), [Value::Null], "{text}"),
        Err(_) if serde_json::from_str::<&RawValue>(text.trim()).is_err() => {
            assert_eq!(ids(), [Value::Null], "{text}");
        }
        // JSON by its grammar, with a number or an escape that no value can hold.
        Err(_) => assert!(responses.len() <= LIMITS.batch),
    }
}

fn is_good(id: &Value) -> bool {
    match id {
        Value::Null | Value::String(_) => true,
        Value::Number(number) => number.is_i64() || number.is_u64(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// The raw text of the id, to know its length. Of two the last counts, as in a [`Value`].
fn id_text(text: &str) -> &str {
    let members = serde_json::from_str::<BTreeMap<String, &RawValue>>(text);
    members.ok().and_then(|members| members.get("id").copied()).map_or("", RawValue::get)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    jsonrpc: String,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: Option<String>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// A member that is `null` is there.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(from).map(Some)
}

#[derive(Deserialize)]
struct Params {
    cmd_id: String,
    event: String,
}

#[derive(Deserialize)]
struct Error {
    code: i32,
    message: String,
    data: ErrorData,
}

#[derive(Deserialize)]
struct ErrorData {
    kind: String,
}

/// A session before an engine that begins everything and ends it at once.
struct Conversation {
    session: Session,
    out: Outbox,
    epoch: Epoch,
    seq: u64,
    drawn: u128,
}

impl Conversation {
    fn new() -> Self {
        let epoch = Epoch::derive(Nonce(7));
        let head = Position { epoch: epoch.clone(), seq: 0 };
        let id = SessionId::derive(Nonce(1));
        let session = Session::new(TenantId::default(), id, head, LIMITS);
        Self { session, out: Outbox::default(), epoch, seq: 0, drawn: 100 }
    }

    fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.out.pop())
            .map(|message| String::from_utf8(message.to_vec()).expect("text frames are UTF-8"))
            .collect()
    }

    fn say(&mut self, text: &str) {
        let mut asks = self.turn(|session, turn| session.frame(text, turn));
        while let Some(ask) = (!asks.is_empty()).then(|| asks.remove(0)) {
            let more = match ask {
                Ask::Begin(ticket, begin) => {
                    let mut more = self.answer(Answer::Begun(ticket, Ok(Begun::New)));
                    more.extend(self.run(&begin));
                    more
                }
                Ask::Get(ticket, _) | Ask::Cancel(ticket, _) => {
                    self.answer(Answer::Known(ticket, Ok(None)))
                }
                Ask::Replay(ticket, wanted) => {
                    let page = Page { entries: Vec::new(), through: wanted.after.seq, more: false };
                    self.answer(Answer::Replayed(ticket, Ok(page)))
                }
                Ask::Attach(_) => {
                    let (epoch, seq) = (self.epoch.clone(), self.seq);
                    self.session.attached(Position { epoch, seq });
                    let through = self.session.next_page().map_or(0, |wanted| wanted.after.seq);
                    let page = Page { entries: Vec::new(), through, more: false };
                    self.answer(Answer::Page(Ok(page)))
                }
            };
            asks.extend(more);
        }
    }

    fn answer(&mut self, answer: Answer) -> Vec<Ask> {
        self.turn(|session, turn| {
            assert_eq!(session.answer(answer, turn), None, "no frame closes the connection");
        })
    }

    fn run(&mut self, begin: &Begin) -> Vec<Ask> {
        let mut asks = Vec::new();
        for notice in [
            Notice::Started { deadline_ms: 1000 },
            Notice::Ended { outcome: Outcome::Success, remarks: Remarks::default() },
        ] {
            self.seq += 1;
            let entry = Arc::new(Entry {
                seq: self.seq,
                session: begin.session.clone(),
                key: begin.key.clone(),
                method: begin.request.method(),
                external_id: begin.external_id.clone(),
                asked: Some(begin.digest.beginning()),
                notice,
            });
            let epoch = self.epoch.clone();
            asks.extend(self.turn(|session, turn| session.live(&epoch, &entry, turn)));
        }
        asks
    }

    fn turn(&mut self, take: impl FnOnce(&mut Session, &mut Turn<'_>)) -> Vec<Ask> {
        let mut asks = Vec::new();
        let drawn = &mut self.drawn;
        let mut nonce = || {
            *drawn += 1;
            Nonce(*drawn)
        };
        let mut turn = Turn {
            out: &mut self.out,
            asks: &mut asks,
            now: 0,
            nonce: &mut nonce,
            refused: &mut |_, _| {},
        };
        take(&mut self.session, &mut turn);
        asks
    }
}
