//! The methods, and a request's way from raw params to a checked call.

use std::fmt;
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{Kind, Refusal};
use super::frame::{Request as Frame, text_of};
use super::params::{Fields, Name};
use crate::core::ids::{CallId, CommandId, Digest, Epoch, SessionId, StackId};
use crate::core::request::{Display, Leg, Method as Commanded, Request, StartRequest};
use crate::core::sip_address::SipAddress;

/// Longest `external_id` taken, in bytes.
pub const LONGEST_EXTERNAL_ID: usize = 128;

/// Longest `ring_timeout` taken, in seconds. A stack's own timeout may bound it further.
pub const LONGEST_RING: u64 = 60;

/// Every method of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// A command that the core runs.
    Command(Commanded),
    /// Sends its params back; touches neither engine nor store.
    Echo,
    /// What is known of a command.
    CommandGet,
    /// Gives a running command up.
    CommandCancel,
    /// Goes on where an earlier connection ended.
    Resume,
    /// The OpenRPC document of this server.
    Discover,
}

impl Method {
    /// All of them, in the order of the document.
    pub const ALL: [Self; 11] = [
        Self::Command(Commanded::CallStart),
        Self::Command(Commanded::CallBlindTransfer),
        Self::Command(Commanded::CallAttendedTransfer),
        Self::Command(Commanded::CallHold),
        Self::Command(Commanded::CallUnhold),
        Self::Command(Commanded::CallEnd),
        Self::Echo,
        Self::CommandGet,
        Self::CommandCancel,
        Self::Resume,
        Self::Discover,
    ];

    /// The name on the wire. Names are case sensitive.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Command(command) => command.as_str(),
            Self::Echo => "Echo",
            Self::CommandGet => "CommandGet",
            Self::CommandCancel => "CommandCancel",
            Self::Resume => "Resume",
            Self::Discover => "rpc.discover",
        }
    }

    /// The method of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }

    /// The parameters that are read, with whether they must be there. Echo takes anything.
    #[must_use]
    pub fn fields(self) -> &'static [(&'static str, bool)] {
        match self {
            Self::Command(Commanded::CallStart) => &[
                ("caller", true),
                ("callee", true),
                ("ring_timeout", false),
                ("display", false),
                ("auto_answer", false),
                ("ringing", false),
                ("cmd_id", false),
                ("external_id", false),
                ("stack", false),
                ("traceparent", false),
            ],
            Self::Command(Commanded::CallBlindTransfer) => &[
                ("callid", true),
                ("leg", true),
                ("destination", true),
                ("cmd_id", false),
                ("external_id", false),
                ("stack", false),
                ("traceparent", false),
            ],
            Self::Command(Commanded::CallAttendedTransfer) => &[
                ("callidA", true),
                ("legA", true),
                ("callidB", true),
                ("legB", true),
                ("cmd_id", false),
                ("external_id", false),
                ("stack", false),
                ("traceparent", false),
            ],
            Self::Command(Commanded::CallHold | Commanded::CallUnhold | Commanded::CallEnd) => &[
                ("callid", true),
                ("cmd_id", false),
                ("external_id", false),
                ("stack", false),
                ("traceparent", false),
            ],
            Self::Echo => &[("cmd_id", false)],
            Self::CommandGet | Self::CommandCancel => &[("cmd_id", true)],
            Self::Resume => &[("session", true), ("epoch", true), ("seq", true)],
            Self::Discover => &[],
        }
    }
}

/// A request whose params are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call<'a> {
    /// Begin a command.
    Command(Box<Asked>),
    /// Send the params back.
    Echo {
        /// The client's id of this echo.
        cmd_id: Option<CommandId>,
        /// The raw object, as it came.
        data: Option<&'a str>,
    },
    /// Look a command up.
    CommandGet(CommandId),
    /// Give a command up.
    CommandCancel(CommandId),
    /// Go on with a session.
    Resume(Resume),
    /// Describe the protocol.
    Discover,
}

/// A command as a client asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The client's id, if it gave one.
    pub cmd_id: Option<CommandId>,
    /// What is to be done.
    pub request: Request,
    /// The client's own reference, echoed in every event.
    pub external_id: Option<Arc<str>>,
    /// The stack to use, if the client names one.
    pub stack: Option<StackId>,
    /// W3C `traceparent`, stored with the command.
    pub trace: Option<Arc<str>>,
}

