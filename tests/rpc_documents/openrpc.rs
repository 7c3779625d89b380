//! The OpenRPC document, from the code: types that describe what `rpc::method` reads and
//! `rpc::wire` writes. The tests beside this hold them to both.

#![allow(dead_code, reason = "shapes that are only described")]

use callplane::core::failure::Code;
use callplane::core::notice::Event;
use callplane::core::request::Method as Commanded;
use callplane::rpc::error::Kind;
use callplane::rpc::method::Method;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// One party of a call.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LegWord {
    /// The party that sent the INVITE.
    Caller,
    /// The party that answered it.
    Callee,
}

/// Whether a call is up as far as can be known.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UpWord {
    /// A call is up.
    Yes,
    /// No call is up.
    No,
    /// It can't be known.
    Unknown,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeWord {
    /// What was asked for is so.
    Success,
    /// It is not so, and that is known.
    Failed,
    /// It was given up.
    Cancelled,
    /// Nothing was ever sent.
    NotStarted,
    /// It can't be known; `up` says whether a call is up.
    Unknown,
}

/// What every command may carry.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CommonParams {
    /// Your id of the command, 1 to 128 printable ASCII characters. The same id and params are the
    /// same command; without one an id is made.
    #[schemars(length(min = 1, max = 128))]
    pub cmd_id: Option<String>,
    /// Your own reference, echoed in every event; at most 128 bytes.
    #[schemars(length(min = 1, max = 128))]
    pub external_id: Option<String>,
    /// The SIP stack to use, by its configured name. Needed only with several, and rarely then.
    pub stack: Option<String>,
    /// W3C trace context of your request, stored with the command.
    pub traceparent: Option<String>,
}

/// Ring the caller, then have the caller's phone call the callee.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CallStartParams {
    /// The SIP address whose phone rings first, such as `sip:alice@example.com`.
    #[schemars(length(min = 1, max = 512))]
    pub caller: String,
    /// The SIP address that this phone then calls.
    #[schemars(length(min = 1, max = 512))]
    pub callee: String,
    /// How long each of the two may ring, in whole seconds, 1 to 60. The configured time when absent.
    #[schemars(range(min = 1, max = 60))]
    pub ring_timeout: Option<u64>,
    /// What the caller's phone shows: 1 to 64 bytes without quotes, backslashes and brackets.
    #[schemars(length(min = 1, max = 64))]
    pub display: Option<String>,
    /// Ask the caller's phone to answer by itself.
    pub auto_answer: Option<bool>,
    /// Tell with `CallerRinging` when the caller's phone rings; the old server never did.
    pub ringing: Option<bool>,
    /// What every command may carry.
    #[serde(flatten)]
    pub common: CommonParams,
}

/// Send one party of a call elsewhere.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CallBlindTransferParams {
    /// The SIP Call-ID of the call.
    #[schemars(length(min = 1, max = 256))]
    pub callid: String,
    /// Who is sent: `caller` (the party that sent the INVITE of this call) or `callee`.
    pub leg: LegWord,
    /// The SIP address to send this party to.
    #[schemars(length(min = 1, max = 512))]
    pub destination: String,
    /// What every command may carry.
    #[serde(flatten)]
    pub common: CommonParams,
}

/// Join one party each of two calls.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[allow(non_snake_case, reason = "the names on the wire")]
pub struct CallAttendedTransferParams {
    /// The Call-ID of the call whose party is sent.
    #[schemars(length(min = 1, max = 256))]
    pub callidA: String,
    /// Who is sent: `caller` or `callee`.
    pub legA: LegWord,
    /// The Call-ID of the call that is replaced; another one than `callidA`.
    #[schemars(length(min = 1, max = 256))]
    pub callidB: String,
    /// Its party that stays: `caller` or `callee`.
    pub legB: LegWord,
    /// What every command may carry.
    #[serde(flatten)]
    pub common: CommonParams,
}

/// A call.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CallParams {
    /// The SIP Call-ID of the call.
    #[schemars(length(min = 1, max = 256))]
    pub callid: String,
    /// What every command may carry.
    #[serde(flatten)]
    pub common: CommonParams,
}

/// Anything; it comes back as the `data` of the event `Reply`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EchoParams {
    /// Your id of this echo; one is made without it.
    #[schemars(length(min = 1, max = 128))]
    pub cmd_id: Option<String>,
}

/// A command of this session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CommandParams {
    /// Its id.
    #[schemars(length(min = 1, max = 128))]
    pub cmd_id: String,
}

