//! One frame of a client: a request, a notification, a batch, or nothing that can be read.
//!
//! The text is scanned once. `params` and `id` stay the raw text of the client until the method
//! is known, so nothing is copied and an `id` comes back exactly as it was sent.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{Kind, Refusal};

/// Longest `id` taken, in bytes of its JSON text. An id is kept until its response is written.
pub const LONGEST_ID: usize = 256;

/// What a client's frame is.
#[derive(Debug)]
pub enum Frame<'a> {
    /// One request or notification, or what was meant as one.
    One(Item<'a>),
    /// A batch of at least one. Its responses go out as one array, in this order.
    Batch(Vec<Item<'a>>),
    /// Not JSON, an empty batch, or one that is too long: one error with `id` null.
    Refused(Refusal),
}

/// One element of a frame.
pub type Item<'a> = Result<Request<'a>, Invalid<'a>>;

/// A valid request object.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Absent for a notification, which is never answered. `null` is an id and is answered.
    pub id: Option<Id<'a>>,
    /// The method's name, unescaped.
    pub method: Cow<'a, str>,
    /// The raw object or array.
    pub params: Option<&'a str>,
}

/// Something that is JSON but not a request object.
#[derive(Debug)]
pub struct Invalid<'a> {
    /// The id that it carries, or `null` where none could be read (section 5 of the
    /// specification).
    pub id: Id<'a>,
    /// What is wrong.
    pub refusal: Refusal,
}

/// A request's id: the raw JSON text of a string, an integer or `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id<'a>(&'a str);

impl<'a> Id<'a> {
    /// The id of an answer to something whose id can't be known.
    pub const NULL: Id<'static> = Id("null");

    /// Takes the raw JSON text of an id. Fractions and exponents are refused, as are objects,
    /// arrays and booleans.
    #[must_use]
    pub fn of(raw: &'a str) -> Option<Self> {
        if raw.len() > LONGEST_ID {
            return None;
        }
        let fits = match raw.as_bytes().first()? {
            b'"' => true,
            b'-' | b'0'..=b'9' => !raw.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')),
            _ => raw == "null",
        };
        fits.then_some(Self(raw))
    }

    /// The JSON text, exactly as the client sent it.
    #[must_use]
    pub fn as_json(self) -> &'a str {
        self.0
    }
}

/// Reads one frame. `longest_batch` bounds the number of elements of a batch.
#[must_use]
pub fn parse(text: &str, longest_batch: usize) -> Frame<'_> {
    let trimmed = text.trim_start_matches([' ', '\t', '\r', '\n']);
    match trimmed.as_bytes().first() {
        Some(b'{') => match serde_json::from_str::<Envelope<'_>>(trimmed) {
            Ok(envelope) => Frame::One(envelope.check()),
            Err(error) => Frame::Refused(unreadable(&error)),
        },
        Some(b'[') => batch(trimmed, longest_batch),
        _ => match serde_json::from_str::<&RawValue>(trimmed) {
            Ok(_) => Frame::One(Err(not_an_object())),
            Err(error) => Frame::Refused(unreadable(&error)),
        },
    }
}

fn batch(text: &str, longest: usize) -> Frame<'_> {
    let mut json = serde_json::Deserializer::from_str(text);
    let read = (&mut json).deserialize_seq(Elements { longest });
    let elements = match read.and_then(|elements| json.end().map(|()| elements)) {
        Ok(elements) => elements,
        Err(error) => return Frame::Refused(unreadable(&error)),
    };
    if elements.is_empty() {
        return Frame::Refused(Refusal::new(Kind::InvalidRequest).because("the batch is empty"));
    }
    if elements.len() > longest {
        return Frame::Refused(
            Refusal::new(Kind::InvalidRequest)
                .because(format!("the batch has more than {longest} requests")),
        );
    }
    Frame::Batch(elements.into_iter().map(|raw| element(raw.get())).collect())
}

fn element(raw: &str) -> Item<'_> {
    if !raw.starts_with('{') {
        return Err(not_an_object());
    }
    match serde_json::from_str::<Envelope<'_>>(raw) {
        Ok(envelope) => envelope.check(),
        Err(_) => Err(not_an_object()),
    }
}

fn unreadable(error: &serde_json::Error) -> Refusal {
    Refusal::new(Kind::ParseError).because(format!(
        "not JSON at line {}, column {}",
        error.line(),
        error.column()
    ))
}

fn not_an_object() -> Invalid<'static> {
    invalid(Id::NULL, None, "a request must be an object")
}

fn invalid<'a>(id: Id<'a>, member: Option<&'static str>, why: &'static str) -> Invalid<'a> {
    let refusal = Refusal::new(Kind::InvalidRequest).because(why);
    Invalid {
        id,
        refusal: match member {
            Some(member) => refusal.at(member),
            None => refusal,
        },
    }
}

/// The members of a request object as raw text.
#[derive(Default)]
struct Envelope<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    repeated: Option<&'static str>,
}

impl<'a> Envelope<'a> {
    fn check(self) -> Item<'a> {
        let id = match self.id.map(|raw| Id::of(raw.get())) {
            None => None,
            Some(Some(id)) => Some(id),
            Some(None) => {
                let why = "id must be a string of at most 256 bytes, an integer or null";
                return Err(invalid(Id::NULL, Some("id"), why));
            }
        };
        let told = id.unwrap_or(Id::NULL);
        if let Some(member) = self.repeated {
            return Err(invalid(told, Some(member), "the member is given twice"));
        }
        match self.jsonrpc.and_then(|raw| text_of(raw.get())) {
            Some(version) if version == "2.0" => {}
            _ => return Err(invalid(told, Some("jsonrpc"), "jsonrpc must be \"2.0\"")),
        }
        let Some(method) = self.method.and_then(|raw| text_of(raw.get())) else {
            return Err(invalid(told, Some("method"), "method must be a string"));
        };
        let params = self.params.map(RawValue::get);
        if params.is_some_and(|raw| !raw.starts_with(['{', '['])) {
            return Err(invalid(told, Some("params"), "params must be an object"));
        }
        Ok(Request { id, method, params })
    }
}