impl Asked {
    /// SHA-256 of the method and the parsed params without `cmd_id` and `traceparent`: a repeat
    /// is the same command whatever its spelling and whichever span sends it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(self.request.method().as_str().as_bytes());
        context.update(b"\0");
        // Serialising our own types into memory can't fail; an empty text would only make a
        // repeat with other params look the same.
        context.update(&serde_json::to_vec(&self.request).unwrap_or_default());
        for extra in [self.external_id.as_deref(), self.stack.as_ref().map(StackId::as_str)] {
            context.update(b"\0");
            if let Some(text) = extra {
                context.update(b"=");
                context.update(text.as_bytes());
            }
        }
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Digest(bytes)
    }
}

/// The params of `Resume`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The session as an earlier result named it.
    pub session: SessionId,
    /// The epoch of the highest position that the client saw.
    pub epoch: Epoch,
    /// Its sequence number; 0 for "from the first entry".
    pub seq: u64,
}

/// Checks a request.
///
/// # Errors
/// The method is unknown, or a parameter is bad; the refusal names it.
pub fn parse<'a>(request: &Frame<'a>) -> Result<Call<'a>, Refusal> {
    let Some(method) = Method::of(&request.method) else {
        return Err(Refusal::new(Kind::MethodNotFound));
    };
    if method == Method::Echo {
        return echo(request.params);
    }
    let fields = Fields::open(request.params)?;
    let call = match method {
        Method::Command(command) => Call::Command(Box::new(asked(command, &fields)?)),
        Method::Echo | Method::Discover => Call::Discover,
        Method::CommandGet => Call::CommandGet(fields.required("cmd_id", CommandId::parse)?),
        Method::CommandCancel => Call::CommandCancel(fields.required("cmd_id", CommandId::parse)?),
        Method::Resume => Call::Resume(Resume {
            session: fields.required("session", SessionId::parse)?,
            epoch: fields.required("epoch", Epoch::parse)?,
            seq: fields.number("seq")?.ok_or_else(|| Refusal::bad("seq", "is missing"))?,
        }),
    };
    Ok(call)
}

fn asked(method: Commanded, fields: &Fields<'_>) -> Result<Asked, Refusal> {
    let call = |field| fields.required(field, CallId::parse);
    let leg = |field| fields.required(field, leg_of);
    let request = match method {
        Commanded::CallStart => Request::Start(StartRequest {
            caller: fields.required("caller", SipAddress::to_call)?,
            callee: fields.required("callee", SipAddress::to_call)?,
            ring_timeout: fields.seconds("ring_timeout", 1, LONGEST_RING)?,
            display: fields.parsed("display", Display::parse)?,
            auto_answer: fields.switch("auto_answer")?.unwrap_or_default(),
            ringing: fields.switch("ringing")?.unwrap_or_default(),
        }),
        Commanded::CallBlindTransfer => Request::BlindTransfer {
            call: call("callid")?,
            leg: leg("leg")?,
            destination: fields.required("destination", SipAddress::to_call)?,
        },
        Commanded::CallAttendedTransfer => {
            let (one, other) = (call("callidA")?, call("callidB")?);
            if one == other {
                return Err(Refusal::bad("callidB", "must be another call than callidA"));
            }
            Request::AttendedTransfer {
                call: one,
                leg: leg("legA")?,
                consult: other,
                consult_leg: leg("legB")?,
            }
        }
        Commanded::CallHold => Request::Hold { call: call("callid")? },
        Commanded::CallUnhold => Request::Unhold { call: call("callid")? },
        Commanded::CallEnd => Request::End { call: call("callid")? },
    };
    Ok(Asked {
        cmd_id: fields.parsed("cmd_id", CommandId::parse)?,
        request,
        external_id: fields.parsed("external_id", external_id)?,
        stack: fields.parsed("stack", stack_name)?,
        trace: fields.parsed("traceparent", traceparent)?,
    })
}

fn leg_of(text: &str) -> Result<Leg, &'static str> {
    [Leg::Caller, Leg::Callee]
        .into_iter()
        .find(|leg| leg.as_str() == text)
        .ok_or("must be caller or callee")
}

fn external_id(text: &str) -> Result<Arc<str>, &'static str> {
    if text.is_empty() || text.len() > LONGEST_EXTERNAL_ID {
        return Err("must have 1 to 128 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("must not have control characters");
    }
    Ok(Arc::from(text))
}

fn stack_name(text: &str) -> Result<StackId, &'static str> {
    if text.is_empty() || text.len() > 64 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("must be the name of a stack");
    }
    Ok(StackId::new(text))
}

/// Version 00 of <https://www.w3.org/TR/trace-context/>: 55 characters of lower-case hex in four
/// groups.
///
/// # Errors
/// What it must be.
pub fn traceparent(text: &str) -> Result<Arc<str>, &'static str> {
    let groups: Vec<_> = text.split('-').collect();
    let shape = groups.iter().map(|group| group.len()).eq([2, 32, 16, 2]);
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f' | '-');
    if !shape || !text.chars().all(hex) {
        return Err("must be a W3C traceparent");
    }
    Ok(Arc::from(text))
}