/// Where an earlier connection of a session got to.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ResumeParams {
    /// The session, as a result named it.
    pub session: String,
    /// The epoch of the last position seen.
    pub epoch: String,
    /// The highest `seq` seen in that epoch.
    pub seq: u64,
}

/// A place in the stream of notifications.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Place {
    /// Which life of the store. Positions of different epochs can't be compared.
    pub epoch: String,
    /// Increasing, though not dense, for one client.
    pub seq: u64,
}

/// Why a command did not succeed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ErrorDetails {
    /// The word; see the table of failures.
    pub code: String,
    /// The text, as in `data`.
    pub message: String,
    /// The SIP status that decided it, if one did.
    pub sip_status: Option<u16>,
    /// Its reason phrase.
    pub sip_reason: Option<String>,
    /// Whether a call is up now.
    pub up: UpWord,
}

/// What stands beside an outcome.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Remarks {
    /// With `unknown`: whether a call is up.
    pub up: Option<UpWord>,
    /// An attended transfer: whether the target's phone ended the replaced call itself.
    pub replaced: Option<bool>,
    /// A call that was asked for may still ring somewhere.
    pub may_still_ring: Option<bool>,
    /// There was nothing to change.
    pub already: Option<bool>,
    /// A setup leg could not be ended.
    pub leg_left_up: Option<bool>,
    /// `notify` when only the phone that was sent told of the new call.
    pub observed: Option<String>,
}

/// The result of a command: it is recorded and will reach exactly one `Ended`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct StartedResult {
    /// The command's id, yours or a made one.
    pub cmd_id: String,
    /// `Started`.
    pub event: String,
    /// Milliseconds from the begin until `Ended` at the latest. Echo has none.
    pub deadline_ms: Option<u64>,
    /// Your own reference.
    pub external_id: Option<String>,
    /// Set when the id was known already and nothing was begun.
    pub repeated: Option<bool>,
    /// The store is away: a `CallEnd` went straight to the stack. How it ended stands beside it, and
    /// `Ended` follows; neither has a position, and the id is not remembered.
    pub degraded: Option<bool>,
    /// With `repeated`, on a connection that did not have the command's notifications: whether
    /// they follow.
    pub replayed: Option<bool>,
    /// With `repeated`, when the command has ended: how.
    pub outcome: Option<OutcomeWord>,
    /// With `repeated`, when the command did not succeed: why.
    pub error: Option<ErrorDetails>,
    /// What stands beside the outcome.
    #[serde(flatten)]
    pub remarks: Remarks,
    /// The session; keep it for `Resume`. Echo names it in the connection's first result only.
    pub session: Option<String>,
    /// The epoch of the position.
    pub epoch: Option<String>,
    /// The position: everything up to it has been told.
    pub seq: Option<u64>,
}

/// What is known of a command.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CommandGetResult {
    /// The command's id.
    pub cmd_id: String,
    /// Its method.
    pub method: String,
    /// `running` or `ended`.
    pub state: String,
    /// What its `Started` said.
    pub deadline_ms: u64,
    /// Your own reference.
    pub external_id: Option<String>,
    /// How it ended, if it has.
    pub outcome: Option<OutcomeWord>,
    /// Why, if it did not succeed.
    pub error: Option<ErrorDetails>,
    /// What stands beside the outcome.
    #[serde(flatten)]
    pub remarks: Remarks,
}

/// Whether a command is being given up. Its outcome comes with `Ended`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CommandCancelResult {
    /// The command's id.
    pub cmd_id: String,
    /// False when it had ended before.
    pub cancelling: bool,
    /// The store is away: the stack was told at once, and the command will be when it is back.
    pub degraded: Option<bool>,
    /// How it had ended.
    pub outcome: Option<OutcomeWord>,
    /// Why, if it did not succeed.
    pub error: Option<ErrorDetails>,
    /// What stands beside the outcome.
    #[serde(flatten)]
    pub remarks: Remarks,
}

/// Where a resumed session goes on.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ResumeResult {
    /// True: what was missed follows. False: it can't be had, and the session goes on from here.
    pub recovered: bool,
    /// Why not: `restarted`, `trimmed` or `ahead`.
    pub reason: Option<String>,
    /// The session.
    pub session: String,
    /// The epoch of the position.
    pub epoch: String,
    /// The position.
    pub seq: u64,
}

