//! What the events of OpenSIPS mean.
//!
//! `E_CALL_TRANSFER`, `E_CALL_HOLD` and `E_DLG_STATE_CHANGED` are the stack's own (facts W4,
//! W5 and W8), `E_CALLPLANE` comes from the reference script. Everything in them is text that phones
//! may have had a hand in: what has no acceptable form is not believed.

use std::sync::Arc;

use serde_json::Value;

use crate::core::act::DialogState;
use crate::core::failure::SipStatus;
use crate::core::ids::{CallId, DialogId, OpId};
use crate::core::request::Leg;
use crate::core::stack_event::{HoldState, StackEvent, TransferState};
use crate::stack::mi::{MiEvent, MiParams};

/// What an event amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// A fact about a call or an operation.
    Fact(StackEvent),
    /// Nothing that anybody waits for.
    Nothing,
    /// It has not the form that such an event has.
    Unreadable,
}

/// The events that are subscribed to on every script.
pub const EVENTS: [&str; 3] = [DIALOG_EVENT, "E_CALL_TRANSFER", "E_CALL_HOLD"];

/// How calls stand.
pub const DIALOG_EVENT: &str = "E_DLG_STATE_CHANGED";

/// The event of the reference script.
pub const OWN_EVENT: &str = "E_CALLPLANE";

/// The longest reason phrase or address that is kept, in bytes.
const LONGEST_TEXT: usize = 256;

/// The name of an event as a label: one that is subscribed to, or `other`.
#[must_use]
pub fn label(event: &MiEvent) -> &'static str {
    let known = EVENTS.into_iter().chain([OWN_EVENT]);
    known.into_iter().find(|name| *name == event.name).unwrap_or("other")
}

/// What an event means.
#[must_use]
pub fn meaning(event: &MiEvent) -> Meaning {
    let params = &event.params;
    // An array comes only from `raise_event`: somebody tries the way.
    if matches!(params, MiParams::Positional(_)) {
        return Meaning::Nothing;
    }
    let fact = match label(event) {
        "E_DLG_STATE_CHANGED" => dialog(params),
        "E_CALL_TRANSFER" => transfer(params),
        "E_CALL_HOLD" => hold(params),
        "E_CALLPLANE" => return own(params).unwrap_or(Meaning::Unreadable),
        _ => return Meaning::Nothing,
    };
    fact.map_or(Meaning::Unreadable, Meaning::Fact)
}

fn dialog(params: &MiParams) -> Option<StackEvent> {
    Some(StackEvent::Dialog {
        call: call(params, "callid")?,
        dialog: DialogId::parse(params.text("id")?).ok()?,
        state: DialogState::from_number(number(params.get("new_state")?)?)?,
    })
}

fn transfer(params: &MiParams) -> Option<StackEvent> {
    // `leg` is no leg in a blind start (both releases), so it is never read.
    let call_id = call(params, "callid")?;
    let new_call = call(params, "transfer_callid");
    let status = || SipStatus::parse(params.text("status")?).map(bounded_status);
    let state = match params.text("state")? {
        "start" => TransferState::Start,
        "ok" => TransferState::Ok,
        "fail" => TransferState::Fail(status().unwrap_or_else(SipStatus::timeout)),
        "notify" => reported(status()?),
        _ => return None,
    };
    // Only what a transferee reports can come without the new call.
    let names_it = new_call.is_some()
        || matches!(state, TransferState::Progress(_) | TransferState::Notified(_));
    let destination = address(params, "destination");
    names_it.then_some(StackEvent::Transfer { call: call_id, new_call, destination, state })
}

fn hold(params: &MiParams) -> Option<StackEvent> {
    let leg = match params.text("leg")? {
        "caller" => Leg::Caller,
        "callee" => Leg::Callee,
        _ => return None,
    };
    let hold = match params.text("action")? {
        "hold" => true,
        "unhold" => false,
        _ => return None,
    };
    let state = match params.text("state")? {
        "start" => HoldState::Start,
        "ok" => HoldState::Ok,
        "fail" => HoldState::Fail,
        _ => return None,
    };
    Some(StackEvent::Hold { call: call(params, "callid")?, leg, hold, state })
}

/// `E_CALLPLANE {kind, callid, op, info}` and often `from`, `ruri`.
fn own(params: &MiParams) -> Option<Meaning> {
    let call_id = call(params, "callid")?;
    let kind = params.text("kind")?;
    let state = match kind {
        "referred" => TransferState::Start,
        "reply" => {
            let status = status_of(params.get("info")?)?;
            match status.code {
                100..=199 => TransferState::Progress(status),
                200..=299 => TransferState::Ok,
                // A refusal counts when the script has given the call up.
                _ => return Some(Meaning::Nothing),
            }
        }
        "failed" => TransferState::Fail(status_of(params.get("info")?)?),
        "notify" => {
            let state = reported(bounded_status(SipStatus::parse(params.text("info")?)?));
            let event =
                StackEvent::Transfer { call: call_id, new_call: None, destination: None, state };
            return Some(Meaning::Fact(event));
        }
        // That a request left, and who hung up: the reply and the dialog's own event tell more.
        "sent" | "bye" => return Some(Meaning::Nothing),
        _ => return None,
    };
    let token = OpId::parse(params.text("op")?).ok()?;
    let destination = address(params, "ruri");
    Some(Meaning::Fact(StackEvent::Referral { token, new_call: call_id, destination, state }))
}

/// A transferee's report: progress, or its last word.
fn reported(status: SipStatus) -> TransferState {
    match status.code {
        100..=199 => TransferState::Progress(status),
        _ => TransferState::Notified(status),
    }
}

fn call(params: &MiParams, name: &str) -> Option<CallId> {
    CallId::parse(params.text(name)?).ok()
}

/// An address without the parameters that are ours: a token is nobody else's business.
fn address(params: &MiParams, name: &str) -> Option<Arc<str>> {
    let text = params.text(name)?;
    let ends = [";cpt=", ";osid="].into_iter().filter_map(|ours| text.find(ours));
    let text = text.get(..ends.min().unwrap_or(text.len()))?;
    (!text.is_empty()).then(|| Arc::from(bounded(text)))
}

/// A whole number, also as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A code alone, with the words that RFC 3261 has for it.
fn status_of(info: &Value) -> Option<SipStatus> {
    let code = u16::try_from(number(info)?).ok().filter(|code| (100..700).contains(code))?;
    Some(SipStatus::new(code, phrase(code)))
}

/// A status whose words are plain and not too long: they come from a phone.
pub(super) fn bounded_status(status: SipStatus) -> SipStatus {
    let words = status.reason.split(char::is_control).next().unwrap_or_default();
    if words.len() == status.reason.len() && words.len() <= LONGEST_TEXT {
        return status;
    }
    SipStatus::new(status.code, bounded(words))
}

fn bounded(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// RFC 3261 section 21 (and 487, 488, 491): the words where only the code was told.
fn phrase(code: u16) -> &'static str {
    match code {
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => "",
    }
}