/// Echo keeps its params as raw text and reads nothing but `cmd_id`.
fn echo(params: Option<&str>) -> Result<Call<'_>, Refusal> {
    let Some(raw) = params else {
        return Ok(Call::Echo { cmd_id: None, data: None });
    };
    if raw.starts_with('[') {
        return Fields::open(params).map(|_| Call::Echo { cmd_id: None, data: None });
    }
    let is_empty = raw.bytes().filter(|b| !b.is_ascii_whitespace()).eq(*b"{}");
    // Without a backslash no other spelling of the name is possible.
    if !raw.contains("cmd_id") && !raw.contains('\\') {
        return Ok(Call::Echo { cmd_id: None, data: (!is_empty).then_some(raw) });
    }
    let OwnId(id) = serde_json::from_str(raw).unwrap_or_default();
    let cmd_id = match id {
        None | Some("null") => None,
        Some(id) => {
            let text = text_of(id).ok_or_else(|| Refusal::bad("cmd_id", "must be a string"))?;
            Some(
                CommandId::parse(&text)
                    .map_err(|error| Refusal::bad("cmd_id", error.to_string()))?,
            )
        }
    };
    Ok(Call::Echo { cmd_id, data: (!is_empty).then_some(raw) })
}

/// The raw `cmd_id` of an object; everything else is skipped.
#[derive(Default)]
struct OwnId<'a>(Option<&'a str>);

impl<'de: 'a, 'a> Deserialize<'de> for OwnId<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FindId)
    }
}

struct FindId;