/// The `params` of a notification.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EventParams {
    /// The command.
    pub cmd_id: String,
    /// The event's name.
    pub event: String,
    /// The details; absent when there are none. With `Error` it is one text.
    pub data: Option<Value>,
    /// With `Error`: the details.
    pub error: Option<ErrorDetails>,
    /// With `Ended`: how.
    pub outcome: Option<OutcomeWord>,
    /// What stands beside the outcome.
    #[serde(flatten)]
    pub remarks: Remarks,
    /// With `Started`: milliseconds until `Ended` at the latest.
    pub deadline_ms: Option<u64>,
    /// Your own reference.
    pub external_id: Option<String>,
    /// The epoch of the position. Echo has none.
    pub epoch: Option<String>,
    /// The position.
    pub seq: Option<u64>,
}

/// The `data` of an event.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EventData {
    /// The callee's address.
    pub callee: Option<String>,
    /// The caller's address.
    pub caller: Option<String>,
    /// The Call-ID of the new call.
    pub callid: Option<String>,
    /// Where a transfer goes.
    pub destination: Option<String>,
    /// A SIP status that was reported, such as `180 Ringing`.
    pub extra: Option<String>,
    /// Which leg.
    pub leg: Option<LegWord>,
}

/// The `data` of an error response.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ErrorData {
    /// The word of the error.
    pub kind: String,
    /// The parameter or member at fault.
    pub field: Option<String>,
    /// What is wrong.
    pub reason: Option<String>,
    /// The command in the way, or the one whose fate is not known.
    pub cmd_id: Option<String>,
    /// How to repeat safely: `same cmd_id`.
    pub repeat: Option<String>,
    /// When to try again.
    pub retry_after_ms: Option<u64>,
}

/// What a method is for, in one sentence.
#[must_use]
pub fn summary(method: Method) -> &'static str {
    match method {
        Method::Command(Commanded::CallStart) => {
            "Ring the caller, then have the caller's phone call the callee (click to dial)."
        }
        Method::Command(Commanded::CallBlindTransfer) => "Send one party of a call elsewhere.",
        Method::Command(Commanded::CallAttendedTransfer) => {
            "Join one party each of two calls; the second call is replaced."
        }
        Method::Command(Commanded::CallHold) => "Put both parties of a call on hold.",
        Method::Command(Commanded::CallUnhold) => "Take both parties of a held call back.",
        Method::Command(Commanded::CallEnd) => {
            "End a call, whatever runs on it: that command ends `cancelled`."
        }
        Method::Echo => "Send the params back. Touches no call.",
        Method::CommandGet => "What is known of a command of this session.",
        Method::CommandCancel => "Give up a ringing start or a running transfer.",
        Method::Resume => "Go on where an earlier connection of the session ended.",
        Method::Discover => "This document.",
    }
}

/// The events between `Started` and `Ended` that a command may send, in their usual order.
#[must_use]
pub fn events(method: Commanded) -> &'static [Event] {
    match method {
        Commanded::CallStart => &[
            Event::CallerRinging,
            Event::CallerAnswered,
            Event::Transferring,
            Event::TransferStart,
            Event::TransferPending,
            Event::CalleeAnswered,
        ],
        Commanded::CallBlindTransfer | Commanded::CallAttendedTransfer => &[
            Event::Transferring,
            Event::TransferStart,
            Event::TransferPending,
            Event::TransferSuccessful,
        ],
        Commanded::CallHold => {
            &[Event::CallHolding, Event::CallHoldStart, Event::CallHoldSuccessful]
        }
        Commanded::CallUnhold => {
            &[Event::CallUnholding, Event::CallUnholdStart, Event::CallUnholdSuccessful]
        }
        Commanded::CallEnd => &[],
    }
}

/// Builds the document.
#[must_use]
pub fn document() -> Value {
    let mut schemas = SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
        .into_generator();
    let methods: Vec<Value> = Method::ALL.into_iter().map(|m| describe(m, &mut schemas)).collect();
    let event = schemas.subschema_for::<EventParams>();
    let data = schemas.subschema_for::<EventData>();
    schemas.subschema_for::<ErrorData>();
    let errors: Map<String, Value> = Kind::ALL
        .into_iter()
        .map(|kind| {
            let row = kind.row();
            (row.word.to_owned(), json!({"code": row.code, "message": row.message}))
        })
        .collect();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "callplane",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0"},
            "description": "Start, hold, resume, transfer and end SIP calls. Transport, sessions \
                and resume are described in docs/protocol.md.",
        },
        "servers": [{"name": "default", "url": "ws://localhost:5059/call-api"}],
        "methods": methods,
        "components": {"schemas": schemas.take_definitions(true), "errors": errors},
        "x-events": {"params": event, "data": data},
        "x-failures": FAILURES.map(Code::as_str).as_slice(),
    })
}