/// The text of a raw JSON string, borrowed where it has no escapes.
pub(super) fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.bytes().any(|byte| byte == b'\\') {
        return serde_json::from_str::<String>(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

impl<'de: 'a, 'a> Deserialize<'de> for Envelope<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(member) = map.next_key::<Member>()? {
            let (name, place) = match member {
                Member::Jsonrpc => ("jsonrpc", &mut envelope.jsonrpc),
                Member::Id => ("id", &mut envelope.id),
                Member::Method => ("method", &mut envelope.method),
                Member::Params => ("params", &mut envelope.params),
                Member::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value = map.next_value::<&RawValue>()?;
            if place.replace(value).is_some() {
                envelope.repeated = Some(name);
            }
        }
        Ok(envelope)
    }
}

enum Member {
    Jsonrpc,
    Id,
    Method,
    Params,
    Other,
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(MemberName)
    }
}

struct MemberName;

impl Visitor<'_> for MemberName {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Member, E> {
        Ok(match name {
            "jsonrpc" => Member::Jsonrpc,
            "id" => Member::Id,
            "method" => Member::Method,
            "params" => Member::Params,
            _ => Member::Other,
        })
    }
}

/// Collects the elements of a batch, and of one that is too long only one more than allowed.
struct Elements {
    longest: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() <= self.longest {
            match seq.next_element::<&RawValue>()? {
                Some(element) => elements.push(element),
                None => return Ok(elements),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Item<'_> {
        match parse(text, 8) {
            Frame::One(item) => item,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_absent_id_is_a_notification_and_a_null_one_is_not() {
        let absent = one(r#"{"jsonrpc":"2.0","method":"Echo"}"#).unwrap();
        assert_eq!(absent.id, None);
        let null = one(r#"{"jsonrpc":"2.0","id":null,"method":"Echo"}"#).unwrap();
        assert_eq!(null.id, Some(Id::NULL));
    }

    #[test]
    fn ids_are_strings_integers_or_null_and_come_back_as_sent() {
        for good in ["7", "-3", "0", "98765432109876543210", r#""a\u00e9\"b""#, r#""""#, "null"] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{good},"method":"Echo"}}"#);
            assert_eq!(one(&text).unwrap().id.unwrap().as_json(), good);
        }
        let long = format!("\"{}\"", "x".repeat(LONGEST_ID));
        for bad in ["1.5", "1.0", "1e3", "true", "{}", "[1]", long.as_str()] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{bad},"method":"Echo"}}"#);
            let invalid = one(&text).unwrap_err();
            assert_eq!(invalid.id, Id::NULL, "{bad}");
            assert_eq!(invalid.refusal.field.as_deref(), Some("id"));
        }
    }

    #[test]
    fn an_invalid_request_is_answered_under_the_id_it_carries() {
        let old = one(r#"{"jsonrpc":"1.0","id":5,"method":"Echo"}"#).unwrap_err();
        assert_eq!((old.id.as_json(), old.refusal.field.as_deref()), ("5", Some("jsonrpc")));
        let scalar = one(r#"{"jsonrpc":"2.0","id":6,"method":"Echo","params":"x"}"#).unwrap_err();
        assert_eq!((scalar.id.as_json(), scalar.refusal.field.as_deref()), ("6", Some("params")));
        let twice = one(r#"{"jsonrpc":"2.0","id":7,"method":"A","method":"B"}"#).unwrap_err();
        assert_eq!((twice.id.as_json(), twice.refusal.field.as_deref()), ("7", Some("method")));
    }

    #[test]
    fn names_may_be_escaped() {
        let request = one(r#"{"json\u0072pc":"2.\u0030","id":1,"method":"Ec\u0068o"}"#).unwrap();
        assert_eq!(request.method, "Echo");
    }

    #[test]
    fn text_behind_the_frame_is_a_parse_error() {
        for text in ["", " ", "{", "[", "nul", "{} x", "[{}] x", "[1,]", "{\"a\":}", "\u{feff}{}"] {
            match parse(text, 8) {
                Frame::Refused(refusal) => assert_eq!(refusal.kind, Kind::ParseError, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_batch_keeps_its_order_and_is_bounded() {
        let two = r#" [{"jsonrpc":"2.0","id":2,"method":"b"}, 1, {"jsonrpc":"2.0","id":1,"method":"a"}] "#;
        let Frame::Batch(items) = parse(two, 8) else { panic!() };
        let ids: Vec<_> = items
            .iter()
            .map(|item| match item {
                Ok(request) => request.id.unwrap().as_json(),
                Err(invalid) => invalid.id.as_json(),
            })
            .collect();
        assert_eq!(ids, ["2", "null", "1"]);
        let Frame::Refused(refusal) = parse("[1,2,3,4,5,6,7,8,9,{]", 8) else { panic!() };
        assert_eq!(refusal.kind, Kind::ParseError);
        let Frame::Refused(refusal) = parse("[1,2,3,4,5,6,7,8,9,10]", 8) else { panic!() };
        assert_eq!(refusal.kind, Kind::InvalidRequest);
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"Echo","params":{{"a":{}{}}}}}"#,
            "[".repeat(30_000),
            "]".repeat(30_000)
        );
        assert!(one(&deep).is_ok());
    }
}