impl<'de> Visitor<'de> for FindId {
    type Value = OwnId<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Name(name)) = map.next_key()? {
            if name == "cmd_id" {
                found = Some(map.next_value::<&RawValue>()?.get());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(OwnId(found))
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{self, Frame as Parsed};
    use super::*;

    fn call(method: &str, params: &str) -> Result<Call<'static>, Refusal> {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let Parsed::One(Ok(request)) = frame::parse(text.leak(), 8) else { panic!("{method}") };
        parse(&request)
    }

    fn asked(method: &str, params: &str) -> Asked {
        match call(method, params) {
            Ok(Call::Command(asked)) => *asked,
            other => panic!("{method} {params}: {other:?}"),
        }
    }

    fn bad(method: &str, params: &str) -> String {
        let refusal = call(method, params).unwrap_err();
        assert_eq!(refusal.kind, Kind::BadParams, "{refusal:?}");
        refusal.field.unwrap().into_owned()
    }

    #[test]
    fn each_bad_parameter_is_named() {
        let a = r#""caller":"sip:a@x""#;
        let ab = r#""caller":"sip:a@x","callee":"sip:b@x""#;
        for (method, params, field) in [
            ("CallStart", "{}".to_owned(), "caller"),
            ("CallStart", format!("{{{a}}}"), "callee"),
            ("CallStart", format!(r#"{{{a},"callee":"sip:b@x\r\nX-Evil: 1"}}"#), "callee"),
            ("CallStart", format!(r#"{{{a},"callee":7}}"#), "callee"),
            ("CallStart", format!(r#"{{{ab},"ring_timeout":0}}"#), "ring_timeout"),
            ("CallStart", format!(r#"{{{ab},"ring_timeout":61}}"#), "ring_timeout"),
            ("CallStart", format!(r#"{{{ab},"display":"a\"b"}}"#), "display"),
            ("CallStart", format!(r#"{{{ab},"auto_answer":"yes"}}"#), "auto_answer"),
            ("CallStart", format!(r#"{{{ab},"cmd_id":5}}"#), "cmd_id"),
            ("CallStart", format!(r#"{{{ab},"cmd_id":"a\nb"}}"#), "cmd_id"),
            ("CallStart", format!(r#"{{{ab},"external_id":""}}"#), "external_id"),
            ("CallStart", format!(r#"{{{ab},"stack":"a b"}}"#), "stack"),
            ("CallStart", format!(r#"{{{ab},"traceparent":"x"}}"#), "traceparent"),
            (
                "CallStart",
                r#"{"caller":"sip:a@x;maddr=y","callee":"sip:b@x"}"#.to_owned(),
                "caller",
            ),
            ("CallStart", format!(r#"{{{a},"callee":"sip:b@x;cpt=1"}}"#), "callee"),
            ("CallStart", r#"["sip:a@x","sip:b@x"]"#.to_owned(), "params"),
            ("CallHold", "{}".to_owned(), "callid"),
            ("CallUnhold", r#"{"callid":"a b"}"#.to_owned(), "callid"),
            ("CallEnd", r#"{"callid":null}"#.to_owned(), "callid"),
            ("CallBlindTransfer", r#"{"callid":"c"}"#.to_owned(), "leg"),
            ("CallBlindTransfer", r#"{"callid":"c","leg":"both"}"#.to_owned(), "leg"),
            ("CallBlindTransfer", r#"{"callid":"c","leg":"caller"}"#.to_owned(), "destination"),
            ("CallAttendedTransfer", r#"{"callidA":"c"}"#.to_owned(), "callidB"),
            (
                "CallAttendedTransfer",
                r#"{"callidA":"c","callidB":"c","legA":"caller","legB":"callee"}"#.to_owned(),
                "callidB",
            ),
            ("CommandGet", "{}".to_owned(), "cmd_id"),
            ("CommandCancel", r#"{"cmd_id":""}"#.to_owned(), "cmd_id"),
            ("Resume", r#"{"session":"s","epoch":"e"}"#.to_owned(), "seq"),
            ("Resume", r#"{"session":"s","epoch":"e","seq":-1}"#.to_owned(), "seq"),
            ("Echo", r#"[1]"#.to_owned(), "params"),
            ("Echo", r#"{"cmd_id":1}"#.to_owned(), "cmd_id"),
        ] {
            assert_eq!(bad(method, &params), field, "{method} {params}");
        }
    }

    #[test]
    fn unknown_params_are_ignored_and_null_is_absent() {
        let asked = asked(
            "CallStart",
            r#"{"caller":"sip:a@x","callee":"sip:b@x","color":{"x":[1]},"cmd_id":null}"#,
        );
        assert_eq!(asked.cmd_id, None);
    }

    #[test]
    fn the_digest_ignores_spelling_id_and_trace_and_nothing_else() {
        let plain = asked("CallHold", r#"{"callid":"c1"}"#);
        let spelt = asked(
            "CallHold",
            r#"{ "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","callid":"c\u0031","cmd_id":"7","zzz":1}"#,
        );
        assert_eq!(plain.digest(), spelt.digest());
        let others = [
            asked("CallHold", r#"{"callid":"c2"}"#),
            asked("CallUnhold", r#"{"callid":"c1"}"#),
            asked("CallHold", r#"{"callid":"c1","external_id":"x"}"#),
            asked("CallHold", r#"{"callid":"c1","stack":"x"}"#),
        ];
        let digests: std::collections::BTreeSet<_> =
            others.iter().chain([&plain]).map(|asked| asked.digest().0).collect();
        assert_eq!(digests.len(), 5);
    }

    #[test]
    fn echo_finds_its_id_and_keeps_its_text() {
        let Ok(Call::Echo { cmd_id, data }) =
            call("Echo", r#"{"a": {"cmd_id":5}, "cmd_\u0069d":"e-1"}"#)
        else {
            panic!()
        };
        assert_eq!(cmd_id.unwrap().as_str(), "e-1");
        assert_eq!(data, Some(r#"{"a": {"cmd_id":5}, "cmd_\u0069d":"e-1"}"#));
        assert_eq!(call("Echo", "{ }"), Ok(Call::Echo { cmd_id: None, data: None }));
    }

    #[test]
    fn internal_names_of_the_old_server_are_no_methods() {
        for name in ["NotifyEnd", "Wait", "callstart", "echo", "CallStart ", ""] {
            assert_eq!(call(name, "{}").unwrap_err().kind, Kind::MethodNotFound);
        }
    }

    #[test]
    fn every_field_of_the_table_is_read() {
        // A field is read when a value of a type that none takes is refused under its name.
        for method in Method::ALL {
            for (field, required) in method.fields() {
                let mut params = serde_json::Map::new();
                for (other, needed) in method.fields() {
                    if *needed && other != field {
                        let good = match *other {
                            "caller" | "callee" | "destination" => "sip:a@x",
                            "leg" | "legA" | "legB" => "caller",
                            "seq" => "1",
                            "callidB" => "two",
                            _ => "one",
                        };
                        params.insert((*other).to_owned(), good.into());
                    }
                }
                let missing = call(method.as_str(), &serde_json::to_string(&params).unwrap());
                assert_eq!(missing.is_err(), *required, "{field}: {missing:?}");
                params.insert((*field).to_owned(), serde_json::json!([1]));
                let text = serde_json::to_string(&params).unwrap();
                assert_eq!(bad(method.as_str(), &text), *field, "{method:?}");
            }
        }
    }
}