fn describe(method: Method, schemas: &mut SchemaGenerator) -> Value {
    let (params, result) = match method {
        Method::Command(Commanded::CallStart) => {
            (params::<CallStartParams>(schemas), schemas.subschema_for::<StartedResult>())
        }
        Method::Command(Commanded::CallBlindTransfer) => {
            (params::<CallBlindTransferParams>(schemas), schemas.subschema_for::<StartedResult>())
        }
        Method::Command(Commanded::CallAttendedTransfer) => (
            params::<CallAttendedTransferParams>(schemas),
            schemas.subschema_for::<StartedResult>(),
        ),
        Method::Command(Commanded::CallHold | Commanded::CallUnhold | Commanded::CallEnd) => {
            (params::<CallParams>(schemas), schemas.subschema_for::<StartedResult>())
        }
        Method::Echo => (params::<EchoParams>(schemas), schemas.subschema_for::<StartedResult>()),
        Method::CommandGet => {
            (params::<CommandParams>(schemas), schemas.subschema_for::<CommandGetResult>())
        }
        Method::CommandCancel => {
            (params::<CommandParams>(schemas), schemas.subschema_for::<CommandCancelResult>())
        }
        Method::Resume => {
            (params::<ResumeParams>(schemas), schemas.subschema_for::<ResumeResult>())
        }
        Method::Discover => (Vec::new(), schemas.subschema_for::<Map<String, Value>>()),
    };
    let errors: Vec<Value> = Kind::ALL
        .into_iter()
        .map(|kind| json!({"$ref": format!("#/components/errors/{}", kind.row().word)}))
        .collect();
    let mut described = json!({
        "name": method.as_str(),
        "summary": summary(method),
        "paramStructure": "by-name",
        "params": params,
        "result": {"name": "result", "schema": result},
        "errors": errors,
    });
    let sent: Vec<&str> = match method {
        Method::Command(command) => std::iter::once("Started")
            .chain(events(command).iter().map(|event| event.as_str()))
            .chain(["Error", "Ended"])
            .collect(),
        Method::Echo => vec!["Reply", "Ended"],
        Method::CommandGet | Method::CommandCancel | Method::Resume | Method::Discover => vec![],
    };
    if !sent.is_empty()
        && let Some(object) = described.as_object_mut()
    {
        object.insert("x-events".to_owned(), json!(sent));
    }
    described
}

/// The members of a params type as OpenRPC content descriptors.
fn params<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Vec<Value> {
    let schema = T::json_schema(schemas);
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return Vec::new();
    };
    let mut described: Vec<Value> = properties
        .iter()
        .map(|(name, schema)| {
            json!({"name": name, "required": required.contains(&name.as_str()), "schema": schema})
        })
        .collect();
    // OpenRPC wants the required ones first.
    described.sort_by_key(|param| param.get("required") != Some(&Value::Bool(true)));
    described
}

/// Every word that `error.code` of an `Error` event may say.
pub const FAILURES: [Code; 47] = [
    Code::CallerBusy,
    Code::CallerDeclined,
    Code::CallerNotFound,
    Code::CallerUnavailable,
    Code::CallerUnreachable,
    Code::CallerNoAnswer,
    Code::CallerForwarded,
    Code::Challenged,
    Code::CallerFailed,
    Code::CallerHungUp,
    Code::StackRefused,
    Code::StackUnreachable,
    Code::StackBusy,
    Code::StackRestarted,
    Code::ReplyLost,
    Code::ReferRefused,
    Code::ReferUnsupported,
    Code::InDialogChallenge,
    Code::ReferTimeout,
    Code::ReferIgnored,
    Code::CalleeBusy,
    Code::CalleeDeclined,
    Code::CalleeNotFound,
    Code::CalleeUnavailable,
    Code::CalleeNoAnswer,
    Code::CalleeFailed,
    Code::TargetBusy,
    Code::TargetDeclined,
    Code::TargetNotFound,
    Code::TargetUnavailable,
    Code::TargetNoAnswer,
    Code::TargetFailed,
    Code::ConsultGone,
    Code::CallNotFound,
    Code::CallNotReady,
    Code::CallEnded,
    Code::CallLost,
    Code::LegRefused,
    Code::LegTimeout,
    Code::Glare,
    Code::AlreadyHeld,
    Code::NotHeld,
    Code::NoMedia,
    Code::Cancelled,
    Code::DeadlinePassed,
    Code::StoreUnavailable,
    Code::StateLost,
];
